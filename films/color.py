"""Color a film part by part: frames are read, seen by the network, averaged, painted, encoded.

Parts of some seconds are written whole into a hidden folder beside the film to be, and joined at
the end: after an interruption the same command goes on after the last of them.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from coloring.enlarge import fit_along_L
from coloring.painting import paint
from coloring.photo import Coloring, Prediction, decide_ab, has_colors
from colorizer import Colorizer
from common.files import write_whole
from common.threads import map_ahead
from films.reading import Film, Frame
from films.shots import (
    AHEAD,
    Piece,
    Shot,
    Stills,
    add_hints,
    begins_after,
    count_frames,
    find_shot,
    find_shots,
    look_at,
    read_piece,
)
from films.writing import check_new, join_parts, write_part
from photo_files import PhotoError

PART_SECONDS = 10
MOST_WORKERS = 4  # more would wait for the thread that averages and encodes


# ---- frames ------------------------------------------------------------------------------------
def color_frames(
    colorizer: Colorizer,
    coloring: Coloring,
    frames: Iterable[Frame],
    after: int,
    shots: list[Shot],
    workers: int,
) -> Iterator[tuple[int, Image.Image]]:
    """Color the frames that are later than `after`; yield their pts and the colored pictures.

    The first ones are seen only, for the average over neighboring frames. At most one
    frame a worker, a few more, and those that the average takes are in memory.
    """

    @torch.inference_mode()
    def color(seen: tuple[Prediction, Frame, bool]) -> tuple[int, Image.Image]:
        prediction, frame, _ = seen
        ab = decide_ab(colorizer, prediction, coloring)
        ab = add_hints(ab, prediction, find_shot(shots, frame.pts))
        paint(frame.image, fit_along_L(prediction.L, ab))
        return frame.pts, frame.image

    with ThreadPoolExecutor(workers) as pool:
        seen = look_at(colorizer, coloring, frames, after, pool, workers)
        yield from map_ahead(pool, color, seen, workers + AHEAD)


# ---- parts -------------------------------------------------------------------------------------
def note_frames(
    frames: Iterable[tuple[int, Image.Image]], written: list[int], bar: tqdm
) -> Iterator[tuple[int, Image.Image]]:
    """Yield frames, and add the pts of each to a list, and one to a bar."""
    for pts, image in frames:
        written.append(pts)
        bar.update()
        yield pts, image


class Parts:
    """The parts of a film that is being colored, in a hidden folder beside it.

    The folder's name has a digest of what decides how the film is colored. A part's name has its
    number, how many frames it has, and the pts of its last one.
    """

    def __init__(self, out: Path, made: dict[str, Any]):
        said = json.dumps(made, sort_keys=True).encode()
        digest = hashlib.sha256(said).hexdigest()[:8]
        self.out, self.folder = out, out.with_name(f".{out.name}-parts-{digest}")
        self.whole = self.folder / out.name  # all of them, joined

    @property
    def paths(self) -> list[Path]:
        """The whole parts in order."""
        return sorted(self.folder.glob("[0-9]*.nut"))

    @property
    def frames(self) -> int:
        """How many frames they have."""
        return sum(int(path.stem.split("_")[1]) for path in self.paths)

    @property
    def last(self) -> int | None:
        """The pts of the last frame that is done, None if none is."""
        paths = self.paths
        return int(paths[-1].stem.split("_")[2]) if paths else None

    def remember(self, find: Callable[[], list[Shot]], device: torch.device) -> list[Shot]:
        """Return the shots that an earlier run has found here, or find them."""
        path = self.folder / "shots.pt"
        if path.exists():
            return [Shot(**shot) for shot in torch.load(path, device, weights_only=True)]
        shots = find()
        write_whole(path, partial(torch.save, [vars(shot) for shot in shots]))
        return shots

    def write(
        self, film: Film, frames: Iterator[tuple[int, Image.Image]], total: int | None
    ) -> None:
        """Write frames in parts; show how many of all are done."""
        length, unnamed = max(1, round(PART_SECONDS * film.rate)), self.folder / "next.nut"
        bar = tqdm(
            desc=self.out.name, total=total, initial=self.frames, unit=" frames", disable=None
        )
        with bar:
            for first in frames:
                written: list[int] = []  # pts
                some = chain([first], islice(frames, length - 1))
                write_part(unnamed, film, note_frames(some, written, bar))
                part = f"{len(self.paths):06}_{len(written)}_{written[-1]}.nut"
                unnamed.replace(self.folder / part)

    def finish(self) -> None:
        """Give the whole film its name, and delete the parts; never over an existing file."""
        check_new(self.out)
        self.whole.replace(self.out)
        self.remove()

    def remove(self) -> None:
        """Delete them, if there are any."""
        shutil.rmtree(self.folder, ignore_errors=True)


def describe_hints(shots: list[Shot], stills: Stills) -> list[str]:
    """Say in how many shots there are hints, and whether pictures of them are of no use."""
    number = sum(shot.known is not None for shot in shots)
    notes = [f"with hints in {number:,} shots"] if number else []
    if sum(shot.stills for shot in shots) < len(stills):
        notes.append("with pictures of hints without a stroke, or of times that are not colored")
    return notes


def describe_damage(film: Film) -> list[str]:
    """Say what the latest reading of a film could not decode, or did not find."""
    notes = []
    if film.damaged:
        notes.append(f"with {film.damaged:,} damaged packets, where the frame before stays longer")
    if film.missing > 1:
        notes.append(f"without its last {film.missing:.0f} seconds, which the file does not hold")
    return notes


def color_rest(
    colorizer: Colorizer,
    film: Film,
    coloring: Coloring,
    parts: Parts,
    piece: Piece,
    shots: list[Shot],
    workers: int,
) -> bool:
    """Color the frames that no part has yet; tell whether the first of them has colors."""
    last = parts.last
    after = begins_after(film, piece) if last is None else last
    frames = read_piece(film, piece, last)
    first = next(frames, None)
    if first is None:
        return False
    in_color, frames = has_colors(first.image), chain([first], frames)
    colored = color_frames(colorizer, coloring, frames, after, shots, workers)
    parts.write(film, colored, count_frames(film, piece))
    return in_color


def color_film(
    colorizer: Colorizer,
    film: Film,
    coloring: Coloring,
    out: Path,
    made: dict[str, Any],
    piece: Piece,
    stills: Stills,
    workers: int,
) -> list[str]:
    """Color a film, or a piece of it, into a file; return notes on it.

    Args:
        film: from `open_film`.
        out: the file, which must not exist.
        made: what decides how it is colored: parts of another film are not taken.
        piece: of it.
        stills: pictures of strokes, each a hint for its shot.
        workers: number of frames to look at, or to paint, at a time.

    Raises:
        PhotoError: a still cannot be used, or the piece holds no frame.
        FileExistsError: `out` exists.
    """
    parts, workers = Parts(out, made), min(workers, MOST_WORKERS)
    parts.folder.mkdir(parents=True, exist_ok=True)
    shots = []
    if stills:
        find = partial(find_shots, colorizer, film, coloring, piece, stills, workers)
        shots = parts.remember(find, colorizer.centers.device)
    notes = describe_hints(shots, stills)
    if color_rest(colorizer, film, coloring, parts, piece, shots, workers):
        notes.append("with colors of its own, colored anew from its lightness")
    if not parts.paths:
        parts.remove()
        raise PhotoError("without a frame between --start and --end")
    zero = float(film.start * film.time_base)
    start, end = (None if at is None else zero + at for at in (piece.start, piece.end))
    if not parts.whole.exists():
        from_zero = zero if end is not None and start is None else start
        join_parts(film, parts.paths, parts.whole, from_zero, end)
    parts.finish()
    return notes + describe_damage(film)
