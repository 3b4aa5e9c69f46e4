"""Convert a picture of any mode and color space to 8-bit RGB in sRGB.

What says a picture's color space, the first that is there: PNG's cICP; an ICC profile; HEIC's nclx;
PNG's sRGB; PNG's gAMA and cHRM; EXIF's note of Adobe RGB. The others become an ICC profile here.
"""

import contextlib
import functools
import io
import struct

import numpy as np
from PIL import Image, ImageCms

from photo_files import PhotoError

CMS_ERRORS = (ImageCms.PyCMSError, OSError)
INTEROP, ADOBE_INTEROP = 0xA005, b"R03"  # EXIF's folder of interoperability, and its index there
D50 = np.array((0.9642, 1.0, 0.8249))  # the white of ICC profiles, XYZ
BRADFORD = np.array(  # cone responses of XYZ (Lindbloom, "Chromatic adaptation")
    ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))
)
# x and y of white, red, green, blue
D65 = 0.3127, 0.3290
SRGB = *D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06
ADOBE_RGB = *D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06
PRIMARIES = {  # of cICP and nclx (ITU-T H.273)
    1: SRGB,
    5: (*D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    9: (*D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    12: (*D65, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
}
SRGB_CURVE = None  # in place of a gamma
TRANSFERS = {4: 2.2, 5: 2.8, 8: 1.0, 13: SRGB_CURVE}  # of cICP and nclx
TRANSFERS |= dict.fromkeys((1, 6, 14, 15), SRGB_CURVE)  # of video, which screens show so
HDR = 16, 18  # transfers, too
ADOBE_GAMMA = 563 / 256
ALIKE = 0.05  # share by which a gamma, and 0.005 by which a chromaticity, may be off sRGB's
MODES = "L", "RGB", "CMYK", "LAB"  # that a profile may be of
SAME_LEVELS = 3  # an "sRGB" profile may change 8-bit levels by so much, and counts as sRGB


# ---- profiles ----------------------------------------------------------------------------------
def fixed_point(values: np.ndarray) -> bytes:
    """Return numbers as ICC profiles hold them, in 16 bits before the point and 16 behind it."""
    return (values * 65536).round().astype(">i4").tobytes()


def find_colorants(chromaticities: tuple[float, ...]) -> np.ndarray:
    """Return XYZ of red, green and blue under the white of ICC profiles, (3, 3), a row each.

    `chromaticities` are x and y of white, red, green and blue. Raise ValueError if they are of no
    color space.
    """
    x, y = np.reshape(chromaticities, (4, 2)).T
    if not (np.isfinite((x, y)).all() and (y > 0).all()):
        raise ValueError(f"no color space has white and primaries {chromaticities}")
    white, *primaries = np.stack((x / y, np.ones(4), (1 - x - y) / y), 1)  # XYZ, (4, 3)
    try:
        colorants = np.transpose(primaries)
        colorants = colorants * np.linalg.solve(colorants, white)  # which add up to white
    except np.linalg.LinAlgError:
        raise ValueError("the primaries lie on a line") from None
    adapt = np.diag((BRADFORD @ D50) / (BRADFORD @ white))
    return np.linalg.solve(BRADFORD, adapt @ BRADFORD @ colorants).T


def make_curve(gamma: float | None) -> bytes:
    """Return the curve of a gamma, or of sRGB, for an ICC profile; ValueError if it is none."""
    if gamma is SRGB_CURVE:
        levels = np.linspace(0, 1, 1024)
        light = np.where(levels > 0.04045, ((levels + 0.055) / 1.055) ** 2.4, levels / 12.92)
        points = (light * 65535).round().astype(">u2")
    elif 0.1 < gamma < 10:
        points = np.array([round(gamma * 256)], ">u2")
    else:
        raise ValueError(f"no color space has gamma {gamma}")
    return b"curv\0\0\0\0" + struct.pack(">I", len(points)) + points.tobytes()


def make_profile(chromaticities: tuple[float, ...], gamma: float | None) -> bytes:
    """Return an ICC profile (version 2) of an RGB color space.

    Args:
        chromaticities: x and y of white, red, green and blue.
        gamma: light is a level, 0..1, to this power; SRGB_CURVE: as in sRGB.

    Raise ValueError if there is no such space.
    """
    colorants = zip((b"rXYZ", b"gXYZ", b"bXYZ"), find_colorants(chromaticities), strict=True)
    tags = {name: b"XYZ \0\0\0\0" + fixed_point(values) for name, values in colorants}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), make_curve(gamma))
    tags[b"wtpt"] = b"XYZ \0\0\0\0" + fixed_point(D50)
    tags[b"desc"] = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"made\0" + bytes(78)
    tags[b"cprt"] = b"text\0\0\0\0-\0"
    table, body, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">I4xI", start + len(body), 0x02200000) + b"mntrRGB XYZ " + bytes(12)
    head += b"acsp" + bytes(28) + fixed_point(D50)
    return head.ljust(128, b"\0") + table + body


def read_cicp(data: bytes) -> tuple[int, int] | None:
    """Return the primaries and the transfer of a PNG's cICP, as numbers of ITU-T H.273."""
    place = data.find(b"\0\0\0\4cICP", 0, max(0, data.find(b"IDAT")))
    return (data[place + 8], data[place + 9]) if place >= 0 else None


def is_known(primaries: int, transfer: int) -> bool:
    """Tell whether numbers of ITU-T H.273 say a color space; raise PhotoError if it is of HDR."""
    if transfer in HDR:
        raise PhotoError("HDR, which is not supported; save it in sRGB")
    return primaries in PRIMARIES and transfer in TRANSFERS  # "unspecified" is a number, too


