"""Train a network to colour the photographs of a cache.

Three losses, each the cross entropy with soft targets: plain; rebalanced, each pixel weighed by
the rarity of its colour over ImageNet (Zhang et al. 2016, eq. 4); normalized, by its rarity in the
data set's own photographs. A run writes to its folder: config.json, log.jsonl, last.pt, best.pt
(the lowest validation loss) and samples/STEP.png (gray | ours | truth).

examples:
  python train.py --loss rebalanced
  python train.py --dataset celeba --loss plain --minutes 10
  python train.py --dataset celeba --loss plain --minutes 10 --resume
"""

import argparse
import json
import math
import signal
import threading
import time
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from colorizer import Colorizer, read_checkpoint, save_checkpoint
from command_line import (
    add_cache_options,
    add_device_option,
    choose_device,
    make_parser,
    number,
    photo_size,
    run_command,
)
from dataset import Cache, Shuffle, Split, crop_and_mirror, find_cache, write_whole
from inference import predict_ab
from photos import make_grid
from quantize import (
    BLOCK,
    SoftEncoder,
    lab_to_rgb,
    load_centers,
    load_imagenet_prior,
    rebalancing_weights,
    smooth_prior,
    stored_to_lab,
)

LOSSES = ("plain", "rebalanced", "normalized")
TEMPERATURE = 0.38  # to decode with until another is chosen (Zhang et al. 2016)
VALIDATION_PHOTOS = 1024  # at most, evenly spread: a validation takes seconds on any data set
CHANGEABLE = ("run", "cache", "device", "save_every")  # options free to differ on --resume
SAMPLES = 8  # photographs in samples/STEP.png


# ---- loss --------------------------------------------------------------------------------------
def class_weights(loss: str, counts: Tensor, centers: Tensor, uniform_mix: float) -> Tensor:
    """Return the weight of each bin for one of the three losses.

    The weights are divided by their mean over the training photographs, so that a learning rate
    means the same for all three losses.

    Args:
        loss: one of LOSSES.
        counts: (Q,), how often each bin occurs in the training photographs.
        centers: (Q, 2).
        uniform_mix: lambda, see `quantize.rebalancing_weights`.

    Returns:
        (Q,) float32.
    """
    if loss == "plain":
        return torch.ones(len(counts))
    prior = load_imagenet_prior() if loss == "rebalanced" else smooth_prior(counts, centers)
    weights = rebalancing_weights(prior, uniform_mix)
    return (weights / (weights @ (counts / counts.sum()))).float()


