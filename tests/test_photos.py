import errno
import io
import os
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from photos import (
    Keepsakes,
    PhotoError,
    describe_losses,
    find_files,
    fit,
    is_1_bit,
    is_photo_name,
    make_grid,
    normalize_name,
    open_photo,
    output_name,
    read_bytes,
    read_keepsakes,
    write_photo,
)

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
ORIENTATION = 0x0112  # EXIF's tag

# How a camera that is held in one of EXIF's eight ways stores the upright pixels.
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def encode_turned(upright, orientation, kind, **options):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = np.ascontiguousarray(STORED[orientation](upright))
    return encode(Image.fromarray(stored), kind, exif=exif, **options)


def random_pixels(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def first_row(data):
    """Open a picture and return the colours of its first row."""
    image = open_photo(data)
    assert image.mode == "RGB"
    return [tuple(pixel) for pixel in np.asarray(image)[0].tolist()]


def png_header(width, height, depth=8, pixels=b""):
    """Return a PNG file that claims a size and holds no pixels but these."""

    def chunk(name, content):
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def swapped_profile():
    """Return sRGB's profile with its red and green primaries exchanged, under another name."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile.replace(b"rXYZ", b"----").replace(b"gXYZ", b"rXYZ").replace(b"----", b"gXYZ")
    return profile.replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))


def linear_gray_profile():
    """Return a profile of gray whose levels are linear in light."""
    parts = {
        b"kTRC": b"curv" + struct.pack(">III", 0, 0, 0),
        b"wtpt": b"XYZ " + struct.pack(">Iiii", 0, 63190, 65536, 54061),
        b"desc": b"desc" + struct.pack(">II", 0, 5) + b"gray\0" + bytes(79),
        b"cprt": b"text" + bytes(4) + b"none\0\0\0\0",
    }
    place, tags = 128 + 4 + 12 * len(parts), b""
    for name, part in parts.items():
        tags += name + struct.pack(">II", place, len(part))
        place += len(part)
    head = struct.pack(">I4sI4s4s4s", place, b"none", 0x02100000, b"mntr", b"GRAY", b"XYZ ")
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    head += struct.pack(">iii", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + struct.pack(">I", len(parts)) + tags + b"".join(parts.values())


@pytest.mark.parametrize("kind", ["8 bits", "16 bits"])
def test_open_photo_converts_gray_profiles(kind):
    levels = np.full((8, 8), 64, np.uint8)
    image = Image.fromarray(levels if kind == "8 bits" else levels.astype(np.uint16) * 257)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", icc_profile=linear_gray_profile())
    linear = 64 / 255
    expected = 255 * (1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(np.asarray(open_photo(buffer.getvalue())).astype(float) - expected).max() <= 1


# ---- opening: orientation ----------------------------------------------------------------------
@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_open_photo_turns_upright(orientation, kind):
    upright = random_pixels(4, 6)
    opened = open_photo(encode_turned(upright, orientation, kind))
    np.testing.assert_array_equal(np.asarray(opened), upright)


@pytest.mark.parametrize("orientation", STORED)
def test_open_photo_turns_a_reduced_jpeg_upright(orientation):
    patches = random_pixels(3, 4)
    upright = patches.repeat(256, 0).repeat(256, 1)
    data = encode_turned(upright, orientation, "JPEG", quality=95, subsampling=0)
    opened = open_photo(data, size=192)
    assert opened.size == (256, 192)  # a quarter
    middles = np.asarray(opened)[32::64, 32::64].astype(int)
    assert np.abs(middles - patches).max() <= 3


# ---- opening: modes ----------------------------------------------------------------------------
def test_open_photo_palette():
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *GREEN, *BLUE])
    image.putdata([2, 0, 1])
    assert first_row(encode(image)) == [BLUE, RED, GREEN]


@pytest.mark.parametrize("transparency", [0, bytes([0, 255, 102])])
def test_open_photo_palette_with_transparency_shows_white(transparency):
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *GREEN, *BLUE])
    image.putdata([0, 1, 2])
    pale = BLUE if transparency == 0 else (153, 153, 255)  # 40 percent blue over white
    assert first_row(encode(image, transparency=transparency)) == [WHITE, GREEN, pale]


def test_open_photo_cmyk():
    image = Image.new("CMYK", (4, 1))
    image.putdata([(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 255, 0), (0, 0, 0, 255)])
    assert first_row(encode(image, "TIFF")) == [WHITE, (0, 255, 255), RED, (0, 0, 0)]


def test_open_photo_cmyk_jpeg():
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert np.abs(np.asarray(open_photo(encode(image, "JPEG"))) - np.array(RED)).max() <= 3


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_open_photo_16_bit_gray(kind):
    levels = np.array([[0, 257, 300, 400, 25700, 65535]], np.uint16)
    values = [value for value, _, _ in first_row(encode(Image.fromarray(levels), kind))]
    assert values == [0, 1, 1, 2, 100, 255]  # a 257th, rounded


def test_open_photo_1_bit():
    image = Image.new("1", (2, 1))
    image.putdata([1, 0])
    assert first_row(encode(image)) == [WHITE, (0, 0, 0)]


def test_open_photo_gray_with_alpha():
    image = Image.new("LA", (3, 1))
    image.putdata([(100, 255), (100, 0), (0, 102)])
    assert first_row(encode(image)) == [(100,) * 3, WHITE, (153,) * 3]


def test_open_photo_alpha_shows_white():
    image = Image.new("RGBA", (3, 1))
    image.putdata([(*RED, 255), (*RED, 0), (*RED, 102)])
    assert first_row(encode(image)) == [RED, WHITE, (255, 153, 153)]


def test_open_photo_gray_jpeg():
    image = Image.new("L", (8, 8), 77)
    assert set(first_row(encode(image, "JPEG"))) == {(77, 77, 77)}


def test_open_photo_takes_the_first_frame():
    frames = [Image.new("RGB", (4, 4), color) for color in (RED, BLUE, GREEN)]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert set(first_row(data)) == {RED}


# ---- opening: colour profiles ------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_open_photo_converts_from_its_profile(mode):
    image = Image.new("RGB", (4, 4), (200, 60, 30))
    image = image.quantize(2) if mode == "P" else image.convert(mode)
    pixels = np.asarray(open_photo(encode(image, icc_profile=swapped_profile())), int)
    assert np.abs(pixels - (60, 200, 30)).max() <= 2


@pytest.mark.parametrize("profile", ["sRGB", "XYZ", "broken", "cut"])
def test_open_photo_ignores_a_profile_without_use(profile):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profiles = {
        "sRGB": srgb,
        "XYZ": ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes(),
        "broken": b"no profile at all",
        "cut": swapped_profile()[:200],
    }
    image = Image.new("RGB", (4, 4), (200, 60, 30))
    assert set(first_row(encode(image, icc_profile=profiles[profile]))) == {(200, 60, 30)}


# ---- opening: refusals -------------------------------------------------------------------------
def refused():
    noise = encode(Image.fromarray(random_pixels(64, 64)), "JPEG")
    return {
        "truncated": (noise[: len(noise) // 2], "damaged: .*truncated"),
        "empty": (b"", "empty"),
        "page": (b"<!DOCTYPE html>\n<html><body>404</body></html>", "web page"),
        "text": (b"just words", "not a picture"),
        "float": (encode(Image.new("F", (4, 4), 0.5), "TIFF"), "floating-point"),
        "huge": (png_header(50_000, 50_000), "250 million"),
    }


@pytest.mark.parametrize(("data", "reason"), refused().values(), ids=refused())
def test_open_photo_refuses_with_the_reason(data, reason):
    start = time.perf_counter()
    with pytest.raises(PhotoError, match=reason):
        open_photo(data)
    assert time.perf_counter() - start < 1


def test_open_photo_does_not_refuse_less_than_its_limit_for_its_size():
    with pytest.raises(PhotoError) as error:
        open_photo(png_header(14_000, 14_000))  # 196 million; without pixels, so damaged
    assert "million" not in str(error.value)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("exif", [b"Exif\0\0not a TIFF header", b"Exif\0\0II*\0"])
def test_open_photo_ignores_broken_exif(kind, exif):
    pixels = random_pixels(16, 16)
    data = encode(Image.fromarray(pixels), kind, exif=exif, lossless=True)
    np.testing.assert_array_equal(np.asarray(open_photo(data)), pixels)


def test_read_bytes_gives_the_reason_of_an_unreadable_file(tmp_path):
    with pytest.raises(PhotoError, match="No such file"):
        read_bytes(tmp_path / "gone.jpg")
    with pytest.raises(PhotoError, match="directory"):
        read_bytes(tmp_path)


# ---- resizing ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("size", "short"), [(64, 150), (150, 150), (152, 300), (300, 300), (512, 600), (604, 1200)]
)
def test_open_photo_leaves_the_size(size, short):
    data = encode(Image.new("RGB", (1600, 1200), RED), "JPEG")
    assert min(open_photo(data, size).size) == short >= size


def test_open_photo_reads_all_pixels_without_a_size():
    assert open_photo(encode(Image.new("RGB", (1600, 1200), RED), "JPEG")).size == (1600, 1200)


def triangle_weights(length, first, side, size):
    """Return the (size, length) weights of antialiased linear interpolation of a part."""
    step = side / size
    middles = first + (np.arange(size) + 0.5) * step
    distances = np.abs(np.arange(length) + 0.5 - middles[:, None]) / max(step, 1)
    weights = np.maximum(0, 1 - distances)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize(
    ("height", "width", "top", "left", "side"),
    [
        (40, 60, 0, 10, 40),
        (60, 40, 10, 0, 40),
        (48, 48, 0, 0, 48),
        (40, 57, 0, 8.5, 40),
        (10, 14, 0, 2, 10),
    ],
)
def test_fit_is_the_antialiased_central_square(height, width, top, left, side):
    pixels = random_pixels(height, width)
    rows = triangle_weights(height, top, side, 16)
    columns = triangle_weights(width, left, side, 16)
    expected = np.einsum("ih,hwc,jw->ijc", rows, pixels, columns)
    found = np.asarray(fit(Image.fromarray(pixels), 16))
    assert found.shape == (16, 16, 3)
    assert np.abs(found - expected).max() <= 1


# ---- finding -----------------------------------------------------------------------------------
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


# ---- writing -----------------------------------------------------------------------------------
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
def test_output_name_keeps_formats_that_hold_colour(name, expected):
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
def test_read_keepsakes_keeps_every_byte_of_a_text(kind):
    exif = Image.Exif()
    exif[270], exif[315] = "Großmutter 1943".encode(), "Foto Müller".encode("latin-1")
    keepsakes = read_keepsakes(encode(Image.new("RGB", (8, 8)), kind, exif=exif))
    assert "Großmutter 1943".encode() in keepsakes.exif
    assert "Foto Müller".encode("latin-1") in keepsakes.exif


def test_read_keepsakes_of_a_tiff_without_a_resolution_has_none():
    assert read_keepsakes(encode(Image.new("1", (8, 8)), "TIFF")).dpi is None


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_lzw", "jpeg"])
def test_a_tiff_is_written_again_whatever_it_was_packed_by(compression, tmp_path):
    mode = "1" if compression.startswith("group") else "RGB"
    image = open_photo(encode(Image.new(mode, (40, 30)), "TIFF", compression=compression))
    write_photo(image, tmp_path / "a.tif")
    assert Image.open(tmp_path / "a.tif").info["compression"] == "raw"


def test_read_keepsakes_leaves_how_a_tiff_is_stored():
    exif = Image.Exif()
    exif[271] = "Leica"
    image = Image.new("L", (64, 48))
    data = encode(image, "TIFF", compression="tiff_lzw", exif=exif, dpi=(600, 600))
    keepsakes = read_keepsakes(data)
    kept = Image.Exif()
    kept.load(keepsakes.exif)
    assert dict(kept) == {271: "Leica", 274: 1, 282: 600, 283: 600, 296: 2}
    assert keepsakes.dpi == (600, 600)


@pytest.mark.parametrize("exif", [b"Exif\0\0not a TIFF header", b"Exif\0\0II*\0"])
def test_read_keepsakes_of_broken_exif_are_none(exif):
    assert read_keepsakes(encode(Image.new("RGB", (4, 4)), exif=exif)).exif == b""
    assert read_keepsakes(b"no picture") == Keepsakes()


def test_read_keepsakes_leaves_exif_that_no_jpeg_holds(tmp_path):
    exif = Image.Exif()
    exif[270] = "x" * 70_000
    keepsakes = read_keepsakes(encode(Image.new("RGB", (4, 4)), exif=exif))
    assert keepsakes.exif == b""
    write_photo(Image.new("RGB", (4, 4)), tmp_path / "a.jpg", keepsakes)


def test_describe_losses_tells_of_16_bits_transparency_and_frames():
    assert describe_losses(encode(Image.new("RGB", (4, 4)))) == []
    assert describe_losses(encode(Image.new("RGB", (4, 4)), "JPEG")) == []
    deep = "with 16 bits a channel, written with 8"
    assert describe_losses(encode(Image.fromarray(np.zeros((4, 4), np.uint16)))) == [deep]
    colors = png_header(2, 1, depth=16, pixels=bytes(1 + 2 * 6))
    assert open_photo(colors).size == (2, 1)
    assert describe_losses(colors) == [deep]
    assert describe_losses(encode(Image.new("LA", (4, 4)))) == [
        "with transparency, which now shows white"
    ]
    frames = [Image.new("RGB", (4, 4), color) for color in (RED, BLUE)]
    for kind in ("GIF", "TIFF"):
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
        assert "the first was taken" in describe_losses(data)[0]


def test_is_1_bit_looks_at_the_header():
    for mode, expected in (("1", True), ("L", False), ("RGB", False)):
        assert is_1_bit(io.BytesIO(encode(Image.new(mode, (4, 4)), "TIFF"))) == expected
    assert not is_1_bit(io.BytesIO(b"no picture"))


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


def test_make_grid_lays_out_rows():
    rows = [[random_pixels(4, 5, seed=3 * y + x) for x in range(3)] for y in range(2)]
    expected = np.full((2 * (4 + 2) + 2, 3 * (5 + 2) + 2, 3), 255, np.uint8)
    for y, top in enumerate((2, 8)):
        for x, left in enumerate((2, 9, 16)):
            expected[top : top + 4, left : left + 5] = rows[y][x]
    np.testing.assert_array_equal(np.asarray(make_grid(rows, gap=2)), expected)


def test_make_grid_enlarges():
    red, blue = (np.full((4, 5, 3), color, np.uint8) for color in (RED, BLUE))
    grid = np.asarray(make_grid([[red, blue]], scale=3, gap=4))
    expected = np.full((12 + 8, 2 * 15 + 12, 3), 255, np.uint8)
    expected[4:16, 4:19], expected[4:16, 23:38] = RED, BLUE
    np.testing.assert_array_equal(grid, expected)


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
