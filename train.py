"""Train a network to color the photographs of a cache.

Three losses, each a cross entropy with soft targets: plain; rebalanced, each pixel weighed by the
rarity of its color in ImageNet (Zhang et al. 2016, eq. 4); normalized, by its rarity in the data
set's own photographs. A run writes to its folder: config.json, log.jsonl, last.pt, best.pt
(the lowest validation loss), curves.png and samples/STEP.png (gray | ours | truth).

examples:
  python train.py --loss rebalanced
  python train.py --dataset celeba --loss plain --minutes 10
  python train.py --dataset celeba --loss plain --minutes 10 --resume
  python train.py --dataset mine --loss plain --init checkpoints/celeba-64.pt --minutes 10
"""

if __name__ == "__main__":
    from common.starting import prepare

    prepare()  # before torch is imported

import time
from argparse import ArgumentParser, Namespace
from copy import deepcopy
from pathlib import Path

import torch
from torch import nn
from torch.distributed import DistError
from tqdm import tqdm

from common.command_line import (
    DEFAULT_CACHE,
    add_cache_options,
    add_device_option,
    make_parser,
    number,
    photo_size,
    run_command,
)
from common.entries import MOST_WIDTH
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
from training.run import Run, check_finite, validate_run, write_config
from training.start import find_run, make_model, resume_options, start_options
from training.step import prepare_steps, train_step

BETAS = (0.9, 0.99)  # of Adam (Zhang et al. 2016)
HELD_SHARE = 0.5  # a split is kept on a GPU if it takes less than this share of its free memory
BAR = "{percentage:3.0f}%|{bar}| {elapsed} < {remaining}{postfix}"  # of time or of steps


# ---- options -----------------------------------------------------------------------------------
def default_crop(size: int) -> int:
    """Return 7/8 of a cache's size, in whole blocks, and no less than --crop may be."""
    return max(16, 7 * size // 8 // BLOCK * BLOCK)


def make_train_parser() -> ArgumentParser:
    """Return the parser of the command line."""
    parser = make_parser(__doc__)
    # fmt: off
    group = parser.add_argument_group("files")
    add_cache_options(group, "the cache made last")
    group.add_argument("--out", type=Path, metavar="DIR", help="folder of the run; default: runs/<name>-<size>-<loss>")
    group.add_argument("--resume", action="store_true", help="continue the run in --out, or start it if there is none")
    group = parser.add_argument_group("model")
    group.add_argument("--init", type=Path, metavar="FILE", help="checkpoint to start from, instead of random weights: a best.pt, one of checkpoints/, or the published weights of Zhang et al.; net and width are the file's")
    group.add_argument("--net", choices=("unet", "zhang"), default="unet", help="network: our U-Net at quarter resolution, or that of Zhang et al.")
    group.add_argument("--width", type=number(int, 1, MOST_WIDTH), default=32, metavar="N", help="channels of the U-Net at quarter resolution")
    group = parser.add_argument_group("optimization")
    group.add_argument("--loss", choices=LOSSES, default="rebalanced", help="weights of the pixels, as described below")
    group.add_argument("--uniform-mix", type=number(float, 0, 1), default=0.5, metavar="LAMBDA", help="share of the uniform distribution in the prior: 1 weighs all colors alike, 0 each by the inverse of its frequency")
    group.add_argument("--num-neighbors", type=number(int, 1), default=5, metavar="K", help="number of bins that share a soft target; 1: hard targets")
    length = group.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=number(float, 0, above=True), metavar="T", help="length of the run in minutes; default: 60")
    length.add_argument("--steps", type=number(int, 1, 2**31), metavar="N", help="length of the run in steps, instead of minutes")
    length.add_argument("--epochs", type=number(float, 0, 1e6, above=True), metavar="N", help="length of the run in epochs, instead of minutes")
    group.add_argument("--batch-size", type=number(int, 1, 2**31), default=32, metavar="N", help="photographs in a step, over all processes")
    group.add_argument("--crop", type=photo_size, metavar="PX", help="side of the random crops; default: 7/8 of --size")
    group.add_argument("--zoom", type=number(float, 0, 1, above=True), default=0.5, metavar="SHARE", help="side of the smallest crops, as a share of the photograph's")
    group.add_argument("--lr", type=number(float, 0, above=True), default=2e-3, help="learning rate after the warm-up")
    group.add_argument("--weight-decay", type=number(float, 0), default=0.0, metavar="X", help="weight decay of Adam")
    group.add_argument("--warmup", type=number(int, 0), default=200, metavar="STEPS", help="steps in which the learning rate rises")
    group.add_argument("--clip", type=number(float, 0, above=True), default=1.0, metavar="NORM", help="largest norm of the gradient")
    group.add_argument("--ema", type=number(float, 0, 1), default=0.998, metavar="DECAY", help="decay of the moving average of the weights; best.pt holds the average")
    group.add_argument("--seed", type=number(int, 0, 2**31), default=0, metavar="N", help="seed of weights, order and crops")
    group = parser.add_argument_group("runtime")
    add_device_option(group)
    group.add_argument("--compile", action="store_true", help="compile the network with torch.compile, for a GPU; takes a minute")
    group.add_argument("--log-every", type=number(int, 1), default=50, metavar="STEPS", help="steps between lines of log.jsonl")
    group.add_argument("--validate-every", type=number(int, 1), default=1000, metavar="STEPS", help="steps between validations")
    group.add_argument("--save-every", type=number(int, 1), default=500, metavar="STEPS", help="steps between writes of last.pt")
    # fmt: on
    return parser


