"""Picture files opened: upright RGB, or a reason."""

import io
import struct
import time

import numpy as np
import pytest
from encoding import STORED, encode, encode_turned, png_header, require_format, swapped_profile
from mutation import hurt, reason_of, some_at_first
from pictures import make_patches
from PIL import Image, ImageCms, PngImagePlugin, features
from ramps import RAMP, lossless_jpeg, named_profile, off, rgb

from common.plots import make_grid
from photo_files import finding
from photo_files.color import SRGB, make_profile
from photo_files.finding import photo_endings
from photo_files.opening import PhotoError, can_be_reduced, fit, open_photo, open_strokes

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def random_pixels(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def first_row(data):
    """Open a picture and return the colors of its first row."""
    image = open_photo(data)
    assert image.mode == "RGB"
    return [tuple(pixel) for pixel in np.asarray(image)[0].tolist()]


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


# ---- orientation -------------------------------------------------------------------------------
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


# ---- modes -------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["HEIF", "JXL"])
def test_open_photo_reads_more_formats_where_their_packages_are(kind):
    require_format(kind)
    upright = np.asarray(make_patches((96, 64), 3))
    for orientation in STORED:
        opened = open_photo(encode_turned(upright, orientation, kind, quality=95))
        assert (opened.format, opened.size) == (None, (96, 64))
        assert np.abs(np.asarray(opened, float) - upright).mean() < 5  # never turned twice
    if kind == "HEIF":  # the writer of JPEG XL leaves profiles out
        data = encode(Image.fromarray(upright), kind, quality=95, icc_profile=swapped_profile())
        assert np.abs(np.asarray(open_photo(data), float) - upright[..., [1, 0, 2]]).mean() < 5


@pytest.mark.parametrize("kind", ["HEIF", "JXL"])
def test_open_photo_reads_heic_and_jpeg_xl_without_metadata(kind):
    require_format(kind)
    data = encode(Image.new("RGB", (48, 32), (180, 90, 60)), kind)
    np.testing.assert_allclose(open_photo(data).getpixel((9, 9)), (180, 90, 60), atol=4)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\0\0\0\x24ftypheic\0\0\0\0", "a HEIC file; to read HEIC, pip install pillow-heif"),
        (
            b"\0\0\0\x0cJXL \r\n\x87\n",
            "a JPEG XL file; to read JPEG XL, pip install pillow-jxl-plugin",
        ),
    ],
)
def test_open_photo_names_the_package_that_reads_a_picture(data, reason, monkeypatch):
    only_pillow = photo_endings() - {".heic", ".jxl"}  # as where neither is installed
    monkeypatch.setattr(finding, "photo_endings", lambda: only_pillow)
    monkeypatch.setattr(Image, "ID", [kind for kind in Image.ID if kind not in ("HEIF", "JXL")])
    with pytest.raises(PhotoError) as error:
        open_photo(data)
    assert str(error.value) == reason


def fits(depth):
    """Return a FITS of 2 x 1 pixels of zeros."""
    cards = (
        "SIMPLE  = T",
        f"BITPIX  = {depth}",
        "NAXIS   = 2",
        "NAXIS1  = 2",
        "NAXIS2  = 1",
        "END",
    )
    return "".join(f"{card:80}" for card in cards).ljust(2880).encode() + bytes(2880)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encode(Image.new("RGB", (8, 8)), "JPEG")[:20], "damaged, or .*: it begins as a .jpg"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "an EPS, which only a program"),
        (fits(16), "a FITS of more than 8 bits"),
    ],
)
def test_open_photo_says_why_a_picture_is_not_read(data, reason):
    with pytest.raises(PhotoError, match=f"^{reason}"):
        open_photo(data)


def test_open_photo_reads_a_fits_of_8_bits():
    assert first_row(fits(8)) == [(0, 0, 0)] * 2


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


# ---- color profiles ----------------------------------------------------------------------------
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


# ---- refusals ----------------------------------------------------------------------------------
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


@pytest.mark.parametrize("parts", [1, 3])
def test_open_photo_asks_no_lossless_jpeg_for_less_than_all_pixels(parts):
    data = lossless_jpeg(512, 384, parts)
    assert not can_be_reduced(data)
    pixels = np.asarray(open_photo(data, size=32))
    assert pixels.shape == (384, 512, 3)
    assert np.abs(pixels.astype(int) - 128).max() <= 1


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}])
def test_can_be_reduced_whatever_lies_before_a_frame(options):
    image = Image.fromarray(random_pixels(64, 64))
    comment = b"\xff\xc3\xff\xff"  # inside a segment it is no marker
    data = encode(image, "JPEG", comment=comment, **options)
    assert can_be_reduced(data)
    assert can_be_reduced(data[:2] + b"junk\xff\xff\xff" + data[3:])  # libjpeg skips it
    assert not can_be_reduced(data[:2])
    assert not can_be_reduced(data[: data.find(b"\xff\xdb") + 1])


