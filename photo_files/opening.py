"""Decode photographs from the bytes of files, fit them to a size, and say why one is skipped.

A photograph is a Pillow image of mode RGB, 8 bits, in sRGB, upright.
"""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps

MAX_PIXELS = 250_000_000  # larger pictures are refused by their header, before memory is taken
BITS, COMPRESSION, PHOTOMETRIC, PLANAR = 258, 259, 262, 284  # tags of TIFF
WHITE_IS_ZERO = 0  # a value of PHOTOMETRIC
MAX_BYTES = 2**30  # of a file; larger ones are refused unread
RESAMPLING = Image.Resampling.BILINEAR  # antialiased, as Pillow does it


class PhotoError(ValueError):
    """A picture that is skipped; the text is the reason that skipped.csv gives."""


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
    """Repair or refuse TIFFs of 16 bits that Pillow misreads: white as zero, or planes."""
    tags = image.tag_v2
    if image.mode.startswith("I;16") and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        return Image.fromarray(65535 - np.asarray(image))
    if 16 in tags.get(BITS, ()) and tags.get(PLANAR) == 2 and tags.get(COMPRESSION) == 1:
        raise PhotoError("16-bit planes, which Pillow misreads; save it with 8 bits or as PNG")
    return image


def upright(image: Image.Image) -> Image.Image:
    """Turn a decoded picture as its EXIF says; one with broken EXIF stays as it is."""
    if image.format == "JPEG" and image.info.keys().isdisjoint(("exif", "xmp")):
        return image  # exif_transpose would take time to find nothing
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # Pillow raises whatever broken bytes lead to
        return image.copy()  # as exif_transpose does: without TIFF's tags


def describe_failure(data: bytes, error: Exception) -> str:
    """Say why bytes are no photograph."""
    if not data:
        return "the file is empty"
    if data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<" and b"html" in data[:1000].lower():
        return "a web page, not a picture"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a picture of a format that Pillow reads"
    return f"damaged: {' '.join(str(error).split('(')[0].split())}"  # without numbers of bytes


def check_pixels(size: tuple[int, int], most: int) -> None:
    """Raise PhotoError if a picture has too many pixels, before memory is taken."""
    if size[0] * size[1] > most:
        raise PhotoError(f"more than {most // 10**6} million pixels")


@contextlib.contextmanager
def explain_failures(data: bytes) -> Iterator[None]:
    """Turn a failure to decode bytes into a PhotoError that says why."""
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow refuses pictures inside icons at twice that
    try:
        yield
    except PhotoError:
        raise
    except Image.DecompressionBombError:
        raise PhotoError(f"more than {MAX_PIXELS // 10**6} million pixels") from None
    except MemoryError:
        raise PhotoError("not enough memory to decode it") from None
    except Exception as error:  # Pillow's many decoders raise whatever broken bytes lead to
        raise PhotoError(describe_failure(data, error)) from error


def open_photo(data: bytes, size: int | None = None, most: int = MAX_PIXELS) -> Image.Image:
    """Decode a photograph: first frame, upright, RGB.

    Args:
        data: the file's content, of any format that Pillow reads.
        size: short side in pixels that the caller needs: a JPEG is decoded at 1/2, 1/4 or 1/8 of
            its scale if that leaves as much. None decodes all pixels.
        most: largest number of pixels, checked by the header before memory is taken.

    Raises:
        PhotoError: the photograph is skipped, for this reason.
    """
    with explain_failures(data), Image.open(io.BytesIO(data)) as image:
        check_pixels(image.size, most)
        if size:
            image.draft(None, (size, size))
        image.load()
        image = to_rgb(upright(mend_tiff(image) if image.format == "TIFF" else image))
        image.info.clear()  # its profile, now that it is in sRGB
        return image


def open_strokes(data: bytes, size: tuple[int, int]) -> Image.Image:
    """Decode a picture that is transparent but for strokes of color: upright, RGBA, sRGB.

    Args:
        data: the file's content, a PNG or of any format that holds transparency.
        size: width and height of the photograph that it belongs to.

    Raises:
        PhotoError: it has another size, or no transparency, or is no picture.
    """
    with explain_failures(data), Image.open(io.BytesIO(data)) as image:
        check_pixels(image.size, MAX_PIXELS)
        image.load()
        image = upright(image)
        if image.size != size:
            found, expected = ("{} x {}".format(*s) for s in (image.size, size))
            raise PhotoError(f"{found} pixels, expected the photograph's {expected}")
        strokes = image.convert("RGBA")
        if strokes.getchannel("A").getextrema()[0] == 255:
            raise PhotoError("opaque, expected a picture that is transparent but for strokes")
        if image.info.get("icc_profile"):
            opaque = to_rgb(strokes.convert("RGB"))
            strokes = Image.merge("RGBA", (*opaque.split(), strokes.getchannel("A")))
        return strokes


def check_bytes(size: int) -> None:
    """Raise PhotoError if a file has too many bytes, before memory is taken."""
    if size > MAX_BYTES:
        raise PhotoError(f"a file of more than {MAX_BYTES // 2**20} MB")


def read_bytes(path: Path) -> bytes:
    """Return a photograph's bytes; raise PhotoError if the file cannot be read."""
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
