"""What is printed and written of scores: the table, metrics.json, per_image.csv, grid.png."""

import argparse
import hashlib
import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from colorizer import Colorizer
from dataset import Cache, Split
from files import write_csv, write_json, write_whole
from inference import draw_comparison, predict_ab
from quantize import palette_digest, stored_to_lab
from ranks import Ranks
from scoring import PROTOCOL, Scores, open_cache, score, summarize

PACKAGES = ("torch", "numpy", "scikit-image", "pillow", "h5py")


def print_table(scores: dict[str, dict[str, Any]]) -> None:
    """Print the scores of each row that tell most."""
    print(f"{'':34}   PSNR dB       SSIM    AuC  macro  CIEDE2000  colourfulness")
    for row, values in scores.items():
        if row == "truth":
            print(f"{row:34}{values['colorfulness']:59.1f}")
            continue
        low, high = values["psnr_interval"]
        macro = "-" if values["auc_macro"] is None else f"{values['auc_macro']:.3f}"
        print(
            f"{row:34}{values['psnr']:7.2f} ±{(high - low) / 2:5.2f}{values['ssim']:8.3f}"
            f"{values['auc']:7.3f}{macro:>7}{values['ciede2000']:11.2f}{values['colorfulness']:15.1f}"
        )


def write_per_image(path: Path, split: Split, scores: Scores) -> None:
    """Write the figures of every photograph."""
    names = split.names(np.arange(len(split)))
    header = ["name", *(f"{row} {name}" for row, name in scores)]
    table = np.stack(list(scores.values()), axis=1).round(4).tolist()
    write_csv(path, [header, *([name, *line] for name, line in zip(names, table, strict=True))])


def draw_grid(
    colorizer: Colorizer, split: Split, scores: np.ndarray, temperature: float, top_k: int
) -> Image.Image:
    """Draw the two best, median and worst photographs by their scores (N,): gray | ours | truth."""
    order, middle = scores.argsort(kind="stable")[::-1], len(scores) // 2
    places = [*order[:2], *order[max(0, middle - 1) : middle + 1], *order[-2:]]
    L, ab = stored_to_lab(*split.read(np.array(places), colorizer.centers.device))
    return draw_comparison(L, predict_ab(colorizer, L, temperature, top_k), ab)


def describe(
    args: argparse.Namespace, colorizer: Colorizer, about: dict[str, Any], cache: Cache, split: str
) -> dict[str, Any]:
    """Return what was scored, by what: enough to tell whether two scores may be compared."""
    with args.checkpoint.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "checkpoint": str(args.checkpoint),
        "checkpoint_sha256": digest,
        **{key: about.get(key) for key in ("net", "width", "loss", "step")},
        "trained_on": {key: about.get(key) for key in ("dataset", "size", "cache")},
        "cache": str(cache.folder),
        "cache_digest": cache.digest,
        "palette_digest": palette_digest(colorizer.centers.cpu()),
        "split": split,
        "size": cache.size,
        "photographs": len(cache.split(split)),
        "device": colorizer.centers.device.type,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
    }


def score_checkpoint(
    args: argparse.Namespace, colorizer: Colorizer, about: dict[str, Any], ranks: Ranks
) -> None:
    """Score the test split, all ranks together; print the table and write the files, rank 0 alone.

    Args:
        args: checkpoint, the options that choose a cache, temperature, top_k, out.
        colorizer: the checkpoint's network.
        about: all else that it holds.
        ranks: all processes.
    """
    cache = open_cache(args, colorizer, about)
    scores, credits = score(colorizer, cache, args.temperature, args.top_k, ranks)
    if not ranks.first:
        return
    split, found = cache.split("test"), summarize(scores, credits)
    decoding = {"temperature": args.temperature, "top_k": args.top_k}
    print(
        f"{cache.folder}, {len(split):,} test photographs, temperature {args.temperature}, "
        f"top-k {args.top_k}; ± half a 95% interval"
    )
    print_table(found)
    metrics = {
        "protocol": PROTOCOL,
        **describe(args, colorizer, about, cache, "test"),
        **decoding,
        "scores": found,
    }
    write_json(args.out / "metrics.json", metrics)
    write_per_image(args.out / "per_image.csv", split, scores)
    grid = draw_grid(colorizer, split, scores["ours", "psnr"], **decoding)
    write_whole(args.out / "grid.png", lambda path: grid.save(path, "PNG"))
    print(f"wrote metrics.json, per_image.csv and grid.png to {args.out}")
