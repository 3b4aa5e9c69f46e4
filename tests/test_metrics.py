"""metrics.py against scikit-image in float64."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from skimage.transform import resize
from torch import Tensor

from metrics import psnr, ssim

SIZES = [(11, 11), (11, 40), (33, 20), (64, 64), (178, 218)]


def photographs(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return three soft patterns with light, medium and heavy noise, and without: (3, 3, H, W)."""
    rng = np.random.default_rng(0)
    truth = resize(rng.uniform(0, 255, (3, 3, 8, 8)), (3, 3, height, width))
    noise = rng.normal(0, 1, truth.shape) * np.array([2, 10, 60])[:, None, None, None]
    photos, truth = ((x.clip(0, 255)).astype(np.uint8) for x in (truth + noise, truth))
    return torch.from_numpy(photos), torch.from_numpy(truth)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_psnr_equals_skimage(height, width):
    photos, truth = photographs(height, width)
    expected = [
        peak_signal_noise_ratio(x.numpy(), y.numpy(), data_range=255)
        for x, y in zip(truth, photos, strict=True)
    ]
    assert psnr(photos, truth).tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("error", "expected"), [(0, 100), (1, 48.1308036), (255, 0)])
def test_psnr_of_one_error_everywhere(error, expected):
    truth = torch.zeros(2, 3, 12, 16, dtype=torch.uint8)
    assert psnr(truth + error, truth).tolist() == pytest.approx([expected] * 2, abs=1e-6)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_ssim_equals_skimage(height, width):
    photos, truth = photographs(height, width)
    expected = [
        structural_similarity(
            x.numpy(),
            y.numpy(),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=255,
            channel_axis=0,
        )
        for x, y in zip(truth, photos, strict=True)
    ]
    assert expected[0] > expected[1] > expected[2]
    assert ssim(photos, truth).tolist() == pytest.approx(expected, abs=1e-9)


def test_ssim_of_equal_photographs_is_1():
    _, truth = photographs(20, 30)
    assert ssim(truth, truth).tolist() == pytest.approx([1, 1, 1], abs=1e-12)


@pytest.mark.parametrize(("height", "width"), [(10, 64), (64, 10), (1, 1)])
def test_ssim_refuses_photographs_smaller_than_its_window(height, width):
    photos, truth = photographs(height, width)
    with pytest.raises(ValueError, match=f"at least 11 pixels a side, got {height} x {width}"):
        ssim(photos, truth)