def color_loss(
    logits: Tensor, targets: Tensor, bins: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the mean over pixels of the cross entropy, weighted and not (Zhang et al., eq. 2).

    Args:
        logits: (B, Q, h, w).
        targets: (B, Q, h, w) distributions, or (B, h, w) bins for hard targets.
        bins: (B, h, w), the heaviest bin of each target.
        weights: (Q,).
    """
    entropy = F.cross_entropy(logits.float(), targets, reduction="none")  # (B, h, w)
    return (weights[bins] * entropy).mean(), entropy.mean()


class Objective(nn.Module):
    """The loss of a batch of stored photographs: targets, weights and the network's answer."""

    def __init__(self, args: argparse.Namespace, counts: Tensor, centers: Tensor):
        super().__init__()
        self.hard_targets = args.hard_targets
        self.soft_encode = SoftEncoder(centers, args.num_neighbors)
        weights = class_weights(args.loss, counts, centers, args.uniform_mix)
        self.register_buffer("weights", weights)

    def forward(self, model: nn.Module, L: Tensor, ab: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss, weighted and not, of stored L (B, S, S) and ab (B, 2, S, S)."""
        L, ab = stored_to_lab(L, ab)
        targets, bins = self.soft_encode(F.avg_pool2d(ab, BLOCK))
        with autocast(L.device):
            logits = model(L)
        return color_loss(logits, bins if self.hard_targets else targets, bins, self.weights)


def autocast(device: torch.device) -> Any:
    """Compute in bfloat16 on CUDA; on CPUs without its instructions that is far slower."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


# ---- optimization ------------------------------------------------------------------------------
def learning_rate_factor(step: int, progress: float, warmup: int) -> float:
    """Rise linearly over the first steps, and fall as a cosine to 0 at progress 1."""
    return min(1, (step + 1) / max(1, warmup)) * (1 + math.cos(math.pi * min(1, progress))) / 2


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move the weights' exponential moving average (EMA); it forgets the random start quickly."""
    decay = min(decay, (1 + step) / (10 + step))
    values = zip(average.state_dict().values(), model.state_dict().values(), strict=True)
    for mean, value in values:
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


# ---- a run -------------------------------------------------------------------------------------
@dataclass
class Run:
    """What a run is made of, and all that changes while it goes on."""

    args: argparse.Namespace
    cache: Cache
    train: Split
    val: Split
    model: Colorizer
    average: Colorizer
    objective: Objective
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    best: float = math.inf
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0])  # since the last line logged

    @property
    def device(self) -> torch.device:
        """The device of everything."""
        return self.model.centers.device

    @property
    def progress(self) -> float:
        """The share of the run that is done, 1 at its end."""
        args = self.args
        if args.minutes:
            return self.seconds / (60 * args.minutes)
        steps = args.steps or math.ceil(args.epochs * len(self.train) / args.batch_size)
        return self.step / steps

    def about(self) -> dict[str, Any]:
        """Return what a checkpoint says of itself."""
        counts = self.train.counts
        return {
            **self.model.options,
            "dataset": self.cache.name,
            "size": self.cache.size,
            "cache": self.cache.digest,
            "loss": self.args.loss,
            "prior": smooth_prior(counts, self.model.centers.cpu()).float(),
            "temperature": TEMPERATURE,
            "top_k": len(counts),
            "step": self.step,
        }

    def save(self) -> None:
        """Write last.pt, from which the run resumes."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "seconds": self.seconds,
            "best": self.best,
            "sums": self.sums,
        }
        save_checkpoint(
            self.args.run / "last.pt", self.average.state_dict(), **self.about(), run=state
        )

    def restore(self) -> None:
        """Go back to what last.pt holds."""
        checkpoint = read_checkpoint(self.args.run / "last.pt")
        state = checkpoint["run"]
        self.average.load_state_dict(checkpoint["model"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = checkpoint["step"], state["seconds"]
        self.best, self.sums = state["best"], state["sums"]


def build_run(args: argparse.Namespace, cache: Cache) -> Run:
    """Set up a run at its first step."""
    device = choose_device(args.device)
    train, val = cache.split("train"), cache.split("val")
    torch.manual_seed(args.seed)
    model = Colorizer(load_centers(), args.net, args.width).to(
        device, memory_format=torch.channels_last
    )
    average = deepcopy(model).eval().requires_grad_(False)
    objective = Objective(args, train.counts, model.centers.cpu()).to(device)
    optimizer = torch.optim.Adam(
        [p for p in model.parameters() if p.requires_grad],
        lr=args.lr,
        betas=tuple(args.betas),
        weight_decay=args.weight_decay,
        fused=device.type in ("cpu", "cuda"),  # one pass over the weights instead of ten
    )
    return Run(args, cache, train, val, model, average, objective, optimizer)


# ---- validation --------------------------------------------------------------------------------
def chosen(split: Split, number: int) -> np.ndarray:
    """Return the indices of at most `number` photographs, evenly spread over a split."""
    return np.linspace(0, len(split) - 1, min(number, len(split))).round().astype(int)


@torch.inference_mode()
def validate(run: Run) -> tuple[float, float]:
    """Return the averaged weights' loss on whole validation photographs, weighted and not."""
    indices = chosen(run.val, VALIDATION_PHOTOS)
    total = torch.zeros(2, dtype=torch.float64)
    for batch in np.array_split(indices, math.ceil(len(indices) / run.args.batch_size)):
        L, ab = (stored.to(run.device) for stored in run.val.read(batch))
        losses = run.objective(run.average, L, ab)
        total += len(batch) * torch.stack(losses).double().cpu()
    loss, unweighted = (total / len(indices)).tolist()
    return loss, unweighted


