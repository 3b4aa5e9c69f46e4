import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from skimage.data import astronaut

import inference
from colorizer import Colorizer
from inference import (
    Decoding,
    between_rows,
    color_photo,
    draw_field,
    draw_uncertainty,
    enlarge,
    guide,
    look,
    paint,
    shrink,
)
from quantize import lab_to_rgb, load_centers, rgb_to_L

CENTERS = load_centers()


@pytest.fixture(scope="module")
def colorizer():
    torch.manual_seed(0)
    colorizer = Colorizer(CENTERS, "unet", 8)
    colorizer.net.head.weight.data *= 100
    return colorizer.eval()


def random_fit(h, w):
    """Return lines in L that give colours of some chroma."""
    slope, offset = torch.randn(2, 1, 2, h, w)
    return torch.cat((slope / 5, offset * 20), dim=1)


# ---- what the network sees ---------------------------------------------------------------------
@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((640, 480), (84, 64)),
        ((480, 640), (64, 84)),
        ((20, 20), (64, 64)),
        ((1000, 10), (1024, 12)),  # at most 16 times as long as the working size
        ((30_000, 1), (1024, 4)),
    ],
)
def test_shrink_gives_whole_blocks_of_the_working_size(size, expected):
    assert shrink(Image.new("RGB", size), 64).size == expected


@pytest.mark.parametrize("scale", [0.5, 2])
def test_look_sees_the_same_at_another_scale(scale, colorizer):
    photo = Image.fromarray(astronaut())
    scaled = photo.resize([round(scale * 512)] * 2, Image.Resampling.BICUBIC)
    with torch.inference_mode():
        (L, logits), (scaled_L, scaled_logits) = (look(colorizer, i, 64) for i in (photo, scaled))
    assert L.shape == scaled_L.shape == (1, 1, 16, 16)
    assert (L - scaled_L).abs().max() < 1
    apart = (logits.softmax(1) - scaled_logits.softmax(1)).abs().sum(1).mean() / 2
    shuffled = (logits.softmax(1) - logits.softmax(1).flip(-1)).abs().sum(1).mean() / 2
    assert apart < shuffled / 4


# ---- guiding -----------------------------------------------------------------------------------
def test_guide_finds_lines_in_L():
    torch.manual_seed(0)
    L = 100 * torch.rand(1, 1, 9, 7)
    line = torch.tensor([0.5, -0.2, 10, -30])[:, None, None]
    fit = guide(L, line[:2] * L + line[2:], epsilon=1e-3)
    torch.testing.assert_close(fit, line.expand(1, 4, 9, 7), atol=0.02, rtol=0)


def test_guide_goes_through_each_blocks_color():
    torch.manual_seed(0)
    L, ab = 100 * torch.rand(2, 1, 9, 7), 50 * torch.randn(2, 2, 9, 7)
    slope, offset = guide(L, ab).split(2, dim=1)
    assert slope.abs().max() > 0.1
    torch.testing.assert_close(slope * L + offset, ab, atol=1e-3, rtol=0)


def test_guide_leaves_colors_where_L_is_flat():
    ab = 50 * torch.randn(1, 2, 9, 7)
    slope, offset = guide(torch.full((1, 1, 9, 7), 40.0), ab).split(2, dim=1)
    assert slope.abs().max() < 1e-2
    torch.testing.assert_close(offset, ab, atol=0.5, rtol=0)


def test_guided_colors_stop_at_an_edge():
    L, ab = torch.full((1, 1, 64, 64), 20.0), torch.zeros(1, 2, 64, 64)
    L[..., 30:], ab[..., 30:] = 80, 40  # an edge within a block
    small = [F.avg_pool2d(x, 4) for x in (L, ab)]
    slope, offset = F.interpolate(guide(*small), (64, 64), mode="bilinear").split(2, dim=1)
    bilinear = F.interpolate(small[1], (64, 64), mode="bilinear")
    assert (slope * L + offset - ab).abs().mean() < (bilinear - ab).abs().mean() / 4


@pytest.mark.parametrize("side", [(64, 48), (37, 50), (1, 3)])
def test_enlarge_agrees_with_paint(side):
    image = Image.fromarray(astronaut()[: side[0], : side[1]]).copy()
    L = torch.from_numpy(rgb_to_L(image))[None, None]
    ab = 20 * torch.randn(1, 2, -(-side[0] // 4), -(-side[1] // 4))
    expected = lab_to_rgb(L, enlarge(L, ab))[0].movedim(0, -1).numpy()
    H, W = (4 * n for n in ab.shape[-2:])
    padded = np.pad(np.asarray(image), ((0, H - side[0]), (0, W - side[1]), (0, 0)), mode="edge")
    whole = Image.fromarray(padded)
    paint(whole, guide(F.avg_pool2d(torch.from_numpy(rgb_to_L(whole))[None, None], 4), ab))
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

    monkeypatch.setattr(inference, "lab_to_rgb", note)
    monkeypatch.setattr(inference, "STRIP_PIXELS", pixels)
    paint(image, fit)
    assert max(strips) <= max(64, pixels)  # no strip is narrower than a row
    assert np.abs(np.asarray(image).astype(int) - expected).max() <= 1  # by float's rounding


# ---- samples and uncertainty -------------------------------------------------------------------
def test_draw_field_is_gumbel_noise():
    noise = torch.cat([draw_field(CENTERS, 3, 3, 0, sample) for sample in range(300)])
    assert noise.mean() == pytest.approx(0.5772, abs=0.05)
    assert noise.std() == pytest.approx(math.pi / 6**0.5, abs=0.05)


def test_draw_field_is_smooth_in_space_and_over_colors():
    noise = draw_field(CENTERS, 64, 64, 0, 0)[0]
    assert noise.diff(dim=-1).abs().mean() < 0.05 * noise.std()
    near = torch.cdist(CENTERS, CENTERS).topk(2, largest=False).indices[:, 1]
    assert (noise - noise[near]).std() < 0.5 * noise.std()


def test_draw_field_is_the_seeds_and_the_samples():
    fields = [draw_field(CENTERS, 8, 8, *which) for which in ((0, 0), (0, 1), (1, 0), (0, 0))]
    torch.testing.assert_close(fields[0], fields[3], atol=0, rtol=0)
    assert all((fields[i] - fields[0]).abs().mean() > 0.3 for i in (1, 2))


def test_color_photo_yields_one_or_the_samples_and_the_uncertainty(colorizer):
    photo = Image.fromarray(astronaut()).resize((60, 40))
    modes = {
        (0, False): ["RGB"],
        (0, True): ["RGB", "L"],
        (1, False): ["RGB"],
        (3, True): ["RGB", "RGB", "RGB", "L"],
    }
    for (samples, uncertainty), expected in modes.items():
        decoding = Decoding(32, 0.38, 313, samples, 0, uncertainty)
        pictures = color_photo(colorizer, photo.copy(), decoding)
        assert [picture.mode for picture in pictures] == expected


def test_draw_uncertainty_is_white_where_all_bins_are_alike_and_black_where_one_is():
    logits = torch.zeros(1, 313, 2, 2)
    logits[0, 7, :, 0] = 1000
    picture = np.asarray(draw_uncertainty(logits, (2, 2)))
    np.testing.assert_array_equal(picture, [[0, 255], [0, 255]])
