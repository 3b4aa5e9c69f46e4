"""What `color_film` writes, part by part, and how it goes on."""

import errno
import signal
import subprocess
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from made_films import RATE, packets_of, spoil, write_film
from running import CODE, run_script
from scenes import pan, read_frames
from skimage.color import rgb2lab

from coloring.photo import Coloring
from films import color as module
from films.color import color_film
from films.reading import open_film
from films.shots import Piece
from films.steady import BEFORE
from photo_files import PhotoError
from quantize import Decoding

COLORING = Coloring(16, Decoding(0.38, 313))
MADE = {"made": "with these options"}
FRAMES = 20


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Return a film of two shots, with sound, of four parts."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    return write_film(path, pan(0, 9) + pan(1, FRAMES - 9), sounds=["aac"], options={"g": "4"})


@pytest.fixture(scope="module")
def whole(colorizer, source, tmp_path_factory):
    """Return the bytes of the film colored in one go."""
    out = tmp_path_factory.mktemp("whole") / "out.mp4"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PART_SECONDS", 0.25)
        color_film(colorizer, open_film(source), COLORING, out, MADE, Piece(), (), 1)
    return out.read_bytes()


@pytest.fixture
def run(colorizer, source, tmp_path, short_parts):
    """Give tests `run(name, ...)`, which colors the film as a file and returns the file."""

    def color(name="out.mp4", path=source, coloring=COLORING, made=MADE, workers=2, **piece):
        out = tmp_path / name
        how = (coloring, out, made, Piece(**piece), (), workers)
        return out, color_film(colorizer, open_film(path), *how)

    return color


@pytest.fixture
def painted(monkeypatch):
    """Give tests `painted()`: pts and pictures that were encoded since the last call.

    With earlier ones it fails unless pictures of one pts are the same.
    """
    write, seen = module.write_part, {}

    def write_seen(path, film, frames):
        def look():
            for pts, image in frames:
                seen[pts] = np.array(image)
                yield pts, image

        write(path, film, look())

    def give(before=None):
        found = dict(seen)
        seen.clear()
        for pts, image in (before or {}).items():
            assert pts not in found or np.array_equal(image, found[pts]), pts
        return found

    monkeypatch.setattr(module, "write_part", write_seen)
    return give


@pytest.fixture
def hidden(tmp_path):
    return module.Parts(tmp_path / "out.mp4", MADE).folder


def stop_at(monkeypatch, number, error):
    """Let the part of a number fail when it has a frame."""
    write, calls = module.write_part, []

    def write_some(path, film, frames):
        def some():
            for i, frame in enumerate(frames):
                if len(calls) == number and i == 1:
                    raise error
                yield frame

        calls.append(path)
        write(path, film, some())

    monkeypatch.setattr(module, "write_part", write_some)
    return calls


# ---- pictures ----------------------------------------------------------------------------------
def test_color_film_keeps_times_sound_size_and_lightness(run, source, tmp_path):
    out, notes = run()
    (times, ours), (stamps, true) = read_frames(out), read_frames(source)
    assert times == stamps
    assert ours.shape == true.shape
    assert packets_of(out, 1) == packets_of(source, 1)
    L, before = (rgb2lab(images.astype(np.uint8))[..., 0] for images in (ours, true))
    assert np.abs(L - before).mean() < 1.5
    ab, old = (rgb2lab(images.astype(np.uint8))[..., 1:] for images in (ours, true))
    assert np.abs(ab - old).mean() > 5
    assert notes == ["with colors of its own, colored anew from its lightness"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mp4"]


def test_color_film_does_not_depend_on_workers_or_on_where_parts_end(run, painted, monkeypatch):
    first = run(workers=1)[0].read_bytes()
    parts = painted()
    assert run("again.mp4", workers=5)[0].read_bytes() == first
    painted()
    monkeypatch.setattr(module, "PART_SECONDS", 10)
    write, calls = module.write_part, []
    monkeypatch.setattr(module, "write_part", lambda *x: (calls.append(x), write(*x)))
    times, _ = read_frames(run("whole.mp4")[0])
    assert len(calls) == 1
    assert parts.keys() == painted(parts).keys()
    assert len(times) == FRAMES


def test_color_film_of_gray_says_nothing_of_colors(run, tmp_path):
    gray = [np.repeat(frame[..., :1], 3, axis=-1) for frame in pan(3, 4)]
    assert run(path=write_film(tmp_path / "gray.mp4", gray))[1] == []


def test_color_frames_averages_over_frames_before_that_it_does_not_give(colorizer, source):
    def colored(begin, after):
        frames = list(open_film(source).frames())[begin:]
        after = frames[0].pts - 1 + 512 * after
        found = module.color_frames(colorizer, COLORING, frames, after, [], 2)
        return [(pts, np.asarray(image)) for pts, image in found]

    whole, rest, blind = colored(0, 0), colored(9 - BEFORE, BEFORE), colored(5, 0)
    assert [pts for pts, _ in rest] == [512 * k for k in range(9, FRAMES)]
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(rest, whole[9:], strict=True))
    assert blind[0][0] == whole[5][0]
    assert not np.array_equal(blind[0][1], whole[5][1])


