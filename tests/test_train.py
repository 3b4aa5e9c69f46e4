import argparse
import contextlib
import json
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.exc import InternalTorchDynamoError
from torch.distributed import DistBackendError

import train
from colorizer import load_colorizer, read_checkpoint
from common.files import alone
from dataset import Cache
from quantize import (
    SoftEncoder,
    load_centers,
    load_imagenet_prior,
    rebalancing_weights,
    smooth_prior,
)
from train import make_train_parser
from training import losses
from training.validation import validate

ROOT = Path(__file__).parent.parent
CENTERS = load_centers()
TINY = ["--width", "8", "--batch-size", "4", "--warmup", "2", "--validate-every", "6"]
EVERY = ["--log-every", "4", "--save-every", "3"]


def random_counts(seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 1000, len(CENTERS))).double()


def run_train(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, options)])
    train.main()


@pytest.fixture
def stop_in_step(monkeypatch):
    """Give tests `stop_in_step(step)`: the next run is asked to stop while it takes that step."""
    step, stop = train.train_step, threading.Event()

    def stopping(at):
        def train_step(run, shuffle):
            if run.step == at:
                stop.set()
            return step(run, shuffle)

        stop.clear()
        monkeypatch.setattr(train, "train_step", train_step)

    monkeypatch.setattr(train, "catch_signals", lambda: stop)
    return stopping


@pytest.fixture
def options(cache_folder, tmp_path):
    cache = ["--cache", cache_folder.parent]
    return [*cache, "--out", tmp_path / "run", "--loss", "plain", *TINY, *EVERY]


