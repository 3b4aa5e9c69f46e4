"""A photograph colored: what the network sees of it, samples, uncertainty."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut

from coloring.photo import (
    Coloring,
    color_photo,
    draw_field,
    draw_uncertainty,
    predict_logits,
    resize_for_network,
)
from colorizer import Colorizer
from quantize import Decoding, load_centers

CENTERS = load_centers()


@pytest.fixture(scope="module")
def colorizer():
    torch.manual_seed(0)
    colorizer = Colorizer(CENTERS, "unet", 8)
    colorizer.net.head.weight.data *= 100
    return colorizer.eval()


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


@pytest.mark.parametrize("scale", [0.5, 2])
def test_predict_logits_sees_the_same_at_another_scale(scale, colorizer):
    photo = Image.fromarray(astronaut())
    scaled = photo.resize([round(scale * 512)] * 2, Image.Resampling.BICUBIC)
    with torch.inference_mode():
        (L, logits), (scaled_L, scaled_logits) = (
            predict_logits(colorizer, image, 64) for image in (photo, scaled)
        )
    assert L.shape == scaled_L.shape == (1, 1, 16, 16)
    assert (L - scaled_L).abs().max() < 1
    apart = (logits.softmax(1) - scaled_logits.softmax(1)).abs().sum(1).mean() / 2
    shuffled = (logits.softmax(1) - logits.softmax(1).flip(-1)).abs().sum(1).mean() / 2
    assert apart < shuffled / 4


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
        coloring = Coloring(32, Decoding(0.38, 313), samples, 0, uncertainty)
        pictures = color_photo(colorizer, photo.copy(), coloring)
        assert [picture.mode for picture in pictures] == expected


def test_draw_uncertainty_is_white_where_all_bins_are_alike_and_black_where_one_is():
    logits = torch.zeros(1, 313, 2, 2)
    logits[0, 7, :, 0] = 1000
    picture = np.asarray(draw_uncertainty(logits, (2, 2)))
    np.testing.assert_array_equal(picture, [[0, 255], [0, 255]])
