"""Color many photographs, one after another and several at a time in threads; print the ratio.

examples:
  python benchmarks/measure_coloring_many.py
  python benchmarks/measure_coloring_many.py --photos 1000 --workers 8
"""

import os
import shutil
import tempfile
from pathlib import Path

import torch
from timing import CHECKPOINT, color_silently, generate_jpegs, time_in_turn

from colorizer import load_colorizer
from common.command_line import make_parser


def measure(number: int, workers: int, folder: Path) -> None:
    """Print photographs/s, one after another and several at a time."""
    colorizer, _ = load_colorizer(CHECKPOINT)
    scans, out = folder / "scans", folder / "out"
    scans.mkdir()
    for i, jpeg in enumerate(generate_jpegs(number, 500, 375)):
        (scans / f"{i:05d}.jpg").write_bytes(jpeg)

    def color(threads: int) -> None:
        shutil.rmtree(out, ignore_errors=True)
        color_silently(colorizer, [scans], out, threads)

    seconds = time_in_turn({n: lambda n=n: color(n) for n in (1, workers)}, 3)
    for n, taken in seconds.items():
        print(f"{number} photographs of 500 x 375, {n} at a time: {number / taken:.1f}/s")
    print(f"overlapped: {seconds[1] / seconds[workers]:.2f} times as fast as in turn")


def main() -> None:
    """Print the figures."""
    parser = make_parser(__doc__)
    # fmt: off
    parser.add_argument("--photos", type=int, default=200, metavar="N", help="to color")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), metavar="N", help="photographs at a time")
    # fmt: on
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        measure(args.photos, args.workers, Path(folder))


if __name__ == "__main__":
    main()
