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
from copy import deepcopy
from itertools import chain, compress
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed import DistError
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm import tqdm

from colorizer import Colorizer
from common.command_line import (
    DEFAULT_CACHE,
    add_cache_options,
    add_device_option,
    make_parser,
    number,
    photo_size,
    run_command,
)
from common.files import locked
from common.processes import (
    Ranks,
    catch_signals,
    choose_device,
    describe_device,
    keep_freed_memory,
    lacks_memory,
    process_group,
)
from dataset import Batches, Cache
from quantize import BLOCK, SoftEncoder, load_centers
from shards.plan import find_cache
from training.losses import LOSSES, Objective, class_weights
from training.run import (
    Run,
    Sums,
    check_finite,
    find_begun,
    resume_options,
    validate_run,
    write_config,
)

BETAS = (0.9, 0.99)  # of Adam (Zhang et al. 2016)
HELD_SHARE = 0.5  # of a GPU's free memory: what a split may take to be held there
BAR = "{percentage:3.0f}%|{bar}| {elapsed} < {remaining}{postfix}"  # of time or of steps


# ---- options -----------------------------------------------------------------------------------
def default_crop(size: int) -> int:
    """Return 7/8 of a cache's size, in whole blocks, and no less than --crop may be."""
    return max(16, 7 * size // 8 // BLOCK * BLOCK)


def make_train_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = make_parser(__doc__)
    # fmt: off
    group = parser.add_argument_group("files")
    add_cache_options(group, "the cache made last")
    group.add_argument("--out", type=Path, metavar="DIR", help="folder of the run; default: runs/<name>-<size>-<loss>")
    group.add_argument("--resume", action="store_true", help="go on with the run, or start it where there is none")
    group = parser.add_argument_group("model")
    group.add_argument("--net", choices=("unet", "zhang"), default="unet", help="ours at quarter resolution, or the paper's")
    group.add_argument("--width", type=number(int, 1), default=32, metavar="N", help="channels of the U-Net")
    group = parser.add_argument_group("optimization")
    group.add_argument("--loss", choices=LOSSES, default="rebalanced", help="how pixels are weighed")
    group.add_argument("--uniform-mix", type=number(float, 0, 1), default=0.5, metavar="LAMBDA", help="1 weighs all colours alike, 0 by 1 / prior")
    group.add_argument("--num-neighbors", type=number(int, 1), default=5, metavar="K", help="bins that share a soft target; 1: hard targets")
    length = group.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=number(float, 0, above=True), metavar="T", help="length of the run; default: 60")
    length.add_argument("--steps", type=number(int, 1, 2**31), metavar="N", help="length of the run, instead")
    length.add_argument("--epochs", type=number(float, 0, 1e6, above=True), metavar="N", help="length of the run, instead")
    group.add_argument("--batch-size", type=number(int, 1, 2**31), default=32, metavar="N", help="photographs a step, over all processes")
    group.add_argument("--crop", type=photo_size, metavar="PX", help="side of the random crops; default: 7/8 of the size")
    group.add_argument("--zoom", type=number(float, 0, 1, above=True), default=0.5, metavar="SHARE", help="least share of a photograph's side that a crop shows, before it is stretched")
    group.add_argument("--lr", type=number(float, 0, above=True), default=2e-3, help="learning rate after the warm-up")
    group.add_argument("--weight-decay", type=number(float, 0), default=0.0, metavar="X", help="of Adam")
    group.add_argument("--warmup", type=number(int, 0), default=200, metavar="STEPS", help="steps of rising learning rate")
    group.add_argument("--clip", type=number(float, 0, above=True), default=1.0, metavar="NORM", help="largest norm of the gradient")
    group.add_argument("--ema", type=number(float, 0, 1), default=0.998, metavar="DECAY", help="of the weights' moving average, which is what is kept")
    group.add_argument("--seed", type=number(int, 0, 2**31), default=0, metavar="N", help="of weights, order, crops")
    group = parser.add_argument_group("runtime")
    add_device_option(group)
    group.add_argument("--compile", action="store_true", help="compile the network by torch.compile, in a minute: for a GPU")
    group.add_argument("--log-every", type=number(int, 1), default=50, metavar="STEPS", help="between lines of log.jsonl")
    group.add_argument("--validate-every", type=number(int, 1), default=1000, metavar="STEPS", help="between validations")
    group.add_argument("--save-every", type=number(int, 1), default=500, metavar="STEPS", help="between writes of last.pt")
    # fmt: on
    return parser