def test_open_photo_reads_a_png_beside_a_large_text_or_profile():
    text = PngImagePlugin.PngInfo()
    text.add_text("Raw profile type xmp", "x" * 70_000_000, zip=True)
    assert off(encode(Image.fromarray(RAMP), pnginfo=text))[0] <= 0.5
    profile = make_profile(SRGB, 2.2) + bytes(3_000_000)
    profile = struct.pack(">I", len(profile)) + profile[4:]
    assert off(encode(rgb(2.2), icc_profile=profile))[0] <= 1


def test_open_photo_keeps_a_png_whose_large_text_lies_beside_a_profile():
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "x" * 70_000_000, zip=True)
    linear = encode(rgb(1), pnginfo=text, icc_profile=named_profile(1, b"line"))
    assert off(linear)[0] <= 1


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow writes no AVIF")
@pytest.mark.parametrize("broken", [b"XXXX", b"II*\0\xff\xff\xff\xff"])
def test_open_photo_reads_an_avif_beside_broken_exif(broken):
    exif = Image.Exif()
    exif[271] = "a maker"
    written = exif.tobytes().removeprefix(b"Exif\0\0")
    data = encode(rgb(2.2), "AVIF", exif=exif, quality=100)
    assert data.count(written) == 1
    hurt_one = data.replace(written, broken + written[len(broken) :])
    assert np.array_equal(np.asarray(open_photo(hurt_one)), np.asarray(open_photo(data)))


# ---- strokes -----------------------------------------------------------------------------------
CLEAR = (0, 0, 0, 0)


def strokes_in(data, size):
    """Open a picture of strokes and return the colors of its first row; None if transparent."""
    image = open_strokes(data, size)
    assert (image.mode, image.size) == ("RGBA", size)
    return [tuple(pixel) if pixel[3] else None for pixel in np.asarray(image)[0].tolist()]


def test_open_strokes_keeps_colors_and_alpha():
    image = Image.new("RGBA", (3, 1))
    image.putdata([(*RED, 255), (1, 2, 3, 102), CLEAR])
    for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
        found = strokes_in(encode(image, kind, **options), (3, 1))
        assert found == [(*RED, 255), (1, 2, 3, 102), None]


@pytest.mark.parametrize("transparency", [0, bytes([0, 255, 102])])
def test_open_strokes_palette(transparency):
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *GREEN, *BLUE])
    image.putdata([0, 1, 2])
    faint = 255 if transparency == 0 else 102
    data = encode(image, transparency=transparency)
    assert strokes_in(data, (3, 1)) == [None, (*GREEN, 255), (*BLUE, faint)]


def test_open_strokes_gray_with_alpha():
    image = Image.new("LA", (3, 1))
    image.putdata([(100, 255), (100, 0), (0, 102)])
    assert strokes_in(encode(image), (3, 1)) == [(100, 100, 100, 255), None, (0, 0, 0, 102)]


@pytest.mark.parametrize("mode", ["L", "RGB", "1"])
def test_open_strokes_takes_one_color_that_stands_for_transparency(mode):
    image = Image.new(mode, (3, 1), 0)
    image.putpixel((1, 0), RED if mode == "RGB" else 255)
    color = RED if mode == "RGB" else WHITE
    data = encode(image, transparency=(0, 0, 0) if mode == "RGB" else 0)
    assert strokes_in(data, (3, 1)) == [None, (*color, 255), None]


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_open_strokes_converts_from_its_profile(mode):
    image = Image.new("RGBA", (4, 4), CLEAR)
    image.paste((200, 60, 30, 255), (0, 0, 1, 4))
    options = {}
    if mode == "P":
        image, options = image.convert("RGB").quantize(2), {"transparency": 0}
        if image.getpixel((0, 0)) == 0:
            options["transparency"] = 1
    first, *others = strokes_in(encode(image, icc_profile=swapped_profile(), **options), (4, 4))
    assert np.abs(np.array(first) - (60, 200, 30, 255)).max() <= 2
    assert others == [None] * 3


@pytest.mark.parametrize("profile", [b"no profile at all", linear_gray_profile()])
def test_open_strokes_ignores_a_profile_without_use(profile):
    image = Image.new("RGBA", (1, 2))
    image.putpixel((0, 0), (200, 60, 30, 255))
    assert strokes_in(encode(image, icc_profile=profile), (1, 2))[0] == (200, 60, 30, 255)