def check_options(parser: ArgumentParser, args: Namespace, world_size: int) -> None:
    """Refuse options that do not fit each other or the cache, as argparse does."""
    batch, Q = args.batch_size, len(load_centers())
    if args.crop > args.size:
        parser.error(f"--crop must be at most the cache's size, {args.size}, got {args.crop}")
    if batch < world_size:
        least = f"at least the number of processes, {world_size}"
        parser.error(f"--batch-size must be {least}, got {batch}; start fewer")
    if batch // world_size == 1 and args.crop <= 32:
        parser.error(
            f"--crop must be above 32 where a process takes one photograph, got {args.crop}: "
            "BatchNorm takes a variance"
        )
    if args.num_neighbors > Q:
        parser.error(
            f"--num-neighbors must be at most the number of bins, {Q}, got {args.num_neighbors}"
        )


def parse_args(ranks: Ranks) -> tuple[Namespace, Cache, bool]:
    """Return the options of the command line, the cache, and whether to resume an existing run.

    Raise FileExistsError if --out holds a run and --resume is not given, ValueError if an option
    or the cache differs from the run's.
    """
    parser = make_train_parser()
    args = parser.parse_args()
    if args.out is None:
        cache = Cache(find_cache(args.cache, args.dataset, args.size))
        args.out = Path("runs") / f"{cache.name}-{cache.size}-{args.loss}"
    if config := find_run(args.out, args.resume):
        args = resume_options(parser, args, config["options"])
    elif args.init:
        args = start_options(parser, args)
    cache = Cache(find_cache(args.cache, args.dataset, args.size))
    if config and config["cache_digest"] != cache.digest:
        raise ValueError(
            f"{args.out}: began with cache {config['cache_digest']}, now {cache.folder} is "
            f"{cache.digest}; make the first cache again, or choose another --out"
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
def make_optimizer(model: nn.Module, args: Namespace) -> torch.optim.Adam:
    """Return Adam for the weights to train."""
    weights = [p for p in model.parameters() if p.requires_grad]
    fused = model.centers.device.type in ("cpu", "cuda")  # one pass over the weights, not ten
    return torch.optim.Adam(weights, args.lr, BETAS, weight_decay=args.weight_decay, fused=fused)


def build_run(args: Namespace, cache: Cache, ranks: Ranks) -> Run:
    """Set up a run at its first step."""
    device = choose_device(args.device, ranks.several)
    train, val, centers = cache.split("train"), cache.split("val"), load_centers()
    torch.manual_seed(args.seed)
    model = make_model(args)
    if ranks.several and device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.to(device, memory_format=torch.channels_last)
    soft_encode = SoftEncoder(centers, args.num_neighbors)
    weights = class_weights(args.loss, train.counts, centers, args.uniform_mix)
    objective = Objective(soft_encode, weights).to(device)
    torch.backends.cudnn.benchmark = True  # all crops have one size
    if device.type == "cuda" and train.nbytes < HELD_SHARE * torch.cuda.mem_get_info()[0]:
        train.hold(device)
    batches = Batches(train, args.batch_size, args.crop, args.zoom, args.seed, ranks)
    average = deepcopy(model).eval().requires_grad_(False)
    optimizer = make_optimizer(model, args)
    shared = ranks.average_gradients(torch.compile(model) if args.compile else model)
    run = Run(args, cache, batches, val, model, average, objective, optimizer, ranks, shared)
    prepare_steps(run)
    return run


def hold_statistics(model: nn.Module) -> None:
    """Keep BatchNorm's running statistics: those of other photographs spoil a start's weights."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


# ---- the loop ----------------------------------------------------------------------------------
def train(run: Run) -> None:
    """Train until the end; after Ctrl-C or SIGTERM save the run and raise KeyboardInterrupt.

    Raise ValueError if the loss is not finite.
    """
    args, ranks, stop = run.args, run.ranks, catch_signals()
    run.model.train()
    if args.init:
        hold_statistics(run.model)
    began = time.monotonic() - run.seconds
    quiet = None if ranks.first else True  # None: quiet where output goes to no terminal
    if args.init and run.step == 0 and ranks.first:
        validate_run(run)  # best.pt is the start itself until a step lowers the loss
    with tqdm(total=1.0, initial=run.progress, bar_format=BAR, disable=quiet) as bar:
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
                check_finite(run)  # on a GPU not at every step: reading the loss waits for it
            run.losses.seconds += time.monotonic() - stepped
            if log:
                bar.set_postfix_str(run.log_losses(rate))
                bar.update(min(1, run.progress) - bar.n)
            if saves or stopped:
                run.losses.average_over_ranks(ranks)
            if ranks.first:  # the other ranks wait in their next step
                if validates:
                    validate_run(run)
                if saves or stopped:
                    run.save()
            if stopped and not done:
                ranks.wait()
                raise KeyboardInterrupt


def find_remedy(error: Exception, args: Namespace) -> str:
    """Return what to do about an error that other options or --resume can mend, else ""."""
    if lacks_memory(error):
        B = args.batch_size
        remedy = (f"--batch-size {B // 2}, or " if B > 1 else "") + "a smaller --crop or --width"
        return f"out of memory with --batch-size {B}; start another --out with {remedy}"
    if isinstance(error, DistError) or "gloo" in str(error):
        reason = (str(error).removesuffix("Last error:\n").strip().splitlines() or ["unknown"])[-1]
        remedy = "mend that, and continue with --resume"
        return f"{args.out}: lost the other processes ({reason}); {remedy}"
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        reason = str(error).splitlines()[0]
        return f"--compile: torch cannot compile here ({reason}); leave --compile out"
    return ""


def start_or_resume(args: Namespace, cache: Cache, ranks: Ranks, resumed: bool) -> None:
    """Start a run or resume an existing one, and train to its end."""
    run = build_run(args, cache, ranks)
    device = describe_device(run.device)
    if ranks.several:
        device = f"{ranks.world_size} processes on {device}"
    if resumed:
        run.restore()
        if run.progress >= 1:
            ranks.say(
                f"{args.out}: finished already, at step {run.step:,}; a longer --minutes, --steps or "
                "--epochs continues it"
            )
            return
        ranks.say(f"{args.out}: going on at step {run.step:,}, {device}")
        if run.swept:
            ranks.say(f"{args.out}: best.pt and last.pt keep what a sweep chose, {run.swept}")
    else:
        photos = f"{len(cache.split('train')):,} photographs of {cache.folder}"
        start = f"from {args.init} " if args.init else ""
        ranks.say(f"{args.out}: starting {start}with {photos}, {device}")
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
    args, cache, resumed = parse_args(ranks)
    keep_freed_memory()
    with (
        process_group(choose_device(args.device, ranks.several), ranks) as ranks,
        locked(args.out, ranks.rank, ranks.world_size),
    ):
        try:
            start_or_resume(args, cache, ranks, resumed)
        except (MemoryError, RuntimeError) as error:
            if remedy := find_remedy(error, args):
                raise ValueError(remedy) from error
            raise


if __name__ == "__main__":
    run_command(main, "a run that had started is saved; continue it with --resume")
