"""Photographs as files: finding, opening, fitting and writing them, and why one is skipped.

A photograph is a Pillow image of mode RGB, 8 bits, in sRGB, upright.
"""

import contextlib
import errno
import functools
import io
import os
import stat
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps

RECORD = "colored.jsonl"  # in a folder of photographs that we coloured
MAX_PIXELS = 250_000_000  # larger pictures are refused by their header, before memory is taken
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # tags of TIFF, and a value
BITS, COMPRESSION, PLANAR = 258, 259, 284
NO_PICTURES = frozenset(("BUFR", "GRIB", "HDF5", "MPEG", "WMF"))  # Pillow names, but cannot decode
MAX_BYTES = 2**30  # of a file; larger ones are refused unread
Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # so that Pillow refuses pictures inside icons, at twice that
RESAMPLING = Image.Resampling.BILINEAR  # of Pillow: antialiased
ORIENTATION, COLOR_SPACE, EXIF_FOLDER, X_RESOLUTION = 0x0112, 0xA001, 0x8769, 282  # of EXIF
SRGB = 1  # a value of COLOR_SPACE
# TIFF's tags that tell of the photograph, not of how the file stores it
TELLING = frozenset((270, 271, 272, 274, 282, 283, 296, 305, 306, 315, 33432, EXIF_FOLDER, 0x8825))
LONGEST_EXIF = 65_000  # bytes; a JPEG holds little more
KEPT_ENDINGS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp")
)


class PhotoError(ValueError):
    """A picture that cannot be taken; its text is the reason, as written to skipped.csv."""


@functools.cache
def photo_endings() -> frozenset[str]:
    """Return the file endings of all formats that Pillow reads here, as ".jpg"."""
    Image.init()
    readable = (Image.OPEN.keys() | {"MPO"}) - NO_PICTURES  # JPEG's reader opens MPO
    return frozenset(e for e, name in Image.registered_extensions().items() if name in readable)


def is_photo_name(name: str) -> bool:
    """Tell by its ending whether a file may be a photograph; macOS's "._" shadows are none."""
    base = os.path.basename(name)
    return os.path.splitext(base)[1].lower() in photo_endings() and not base.startswith("._")


def warn_of_folder(error: OSError) -> None:
    """Say which folder could not be read."""
    print(f"{error.filename}: left out: {error.strerror}", file=sys.stderr)


def find_files(
    root: Path, without: Iterable[Path], failed: Callable[[OSError], None] = warn_of_folder
) -> Iterator[str]:
    """Yield the relative paths of all files below a folder, with "/", in any order.

    Links to folders are not followed. Left out are hidden folders, those that generate.py has
    coloured photographs into, and `without`; `failed` is told of those that cannot be read.
    """
    ours = {folder.resolve() for folder in without}
    for folder, folders, files in os.walk(root, onerror=failed):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and not os.path.exists(os.path.join(folder, name, RECORD))
            and Path(folder, name).resolve() not in ours
        ]
        for file in files:
            path = Path(folder, file)
            if may_be_file(path):
                yield path.relative_to(root).as_posix()


