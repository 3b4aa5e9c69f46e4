"""A film's shots: where they begin, a still of each to paint on, and hints that hold for one.

A still and its picture of strokes are named by the film and the time: film-00_01_23.500.png.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from coloring.hints import Hints, choose_evenly, find_wrong, solve, spread
from coloring.photo import Coloring, Prediction, count_blocks, decide_ab, predict
from coloring.strokes import find_hints, open_painted
from colorizer import Colorizer
from common.threads import map_ahead
from films.reading import Film, Frame
from films.steady import BEFORE, Seen, prepare, steady

AHEAD = 1  # frames that may wait beside those that workers have: one of 1080p takes 6 MB
EASE = 10.0  # units of L over which the stretch of faded frames sets in, so that it does not jump
HALF = 0.0006  # seconds: half of the last digit of a name, and what rounding adds
Stills = Sequence[tuple[float, Path]]  # seconds from the first frame, that rise; a picture of hints


@dataclass(frozen=True)
class Piece:
    """A piece of a film, in seconds from its first frame; None is the film's own end."""

    start: float | None = None
    end: float | None = None


@dataclass(frozen=True)
class Shot:
    """A shot, and what its hints add to colors: see `coloring.hints.spread`."""

    first: int  # pts of its first frame
    last: int  # and of its last
    known: Tensor | None = None  # (N, D)
    alpha: Tensor | None = None  # (N, 2)
    stills: int = 0  # pictures that its hints are of


# ---- times -------------------------------------------------------------------------------------
def seconds_of(film: Film, pts: int) -> float:
    """Return how long after the first frame a frame is shown."""
    return float((pts - film.start) * film.time_base)


def pts_of(film: Film, seconds: float) -> int:
    """Return the first time in the film's time base that is so many seconds after the first frame.

    A time counts as not earlier than what it is when it is rounded to thousandths.
    """
    return film.start + math.ceil(Fraction(seconds - HALF) / film.time_base)


# ---- frames ------------------------------------------------------------------------------------
def read_piece(film: Film, piece: Piece, after: int | None = None) -> Iterator[Frame]:
    """Yield the frames of a piece, and before the first some more, for `steady` to see.

    `after` is the pts of a frame to go on after.
    """
    if after is None and piece.start is not None:
        after = begins_after(film, piece)
    for frame in film.frames(after, BEFORE):
        if piece.end is not None and frame.pts >= pts_of(film, piece.end):
            return
        yield frame


def begins_after(film: Film, piece: Piece) -> int:
    """Return a pts before that of the piece's first frame, and after all that are before it."""
    return film.start - 1 if piece.start is None else pts_of(film, piece.start) - 1


def count_frames(film: Film, piece: Piece) -> int | None:
    """Return about how many frames a piece has, None if that is not known."""
    if piece.start is None and piece.end is None:
        return film.estimated_frames
    ends = [end for end in (piece.end, film.duration) if end is not None]
    end = min(ends, default=None)
    return None if end is None else max(0, round((end - (piece.start or 0)) * film.rate))


# ---- shots -------------------------------------------------------------------------------------
def read_stills(
    film: Film, piece: Piece, stills: Stills, coloring: Coloring
) -> list[tuple[float, Hints]]:
    """Return the hints of pictures of strokes, and their times, of those in a piece of a film.

    Those without a stroke are left out. Raise PhotoError if one cannot be used.
    """
    start, end = piece.start or 0, math.inf if piece.end is None else piece.end
    inside = [(at, path) for at, path in stills if start <= at + HALF < end]
    blocks = count_blocks(film.size, coloring.working_size)
    read = [(at, find_hints(open_painted(path, film.size), *blocks)) for at, path in inside]
    return [(at, hints) for at, hints in read if hints is not None]


