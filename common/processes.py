"""Processes that work together, as torchrun starts them, and what each asks of its system.

One process alone is rank 0 of 1, and talks to nobody.
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
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def default_workers() -> int:
    """Return this process's share of the processors that it may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # on Linux: a scheduler may allot a few
    processors = len(allowed(0)) if allowed else os.cpu_count() or 1
    return max(1, processors // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def choose_device(name: str, several: bool = False) -> torch.device:
    """Return the device of that name; auto is the first of cuda, mps and cpu that is there.

    Args:
        name: "auto", "cuda", "mps" or "cpu".
        several: whether other processes work with this one; torchrun's LOCAL_RANK then says which
            GPU is this one's.

    Raises:
        ValueError: there is no such device, or not one for each process here.
    """
    if several and name == "mps":
        raise ValueError("--device mps: expected one process, found several; use --device cpu")
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available() and not several,  # gloo does not know it
        "cpu": True,
    }
    if name == "auto":
        name = next(device for device, found in available.items() if found)
    if not available[name]:
        raise ValueError(f"--device {name}: expected such a device, found none; use --device auto")
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
    """Return a device in words, with its name where it is a GPU."""
    if device.type != "cuda":
        return device.type
    return f"{device.type} ({torch.cuda.get_device_name(device)})"


@dataclass(frozen=True)
class Ranks:
    """This process among those that train or score one model."""

    rank: int = 0
    world_size: int = 1
    cpu_group: Any = None  # of all, over the host: no GPU is waited for

    @classmethod
    def find(cls) -> "Ranks":
        """Return this process's place, as torchrun or a scheduler sets it; not joined yet.

        Raises:
            ValueError: RANK and WORLD_SIZE do not fit together.
        """
        texts = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
        if not all(text.isdecimal() for text in texts) or not int(texts[0]) < int(texts[1]):
            raise ValueError(
                f"expected RANK below WORLD_SIZE in the environment, found {texts[0]} and "
                f"{texts[1]}; set both (torchrun does) or neither"
            )
        return cls(int(texts[0]), int(texts[1]))

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

    def part(self, array: np.ndarray) -> np.ndarray:
        """Return this process's part of what belongs to a whole batch."""
        return array[self.rank :: self.world_size]

    def gather(self, items: list[Any]) -> list[Any]:
        """Return what all processes made of their `part` of a list, in its order, on rank 0.

        The others get an empty list.
        """
        if not self.several:
            return items
        parts = [None] * self.world_size if self.first else None
        dist.gather_object(items, parts, dst=0, group=self.cpu_group)
        total = sum(map(len, parts or []))
        return [parts[i % self.world_size][i // self.world_size] for i in range(total)]

    def loss_scale(self, batch_size: int) -> float:
        """Return the factor by which means over parts have the batch's mean as their own mean."""
        return len(self.part(np.arange(batch_size))) * self.world_size / batch_size

    def agree(self, seconds: float, stop: bool) -> tuple[float, bool]:
        """Return rank 0's clock, and whether any was asked to stop: all go by the same."""
        if not self.several:
            return seconds, stop
        agreed = torch.tensor([seconds if self.first else -math.inf, stop], dtype=torch.float64)
        dist.all_reduce(agreed, dist.ReduceOp.MAX, group=self.cpu_group)
        return float(agreed[0]), bool(agreed[1])

    def wait(self) -> None:
        """Wait for all processes: torchrun soon ends what is left when one is gone."""
        self.agree(0, False)

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a value over the processes."""
        if self.several:
            value = value.detach().clone().cpu()
            dist.all_reduce(value, group=self.cpu_group)
            value /= self.world_size
        return value

    def share(self, model: nn.Module) -> nn.Module:
        """Return a model whose gradients are averaged over the processes."""
        return DistributedDataParallel(model) if self.several else model


def init_processes(device: torch.device, ranks: Ranks) -> Any:
    """Wait for the other processes; Ctrl-C and SIGTERM end this one at once meanwhile.

    Returns:
        The group of all, over the host.

    Raises:
        ValueError: they cannot meet.
    """
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    if ranks.first:
        print(f"rank 0: waiting for {ranks.world_size} processes at {place}", flush=True)
    signals = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.signal(name, signal.SIG_DFL) for name in signals]
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return dist.new_group(backend="gloo")
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"rank {ranks.rank}: cannot meet the others at {place}: {reason}; between machines, "
            "set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to the network interface that they share"
        ) from error
    finally:
        for name, handler in zip(signals, handlers, strict=True):
            signal.signal(name, handler)


@contextmanager
def process_group(device: torch.device, ranks: Ranks) -> Iterator[Ranks]:
    """Join the processes that torchrun started; alone where it started none.

    Raises:
        ValueError: the environment does not say where to meet.
    """
    if not ranks.several:
        yield ranks
        return
    if missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise ValueError(
            f"WORLD_SIZE is set and {missing[0]} is not: start several processes with torchrun, as "
            f"torchrun --nproc-per-node {ranks.world_size} {Path(sys.argv[0]).name} ..."
        )
    ranks = replace(ranks, cpu_group=init_processes(device, ranks))
    yield ranks
    ranks.wait()


# ---- this process and its system ---------------------------------------------------------------
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
