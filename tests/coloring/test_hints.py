"""Hints against dense solutions in float64, written as the formulas stand; no network."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from coloring import hints as module
from coloring.hints import (
    FEATURES,
    LEAST,
    LIGHTNESS,
    MOST,
    NARROW,
    NARROWNESS,
    NOISE,
    PART_NOISE,
    PLACE,
    RADIUS,
    Hints,
    apply_hints,
    embed,
    find_deviation,
    find_questions,
    kernel,
    likeliest_colors,
    thin,
)
from quantize import load_centers

CENTERS = load_centers()


def random_blocks(h: int, w: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return L, features of very different lengths, and ab of h x w blocks."""
    random = torch.Generator().manual_seed(seed)
    L = 100 * torch.rand(1, 1, h, w, generator=random)
    features = torch.randn(1, 6, h, w, generator=random).relu() + 0.01
    features *= 10 ** (4 * torch.rand(1, 1, h, w, generator=random) - 2)
    return L, features, 40 * torch.randn(1, 2, h, w, generator=random)


def make_hints(*blocks: int, share: float | None = 1.0, seed: int = 0) -> Hints:
    """Return hints of random colors; of random shares if there is no `share`."""
    random = torch.Generator().manual_seed(seed)
    ab, shares = 40 * torch.randn(len(blocks), 2, generator=random), torch.rand(len(blocks))
    return Hints(
        torch.tensor(blocks), ab, shares if share is None else torch.full_like(shares, share)
    )


def likeness(L: Tensor, features: Tensor) -> np.ndarray:
    """Return k of all pairs of blocks, (P, P) float64, one pair at a time."""
    h, w = L.shape[-2:]
    places = list(itertools.product(range(h), range(w)))
    k = np.empty((h * w, h * w))
    for (i, x), (j, y) in itertools.product(enumerate(places), repeat=2):
        apart = ((x[0] - y[0]) ** 2 + (x[1] - y[1]) ** 2) / min(h, w) ** 2
        lighter = float(L[0, 0, *x]) - float(L[0, 0, *y])
        f, g = (features[0, :, *place].double().numpy() for place in (x, y))
        cosine = f @ g / np.sqrt((f @ f) * (g @ g))
        exponent = apart / 2 / PLACE**2 + lighter**2 / 2 / LIGHTNESS**2 + (1 - cosine) / FEATURES
        k[i, j] = (1 - NARROW) * np.exp(-exponent) + NARROW * np.exp(-NARROWNESS * exponent)
    return k


def corrected(ab: Tensor, k: np.ndarray, hints: Hints) -> np.ndarray:
    """Return ab' of all blocks, (P, 2) float64."""
    rows, at = ab[0].flatten(1).T.double().numpy(), hints.blocks.numpy()
    noise = NOISE + PART_NOISE * (1 - hints.share.double().numpy())
    wrong = hints.ab.double().numpy() - rows[at]
    alpha = np.linalg.inv(k[np.ix_(at, at)] + np.diag(noise)) @ wrong
    return np.array(
        [rows[x] + sum(k[x, at[i]] * alpha[i] for i in range(len(at))) for x in range(len(k))]
    )


# ---- Gaussian-process regression ---------------------------------------------------------------
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (6, 4), (1, 9)])
def test_kernel_of_embed_is_the_formula(size):
    L, features, _ = random_blocks(*size)
    points = embed(L, features)
    expected = likeness(L, features)
    np.testing.assert_allclose(kernel(points, points).double(), expected, atol=1e-5)
    assert np.ptp(expected) > 0.5 or size == (1, 1)


@pytest.mark.parametrize("rows", [module.ROWS, 8])
@pytest.mark.parametrize("share", [1.0, None])
def test_apply_hints_is_the_dense_solution(share, rows, monkeypatch):
    monkeypatch.setattr(module, "ROWS", rows)
    L, features, ab = random_blocks(5, 7)
    hints = make_hints(0, 3, 4, 17, 18, 34, share=share)
    found = apply_hints(ab, embed(L, features), hints)
    assert (found.shape, found.dtype) == (ab.shape, torch.float32)
    expected = corrected(ab, likeness(L, features), hints)
    np.testing.assert_allclose(found[0].flatten(1).T, expected, atol=2e-3)
    assert np.abs(expected - ab[0].flatten(1).T.numpy()).max() > 10


def test_apply_hints_of_all_blocks_is_the_dense_solution():
    L, features, ab = random_blocks(6, 6)
    hints = make_hints(*range(36), share=None)
    expected = corrected(ab, likeness(L, features), hints)
    found = apply_hints(ab, embed(L, features), hints)[0].flatten(1).T
    np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.01])
def test_a_hint_holds_up_to_its_noise(share):
    L, features, ab = random_blocks(4, 4)
    hint = make_hints(9, share=share)
    left = hint.ab[0] - apply_hints(ab, embed(L, features), hint)[0].flatten(1)[:, 9]
    noise = NOISE + PART_NOISE * (1 - share)
    wrong = hint.ab[0] - ab[0].flatten(1)[:, 9]
    torch.testing.assert_close(left, wrong * noise / (1 + noise), rtol=1e-4, atol=1e-4)
    assert left.abs().max() < 0.14 * wrong.abs().max()


