"""Score colored photographs against true ones.

Photographs are sRGB (B, 3, H, W) uint8; each has one figure, over all three channels. Colors are
ab (B, 2, ...), about -110..110; each pixel has a figure.
"""

import math
from functools import cache

import torch
from torch import Tensor

from quantize import split_rows

MSE_FLOOR = 1e-10  # of the squared error, in units of full scale: equal photographs score 100 dB
SSIM_SIGMA, SSIM_RADIUS = 1.5, 5  # of the Gaussian window, in pixels
SSIM_K1, SSIM_K2 = 0.01, 0.03
AUC_LIMIT = 150  # largest threshold of AuC, in units of ab
TURN = 2 * math.pi


# ---- photographs -------------------------------------------------------------------------------
def precise(values: Tensor) -> Tensor:
    """Return values in float64, or in float32 on Apple's GPUs, which have no wider type."""
    return values.float() if values.device.type == "mps" else values.double()


def psnr(photos: Tensor, truth: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each photograph in dB, (B,) float64, at most 100."""
    error = (precise(photos) - precise(truth)) / 255
    return -10 * error.square().mean((1, 2, 3)).clamp_min(MSE_FLOOR).log10()


@cache
@torch.inference_mode(False)
def ssim_window(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the Gaussian window at each place where it fits, (length - 10, length)."""
    offset = torch.arange(-SSIM_RADIUS, SSIM_RADIUS + 1, dtype=dtype)
    weights = torch.softmax(-offset.square() / (2 * SSIM_SIGMA**2), dim=0)
    window = torch.zeros(length - 2 * SSIM_RADIUS, length, dtype=dtype)
    for i, weight in enumerate(weights):
        window.diagonal(i).fill_(weight)
    return window.to(device)


def ssim(photos: Tensor, truth: Tensor) -> Tensor:
    """Return the structural similarity of each photograph (Wang et al. 2004), (B,) float64.

    As scikit-image's `structural_similarity` with gaussian_weights, sigma 1.5, the population's
    covariance and a data range of 255; the mean over channels. The window is two matrix products,
    taken only where it fits. Raise ValueError if a side is shorter than its 11 pixels.
    """
    height, width = truth.shape[-2:]
    if min(height, width) <= 2 * SSIM_RADIUS:
        raise ValueError(f"SSIM needs at least 11 pixels a side, got {height} x {width}")
    x, y = precise(photos), precise(truth)
    down, across = (ssim_window(side, x.dtype, x.device) for side in (height, width))

    def blur(image: Tensor) -> Tensor:
        return down @ image @ across.T

    mean_x, mean_y = blur(x), blur(y)
    products, squares = mean_x * mean_y, mean_x**2 + mean_y**2
    covariance, variances = blur(x * y) - products, blur(x * x + y * y) - squares
    c1, c2 = (SSIM_K1 * 255) ** 2, (SSIM_K2 * 255) ** 2
    luminance = (2 * products + c1) / (squares + c1)
    structure = (2 * covariance + c2) / (variances + c2)
    return (luminance * structure).mean((1, 2, 3))


def colorfulness(photos: Tensor) -> Tensor:
    """Return the colorfulness of each photograph (Hasler and Suesstrunk 2003), (B,) float64.

    0 is gray, 15 slightly, 45 averagely, 80 highly colorful. Opponent colors keep their sign.
    """
    red, green, blue = precise(photos).unbind(1)
    opponents = torch.stack((red - green, (red + green) / 2 - blue), dim=1).flatten(2)  # (B, 2, P)
    squares = opponents.mean(-1).square().sum(1)
    variances = opponents.square().mean(-1).sum(1) - squares  # ten times as fast as var()
    return variances.clamp_min(0).sqrt() + 0.3 * squares.sqrt()


# ---- colors ------------------------------------------------------------------------------------
def ab_error(ab: Tensor, truth: Tensor) -> Tensor:
    """Return the Euclidean distance in ab, (B, ...)."""
    return torch.linalg.vector_norm(ab - truth, dim=1)


def auc(error: Tensor) -> Tensor:
    """Return the share of thresholds 0..150 that errors (...) stay within, (...) of 0..1.

    Its mean over pixels is AuC, the area under the curve that the share of pixels with an error
    within t draws over t, divided by 150 (Zhang et al. 2016, section 3.1).
    """
    return (1 - error / AUC_LIMIT).clamp(0, 1)


def high_chroma(chroma: Tensor) -> Tensor:
    """Tell high chroma from low, (...) of 0..1, as CIEDE2000 does."""
    seventh = (chroma / 25) ** 3
    seventh = seventh**2 * chroma / 25  # a power of 7 takes five times as long
    return (seventh / (seventh + 1)).sqrt()


def ciede2000(ab: Tensor, truth: Tensor) -> Tensor:
    """Return the color difference CIEDE2000 of colors that share their L, (B, ...).

    Sharma, Wu and Dalal 2005, "The CIEDE2000 color-difference formula", eq. 2-22, kC = kH = 1.
    Without a difference of lightness, eq. 8, the difference does not depend on L at all.
    """
    (a1, b1), (a2, b2) = ab.unbind(1), truth.unbind(1)
    stretch = 1.5 - high_chroma((torch.hypot(a1, b1) + torch.hypot(a2, b2)) / 2) / 2  # 1 + G
    a1, a2 = a1 * stretch, a2 * stretch
    chroma1, chroma2 = torch.hypot(a1, b1), torch.hypot(a2, b2)
    hue1, hue2 = torch.atan2(b1, a1) % TURN, torch.atan2(b2, a2) % TURN
    turn = hue2 - hue1
    turn = torch.where(turn.abs() > TURN / 2, turn - turn.sign() * TURN, turn)
    chroma, hue = (chroma1 + chroma2) / 2, (hue1 + turn / 2) % TURN
    weight = (  # T
        1
        - 0.17 * (hue - math.radians(30)).cos()
        + 0.24 * (2 * hue).cos()
        + 0.32 * (3 * hue + math.radians(6)).cos()
        - 0.20 * (4 * hue - math.radians(63)).cos()
    )
    d_chroma = (chroma2 - chroma1) / (1 + 0.045 * chroma)
    d_hue = 2 * (chroma1 * chroma2).sqrt() * (turn / 2).sin() / (1 + 0.015 * chroma * weight)
    blue = (-((hue.rad2deg() - 275) / 25).square()).exp()
    rotation = -2 * high_chroma(chroma) * (math.radians(60) * blue).sin()
    squared = d_chroma**2 + d_hue**2 + rotation * d_chroma * d_hue
    return squared.clamp_min(0).sqrt()


def classify(logits: Tensor, bins: Tensor) -> dict[str, Tensor]:
    """Measure how well logits (B, Q, h, w) classify blocks of true bins (B, h, w), (B,) float64.

    Returns:
        The share of blocks whose bin is the best or among the best five (a tie is a miss); the
        cross entropy of the true bins and the entropy of the predicted distributions, in nats.
    """
    B, Q = logits.shape[:2]
    parts = logits.movedim(1, -1).reshape(-1, Q), bins.reshape(-1, 1)
    blocks = []
    for rows, true in zip(*map(split_rows, parts), strict=True):
        rows = rows.float()
        log_probs = rows.log_softmax(-1)
        place = (rows >= rows.gather(-1, true)).count_nonzero(-1)  # 1 is the best; a sixth of topk
        cross_entropy = -log_probs.gather(-1, true)[:, 0]
        # not log_probs.exp(): MKL's differed by 1e-4 between equal runs, once in twenty
        entropy = -(rows.softmax(-1) * log_probs).sum(-1)
        blocks.append(torch.stack((place <= 1, place <= 5, cross_entropy, entropy)))
    means = precise(torch.cat(blocks, dim=1)).view(4, B, -1).mean(-1)
    return dict(zip(("top_1", "top_5", "cross_entropy", "entropy"), means, strict=True))


def compare_photos(photos: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Return PSNR in dB, SSIM and colorfulness of photographs (B, 3, S, S) uint8, (B,) each."""
    photos, truth = precise(photos), precise(truth)  # once for all
    return {
        "psnr": psnr(photos, truth),
        "ssim": ssim(photos, truth),
        "colorfulness": colorfulness(photos),
    }
