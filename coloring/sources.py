"""Find the photographs that --images names: files, folders, globs and zips, each photograph once.

A photograph's name is its relative path below a folder, inside a zip, or from a glob's first
wildcard on.
"""

import glob
import hashlib
import itertools
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from photo_files import PhotoError
from photo_files.archives import ZipReader, inner_path, list_zip
from photo_files.finding import (
    RECORD,
    LeftOut,
    find_files,
    is_film_name,
    is_photo_name,
    may_be_file,
)
from photo_files.opening import read_bytes

TIME = re.compile(r"(\d+)_([0-5]\d)_([0-5]\d(?:\.\d+)?)")
Skipped = list[tuple[str, str]]  # where a photograph lies, and the reason


@dataclass(frozen=True)
class Source:
    """A user's photograph, or film."""

    where: str  # its absolute path; for one in a zip, the zip's and its own
    name: str  # its relative path, kept below --out
    stamp: tuple[int, int]  # bytes and time of change, or checksum: to notice another photograph
    read: Callable[[], bytes]
    strokes: Path | None = None  # the picture of its hints
    hints: str = ""  # digest of that picture
    stills: tuple[tuple[float, Path], ...] = ()  # of a film: pictures of its hints, by seconds
    ending: str | None = None  # of what is made of it, as ".mkv"; None: as the options say

    @property
    def is_film(self) -> bool:
        """Whether it is a film."""
        return is_film_name(self.name)


def file_source(path: Path, name: str) -> Source:
    """Return a file as a source; a file that cannot be read fails later, with its reason."""
    try:
        status = path.stat()
        stamp = (status.st_size, status.st_mtime_ns)
    except OSError:
        stamp = (0, 0)
    where = os.path.join(os.path.realpath(path.parent), path.name)
    return Source(where, name, stamp, partial(read_bytes, path))


def zip_sources(path: Path, left: LeftOut) -> Iterator[Source]:
    """Yield the photographs in a zip; raise ValueError if it is damaged or encrypted."""
    # by their own names: two may stand for one path
    members = list_zip(path, str, partial(left.add_member, path))
    read, where = ZipReader(path, members), os.path.realpath(path)
    for name, info in sorted(members.items()):
        stamp = (info.file_size, info.CRC)
        yield Source(f"{where}/{name}", inner_path(name), stamp, partial(read, name))


def fixed_part(pattern: Path) -> Path:
    """Return the folders of a glob that come before its first wildcard."""
    return Path(*itertools.takewhile(lambda part: not glob.has_magic(part), pattern.parts))


def expand(
    path: Path,
    root: Path,
    without: list[Path],
    chosen: bool,
    failed: Callable[[OSError], None],
    left: LeftOut,
) -> Iterator[Source]:
    """Yield the photographs that a path stands for, named relative to a folder above it.

    Raise ValueError if it is a damaged or encrypted zip, or no file.

    Args:
        path: a folder, a zip or a file.
        root: the folder above it.
        without: folders of pictures that are no photographs to color.
        chosen: whether the user named the path: then any ending will do.
        failed: called with the error of each folder that cannot be read.
        left: takes what is left out.
    """
    if path.is_dir():
        for name in sorted(find_files(path, without, failed, left.add_link)):
            if is_photo_name(name) or is_film_name(name):
                yield file_source(path / name, (path / name).relative_to(root).as_posix())
            else:
                left.add_file(path / name)
    elif path.suffix.lower() == ".zip":
        yield from zip_sources(path, left)
    elif not may_be_file(path):
        raise ValueError(f"{path}: a pipe or a device, not a file")
    elif chosen or is_photo_name(path.name) or is_film_name(path.name):
        yield file_source(path, path.relative_to(root).as_posix())
    else:
        left.add_file(path)


def in_colored(path: Path, root: Path) -> bool:
    """Tell whether a file lies below root in a folder of photographs that a run colored."""
    inside = itertools.takewhile(lambda folder: folder != root.resolve(), path.parents)
    return any((folder / RECORD).exists() for folder in inside)


def lies_in(path: str | Path, folder: Path) -> bool:
    """Tell whether a path lies below a folder."""
    return os.path.realpath(path).startswith(os.path.join(os.path.realpath(folder), ""))


