"""Draw the pictures of README.md that this project can make without a data set.

python pictures/draw.py
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # the project's modules

import numpy as np
from PIL import Image
from skimage import data

from colorizer import load_colorizer
from inference import Decoding, color_photo
from photos import make_grid

SIDE = 304  # of one photograph, in pixels


def draw_astronaut(checkpoint: Path) -> Image.Image:
    """Draw scikit-image's astronaut: gray, coloured by a checkpoint, true."""
    truth = Image.fromarray(data.astronaut())
    gray = truth.convert("L").convert("RGB")
    colorizer, about = load_colorizer(checkpoint)
    decoding = Decoding(about["size"], about["temperature"], about["top_k"])
    (colored,) = color_photo(colorizer, gray.copy(), decoding)
    photos = (
        image.resize((SIDE, SIDE), Image.Resampling.LANCZOS) for image in (gray, colored, truth)
    )
    return make_grid([[np.asarray(image) for image in photos]])


def main() -> None:
    """Write the pictures beside this script."""
    draw_astronaut(ROOT / "checkpoints" / "celeba-64.pt").save(ROOT / "pictures" / "astronaut.png")


if __name__ == "__main__":
    main()
