import weakref
from functools import partial
from itertools import pairwise, starmap

import pytest
import torch

from coloring.hints import LIGHTNESS, embed
from coloring.photo import Prediction
from films import steady as module
from films.steady import BEFORE, CUT, REACH, find_nearest, prepare, steady

H, W, C, Q = 4, 6, 16, 5
exactly = partial(torch.testing.assert_close, rtol=0, atol=0)
close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)


def draw(*shape, seed=0):
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))


def frame(seed=0, features=None, L=50.0, h=H):
    """Return a frame whose logits are random, and whose blocks are told apart by features."""
    features = draw(C, h, W, seed=1000) if features is None else features
    return Prediction(torch.full((1, 1, h, W), L), draw(Q, h, W, seed=seed), features)


def give(frames):
    """Return what `steady` makes of frames that are numbered."""
    return list(steady(prepare(frame, i) for i, frame in enumerate(frames)))


def probs(prediction):
    return prediction.logits.softmax(1)


def mean(frames, weights=None):
    weights = weights or [1.0] * len(frames)
    return sum(w * probs(f) for w, f in zip(weights, frames, strict=True)) / sum(weights)


# ---- averages ----------------------------------------------------------------------------------
def test_steady_of_a_still_scene_is_the_mean_of_nine_distributions():
    frames = [frame(seed) for seed in range(20)]
    found = give(frames)
    for i in (0, 2, 4, 10, 15, 17, 19):  # fewer at both ends
        close(probs(found[i][0]), mean(frames[max(0, i - 4) : i + 5]))
    assert REACH == 4


def test_steady_counts_a_frame_by_how_alike_it_is():
    frames = [frame(seed, L=40.0 + 6 * seed) for seed in range(9)]
    weights = [float(torch.exp(torch.tensor(-(((6 * k) / LIGHTNESS) ** 2) / 2))) for k in range(5)]
    close(probs(give(frames)[4][0]), mean(frames, weights[:0:-1] + weights))
    assert weights[4] < 0.9


def test_steady_leaves_what_it_does_not_average():
    frames = [frame(seed, L=40.0 + seed) for seed in range(6)]
    for before, (after, _, _) in zip(frames, give(frames), strict=True):
        assert after.L is before.L
        assert after.features is before.features
        assert after.logits.shape == before.logits.shape


def test_steady_keeps_a_probability_of_0_finite():
    sure = torch.full((1, Q, H, W), -1e4)
    sure[:, 0] = 1e4
    frames = [Prediction(frame().L, sure, frame().features)] * 3
    for found, _, _ in give(frames):
        assert found.logits.isfinite().all()
        close(probs(found)[:, 0], torch.ones(1, H, W))


def test_steady_follows_what_moves():
    height, width, number = 10, 18, 12
    features, logits = draw(C, height, 40, seed=1), 5 * draw(Q, height, 40, seed=2)
    L = torch.full((1, 1, height, width), 50.0)
    # a window over a wide picture: it shows the same one column further in each frame
    frames = [
        Prediction(L, *(x[..., k : k + width] for x in (logits, features))) for k in range(12)
    ]
    found = give(frames)
    assert [begins for *_, begins in found] == [True] + [False] * (number - 1)
    for k in range(number):
        inside = slice(REACH + 1, width - REACH - 1)
        close(probs(found[k][0])[..., inside], probs(frames[k])[..., inside])
        blurred = mean(frames[max(0, k - 1) : k + 2])[..., inside]
        assert (blurred - probs(frames[k])[..., inside]).abs().mean() > 0.05


def test_look_weighs_place_more_than_hints_do():
    points, prediction = prepare(frame(), None).points, frame()
    theirs = embed(prediction.L, prediction.features)
    close(points[:, :2], 5 * theirs[:, :2])  # 1 / NEAR
    exactly(points[:, 2:], theirs[:, 2:])
    exactly(prediction.points, theirs)


