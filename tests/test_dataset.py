"""dataset.py: what is read of a cache, its batches, and what is printed of it."""

import os
import re
from functools import partial

import h5py
import numpy as np
import pytest
import torch
from running import exit_status
from small_cache import Q, S, make_plan, random_arrays, write_cache

import dataset
from dataset import (
    ANGLE,
    BRIGHTNESS,
    CONTRAST,
    STRETCH,
    Cache,
    Shuffle,
    Split,
    change_tones,
    count_reasons,
    draw_tones,
    draw_warps,
    warp,
)
from quantize import load_centers
from shards.plan import SPLITS
from shards.shard import Shard, to_bytes, write_shard


def direct(folder, split, name):
    """Read one dataset of all shards of a split through h5py alone."""
    paths = sorted(folder.glob(f"{split}-*.h5"))
    parts = []
    for path in paths:
        with h5py.File(path) as file:
            parts.append(file[name][:])
    return np.concatenate(parts)


@pytest.fixture
def folder(tmp_path):
    return write_cache(tmp_path / "small-16")


# ---- reading -----------------------------------------------------------------------------------
def test_split_read_crosses_shards(folder):
    split = Cache(folder).split("train")
    assert len(split) == 14
    for indices in ([0, 4, 5, 7, 8, 13], [13, 0, 9, 9, 5], list(range(14)), [6]):
        L, ab = split.read(np.array(indices))
        assert (L.dtype, ab.dtype) == (torch.uint8, torch.int8)
        np.testing.assert_array_equal(L, direct(folder, "train", "L")[indices])
        np.testing.assert_array_equal(ab, direct(folder, "train", "ab")[indices])


def test_split_names_cross_shards(folder):
    names = Cache(folder).split("train").names(np.array([13, 0, 5, 7]))
    assert names == ["2-5.jpg", "0-0.jpg", "1-0.jpg", "1-2.jpg"]


def test_split_names_keep_their_bytes(tmp_path):
    plan = make_plan()
    names = ["\u00e9.jpg", "two\nlines.jpg", os.fsdecode(b"caf\xe9.jpg")]
    arrays = {**random_arrays(3, seed=0), "names": to_bytes(names)}
    marks = {key: getattr(plan, key) for key in ("size", "palette", "digest")}
    write_shard(tmp_path / "test-00000.h5", arrays, {**marks, "split": "test", "index": 0})
    split = Split([Shard(tmp_path / "test-00000.h5", plan)])
    assert split.names(np.arange(3)) == names


def test_split_counts_and_mean_ab(folder):
    split = Cache(folder).split("train")
    counts = np.bincount(direct(folder, "train", "bins").ravel(), minlength=Q)
    np.testing.assert_array_equal(split.counts, counts)
    mean = (direct(folder, "train", "ab") + 0.5).mean((0, 2, 3))
    np.testing.assert_allclose(split.mean_ab, mean, atol=1e-5)


def test_cache_of_real_pictures_counts_its_bins_and_ab(cache_folder):
    for name in SPLITS:
        split = Cache(cache_folder).split(name)
        bins, ab = direct(cache_folder, name, "bins"), direct(cache_folder, name, "ab")
        np.testing.assert_array_equal(split.counts, np.bincount(bins.ravel(), minlength=Q))
        np.testing.assert_allclose(split.mean_ab, (ab + 0.5).mean((0, 2, 3)), atol=1e-5)


# ---- batches -----------------------------------------------------------------------------------
LENGTH_AND_BATCH = [(60, 10), (60, 7), (5, 13), (5, 5), (1, 3), (7, 1)]


@pytest.mark.parametrize(("length", "batch_size"), LENGTH_AND_BATCH)
def test_shuffle_gives_every_photograph_once_an_epoch(length, batch_size):
    shuffle = Shuffle(length, batch_size, seed=0)
    batches = [shuffle.batch(step) for step in range(3 * length)]
    assert all(len(batch) == batch_size for batch in batches)
    epochs = np.concatenate(batches)[: 3 * length].reshape(3, length)
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(length), (3, 1)))


def test_shuffle_depends_on_seed_and_epoch():
    orders = [
        tuple(Shuffle(50, 50, seed).batch(epoch)) for seed in (0, 1, 2) for epoch in (0, 1, 2)
    ]
    assert len(set(orders)) == 9
    assert tuple(range(50)) not in orders


