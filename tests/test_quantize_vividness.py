"""The posterior under another prior: a made-up world of bins, where the true one is known."""

import numpy as np
import pytest
import torch

from quantize import Decoding, change_prior, decode, load_centers, load_imagenet_prior

Q, X = 12, 30  # bins, and what the network may see


@pytest.fixture
def world(rng):
    """How likely each thing seen is for each bin, p(x | q), (X, Q), and a prior, (Q,)."""
    likelihood, prior = rng.dirichlet(np.ones(X), Q).T, rng.dirichlet(0.3 * np.ones(Q)) + 1e-6
    return torch.from_numpy(likelihood), torch.from_numpy(prior / prior.sum())


def posterior(likelihood, prior):
    """Return p(q | x), (X, Q), by Bayes."""
    joint = likelihood * prior
    return joint / joint.sum(-1, keepdim=True)


@pytest.mark.parametrize("vividness", [0, 0.3, 1])
@pytest.mark.parametrize("uniform", [True, False])
def test_change_prior_gives_the_posterior_under_that_prior(vividness, uniform, world, rng):
    likelihood, prior = world
    target = torch.full((Q,), 1 / Q) if uniform else torch.from_numpy(rng.dirichlet(np.ones(Q)))
    between = prior ** (1 - vividness) * target**vividness
    logits = posterior(likelihood, prior).log() + 5  # logits are known up to a constant
    found = change_prior(logits, prior, vividness, None if uniform else target).softmax(-1)
    torch.testing.assert_close(found, posterior(likelihood, between / between.sum()))


def test_vividness_0_changes_no_bit_and_needs_no_prior():
    logits = 1e4 * torch.randn(2, 313, 3, 5, generator=torch.Generator().manual_seed(0))
    centers, prior = load_centers(), load_imagenet_prior()
    assert change_prior(logits, None, 0.0) is logits
    for top_k in (10, 313):
        plain = decode(logits, centers, Decoding(0.38, top_k))
        assert torch.equal(decode(logits, centers, Decoding(0.38, top_k, 0.0), prior), plain)


def test_decode_changes_the_prior_before_it_chooses_the_best_bins():
    centers, prior = torch.tensor([[0.0, 0.0], [50.0, 50.0]]), torch.tensor([0.9, 0.1])
    logits = torch.tensor([0.7, 0.3]).log().view(1, 2, 1, 1)  # under equal priors .7/.9 < .3/.1
    for vividness, color in ((0.0, 0), (1.0, 50)):
        ab = decode(logits, centers, Decoding(0.38, 1, vividness), prior)
        assert ab.flatten().tolist() == [color, color]


def test_decode_is_that_of_changed_logits():
    logits = torch.randn(1, 313, 30, 41, generator=torch.Generator().manual_seed(0))
    centers, prior = load_centers(), load_imagenet_prior().float()
    changed = change_prior(logits.movedim(1, -1), prior, 0.6).movedim(-1, 1)
    expected = decode(changed, centers, Decoding(0.38, 313))
    torch.testing.assert_close(decode(logits, centers, Decoding(0.38, 313, 0.6), prior), expected)


@pytest.mark.parametrize("vividness", [-0.1, 1.1, float("nan")])
def test_a_vividness_out_of_range_is_refused(vividness):
    with pytest.raises(ValueError, match=f"vividness must lie between 0 and 1, got {vividness}"):
        Decoding(0.38, 313, vividness)


def test_without_a_prior_only_vividness_0_decodes():
    with pytest.raises(ValueError, match="needs the training prior, and there is none"):
        decode(torch.zeros(1, 313, 1, 1), load_centers(), Decoding(0.38, 313, 0.1))
