"""Measure how far colors move when a photograph is scaled by 0.5 and by 2.

The network sees it at the working size, as users' photographs, and at the photograph's own size.

examples:
  python benchmarks/measure_coloring_resized.py ~/photos
  python benchmarks/measure_coloring_resized.py ~/photos --checkpoint runs/celeba-64-plain/best.pt
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from timing import CHECKPOINT, COLORING
from torch import Tensor

from coloring.photo import predict
from colorizer import Colorizer, load_colorizer
from common.command_line import make_parser
from photo_files.opening import open_photo
from quantize import BLOCK, decode


@torch.inference_mode()
def colors_at(colorizer: Colorizer, image: Image.Image, working_size: int) -> Tensor:
    """Return the network's ab of a photograph, (1, 2, 64, 64)."""
    logits = predict(colorizer, image, working_size).logits
    return F.interpolate(
        decode(logits, colorizer.centers, COLORING.decoding), (64, 64), mode="bilinear"
    )


def measure(folder: Path, colorizer: Colorizer, working_size: int, number: int) -> None:
    """Print the mean distance in ab between a photograph's colors and those of it scaled."""
    moved = {(way, s): [] for way in ("working size", "own size") for s in (0.5, 2)}
    for path in sorted(folder.iterdir())[:number]:
        image = open_photo(path.read_bytes())
        image.thumbnail((256, 256))
        own = min(image.size) // BLOCK * BLOCK
        for scale in (0.5, 2):
            size = [max(8, round(side * scale)) for side in image.size]
            scaled = image.resize(size, Image.Resampling.BICUBIC)
            sizes = {"working size": (working_size,) * 2, "own size": (own, round(own * scale))}
            for way, (one, other) in sizes.items():
                difference = colors_at(colorizer, image, one) - colors_at(colorizer, scaled, other)
                moved[way, scale].append(float(difference.norm(dim=1).mean()))
    for (way, scale), distances in moved.items():
        print(f"scaled by {scale}, network at the {way:12}: ab moves {np.mean(distances):5.2f}")


def main() -> None:
    """Print the figures."""
    parser = make_parser(__doc__)
    # fmt: off
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of photographs")
    parser.add_argument("--number", type=int, default=100, metavar="N", help="photographs, at most")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, metavar="FILE", help="of the network")
    parser.add_argument("--working-size", type=int, default=64, metavar="PX", help="short side that the network sees")
    # fmt: on
    args = parser.parse_args()
    torch.set_num_threads(1)
    colorizer, _ = load_colorizer(args.checkpoint)
    measure(args.folder, colorizer, args.working_size, args.number)


if __name__ == "__main__":
    main()
