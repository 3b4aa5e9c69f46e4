"""Write colored photographs to files, with their old names, formats and metadata where possible.

A photograph is a Pillow image of mode RGB, 8 bits, in sRGB, upright.
"""

import contextlib
import errno
import io
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from common.files import flush
from photo_files import PhotoError
from photo_files.color import INTEROP, has_useless_profile

# EXIF's tags, and values of two of them
ORIENTATION, X_RESOLUTION, SOFTWARE_TAG, EXIF_FOLDER = 0x0112, 282, 305, 0x8769
COLOR_SPACE, PIXELS_X, PIXELS_Y, INTEROP_INDEX = 0xA001, 0xA002, 0xA003, 1
SRGB, SRGB_INTEROP = 1, "R98"
# TIFF's tags that describe the photograph, not how the file stores it
KEPT_TAGS = {269, 270, 271, 272, 274, 282, 283, 296, 305, 306, 315, 316, 33432, EXIF_FOLDER, 0x8825}
KEPT_TAGS |= {0x4746, 0x4749, *range(0x9C9B, 0x9CA0)}  # Windows' rating, title, comment and so on
XMP_TAG = 700  # of TIFF
# what a colored photograph says of itself
SOFTWARE = "zhang_palette: the colors are a neural network's guess"
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
XMP = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}"/>
</rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>""".encode()
LONGEST_EXIF = 65_000  # bytes; a JPEG holds little more
KEPT_ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp")


def output_name(name: str, ending: str | None = None) -> str:
    """Return a colored photograph's name: the photograph's own, or with the ending of its format.

    None as `ending` keeps formats that hold 8-bit color without a palette; all others become .png.
    """
    kinds = Image.registered_extensions()
    base, own = os.path.splitext(name)
    kept = own.lower() in KEPT_ENDINGS
    if kept and (ending is None or kinds[own.lower()] == kinds[ending]):
        return name
    return base + (ending or ".png")


def pack(exif: Image.Exif) -> bytes:
    """Return EXIF as bytes, with the name of this software."""
    exif[SOFTWARE_TAG] = SOFTWARE
    exif.bigtiff = False  # EXIF has no such kind; Pillow would not read it again
    return exif.tobytes()


@dataclass(frozen=True)
class Metadata:
    """What a colored photograph holds beside the pixels: mostly what its file held."""

    exif: bytes = field(default_factory=lambda: pack(Image.Exif()))
    dpi: tuple[float, float] | None = None


def read_metadata(data: bytes, size: tuple[int, int]) -> Metadata:
    """Return the metadata of a photograph of this width and height, by now upright and in sRGB.

    Metadata that cannot be read are left out: they are no reason to lose the photograph.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            exif = image.getexif()
            dpi = image.info.get("dpi") if image.format != "TIFF" or X_RESOLUTION in exif else None
            folder = exif.get_ifd(EXIF_FOLDER) if EXIF_FOLDER in exif else {}
            for tag in exif.keys() - KEPT_TAGS if image.format == "TIFF" else ():
                del exif[tag]
            for tags in (exif, folder):
                for tag, value in tags.items():
                    if isinstance(value, str) and not value.isascii():
                        tags[tag] = value.encode("latin-1")  # as Pillow reads; it would write "?"
            if exif:
                exif[ORIENTATION] = 1
            now = {COLOR_SPACE: SRGB, PIXELS_X: size[0], PIXELS_Y: size[1]}
            folder.update({tag: value for tag, value in now.items() if tag in folder})
            if INTEROP in folder and INTEROP_INDEX in (interop := exif.get_ifd(INTEROP)):
                interop[INTEROP_INDEX] = SRGB_INTEROP
            packed = pack(exif)
        kept = {"exif": packed} if len(packed) <= LONGEST_EXIF else {}
        return Metadata(**kept, dpi=dpi if dpi and all(1 <= v < 65536 for v in dpi) else None)
    except Exception:  # Pillow raises whatever broken bytes lead to
        return Metadata()


def conversion_notes(data: bytes) -> list[str]:
    """Return a note for each property of a picture's file that 8-bit RGB cannot hold."""
    notes = []
    with contextlib.suppress(Exception), Image.open(io.BytesIO(data)) as image:
        coding = str(image.tile[0][3]) if image.tile else ""
        if image.mode.startswith("I") or ";16" in coding:
            notes.append("with 16 bits a channel, written with 8")
        if image.has_transparency_data:
            notes.append("with transparency, which now shows white")
        if image.format != "MPO" and getattr(image, "is_animated", False):
            notes.append("with several frames or pages, of which the first was taken")
        if has_useless_profile(image):
            notes.append("with a color profile that cannot be used, read as sRGB")
        if image.format == "PCD":
            notes.append("in Photo CDs, of which 768 x 512 pixels are read")
        if image.mode == "1":
            notes.append("with 1 bit: black and white take no color; scan them in gray")
    return notes


def save_options(kind: str, metadata: Metadata) -> dict[str, object]:
    """Return Pillow's options for writing one of its formats."""
    fast = {"compress_level": 1}  # a fifth of the time, for some percent more bytes
    options = {"JPEG": {"quality": 95}, "WEBP": {"quality": 95}, "PNG": fast}.get(kind, {})
    if metadata.dpi and kind != "WEBP":
        options["dpi"] = metadata.dpi
    if kind != "BMP":  # which holds neither
        options["exif"] = metadata.exif
    if kind in ("JPEG", "WEBP"):
        options["xmp"] = XMP
    if kind == "PNG":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.decode())
    if kind == "TIFF":
        options["exif"] = Image.Exif()
        options["exif"].load(metadata.exif)
        for tag in options["exif"].keys() - KEPT_TAGS:
            del options["exif"][tag]  # a camera's width, for one, would be this file's
        options["exif"][XMP_TAG] = XMP
    return options


def write_photo(image: Image.Image, path: Path, metadata: Metadata = Metadata()) -> None:
    """Write a photograph in the format of its name, whole or not at all, never over another file.

    Raises:
        FileExistsError: a file of that name exists.
        PhotoError: the format cannot hold the photograph, or the name is too long.
    """
    if os.path.lexists(path):
        raise FileExistsError(f"{path}: exists, and is never overwritten; choose another --out")
    # a short name: that of the photograph may be as long as the system allows
    temporary = path.with_name(f".{os.getpid()}-{threading.get_ident()}.tmp")
    kind, written = Image.registered_extensions()[path.suffix.lower()], io.BytesIO()
    try:
        image.save(written, kind, **save_options(kind, metadata))
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises whatever odd metadata lead to
        raise PhotoError(f"cannot be written as {kind}: {error}") from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # not by Pillow: on a full disk it leaves the end out and says nothing
        temporary.write_bytes(written.getbuffer())
        flush(temporary)
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