@pytest.mark.parametrize(("length", "batch_size"), LENGTH_AND_BATCH)
def test_shuffle_needs_no_history(length, batch_size):
    used, fresh = Shuffle(length, batch_size, 3), Shuffle(length, batch_size, 3)
    history = [used.batch(step) for step in range(60)]
    np.testing.assert_array_equal(fresh.batch(57), history[57])
    np.testing.assert_array_equal(used.batch(2), history[2])  # also backwards


def test_a_held_split_reads_the_same(folder):
    split, held = (Cache(folder).split("train") for _ in range(2))
    held.hold(torch.device("cpu"))
    indices = np.array([13, 0, 5, 5])
    for stored, kept in zip(split.read(indices), held.read(indices), strict=True):
        assert stored.dtype == kept.dtype
        assert torch.equal(stored, kept)
    held.shards.clear()  # none is looked at any more
    assert len(held.read(np.arange(14))[0]) == 14


def smooth_photos(B, S):
    """Return L and ab that are linear in place, as bilinear sampling keeps them; a = x, b = y."""
    y, x = torch.meshgrid(torch.arange(S), torch.arange(S), indexing="ij")
    L = (100 + x + 2 * y).to(torch.uint8).expand(B, S, S)
    return L, torch.stack((x, y)).to(torch.int8).expand(B, 2, S, S)


def test_warp_cuts_L_and_ab_at_one_place():
    L, ab = smooth_photos(200, 32)
    warps = draw_warps(200, 0.5, np.random.default_rng(0))
    cut_L, cut_ab = warp(L, ab, 12, torch.from_numpy(warps))
    assert (cut_L.shape, cut_ab.shape) == ((200, 12, 12), (200, 2, 12, 12))
    x, y = cut_ab.unbind(1)
    torch.testing.assert_close(cut_L, 100 + x + 2 * y)
    assert (cut_ab.amin(), cut_ab.amax()) == (0, 31)  # no place is left out, none is beyond


def test_warp_follows_its_maps():
    L, ab = smooth_photos(300, 32)
    warps = draw_warps(300, 0.4, np.random.default_rng(0))
    _, cut = warp(L, ab, 5, torch.from_numpy(warps))
    middle = cut[:, :, 2, 2].numpy()
    inside = (np.abs(middle - 15.5) < 14).all(1)  # elsewhere the border's pixel is repeated
    expected = 16 * (warps[:, :, 2] + 1) - 0.5
    np.testing.assert_allclose(middle[inside], expected[inside], atol=1e-3)
    mirrored = np.linalg.det(warps[:, :, :2].astype(float)) < 0
    assert 110 < mirrored.sum() < 190
    right = cut[:, 0, 2, 4] > cut[:, 0, 2, 0]
    assert (right.numpy() != mirrored).all()


def test_draw_warps_spans_its_ranges():
    zoom = 0.3
    warps = draw_warps(5000, zoom, np.random.default_rng(0)).astype(float)
    width, height = np.linalg.norm(warps[:, :, 0], axis=1), np.linalg.norm(warps[:, :, 1], axis=1)
    assert max(width.max(), height.max()) <= 1 + 1e-6
    assert width.min() == pytest.approx(zoom * np.exp(-STRETCH), rel=0.1)
    free = (width < 0.99) & (height < 0.99)
    stretch = np.log(width / height)[free] / 2
    assert np.abs(stretch).max() == pytest.approx(STRETCH, rel=0.02)
    angle = np.degrees(np.arctan2(warps[:, 1, 0], np.abs(warps[:, 0, 0])))
    assert np.abs(angle).max() == pytest.approx(ANGLE, rel=0.02)


