"""Colors enlarged along L: from a quarter of the resolution to all of it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from skimage.data import astronaut

from coloring import photo
from coloring.enlarge import enlarge, fit_along_L
from coloring.photo import between_rows, paint
from quantize import lab_to_rgb, rgb_to_L


def random_fit(h, w):
    """Return lines in L that give colors of some chroma."""
    slope, offset = torch.randn(2, 1, 2, h, w)
    return torch.cat((slope / 5, offset * 20), dim=1)


# ---- fitting -----------------------------------------------------------------------------------
def test_fit_along_L_finds_lines_in_L():
    torch.manual_seed(0)
    L = 100 * torch.rand(1, 1, 9, 7)
    line = torch.tensor([0.5, -0.2, 10, -30])[:, None, None]
    fit = fit_along_L(L, line[:2] * L + line[2:], epsilon=1e-3)
    torch.testing.assert_close(fit, line.expand(1, 4, 9, 7), atol=0.02, rtol=0)


def test_fit_along_L_goes_through_each_blocks_color():
    torch.manual_seed(0)
    L, ab = 100 * torch.rand(2, 1, 9, 7), 50 * torch.randn(2, 2, 9, 7)
    slope, offset = fit_along_L(L, ab).split(2, dim=1)
    assert slope.abs().max() > 0.1
    torch.testing.assert_close(slope * L + offset, ab, atol=1e-3, rtol=0)


def test_fit_along_L_leaves_colors_where_L_is_flat():
    ab = 50 * torch.randn(1, 2, 9, 7)
    slope, offset = fit_along_L(torch.full((1, 1, 9, 7), 40.0), ab).split(2, dim=1)
    assert slope.abs().max() < 1e-2
    torch.testing.assert_close(offset, ab, atol=0.5, rtol=0)


def test_guided_colors_stop_at_an_edge():
    L, ab = torch.full((1, 1, 64, 64), 20.0), torch.zeros(1, 2, 64, 64)
    L[..., 30:], ab[..., 30:] = 80, 40  # an edge within a block
    small = [F.avg_pool2d(x, 4) for x in (L, ab)]
    slope, offset = F.interpolate(fit_along_L(*small), (64, 64), mode="bilinear").split(2, dim=1)
    bilinear = F.interpolate(small[1], (64, 64), mode="bilinear")
    assert (slope * L + offset - ab).abs().mean() < (bilinear - ab).abs().mean() / 4


# ---- painting ----------------------------------------------------------------------------------
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

    monkeypatch.setattr(photo, "lab_to_rgb", note)
    monkeypatch.setattr(photo, "STRIP_PIXELS", pixels)
    paint(image, fit)
    assert max(strips) <= max(64, pixels)  # no strip is narrower than a row
    assert np.abs(np.asarray(image).astype(int) - expected).max() <= 1  # by float's rounding
