"""A function that is repeated from a recording, or called where that fails."""

import gc

import pytest
import torch
from tape import TapeRecorder

from common.recording import PREPARATION, without_collector


def scaled_sum(total):
    """Return a function that adds to `total`, and one of its calls by Python."""
    calls = []

    def add(values, scale):
        calls.append(scale)
        total.add_(scale * values)
        return total.sum()

    return add, calls


def test_a_recording_computes_what_the_function_would():
    total, expected = torch.zeros(3), torch.zeros(3)
    function, calls = scaled_sum(total)
    recorder = TapeRecorder(function)
    for i in range(PREPARATION + 5):
        values = torch.full((3,), float(i))
        expected += (i + 0.5) * values
        assert recorder(values, i + 0.5) == expected.sum()
    assert torch.equal(total, expected)
    assert calls[:PREPARATION] == [0.5, 1.5, 2.5]
    assert len(calls) == PREPARATION + 1  # once more to record it, with a tensor
    assert isinstance(calls[-1], torch.Tensor)


def test_what_cannot_be_recorded_is_said_once_and_called(capsys):
    total = torch.zeros(3)
    function, calls = scaled_sum(total)

    class Failing(TapeRecorder):
        def record(self):
            raise RuntimeError("operation not permitted\nwhen stream is capturing")

    recorder = Failing(function)
    for i in range(PREPARATION + 3):
        recorder(torch.ones(3), 1.0)
        assert total[0] == i + 1
    assert calls == [1.0] * (PREPARATION + 3)
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "this GPU cannot repeat a step by itself (operation not permitted): going on, but slower"
    ]


def test_a_step_that_reads_a_tensor_back_is_found():
    recorder = TapeRecorder(lambda values: values * values.sum().item())
    for _ in range(PREPARATION):
        recorder(torch.ones(3))
    with pytest.raises(AssertionError, match="_local_scalar_dense"):
        recorder(torch.ones(3))


def test_the_reason_is_the_first_error(capsys):
    class Hidden(TapeRecorder):
        def record(self):
            try:
                raise RuntimeError("cannot copy between CPU and GPU")
            except RuntimeError:
                raise RuntimeError("failed due to a previous error during capture")  # noqa: B904

    recorder = Hidden(lambda values: values)
    for _ in range(PREPARATION + 1):
        recorder(torch.ones(3))
    assert "(cannot copy between CPU and GPU)" in capsys.readouterr().out


@pytest.mark.parametrize("hidden", [False, True])
def test_memory_that_is_used_up_ends_the_recording(hidden):
    class Full(TapeRecorder):
        def record(self):
            try:
                raise torch.OutOfMemoryError("CUDA out of memory")
            finally:
                if hidden:
                    raise RuntimeError("failed due to a previous error during capture")

    recorder = Full(lambda values: values)
    for _ in range(PREPARATION):
        recorder(torch.ones(3))
    with pytest.raises(torch.OutOfMemoryError):
        recorder(torch.ones(3))


def test_no_garbage_is_collected_while_a_graph_is_recorded():
    with without_collector():
        assert not gc.isenabled()
    assert gc.isenabled()