@torch.inference_mode()
def write_samples(run: Run) -> None:
    """Write gray, coloured and true validation photographs side by side."""
    L, ab = stored_to_lab(*(part.to(run.device) for part in run.val.read(chosen(run.val, SAMPLES))))
    predicted = predict_ab(run.average, L, TEMPERATURE, len(run.average.centers))
    columns = [
        lab_to_rgb(L, colors).movedim(1, -1).cpu().numpy() for colors in (0 * ab, predicted, ab)
    ]
    folder = run.args.run / "samples"
    folder.mkdir(exist_ok=True)
    grid = make_grid(
        [list(row) for row in zip(*columns, strict=True)], scale=max(1, 128 // L.shape[-1])
    )
    grid.save(folder / f"{run.step:07d}.png")


# ---- training ----------------------------------------------------------------------------------
def train_step(run: Run, shuffle: Shuffle) -> tuple[Tensor, Tensor, float]:
    """Take one step; return the loss, weighted and not, and the learning rate."""
    args = run.args
    L, ab = (stored.to(run.device) for stored in run.train.read(shuffle.batch(run.step)))
    places = np.random.default_rng([args.seed, run.step])
    L, ab = crop_and_mirror(L, ab, args.crop, places)
    rate = args.lr * learning_rate_factor(run.step, run.progress, args.warmup)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    loss, unweighted = run.objective(run.model, L, ab)
    run.optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(run.model.parameters(), args.clip)
    run.optimizer.step()
    update_average(run.average, run.model, args.ema, run.step)
    return loss.detach(), unweighted.detach(), rate


def train(run: Run) -> None:
    """Train until the end, or until asked to stop; then the checkpoint is written first."""
    args, stop = run.args, catch_signals()
    shuffle = Shuffle(len(run.train), args.batch_size, args.seed)
    log = (args.run / "log.jsonl").open("a")
    run.model.train()
    began = time.monotonic() - run.seconds
    logged = time.monotonic()
    bar = tqdm(
        total=1.0,
        initial=run.progress,
        bar_format="{percentage:3.0f}%|{bar}| {elapsed} < {remaining}{postfix}",
        disable=None,
    )
    while run.progress < 1:
        loss, unweighted, rate = train_step(run, shuffle)
        run.step += 1
        run.seconds = time.monotonic() - began
        run.sums = [run.sums[0] + loss, run.sums[1] + unweighted, run.sums[2] + 1]
        done, stopped = run.progress >= 1, stop.is_set()

        def due(every: int, done: bool = done) -> bool:
            return run.step % every == 0 or done

        # -- log
        if due(args.log_every) or due(args.save_every) or stopped:
            check_finite(run)
        if due(args.log_every):
            speed = args.batch_size * run.sums[2] / (time.monotonic() - logged)
            line = {
                "step": run.step,
                "loss": float(run.sums[0]) / run.sums[2],
                "unweighted": float(run.sums[1]) / run.sums[2],
                "lr": rate,
                "images_per_second": round(speed, 1),
            }
            print(json.dumps(line), file=log, flush=True)
            bar.set_postfix_str(f"step {run.step:,}, loss {line['loss']:.4f}, {speed:.0f} images/s")
            bar.update(min(1, run.progress) - bar.n)
            logged, run.sums = time.monotonic(), [0.0, 0.0, 0]

        # -- validate
        if due(args.validate_every):
            value, plain_value = validate(run)
            line = {"step": run.step, "val_loss": value, "val_unweighted": plain_value}
            print(json.dumps(line), file=log, flush=True)
            tqdm.write(
                f"step {run.step:7,}  val loss {value:7.4f}  unweighted {plain_value:7.4f}"
                + ("  best" if value < run.best else "")
            )
            write_samples(run)
            if value < run.best:
                run.best = value
                save_checkpoint(args.run / "best.pt", run.average.state_dict(), **run.about())
            logged = time.monotonic()

        # -- save
        if due(args.save_every) or stopped:
            run.save()
        if stopped and not done:
            raise KeyboardInterrupt
    bar.close()


def check_finite(run: Run) -> None:
    """Stop a run whose loss is no number, before its weights are written over good ones.

    Raises:
        ValueError: with the last good checkpoint and what to try.
    """
    if not math.isfinite(float(run.sums[0])):
        last = run.args.run / "last.pt"
        raise ValueError(
            f"the loss is not finite by step {run.step}; "
            + (f"{last} is from before" if last.exists() else "nothing was saved yet")
            + f"; try --lr {run.args.lr / 4:g}, --clip {run.args.clip / 4:g} or a longer --warmup"
        )


def catch_signals() -> threading.Event:
    """Turn Ctrl-C and SIGTERM into an event, so that a step is never cut in half."""
    stop = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stop.set())
    return stop