def test_nothing_moves_where_nothing_is_alike():
    L, features, ab = random_blocks(1, 80)  # 79 short sides long
    found = apply_hints(ab, embed(L, features), make_hints(0))
    assert torch.equal(found[..., 40:], ab[..., 40:])
    assert not torch.equal(found[..., :1], ab[..., :1])


@pytest.mark.parametrize("what", ["place", "L", "features"])
def test_what_is_more_alike_moves_more(what):
    L, features, at = torch.full((1, 1, 1, 3), 50.0), torch.ones(1, 2, 1, 3), 1  # in the middle
    if what == "place":
        at = 0
    elif what == "L":
        L[..., 2] = 80
    else:
        features[0, 0, 0, 2] = 0
    hint = Hints(torch.tensor([at]), torch.tensor([[30.0, -30.0]]), torch.ones(1))
    moved = apply_hints(torch.zeros(1, 2, 1, 3), embed(L, features), hint)[0, 0, 0]
    alike, other = moved[1 - at], moved[2]
    assert alike > 1.1 * other > 0


def test_the_length_of_features_is_nothing():
    L, features, ab = random_blocks(5, 5)
    hints = make_hints(3, 20)
    one, other = (apply_hints(ab, embed(L, f), hints) for f in (features, 1000 * features))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-3)


def test_features_without_length_are_no_fault():
    L, features, ab = random_blocks(4, 4)
    features[..., :2] = 0
    assert apply_hints(ab, embed(L, features), make_hints(0, 9)).isfinite().all()


def test_hints_that_contradict_each_other_are_averaged():
    alike = embed(torch.full((1, 1, 1, 2), 50.0), torch.ones(1, 3, 1, 2))
    alike[1] = alike[0]
    hints = Hints(torch.tensor([0, 1]), torch.tensor([[40.0, 0.0], [-20.0, 0.0]]), torch.ones(2))
    found = apply_hints(torch.zeros(1, 2, 1, 2), alike, hints)[0, :, 0]
    expected = torch.tensor([20 / (2 + NOISE), 0.0])  # 2 hints of noise NOISE: their mean, nearly
    torch.testing.assert_close(found, expected[:, None].expand(2, 2), rtol=1e-4, atol=1e-4)


# ---- thinning ----------------------------------------------------------------------------------
def test_thin_takes_most_evenly_and_keeps_fewer():
    hints = make_hints(*range(1200), share=None)
    thinned = thin(hints)
    assert len(thinned) == MOST
    assert thinned.blocks[[0, -1]].tolist() == [0, 1199]
    assert set(thinned.blocks.diff().tolist()) == {2, 3}
    torch.testing.assert_close(thinned.ab, hints.ab[thinned.blocks])
    torch.testing.assert_close(thinned.share, hints.share[thinned.blocks])
    for few in (1, MOST):
        assert torch.equal(thin(make_hints(*range(few))).blocks, torch.arange(few))


# ---- where to ask ------------------------------------------------------------------------------
def test_find_deviation_is_the_root_of_the_mean_square():
    logits = 3 * torch.randn(1, 313, 2, 3, generator=torch.Generator().manual_seed(0))
    logits[0, :, 0, 0] = -1000
    logits[0, 7, 0, 0] = 1000  # no doubt
    logits[0, :, 0, 1] = -1000
    logits[0, [5, 200], 0, 1] = 0  # two colors
    probs, colors = logits[0].double().softmax(0).flatten(1).T.numpy(), CENTERS.double().numpy()
    means = probs @ colors
    expected = [
        sum(p * ((c - mean) ** 2).sum() for p, c in zip(row, colors, strict=True)) ** 0.5
        for row, mean in zip(probs, means, strict=True)
    ]
    found = find_deviation(logits, CENTERS)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=0.05)
    assert expected[1] == pytest.approx(float((CENTERS[5] - CENTERS[200]).norm()) / 2)


def gains(k: np.ndarray, deviation: np.ndarray, known: list[int], noise: list[float]) -> np.ndarray:
    """Return how much variance each block would explain, given the known ones, (P,) float64."""
    covariance = k * np.outer(deviation, deviation)
    if known:
        cross = covariance[known]
        inner = covariance[np.ix_(known, known)] + np.diag(noise * deviation[known] ** 2)
        covariance = covariance - cross.T @ np.linalg.inv(inner) @ cross
    square = np.diag(covariance) + NOISE * deviation**2
    return (covariance**2).sum(1) / square


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("given", [(), (0, 30, 31)])
def test_find_questions_takes_what_explains_most_and_repeats(given, seed):
    L, features, _ = random_blocks(6, 8, seed)
    deviation = 5 + 20 * torch.rand(48, generator=torch.Generator().manual_seed(seed))
    hints = make_hints(*given, share=None) if given else None
    asked = find_questions(embed(L, features), deviation, hints, 6).tolist()
    k, known = likeness(L, features), list(given)
    noise = [NOISE + PART_NOISE * (1 - float(share)) for share in hints.share] if hints else []
    for block in asked:
        gain = gains(k, deviation.double().numpy(), known, noise)
        assert gain[block] > 0.9999 * np.delete(gain, known).max()
        known, noise = [*known, block], [*noise, NOISE]
    assert len(set(known)) == len(given) + 6


