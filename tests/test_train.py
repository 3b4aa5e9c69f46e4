"""train.py: its options, its step, a run from start to end, and what stops one."""

import argparse
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import log_of, run_train
from torch._dynamo.exc import InternalTorchDynamoError
from torch.distributed import DistBackendError

import train
import training.run
from colorizer import load_colorizer, read_checkpoint
from common.files import locked
from common.processes import Ranks
from dataset import Cache
from train import default_crop, make_train_parser


# ---- optimization ------------------------------------------------------------------------------
def test_network_overfits_one_batch(cache_folder, tmp_path):
    parser = make_train_parser()
    typed = ["--loss", "plain", "--num-neighbors", "1", "--width", "16", "--steps", "150"]
    args = parser.parse_args([*typed, "--batch-size", "4", "--crop", "16", "--warmup", "1"])
    run = train.build_run(args, Cache(cache_folder), Ranks())
    L, ab = run.batches.split.read(np.arange(4))
    first, _ = run.objective(run.model, L, ab)
    run.model.train()
    for _ in range(150):
        loss, _ = run.objective(run.model, L, ab)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
    assert first > 5
    assert loss < 0.5


# ---- a run -------------------------------------------------------------------------------------
@pytest.mark.draws
def test_run_writes_what_it_promises(options, tmp_path, capsys):
    run_train(*options, "--steps", 10)
    folder = tmp_path / "run"
    config = json.loads((folder / "config.json").read_text())
    assert config["options"]["steps"] == 10
    assert config["options"]["crop"] == 16  # 7/8 would be too little
    log = log_of(folder)
    assert [line["step"] for line in log if "loss" in line] == [4, 8, 10]
    values = {line["step"]: line["val_loss"] for line in log if "val_loss" in line}
    assert list(values) == [6, 10]
    best = read_checkpoint(folder / "best.pt")
    assert values[best["step"]] == min(values.values())
    assert sorted(path.name for path in (folder / "samples").iterdir()) == [
        "0000006.png",
        "0000010.png",
    ]
    _, about = load_colorizer(folder / "best.pt")
    assert (about["size"], about["loss"], about["top_k"]) == (16, "plain", 313)
    assert about["prior"].sum() == pytest.approx(1)
    assert "the cache made last" in capsys.readouterr().out


def test_a_picture_that_fails_costs_itself_alone(options, tmp_path, monkeypatch, capsys):
    folder, saved = tmp_path / "run", []

    def fail(*_):
        saved.append(read_checkpoint(folder / "best.pt")["step"])
        raise RuntimeError("no fonts")

    for name in ("draw_samples", "plot_curves"):
        monkeypatch.setattr(training.run, name, fail)
    run_train(*options, "--steps", 6)
    assert saved == [6, 6]  # the weights come first
    assert sorted(path.name for path in folder.iterdir() if path.name[0] != ".") == [
        *("best.pt", "config.json", "last.pt", "log.jsonl", "previous.pt", "samples")
    ]
    said = capsys.readouterr().err.splitlines()
    for name in ("0000006.png", "curves.png"):
        assert any(f"{name}: not drawn (no fonts)" in line for line in said)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_learns_as_an_eager_one(options, tmp_path):
    values = {}
    for compiled in ([], ["--compile"]):
        folder = tmp_path / f"run{compiled}"
        run_train(*options, "--out", folder, "--steps", 8, *compiled)
        values[bool(compiled)] = [line["loss"] for line in log_of(folder) if "loss" in line]
    assert values[True] == pytest.approx(values[False], rel=1e-3)
    load_colorizer(folder / "best.pt")


