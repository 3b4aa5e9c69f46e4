"""Several processes train one model: the same curve for any number of them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.run as torchrun

from common.processes import Ranks, choose_device, default_workers, describe_device, joined
from dataset import Shuffle

ROOT = Path(__file__).parent.parent
FROZEN = """
import train
from common.command_line import run_command

build_run = train.build_run

def build_frozen(*args):
    run = build_run(*args)
    run.model.eval()  # BatchNorm's statistics depend on each process's part of the batch
    run.model.train = lambda: run.model
    return run

train.build_run = build_frozen
run_command(train.main, "go on")
"""


SLOW = """
def slow_step(run, shuffle):
    if run.step >= 30:  # slow enough to be asked to stop
        (run.args.out / "step-30").touch()
        time.sleep(0.1)
    return step(run, shuffle)

train.train_step = slow_step
"""


@pytest.fixture
def frozen(tmp_path):
    """Write train.py with BatchNorm's statistics frozen; return its path."""
    script = tmp_path / "frozen.py"
    script.write_text(FROZEN)
    return script


def start(script, world_size, cache_folder, run, *more):
    """Start a script on so many processes."""
    options = [
        "--cache",
        cache_folder.parent,
        "--out",
        run,
        "--loss",
        "normalized",
        "--device",
        "cpu",
    ]
    options += ["--width", "8", "--warmup", "2", "--log-every", "1", "--seed", "3"]
    options += ["--batch-size", "7", "--validate-every", "1000", "--save-every", "2", *more]
    command = [Path(sys.executable).with_name("torchrun"), "--nproc-per-node", str(world_size)]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]  # any free port
    command += [script, *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        list(map(str, command)),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    return output


def losses(run):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def test_one_two_and_three_processes_have_the_same_curve(frozen, cache_folder, tmp_path):
    runs = [tmp_path / str(n) for n in (1, 2, 3)]
    for n, run in enumerate(runs, start=1):
        output = finish(start(frozen, n, cache_folder, run, "--steps", "12"))
        assert output.count("finished at step 12") == 1
    one, two, three = (losses(run) for run in runs)
    assert list(one) == list(range(1, 13))
    assert len(set(one.values())) == 12
    for other in (two, three):
        assert one.keys() == other.keys()
        np.testing.assert_allclose(list(other.values()), list(one.values()), rtol=2e-4)


def test_a_dead_process_ends_all_and_the_run_goes_on_with_another_number(
    frozen, cache_folder, tmp_path
):
    run = tmp_path / "run"
    process = start(frozen, 2, cache_folder, run, "--steps", "100000")
    while not (run / "last.pt").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    began = time.monotonic()
    os.kill(int(children[-1]), signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert time.monotonic() - began < 30
    assert not any(Path(f"/proc/{child}").exists() for child in children)

    step = max(losses(run))
    config = json.loads((run / "config.json").read_text())
    config["options"]["steps"] = step + 5  # or it would take an hour
    (run / "config.json").write_text(json.dumps(config))
    assert "going on at step" in finish(start(frozen, 3, cache_folder, run, "--resume"))
    assert list(losses(run)) == list(range(1, step + 6))


def test_a_rank_that_is_asked_to_stop_stops_all_and_the_log_has_no_seam(
    frozen, cache_folder, tmp_path
):
    options = ["--steps", "60", "--log-every", "25", "--save-every", "1000"]
    finish(start(frozen, 2, cache_folder, tmp_path / "whole", *options))
    run, slow = tmp_path / "run", tmp_path / "slow.py"
    slow.write_text("import time, train\nstep = train.train_step\n" + SLOW + frozen.read_text())
    process = start(slow, 2, cache_folder, run, *options)
    while not (run / "step-30").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert "interrupted; go on" in output
    assert (run / "last.pt").exists()
    finish(start(frozen, 2, cache_folder, run, *options, "--resume"))
    assert losses(run) == pytest.approx(losses(tmp_path / "whole"), rel=1e-6)


def test_a_batch_smaller_than_the_ranks_is_refused(cache_folder, tmp_path):
    more = ["--steps", "3", "--batch-size", "1"]
    process = start(ROOT / "train.py", 2, cache_folder, tmp_path / "run", *more)
    output, _ = process.communicate(timeout=100)
    assert process.returncode != 0
    assert "--batch-size must be at least the number of processes, 2, got 1; start fewer" in output


@pytest.mark.parametrize("script", ["create_dataset.py", "train.py", "generate.py"])
def test_torchrun_takes_no_option_for_its_own(script):
    """It takes what begins one of its options for that one, also behind the script's name."""
    done = subprocess.run(
        [sys.executable, ROOT / script, "--help"], capture_output=True, text=True, timeout=60
    )
    options = sorted(set(re.findall(r"--[a-z-]+", done.stdout)))
    assert "--cache" in options
    for option in options:
        args = torchrun.get_args_parser().parse_args([script, option, "3"])
        assert args.training_script_args == [option, "3"]


@pytest.mark.parametrize(("batch_size", "world_size"), [(7, 1), (7, 2), (7, 3), (3, 3), (32, 5)])
def test_weights_of_parts_add_up_to_the_mean_of_the_batch(batch_size, world_size):
    values = np.random.default_rng(0).random(batch_size)
    ranks = [Ranks(rank, world_size) for rank in range(world_size)]
    weighted = [rank.weight(batch_size) * rank.part(values).mean() for rank in ranks]
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
    set_ranks(monkeypatch, RANK="3", WORLD_SIZE="4", LOCAL_RANK="1")
    assert describe_device(choose_device("auto")) == "cuda (NVIDIA H100)"
    assert gpus == [0, 1]


def test_processes_that_would_share_a_gpu_are_refused(gpus, monkeypatch):
    set_ranks(monkeypatch, RANK="1", WORLD_SIZE="4")
    for local in (None, "", "x"):
        if local is not None:
            set_ranks(monkeypatch, LOCAL_RANK=local)
        with pytest.raises(ValueError, match=r"expected LOCAL_RANK .* one of 2 GPUs; .*torchrun"):
            choose_device("cuda")
    set_ranks(monkeypatch, LOCAL_RANK="2")
    with pytest.raises(ValueError, match=r"GPU for LOCAL_RANK 2, found 2 .* no more processes"):
        choose_device("auto")
    assert gpus == []


def test_several_processes_do_not_train_on_apples_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto").type == "mps"
    set_ranks(monkeypatch, RANK="0", WORLD_SIZE="2")
    assert choose_device("auto").type == "cpu"
    with pytest.raises(ValueError, match="mps: expected one process"):
        choose_device("mps")


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
    with pytest.raises(ValueError, match=message), joined(torch.device("cpu")):
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
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("[rank0]: RuntimeError: a fault")
    assert done.stdout == ""
