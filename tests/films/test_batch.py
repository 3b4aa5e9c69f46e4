"""Films among a user's photographs, as typed."""

import errno
import os
import shutil
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from made_films import packets_of, write_film, write_sound
from pictures import write_photo, write_strokes
from PIL import Image
from scenes import SIZE, pan, read_frames

from common import files
from films import batch, containers
from films import color as coloring
from photo_files.finding import RECORD


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Return a film of two shots, ten frames each, with sound."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    return write_film(path, pan(0, 10) + pan(1, 10), sounds=["aac"])


@pytest.fixture
def films(kept, tmp_path):
    """Give tests `films(*names)`: paths of that film below tmp_path/films."""

    def copy(*names):
        for name in names:
            path = tmp_path / "films" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(kept, path)
            os.utime(path, (1e9, 1e9))
        return [tmp_path / "films" / name for name in names]

    return copy


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def names(folder):
    """Return the names of what is in a folder but locks and the record, hidden ones too."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if not name.endswith((".lock", RECORD)))


def reasons(printed):
    """Return why files were skipped, by their names."""
    lines = [line.removeprefix("skipped ") for line in printed.split("\n") if "skipped /" in line]
    return {Path(where).name: why for where, _, why in (line.partition(": ") for line in lines)}


def fail_once(monkeypatch, name, error, at=1):
    """Let a function of the coloring of films raise an error at its call of a number."""
    function, calls = getattr(coloring, name), []

    def failing(*options):
        calls.append(name)
        if len(calls) == at:
            raise error
        return function(*options)

    monkeypatch.setattr(coloring, name, failing)


# ---- folders -----------------------------------------------------------------------------------
def test_a_folder_of_photographs_and_films_is_colored_and_what_is_broken_named(
    color, films, out, kept, tmp_path
):
    folder = films("film.mp4", "deep/other.mov", "broken.mkv")[0].parent
    (folder / "broken.mkv").write_bytes(kept.read_bytes()[:200])
    (folder / "empty.avi").touch()
    (folder / "text.mp4").write_text("a text\n" * 100)
    write_sound(folder / "sound.m4v")
    (folder / "folder.mp4").mkdir()
    (folder / "._film.mp4").write_text("of macOS")
    write_photo(folder / "photo.png")
    write_photo(folder / "folder.mp4" / "inside.jpg")
    (folder / "bad.jpg").write_text("no picture")
    status, printed = color(folder)
    assert status == 1
    made = ["deep/other.mp4", "film.mp4", "folder.mp4/inside.jpg", "photo.png"]
    assert names(out) == made
    found = reasons(printed)
    assert set(found) == {"broken.mkv", "empty.avi", "text.mp4", "sound.m4v", "bad.jpg"}
    assert found["empty.avi"] == "the file is empty"
    assert found["text.mp4"].startswith("not a film that FFmpeg reads")
    assert found["sound.m4v"].startswith("without a track of moving pictures")
    assert f"{out}: 2 photographs colored, 1 skipped" in printed
    assert f"{out}: 2 films colored, 4 skipped" in printed
    assert "2  with colors of its own, colored anew" in printed
    assert packets_of(out / "film.mp4", 1) == packets_of(kept, 1)


def test_what_there_is_none_of_is_not_counted(color, films, tmp_path):
    status, printed = color(*films("film.mp4"))
    assert (status, "photographs" in printed) == (0, False)
    status, printed = color(write_photo(tmp_path / "a.png"), out="other")
    assert (status, "films" in printed) == (0, False)


def test_films_whose_names_would_be_one_are_kept_apart(color, films, out):
    paths = films("a.mov", "a.mp4", "sub/a.mp4", "a.m4v")
    assert color(*paths)[0] == 0
    assert names(out) == ["a (2).mp4", "a.m4v.mp4", "a.mov.mp4", "a.mp4"]
    assert color(*reversed(paths))[1].count("4 done before") == 1


def test_a_matroska_film_stays_one(color, out, tmp_path):
    assert color(write_film(tmp_path / "a.mkv", pan(0, 3)))[0] == 0
    assert names(out) == ["a.mkv"]


def test_what_is_not_as_one_may_expect_is_said(color, tmp_path):
    path = write_film(tmp_path / "odd.mp4", pan(0, 3, (65, 49)), pixels="yuv444p")
    assert "odd.mp4: odd size: written as 4:4:4" in color(path)[1]


@pytest.mark.parametrize(
    "name", ["new\nline.mp4", os.fsdecode(b"latin\xe9.mp4"), "[a]*?.mp4", "é.mp4"]
)
def test_odd_names_are_colored_and_kept(name, color, films, out):
    folder = films(name)[0].parent
    assert color(folder)[0] == 0
    assert names(out) == [name]


def test_a_pipe_and_a_name_too_long_are_skipped_and_the_next_film_is_colored(
    color, films, out, tmp_path
):
    long = "x" * 250 + ".mp4"
    folder = films(long, "z.mp4")[0].parent
    os.mkfifo(folder / "pipe.mp4")
    status, printed = color(folder)
    assert (status, names(out)) == (1, ["z.mp4"])
    assert reasons(printed)[long] == "its name is too long to be written under"
    status, printed = color(folder / "pipe.mp4", folder / "z.mp4")
    assert (status, reasons(printed)["pipe.mp4"]) == (1, "a pipe or a device, not a file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_film_without_permission_is_skipped(color, films):
    (path,) = films("film.mp4")
    path.chmod(0)
    status, printed = color(path)
    assert (status, reasons(printed)["film.mp4"]) == (1, "Permission denied")


# ---- options of photographs --------------------------------------------------------------------
@pytest.mark.parametrize("options", [["--samples", 2], ["--uncertainty", "--compare"]])
def test_films_are_colored_once_whatever_photographs_get(options, color, films, out, tmp_path):
    assert "change nothing" not in color(*films("film.mp4"))[1]
    plain = (out / "film.mp4").read_bytes()
    printed = color(films("film.mp4")[0], *options)[1]
    assert (
        "films are colored once: --samples, --uncertainty and --compare change nothing" in printed
    )
    assert "1 done before" in printed
    shutil.rmtree(out)
    color(films("film.mp4")[0], write_photo(tmp_path / "a.png"), *options, "--format", "jpg")
    assert (out / "film.mp4").read_bytes() == plain
    assert [name for name in names(out) if "film" in name] == ["film.mp4"]


# ---- without PyAV ------------------------------------------------------------------------------
@pytest.fixture
def without_av(monkeypatch):
    containers.load_av.cache_clear()
    monkeypatch.setitem(sys.modules, "av", None)
    yield
    containers.load_av.cache_clear()


@pytest.mark.usefixtures("without_av")
def test_without_pyav_films_are_skipped_with_what_to_type(color, films, out):
    folder = films("a.mp4", "b.mkv")[0].parent
    write_photo(folder / "photo.png")
    status, printed = color(folder)
    assert (status, names(out)) == (1, ["photo.png"])
    reason = "films need PyAV; type: pip install -r requirements-film.txt"
    assert reasons(printed) == {"a.mp4": reason, "b.mkv": reason}
    assert f"{out}: 0 films colored, 2 skipped" in printed
    assert reasons(color(folder, "--stills", out="stills")[1]) == reasons(printed)


# ---- the record --------------------------------------------------------------------------------
def test_the_same_command_again_does_nothing(color, films, out, monkeypatch):
    paths = films("film.mp4", "b.mp4")
    assert color(*paths)[0] == 0
    before = {name: (out / name).stat().st_mtime_ns for name in names(out)}
    monkeypatch.setattr(batch, "color_film", lambda *_: 1 / 0)
    status, printed = color(*paths)
    assert status == 0
    assert f"{out}: 0 films colored, 0 skipped, 2 done before" in printed
    assert {name: (out / name).stat().st_mtime_ns for name in names(out)} == before


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ("options", "with another checkpoint or other options"),
        ("piece", "with another checkpoint or other options"),
        ("checkpoint", "with another checkpoint or other options"),
        ("film", "from the file as it was before"),
        ("hints", "with other hints, or with none"),
        ("source", "from "),
        ("record", "not by this program"),
    ],
)
def test_what_was_made_otherwise_is_left_and_told(
    other, why, color, films, out, make_checkpoint, tmp_path
):
    (path,), more, how = films("film.mp4"), [], {}
    color(path, "--end", 0.1)
    before = (out / "film.mp4").read_bytes()
    if other == "options":
        more = ["--vividness", 0.7]
    elif other == "checkpoint":
        how = {"checkpoint": make_checkpoint(tmp_path / "other.pt", seed=1)}
    elif other == "film":
        os.utime(path, (2e9, 2e9))
    elif other == "hints":
        write_strokes(tmp_path / "hints" / "film-00_00_00.000.png", SIZE, (0, 0, 9, 9))
        more = ["--hints", tmp_path / "hints"]
    elif other == "source":
        (path,) = films("sub/film.mp4")
    elif other == "record":
        (out / RECORD).unlink()
    status, printed = color(path, "--end", 0.2 if other == "piece" else 0.1, *more, **how)
    assert status == 1
    assert f"exists already, made {why}" in reasons(printed)["film.mp4"]
    assert (out / "film.mp4").read_bytes() == before


def test_a_deleted_film_is_colored_again_to_the_same_bytes(color, films, out):
    (path,) = films("film.mp4")
    color(path)
    before = (out / "film.mp4").read_bytes()
    (out / "film.mp4").unlink()
    assert "1 films colored, 0 skipped" in color(path)[1]
    assert (out / "film.mp4").read_bytes() == before


@pytest.mark.usefixtures("short_parts")
@pytest.mark.parametrize("then", ["the same", "options", "film", "hints", "encoder"])
def test_an_interrupted_film_goes_on_with_its_own_parts_alone(
    then, color, films, out, tmp_path, monkeypatch
):
    (path,), more = films("film.mp4"), []
    with monkeypatch.context() as patch:
        fail_once(patch, "write_part", KeyboardInterrupt(), at=3)
        with pytest.raises(KeyboardInterrupt):
            color(path)
    assert len(list(out.glob(".film.mp4-parts-*/0*.nut"))) == 2
    if then == "options":
        more = ["--vividness", 0.7]
    elif then == "film":
        write_film(path, pan(2, 20))
    elif then == "hints":
        write_strokes(tmp_path / "hints" / "film-00_00_00.000.png", SIZE, (0, 0, 9, 9))
        more = ["--hints", tmp_path / "hints"]
    elif then == "encoder":
        monkeypatch.setattr(av, "__version__", "another")
    write, calls = coloring.write_part, []
    monkeypatch.setattr(coloring, "write_part", lambda *x: (calls.append(x), write(*x)))
    status, _ = color(path, *more)
    assert (status, len(calls)) == (0, 2 if then == "the same" else 4)
    assert [name for name in names(out) if not name.startswith(".")] == ["film.mp4"]
    assert len(list(out.glob(".film.mp4-parts-*"))) == (then != "the same")  # the first ones stay
    assert color(path, *more, out="whole")[0] == 0
    assert (out / "film.mp4").read_bytes() == (tmp_path / "whole" / "film.mp4").read_bytes()


# ---- what fails --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "not enough memory to color it"),
        (av.error.ExternalError(1, "a strange thing"), "FFmpeg says: a strange thing"),
        (av.error.InvalidDataError(1, "broken"), "FFmpeg says: broken"),
    ],
)
def test_what_one_film_fails_by_leaves_the_next(error, reason, color, films, out, monkeypatch):
    fail_once(monkeypatch, "write_part", error)
    status, printed = color(*films("a.mp4", "b.mp4"))
    assert (status, reasons(printed)) == (1, {"a.mp4": reason})
    assert "1 films colored, 1 skipped" in printed
    assert "b.mp4" in names(out)


@pytest.mark.parametrize("error", [KeyError("a fault"), av.error.OSError(errno.EIO, "a disk")])
def test_a_fault_of_ours_and_a_failing_disk_end_the_command(error, color, films, monkeypatch):
    fail_once(monkeypatch, "write_part", error)
    with pytest.raises(type(error)):
        color(*films("a.mp4", "b.mp4"))


def test_a_full_disk_ends_the_command_and_keeps_what_is_done(color, films, out, monkeypatch):
    paths = films("a.mp4", "b.mp4")
    with monkeypatch.context() as patch:
        fail_once(patch, "join_parts", OSError(errno.ENOSPC, "No space left", "b.mp4"), at=2)
        with pytest.raises(OSError, match="No space left"):
            color(*paths)
    assert "a.mp4" in names(out)
    assert "b.mp4" not in names(out)
    assert color(*paths)[1].count("1 films colored, 0 skipped, 1 done before") == 1
    assert names(out) == ["a.mp4", "b.mp4"]


def test_a_second_command_at_the_same_time_is_refused(color, films, out, monkeypatch):
    monkeypatch.setattr(files, "PATIENCE", 0.1)
    paths, write, refused = films("film.mp4"), coloring.write_part, []

    def write_and_try(*part):
        with pytest.raises(BlockingIOError, match="another process is writing here") as failed:
            color(*paths)
        refused.append(failed)
        return write(*part)

    monkeypatch.setattr(coloring, "write_part", write_and_try)
    assert color(*paths)[0] == 0
    assert len(refused) == 1
    assert names(out) == ["film.mp4"]


# ---- several processes -------------------------------------------------------------------------
def test_ranks_share_films(color, films, out, monkeypatch):
    folder = films("a.mp4", "a.mov", "b.mp4", "c.mp4", "d.mp4")[0].parent
    (folder / "bad.mp4").write_text("text")
    monkeypatch.setenv("WORLD_SIZE", "2")
    seen, statuses = set(), []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        status, printed = color(folder, "--end", 0.1)
        statuses.append(status)
        found = set(names(out)) - seen
        assert 2 <= len(found) <= 3
        assert f"{len(found)} films colored" in printed
        assert "done before" not in printed
        seen |= found
    assert sorted(statuses) == [0, 1]  # one had bad.mp4
    assert sorted(seen) == ["a.mov.mp4", "a.mp4", "b.mp4", "c.mp4", "d.mp4"]
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert "5 done before" in color(folder, "--end", 0.1)[1]


# ---- stills and hints --------------------------------------------------------------------------
def test_stills_are_asked_about_and_their_hints_color_the_film(color, films, out, tmp_path):
    (path,) = films("deep/film.mp4")
    status, printed = color(path.parents[1], "--stills", out="stills")
    stills = ["deep/film-00_00_00.167.jpg", "deep/film-00_00_00.583.jpg"]
    assert (status, names(tmp_path / "stills")) == (0, stills)
    assert "2 stills, 0 films skipped; --images " in printed
    status, _ = color(tmp_path / "stills", "--ask", 3, out="hints")
    hints = [name.replace(".jpg", ".png") for name in stills]
    assert (status, names(tmp_path / "hints")) == (0, hints)
    status, printed = color(path.parents[1], "--hints", tmp_path / "hints")
    assert status == 0
    assert "1  with pictures of hints without a stroke" in printed
    plain = read_frames(out / "deep" / "film.mp4")[1]
    painted = Image.open(tmp_path / "hints" / hints[1])
    painted.paste((200, 20, 30, 255), (0, 0, 30, 48))
    painted.save(tmp_path / "hints" / hints[1])
    how = [path.parents[1], "--hints", tmp_path / "hints"]
    assert "with other hints" in reasons(color(*how)[1])["film.mp4"]
    shutil.rmtree(out)
    status, printed = color(*how)
    assert (status, "1  with hints in 1 shots" in printed) == (0, True)
    ours = read_frames(out / "deep" / "film.mp4")[1]
    assert np.abs(ours[:10] - plain[:10]).mean() < 1  # x264 alone
    assert np.abs(ours[10:] - plain[10:]).mean((1, 2, 3)).min() > 5


def test_stills_go_on_after_an_interruption_and_are_never_overwritten(color, films, tmp_path):
    (path,), stills = films("film.mp4"), tmp_path / "stills"
    color(path, "--stills", out="stills")
    first, second = names(stills)
    (stills / first).write_bytes(b"mine")
    (stills / second).unlink()
    status, printed = color(path, "--stills", out="stills")
    assert (status, names(stills)) == (0, [first, second])
    assert "2 stills (1 there before), 0 films skipped" in printed
    assert (stills / first).read_bytes() == b"mine"


def test_stills_of_a_piece_and_of_none(color, films, tmp_path):
    (path,) = films("film.mp4")
    assert color(path, "--stills", "--start", "0.5", out="stills")[0] == 0
    assert names(tmp_path / "stills") == ["film-00_00_00.625.jpg"]
    status, printed = color(path, "--stills", "--start", "9", out="none")
    assert (status, reasons(printed)["film.mp4"]) == (
        1,
        "without a frame between --start and --end",
    )
    assert "paint on" not in printed


def test_stills_of_films_that_differ_in_their_ending_do_not_mix(color, films, tmp_path):
    folder = films("a.mp4", "a.mov", "b/a.mp4")[0].parent
    status, printed = color(folder, "--stills", out="stills")
    assert (status, len(names(tmp_path / "stills"))) == (1, 4)
    assert reasons(printed) == {"a.mp4": batch.SAME_NAME}


def test_stills_of_what_cannot_be_used_are_told(color, films, tmp_path):
    with pytest.raises(FileNotFoundError, match="no films found, which --stills needs"):
        color(write_photo(tmp_path / "a.png"), "--stills", out="stills")
    folder = films("film.mp4")[0].parent
    (folder / "bad.mp4").write_text("text")
    status, printed = color(folder, "--stills", out="stills")
    assert (status, set(reasons(printed))) == (1, {"bad.mp4"})
    assert "2 stills, 1 films skipped" in printed


def test_ask_says_that_it_takes_stills_of_films(color, films, tmp_path):
    folder = films("film.mp4")[0].parent
    write_photo(folder / "photo.png")
    status, printed = color(folder, "--ask", 2, out="hints")
    assert (status, names(tmp_path / "hints")) == (1, ["photo.png"])
    assert reasons(printed) == {"film.mp4": "a film; --stills writes pictures of it"}


def test_hints_for_nothing_are_refused(color, films, tmp_path):
    paths, hints = films("film.mp4"), tmp_path / "hints"
    with pytest.raises(FileNotFoundError, match="expected a folder, found nothing"):
        color(*paths, "--hints", hints)
    write_strokes(hints / "film-1.png", SIZE, (0, 0, 9, 9))
    write_strokes(hints / "film2-00_00_01.000.png", SIZE, (0, 0, 9, 9))
    with pytest.raises(FileNotFoundError, match=r"no hints.*expected .*film-00_00_00.000.png"):
        color(*paths, "--hints", hints)


def test_films_and_photographs_without_hints_are_counted(color, films, tmp_path):
    folder, hints = films("a.mp4", "b.mp4")[0].parent, tmp_path / "hints"
    write_photo(folder / "c.png")
    write_strokes(hints / "a-00_00_00.500.png", SIZE, (0, 0, 9, 9))
    write_strokes(hints / "stray.png", SIZE, (0, 0, 9, 9))
    status, printed = color(folder, "--hints", hints, "--end", 0.1)
    assert status == 0
    assert "no hints for 2 of the photographs" in printed
    assert "1 of its pictures belong to none" in printed


def test_a_still_that_cannot_be_used_skips_its_film_alone(color, films, out, tmp_path):
    folder, hints = films("a.mp4", "b.mp4")[0].parent, tmp_path / "hints"
    write_strokes(hints / "a-00_00_00.500.png", (9, 9), (0, 0, 3, 3))
    write_strokes(hints / "b-00_00_00.500.png", SIZE, (0, 0, 9, 9))
    status, printed = color(folder, "--hints", hints)
    assert (status, set(reasons(printed))) == (1, {"a.mp4"})
    assert "9 x 9 pixels, expected the photograph's 64 x 48" in reasons(printed)["a.mp4"]
    assert "b.mp4" in names(out)


# ---- pieces ------------------------------------------------------------------------------------
def test_start_and_end_choose_frames_of_each_film(color, films, out):
    status, _ = color(*films("a.mp4", "b.mp4"), "--start", "0.25", "--end", "0:00.5")
    assert status == 0
    for name in ("a.mp4", "b.mp4"):
        times, images = read_frames(out / name)
        assert len(images) == 6
        np.testing.assert_allclose(times, [k / 24 for k in range(6)], atol=1e-6)
    status, printed = color(*films("c.mp4"), "--start", "7")
    assert (status, reasons(printed)["c.mp4"]) == (1, "without a frame between --start and --end")
    assert names(out) == ["a.mp4", "b.mp4"]
