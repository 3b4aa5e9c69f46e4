"""Read films: frames in order, upright, in RGB, with their times.

A frame is a Pillow image of mode RGB, 8 bits, in the film's own primaries. Its time, pts, counts
units of the picture track's time base from the file's own zero.
"""

import contextlib
import re
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

from PIL import Image

from films.containers import MATROSKA, describe_tracks, find_ending, load_av
from films.decoding import (
    HLG,
    PQ,
    RESERVED,
    RGB,
    SWSCALE,
    UNSPECIFIED,
    USUAL_RATE,
    Colors,
    Pass,
    ToRGB,
    find_colors,
    find_turn,
)
from photo_files import PhotoError

MARGIN = 64  # packets after a frame's own that may hold frames shown before it
LENGTH = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")
PEEK = 100  # packets that tell whether the rate is one
ROTATIONS = {  # degrees counterclockwise
    Image.Transpose.ROTATE_90: 90,
    Image.Transpose.ROTATE_180: 180,
    Image.Transpose.ROTATE_270: 270,
    Image.Transpose.TRANSPOSE: 270,
    Image.Transpose.TRANSVERSE: 90,
}


# ---- films -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Frame:
    """A frame: its time, in the film's time base, and its picture, upright RGB."""

    pts: int
    image: Image.Image


@dataclass
class Film:
    """A film file; `open_film` makes it."""

    path: Path
    size: tuple[int, int]  # width and height, upright
    rotation: int  # degrees counterclockwise by which decoded pictures are turned: 0 to 270
    time_base: Fraction  # seconds
    rate: Fraction  # frames a second, on average
    duration: float | None  # seconds, of the picture track where it says so, else of the file
    lasts: float | None  # seconds of the picture track, if it says so
    estimated_frames: int | None
    start: int  # pts of the first frame
    aspect: Fraction  # width of a pixel by its height, upright
    colors: Colors
    ending: str  # that a colored film gets: ".mp4" or ".mkv"
    turn: Image.Transpose | None
    by_packets: bool  # see Pass
    notes: list[str] = field(default_factory=list)  # what is not as one may expect
    damaged: int = 0  # packets that the latest reading could not decode, or found broken
    missing: float = 0.0  # seconds of the duration at whose end the latest reading found no frame

    def frames(self, after: int | None = None, before: int = 0) -> Iterator[Frame]:
        """Yield the frames in order; after the one of pts `after`, but begin so many before that.

        What is yielded equals that part of an uninterrupted reading: where it is not certain that
        FFmpeg finds the place, the film is decoded from its start. Memory holds `before` frames.
        Where packets are damaged, the frame before stays longer, or FFmpeg fills the holes; what it
        fills in may differ from one reading to the next. Where the file breaks off, frames end.
        """
        sideways = self.rotation % 180 != 0
        to_rgb = ToRGB(self.size[::-1] if sideways else self.size, self.colors, self.turn)
        reading, found = self._begin(after, before)
        try:
            self.damaged, self.missing = 0, 0.0
            for pts, frame in found:
                self.damaged = reading.damaged
                yield Frame(pts, to_rgb(frame))
            self.damaged = reading.damaged
            if self.lasts is not None and reading.last is not None:
                lasted = (reading.last - self.start) * self.time_base + 1 / self.rate
                self.missing = max(0.0, self.lasts - float(lasted))
        finally:
            reading.container.close()

    def _begin(self, after: int | None, before: int) -> tuple[Pass, Iterator[tuple[int, Any]]]:
        """Return a pass over the film, and the frames that `frames` yields, as FFmpeg's."""
        if after is not None and not self.by_packets:
            place = find_keyframe(self.path, after, before)
            if place is not None:
                reading = Pass(self.path)
                with contextlib.suppress(load_av().error.FFmpegError):
                    reading.container.seek(place, stream=reading.track)
                    kept, rest = skip(reading.frames(), after, before)
                    certain = reading.first is not None and reading.first <= place
                    if certain and len(kept) > before and not reading.mended:
                        return reading, chain(kept[1:], rest)
                reading.container.close()
        reading = Pass(self.path, self.by_packets)
        if after is None:
            return reading, reading.frames()
        kept, rest = skip(reading.frames(), after, before)
        return reading, chain(kept[max(0, len(kept) - before) :], rest)


def skip(
    frames: Iterator[tuple[int, Any]], after: int, before: int
) -> tuple[list[tuple[int, Any]], Iterator[tuple[int, Any]]]:
    """Go to the first frame later than `after`; return the one more than `before` ahead of it.

    Returns these, fewer where the film begins, and an iterator of those that follow.
    """
    kept: deque[tuple[int, Any]] = deque(maxlen=before + 1)
    for pts, frame in frames:
        if pts > after:
            return list(kept), chain([(pts, frame)], frames)
        kept.append((pts, frame))
    return list(kept), iter(())


