"""What --images stands for, as generate.py takes it."""

import os
import zipfile
from pathlib import Path

import pytest
from pictures import write_photo
from PIL import Image
from written import written

from coloring.sources import find_sources


# ---- trees and names ---------------------------------------------------------------------------
def test_images_keep_their_tree_and_formats(color, tmp_path):
    root = tmp_path / "scans"
    for name in ("a.jpg", "deep/er/b.webp", "deep/c.bmp", "d.gif", "e.tif"):
        write_photo(root / name)
    (root / "notes.txt").write_text("no photograph")
    status, printed = color(root)
    assert status == 0
    out = tmp_path / "out"
    assert written(out) == ["a.jpg", "d.png", "deep/c.bmp", "deep/er/b.webp", "e.tif"]
    kinds = [Image.open(out / name).format for name in written(out)]
    assert kinds == ["JPEG", "PNG", "BMP", "WEBP", "TIFF"]
    assert "5 photographs colored, 0 skipped" in printed


def test_out_inside_the_images_is_left_out(color, tmp_path):
    write_photo(tmp_path / "a.png")
    assert color(tmp_path)[0] == 0
    for again in ([tmp_path], [tmp_path / "*" / "*.png", tmp_path / "a.png"]):
        status, _ = color(*again)
        assert (status, written(tmp_path / "out")) == (0, ["a.png"])
    with pytest.raises(ValueError, match="name another --out"):
        color(tmp_path / "out")


def test_links_keep_their_names(color, tmp_path):
    path = write_photo(tmp_path / "scans" / "a.png")
    (tmp_path / "scans" / "b.png").symlink_to(path)
    assert color(tmp_path / "scans")[0] == 0
    assert written(tmp_path / "out") == ["a.png", "b.png"]


def test_a_pipe_is_skipped_unread(color, tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    status, printed = color(tmp_path / "pipe.jpg", write_photo(tmp_path / "a.png"))
    assert (status, written(tmp_path / "out")) == (1, ["a.png"])
    assert "pipe.jpg: a pipe or a device" in printed


# ---- globs and zips ----------------------------------------------------------------------------
def test_globs_keep_the_tree_below_their_first_wildcard(color, tmp_path):
    for name in ("1950/a.png", "1950/b.jpg", "1961/a.png", "1961/deep/c.png"):
        write_photo(tmp_path / "scans" / name)
    (tmp_path / "scans" / "1950" / "x.txt").touch()
    assert color(tmp_path / "scans" / "*" / "*.png")[0] == 0
    assert written(tmp_path / "out") == ["1950/a.png", "1961/a.png"]
    assert color(tmp_path / "scans" / "19*")[0] == 0
    assert written(tmp_path / "out") == [
        "1950/a.png",
        "1950/b.jpg",
        "1961/a.png",
        "1961/deep/c.png",
    ]
    assert "2 done before" in color(tmp_path / "scans" / "1950" / "*")[1]


def test_a_name_that_looks_like_a_glob_is_a_name(color, tmp_path):
    assert color(write_photo(tmp_path / "a[1].png"))[0] == 0
    assert written(tmp_path / "out") == ["a[1].png"]


def test_zips_keep_their_tree_inside_out(color, tmp_path):
    photo = write_photo(tmp_path / "x.png").read_bytes()
    with zipfile.ZipFile(tmp_path / "album.zip", "w") as file:
        for name in (
            "a/1.png",
            "b/1.png",
            "../../evil.png",
            "c\\2.png",
            "__MACOSX/._1.png",
            "t.txt",
        ):
            file.writestr(name, photo)
        file.writestr("bad.png", b"")
    status, printed = color(tmp_path / "album.zip")
    assert status == 1
    assert written(tmp_path / "out") == ["a/1.png", "b/1.png", "c/2.png", "evil.png"]
    assert not (tmp_path.parent / "evil.png").exists()
    assert "album.zip/bad.png: the file is empty" in printed
    (tmp_path / "album.zip").write_bytes(b"no zip")
    status, printed = color(tmp_path / "album.zip", tmp_path / "x.png")
    assert status == 1
    assert "album.zip: expected a whole zip, found a damaged one" in printed
    assert "x.png" in written(tmp_path / "out")


def test_members_of_a_zip_that_stand_for_one_path_are_kept_apart(color, tmp_path):
    with zipfile.ZipFile(tmp_path / "scans.zip", "w") as archive:
        for seed, name in enumerate(("a.png", "../a.png", "/a.png")):
            path = write_photo(tmp_path / "made" / f"{seed}.png", seed=seed)
            archive.writestr(name, path.read_bytes())
    status, output = color(tmp_path / "scans.zip")
    assert status == 0, output
    assert len(written(tmp_path / "out")) == 3


# ---- what is left out --------------------------------------------------------------------------
def test_what_was_colored_before_is_no_photograph(color, tmp_path):
    write_photo(tmp_path / "scans" / "a.png")
    write_photo(tmp_path / "scans" / ".trash" / "b.png")
    color(tmp_path / "scans", "--out", tmp_path / "scans" / "colored")
    status, printed = color(tmp_path / "scans", "--out", tmp_path / "scans" / "bold")
    assert status == 0
    assert "1 photographs colored, 0 skipped" in printed


def test_a_folder_that_cannot_be_read_is_skipped_and_named(color, tmp_path, monkeypatch):
    write_photo(tmp_path / "scans" / "a.png")
    (tmp_path / "scans" / "locked").mkdir()
    scan = os.scandir

    def refuse(folder):
        if str(folder).endswith("locked"):  # to root nothing is locked
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    status, printed = color(tmp_path / "scans")
    assert status == 1
    assert f"skipped {tmp_path / 'scans' / 'locked'}: permission denied" in printed


def test_missing_images_are_named(color, tmp_path):
    for name in ("nowhere", "no*.jpg"):
        with pytest.raises(FileNotFoundError, match=name.replace("*", r"\*")):
            color(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no photographs found"):
        color(tmp_path / "empty")
    assert not (tmp_path / "out").exists()


def test_photos_named_inside_out_and_empty_folders_are_told(color, tmp_path):
    inside = write_photo(tmp_path / "out" / "old.png")
    empty = tmp_path / "empty"
    empty.mkdir()
    status, output = color(inside, empty, write_photo(tmp_path / "a.png"))
    assert status == 1
    assert "old.png: it lies in --out; name another --out" in output
    assert f"{empty}: no photographs in it" in output
    assert (tmp_path / "out" / "a.png").exists()


# ---- sources -----------------------------------------------------------------------------------
def test_find_sources_gives_each_photograph_once(tmp_path):
    path = write_photo(tmp_path / "scans" / "a.png")
    write_photo(tmp_path / "scans" / "deep" / "b.png")
    paths = [tmp_path / "scans", path, tmp_path / "scans" / "*.png", tmp_path / "scans" / "deep"]
    found, skipped = find_sources(paths, tmp_path / "out")
    assert sorted(Path(source.where).name for source in found) == ["a.png", "b.png"]
    assert skipped == []
    assert all(source.read() == Path(source.where).read_bytes() for source in found)


def test_the_stamp_of_a_source_changes_with_its_file(tmp_path):
    path = write_photo(tmp_path / "a.png")
    ((before,), _), ((same,), _) = (find_sources([path], tmp_path / "out") for _ in range(2))
    path.write_bytes(path.read_bytes() + b"more")
    (after,), _ = find_sources([path], tmp_path / "out")
    assert before.stamp == same.stamp != after.stamp
