"""The files of a run: what is saved, and how a run goes on from it, whatever happened."""

import contextlib
import json
import os
import re
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from mutation import reason_of
from running import Forks, exit_status
from runs import compare_runs, log_of, run_train, tiny_options

import train
from colorizer import read_checkpoint
from common.processes import Ranks
from quantize import Decoding
from scoring.sweep import save_decoding
from training.run import StepSums, read_log, trim_log
from training.start import find_run


# ---- stopped and killed ------------------------------------------------------------------------
@pytest.mark.parametrize("length", [["--steps", 11], ["--epochs", 1]])
def test_stopped_and_resumed_run_equals_an_uninterrupted_one(
    length, options, tmp_path, stop_in_step
):
    run_train(*options, *length)
    whole = tmp_path / "whole"
    (tmp_path / "run").rename(whole)

    stop_in_step(6)
    with pytest.raises(KeyboardInterrupt):
        run_train(*options, *length)
    assert read_checkpoint(tmp_path / "run" / "last.pt")["step"] == 7
    stop_in_step(None)
    run_train(*options, *length, "--resume")

    compare_runs(whole, tmp_path / "run")


def test_killed_run_goes_on_from_its_last_save(options, tmp_path, monkeypatch):
    run_train(*options, "--steps", 8)
    whole = log_of(tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "whole")
    step = train.train_step

    def die_at_fifth(run):
        if run.step == 5:
            raise SystemExit  # nothing is saved on the way out, as with SIGKILL
        return step(run)

    monkeypatch.setattr(train, "train_step", die_at_fifth)
    with pytest.raises(SystemExit):
        run_train(*options, "--steps", 8)
    assert log_of(tmp_path / "run")[-1]["step"] == 4  # later than last.pt, of step 3
    monkeypatch.setattr(train, "train_step", step)
    run_train("--resume", *options)
    assert log_of(tmp_path / "run") == whole


UNDRAWN = """
import train
import training.run
from common.command_line import run_command

training.run.plot_curves = lambda path, *_: path.touch()  # it takes as long as all else
command = lambda: run_command(train.main)
"""


def run_until_killed(forks, options, seconds):
    """Run the command in a process of its own; kill it so many seconds after its first log."""
    log = options[options.index("--out") + 1] / "log.jsonl"
    length = log.stat().st_size if log.exists() else 0
    forks.start(*options, "--resume")
    while forks.runs() and (not log.exists() or log.stat().st_size <= length):
        time.sleep(0.01)
    time.sleep(seconds)
    if forks.runs():
        os.kill(forks.pid, signal.SIGKILL)
    return forks.end()


def kill_and_compare(options, tmp_path, delays):
    """Kill a run after each delay and resume it; compare its end with an uninterrupted run's."""
    run_train(*options)
    whole = tmp_path / "whole"
    (tmp_path / "run").rename(whole)
    said = tmp_path / "said.txt"
    with Forks(UNDRAWN, said) as forks:
        for delay in delays:
            assert run_until_killed(forks, options, delay) in (0, -signal.SIGKILL)
            assert "Traceback" not in said.read_text()
    run_train(*options, "--resume")
    compare_runs(whole, tmp_path / "run")


@pytest.mark.slow
def test_run_killed_at_6_random_moments_ends_the_same(options, tmp_path):
    delays = np.random.default_rng(1).uniform(0, 1.5, 6)
    rarely = ["--steps", 300, "--validate-every", 60]  # a validation takes longer than 60 steps
    kill_and_compare([*options, *rarely], tmp_path, delays)


def test_a_disk_that_fills_loses_nothing(options, tmp_path, mount, monkeypatch):
    disk = mount(9000)
    run_train(*options, "--steps", 14, "--out", disk / "whole")
    shutil.move(disk / "whole", tmp_path / "whole")
    step, filler = train.train_step, disk / "filler"

    def fill_and_step(run):
        if run.step == 10:
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
        return step(run)

    monkeypatch.setattr(train, "train_step", fill_and_step)
    with pytest.raises(OSError, match="No space left"):
        run_train(*options, "--steps", 14, "--out", disk / "run")
    assert read_checkpoint(disk / "run" / "last.pt")["step"] == 9
    assert not list((disk / "run").glob("*.tmp"))
    filler.unlink()
    monkeypatch.setattr(train, "train_step", step)
    run_train("--out", disk / "run", "--cache", options[1], "--resume")
    compare_runs(tmp_path / "whole", disk / "run")