def may_be_file(path: Path) -> bool:
    """Tell whether a path is no pipe or device, or cannot be told; reading it gives the reason."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True


def normalize_name(name: str) -> str:
    """Return a name as NFC: macOS and Linux spell the same accent in different bytes."""
    return unicodedata.normalize("NFC", name)


# ---- opening -----------------------------------------------------------------------------------
def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a picture of any mode to 8-bit RGB in sRGB; transparency shows white."""
    profile = image.info.get("icc_profile")
    if image.mode == "RGB" and not profile and "transparency" not in image.info:
        return image  # nearly all: convert() would copy it
    if image.mode == "F":
        raise PhotoError("floating-point pixels have no fixed range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16 bits a pixel, also where Pillow holds them in 32
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 65535:
            raise PhotoError("32-bit pixels have no fixed range; save it with 8 or 16 bits")
        levels = np.where(levels == image.info.get("transparency"), 65535, levels)
        levels = (levels.astype(np.uint32) + 128) // 257  # rounded, and less memory than floats
        image = Image.fromarray(levels.astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    if image.mode == "P":
        image = image.convert("RGB")
    if profile and image.mode in ("L", "RGB", "CMYK", "LAB"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if image.mode != "RGB" or "sRGB" not in ImageCms.getProfileDescription(source):
                target = ImageCms.createProfile("sRGB")
                image = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            pass  # a broken profile is no reason to lose the photograph
    return image.convert("RGB")


def mend_tiff(image: Image.Image) -> Image.Image:
    """Mend or refuse what Pillow misreads: 16 bits, where white is zero or in planes."""
    tags = image.tag_v2
    if image.mode.startswith("I;16") and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        return Image.fromarray(65535 - np.asarray(image))
    if 16 in tags.get(BITS, ()) and tags.get(PLANAR) == 2 and tags.get(COMPRESSION) == 1:
        raise PhotoError("16-bit planes, which Pillow misreads; save it with 8 bits or as PNG")
    return image


def upright(image: Image.Image) -> Image.Image:
    """Turn a decoded picture as its EXIF says; broken EXIF is no reason to lose it."""
    if image.format == "JPEG" and image.info.keys().isdisjoint(("exif", "xmp")):
        return image  # exif_transpose would take time to find nothing
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # Pillow raises whatever broken bytes lead to
        return image.copy()  # as exif_transpose does: without TIFF's tags


def open_photo(data: bytes, size: int | None = None, most: int = MAX_PIXELS) -> Image.Image:
    """Decode a photograph: first frame, upright, RGB.

    Args:
        data: the file's content, of any format that Pillow reads.
        size: the short side wanted later, in pixels: a JPEG is then decoded at 1/2, 1/4 or 1/8
            while that leaves as much. None decodes all pixels.
        most: pixels that it may have; its header is asked, before memory is taken.

    Returns:
        A Pillow image of mode RGB.

    Raises:
        PhotoError: with the reason.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > most:
                raise PhotoError(f"more than {most // 10**6} million pixels")
            if size:
                image.draft(None, (size, size))
            image.load()
            image = to_rgb(upright(mend_tiff(image) if image.format == "TIFF" else image))
            image.info.clear()  # its profile, now that it is in sRGB
            return image
    except PhotoError:
        raise
    except Image.DecompressionBombError:
        raise PhotoError(f"more than {MAX_PIXELS // 10**6} million pixels") from None
    except MemoryError:
        raise PhotoError("not enough memory to decode it") from None
    except Exception as error:  # Pillow's many decoders raise whatever broken bytes lead to
        raise PhotoError(describe_failure(data, error)) from error


def describe_failure(data: bytes, error: Exception) -> str:
    """Say why bytes are no photograph."""
    if not data:
        return "the file is empty"
    if data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<" and b"html" in data[:1000].lower():
        return "a web page, not a picture"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a picture of a format that Pillow reads"
    return f"damaged: {' '.join(str(error).split('(')[0].split())}"  # without numbers of bytes


def check_bytes(size: int) -> None:
    """Refuse a file by its size in bytes, before memory is taken.

    Raises:
        PhotoError: it is too large.
    """
    if size > MAX_BYTES:
        raise PhotoError(f"a file of more than {MAX_BYTES // 2**20} MB")


def read_bytes(path: Path) -> bytes:
    """Return a photograph's bytes.

    Raises:
        PhotoError: the file cannot be read.
    """
    try:
        check_bytes(path.stat().st_size)
        return path.read_bytes()
    except OSError as error:
        raise PhotoError(error.strerror or str(error)) from error


def fit(image: Image.Image, size: int) -> Image.Image:
    """Cut the central square and resize it, antialiased, to size x size pixels."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize((size, size), RESAMPLING, box=(left, top, left + side, top + side))


# ---- writing -----------------------------------------------------------------------------------
def make_grid(rows: list[list[np.ndarray]], scale: int = 1, gap: int = 4) -> Image.Image:
    """Lay out photographs of one size, (H, W, 3) uint8 each, in rows, enlarged by a factor."""
    height, width = rows[0][0].shape[:2]
    step_y, step_x = height * scale + gap, width * scale + gap
    grid = Image.new("RGB", (len(rows[0]) * step_x + gap, len(rows) * step_y + gap), "white")
    for y, row in enumerate(rows):
        for x, pixels in enumerate(row):
            image = Image.fromarray(pixels).resize((width * scale, height * scale))
            grid.paste(image, (gap + x * step_x, gap + y * step_y))
    return grid


def output_name(name: str, ending: str | None = None) -> str:
    """Return the name that a coloured photograph is written under: its own, or with another ending.

    Args:
        name: of the photograph.
        ending: as ".jpg", of the format to write. None keeps formats that hold 8-bit colour
            without a palette; all others become .png.
    """
    kinds = Image.registered_extensions()
    base, own = os.path.splitext(name)
    kept = own.lower() in KEPT_ENDINGS
    if kept and (ending is None or kinds[own.lower()] == kinds[ending]):
        return name
    return base + (ending or ".png")


@dataclass(frozen=True)
class Keepsakes:
    """What a coloured photograph takes over from its file, beside its pixels."""

    exif: bytes = b""
    dpi: tuple[float, float] | None = None


def read_keepsakes(data: bytes) -> Keepsakes:
    """Return what to keep of a photograph's file, once it is upright and in sRGB.

    What cannot be read is left out: broken EXIF is no reason to lose the photograph.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            exif = image.getexif()
            dpi = image.info.get("dpi") if image.format != "TIFF" or X_RESOLUTION in exif else None
            folder = exif.get_ifd(EXIF_FOLDER) if EXIF_FOLDER in exif else {}
            for tag in exif.keys() - TELLING if image.format == "TIFF" else ():
                del exif[tag]
            for tags in (exif, folder):
                for tag, value in tags.items():
                    if isinstance(value, str) and not value.isascii():
                        tags[tag] = value.encode("latin-1")  # as it was read; Pillow writes "?"
            if exif:
                exif[ORIENTATION] = 1
            if COLOR_SPACE in folder:
                folder[COLOR_SPACE] = SRGB
            packed = exif.tobytes() if exif else b""
        usable = dpi and all(1 <= value < 65536 for value in dpi)
        return Keepsakes(packed if len(packed) <= LONGEST_EXIF else b"", dpi if usable else None)
    except Exception:  # Pillow raises whatever broken bytes lead to
        return Keepsakes()


def describe_losses(data: bytes) -> list[str]:
    """Say what of a picture's file no 8-bit RGB photograph can hold."""
    losses = []
    with contextlib.suppress(Exception), Image.open(io.BytesIO(data)) as image:
        coding = str(image.tile[0][3]) if image.tile else ""
        if image.mode.startswith("I") or ";16" in coding:
            losses.append("with 16 bits a channel, written with 8")
        if image.has_transparency_data:
            losses.append("with transparency, which now shows white")
        if image.format != "MPO" and getattr(image, "is_animated", False):
            losses.append("with several frames or pages, of which the first was taken")
        if image.mode == "1":
            losses.append("with 1 bit: black and white take no colour; scan them in gray")
    return losses


def is_1_bit(file: Path | io.BytesIO) -> bool:
    """Tell by its header whether a picture has only black and white."""
    try:
        with Image.open(file) as image:
            return image.mode == "1"
    except Exception:  # no picture: opening it gives the reason
        return False


def save_options(kind: str, keepsakes: Keepsakes) -> dict[str, object]:
    """Return Pillow's options for writing one of its formats."""
    options: dict[str, object] = {}
    if kind in ("JPEG", "WEBP"):
        options["quality"] = 95
    if kind == "PNG":
        options["compress_level"] = 1  # a fifth of the time, for some percent more bytes
    if keepsakes.dpi and kind != "WEBP":
        options["dpi"] = keepsakes.dpi
    if keepsakes.exif and kind != "BMP":
        options["exif"] = keepsakes.exif
    return options


def write_photo(image: Image.Image, path: Path, keepsakes: Keepsakes = Keepsakes()) -> None:
    """Write a photograph in the format of its name, whole or not at all, never over another.

    Raises:
        FileExistsError: there is a file of that name.
        PhotoError: the format cannot hold it, or the name is too long.
    """
    if os.path.lexists(path):
        raise FileExistsError(f"{path}: there already, and never overwritten; choose another --out")
    # short: names may be as long as they can be
    temporary = path.with_name(f".{os.getpid()}-{threading.get_ident()}.tmp")
    kind, written = Image.registered_extensions()[path.suffix.lower()], io.BytesIO()
    try:
        image.save(written, kind, **save_options(kind, keepsakes))
    except (OSError, ValueError) as error:
        raise PhotoError(f"cannot be written as {kind}: {error}") from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # not by Pillow: on a full disk it leaves the end out and says nothing
        temporary.write_bytes(written.getbuffer())
        temporary.replace(path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise PhotoError("its name is too long to be written under") from error
        if isinstance(error, (FileExistsError, NotADirectoryError)):
            raise PhotoError(f"{path.parent}: expected a folder, found a file") from error
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
