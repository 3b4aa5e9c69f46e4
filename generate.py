"""Score a checkpoint on its test split, find its best decoding, or colour photographs with it.

Scoring prints PSNR, SSIM, AuC, CIEDE2000 and colourfulness beside what gray, the mean colour,
another photograph's colours and the true colours, coarser, reach, and writes metrics.json (with
the protocol in words), per_image.csv and grid.png (gray | ours | truth). --sweep tries temperatures
and numbers of bins on the validation split, and writes sweep.json and sweep.png. Coloured
photographs keep their size and their lightness; colours that they came with are replaced.

examples:
  python generate.py --checkpoint
  python generate.py --checkpoint runs/celeba-64-plain/best.pt --temperature 0.6 --top-k 10
  python generate.py --checkpoint --sweep --save-decode psnr
  torchrun --nproc-per-node 8 generate.py --checkpoint runs/celeba-64-plain/best.pt
  python generate.py --checkpoint runs/celeba-64-plain/best.pt --images old_photos --out colored
  python generate.py --checkpoint --images 'scans/**/*.tif' album.zip --format jpg --samples 3
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from coloring.batch import color_images
from coloring.photo import Coloring
from colorizer import Colorizer, load_colorizer
from common.command_line import (
    add_cache_options,
    add_device_option,
    make_parser,
    number,
    photo_size,
    run_command,
)
from common.processes import Ranks, choose_device, default_workers, keep_freed_memory, process_group
from dataset import Cache
from quantize import Decoding, palette_digest
from scoring.report import describe, score_checkpoint
from scoring.sweep import GOALS, VIVID_COST, check_default, save_decoding, sweep_checkpoint
from shards.plan import find_cache

LARGEST = 4096  # --working-size, in pixels: the network's memory grows with its square


# ---- command line ------------------------------------------------------------------------------
def newest_checkpoint(parser: argparse.ArgumentParser, ranks: Ranks) -> Path:
    """Return the newest runs/*/best.pt, and say so; exit where there is none."""
    newest = sorted(Path("runs").glob("*/best.pt"), key=lambda path: path.stat().st_mtime)
    if not newest:
        parser.error(
            "--checkpoint: found no runs/*/best.pt; name a file, as checkpoints/celeba-64.pt, or train "
            "with train.py"
        )
    ranks.say(f"{newest[-1]}: the newest checkpoint; choose another with --checkpoint FILE")
    return newest[-1]


def parse_args(ranks: Ranks) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    # fmt: off
    group = parser.add_argument_group("files")
    group.add_argument("--checkpoint", nargs="?", type=Path, metavar="FILE", help="a best.pt or last.pt, or the published weights; default: the newest runs/*/best.pt")
    group.add_argument("--images", nargs="+", type=Path, metavar="PATH", help="colour these files, folders, zips and quoted globs instead of scoring")
    add_cache_options(group, "the checkpoint's own")
    group.add_argument("--out", type=Path, metavar="DIR", help="folder to write to; default: the checkpoint's, and out for --images")
    group = parser.add_argument_group("decoding")
    group.add_argument("--temperature", type=number(float, 0, above=True), metavar="T", help="toward 0 the most probable bin, patchy; 1 the mean, dull; default: the checkpoint's")
    group.add_argument("--top-k", type=number(int, 1), metavar="K", help="bins averaged, the best first; default: the checkpoint's")
    group.add_argument("--sweep", action="store_true", help="try temperatures and numbers of bins on the validation split instead of scoring")
    group.add_argument("--save-decode", choices=GOALS, metavar="GOAL", help=f"with --sweep, make the checkpoint's default what is best for psnr, for ssim, nearest the truth's colorfulness, or vivid: the most colourful within {VIVID_COST} dB of the best")
    group = parser.add_argument_group("photographs (with --images)")
    group.add_argument("--format", type=str.lower, choices=("jpg", "jpeg", "png", "webp", "tif", "bmp"), help="to write; default: each photograph's own, png for GIF and rare ones")
    group.add_argument("--working-size", type=photo_size, metavar="PX", help="short side that the network sees, a multiple of 4; default: that it was trained at")
    group.add_argument("--samples", type=number(int, 1), metavar="N", help="write N different colourings of each, NAME-1, NAME-2, ...; default: one, without chance")
    group.add_argument("--seed", type=number(int, 0, 2**31), default=0, metavar="N", help="of the samples")
    group.add_argument("--uncertainty", action="store_true", help="draw where the network is not sure of a colour too, NAME-uncertainty.png")
    group.add_argument("--workers", type=number(int, 1), default=default_workers(), metavar="N", help="photographs coloured at a time")
    group = parser.add_argument_group("runtime")
    add_device_option(group)
    # fmt: on
    args = parser.parse_args()
    if (args.working_size or 0) > LARGEST:
        parser.error(f"--working-size must be at most {LARGEST}, got {args.working_size}")
    if args.images and (args.dataset or args.size or args.sweep or args.save_decode):
        parser.error(
            "--dataset, --size, --sweep and --save-decode are for a cache; leave them out with "
            "--images"
        )
    if args.sweep and (args.temperature or args.top_k):
        parser.error("--sweep tries temperatures and top-k of its own; leave yours out")
    if args.save_decode and not args.sweep:
        parser.error("--save-decode keeps what --sweep finds; add --sweep")
    if not args.images and (args.format or args.working_size or args.samples or args.uncertainty):
        parser.error(
            "--format, --working-size, --samples and --uncertainty are for photographs; name these "
            "by --images"
        )
    args.checkpoint = args.checkpoint or newest_checkpoint(parser, ranks)
    args.out = args.out or (Path("out") if args.images else args.checkpoint.parent)
    return args