# ---- command line ------------------------------------------------------------------------------
def make_train_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = make_parser(__doc__)
    # fmt: off
    group = parser.add_argument_group("files")
    add_cache_options(group, "the cache made last")
    group.add_argument("--run", type=Path, metavar="DIR", help="folder of the run; default: runs/<dataset>-<size>-<loss>")
    group.add_argument("--resume", action="store_true", help="go on with the run, or start it where there is none")
    group = parser.add_argument_group("model")
    group.add_argument("--net", choices=("unet", "zhang"), default="unet", help="ours at quarter resolution, or the paper's")
    group.add_argument("--width", type=number(int, 1), default=32, metavar="N", help="channels of the U-Net")
    group = parser.add_argument_group("optimization")
    group.add_argument("--loss", choices=LOSSES, default="rebalanced", help="how pixels are weighed")
    group.add_argument("--uniform-mix", type=number(float, 0, 1), default=0.5, metavar="LAMBDA", help="1 weighs all colours alike, 0 by 1 / prior")
    group.add_argument("--hard-targets", action="store_true", help="one bin a pixel, instead of a share for each neighbor")
    group.add_argument("--num-neighbors", type=number(int, 1, 313), default=5, metavar="K", help="bins that share a soft target")
    length = group.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=number(float, 0, above=True), metavar="T", help="length of the run; default: 60")
    length.add_argument("--steps", type=number(int, 1), metavar="N", help="length of the run, instead")
    length.add_argument("--epochs", type=number(float, 0, above=True), metavar="N", help="length of the run, instead")
    group.add_argument("--batch-size", type=number(int, 1), default=32, metavar="N", help="photographs a step, over all processes")
    group.add_argument("--crop", type=photo_size, metavar="PX", help="side of the random crops; default: 7/8 of the size")
    group.add_argument("--lr", type=number(float, 0, above=True), default=2e-3, help="highest learning rate")
    group.add_argument("--betas", type=number(float, 0, 1), nargs=2, default=[0.9, 0.99], metavar="BETA", help="of Adam")
    group.add_argument("--weight-decay", type=number(float, 0), default=0.0, metavar="X", help="of Adam")
    group.add_argument("--warmup", type=number(int, 0), default=200, metavar="STEPS", help="steps of rising learning rate")
    group.add_argument("--clip", type=number(float, 0, above=True), default=1.0, metavar="NORM", help="largest norm of the gradient")
    group.add_argument("--ema", type=number(float, 0, 1), default=0.998, metavar="DECAY", help="of the weights' moving average, which is what is kept")
    group.add_argument("--seed", type=number(int, 0), default=0, help="of weights, order, crops")
    group = parser.add_argument_group("runtime")
    add_device_option(group)
    group.add_argument("--log-every", type=number(int, 1), default=50, metavar="STEPS", help="between lines of log.jsonl")
    group.add_argument("--validate-every", type=number(int, 1), default=1000, metavar="STEPS", help="between validations")
    group.add_argument("--save-every", type=number(int, 1), default=500, metavar="STEPS", help="between writes of last.pt")
    # fmt: on
    return parser


