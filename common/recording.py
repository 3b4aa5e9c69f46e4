"""A function of tensors, recorded on a GPU as a CUDA graph: one launch instead of hundreds.

Python and torch take 10 to 20 microseconds to launch a kernel, more than most kernels of a small
network run. A graph is launched at once, and reads and writes the same places in memory each time.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from common.processes import lacks_memory

PREPARATION = 3  # calls before the recording: Adam makes its moments, cuDNN tries its kernels
Value = Tensor | float


@contextmanager
def without_collector() -> Iterator[None]:
    """Collect garbage, then none: a graph that is deleted spoils another one's recording."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def first_cause(error: BaseException) -> BaseException:
    """Return the error that led to an error: the end of a failed recording hides it."""
    while error.__context__ is not None:
        error = error.__context__
    return error


class Recorder:
    """A function of tensors and numbers that a GPU repeats without Python after the first calls.

    A call returns what the function would; the next call overwrites its results. The function
    launches the same kernels each time: it reads no tensor back, tensors keep their shapes, and
    while it is recorded a number is a tensor (). If it cannot be recorded, that is said once, and
    the function is called each time.
    """

    def __init__(self, function: Callable[..., Any]):
        self.function, self.calls = function, 0
        self.stream: torch.cuda.Stream | None = None
        self.places: list[Tensor] = []  # of the values
        self.replay: Callable[[], None] | None = None
        self.results: Any = None

    def __call__(self, *values: Value) -> Any:
        """Return the function's results for these values."""
        self.calls += 1
        if self.calls <= PREPARATION:
            return self.prepare(*values)
        if self.calls == PREPARATION + 1:
            self.try_to_record(*values)
        if self.replay is None:
            return self.function(*values)
        for place, value in zip(self.places, values, strict=True):
            if isinstance(value, Tensor):
                place.copy_(value, non_blocking=True)
            else:
                place.fill_(value)  # a kernel holds the number: nothing waits for the GPU
        self.replay()
        return self.results

    def prepare(self, *values: Value) -> Any:
        """Call the function on a stream of its own, as torch wants it before a recording."""
        self.stream = self.stream or torch.cuda.Stream()
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            results = self.function(*values)
        torch.cuda.current_stream().wait_stream(self.stream)
        return results

    def record(self) -> None:
        """Record the function with `places`; nothing is computed yet."""
        graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with without_collector(), torch.cuda.graph(graph, stream=self.stream):
                self.results = self.function(*self.places)
        finally:
            torch.cuda.set_stream(before)  # a failure may leave the other one
        self.replay = graph.replay

    def try_to_record(self, *values: Value) -> None:
        """Record the function, or say why not; raise RuntimeError if memory is used up."""
        device = next(value.device for value in values if isinstance(value, Tensor))
        self.places = [
            value.clone() if isinstance(value, Tensor) else torch.tensor(value, device=device)
            for value in values
        ]
        try:
            self.record()
        except RuntimeError as error:
            cause = first_cause(error)
            if lacks_memory(cause):
                raise cause from None
            reason = (str(cause).splitlines() or [type(cause).__name__])[0]
            tqdm.write(f"this GPU cannot repeat a step by itself ({reason}): going on, but slower")
