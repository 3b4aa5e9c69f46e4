"""Color spaces and modes: the same ramp, said in many ways, is read as the same L."""

import io
import struct

import numpy as np
import pytest
from encoding import encode, require_format
from PIL import Image, ImageCms
from ramps import (
    RAMP,
    gamma_chunk,
    gray_profile,
    levels,
    lightness,
    named_profile,
    off,
    png_with,
    rgb,
)

from photo_files import PhotoError
from photo_files.color import (
    ADOBE_GAMMA,
    ADOBE_RGB,
    SRGB,
    find_transform,
    has_useless_profile,
    make_profile,
)
from photo_files.opening import open_photo


def adobe_exif():
    """Return EXIF as a camera writes it for Adobe RGB, without a profile."""
    exif = Image.Exif()
    exif[0x8769] = {0xA001: 65535, 0xA005: {1: "R03"}}
    return exif


def encoded():
    """Return the ramp, or a picture of it, in ways that all mean the same gray."""
    gray = Image.fromarray(RAMP)
    opaque = Image.new("L", gray.size, 255)
    with_alpha = Image.merge("LA", [Image.fromarray(levels(1.8)), opaque])
    return {
        "plain": encode(gray),
        "linear profile, called sRGB": encode(rgb(1), icc_profile=named_profile(1, b"sRGB")),
        "linear profile": encode(rgb(1), icc_profile=named_profile(1, b"line")),
        "gray profile": encode(Image.fromarray(levels(1.8)), icc_profile=gray_profile(1.8)),
        "gray profile and alpha": encode(with_alpha, icc_profile=gray_profile(1.8)),
        "gray profile and a transparent level": encode(
            Image.fromarray(levels(1.8)), icc_profile=gray_profile(1.8), transparency=0
        ),
        "gray with a profile of RGB": encode(
            Image.fromarray(levels(1.8)), icc_profile=make_profile(SRGB, 1.8)
        ),
        "gAMA": png_with(rgb(1), gamma_chunk(1)),
        "gAMA of gray": png_with(Image.fromarray(levels(1.8)), gamma_chunk(1.8)),
        "gAMA beside sRGB": png_with(gray, (b"sRGB", b"\0"), gamma_chunk(1)),
        "sRGB's gAMA": png_with(gray, gamma_chunk(2.2)),
        "impossible gAMA": png_with(gray, (b"gAMA", bytes(4))),
        "cICP, linear": png_with(rgb(1), (b"cICP", bytes([1, 8, 0, 1]))),
        "cICP before gAMA": png_with(gray, (b"cICP", bytes([1, 13, 0, 1])), gamma_chunk(1)),
        "cICP, Display P3": png_with(gray.convert("RGB"), (b"cICP", bytes([12, 13, 0, 1]))),
        "Adobe RGB by EXIF": encode(rgb(ADOBE_GAMMA), "JPEG", quality=100, exif=adobe_exif()),
    }


@pytest.mark.parametrize("way", encoded())
def test_a_ramp_is_read_as_the_same_lightness(way):
    L, ab = off(encoded()[way])
    assert L <= 1
    assert ab <= 1.5


# from linear RGB of a color space to that of sRGB (Lindbloom, "RGB working space information")
TO_SRGB = {
    "Display P3": [(1.2249, -0.2247, 0), (-0.0420, 1.0419, 0), (-0.0197, -0.0786, 1.0979)],
    "Rec. 2020": [
        (1.6605, -0.5876, -0.0728),
        (-0.1246, 1.1329, -0.0083),
        (-0.0182, -0.1006, 1.1187),
    ],
    "Adobe RGB": [(1.3984, -0.3984, 0), (0, 1, 0), (0, -0.0429, 1.0429)],
    "sRGB": np.eye(3),
}
COLOR = np.array((150, 100, 80))


def written_as():
    """Return ways to say a color space: its matrix, the curve of its levels, and the file."""
    color = Image.new("RGB", (8, 8), tuple(COLOR.tolist()))
    chromaticities = struct.pack(">8I", *(round(100_000 * value) for value in ADOBE_RGB))
    numbers = {"P3": (12, 13), "2020": (9, 14), "2020 linear": (9, 8), "2.8": (1, 5)}
    cicp = {name: png_with(color, (b"cICP", bytes([*n, 0, 1]))) for name, n in numbers.items()}
    return {
        "cICP of P3": ("Display P3", "sRGB", cicp["P3"]),
        "cICP of video in Rec. 2020": ("Rec. 2020", "sRGB", cicp["2020"]),
        "cICP, linear": ("Rec. 2020", 1, cicp["2020 linear"]),
        "cICP, gamma 2.8": ("sRGB", 2.8, cicp["2.8"]),
        "EXIF": ("Adobe RGB", 563 / 256, png_with(color, exif=adobe_exif())),
        "cHRM": (
            "Adobe RGB",
            2.2,
            png_with(color, gamma_chunk(2.2), (b"cHRM", chromaticities)),
        ),
    }


@pytest.mark.parametrize("way", written_as())
def test_a_color_is_converted_as_tables_say(way):
    space, gamma, data = written_as()[way]
    v = COLOR / 255
    light = ((v + 0.055) / 1.055) ** 2.4 if gamma == "sRGB" else v**gamma
    light = np.clip(np.array(TO_SRGB[space]) @ light, 0, 1)
    levels = np.where(light > 0.0031308, 1.055 * light ** (1 / 2.4) - 0.055, 12.92 * light)
    assert np.abs(np.asarray(open_photo(data))[0, 0] - 255 * levels).max() <= 1.5