@pytest.mark.parametrize("orientation", STORED)
def test_open_strokes_turns_upright(orientation):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 4), dtype=np.uint8)
    data = encode_turned(pixels, orientation, "PNG")
    np.testing.assert_array_equal(np.asarray(open_strokes(data, (6, 4))), pixels)


@pytest.mark.filterwarnings("ignore:Image size")  # Pillow's
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encode(Image.new("RGBA", (9, 8))), "9 x 8 pixels, expected the photograph's 8 x 9"),
        (encode(Image.new("RGB", (8, 9), RED)), "opaque, expected a picture that is transparent"),
        (encode(Image.new("L", (8, 9))), "opaque, expected"),
        (encode(Image.new("RGBA", (8, 9), (*RED, 255))), "opaque, expected"),
        (encode(Image.new("P", (8, 9))), "opaque, expected"),
        (encode(Image.new("RGB", (8, 9)), "JPEG"), "opaque, expected"),
        (encode(Image.fromarray(random_pixels(9, 8)))[:90], "damaged: .*truncated"),
        (b"", "the file is empty"),
        (b"just words", "not a picture of a format that Pillow reads"),
        (png_header(50_000, 50_000), "more than 250 million pixels"),
        (png_header(20_000, 20_000), "more than 250 million pixels"),
    ],
)
def test_open_strokes_refuses_with_the_reason(data, reason):
    with pytest.raises(PhotoError, match=f"^{reason}") as refused:
        open_strokes(data, (8, 9))
    reason_of(refused.value)


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


# ---- grids -------------------------------------------------------------------------------------
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


# ---- mutated bytes -----------------------------------------------------------------------------
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ICC = ICC.replace("sRGB".encode("utf-16-be"), "mine".encode("utf-16-be"))  # so that it is applied
EXIF = b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"  # it lies on its side


def make_pictures():
    """Return small pictures of the kinds that people have, two thirds of them JPEGs."""
    patches = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    image, both = Image.fromarray(patches).resize((40, 30)), {"exif": EXIF, "icc_profile": ICC}
    frames = {"save_all": True, "append_images": [image.rotate(180)]}
    jpegs = [{}, {"exif": EXIF}, {"icc_profile": ICC}, {"restart_marker_blocks": 2}]
    jpegs += [{"progressive": True}, {"progressive": True, **both}]
    kinds = [("JPEG", options) for options in 4 * jpegs]
    kinds += [(kind, {}) for kind in ("PNG", "BMP", "TIFF", "WEBP")]
    kinds += [("GIF", frames), ("WEBP", frames), ("WEBP", {"lossless": True, **both})]
    kinds += [("TIFF", {"compression": name}) for name in ("tiff_lzw", "jpeg", "tiff_deflate")]
    sources = [(image, *kind) for kind in kinds]
    sources += [(image.convert(mode), "JPEG", {}) for mode in ("L", "CMYK")]
    sources += [(image.quantize(8), "PNG", {"transparency": 0, **both})]
    sources += [(Image.fromarray(patches[..., 0].astype(np.uint16) * 257), "PNG", {})]
    buffers = [io.BytesIO() for _ in sources]
    for buffer, (picture, kind, options) in zip(buffers, sources, strict=True):
        picture.save(buffer, kind, **options)
    return [buffer.getvalue() for buffer in buffers]


@pytest.mark.filterwarnings("ignore")  # Pillow's of broken EXIF
@pytest.mark.parametrize("numbers", some_at_first(200, 3500), ids=len)
def test_open_photo_survives_mutated_pictures(numbers):
    def take_picture(data):
        for size in (16, None):
            try:
                assert open_photo(data, size).mode == "RGB"
            except PhotoError as error:
                reason_of(error)

    assert hurt(take_picture, make_pictures(), numbers) == {}


@pytest.mark.filterwarnings("ignore")  # Pillow's of broken EXIF
def test_open_strokes_survives_mutated_pictures():
    def take_strokes(data):
        try:
            assert open_strokes(data, (40, 30)).mode == "RGBA"
        except PhotoError as error:
            reason_of(error)

    image = Image.fromarray(random_pixels(30, 40)).convert("RGBA")
    image.putalpha(image.getchannel("R"))
    sources = [
        encode(image, icc_profile=ICC),
        encode(image, exif=EXIF),
        encode(image.convert("LA")),
    ]
    sources += [encode(image.convert("RGB").quantize(8), transparency=0, icc_profile=ICC)]
    assert hurt(take_strokes, sources, range(100)) == {}
