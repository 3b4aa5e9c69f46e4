"""Small films made by PyAV: moving gradients with grain, and whatever a test asks for besides."""

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation

SIZE = (96, 64)  # width and height
RATE = 24  # frames a second
BASE = Fraction(1, 12_288)  # of mp4: a frame lasts 512
SOUND_RATE = 48_000  # samples a second
LANGUAGES = ("eng", "deu", "fra")  # of the tracks of sound, in order
SOUND_FORMATS = {"aac": "fltp", "libmp3lame": "fltp"}  # of others: s16
KINDS = {".mkv": "matroska", ".m4v": "mp4"}  # FFmpeg's names that PyAV does not guess
EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP
MATRICES = {1: "ITU709", 5: "ITU601", 6: "ITU601", 9: "BT2020"}  # H.273's numbers, PyAV's names
TAGS = {"matrix": "colorspace", "range": "color_range"}
TAGS |= {"transfer": "color_trc", "primaries": "color_primaries"}


# ---- pictures ----------------------------------------------------------------------------------
def moving(number: int = 48, size: tuple[int, int] = SIZE, grain: float = 2.0) -> list[np.ndarray]:
    """Return frames (H, W, 3) uint8, RGB: gradients that move, no two alike, with grain."""
    rng, (width, height) = np.random.default_rng(0), size
    y, x = np.mgrid[:height, :width]
    frames = []
    for k in range(number):
        waves = [x / width + k / 40, y / height - k / 30, (x + y) / (width + height) + k / 50]
        levels = 128 + 80 * np.sin(2 * np.pi * np.stack(waves, axis=-1))
        levels += rng.normal(0, grain, (height, width, 1))
        frames.append(levels.clip(0, 255).astype(np.uint8))
    return frames


