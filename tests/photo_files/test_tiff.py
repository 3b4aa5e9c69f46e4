"""TIFFs: depths and palettes that Pillow misreads, and which of several pictures is meant."""

import numpy as np
import pytest
from encoding import encode
from PIL import Image
from ramps import HEIGHT, RAMP, WIDTH, off, tiff

from photo_files import PhotoError
from photo_files.opening import open_photo
from photo_files.tiff import read_directories

SMALL = Image.new("L", (16, 12), 200)
SMALL_TAGS = {256: ("I", [16]), 257: ("I", [12]), 278: ("I", [12])}
REDUCED, SENSOR = {254: ("I", [1])}, {262: ("H", [32803])}


def twelve_bits(values):
    """Pack pairs of 12 bits in 3 bytes."""
    a, b = np.moveaxis((values.astype(np.uint32) * 4095 // 255).reshape(HEIGHT, -1, 2), -1, 0)
    return np.stack((a >> 4, (a & 15) << 4 | b >> 8, b & 255), -1).astype(np.uint8).tobytes()


def ways():
    """Return TIFFs of the ramp that Pillow alone reads dark, black or inverted."""
    sixteen = (RAMP.astype(np.uint16) * 257).astype("<u2")
    palette = list(range(256)) * 3
    return {
        "8 bits": tiff({}, RAMP.tobytes()),
        "12 bits": tiff({258: ("H", [12])}, twelve_bits(RAMP)),
        "16 bits": tiff({258: ("H", [16])}, sixteen.tobytes()),
        "16 bits, white is 0": tiff(
            {258: ("H", [16]), 262: ("H", [0])}, (65535 - sixteen).astype("<u2").tobytes()
        ),
        "palette of 8 bits": tiff({262: ("H", [3]), 320: ("H", palette)}, RAMP.tobytes()),
        "palette of 16 bits": tiff(
            {262: ("H", [3]), 320: ("H", [256 * value for value in palette])}, RAMP.tobytes()
        ),
    }


@pytest.mark.parametrize("way", ways())
def test_a_ramp_is_read_as_the_same_lightness(way):
    assert off(ways()[way])[0] <= 0.5


def test_a_turned_tiff_whose_levels_are_mended_is_turned():
    inverted = (65535 - RAMP.astype(np.uint16) * 257).astype("<u2")
    tags = {258: ("H", [16]), 262: ("H", [0]), 274: ("H", [3])}
    assert off(tiff(tags, inverted[::-1, ::-1].tobytes()))[0] <= 0.5


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({258: ("H", [10])}, "10-bit pixels, which Pillow does not read"),
        ({258: ("H", [16]), 339: ("H", [2])}, "signed pixels"),
        ({339: ("H", [2])}, "signed pixels"),
        ({258: ("H", [32])}, "32-bit pixels"),
    ],
)
def test_a_depth_without_a_range_is_refused(tags, reason):
    with pytest.raises(PhotoError, match=reason):
        open_photo(tiff(tags, bytes(4 * RAMP.size)))


# ---- several pictures --------------------------------------------------------------------------
def test_the_photograph_is_below_a_reduced_first_page():
    data = tiff({**SMALL_TAGS, **REDUCED}, SMALL.tobytes(), [({}, RAMP.tobytes())])
    assert [tags[256] for _, tags in read_directories(data)] == [16, WIDTH]
    assert off(data)[0] <= 0.5


def test_the_photograph_is_after_a_reduced_first_page():
    small = ({**SMALL_TAGS, **REDUCED}, SMALL.tobytes())
    data = tiff(*small, after=[small, ({}, RAMP.tobytes())])
    assert off(data)[0] <= 0.5


def test_a_smaller_copy_below_the_photograph_is_passed_over():
    data = tiff({}, RAMP.tobytes(), [({**SMALL_TAGS, **REDUCED}, SMALL.tobytes())])
    assert off(data)[0] <= 0.5


def test_of_pages_the_first_is_taken_and_not_the_largest():
    pages = [SMALL, Image.fromarray(RAMP)]
    data = encode(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert open_photo(data).size == SMALL.size


@pytest.mark.parametrize("place", ["first page", "below"])
def test_what_a_sensor_saw_is_refused_as_raw(place):
    small, sensor = ({**SMALL_TAGS, **REDUCED}, SMALL.tobytes()), (SENSOR, RAMP.tobytes())
    data = tiff(*sensor) if place == "first page" else tiff(*small, [sensor])
    with pytest.raises(PhotoError, match="develop RAW to JPEG"):
        open_photo(data)


@pytest.mark.parametrize("head", [b"IIRO", b"FUJIFILMCCD-RAW", b"\0\0\0\x18ftypcrx "])
def test_raw_files_are_known_by_their_first_bytes(head):
    with pytest.raises(PhotoError, match="develop RAW to JPEG"):
        open_photo(head + bytes(100))


def test_a_reduced_copy_alone_is_taken():
    assert off(tiff(REDUCED, RAMP.tobytes()))[0] <= 0.5


def test_directories_that_lead_in_a_circle_end():
    data = bytearray(tiff({}, RAMP.tobytes()))
    data[-4:] = data[4:8]  # the page after the first is the first
    assert len(list(read_directories(bytes(data)))) == 1
    assert off(bytes(data))[0] <= 0.5
