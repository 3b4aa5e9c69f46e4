"""Score a checkpoint on its test split, find its best decoding, or color photographs with it.

Scoring prints PSNR, SSIM, AuC, CIEDE2000 and colorfulness beside the scores of gray, of the mean
color, of another photograph's colors and of the true colors made coarser. It writes metrics.json
(with the protocol in words), per_image.csv and grid.png (gray | ours | truth). --sweep tries
decodings on the validation split, and writes sweep.json and sweep.png. Colored photographs and
films keep their size and their lightness, films their sound; their own colors are replaced.

examples:
  python generate.py --checkpoint
  python generate.py --checkpoint runs/celeba-64-plain/best.pt --temperature 0.6 --top-k 10
  python generate.py --checkpoint --sweep --save-decode psnr
  torchrun --nproc-per-node 8 generate.py --checkpoint runs/celeba-64-plain/best.pt
  python generate.py --images old_photos --out colored
  python generate.py --images old.jpg --ask 5 --out hints
  python generate.py --images old.jpg --hints hints --out said
  python generate.py --images 'scans/**/*.tif' album.zip --format jpg --vividness 0.4 --samples 3
  python generate.py --images film.mp4 --out colored
"""

if __name__ == "__main__":
    from common.starting import prepare

    prepare()  # before torch is imported

import argparse
import errno
import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import torch

from coloring.ask import ask_for_colors
from coloring.batch import color_images
from coloring.hints import MOST
from coloring.photo import Coloring, read_reference
from colorizer import Colorizer, load_colorizer
from common.command_line import (
    add_cache_options,
    add_decoding_options,
    add_device_option,
    choose_decoding,
    default_checkpoint,
    make_parser,
    number,
    photo_size,
    run_command,
)
from common.processes import (
    Ranks,
    choose_device,
    default_workers,
    describe_device,
    keep_freed_memory,
    lacks_memory,
    process_group,
)
from dataset import Cache
from films.batch import color_films, write_all_stills
from films.shots import Piece
from photo_files.finding import allow_ghostscript
from quantize import palette_digest
from scoring.report import describe_scoring, score_checkpoint
from scoring.sweep import GOALS, VIVID_COST, check_can_save, sweep_checkpoint
from shards.plan import find_cache

LIKENESS = 0.5  # --vividness with --like


# ---- command line ------------------------------------------------------------------------------
def scores_folder(checkpoint: Path) -> Path:
    """Return where scores go by default: to the run's folder, or to one named as the file is."""
    of_run = checkpoint.name in ("best.pt", "last.pt", "previous.pt")
    return checkpoint.parent if of_run else Path("scores") / checkpoint.stem


def read_seconds(text: str) -> float:
    """Read a time of the command line: 83.5, 1:23.5, 0:01:23.5."""
    try:
        parts = [float(part) for part in text.split(":")]
        if len(parts) > 3 or any(
            not 0 <= part < (60 if i else math.inf) for i, part in enumerate(parts)
        ):
            raise ValueError
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"expected a time as 83.5 or 0:01:23.5, got {text}"
        ) from error
    return sum(part * 60**i for i, part in enumerate(reversed(parts)))


