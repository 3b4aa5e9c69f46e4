"""A user's photographs: named below --out, coloured, written, and remembered there.

The record, colored.jsonl in --out, has a line for each photograph that was begun: where it lies,
its stamp (bytes and time), what it is made with (a digest of checkpoint and options), and the
names it is written under. A line is written before the pictures are, so that a picture that is
there is never without one; the same command goes on where it was stopped.
"""

import contextlib
import hashlib
import itertools
import json
import os
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from coloring.photo import Coloring, color_photo
from coloring.sources import Skipped, Source, find_sources
from colorizer import Colorizer
from common.files import locked
from common.processes import Ranks, lacks_memory
from photo_files.finding import RECORD, normalize_name
from photo_files.opening import PhotoError, open_photo
from photo_files.writing import Metadata, conversion_notes, output_name, read_metadata, write_photo

ALONE = Ranks()
FORMAT = 1  # of what is made: another one colours anew
GRAY_LEVELS = 16  # a photograph whose channels differ by no more has no colours of its own


# ---- naming and remembering --------------------------------------------------------------------
def choose_names(
    source: Source, ending: str | None, coloring: Coloring, taken: set[str]
) -> list[str]:
    """Choose names below --out that no other photograph has, and add them to those taken.

    Of a.png and a.gif the second becomes a.gif.png, and of several a.png the second a (2).png.
    """
    first = output_name(source.name, ending)
    base, last = os.path.splitext(first)
    others = (f"{base} ({number}){last}" for number in itertools.count(2))
    longer = [] if source.name.endswith(last) else [source.name + last]
    for name in itertools.chain([first], longer, others):
        stem = os.path.splitext(name)[0]
        names = [f"{stem}-{number}{last}" for number in range(1, coloring.samples + 1)] or [name]
        names += [f"{stem}-uncertainty.png"] if coloring.uncertainty else []
        keys = {normalize_name(name).casefold() for name in names}  # as some file systems do
        if taken.isdisjoint(keys):
            taken.update(keys)
            return names
    raise AssertionError("unreachable: there is always another number")


class Record:
    """Which photographs were begun in a folder, with what, under which names."""

    def __init__(self, out: Path, made: str):
        self.path, self.made, self.lock = out / RECORD, made, threading.Lock()
        self.entries: dict[str, dict] = {}  # of this checkpoint and these options, by source
        self.owners: dict[str, dict] = {}  # the last entry of any to have a name
        if self.path.exists():
            for line in self.path.read_text("utf-8", "surrogateescape").split("\n"):
                with contextlib.suppress(ValueError, KeyError, TypeError):  # half a line: full disk
                    entry = json.loads(line)
                    self.owners |= dict.fromkeys(entry["names"], entry)
                    if entry["made"] == made:
                        self.entries[entry["source"]] = entry

    def names(self, source: Source) -> list[str]:
        """Return the names that a photograph as it is now was begun under, or none."""
        entry = self.entries.get(source.where)
        if entry is None or entry["stamp"] != list(source.stamp):
            return []
        ours = all(self.owners[name] is entry for name in entry["names"])
        return entry["names"] if ours else []

    def explain(self, source: Source, name: str) -> str:
        """Say why a picture of that name, which is there, is not this photograph's."""
        entry = self.owners.get(name)
        if entry is None:
            why = "not by this program"
        elif entry["source"] != source.where:
            why = f"from {entry['source']}"
        elif entry["stamp"] != list(source.stamp):
            why = "from the file as it was before"
        else:
            why = "with another checkpoint or other options"
        return f"there already, made {why}, and never overwritten; choose another --out"

    def add(self, source: Source, names: list[str]) -> None:
        """Remember that a photograph is begun."""
        entry = {"source": source.where, "stamp": source.stamp, "made": self.made, "names": names}
        with self.lock, self.path.open("a", encoding="utf-8") as file:
            file.write(f"\n{json.dumps(entry)}")  # a new line also after half a line


@dataclass(frozen=True)
class Job:
    """A photograph to colour, and the names of what is to be written."""

    source: Source
    names: list[str]


def plan_jobs(
    sources: list[Source], record: Record, ending: str | None, coloring: Coloring, out: Path
) -> tuple[list[Job], list[Job], Skipped]:
    """Return what is to be done, what was done before, and what is in the way."""
    known = {source.where: names for source in sources if (names := record.names(source))}
    taken = {normalize_name(name).casefold() for names in known.values() for name in names}
    jobs, done, skipped = [], [], []
    # first those that keep their names
    for source in sorted(
        sources, key=lambda source: output_name(source.name, ending) != source.name
    ):
        names = known.get(source.where)
        begun = names is not None
        names = names or choose_names(source, ending, coloring, taken)
        there = [name for name in names if os.path.lexists(out / name)]
        if begun and len(there) == len(names):
            done.append(Job(source, names))
        elif there and not begun:
            skipped.append((source.where, record.explain(source, there[0])))
        else:
            jobs.append(Job(source, names))
    return jobs, done, skipped


