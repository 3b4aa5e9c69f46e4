"""A photograph colored: what the network sees of it, samples, uncertainty, hints."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.color import rgb2lab
from skimage.data import astronaut

from coloring.enlarge import predict_ab
from coloring.hints import NOISE, Hints
from coloring.photo import (
    ENDS,
    USUAL,
    Coloring,
    Prediction,
    ask,
    color_photo,
    count_blocks,
    decide_ab,
    draw_field,
    draw_uncertainty,
    likely_colors,
    predict,
    resize_for_network,
    stretch,
)
from coloring.strokes import hints_of_colors
from colorizer import Colorizer
from quantize import Decoding, decode, load_centers, load_imagenet_prior, rgb_to_L

CENTERS = load_centers()


@pytest.fixture(scope="module")
def colorizer():
    torch.manual_seed(0)
    colorizer = Colorizer(CENTERS, "unet", 8)
    colorizer.net.head.weight.data *= 100
    colorizer.prior = load_imagenet_prior().float()
    return colorizer.eval()


@pytest.fixture
def photo():
    return Image.fromarray(astronaut()[:300, :400]).convert("L").convert("RGB")


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
def test_resize_for_network_gives_whole_blocks_of_the_working_size(size, expected):
    assert resize_for_network(Image.new("RGB", size), 64).size == expected
    h, w = count_blocks(size, 64)
    assert (4 * w, 4 * h) == expected


@pytest.mark.parametrize("scale", [0.5, 2])
def test_predict_sees_the_same_at_another_scale(scale, colorizer):
    photo = Image.fromarray(astronaut())
    scaled = photo.resize([round(scale * 512)] * 2, Image.Resampling.BICUBIC)
    seen, again = (predict(colorizer, image, 64) for image in (photo, scaled))
    assert seen.L.shape == again.L.shape == (1, 1, 16, 16)
    assert (seen.L - again.L).abs().max() < 1
    logits, scaled_logits = seen.logits, again.logits
    apart = (logits.softmax(1) - scaled_logits.softmax(1)).abs().sum(1).mean() / 2
    shuffled = (logits.softmax(1) - logits.softmax(1).flip(-1)).abs().sum(1).mean() / 2
    assert apart < shuffled / 4


def test_predict_gives_the_networks_logits_and_features(colorizer, photo):
    seen = predict(colorizer, photo, 36)
    with torch.inference_mode():
        L = torch.from_numpy(rgb_to_L(resize_for_network(photo, 36)))[None, None]
        assert torch.equal(seen.logits, colorizer(L))
        torch.testing.assert_close(colorizer.net.head(seen.features), seen.logits)
    assert seen.L.shape[-2:] == seen.features.shape[-2:] == count_blocks(photo.size, 36)


def test_predict_stretches_what_the_network_sees_and_keeps_the_photographs_L(colorizer, photo):
    faded = photo.point([100 + level // 5 for level in range(256)] * 3)
    seen, plain = predict(colorizer, faded, 36), predict(colorizer, faded, 36, stretched=False)
    L = rgb_to_L(resize_for_network(faded, 36))
    with torch.inference_mode():
        for found, shown in ((plain, L), (seen, stretch(L))):
            assert torch.equal(found.logits, colorizer(torch.from_numpy(shown)[None, None]))
            assert found.L.mean() == pytest.approx(L.mean(), abs=1e-3)
    assert not torch.equal(seen.logits, plain.logits)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (40, 75, (15, 80)),
        (3, 45, (3, USUAL[1])),  # dark
        (60, 95, (USUAL[0], 95)),
        (50, 61, USUAL),
        (30, 76, None),  # contrast enough
        (0, 100, None),
        (90, 95, None),  # an empty sheet
        (50, 50, None),
    ],
)
def test_stretch_moves_the_ends_of_faded_and_dark_photographs_alone(low, high, expected, photo):
    L = rgb_to_L(photo)
    ends = np.percentile(L, ENDS)
    faded = (low + (L - ends[0]) * ((high - low) / np.ptp(ends))).astype(np.float32)
    stretched = stretch(faded)
    if expected is None:
        assert stretched is faded
        return
    assert stretched.dtype == np.float32
    assert (stretched.min(), stretched.max()) == pytest.approx(expected, abs=0.01)
    share = np.interp(L, ends, (0, 1))
    np.testing.assert_allclose(stretched, expected[0] + share * np.ptp(expected), atol=0.01)


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
        (2, True, None, True): ["RGB", "RGB", "L", "RGB"],
    }
    for (samples, *also), expected in modes.items():
        coloring = Coloring(32, Decoding(0.38, 313), samples, 0, *also)
        pictures = color_photo(colorizer, photo.copy(), coloring)
        assert [picture.mode for picture in pictures] == expected


def test_draw_uncertainty_is_white_where_all_bins_are_alike_and_black_where_one_is():
    logits = torch.zeros(1, 313, 2, 2)
    logits[0, 7, :, 0] = 1000
    seen = Prediction(torch.zeros(1, 1, 2, 2), logits, torch.zeros(1, 8, 2, 2))
    picture = np.asarray(draw_uncertainty(seen, (2, 2)))
    np.testing.assert_array_equal(picture, [[0, 255], [0, 255]])


# ---- hints -------------------------------------------------------------------------------------
def stripes() -> Prediction:
    """Return a random answer to a photograph of 2 x 40 blocks, so long that its ends are unlike."""
    random = torch.Generator().manual_seed(0)
    L, features = torch.full((1, 1, 2, 40), 50.0), torch.ones(1, 4, 2, 40)
    return Prediction(L, 3 * torch.randn(1, 313, 2, 40, generator=random), features)


HINT = Hints(torch.tensor([41]), torch.tensor([[45.0, -30.0]]), torch.ones(1))


@pytest.mark.parametrize("decoding", [Decoding(0.38, 313), Decoding(0.01, 5, 1.0)])
@pytest.mark.parametrize("sample", [None, 0])
def test_hints_come_after_vividness_temperature_and_noise(decoding, sample, colorizer):
    seen, coloring = stripes(), Coloring(32, decoding, 1, 0, False)
    plain, hinted = (decide_ab(colorizer, seen, coloring, h, sample) for h in (None, HINT))
    left = (HINT.ab[0] - hinted[0, :, 1, 1]) / (HINT.ab[0] - plain[0, :, 1, 1])
    torch.testing.assert_close(left, torch.full((2,), NOISE / (1 + NOISE)), rtol=1e-3, atol=1e-4)
    assert torch.equal(plain[..., 30:], hinted[..., 30:])


@pytest.mark.parametrize("vividness", [0.0, 0.6])
def test_without_hints_no_bit_changes(vividness, colorizer):
    seen, decoding = stripes(), Decoding(0.38, 313, vividness)
    plain = decide_ab(colorizer, seen, Coloring(32, decoding, 0, 0, False))
    assert torch.equal(plain, decode(seen.logits, CENTERS, decoding, colorizer.prior))


def test_samples_agree_at_a_hint_and_differ_elsewhere(colorizer):
    seen, coloring = stripes(), Coloring(32, Decoding(0.38, 313), 4, 0, False)
    plain, hinted = (
        torch.cat([decide_ab(colorizer, seen, coloring, h, sample) for sample in range(4)])
        for h in (None, HINT)
    )
    spread, left = plain.std(0).norm(dim=0), hinted.std(0).norm(dim=0)
    assert left[1, 1] < 0.06 * spread[1, 1]
    assert torch.equal(left[:, 30:], spread[:, 30:])
    assert (spread[:, 30:] > 1).all()


@pytest.mark.parametrize("net", ["unet", "zhang"])
def test_a_hint_moves_colors_to_it_with_either_net(net, colorizer, photo):
    if net == "zhang":
        colorizer = Colorizer(CENTERS, net).eval()
    coloring = Coloring(32, Decoding(0.38, 313), 0, 0, False)
    seen, (h, w) = predict(colorizer, photo, 32), count_blocks(photo.size, 32)
    assert seen.features.shape == (1, {"unet": 16, "zhang": 256}[net], h, w)
    hints = hints_of_colors({3 * w + 4: (180, 40, 40)})
    ab = decide_ab(colorizer, seen, coloring, hints)[0, :, 3, 4]
    plain = decide_ab(colorizer, seen, coloring)[0, :, 3, 4]
    assert (ab - hints.ab[0]).norm() < 0.06 * (plain - hints.ab[0]).norm()
    (one,), (other,) = (color_photo(colorizer, photo.copy(), coloring, h) for h in (None, hints))
    apart = np.asarray(other, int) - np.asarray(one, int)
    assert apart[..., 0].mean() > 1  # redder
    assert len(ask(colorizer, seen, hints, 3)) == 3


def test_hints_leave_the_uncertainty(colorizer, photo):
    coloring = Coloring(32, Decoding(0.38, 313), 0, 0, True)
    hints = hints_of_colors({5: (180, 40, 40)})
    pictures = [list(color_photo(colorizer, photo.copy(), coloring, h)) for h in (None, hints)]
    assert np.array_equal(*(uncertainty for _, uncertainty in pictures))
    assert not np.array_equal(*(colored for colored, _ in pictures))


def test_colors_without_hints_are_those_that_scores_are_of(colorizer):
    photo = Image.fromarray(astronaut()[:64, :64])  # as large as the network sees it
    L = torch.from_numpy(rgb_to_L(photo))[None, None]
    decoding = Decoding(0.38, 313)
    (colored,) = color_photo(colorizer, photo.copy(), Coloring(64, decoding, 0, 0, False))
    ab = rgb2lab(np.asarray(colored))[..., 1:]
    expected = predict_ab(colorizer, L, decoding)[0].movedim(0, -1).numpy()
    assert np.median(np.abs(ab - expected)) < 1  # but where sRGB cannot show it


# ---- questions ---------------------------------------------------------------------------------
def test_ask_takes_where_colors_are_uncertain_and_not_known(colorizer):
    seen = stripes()
    certain = torch.zeros(313, 1)
    certain[7] = 100
    seen.logits[0, :, :, 10:] = certain[..., None]
    first, *_ = ask(colorizer, seen, None, 3)
    assert first % 40 < 10
    hints = Hints(torch.tensor([first]), torch.zeros(1, 2), torch.ones(1))
    assert first not in ask(colorizer, seen, hints, 20)


def test_likely_colors_are_at_the_blocks_lightness_and_as_vivid_as_decoded(colorizer):
    L, logits = torch.tensor([40.0, 60.0])[None, None, None], torch.full((1, 313, 1, 2), -20.0)
    dull, vivid = (
        int((CENTERS - torch.tensor(ab)).norm(dim=1).argmin()) for ab in ((0, 0), (40, 30))
    )
    logits[0, dull], logits[0, vivid] = 1.0, 0.0
    seen = Prediction(L, logits, torch.ones(1, 8, 1, 2))
    plain, changed = (
        likely_colors(colorizer, seen, Coloring(32, Decoding(0.38, 313, v), 0, 0, False), 1, 2)
        for v in (0.0, 1.0)
    )
    assert [round(share, 2) for _, share in plain] == [0.73, 0.27]  # e : 1
    prior = colorizer.prior
    ratio = float(prior[dull] / prior[vivid])
    assert ratio > 10
    assert changed[0][0] == plain[1][0]
    for offered in (plain, changed):
        lab = rgb2lab(np.array([color for color, _ in offered], np.uint8))
        assert np.abs(lab[:, 0] - 60).max() < 0.7
        assert np.abs(np.sort(lab[:, 1]) - CENTERS[[dull, vivid], 0].numpy()).max() < 1


def test_stretch_with_ease_sets_in_without_a_jump():
    generator = np.random.default_rng(0)
    flat = generator.uniform(0, 1, (32, 32)).astype(np.float32)
    spans = np.arange(2, 70, 0.25)
    ends = [float(np.ptp(stretch(30 + span * flat, 10))) for span in spans]
    assert np.abs(np.diff(ends)).max() < 3  # without ease 20 and more
    assert np.abs(np.diff([float(np.ptp(stretch(30 + span * flat))) for span in spans])).max() > 15
    for span, found in zip(spans, ends, strict=True):
        if span < 10 or span > 52:
            assert found == pytest.approx(span, rel=0.02)
    middle = 30 + 30 * flat
    np.testing.assert_array_equal(stretch(middle, 10), stretch(middle))
