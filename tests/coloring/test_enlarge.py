"""Colors enlarged along L: from a quarter of the resolution to all of it."""

import torch
import torch.nn.functional as F

from coloring.enlarge import fit_along_L


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
