"""quantize.py against scikit-image in float64 and brute force over all centers.

Shapes: P colors, Q bins, B batch, H and W pixels.
"""

import numpy as np
import pytest
import torch
from colors import from_batch, random_colors, to_batch, to_lab
from PIL import Image
from scipy.spatial import cKDTree
from skimage.measure import block_reduce

from quantize import (
    ab_to_bins,
    block_mean,
    lab_to_rgb,
    load_centers,
    load_imagenet_prior,
    palette_digest,
    rgb_to_L,
    rgb_to_lab,
    stored_to_lab,
)


def nearest_centers(ab: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Compare each color with every center; of equals take the last: larger a, then larger b."""
    last = len(centers) - 1
    bins = [
        last - ((part[:, None] - centers[::-1]) ** 2).sum(-1).argmin(-1)
        for part in np.array_split(ab, 1 + len(ab) // 4096)
    ]
    return np.concatenate(bins)


# ---- palette -----------------------------------------------------------------------------------
def test_palette_has_313_bins_and_a_prior_that_sums_to_1():
    assert load_centers().shape == (313, 2)
    assert load_imagenet_prior().shape == (313,)
    assert load_imagenet_prior().sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("index", "center", "share"),
    [
        (0, (-90, 50), 4.886370774683732e-08),
        (96, (-10, -60), 1.298062073769513e-05),
        (120, (0, 0), 0.2012340113556749),
        (155, (20, -20), 0.001195690575756661),
        (312, (100, 0), 1.450395035269892e-08),
    ],
)
def test_palette_equals_the_published_figures(index, center, share):
    assert load_centers()[index].tolist() == list(center)
    assert load_imagenet_prior()[index].item() == pytest.approx(share, rel=1e-12)


def test_palette_digest_depends_on_values_and_order_alone():
    centers = load_centers()
    assert palette_digest(centers.T.clone().T) == palette_digest(centers)
    assert palette_digest(centers.flip(0)) != palette_digest(centers)
    assert palette_digest(centers + 1) != palette_digest(centers)


# ---- RGB to Lab --------------------------------------------------------------------------------
def stored_bins(rgb: np.ndarray, table: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Check L, ab and bins of sRGB colors (P, 3) against scikit-image, and return the bins."""
    lab = to_lab(rgb)
    L, ab = rgb_to_lab(Image.fromarray(rgb[None]), table)  # one row of pixels
    np.testing.assert_array_equal(L[0], np.rint(lab[:, 0] * 2.55))
    np.testing.assert_array_equal(ab[:, 0].T, np.floor(lab[:, 1:]))
    bins = ab_to_bins(ab[:, 0].T + 0.5, centers)
    np.testing.assert_array_equal(bins, cKDTree(centers).query(lab[:, 1:])[1])
    return bins


def rgb_slab(red: int) -> np.ndarray:
    """Return all colors of one red, (65536, 3) uint8."""
    green, blue = np.mgrid[:256, :256].reshape(2, -1)
    return np.stack((np.full_like(green, red), green, blue), axis=1).astype(np.uint8)


def test_rgb_to_lab_equals_skimage_on_random_colors(table, centers, rng):
    stored_bins(random_colors(rng, 200_000), table, centers)


def test_rgb_to_lab_equals_skimage_at_every_bin_border(table, centers):
    near = []
    for red in range(0, 256, 5):
        rgb = rgb_slab(red)
        to_border = np.abs(to_lab(rgb)[:, 1:] % 10 - 5).min(-1)
        near.append(rgb[to_border < 0.05])
    bins = stored_bins(np.concatenate(near), table, centers)
    assert len(np.unique(bins)) > 250  # of the 261 that sRGB reaches


@pytest.mark.slow
def test_rgb_to_lab_equals_skimage_on_all_colors(table, centers):
    seen = set()
    for red in range(256):
        seen.update(stored_bins(rgb_slab(red), table, centers).tolist())
    assert len(seen) == 261


def test_rgb_to_lab_keeps_rows_and_columns(table, rng):
    photo = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    L, ab = rgb_to_lab(Image.fromarray(photo), table)
    lab = to_lab(photo)
    np.testing.assert_array_equal(L, np.rint(lab[..., 0] * 2.55))
    np.testing.assert_array_equal(ab, np.floor(lab[..., 1:]).transpose(2, 0, 1))
    assert (L.dtype, ab.dtype) == (np.uint8, np.int8)


def test_rgb_to_L_is_within_a_thousandth_of_skimage(rng):
    photo = random_colors(rng, 300 * 400).reshape(300, 400, 3)
    L = rgb_to_L(Image.fromarray(photo))
    assert L.dtype == np.float32
    assert np.abs(L - to_lab(photo)[..., 0]).max() < 1e-3


def test_stored_to_lab_returns_L_and_the_middle_of_the_cell():
    L = torch.tensor([[[0, 51, 255]]], dtype=torch.uint8)
    ab = torch.tensor([[[[-128, 0, 127]], [[-1, 5, 9]]]], dtype=torch.int8)
    L, ab = stored_to_lab(L, ab)
    torch.testing.assert_close(L, torch.tensor([[[[0.0, 20.0, 100.0]]]]))
    assert ab.tolist() == [[[[-127.5, 0.5, 127.5]], [[-0.5, 5.5, 9.5]]]]


# ---- Lab to RGB --------------------------------------------------------------------------------
def random_lab(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return (count, 3), L 0..100 with both ends and ab in +-110: most lie outside sRGB."""
    lab = rng.uniform((0, -110, -110), (100, 110, 110), (count, 3))
    lab[:500, 0], lab[500:1000, 0] = 0, 100
    return lab


def lab_rows_to_rgb(lab: np.ndarray) -> np.ndarray:
    return from_batch(lab_to_rgb(to_batch(lab[:, :1]), to_batch(lab[:, 1:])))


def test_lab_to_rgb_returns_the_photograph_that_skimage_converted(rng):
    rgb = random_colors(rng, 100_000)
    np.testing.assert_array_equal(lab_rows_to_rgb(to_lab(rgb)), rgb)


def test_lab_to_rgb_keeps_L_outside_the_gamut(rng):
    lab = random_lab(rng, 100_000)
    found = to_lab(lab_rows_to_rgb(lab))
    assert np.abs(found[:, 0] - lab[:, 0]).max() < 0.5  # 8 bits cost up to 0.25


def test_lab_to_rgb_keeps_hue_outside_the_gamut(rng):
    lab = random_lab(rng, 100_000)
    found = to_lab(lab_rows_to_rgb(lab))
    hue, found_hue = (np.degrees(np.arctan2(x[:, 2], x[:, 1])) for x in (lab, found))
    turned = np.abs((found_hue - hue + 180) % 360 - 180)
    chroma = np.hypot(found[:, 1], found[:, 2])
    clear = (chroma > 10) & (lab[:, 0] > 20) & (lab[:, 0] < 80)  # else 8 bits turn the hue
    assert clear.sum() > 50_000
    assert turned[clear].max() < 5


def test_lab_to_rgb_takes_no_more_chroma_than_it_must(rng):
    lab = random_lab(rng, 100_000)
    rgb = lab_rows_to_rgb(lab)
    chroma, found = (np.hypot(x[:, 1], x[:, 2]) for x in (lab, to_lab(rgb)))
    reduced = rgb[found < 0.9 * chroma - 2]  # more than 8 bits change a gray
    to_edge = np.minimum(reduced.min(-1), 255 - reduced.max(-1))  # of the gamut, in levels
    assert len(reduced) > 50_000
    assert to_edge.max() <= 2


def test_lab_to_rgb_leaves_pixels_beside_those_outside_the_gamut(rng):
    photo = rng.integers(0, 256, (2, 6, 10, 3), dtype=np.uint8)
    lab = to_lab(photo)
    wild = np.indices(photo.shape[:3]).sum(0) % 2 == 1  # a checkerboard
    lab[wild, 1:] = (-110, 110)
    lab = torch.tensor(lab, dtype=torch.float32).movedim(-1, 1)  # (B, 3, H, W)
    found = lab_to_rgb(lab[:, :1], lab[:, 1:]).movedim(1, -1).numpy()
    np.testing.assert_array_equal(found[~wild], photo[~wild])


# ---- bins --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("ab", "center"),
    [
        ((0, 0), (0, 0)),
        ((4.999, 0), (0, 0)),
        ((5, 0), (10, 0)),
        ((0, 5), (0, 10)),
        ((5, 5), (10, 10)),
        ((-5, -5), (0, 0)),
        ((-5.001, -5), (-10, 0)),
        ((-15, 24.999), (-10, 20)),
    ],
)
def test_ab_to_bins_sends_borders_up(ab, center, centers):
    assert centers[ab_to_bins(np.array(ab, float), centers)].tolist() == list(center)


@pytest.mark.parametrize("offset", [0, 0.5], ids=["integers, with ties", "middles of cells"])
def test_ab_to_bins_finds_the_nearest_center_in_and_out_of_the_grid(offset, centers):
    ab = np.mgrid[-140:140:3, -140:140].reshape(2, -1).T + offset
    np.testing.assert_array_equal(ab_to_bins(ab, centers), nearest_centers(ab, centers))


def test_ab_to_bins_finds_the_nearest_center_far_outside(centers, rng):
    ab = rng.uniform(-1000, 1000, (5000, 2))
    np.testing.assert_array_equal(ab_to_bins(ab, centers), nearest_centers(ab, centers))


def test_ab_to_bins_keeps_the_leading_shape(centers, rng):
    ab = rng.uniform(-60, 60, (2, 3, 4, 2))
    bins = ab_to_bins(ab, centers)
    assert (bins.shape, bins.dtype) == ((2, 3, 4), np.uint16)
    assert bins[1, 2, 3] == nearest_centers(ab[1, 2, 3][None], centers)


def test_block_mean_averages_the_middles_of_cells(rng):
    ab = rng.integers(-128, 128, (3, 2, 8, 12), dtype=np.int8)
    expected = block_reduce(ab + 0.5, (1, 1, 4, 4), np.mean)
    np.testing.assert_array_equal(block_mean(ab), expected)  # sixteenths: exact in float32
