"""Colors for tests of quantize.py.

Shapes: P colors. In a batch of P single colors H = P, W = 1.
"""

import itertools

import numpy as np
import torch
from skimage.color import rgb2lab
from torch import Tensor

CORNERS = np.array(list(itertools.product((0, 255), repeat=3)), np.uint8)  # black, pure, white


def random_colors(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return sRGB colors, (count, 3) uint8, the cube's corners among them."""
    colors = rng.integers(0, 256, (count, 3), dtype=np.uint8)
    colors[: len(CORNERS)] = CORNERS
    return colors


def to_lab(rgb: np.ndarray) -> np.ndarray:
    """Return scikit-image's Lab, (..., 3) float64: what all conversions here are held against."""
    lab = rgb2lab(rgb)
    assert lab.dtype == np.float64
    return lab


def to_batch(rows: np.ndarray, dtype: torch.dtype = torch.float32) -> Tensor:
    """Turn (P, C) into a batch (1, C, P, 1)."""
    return torch.tensor(rows, dtype=dtype).T[None, :, :, None]


def from_batch(batch: Tensor) -> np.ndarray:
    return batch[0, :, :, 0].T.numpy()
