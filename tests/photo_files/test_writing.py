import errno
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from encoding import encode, png_header
from PIL import Image

from photo_files import writing
from photo_files.opening import PhotoError, open_photo
from photo_files.writing import (
    SOFTWARE,
    SOURCE_TYPE,
    Metadata,
    conversion_notes,
    output_name,
    read_metadata,
    write_photo,
)

RED, BLUE = (255, 0, 0), (0, 0, 255)


# ---- names -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jpg", "a.jpg"),
        ("a.JPEG", "a.JPEG"),
        ("b/a.png", "b/a.png"),
        ("a.webp", "a.webp"),
        ("a.jfif", "a.jfif"),
        ("a.jpe", "a.jpe"),
        ("a.tif", "a.tif"),
        ("a.bmp", "a.bmp"),
        ("a.gif", "a.png"),
        ("b.c/a.d.ppm", "b.c/a.d.png"),
    ],
)
def test_output_name_keeps_formats_that_hold_color(name, expected):
    assert output_name(name) == expected


@pytest.mark.parametrize(
    ("name", "ending", "expected"),
    [
        ("a.jpg", ".png", "a.png"),
        ("a.JPEG", ".jpg", "a.JPEG"),
        ("a.tiff", ".tif", "a.tiff"),
        ("a.gif", ".webp", "a.webp"),
        ("scan", ".jpg", "scan.jpg"),
    ],
)
def test_output_name_takes_another_format(name, ending, expected):
    assert output_name(name, ending) == expected


# ---- what is kept of a file --------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_read_metadata_keeps_every_byte_of_a_text(kind):
    exif = Image.Exif()
    exif[270], exif[315] = "Großmutter 1943".encode(), "Foto Müller".encode("latin-1")
    metadata = read_metadata(encode(Image.new("RGB", (8, 8)), kind, exif=exif), (8, 8))
    assert "Großmutter 1943".encode() in metadata.exif
    assert "Foto Müller".encode("latin-1") in metadata.exif


def test_read_metadata_of_a_tiff_without_a_resolution_has_none():
    assert read_metadata(encode(Image.new("1", (8, 8)), "TIFF"), (8, 8)).dpi is None


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_lzw", "jpeg"])
def test_a_tiff_is_written_again_whatever_it_was_packed_by(compression, tmp_path):
    mode = "1" if compression.startswith("group") else "RGB"
    image = open_photo(encode(Image.new(mode, (40, 30)), "TIFF", compression=compression))
    write_photo(image, tmp_path / "a.tif")
    assert Image.open(tmp_path / "a.tif").info["compression"] == "raw"


def test_read_metadata_leaves_how_a_tiff_is_stored():
    exif = Image.Exif()
    exif[271] = "Leica"
    image = Image.new("L", (64, 48))
    data = encode(image, "TIFF", compression="tiff_lzw", exif=exif, dpi=(600, 600))
    metadata = read_metadata(data, (64, 48))
    kept = Image.Exif()
    kept.load(metadata.exif)
    assert dict(kept) == {271: "Leica", 274: 1, 282: 600, 283: 600, 296: 2, 305: SOFTWARE}
    assert metadata.dpi == (600, 600)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_a_big_tiff_is_written_with_its_metadata(ending, tmp_path):
    exif = Image.Exif()
    exif[271], exif[0x8769] = "Leica", {36867: "1943"}
    data = encode(Image.new("RGB", (8, 8)), "TIFF", big_tiff=True, exif=exif.tobytes())
    assert data.startswith(b"II+")
    write_photo(open_photo(data), tmp_path / f"a.{ending}", read_metadata(data, (8, 8)))
    with Image.open(tmp_path / f"a.{ending}") as written:
        assert written.getexif()[271] == "Leica"
        assert written.getexif().get_ifd(0x8769)[36867] == "1943"


