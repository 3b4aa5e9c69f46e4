"""The step: its rate, its average, and that a recorded one computes what the function does."""

import numpy as np
import pytest
import torch
from tape import TapeRecorder

import train
from common.processes import Ranks
from common.recording import PREPARATION
from dataset import Cache
from train import make_train_parser
from training import losses, step


def test_learning_rate_warms_up_and_stays():
    rates = [step.learning_rate(number, 2e-3, 10) for number in range(30)]
    assert rates[:10] == pytest.approx([2e-4 * number for number in range(1, 11)])
    assert rates[10:] == [2e-3] * 20
    assert step.learning_rate(0, 2e-3, 0) == 2e-3


@pytest.mark.parametrize("kind", [float, torch.tensor])
def test_update_average_is_an_exponential_mean_with_warm_up(kind):
    model, average = torch.nn.BatchNorm1d(1), torch.nn.BatchNorm1d(1)
    expected = average.weight.item()
    for number in range(50):
        torch.nn.init.constant_(model.weight, number)
        model.num_batches_tracked += 1
        step.update_average(average, model, kind(step.average_decay(number, 0.8)))
        decay = min(0.8, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * number
    assert average.weight.item() == pytest.approx(expected, rel=1e-5)
    assert average.num_batches_tracked == 50


# ---- recorded ----------------------------------------------------------------------------------
@pytest.fixture
def begin(options, cache_folder):
    """Set up a run; its rates are numbers that float32 has, too."""
    typed = ["--lr", str(2**-9), "--warmup", "4", "--batch-size", "4", "--crop", "16"]

    def begin(*more):
        args = make_train_parser().parse_args(["--steps", "20", *typed, *more])
        run = train.build_run(args, Cache(cache_folder), Ranks())
        run.model.train()
        return run

    return begin


def take(run, steps):
    """Take steps; return the loss, weighted and not, and the gradient's norm of each."""
    figures = []
    for _ in range(steps):
        figures.append([float(value) for value in step.train_step(run)[:3]])
        run.step += 1
    return figures


@pytest.mark.parametrize(
    ("more", "steps"),
    [([], 10), (["--loss", "plain", "--net", "zhang"], 5), (["--clip", "0.01"], 5)],
)
def test_a_recorded_step_computes_what_the_function_does(begin, more, steps):
    plain, recorded = begin(*more), begin(*more)
    recorded.take_next = TapeRecorder(recorded.take_next)
    assert take(recorded, steps) == take(plain, steps)
    assert len({tuple(row) for row in take(recorded, 2)}) == 2  # each step has its own batch
    take(plain, 2)
    states = plain.model.state_dict(), recorded.model.state_dict()
    for name, values in states[0].items():
        assert torch.equal(states[1][name], values), name
    torch.testing.assert_close(recorded.average.state_dict(), plain.average.state_dict())
    moments = plain.optimizer.state_dict()["state"], recorded.optimizer.state_dict()["state"]
    torch.testing.assert_close(*moments, rtol=0, atol=0)
    assert recorded.take_next.calls == steps + 2
    assert len(recorded.take_next.tape.operations) > 100  # it was played, not called


def test_a_recorded_step_reads_its_batch_in_the_same_places(begin):
    run = begin()
    run.take_next = TapeRecorder(run.take_next)
    take(run, PREPARATION + 1)
    places = [place.data_ptr() for place in run.take_next.places]
    shapes = [tuple(place.shape) for place in run.take_next.places]
    assert shapes == [(4, 16, 16), (4, 2, 16, 16), (4, 2, 3), (4, 2), (), ()]
    L, ab, warps, tones, rate, decay = run.take_next.places
    for _ in range(3):
        batch = run.batches.read(run.step, run.device)
        take(run, 1)
        assert [place.data_ptr() for place in run.take_next.places] == places
        for place, values in zip((L, ab, warps, tones), batch, strict=True):
            assert torch.equal(place, values)
        assert rate == step.learning_rate(run.step - 1, 2**-9, 4)
        assert decay == pytest.approx(run.step / (9 + run.step))


def test_a_run_goes_on_recorded_where_it_stopped(begin, tmp_path):
    whole, first, second = begin(), begin(), begin()
    for run in (whole, first, second):
        run.args.out = tmp_path
        run.take_next = TapeRecorder(run.take_next)
    take(whole, 12)
    take(first, 6)
    first.save()
    second.load(tmp_path / "last.pt")
    take(second, 6)
    torch.testing.assert_close(second.model.state_dict(), whole.model.state_dict())


def test_one_process_without_a_gpu_takes_its_steps_one_by_one(begin):
    assert not isinstance(begin().take_next, TapeRecorder.__base__)


# ---- casts -------------------------------------------------------------------------------------
@pytest.mark.parametrize("net", ["unet", "zhang"])
def test_weights_cast_together_give_the_bits_of_autocast(begin, net, monkeypatch):
    run = begin("--net", net, "--width", "8", "--batch-size", "1", "--crop", "48")
    L = 100 * torch.rand(1, 1, 48, 48, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(losses, "has_bfloat16", lambda device: True)
    model, found = run.model, []
    for call in (
        losses.call_in_training,
        lambda model, L: losses.call_in_training(torch.nn.Sequential(model), L),
    ):
        run.optimizer.zero_grad()
        logits = call(model, L)
        logits.float().square().mean().backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
        found.append((logits, gradients))
    assert found[0][0].dtype == torch.bfloat16
    torch.testing.assert_close(*found, rtol=0, atol=0)


def count(run):
    """Return how many operations of each name a step has."""
    recorder = TapeRecorder(run.take_next)
    recorder.calls = PREPARATION
    recorder(*run.batches.read(run.step, run.device), 1e-3, 0.9)
    names = [operation._schema.name for operation, *_ in recorder.tape.operations]
    return {name: names.count(name) for name in sorted(set(names))}


def test_weights_are_cast_once_for_all(begin, monkeypatch):
    run = begin("--width", "8")
    take(run, 1)
    plain = count(run)
    monkeypatch.setattr(losses, "has_bfloat16", lambda device: True)
    cast = count(run)
    assert plain["aten::convolution"] == cast["aten::convolution"] == 17
    assert cast["aten::_foreach_copy_"] == plain["aten::_foreach_copy_"] + 2
    assert cast["aten::_to_copy"] - plain["aten::_to_copy"] <= 4  # L, the logits, and back
    assert np.sum(list(cast.values())) - np.sum(list(plain.values())) < 100
