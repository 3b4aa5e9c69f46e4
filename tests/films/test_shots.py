"""Shots, their stills, and hints that hold for one of them."""

import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from made_films import RATE, write_film
from pictures import write_strokes
from PIL import Image
from scenes import SIZE, pan, read_frames

from coloring.photo import Coloring
from films.color import color_frames, describe_hints
from films.reading import open_film
from films.shots import (
    Piece,
    Shot,
    begins_after,
    count_frames,
    find_shot,
    find_shots,
    pts_of,
    read_piece,
    seconds_of,
    write_stills,
)
from photo_files import PhotoError
from quantize import Decoding

COLORING = Coloring(16, Decoding(0.38, 313))
LENGTHS = (11, 10, 8)
WHOLE = Piece()
STEP = 512  # units of the time base a frame lasts
FIRSTS = (0, 11, 21)  # 11 / 24 s is more than its thousandths
RED, BLUE = (200, 20, 30), (20, 60, 220)
LEFT = (0, 0, 32, 48)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Return a film of three shots, that begins at half a second."""
    frames = [frame for seed, number in enumerate(LENGTHS) for frame in pan(seed, number)]
    return write_film(tmp_path_factory.mktemp("film") / "film.mp4", frames, options={"g": "6"})


@pytest.fixture
def film(path):
    return open_film(path)


@pytest.fixture
def find(colorizer, film):
    """Give tests `find(*stills)`: the film's shots; of a piece, if it is given."""

    def run(*stills, piece=WHOLE):
        return find_shots(colorizer, film, COLORING, piece, stills, 2)

    return run


@pytest.fixture
def color(colorizer, film):
    """Give tests `color(shots)`: the film's colored frames (K, H, W, 3)."""

    def run(shots):
        found = color_frames(colorizer, COLORING, film.frames(), -1, shots, 2)
        return np.stack([np.asarray(image).astype(int) for _, image in found])

    return run


@pytest.fixture
def stroke(tmp_path):
    """Give tests `stroke(seconds, color, box)`: a still's time and its picture of strokes."""

    def write(seconds, color=RED, box=LEFT, size=SIZE):
        path = tmp_path / f"{seconds:.3f}-{bytes(color).hex()}.png"
        return seconds, write_strokes(path, size, box, color)

    return write


# ---- times and pieces --------------------------------------------------------------------------
@pytest.mark.parametrize("begin", [0, 7 * STEP, -5 * STEP])
def test_seconds_count_from_the_first_frame(begin, film):
    film.start = begin
    assert seconds_of(film, begin) == 0
    assert seconds_of(film, begin + 12 * STEP) == 0.5
    assert pts_of(film, 0.5) in range(begin + 11 * STEP + 1, begin + 12 * STEP + 1)


@pytest.mark.parametrize("k", range(1, 30))
def test_pts_of_finds_a_frame_by_its_time_in_thousandths(k, film):
    at = pts_of(film, round(k / RATE, 3))
    assert (k - 1) * STEP < at <= k * STEP
    assert k * STEP < pts_of(film, round(k / RATE, 3) + 0.0015)


@pytest.mark.parametrize(
    ("piece", "number"),
    [(Piece(), 29), (Piece(0.25), 23), (Piece(None, 0.5), 12), (Piece(0.25, 0.5), 6)],
)
def test_count_frames_estimates_a_piece(piece, number, film):
    assert count_frames(film, piece) == number
    film.duration = film.estimated_frames = None
    assert count_frames(film, piece) == (None if piece.end is None else number)
    assert count_frames(film, Piece(5.0, 4.0)) == 0