@pytest.mark.parametrize("rows", [1, 7, 2**22])
def test_find_nearest_is_the_least_distance(rows, monkeypatch):
    monkeypatch.setattr(module, "ROWS", rows)
    x, y = draw(23, 4)[0], draw(11, 4, seed=1)[0]
    exactly(find_nearest(x, y), torch.cdist(x, y).argmin(1))


# ---- shots -------------------------------------------------------------------------------------
def scene(seed, number):
    """Return frames of one scene: the same features, the same logits."""
    return [Prediction(frame().L, draw(Q, H, W, seed=seed), draw(C, H, W, seed=seed))] * number


@pytest.mark.parametrize("lengths", [(10, 10), (3, 2, 6), (12, 2, 12)])
def test_steady_lets_nothing_cross_a_cut(lengths):
    scenes = [scene(seed, number) for seed, number in enumerate(lengths)]
    frames = [frame for frames in scenes for frame in frames]
    found = give(frames)
    for before, (after, _, _) in zip(frames, found, strict=True):
        close(probs(after), probs(before))
    firsts = [sum(lengths[:i]) for i in range(len(lengths))]
    assert [i for _, i, begins in found if begins] == firsts


def test_steady_takes_no_movement_for_a_cut():
    step = (2.4 * CUT) ** 0.5 * LIGHTNESS  # each frame lies beyond CUT
    frames = [frame(seed, L=step * (seed % 2)) for seed in range(12)]
    distances = [
        float((prepare(a, 0).points - prepare(b, 0).points).square().sum(1).mean() / 2)
        for a, b in pairwise(frames)
    ]
    assert min(distances) > CUT
    assert [i for _, i, begins in give(frames) if begins] == [0, 1]


@pytest.mark.parametrize("number", range(21))
def test_steady_gives_each_frame_once_and_in_order(number):
    found = give([frame(seed) for seed in range(number)])
    assert [i for _, i, _ in found] == list(range(number))
    assert [i for _, i, begins in found if begins] == [0][:number]


def test_steady_reads_no_further_ahead_than_it_reaches():
    read = []

    def frames():
        for i in range(30):
            read.append(i)
            yield frame(i), i

    for _, i, _ in steady(starmap(prepare, frames())):
        assert len(read) == min(30, i + REACH + 1)


def test_steady_keeps_no_more_frames_than_it_averages():
    alive = weakref.WeakSet()

    def frames():
        for i in range(40):
            made = frame(i)
            alive.add(made.logits)
            yield made, None

    for _ in steady(starmap(prepare, frames())):
        assert len(alive) <= 2 * REACH + 3


def test_steady_begins_anew_with_another_size():
    def cropped(seed):
        """A frame whose blocks are all like some in the others."""
        return Prediction(
            frame().L[:, :, 1:], frame(seed).logits[:, :, 1:], frame().features[:, :, 1:]
        )

    frames = [frame(i) for i in range(5)] + [cropped(i) for i in range(5, 10)]
    found = give(frames)
    assert [i for _, i, begins in found if begins] == [0, 5]
    close(probs(found[4][0]), mean(frames[:5]))
    close(probs(found[5][0]), mean(frames[5:10]))


def test_steady_does_not_depend_on_where_reading_began():
    """Distances alternate so that a frame before which nothing was seen would begin a shot."""
    near, far = ((2 * d) ** 0.5 * LIGHTNESS for d in (0.75 * CUT, 1.25 * CUT))
    levels, frames = 0.0, []
    for i in range(30):
        frames.append(frame(i, L=levels, features=draw(C, H, W, seed=i // 13)))
        levels += (near, far)[i % 2] * (1 if i // 2 % 2 else -1)
    whole = give(frames)
    assert [i for _, i, begins in whole if begins] == [0, 13, 26]
    for k in range(len(frames)):
        begin = max(0, k - BEFORE)
        rest = give(frames[begin:])[k - begin :]
        for (ours, _, begins), (theirs, _, as_ever) in zip(rest, whole[k:], strict=True):
            assert begins == as_ever
            exactly(ours.logits, theirs.logits)