def log_of(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


def flatten(value, name=""):
    """Yield the leaves of nested dicts and lists with their paths."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in items:
        if isinstance(part, (dict, list, tuple)):
            yield from flatten(part, f"{name}/{key}")
        else:
            yield f"{name}/{key}", part


# ---- loss --------------------------------------------------------------------------------------
@pytest.mark.parametrize("loss", losses.LOSSES)
def test_class_weights_mean_one_over_training_photographs(loss):
    counts = random_counts()
    weights = losses.class_weights(loss, counts, CENTERS, 0.5).double()
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("mix", [0.3, 0.5])
def test_class_weights_follow_their_prior(mix):
    counts = random_counts()
    priors = {"rebalanced": load_imagenet_prior(), "normalized": smooth_prior(counts, CENTERS)}
    for loss, prior in priors.items():
        weights = losses.class_weights(loss, counts, CENTERS, mix).double()
        rare, common = prior.argmin(), prior.argmax()
        expected = ((1 - mix) * prior[common] + mix / 313) / ((1 - mix) * prior[rare] + mix / 313)
        assert weights[rare] / weights[common] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("loss", losses.LOSSES)
@pytest.mark.parametrize("num_neighbors", [1, 5, 10])
def test_color_loss_gradient_follows_its_formula(loss, num_neighbors):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 313, 3, 4, generator=generator, requires_grad=True)
    ab = (torch.rand(2, 2, 3, 4, generator=generator) - 0.5) * 100
    neighbors, shares = SoftEncoder(CENTERS, num_neighbors)(ab)
    weights = losses.class_weights(loss, random_counts(), CENTERS, 0.5)
    value, unweighted = losses.color_loss(logits, neighbors, shares, weights)
    value.backward()

    one_hot = F.one_hot(neighbors, 313)  # (B, h, w, K, Q)
    targets = (shares[..., None] * one_hot).sum(3).movedim(-1, 1)
    bins = neighbors[..., 0]
    expected = weights[bins][:, None] * (logits.detach().softmax(1) - targets) / bins.numel()
    torch.testing.assert_close(logits.grad, expected, atol=1e-7, rtol=1e-4)
    torch.testing.assert_close(unweighted, F.cross_entropy(logits, targets))


def test_losses_have_different_gradients():
    logits = torch.zeros(1, 313, 2, 2, requires_grad=True)
    targets = SoftEncoder(CENTERS)(torch.tensor([[0.5, 60], [60, 0.5]]).expand(1, 2, 2, 2))
    gradients = []
    for loss in losses.LOSSES:
        weights = losses.class_weights(loss, random_counts(), CENTERS, 0.5)
        value, _ = losses.color_loss(logits, *targets, weights)
        gradients.append(torch.autograd.grad(value, logits)[0])
    for i in range(3):
        assert not torch.allclose(gradients[i], gradients[i - 1], rtol=0.01)


def test_color_loss_does_not_depend_on_the_number_of_pixels():
    logits, ab = torch.randn(1, 313, 1, 1), torch.tensor([30.5, -20.5]).view(1, 2, 1, 1)
    weights = rebalancing_weights(load_imagenet_prior()).float()
    encode = SoftEncoder(CENTERS)
    small = losses.color_loss(logits, *encode(ab), weights)
    large = losses.color_loss(logits.expand(2, -1, 5, 5), *encode(ab.expand(2, -1, 5, 5)), weights)
    torch.testing.assert_close(small, large)


# ---- optimization ------------------------------------------------------------------------------
def test_learning_rate_warms_up_and_stays():
    rates = [train.learning_rate(step, 2e-3, 10) for step in range(30)]
    assert rates[:10] == pytest.approx([2e-4 * step for step in range(1, 11)])
    assert rates[10:] == [2e-3] * 20
    assert train.learning_rate(0, 2e-3, 0) == 2e-3


def test_update_average_is_an_exponential_mean_with_warm_up():
    model, average = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    expected = average.weight.item()
    for step in range(50):
        torch.nn.init.constant_(model.weight, step)
        train.update_average(average, model, 0.8, step)
        decay = min(0.8, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert average.weight.item() == pytest.approx(expected, rel=1e-5)


def test_network_overfits_one_batch(cache_folder, tmp_path):
    parser = make_train_parser(train.__doc__)
    typed = ["--loss", "plain", "--num-neighbors", "1", "--width", "16", "--steps", "150"]
    args = parser.parse_args([*typed, "--batch-size", "4", "--crop", "16", "--warmup", "1"])
    run = train.build_run(args, Cache(cache_folder))
    L, ab = run.train.read(np.arange(4))
    first, _ = run.objective(run.model, L, ab)
    run.model.train()
    for _ in range(150):
        loss, _ = run.objective(run.model, L, ab)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
    assert first > 5
    assert loss < 0.5


# ---- runs --------------------------------------------------------------------------------------
def test_run_writes_what_it_promises(options, tmp_path, monkeypatch, capsys):
    run_train(monkeypatch, *options, "--steps", 10)
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


@pytest.mark.parametrize("length", [["--steps", 11], ["--epochs", 1]])
def test_stopped_and_resumed_run_equals_an_uninterrupted_one(
    length, options, tmp_path, stop_in_step, monkeypatch
):
    run_train(monkeypatch, *options, *length)
    whole = tmp_path / "whole"
    (tmp_path / "run").rename(whole)

    stop_in_step(6)
    with pytest.raises(KeyboardInterrupt):
        run_train(monkeypatch, *options, *length)
    assert read_checkpoint(tmp_path / "run" / "last.pt")["step"] == 7
    stop_in_step(None)
    run_train(monkeypatch, *options, *length, "--resume")

    compare_runs(whole, tmp_path / "run")


def test_killed_run_goes_on_from_its_last_save(options, tmp_path, monkeypatch):
    run_train(monkeypatch, *options, "--steps", 8)
    whole = log_of(tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "whole")
    step = train.train_step

    def die_at_fifth(run, shuffle):
        if run.step == 5:
            raise SystemExit  # nothing is saved on the way out, as with SIGKILL
        return step(run, shuffle)

    monkeypatch.setattr(train, "train_step", die_at_fifth)
    with pytest.raises(SystemExit):
        run_train(monkeypatch, *options, "--steps", 8)
    assert log_of(tmp_path / "run")[-1]["step"] == 4  # later than last.pt, of step 3
    monkeypatch.setattr(train, "train_step", step)
    run_train(monkeypatch, "--resume", *options)
    assert log_of(tmp_path / "run") == whole


def run_until_killed(options, seconds):
    """Run the command in a process of its own; kill it after so many seconds from its first log."""
    log = options[options.index("--out") + 1] / "log.jsonl"
    command = [sys.executable, ROOT / "train.py", *map(str, options), "--resume"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        length = log.stat().st_size if log.exists() else 0
        while process.poll() is None and (not log.exists() or log.stat().st_size <= length):
            time.sleep(0.01)
        time.sleep(seconds)
        process.kill()
        return process.communicate()[1].decode()


def kill_and_compare(options, tmp_path, monkeypatch, delays):
    """Kill a run after each delay and resume it; compare its end with an uninterrupted run's."""
    run_train(monkeypatch, *options)
    whole = tmp_path / "whole"
    (tmp_path / "run").rename(whole)
    for delay in delays:
        assert "Traceback" not in run_until_killed(options, delay)
    run_train(monkeypatch, *options, "--resume")
    compare_runs(whole, tmp_path / "run")


def compare_runs(whole, other):
    """Check that two runs ended alike to the bit, apart from the time that they took."""
    for name in ("last.pt", "best.pt"):
        one, two = (dict(flatten(read_checkpoint(folder / name))) for folder in (whole, other))
        assert one.keys() == two.keys()
        for key in one.keys() - {"/run/seconds", "/run/losses/seconds"}:
            same = (
                torch.equal(one[key], two[key])
                if torch.is_tensor(one[key])
                else one[key] == two[key]
            )
            assert same, (name, key)
    assert log_of(whole) == log_of(other)


def test_run_killed_at_random_moments_ends_the_same(options, tmp_path, monkeypatch):
    delays = np.random.default_rng(0).uniform(0, 1, 2)
    kill_and_compare([*options, "--steps", 60], tmp_path, monkeypatch, delays)


@pytest.mark.slow
def test_run_killed_at_20_random_moments_ends_the_same(options, tmp_path, monkeypatch):
    delays = np.random.default_rng(1).uniform(0, 1.5, 20)
    rarely = ["--steps", 600, "--validate-every", 60]  # a validation takes longer than 60 steps
    kill_and_compare([*options, *rarely], tmp_path, monkeypatch, delays)


@pytest.mark.parametrize("damage", [b"", b"half a file", None])
def test_resume_falls_back_to_the_state_before(damage, options, tmp_path, monkeypatch, capsys):
    run_train(monkeypatch, *options, "--steps", 8)
    run = tmp_path / "run"
    shutil.copytree(run, tmp_path / "whole")
    last = (run / "last.pt").read_bytes()
    (run / "last.pt").write_bytes(last[: len(last) // 2] if damage is None else damage)
    run_train(monkeypatch, *options, "--resume")
    output = capsys.readouterr().out
    assert re.search(r"last\.pt: .*damaged.*; going on from .*previous\.pt", output)
    assert "going on at step 6" in output
    compare_runs(tmp_path / "whole", run)


def test_resume_needs_one_state_that_is_whole(options, tmp_path, monkeypatch):
    run_train(monkeypatch, *options, "--steps", 8)
    for name in ("last.pt", "previous.pt"):
        (tmp_path / "run" / name).write_bytes(b"half")
    with pytest.raises(ValueError, match=r"previous\.pt: .*damaged"):
        run_train(monkeypatch, *options, "--resume")


def test_resume_takes_a_state_that_a_kill_left_unnamed(options, tmp_path, monkeypatch):
    run_train(monkeypatch, *options, "--steps", 8)
    run = tmp_path / "run"
    shutil.copytree(run, tmp_path / "whole")
    (run / "last.pt").rename(run / "next.pt")  # killed between the two renames of a save
    (run / "previous.pt").write_bytes(b"half")
    run_train(monkeypatch, *options, "--resume")
    (run / "next.pt").rename(run / "last.pt")
    compare_runs(tmp_path / "whole", run)


def break_moments(content):
    for state in content["run"]["optimizer"]["state"].values():
        state["exp_avg"] = state["exp_avg_sq"] = torch.zeros(3)


@pytest.mark.parametrize(
    "damage",
    [
        break_moments,
        lambda content: content["run"].update(best="low"),
        lambda content: content["run"]["optimizer"].update(state=[]),
        lambda content: content["run"]["losses"].update(weighted=torch.ones(2)),
        lambda content: content.update(format=torch.ones(2)),
        lambda content: content.update(step="seven"),
    ],
)
def test_resume_refuses_what_does_not_fit(damage, options, tmp_path, monkeypatch, capsys):
    run_train(monkeypatch, *options, "--steps", 8)
    last = tmp_path / "run" / "last.pt"
    content = torch.load(last, weights_only=True)
    damage(content)
    torch.save(content, last)
    run_train(monkeypatch, *options, "--resume")
    assert re.search(r"last\.pt: expected.*going on from .*previous\.pt", capsys.readouterr().out)


@pytest.mark.parametrize("text", ["null", "[1]", "{}", '{"options": 3, "cache_digest": "a"}', "x"])
def test_a_damaged_config_is_named_and_nothing_overwritten(text, options, tmp_path, monkeypatch):
    run_train(monkeypatch, *options, "--steps", 3)
    config, last = tmp_path / "run" / "config.json", tmp_path / "run" / "last.pt"
    config.write_text(text)
    written = last.read_bytes()
    for more in ([], ["--resume"]):
        with pytest.raises(ValueError, match=r"config\.json: damaged"):
            run_train(monkeypatch, *options, "--steps", 3, *more)
    config.unlink()
    with pytest.raises(ValueError, match=r"config\.json: missing beside log\.jsonl, last\.pt"):
        run_train(monkeypatch, *options, "--steps", 3)
    assert last.read_bytes() == written


def test_damaged_lines_of_the_log_are_dropped(options, tmp_path, stop_in_step, monkeypatch):
    stop_in_step(6)
    with pytest.raises(KeyboardInterrupt):
        run_train(monkeypatch, *options, "--steps", 8)
    stop_in_step(None)
    log = tmp_path / "run" / "log.jsonl"
    log.write_bytes(log.read_bytes() + b'\0\0\n\xff\n{"a": 3}\n5\n{"step": 8, "lo')
    run_train(monkeypatch, *options, "--resume")
    assert [line["step"] for line in log_of(tmp_path / "run")] == [4, 6, 8, 8]


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("name", ["last.pt", "previous.pt"])
def test_resume_runs_no_code(name, options, tmp_path, monkeypatch):
    run_train(monkeypatch, *options, "--steps", 8)
    run = tmp_path / "run"
    for state in ("last.pt", "previous.pt"):
        (run / state).unlink()
    torch.save({"format": 1, "model": Bomb(tmp_path / "exploded")}, run / name)
    with pytest.raises(ValueError, match=rf"{name}: .*holds code \(it was not run\)"):
        run_train(monkeypatch, *options, "--resume")
    assert not (tmp_path / "exploded").exists()


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
    def step(run, shuffle):
        if error:
            raise error
        torch.empty(2**58)  # as torch itself says it on a processor

    monkeypatch.setattr(train, "train_step", step)
    with pytest.raises(ValueError, match=r"out of memory with --batch-size 4; .*--batch-size 2"):
        run_train(monkeypatch, *options, "--steps", 8)


FAULTS = """
import resource, sys, torch, process
if sys.argv[1] == "keep":
    process.keep_freed_memory()
for _ in range(40):
    torch.ones(2**24)  # each place of the heap is touched once
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc's malloc")
def test_keep_freed_memory_avoids_page_faults():
    faults = {}
    for way in ("keep", "return"):
        command = [sys.executable, "-c", FAULTS, way]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        faults[way] = int(done.stdout)
    assert faults["keep"] < 100 < faults["return"]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_learns_as_an_eager_one(options, tmp_path, monkeypatch):
    values = {}
    for compiled in ([], ["--compile"]):
        folder = tmp_path / f"run{compiled}"
        run_train(monkeypatch, *options, "--out", folder, "--steps", 8, *compiled)
        values[bool(compiled)] = [line["loss"] for line in log_of(folder) if "loss" in line]
    assert values[True] == pytest.approx(values[False], rel=1e-3)
    load_colorizer(folder / "best.pt")


def test_a_compiler_that_fails_is_one_sentence(options, monkeypatch):
    def step(run, shuffle):
        raise InternalTorchDynamoError("no compiler\nat all")

    monkeypatch.setattr(train, "train_step", step)
    with pytest.raises(ValueError, match=r"--compile: .*\(no compiler\); leave --compile out"):
        run_train(monkeypatch, *options, "--steps", 8)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_no_step_waits_for_the_gpu(cache_folder):
    args = make_train_parser(train.__doc__).parse_args(["--crop", "16", "--steps", "10"])
    run = train.build_run(args, Cache(cache_folder))
    shuffle = train.Shuffle(len(run.train), args.batch_size, args.seed)
    assert run.train.held
    for _ in range(3):
        train.train_step(run, shuffle)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            run.losses.add(*train.train_step(run, shuffle)[:3])
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_other_errors_are_not_taken_for_want_of_memory(options, monkeypatch):
    monkeypatch.setattr(train, "train_step", lambda *_: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        run_train(monkeypatch, *options, "--steps", 8)


GONE = RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer")
UNPLUGGED = DistBackendError("NCCL error\nLast error:\nno socket interface")
SHARED = DistBackendError("NCCL error\nLast error:\nDuplicate GPU detected")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (GONE, "runs/x: another process has ended; go on by --resume"),
        (SHARED, "two processes have one GPU; start one a GPU, with torchrun"),
        (UNPLUGGED, "the processes cannot reach each other (no socket interface); mend that"),
        (DistBackendError("NCCL error\nLast error:\n"), "cannot reach each other (NCCL error);"),
        (DistBackendError(""), "cannot reach each other ();"),
    ],
)
def test_processes_that_lose_each_other_say_why(error, said):
    assert said in train.find_remedy(error, argparse.Namespace(out=Path("runs/x")))


def test_a_shard_deleted_under_way_stops_nothing(options, cache_folder, tmp_path, monkeypatch):
    caches = tmp_path / "caches"
    shutil.copytree(cache_folder, caches / cache_folder.name)
    step = train.train_step

    def delete_and_step(run, shuffle):
        (caches / cache_folder.name / "train-00000.h5").unlink(missing_ok=True)
        return step(run, shuffle)

    monkeypatch.setattr(train, "train_step", delete_and_step)
    run_train(monkeypatch, *options, "--cache", caches, "--steps", 8)
    with pytest.raises(FileNotFoundError, match=r"train-00000\.h5: this shard is missing"):
        run_train(monkeypatch, *options, "--cache", caches, "--steps", 8, "--resume")


def test_a_disk_that_fills_loses_nothing(options, tmp_path, mount, monkeypatch):
    disk = mount(9000)
    run_train(monkeypatch, *options, "--steps", 14, "--out", disk / "whole")
    shutil.move(disk / "whole", tmp_path / "whole")
    step, filler = train.train_step, disk / "filler"

    def fill_and_step(run, shuffle):
        if run.step == 10:
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
        return step(run, shuffle)

    monkeypatch.setattr(train, "train_step", fill_and_step)
    with pytest.raises(OSError, match="No space left"):
        run_train(monkeypatch, *options, "--steps", 14, "--out", disk / "run")
    assert read_checkpoint(disk / "run" / "last.pt")["step"] == 9
    assert not list((disk / "run").glob("*.tmp"))
    filler.unlink()
    monkeypatch.setattr(train, "train_step", step)
    run_train(monkeypatch, "--out", disk / "run", "--cache", options[1], "--resume")
    compare_runs(tmp_path / "whole", disk / "run")


def test_a_second_command_on_a_run_says_so_and_stops(options, tmp_path, monkeypatch):
    with (
        alone(tmp_path / "run", 0, 1),
        pytest.raises(BlockingIOError, match="run: another process is writing here"),
    ):
        run_train(monkeypatch, *options, "--steps", 3)


def test_existing_run_is_refused(options, monkeypatch):
    run_train(monkeypatch, *options, "--steps", 2)
    with pytest.raises(FileExistsError, match=r"--resume.*--out"):
        run_train(monkeypatch, *options, "--steps", 2)


def test_resume_starts_a_run_and_says_when_it_is_finished(options, tmp_path, monkeypatch, capsys):
    run_train(monkeypatch, *options, "--steps", 2, "--resume")
    written = (tmp_path / "run" / "last.pt").read_bytes()
    capsys.readouterr()
    run_train(monkeypatch, *options, "--resume")
    assert "finished already, at step 2" in capsys.readouterr().out
    assert (tmp_path / "run" / "last.pt").read_bytes() == written


def test_resume_with_a_greater_length_goes_on(options, tmp_path, monkeypatch, capsys):
    run_train(monkeypatch, *options, "--steps", 8)
    whole = read_checkpoint(tmp_path / "run" / "last.pt")
    shutil.rmtree(tmp_path / "run")
    run_train(monkeypatch, *options, "--minutes", 0.001)
    assert read_checkpoint(tmp_path / "run" / "last.pt")["step"] < 8
    run_train(monkeypatch, *options, "--steps", 8, "--resume")
    longer = read_checkpoint(tmp_path / "run" / "last.pt")
    for name in ("model", "step"):
        torch.testing.assert_close(longer[name], whole[name], rtol=0, atol=0)
    run_train(monkeypatch, *options, "--resume")
    assert "finished already, at step 8; a longer" in capsys.readouterr().out


def test_a_run_that_failed_before_it_saved_is_begun_anew(options, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "train_step", lambda *_: (torch.tensor(float("nan")),) * 3 + (1,))
    with pytest.raises(ValueError, match="nothing was saved"):
        run_train(monkeypatch, *options, "--steps", 4, "--lr", 1000)
    monkeypatch.undo()
    run_train(monkeypatch, *options, "--steps", 4)
    assert read_checkpoint(tmp_path / "run" / "last.pt")["step"] == 4


def test_resume_of_a_run_that_was_killed_before_it_saved_begins_it(options, tmp_path, monkeypatch):
    run_train(monkeypatch, *options, "--steps", 2)
    for path in (tmp_path / "run").glob("*.pt"):
        path.unlink()
    run_train(monkeypatch, *options, "--resume")
    assert read_checkpoint(tmp_path / "run" / "last.pt")["step"] == 2


def test_resume_refuses_a_run_whose_states_are_gone(options, tmp_path, monkeypatch):
    options = [*options, "--save-every", 1]
    run_train(monkeypatch, *options, "--steps", 2)
    for name in ("last.pt", "previous.pt"):
        (tmp_path / "run" / name).unlink(missing_ok=True)
    best = (tmp_path / "run" / "best.pt").read_bytes()
    with pytest.raises(ValueError, match=r"missing beside best\.pt"):
        run_train(monkeypatch, *options, "--resume")
    assert (tmp_path / "run" / "best.pt").read_bytes() == best


def test_resume_with_another_option_is_refused(options, monkeypatch):
    run_train(monkeypatch, *options, "--steps", 2)
    with pytest.raises(ValueError, match=r"--lr 0.002, now 0.5"):
        run_train(monkeypatch, *options, "--resume", "--lr", 0.5)


def test_minutes_count_over_resumes(options, tmp_path, stop_in_step, monkeypatch):
    stop_in_step(2)
    with pytest.raises(KeyboardInterrupt):
        run_train(monkeypatch, *options, "--minutes", 0.05)
    # as if the first part had taken 2.5 of the 3 seconds
    content = read_checkpoint(tmp_path / "run" / "last.pt")
    content["run"]["seconds"] = 2.5
    torch.save(content, tmp_path / "run" / "last.pt")
    stop_in_step(None)
    began = time.monotonic()
    run_train(monkeypatch, *options, "--resume")
    state = read_checkpoint(tmp_path / "run" / "last.pt")
    assert state["run"]["seconds"] >= 3
    assert state["run"]["seconds"] - 2.5 <= time.monotonic() - began
    assert state["step"] > 3


def test_moved_run_resumes_where_it_is(options, tmp_path, monkeypatch):
    run_train(monkeypatch, *options, "--steps", 3)
    (tmp_path / "run").rename(tmp_path / "moved")
    run_train(monkeypatch, "--out", tmp_path / "moved", "--resume")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_loss_or_gradient_that_is_not_finite_stops_the_run(where, options, tmp_path, monkeypatch):
    step = train.train_step

    def burst(run, shuffle):
        loss, unweighted, norm, rate = step(run, shuffle)
        bad = float("nan") if run.step == 4 else 1
        return (
            (loss * bad, unweighted, norm, rate)
            if where == "loss"
            else (loss, unweighted, norm * bad, rate)
        )

    monkeypatch.setattr(train, "train_step", burst)
    with pytest.raises(ValueError, match=r"not finite by step 5.*last.pt.*--lr 0.0005"):
        run_train(monkeypatch, *options, "--steps", 20)
    last = read_checkpoint(tmp_path / "run" / "last.pt")
    assert last["step"] == 3
    assert all(tensor.isfinite().all() for tensor in last["model"].values())


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["--steps", 3, "--epochs", 2], "not allowed with"),
        (["--lr", 0], "must be a number > 0"),
        (["--uniform-mix", 1.5], "<= 1"),
        (["--crop", 64], "at most the cache's size, 16"),
        (["--crop", 18], "multiple of 4"),
        (["--batch-size", 1], "BatchNorm takes a variance"),
        (["--num-neighbors", 400], "at most the number of bins, 313"),
        (["--steps", "9" * 400], "must be a whole number"),
    ],
)
def test_usage_errors_exit_with_2(typed, message, options, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_train(monkeypatch, *options, *typed)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_bfloat16_is_for_gpus_that_have_it(monkeypatch):
    for has in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has, **_: has)
        chosen = losses.autocast(torch.device("cuda"))
        assert isinstance(chosen, torch.autocast) == has
    assert not isinstance(losses.autocast(torch.device("cpu")), torch.autocast)


def test_only_training_is_in_bfloat16(cache_folder, monkeypatch):
    calls = []
    monkeypatch.setattr(losses, "autocast", lambda device: calls.append(device) or nullcontext())
    args = make_train_parser(train.__doc__).parse_args(["--crop", "16", "--batch-size", "4"])
    run = train.build_run(args, Cache(cache_folder))
    validate(run.average, run.objective, run.val, 4, 0.38)
    assert calls == []
    train.train_step(run, train.Shuffle(len(run.train), 4, 0))
    assert calls == [run.device]


def test_objective_sees_the_mean_color_of_blocks(cache_folder):
    seen = []

    def encode(ab):
        seen.append(ab)
        return SoftEncoder(CENTERS)(ab)

    L, ab = Cache(cache_folder).split("val").read(np.arange(2))
    objective = losses.Objective(encode, torch.ones(313))
    objective(lambda L: torch.zeros(len(L), 313, 4, 4), L, ab)
    blocks = ab.numpy().astype(float).reshape(2, 2, 4, 4, 4, 4).mean((3, 5)) + 0.5
    np.testing.assert_allclose(seen[0], blocks, atol=1e-5)