@pytest.mark.parametrize("numbers", [(1, 1), (1, 6), (2, 2), (2, 13), (1, 2), (200, 13)])
def test_a_cicp_of_video_or_without_a_meaning_leaves_srgb(numbers):
    data = png_with(Image.fromarray(RAMP), (b"cICP", bytes([*numbers, 0, 1])))
    assert off(data)[0] <= 0.5


def test_a_cicp_without_a_meaning_leaves_the_profile():
    profile = named_profile(1, b"line")
    assert off(png_with(rgb(1), (b"cICP", bytes([2, 2, 0, 1])), icc_profile=profile))[0] <= 1


@pytest.mark.parametrize(("gamma", "changes"), [(2.2, True), (2.0, True), (None, False)])
def test_a_profile_called_srgb_is_taken_at_its_curve(gamma, changes):
    profile = named_profile(gamma, b"sRGB")
    assert (find_transform(profile, "RGB") is not None) == changes


def test_a_damaged_profile_called_srgb_counts_as_srgb():
    profile = named_profile(None, b"sRGB")
    place = profile.index(b"XYZ \0\0\0\0", 132) + 8
    black = profile[:place] + bytes(12) + profile[place + 12 :]
    image = rgb(2.2)
    image.info["icc_profile"] = black
    assert has_useless_profile(image)
    found = np.asarray(open_photo(encode(image, icc_profile=black)))
    assert np.array_equal(found, np.asarray(image))


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_a_gray_profile_is_of_use_for_every_gray_mode(mode):
    gray = Image.fromarray(RAMP)
    image = Image.fromarray(RAMP.astype(np.uint16) * 257) if mode == "I;16" else gray.convert(mode)
    image.info["icc_profile"] = gray_profile(1.8)
    assert not has_useless_profile(image)


def test_make_profile_agrees_with_a_profile_of_another_program():
    """The colorants of sRGB, adapted to D50, as the ICC's own sRGB profile has them."""
    ours = ImageCms.ImageCmsProfile(io.BytesIO(make_profile(SRGB, None))).profile
    colorants = np.array([ours.red_colorant[0], ours.green_colorant[0], ours.blue_colorant[0]])
    expected = [(0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7139)]
    np.testing.assert_allclose(colorants, expected, atol=3e-4)
    levels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    source = ImageCms.ImageCmsProfile(ours)
    converted = ImageCms.profileToProfile(
        Image.fromarray(levels), source, ImageCms.createProfile("sRGB")
    )
    assert np.abs(np.asarray(converted).astype(int) - levels).max() <= 1


@pytest.mark.parametrize(
    ("chromaticities", "gamma"),
    [((0.3, 0) * 4, 1.0), (SRGB, 0.0), (SRGB, 1e5), ((0.3, 0.3) * 4, 1.0)],
)
def test_make_profile_refuses_what_is_no_color_space(chromaticities, gamma):
    with pytest.raises(ValueError, match=r"no color space|on a line"):
        make_profile(chromaticities, gamma)


def test_hdr_is_refused_by_its_cicp():
    with pytest.raises(PhotoError, match="HDR, which is not supported"):
        open_photo(png_with(rgb(1), (b"cICP", bytes([9, 16, 0, 1]))))


def test_heic_is_read_in_the_color_space_of_its_nclx():
    require_format("HEIF")

    def convert(primaries, transfer):
        numbers = {"color_primaries": primaries, "transfer_characteristics": transfer}
        return open_photo(encode(image, "HEIF", quality=100, chroma=444, **numbers)).getpixel(
            (9, 9)
        )

    image = Image.new("RGB", (48, 32), (180, 120, 90))
    in_p3 = open_photo(png_with(image, (b"cICP", bytes([12, 13, 0, 1])))).getpixel((9, 9))
    assert max(np.subtract(in_p3, (180, 120, 90))) > 5
    np.testing.assert_allclose(convert(12, 13), in_p3, atol=3)
    for said_nothing in ((1, 13), (2, 2), (1, 1)):
        np.testing.assert_allclose(convert(*said_nothing), (180, 120, 90), atol=3)
    with pytest.raises(PhotoError, match="HDR, which is not supported"):
        convert(9, 16)


def test_find_transform_takes_no_time_for_srgb_itself():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert find_transform(srgb, "RGB") is None
    assert find_transform(named_profile(1, b"sRGB"), "RGB") is not None


def test_has_useless_profile():
    image = rgb(1)
    assert not has_useless_profile(image)
    for profile, expected in (
        (make_profile(SRGB, 1), False),
        (gray_profile(1), True),
        (b"?", True),
    ):
        image.info["icc_profile"] = profile
        assert has_useless_profile(image) == expected


def test_a_half_transparent_gray_is_laid_over_white_after_its_profile():
    half = Image.merge("LA", [Image.fromarray(levels(1.8)), Image.new("L", RAMP.shape[::-1], 51)])
    found = np.asarray(open_photo(encode(half, icc_profile=gray_profile(1.8))))
    assert np.abs(found[..., 0] - (0.2 * RAMP + 0.8 * 255)).max() <= 1.5
    assert np.abs(lightness(found) - lightness(RAMP)).max() > 10
