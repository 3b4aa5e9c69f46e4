"""Decode photographs from the bytes of files, fit them to a size, and say why one is skipped.

A photograph is a Pillow image of mode RGB, 8 bits, in sRGB, upright.
"""

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from subprocess import CalledProcessError

from PIL import Image, ImageOps, JpegImagePlugin, PngImagePlugin

from photo_files import PhotoError
from photo_files.color import find_profile, to_rgb
from photo_files.finding import explain_unread, find_ending, photo_endings, register_formats
from photo_files.tiff import choose_picture, describe_depth, mend_levels

MAX_PIXELS = 250_000_000  # larger pictures are refused by their header, before memory is taken
MAX_BYTES = 2**30  # of a file; larger ones are refused unread
MAX_PROFILE = 2**26  # bytes of a PNG's color profile; Pillow's limit, 2**20, costs photographs
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers of JPEG that begin a frame
REDUCIBLE = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}  # of these, those of one picture, coded by the DCT
PNG, PNG_METADATA = b"\x89PNG\r\n\x1a\n", (b"tEXt", b"zTXt", b"iTXt", b"eXIf")
CRASHES = "crashes its decoder in Pillow"  # a reason that another process finds
RESAMPLING = Image.Resampling.BILINEAR  # antialiased, as Pillow does it


def upright(image: Image.Image) -> Image.Image:
    """Turn a decoded picture as its EXIF says; one with broken EXIF stays as it is."""
    if image.format == "JPEG" and image.info.keys().isdisjoint(("exif", "xmp")):
        return image  # exif_transpose would take time to find nothing
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # Pillow raises whatever broken bytes lead to
        return image.copy()  # as exif_transpose does: without TIFF's tags


def can_be_reduced(data: bytes) -> bool:
    """Tell whether a JPEG can be decoded at a part of its scale, by the first header of a frame.

    Where it cannot (a lossless one), Pillow would write past the end of its buffer.
    """
    place = 2
    while 0 <= (place := data.find(b"\xff", place)) < len(data) - 4:
        if data[place + 1] == 0xFF:  # as libjpeg, which takes any number of them
            place += 1
            continue
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4])
        if marker in FRAMES:
            return marker in REDUCIBLE
        alone = marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8  # markers without a length
        place += 2 if alone else 2 + length
    return False


def without_metadata(data: bytes) -> bytes:
    """Return a PNG or AVIF without the texts and EXIF that may keep Pillow from its pixels."""
    if data.startswith(PNG):
        kept, place = [PNG], len(PNG)
        while place < len(data):
            end = place + 12 + int.from_bytes(data[place : place + 4])
            if data[place + 4 : place + 8] not in PNG_METADATA:
                kept.append(data[place:end])
            place = end
        return b"".join(kept)
    if data[4:12] == b"ftypavif":  # its EXIF becomes an item of an unknown kind
        return re.sub(rb"(infe.{8,10}?)Exif", rb"\1none", data, flags=re.DOTALL)
    return data


def describe_failure(data: bytes, error: Exception) -> str:
    """Say why bytes are no photograph."""
    if not data:
        return "the file is empty"
    if data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<" and b"html" in data[:1000].lower():
        return "a web page, not a picture"
    if isinstance(error, Image.UnidentifiedImageError):
        if depth := describe_depth(data):
            return depth
        if unread := explain_unread(data):
            return unread
        if (ending := find_ending(data)) in photo_endings():
            return f"damaged, or of a kind that Pillow does not read: it begins as a {ending}"
        return "not a picture of a format that Pillow reads"
    if "Ghostscript" in str(error):
        return (
            "an EPS, which only a program, Ghostscript, can read; save it as PNG or TIFF, or trust "
            "it and type --ghostscript on the command line"
        )
    if isinstance(error, CalledProcessError):
        return "an EPS that Ghostscript cannot read"
    return f"damaged: {' '.join(str(error).split('(')[0].split())}"  # without numbers of bytes


def check_pixels(size: tuple[int, int], most: int) -> None:
    """Raise PhotoError if a picture has too many pixels, before memory is taken."""
    if size[0] * size[1] > most:
        raise PhotoError(f"more than {most // 10**6} million pixels")


@contextlib.contextmanager
def explain_failures(data: bytes) -> Iterator[None]:
    """Turn a failure to decode bytes into a PhotoError that says why."""
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow refuses pictures inside icons at twice that
    PngImagePlugin.MAX_TEXT_CHUNK = MAX_PROFILE
    register_formats()
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


def decode(data: bytes, size: int | None, most: int) -> tuple[Image.Image, bytes | None]:
    """Decode a picture, upright, in its own mode; return its color profile too, if it has one."""
    with Image.open(io.BytesIO(data)) as image:
        check_pixels(image.size, most)
        if image.format == "FITS" and image.mode.startswith("I"):
            raise PhotoError("a FITS of more than 8 bits, which Pillow misreads; save it as PNG")
        profile = find_profile(image, data)
        if size and isinstance(image, JpegImagePlugin.JpegImageFile) and can_be_reduced(data):
            image.draft(None, (size, size))
        image.load()
        tags = image.tag_v2 if image.format == "TIFF" else None
        turned = upright(image)  # without TIFF's tags
        return mend_levels(turned, tags) if tags else turned, profile


def decode_any(
    data: bytes, size: int | None = None, most: int = MAX_PIXELS
) -> tuple[Image.Image, bytes | None]:
    """Decode a picture as `decode` does, whatever lies beside its pixels.

    Raise PhotoError, with a reason, if it cannot be decoded.
    """
    with explain_failures(data):
        data = choose_picture(data)
        try:
            return decode(data, size, most)
        except PhotoError:
            raise
        except Exception:  # Pillow's many decoders raise whatever broken bytes lead to
            if len(bare := without_metadata(data)) == len(data) and bare == data:
                raise
            return decode(bare, size, most)


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
    image, profile = decode_any(data, size, most)
    with explain_failures(data):
        image = to_rgb(image, profile)
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
    image, profile = decode_any(data)
    if image.size != size:
        found, expected = ("{} x {}".format(*s) for s in (image.size, size))
        raise PhotoError(f"{found} pixels, expected the photograph's {expected}")
    with explain_failures(data):
        strokes = image.convert("RGBA")
        alpha = strokes.getchannel("A")
        if alpha.getextrema()[0] == 255:
            raise PhotoError("opaque, expected a picture that is transparent but for strokes")
        return Image.merge("RGBA", (*to_rgb(strokes.convert("RGB"), profile).split(), alpha))


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
