"""Picture files found in folders, and their bytes."""

import os

import pytest
from encoding import encode
from PIL import Image

from photo_files.finding import (
    LeftOut,
    find_ending,
    find_files,
    is_film_name,
    is_photo_name,
    normalize_name,
    photo_endings,
)
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


# ---- what is left out --------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "ending"),
    [("JPEG", ".jpg"), ("PNG", ".png"), ("GIF", ".gif"), ("TIFF", ".tif"), ("WEBP", ".webp")],
)
def test_find_ending_knows_a_picture_by_its_content(kind, ending):
    assert find_ending(encode(Image.new("RGB", (9, 9)), kind)[:16]) == ending


@pytest.mark.parametrize(
    ("data", "ending"),
    [
        (b"\0\0\0\x24ftypheic\0\0\0\0", ".heic"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0", ".heic"),
        (b"\0\0\0\x20ftypavif\0\0\0\0", ".avif"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", ".jxl"),
        (b"\0\0\0\x20ftypisom\0\0\0\0", ""),  # a film
        (b"RIFF\x24\0\0\0WAVEfmt ", ""),
        (b"", ""),
    ],
)
def test_find_ending_tells_pictures_from_films(data, ending):
    assert find_ending(data) == ending


def describe(root, files, named=()):
    """Write files, and say of which kinds they are."""
    left = LeftOut()
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
        left.add_file(root / name)
    return left.describe(named)


def test_left_out_photographs_are_told_with_a_remedy(tmp_path, monkeypatch):
    only_pillow = photo_endings() - {".heic", ".jxl"}  # as where no package reads these
    monkeypatch.setattr("photo_files.finding.photo_endings", lambda: only_pillow)
    jpeg, heic = b"\xff\xd8\xff\xe0 and more", b"\0\0\0\x24ftypheic\0\0\0\0"
    files = {"a/IMG_2.HEIC": b"", "a/phone": heic, "b.jxl": b"", "picture": jpeg}
    files |= {"photo.jpg_large": jpeg, "IMG.JPG!d": jpeg}
    files |= {f"{i}.{ending}": b"II*\0" for i, ending in enumerate(("NEF", "dng", "Cr3"))}
    assert describe(tmp_path, files) == [
        f"2 HEIC files ({tmp_path}/a/IMG_2.HEIC, for one): to read HEIC, pip install pillow-heif",
        f"1 JPEG XL file ({tmp_path}/b.jxl, for one): to read JPEG XL, "
        "pip install pillow-jxl-plugin",
        f"3 RAW files of a camera ({tmp_path}/0.NEF, for one): develop RAW to JPEG or TIFF first",
        f"3 photographs without a photograph's ending ({tmp_path}/IMG.JPG!d, for one): "
        "add .jpg to the name",
    ]


def test_what_is_no_photograph_is_left_out_in_silence(tmp_path):
    jpeg = b"\xff\xd8\xff\xe0 and more"
    shadows = {"._a.jpg": jpeg, "._a.NEF": b"", ".DS_Store": jpeg, ".jpg": jpeg}
    others = {"notes.txt": b"", "film.mp4": b"\0\0\0\x20ftypisom", "README": b"words", "x.npz": b""}
    assert describe(tmp_path, shadows | others) == []


def test_a_file_of_a_known_ending_is_not_opened(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("pathlib.Path.open", lambda path, *_, **__: opened.append(path.name))
    left = LeftOut()
    for name in ("a.txt", "a.json", "a.nef", "a.heic"):
        left.add_file(tmp_path / name)
    assert opened == []


def test_a_file_that_cannot_be_opened_is_of_no_kind(tmp_path):
    left = LeftOut()
    left.add_file(tmp_path / "gone")
    assert left.describe([]) == []


def test_only_links_to_folders_that_are_not_read_are_told(tmp_path):
    root, album = tmp_path / "scans", tmp_path / "album"
    for name in ("scans/deep/a.jpg", "album/b.jpg", "out/c.jpg", "made/colored.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    links = {"link": album, "again": root / "deep", "made": tmp_path / "made"}
    links |= {"out": tmp_path / "out", ".hidden": album, "file.jpg": album / "b.jpg"}
    for name, target in links.items():
        (root / name).symlink_to(target)

    def told(*named):
        left = LeftOut()
        files = list(find_files(root, (tmp_path / "out",), linked=left.add_link))
        assert sorted(files) == ["deep/a.jpg", "file.jpg"]
        return left.describe(named)

    said = f"1 linked folder ({root}/link, for one): a link is not followed; name its target"
    assert told(root) == [said]
    assert told(root, album) == told(tmp_path) == []


def test_normalize_name_spells_accents_one_way():
    assert normalize_name("Cafe\u0301/e\u0301.jpg") == "Caf\u00e9/\u00e9.jpg"


def test_read_bytes_gives_the_reason_of_an_unreadable_file(tmp_path):
    with pytest.raises(PhotoError, match="No such file"):
        read_bytes(tmp_path / "gone.jpg")
    with pytest.raises(PhotoError, match="directory"):
        read_bytes(tmp_path)


# ---- films -------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["a.mp4", "b/A.MOV", "a.b.mkv", "x.webm", "x.m4v", "x.Avi"])
def test_is_film_name_takes_films(name):
    assert is_film_name(name)


@pytest.mark.parametrize("name", ["a.jpg", "mp4", "a.mp4.txt", "._a.mp4", "b/._a.mkv", ".mp4"])
def test_is_film_name_takes_nothing_else(name):
    assert not is_film_name(name)
