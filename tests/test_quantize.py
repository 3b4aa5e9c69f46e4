"""quantize.py against scikit-image in float64, brute force over all centers, and plain formulas.

Shapes: P colours, Q bins, B batch, H and W pixels. In a batch of P single colours H = P, W = 1.
"""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial import cKDTree
from scipy.special import softmax
from skimage.color import rgb2lab
from skimage.measure import block_reduce
from torch import Tensor

from quantize import (
    SoftEncoder,
    ab_to_bins,
    block_mean,
    decode,
    lab_to_rgb,
    load_centers,
    load_imagenet_prior,
    palette_digest,
    rebalancing_weights,
    rgb_to_L,
    rgb_to_lab,
    smooth_prior,
    stored_to_lab,
)

CORNERS = np.array(list(itertools.product((0, 255), repeat=3)), np.uint8)  # black, pure, white


@pytest.fixture(scope="module")
def centers() -> np.ndarray:
    return load_centers().double().numpy()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def random_colors(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return sRGB colours, (count, 3) uint8, the cube's corners among them."""
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


def nearest_centers(ab: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Compare each colour with every center; of equals take the last: larger a, then larger b."""
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
    """Check L, ab and bins of sRGB colours (P, 3) against scikit-image, and return the bins."""
    lab = to_lab(rgb)
    L, ab = rgb_to_lab(Image.fromarray(rgb[None]), table)  # one row of pixels
    np.testing.assert_array_equal(L[0], np.rint(lab[:, 0] * 2.55))
    np.testing.assert_array_equal(ab[:, 0].T, np.floor(lab[:, 1:]))
    bins = ab_to_bins(ab[:, 0].T + 0.5, centers)
    np.testing.assert_array_equal(bins, cKDTree(centers).query(lab[:, 1:])[1])
    return bins


def rgb_slab(red: int) -> np.ndarray:
    """Return all colours of one red, (65536, 3) uint8."""
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


# ---- soft targets ------------------------------------------------------------------------------
@pytest.fixture(scope="module", params=[5, 10])
def encoder(request) -> SoftEncoder:
    return SoftEncoder(load_centers(), request.param)


def exact_targets(ab: np.ndarray, centers: np.ndarray, K: int) -> tuple[np.ndarray, np.ndarray]:
    """Return exact soft targets (P, Q), and whether the K-th nearest center is as far as the next.

    With such a tie the choice of the K-th is free, and only the weights are determined.
    """
    squared = ((ab[:, None] - centers) ** 2).sum(-1)
    order = squared.argsort(-1)
    ranked = np.take_along_axis(squared, order, -1)
    kernel = np.exp(-ranked[:, :K] / (2 * 5.0**2))
    targets = np.zeros_like(squared)
    np.put_along_axis(targets, order[:, :K], kernel / kernel.sum(-1, keepdims=True), -1)
    return targets, ranked[:, K - 1] == ranked[:, K]


def encode(encoder: SoftEncoder, ab: Tensor) -> tuple[Tensor, Tensor]:
    """Return soft targets of all bins (B, Q, h, w), and their heaviest bins (B, h, w)."""
    neighbors, shares = encoder(ab)
    targets = torch.zeros(*neighbors.shape[:3], 313).scatter_(-1, neighbors, shares)
    return targets.movedim(-1, 1), neighbors[..., 0]


def test_soft_encoder_is_exact_at_the_middles_of_cells(encoder, centers, rng):
    cells = np.unique(np.floor(to_lab(random_colors(rng, 20_000))[:, 1:]), axis=0) + 0.5
    K = encoder.shares.shape[1]
    expected, tied = exact_targets(cells, centers, K)
    targets = from_batch(encode(encoder, to_batch(cells))[0])
    assert (~tied).sum() > 5000
    np.testing.assert_allclose(targets[~tied], expected[~tied], atol=1e-6)
    np.testing.assert_allclose(np.sort(targets)[:, -K:], np.sort(expected)[:, -K:], atol=1e-6)


def test_soft_encoder_is_near_exact_anywhere_in_the_gamut(encoder, centers, rng):
    ab = to_lab(random_colors(rng, 10_000))[:, 1:]
    expected, _ = exact_targets(ab, centers, encoder.shares.shape[1])
    targets = from_batch(encode(encoder, to_batch(ab))[0])
    total_variation = np.abs(targets - expected).sum(-1) / 2
    assert total_variation.max() <= 0.10
    assert total_variation.mean() <= 0.04


def test_soft_encoder_returns_distributions_and_their_nearest_bins(encoder, centers, rng):
    lab = to_lab(rng.integers(0, 256, (2, 30, 50, 3), dtype=np.uint8))
    ab = torch.tensor(lab[..., 1:], dtype=torch.float32).movedim(-1, 1)
    targets, bins = encode(encoder, ab)
    assert targets.shape == (2, 313, 30, 50)
    torch.testing.assert_close(targets.sum(1), torch.ones(2, 30, 50))
    np.testing.assert_array_equal(bins, cKDTree(centers).query(lab[..., 1:])[1])


@pytest.mark.parametrize(
    ("num_neighbors", "heaviest"),
    [
        (1, [1, 0, 0, 0, 0]),
        (5, [0.649, 0.088, 0.088, 0.088, 0.088]),
        (10, [0.619, 0.084, 0.084, 0.084, 0.084]),
    ],
)
def test_soft_encoder_has_the_papers_weights_at_a_center(num_neighbors, heaviest):
    side = torch.arange(-20.0, 21, 10) + 0.5  # centers in cells' middles, where the table is exact
    encoder = SoftEncoder(torch.cartesian_prod(side, side), num_neighbors)
    neighbors, shares = encoder(torch.full((1, 2, 1, 1), 0.5))
    assert neighbors[..., 0].item() == 12  # the grid's middle
    found = shares.flatten().tolist() + [0] * 4
    assert found[:5] == pytest.approx(heaviest, abs=5e-4)


@pytest.mark.parametrize("num_neighbors", [-1, 0, 314])
def test_soft_encoder_refuses_impossible_numbers_of_neighbors(num_neighbors):
    with pytest.raises(ValueError, match=f"between 1 and 313, got {num_neighbors}"):
        SoftEncoder(load_centers(), num_neighbors)


# ---- prior and weights -------------------------------------------------------------------------
@pytest.mark.parametrize("sigma", [2.0, 5.0, 20.0])
def test_smooth_prior_spreads_each_count_by_a_gaussian_on_the_plane(sigma, centers, rng):
    counts = rng.integers(0, 10_000, len(centers))
    expected = np.full(len(centers), 1 / len(centers))  # the pixel that is spread evenly
    for count, center in zip(counts, centers, strict=True):
        kernel = np.exp(-((centers - center) ** 2).sum(-1) / (2 * sigma**2))
        expected += count * kernel / kernel.sum()
    prior = smooth_prior(torch.tensor(counts), torch.tensor(centers), sigma)
    np.testing.assert_allclose(prior, expected / expected.sum(), rtol=1e-9)
    assert prior.sum().item() == pytest.approx(1, abs=1e-12)


def test_smooth_prior_moves_counts_to_neighbors_on_the_plane_not_by_index(centers):
    index = {tuple(center): i for i, center in enumerate(centers.tolist())}
    seen = index[10, 90]
    assert index[20, -80] == seen + 1  # the next index, at the far end of the next column
    counts = torch.zeros(len(centers))
    counts[seen] = 1_000_000
    prior = smooth_prior(counts, torch.tensor(centers))
    assert prior.min() > 0
    assert prior[[index[0, 90], index[20, 90], index[10, 80]]].min() > 0.01
    assert prior[seen + 1] < 1e-6


def test_smooth_prior_without_sigma_leaves_the_shares(centers, rng):
    counts = torch.tensor(rng.integers(0, 10_000, len(centers)))
    prior = smooth_prior(counts, torch.tensor(centers), sigma=0)
    total = counts.sum().item()
    np.testing.assert_allclose(prior, counts.double() / total, atol=1 / total)


def test_rebalancing_weights_equal_the_published_figures():
    weights = rebalancing_weights(load_imagenet_prior()).numpy()
    found = [weights.min(), weights.max(), np.median(weights), weights.mean()]
    assert found == pytest.approx([0.0965032, 6.1748680, 5.9987172, 5.1748798], abs=1e-7)


def test_rebalancing_weights_without_a_uniform_mix_are_untrainable():
    weights = rebalancing_weights(load_imagenet_prior(), 0)
    assert weights.max().item() == pytest.approx(526_215, abs=1)


def test_rebalancing_weights_equal_a_case_by_hand():
    weights = rebalancing_weights(torch.tensor([0.75, 0.25]), 0.5)
    assert weights.tolist() == pytest.approx([6 / 7, 10 / 7])


@pytest.mark.parametrize("uniform_mix", [0, 0.25, 0.5, 0.9])
def test_rebalancing_weights_expect_1_and_favor_the_rare(uniform_mix):
    prior = load_imagenet_prior()
    weights = rebalancing_weights(prior, uniform_mix)
    assert (prior * weights).sum().item() == pytest.approx(1, abs=1e-12)
    assert (weights[prior.argsort()].diff() <= 0).all()


def test_rebalancing_weights_of_a_uniform_mix_are_ones():
    torch.testing.assert_close(
        rebalancing_weights(load_imagenet_prior(), 1), torch.ones(313, dtype=torch.float64)
    )


@pytest.mark.parametrize("uniform_mix", [-0.1, 1.1, float("nan")])
def test_rebalancing_weights_refuse_a_mix_out_of_range(uniform_mix):
    with pytest.raises(ValueError, match=f"between 0 and 1, got {uniform_mix}"):
        rebalancing_weights(load_imagenet_prior(), uniform_mix)


# ---- decoding ----------------------------------------------------------------------------------
def decode_exactly(logits: Tensor, centers: np.ndarray, T: float, k: int) -> np.ndarray:
    """Return the annealed mean of (B, Q, h, w) in float64, (B, 2, h, w)."""
    logits = np.moveaxis(logits.double().numpy(), 1, -1)
    best = (-logits).argsort(-1)[..., :k]
    probs = softmax(np.take_along_axis(logits, best, -1) / T, axis=-1)
    return np.moveaxis((probs[..., None] * centers[best]).sum(-2), -1, 1)


def random_logits(*shape: int, scale: float = 3) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("temperature", [0.01, 0.38, 1, 10])
@pytest.mark.parametrize("top_k", [1, 2, 10, 312, 313])
def test_decode_equals_float64(temperature, top_k, centers):
    logits = random_logits(2, 313, 3, 5)
    ab = decode(logits, load_centers(), temperature, top_k)
    expected = decode_exactly(logits, centers, temperature, top_k)
    np.testing.assert_allclose(ab, expected, atol=1e-3)


@pytest.mark.parametrize("temperature", [0.38, 1])
def test_decode_of_the_best_bin_is_its_center(temperature, centers):
    logits = random_logits(2, 313, 3, 5)
    ab = decode(logits, load_centers(), temperature, 1)
    np.testing.assert_array_equal(ab.movedim(1, -1), centers[logits.numpy().argmax(1)])


@pytest.mark.parametrize("top_k", [10, 313])
def test_decode_of_several_blocks_of_pixels_equals_float64(top_k, centers):
    logits = random_logits(2, 313, 25, 41)  # 2,050 pixels: two blocks of 1,024, and two pixels
    ab = decode(logits, load_centers(), 0.38, top_k)
    np.testing.assert_allclose(ab, decode_exactly(logits, centers, 0.38, top_k), atol=1e-3)


@pytest.mark.parametrize("temperature", [0.01, 1e-36])
@pytest.mark.parametrize("top_k", [1, 10, 313])
def test_decode_of_huge_logits_is_finite_and_right(top_k, temperature, centers):
    logits = random_logits(1, 313, 4, 4).tanh() * 9e3
    logits[:, 7], logits[:, 8] = 1e4, -1e4
    ab = decode(logits, load_centers(), temperature, top_k)
    expected = decode_exactly(logits, centers, temperature, top_k)
    np.testing.assert_allclose(ab, expected, atol=1e-3)


@pytest.mark.parametrize("top_k", [1, 10, 313])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_decode_takes_any_float_type(dtype, top_k, centers):
    rank = random_logits(1, 313, 4, 4).argsort(1)
    logits = (-rank / 32).to(dtype)  # bfloat16 holds the best 256 apart: no ties at the top
    ab = decode(logits, load_centers(), 0.38, top_k)
    assert ab.dtype == torch.float32
    np.testing.assert_allclose(ab, decode_exactly(logits, centers, 0.38, top_k), atol=1e-3)


@pytest.mark.parametrize("temperature", [0, -1, float("nan")])
def test_decode_refuses_a_temperature_that_is_not_above_0(temperature):
    with pytest.raises(ValueError, match=f"temperature must be > 0, got {temperature}"):
        decode(random_logits(1, 313, 1, 1), load_centers(), temperature, 313)


@pytest.mark.parametrize("top_k", [-1, 0, 314])
def test_decode_refuses_a_top_k_out_of_range(top_k):
    with pytest.raises(ValueError, match=f"top_k must lie between 1 and 313, got {top_k}"):
        decode(random_logits(1, 313, 1, 1), load_centers(), 0.38, top_k)