@pytest.mark.parametrize("exif", [b"Exif\0\0not a TIFF header", b"Exif\0\0II*\0"])
def test_read_metadata_of_broken_exif_are_those_of_every_photograph(exif):
    data = encode(Image.new("RGB", (4, 4)), exif=exif)
    assert read_metadata(data, (4, 4)) == read_metadata(b"no picture", (4, 4)) == Metadata()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_read_metadata_say_what_the_pixels_are_now(kind, tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    exif[0x8769] = {0xA001: 65535, 0xA002: 60, 0xA003: 40, 0xA005: {1: "R03"}, 36867: "1943"}
    data = encode(Image.new("RGB", (60, 40)), kind, exif=exif)
    image = open_photo(data)
    assert image.size == (40, 60)
    write_photo(image, tmp_path / "a.jpg", read_metadata(data, image.size))
    with Image.open(tmp_path / "a.jpg") as written:
        folder = written.getexif().get_ifd(0x8769)
        assert folder[0xA001] == 1
        assert (folder[0xA002], folder[0xA003]) == written.size == (40, 60)
        assert folder[36867] == "1943"
        assert written.getexif().get_ifd(0xA005)[1] == "R98"
        assert written.getexif()[274] == 1


def test_a_tiff_is_not_stored_as_the_exif_of_another_format_says(tmp_path):
    exif = Image.Exif()
    exif[271], exif[40091], exif[274] = "Samsung", "Oma".encode("utf-16-le"), 6
    # a camera's width and height, before the photograph is turned; the rest as editors leave it
    exif[256], exif[257], exif[262], exif[278], exif[284], exif[339] = 60, 40, 6, 0, 2, 2
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    data = encode(Image.fromarray(pixels), "PNG", exif=exif)
    image = open_photo(data)
    write_photo(image, tmp_path / "a.tif", read_metadata(data, image.size))
    with Image.open(tmp_path / "a.tif") as written:
        np.testing.assert_array_equal(np.asarray(written), np.rot90(pixels, -1))
        assert written.getexif()[271] == "Samsung"
        assert written.getexif()[40091] == "Oma".encode("utf-16-le")


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif", "a.bmp"])
def test_every_format_that_can_says_that_the_colors_are_a_guess(name, tmp_path):
    exif = Image.Exif()
    exif[271], exif[305] = "Leica", "a scanner's program"
    data = encode(Image.new("RGB", (60, 40), (90, 80, 70)), "JPEG", exif=exif)
    write_photo(open_photo(data), tmp_path / name, read_metadata(data, (60, 40)))
    write_photo(open_photo(data), tmp_path / f"bare_{name}")
    for path, maker in ((tmp_path / name, "Leica"), (tmp_path / f"bare_{name}", None)):
        with Image.open(path) as image:
            exif, xmp = image.getexif(), image.info.get("xmp")
            if name == "a.bmp":
                assert (dict(exif), xmp) == ({}, None)
                continue
            assert exif[305] == SOFTWARE
            assert exif.get(271) == maker
            described = ElementTree.fromstring(xmp)[0][0]
            space = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
            assert described.get(f"{{{space}}}DigitalSourceType") == SOURCE_TYPE


def test_read_metadata_leaves_exif_that_no_jpeg_holds(tmp_path):
    exif = Image.Exif()
    exif[270] = "x" * 70_000
    metadata = read_metadata(encode(Image.new("RGB", (4, 4)), exif=exif), (4, 4))
    assert metadata == Metadata()
    write_photo(Image.new("RGB", (4, 4)), tmp_path / "a.jpg", metadata)


def test_conversion_notes_tells_of_16_bits_transparency_and_frames():
    assert conversion_notes(encode(Image.new("RGB", (4, 4)))) == []
    assert conversion_notes(encode(Image.new("RGB", (4, 4)), "JPEG")) == []
    deep = "with 16 bits a channel, written with 8"
    assert conversion_notes(encode(Image.fromarray(np.zeros((4, 4), np.uint16)))) == [deep]
    colors = png_header(2, 1, depth=16, pixels=bytes(1 + 2 * 6))
    assert open_photo(colors).size == (2, 1)
    assert conversion_notes(colors) == [deep]
    assert conversion_notes(encode(Image.new("LA", (4, 4)))) == [
        "with transparency, which now shows white"
    ]
    useless = encode(Image.new("RGB", (4, 4)), icc_profile=b"no profile")
    assert conversion_notes(useless) == ["with a color profile that cannot be used, read as sRGB"]
    frames = [Image.new("RGB", (4, 4), color) for color in (RED, BLUE)]
    for kind in ("GIF", "TIFF"):
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
        assert "the first was taken" in conversion_notes(data)[0]


# ---- writing -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "kind", "tolerance"),
    [
        ("a.png", "PNG", 0),
        ("a.TIF", "TIFF", 0),
        ("a.bmp", "BMP", 0),
        ("a.jpg", "JPEG", 3),
        ("a.jpeg", "JPEG", 3),
        ("a.webp", "WEBP", 6),
    ],
)
def test_write_photo_writes_the_format_of_its_name(tmp_path, name, kind, tolerance):
    path = tmp_path / "new" / "folder" / name
    write_photo(Image.new("RGB", (20, 10), (200, 60, 30)), path)
    with Image.open(path) as image:
        assert image.format == kind
        assert np.abs(np.asarray(image, int) - (200, 60, 30)).max() <= tolerance
    assert list(path.parent.iterdir()) == [path]


def test_write_photo_flushes_a_picture_before_it_has_its_name(tmp_path, monkeypatch):
    path, flushed = tmp_path / "a.png", []
    monkeypatch.setattr(
        writing, "flush", lambda file: flushed.append((file.exists(), path.exists()))
    )
    write_photo(Image.new("RGB", (4, 4)), path)
    assert flushed == [(True, False)]


def test_write_photo_never_overwrites(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"a\.png.*--out"):
        write_photo(Image.new("RGB", (4, 4)), path)
    assert path.read_bytes() == b"mine"


def test_write_photo_leaves_nothing_when_saving_fails(tmp_path, monkeypatch):
    with pytest.raises(PhotoError, match="cannot be written"):
        write_photo(Image.new("F", (4, 4)), tmp_path / "a.png")  # PNG holds no floats
    assert list(tmp_path.iterdir()) == []

    def fill_disk(path, data):
        path.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill_disk)
    with pytest.raises(OSError, match="No space"):
        write_photo(Image.new("RGB", (4, 4)), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif", "bmp"])
def test_write_photo_leaves_no_short_file_on_a_full_disk(ending, mount, tmp_path):
    """All but the file's last, partly filled, page fits."""
    noise = np.random.default_rng(0).integers(0, 256, (150, 157, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    write_photo(image, tmp_path / f"whole.{ending}")
    size = (tmp_path / f"whole.{ending}").stat().st_size
    assert size % 4096
    disk = mount(size // 4096 * 4)
    with pytest.raises(OSError, match="No space left"):
        write_photo(image, disk / f"a.{ending}")
    assert list(disk.iterdir()) == []
