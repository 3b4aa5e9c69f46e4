"""A user's photographs in a batch: choose names below --out, color, write, and record them."""

import hashlib
import itertools
import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from coloring.hints import MOST, Hints, thin
from coloring.photo import Coloring, color_photo, count_blocks, has_colors
from coloring.record import Record
from coloring.sources import Skipped, Source, describe_lacking, find_sources, find_strokes
from coloring.strokes import find_hints, read_strokes
from colorizer import Colorizer
from common.files import locked
from common.processes import ALONE, Ranks, lacks_memory
from common.threads import one_thread_each
from common.workers import find_crashes
from photo_files import PhotoError
from photo_files.finding import normalize_name
from photo_files.opening import CRASHES, open_photo
from photo_files.writing import (
    Metadata,
    conversion_notes,
    output_name,
    read_metadata,
    write_photo,
)

# what earlier versions did not have, and how they colored: their folders stay known
LATER = {"vividness": 0, "compare": False, "stretch": True}
FORMAT = 1  # of the pictures: with another number all are colored anew
Job = tuple[Source, list[str]]  # a photograph to color, and the names of its pictures


# ---- names and the record ----------------------------------------------------------------------
def choose_names(
    source: Source, ending: str | None, coloring: Coloring, taken: set[str]
) -> list[str]:
    """Choose names below --out that no other photograph has, and add them to `taken`.

    Of a.png and a.gif the second becomes a.gif.png, and of several a.png the second a (2).png.
    """
    first = output_name(source.name, source.ending or ending)
    base, last = os.path.splitext(first)
    others = (f"{base} ({number}){last}" for number in itertools.count(2))
    longer = [] if source.name.endswith(last) else [source.name + last]
    for name in itertools.chain([first], longer, others):
        stem = os.path.splitext(name)[0]
        names = [f"{stem}-{number}{last}" for number in range(1, coloring.samples + 1)] or [name]
        names += [f"{stem}-uncertainty.png"] if coloring.uncertainty else []
        names += [f"{stem}-compare{last}"] if coloring.compare else []
        keys = {normalize_name(name).casefold() for name in names}  # as some file systems do
        if taken.isdisjoint(keys):
            taken.update(keys)
            return names
    raise AssertionError("unreachable: there is always another number")


def plan_jobs(
    sources: list[Source], record: Record, ending: str | None, coloring: Coloring, out: Path
) -> tuple[list[Job], list[Source], Skipped]:
    """Return the photographs to color, those colored before, and those whose names are taken."""
    known = {source.where: names for source in sources if (names := record.names(source))}
    taken = {normalize_name(name).casefold() for names in known.values() for name in names}
    jobs, done, blocked = [], [], []
    # photographs that keep their names choose first
    for source in sorted(sources, key=lambda s: output_name(s.name, s.ending or ending) != s.name):
        recorded = source.where in known
        names = known.get(source.where) or choose_names(source, ending, coloring, taken)
        existing = [name for name in names if os.path.lexists(out / name)]
        if record.crashes.get(source.where) == list(source.stamp):
            blocked.append((source.where, CRASHES))
        elif recorded and len(existing) == len(names):
            done.append(source)
        elif existing and not recorded:
            blocked.append((source.where, record.explain(source, existing[0])))
        else:
            jobs.append((source, names))
    return jobs, done, blocked


def plan_share(
    sources: list[Source],
    record: Record,
    ending: str | None,
    coloring: Coloring,
    out: Path,
    ranks: Ranks,
) -> tuple[list[Job], int, Skipped]:
    """Return this rank's part of what `plan_jobs` does, of those colored before their number.

    Every rank plans all jobs, so that all choose the same names.
    """
    jobs, done, blocked = plan_jobs(sources, record, ending, coloring, out)
    share = {source.where for source in ranks.part(sources)}
    jobs = [job for job in jobs if job[0].where in share]
    before = sum(source.where in share for source in done)
    return jobs, before, [skip for skip in blocked if skip[0] in share]


def read_photo(source: Source) -> tuple[Image.Image, list[str], Metadata]:
    """Return a photograph, notes on it, and its metadata; raise PhotoError if it is skipped."""
    data = source.read()
    image = open_photo(data)
    return image, conversion_notes(data), read_metadata(data, image.size)


def find_crashing(sources: list[Source], record: Record) -> None:
    """Record which of the photographs that a crash left under way crash their decoder."""
    left = [source for source in sources if source.where in record.left]
    for i in find_crashes([partial(read_photo, source) for source in left]):
        record.add_crash(left[i])


# ---- coloring ----------------------------------------------------------------------------------
def read_hints(
    source: Source, size: tuple[int, int], working_size: int
) -> tuple[Hints | None, list[str]]:
    """Return the hints of a photograph of a size, None if it has none, and notes on them.

    Raise PhotoError if its picture of strokes cannot be used.
    """
    strokes = read_strokes(source, size)
    if strokes is None:
        return None, []
    hints = find_hints(strokes, *count_blocks(size, working_size))
    if hints is None:
        return None, ["whose picture of hints has no stroke yet"]
    if len(hints) <= MOST:
        return hints, ["with hints"]
    return thin(hints), [f"with more than {MOST} blocks of hints, of which {MOST} were taken"]


