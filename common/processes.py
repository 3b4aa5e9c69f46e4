"""Processes: their devices, signals and memory, and the messages between those of torchrun.

A single process is rank 0 of 1, and communicates with none.
"""

import ctypes
import math
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
Items = TypeVar("Items", list, np.ndarray)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def default_workers() -> int:
    """Return this process's share of the available processors."""
    allowed = getattr(os, "sched_getaffinity", None)  # on Linux: a scheduler may allot a few
    processors = len(allowed(0)) if allowed else os.cpu_count() or 1
    return max(1, processors // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def choose_device(name: str, several: bool = False) -> torch.device:
    """Return a device; "auto" takes the first of cuda, mps and cpu that this machine has.

    With `several` processes, torchrun's LOCAL_RANK is the number of this process's GPU. Raise
    ValueError if the device is missing, or if this machine has fewer GPUs than processes.
    """
    if several and name == "mps":
        raise ValueError("--device mps: expected one process, found several; use --device cpu")
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available() and not several,  # gloo does not support it
        "cpu": True,
    }
    if name == "auto":
        name = next(device for device, found in available.items() if found)
    if not available[name]:
        raise ValueError(
            f"--device {name}: this machine, or this torch, has none; use --device auto"
        )
    if name == "cuda":
        gpus = torch.cuda.device_count()
        local = os.environ.get("LOCAL_RANK", "none" if several and gpus > 1 else "0")
        if not local.isdecimal() or int(local) >= gpus:
            raise ValueError(
                f"expected a LOCAL_RANK below {gpus}, the number of GPUs here, found {local}; "
                "start with torchrun, and no more processes on this machine than it has GPUs"
            )
        torch.cuda.set_device(int(local))
    return torch.device(name)


def describe_device(device: torch.device) -> str:
    """Return a device in words; a GPU with its name."""
    if device.type != "cuda":
        return device.type
    return f"{device.type} ({torch.cuda.get_device_name(device)})"


@dataclass(frozen=True)
class Ranks:
    """This process's rank, and the number of processes that share a command's work."""

    rank: int = 0
    world_size: int = 1
    cpu_group: Any = None  # of all processes, over the host: its messages wait for no GPU

    @classmethod
    def find(cls) -> "Ranks":
        """Read RANK and WORLD_SIZE, which torchrun or a scheduler sets; join no group yet.

        Raise ValueError if they do not fit together.
        """
        rank, size = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
        if not (rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
            raise ValueError(
                f"expected RANK below WORLD_SIZE in the environment, found {rank} and {size}; set "
                "both (torchrun does) or neither"
            )
        return cls(int(rank), int(size))

    @property
    def several(self) -> bool:
        """Whether there are other processes."""
        return self.world_size > 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def say(self, text: str) -> None:
        """Print a line once for all processes."""
        if self.first:
            print(text)

    def part(self, items: Items) -> Items:
        """Return this process's part of what belongs to all, a list or an array."""
        return items[self.rank :: self.world_size]

    def gather(self, items: list[Any]) -> list[Any]:
        """Undo `part`: return on rank 0 the items of all processes in order, elsewhere []."""
        if not self.several:
            return items
        parts = [None] * self.world_size if self.first else None
        dist.gather_object(items, parts, dst=0, group=self.cpu_group)
        total = sum(map(len, parts or []))
        return [parts[i % self.world_size][i // self.world_size] for i in range(total)]

    def loss_scale(self, batch_size: int) -> float:
        """Return the factor of this part's mean: the mean over ranks is then the batch's mean."""
        return len(self.part(np.arange(batch_size))) * self.world_size / batch_size

    def agree(self, seconds: float, stop: bool) -> tuple[float, bool]:
        """Return rank 0's clock, and whether any process is to stop: all then do the same."""
        if not self.several:
            return seconds, stop
        agreed = torch.tensor([seconds if self.first else -math.inf, stop], dtype=torch.float64)
        dist.all_reduce(agreed, dist.ReduceOp.MAX, group=self.cpu_group)
        return float(agreed[0]), bool(agreed[1])

    def wait(self) -> None:
        """Wait until all processes are here: when one ends, torchrun soon ends the others."""
        self.agree(0, False)

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a value over the processes."""
        if self.several:
            value = value.detach().clone().cpu()
            dist.all_reduce(value, group=self.cpu_group)
            value /= self.world_size
        return value

    def average_gradients(self, model: nn.Module) -> nn.Module:
        """Return a model whose gradients are averaged over the processes."""
        return DistributedDataParallel(model) if self.several else model


ALONE = Ranks()


def init_processes(device: torch.device, ranks: Ranks) -> Any:
    """Connect to the other processes; return their group over the host.

    Meanwhile Ctrl-C and SIGTERM end this process at once. Raise ValueError if no connection is
    made.
    """
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    if ranks.first:
        print(f"rank 0: waiting for {ranks.world_size} processes at {place}", flush=True)
    handlers = {name: signal.signal(name, signal.SIG_DFL) for name in STOP_SIGNALS}
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return dist.new_group(backend="gloo")
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"rank {ranks.rank}: cannot connect to the others at {place}: {reason}; for several "
            "machines, set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to their network interface"
        ) from error
    finally:
        for name, handler in handlers.items():
            signal.signal(name, handler)


@contextmanager
def process_group(device: torch.device, ranks: Ranks) -> Iterator[Ranks]:
    """Join the processes that torchrun started; do nothing for a single process.

    Raise ValueError if the environment holds no address to connect to.
    """
    if not ranks.several:
        yield ranks
        return
    if missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise ValueError(
            f"WORLD_SIZE is set and {missing[0]} is not: start several processes with "
            f"torchrun --nproc-per-node {ranks.world_size} {Path(sys.argv[0]).name} ..."
        )
    ranks = replace(ranks, cpu_group=init_processes(device, ranks))
    yield ranks
    ranks.wait()


# ---- this process and its system ---------------------------------------------------------------
def catch_signals() -> threading.Event:
    """Turn Ctrl-C and SIGTERM into an event, so that a step is never cut in half."""
    stop = threading.Event()
    for name in STOP_SIGNALS:
        signal.signal(name, lambda *_: stop.set())
    return stop


def lacks_memory(error: BaseException) -> bool:
    """Return whether an error says that memory is used up; torch has no type for some."""
    kinds, words = (MemoryError, torch.OutOfMemoryError), ("can't allocate memory", "out of memory")
    return isinstance(error, kinds) or any(text in str(error) for text in words)


def keep_freed_memory() -> None:
    """Make Linux's malloc keep freed memory: page faults took a tenth of every step."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    # smaller blocks come from the heap, which keeps them (older versions take at most 32 MB)
    if mallopt and (mallopt(M_MMAP_THRESHOLD, 2**30) or mallopt(M_MMAP_THRESHOLD, 2**25)):
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
