"""A user's films: choose their names, color one after another, and record them."""

import errno
import os
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from PIL import Image

from coloring.batch import digest, plan_share, print_counts
from coloring.photo import Coloring
from coloring.record import Record
from coloring.sources import Skipped, Source, find_sources, write_time
from colorizer import Colorizer
from common.files import locked
from common.processes import ALONE, Ranks, lacks_memory
from common.threads import one_thread_each
from films.color import Parts, color_film
from films.containers import load_av
from films.reading import Film, open_film
from films.shots import Piece, find_shots, write_stills
from photo_files import PhotoError
from photo_files.writing import write_photo

SAME_NAME = "another film has its name but for the ending; write its stills to another --out"
FORMAT = 1  # of colored films: with another number all are colored anew


def open_films(films: list[Source]) -> tuple[list[tuple[Source, Film]], Skipped]:
    """Open films; return them with the ending that a colored one gets, and those that fail."""
    opened, skipped = [], []
    try:
        load_av()
    except ValueError as error:
        return [], [(source.where, str(error)) for source in films]
    for source in films:
        try:
            film = open_film(Path(source.where))
        except PhotoError as error:
            skipped.append((source.where, str(error)))
            continue
        opened.append((replace(source, ending=film.ending), film))
    return opened, skipped


def explain_failure(error: Exception) -> str:
    """Return why a film is skipped; raise the error if it hinders the next film too."""
    if isinstance(error, (PhotoError, FileExistsError)):
        return str(error)
    if isinstance(error, (MemoryError, RuntimeError)) and lacks_memory(error):
        return "not enough memory to color it"
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return "its name is too long to be written under"
    if isinstance(error, load_av().error.FFmpegError) and not isinstance(error, OSError):
        return f"FFmpeg says: {error.strerror or error}"
    raise error


def describe_making(record: Record, source: Source) -> dict[str, Any]:
    """Return what decides how a film's parts are made: others cannot be joined with them."""
    about = {"made": record.made, "stamp": list(source.stamp), "hints": source.hints}
    return about | {"encoder": load_av().__version__}


def remove_leftovers(sources: list[Source], record: Record, out: Path) -> None:
    """Delete the parts of films that are whole: a run was stopped before it deleted them."""
    for source in sources:
        for name in record.names(source):
            if os.path.lexists(out / name):
                Parts(out / name, describe_making(record, source)).remove()


def color_one(
    colorizer: Colorizer,
    coloring: Coloring,
    film: Film,
    piece: Piece,
    workers: int,
    record: Record,
    source: Source,
    out: Path,
) -> tuple[list[str], str]:
    """Color a film; return notes on it, or why it is skipped."""
    for note in film.notes:
        print(f"{source.name}: {note}")
    try:
        record.add(source, [out.relative_to(record.path.parent).as_posix()])
        with one_thread_each():
            how = (coloring, out, describe_making(record, source), piece, source.stills, workers)
            return color_film(colorizer, film, *how), ""
    except Exception as error:
        return [], explain_failure(error)


def color_films(
    colorizer: Colorizer,
    checkpoint: Path,
    out: Path,
    coloring: Coloring,
    piece: Piece,
    workers: int,
    ranks: Ranks,
    films: list[Source],
) -> int:
    """Color films into a folder, each rank its share; print how many, and why not others.

    The arguments are those of `coloring.batch.color_images`; of each film `piece` is colored.
    Return the exit status, 1 if any film was skipped.
    """
    if coloring.samples or coloring.uncertainty or coloring.compare:
        ranks.say("films are colored once: --samples, --uncertainty and --compare change nothing")
        coloring = replace(coloring, samples=0, uncertainty=False, compare=False)
    coloring = replace(coloring, seed=0)  # of samples
    opened, skipped = open_films(films)
    known, notes, colored = {source.where: film for source, film in opened}, Counter(), 0
    sources = [source for source, _ in opened]
    with locked(out, ranks.rank, ranks.world_size):
        made = digest(checkpoint, coloring, f"film {FORMAT} {asdict(piece)}")
        record = Record(out, made, ranks.rank)
        remove_leftovers(sources, record, out)
        jobs, done, blocked = plan_share(sources, record, None, coloring, out, ranks)
        skipped = ranks.part(skipped) + blocked
        for where, reason in skipped:
            print(f"skipped {where}: {reason}")
        for source, (name,) in jobs:
            how = (known[source.where], piece, workers, record, source, out / name)
            found, reason = color_one(colorizer, coloring, *how)
            notes.update(found)
            colored += not reason
            if reason:
                skipped.append((source.where, reason))
                print(f"skipped {source.where}: {reason}")
    print_counts(out, "films", colored, done, notes, skipped)
    return int(bool(skipped))


def write_all_stills(
    colorizer: Colorizer,
    paths: list[Path],
    out: Path,
    coloring: Coloring,
    piece: Piece,
    workers: int,
    ranks: Ranks = ALONE,
) -> int:
    """Write a still of each shot of films into a folder, each rank its share; print how many.

    `paths` are files, folders and globs. Return the exit status, 1 if any film was skipped.
    """
    sources, skipped, left_out = find_sources(paths, out)
    films = [source for source in sources if source.is_film]
    if not films and not skipped:
        raise FileNotFoundError(
            f"{', '.join(map(str, paths))}: no films found, which --stills needs"
        )
    stems = {str(Path(source.name).with_suffix("")): source for source in reversed(films)}
    twice = [(s.where, SAME_NAME) for s in films if s not in stems.values()]
    opened, failed = open_films(ranks.part(list(stems.values())[::-1]))
    skipped, number, kept = ranks.part(skipped + twice) + failed, 0, []
    for source, film in opened:
        stem = (out / source.name).with_suffix("")

        def write(seconds: float, image: Image.Image, stem: Path = stem) -> None:
            path = stem.with_name(f"{stem.name}-{write_time(seconds)}.jpg")
            if os.path.lexists(path):  # as after an interruption
                kept.append(path)
            else:
                write_photo(image, path)

        try:
            with one_thread_each():
                shots = find_shots(colorizer, film, coloring, piece, (), workers)
            if not shots:
                raise PhotoError("without a frame between --start and --end")
            number += write_stills(film, shots, write, piece)
        except Exception as error:
            skipped.append((source.where, explain_failure(error)))
    for where, reason in skipped:
        print(f"skipped {where}: {reason}")
    then = f"; --images {out} --ask 5 --out hints makes pictures to paint on" if number else ""
    before = f" ({len(kept):,} there before)" if kept else ""
    print(f"{out}: {number:,} stills{before}, {len(skipped):,} films skipped{then}")
    for line in left_out:
        ranks.say(f"left out: {line}")
    return int(bool(skipped))
