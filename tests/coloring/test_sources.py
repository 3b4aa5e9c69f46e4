"""What --images stands for, as generate.py takes it."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from encoding import ORIENTATION, encode_turned, require_format
from pictures import make_patches, write_files, write_photo, write_strokes
from PIL import Image
from skimage.color import rgb2lab
from written import lightness, written

from coloring import sources as module
from coloring.sources import (
    describe_lacking,
    file_source,
    find_sources,
    find_stills,
    find_strokes,
    lies_in,
    read_time,
    write_time,
)
from photo_files.opening import PhotoError


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


def test_what_is_passed_over_is_told_and_is_no_failure(color, tmp_path):
    scans, album = tmp_path / "scans", tmp_path / "album"
    photo = write_photo(scans / "a.jpg").read_bytes()
    for name in ("b.NEF", "notes.txt"):
        (scans / name).write_bytes(b"nothing")
    (scans / "deep").mkdir()
    (scans / "deep" / "picture").write_bytes(photo)
    write_photo(album / "b.jpg")
    (scans / "link").symlink_to(album)
    raw = f"left out: 1 RAW file of a camera ({scans / 'b.NEF'}, for one): develop RAW to JPEG or"
    link = f"left out: 1 linked folder ({scans / 'link'}, for one): a link is not followed"
    unnamed = (
        f"left out: 1 photograph without a photograph's ending ({scans}/deep/picture, for one)"
    )
    status, printed = color(scans)
    told = printed.partition("1 photographs colored, 0 skipped")[2]
    assert status == 0
    assert all(line in told for line in (raw, link, unnamed))
    assert printed.count("left out") == 3
    status, printed = color(scans, album)  # as it says: the target is named
    assert (status, "linked" in printed) == (0, False)
    assert raw in color(scans / "*")[1]
    for path in (scans / "*.NEF", scans / "deep"):
        with pytest.raises(FileNotFoundError, match=r"no photographs found; 1 .*, for one\): "):
            color(path)


def test_heic_is_colored_upright_where_its_package_is(color, tmp_path):
    require_format("HEIF")
    upright = np.asarray(make_patches((96, 64), 3))
    data = encode_turned(upright, 6, "HEIF", quality=95)
    write_files(tmp_path / "scans", {"IMG_1.HEIC": data})
    status, printed = color(tmp_path / "scans")
    assert (status, "left out" in printed) == (0, False)
    with Image.open(tmp_path / "out" / "IMG_1.png") as colored:
        assert (colored.size, colored.getexif()[ORIENTATION]) == ((96, 64), 1)
    off = lightness(tmp_path / "out" / "IMG_1.png") - rgb2lab(upright)[..., 0]
    assert np.abs(off).mean() < 2


def test_asking_tells_what_is_passed_over(color, tmp_path):
    write_photo(tmp_path / "scans" / "a.jpg")
    (tmp_path / "scans" / "b.CR2").touch()
    status, printed = color(tmp_path / "scans", "--ask", 1)
    assert status == 0
    assert "left out: 1 RAW file of a camera" in printed.partition("to paint on")[2]


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
    found, skipped, left_out = find_sources(paths, tmp_path / "out")
    assert sorted(Path(source.where).name for source in found) == ["a.png", "b.png"]
    assert skipped == left_out == []
    assert all(source.read() == Path(source.where).read_bytes() for source in found)


def test_the_stamp_of_a_source_changes_with_its_file(tmp_path):
    path = write_photo(tmp_path / "a.png")
    before, same = (find_sources([path], tmp_path / "out")[0][0] for _ in range(2))
    path.write_bytes(path.read_bytes() + b"more")
    after = find_sources([path], tmp_path / "out")[0][0]
    assert before.stamp == same.stamp != after.stamp


# ---- hints -------------------------------------------------------------------------------------
@pytest.fixture
def hints(tmp_path):
    return tmp_path / "hints"


def sources_of(*paths, hints=None):
    """Return the photographs that paths stand for."""
    return find_sources(list(paths), paths[0].parent / "never", hints)[0]


def strokes_of(sources, folder):
    """Return the names of the photographs' pictures of strokes."""
    found = find_strokes(sources, folder)
    return [source.strokes and source.strokes.relative_to(folder).as_posix() for source in found]


