"""Scores of coloured photographs against true ones, one figure for each photograph of a batch.

Photographs are 8-bit sRGB tensors, (B, 3, H, W) uint8; all three channels count.
"""

import torch
from torch import Tensor

MSE_FLOOR = 1e-10  # of the squared error, in units of full scale: equal photographs score 100 dB
SSIM_SIGMA, SSIM_RADIUS = 1.5, 5  # of the Gaussian window, in pixels
SSIM_K1, SSIM_K2 = 0.01, 0.03


def precise(photos: Tensor) -> Tensor:
    """Return photographs in float64, or in float32 on Apple's GPUs, which have no wider type."""
    return photos.float() if photos.device.type == "mps" else photos.double()


def psnr(photos: Tensor, truth: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each photograph in dB, (B,) float64, at most 100."""
    error = (precise(photos) - precise(truth)) / 255
    return -10 * error.square().mean((1, 2, 3)).clamp_min(MSE_FLOOR).log10()


def ssim_window(length: int, like: Tensor) -> Tensor:
    """Return the Gaussian window at each place where it fits, a matrix (length - 10, length)."""
    offset = torch.arange(-SSIM_RADIUS, SSIM_RADIUS + 1, dtype=like.dtype, device=like.device)
    weights = torch.softmax(-offset.square() / (2 * SSIM_SIGMA**2), dim=0)
    window = like.new_zeros(length - 2 * SSIM_RADIUS, length)
    for i, weight in enumerate(weights):
        window.diagonal(i).fill_(weight)
    return window


def ssim(photos: Tensor, truth: Tensor) -> Tensor:
    """Return the structural similarity of each photograph (Wang et al. 2004), (B,) float64.

    As scikit-image's `structural_similarity` with gaussian_weights, sigma 1.5, the population's
    covariance and a data range of 255; the mean over channels. The window is two matrix products,
    taken only where it fits.

    Raises:
        ValueError: a side is shorter than the window's 11 pixels.
    """
    height, width = truth.shape[-2:]
    if min(height, width) <= 2 * SSIM_RADIUS:
        raise ValueError(f"SSIM needs at least 11 pixels a side, got {height} x {width}")
    x, y = precise(photos), precise(truth)
    down, across = ssim_window(height, x), ssim_window(width, x).T

    def blur(image: Tensor) -> Tensor:
        return down @ image @ across

    mean_x, mean_y = blur(x), blur(y)
    variance_x, variance_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = (SSIM_K1 * 255) ** 2, (SSIM_K2 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (luminance * structure).mean((1, 2, 3))


def colorfulness(photos: Tensor) -> Tensor:
    """Return the colourfulness of each photograph (Hasler and Suesstrunk 2003), (B,) float64.

    0 is gray, 15 slightly, 45 averagely, 80 highly colourful. Opponent colours keep their sign.
    """
    red, green, blue = precise(photos).unbind(1)
    opponents = torch.stack((red - green, (red + green) / 2 - blue), dim=1).flatten(2)  # (B, 2, P)
    spread = opponents.var(-1, correction=0).sum(1).sqrt()
    return spread + 0.3 * opponents.mean(-1).square().sum(1).sqrt()
