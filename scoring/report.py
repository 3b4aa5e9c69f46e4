"""Report scores: print the table, and write metrics.json, per_image.csv and grid.png."""

import hashlib
import importlib.metadata
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from coloring.enlarge import predict_ab
from colorizer import Colorizer
from common.files import write_csv, write_json
from common.plots import draw, draw_comparison
from common.processes import Ranks
from dataset import Cache, Split
from quantize import Decoding, palette_digest, stored_to_lab
from scoring.score import PROTOCOL, Scores, score, summarize

PACKAGES = ("torch", "numpy", "scikit-image", "pillow", "h5py")


def print_table(scores: dict[str, dict[str, Any]]) -> None:
    """Print the main scores of each row."""
    print(f"{'':34}   PSNR dB       SSIM    AuC  macro  CIEDE2000   colorfulness")
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
    colorizer: Colorizer, split: Split, scores: np.ndarray, decoding: Decoding
) -> Image.Image:
    """Draw the two best, median and worst photographs by their scores (N,): gray | ours | truth."""
    order, middle = scores.argsort(kind="stable")[::-1], len(scores) // 2
    places = [*order[:2], *order[max(0, middle - 1) : middle + 1], *order[-2:]]
    L, ab = stored_to_lab(*split.read(np.array(places), colorizer.centers.device))
    return draw_comparison(L, predict_ab(colorizer, L, decoding), ab)


def describe_scoring(
    checkpoint: Path, colorizer: Colorizer, info: dict[str, Any], cache: Cache, split: str
) -> dict[str, Any]:
    """Describe checkpoint, cache and software: enough to tell whether two scores are comparable."""
    with checkpoint.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "checkpoint": str(checkpoint),
        "checkpoint_sha256": digest,
        **{key: info.get(key) for key in ("net", "width", "loss", "step")},
        "trained_on": {key: info.get(key) for key in ("dataset", "size", "cache")},
        "cache": str(cache.folder),
        "cache_digest": cache.digest,
        "palette_digest": palette_digest(colorizer.centers.cpu()),
        "split": split,
        "size": cache.size,
        "photographs": len(cache.split(split)),
        "device": colorizer.centers.device.type,
        "versions": {"python": platform.python_version(), **versions},
    }


def score_checkpoint(
    colorizer: Colorizer,
    cache: Cache,
    decoding: Decoding,
    out: Path,
    description: dict[str, Any],
    ranks: Ranks,
) -> None:
    """Score the test split with all ranks; rank 0 prints the table and writes files to `out`.

    `description` is from `describe_scoring`.
    """
    scores, credits = score(colorizer, cache, decoding, ranks)
    if not ranks.first:
        return
    split, found = cache.split("test"), summarize(scores, credits)
    print(f"{cache.folder}, {len(split):,} test photographs, {decoding}; ± half a 95% interval")
    print_table(found)
    metrics = {"protocol": PROTOCOL, **description, **asdict(decoding), "scores": found}
    write_json(out / "metrics.json", metrics)
    write_per_image(out / "per_image.csv", split, scores)
    psnr = scores["ours", "psnr"]
    drawn = draw(
        out / "grid.png",
        lambda path: draw_grid(colorizer, split, psnr, decoding).save(path, "PNG"),
    )
    rest = ", per_image.csv and grid.png" if drawn else " and per_image.csv"
    print(f"wrote metrics.json{rest} to {out}")
