"""The training step: loss, gradient, Adam and the moving average of the weights.

On one GPU a step is recorded (see `common.recording`): between its kernels Python does nothing.
"""

from functools import partial
from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from common.recording import Recorder
from training.run import Run


def learning_rate(step: int, highest: float, warmup: int) -> float:
    """Warm up linearly, then stay constant: the moving average of the weights replaces a decay."""
    return highest * min(1, (step + 1) / max(1, warmup))


def average_decay(step: int, highest: float) -> float:
    """Return the decay of the moving average: it forgets the random start quickly."""
    return min(highest, (1 + step) / (10 + step))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float | Tensor) -> None:
    """Move the weights' exponential moving average (EMA); other entries are copied."""
    pairs = zip(*(chain(m.parameters(), m.buffers()) for m in (average, model)), strict=True)
    pairs = list(pairs)
    means, values = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
    if isinstance(decay, Tensor):  # _foreach_lerp_ takes none
        moves = torch._foreach_sub(values, means)
        torch._foreach_mul_(moves, 1 - decay)
        torch._foreach_add_(means, moves)
    else:
        get_ema_multi_avg_fn(decay)(means, values, None)
    counts = [pair for pair in pairs if not pair[0].is_floating_point()]  # of BatchNorm
    if counts:
        torch._foreach_copy_(*zip(*counts, strict=True))


def take_step(
    run: Run,
    L: Tensor,
    ab: Tensor,
    warps: Tensor,
    tones: Tensor,
    rate: float | Tensor,
    decay: float | Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Take a step on a batch from `Batches.read`; return the loss, weighted and not, and the norm.

    The norm is that of the gradient. Everything is on the run's device, and no kernel depends on a
    number but those of the arguments.
    """
    L, ab = run.batches.cut(L, ab, warps, tones)
    loss, unweighted = run.objective(run.shared, L, ab)
    if run.ranks.several:
        scale = run.ranks.loss_scale(run.args.batch_size)
        loss, unweighted = scale * loss, scale * unweighted
    run.optimizer.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(run.model.parameters(), run.args.clip)
    for group in run.optimizer.param_groups:
        group["lr"], group["capturable"] = rate, isinstance(rate, Tensor)
    run.optimizer.step()
    update_average(run.average, run.model, decay)
    return loss.detach(), unweighted.detach(), norm


def prepare_steps(run: Run) -> None:
    """Let a GPU repeat the run's steps; several ranks, and other devices, take them one by one."""
    run.take_next = partial(take_step, run)
    if run.device.type == "cuda" and not run.ranks.several:
        run.take_next = Recorder(run.take_next)


def train_step(run: Run) -> tuple[Tensor, Tensor, Tensor, float]:
    """Take the next step; return the loss, weighted and not, the gradient's norm, and the rate.

    Each rank takes its part of the batch. The mean of losses and gradients over the ranks is that
    of the whole batch, for any number of ranks. The next step may overwrite what this one returns.
    """
    args = run.args
    rate = learning_rate(run.step, args.lr, args.warmup)
    batch = run.batches.read(run.step, run.device)
    return *run.take_next(*batch, rate, average_decay(run.step, args.ema)), rate
