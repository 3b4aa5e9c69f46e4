"""Compare ways to enlarge ab from the network's resolution to the photograph's.

True ab is brought down to what the network answers and back; printed is how far it is from the
truth: bilinear, by the guided filter as published (at the working size, where every pixel takes the
mean of all windows' fits), and by ours, each with several radii and epsilons.

examples:
  python benchmarks/measure_enlarging.py ~/photos
  python benchmarks/measure_enlarging.py cache/celeba-64 --working-size 40
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import timing  # noqa: F401  it finds the project's modules
import torch
import torch.nn.functional as F
from skimage.color import rgb2lab
from torch import Tensor

from coloring.enlarge import fit_along_L
from common.command_line import make_parser
from dataset import Cache
from photo_files.opening import open_photo
from quantize import BLOCK, stored_to_lab

LEAST = 256  # pixels of the short side of the photographs in a folder
MOST = 512  # of the long side, for speed


def true_photos(source: Path, number: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield L (1, 1, H, W) and ab (1, 2, H, W) of photographs in a folder, or of a cache."""
    if (source / "cache.json").exists():
        split = Cache(source).split("val")
        for index in np.linspace(0, len(split) - 1, number).astype(int):
            yield stored_to_lab(*split.read(np.array([index])))
        return
    for path in sorted(source.iterdir()):
        image = open_photo(path.read_bytes())
        if min(image.size) >= LEAST:
            image.thumbnail((max(MOST, LEAST * max(image.size) // min(image.size) + 1),) * 2)
            lab = torch.from_numpy(rgb2lab(np.asarray(image))).float().movedim(-1, 0)[None]
            yield lab[:, :1], lab[:, 1:]


def guide_as_published(L: Tensor, ab: Tensor, radius: int, epsilon: float) -> Tensor:
    """Fit ab as the fast guided filter does (He and Sun 2015, eq. 3 to 8); as `fit_along_L`."""

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2 * radius + 1, 1, radius, count_include_pad=False)

    slope = (mean(L * ab) - mean(L) * mean(ab)) / (mean(L * L) - mean(L) ** 2 + epsilon)
    return mean(torch.cat((slope, mean(ab) - slope * mean(L)), dim=1))


def errors(L: Tensor, ab: Tensor, working_size: int) -> dict[str, float]:
    """Return the mean distance from true ab of each way of bringing it back."""
    size = L.shape[-2:]
    scale = working_size / min(size)
    blocks = [round(side * scale / BLOCK) for side in size]
    seen = F.interpolate(L, [BLOCK * n for n in blocks], mode="bilinear", antialias=True)
    small_L, small_ab = F.avg_pool2d(seen, BLOCK), F.interpolate(ab, blocks, mode="area")

    def error(fit: Tensor) -> float:
        slope, offset = F.interpolate(fit, size, mode="bilinear").split(2, dim=1)
        return float((slope * L + offset - ab).square().sum(1).sqrt().mean())

    found = {"bilinear": error(torch.cat((0 * small_ab, small_ab), dim=1))}
    for r, e in itertools.product((1, 2, 4), (3.0, 10.0, 30.0)):
        seen_ab = F.interpolate(small_ab, scale_factor=BLOCK, mode="bilinear")
        fit = guide_as_published(seen, seen_ab, r, e)
        found[f"as published, radius {r} pixels, epsilon {e:.0f}"] = error(fit)
    for r, e in itertools.product((1, 2), (10.0, 30.0, 60.0, 100.0, 300.0)):
        found[f"ours, radius {r} blocks, epsilon {e:.0f}"] = error(
            fit_along_L(small_L, small_ab, r, e)
        )
    return found


def measure(source: Path, working_size: int, number: int) -> None:
    """Print the error of ab, bilinear and guided."""
    found = [errors(*photo, working_size) for photo in true_photos(source, number)]
    print(f"{source}, {len(found)} photographs, working size {working_size}")
    for way in found[0]:
        ab, bilinear = (np.array([photo[w] for photo in found]) for w in (way, "bilinear"))
        print(
            f"{way:45} {ab.mean():6.3f} {ab.mean() / bilinear.mean() - 1:+6.1%}, "
            f"better on {(ab < bilinear).mean():.0%}"
        )


def main() -> None:
    """Print the figures."""
    parser = make_parser(__doc__)
    # fmt: off
    parser.add_argument("source", type=Path, metavar="DIR", help=f"folder of photographs, of which those of at least {LEAST} px count, or a cache")
    parser.add_argument("--working-size", type=int, default=64, metavar="PX", help="short side that the network sees")
    parser.add_argument("--number", type=int, default=100, metavar="N", help="photographs of a cache")
    # fmt: on
    args = parser.parse_args()
    torch.set_num_threads(1)
    measure(args.source, args.working_size, args.number)


if __name__ == "__main__":
    main()