# ---- options -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("size", "crop"), [(16, 16), (32, 28), (64, 56), (100, 84), (128, 112), (256, 224)]
)
def test_default_crop_is_seven_eighths_in_whole_blocks(size, crop):
    assert default_crop(size) == crop


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["--steps", 3, "--epochs", 2], "not allowed with"),
        (["--width", 4097], ">= 1 and <= 4096, got 4097"),
        (["--lr", 0], "must be a number > 0"),
        (["--uniform-mix", 1.5], "<= 1"),
        (["--crop", 64], "at most the cache's size, 16"),
        (["--crop", 18], "multiple of 4"),
        (["--batch-size", 1], "BatchNorm takes a variance"),
        (["--num-neighbors", 400], "at most the number of bins, 313"),
        (["--steps", "9" * 400], "must be a whole number"),
    ],
)
def test_usage_errors_exit_with_2(typed, message, options, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_train(*options, *typed)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_existing_run_is_refused(options):
    run_train(*options, "--steps", 2)
    with pytest.raises(FileExistsError, match=r"--resume.*--out"):
        run_train(*options, "--steps", 2)


def test_resume_starts_a_run_and_says_when_it_is_finished(options, tmp_path, capsys):
    run_train(*options, "--steps", 2, "--resume")
    written = (tmp_path / "run" / "last.pt").read_bytes()
    capsys.readouterr()
    run_train(*options, "--resume")
    assert "finished already, at step 2" in capsys.readouterr().out
    assert (tmp_path / "run" / "last.pt").read_bytes() == written


def test_resume_with_a_greater_length_goes_on(options, tmp_path, capsys):
    run_train(*options, "--steps", 8)
    whole = read_checkpoint(tmp_path / "run" / "last.pt")
    shutil.rmtree(tmp_path / "run")
    run_train(*options, "--minutes", 0.001)
    assert read_checkpoint(tmp_path / "run" / "last.pt")["step"] < 8
    run_train(*options, "--steps", 8, "--resume")
    longer = read_checkpoint(tmp_path / "run" / "last.pt")
    for name in ("model", "step"):
        torch.testing.assert_close(longer[name], whole[name], rtol=0, atol=0)
    run_train(*options, "--resume")
    assert "finished already, at step 8; a longer" in capsys.readouterr().out


def test_resume_with_another_option_is_refused(options):
    run_train(*options, "--steps", 2)
    with pytest.raises(ValueError, match=r"--lr 0.002, now 0.5"):
        run_train(*options, "--resume", "--lr", 0.5)


def test_resume_of_a_run_that_was_killed_before_it_saved_begins_it(options, tmp_path):
    run_train(*options, "--steps", 2)
    for path in (tmp_path / "run").glob("*.pt"):
        path.unlink()
    run_train(*options, "--resume")
    assert read_checkpoint(tmp_path / "run" / "last.pt")["step"] == 2


def test_a_run_that_failed_before_it_saved_is_begun_anew(options, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "train_step", lambda *_: (torch.tensor(float("nan")),) * 3 + (1,))
    with pytest.raises(ValueError, match="nothing was saved"):
        run_train(*options, "--steps", 4, "--lr", 1000)
    monkeypatch.undo()
    run_train(*options, "--steps", 4)
    assert read_checkpoint(tmp_path / "run" / "last.pt")["step"] == 4


def test_minutes_count_over_resumes(options, tmp_path, stop_in_step):
    stop_in_step(2)
    with pytest.raises(KeyboardInterrupt):
        run_train(*options, "--minutes", 0.05)
    # as if the first part had taken 2.5 of the 3 seconds
    content = read_checkpoint(tmp_path / "run" / "last.pt")
    content["run"]["seconds"] = 2.5
    torch.save(content, tmp_path / "run" / "last.pt")
    stop_in_step(None)
    began = time.monotonic()
    run_train(*options, "--resume")
    state = read_checkpoint(tmp_path / "run" / "last.pt")
    assert state["run"]["seconds"] >= 3
    assert state["run"]["seconds"] - 2.5 <= time.monotonic() - began
    assert state["step"] > 3


def test_moved_run_resumes_where_it_is(options, tmp_path):
    run_train(*options, "--steps", 3)
    (tmp_path / "run").rename(tmp_path / "moved")
    run_train("--out", tmp_path / "moved", "--resume")
    assert not (tmp_path / "run").exists()


# ---- what goes wrong ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA"),
        RuntimeError("CUDA error: out of memory"),
        None,
    ],
)
def test_want_of_memory_says_what_to_try(error, options, monkeypatch):
    def step(run):
        if error:
            raise error
        torch.empty(2**58)  # as torch itself says it on a processor

    monkeypatch.setattr(train, "train_step", step)
    with pytest.raises(ValueError, match=r"out of memory with --batch-size 4; .*--batch-size 2"):
        run_train(*options, "--steps", 8)


def test_other_errors_are_not_taken_for_want_of_memory(options, monkeypatch):
    monkeypatch.setattr(train, "train_step", lambda *_: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        run_train(*options, "--steps", 8)


def test_a_compiler_that_fails_is_one_sentence(options, monkeypatch):
    def step(run):
        raise InternalTorchDynamoError("no compiler\nat all")

    monkeypatch.setattr(train, "train_step", step)
    with pytest.raises(ValueError, match=r"--compile: .*\(no compiler\); leave --compile out"):
        run_train(*options, "--steps", 8)


GONE = RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer")


UNPLUGGED = DistBackendError("NCCL error\nLast error:\nno socket interface")


SHARED = DistBackendError("NCCL error\nLast error:\nDuplicate GPU detected")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (GONE, "runs/x: lost the other processes ([gloo/transport/tcp/pair.cc:534] "),
        (SHARED, "lost the other processes (Duplicate GPU detected); mend that, and continue"),
        (UNPLUGGED, "lost the other processes (no socket interface); mend that, and continue"),
        (DistBackendError("NCCL error\nLast error:\n"), "lost the other processes (NCCL error);"),
        (DistBackendError(""), "lost the other processes (unknown);"),
    ],
)
def test_processes_that_lose_each_other_say_why(error, said):
    assert said in train.find_remedy(error, argparse.Namespace(out=Path("runs/x")))


def test_a_shard_deleted_under_way_stops_nothing(options, cache_folder, tmp_path, monkeypatch):
    caches = tmp_path / "caches"
    shutil.copytree(cache_folder, caches / cache_folder.name)
    step = train.train_step

    def delete_and_step(run):
        (caches / cache_folder.name / "train-00000.h5").unlink(missing_ok=True)
        return step(run)

    monkeypatch.setattr(train, "train_step", delete_and_step)
    run_train(*options, "--cache", caches, "--steps", 8)
    with pytest.raises(FileNotFoundError, match=r"train-00000\.h5: this shard is missing"):
        run_train(*options, "--cache", caches, "--steps", 8, "--resume")


def test_a_second_command_on_a_run_says_so_and_stops(options, tmp_path):
    with (
        locked(tmp_path / "run", 0, 1),
        pytest.raises(BlockingIOError, match="run: another process is writing here"),
    ):
        run_train(*options, "--steps", 3)