def test_warp_of_whole_photographs_mirrors_and_no_more(monkeypatch):
    monkeypatch.setattr("dataset.ANGLE", 0)
    monkeypatch.setattr("dataset.STRETCH", 0)
    arrays = random_arrays(20, seed=0)
    L, ab = torch.from_numpy(arrays["L"]), torch.from_numpy(arrays["ab"])
    warps = torch.from_numpy(draw_warps(len(L), 1, np.random.default_rng(0)))
    same_L, same_ab = warp(L, ab, S, warps)
    L, ab = L.float(), ab.float()
    mirrored = [bool((new - old).abs().max() > 1) for new, old in zip(same_L, L, strict=True)]
    assert 0 < sum(mirrored) < 20
    near = {"rtol": 0, "atol": 1e-3}
    for i in range(20):
        torch.testing.assert_close(same_L[i], L[i].flip(-1) if mirrored[i] else L[i], **near)
        torch.testing.assert_close(same_ab[i], ab[i].flip(-1) if mirrored[i] else ab[i], **near)


def test_change_tones_is_linear_and_stays_in_range():
    L = torch.arange(256.0).expand(2, 1, 256)
    tones = torch.tensor([[0.5, 0], [1.2, 20]])
    soft, bright = change_tones(L, tones)[:, 0]
    torch.testing.assert_close(soft, torch.linspace(63.75, 191.25, 256))
    torch.testing.assert_close(bright, (1.2 * torch.arange(256.0) - 5.5).clamp(0, 255))


def test_draw_tones_spans_its_ranges():
    contrast, brightness = draw_tones(5000, np.random.default_rng(0)).T
    for values, middle, highest in ((contrast, 1, CONTRAST), (brightness, 0, 2.55 * BRIGHTNESS)):
        assert values.min() == pytest.approx(middle - highest, abs=0.01 * highest)
        assert values.max() == pytest.approx(middle + highest, abs=0.01 * highest)
    assert abs(np.corrcoef(contrast, brightness)[0, 1]) < 0.05


@pytest.mark.parametrize("draw", [partial(draw_warps, 20, 0.5), partial(draw_tones, 20)])
def test_draws_depend_on_their_generator_alone(draw):
    first, again, other = (draw(generator=np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


# ---- what is in a cache ------------------------------------------------------------------------
@pytest.fixture
def show(capsys):
    """Give tests a function that runs `python dataset.py DIR` here: status, output, errors."""

    def run(*arguments):
        return exit_status(dataset.main, *arguments), *capsys.readouterr()

    return run


def test_main_prints_what_is_in_a_cache(folder, show):
    status, output, _ = show(folder)
    assert status == 0
    rows = {line.split()[0]: line.split() for line in output.splitlines() if line.strip()}
    bytes_ = sum(path.stat().st_size for path in folder.glob("train-*.h5"))
    assert rows["split"] == ["split", "photos", "shards", "MB", "gray", "enlarged", "skipped"]
    assert rows["train"] == ["train", "14", "3", f"{bytes_ / 1e6:.1f}", "3", "30", "2"]
    assert rows["val"][1:3] + rows["val"][4:] == ["2", "1", "3", "30", "0"]
    assert rows["test"][1:3] + rows["test"][4:] == ["2", "1", "4", "40", "0"]
    assert "small at 16 px" in output


def test_main_prints_reasons_and_ends_the_last_line(folder, show):
    _, output, _ = show(folder)
    assert re.search(r"\n +1  damaged\n +1  the file is empty\n$", output)


def test_main_prints_the_commonest_bins(cache_folder, show):
    _, output, _ = show(cache_folder)
    counts = np.bincount(direct(cache_folder, "train", "bins").ravel(), minlength=Q)
    best = counts.argmax()
    a, b = load_centers()[best].int().tolist()
    first = f"({a}, {b}) {100 * counts[best] / counts.sum():.0f}%"
    assert first in next(line for line in output.splitlines() if line.startswith("commonest"))
    assert f"{(counts > 0).sum()} of the 313 bins occur" in output


def test_main_refuses_with_a_sentence(tmp_path, show):
    status, _, errors = show(tmp_path / "gone")
    assert status == 1
    assert re.fullmatch(r"dataset\.py: error: .*gone: expected a cache.*\n", errors)


def test_main_without_a_folder_is_a_usage_error(show):
    assert show()[0] == 2


def test_count_reasons_puts_the_commonest_first():
    skipped = [("a", "empty"), ("b", "damaged"), ("c", "damaged")]
    assert [line.split() for line in count_reasons(skipped).splitlines()] == [
        ["2", "damaged"],
        ["1", "empty"],
    ]