def solve_hints(
    colorizer: Colorizer, coloring: Coloring, painted: list[tuple[Hints, Prediction]]
) -> tuple[Tensor | None, Tensor | None]:
    """Return what the hints on some frames of a shot add to its colors, None if there are none."""
    known, wrong, share = [], [], []
    for hints, prediction in painted:
        hints = hints.to(colorizer.centers.device)
        known.append(prediction.points[hints.blocks])
        wrong.append(find_wrong(decide_ab(colorizer, prediction, coloring), hints))
        share.append(hints.share)
    if not known:
        return None, None
    parts = [torch.cat(part) for part in (known, share, wrong)]
    chosen = choose_evenly(len(parts[0]))
    known, share, wrong = (part[chosen.to(part.device)] for part in parts)
    return known, solve(known, share, wrong)


def look_at(
    colorizer: Colorizer,
    coloring: Coloring,
    frames: Iterable[Frame],
    after: int,
    pool: ThreadPoolExecutor,
    workers: int,
) -> Iterator[tuple[Prediction, Frame, bool]]:
    """Show frames to the network; yield those later than `after` as `steady` averages them.

    At most one frame a worker, a few more, and those that the average takes are in memory.
    """

    def look(frame: Frame) -> Seen:
        size, stretch = coloring.working_size, coloring.stretch
        return prepare(predict(colorizer, frame.image, size, stretch, EASE), frame)

    for seen in steady(map_ahead(pool, look, frames, workers + AHEAD)):
        if seen[1].pts > after:
            yield seen


@torch.inference_mode()
def find_shots(
    colorizer: Colorizer,
    film: Film,
    coloring: Coloring,
    piece: Piece,
    stills: Stills,
    workers: int,
) -> list[Shot]:
    """Look at all frames of a piece, and find its shots and what their hints say.

    Raise PhotoError if a still cannot be used.
    """
    shots: list[Shot] = []
    painted: list[tuple[Hints, Prediction]] = []
    waiting, first, last = read_stills(film, piece, stills, coloring), None, None

    def close() -> None:
        if first is not None:
            spread = solve_hints(colorizer, coloring, painted)
            shots.append(Shot(first, last, *spread, len(painted)))

    bar = tqdm(unit=" frames", total=count_frames(film, piece), desc="finding shots", disable=None)
    before: Prediction | None = None
    with ThreadPoolExecutor(workers) as pool:
        frames, after = read_piece(film, piece), begins_after(film, piece)
        for prediction, frame, begins in look_at(colorizer, coloring, frames, after, pool, workers):
            bar.update()
            # a still is of the last frame that is shown by its time
            shown = seconds_of(film, frame.pts) - HALF
            while waiting and before is not None and waiting[0][0] < shown:
                painted.append((waiting.pop(0)[1], before))
            if begins or first is None:
                close()
                first, painted = frame.pts, []
            last, before = frame.pts, prediction
    if before is not None:
        end = seconds_of(film, last) + 1 / film.rate  # about when the last frame ends
        painted += [(hints, before) for at, hints in waiting if at + HALF < end]
    close()
    bar.close()
    return shots


def find_shot(shots: list[Shot], pts: int) -> Shot | None:
    """Return the shot that a frame is in."""
    i = bisect_right(shots, pts, key=lambda shot: shot.first) - 1
    return shots[i] if i >= 0 else None


def add_hints(ab: Tensor, prediction: Prediction, shot: Shot | None) -> Tensor:
    """Return ab (1, 2, h, w) as the hints of a frame's shot correct it."""
    if shot is None or shot.known is None:
        return ab
    return spread(ab, prediction.points, shot.known, shot.alpha)


def write_stills(
    film: Film, shots: list[Shot], write: Callable[[float, Image.Image], None], piece: Piece
) -> int:
    """Give `write(seconds, image)` the middle frame of each shot; return their number."""
    middles = [(shot.first + shot.last) / 2 for shot in shots]
    number, before = 0, None
    for frame in chain(read_piece(film, piece), [None]):  # None: after the last
        while before and middles[number:] and (frame is None or frame.pts > middles[number]):
            write(seconds_of(film, before.pts), before.image)
            number += 1
        before = frame
    return number
