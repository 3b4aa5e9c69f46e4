"""Color a photograph at its own size, by the network's answer to a small copy of it.

The colors are enlarged along the photograph's lightness, strip by strip (see `enlarge`).
Shapes: B batch, H and W pixels, h and w blocks of the small copy, Q bins.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from skimage.color import rgb2lab
from torch import Tensor

from coloring.enlarge import fit_along_L
from coloring.hints import (
    Color,
    Hints,
    apply_hints,
    embed,
    find_deviation,
    find_questions,
    likeliest_colors,
)
from coloring.painting import draw_gray, lay_side_by_side, paint, shrink
from colorizer import Colorizer
from photo_files import PhotoError
from photo_files.opening import RESAMPLING, open_photo, read_bytes
from quantize import (
    BLOCK,
    Decoding,
    ab_to_bins,
    block_mean,
    change_prior,
    decode,
    lab_to_rgb,
    rgb_to_L,
    smooth_prior,
)

LONGEST = 16  # limit of the long side that the network sees, in working sizes
FIELD = 3  # random numbers along a side of a photograph, for each bin of a sample
FIELD_SIGMA = 20.0  # bins nearer than this, in units of ab, rise and fall together
TINT = 1.8  # units of ab: a photograph of one tint is nearer to it, on average
GRAY_LEVELS = 16  # a photograph whose channels differ by no more has no colors of its own

# of `stretch`, in units of L, chosen by benchmarks/compare_faded.py
ENDS = 0.5, 99.5  # percentiles of a photograph's L
FADED = 45.0  # its ends are nearer than this: 1 of 300 undamaged photographs, 1 of 100 flowers
EMPTY = 10.0  # its ends are nearer than this: a sheet without a picture
USUAL = 15.0, 80.0  # ends of L that a faded one is stretched to, where its own are within


@dataclass(frozen=True)
class Reference:
    """A photograph like which others are colored."""

    digest: str  # of its file
    colors: Tensor  # (Q,), how common each bin is in it, smoothed


@dataclass(frozen=True)
class Coloring:
    """The settings of coloring."""

    working_size: int  # the short side that the network sees, in pixels
    decoding: Decoding
    samples: int = 0  # number of random colorings; 0 is one that is not random
    seed: int = 0  # of the samples
    uncertainty: bool = False  # whether to draw the entropy of the prediction too
    like: Reference | None = None  # its colors are the target of the decoding's vividness
    compare: bool = False  # whether to lay gray and colored side by side too
    stretch: bool = True  # whether the network sees a faded or dark photograph as `stretch` does


@dataclass(frozen=True)
class Prediction:
    """The network's answer to a photograph."""

    L: Tensor  # (1, 1, h, w), 0..100, each block's mean, before it was stretched
    logits: Tensor  # (1, Q, h, w)
    features: Tensor  # (1, C, h, w), of which the logits are made

    @cached_property
    def points(self) -> Tensor:
        """The blocks as hints see them: `embed`'s (P, D)."""
        return embed(self.L, self.features)


def count_blocks(size: tuple[int, int], working_size: int) -> tuple[int, int]:
    """Return the blocks (h, w) that the network sees of a photograph of a width and height.

    The short side becomes working_size, so that colors hardly depend on the scan's resolution.
    """
    scale = min(working_size / min(size), LONGEST * working_size / max(size))
    w, h = (max(1, round(side * scale / BLOCK)) for side in size)
    return h, w


def resize_for_network(image: Image.Image, working_size: int) -> Image.Image:
    """Resize an RGB photograph to whole blocks, antialiased as for training."""
    h, w = count_blocks(image.size, working_size)
    return image.resize((w * BLOCK, h * BLOCK), RESAMPLING)


# ---- a photograph's own colors -----------------------------------------------------------------
def is_gray(image: Image.Image) -> bool:
    """Tell whether an RGB photograph is gray; made small first, to average its noise."""
    small = np.asarray(image.resize((64, 64), Image.Resampling.BOX, reducing_gap=2))
    return int(np.ptp(small, axis=-1).max()) <= GRAY_LEVELS


