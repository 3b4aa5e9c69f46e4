"""Files that are whole or not there, the space that they need, and one writer at a time."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

PATIENCE = 2  # seconds that the workers of a killed process may hold its lock


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file under a temporary name, flush it to the disk, and rename it when whole.

    Args:
        path: where to.
        write: called with the temporary path.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
            "some space, name another disk by --cache, or take less by --size or --limit"
        )


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Do something while no other process does, told by a lock file that ends with its process.

    Raises:
        BlockingIOError: another process does.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=PATIENCE):
            yield
    except Timeout:
        raise BlockingIOError(
            f"{lock.parent}: another process is writing here; wait until it is done, or end it"
        ) from None