def open_cache(args: argparse.Namespace, colorizer: Colorizer, info: dict[str, Any]) -> Cache:
    """Open the cache to score on: the checkpoint's own, unless the options choose another.

    Raises:
        FileNotFoundError: there is no such cache.
        ValueError: the checkpoint names none, or it is another one than it was trained on, or has
            another palette.
    """
    if info["dataset"] is None and args.dataset is None:
        raise ValueError(
            f"{args.checkpoint}: it names no data set to score; choose one with --dataset, or "
            "colour photographs with --images"
        )
    folder = find_cache(args.cache, args.dataset or info["dataset"], args.size or info["size"])
    cache = Cache(folder)
    if not (args.dataset or args.size) and info.get("cache", cache.digest) != cache.digest:
        raise ValueError(
            f"{args.checkpoint}: trained on cache {info['cache']}, now {folder} is "
            f"{cache.digest}: its test split may hold training photographs; make the cache as it "
            f"was, or score all the same with --dataset {cache.name}"
        )
    palette = palette_digest(colorizer.centers.cpu())
    if palette != cache.plan.palette:
        raise ValueError(
            f"{args.checkpoint}: its palette is {palette}, that of {folder} is "
            f"{cache.plan.palette}; make the cache again with create_dataset.py --overwrite"
        )
    return cache


def score_or_sweep(
    args: argparse.Namespace,
    colorizer: Colorizer,
    info: dict[str, Any],
    decoding: Decoding,
    ranks: Ranks,
) -> None:
    """Score a checkpoint, or find its best decoding, on its cache."""
    if args.save_decode:
        check_default(args.checkpoint, info)
    cache, split = open_cache(args, colorizer, info), "val" if args.sweep else "test"
    description = describe(args.checkpoint, colorizer, info, cache, split)
    if not args.sweep:
        score_checkpoint(colorizer, cache, decoding, args.out, description, ranks)
        return
    best = sweep_checkpoint(colorizer, cache, args.out, description, ranks)
    if args.save_decode and ranks.first:
        save_decoding(args.checkpoint, best[args.save_decode])


def main() -> int:
    """Score, sweep or colour."""
    ranks = Ranks.find()
    args = parse_args(ranks)
    colorizer, info = load_colorizer(args.checkpoint)
    device = choose_device(args.device, ranks.several)
    decoding = Decoding(args.temperature or info["temperature"], args.top_k or info["top_k"])
    colorizer.to(device)
    if decoding.top_k > (Q := len(colorizer.centers)):
        raise ValueError(f"--top-k must be at most the number of bins, {Q}, got {decoding.top_k}")
    if args.images:
        ending = f".{args.format}" if args.format else None
        coloring = Coloring(
            args.working_size or info["size"],
            decoding,
            args.samples or 0,
            args.seed if args.samples else 0,
            args.uncertainty,
        )
        return color_images(
            colorizer, args.checkpoint, args.images, args.out, coloring, ending, args.workers, ranks
        )
    keep_freed_memory()
    torch.backends.cudnn.allow_tf32 = False  # on a GPU, scores are of float32 as elsewhere
    args.out.mkdir(parents=True, exist_ok=True)  # before the work: it may be refused
    colorizer.to(memory_format=torch.channels_last)  # as decoding takes its rows
    with process_group(device, ranks) as ranks:
        score_or_sweep(args, colorizer, info, decoding, ranks)
    return 0


if __name__ == "__main__":
    run_command(main)
