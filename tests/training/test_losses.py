"""The losses against their formulas, and what they are given."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import train
from common.processes import Ranks
from dataset import Cache
from quantize import (
    load_centers,
    load_imagenet_prior,
    rebalancing_weights,
    smooth_prior,
)
from train import make_train_parser
from training import losses

CENTERS = load_centers()


def random_counts(seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 1000, len(CENTERS))).double()


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
def test_color_loss_gradient_follows_its_formula(loss, num_neighbors, soft_encoder):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 313, 3, 4, generator=generator, requires_grad=True)
    ab = (torch.rand(2, 2, 3, 4, generator=generator) - 0.5) * 100
    neighbors, shares = soft_encoder(CENTERS, num_neighbors)(ab)
    weights = losses.class_weights(loss, random_counts(), CENTERS, 0.5)
    value, unweighted = losses.color_loss(logits, neighbors, shares, weights)
    value.backward()

    one_hot = F.one_hot(neighbors, 313)  # (B, h, w, K, Q)
    targets = (shares[..., None] * one_hot).sum(3).movedim(-1, 1)
    bins = neighbors[..., 0]
    expected = weights[bins][:, None] * (logits.detach().softmax(1) - targets) / bins.numel()
    torch.testing.assert_close(logits.grad, expected, atol=1e-7, rtol=1e-4)
    torch.testing.assert_close(unweighted, F.cross_entropy(logits, targets))


def test_losses_have_different_gradients(soft_encoder):
    logits = torch.zeros(1, 313, 2, 2, requires_grad=True)
    targets = soft_encoder(CENTERS, 5)(torch.tensor([[0.5, 60], [60, 0.5]]).expand(1, 2, 2, 2))
    gradients = []
    for loss in losses.LOSSES:
        weights = losses.class_weights(loss, random_counts(), CENTERS, 0.5)
        value, _ = losses.color_loss(logits, *targets, weights)
        gradients.append(torch.autograd.grad(value, logits)[0])
    for i in range(3):
        assert not torch.allclose(gradients[i], gradients[i - 1], rtol=0.01)


def test_color_loss_does_not_depend_on_the_number_of_pixels(soft_encoder):
    logits, ab = torch.randn(1, 313, 1, 1), torch.tensor([30.5, -20.5]).view(1, 2, 1, 1)
    weights = rebalancing_weights(load_imagenet_prior()).float()
    encode = soft_encoder(CENTERS, 5)
    small = losses.color_loss(logits, *encode(ab), weights)
    large = losses.color_loss(logits.expand(2, -1, 5, 5), *encode(ab.expand(2, -1, 5, 5)), weights)
    torch.testing.assert_close(small, large)


def test_objective_sees_the_mean_color_of_blocks(cache_folder, soft_encoder):
    seen = []

    def encode(ab):
        seen.append(ab)
        return soft_encoder(CENTERS, 5)(ab)

    L, ab = Cache(cache_folder).split("val").read(np.arange(2))
    objective = losses.Objective(encode, torch.ones(313))
    objective(lambda L: torch.zeros(len(L), 313, 4, 4), L, ab)
    blocks = ab.numpy().astype(float).reshape(2, 2, 4, 4, 4, 4).mean((3, 5)) + 0.5
    np.testing.assert_allclose(seen[0], blocks, atol=1e-5)


# ---- precision ---------------------------------------------------------------------------------
def test_bfloat16_is_for_gpus_that_have_it(monkeypatch):
    for has in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has, **_: has)
        assert losses.has_bfloat16(torch.device("cuda")) == has
    assert not losses.has_bfloat16(torch.device("cpu"))


def test_only_training_is_in_bfloat16(cache_folder, monkeypatch):
    monkeypatch.setattr(losses, "has_bfloat16", lambda device: True)
    args = make_train_parser().parse_args(["--crop", "16", "--batch-size", "4", "--width", "8"])
    run = train.build_run(args, Cache(cache_folder), Ranks())
    L, ab = run.val.read(np.arange(2))
    assert run.objective.measure(run.model, L, ab)[1].dtype == torch.bfloat16
    with torch.inference_mode():
        assert run.objective.measure(run.average, L, ab)[1].dtype == torch.float32