# ---- colouring ---------------------------------------------------------------------------------
def had_colors(image: Image.Image) -> bool:
    """Tell whether an RGB photograph has colours, looking at it small: noise of one is none."""
    small = np.asarray(image.resize((64, 64), Image.Resampling.BOX, reducing_gap=2))
    return int(np.ptp(small, axis=-1).max()) > GRAY_LEVELS


@dataclass(frozen=True)
class Colorist:
    """Colours one photograph after another, in any thread."""

    colorizer: Colorizer
    coloring: Coloring
    out: Path
    record: Record

    def __call__(self, job: Job) -> tuple[list[str], str]:
        """Colour a photograph and write it; return what is to be told of it, or why it is not."""
        try:
            data = job.source.read()
            image = open_photo(data)
            told = conversion_notes(data)
            if had_colors(image):
                told.append("with colours of their own, coloured anew from their lightness")
            self.write(job, image, read_metadata(data))
        except (PhotoError, FileExistsError) as error:
            return [], str(error)
        except (MemoryError, RuntimeError) as error:
            if not lacks_memory(error):
                raise
            return [], "not enough memory to colour it"
        return told, ""

    def write(self, job: Job, image: Image.Image, metadata: Metadata) -> None:
        """Colour a decoded photograph, and write what is not there yet."""
        self.record.add(job.source, job.names)
        pictures = color_photo(self.colorizer, image, self.coloring)
        for name, picture in zip(job.names, pictures, strict=True):
            if not os.path.lexists(self.out / name):
                write_photo(picture, self.out / name, metadata)


def digest(checkpoint: Path, coloring: Coloring, ending: str | None) -> str:
    """Return a short name for all that decides how a photograph is coloured."""
    content, options = hashlib.sha256(checkpoint.read_bytes()), asdict(coloring)
    options |= {**options.pop("decoding"), "ending": ending, "format": FORMAT}
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
) -> int:
    """Colour photographs into a folder; say what was coloured, what was skipped, and why.

    Of several ranks each takes its share.

    Args:
        colorizer: the network.
        checkpoint: where it is from: what it made is not made again.
        paths: files, folders, globs and zips.
        out: the folder; trees are kept in it.
        coloring: how.
        ending: of the format to write, as ".jpg"; None keeps each photograph's.
        workers: photographs coloured at a time.
        ranks: this process among those that share the work.

    Returns:
        The exit status, 1 if any was skipped.
    """
    sources, skipped = find_sources(paths, out)
    with locked(out, ranks.rank, ranks.world_size):
        for half in () if ranks.several else out.rglob(".[0-9]*-[0-9]*.tmp"):
            half.unlink()  # of a killed process
        record = Record(out, digest(checkpoint, coloring, ending))
        jobs, done, in_the_way = plan_jobs(sources, record, ending, coloring, out)
        mine = {source.where for source in ranks.part(sources)}  # named as all ranks do
        jobs, done = ([job for job in part if job.source.where in mine] for part in (jobs, done))
        skipped = ranks.part(skipped) + [s for s in in_the_way if s[0] in mine]
        for where, reason in skipped:
            print(f"skipped {where}: {reason}")
        told, failed = run_jobs(Colorist(colorizer, coloring, out, record), jobs, workers)
        skipped += failed
    report(out, len(jobs) - len(failed), len(done), told, skipped)
    return int(bool(skipped))


def run_jobs(colorist: Colorist, jobs: list[Job], workers: int) -> tuple[Counter, Skipped]:
    """Colour photographs, several at a time, in threads.

    Reading, decoding, the network, colouring and encoding leave Python's lock free for each other.
    At Ctrl-C and on errors what is begun is finished, and nothing else is begun.

    Returns:
        What is to be told of them, with numbers, and what was skipped.
    """
    told, skipped, pool = Counter(), [], ThreadPoolExecutor(workers)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a photograph is small work: threads take whole ones instead
    try:
        results = zip(jobs, pool.map(colorist, jobs), strict=True)
        for job, (notes, reason) in tqdm(
            results, "colouring", len(jobs), unit=" photos", disable=None
        ):
            told.update(notes)
            if reason:
                skipped.append((job.source.where, reason))
                tqdm.write(f"skipped {job.source.where}: {reason}")
        return told, skipped
    except KeyboardInterrupt:
        tqdm.write("stopping: what is begun is finished first; Ctrl-C again ends it at once")
        usual = signal.signal(signal.SIGINT, signal.SIG_DFL)
        pool.shutdown(cancel_futures=True)
        signal.signal(signal.SIGINT, usual)
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def report(out: Path, colored: int, done: int, told: Counter, skipped: Skipped) -> None:
    """Print what was coloured, what was skipped, and why."""
    print(f"{out}: {colored:,} photographs coloured, {len(skipped):,} skipped", end="")
    print(f", {done:,} done before" if done else "")
    for note, number in sorted(told.items()):
        print(f"  {number:6,}  {note}")
    for reason, number in Counter(reason for _, reason in skipped).most_common():
        print(f"  {number:6,}  skipped: {reason}")
