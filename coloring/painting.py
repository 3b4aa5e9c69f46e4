"""Paint a photograph with colors that follow its lightness, and lay photographs side by side.

Shapes: H and W pixels, h and w blocks of the small copy that the network saw.
"""

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from quantize import lab_to_rgb, rgb_to_L

STRIP_PIXELS = 2**17  # that become RGB at a time: memory stays small, and in the processor's cache
MOST_SIDE = 16383  # pixels of photographs side by side: WebP holds no more


def between_rows(fit: Tensor, first: int, last: int, height: int) -> Tensor:
    """Enlarge (4, h, W) to `height` rows, bilinearly, and return rows first..last - 1."""
    h = fit.shape[1]
    place = ((torch.arange(first, last) + 0.5) * (h / height) - 0.5).clamp(0, h - 1)
    above = place.long()
    below = (above + 1).clamp(max=h - 1)
    rows = (fit.index_select(1, at) for at in (above, below))  # indexing takes four times as long
    return torch.lerp(*rows, (place - above)[:, None])


@torch.inference_mode()
def paint(image: Image.Image, fit: Tensor) -> None:
    """Color an RGB photograph in place, by strips, with `fit_along_L`'s (1, 4, h, w); L stays."""
    width, height = image.size
    fit = F.interpolate(fit.cpu(), (fit.shape[-2], width), mode="bilinear", align_corners=False)[0]
    rows = max(1, STRIP_PIXELS // width)
    for top in range(0, height, rows):
        box = (0, top, width, min(top + rows, height))
        L = torch.from_numpy(rgb_to_L(image.crop(box)))
        slope, offset = between_rows(fit, box[1], box[3], height).split(2)
        rgb = lab_to_rgb(L[None, None], (slope * L + offset)[None])[0]
        image.paste(Image.fromarray(rgb.movedim(0, -1).contiguous().numpy()), box)


# ---- gray and colored side by side -------------------------------------------------------------
def shrink(image: Image.Image, columns: int) -> Image.Image:
    """Return a copy of a photograph of which so many fit beside each other in any format."""
    image = image.copy()
    image.thumbnail((MOST_SIDE // columns, MOST_SIDE))
    return image


def draw_gray(image: Image.Image, columns: int = 1) -> Image.Image:
    """Return the lightness of an RGB photograph as RGB; see `shrink`."""
    gray = shrink(image, columns)
    paint(gray, torch.zeros(1, 4, 1, 1))
    return gray


def lay_side_by_side(images: list[Image.Image]) -> Image.Image:
    """Lay photographs of one size side by side."""
    width, height = images[0].size
    beside = Image.new("RGB", (width * len(images), height))
    for column, image in enumerate(images):
        beside.paste(image, (column * width, 0))
    return beside