def check_options(
    parser: argparse.ArgumentParser, args: argparse.Namespace, world_size: int
) -> None:
    """Refuse options that do not fit each other or the cache, as argparse does."""
    if args.crop > args.size:
        parser.error(f"--crop must be at most the cache's size, {args.size}, got {args.crop}")
    if args.batch_size < world_size:
        parser.error(
            f"--batch-size must be at least the number of processes, {world_size}, got "
            f"{args.batch_size}; start fewer"
        )
    if args.batch_size // world_size == 1 and args.crop <= 32:
        parser.error(
            f"--batch-size {args.batch_size} on {world_size} processes needs a --crop above 32, "
            f"got {args.crop}: BatchNorm takes a variance"
        )
    if args.num_neighbors > (Q := len(load_centers())):
        parser.error(f"--num-neighbors must be at most the number of bins, {Q}")


def parse_args(ranks: Ranks) -> tuple[argparse.Namespace, Cache, bool]:
    """Read the command line, and find the cache and the run that it chooses.

    Returns:
        The options, the cache, and whether the run has begun before.

    Raises:
        FileExistsError: it has saved something, and --resume was not given.
        ValueError: an option or the cache differs from the run's.
    """
    parser = make_train_parser()
    args = parser.parse_args()
    if args.out is None:
        cache = Cache(find_cache(args.cache, args.dataset, args.size))
        args.out = Path("runs") / f"{cache.name}-{cache.size}-{args.loss}"
    config = find_begun(args.out, args.resume)
    if config:
        args = resume_options(parser, args, config["options"])
    cache = Cache(find_cache(args.cache, args.dataset, args.size))
    if config and config["cache_digest"] != cache.digest:
        raise ValueError(
            f"{args.out}: began with cache {config['cache_digest']}, now {cache.folder} is "
            f"{cache.digest}; make the cache as it was, or choose another --out"
        )
    if args.dataset is None:
        ranks.say(f"{cache.folder}: the cache made last; choose another with --dataset and --size")
    args.dataset, args.size = cache.name, cache.size
    if not (args.minutes or args.steps or args.epochs):
        args.minutes = 60.0
    args.crop = args.crop or default_crop(args.size)
    check_options(parser, args, ranks.world_size)
    return args, cache, config is not None


# ---- a run at its first step -------------------------------------------------------------------
def make_optimizer(model: nn.Module, args: argparse.Namespace) -> torch.optim.Adam:
    """Return Adam for the weights that are trained."""
    return torch.optim.Adam(
        [p for p in model.parameters() if p.requires_grad],
        lr=args.lr,
        betas=BETAS,
        weight_decay=args.weight_decay,
        fused=model.centers.device.type in ("cpu", "cuda"),  # one pass over the weights, not ten
    )


def build_run(args: argparse.Namespace, cache: Cache, ranks: Ranks) -> Run:
    """Set up a run at its first step."""
    device = choose_device(args.device, ranks.several)
    train, val, centers = cache.split("train"), cache.split("val"), load_centers()
    torch.manual_seed(args.seed)
    model = Colorizer(centers, args.net, args.width)
    if ranks.several and device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.to(device, memory_format=torch.channels_last)
    objective = Objective(
        SoftEncoder(centers, args.num_neighbors),
        class_weights(args.loss, train.counts, centers, args.uniform_mix),
    ).to(device)
    torch.backends.cudnn.benchmark = True  # all crops have one size
    if device.type == "cuda" and train.nbytes < HELD_SHARE * torch.cuda.mem_get_info()[0]:
        train.hold(device)
    return Run(
        args,
        cache,
        Batches(train, args.batch_size, args.crop, args.zoom, args.seed, ranks),
        val,
        model,
        deepcopy(model).eval().requires_grad_(False),
        objective,
        make_optimizer(model, args),
        ranks,
        ranks.share(torch.compile(model) if args.compile else model),
    )