def color_source(
    colorizer: Colorizer, coloring: Coloring, out: Path, record: Record, job: Job
) -> tuple[list[str], str]:
    """Color a photograph and write its pictures; return notes on it, or why it is skipped."""
    source, names = job
    try:
        with record.under_way(source):
            image, notes, metadata = read_photo(source)
            if has_colors(image):
                notes.append("with colors of their own, colored anew from their lightness")
            size = image.size
            hints, found = read_hints(source, size, coloring.working_size)
            record.add(source, names)
            pictures = color_photo(colorizer, image, coloring, hints)
            for name, picture in zip(names, pictures, strict=True):
                if not os.path.lexists(out / name):
                    kept = metadata if picture.size == size else Metadata()  # of a comparison
                    write_photo(picture, out / name, kept)
    except (PhotoError, FileExistsError) as error:
        return [], str(error)
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        return [], "not enough memory to color it"
    return notes + found, ""


def digest(checkpoint: Path, coloring: Coloring, ending: str | None) -> str:
    """Return a short name for all that decides how a photograph is colored."""
    content, options = hashlib.sha256(checkpoint.read_bytes()), asdict(coloring)
    options |= {**options.pop("decoding"), "ending": ending, "format": FORMAT}
    like = options.pop("like")
    if like and options["vividness"]:
        options["like"] = like["digest"]
    for name, usual in LATER.items():
        if options[name] == usual:
            del options[name]
    content.update(json.dumps(options, sort_keys=True).encode())
    return content.hexdigest()[:16]


def color_images(
    colorizer: Colorizer,
    checkpoint: Path,
    paths: list[Path],
    out: Path,
    coloring: Coloring,
    ending: str | None = None,
    workers: int = 1,
    ranks: Ranks = ALONE,
    hints: Path | None = None,
    color_films: Callable[[list[Source]], int] | None = None,
) -> int:
    """Color photographs into a folder, each rank its share; print how many, and why not others.

    Args:
        colorizer: the checkpoint's network.
        checkpoint: the file; pictures that it made before are not made again.
        paths: files, folders, globs and zips.
        out: the folder; it keeps the tree below each path.
        ending: of the format to write, as ".jpg"; None keeps each photograph's.
        workers: number of photographs to color at a time.
        ranks: the processes that share the work.
        hints: a folder of pictures of strokes, see `find_strokes`.
        color_films: colors the films among them, and returns its exit status.

    Returns:
        The exit status, 1 if any photograph was skipped.
    """
    sources, skipped, left_out = find_sources(paths, out, hints)
    sources = find_strokes(sources, hints) if hints else sources
    if hints and (lacking := describe_lacking(sources, hints)):
        ranks.say(lacking)
    films = [source for source in sources if source.is_film]
    sources = [source for source in sources if not source.is_film]
    with locked(out, ranks.rank, ranks.world_size):
        for half in () if ranks.several else out.rglob(".[0-9]*-[0-9]*.tmp"):
            half.unlink()  # of a killed process
        record = Record(out, digest(checkpoint, coloring, ending), ranks.rank)
        find_crashing(sources, record)
        jobs, before, blocked = plan_share(sources, record, ending, coloring, out, ranks)
        skipped = ranks.part(skipped) + blocked
        for where, reason in skipped:
            print(f"skipped {where}: {reason}")
        color = partial(color_source, colorizer, coloring, out, record)
        notes, failed = run_jobs(color, jobs, workers)
    skipped += failed
    report(out, len(jobs) - len(failed), before, notes, skipped)
    for line in left_out:
        ranks.say(f"left out: {line}")
    return color_films(films) | bool(skipped) if films and color_films else int(bool(skipped))


def run_jobs(
    color: Callable[[Job], tuple[list[str], str]], jobs: list[Job], workers: int
) -> tuple[Counter, Skipped]:
    """Color photographs, several at a time, in threads; return their notes, and those skipped.

    Reading, decoding, the network, coloring and encoding leave Python's lock free for each other.
    Ctrl-C and errors let the running jobs finish, and start no others.
    """
    notes, skipped, pool = Counter(), [], ThreadPoolExecutor(workers)
    with one_thread_each():
        try:
            results = zip(jobs, pool.map(color, jobs), strict=True)
            bar = tqdm(results, "coloring", len(jobs), unit=" photos", disable=None)
            for (source, _), (found, reason) in bar:
                notes.update(found)
                if reason:
                    skipped.append((source.where, reason))
                    tqdm.write(f"skipped {source.where}: {reason}")
            return notes, skipped
        except KeyboardInterrupt:
            tqdm.write("stopping after the photographs under way; Ctrl-C again stops at once")
            usual = signal.signal(signal.SIGINT, signal.SIG_DFL)
            pool.shutdown(cancel_futures=True)
            signal.signal(signal.SIGINT, usual)
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def print_counts(
    out: Path, what: str, colored: int, before: int, notes: Counter, skipped: Skipped
) -> None:
    """Print how many photographs, or films, were colored and skipped, and notes on them."""
    done = f", {before:,} done before" if before else ""
    print(f"{out}: {colored:,} {what} colored, {len(skipped):,} skipped{done}")
    for note, number in sorted(notes.items()):
        print(f"  {number:6,}  {note}")


def report(out: Path, colored: int, before: int, notes: Counter, skipped: Skipped) -> None:
    """Print how many photographs were colored and skipped, and why, and notes on them.

    Where there were none, as beside films, nothing is printed.
    """
    if not (colored or before or skipped):
        return
    print_counts(out, "photographs", colored, before, notes, skipped)
    for reason, number in Counter(reason for _, reason in skipped).most_common():
        print(f"  {number:6,}  skipped: {reason}")