# ---- swept ---------------------------------------------------------------------------------------
SWEPT = Decoding(0.2, 10, 0.4)


def decoding_of(path):
    contents = read_checkpoint(path)
    return Decoding(*(contents[name] for name in ("temperature", "top_k", "vividness")))


def test_a_resumed_run_keeps_the_decoding_of_a_sweep(options, tmp_path, capsys, stop_in_step):
    run, whole = tmp_path / "run", tmp_path / "whole"
    run_train(*options, "--steps", 12)
    run.rename(whole)
    stop_in_step(5)
    with pytest.raises(KeyboardInterrupt):
        run_train(*options, "--steps", 12)
    stop_in_step(None)
    save_decoding(run / "best.pt", SWEPT)
    capsys.readouterr()
    run_train(*options, "--resume")
    told = f"run: best.pt and last.pt keep what a sweep chose, {SWEPT}\n"
    assert told in capsys.readouterr().out
    assert log_of(run) == log_of(whole)  # validations decode as in the paper
    assert read_checkpoint(run / "best.pt")["step"] == read_checkpoint(whole / "best.pt")["step"]
    for name in ("best.pt", "last.pt"):
        assert decoding_of(run / name) == SWEPT
        assert decoding_of(whole / name) == Decoding(0.38, 313)
        save_decoding(run / name, Decoding(0.38, 313))
    compare_runs(whole, run)
    run_train(*options, "--steps", 14, "--resume")  # a sweep that goes back to the paper's
    assert decoding_of(run / "last.pt") == Decoding(0.38, 313)
    assert "a sweep chose" not in capsys.readouterr().out


def test_a_run_keeps_the_decoding_of_a_sweep_that_was_made_meanwhile(
    options, tmp_path, monkeypatch
):
    step, run = train.train_step, tmp_path / "run"

    def sweep_and_step(run):
        if run.step == 7:
            save_decoding(run.args.out / "best.pt", SWEPT)
            run.best = 1e6  # the next validation is better
        return step(run)

    monkeypatch.setattr(train, "train_step", sweep_and_step)
    run_train(*options, "--steps", 12)
    assert read_checkpoint(run / "best.pt")["step"] == 12
    assert decoding_of(run / "best.pt") == decoding_of(run / "last.pt") == SWEPT


@pytest.mark.parametrize("damage", [None, b"", b"half"])
def test_a_best_that_cannot_be_read_is_replaced(damage, options, tmp_path):
    best = tmp_path / "run" / "best.pt"
    run_train(*options, "--steps", 6)
    best.unlink() if damage is None else best.write_bytes(damage)
    run_train(*options, "--steps", 12, "--resume")
    assert decoding_of(best) == Decoding(0.38, 313)


# ---- damaged states ----------------------------------------------------------------------------
@pytest.fixture(scope="module")
def finished(cache_folder, tmp_path_factory):
    """Train for eight steps, once."""
    out = tmp_path_factory.mktemp("finished") / "run"
    run_train(*tiny_options(cache_folder, out), "--steps", 8)
    return out


