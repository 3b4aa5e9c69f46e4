"""Pictures as bytes, for tests."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from photo_files.finding import register_formats

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


def require_format(kind):
    """Skip a test where Pillow lacks the package for one of these formats."""
    package = {"HEIF": "pillow_heif", "JXL": "pillow_jxl"}[kind]
    pytest.importorskip(package, reason=f"{package} is not installed")
    register_formats()


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def encode_turned(upright, orientation, kind, **options):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = np.ascontiguousarray(STORED[orientation](upright))
    return encode(Image.fromarray(stored), kind, exif=exif.tobytes(), **options)


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
