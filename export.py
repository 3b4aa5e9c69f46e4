"""Write a checkpoint as a file to give away: the weights in half precision, half the size.

All else that colouring and scoring need stays, decoding included; what only training needs goes.

examples:
  python export.py --checkpoint runs/flowers-64-plain/best.pt --out flowers-64.pt
"""

import argparse
from pathlib import Path
from typing import Any

from torch import Tensor

from colorizer import load_colorizer, save_checkpoint
from command_line import make_parser, run_command


def halve(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Round convolutions to half precision; BatchNorm's figures, a hundredth of all, stay exact.

    `load_state_dict` turns them back into float32.
    """
    return {name: value.half() if value.ndim == 4 else value for name, value in weights.items()}


def export_weights(path: Path, weights: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write the weights and what is said of them, without the state of the run.

    Args:
        path: where to.
        weights: the state of a `Colorizer`.
        about: all else that its checkpoint holds.
    """
    kept = {key: value for key, value in about.items() if key not in ("format", "run")}
    save_checkpoint(path, halve(weights), **kept)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    # fmt: off
    parser.add_argument("--checkpoint", type=Path, required=True, default=argparse.SUPPRESS, metavar="FILE", help="a best.pt or last.pt, or the published weights")
    parser.add_argument("--out", type=Path, required=True, default=argparse.SUPPRESS, metavar="FILE", help="to write: NAME.pt")
    # fmt: on
    args = parser.parse_args()
    if args.out.suffix != ".pt":
        parser.error(f"--out must end with .pt, got {args.out}")
    if args.out.resolve() == args.checkpoint.resolve():
        parser.error(f"--out must be another file than --checkpoint, {args.checkpoint}")
    return args


def main() -> None:
    """Write the file."""
    args = parse_args()
    colorizer, about = load_colorizer(args.checkpoint)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    export_weights(args.out, colorizer.state_dict(), about)
    size = args.out.stat().st_size / 1e6
    print(
        f"wrote {args.out}, {size:.1f} MB; "
        f"colour with: python generate.py --checkpoint {args.out} --images FILE"
    )


if __name__ == "__main__":
    run_command(main, "run the same command again")
