"""The three losses: cross entropy with soft targets, each pixel weighed by its color, or not.

    plain       no weights
    rebalanced  by rarity in ImageNet (Zhang et al. 2016, eq. 4)
    normalized  by rarity in the data set's own photographs

Shapes: B batch, S pixels a side, h and w blocks, Q bins.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from colorizer import Colorizer
from quantize import (
    BLOCK,
    SoftEncoder,
    load_imagenet_prior,
    rebalancing_weights,
    smooth_prior,
    stored_to_lab,
)

LOSSES = ("plain", "rebalanced", "normalized")


def class_weights(loss: str, counts: Tensor, centers: Tensor, uniform_mix: float) -> Tensor:
    """Return the weights of the bins, (Q,) float32, for one of LOSSES.

    The weights are divided by their mean over the training photographs, so that a learning rate
    means the same for all three losses.

    Args:
        counts: (Q,), how often each bin occurs in the training photographs.
        centers: (Q, 2).
        uniform_mix: lambda, see `quantize.rebalancing_weights`.
    """
    if loss == "plain":
        return torch.ones(len(counts))
    prior = load_imagenet_prior() if loss == "rebalanced" else smooth_prior(counts, centers)
    weights = rebalancing_weights(prior, uniform_mix)
    return (weights / (weights @ (counts / counts.sum()))).float()


def color_loss(
    logits: Tensor, neighbors: Tensor, shares: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the mean over pixels of the cross entropy, weighted and not (Zhang et al., eq. 2).

    Reading only the bins that share a color takes half the time of `F.cross_entropy`, which
    takes all Q, and copies logits that have their channels last.

    Args:
        logits: (B, Q, h, w).
        neighbors: (B, h, w, K), bins that share each color, the heaviest first.
        shares: (B, h, w, K), their shares, from `SoftEncoder`.
        weights: (Q,); a pixel has the weight of its heaviest bin.
    """
    log_probs = logits.float().movedim(1, -1).log_softmax(-1)  # (B, h, w, Q)
    cross_entropy = -(shares * log_probs.gather(-1, neighbors)).sum(-1)  # (B, h, w)
    return (weights[neighbors[..., 0]] * cross_entropy).mean(), cross_entropy.mean()


class Objective(nn.Module):
    """The loss of a network on stored photographs, with weights (Q,) from `class_weights`."""

    def __init__(self, soft_encode: SoftEncoder, weights: Tensor):
        super().__init__()
        self.soft_encode = soft_encode
        self.register_buffer("weights", weights)

    def measure(
        self, model: nn.Module, L: Tensor, ab: Tensor
    ) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
        """Run a network on L (B, S, S) and ab (B, 2, S, S), as stored or resampled.

        Where gradients are computed, the network is called by `call_in_training`.

        Returns:
            The loss, weighted and not; logits (B, Q, h, w); true bins (B, h, w).
        """
        L, ab = stored_to_lab(L, ab)
        neighbors, shares = self.soft_encode(F.avg_pool2d(ab, BLOCK))
        logits = call_in_training(model, L) if torch.is_grad_enabled() else model(L)
        return color_loss(logits, neighbors, shares, self.weights), logits, neighbors[..., 0]

    def forward(self, model: nn.Module, L: Tensor, ab: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss, weighted and not, as `measure` does."""
        return self.measure(model, L, ab)[0]


# ---- precision ---------------------------------------------------------------------------------
def has_bfloat16(device: torch.device) -> bool:
    """Tell whether a GPU has bfloat16 (Ampere, 2020, or newer); elsewhere it is slower."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


class CastTogether(torch.autograd.Function):
    """Cast tensors to bfloat16, and their gradients back: a kernel for all, not one for each."""

    @staticmethod
    def forward(_: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors in bfloat16."""
        halves = [torch.empty_like(tensor, dtype=torch.bfloat16) for tensor in tensors]
        torch._foreach_copy_(halves, tensors)
        return tuple(halves)

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients in float32."""
        wholes = [torch.empty_like(gradient, dtype=torch.float32) for gradient in gradients]
        torch._foreach_copy_(wholes, gradients)
        return tuple(wholes)


def call_in_training(model: nn.Module, L: Tensor) -> Tensor:
    """Return a network's logits, computed in bfloat16 where the device has it."""
    if not has_bfloat16(L.device):
        return model(L)
    with torch.autocast(L.device.type, torch.bfloat16):
        if not isinstance(model, Colorizer):  # compiled, or one of several ranks
            return model(L)
        convolutions = {
            f"{name}.{key}": value
            for name, module in model.named_modules()
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d))
            for key, value in module.named_parameters()
            if value.requires_grad
        }
        halves = CastTogether.apply(*convolutions.values())
        return functional_call(model, dict(zip(convolutions, halves, strict=True)), L)
