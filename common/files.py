"""Read files; write them whole or not at all; check the disk's space; lock folders."""

import contextlib
import csv
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from common.killed import marked

LOCK = ".lock"  # in a temporary folder, held while its process lives
PATIENCE = 2  # seconds to wait for a lock: a killed process's workers may hold it so long


def half_written(path: Path) -> Path:
    """Return the name that a file has until it is whole."""
    return path.with_name(path.name + ".tmp")


def read_whole(path: Path) -> bytes:
    """Return a file's bytes; an OSError names the file, also where reading fails, not opening."""
    try:
        return path.read_bytes()
    except OSError as error:
        error.filename = str(path)
        raise


def flush(path: Path) -> None:
    """Send a file's bytes to the disk; a missing file is no error."""
    with contextlib.suppress(FileNotFoundError), path.open("rb+") as file:
        os.fsync(file.fileno())


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file by `write` under a temporary name, flush it to the disk, and rename it."""
    temporary = half_written(path)
    try:
        write(temporary)
        flush(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, contents: Any) -> None:
    """Write a file of JSON, whole or not at all."""
    text = json.dumps(contents, indent=2) + "\n"
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Write a table, whole or not at all, with "?" where a name is not UTF-8."""

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8", errors="replace") as file:
            csv.writer(file).writerows(rows)

    write_whole(path, write)


def check_writable(path: Path) -> None:
    """Raise OSError, before the work, if `write_whole` could not write a file; make its folder."""
    try:
        if path.exists() and not path.is_file():
            found = "a folder" if path.is_dir() else "a pipe or a device"
            raise FileExistsError(f"{path}: expected a file to write, found {found}; name another")
        path.parent.mkdir(parents=True, exist_ok=True)
        half_written(path).touch()
        half_written(path).unlink()
    except OSError as error:
        if error.filename == str(half_written(path)):
            error.filename = str(path)
        raise


def check_space(folder: Path, needed: int, option: str = "--cache") -> None:
    """Raise OSError if fewer than the needed bytes are free on a folder's disk.

    The folder need not exist yet; `option` is the one that named it.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise OSError(
            f"{folder}: {needed / 1e6:,.0f} MB are needed, {free / 1e6:,.0f} MB are free; delete "
            f"some files, or name a folder on another disk by {option}"
        )


@contextlib.contextmanager
def locked(folder: Path, rank: int = 0, world_size: int = 1) -> Iterator[None]:
    """Lock a folder for writing by this process, and by the other ranks of the same `world_size`.

    Raise BlockingIOError if another process holds it. The locks of an ended process are released;
    if it was killed, print so.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ours, ending = f".rank-{rank}-of-{world_size}", f"-of-{world_size}.lock"
    try:
        with FileLock(folder / f"{ours}.lock", timeout=PATIENCE):
            others = [
                lock for lock in folder.glob(".rank-*.lock") if not lock.name.endswith(ending)
            ]
            for other in others:
                with FileLock(other, timeout=PATIENCE):
                    pass  # no process holds it
            marks = [lock.with_suffix(".mark") for lock in others]
            with marked(folder / f"{ours}.mark", marks):
                yield
    except Timeout:
        raise BlockingIOError(
            f"{folder}: another process is writing here; wait until it is done, or end it"
        ) from None


@contextlib.contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """Make a temporary folder, and delete it at the end; before, delete those of killed processes.

    A folder of a killed process is one of the same prefix and owner whose lock nobody holds.
    """
    hidden = Path(tempfile.mkdtemp(prefix=f".{prefix}"))
    with FileLock(hidden / LOCK, timeout=PATIENCE):
        folder = hidden.rename(hidden.with_name(hidden.name[1:]))  # no other sees it unlocked
        for other in folder.parent.glob(f"{prefix}*"):
            with contextlib.suppress(OSError, Timeout):
                owner = other.lstat().st_uid
                if other != folder and owner == folder.stat().st_uid and not other.is_symlink():
                    delete_abandoned(other)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def delete_abandoned(folder: Path) -> None:
    """Delete a temporary folder; raise Timeout if a process holds its lock."""
    if (folder / LOCK).is_file():
        with FileLock(folder / LOCK, timeout=0):
            shutil.rmtree(folder, ignore_errors=True)
