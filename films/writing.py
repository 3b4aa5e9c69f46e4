"""Write colored films: pieces of pictures by libx264, then all of them with the source's sound.

A piece is a NUT file without B-frames, whose pts count units of the film's time base from its first
frame. So pieces can be written at any time, and joined without encoding anything again.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from heapq import merge
from itertools import chain
from pathlib import Path
from typing import Any

from PIL import Image

from common.files import half_written, write_whole
from films.containers import FORMATS, carried, find_pictures, load_av, open_container, read_only
from films.decoding import LIMITED, SWSCALE, UNSPECIFIED
from films.reading import Film
from photo_files.writing import SOFTWARE

QUALITY = 14  # CRF of x264: leaves 43 dB of 640 x 360 with grain, where 18 leaves 41
PRESET = "veryfast"  # 110 such frames a second on one core
MARGIN = 10  # seconds before its start at which a source is read, as its tracks may lag
MICROSECOND = Fraction(1, 1_000_000)  # of FFmpeg, for a whole file
OWN = {"encoder", "major_brand", "minor_version", "compatible_brands", "duration", "rotate"}
KEPT = {"language", "title", "handler_name"}  # of a track's metadata


def check_new(out: Path) -> None:
    """Raise FileExistsError if a file exists."""
    if os.path.lexists(out):
        raise FileExistsError(f"{out}: exists, and is never overwritten; choose another --out")


@contextlib.contextmanager
def writing(path: Path, kind: str) -> Iterator[Any]:
    """Open a container to write; what failed is raised, not what follows from it at the end."""
    container = load_av().open(f"file:{path}", "w", format=kind)
    try:
        yield container
    except BaseException:
        with contextlib.suppress(Exception):
            container.close()
        raise
    container.close()


def write_file(path: Path, kind: str, write: Callable[[Any], None]) -> None:
    """Write a container by `write`, whole or not at all; an OSError names the file."""
    temporary = half_written(path)

    def write_container(temporary: Path) -> None:
        with writing(temporary, kind) as container:
            write(container)

    try:
        write_whole(path, write_container)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary), f"file:{temporary}"):
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


# ---- pieces ------------------------------------------------------------------------------------
def add_pictures(container: Any, film: Film) -> Any:
    """Add a track that encodes a film's pictures."""
    # no psy, which costs 4:4:4 the quality of colors; with any other number of threads, or with
    # mbtree, the bytes are not always the same
    options = {"crf": str(QUALITY), "preset": PRESET, "psy": "0", "bf": "0", "threads": "1"}
    options["mbtree"] = "0"
    track = container.add_stream("libx264", rate=film.rate.limit_denominator(100_000))
    track.options.update(options)
    context = track.codec_context
    context.width, context.height = film.size
    context.pix_fmt = "yuv444p" if any(side % 2 for side in film.size) else "yuv420p"
    context.time_base, context.sample_aspect_ratio = film.time_base, film.aspect
    context.colorspace, context.color_range = film.colors.matrix, LIMITED
    context.color_primaries = film.colors.primaries or UNSPECIFIED
    context.color_trc = film.colors.transfer or UNSPECIFIED
    return track


def write_part(path: Path, film: Film, frames: Iterable[tuple[int, Image.Image]]) -> None:
    """Encode a piece of a film: times (pts, that rise) and pictures (RGB, of the film's size).

    The same frames give the same bytes. The file appears when it is whole.

    Raises:
        ValueError: there is no frame, or one of another size.
        OSError: it cannot be written; nothing of it remains.
    """
    av = load_av()
    how = av.video.reformatter.Interpolation
    convert = av.video.reformatter.VideoReformatter().reformat
    options = {
        "dst_colorspace": SWSCALE[film.colors.matrix],
        "dst_color_range": LIMITED,
        "interpolation": how.BICUBIC | how.ACCURATE_RND | how.FULL_CHR_H_INP,
        "threads": 1,
    }

    def write(container: Any) -> None:
        track, pts = add_pictures(container, film), None
        for pts, image in frames:
            if image.size != film.size:
                raise ValueError(f"{path}: expected a frame of {film.size}, found {image.size}")
            frame = convert(av.VideoFrame.from_image(image), format=track.pix_fmt, **options)
            frame.pts, frame.time_base = pts - film.start, film.time_base
            container.mux(track.encode(frame))
        if pts is None:
            raise ValueError(f"{path}: expected frames, found none")
        container.mux(track.encode(None))

    write_file(path, "nut", write)


# ---- joining -----------------------------------------------------------------------------------
def read_parts(film: Film, parts: Sequence[Path], headers: bytes) -> Iterator[Any]:
    """Yield the packets of pieces, with the film's times; ValueError if one is of another kind."""
    for part in parts:
        with contextlib.closing(open_container(part)) as container:
            track = container.streams.video[0]
            if track.codec_context.extradata != headers:
                raise ValueError(f"{part}: a piece of another film, or of another version")
            scale = track.time_base / film.time_base
            for packet in container.demux(track):
                if packet.size:
                    packet.pts = packet.dts = film.start + round(packet.pts * scale)
                    packet.time_base = film.time_base
                    yield packet


def for_track(track: Any, packets: Iterator[Any], last: int) -> Iterator[Any]:
    """Yield packets for a track, that last until the next one, and the last one so long."""
    held = None
    for packet in packets:
        packet.stream = track
        if held is not None:
            held.duration = packet.pts - held.pts
            yield held
        held = packet
    if held is not None:
        held.duration = last
        yield held


def time_of(packet: Any) -> Fraction:
    """Return the time in seconds at which a packet is decoded."""
    return (packet.pts if packet.dts is None else packet.dts) * packet.time_base


