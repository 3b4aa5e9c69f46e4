"""Picture files found in folders, and their bytes."""

import os

import pytest

from photo_files.finding import find_files, is_photo_name, normalize_name
from photo_files.opening import PhotoError, read_bytes


def test_find_files_walks_a_tree(tmp_path):
    root, ours = tmp_path / "pictures", tmp_path / "pictures" / "out"
    wanted = ["._a.jpg", "a.jpg", "notes.txt", "summer/lake/c.webp", "summer/out/d.tif"]
    wanted += ["x.jpg/e.gif"]
    unwanted = ["out/g.jpg"]
    for name in wanted + unwanted:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "summer" / "loop").symlink_to(root, target_is_directory=True)
    (root / "x.jpg" / "circle.png").symlink_to(root / "x.jpg" / "circle.png")  # to be skipped
    os.mkfifo(root / "pipe.jpg")
    assert sorted(find_files(root, (ours,))) == sorted([*wanted, "x.jpg/circle.png"])


def test_find_files_skips_our_folder_by_any_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "out/b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for root, ours in ((tmp_path, "out"), (".", tmp_path / "out"), (".", "link")):
        assert list(find_files(tmp_path / root, without=(tmp_path / ours,))) == ["a.jpg"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jpg", True),
        ("b/A.JPEG", True),
        ("a.tar.png", True),
        ("a.pdf", False),  # Pillow writes these and does not read them
        ("film.mpg", False),  # Pillow knows these by name alone
        ("cache.h5", False),
        ("._a.jpg", False),
        ("b/._a.jpg", False),
        (".jpg", False),
    ],
)
def test_is_photo_name_knows_what_pillow_reads(name, expected):
    assert is_photo_name(name) == expected


def test_normalize_name_spells_accents_one_way():
    assert normalize_name("Cafe\u0301/e\u0301.jpg") == "Caf\u00e9/\u00e9.jpg"


def test_read_bytes_gives_the_reason_of_an_unreadable_file(tmp_path):
    with pytest.raises(PhotoError, match="No such file"):
        read_bytes(tmp_path / "gone.jpg")
    with pytest.raises(PhotoError, match="directory"):
        read_bytes(tmp_path)
