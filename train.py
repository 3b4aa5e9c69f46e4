"""Train a network to colour the photographs of a cache.

Three losses, each the cross entropy with soft targets: plain; rebalanced, each pixel weighed by
the rarity of its colour over ImageNet (Zhang et al. 2016, eq. 4); normalized, by its rarity in the
data set's own photographs. A run writes to its folder: config.json, log.jsonl, last.pt, best.pt
(the lowest validation loss), curves.png and samples/STEP.png (gray | ours | truth).

examples:
  python train.py --loss rebalanced
  python train.py --dataset celeba --loss plain --minutes 10
  python train.py --dataset celeba --loss plain --minutes 10 --resume
"""

import argparse
import time
from itertools import chain, compress

import numpy as np
from torch import Tensor, nn
from torch.distributed import DistError
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm import tqdm

from command_line import DEFAULT_CACHE, run_command
from dataset import Cache, Shuffle, change_tones, draw_tones, draw_warps, warp
from files import alone, write_whole
from plots import plot_curves
from process import catch_signals, keep_freed_memory, lacks_memory
from ranks import Ranks, choose_device, describe_device, joined
from run import TEMPERATURE, Run, Sums, build_run, check_finite, read_log, write_config
from train_options import parse_args
from validation import describe_validation, draw_samples, validate, warn_of_collapse

PEER_GONE = ("closed by peer", "reset by peer", "remote process exited", "Broken pipe")
BAR = "{percentage:3.0f}%|{bar}| {elapsed} < {remaining}{postfix}"  # of time or of steps


# ---- optimization ------------------------------------------------------------------------------
def learning_rate(step: int, highest: float, warmup: int) -> float:
    """Rise linearly over the first steps, then stay; the weights' average stands in for a fall."""
    return highest * min(1, (step + 1) / max(1, warmup))


def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move the weights' exponential moving average (EMA); it forgets the random start quickly."""
    means, values = (list(chain(m.parameters(), m.buffers())) for m in (average, model))
    floats = [mean.is_floating_point() for mean in means]
    move = get_ema_multi_avg_fn(min(decay, (1 + step) / (10 + step)))
    move(list(compress(means, floats)), list(compress(values, floats)), None)
    for mean, value, is_float in zip(means, values, floats, strict=True):
        if not is_float:
            mean.copy_(value)  # BatchNorm's count


