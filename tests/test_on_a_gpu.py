"""What a GPU computes, beside what a processor does; run it by `python -m pytest -m cuda`."""

import json
from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from running import call
from runs import log_of, run_train

import generate
import train
from common.processes import Ranks
from common.recording import PREPARATION, Recorder
from dataset import Cache
from quantize import Decoding, decode, load_centers, load_imagenet_prior
from train import make_train_parser
from training import losses
from training.step import take_step, train_step

DEVICE = "cuda"
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


@pytest.fixture
def begin(options, cache_folder):
    """Give tests `begin(*options, device=DEVICE)`: a run at its first step."""

    def begin(*more, device=DEVICE):
        typed = ["--batch-size", "8", "--crop", "16", "--steps", "100", "--device", device]
        args = make_train_parser().parse_args([*typed, *map(str, more)])
        run = train.build_run(args, Cache(cache_folder), Ranks())
        run.model.train()
        return run

    return begin


def take(run, steps):
    """Take steps; return their losses, weighted and not, (steps, 2).

    More than some must be repeated by the GPU.
    """
    figures = []
    for _ in range(steps):
        figures.append([float(value) for value in train_step(run)[:2]])
        run.step += 1
    if steps > PREPARATION and isinstance(run.take_next, Recorder):
        assert run.take_next.replay is not None
    return np.array(figures)


def launched(run):
    """Let Python launch each kernel of a run's steps."""
    run.take_next = partial(take_step, run)
    return run


# ---- the step ----------------------------------------------------------------------------------
def flatten(run):
    """Return all weights, those of the average, and Adam's moments and steps: (M,) each."""
    moments = [run.optimizer.state[p] for p in run.model.parameters() if p.requires_grad]
    parts = {
        "weights": [p.detach() for p in run.model.parameters()],
        "average": list(run.average.parameters()),
        **{key: [state[key] for state in moments] for key in moments[0]},
    }
    return {key: torch.cat([x.flatten().clone() for x in found]) for key, found in parts.items()}


@pytest.mark.parametrize("net", ["unet", "zhang"])
@pytest.mark.parametrize("more", [[], ["--weight-decay", 0.1, "--ema", 0.5]])
def test_a_step_that_a_gpu_repeats_is_the_one_that_python_launches(begin, net, more, monkeypatch):
    monkeypatch.setattr(losses, "has_bfloat16", lambda device: False)
    repeated, once = (begin("--net", net, "--lr", 1e-3, "--warmup", 20, *more) for _ in range(2))
    assert len(np.unique(take(repeated, 10)[:, 0])) == 10  # each step has its own batch
    launched(once).step = repeated.step  # both take the next step from one state
    once.model.load_state_dict(repeated.model.state_dict())
    once.average.load_state_dict(repeated.average.state_dict())
    state = deepcopy(repeated.optimizer.state_dict()["state"])
    once.optimizer.load_state_dict({**once.optimizer.state_dict(), "state": state})
    before = flatten(repeated)
    np.testing.assert_allclose(take(repeated, 1), take(once, 1), rtol=1e-3)
    found, expected = flatten(repeated), flatten(once)
    assert torch.equal(found["step"], torch.full_like(found["step"], 11))
    for name, values in expected.items():
        moved, should = found[name] - before[name], values - before[name]
        assert (moved - should).norm() < 0.02 * should.norm(), name


def test_photographs_that_the_gpu_does_not_hold_are_copied_to_it(begin):
    held, copied = begin(), begin()
    assert held.batches.split.held
    found = take(held, 10)
    copied.batches.split.held = None
    np.testing.assert_allclose(take(copied, 10), found, rtol=0.02)


@pytest.mark.parametrize("loss", losses.LOSSES)
def test_the_loss_falls_as_in_float32_on_a_processor(begin, loss):
    found = take(begin("--loss", loss), 100)
    expected = take(begin("--loss", loss, device="cpu"), 100)
    assert expected[-20:, 0].mean() < expected[:5, 0].mean()
    assert found[-20:, 0].mean() == pytest.approx(expected[-20:, 0].mean(), rel=0.02)


def test_no_step_waits_for_the_gpu(begin):
    run = begin()
    for _ in range(PREPARATION + 1):
        train_step(run)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            run.losses.add(*train_step(run)[:3])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert run.take_next.replay is not None


def test_a_run_on_a_gpu_goes_on_where_it_stopped(options, tmp_path, capsys):
    options = [*options, "--device", DEVICE]
    run_train(*options, "--out", tmp_path / "whole", "--steps", 14)
    run_train(*options, "--out", tmp_path / "parts", "--steps", 8)
    run_train(*options, "--out", tmp_path / "parts", "--steps", 14, "--resume")
    whole, parts = (
        {line["step"]: line["loss"] for line in log_of(tmp_path / name) if "loss" in line}
        for name in ("whole", "parts")
    )
    assert parts[14] == pytest.approx(whole[14], rel=0.02)
    assert "cannot repeat" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_compiled_step_is_repeated_too(begin):
    found, expected = take(begin("--compile"), 12), take(begin(), 12)
    np.testing.assert_allclose(found, expected, rtol=0.05)


# ---- decoding and scores -----------------------------------------------------------------------
@pytest.mark.parametrize("top_k", [1, 10, 313])
def test_a_gpu_decodes_all_rows_at_once_as_a_processor_in_blocks(top_k):
    logits = 5 * torch.randn(3, 313, 40, 40, generator=torch.Generator().manual_seed(0))
    parts, decoding = (logits, load_centers()), Decoding(0.38, top_k, 0.3)
    expected = decode(*parts, decoding, load_imagenet_prior().float())
    parts = (part.to(DEVICE) for part in parts)
    found = decode(*parts, decoding, load_imagenet_prior().float().to(DEVICE))
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(
    ("more", "name"), [([], "metrics.json"), (["--sweep"], "sweep.json")], ids=["scores", "sweep"]
)
def test_scores_of_a_gpu_are_those_of_a_processor(checkpoint, cache_folder, tmp_path, more, name):
    scores = []
    for device in (DEVICE, "cpu"):
        out = tmp_path / device
        where = ["--checkpoint", checkpoint, "--cache", cache_folder.parent, "--out", out]
        assert call(generate.main, *where, "--device", device, *more) == 0
        scores.append(json.loads((out / name).read_text())["scores"])
    rows = [found.values() if isinstance(found, dict) else found for found in scores]
    for found, expected in zip(*rows, strict=True):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            if value is not None:
                assert found[key] == pytest.approx(value, rel=2e-3, abs=2e-3), key
