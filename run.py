"""A training run: what it is made of, the files of its folder, how it is saved and restored.

config.json  every option as it was resolved, the cache's digest, the device, versions
log.jsonl    a line every --log-every steps, and one for each validation
curves.png   the log, drawn
last.pt      the newest state, from which the run resumes; previous.pt is the one before
best.pt      the averaged weights with the lowest validation loss
"""

import argparse
import json
import math
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from colorizer import Colorizer, read_checkpoint, save_checkpoint
from dataset import Cache, Split
from files import flush, write_json, write_whole
from losses import Objective, class_weights
from quantize import SoftEncoder, load_centers, smooth_prior
from ranks import Ranks, choose_device, describe_device

BETAS = (0.9, 0.99)  # of Adam (Zhang et al. 2016)
TEMPERATURE = 0.38  # to decode with until another is chosen (Zhang et al. 2016)
STATES = ("next", "last", "previous")  # from the newest; next is left by a kill alone
HELD_SHARE = 0.5  # of a GPU's free memory: what a split may take to be held there
ALONE = Ranks()
LENGTH = ("minutes", "steps", "epochs")  # options, one of which a run has
CHANGEABLE = ("cache", "device", "save_every", *LENGTH)  # options free to differ on --resume


@dataclass
class Sums:
    """Sums over the steps since the last line of the log."""

    weighted: Tensor | float = 0.0
    unweighted: Tensor | float = 0.0
    norm: Tensor | float = 0.0  # of the gradient
    seconds: float = 0.0
    steps: int = 0

    def add(self, weighted: Tensor, unweighted: Tensor, norm: Tensor) -> None:
        """Add a step; its tensors stay on their device."""
        self.weighted, self.unweighted = self.weighted + weighted, self.unweighted + unweighted
        self.norm, self.steps = self.norm + norm, self.steps + 1

    def share(self, ranks: Ranks) -> None:
        """Make the sums those of all ranks: a run that is saved may go on with another number."""
        if ranks.world_size > 1 and self.steps:
            self.weighted, self.unweighted = (
                ranks.mean(value).to(value) for value in (self.weighted, self.unweighted)
            )

    def means(self, ranks: Ranks) -> tuple[float, float]:
        """Return the mean loss of a step over all ranks, weighted and not."""
        sums = torch.stack((self.weighted, self.unweighted)).cpu().double()
        weighted, unweighted = (ranks.mean(sums) / self.steps).tolist()
        return weighted, unweighted


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
    ranks: Ranks
    shared: nn.Module  # the model, compiled if asked for, its gradients averaged over the ranks
    step: int = 0
    seconds: float = 0.0
    best: float = math.inf
    losses: Sums = field(default_factory=Sums)

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
            # of the data set, whatever the loss weighs by
            "prior": smooth_prior(counts, self.model.centers.cpu()).float(),
            "temperature": TEMPERATURE,
            "top_k": len(counts),
            "step": self.step,
        }

    def log(self, **line: Any) -> None:
        """Add a line to log.jsonl, once for all ranks."""
        if not self.ranks.first:
            return
        with (self.args.out / "log.jsonl").open("a") as file:
            print(json.dumps({"step": self.step, **line}), file=file)

    def save_best(self) -> None:
        """Write best.pt."""
        save_checkpoint(self.args.out / "best.pt", self.average.state_dict(), **self.about())

    def save(self) -> None:
        """Write last.pt; the one before it becomes previous.pt."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "seconds": self.seconds,
            "best": self.best,
            "losses": vars(self.losses),
        }
        new, last, previous = (self.args.out / f"{name}.pt" for name in STATES)
        flush(self.args.out / "log.jsonl")  # the log is never behind the state
        save_checkpoint(new, self.average.state_dict(), **self.about(), run=state)
        if last.exists():
            last.replace(previous)
        new.replace(last)

    def load(self, path: Path) -> None:
        """Go back to what a checkpoint of this run holds.

        Raises:
            ValueError: it is damaged, or of another kind.
        """
        checkpoint = read_checkpoint(path)
        try:
            state = checkpoint["run"]
            self.average.load_state_dict(checkpoint["model"])
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            check_moments(self.optimizer)
            self.step, self.seconds = int(checkpoint["step"]), float(state["seconds"])
            self.best, self.losses = float(state["best"]), Sums(**state["losses"])
            for value in vars(self.losses).values():
                float(value)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: expected this run's state, found a checkpoint of another kind "
                f"({' '.join(str(error).split())}); choose another --out"
            ) from error

    def restore(self) -> None:
        """Go back to the newest state that is whole, or to the start where nothing was saved yet.

        Raises:
            ValueError: none is whole, or those that there were are gone.
        """
        paths = [self.args.out / f"{name}.pt" for name in STATES]
        paths = [path for path in paths if path.exists()]
        for path, following in zip_longest(paths, paths[1:]):
            try:
                self.load(path)
                break
            except ValueError as error:
                if following is None:
                    raise
                self.ranks.say(f"{error}; going on from {following}, the state before")
        best = self.args.out / "best.pt"
        if not paths and best.exists() and read_checkpoint(best)["step"] > self.args.save_every:
            raise ValueError(
                f"{self.args.out}: last.pt and previous.pt are missing beside best.pt; choose "
                "another --out"
            )
        if self.ranks.first:
            trim_log(self.args.out, self.step)


def build_run(args: argparse.Namespace, cache: Cache, ranks: Ranks = ALONE) -> Run:
    """Set up a run at its first step."""
    device = choose_device(args.device)
    train, val, centers = cache.split("train"), cache.split("val"), load_centers()
    torch.manual_seed(args.seed)
    model = Colorizer(centers, args.net, args.width)
    if ranks.world_size > 1 and device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.to(device, memory_format=torch.channels_last)
    average = deepcopy(model).eval().requires_grad_(False)
    objective = Objective(
        SoftEncoder(centers, args.num_neighbors),
        class_weights(args.loss, train.counts, centers, args.uniform_mix),
    ).to(device)
    torch.backends.cudnn.benchmark = True  # all crops have one size
    if device.type == "cuda" and train.nbytes < HELD_SHARE * torch.cuda.mem_get_info()[0]:
        train.hold(device)
    optimizer = torch.optim.Adam(
        [p for p in model.parameters() if p.requires_grad],
        lr=args.lr,
        betas=BETAS,
        weight_decay=args.weight_decay,
        fused=device.type in ("cpu", "cuda"),  # one pass over the weights instead of ten
    )
    shared = ranks.share(torch.compile(model) if args.compile else model)
    return Run(args, cache, train, val, model, average, objective, optimizer, ranks, shared)


def check_moments(optimizer: torch.optim.Optimizer) -> None:
    """Check what Adam's fused code does not, before it writes there.

    Raises:
        ValueError: a moment has another shape than its weights.
    """
    for weights, state in optimizer.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            if state[name].shape != weights.shape or state[name].dtype != weights.dtype:
                raise ValueError(f"the optimizer's {name} does not fit the network")


def check_finite(run: Run) -> None:
    """Stop a run whose loss is no number, before its weights are written over good ones.

    Raises:
        ValueError: with the last good checkpoint and what to try.
    """
    if not math.isfinite(float(run.losses.weighted + run.losses.norm)):
        last = run.args.out / "last.pt"
        raise ValueError(
            f"the loss or its gradient is not finite by step {run.step}; "
            + (f"{last} or previous.pt is from before" if last.exists() else "nothing was saved")
            + f"; start another --out with --lr {run.args.lr / 4:g}, --clip {run.args.clip / 4:g} "
            "or a longer --warmup"
        )


# ---- files ---------------------------------------------------------------------------------------
def write_config(run: Run) -> None:
    """Write config.json: the options as they were resolved, the cache, the device, versions."""
    options = {key: str(v) if isinstance(v, Path) else v for key, v in vars(run.args).items()}
    config = {
        "options": {key: value for key, value in options.items() if key not in ("out", "resume")},
        "cache_digest": run.cache.digest,
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "device": describe_device(run.device),
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }
    write_json(run.args.out / "config.json", config)


def read_config(folder: Path) -> dict[str, Any] | None:
    """Read a run's config.json; None where there is no run.

    Raises:
        ValueError: it is damaged, or missing beside the rest of a run.
    """
    path = folder / "config.json"
    if not path.exists():
        names = ("log.jsonl", *(f"{state}.pt" for state in STATES))
        if rest := [name for name in names if (folder / name).exists()]:
            raise ValueError(f"{path}: missing beside {', '.join(rest)}; choose another --out")
        return None
    try:
        config = json.loads(path.read_text())
        if not isinstance(config["options"], dict) or not isinstance(config["cache_digest"], str):
            raise ValueError("expected its options and its cache's digest")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: damaged ({error}); choose another --out") from error
    return config


def has_saved(folder: Path) -> bool:
    """Tell whether a run has saved anything."""
    return any((folder / f"{name}.pt").exists() for name in (*STATES, "best"))


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log.jsonl, without those that a kill or the disk has damaged."""
    path, lines = folder / "log.jsonl", []
    for text in path.read_bytes().split(b"\n") if path.exists() else []:
        with suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict) and isinstance(line.get("step"), int):
                lines.append(line)
    return lines


def trim_log(folder: Path, step: int) -> None:
    """Drop lines after a step: they are about to be written again."""
    kept = [json.dumps(line) + "\n" for line in read_log(folder) if line["step"] <= step]
    write_whole(folder / "log.jsonl", lambda temporary: temporary.write_text("".join(kept)))