# ---- going on ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("number", "error"),
    [*((i, KeyboardInterrupt()) for i in (1, 2, 3, 4)), (2, OSError(errno.EIO, "broken"))],
)
def test_color_film_goes_on_after_an_interruption_to_the_same_bytes(
    number, error, run, whole, hidden, monkeypatch, tmp_path
):
    with monkeypatch.context() as patch:
        calls = stop_at(patch, number, error)
        with pytest.raises(type(error)):
            run()
    assert len(calls) == number
    kept = {path.name: path.stat().st_mtime_ns for path in hidden.glob("*.nut")}
    names = ["000000_6_2560.nut", "000001_6_5632.nut", "000002_6_8704.nut"]
    assert sorted(kept) == names[: number - 1]
    assert sorted(p.name for p in hidden.iterdir()) == sorted(kept)
    assert not (tmp_path / "out.mp4").exists()
    join = module.join_parts

    def look(film, parts, *more):
        for path in parts[: len(kept)]:
            assert path.stat().st_mtime_ns == kept[path.name]  # not written again
        join(film, parts, *more)

    monkeypatch.setattr(module, "join_parts", look)
    out, _ = run()
    assert out.read_bytes() == whole
    assert not hidden.exists()


def test_color_film_that_was_killed_goes_on_to_the_same_bytes(
    run, whole, source, checkpoint, hidden, tmp_path
):
    code = f"""
import os, signal
from pathlib import Path
from coloring.photo import Coloring
from colorizer import load_colorizer
from films import color
from films.reading import open_film
from films.shots import Piece
from quantize import Decoding

write, color.PART_SECONDS = color.write_part, 0.25

def write_some(path, film, frames):
    def some():
        for i, frame in enumerate(frames):
            if frame[0] > 7000:
                os.kill(os.getpid(), signal.SIGKILL)
            yield frame
    write(path, film, some())

color.write_part = write_some
colorizer, film = load_colorizer(Path({str(checkpoint)!r}))[0], open_film(Path({str(source)!r}))
how = (Coloring(16, Decoding(0.38, 313)), Path({str(tmp_path)!r}) / "out.mp4", {MADE!r}, Piece())
color.color_film(colorizer, film, *how, (), 2)
"""
    assert run_script(CODE, code).returncode == -signal.SIGKILL
    assert len(list(hidden.glob("0*.nut"))) == 2
    assert run()[0].read_bytes() == whole
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.mp4"]


