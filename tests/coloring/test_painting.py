"""Photographs painted by strips along their lightness."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from skimage.data import astronaut

from coloring import painting
from coloring.enlarge import enlarge, fit_along_L
from coloring.painting import between_rows, paint
from quantize import lab_to_rgb, rgb_to_L


def random_fit(h, w):
    """Return lines in L that give colors of some chroma."""
    slope, offset = torch.randn(2, 1, 2, h, w)
    return torch.cat((slope / 5, offset * 20), dim=1)


@pytest.mark.parametrize("side", [(64, 48), (37, 50), (1, 3)])
def test_enlarge_agrees_with_paint(side):
    image = Image.fromarray(astronaut()[: side[0], : side[1]]).copy()
    L = torch.from_numpy(rgb_to_L(image))[None, None]
    ab = 20 * torch.randn(1, 2, -(-side[0] // 4), -(-side[1] // 4))
    expected = lab_to_rgb(L, enlarge(L, ab))[0].movedim(0, -1).numpy()
    H, W = (4 * n for n in ab.shape[-2:])
    padded = np.pad(np.asarray(image), ((0, H - side[0]), (0, W - side[1]), (0, 0)), mode="edge")
    whole = Image.fromarray(padded)
    paint(whole, fit_along_L(F.avg_pool2d(torch.from_numpy(rgb_to_L(whole))[None, None], 4), ab))
    found = np.asarray(whole)[: side[0], : side[1]]
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("height", [3, 7, 50])
def test_between_rows_is_bilinear(height):
    fit = torch.randn(4, 7, 5)
    whole = F.interpolate(fit[None], (height, 5), mode="bilinear", align_corners=False)[0]
    for first, last in ((0, height), (1, 3)):
        found = between_rows(fit, first, last, height)
        torch.testing.assert_close(found, whole[:, first:last])


@pytest.mark.parametrize("pixels", [1, 100, 10**6])
def test_paint_in_strips_is_the_whole(pixels, monkeypatch):
    torch.manual_seed(0)
    image, fit = Image.fromarray(astronaut()[:97, :64]).copy(), random_fit(6, 4)
    L = torch.from_numpy(rgb_to_L(image))
    slope, offset = F.interpolate(fit, (97, 64), mode="bilinear").split(2, dim=1)
    expected = lab_to_rgb(L[None, None], slope * L + offset)[0].movedim(0, -1).int().numpy()
    strips = []

    def note(L, ab):
        strips.append(L.numel())
        return lab_to_rgb(L, ab)

    monkeypatch.setattr(painting, "lab_to_rgb", note)
    monkeypatch.setattr(painting, "STRIP_PIXELS", pixels)
    paint(image, fit)
    assert max(strips) <= max(64, pixels)  # no strip is narrower than a row
    assert np.abs(np.asarray(image).astype(int) - expected).max() <= 1  # by float's rounding