def demux_from(container: Any, numbers: Iterable[int], start: Fraction | None) -> Iterator[Any]:
    """Yield the packets of tracks, from some time before `start`, as they lie in the file."""
    tracks = read_only(container, numbers)
    if start is not None and start > MARGIN:
        container.seek(int((start - MARGIN) / MICROSECOND))
    return container.demux(tracks)


def seek_lands(path: Path, numbers: Iterable[int], start: Fraction) -> bool:
    """Tell whether `demux_from` finds a place before `start`."""
    failed = load_av().error.FFmpegError
    with contextlib.closing(open_container(path)) as container, contextlib.suppress(failed):
        packet = next(demux_from(container, numbers, start))
        return packet.dts is not None and time_of(packet) < start
    return False


def read_others(
    film: Film, copies: dict[int, Any], start: Fraction | None, end: float | None
) -> Iterator[Any]:
    """Yield the packets of a film's tracks that begin between two times, for their copies."""
    if not copies:
        return
    near = start if start is not None and seek_lands(film.path, copies, start) else None
    with contextlib.closing(open_container(film.path)) as source:
        for packet in mend_times(demux_from(source, copies, near)):
            time = packet.pts * packet.time_base
            if end is not None and time > end + MARGIN:
                return
            if (start is None or time >= start) and (end is None or time < end):
                packet.stream = copies[packet.stream_index]
                yield packet


def mend_times(packets: Iterator[Any]) -> Iterator[Any]:
    """Yield packets that have a time, in each track with dts that rise, as containers want."""
    lasts: dict[int, int] = {}
    for packet in packets:
        times = [time for time in (packet.pts, packet.dts) if time is not None]
        if not packet.size or not times:
            continue
        last = lasts.get(packet.stream_index)
        packet.pts, packet.dts = times[0], times[-1]
        if last is not None and packet.dts <= last:
            packet.dts, packet.pts = last + 1, max(packet.pts, last + 1)
        lasts[packet.stream_index] = packet.dts
        yield packet


def copy_tracks(container: Any, source: Any, pictures: Any, ending: str) -> dict[int, Any]:
    """Add the source's other tracks that the container holds; return them by their old numbers."""
    copies = {}
    for track in source.streams:
        if track.index == pictures.index or not carried(track, ending):
            continue
        if track.type == "attachment":
            container.add_attachment(track.name or "file", track.mimetype or "", track.data)
            continue
        copies[track.index] = copy = container.add_stream_from_template(track, opaque=True)
        describe(copy, track)
    return copies


def describe(copy: Any, track: Any) -> None:
    """Give a copy of a track the language, title and disposition of the track."""
    kept = {key: value for key, value in track.metadata.items() if key.lower() in KEPT}
    copy.metadata.update(kept)
    copy.disposition = track.disposition


def describe_film(container: Any, source: Any, shift: Fraction, end: float | None) -> None:
    """Give a colored film its source's metadata and chapters, and say that colors are a guess."""
    metadata = {k: v for k, v in source.metadata.items() if k.lower() not in OWN}
    comment = metadata.pop("comment", metadata.pop("COMMENT", ""))
    container.metadata.update(metadata, comment="; ".join(filter(None, (comment, SOFTWARE))))
    chapters = []
    for chapter in source.chapters():
        base, last = chapter["time_base"], None if end is None else Fraction(end) - shift
        begin, close = (chapter[key] * base - shift for key in ("start", "end"))
        close = close if last is None else min(close, last)
        if close > max(begin, 0):
            times = {"start": round(max(begin, 0) / base), "end": round(close / base)}
            chapters.append(chapter | times)
    container.set_chapters(chapters)


def join_parts(
    film: Film,
    parts: Sequence[Path],
    out: Path,
    start: float | None = None,
    end: float | None = None,
) -> None:
    """Write a colored film from its pieces, in order, and from all other tracks of its source.

    These are copied packet by packet. Without `start` all times are the source's (of mkv, which
    knows none below 0 and counts milliseconds, moved together if one is below). With it the first
    frame is at 0. What the format cannot hold is among `Film.notes`.

    Args:
        film: the source.
        parts: what `write_part` wrote of it.
        out: a name that ends as `Film.ending` says.
        start, end: seconds on the clock of the timestamps (pts * time_base) between which sound
            and subtitles begin that are kept.

    Raises:
        FileExistsError: `out` exists.
        ValueError: a piece is not of this film.
        OSError: it cannot be written; nothing of it remains.
    """
    check_new(out)
    ending = out.suffix.lower()
    with (
        contextlib.closing(open_container(film.path)) as source,
        contextlib.closing(open_container(parts[0])) as head,
    ):

        def write(container: Any) -> None:
            fill(container, film, parts, ending, source, head.streams.video[0], start, end)

        write_file(out, FORMATS[ending], write)


def fill(
    container: Any,
    film: Film,
    parts: Sequence[Path],
    ending: str,
    source: Any,
    template: Any,
    start: float | None,
    end: float | None,
) -> None:
    """Write a colored film's tracks; see `join_parts`."""
    pictures, old = container.add_stream_from_template(template, opaque=True), find_pictures(source)
    pictures.time_base = film.time_base
    describe(pictures, old)
    copies = copy_tracks(container, source, old, ending)
    packets = read_parts(film, parts, template.codec_context.extradata)
    first = next(packets)
    shift = 0 if start is None else first.pts * film.time_base
    describe_film(container, source, shift, end)
    step = max(1, round(1 / (film.rate * film.time_base)))
    shown = for_track(pictures, chain([first], packets), step)
    begin = None if start is None else max(Fraction(start), shift)
    sound = read_others(film, copies, begin, end)
    for packet in merge(shown, sound, key=time_of):
        moved = round(shift / packet.time_base)
        packet.pts, packet.dts = packet.pts - moved, packet.dts - moved
        container.mux(packet)