def parse_args() -> tuple[argparse.Namespace, Cache, bool]:
    """Read the command line; options that are not typed come from the run to resume, if any.

    Returns:
        The options, the cache that they choose, and whether the run is there already.

    Raises:
        FileExistsError: it is, and --resume was not given.
        ValueError: an option or the cache differs from the run's.
    """
    parser = make_train_parser()
    args = parser.parse_args()
    if args.run is None:
        cache = Cache(find_cache(args.cache, args.dataset, args.size))
        args.run = Path("runs") / f"{cache.name}-{cache.size}-{args.loss}"
    config = args.run / "config.json"
    if config.exists() and not args.resume:
        raise FileExistsError(
            f"{args.run}: a run is there already; go on with it by --resume, or choose another --run"
        )
    there = config.exists()
    saved = json.loads(config.read_text()) if there else {}
    if there:
        parser.set_defaults(**saved["options"])
        args = parser.parse_args()
        for key, value in saved["options"].items():
            if key not in CHANGEABLE and getattr(args, key) != value:
                option = "--" + key.replace("_", "-")
                raise ValueError(
                    f"{args.run}: began with {option} {value}, now {getattr(args, key)}; "
                    f"leave {option} out, or choose another --run"
                )
    cache = Cache(find_cache(args.cache, args.dataset, args.size))
    if there and saved["cache_digest"] != cache.digest:
        raise ValueError(
            f"{args.run}: began with cache {saved['cache_digest']}, now {cache.folder} is "
            f"{cache.digest}; make the cache as it was, or choose another --run"
        )
    if args.dataset is None and not there:
        print(f"{cache.folder}: the cache made last; choose another with --dataset and --size")
    args.dataset, args.size = cache.name, cache.size
    if not (args.minutes or args.steps or args.epochs):
        args.minutes = 60.0
    args.crop = args.crop or max(16, 7 * args.size // 8 // BLOCK * BLOCK)
    if args.crop > args.size:
        parser.error(f"--crop must be at most the cache's size, {args.size}, got {args.crop}")
    return args, cache, there


def write_config(run: Run) -> None:
    """Write config.json: the options as they were resolved, the cache, versions."""
    options = {key: str(v) if isinstance(v, Path) else v for key, v in vars(run.args).items()}
    config = {
        "options": {key: value for key, value in options.items() if key != "resume"},
        "cache_digest": run.cache.digest,
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }
    text = json.dumps(config, indent=2) + "\n"
    write_whole(run.args.run / "config.json", lambda temporary: temporary.write_text(text))


def trim_log(path: Path, step: int) -> None:
    """Drop lines after a step: they are about to be written again."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    write_whole(path, lambda temporary: temporary.write_text("".join(kept)))


def main() -> None:
    """Train."""
    args, cache, there = parse_args()
    run = build_run(args, cache)
    args.run.mkdir(parents=True, exist_ok=True)
    if there and (args.run / "last.pt").exists():
        run.restore()
        if run.progress >= 1:
            print(f"{args.run}: finished already, at step {run.step:,}")
            return
        print(f"{args.run}: going on at step {run.step:,}")
    write_config(run)
    trim_log(args.run / "log.jsonl", run.step)
    train(run)
    print(
        f"{args.run}: finished at step {run.step:,}, best validation loss {run.best:.4f}; "
        f"score it with: python generate.py --checkpoint {args.run / 'best.pt'}"
    )


if __name__ == "__main__":
    run_command(main, "the run is saved; go on with it by --resume")
