"""Several processes train one model: the same curve for any number of them."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from running import children, exit_status, finish, start_script, wait_until

import train
from colorizer import read_checkpoint

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
def slow_step(run):
    if run.step >= 30:  # slow enough to be asked to stop
        (run.args.out / "step-30").touch()
        time.sleep(0.1)
    return step(run)

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
    options = ["--cache", cache_folder.parent, "--out", run, "--loss", "normalized"]
    options += ["--device", "cpu", "--width", "8", "--warmup", "2", "--log-every", "1"]
    options += ["--seed", "3", "--batch-size", "7", "--validate-every", "1000"]
    options += ["--save-every", "2", *more]
    return start_script(script, *options, processes=world_size)


def end(process):
    """Wait for a run, which is to succeed; return what it printed."""
    done = finish(process)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def losses(run):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


@pytest.mark.parametrize(
    ("processes", "from_file"),
    [
        (2, False),
        pytest.param(3, True, marks=pytest.mark.slow),
    ],
)
def test_several_processes_have_the_curve_of_one(
    processes, from_file, frozen, cache_folder, checkpoint, tmp_path
):
    more = ["--init", checkpoint] if from_file else []
    for n in (0, processes):
        output = end(start(frozen, n, cache_folder, tmp_path / str(n), "--steps", "12", *more))
        assert ("starting from" in output) == from_file
        assert output.count("finished at step 12") == 1
    one, several = (losses(tmp_path / str(n)) for n in (0, processes))
    assert list(one) == list(range(1, 13))
    assert len(set(one.values())) == 12
    assert one.keys() == several.keys()
    np.testing.assert_allclose(list(several.values()), list(one.values()), rtol=2e-4)


def test_a_dead_process_ends_all_and_the_run_goes_on_without_torchrun(
    frozen, cache_folder, tmp_path
):
    run = tmp_path / "run"
    process = start(frozen, 2, cache_folder, run, "--steps", "100000")
    wait_until((run / "last.pt").exists, process)
    started = children(process)
    began = time.monotonic()
    os.kill(started[-1], signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert time.monotonic() - began < 30
    assert not any(Path(f"/proc/{child}").exists() for child in started)

    step = max(losses(run))
    config = json.loads((run / "config.json").read_text())
    config["options"]["steps"] = step + 5  # or it would take an hour
    (run / "config.json").write_text(json.dumps(config))
    assert "going on at step" in end(start(frozen, 0, cache_folder, run, "--resume"))
    assert list(losses(run)) == list(range(1, step + 6))


@pytest.mark.slow
def test_ranks_end_with_a_torchrun_that_was_killed(cache_folder, tmp_path):
    run = tmp_path / "run"
    process = start("train.py", 2, cache_folder, run, "--steps", "100000")
    wait_until((run / "last.pt").exists, process)
    process.kill()
    _, errors = process.communicate(timeout=30)  # all have closed it
    assert "interrupted; a run that had started is saved" in errors
    step = read_checkpoint(run / "last.pt")["step"]
    more = ["--steps", str(step + 5), "--resume"]
    assert f"going on at step {step:,}" in end(start("train.py", 0, cache_folder, run, *more))


@pytest.mark.slow
def test_a_rank_that_is_asked_to_stop_stops_all_and_the_log_has_no_seam(
    frozen, cache_folder, tmp_path
):
    options = ["--steps", "60", "--log-every", "25", "--save-every", "1000"]
    end(start(frozen, 2, cache_folder, tmp_path / "whole", *options))
    run, slow = tmp_path / "run", tmp_path / "slow.py"
    slow.write_text("import time, train\nstep = train.train_step\n" + SLOW + frozen.read_text())
    process = start(slow, 2, cache_folder, run, *options)
    wait_until((run / "step-30").exists, process)
    started = children(process)
    os.kill(started[-1], signal.SIGTERM)
    done = finish(process)
    assert "interrupted; go on" in done.stdout + done.stderr
    assert (run / "last.pt").exists()
    end(start(frozen, 2, cache_folder, run, *options, "--resume"))
    assert losses(run) == pytest.approx(losses(tmp_path / "whole"), rel=1e-6)


def test_a_batch_smaller_than_the_ranks_is_refused(cache_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    options = ["--cache", cache_folder.parent, "--out", tmp_path, "--steps", 3, "--batch-size", 1]
    assert exit_status(train.main, *options) == 2
    told = "--batch-size must be at least the number of processes, 2, got 1; start fewer"
    assert told in capsys.readouterr().err