@pytest.fixture
def run(finished, tmp_path):
    """Return a copy of a run of eight steps; it is where `options` has it."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.mark.parametrize("damage", [b"", b"half a file", None])
def test_resume_falls_back_to_the_state_before(damage, run, options, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "whole")
    last = (run / "last.pt").read_bytes()
    (run / "last.pt").write_bytes(last[: len(last) // 2] if damage is None else damage)
    run_train(*options, "--resume")
    output = capsys.readouterr().out
    assert re.search(r"last\.pt: .*damaged.*; going on from .*previous\.pt", output)
    assert "going on at step 6" in output
    compare_runs(tmp_path / "whole", run)


def test_resume_needs_one_state_that_is_whole(run, options):
    for name in ("last.pt", "previous.pt"):
        (run / name).write_bytes(b"half")
    with pytest.raises(ValueError, match=r"previous\.pt: .*damaged"):
        run_train(*options, "--resume")


def test_resume_takes_a_state_that_a_kill_left_unnamed(run, options, tmp_path):
    shutil.copytree(run, tmp_path / "whole")
    (run / "last.pt").rename(run / "next.pt")  # killed between the two renames of a save
    (run / "previous.pt").write_bytes(b"half")
    run_train(*options, "--resume")
    (run / "next.pt").rename(run / "last.pt")
    compare_runs(tmp_path / "whole", run)


def break_moments(content):
    for state in content["run"]["optimizer"]["state"].values():
        state["exp_avg"] = state["exp_avg_sq"] = torch.zeros(3)


def put(value, *names):
    """Return what puts a value into the state: into the last number of a tensor."""

    def damage(content):
        place = content["run"]
        for name in names[:-1]:
            place = place[name]
        if isinstance(place[names[-1]], torch.Tensor) and not isinstance(value, torch.Tensor):
            tensor = place[names[-1]]
            tensor[(-1,) * tensor.ndim] = value
        else:
            place[names[-1]] = value

    return damage


def move_palette(content):
    for model in (content["model"], content["run"]["model"]):
        model["centers"] = model["centers"] + 1


NAN, MOMENTS = float("nan"), ("optimizer", "state", 0)


@pytest.mark.parametrize(
    "damage",
    [
        break_moments,
        lambda content: content["run"].update(best="low"),
        lambda content: content["run"]["optimizer"].update(state=[]),
        lambda content: content["run"]["losses"].update(weighted=torch.ones(2)),
        lambda content: content.update(format=torch.ones(2)),
        lambda content: content.update(step="seven"),
        lambda content: content["run"]["optimizer"]["state"].popitem(),
        lambda content: content["run"]["losses"].update(steps=1.5),
        lambda content: content["run"]["losses"].update(norm="1"),
        put(NAN, "model", "net.head.weight"),
        put(NAN, *MOMENTS, "exp_avg"),
        put(-1.0, *MOMENTS, "exp_avg_sq"),
        put(0.0, *MOMENTS, "step"),
        put(torch.ones(2), *MOMENTS, "step"),
        put(torch.ones(3), *MOMENTS),
        put(torch.ones(3), "optimizer"),
        put(10**400, "best"),
        put(NAN, "best"),
        put(float("inf"), "seconds"),
        move_palette,
    ],
)
def test_resume_refuses_what_does_not_fit(damage, run, options, tmp_path, capsys):
    last = run / "last.pt"
    content = torch.load(last, weights_only=True)
    damage(content)
    torch.save(content, last)
    run_train(*options, "--resume")
    assert re.search(r"last\.pt: .*expected.*going on from .*previous\.pt", capsys.readouterr().out)


def test_what_a_state_says_of_the_options_of_adam_counts_for_nothing(run, options, tmp_path):
    shutil.copytree(run, tmp_path / "whole")
    content = torch.load(run / "last.pt", weights_only=True)
    content["run"]["optimizer"]["param_groups"] = [{"betas": (2, 2), "maximize": True, "eps": NAN}]
    first = content["run"]["optimizer"]["state"][0]["exp_avg"]
    first[:] = 0.5
    torch.save(content, tmp_path / "whole" / "last.pt")
    content["run"]["optimizer"]["state"][0]["exp_avg"] = torch.tensor(0.5).expand(first.shape)
    torch.save(content, run / "last.pt")
    run_train(*options, "--steps", 10, "--resume")
    run_train("--out", tmp_path / "whole", *options[:2], "--steps", 10, "--resume")
    compare_runs(run, tmp_path / "whole")
    assert read_checkpoint(run / "last.pt")["run"]["optimizer"]["param_groups"][0]["eps"] == 1e-8


@pytest.mark.parametrize("option", ["--resume", "--init"])
def test_a_lie_is_one_sentence_and_a_failure(option, run, options, tmp_path, capsys):
    content = torch.load(run / "last.pt", weights_only=True)
    for name in ("last.pt", "previous.pt"):
        torch.save({**content, "size": 20_000}, run / name)
    path = run / ("previous.pt" if option == "--resume" else "last.pt")
    typed = [*options, "--resume"] if option == "--resume" else ["--init", path, *options[:2]]
    capsys.readouterr()
    assert (
        exit_status(train.main, *typed, *(["--out", tmp_path / "new"] * (option == "--init"))) == 1
    )
    error = capsys.readouterr().err.removesuffix("\n")
    reason_of(error, f"train.py: error: {path}: its size is 20000, expected a multiple of 4")


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("name", ["last.pt", "previous.pt"])
def test_resume_runs_no_code(name, run, options, tmp_path):
    for state in ("last.pt", "previous.pt"):
        (run / state).unlink()
    torch.save({"format": 1, "model": Bomb(tmp_path / "exploded")}, run / name)
    with pytest.raises(ValueError, match=rf"{name}: .*holds code \(which was not run\)"):
        run_train(*options, "--resume")
    assert not (tmp_path / "exploded").exists()


def test_resume_refuses_a_run_whose_states_are_gone(options, tmp_path):
    options = [*options, "--save-every", 1]
    run_train(*options, "--steps", 2)
    for name in ("last.pt", "previous.pt"):
        (tmp_path / "run" / name).unlink(missing_ok=True)
    best = (tmp_path / "run" / "best.pt").read_bytes()
    with pytest.raises(ValueError, match=r"missing beside best\.pt"):
        run_train(*options, "--resume")
    assert (tmp_path / "run" / "best.pt").read_bytes() == best


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_loss_or_gradient_that_is_not_finite_stops_the_run(where, options, tmp_path, monkeypatch):
    step = train.train_step

    def burst(run):
        loss, unweighted, norm, rate = step(run)
        bad = float("nan") if run.step == 4 else 1
        return (
            (loss * bad, unweighted, norm, rate)
            if where == "loss"
            else (loss, unweighted, norm * bad, rate)
        )

    monkeypatch.setattr(train, "train_step", burst)
    with pytest.raises(ValueError, match=r"not finite by step 5.*last.pt.*--lr 0.0005"):
        run_train(*options, "--steps", 20)
    last = read_checkpoint(tmp_path / "run" / "last.pt")
    assert last["step"] == 3
    assert all(tensor.isfinite().all() for tensor in last["model"].values())


# ---- config and log ----------------------------------------------------------------------------
@pytest.mark.parametrize("text", ["null", "[1]", "{}", '{"options": 3, "cache_digest": "a"}', "x"])
def test_a_damaged_config_is_named_and_nothing_overwritten(text, run, options):
    config, last = run / "config.json", run / "last.pt"
    config.write_text(text)
    written = last.read_bytes()
    for more in ([], ["--resume"]):
        with pytest.raises(ValueError, match=r"config\.json: damaged"):
            run_train(*options, "--steps", 3, *more)
    config.unlink()
    with pytest.raises(ValueError, match=r"config\.json: missing beside log\.jsonl, last\.pt"):
        run_train(*options, "--steps", 3)
    assert last.read_bytes() == written


def test_damaged_lines_of_the_log_are_dropped(options, tmp_path, stop_in_step):
    stop_in_step(6)
    with pytest.raises(KeyboardInterrupt):
        run_train(*options, "--steps", 8)
    stop_in_step(None)
    log = tmp_path / "run" / "log.jsonl"
    log.write_bytes(log.read_bytes() + b'\0\0\n\xff\n{"a": 3}\n5\n{"step": 8, "lo')
    run_train(*options, "--resume")
    assert [line["step"] for line in log_of(tmp_path / "run")] == [4, 6, 8, 8]


def test_read_log_takes_whole_lines_with_a_step_alone(tmp_path):
    assert read_log(tmp_path) == []
    text = b'{"step": 1, "loss": 5}\nnull\n{"step": "2"}\n\xff\n{"step": 3}\n{"step": 4'
    (tmp_path / "log.jsonl").write_bytes(text)
    assert read_log(tmp_path) == [{"step": 1, "loss": 5}, {"step": 3}]
    trim_log(tmp_path, 2)
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 1, "loss": 5}\n'


@pytest.mark.parametrize("name", ["next.pt", "last.pt", "previous.pt", "best.pt"])
def test_find_run_knows_every_state(name, tmp_path):
    config = {"options": {}, "cache_digest": "x"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert find_run(tmp_path, resume=False) is None  # it failed before it had saved anything
    assert find_run(tmp_path, resume=True) == config
    (tmp_path / name).touch()
    with pytest.raises(FileExistsError, match="--resume"):
        find_run(tmp_path, resume=False)


def test_sums_are_means_of_steps():
    sums = StepSums()
    for loss in (1.0, 2.0, 6.0):
        sums.add(torch.tensor(loss), torch.tensor(2 * loss), torch.tensor(0.0))
    assert sums.means(Ranks()) == [3, 6]