def has_colors(image: Image.Image) -> bool:
    """Tell whether an RGB photograph is neither gray nor of one tint, as sepia.

    Where there is one tint, ab hardly differs from a smooth function of L.
    """
    if is_gray(image):
        return False
    small = image.resize((32, 32), Image.Resampling.BOX, reducing_gap=2)
    lab = rgb2lab(np.asarray(small)).reshape(-1, 3)
    powers = np.vander(lab[:, 0] / 100, 6)
    tint = powers @ np.linalg.lstsq(powers, lab[:, 1:])[0]
    return float(np.linalg.norm(lab[:, 1:] - tint, axis=1).mean()) > TINT


def read_reference(path: Path, centers: Tensor, working_size: int) -> Reference:
    """Count the colors of a photograph, as the network sees it, in the bins of centers (Q, 2).

    Raise PhotoError if the file is no photograph, or has no colors.
    """
    try:
        image = open_photo(data := read_bytes(path))
        if is_gray(image):
            raise PhotoError("a gray one")
    except PhotoError as error:
        raise PhotoError(f"--like {path}: expected a color photograph: {error}") from error
    lab = rgb2lab(np.asarray(resize_for_network(image, working_size)))
    ab = np.floor(lab[..., 1:]).astype(np.int8).transpose(2, 0, 1)  # (2, H, W), as stored
    bins = ab_to_bins(np.moveaxis(block_mean(ab), 0, -1), centers.numpy())
    counts = np.bincount(bins.ravel(), minlength=len(centers))
    colors = smooth_prior(torch.from_numpy(counts), centers).float()
    return Reference(hashlib.sha256(data).hexdigest()[:16], colors)


# ---- the network's answer ----------------------------------------------------------------------
def stretch(L: np.ndarray, ease: float = 0.0) -> np.ndarray:
    """Stretch the L (H, W), 0..100, of a faded or dark photograph to that of usual ones.

    L that needs no stretch is returned as it is. With `ease`, in units of L, the stretch sets in
    over that much around FADED, and above EMPTY: frames of a film that hardly differ then do not.
    """
    low, high = np.percentile(L, ENDS)
    span, share = high - low, 1.0
    if ease:
        share = np.clip((FADED - span) / ease + 0.5, 0, 1) * np.clip((span - EMPTY) / ease, 0, 1)
    elif not EMPTY < span < FADED:
        share = 0.0
    if not share:
        return L
    ends = min(low, USUAL[0]), max(high, USUAL[1])
    if share < 1:
        ends = tuple(at + share * (end - at) for at, end in zip((low, high), ends, strict=True))
    return np.interp(L, (low, high), ends).astype(np.float32)


@torch.inference_mode()
def predict(
    colorizer: Colorizer,
    image: Image.Image,
    working_size: int,
    stretched: bool = True,
    ease: float = 0.0,
) -> Prediction:
    """Show an RGB photograph to the network, as `stretch` does unless `stretched` is False."""
    L = rgb_to_L(resize_for_network(image, working_size))
    seen = stretch(L, ease) if stretched else L
    L, seen = (torch.from_numpy(x)[None, None].to(colorizer.centers.device) for x in (L, seen))
    return Prediction(F.avg_pool2d(L, BLOCK), *colorizer.predict(seen))


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


def decide_ab(
    colorizer: Colorizer,
    prediction: Prediction,
    coloring: Coloring,
    hints: Hints | None = None,
    sample: int | None = None,
) -> Tensor:
    """Return the ab (1, 2, h, w) of a prediction, for one of the samples if it is given.

    Hints correct what was decoded. So samples agree where there is a hint, and differ elsewhere.
    """
    logits = prediction.logits
    centers, target = colorizer.centers, coloring.like and coloring.like.colors
    if sample is not None:
        logits = logits + draw_field(centers, *logits.shape[-2:], coloring.seed, sample)
    ab = decode(logits, centers, coloring.decoding, colorizer.prior, target)
    if hints is None:
        return ab
    return apply_hints(ab, prediction.points, hints.to(ab.device))


