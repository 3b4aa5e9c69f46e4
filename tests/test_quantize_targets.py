"""quantize.py: soft targets, priors, weights and decoding against plain formulas in float64.

Shapes: P colors, Q bins, B batch, h and w blocks.
"""

import numpy as np
import pytest
import torch
from colors import from_batch, random_colors, to_batch, to_lab
from scipy.spatial import cKDTree
from scipy.special import softmax
from torch import Tensor

from quantize import (
    Decoding,
    SoftEncoder,
    decode,
    load_centers,
    load_imagenet_prior,
    rebalancing_weights,
    smooth_prior,
    split_rows,
)


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
    ab = decode(logits, load_centers(), Decoding(temperature, top_k))
    expected = decode_exactly(logits, centers, temperature, top_k)
    np.testing.assert_allclose(ab, expected, atol=1e-3)


@pytest.mark.parametrize("temperature", [0.38, 1])
def test_decode_of_the_best_bin_is_its_center(temperature, centers):
    logits = random_logits(2, 313, 3, 5)
    ab = decode(logits, load_centers(), Decoding(temperature, 1))
    np.testing.assert_array_equal(ab.movedim(1, -1), centers[logits.numpy().argmax(1)])


@pytest.mark.parametrize("top_k", [10, 313])
def test_decode_of_several_blocks_of_pixels_equals_float64(top_k, centers):
    logits = random_logits(2, 313, 25, 41)  # 2,050 pixels: two blocks of 1,024, and two pixels
    ab = decode(logits, load_centers(), Decoding(0.38, top_k))
    np.testing.assert_allclose(ab, decode_exactly(logits, centers, 0.38, top_k), atol=1e-3)


def test_a_processor_decodes_in_small_blocks_and_other_devices_in_large_ones():
    for device, lengths in (("cpu", [1024, 1024, 2]), ("meta", [2050])):
        blocks = split_rows(torch.empty(2050, 313, device=device))
        assert [len(block) for block in blocks] == lengths


@pytest.mark.parametrize("temperature", [0.01, 1e-36])
@pytest.mark.parametrize("top_k", [1, 10, 313])
def test_decode_of_huge_logits_is_finite_and_right(top_k, temperature, centers):
    logits = random_logits(1, 313, 4, 4).tanh() * 9e3
    logits[:, 7], logits[:, 8] = 1e4, -1e4
    ab = decode(logits, load_centers(), Decoding(temperature, top_k))
    expected = decode_exactly(logits, centers, temperature, top_k)
    np.testing.assert_allclose(ab, expected, atol=1e-3)


@pytest.mark.parametrize("top_k", [1, 10, 313])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_decode_takes_any_float_type(dtype, top_k, centers):
    rank = random_logits(1, 313, 4, 4).argsort(1)
    logits = (-rank / 32).to(dtype)  # bfloat16 holds the best 256 apart: no ties at the top
    ab = decode(logits, load_centers(), Decoding(0.38, top_k))
    assert ab.dtype == torch.float32
    np.testing.assert_allclose(ab, decode_exactly(logits, centers, 0.38, top_k), atol=1e-3)


@pytest.mark.parametrize("temperature", [0, -1, float("nan")])
def test_decode_refuses_a_temperature_that_is_not_above_0(temperature):
    with pytest.raises(ValueError, match=f"temperature must be > 0, got {temperature}"):
        decode(random_logits(1, 313, 1, 1), load_centers(), Decoding(temperature, 313))


@pytest.mark.parametrize("top_k", [-1, 0, 314])
def test_decode_refuses_a_top_k_out_of_range(top_k):
    with pytest.raises(ValueError, match=f"top_k must be at (least 1|most 313), got {top_k}"):
        decode(random_logits(1, 313, 1, 1), load_centers(), Decoding(0.38, top_k))
