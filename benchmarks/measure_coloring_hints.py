"""Color photographs of some megapixels with hints and without, in turn, in one process.

Prints the CPU seconds of a photograph, of its hints alone (to read their picture and to correct the
colors by them), the seconds beyond, and the ratio. Hints are blocks at random places, painted whole
in their true colors, in a PNG of the photograph's size. Colors that sRGB cannot show take time too,
as they are made paler; hints bring more of them to some photographs, and fewer to others: so six
are colored.

examples:
  python benchmarks/measure_coloring_hints.py
  python benchmarks/measure_coloring_hints.py --megapixels 50 --hints 100
"""

import itertools
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timing import CHECKPOINT, COLORING, color_silently, generate_jpegs, time_in_turn

from coloring.batch import read_hints
from coloring.hints import apply_hints, embed
from coloring.photo import count_blocks, predict
from coloring.sources import file_source, find_strokes
from coloring.strokes import draw_strokes
from colorizer import load_colorizer
from common.command_line import make_parser

PHOTOS = 6


def paint_hints(photo: Path, number: int, folder: Path) -> None:
    """Write a photograph's picture of hints into a folder: random blocks in their true colors."""
    image = Image.open(photo)
    h, w = count_blocks(image.size, COLORING.working_size)
    means = np.asarray(image.resize((w, h), Image.Resampling.BOX)).reshape(-1, 3).tolist()
    blocks = np.random.default_rng(0).choice(h * w, number, replace=False).tolist()
    strokes = draw_strokes({block: means[block] for block in blocks}, image.size, h, w)
    strokes.save((folder / photo.name).with_suffix(".png"))


def write_photos(megapixels: int, number: int, folder: Path) -> tuple[list[Path], Path]:
    """Write PHOTOS photographs, 4 : 3, and their pictures of hints; return the latter's folder."""
    width, height = round((megapixels * 4e6 / 3) ** 0.5), round((megapixels * 3e6 / 4) ** 0.5)
    photos, painted = [], folder / "hints"
    painted.mkdir()
    for i, jpeg in enumerate(generate_jpegs(PHOTOS, width, height)):
        photos.append(folder / f"{i}.jpg")
        photos[-1].write_bytes(jpeg)
        paint_hints(photos[-1], number, painted)
    return photos, painted


def measure(megapixels: int, number: int, rounds: int, folder: Path) -> None:
    """Print CPU seconds without hints, with hints, and of hints alone."""
    colorizer, _ = load_colorizer(CHECKPOINT)
    photos, painted = write_photos(megapixels, number, folder)
    image, calls = Image.open(photos[0]), itertools.count()
    seen = predict(colorizer, image, COLORING.working_size)
    ab = torch.zeros(1, 2, *seen.L.shape[-2:])

    def color(hints: Path | None = None) -> None:
        out = folder / f"out-{next(calls)}"  # what is colored is not colored again
        color_silently(colorizer, photos, out, hints=hints)

    def correct() -> None:
        for source in find_strokes([file_source(photo, photo.name) for photo in photos], painted):
            hints, _ = read_hints(source, image.size, COLORING.working_size)
            apply_hints(ab, embed(seen.L, seen.features), hints)

    color(painted)  # what is loaded at first use is none of its cost
    ways = {"without": color, "with": lambda: color(painted), "alone": correct}
    seconds = time_in_turn(ways, rounds, time.process_time)
    without, hinted, alone = (taken / PHOTOS for taken in seconds.values())
    print(f"{megapixels} megapixels, without hints: {without:.2f} CPU s a photograph")
    print(f"with {number} hints: {hinted:.2f} CPU s; the hints alone: {alone:.2f} CPU s")
    print(f"{hinted - without:.2f} CPU s more with hints, {hinted / without:.2f} times as long")


def main() -> None:
    """Print the figures."""
    parser = make_parser(__doc__)
    # fmt: off
    parser.add_argument("--megapixels", type=int, default=12, metavar="N", help="of a photograph")
    parser.add_argument("--hints", type=int, default=200, metavar="N", help="blocks that are painted in each")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of which the median counts")
    # fmt: on
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        measure(args.megapixels, args.hints, args.rounds, Path(folder))


if __name__ == "__main__":
    main()