def find_keyframe(path: Path, after: int, before: int) -> int | None:
    """Return the pts of a keyframe well before the frames that `Film.frames` yields.

    Decoding from there gives the same frames as from the start: there is one more keyframe between.
    None if there is none, or if the packets' times leave a doubt. This reads the file up to the
    place, but decodes nothing.
    """
    reading, stamps, keys, later = Pass(path), [], [], 0
    with contextlib.closing(reading.container):
        for packet in reading.packets():
            if packet.pts is None and packet.size:
                return None
            if packet.pts is None:
                continue
            stamps.append(packet.pts)
            if packet.is_keyframe:
                keys.append(packet.pts)
            later += packet.pts > after
            if later > MARGIN:
                break
    stamps.sort()
    first = bisect_right(stamps, after) - before - 1
    if reading.damaged or first < 0 or len(set(stamps)) < len(stamps):
        return None
    earlier = [key for key in keys if key <= stamps[first]]
    return earlier[-2] if len(earlier) > 1 else None


# ---- opening -----------------------------------------------------------------------------------
def describe_rate(path: Path) -> tuple[bool, bool]:
    """Return whether a film's frames have no times of their own, and whether they come unevenly.

    The first PEEK packets tell. Raise PhotoError if they are encrypted.
    """
    reading, stamps = Pass(path), []
    with contextlib.closing(reading.container):
        own = reading.container.format.name == "avi"
        for packet in islice(reading.packets(), PEEK):
            if packet.has_sidedata("encryption_info"):
                raise PhotoError("encrypted; take a film without copy protection")
            if packet.size:
                stamps.append(packet.pts)
    if own or None in stamps:
        return True, False
    stamps.sort()
    gaps = [b - a for a, b in pairwise(stamps)][: PEEK - 20]  # B-frames are missing from the end
    uneven = bool(gaps) and max(gaps) - min(gaps) > max(2, 0.03 * sum(gaps) / len(gaps))
    return False, uneven


def describe_pictures(frame: Any, uneven: bool, turned: bool) -> list[str]:
    """Return a note on each property of a film's pictures that is not kept or may surprise."""
    notes, bits = [], max(part.bits for part in frame.format.components)
    if frame.interlaced_frame:
        notes.append("interlaced: lines of two moments are colored as one picture")
    if bits > 8:
        notes.append(f"{bits} bits become 8")
    if uneven:
        notes.append("variable frame rate: timestamps are kept")
    if any(side % 2 for side in (frame.width, frame.height)):
        notes.append("odd size: written as 4:4:4")
    if not turned:
        notes.append("turned by no multiple of 90 degrees: left as it is stored")
    return notes


def check_frame(frame: Any) -> None:
    """Raise PhotoError if there is no frame, or one whose levels 8-bit RGB does not show."""
    if frame is None:
        raise PhotoError("damaged, or of a kind that FFmpeg does not decode: without any frame")
    if frame.colorspace not in (RGB, UNSPECIFIED, RESERVED, *SWSCALE):
        raise PhotoError(f"colors of a rare kind (matrix {frame.colorspace}); convert it to BT.709")
    if frame.color_trc in (PQ, HLG):
        name = "PQ" if frame.color_trc == PQ else "HLG"
        raise PhotoError(f"HDR ({name}), which would look dull; convert it to SDR first")


def find_length(track: Any) -> float | None:
    """Return how many seconds a picture track lasts, if it says so."""
    if track.duration is not None:
        return float(track.duration * track.time_base)
    if found := LENGTH.fullmatch(track.metadata.get("DURATION", "")):  # of Matroska
        hours, minutes, seconds = map(float, found.groups())
        early = float((track.start_time or 0) * track.time_base)  # it counts from 0
        return 3600 * hours + 60 * minutes + seconds - max(0.0, early)
    return None


def find_duration(container: Any) -> float | None:
    """Return how many seconds a film lasts, if the file says so."""
    if container.duration is None:
        return None
    early = container.start_time or 0 if MATROSKA in container.format.name else 0
    return (container.duration - max(0, early)) / 1e6  # Matroska counts from 0


def open_film(path: Path) -> Film:
    """Look at a film's tracks and its first frame; raise PhotoError if it cannot be colored."""
    by_packets, uneven = describe_rate(path)
    reading = Pass(path, by_packets)
    with contextlib.closing(reading.container) as container:
        start, frame = next(reading.frames(), (0, None))
        check_frame(frame)
        track, (turn, turned) = reading.track, find_turn(frame)
        rotation, base = ROTATIONS.get(turn, 0), track.time_base
        size, aspect = (frame.width, frame.height), track.sample_aspect_ratio or Fraction(1)
        if rotation % 180:
            size, aspect = size[::-1], 1 / aspect
        rate, lasts = track.average_rate or USUAL_RATE, find_length(track)
        seconds = find_duration(container) if lasts is None else lasts
        number = track.frames or (round(seconds * rate) if seconds else None)
        notes = describe_pictures(frame, uneven, turned) + describe_tracks(container, track)
        colors, ending = find_colors(frame), find_ending(container)
    about = (path, size, rotation, base, rate, seconds, lasts, number, start, aspect)
    about += (colors, ending, turn)
    return Film(*about, by_packets, notes)
