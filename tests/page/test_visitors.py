"""Who visits the page, and what they hold."""

import io
import os
import time
from types import SimpleNamespace

import pytest

from coloring.hints import MOST
from page import visitors as module
from page.answers import MOST_MEGABYTES
from page.visitors import LONGEST_STAY, MOST_PHOTOS, SHORT_STAY, STAY, Visitors, safe_name

RED = (200, 30, 20)


@pytest.fixture
def visitors(tmp_path):
    (tmp_path / "page").mkdir()
    return Visitors(tmp_path / "page", room=500_000)


def add_photo(visitors, session, name="a.jpg", size=100_000):
    """Let a visitor hold a photograph of so many bytes; return it."""
    visitor = visitors.visitor(session)
    path = visitors.store(name, io.BytesIO(b"x" * size), size)
    visitors.expect_photos(visitor, [*visitor.paths, path])
    (folder := visitor.folder / name).mkdir(parents=True)

    def delete():
        visitors.drop([path, folder / "before.jpg"])

    photo = SimpleNamespace(said=[], memory=0, uploaded=path, folder=folder, delete=delete)
    visitor.photos[path] = photo
    return photo


def files(visitors):
    return sorted(path.name for path in visitors.root.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a photo.jpg", "a photo.jpg"),
        ("../../etc/passwd", "passwd"),
        ("C:\\photos\\x.png", "x.png"),
        ("..", "photograph"),
        (".jpg", "jpg"),
        ("  . ", "photograph"),
        ("", "photograph"),
        ("a\0b<c>.jpg", "a_b_c_.jpg"),
        ("Größe 山.jpeg", "Größe 山.jpeg"),
        ("山" * 200 + ".jpg", "山" * 66 + ".jpg"),
        ("\udc80.jpg", "_.jpg"),
    ],
)
def test_safe_name_keeps_what_a_system_can_store(name, safe, tmp_path):
    assert safe_name(name) == safe_name(safe) == safe
    (tmp_path / safe_name(name)).touch()


def test_store_keeps_no_bytes_of_what_is_too_large(visitors):
    size = MOST_MEGABYTES * 10**6 + 1
    path = visitors.store("large.jpg", io.BytesIO(b"\xff"), size)
    assert path.stat().st_size == size
    assert path.stat().st_blocks * 512 < 10**6


def test_who_has_left_is_forgotten_after_some_time(visitors, monkeypatch):
    add_photo(visitors, "left", "left.jpg")
    add_photo(visitors, "here", "here.jpg")
    visitors.enter("here")
    visitors.store("alone.jpg", io.BytesIO(b"x"), 1)
    now, wall = time.monotonic(), time.time()
    for later, left in (
        (SHORT_STAY - 1, ["alone.jpg", "here.jpg", "left.jpg"]),
        (STAY - 1, ["here.jpg", "left.jpg"]),
        (STAY + 1, ["here.jpg"]),
        (LONGEST_STAY + 1, []),
    ):
        clock = SimpleNamespace(
            monotonic=lambda later=later: now + later, time=lambda later=later: wall + later
        )
        monkeypatch.setattr(module, "time", clock)
        visitors.sweep()
        assert files(visitors) == left
    visitors.leave("here")  # after it was forgotten
    assert not visitors.visitors


def test_who_has_nothing_is_forgotten_at_once(visitors):
    visitors.enter("a")
    visitors.enter("a")
    visitors.leave("a")
    assert "a" in visitors.visitors
    visitors.leave("a")
    assert not visitors.visitors


def test_photographs_that_the_browser_lists_no_more_are_deleted(visitors):
    kept, gone = (add_photo(visitors, "a", name) for name in ("kept.jpg", "gone.jpg"))
    kept.said.append((3, RED))
    visitor = visitors.visitor("a")
    visitors.expect_photos(visitor, [kept.uploaded])
    assert files(visitors) == ["kept.jpg"]
    assert visitor.photo.said == [(3, RED)]
    assert gone.uploaded not in visitor.photos


def test_a_visitor_has_so_many_photographs(visitors):
    paths = [visitors.store("a.jpg", io.BytesIO(b"x"), 1) for _ in range(MOST_PHOTOS + 2)]
    visitor = visitors.visitor("a")
    visitors.expect_photos(visitor, paths)
    assert visitor.paths == paths[:MOST_PHOTOS]
    assert len(files(visitors)) == MOST_PHOTOS
    assert visitor.faults == [f"{MOST_PHOTOS + 2} photographs: the first {MOST_PHOTOS} were taken"]


def test_room_is_for_all_visitors_and_those_who_left_make_room(visitors):
    add_photo(visitors, "left", size=300_000)
    add_photo(visitors, "here", size=150_000)
    visitors.enter("here")
    visitors.check_room()
    with pytest.raises(OSError, match=r"all visitors together may hold 0\.0005 GB of photographs"):
        visitors.check_room(100_000)
    visitors.visitors["left"].seen -= module.SHORT_STAY + 1
    visitors.check_room(100_000)
    assert list(visitors.visitors) == ["here"]
    visitors.arriving = 300_000
    with pytest.raises(OSError, match="delete some of yours"):
        visitors.check_room(100_000)
    visitors.arriving, visitors.visitors["here"].photo.memory = 0, 300_000
    with pytest.raises(OSError, match="try again later"):
        visitors.check_room(100_000)


def test_small_files_take_room_too(visitors):
    for _ in range(7):
        visitors.store("a.jpg", io.BytesIO(b""), 0)
    assert visitors.held() == 7 * module.SMALLEST


def test_a_failed_store_leaves_nothing(visitors):
    class Full(io.BytesIO):
        def read(self, *_):
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        visitors.store("a.jpg", Full(), 5)
    assert os.listdir(visitors.uploads) == []


def test_a_color_needs_a_place_and_has_a_limit(visitors):
    add_photo(visitors, "a")
    visitor = visitors.visitor("a")
    with pytest.raises(ValueError, match="click on a place of the photograph first"):
        visitor.say(RED)
    visitor.place = 3
    for _ in range(MOST):
        visitor.say(RED)
    assert visitor.photo.said == [(3, RED)] * MOST
    with pytest.raises(ValueError, match=f"{MOST} colors are the most"):
        visitor.say(RED)


def test_a_photograph_that_is_not_there_is_a_sentence(visitors):
    visitor = visitors.visitor("a")
    with pytest.raises(ValueError, match="no such photograph here; drop it on the page again"):
        _ = visitor.photo
    add_photo(visitors, "a")
    with pytest.raises(ValueError, match="photograph 1: there are 1"):
        visitor.choose(1)
    visitor.place, visitor.offered = 3, [RED]
    visitor.choose(0)
    assert (visitor.place, visitor.offered) == (None, [])
