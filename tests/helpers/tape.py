"""A CUDA graph's stand-in on the CPU: it keeps what torch computes, and computes it again."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from common.recording import Recorder

# these wait for the GPU, or copy to it from where a GPU cannot read by itself
WAITING = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "lift_fresh", "masked_select"}


class Tape(TorchDispatchMode):
    """Keeps all operations with the tensors they read and made."""

    def __init__(self):
        super().__init__()
        self.operations: list[tuple[Any, tuple, dict, Any]] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation._schema.name.removeprefix("aten::")
        assert name not in WAITING, f"a step must not call {name}"
        results = operation(*args, **(kwargs or {}))
        self.operations.append((operation, args, kwargs or {}, results))
        return results

    @torch.no_grad()
    def play(self) -> None:
        """Compute all again: each operation reads and writes the places that it had."""
        for operation, args, kwargs, results in self.operations:
            again = operation(*args, **kwargs)
            for place, value in zip(tree_leaves(results), tree_leaves(again), strict=True):
                if isinstance(place, Tensor) and place.data_ptr() != value.data_ptr():
                    place.copy_(value)


class TapeRecorder(Recorder):
    """Records on a tape instead of a GPU."""

    tape: Tape | None = None

    def prepare(self, *values: Any) -> Any:
        return self.function(*values)

    def record(self) -> None:
        self.tape = Tape()
        with self.tape:
            self.results = self.function(*self.places)
        self.replay = self.start  # unlike a GPU's, this recording has computed already

    def start(self) -> None:
        self.replay = self.tape.play
