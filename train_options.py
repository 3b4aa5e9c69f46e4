"""What train.py is told: its options, those that a run began with, and the cache that they choose."""

import argparse
from pathlib import Path
from typing import Any

from command_line import add_cache_options, add_device_option, make_parser, number, photo_size
from dataset import Cache
from losses import LOSSES
from plans import find_cache
from quantize import BLOCK, load_centers
from ranks import find_rank
from run import CHANGEABLE, LENGTH, has_saved, read_config


def default_crop(size: int) -> int:
    """Return 7/8 of a cache's size, in whole blocks, and no less than --crop may be."""
    return max(16, 7 * size // 8 // BLOCK * BLOCK)


def make_train_parser(doc: str) -> argparse.ArgumentParser:
    """Return the command line's parser; its help is a docstring."""
    parser = make_parser(doc)
    # fmt: off
    group = parser.add_argument_group("files")
    add_cache_options(group, "the cache made last")
    group.add_argument("--out", type=Path, metavar="DIR", help="folder of the run; default: runs/<name>-<size>-<loss>")
    group.add_argument("--resume", action="store_true", help="go on with the run, or start it where there is none")
    group = parser.add_argument_group("model")
    group.add_argument("--net", choices=("unet", "zhang"), default="unet", help="ours at quarter resolution, or the paper's")
    group.add_argument("--width", type=number(int, 1), default=32, metavar="N", help="channels of the U-Net")
    group = parser.add_argument_group("optimization")
    group.add_argument("--loss", choices=LOSSES, default="rebalanced", help="how pixels are weighed")
    group.add_argument("--uniform-mix", type=number(float, 0, 1), default=0.5, metavar="LAMBDA", help="1 weighs all colours alike, 0 by 1 / prior")
    group.add_argument("--num-neighbors", type=number(int, 1), default=5, metavar="K", help="bins that share a soft target; 1: hard targets")
    length = group.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=number(float, 0, above=True), metavar="T", help="length of the run; default: 60")
    length.add_argument("--steps", type=number(int, 1, 2**31), metavar="N", help="length of the run, instead")
    length.add_argument("--epochs", type=number(float, 0, 1e6, above=True), metavar="N", help="length of the run, instead")
    group.add_argument("--batch-size", type=number(int, 1, 2**31), default=32, metavar="N", help="photographs a step, over all processes")
    group.add_argument("--crop", type=photo_size, metavar="PX", help="side of the random crops; default: 7/8 of the size")
    group.add_argument("--zoom", type=number(float, 0, 1, above=True), default=0.5, metavar="SHARE", help="least share of a photograph's side that a crop shows, before it is stretched")
    group.add_argument("--lr", type=number(float, 0, above=True), default=2e-3, help="learning rate after the warm-up")
    group.add_argument("--weight-decay", type=number(float, 0), default=0.0, metavar="X", help="of Adam")
    group.add_argument("--warmup", type=number(int, 0), default=200, metavar="STEPS", help="steps of rising learning rate")
    group.add_argument("--clip", type=number(float, 0, above=True), default=1.0, metavar="NORM", help="largest norm of the gradient")
    group.add_argument("--ema", type=number(float, 0, 1), default=0.998, metavar="DECAY", help="of the weights' moving average, which is what is kept")
    group.add_argument("--seed", type=number(int, 0, 2**31), default=0, metavar="N", help="of weights, order, crops")
    group = parser.add_argument_group("runtime")
    add_device_option(group)
    group.add_argument("--compile", action="store_true", help="compile the network by torch.compile, in a minute: for a GPU")
    group.add_argument("--log-every", type=number(int, 1), default=50, metavar="STEPS", help="between lines of log.jsonl")
    group.add_argument("--validate-every", type=number(int, 1), default=1000, metavar="STEPS", help="between validations")
    group.add_argument("--save-every", type=number(int, 1), default=500, metavar="STEPS", help="between writes of last.pt")
    # fmt: on
    return parser


def resume_options(
    parser: argparse.ArgumentParser, typed: argparse.Namespace, saved: dict[str, Any]
) -> argparse.Namespace:
    """Read the command line again, with a run's options in place of those that were not typed.

    A length that is typed replaces the run's: no step depends on when the run ends.

    Raises:
        ValueError: an option that was typed differs from the run's.
    """
    if any(getattr(typed, name) for name in LENGTH):
        saved |= dict.fromkeys(LENGTH)
    parser.set_defaults(**saved)
    args = parser.parse_args()
    args.out = typed.out
    for key, value in saved.items():
        if key not in CHANGEABLE and getattr(args, key) != value:
            option = "--" + key.replace("_", "-")
            began = f"no {option}" if value is None else f"{option} {value}"
            raise ValueError(
                f"{args.out}: began with {began}, now {getattr(args, key)}; "
                f"leave {option} out, or choose another --out"
            )
    return args


def check_options(
    parser: argparse.ArgumentParser, args: argparse.Namespace, world_size: int
) -> None:
    """Refuse options that do not fit each other or the cache, as argparse does."""
    if args.crop > args.size:
        parser.error(f"--crop must be at most the cache's size, {args.size}, got {args.crop}")
    if args.batch_size < world_size:
        parser.error(
            f"--batch-size must be at least the number of processes, {world_size}, got "
            f"{args.batch_size}; start fewer"
        )
    if args.batch_size // world_size == 1 and args.crop <= 32:
        parser.error(
            f"--batch-size {args.batch_size} on {world_size} processes needs a --crop above 32, got "
            f"{args.crop}: BatchNorm takes a variance"
        )
    if args.num_neighbors > (Q := len(load_centers())):
        parser.error(f"--num-neighbors must be at most the number of bins, {Q}")


def parse_args(doc: str) -> tuple[argparse.Namespace, Cache, bool]:
    """Read the command line, and find the cache and the run that it chooses.

    Args:
        doc: the script's docstring.

    Returns:
        The options, the cache, and whether the run is there already.

    Raises:
        FileExistsError: it has saved something, and --resume was not given.
        ValueError: an option or the cache differs from the run's.
    """
    parser = make_train_parser(doc)
    args = parser.parse_args()
    if args.out is None:
        cache = Cache(find_cache(args.cache, args.dataset, args.size))
        args.out = Path("runs") / f"{cache.name}-{cache.size}-{args.loss}"
    config = read_config(args.out)
    if not args.resume and not has_saved(args.out):
        config = None  # it failed before it had saved anything
    if config is not None and not args.resume:
        raise FileExistsError(
            f"{args.out}: a run is there already; go on with it by --resume, or choose another --out"
        )
    if config is not None:
        args = resume_options(parser, args, config["options"])
    cache = Cache(find_cache(args.cache, args.dataset, args.size))
    if config is not None and config["cache_digest"] != cache.digest:
        raise ValueError(
            f"{args.out}: began with cache {config['cache_digest']}, now {cache.folder} is "
            f"{cache.digest}; make the cache as it was, or choose another --out"
        )
    rank, world_size = find_rank()
    if args.dataset is None and rank == 0:
        print(f"{cache.folder}: the cache made last; choose another with --dataset and --size")
    args.dataset, args.size = cache.name, cache.size
    if not (args.minutes or args.steps or args.epochs):
        args.minutes = 60.0
    args.crop = args.crop or default_crop(args.size)
    check_options(parser, args, world_size)
    return args, cache, config is not None
