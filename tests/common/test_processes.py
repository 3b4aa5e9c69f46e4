"""Processes among others: their parts, their GPUs, their faults; what one asks of its system."""

import importlib
import os
import platform
import re
import signal

import numpy as np
import pytest
import torch
import torch.distributed.run as torchrun
from running import CODE, call, run_script

from common.processes import (
    Ranks,
    catch_signals,
    choose_device,
    default_workers,
    describe_device,
    lacks_memory,
    process_group,
)
from dataset import Shuffle


# ---- parts of the work -------------------------------------------------------------------------
@pytest.mark.parametrize(("batch_size", "world_size"), [(7, 1), (7, 2), (7, 3), (3, 3), (32, 5)])
def test_weights_of_parts_add_up_to_the_mean_of_the_batch(batch_size, world_size):
    values = np.random.default_rng(0).random(batch_size)
    ranks = [Ranks(rank, world_size) for rank in range(world_size)]
    weighted = [rank.loss_scale(batch_size) * rank.part(values).mean() for rank in ranks]
    assert np.mean(weighted) == pytest.approx(values.mean())


@pytest.mark.parametrize(
    ("length", "batch_size", "world_size"), [(60, 12, 4), (60, 10, 4), (5, 13, 2)]
)
def test_part_shares_a_batch_among_ranks(length, batch_size, world_size):
    for step in (0, 5, 23):
        whole = Shuffle(length, batch_size, 1).batch(step)
        parts = [
            Ranks(rank, world_size).part(Shuffle(length, batch_size, 1).batch(step))
            for rank in range(world_size)
        ]
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.sort(whole))


@pytest.mark.parametrize("script", ["create_dataset", "train", "generate"])
def test_torchrun_takes_no_option_for_its_own(script, capsys):
    """It takes what begins one of its options for that one, also behind the script's name."""
    with pytest.raises(SystemExit):
        call(importlib.import_module(script).main, "--help")
    options = sorted(set(re.findall(r"--[a-z-]+", capsys.readouterr().out)))
    assert "--cache" in options
    for option in sorted(set(options) - {"--start"}):  # of a film: docs/films.md says so
        args = torchrun.get_args_parser().parse_args([f"{script}.py", option, "3"])
        assert args.training_script_args == [option, "3"]


# ---- GPUs that are not here --------------------------------------------------------------------
@pytest.fixture
def gpus(monkeypatch):
    """Pretend that there are two GPUs; return the numbers of those that were chosen."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return chosen


def set_ranks(monkeypatch, **environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def test_each_process_gets_a_gpu_of_its_own(gpus, monkeypatch):
    assert choose_device("auto").type == "cuda"
    set_ranks(monkeypatch, LOCAL_RANK="1")
    assert describe_device(choose_device("auto", True)) == "cuda (NVIDIA H100)"
    assert gpus == [0, 1]


def test_processes_that_would_share_a_gpu_are_refused(gpus, monkeypatch):
    for local in (None, "", "x"):
        if local is not None:
            set_ranks(monkeypatch, LOCAL_RANK=local)
        with pytest.raises(ValueError, match=r"expected a LOCAL_RANK below 2, .*torchrun"):
            choose_device("cuda", True)
    set_ranks(monkeypatch, LOCAL_RANK="2")
    with pytest.raises(ValueError, match=r"below 2, .* found 2; .* no more processes"):
        choose_device("auto", True)
    assert gpus == []


def test_several_processes_do_not_train_on_apples_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto").type == "mps"
    assert choose_device("auto", True).type == "cpu"
    with pytest.raises(ValueError, match="mps: expected one process"):
        choose_device("mps", True)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processors are not allotted here")
def test_workers_are_as_many_as_the_processors_that_are_allotted(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    assert default_workers() == 6
    set_ranks(monkeypatch, LOCAL_WORLD_SIZE="4")
    assert default_workers() == 1


# ---- what goes wrong among processes -----------------------------------------------------------
@pytest.mark.parametrize("missing", ["MASTER_ADDR", "MASTER_PORT"])
def test_processes_that_are_not_told_where_to_meet_are_told_of_torchrun(missing, monkeypatch):
    set_ranks(monkeypatch, RANK="0", WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT="1")
    monkeypatch.delenv(missing)
    message = f"{missing} is not: .*torchrun --nproc-per-node 2"
    with pytest.raises(ValueError, match=message), process_group(torch.device("cpu"), Ranks.find()):
        pass


def test_a_fault_among_processes_ends_with_its_traceback(tmp_path):
    script = f"""
import atexit
import torch.distributed as dist
from common.command_line import run_command

def main():
    dist.init_process_group("gloo", init_method="file://{tmp_path}/meet", rank=0, world_size=1)
    atexit.register(print, "waits for others")
    raise RuntimeError("a fault")

run_command(main)
"""
    done = run_script(CODE, script)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("[rank0]: RuntimeError: a fault")
    assert done.stdout == ""


# ---- what a process asks of its system ---------------------------------------------------------
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_catch_signals_turns_them_into_an_event(name):
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        stop = catch_signals()
        assert not stop.is_set()
        signal.raise_signal(getattr(signal, name))  # and no KeyboardInterrupt
        assert stop.is_set()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_lacks_memory_knows_how_memory_lacks():
    with pytest.raises(RuntimeError) as found:
        torch.empty(2**58)
    for error in (MemoryError(), torch.OutOfMemoryError("CUDA"), found.value):
        assert lacks_memory(error)
    for error in (RuntimeError("a fault"), ValueError("size"), KeyboardInterrupt()):
        assert not lacks_memory(error)


FAULTS = """
import resource, torch
from common import processes

def count():
    for _ in range(40):
        torch.ones(2**24)  # each place of the heap is touched once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

returned = count()
processes.keep_freed_memory()
print(count(), returned)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc's malloc")
def test_keep_freed_memory_avoids_page_faults():
    kept, returned = map(int, run_script(CODE, FAULTS).stdout.split())
    assert kept < 100 < returned