@pytest.mark.parametrize(
    ("photo", "strokes", "found"),
    [
        ("a.jpg", ["a.png"], "a.png"),
        ("a.jpg", ["a.jpg.png"], "a.jpg.png"),
        ("a.jpg", ["a.png", "a.jpg.png"], "a.jpg.png"),  # the one that can be no other's
        ("a.png", ["a.png"], "a.png"),
        ("a.b.tif", ["a.b.png", "a.png"], "a.b.png"),
        ("A.JPG", ["A.png"], "A.png"),
        ("deep/er/a.jpg", ["a.png", "deep/er/a.png"], "deep/er/a.png"),
    ],
)
def test_strokes_have_the_names_of_their_photographs(photo, strokes, found, hints, tmp_path):
    write_photo(tmp_path / "scans" / photo)
    for name in strokes:
        write_strokes(hints / name)
    assert strokes_of(sources_of(tmp_path / "scans"), hints) == [found]


def test_photographs_in_a_zip_have_strokes(hints, tmp_path):
    photo = write_photo(tmp_path / "a.png").read_bytes()
    with zipfile.ZipFile(tmp_path / "album.zip", "w") as file:
        for name in ("a.png", "b/a.jpg", "b\\c.png", "../../evil.png"):
            file.writestr(name, photo)
    for name in ("a.png", "b/a.png", "evil.png"):
        write_strokes(hints / name)
    found = find_strokes(sources_of(tmp_path / "album.zip"), hints)
    strokes = {source.name: source.strokes for source in found}
    expected = {"a.png": "a.png", "b/a.jpg": "b/a.png", "evil.png": "evil.png"}
    assert strokes == {name: hints / path for name, path in expected.items()} | {"b/c.png": None}


def test_the_digest_of_hints_changes_with_their_picture(hints, tmp_path):
    sources = sources_of(write_photo(tmp_path / "a.png"), write_photo(tmp_path / "b.png"))
    digests = []
    for box in ((0, 0, 9, 9), (0, 0, 9, 9), (0, 0, 9, 10)):
        write_strokes(hints / "a.png", box=box)
        one, other = find_strokes(sources, hints)
        digests.append(one.hints)
        assert (other.strokes, other.hints) == (None, "")
    assert digests[0] == digests[1] != digests[2]
    assert (one.where, one.name, one.stamp) == (sources[0].where, "a.png", sources[0].stamp)


def test_what_is_no_folder_of_hints_is_one_sentence(hints, tmp_path):
    sources = sources_of(write_photo(tmp_path / "a.jpg"))
    with pytest.raises(FileNotFoundError, match=f"^--hints {hints}: expected a folder, .* nothing"):
        find_strokes(sources, hints)
    hints.write_text("a file")
    with pytest.raises(FileNotFoundError, match="expected a folder, found a file; --ask N makes"):
        find_strokes(sources, hints)
    hints.unlink()
    write_strokes(hints / "other.png")
    with pytest.raises(FileNotFoundError, match=f"no hints for any .* expected {hints}/a.png"):
        find_strokes(sources, hints)


def test_photographs_without_hints_and_pictures_without_photographs_are_told(hints, tmp_path):
    sources = sources_of(*(write_photo(tmp_path / f"{name}.jpg") for name in "abc"))
    write_strokes(hints / "a.png")
    said = describe_lacking(find_strokes(sources, hints), hints)
    assert f"{hints}: no hints for 2 of the photographs" in said
    assert "b.png" in said
    assert "belong to none" not in said
    write_strokes(hints / "deep" / "B.png")
    said = describe_lacking(find_strokes(sources, hints), hints)
    assert f"1 of its pictures belong to none ({hints / 'deep' / 'B.png'}, for one)" in said
    assert "\n" not in said
    for name in "bc":
        write_strokes(hints / f"{name}.jpg.png")
    assert describe_lacking(find_strokes(sources, hints), hints) == ""


def test_strokes_that_cannot_be_read_fail_later_with_the_photograph(hints, tmp_path, monkeypatch):
    sources = sources_of(write_photo(tmp_path / "a.png"), write_photo(tmp_path / "b.png"))
    for name in "ab":
        write_strokes(hints / f"{name}.png")

    def refuse(path):
        if path == hints / "a.png":  # to root nothing is locked
            raise PhotoError("Permission denied")
        return path.read_bytes()

    monkeypatch.setattr(module, "read_bytes", refuse)
    one, other = find_strokes(sources, hints)
    assert (one.strokes, other.strokes) == (hints / "a.png", hints / "b.png")
    assert one.hints not in ("", other.hints)


