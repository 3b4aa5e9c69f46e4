"""One gray ramp as sRGB shows it, encoded in many ways: each must be read as the same L."""

import io
import struct
import zlib

import numpy as np
from encoding import encode
from PIL import Image
from skimage.color import rgb2lab

from photo_files.color import SRGB, make_profile
from photo_files.opening import open_photo

RAMP = np.tile(np.linspace(32, 223, 128).round().astype(np.uint8), (96, 1))  # sRGB's levels
HEIGHT, WIDTH = RAMP.shape


def lightness(pixels):
    """Return L of gray or RGB levels of sRGB."""
    return rgb2lab(pixels if pixels.ndim == 3 else np.stack([pixels] * 3, -1))[..., 0]


def off(data, size=None):
    """Open a picture of the ramp; return how far its L is off, at most, and its |ab|."""
    lab = rgb2lab(np.asarray(open_photo(data, size)))
    return np.abs(lab[..., 0] - lightness(RAMP)).max(), np.abs(lab[..., 1:]).max()


def levels(gamma):
    """Return the ramp's levels where light is a level to the power of gamma, uint8."""
    v = RAMP / 255
    light = np.where(v > 0.04045, ((v + 0.055) / 1.055) ** 2.4, v / 12.92)
    return (255 * light ** (1 / gamma)).round().astype(np.uint8)


def rgb(gamma):
    """Return the ramp as RGB with a gamma."""
    return Image.fromarray(np.stack([levels(gamma)] * 3, -1))


def gray_profile(gamma):
    """Return an ICC profile of gray with a gamma."""
    profile = make_profile(SRGB, gamma)
    return profile.replace(b"RGB ", b"GRAY").replace(b"rTRC", b"kTRC")


def named_profile(gamma, name):
    """Return an ICC profile of sRGB's primaries with a gamma and a name of 4 letters."""
    return make_profile(SRGB, gamma).replace(b"made\0", name + b"\0")


def png_with(image, *chunks, **options):
    """Return a PNG with more chunks before its pixels: pairs of a name and a content."""
    data, added = encode(image, **options), b""
    for name, content in chunks:
        check = struct.pack(">I", zlib.crc32(name + content))
        added += struct.pack(">I", len(content)) + name + content + check
    return data[:33] + added + data[33:]


def gamma_chunk(gamma):
    """Return the name and content of PNG's gAMA."""
    return b"gAMA", struct.pack(">I", round(100_000 / gamma))


def tiff(tags, content, below=(), after=()):
    """Return a TIFF of one strip, whose tags are those of the 8-bit ramp but for some.

    `tags` holds types and values by numbers, as {258: ("H", [12])}; `below` are such pairs of tags
    and content, of its SubIFDs, `after` those of the pages that follow.
    """
    file = io.BytesIO()
    file.write(b"II*\0" + bytes(4))
    places = [add_directory(file, *picture) for picture in below]
    if places:
        tags = {**tags, 330: ("I", places)}
    link = 4
    for page in ((tags, content), *after):
        place, end = add_directory(file, *page), file.tell()
        file.seek(link)
        file.write(struct.pack("<I", place))
        file.seek(end)
        link = end - 4
    return file.getvalue()


def add_directory(file, tags, content):
    """Write a picture's strip, its long tags and its directory to a TIFF; return its place."""
    start = file.tell()
    file.write(content + bytes(len(content) % 2))
    usual = {256: WIDTH, 257: HEIGHT, 258: 8, 259: 1, 262: 1, 273: start, 277: 1, 278: HEIGHT}
    found = {tag: ("I", [value]) for tag, value in {**usual, 279: len(content)}.items()}
    entries = []
    for tag, (kind, values) in sorted({**found, **tags}.items()):
        packed = struct.pack(f"<{len(values)}{kind}", *values)
        if len(packed) > 4:
            place = file.tell()
            file.write(packed)
            packed = struct.pack("<I", place)
        code = {"H": 3, "I": 4}[kind]
        entries.append(struct.pack("<HHI", tag, code, len(values)) + packed.ljust(4, b"\0"))
    place = file.tell()
    file.write(struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4))
    return place


def lossless_jpeg(width, height, parts=3):
    """Return a lossless JPEG (SOF3) of one middle gray."""
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    frame = bytes([8]) + size + bytes([parts])
    frame += b"".join(bytes([i + 1, 0x11, 0]) for i in range(parts))
    table = b"\0" + bytes([1] + [0] * 15) + b"\0"  # one code, "0": no difference
    scan = bytes([parts]) + b"".join(bytes([i + 1, 0]) for i in range(parts)) + bytes([1, 0, 0])
    segments = ((0xC3, frame), (0xC4, table), (0xDA, scan))
    head = b"".join(
        bytes([255, marker]) + (len(content) + 2).to_bytes(2, "big") + content
        for marker, content in segments
    )
    return b"\xff\xd8" + head + bytes(width * height * parts // 8) + b"\xff\xd9"
