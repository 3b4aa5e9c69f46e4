"""A file in a folder while a process works there: if it is killed, the next one says so."""

import os
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PAUSE = 2  # seconds between two looks at the memory
FIGURES = r"^(?:RssAnon|Private_Dirty):\s+(\d+) kB"  # of a process's own memory, without files
ADVICE = ": give fewer --workers (train.py: a smaller --batch-size, and another --out)"


def memory_taken() -> int:
    """Return the bytes that this process and its children hold, 0 if the system has no /proc."""
    paths = [*Path("/proc/self").glob("status")]  # what children share with it counts here
    for tasks in Path("/proc/self/task").glob("*/children"):
        paths += [Path(f"/proc/{child}/smaps_rollup") for child in tasks.read_text().split()]
    return 1024 * sum(int(n) for path in paths for n in re.findall(FIGURES, path.read_text(), re.M))


def memory_limit() -> int:
    """Return the bytes of memory that this machine has, or this container."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # "max": it has no limit of its own
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return machine


def keep_mark(path: Path, ended: threading.Event) -> None:
    """Keep in a file when this process began and the most memory that it took, until it ends."""
    begun, most, written = time.strftime(", begun %Y-%m-%d %H:%M"), 0, ""
    while True:
        with suppress(OSError):  # a child has just ended, or the disk is full
            most, text = max(most, memory_taken()), begun
            if most:
                text += f"; it had taken {most / 1e9:.1f} GB of {memory_limit() / 1e9:.1f} GB"
                text += ADVICE if most > memory_limit() / 2 else ""
            if text != written:
                path.write_text(text)
                written = text
        if ended.wait(PAUSE):
            return


@contextmanager
def marked(path: Path, others: Iterable[Path]) -> Iterator[None]:
    """Mark a folder by a file while this process works there; first print who left such a file.

    `others` are the files of further processes that have ended.
    """
    for mark in (path, *others):
        with suppress(OSError):
            text = mark.read_text(errors="replace")
            mark.unlink()  # fails if another rank has printed it
            print(f"{mark.parent}: a run before this one was killed{text}", file=sys.stderr)
    ended = threading.Event()
    thread = threading.Thread(target=keep_mark, args=(path, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(OSError):
            path.unlink()