def find_sources(
    paths: list[Path], out: Path, hints: Path | None = None
) -> tuple[list[Source], Skipped, list[str]]:
    """Return the photographs that files, folders, globs and zips stand for, each once.

    Return also what is skipped, and a line for each kind of file left out that may be meant. In
    folders, what lies in `out` and in `hints` is left out. Raise FileNotFoundError if a path stands
    for nothing, or if there is no photograph at all; ValueError if a folder is one of these two, or
    if they are one.
    """
    found: dict[str, Source] = {}
    skipped, empty, left = [], [], LeftOut()
    without = {"--out": out} | ({"--hints": hints} if hints else {})
    if hints and os.path.realpath(hints) == os.path.realpath(out):
        raise ValueError(f"{out}: --hints and --out are the same; name another --out")

    def failed(error: OSError) -> None:
        skipped.append((error.filename, error.strerror.lower()))

    for path in map(Path.expanduser, paths):  # the shell does not expand ~ in quotes
        exists = os.path.lexists(path)
        matches = [path] if exists else sorted(map(Path, glob.glob(str(path), recursive=True)))
        if not matches:
            raise FileNotFoundError(f"{path}: no such photograph, folder, zip or glob")
        for match in matches:
            for option, folder in without.items():
                if exists and os.path.realpath(match) == os.path.realpath(folder):
                    same = f"--images and {option} are the same"
                    raise ValueError(f"{path}: {same}; name another {option}")
            root = (match if match.is_dir() else match.parent) if exists else fixed_part(path)
            try:
                sources = list(expand(match, root, list(without.values()), exists, failed, left))
            except ValueError as error:
                skipped.append((str(match), str(error).removeprefix(f"{match}: ")))
                continue
            if not exists:  # a glob looks into every folder
                sources = [s for s in sources if not in_colored(Path(s.where), root)]
                if hints and lies_in(hints, root):
                    sources = [s for s in sources if not lies_in(s.where, hints)]
            inside = {s.where for s in sources if lies_in(s.where, out)}
            if exists and not match.is_dir():  # from folders and globs our pictures are left out
                skipped += [(where, "it lies in --out; name another --out") for where in inside]
            elif exists and not sources:
                empty.append((str(match), "no photographs in it"))
            found |= {s.where: s for s in sources if s.where not in inside}
    lines = left.describe(paths)
    if not found and not skipped:
        said = "; ".join(["no photographs found", *lines])
        raise FileNotFoundError(f"{', '.join(map(str, paths))}: {said}")
    return list(found.values()), skipped + empty, lines


# ---- hints -------------------------------------------------------------------------------------
def write_time(seconds: float) -> str:
    """Write seconds as 00_01_23.500."""
    whole, thousandths = divmod(round(1000 * seconds), 1000)
    return f"{whole // 3600:02}_{whole // 60 % 60:02}_{whole % 60:02}.{thousandths:03}"


def read_time(text: str) -> float | None:
    """Return the seconds that `write_time` wrote, None if it is no such text."""
    found = TIME.fullmatch(text)
    return found and 3600 * int(found[1]) + 60 * int(found[2]) + float(found[3])


def strokes_names(source: Source) -> tuple[str, ...]:
    """Return the names that a picture of hints may have: a.jpg.png, a.png; of a film one of them.

    A film's are named by a time: film-00_01_23.500.png.
    """
    stem = os.path.splitext(source.name)[0]
    if source.is_film:
        return (f"{stem}-{write_time(0)}.png",)
    return f"{source.name}.png", f"{stem}.png"


def find_stills(source: Source, folder: Path) -> tuple[tuple[float, Path], ...]:
    """Return the pictures of hints in a folder that are named by a film and a time."""
    stem = (folder / source.name).with_suffix("")
    found = {}
    for path in sorted(stem.parent.glob("*.png")):
        if path.stem.startswith(f"{stem.name}-"):
            seconds = read_time(path.stem.removeprefix(f"{stem.name}-"))
            if seconds is not None:
                found[seconds] = path
    return tuple(sorted(found.items()))


def strokes_digest(strokes: Path) -> str:
    """Return a short name for what is in a picture; one that cannot be read fails later."""
    try:
        return hashlib.sha256(read_bytes(strokes)).hexdigest()[:16]
    except PhotoError:
        return "unreadable"


def find_strokes(sources: list[Source], folder: Path) -> list[Source]:
    """Give photographs the pictures in a folder that have their names.

    Raise FileNotFoundError if there is no such folder, or no picture for any photograph.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise FileNotFoundError(
            f"--hints {folder}: expected a folder, found {found}; --ask N makes one, with pictures "
            "to paint on"
        )
    painted = []
    for source in sources:
        paths = [folder / name for name in strokes_names(source)]
        strokes = next(filter(Path.is_file, paths), None)
        if source.is_film:
            stills = find_stills(source, folder)
            said = ", ".join(f"{seconds} {strokes_digest(path)}" for seconds, path in stills)
            source = replace(source, stills=stills, hints=said)
        elif strokes:
            source = replace(source, strokes=strokes, hints=strokes_digest(strokes))
        painted.append(source)
    if sources and not any(source.hints for source in painted):
        raise FileNotFoundError(
            f"--hints {folder}: no hints for any of the photographs, expected {paths[-1]} for "
            f"{source.name}: a PNG of its size, transparent but for strokes of color"
        )
    return painted


def describe_lacking(sources: list[Source], folder: Path) -> str:
    """Say how many photographs have no hints in a folder, and what lies there for nothing."""
    lacking = [source for source in sources if not source.hints]
    if not lacking:
        return ""
    name = strokes_names(lacking[0])[-1]
    said = f"{folder}: no hints for {len(lacking):,} of the photographs (no {name}, for one)"
    unused = set(folder.rglob("*.png")) - {source.strokes for source in sources}
    unused -= {path for source in sources for _, path in source.stills}
    if unused:
        said += f"; {len(unused):,} of its pictures belong to none ({min(unused)}, for one)"
    return said
