"""Draw those pictures of README.md and docs/ that need no data set.

python docs/pictures/draw.py
"""

import sys
from pathlib import Path

PICTURES = Path(__file__).parent
ROOT = PICTURES.parent.parent
sys.path.insert(0, str(ROOT))  # the project's modules

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from skimage import data

from coloring.photo import Coloring, ask, color_photo, predict
from coloring.strokes import box_of, draw_dots, draw_rings, hints_of_colors
from colorizer import Colorizer, load_colorizer
from common.plots import LIGHTNESS, bin_colors, draw_distribution, make_grid
from quantize import Decoding, decode, load_centers, load_imagenet_prior, rebalancing_weights

SIZE = 300, 200  # of one photograph, in pixels
SMALL = 240, 160
ASTRONAUT = (0, 40, 512, 381)  # shown of the astronaut
CAMERA = (0, 60, 512, 401)  # shown of the cameraman: left, top, right, bottom, in pixels
VIVIDNESSES = 0.2, 0.4
QUESTIONS = 1, 4  # hints in the pictures of hints
PLACE = 0.15, 0.18  # of the cat's ear: shares of its photograph's height and width


def draw_photographs(checkpoint: Path) -> Image.Image:
    """Draw three of scikit-image's photographs: gray, colored at VIVIDNESSES, true."""
    colorizer, info = load_colorizer(checkpoint)
    rows = []
    for pixels, box in ((data.camera(), CAMERA), (data.chelsea(), None), (data.coffee(), None)):
        truth = Image.fromarray(pixels).convert("RGB")
        gray = truth.convert("L").convert("RGB")
        row = [gray]
        for vividness in VIVIDNESSES:
            decoding = Decoding(info["temperature"], info["top_k"], vividness)
            row += color_photo(colorizer, gray.copy(), Coloring(info["size"], decoding))
        shown = [image.resize(SIZE, Image.Resampling.LANCZOS, box) for image in (*row, truth)]
        rows.append([np.asarray(image) for image in shown])
    return make_grid(rows)


def draw_hints(checkpoint: Path) -> Image.Image:
    """Draw two of scikit-image's photographs: gray with rings, colored with no, one, four hints.

    The hints are true colors, at the places that are asked for. The truth comes last.
    """
    colorizer, info = load_colorizer(checkpoint)
    coloring = Coloring(
        info["size"], Decoding(info["temperature"], info["top_k"], info["vividness"])
    )
    rows = []
    for pixels, box in ((data.astronaut(), ASTRONAUT), (data.coffee(), None)):
        truth = Image.fromarray(pixels)
        gray = truth.convert("L").convert("RGB")
        seen = predict(colorizer, gray, info["size"])
        h, w = seen.L.shape[-2:]
        blocks = ask(colorizer, seen, None, max(QUESTIONS))
        colors = {}
        for block in blocks:
            left, top, right, bottom = box_of(block, gray.size, h, w)
            mean = pixels[top : bottom + 1, left : right + 1].mean((0, 1))
            colors[block] = tuple(mean.round().astype(int).tolist())
        row = [gray.copy()]
        draw_rings(row[0], blocks, h, w)
        for number in (0, *QUESTIONS):
            said = {block: colors[block] for block in blocks[:number]}
            row += color_photo(colorizer, gray.copy(), coloring, hints_of_colors(said))
            draw_dots(row[-1], said, None, h, w)
        shown = [image.resize(SMALL, Image.Resampling.LANCZOS, box) for image in (*row, truth)]
        rows.append([np.asarray(image) for image in shown])
    return make_grid(rows)


def draw_prediction(axes: Axes, colorizer: Colorizer, working_size: int) -> None:
    """Draw what is predicted for a place of scikit-image's cat, and what it decodes to."""
    gray = Image.fromarray(data.chelsea()).convert("L").convert("RGB")
    seen = predict(colorizer, gray, working_size)
    row, column = (int(share * side) for share, side in zip(PLACE, seen.L.shape[-2:], strict=True))
    here = seen.logits[..., row : row + 1, column : column + 1]
    draw_distribution(axes, here[0, :, 0, 0].softmax(0), float(seen.L[0, 0, row, column]), area=90)
    Q = len(colorizer.centers)
    for marker, name, decoding in (
        ("+", "the most probable", Decoding(1.0, 1)),
        ("1", "decoded, T = 0.38", Decoding(0.38, Q)),
        ("x", "the mean, T = 1", Decoding(1.0, Q)),
    ):
        decoded = decode(here, colorizer.centers, decoding).flatten()
        axes.scatter(*decoded.flip(0), s=60, marker=marker, c="k", label=name)
    axes.legend(loc="lower left", fontsize=9)


def draw_method(path: Path, checkpoint: Path) -> None:
    """Draw the bins, how frequent they are, what is predicted of a place, what losses weigh.

    Args:
        path: of the picture.
        checkpoint: of a data set, whose prior it holds.
    """
    colorizer, info = load_colorizer(checkpoint)
    imagenet, own = load_imagenet_prior(), info["prior"].double()
    panels = (
        ("the 313 bins, at L = 65", bin_colors(LIGHTNESS)),
        ("log10 of their frequency over ImageNet", imagenet.log10()),
        (f"log10 of their frequency over {info['dataset']}", own.log10()),
        ("predicted for a place: leaf or petal?", None),
        ("weight by --loss rebalanced", rebalancing_weights(imagenet)),
        (f"weight by --loss normalized, {info['dataset']}", rebalancing_weights(own)),
    )
    figure = Figure(figsize=(13, 7.6), layout="constrained")
    a, b = load_centers().numpy().T
    grid = figure.subplots(2, 3, sharex=True, sharey=True)
    for axes, (title, values) in zip(grid.flat, panels, strict=True):
        if values is None:
            draw_prediction(axes, colorizer, info["size"])
        else:
            shown = axes.scatter(b, a, s=42, c=values, marker="s")
            if values.ndim == 1:
                figure.colorbar(shown, ax=axes)
        axes.set_title(title, fontsize=10)
        axes.set_aspect("equal")
    for axes in grid[:, 0]:
        axes.set_ylabel("a")
    for axes in grid[-1]:
        axes.set_xlabel("b")
    figure.savefig(path, dpi=80)


def main() -> None:
    """Write the pictures beside this script."""
    checkpoints = ROOT / "checkpoints"
    draw_photographs(checkpoints / "photos-128.pt").save(PICTURES / "photographs.jpg", quality=90)
    draw_hints(checkpoints / "photos-128.pt").save(PICTURES / "said.jpg", quality=90)
    draw_method(PICTURES / "method.png", checkpoints / "flowers-64.pt")


if __name__ == "__main__":
    main()