def test_read_piece_shows_some_frames_before_and_none_after(film):
    stamps = [frame.pts // STEP for frame in read_piece(film, Piece(0.5, 0.75))]
    assert stamps == list(range(6, 18))
    stamps = [frame.pts // STEP for frame in read_piece(film, Piece(0.5, 0.75), 13 * STEP)]
    assert stamps == list(range(8, 18))


def test_a_piece_begins_and_ends_between_frames_of_a_coarse_clock(tmp_path):
    how = {"base": Fraction(1, 1000), "stamps": [42 * k for k in range(20)]}
    film = open_film(write_film(tmp_path / "film.mkv", pan(0, 20), **how))
    for piece in (Piece(0.42, 0.63), Piece(0.4203, 0.6296), Piece(0.39, 0.6)):
        assert [frame.pts // 42 for frame in read_piece(film, piece)] == list(range(4, 15))
        assert 9 * 42 <= begins_after(film, piece) < 10 * 42
    assert [frame.pts // 42 for frame in read_piece(film, Piece(0.422))][6] == 11
    assert begins_after(film, Piece(0.422)) >= 10 * 42
    assert begins_after(film, WHOLE) < 0


# ---- shots -------------------------------------------------------------------------------------
def test_find_shots_finds_the_cuts(find):
    lasts = (10, 20, 28)
    expected = [(STEP * a, STEP * b) for a, b in zip(FIRSTS, lasts, strict=True)]
    assert [(shot.first, shot.last) for shot in find()] == expected
    piece = [(shot.first // STEP, shot.last // STEP) for shot in find(piece=Piece(0.25, 0.75))]
    assert piece == [(6, 10), (11, 17)]
    assert find(piece=Piece(5.0)) == []


def test_find_shot_takes_the_last_that_has_begun():
    shots = [Shot(0, 8), Shot(9, 20), Shot(21, 28)]
    found = [find_shot(shots, pts) for pts in (-1, 0, 8, 9, 20, 21, 500)]
    assert found == [None, *(shots[i] for i in (0, 0, 1, 1, 2, 2))]
    assert find_shot([], 3) is None


def test_write_stills_takes_the_middle_frame_of_each_shot(find, film, path):
    _, true = read_frames(path)
    for piece, expected in ((WHOLE, (5, 15, 24)), (Piece(0.25, 0.5), (8, 11))):
        found, shots = [], find(piece=piece)
        number = write_stills(film, shots, lambda *still, to=found: to.append(still), piece)
        assert number == len(found) == len(expected)
        assert [round(seconds * RATE, 6) for seconds, _ in found] == list(expected)
        for k, (_, image) in zip(expected, found, strict=True):
            assert np.array_equal(np.asarray(image), true[k])


# ---- hints -------------------------------------------------------------------------------------
def move(ours, plain):
    """Return how far each frame's left and right half moved towards RED, in levels of r - g."""
    redder = (ours - plain)[..., 0] - (ours - plain)[..., 1]
    return np.stack((redder[:, :, :24].mean((1, 2)), redder[:, :, 40:].mean((1, 2))), axis=1)


@pytest.mark.parametrize(("shot", "k"), [(0, 4), (1, 14), (2, 24)])
def test_a_stroke_on_a_still_colors_its_shot_and_no_other(shot, k, find, color, stroke):
    plain, ours = color([]), color(find(stroke(round(k / RATE, 3))))
    inside = slice(FIRSTS[shot], FIRSTS[shot] + LENGTHS[shot])
    others = np.ones(len(plain), bool)
    others[inside] = False
    assert np.array_equal(ours[others], plain[others])
    moved = move(ours, plain)[inside]
    assert (moved[:, 0] > 15).all()
    assert (moved[:, 0] > moved[:, 1]).all()


@pytest.mark.parametrize(("k", "shot"), [(10, 0), (11, 1), (20, 1), (21, 2), (28, 2)])
def test_a_still_at_an_end_of_a_shot_belongs_to_it(k, shot, find, stroke):
    for seconds in (round(k / RATE, 3), k / RATE + 0.03):
        shots = find(stroke(seconds))
        assert [found.stills for found in shots] == [int(i == shot) for i in range(3)]


def test_a_still_at_the_start_of_a_piece_counts_and_one_behind_it_is_not_opened(find, stroke):
    for start in (0.25, 11 / RATE):
        (seconds, path), behind = stroke(round(start, 3)), stroke(0.751, BLUE, size=(3, 3))
        shots = find((seconds, path), behind, piece=Piece(start, 0.75))
        assert sum(shot.stills for shot in shots) == 1


def test_several_stills_of_a_shot_all_count(find, color, stroke):
    red, blue = stroke(12 / RATE), stroke(18 / RATE, BLUE, (32, 0, 64, 48))
    alone, both = color(find(red)), color(find(red, blue))
    assert [shot.stills for shot in find(red, blue)] == [0, 2, 0]
    bluer = (both - alone)[11:21, :, 40:]
    assert (bluer[..., 2].mean((1, 2)) - bluer[..., 0].mean((1, 2)) > 10).all()
    plain = color([])
    assert (move(both, plain)[11:21, 0] > 10).all()


def test_a_still_of_each_shot_counts_for_its_own(find, color, stroke):
    red, blue = stroke(4 / RATE), stroke(24 / RATE, BLUE)
    both = color(find(red, blue))
    assert np.array_equal(both[:21], color(find(red))[:21])
    assert np.array_equal(both[21:], color(find(blue))[21:])


@pytest.mark.parametrize(
    ("seconds", "piece"),
    [(1.3, Piece()), (99, Piece()), (0.2, Piece(0.25, 0.75)), (0.75, Piece(0.25, 0.75))],
)
def test_a_still_of_a_time_that_is_not_colored_changes_nothing(seconds, piece, find, stroke):
    still = stroke(seconds)
    shots = find(still, piece=piece)
    assert all(shot.known is None for shot in shots)
    told = ["with pictures of hints without a stroke, or of times that are not colored"]
    assert describe_hints(shots, [still]) == told


def test_a_still_without_a_stroke_changes_nothing(find, stroke):
    empty, red = stroke(14 / RATE, box=None), stroke(15 / RATE)
    shots = find(empty, red)
    assert [shot.stills for shot in shots] == [0, 1, 0]
    assert describe_hints(shots, [empty, red])[0] == "with hints in 1 shots"
    assert len(describe_hints(shots, [empty, red])) == 2
    assert describe_hints(shots, [red]) == ["with hints in 1 shots"]
    assert describe_hints([], []) == []


def test_hints_hold_however_many_blocks_are_painted(find, color, stroke, monkeypatch):
    everywhere = [stroke(k / RATE, box=(0, 0, 64, 47)) for k in range(11, 21)]
    monkeypatch.setattr("coloring.hints.MOST", 30)
    shots = find(*everywhere)
    assert len(shots[1].known) == len(shots[1].alpha) == 30
    assert (move(color(shots), color([]))[11:21] > 15).all()


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("size", r"32 x 48 pixels, expected the photograph's 64 x 48"),
        ("opaque", "opaque, expected a picture that is transparent but for strokes"),
        ("broken", "not a picture"),
        ("missing", "No such file"),
    ],
)
def test_a_still_that_cannot_be_used_is_named_before_any_frame_is_read(
    wrong, reason, find, film, stroke, monkeypatch
):
    seconds, path = stroke(24 / RATE, size=(32, 48) if wrong == "size" else SIZE)
    if wrong == "opaque":
        Image.new("RGB", SIZE).save(path)
    elif wrong == "broken":
        path.write_bytes(b"no picture")
    elif wrong == "missing":
        path = Path("nowhere.png")
    monkeypatch.setattr(type(film), "frames", lambda *_: 1 / 0)
    with pytest.raises(PhotoError) as failed:
        find((seconds, path))
    assert str(failed.value).startswith(f"its hints, {path}: ")
    assert "\n" not in str(failed.value)
    assert re.search(reason, str(failed.value), re.IGNORECASE), failed.value
