"""TIFFs that Pillow misreads: mend their levels, and find the photograph among their pictures.

A TIFF holds directories of tags, each of a picture: its pages in a chain, and below a page more of
them (SubIFDs). Cameras' RAW files are TIFFs, whose first page is a small picture.
"""

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2 as Directory

from photo_files import PhotoError
from photo_files.finding import RAW, describe_kind

# tags
KIND, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, OLD_KIND = 254, 256, 257, 258, 259, 262, 255
PLANAR, COLOR_MAP, SUB_DIRECTORIES, SAMPLE_FORMAT = 284, 320, 330, 339
# their values
REDUCED, OLD_REDUCED = 1, 2  # of KIND, a bit; of OLD_KIND
WHITE_IS_ZERO, SENSOR = 0, (32803, 34892)  # of PHOTOMETRIC
SIGNED = 2  # of SAMPLE_FORMAT
CR2 = b"\x10\0\0\0CR\2\0"  # of Canon's RAW: bytes 4 to 12
MOST_DIRECTORIES = 1000  # that are looked at in a file
DEPTHS = (1, 2, 4, 8, 12, 16, 32)  # bits of a pixel's channel that Pillow reads


# ---- directories -------------------------------------------------------------------------------
def read_directories(data: bytes) -> Iterator[tuple[int, Directory]]:
    """Yield the places of a TIFF's pages and of their SubIFDs, and their tags, in order."""
    waiting, seen = [Directory(data[:8]).next], set()
    while waiting and len(seen) < MOST_DIRECTORIES:
        place = waiting.pop(0)
        if not 0 < place < len(data) or place in seen:
            continue
        seen.add(place)
        file, directory = io.BytesIO(data), Directory(data[:8])
        file.seek(place)
        directory.load(file)
        yield place, directory
        waiting = [*directory.get(SUB_DIRECTORIES, ()), directory.next, *waiting]


def is_reduced(directory: Directory) -> bool:
    """Tell whether a picture is a small copy of another."""
    return bool(directory.get(KIND, 0) & REDUCED) or directory.get(OLD_KIND) == OLD_REDUCED


def find_photograph(data: bytes) -> int | None:
    """Return the place of the largest of a TIFF's pictures that is no reduced copy.

    A first page that is none itself stays the first, unless it has a larger SubIFD: then, and where
    there is nothing to choose, return None. Raise PhotoError if the photograph is what a camera's
    sensor saw.
    """
    found = list(read_directories(data))
    if any(tags.get(PHOTOMETRIC) in SENSOR for _, tags in found) or data[4:12] == CR2:
        raise PhotoError(describe_kind(RAW))
    if len(found) < 2:
        return None
    first, tags = found[0]
    below = tags.get(SUB_DIRECTORIES, ())
    if not is_reduced(tags):
        found = [(place, tags) for place, tags in found if place == first or place in below]
    whole = [(place, tags) for place, tags in found if not is_reduced(tags)] or found
    place, _ = max(whole, key=lambda item: item[1].get(WIDTH, 0) * item[1].get(HEIGHT, 0))
    return None if place == first else place


def choose_picture(data: bytes) -> bytes:
    """Return a TIFF whose first page is the photograph, see `find_photograph`; else `data`."""
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return data
    try:
        place = find_photograph(data)
    except PhotoError:
        raise
    except Exception:  # Pillow raises whatever broken bytes lead to; decoding says what is wrong
        return data
    if place is None:
        return data
    return data[:4] + place.to_bytes(4, "little" if data[:2] == b"II" else "big") + data[8:]


# ---- levels ------------------------------------------------------------------------------------
def mend_levels(image: Image.Image, tags: Directory) -> Image.Image:
    """Repair or refuse a decoded TIFF whose levels Pillow misreads, by its tags."""
    bits = tags.get(BITS, ())
    if SIGNED in tags.get(SAMPLE_FORMAT, ()):
        raise PhotoError("signed pixels have no fixed range; save it with 8 or 16 bits")
    if 32 in bits and image.mode.startswith("I"):
        raise PhotoError("32-bit pixels have no fixed range; save it with 8 or 16 bits")
    if 16 in bits and tags.get(PLANAR) == 2 and tags.get(COMPRESSION) == 1:
        raise PhotoError("16-bit planes, which Pillow misreads; save it with 8 bits or as PNG")
    if image.mode.startswith("I;16"):
        most, inverted = 2 ** bits[0] - 1, tags.get(PHOTOMETRIC) == WHITE_IS_ZERO
        if most < 65535 or inverted:
            levels = (np.asarray(image) * np.float32(65535 / most)).round().astype(np.uint16)
            return Image.fromarray(65535 - levels if inverted else levels)
    colors = np.array(tags.get(COLOR_MAP, ()))
    if image.mode == "P" and len(colors) and colors.max() < 256:  # not 16 bits, as libtiff decides
        image.putpalette(colors.astype(np.uint8).reshape(3, -1).T.tobytes())
    return image


def describe_depth(data: bytes) -> str:
    """Say which depth of a TIFF Pillow does not read; "" if that is no reason, or it is no TIFF."""
    try:
        _, tags = next(read_directories(data))
    except Exception:  # no TIFF, or a broken one
        return ""
    odd = [bits for bits in tags.get(BITS, ()) if 0 < bits <= 64 and bits not in DEPTHS]
    return f"{odd[0]}-bit pixels, which Pillow does not read; save it with 8 or 16" if odd else ""
