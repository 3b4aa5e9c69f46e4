"""Score a checkpoint on its test split, or colour photographs with it.

Scoring prints PSNR and SSIM beside what gray, the mean colour and the true colours rounded to bins
reach, and writes metrics.json, per_image.csv and grid.png (gray | ours | truth). Photographs keep
their size and their lightness; colours that they came with are replaced.

examples:
  python generate.py --checkpoint
  python generate.py --checkpoint runs/celeba-64-plain/best.pt --temperature 0.6 --top-k 10
  python generate.py --checkpoint runs/celeba-64-plain/best.pt --images old_photos --out colored
  python generate.py --checkpoint --images 'scans/**/*.tif' album.zip --format jpg --samples 3
"""

import argparse
import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from coloring import color_images
from colorizer import Colorizer, load_colorizer
from command_line import (
    add_cache_options,
    add_device_option,
    choose_device,
    make_parser,
    number,
    photo_size,
    run_command,
)
from dataset import Cache, Split, find_cache
from files import write_whole
from inference import Decoding, draw_comparison, predict_ab
from metrics import psnr, ssim
from quantize import ab_to_bins, lab_to_rgb, palette_digest, stored_to_lab

BATCH = 64  # photographs scored at a time
PROTOCOL = (
    "Whole cached photographs of the {split} split, {size} x {size} px. L is the true one. The "
    "predicted ab, decoded at quarter resolution and enlarged bilinearly, and the true ab become "
    "8-bit sRGB alike; colours outside sRGB lose chroma at constant L and hue. PSNR (dB, at most "
    "100) over all pixels and the three channels of a photograph; SSIM with a Gaussian window, "
    "sigma 1.5, 11 pixels, per channel, borders left out, mean over channels; both are means over "
    "photographs. Mean colour is that of the training split; rounded to bins is the true ab at full "
    "resolution moved to the nearest bin center."
)
Predictor = Callable[[Tensor, Tensor], Tensor]  # L (B, 1, H, W), true ab (B, 2, H, W) -> ab


# ---- scoring -----------------------------------------------------------------------------------
def predictors(
    colorizer: Colorizer, mean_ab: Tensor, temperature: float, top_k: int
) -> dict[str, Predictor]:
    """Return what is scored: the checkpoint, and the rows that say what its score means."""
    centers = colorizer.centers

    def round_to_bins(L: Tensor, ab: Tensor) -> Tensor:
        bins = ab_to_bins(ab.movedim(1, -1).cpu().numpy(), centers.cpu().numpy())
        return centers[torch.from_numpy(bins.astype(np.int64)).to(ab.device)].movedim(-1, 1)

    return {
        "ours": lambda L, ab: predict_ab(colorizer, L, temperature, top_k),
        "gray": lambda L, ab: torch.zeros_like(ab),
        "mean colour": lambda L, ab: mean_ab.to(ab)[:, None, None].expand_as(ab),
        "true colours rounded to bins": round_to_bins,
    }


@torch.inference_mode()
def score(split: Split, rows: dict[str, Predictor], device: torch.device) -> dict[str, np.ndarray]:
    """Score rows on all photographs of a split: {row: (N, 2)}, PSNR in dB and SSIM."""
    scores: dict[str, list[Tensor]] = {row: [] for row in rows}
    for start in tqdm(range(0, len(split), BATCH), "scoring", unit=" batches", disable=None):
        indices = np.arange(start, min(start + BATCH, len(split)))
        L, ab = stored_to_lab(*split.read(indices, device))
        truth = lab_to_rgb(L, ab)
        for row, predict in rows.items():
            photos = lab_to_rgb(L, predict(L, ab))
            scores[row].append(torch.stack((psnr(photos, truth), ssim(photos, truth)), dim=1))
    return {row: torch.cat(parts).cpu().numpy() for row, parts in scores.items()}


def draw_grid(
    split: Split, predict: Predictor, scores: np.ndarray, device: torch.device
) -> Image.Image:
    """Draw the two best, median and worst photographs by their scores (N,): gray | ours | truth."""
    order, middle = scores.argsort()[::-1], len(scores) // 2
    places = [*order[:2], *order[max(0, middle - 1) : middle + 1], *order[-2:]]
    L, ab = stored_to_lab(*split.read(np.array(places), device))
    return draw_comparison(L, predict(L, ab), ab)


def open_cache(args: argparse.Namespace, colorizer: Colorizer, about: dict[str, Any]) -> Cache:
    """Open the cache to score on: the checkpoint's own, unless the options choose another.

    Raises:
        ValueError: the checkpoint names none, or the cache has another palette.
    """
    if about["dataset"] is None and args.dataset is None:
        raise ValueError(
            f"{args.checkpoint}: it names no data set to score; choose one with --dataset, or "
            "colour photographs with --images"
        )
    folder = find_cache(args.cache, args.dataset or about["dataset"], args.size or about["size"])
    cache = Cache(folder)
    if not (args.dataset or args.size) and about.get("cache", cache.digest) != cache.digest:
        raise ValueError(
            f"{args.checkpoint}: trained on cache {about['cache']}, now {folder} is {cache.digest}: "
            f"its test split may hold training photographs; make the cache as it was, or score "
            f"all the same with --dataset {cache.name}"
        )
    palette = palette_digest(colorizer.centers.cpu())
    if palette != cache.plan["palette"]:
        raise ValueError(
            f"{args.checkpoint}: its palette is {palette}, that of {folder} is "
            f"{cache.plan['palette']}; make the cache again with create_dataset.py --overwrite"
        )
    return cache


