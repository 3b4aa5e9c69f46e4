"""Draw the pictures of README.md that this project can make without a data set.

python pictures/draw.py
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # the project's modules

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from skimage import data

from colorizer import load_colorizer
from inference import Decoding, color_photo
from photos import make_grid
from plots import LIGHTNESS, bin_colors
from quantize import load_centers, load_imagenet_prior, rebalancing_weights

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


def draw_method(path: Path, checkpoint: Path) -> None:
    """Draw the bins over the ab plane, how frequent they are, and what the losses weigh them by.

    Args:
        path: of the picture.
        checkpoint: of a data set, whose prior it holds.
    """
    _, about = load_colorizer(checkpoint)
    imagenet, own = load_imagenet_prior(), about["prior"].double()
    panels = {  # title: values
        "the 313 bins, at L = 65": None,
        "log10 of their frequency over ImageNet": imagenet.log10(),
        f"log10 of their frequency over {about['dataset']}": own.log10(),
        "weight by --loss rebalanced": rebalancing_weights(imagenet),
        f"weight by --loss normalized, {about['dataset']}": rebalancing_weights(own),
    }
    figure = Figure(figsize=(17, 4.8), layout="constrained")
    a, b = load_centers().numpy().T
    for axes, (title, values) in zip(
        figure.subplots(1, 5, sharey=True), panels.items(), strict=True
    ):
        shown = axes.scatter(
            b, a, s=24, c=bin_colors(LIGHTNESS) if values is None else values, marker="s"
        )
        bar = figure.colorbar(shown, ax=axes, location="bottom", shrink=0.9)
        bar.ax.set_visible(values is not None)  # where there is none, its place stays
        axes.set_title(title, fontsize=10)
        axes.set(xlabel="b", aspect="equal")
    figure.axes[0].set_ylabel("a")
    figure.savefig(path, dpi=80)


def main() -> None:
    """Write the pictures beside this script."""
    checkpoints, pictures = ROOT / "checkpoints", ROOT / "pictures"
    draw_astronaut(checkpoints / "celeba-64.pt").save(pictures / "astronaut.png")
    draw_method(pictures / "method.png", checkpoints / "flowers-64.pt")


if __name__ == "__main__":
    main()