# ---- the step ----------------------------------------------------------------------------------
def learning_rate(step: int, highest: float, warmup: int) -> float:
    """Warm up linearly, then stay constant: the moving average of the weights replaces a decay."""
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


def train_step(run: Run) -> tuple[Tensor, Tensor, Tensor, float]:
    """Take one step; return the loss, weighted and not, the gradient's norm, and the rate.

    Each rank takes its part of the batch; the mean over ranks of its losses, and of its gradients,
    is that of the whole batch, whatever their number.
    """
    args = run.args
    L, ab = run.batches.read(run.step, run.device)
    rate = learning_rate(run.step, args.lr, args.warmup)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    losses = run.objective(run.shared, L, ab)
    loss, unweighted = (run.ranks.loss_scale(args.batch_size) * value for value in losses)
    run.optimizer.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(run.model.parameters(), args.clip)
    run.optimizer.step()
    update_average(run.average, run.model, args.ema, run.step)
    return loss.detach(), unweighted.detach(), norm, rate


# ---- the loop ----------------------------------------------------------------------------------
def train(run: Run) -> None:
    """Train until the end, or until asked to stop; then the run is saved first.

    Raises:
        KeyboardInterrupt: it was asked to stop.
        ValueError: the loss is not finite.
    """
    args, ranks, stop = run.args, run.ranks, catch_signals()
    run.model.train()
    began = time.monotonic() - run.seconds
    quiet = None if ranks.first else True  # None: where it is no terminal
    bar = tqdm(total=1.0, initial=run.progress, bar_format=BAR, disable=quiet)
    with bar:
        while run.progress < 1:
            stepped = time.monotonic()
            loss, unweighted, norm, rate = train_step(run)
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
        reason = (str(error).removesuffix("Last error:\n").strip().splitlines() or ["unknown"])[-1]
        return f"{args.out}: the processes lost each other ({reason}); go on by --resume"
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        reason = str(error).splitlines()[0]
        return f"--compile: torch cannot compile here ({reason}); leave --compile out"
    return ""


def start_or_resume(args: argparse.Namespace, cache: Cache, ranks: Ranks, begun: bool) -> None:
    """Begin a run, or go on with the one that has begun, to its end."""
    run = build_run(args, cache, ranks)
    device = describe_device(run.device)
    device = f"{ranks.world_size} processes on {device}" if ranks.several else device
    if begun:
        run.restore()
        if run.progress >= 1:
            ranks.say(
                f"{args.out}: finished already, at step {run.step:,}; "
                "a longer --minutes, --steps or --epochs goes on"
            )
            return
        ranks.say(f"{args.out}: going on at step {run.step:,}, {device}")
    else:
        photos = f"{len(cache.split('train')):,} photographs of {cache.folder}"
        ranks.say(f"{args.out}: begins with {photos}, {device}")
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
    ranks = Ranks.find()
    args, cache, begun = parse_args(ranks)
    keep_freed_memory()
    with (
        process_group(choose_device(args.device, ranks.several), ranks) as ranks,
        locked(args.out, ranks.rank, ranks.world_size),
    ):
        try:
            start_or_resume(args, cache, ranks, begun)
        except (MemoryError, RuntimeError) as error:
            remedy = find_remedy(error, args)
            if not remedy:
                raise
            raise ValueError(remedy) from error


if __name__ == "__main__":
    run_command(main, "a run that had begun is saved; go on with it by --resume")