def score_checkpoint(args: argparse.Namespace, colorizer: Colorizer, about: dict[str, Any]) -> None:
    """Score the test split; print the table and write the files."""
    cache = open_cache(args, colorizer, about)
    folder = cache.folder
    split, device = cache.split("test"), colorizer.centers.device
    rows = predictors(colorizer, cache.split("train").mean_ab, args.temperature, args.top_k)
    scores = score(split, rows, device)
    print(
        f"{folder}, {len(split):,} test photographs, temperature {args.temperature}, top-k {args.top_k}"
    )
    print(f"{'':30}{'PSNR dB':>8}{'SSIM':>8}")
    for row, values in scores.items():
        print(f"{row:30}{values[:, 0].mean():8.2f}{values[:, 1].mean():8.3f}")

    metrics = {
        "protocol": PROTOCOL.format(split="test", size=cache.size),
        "checkpoint": str(args.checkpoint),
        "step": about.get("step"),
        "cache": str(folder),
        "cache_digest": cache.digest,
        "photographs": len(split),
        "temperature": args.temperature,
        "top_k": args.top_k,
        "scores": {
            row: dict(zip(("psnr", "ssim"), values.mean(0).round(4).tolist(), strict=True))
            for row, values in scores.items()
        },
    }
    args.out.mkdir(parents=True, exist_ok=True)
    write_whole(
        args.out / "metrics.json",
        lambda path: path.write_text(json.dumps(metrics, indent=2) + "\n"),
    )
    write_per_image(args.out / "per_image.csv", split, scores)
    draw_grid(split, rows["ours"], scores["ours"][:, 0], device).save(args.out / "grid.png")
    print(f"wrote metrics.json, per_image.csv and grid.png to {args.out}")


def write_per_image(path: Path, split: Split, scores: dict[str, np.ndarray]) -> None:
    """Write the scores of every photograph."""
    names = split.names(np.arange(len(split)))
    header = ["name", *(f"{row} {score}" for row in scores for score in ("psnr", "ssim"))]
    table = np.concatenate(list(scores.values()), axis=1).round(4).tolist()
    with path.open("w", newline="", encoding="utf-8", errors="replace") as file:
        csv.writer(file).writerows([header, *([n, *r] for n, r in zip(names, table, strict=True))])


# ---- command line ------------------------------------------------------------------------------
def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    # fmt: off
    group = parser.add_argument_group("files")
    group.add_argument("--checkpoint", nargs="?", type=Path, metavar="FILE", help="a best.pt or last.pt, or the published weights; default: the newest runs/*/best.pt")
    group.add_argument("--images", nargs="+", type=Path, metavar="PATH", help="colour these files, folders, zips and quoted globs instead of scoring")
    add_cache_options(group, "the checkpoint's own")
    group.add_argument("--out", type=Path, metavar="DIR", help="folder to write to; default: the checkpoint's, and out for --images")
    group = parser.add_argument_group("decoding")
    group.add_argument("--temperature", type=number(float, 0, above=True), metavar="T", help="toward 0 the most probable bin, vivid; 1 the mean, dull; default: the checkpoint's")
    group.add_argument("--top-k", type=number(int, 1), metavar="K", help="bins averaged, the best first; default: the checkpoint's")
    group = parser.add_argument_group("photographs (with --images)")
    group.add_argument("--format", choices=("jpg", "png", "webp", "tif", "bmp"), help="to write; default: each photograph's own, png for GIF, 1 bit and rare ones")
    group.add_argument("--working-size", type=photo_size, metavar="PX", help="short side that the network sees, a multiple of 4; default: that it was trained at")
    group.add_argument("--samples", type=number(int, 1), metavar="N", help="write N different colourings of each, NAME-1, NAME-2, ...; default: the most probable one")
    group.add_argument("--seed", type=number(int, 0), default=0, metavar="N", help="of the samples")
    group.add_argument("--uncertainty", action="store_true", help="draw where the network is not sure of a colour too, NAME-uncertainty.png")
    group.add_argument("--workers", type=number(int, 1), default=os.cpu_count() or 1, metavar="N", help="photographs coloured at a time")
    group = parser.add_argument_group("runtime")
    add_device_option(group)
    # fmt: on
    args = parser.parse_args()
    if args.images and (args.dataset or args.size):
        parser.error("--dataset and --size choose what is scored; leave them out with --images")
    if not args.images and (args.format or args.working_size or args.samples or args.uncertainty):
        parser.error(
            "--format, --working-size, --samples and --uncertainty are for photographs; name these "
            "by --images"
        )
    if args.checkpoint is None:
        newest = sorted(Path("runs").glob("*/best.pt"), key=lambda path: path.stat().st_mtime)
        if not newest:
            parser.error(
                "--checkpoint: found no runs/*/best.pt; name a file, or train with train.py"
            )
        args.checkpoint = newest[-1]
        print(f"{args.checkpoint}: the newest checkpoint; choose another with --checkpoint FILE")
    args.out = args.out or (Path("out") if args.images else args.checkpoint.parent)
    return args


def main() -> int:
    """Score or colour."""
    args = parse_args()
    colorizer, about = load_colorizer(args.checkpoint)
    missing = {"dataset", "size", "temperature", "top_k"} - about.keys()
    if missing:
        raise ValueError(f"{args.checkpoint}: lacks {', '.join(sorted(missing))}; train again")
    colorizer.to(choose_device(args.device))
    args.temperature = args.temperature or about["temperature"]
    args.top_k = args.top_k or about["top_k"]
    if args.images:
        ending = f".{args.format}" if args.format else None
        decoding = Decoding(
            args.working_size or about["size"],
            args.temperature,
            args.top_k,
            args.samples or 0,
            args.seed,
            args.uncertainty,
        )
        return color_images(
            colorizer, args.checkpoint, args.images, args.out, decoding, ending, args.workers
        )
    score_checkpoint(args, colorizer, about)
    return 0


if __name__ == "__main__":
    run_command(main, "run the same command again")
