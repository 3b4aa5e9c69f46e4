"""Open the containers of films by PyAV (FFmpeg), and tell what is in them.

PyAV is optional: see `load_av`.
"""

import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from photo_files import PhotoError
from photo_files.opening import MAX_PIXELS, check_pixels

READ = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,asf,flv,ogg,nut"  # no playlists
MP4_SOUND = {"aac", "mp3", "mp2", "ac3", "eac3", "alac", "flac", "opus"}  # that players play there
FORMATS = {
    ".mp4": "mp4",
    ".mkv": "matroska",
}  # FFmpeg's names, by endings
MATROSKA = "matroska"  # is in FFmpeg's name of the format of mkv and webm


@cache
def load_av() -> ModuleType:
    """Return PyAV, silenced; raise ValueError with what to type if it is not installed."""
    try:
        import av
        import av.video.reformatter
    except ImportError as error:
        raise ValueError("films need PyAV; type: pip install -r requirements-film.txt") from error
    av.logging.set_libav_level(av.logging.PANIC)  # FFmpeg's words on a damaged packet help nobody
    return av


def open_container(path: Path) -> Any:
    """Open a film's container; raise PhotoError if it is none."""
    av = load_av()
    try:
        if not path.stat().st_size:
            raise PhotoError("the file is empty")
        options = {"format_whitelist": READ, "protocol_whitelist": "file"}
        return av.open(f"file:{path}", container_options=options, metadata_errors="replace")
    except (av.error.InvalidDataError, av.error.ArgumentError, av.error.EOFError):
        raise PhotoError("not a film that FFmpeg reads, or one whose header is damaged") from None
    except OSError as error:
        raise PhotoError(error.strerror or str(error)) from error
    except av.error.FFmpegError as error:
        raise PhotoError(f"damaged: {error.strerror}") from error


def find_pictures(container: Any) -> Any:
    """Return the first track of moving pictures; raise PhotoError if none can be decoded."""
    av = load_av()
    still = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    tracks = [track for track in container.streams.video if not track.disposition & still]
    if not tracks:
        raise PhotoError("without a track of moving pictures: sound alone takes no color")
    pictures = tracks[0]
    if pictures.codec_context is None:
        raise PhotoError("of a codec that this FFmpeg cannot decode; convert it to H.264 first")
    check_pixels((pictures.codec_context.width, pictures.codec_context.height), MAX_PIXELS)
    return pictures


def read_only(container: Any, numbers: Iterable[int]) -> list[Any]:
    """Return the tracks of these numbers, and let FFmpeg skip the others."""
    tracks = {track.index: track for track in container.streams}
    for number in tracks.keys() - set(numbers):
        tracks[number].discard = load_av().stream.Discard.all
    return [tracks[number] for number in numbers]


def find_ending(container: Any) -> str:
    """Return the ending that a colored film gets, ".mp4" or ".mkv", by format and sound."""
    sounds = {
        track.codec_context and track.codec_context.codec for track in container.streams.audio
    }
    held = all(codec and codec.canonical_name in MP4_SOUND for codec in sounds)
    return ".mp4" if held and MATROSKA not in container.format.name else ".mkv"


def carried(track: Any, ending: str) -> bool:
    """Tell whether a colored film of an ending can hold a track of its source, as it is."""
    if track.type == "attachment":
        return ending == ".mkv"
    codec = track.codec_context and track.codec_context.codec.name
    return track.type in ("audio", "subtitle") and codec in supported_codecs(ending)


@cache
def supported_codecs(ending: str) -> frozenset[str]:
    """Return FFmpeg's names of the codecs that it writes into a film of an ending."""
    with load_av().open(os.devnull, "w", format=FORMATS[ending]) as container:
        return frozenset(container.supported_codecs)


def describe_tracks(container: Any, pictures: Any) -> list[str]:
    """Return a note on each track that is left out, and on a format that is not the film's own."""
    notes, ending = [], find_ending(container)
    own = MATROSKA in container.format.name
    for track in container.streams:
        codec = track.codec_context and track.codec_context.codec.canonical_name
        name = f"in {codec}" if codec else "of an unknown kind"
        if track.type == "audio" and not own and codec not in MP4_SOUND:
            notes.append(f"sound {name}, which mp4 does not hold: written as mkv")
        chapters = track.type == "data" and track.name == "bin_data" and container.chapters()
        if track.index != pictures.index and not carried(track, ending) and not chapters:
            kinds = {"audio": f"sound {name}", "subtitle": f"subtitles {name}"}
            kinds |= {"video": "other pictures", "attachment": "an attached file"}
            notes.append(f"{kinds.get(track.type, 'a track of data')}: left out")
    return list(dict.fromkeys(notes))
