"""Enlarge the network's colors from quarter resolution along the photograph's lightness.

So they stop at edges (He and Sun, "Fast Guided Filter", 2015).
Shapes: B batch, H and W pixels, h and w blocks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from colorizer import Colorizer, pad
from quantize import BLOCK, Decoding, decode

# of the guided filter, chosen by benchmarks/measure_enlarging.py
RADIUS = 1  # of its windows, in blocks
EPSILON = 60.0  # in units of L squared


def fit_along_L(L: Tensor, ab: Tensor, radius: int = RADIUS, epsilon: float = EPSILON) -> Tensor:
    """Fit ab as a linear function of L around each block (He and Sun 2015, eq. 5 and 6).

    They take the mean of all windows' fits, which blurs and is no better than bilinear here. So a
    block keeps the slope of its own window, and the line goes through its own color.

    Args:
        L: (B, 1, h, w), 0..100, each block's mean.
        ab: (B, 2, h, w).
        radius: of the square window, in blocks.
        epsilon: where L varies much less, L does not guide: toward 0 color follows every texture of
            L, toward infinity none.

    Returns:
        (B, 4, h, w): the slopes of a and b, and their values where L is 0.
    """

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2 * radius + 1, 1, radius, count_include_pad=False)

    covariance = mean(L * ab) - mean(L) * mean(ab)
    slope = covariance / (mean(L * L) - mean(L) ** 2 + epsilon)
    return torch.cat((slope, ab - slope * L), dim=1)


def enlarge(L: Tensor, ab: Tensor) -> Tensor:
    """Enlarge the network's ab (B, 2, h, w) along L (B, 1, H, W): (B, 2, H, W).

    It agrees with `paint`, so that scores are those of users' photographs.
    """
    H, W = L.shape[-2:]
    fit = fit_along_L(F.avg_pool2d(pad(L, BLOCK), BLOCK), ab)
    fit = F.interpolate(fit, scale_factor=BLOCK, mode="bilinear", align_corners=False)
    slope, offset = fit[..., :H, :W].split(2, dim=1)
    return slope * L + offset


@torch.inference_mode()
def predict_ab(colorizer: Colorizer, L: Tensor, decoding: Decoding) -> Tensor:
    """Predict the ab (B, 2, H, W) of a batch from its L (B, 1, H, W), 0..100."""
    return enlarge(L, decode(colorizer(L), colorizer.centers, decoding, colorizer.prior))