def add_photo_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that go with --images."""
    # fmt: off
    group = parser.add_argument_group("photographs (with --images)")
    group.add_argument("--like", type=Path, metavar="PHOTO", help=f"color photograph whose colors count as the common ones: with --vividness 1 colors count as common as in PHOTO, with 0 as in the training photographs; default of --vividness with --like: {LIKENESS}")
    group.add_argument("--hints", type=Path, metavar="DIR", help="folder of PNGs named and sized as the photographs, transparent but for strokes of the colors that you know; a stroke's lightness does not count")
    group.add_argument("--ask", type=number(int, 1, MOST), metavar="N", help="instead of coloring, write pictures for --hints with rings around the N places whose colors would tell most, and print their likeliest colors")
    group.add_argument("--format", type=str.lower, choices=("jpg", "jpeg", "png", "webp", "tif", "bmp"), help="format to write; default: each photograph's own, png for GIF and rare formats")
    group.add_argument("--working-size", type=photo_size, metavar="PX", help="short side that the network sees, a multiple of 4; default: the size of its training")
    group.add_argument("--no-stretch", action="store_true", help="show faded and dark photographs to the network as they are; by default it sees them with more contrast; the result keeps the photograph's lightness either way")
    group.add_argument("--samples", type=number(int, 1), metavar="N", help="number of random colorings of each photograph, NAME-1, NAME-2, ...; default: one that is not random")
    group.add_argument("--seed", type=number(int, 0, 2**31), default=0, metavar="N", help="seed of the samples")
    group.add_argument("--uncertainty", action="store_true", help="also draw where the network is not sure of a color, NAME-uncertainty.png")
    group.add_argument("--compare", action="store_true", help="also lay gray and colored side by side in one picture, NAME-compare, whose format is the photograph's")
    group.add_argument("--ghostscript", action="store_true", help="also read EPS, by the program Ghostscript: for files that you trust")
    group.add_argument("--workers", type=number(int, 1), default=default_workers(), metavar="N", help="number of photographs, or frames, to color at a time")
    group = parser.add_argument_group("films (with --images)")
    group.add_argument("--start", type=read_seconds, metavar="TIME", help="color a film from here on, in seconds or as H:MM:SS; default: its start")
    group.add_argument("--end", type=read_seconds, metavar="TIME", help="color a film up to here; default: its end")
    group.add_argument("--stills", action="store_true", help="instead of coloring, write the middle frame of each shot, which --ask makes a picture to paint on of, for --hints")
    # fmt: on


def check_options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse options that do not fit each other, as argparse does."""
    if args.images and (args.dataset or args.size or args.sweep or args.save_decode):
        parser.error("--dataset, --size, --sweep and --save-decode do not go with --images")
    if args.sweep and (args.temperature or args.top_k or args.vividness is not None):
        parser.error(
            "--sweep tries its own --vividness, --temperature and --top-k; leave yours out"
        )
    if args.save_decode and not args.sweep:
        parser.error("--save-decode saves a decoding that --sweep finds; add --sweep")
    photos = (args.like, args.hints, args.ask, args.working_size, args.no_stretch, args.ghostscript)
    colored = (args.format, args.samples, args.uncertainty, args.compare)
    if not args.images and any(photos + colored):
        names = "--like, --hints, --ask, --format, --working-size, --no-stretch, --samples"
        parser.error(f"{names}, --uncertainty, --compare and --ghostscript need --images PATH")
    if args.ask and any(colored):
        parser.error(
            "--ask colors nothing: leave --format, --samples, --uncertainty and --compare out"
        )
    if args.stills and any((*colored, args.hints)):
        parser.error("--stills colors nothing: leave --hints and the options of colors out")
    films = (args.start is not None, args.end is not None, args.stills)
    if any(films) and (not args.images or args.ask):
        parser.error("--start, --end and --stills go with --images, and not with --ask")
    if args.end is not None and args.end <= (args.start or 0):
        parser.error(f"--end must be later than --start, got {args.end:g} s")


def parse_args(ranks: Ranks) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    # fmt: off
    group = parser.add_argument_group("files")
    group.add_argument("--checkpoint", nargs="?", type=Path, metavar="FILE", help="a best.pt or last.pt, or the published weights of Zhang et al.; default: the newest runs/*/best.pt; with --images, if no run is newer, checkpoints/photos-128.pt, for photographs of all kinds")
    group.add_argument("--images", nargs="+", type=Path, metavar="PATH", help="files, folders, zips and quoted globs of photographs to color instead of scoring, and films")
    add_cache_options(group, "the checkpoint's own")
    group.add_argument("--out", type=Path, metavar="DIR", help="folder to write to; default: the checkpoint's folder, if it is a run's, or scores/NAME; with --images out, with --ask hints")
    group = add_decoding_options(parser)
    group.add_argument("--sweep", action="store_true", help="try decodings on the validation split instead of scoring")
    group.add_argument("--save-decode", choices=GOALS, metavar="GOAL", help=f"with --sweep, the decoding to save as the checkpoint's default: the highest psnr or ssim; colorfulness, the highest psnr of those as colorful as the truth; or vivid, the most colorful within {VIVID_COST} dB of the highest psnr")
    add_photo_options(parser)
    add_device_option(parser.add_argument_group("runtime"))
    # fmt: on
    args = parser.parse_args()
    check_options(parser, args)
    if args.like and args.vividness is None:
        args.vividness = LIKENESS
    args.checkpoint = args.checkpoint or default_checkpoint(parser, ranks.say, bool(args.images))
    photos_out = Path("hints" if args.ask else "stills" if args.stills else "out")
    args.out = args.out or (photos_out if args.images else scores_folder(args.checkpoint))
    return args


