"""metrics.py against scikit-image in float64."""

import numpy as np
import pytest
import torch
from skimage.color import deltaE_ciede2000
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from skimage.transform import resize
from torch import Tensor

from scoring.metrics import ab_error, auc, ciede2000, psnr, ssim

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


# ---- colors -----------------------------------------------------------------------------------
SHARMA = [  # of their table 1, the pairs that share their L: a, b, a, b, difference
    (2.6772, -79.7751, 0, -82.7485, 2.0425),
    (3.1571, -77.2803, 0, -82.7485, 2.8615),
    (2.8361, -74.0200, 0, -82.7485, 3.4412),
    (-1.3802, -84.2814, 0, -82.7485, 1.0000),
    (-1.1848, -84.8006, 0, -82.7485, 1.0000),
    (-0.9009, -85.5211, 0, -82.7485, 1.0000),
    (0, 0, -1, 2, 2.3669),
    (-1, 2, 0, 0, 2.3669),
    (2.4900, -0.0010, -2.4900, 0.0009, 7.1792),
    (2.4900, -0.0010, -2.4900, 0.0011, 7.2195),
    (-0.0010, 2.4900, 0.0009, -2.4900, 4.8045),
    (-0.0010, 2.4900, 0.0011, -2.4900, 4.7461),
    (2.5, 0, 0, -2.5, 4.3065),
    (2.5, 0, 3.1736, 0.5854, 1.0000),
    (2.5, 0, 1.8634, 0.5757, 1.0000),
]


def test_ciede2000_gives_the_published_differences():
    pairs = torch.tensor(SHARMA, dtype=torch.float64)
    assert ciede2000(pairs[:, :2], pairs[:, 2:4]).tolist() == pytest.approx(
        pairs[:, 4].tolist(), abs=5e-5
    )


@pytest.mark.parametrize("spread", [1, 10, 120])
def test_ciede2000_equals_skimage_at_any_lightness(spread):
    rng = np.random.default_rng(0)
    ab, truth = rng.uniform(-spread, spread, (2, 3, 2, 40, 50))
    truth[0] = 0  # gray has no hue
    L = rng.uniform(0, 100, (3, 1, 40, 50))
    lab, true_lab = (np.concatenate((L, x), axis=1) for x in (ab, truth))
    expected = deltaE_ciede2000(true_lab, lab, channel_axis=1)
    found = ciede2000(*(torch.from_numpy(x).float() for x in (ab, truth)))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


def test_ciede2000_of_equal_colors_is_0():
    ab = torch.from_numpy(np.random.default_rng(0).uniform(-100, 100, (2, 2, 9, 9))).float()
    assert ciede2000(ab, ab).max() == 0


def test_auc_is_the_area_under_the_curve_of_shares_within_a_threshold():
    rng = np.random.default_rng(0)
    ab, truth = (torch.from_numpy(rng.uniform(-90, 90, (1, 2, 30, 30))) for _ in range(2))
    error = ab_error(ab, truth)
    distances = np.hypot(*(ab - truth)[0].numpy())
    assert distances.max() > 150
    np.testing.assert_allclose(error[0].numpy(), distances)
    thresholds = np.linspace(0, 150, 30001)
    shares = [(distances <= t).mean() for t in thresholds]
    assert auc(error).mean().item() == pytest.approx(np.mean(shares), abs=1e-4)