# ---- the folder of hints among the photographs -------------------------------------------------
def test_hints_inside_the_images_are_no_photographs(tmp_path):
    root = tmp_path / "scans"
    write_photo(root / "a.jpg")
    write_photo(root / "deep" / "b.jpg")
    hints = root / "deep" / "hints"
    write_strokes(hints / "a.png")
    write_strokes(hints / "deep" / "b.png")
    for paths in ([root], [root / "**" / "*"], [root / "*"], [root / "deep", root / "a.jpg"]):
        found = sources_of(*paths, hints=hints)
        assert sorted(Path(source.where).name for source in found) == ["a.jpg", "b.jpg"]
    assert len(sources_of(root)) == 4
    link = tmp_path / "link"
    link.symlink_to(hints)
    assert len(sources_of(root, hints=link)) == 2


def test_the_images_are_not_the_hints(tmp_path):
    write_photo(tmp_path / "scans" / "a.png")
    with pytest.raises(ValueError, match="--images and --hints are the same; name another --hints"):
        sources_of(tmp_path / "scans", hints=tmp_path / "scans" / ".." / "scans")
    found = sources_of(tmp_path / "scans" / "a.png", hints=tmp_path / "scans")
    assert len(found) == 1  # a file that is named is a photograph


@pytest.mark.parametrize(
    ("path", "inside"), [("x/a", True), ("x/y/a", True), ("x", False), ("xa", False), ("a", False)]
)
def test_lies_in_compares_whole_names(path, inside, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "x")
    for folder in ("x", "link", "link/../x"):
        assert lies_in(tmp_path / path, tmp_path / folder) == inside
    assert lies_in(tmp_path / path, Path("/"))


@pytest.mark.parametrize("hints", ["out", "other/../out"])
def test_hints_and_out_are_two_folders(hints, tmp_path):
    photo = write_photo(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="--hints and --out are the same; name another --out"):
        find_sources([photo], tmp_path / "out", tmp_path / hints)


# ---- hints of films ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "00_00_00.000"),
        (83.5, "00_01_23.500"),
        (59.9996, "00_01_00.000"),
        (3 * 3600 + 2.001, "03_00_02.001"),
        (400_000.125, "111_06_40.125"),
    ],
)
def test_write_time_is_read_again(seconds, text):
    assert write_time(seconds) == text
    assert read_time(text) == pytest.approx(seconds, abs=0.0005)


@pytest.mark.parametrize(
    "text", ["", "1", "00_60_00", "00_00_60", "00_00_0", "00_00_00.", "a00_00_00"]
)
def test_read_time_refuses_what_is_no_time(text):
    assert read_time(text) is None


def test_find_stills_takes_pictures_named_by_a_film_and_a_time(hints, tmp_path):
    film = file_source(tmp_path / "deep" / "a.b.mp4", "deep/a.b.mp4")
    names = ["a.b-00_00_10.000", "a.b-00_00_09.5", "a.b-00_01_00", "a.b", "a.b-1", "a.c-00_00_01"]
    for name in (*names, "a.b-2-00_00_01.000"):
        write_strokes(hints / "deep" / f"{name}.png")
    write_strokes(hints / "a.b-00_00_03.000.png")
    (hints / "deep" / "a.b-00_00_04.000.jpg").touch()
    found = [(seconds, path.stem) for seconds, path in find_stills(film, hints)]
    assert found == [(9.5, names[1]), (10.0, names[0]), (60.0, names[2])]
    assert find_stills(film, tmp_path / "nowhere") == ()


def test_the_hints_of_a_film_change_with_their_time_and_what_is_painted(hints, tmp_path):
    film, seen = file_source(tmp_path / "a.mp4", "a.mp4"), set()
    for name, box in (("01", (0, 0, 9, 9)), ("01", (0, 0, 8, 9)), ("02", (0, 0, 8, 9))):
        path = write_strokes(hints / f"a-00_00_{name}.000.png", box=box)
        seen.add(find_strokes([film], hints)[0].hints)
        assert describe_lacking(find_strokes([film], hints), hints) == ""
        path.unlink()
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("name", "film"),
    [("a.mp4", True), ("a.MKV", True), ("d/a.webm", True), ("a.png", False), ("a", False)],
)
def test_is_film_tells_by_the_ending(name, film, tmp_path):
    assert file_source(tmp_path / name, name).is_film == film


def test_films_are_found_as_photographs_are(tmp_path):
    for name in ("a.mp4", "deep/b.mkv", "._c.mp4", "d.txt"):
        (tmp_path / "films" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "films" / name).touch()
    found, _, _ = find_sources([tmp_path / "films"], tmp_path / "out")
    assert [source.name for source in found] == ["a.mp4", "deep/b.mkv"]
    found, _, _ = find_sources([tmp_path / "films" / "**" / "*"], tmp_path / "out")
    assert [source.name for source in found] == ["a.mp4", "deep/b.mkv"]
