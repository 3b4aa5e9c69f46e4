"""A folder of odd pictures, end to end: each is taken as it was meant, or skipped with a reason."""

import contextlib
import faulthandler
import io
import os
import re
import signal
import struct
import tempfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tifffile
from caches import all_names, folder_options, read_skipped, shard_bytes
from encoding import encode, encode_turned, png_header, swapped_profile
from pictures import write_patches
from PIL import Image, ImageCms, PngImagePlugin
from ramps import lossless_jpeg
from running import call
from skimage.color import rgb2lab

import create_dataset
from dataset import Cache
from photo_files import opening
from photo_files.opening import MAX_BYTES, PhotoError
from shards.originals import list_folder
from shards.plan import SPLITS

SIZE, NOBODY = 16, 65534
INSIDE = [2, 3, 4, 5, 10, 11, 12, 13]  # rows and columns well within the four patches
LOSSY = 2  # in stored L and ab: JPEG misses flat patches by one of 255 levels


# ---- what is written ---------------------------------------------------------------------------
def patches(array, height=16, width=16):
    """Enlarge each pixel of a 2 x 2 picture."""
    return np.ascontiguousarray(np.asarray(array, np.uint8).repeat(height, 0).repeat(width, 1))


COLORS = np.array([[(200, 60, 30), (40, 150, 60)], [(50, 70, 190), (220, 190, 40)]], np.uint8)
GRAYS = np.array([[200, 40], [120, 90]], np.uint8)[..., None]
CLEAR = np.array([[0, 255], [255, 255]], np.uint8)  # alpha: the first patch shows white
OVER_WHITE, GRAYS_OVER_WHITE = (np.where(CLEAR[..., None], a, 255) for a in (COLORS, GRAYS))
RGB, GRAY, ALPHA = patches(COLORS), patches(GRAYS[..., 0]), patches(CLEAR)
PLANES = RGB.transpose(2, 0, 1)
RGBA, LA = np.dstack([RGB, ALPHA]), np.dstack([GRAY, ALPHA])
DEEP = np.uint16(257)  # times 8 bits makes 16
LAB = np.full((32, 32, 3), (140, 52, 32), np.uint8)
PICTURE = Image.fromarray(RGB)
PALETTE = PICTURE.quantize(4)
FIRST = int(np.asarray(PALETTE)[0, 0])  # the index of the first patch in it
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF
xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><r:Description r:about=""
xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="3"/></r:RDF></x:xmpmeta>"""


def save(kind, **options):
    """Write the picture in colors by Pillow."""
    return encode(PICTURE.copy(), kind, **options)  # a copy: saving leaves marks on an image


def frames():
    """Return the options that save a black second frame."""
    return {"save_all": True, "append_images": [Image.new("RGB", PICTURE.size)]}


def png(pixels, kind, clear=b""):
    """Write a PNG by hand: 8 or 16 bits of a color type, perhaps one transparent color."""
    rows = pixels.astype(pixels.dtype.newbyteorder(">")).reshape(len(pixels), -1)
    header = struct.pack(">IIBBBBB", *PICTURE.size, 8 * pixels.itemsize, kind, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    chunks = [b"IHDR" + header, *([b"tRNS" + clear] if clear else []), b"IDAT" + content, b"IEND"]
    lengths = [struct.pack(">I", len(chunk) - 4) for chunk in chunks]
    sums = [struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    parts = zip(lengths, chunks, sums, strict=True)
    return b"\x89PNG\r\n\x1a\n" + b"".join(part for chunk in parts for part in chunk)


def tiff(pixels, photometric="rgb", **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, photometric=photometric, **options)
    return buffer.getvalue()


def flip(data, mark, distance):
    """Invert the byte so far behind a mark."""
    place = data.index(mark) + distance
    return data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :]


def icon(data):
    """Wrap a PNG as an icon that claims 16 x 16 pixels."""
    return struct.pack("<HHH4B2H2I", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(data), 22) + data


def mac_icon(data):
    """Wrap a PNG as an icon of macOS that claims 128 x 128 pixels."""
    return struct.pack(">4sI4sI", b"icns", len(data) + 16, b"ic07", len(data) + 8) + data


def long_text():
    """Return a comment that takes a thousandth of its length in the file."""
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * 80_000_000, zip=True)
    return text


def write_huge(path):
    path.touch()
    os.truncate(path, MAX_BYTES + 1)  # sparse: takes no space


def link(target):
    return lambda path: path.symlink_to(target)


# ---- the table: file name -> what to write and what is to come of it ---------------------------
class Row(NamedTuple):
    content: object  # bytes, or what writes the file
    shown: np.ndarray = COLORS  # the picture meant, 2 x 2 patches
    tolerance: int = 0  # in stored L and ab


def plain(color, kind="PNG", size=(20, 20), tolerance=0):
    """Return a row of one color; no two may be alike, for copies are left out."""
    return Row(encode(Image.new("RGB", size, color), kind), np.array([[color]]), tolerance)


NAMES = ["日本語", "Ελλάδα", "תמונה", "صورة", "rainbow\U0001f308", "caf\u00e9", "cafe\u0301"]
NAMES += ["\udcff\udce9", "two\nlines", "return\r", " space\t", 'a,"b"', "%s{}*?", "-rf", "a\\b"]
NAMES += ["n" * 251, "x.jpg/inside", "b.jpg"]
TURNED = {turn: encode_turned(patches(COLORS, 24, 32), turn, "JPEG") for turn in range(1, 9)}
TAKEN = {f"{name}.png": plain((200, 10 * i, 30)) for i, name in enumerate(NAMES)}
TAKEN |= {f"turned_{i}.jpg": Row(data, tolerance=LOSSY) for i, data in TURNED.items()}
TAKEN |= {
    "turned_xmp.jpg": Row(save("JPEG", xmp=XMP), COLORS[::-1, ::-1], LOSSY),
    "broken_exif.jpg": Row(save("JPEG", exif=b"Exif\0\0II*\0"), tolerance=LOSSY),
    "progressive.jpg": Row(save("JPEG", progressive=True), tolerance=LOSSY),
    "garbage_behind.jpg": Row(save("JPEG") + b"garbage" * 1000, tolerance=LOSSY),
    "jpeg_named.png": Row(save("JPEG"), tolerance=LOSSY),
    "png_named.JPG": Row(save("PNG")),
    "cmyk.jpg": Row(encode(PICTURE.convert("CMYK"), "JPEG"), tolerance=LOSSY),
    "cmyk.tif": Row(encode(PICTURE.convert("CMYK"), "TIFF")),
    "stereo.mpo": Row(save("MPO", **frames()), tolerance=LOSSY),
    "stereo.jpg": Row(save("MPO", quality=95, **frames()), tolerance=LOSSY),
    "one_pixel.jpg": plain((180, 40, 90), "JPEG", (1, 1), LOSSY),
    "wide.png": plain((180, 40, 91), size=(4000, 1)),
    "wide.jpg": plain((180, 40, 92), "JPEG", (65500, 1), LOSSY),
    "tall.jpg": plain((180, 40, 93), "JPEG", (1, 4000), LOSSY),
    "srgb.png": Row(save("PNG", icc_profile=SRGB)),
    "profile.png": Row(save("PNG", icc_profile=swapped_profile()), COLORS[..., [1, 0, 2]], LOSSY),
    "broken_profile.png": Row(save("PNG", icc_profile=b"none")),
    "long_text.png": Row(save("PNG", pnginfo=long_text())),
    "wrong_checksum.png": Row(flip(save("PNG"), b"IEND", -5)),  # of whole pixels
    "palette.png": Row(encode(PALETTE)),
    "palette_clear.png": Row(encode(PALETTE, transparency=FIRST), OVER_WHITE),
    "clear_color.png": Row(png(RGB, 2, b"\0\xc8\0\x3c\0\x1e"), OVER_WHITE),
    "alpha.png": Row(png(RGBA, 6), OVER_WHITE),
    "16_bit_alpha.png": Row(png(RGBA * DEEP, 6), OVER_WHITE),
    "16_bit.png": Row(png(RGB * DEEP, 2)),
    "16_bit.tif": Row(tiff(RGB * DEEP)),
    "16_bit_other_end.tif": Row(tiff(RGB * DEEP, byteorder=">")),
    "planes.tif": Row(tiff(PLANES, planarconfig="separate")),
    "lab.tif": Row(tiff(LAB, "cielab"), np.array([[(218, 87, 80)]]), 1),  # is between 8-bit levels
    "pages.tif": Row(save("TIFF", **frames())),
    "animated.gif": Row(encode(PALETTE, "GIF", **frames())),
    "animated.png": Row(save("PNG", **frames())),
    "animated.webp": Row(save("WEBP", lossless=True, **frames())),
    "still.webp": Row(save("WEBP", lossless=True)),
    "picture.bmp": Row(save("BMP")),
    "picture.ico": Row(save("ICO", sizes=[(32, 32)])),
    "picture.jp2": Row(save("JPEG2000")),
    "picture.ppm": Row(save("PPM")),
    "link.png": Row(link("../outside.png"), COLORS[::-1]),
}
ASSOCIATED = {"photometric": "minisblack", "planarconfig": 1, "extrasamples": [1]}
COLORLESS = {  # taken with --keep-gray
    "gray.jpg": Row(encode(Image.fromarray(GRAY), "JPEG"), GRAYS, LOSSY),
    "1_bit.png": Row(encode(Image.fromarray(ALPHA).convert("1")), CLEAR[..., None]),
    "alpha_gray.png": Row(png(LA, 4), GRAYS_OVER_WHITE),
    "clear_gray.png": Row(png(GRAY, 0, b"\0\xc8"), GRAYS_OVER_WHITE),
    "16_bit_gray.png": Row(png(GRAY * DEEP, 0), GRAYS),
    "16_bit_gray.tif": Row(tiff(GRAY * DEEP, "minisblack"), GRAYS),
    "16_bit_alpha_gray.png": Row(png(LA * DEEP, 4), GRAYS_OVER_WHITE),
    "16_bit_clear_gray.png": Row(png(GRAY * DEEP, 0, b"\xc8\xc8"), GRAYS_OVER_WHITE),
    "white_is_zero.tif": Row(tiff(GRAY, "miniswhite"), 255 - GRAYS),
    "16_bit_white_is_zero.tif": Row(tiff(GRAY * DEEP, "miniswhite"), 255 - GRAYS),
}
NO_PICTURE, TOO_MANY = "not a picture of a format that Pillow reads", "more than 250 million pixels"
LOOP = "Too many levels of symbolic links"
HUGE_FRAME = save("JPEG").replace(b"\0\x20\0\x20", b"\xff\xdc\xff\xdc")  # 65500 for 32
SKIPPED = {  # what is written, and the whole reason as a regular expression
    "empty.jpg": (b"", "the file is empty"),
    "page.jpg": (b"\n <!DOCTYPE html>\n<HTML lang=en>404</HTML>", "a web page, not a picture"),
    "words.png": (b"just words", NO_PICTURE),
    "noise.jpg": (np.random.default_rng(0).bytes(5000), NO_PICTURE),
    "bad\n\udcff.jpg": (b"\xff", NO_PICTURE),
    "premultiplied_gray.tif": (tiff(np.minimum(LA, LA[..., 1:]), **ASSOCIATED), "damaged, or .*"),
    "16_bit_planes.tif": (tiff(PLANES * DEEP, planarconfig="separate"), "16-bit planes, .*"),
    "cut.jpg": (save("JPEG")[:-20], "damaged: .*truncated.*"),
    "no_end.jpg": (save("JPEG")[:-2], "damaged: .*truncated.*"),
    "cut.png": (save("PNG")[:-40], "damaged: .*truncated.*"),
    "cut.gif": (encode(PALETTE, "GIF")[:-40], "damaged: .*truncated.*"),
    "cut.tif": (save("TIFF")[:-500], "damaged: .+"),
    "cut.webp": (save("WEBP")[:-9], "damaged: .+"),
    "broken.png": (flip(save("PNG"), b"IDAT", 30), "damaged: .+"),
    "huge.png": (png_header(50_000, 50_000), TOO_MANY),
    "huge.jpg": (HUGE_FRAME, TOO_MANY),
    "huge.ico": (icon(png_header(50_000, 50_000)), TOO_MANY),
    "huge.icns": (mac_icon(png_header(50_000, 50_000)), TOO_MANY),
    "huge_file.jpg": (write_huge, "a file of more than 1024 MB"),
    "float.tif": (tiff(np.float32(GRAY), "minisblack"), "floating-point .*no fixed range.*"),
    "32_bit.tif": (tiff(GRAY * np.uint32(2**24), "minisblack"), ".*no fixed range.*"),
    "gone.jpg": (link("nowhere.jpg"), "No such file or directory"),
    "round.jpg": (link("round.jpg"), LOOP),
    "there.jpg": (link("back.jpg"), LOOP),
    "back.jpg": (link("there.jpg"), LOOP),
}
OTHERS = ["notes.txt", ".DS_Store", "._shadow.jpg", ".jpg", "film.mp4", "film.mpg", "photo.jpg.gz"]
OTHERS += ["paper.pdf", "drawing.svg", "page.html", "camera.CR2", "without_ending", "photo.jpg~"]
UNSEEN = {"pipe.jpg": os.mkfifo, "folder.jpg": link("."), "up": link("..")}


# ---- the folder and its caches -----------------------------------------------------------------
def write(path, content):
    path.parent.mkdir(exist_ok=True)
    content(path) if callable(content) else path.write_bytes(content)


@pytest.fixture(scope="module")
def runs(table, tmp_path_factory):
    """Make caches without and with gray pictures; return both, and what was printed."""
    root = tmp_path_factory.mktemp("odd") / "pictures"
    write_patches(root, 50)
    write(root.parent / "outside.png", png(RGB[::-1], 2))
    for name, (content, *_) in {**TAKEN, **COLORLESS, **SKIPPED}.items():
        write(root / name, content)
    for i, name in enumerate(OTHERS):  # pictures by their bytes: the name decides
        write(root / name, png(RGB + np.uint8(i + 1), 2))
    for name, make in UNSEEN.items():
        make(root / name)
    made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(create_dataset, "lab_table", lambda: table)
        for more in ([], ["--keep-gray"]):
            caches = root.parent / f"cache{len(made)}"
            options = ["--dataset", "folder", "--root", root, "--cache", caches, "--size", SIZE]
            options += ["--workers", 1, "--max-skipped", 100, *more]
            with contextlib.redirect_stdout(io.StringIO()) as output:
                call(create_dataset.main, *options)
            made.append((Cache(caches / f"pictures-{SIZE}"), output.getvalue()))
    return made


def find(cache):
    """Return where each picture of a cache is: name -> (split, index)."""
    names = {s: cache.split(s).names(np.arange(len(cache.split(s)))) for s in SPLITS}
    return {name: (split, i) for split in SPLITS for i, name in enumerate(names[split])}


@pytest.mark.parametrize("name", [*TAKEN, *COLORLESS])
def test_create_dataset_takes_what_was_meant(runs, name):
    (without_gray, _), (cache, _) = runs
    assert read_skipped(cache.folder).get(name, "not skipped") == "not skipped"
    assert (name in find(without_gray)) == (name in TAKEN)
    split, i = find(cache)[name]
    L, ab = (stored[0].numpy() for stored in cache.split(split).read(np.array([i])))
    _, shown, tolerance = (TAKEN | COLORLESS)[name]
    lab = rgb2lab(patches(np.broadcast_to(shown, (2, 2, 3)), 4, 4))
    expected = np.dstack([np.rint(lab[..., 0] * 2.55), np.floor(lab[..., 1:])])
    worst = np.abs(np.dstack([L, *ab])[INSIDE][:, INSIDE] - expected).max()
    assert worst <= tolerance


@pytest.mark.parametrize("name", SKIPPED)
def test_create_dataset_skips_with_the_reason(runs, name):
    for cache, _ in runs:
        listed = read_skipped(cache.folder).get(
            name.encode(errors="replace").decode(), "not listed"
        )
        assert re.fullmatch(SKIPPED[name][1], listed)
        assert name not in find(cache)


@pytest.mark.parametrize("name", [*OTHERS, *UNSEEN])
def test_create_dataset_does_not_list_what_is_no_picture(runs, name):
    for cache, _ in runs:
        assert name not in {**read_skipped(cache.folder), **find(cache)}


def test_create_dataset_counts_what_it_leaves_out(runs):
    (without_gray, _), (with_gray, _) = runs
    assert len(find(with_gray)) > len(find(without_gray))
    for cache, output in runs:
        shards = [shard for split in SPLITS for shard in cache.split(split).shards]
        gray = sum(int(shard.attributes["gray"]) for shard in shards)
        assert gray == len(find(with_gray)) - len(find(cache))
        skipped, others = len(read_skipped(cache.folder)), len(OTHERS)
        line = f"left out: {skipped} skipped, 0 missing, 0 copies, {others} of other kinds\n"
        assert line in output


def test_create_dataset_tells_what_may_be_meant(runs):
    for _, output in runs:
        told = re.findall(r"^left out: (.*) \(.*/(.*), for one\): ", output, re.MULTILINE)
        assert told == [
            ("1 RAW file of a camera", "camera.CR2"),
            ("3 photographs without a photograph's ending", "photo.jpg.gz"),
            ("1 linked folder", "up"),
        ]


# ---- what the system refuses -------------------------------------------------------------------
FORBIDDEN = {  # what to write, whose permissions to change to what, and the reason
    "secret.jpg": (b"content", "secret.jpg", 0, "Permission denied"),
    "locked/inside.jpg": (b"content", "locked", 0o444, "Permission denied"),  # names may be read
    "into_locked.jpg": (link("locked/inside.jpg"), "locked", 0, "Permission denied"),
    "too_long.jpg": (link("n" * 300), "locked", 0, "File name too long"),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_list_folder_lists_what_cannot_be_opened(name):
    content, changed, mode, reason = FORBIDDEN[name]
    with tempfile.TemporaryDirectory() as folder:  # tmp_path is closed to nobody
        root = Path(folder)
        root.chmod(0o755)
        (root / "locked").mkdir()
        write(root / name, content)
        (root / changed).chmod(mode)
        user = os.geteuid()
        os.seteuid(user or NOBODY)  # root may read everything
        try:
            originals = list_folder(root, root / "cache")
            assert [found for names in originals.splits.values() for found in names] == [name]
            with pytest.raises(PhotoError, match=reason):
                originals.read(name)
        finally:
            os.seteuid(user)


# ---- crashes -----------------------------------------------------------------------------------
def crash(*_):
    """End this process as a fault in compiled code does; without pytest's report of it."""
    faulthandler.disable()
    os.kill(os.getpid(), signal.SIGSEGV)