def test_an_answer_leaves_the_questions_after_it():
    L, features, _ = random_blocks(6, 8)
    points, deviation = embed(L, features), 5 + 20 * torch.rand(48)
    first, *others = find_questions(points, deviation, None, 5).tolist()
    assert find_questions(points, deviation, make_hints(first), 4).tolist() == others


def test_no_block_is_asked_for_twice_nor_where_its_color_is_known():
    flat = torch.full((1, 1, 3, 4), 50.0), torch.ones(1, 5, 3, 4)  # all blocks are alike
    points, deviation = embed(*flat), torch.ones(12)
    points[:] = points[0]
    for hints, expected in ((None, range(12)), (make_hints(3, 4), {*range(12)} - {3, 4})):
        for uncertain in (deviation, 0 * deviation):
            asked = find_questions(points, uncertain, hints, 20).tolist()
            assert sorted(asked) == sorted(expected)


def test_of_few_blocks_all_are_asked_for():
    L, features, _ = random_blocks(2, 3)
    asked = find_questions(embed(L, features), torch.rand(6), None, 20)
    assert asked.dtype == torch.int64
    assert sorted(asked.tolist()) == list(range(6))
    everything = make_hints(*range(6))
    assert find_questions(embed(L, features), torch.rand(6), everything, 3).tolist() == []


def test_of_many_blocks_some_are_looked_at_everywhere(monkeypatch):
    monkeypatch.setattr(module, "MOST_ASKED", 60)
    L, features, _ = random_blocks(20, 15)
    points = embed(L, features)
    for rows in (slice(0, 5), slice(10, 12), slice(19, 20)):
        deviation = torch.zeros(20, 15)
        deviation[rows] = 30
        inside = deviation.flatten() > 0
        assert inside[find_questions(points, deviation.flatten(), None, 1)].all()
    asked = find_questions(points, torch.ones(300), make_hints(0, 150), 70).tolist()
    assert len(asked) == len(set(asked)) <= 60


def test_more_blocks_than_are_looked_at_take_little_time():
    L, features, _ = random_blocks(50, 40)
    asked = find_questions(embed(L, features), torch.rand(2000), make_hints(7, 1999), 5).tolist()
    assert len(set(asked)) == 5
    assert max(asked) < 2000


# ---- what to offer -----------------------------------------------------------------------------
def cloud(place: tuple[float, float], share: float) -> Tensor:
    """Return a small Gaussian on the bins around a color, of a sum."""
    return share * torch.softmax(-(CENTERS - torch.tensor(place)).square().sum(1) / 2 / 5**2, 0)


def test_likeliest_colors_are_the_clusters_by_their_shares():
    probs = cloud((50, 40), 0.3) + cloud((-40, 30), 0.7)
    (first, more), (second, less) = likeliest_colors(probs, CENTERS, 3)
    torch.testing.assert_close(first, torch.tensor([-40.0, 30.0]), rtol=0, atol=2)
    torch.testing.assert_close(second, torch.tensor([50.0, 40.0]), rtol=0, atol=2)
    assert (more, less) == (pytest.approx(0.7, abs=0.01), pytest.approx(0.3, abs=0.01))


@pytest.mark.parametrize("bin_", [0, 156, 312])
def test_one_bin_is_one_color(bin_):
    ((ab, share),) = likeliest_colors(torch.eye(313)[bin_], CENTERS, 5)
    torch.testing.assert_close(ab, CENTERS[bin_])
    assert share == pytest.approx(1)


def test_likeliest_colors_are_at_most_so_many_and_improbable_ones_left_out():
    probs = cloud((50, 40), 0.6) + cloud((-40, 30), 0.39) + cloud((20, -70), LEAST / 2)
    assert len(likeliest_colors(probs, CENTERS, 1)) == 1
    assert len(likeliest_colors(probs, CENTERS, 9)) == 2
    even = torch.full((313,), 1 / 313)
    clusters = likeliest_colors(even, CENTERS, 300)
    shares = [share for _, share in clusters]
    assert shares == pytest.approx(sorted(shares, reverse=True))
    assert 1 - 313 * LEAST < sum(shares) <= 1.0001
    assert min(shares) >= LEAST


def test_the_first_of_the_likeliest_colors_is_the_fullest_disc():
    probs = torch.rand(313, generator=torch.Generator().manual_seed(0)) ** 8
    probs /= probs.sum()
    ab, share = likeliest_colors(probs, CENTERS, 1)[0]
    discs = [(CENTERS - center).norm(dim=1) <= RADIUS for center in CENTERS]
    assert share == pytest.approx(max(float(probs[disc].sum()) for disc in discs), abs=1e-5)
    best = max(discs, key=lambda disc: float(probs[disc].sum()))
    torch.testing.assert_close(ab, probs[best] @ CENTERS[best] / probs[best].sum())