def make_numbered_profile(primaries: int, transfer: int) -> bytes | None:
    """Return the ICC profile of a color space in known numbers of H.273; None if it is sRGB."""
    space = PRIMARIES[primaries], TRANSFERS[transfer]
    return None if space == (SRGB, SRGB_CURVE) else make_profile(*space)


def find_profile(image: Image.Image, data: bytes) -> bytes | None:
    """Return the ICC profile of a picture's color space; None if that is sRGB, or is not said.

    Raise PhotoError if it is of HDR.
    """
    if image.format == "PNG" and (cicp := read_cicp(data)) and is_known(*cicp):
        return make_numbered_profile(*cicp)
    if profile := image.info.get("icc_profile"):
        return profile
    if nclx := image.info.get("nclx_profile"):  # of HEIC
        numbers = nclx["color_primaries"], nclx["transfer_characteristics"]
        if is_known(*numbers):
            return make_numbered_profile(*numbers)
    if image.format == "PNG" and "gamma" in image.info and "srgb" not in image.info:
        gamma, primaries = image.info["gamma"], image.info.get("chromaticity", SRGB)
        usual = abs(2.2 * gamma - 1) < ALIKE
        if usual and np.allclose(primaries, SRGB, rtol=0, atol=ALIKE / 10):
            return None
        with contextlib.suppress(ValueError):  # it says nothing that can be meant
            return make_profile(primaries, 1 / gamma if gamma > 0 else 0)
    exif = image.info.get("exif") or b""  # HEIC's reader puts None there
    if ADOBE_INTEROP in exif and is_adobe_rgb(image):
        return make_profile(ADOBE_RGB, ADOBE_GAMMA)
    return None


def is_adobe_rgb(image: Image.Image) -> bool:
    """Tell whether EXIF notes Adobe RGB, as cameras do (DCF 2.0); broken EXIF notes nothing."""
    try:
        return image.getexif().get_ifd(INTEROP).get(1, "").startswith(ADOBE_INTEROP.decode())
    except Exception:  # Pillow raises whatever broken bytes lead to
        return False


@functools.lru_cache(maxsize=8)
def find_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return what converts pictures with a profile to sRGB; None if that would change nothing.

    Raise one of CMS_ERRORS if the profile cannot be used for pictures of this mode.
    """
    source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    transform = ImageCms.buildTransform(source, target, mode, "RGB")
    if mode == "RGB" and "sRGB" in ImageCms.getProfileDescription(source):  # by its name alone
        levels = np.stack(np.meshgrid(*[np.arange(0, 256, 15, dtype=np.uint8)] * 3), -1)
        levels = levels.reshape(1, -1, 3)
        converted = np.asarray(ImageCms.applyTransform(Image.fromarray(levels), transform))
        if converted[0, -1].min() < 255 - SAME_LEVELS:
            raise ImageCms.PyCMSError("damaged: called sRGB, and its white is not white")
        if np.abs(converted.astype(int) - levels).max() <= SAME_LEVELS:
            return None
    return transform


def channels_of(profile: bytes) -> str:
    """Return the kind of a profile's channels, as "RGB" or "GRAY"; raise one of CMS_ERRORS."""
    return ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space.strip()


def convert_colors(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert a picture without transparency to RGB in sRGB; raise one of CMS_ERRORS."""
    if image.mode == "L" and channels_of(profile) == "RGB":
        image = image.convert("RGB")  # a gray picture may keep the profile it had in color
    transform = find_transform(profile, image.mode)
    return ImageCms.applyTransform(image, transform) if transform else image


def has_useless_profile(image: Image.Image) -> bool:
    """Tell whether a picture has an ICC profile that its colors cannot be converted from."""
    try:
        if profile := image.info.get("icc_profile"):
            gray = image.mode in ("1", "LA", "La") or image.mode.startswith("I")
            mode = "L" if gray else image.mode if image.mode in MODES else "RGB"
            convert_colors(Image.new(mode, (1, 1)), profile)
    except CMS_ERRORS:
        return True
    return False


# ---- modes -------------------------------------------------------------------------------------
def reduce_to_8_bits(image: Image.Image) -> Image.Image:
    """Round 16-bit gray, which Pillow may hold in 32 bits, to 8; a transparent level gets white."""
    levels = np.asarray(image)
    if levels.min() < 0 or levels.max() > 65535:
        raise PhotoError("32-bit pixels have no fixed range; save it with 8 or 16 bits")
    levels = np.where(levels == image.info.get("transparency"), 65535, levels)
    levels = (levels.astype(np.uint32) + 128) // 257  # rounded, and less memory than floats
    return Image.fromarray(levels.astype(np.uint8))


def to_rgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert a picture of any mode and an ICC profile to RGB in sRGB; transparency shows white.

    A profile that cannot be used is no reason to lose the photograph.
    """
    if image.mode == "RGB" and not profile and "transparency" not in image.info:
        return image  # nearly all: convert() would copy it
    if image.mode == "F":
        raise PhotoError("floating-point pixels have no fixed range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        image = reduce_to_8_bits(image)
    alpha = None
    if image.has_transparency_data:
        whole = image.convert("RGBA")
        alpha = whole.getchannel("A")
        gray = image.mode in ("L", "LA", "La")
        image = whole.getchannel("R") if gray else whole.convert("RGB")
    if image.mode in ("P", "PA"):
        image = image.convert("RGB")
    if profile and image.mode in MODES:
        with contextlib.suppress(*CMS_ERRORS):
            image = convert_colors(image, profile)
    image = image.convert("RGB")
    if alpha is None:
        return image
    image.putalpha(alpha)
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")