def plain(colors: Iterable[tuple[int, int, int]], size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    """Return a frame of each color, as `moving` does."""
    return [np.full((size[1], size[0], 3), color, np.uint8) for color in colors]


def to_frame(levels: np.ndarray, pixels: str, tags: dict[str, int]) -> av.VideoFrame:
    """Return RGB (H, W, 3) as a frame of an encoder's pixels; unmarked colors are BT.601's."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(levels), "rgb24")
    matrix, levels_range = MATRICES[tags.get("matrix", 6)], tags.get("range", 1)
    if pixels.startswith(("rgb", "bgr", "gbr")):
        return frame.reformat(format=pixels)
    colors = {"dst_colorspace": matrix, "dst_color_range": levels_range}
    return frame.reformat(format=pixels, interpolation=EXACT, **colors)


# ---- sound and subtitles -----------------------------------------------------------------------
def add_sound(film: Any, codec: str, language: str) -> Any:
    """Add a track of sound to a film."""
    track = film.add_stream(codec, rate=SOUND_RATE)
    track.codec_context.layout = "mono"
    track.codec_context.format = SOUND_FORMATS.get(codec, "s16")
    track.metadata["language"] = language
    return track


def hum(track: Any, seconds: float, begin: float, pitch: int) -> Iterator[Any]:
    """Yield the packets of a tone that swells."""
    time = np.arange(int(seconds * SOUND_RATE)) / SOUND_RATE
    wave = 0.3 * np.sin(2 * np.pi * pitch * time) * np.sin(2 * np.pi * time)
    if track.codec_context.format.name == "s16":
        wave = wave * 32767
    kind = np.int16 if track.codec_context.format.name == "s16" else np.float32
    wave = wave.astype(kind)[None]
    for place in range(0, wave.shape[1], 960):
        samples, name = wave[:, place : place + 960], track.codec_context.format.name
        frame = av.AudioFrame.from_ndarray(samples, name, "mono")
        frame.sample_rate, frame.time_base = SOUND_RATE, Fraction(1, SOUND_RATE)
        frame.pts = place + round(begin * SOUND_RATE)
        yield from track.encode(frame)
    yield from track.encode(None)


def say(track: Any, codec: str, begin: float) -> Iterator[Any]:
    """Yield the packets of two subtitles, half a second and one second after the beginning."""
    for number, text in enumerate((b"Hello", b"Goodbye"), 1):
        size = len(text).to_bytes(2, "big") if codec == "mov_text" else b""
        packet = av.Packet(size + text)
        packet.stream, packet.time_base = track, Fraction(1, 1000)
        packet.pts = packet.dts = round(1000 * begin) + 500 * number
        packet.duration = 400
        yield packet


# ---- files -------------------------------------------------------------------------------------
def encode(film: Any, frames: Sequence[np.ndarray], made: dict[str, Any]) -> Iterator[Any]:
    """Add a track of pictures to a film, and yield its packets."""
    track = film.add_stream(made["codec"], rate=RATE, options=made["options"])
    context, tags = track.codec_context, made["tags"]
    context.height, context.width = frames[0].shape[:2]
    context.pix_fmt, context.time_base, context.thread_count = made["pixels"], made["base"], 1
    for name, value in tags.items():
        setattr(context, TAGS[name], value)
    if made["aspect"]:
        context.sample_aspect_ratio = made["aspect"]
    if made["turn"]:
        track.set_display_rotation(*made["turn"])
    yield track
    step = round(Fraction(1, RATE) / made["base"])
    stamps = made["stamps"] or [k * step for k in range(len(frames))]
    first = round(made["begin"] / made["base"])
    for levels, stamp in zip(frames, stamps, strict=True):
        frame = to_frame(levels, made["pixels"], tags)
        frame.pts, frame.time_base = first + stamp, made["base"]
        yield from track.encode(frame)
    yield from track.encode(None)


def write_film(
    path: Path,
    frames: Sequence[np.ndarray] | None = None,
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    base: Fraction = BASE,
    stamps: Sequence[int] | None = None,  # of the frames, in `base`; None: one a 24th
    begin: Fraction = Fraction(0),  # seconds at which film and sound begin
    tags: dict[str, int] | None = None,  # keys of TAGS, values of H.273
    aspect: Fraction | None = None,  # of a pixel
    turn: tuple = (),  # arguments of set_display_rotation
    options: dict[str, str] | None = None,  # of the encoder
    sounds: Sequence[str] = (),  # encoders, a tone each
    dispositions: Sequence[int] = (),  # of the sounds
    subtitles: str | None = None,  # codec
    attachment: bytes | None = None,
    metadata: dict[str, str] | None = None,
    chapters: Sequence[dict] = (),
    container: dict[str, str] | None = None,  # options of the file's format
) -> Path:
    """Write a film of the frames (H, W, 3) given, or of two seconds; return its path."""
    frames = moving() if frames is None else frames
    made = {"codec": codec, "pixels": pixels, "base": base, "stamps": stamps, "begin": begin}
    made |= {"tags": tags or {}, "aspect": aspect, "turn": turn, "options": options or {}}
    with av.open(str(path), "w", KINDS.get(path.suffix), container_options=container or {}) as film:
        film.metadata.update(metadata or {})
        film.set_chapters(list(chapters))
        pictures = encode(film, frames, made)
        next(pictures)
        tracks = [add_sound(film, *sound) for sound in zip(sounds, LANGUAGES, strict=False)]
        for track, disposition in zip(tracks, dispositions, strict=False):
            track.disposition = disposition
        text = film.add_mux_stream(subtitles) if subtitles else None
        if attachment:
            film.add_attachment("font.ttf", "font/ttf", attachment)
        if text:
            text.time_base, text.metadata["language"] = Fraction(1, 1000), "deu"
        packets = list(pictures)
        for number, track in enumerate(tracks, 1):
            packets += hum(track, len(frames) / RATE, float(begin), 220 * number)
        packets += say(text, subtitles, float(begin)) if text else []
        film.mux(sorted(packets, key=lambda packet: packet.dts * packet.time_base))
    return path


def write_sound(path: Path, codec: str = "aac") -> Path:
    """Write a file that holds sound only."""
    with av.open(str(path), "w", KINDS.get(path.suffix)) as film:
        film.mux(list(hum(add_sound(film, codec, "eng"), 1, 0, 220)))
    return path


def spoil(path: Path, numbers: Iterable[int], begin: int = 8) -> Path:
    """Overwrite packets of a film's pictures, but for so many first bytes; return its path."""
    with av.open(str(path)) as film:
        places = [(p.pos, p.size) for p in film.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for number in numbers:
        place, size = places[number]
        data[place + begin : place + size] = bytes(size - begin)
    path.write_bytes(data)
    return path


# ---- what is in a file -------------------------------------------------------------------------
def packets_of(path: Path, number: int) -> list[tuple[Fraction, bytes]]:
    """Return the time in seconds and the bytes of each packet of a track."""
    with av.open(str(path)) as film:
        track = film.streams[number]
        return [(p.pts * p.time_base, bytes(p)) for p in film.demux(track) if p.size]


def psnr(ours: np.ndarray, true: np.ndarray) -> float:
    """Return how near pictures (..., 3) uint8 are to others, in dB."""
    error = np.square(np.subtract(ours, true, dtype=np.float64)).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))
