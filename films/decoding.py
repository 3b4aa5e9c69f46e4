"""Decode the pictures of films by FFmpeg, give frames their times, and turn them into RGB.

A frame's time, pts, counts units of the picture track's time base from the file's own zero.
"""

import heapq
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image

from films.containers import find_pictures, load_av, open_container, read_only
from photo_files import PhotoError

USUAL_RATE = Fraction(25)  # frames a second, of a film that does not say
HIGH = 720  # pixels of height, from which unmarked colors are BT.709's, as players take them
MOST_GAPS = 1000  # times that a damaged container is read on
# numbers of ITU-T H.273, and FFmpeg's of ranges
RGB, BT709, UNSPECIFIED, RESERVED, BT601 = 0, 1, 2, 3, 6
PQ, HLG = 16, 18
LIMITED, FULL = 1, 2
SWSCALE = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}  # its own numbers of the matrices that it knows
# of gray in levels 16 to 235, which swscale leaves so
WIDEN = [min(255, max(0, round((k - 16) * 255 / 219))) for k in range(256)]
TURNS = {  # signs of a display matrix's a, b, c and d: how a picture becomes upright
    (1, 0, 0, 1): None,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}


class Pass:
    """One pass over a film's pictures: its frames as FFmpeg's, with times that only rise.

    A frame's time is its pts. AVI, and Matroska of AVI's kind, know no pts: there the times of the
    packets, sorted, are the frames'. A frame without a time comes one usual step after the last
    one, and one whose time is not later than the last one's comes one unit after it.
    """

    def __init__(self, path: Path, by_packets: bool = False):
        self.container = open_container(path)
        self.track = find_pictures(self.container)
        read_only(self.container, [self.track.index])
        self.by_packets = by_packets
        # threads that decode several frames at a time would blur which packet a frame is of
        self.track.thread_type = "SLICE" if by_packets else "AUTO"
        rate = self.track.average_rate or USUAL_RATE
        self.step = max(1, round(1 / (rate * self.track.time_base)))
        self.waiting: list[int] = []  # times of packets whose frames are still to come, a heap
        self.first: int | None = None  # pts of the first packet
        self.last: int | None = None  # time of the last frame
        self.damaged = 0  # packets that could not be decoded, or frames that are flagged as broken
        self.mended = False  # whether a time was

    def packets(self) -> Iterator[Any]:
        """Yield the packets; go on after those that cannot be told apart, as often as it helps."""
        for _ in range(MOST_GAPS):
            try:
                yield from self.container.demux(self.track)
                return
            except load_av().error.InvalidDataError:
                self.damaged += 1
            except OSError as error:  # of the disk that the film is on, not of the one written to
                raise PhotoError(f"cannot be read on ({error.strerror or error})") from error

    def frames(self) -> Iterator[tuple[int, Any]]:
        """Yield times and frames."""
        av = load_av()
        for packet in self.packets():
            if self.first is None:
                self.first = packet.pts
            if self.by_packets and packet.dts is not None:
                heapq.heappush(self.waiting, packet.dts)
            try:
                frames = self.track.decode(packet)
            except av.error.FFmpegError:
                self.damaged += 1
                continue
            for frame in frames:
                self.damaged += frame.is_corrupt
                yield self.find_time(frame), frame

    def find_time(self, frame: Any) -> int:
        """Return a frame's time; see the class."""
        found = frame.pts
        if self.by_packets:
            while len(self.waiting) > self.track.codec_context.reorder_depth + 1:
                heapq.heappop(self.waiting)  # of a packet that held no frame
            found = heapq.heappop(self.waiting) if self.waiting else None
        if found is None:
            self.mended, found = True, 0 if self.last is None else self.last + self.step
        if self.last is not None and found <= self.last:
            self.mended, found = True, self.last + 1
        self.last = found
        return found


# ---- colors ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Colors:
    """How a film's levels stand for colors, by the numbers of ITU-T H.273."""

    matrix: int
    range: int  # LIMITED (16..235) or FULL (0..255)
    primaries: int
    transfer: int


def find_colors(frame: Any) -> Colors:
    """Return how a frame says that its colors are meant, or how players take it to mean them."""
    matrix, levels = frame.colorspace, frame.color_range
    if matrix not in SWSCALE:
        matrix = BT709 if frame.height >= HIGH else BT601
    if levels not in (LIMITED, FULL):
        gray = len(frame.format.components) == 1
        full = gray or frame.format.is_rgb or frame.format.name.startswith("yuvj")
        levels = FULL if full else LIMITED
    return Colors(matrix, levels, frame.color_primaries, frame.color_trc)


def find_turn(frame: Any) -> tuple[Image.Transpose | None, bool]:
    """Return how a frame becomes upright by its display matrix, and whether that is all of it."""
    display = load_av().sidedata.sidedata.Type.DISPLAYMATRIX
    found = [bytes(data) for data in frame.side_data if data.type == display]
    if not found:
        return None, True
    a, b, _, c, d = struct.unpack("=5i", found[0][:20])
    most = max(map(abs, (a, b, c, d)), default=0) or 1
    signs = tuple(round(value / most) for value in (a, b, c, d))
    exact = all(
        abs(value / most - sign) < 0.01 for value, sign in zip((a, b, c, d), signs, strict=True)
    )
    return (TURNS[signs], True) if exact and signs in TURNS else (None, False)


class ToRGB:
    """What turns a film's frames into upright RGB pictures of one size."""

    def __init__(self, size: tuple[int, int], colors: Colors, turn: Image.Transpose | None):
        reformatter = load_av().video.reformatter
        self.size, self.turn, self.reformatter = size, turn, reformatter.VideoReformatter()
        self.limited, how = colors.range == LIMITED, reformatter.Interpolation
        self.options = {
            "src_colorspace": SWSCALE[colors.matrix],
            "src_color_range": colors.range,
            "dst_color_range": FULL,
            "interpolation": how.BICUBIC | how.ACCURATE_RND | how.FULL_CHR_H_INT,
            "threads": 1,
        }

    def __call__(self, frame: Any) -> Image.Image:
        """Return a frame as a picture; one of another size than the first is resized."""
        (width, height), options = self.size, self.options
        rgb = self.reformatter.reformat(frame, width, height, "rgb24", **options).planes[0]
        image = Image.frombytes("RGB", self.size, bytes(rgb), "raw", "RGB", rgb.line_size, 1)
        if self.limited and len(frame.format.components) == 1:
            image = image.point(WIDEN * 3)
        return image if self.turn is None else image.transpose(self.turn)