def test_color_film_goes_on_where_only_joining_was_left(run, whole, hidden, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module, "join_parts", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run()
    monkeypatch.setattr(module, "write_part", lambda *_: 1 / 0)
    assert len(list(hidden.glob("0*.nut"))) == 4
    assert run()[0].read_bytes() == whole


def test_color_film_neither_takes_nor_deletes_parts_that_were_made_otherwise(
    run, whole, hidden, monkeypatch, tmp_path
):
    with monkeypatch.context() as patch:
        stop_at(patch, 2, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run(coloring=replace(COLORING, decoding=Decoding(1.0, 313)), made={"made": "else"})
    other = module.Parts(tmp_path / "out.mp4", {"made": "else"})
    assert other.folder != hidden
    assert run()[0].read_bytes() == whole
    assert not hidden.exists()
    assert [path.name for path in other.paths] == ["000000_6_2560.nut"]


def test_color_film_goes_on_where_only_the_name_was_left(run, whole, hidden, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module.Parts, "finish", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run()
    assert (hidden / "out.mp4").exists()
    monkeypatch.setattr(module, "join_parts", lambda *_: 1 / 0)
    assert run()[0].read_bytes() == whole
    assert not hidden.exists()


def test_color_film_never_overwrites(run, tmp_path):
    (tmp_path / "out.mp4").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="exists, and is never overwritten"):
        run()
    assert (tmp_path / "out.mp4").read_bytes() == b"mine"


# ---- full disks --------------------------------------------------------------------------------
def test_color_film_on_a_full_disk_loses_nothing_done(colorizer, source, whole, mount, short_parts):
    disk = mount(max(24, len(whole) // 1024))
    how = (COLORING, disk / "out.mp4", MADE, Piece(), (), 2)
    with pytest.raises(OSError, match="No space") as failed:
        color_film(colorizer, open_film(source), *how)
    assert failed.value.errno == errno.ENOSPC
    left = [path.name for path in disk.rglob("*") if path.is_file()]
    assert not [name for name in left if name.endswith((".tmp", ".mp4"))]
    done = {path: path.read_bytes() for path in disk.rglob("0*.nut")}
    assert done
    subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
    color_film(colorizer, open_film(source), *how)
    assert (disk / "out.mp4").read_bytes() == whole
    assert [path.name for path in disk.iterdir()] == ["out.mp4"]


# ---- pieces ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("start", "end", "first", "last"),
    [
        (None, 0.25, 0, 5),
        (0.25, None, 6, 19),
        (0.25, 0.5, 6, 11),
        (0.26, 0.51, 7, 12),
        (0.2, 0.3, 5, 7),
        (0, 99, 0, 19),
        (0.292, 0.333, 7, 7),  # frames 7 and 8, in thousandths
        (0.208, 0.375, 5, 8),  # to the end of a shot
    ],
)
def test_color_film_colors_a_piece_as_in_the_whole_film(start, end, first, last, run, painted):
    """Frames at its end see none after it, unless the shot ends there; all others are the same."""
    run("whole.mp4")
    whole = painted()
    times, _ = read_frames(run(start=start, end=end)[0])
    np.testing.assert_allclose(times, [k / RATE for k in range(last - first + 1)], atol=1e-6)
    found = painted()
    assert list(found) == [512 * k for k in range(first, last + 1)]
    sees_all = {
        512 * k for k in range(FRAMES) if last in (8, 19) or k <= max(8 * (last > 8), last - 4)
    }
    assert all(np.array_equal(found[pts], whole[pts]) for pts in found.keys() & sees_all)


def test_color_film_of_a_piece_keeps_its_sound_in_step(run, source):
    out = run(start=0.25, end=0.5)[0]
    sound = [(time, data) for time, data in packets_of(source, 1) if 0.25 <= time < 0.5]
    found = packets_of(out, 1)
    assert [data for _, data in found] == [data for _, data in sound]
    np.testing.assert_allclose(
        [float(time) for time, _ in found], [float(time) - 0.25 for time, _ in sound], atol=1e-4
    )


def test_color_film_of_a_piece_counts_from_the_first_frame(run, tmp_path):
    how = {"begin": Fraction(3), "base": Fraction(1, 1000), "sounds": ["aac"]}
    stamps = [42 * k for k in range(12)]
    path = write_film(tmp_path / "late.mkv", pan(0, 12), stamps=stamps, **how)
    for start, first in ((0.2, 5), (None, 0)):
        out = run(f"{first}.mkv", path=path, start=start, end=0.4)[0]
        times, _ = read_frames(out)
        np.testing.assert_allclose(times, [0.042 * k for k in range(10 - first)], atol=0.0011)
        begin = 3 + 0.042 * first
        sound = [time for time, _ in packets_of(path, 1) if begin <= time < 3.4]
        assert len(packets_of(out, 1)) == len(sound)


@pytest.mark.parametrize("piece", [{"start": 5.0}, {"start": 0.26, "end": 0.27}])
def test_color_film_says_that_a_piece_holds_no_frame(piece, run, tmp_path):
    with pytest.raises(PhotoError, match="without a frame between --start and --end"):
        run(**piece)
    assert list(tmp_path.iterdir()) == []


def test_color_film_counts_what_is_damaged(run, tmp_path):
    path = write_film(tmp_path / "bad.mp4", pan(0, 20), options={"g": "4"})
    spoil(path, [9])
    notes = run(path=path)[1]
    assert any("damaged packets, where the frame before stays longer" in note for note in notes)