@torch.inference_mode()
def color_in_place(
    colorizer: Colorizer,
    image: Image.Image,
    prediction: Prediction,
    coloring: Coloring,
    hints: Hints | None = None,
    sample: int | None = None,
) -> None:
    """Color an RGB photograph by the network's answer to it."""
    ab = decide_ab(colorizer, prediction, coloring, hints, sample)
    paint(image, fit_along_L(prediction.L, ab))


def color_photo(
    colorizer: Colorizer, image: Image.Image, coloring: Coloring, hints: Hints | None = None
) -> Iterator[Image.Image]:
    """Color an RGB photograph at its own size; its L stays, and its own colors are replaced.

    Yields one RGB photograph, or as many as there are samples; then, if `coloring` asks for them,
    the uncertainty, of mode L, and gray and colored side by side. The last colored one is `image`
    itself: a large one is not copied. `hints` are of its `count_blocks`.
    """
    prediction = predict(colorizer, image, coloring.working_size, coloring.stretch)
    uncertainty = draw_uncertainty(prediction, image.size) if coloring.uncertainty else None
    columns, compared = 1 + max(1, coloring.samples), []
    if coloring.compare:
        compared.append(draw_gray(image, columns))
    for sample in range(max(1, coloring.samples)):
        colored = image if sample >= coloring.samples - 1 else image.copy()
        drawn = sample if coloring.samples else None
        color_in_place(colorizer, colored, prediction, coloring, hints, drawn)
        if coloring.compare:
            compared.append(shrink(colored, columns))
        yield colored
    if uncertainty:
        yield uncertainty
    if compared:
        yield lay_side_by_side(compared)


# ---- what to ask -------------------------------------------------------------------------------
@torch.inference_mode()
def ask(
    colorizer: Colorizer, prediction: Prediction, hints: Hints | None, number: int
) -> list[int]:
    """Return the blocks whose colors would tell most, as `find_questions` does, given hints."""
    deviation = find_deviation(prediction.logits, colorizer.centers)
    hints = hints and hints.to(deviation.device)
    return find_questions(prediction.points, deviation, hints, number).tolist()


@torch.inference_mode()
def likely_colors(
    colorizer: Colorizer, prediction: Prediction, coloring: Coloring, block: int, number: int
) -> list[tuple[Color, float]]:
    """Return the likeliest colors of a block, at its L, and their probabilities, as decoded.

    At most so many; see `likeliest_colors`. Colors outside sRGB are made paler.
    """
    target = coloring.like and coloring.like.colors
    logits = prediction.logits[0].flatten(1)[:, block].float()  # (Q,)
    logits = change_prior(logits, colorizer.prior, coloring.decoding.vividness, target)
    clusters = likeliest_colors(logits.softmax(0), colorizer.centers, number)
    ab = torch.stack([color for color, _ in clusters])  # (N, 2)
    L = prediction.L.flatten()[block].expand(len(ab))
    rgb = lab_to_rgb(L[None, None, None], ab.T[None, :, None])[0, :, 0].T  # (N, 3)
    return [(tuple(color), share) for color, (_, share) in zip(rgb.tolist(), clusters, strict=True)]


def draw_uncertainty(prediction: Prediction, size: tuple[int, int]) -> Image.Image:
    """Draw the entropy of predicted distributions: black certain, white no idea."""
    log_probs = prediction.logits[0].float().log_softmax(0)
    entropy = -(log_probs.exp() * log_probs).sum(0) / math.log(len(log_probs))  # (h, w), 0..1
    levels = (entropy * 255).round().to(torch.uint8).cpu().numpy()
    return Image.fromarray(levels).resize(size, Image.Resampling.BILINEAR)
