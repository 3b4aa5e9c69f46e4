"""Files that are whole or not there, the space that they need, and one writer at a time."""

import contextlib
import csv
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

PATIENCE = 2  # seconds that the workers of a killed process may hold its lock


def half_written(path: Path) -> Path:
    """Return the name that a file has until it is whole."""
    return path.with_name(path.name + ".tmp")


def flush(path: Path) -> None:
    """Have a file's bytes reach the disk; nothing happens where there is none."""
    with contextlib.suppress(FileNotFoundError), path.open("rb+") as file:
        os.fsync(file.fileno())


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file under a temporary name, flush it to the disk, and rename it when whole.

    Args:
        path: where to.
        write: called with the temporary path.
    """
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
    """Write a table, whole or not at all; names that are not UTF-8 show "?"."""

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8", errors="replace") as file:
            csv.writer(file).writerows(rows)

    write_whole(path, write)


def check_space(folder: Path, needed: int) -> None:
    """Refuse to begin what will not fit.

    Args:
        folder: on the disk to write to; it may have yet to be made.
        needed: bytes.

    Raises:
        OSError: less than that is free.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise OSError(
            f"{folder}: {needed / 1e6:,.0f} MB are needed, {free / 1e6:,.0f} MB are free; free "
            "some space, or name another disk by --cache"
        )


@contextlib.contextmanager
def locked(folder: Path, rank: int = 0, world_size: int = 1) -> Iterator[None]:
    """Write to a folder while no other process does, but for the other ranks of the same number.

    Told by lock files, which end with their processes.

    Raises:
        BlockingIOError: another process does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ending = f"-of-{world_size}.lock"
    try:
        with FileLock(folder / f".rank-{rank}{ending}", timeout=PATIENCE):
            for other in folder.glob(".rank-*.lock"):
                if not other.name.endswith(ending):
                    with FileLock(other, timeout=PATIENCE):
                        pass  # nobody holds it
            yield
    except Timeout:
        raise BlockingIOError(
            f"{folder}: another process is writing here; wait until it is done, or end it"
        ) from None
