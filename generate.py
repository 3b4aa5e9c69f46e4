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
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from colorizer import Colorizer, load_colorizer
from command_line import (
    add_cache_options,
    add_device_option,
    choose_device,
    find_rank,
    make_parser,
    number,
    run_command,
)
from inference import color_photo
from photos import (
    PhotoError,
    find_files,
    is_photo_name,
    open_photo,
    output_name,
    read_bytes,
    write_photo,
)
from quantize import lab_table
from ranks import joined
from reports import score_checkpoint
from sweeping import GOALS, sweep_checkpoint


# ---- photographs -------------------------------------------------------------------------------
def list_images(paths: list[Path], out: Path) -> list[tuple[Path, str]]:
    """Return each photograph's path and its name below --out; folders keep their tree.

    Raises:
        FileNotFoundError: a path does not exist, or there is no photograph at all.
    """
    found = []
    for path in paths:
        if path.is_dir():
            found += [
                (path / name, name)
                for name in sorted(find_files(path, without=(out,)))
                if is_photo_name(name)
            ]
        elif path.exists():
            found.append((path, path.name))
        else:
            raise FileNotFoundError(f"{path}: expected a photograph or a folder, found none")
    if not found:
        raise FileNotFoundError(f"{', '.join(map(str, paths))}: no photographs found")
    return found


def color_images(args: argparse.Namespace, colorizer: Colorizer, about: dict[str, Any]) -> int:
    """Colour photographs into --out; return the exit status, 1 if any was left out."""
    images = list_images(args.images, args.out)
    table = lab_table()
    failed = 0
    for path, name in tqdm(images, "colouring", unit=" photos", disable=None):
        try:
            image = open_photo(read_bytes(path))
            colored = color_photo(
                colorizer, image, table, about["size"], args.temperature, args.top_k
            )
            write_photo(colored, args.out / output_name(name))
        except (PhotoError, FileExistsError) as error:
            failed += 1
            reason = str(error) if isinstance(error, FileExistsError) else f"{path}: {error}"
            tqdm.write(f"skipped {reason}")
    print(f"{args.out}: {len(images) - failed:,} photographs coloured, {failed:,} skipped")
    return int(failed > 0)


# ---- command line ------------------------------------------------------------------------------
def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    # fmt: off
    group = parser.add_argument_group("files")
    group.add_argument("--checkpoint", nargs="?", type=Path, metavar="FILE", help="a best.pt or last.pt, or the published weights; default: the newest runs/*/best.pt")
    group.add_argument("--images", nargs="+", type=Path, metavar="PATH", help="colour these photographs and folders instead of scoring")
    add_cache_options(group, "the checkpoint's own")
    group.add_argument("--out", type=Path, metavar="DIR", help="folder to write to; default: the checkpoint's, and out for --images")
    group = parser.add_argument_group("decoding")
    group.add_argument("--temperature", type=number(float, 0, above=True), metavar="T", help="toward 0 the most probable bin, vivid; 1 the mean, dull; default: the checkpoint's")
    group.add_argument("--top-k", type=number(int, 1), metavar="K", help="bins averaged, the best first; default: the checkpoint's")
    group.add_argument("--sweep", action="store_true", help="try temperatures and numbers of bins on the validation split instead of scoring")
    group.add_argument("--save-decode", choices=GOALS, metavar="GOAL", help="with --sweep, make what is best for psnr, ssim or colorfulness the checkpoint's default")
    group = parser.add_argument_group("runtime")
    add_device_option(group)
    # fmt: on
    args = parser.parse_args()
    if args.images and (args.dataset or args.size):
        parser.error("--dataset and --size choose what is scored; leave them out with --images")
    if args.images and (args.sweep or args.save_decode):
        parser.error("--sweep and --save-decode work on a cache; leave them out with --images")
    if args.sweep and (args.temperature or args.top_k):
        parser.error("--sweep tries temperatures and top-k of its own; leave yours out")
    if args.save_decode and not args.sweep:
        parser.error("--save-decode keeps what --sweep finds; add --sweep")
    if args.checkpoint is None:
        newest = sorted(Path("runs").glob("*/best.pt"), key=lambda path: path.stat().st_mtime)
        if not newest:
            parser.error(
                "--checkpoint: found no runs/*/best.pt; name a file, or train with train.py"
            )
        args.checkpoint = newest[-1]
        if find_rank()[0] == 0:
            print(
                f"{args.checkpoint}: the newest checkpoint; choose another with --checkpoint FILE"
            )
    args.out = args.out or (Path("out") if args.images else args.checkpoint.parent)
    return args


def main() -> int:
    """Score, sweep or colour."""
    args = parse_args()
    colorizer, about = load_colorizer(args.checkpoint)
    missing = {"dataset", "size", "temperature", "top_k"} - about.keys()
    if missing:
        raise ValueError(f"{args.checkpoint}: lacks {', '.join(sorted(missing))}; train again")
    device = choose_device(args.device)
    args.temperature = args.temperature or about["temperature"]
    args.top_k = args.top_k or about["top_k"]
    if args.images:
        return color_images(args, colorizer.to(device), about)
    with joined(device) as ranks:
        colorizer.to(device, memory_format=torch.channels_last)  # as decoding takes its rows
        work = sweep_checkpoint if args.sweep else score_checkpoint
        work(args, colorizer, about, ranks)
    return 0


if __name__ == "__main__":
    run_command(main, "run the same command again")
