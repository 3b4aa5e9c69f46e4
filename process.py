"""What a process that works for long asks of its system: signals that can wait, and its memory."""

import ctypes
import signal
import sys
import threading

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def catch_signals() -> threading.Event:
    """Turn Ctrl-C and SIGTERM into an event, so that a step is never cut in half."""
    stop = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stop.set())
    return stop


def lacks_memory(error: BaseException) -> bool:
    """Tell whether an error is for want of memory; torch has no type for some."""
    kinds, words = (MemoryError, torch.OutOfMemoryError), ("can't allocate memory", "out of memory")
    return isinstance(error, kinds) or any(text in str(error) for text in words)


def keep_freed_memory() -> None:
    """Have Linux's malloc keep what is freed: the page faults of every step took a tenth of it."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    # below this size memory comes from the heap (older versions take no more than 32 MB), of which
    # nothing is given back
    if mallopt and (mallopt(M_MMAP_THRESHOLD, 2**30) or mallopt(M_MMAP_THRESHOLD, 2**25)):
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