def open_cache(args: argparse.Namespace, colorizer: Colorizer, info: dict[str, Any]) -> Cache:
    """Open the cache to score on: the checkpoint's own, unless the options choose another.

    Raise ValueError if the checkpoint names no cache, was trained on another version of it, or has
    another palette; FileNotFoundError if there is no such cache.
    """
    if info["dataset"] is None and args.dataset is None:
        raise ValueError(
            f"{args.checkpoint}: names no data set to score; choose one with --dataset, or color "
            "photographs with --images"
        )
    folder = find_cache(args.cache, args.dataset or info["dataset"], args.size or info["size"])
    cache, palette = Cache(folder), palette_digest(colorizer.centers.cpu())
    if not (args.dataset or args.size) and info.get("cache", cache.digest) != cache.digest:
        raise ValueError(
            f"{args.checkpoint}: trained on cache {info['cache']}, now {folder} is {cache.digest}: "
            "its test split may hold training photographs; make the cache as it was, or score all "
            f"the same with --dataset {cache.name}"
        )
    if palette != cache.plan.palette:
        raise ValueError(
            f"{args.checkpoint}: its palette is {palette}, that of {folder} is "
            f"{cache.plan.palette}; make the cache again with create_dataset.py --overwrite"
        )
    return cache


def color(
    args: argparse.Namespace, colorizer: Colorizer, info: dict[str, Any], ranks: Ranks
) -> int:
    """Color photographs, or ask for colors; return the exit status."""
    decoding = choose_decoding(args, info, len(colorizer.centers))
    size, seed = args.working_size or info["size"], args.seed if args.samples else 0
    like = args.like and read_reference(args.like, colorizer.centers.cpu(), size)
    also = {"uncertainty": args.uncertainty, "compare": args.compare, "like": like}
    also["stretch"] = not args.no_stretch
    coloring = Coloring(size, decoding, args.samples or 0, seed, **also)
    piece, where = Piece(args.start, args.end), (args.images, args.out)
    if args.stills:
        return write_all_stills(colorizer, *where, coloring, piece, args.workers, ranks)
    if args.ask:
        return ask_for_colors(colorizer, *where, coloring, args.ask, args.hints, ranks)
    ending, shared = f".{args.format}" if args.format else None, (args.workers, ranks)
    return color_images(
        colorizer,
        args.checkpoint,
        *where,
        coloring,
        ending,
        *shared,
        args.hints,
        partial(color_films, colorizer, args.checkpoint, args.out, coloring, piece, *shared),
    )


def score_or_sweep(
    args: argparse.Namespace, colorizer: Colorizer, info: dict[str, Any], ranks: Ranks
) -> None:
    """Score the test split, or sweep the validation split; ValueError if memory is used up."""
    if not args.sweep:
        decoding = choose_decoding(args, info, len(colorizer.centers))
    args.out.mkdir(parents=True, exist_ok=True)  # before the work: it may be refused
    if not os.access(args.out, os.W_OK):
        raise PermissionError(errno.EACCES, "permission denied", str(args.out))
    colorizer.to(memory_format=torch.channels_last)  # decoding takes its rows in this order
    device = colorizer.centers.device
    with process_group(device, ranks) as ranks:
        if args.save_decode:
            check_can_save(args.checkpoint, info)
        cache, split = open_cache(args, colorizer, info), "val" if args.sweep else "test"
        description = describe_scoring(args.checkpoint, colorizer, info, cache, split)
        try:
            if args.sweep:
                sweep_checkpoint(colorizer, cache, args.out, description, ranks, args.save_decode)
            else:
                score_checkpoint(colorizer, cache, decoding, args.out, description, ranks)
        except (MemoryError, RuntimeError) as error:
            if not lacks_memory(error):
                raise
            remedy = "close other programs" if device.type == "cpu" else "use --device cpu"
            raise ValueError(f"out of memory on {describe_device(device)}; {remedy}") from error


def main() -> int:
    """Score, sweep or color."""
    ranks = Ranks.find()
    args = parse_args(ranks)
    if args.ghostscript:
        allow_ghostscript()
    colorizer, info = load_colorizer(args.checkpoint)
    colorizer.to(choose_device(args.device, ranks.several))
    if args.images:
        return color(args, colorizer, info, ranks)
    keep_freed_memory()
    torch.backends.cudnn.allow_tf32 = False  # on a GPU, scores are of float32 as elsewhere
    score_or_sweep(args, colorizer, info, ranks)
    return 0


if __name__ == "__main__":
    run_command(main)
