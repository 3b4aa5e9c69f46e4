"""Color a photograph at its own size, by the network's answer to a small copy of it.

The colors are enlarged along the photograph's lightness, strip by strip (see `enlarge`).
Shapes: B batch, H and W pixels, h and w blocks of the small copy, Q bins.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from coloring.enlarge import fit_along_L
from colorizer import Colorizer
from photo_files.opening import RESAMPLING
from quantize import BLOCK, Decoding, decode, lab_to_rgb, rgb_to_L

STRIP_PIXELS = 2**17  # that become RGB at a time: memory stays small, and in the processor's cache
LONGEST = 16  # limit of the long side that the network sees, in working sizes
FIELD = 3  # random numbers along a side of a photograph, for each bin of a sample
FIELD_SIGMA = 20.0  # bins nearer than this, in units of ab, rise and fall together


@dataclass(frozen=True)
class Coloring:
    """The settings of coloring."""

    working_size: int  # the short side that the network sees, in pixels
    decoding: Decoding
    samples: int = 0  # number of random colorings; 0 is one that is not random
    seed: int = 0  # of the samples
    uncertainty: bool = False  # whether to draw the entropy of the prediction too


def resize_for_network(image: Image.Image, working_size: int) -> Image.Image:
    """Resize an RGB photograph to whole blocks, antialiased as for training.

    Its short side becomes working_size, so that colors hardly depend on the scan's resolution.
    """
    scale = min(working_size / min(image.size), LONGEST * working_size / max(image.size))
    size = [max(1, round(side * scale / BLOCK)) * BLOCK for side in image.size]
    return image.resize(size, RESAMPLING)


def between_rows(fit: Tensor, first: int, last: int, height: int) -> Tensor:
    """Enlarge (4, h, W) to `height` rows, bilinearly, and return rows first..last - 1."""
    h = fit.shape[1]
    place = ((torch.arange(first, last) + 0.5) * (h / height) - 0.5).clamp(0, h - 1)
    above = place.long()
    below = (above + 1).clamp(max=h - 1)
    return torch.lerp(fit[:, above], fit[:, below], (place - above)[:, None])


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


# ---- the network's answer ----------------------------------------------------------------------
def predict_logits(
    colorizer: Colorizer, image: Image.Image, working_size: int
) -> tuple[Tensor, Tensor]:
    """Return each block's mean L, (1, 1, h, w), and logits (1, Q, h, w) of an RGB photograph."""
    L = torch.from_numpy(rgb_to_L(resize_for_network(image, working_size)))[None, None]
    L = L.to(colorizer.centers.device)
    return F.avg_pool2d(L, BLOCK), colorizer(L)


def draw_field(centers: Tensor, height: int, width: int, seed: int, sample: int) -> Tensor:
    """Draw smooth Gumbel noise, (1, Q, height, width), to add to logits.

    It makes the best bin a sample of the predicted distribution (the Gumbel-max trick). It is
    smooth over the photograph and over the ab plane, so that neighboring pixels choose alike, and
    samples differ in color rather than shade.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + sample)
    squared = torch.cdist(centers.cpu(), centers.cpu()).square()
    mixing = torch.exp(-squared / (2 * FIELD_SIGMA**2))  # (Q, Q)
    mixing = mixing / mixing.norm(dim=1, keepdim=True)  # keeps the variance of 1
    normal = torch.randn(len(centers), FIELD, FIELD, generator=generator)
    normal = torch.einsum("qp,pyx->qyx", mixing, normal)[None]
    normal = F.interpolate(normal, (height, width), mode="bicubic", align_corners=True)
    share = torch.special.ndtr(normal).clamp(1e-6, 1 - 1e-6)
    return -(-share.log()).log().to(centers.device)


@torch.inference_mode()
def color_photo(
    colorizer: Colorizer, image: Image.Image, coloring: Coloring
) -> Iterator[Image.Image]:
    """Color an RGB photograph at its own size; its L stays, and its own colors are replaced.

    Yields one RGB photograph, or as many as there are samples; then, if `coloring` asks for it, the
    uncertainty, of mode L. The last colored one is `image` itself: a large one is not copied.
    """
    L, logits = predict_logits(colorizer, image, coloring.working_size)
    uncertainty = draw_uncertainty(logits, image.size) if coloring.uncertainty else None
    centers, size = colorizer.centers, L.shape[-2:]
    for sample in range(max(1, coloring.samples)):
        noise = draw_field(centers, *size, coloring.seed, sample) if coloring.samples else 0
        ab = decode(logits + noise, centers, coloring.decoding)
        colored = image if sample >= coloring.samples - 1 else image.copy()
        paint(colored, fit_along_L(L, ab))
        yield colored
    if uncertainty:
        yield uncertainty


def draw_uncertainty(logits: Tensor, size: tuple[int, int]) -> Image.Image:
    """Draw the entropy of predicted distributions (1, Q, h, w): black certain, white no idea."""
    log_probs = logits[0].float().log_softmax(0)
    entropy = -(log_probs.exp() * log_probs).sum(0) / math.log(len(log_probs))  # (h, w), 0..1
    levels = (entropy * 255).round().to(torch.uint8).cpu().numpy()
    return Image.fromarray(levels).resize(size, Image.Resampling.BILINEAR)