def test_photographs_that_crash_their_decoder_are_named_and_the_rest_goes_on(
    tmp_path, monkeypatch, capsys, table
):
    def decode(data, size):
        return crash() if b"crash" in data else opening.open_photo(data, size)

    names, crashing = write_patches(tmp_path / "photos", 80), ["a.jpg", "b.jpg", "photo_0055.jpg"]
    for name in crashing:
        (tmp_path / "photos" / name).write_bytes(b"crash" + os.urandom(8))
    monkeypatch.setattr(create_dataset, "lab_table", lambda: table)
    monkeypatch.setattr(create_dataset, "open_photo", decode)
    monkeypatch.setattr(create_dataset, "SHARD_PHOTOS", 16)
    made = {}
    for workers in (1, 2, 3):
        caches = tmp_path / str(workers)
        options = folder_options(tmp_path / "photos", caches, workers=workers)
        call(create_dataset.main, *options)
        assert "a photograph crashed its decoder" in capsys.readouterr().out
        made[workers] = shard_bytes(caches / "photos-16")
        assert read_skipped(caches / "photos-16") == dict.fromkeys(
            crashing, "crashes its decoder in Pillow"
        )
        assert all_names(caches / "photos-16") == names
    assert made[1] == made[2] == made[3]
    assert len(made[1]) > 4


def test_a_crash_that_no_photograph_causes_ends_the_command(tmp_path, monkeypatch, table):
    write_patches(tmp_path / "photos", 40)
    monkeypatch.setattr(create_dataset, "lab_table", lambda: table)
    monkeypatch.setattr(create_dataset, "find_bins", crash)
    with pytest.raises(ChildProcessError, match=r"crashed while it made .*\.h5, and not by"):
        call(create_dataset.main, *folder_options(tmp_path / "photos", tmp_path))
    assert not list((tmp_path / "photos-16").glob("*.tmp"))


def test_a_lossless_jpeg_is_read_as_any_other(tmp_path, monkeypatch, table):
    monkeypatch.setattr(create_dataset, "lab_table", lambda: table)
    names = write_patches(tmp_path / "photos", 40)
    (tmp_path / "photos" / "lossless.jpg").write_bytes(lossless_jpeg(1024, 768))
    options = folder_options(tmp_path / "photos", tmp_path, "--keep-gray")
    call(create_dataset.main, *options)
    assert all_names(tmp_path / "photos-16") == sorted(["lossless.jpg", *names])
