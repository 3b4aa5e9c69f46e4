"""Processes that train or score together, as torchrun starts them: who each is, what all agree on.

One process alone is rank 0 of 1, and talks to nobody.
"""

import math
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def find_rank() -> tuple[int, int]:
    """Return this process's rank and the number of ranks, as torchrun or a scheduler sets them.

    Raises:
        ValueError: RANK and WORLD_SIZE do not fit together.
    """
    texts = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not all(text.isdecimal() for text in texts) or not int(texts[0]) < int(texts[1]):
        raise ValueError(
            f"expected RANK below WORLD_SIZE in the environment, found {texts[0]} and {texts[1]}; "
            "set both (torchrun does) or neither"
        )
    return int(texts[0]), int(texts[1])


def default_workers() -> int:
    """Return this process's share of the processors that it may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # on Linux: a scheduler may allot a few
    processors = len(allowed(0)) if allowed else os.cpu_count() or 1
    return max(1, processors // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def choose_device(name: str) -> torch.device:
    """Return the device of that name; auto is the first of cuda, mps and cpu that is there.

    Of several GPUs each process gets the one that torchrun's LOCAL_RANK says.

    Raises:
        ValueError: there is no such device, or not one for each process here.
    """
    several = find_rank()[1] > 1
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if several and there["mps"]:  # gloo does not know it
        if name == "mps":
            raise ValueError("--device mps: expected one process, found several; use --device cpu")
        there["mps"] = False
    if name == "auto":
        name = next(device for device, found in there.items() if found)
    if not there[name]:
        raise ValueError(f"--device {name}: expected such a device, found none; use --device auto")
    if name == "cuda":
        local, found = os.environ.get("LOCAL_RANK"), torch.cuda.device_count()
        if several and found > 1 and not (local or "").isdecimal():
            raise ValueError(
                f"expected LOCAL_RANK beside RANK, to choose one of {found} GPUs; start with "
                "torchrun, which sets it"
            )
        if int(local or 0) >= found:
            raise ValueError(
                f"expected a GPU for LOCAL_RANK {local}, found {found} in all; start no more "
                "processes on this machine than it has"
            )
        torch.cuda.set_device(int(local or 0))
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
    words: Any = None  # the group of all, over the host: no GPU is waited for

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
        if self.world_size == 1:
            return items
        parts = [None] * self.world_size if self.first else None
        dist.gather_object(items, parts, dst=0, group=self.words)
        total = sum(map(len, parts or []))
        return [parts[i % self.world_size][i // self.world_size] for i in range(total)]

    def weight(self, batch_size: int) -> float:
        """Return the factor by which means over parts have the batch's mean as their own mean."""
        return len(self.part(np.arange(batch_size))) * self.world_size / batch_size

    def agree(self, seconds: float, stop: bool) -> tuple[float, bool]:
        """Return rank 0's clock, and whether any was asked to stop: all go by the same."""
        if self.world_size == 1:
            return seconds, stop
        told = torch.tensor([seconds if self.first else -math.inf, stop], dtype=torch.float64)
        dist.all_reduce(told, dist.ReduceOp.MAX, group=self.words)
        return float(told[0]), bool(told[1])

    def wait(self) -> None:
        """Wait for all processes: torchrun soon ends what is left when one is gone."""
        self.agree(0, False)

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a value over the processes."""
        if self.world_size > 1:
            value = value.detach().clone().cpu()
            dist.all_reduce(value, group=self.words)
            value /= self.world_size
        return value

    def share(self, model: nn.Module) -> nn.Module:
        """Return a model whose gradients are averaged over the processes."""
        return model if self.world_size == 1 else DistributedDataParallel(model)


def meet(device: torch.device, rank: int, world_size: int) -> Any:
    """Wait for the other processes; Ctrl-C and SIGTERM end this one at once meanwhile.

    Returns:
        The group of all, over the host.

    Raises:
        ValueError: they cannot meet.
    """
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    if rank == 0:
        print(f"rank 0: waiting for {world_size} processes at {place}", flush=True)
    signals = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.signal(name, signal.SIG_DFL) for name in signals]
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return dist.new_group(backend="gloo")
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"rank {rank}: cannot meet the others at {place}: {reason}; between machines, set "
            "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to the network interface that they share"
        ) from error
    finally:
        for name, handler in zip(signals, handlers, strict=True):
            signal.signal(name, handler)


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Join the processes that torchrun started; alone where it started none.

    Raises:
        ValueError: RANK and WORLD_SIZE do not fit together, or say not where to meet.
    """
    rank, world_size = find_rank()
    if world_size == 1:
        yield Ranks()
        return
    if missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise ValueError(
            f"WORLD_SIZE is set and {missing[0]} is not: start several processes with torchrun, as "
            f"torchrun --nproc-per-node {world_size} {Path(sys.argv[0]).name} ..."
        )
    ranks = Ranks(rank, world_size, meet(device, rank, world_size))
    yield ranks
    ranks.wait()