# ---- validation --------------------------------------------------------------------------------
def validate_run(run: Run) -> None:
    """Validate, log and print it, draw samples and curves, keep the weights if they are best."""
    args, average = run.args, run.average
    B = max(1, args.batch_size // run.ranks.world_size)  # what fits this rank's memory
    measured = validate(average, run.objective, run.val, B, TEMPERATURE)
    best = measured["val_loss"] < run.best
    run.log(**measured)
    tqdm.write(describe_validation(run.step, measured, best))
    if warning := warn_of_collapse(measured):
        tqdm.write(warning)
    (args.out / "samples").mkdir(exist_ok=True)
    drawn = draw_samples(average, run.val, TEMPERATURE)
    sample, lines = args.out / "samples" / f"{run.step:07d}.png", read_log(args.out)
    write_whole(sample, lambda path: drawn.save(path, "PNG"))
    write_whole(args.out / "curves.png", lambda path: plot_curves(path, str(args.out), lines))
    if best:
        run.best = measured["val_loss"]
        run.save_best()


# ---- training ----------------------------------------------------------------------------------
def train_step(run: Run, shuffle: Shuffle) -> tuple[Tensor, Tensor, Tensor, float]:
    """Take one step; return the loss, weighted and not, the gradient's norm, and the rate.

    Each rank takes its part of the batch; the mean over ranks of its losses, and of its gradients,
    is that of the whole batch, whatever their number.
    """
    args, ranks = run.args, run.ranks
    generator = np.random.default_rng([args.seed, run.step])
    warps = ranks.part(draw_warps(args.batch_size, args.zoom, generator))
    tones = ranks.part(draw_tones(args.batch_size, generator))
    indices = ranks.part(shuffle.batch(run.step))
    L, ab = run.train.read(indices, run.device)
    L, ab = warp(L, ab, args.crop, warps)
    L = change_tones(L, tones)
    rate = learning_rate(run.step, args.lr, args.warmup)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    losses = run.objective(run.shared, L, ab)
    loss, unweighted = (ranks.weight(args.batch_size) * value for value in losses)
    run.optimizer.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(run.model.parameters(), args.clip)
    run.optimizer.step()
    update_average(run.average, run.model, args.ema, run.step)
    return loss.detach(), unweighted.detach(), norm, rate


def train(run: Run) -> None:
    """Train until the end, or until asked to stop; then the run is saved first.

    Raises:
        KeyboardInterrupt: it was asked to stop.
        ValueError: the loss is not finite.
    """
    args, ranks, stop = run.args, run.ranks, catch_signals()
    shuffle = Shuffle(len(run.train), args.batch_size, args.seed)
    run.model.train()
    began = time.monotonic() - run.seconds
    quiet = None if ranks.first else True  # None: where it is no terminal
    bar = tqdm(total=1.0, initial=run.progress, bar_format=BAR, disable=quiet)
    with bar:
        while run.progress < 1:
            stepped = time.monotonic()
            loss, unweighted, norm, rate = train_step(run, shuffle)
            run.losses.add(loss, unweighted, norm)
            run.step += 1
            run.seconds, stopped = ranks.agree(time.monotonic() - began, stop.is_set())
            done = run.progress >= 1
            log, validates, saves = (
                run.step % every == 0 or done
                for every in (args.log_every, args.validate_every, args.save_every)
            )
            if log or saves or stopped or run.device.type == "cpu":
                check_finite(run)  # elsewhere not at every step: to look at the loss is to wait
            run.losses.seconds += time.monotonic() - stepped
            if log:
                value, unweighted = run.losses.means(ranks)
                speed = args.batch_size * run.losses.steps / run.losses.seconds
                run.log(
                    loss=value, unweighted=unweighted, lr=rate, images_per_second=round(speed, 1)
                )
                bar.set_postfix_str(f"step {run.step:,}, loss {value:.4f}, {speed:.0f} images/s")
                bar.update(min(1, run.progress) - bar.n)
                run.losses = Sums()
            if saves or stopped:
                run.losses.share(ranks)
            if ranks.first:  # the others wait for it in the next step
                if validates:
                    validate_run(run)
                if saves or stopped:
                    run.save()
            if stopped and not done:
                ranks.wait()
                raise KeyboardInterrupt


def find_remedy(error: Exception, args: argparse.Namespace) -> str:
    """Return a sentence on an error that options can mend, "" on any other."""
    if lacks_memory(error):
        smaller = f"--batch-size {args.batch_size // 2}, or " if args.batch_size > 1 else ""
        return (
            f"out of memory with --batch-size {args.batch_size}; start another --out with "
            f"{smaller}a smaller --crop or --width"
        )
    if isinstance(error, DistError) or "gloo" in str(error):
        if any(words in str(error) for words in PEER_GONE):
            return f"{args.out}: another process has ended; go on by --resume"
        if "Duplicate GPU" in str(error):
            return "two processes have one GPU; start one a GPU, with torchrun"
        reason = str(error).removesuffix("Last error:\n").strip().rpartition("\n")[2]
        return f"the processes cannot reach each other ({reason}); mend that, and go on by --resume"
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        reason = str(error).splitlines()[0]
        return f"--compile: torch cannot compile here ({reason}); leave --compile out"
    return ""


# ---- a run from beginning to end -----------------------------------------------------------------
def go(args: argparse.Namespace, cache: Cache, ranks: Ranks, there: bool) -> None:
    """Begin a run, or go on with the one that is there, to its end."""
    run = build_run(args, cache, ranks)
    several = f"{ranks.world_size} processes on " if ranks.world_size > 1 else ""
    where = f"{several}{describe_device(run.device)}"
    if there:
        run.restore()
        if run.progress >= 1:
            ranks.say(
                f"{args.out}: finished already, at step {run.step:,}; "
                "a longer --minutes, --steps or --epochs goes on"
            )
            return
        ranks.say(f"{args.out}: going on at step {run.step:,}, {where}")
    else:
        ranks.say(
            f"{args.out}: begins with {len(run.train):,} photographs of {cache.folder}, {where}"
        )
        if ranks.first:
            (args.out / "log.jsonl").unlink(missing_ok=True)
    if ranks.first:
        write_config(run)
    train(run)
    ranks.say(
        f"{args.out}: finished at step {run.step:,}, best validation loss {run.best:.4f}; "
        f"score it with: python generate.py --checkpoint {args.out / 'best.pt'}"
        + (f" --cache {args.cache}" if args.cache != DEFAULT_CACHE else "")
    )


def main() -> None:
    """Train, alone or as one of the processes that torchrun started."""
    args, cache, there = parse_args(__doc__)
    keep_freed_memory()
    with (
        joined(choose_device(args.device)) as ranks,
        alone(args.out, ranks.rank, ranks.world_size),
    ):
        try:
            go(args, cache, ranks, there)
        except (MemoryError, RuntimeError) as error:
            remedy = find_remedy(error, args)
            if not remedy:
                raise
            raise ValueError(remedy) from error


if __name__ == "__main__":
    run_command(main, "a run that had begun is saved; go on with it by --resume")
