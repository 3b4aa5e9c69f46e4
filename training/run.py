"""A training run: its parts, the files in its folder, saving and resuming.

config.json  every option with its resolved value, digests of the cache and of the file that --init
             names, the device, versions
log.jsonl    a line every --log-every steps, and one for each validation
curves.png   plots of the log
last.pt      the newest state, from which the run resumes; previous.pt is the state before it
best.pt      the averaged weights with the lowest validation loss
"""

import json
import math
import sys
from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from colorizer import Colorizer, read_checkpoint, save_checkpoint
from common.entries import check_tensors, shorten
from common.files import flush, write_json, write_whole
from common.plots import draw, plot_curves
from common.processes import Ranks, describe_device
from dataset import Batches, Cache, Split
from quantize import TEMPERATURE, Decoding, smooth_prior
from training.losses import Objective
from training.validation import describe_validation, draw_samples, validate, warn_of_collapse

MISFITS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
GPU_BATCH = 64  # photographs validated at a time: a recorded step keeps its memory meanwhile
STATES = ("next.pt", "last.pt", "previous.pt")  # the newest first; only a kill leaves next.pt


@dataclass
class StepSums:
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

    def average_over_ranks(self, ranks: Ranks) -> None:
        """Average the losses over all ranks: the saved run may resume on fewer or more of them."""
        if ranks.several and self.steps:
            self.weighted = ranks.mean(self.weighted).to(self.weighted)
            self.unweighted = ranks.mean(self.unweighted).to(self.unweighted)

    def means(self, ranks: Ranks) -> list[float]:
        """Return the mean loss of a step over all ranks, weighted and not."""
        sums = torch.stack((self.weighted, self.unweighted)).cpu().double()
        return (ranks.mean(sums) / self.steps).tolist()


@dataclass
class Run:
    """The parts of a run, and its state: step, seconds, best and losses."""

    args: Namespace
    cache: Cache
    batches: Batches  # of the training split
    val: Split
    model: Colorizer
    average: Colorizer  # of the model's weights
    objective: Objective
    optimizer: torch.optim.Optimizer
    ranks: Ranks
    shared: nn.Module  # what a step calls: the model, as --compile and several ranks need it
    take_next: Callable[..., tuple[Tensor, Tensor, Tensor]] | None = None  # `step.prepare_steps`
    step: int = 0
    seconds: float = 0.0
    best: float = math.inf  # the lowest validation loss
    losses: StepSums = field(default_factory=StepSums)
    swept: Decoding | None = None  # the default of its checkpoints, if a sweep has chosen one

    @property
    def device(self) -> torch.device:
        """The device of the model and its batches."""
        return self.model.centers.device

    @property
    def progress(self) -> float:
        """The finished share of the run, 1 at its end."""
        args = self.args
        if args.minutes:
            return self.seconds / (60 * args.minutes)
        steps = args.steps or math.ceil(args.epochs * len(self.batches.split) / args.batch_size)
        return self.step / steps

    @property
    def decoding(self) -> Decoding:
        """The decoding of validations, and of checkpoints until a sweep: as in the paper."""
        return Decoding(TEMPERATURE, len(self.model.centers))

    def metadata(self) -> dict[str, Any]:
        """Return the entries of a checkpoint besides its weights."""
        prior = self.model.prior  # of --init: its network has learned no other yet
        if self.step or prior is None:  # of the data set, for every loss
            centers = self.model.centers.cpu()
            prior = smooth_prior(self.batches.split.counts, centers).float()
        return {
            **self.model.options,
            "dataset": self.cache.name,
            "size": self.cache.size,
            "cache": self.cache.digest,
            "loss": self.args.loss,
            "prior": prior,
            **asdict(self.swept or self.decoding),
            "step": self.step,
        }

    def log(self, **line: Any) -> None:
        """Add a line to log.jsonl, once for all ranks."""
        if self.ranks.first:
            with (self.args.out / "log.jsonl").open("a") as file:
                print(json.dumps({"step": self.step, **line}), file=file)

    def log_losses(self, rate: float) -> str:
        """Log the mean loss since the last line, the learning rate and the speed; describe them."""
        loss, unweighted = self.losses.means(self.ranks)
        speed = round(self.args.batch_size * self.losses.steps / self.losses.seconds, 1)
        self.log(loss=loss, unweighted=unweighted, lr=rate, images_per_second=speed)
        self.losses = StepSums()
        return f"step {self.step:,}, loss {loss:.4f}, {speed:.0f} images/s"

    def keep_sweep(self) -> None:
        """Keep the decoding of best.pt, which `generate.py --save-decode` may have changed."""
        with suppress(OSError, KeyError, TypeError, ValueError):  # missing or damaged: as before
            best = read_checkpoint(self.args.out / "best.pt")
            found = Decoding(best["temperature"], best["top_k"], best.get("vividness", 0.0))
            self.swept = None if found == self.decoding else found

    def save_best(self) -> None:
        """Write best.pt; a best.pt of this run, which it replaces, may have been swept."""
        if math.isfinite(self.best):
            self.keep_sweep()
        save_checkpoint(self.args.out / "best.pt", self.average.state_dict(), **self.metadata())

    def save(self) -> None:
        """Write last.pt; the last.pt before becomes previous.pt."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "seconds": self.seconds,
            "best": self.best,
            "losses": vars(self.losses),
        }
        new, last, previous = (self.args.out / name for name in STATES)
        flush(self.args.out / "log.jsonl")  # the log is never behind the state
        save_checkpoint(new, self.average.state_dict(), **self.metadata(), run=state)
        if last.exists():
            last.replace(previous)
        new.replace(last)

    def load(self, path: Path) -> None:
        """Restore a saved state; raise ValueError if it is damaged or not of this run."""
        checkpoint = read_checkpoint(path)
        try:
            state = checkpoint["run"]
            load_weights(self.average, checkpoint["model"])
            load_weights(self.model, state["model"])
            load_moments(self.optimizer, state["optimizer"]["state"])
            check_figures({**state["losses"], "seconds": state["seconds"], "best": state["best"]})
            self.step, self.seconds = checkpoint["step"], float(state["seconds"])
            self.best, self.losses = float(state["best"]), StepSums(**state["losses"])
        except MISFITS as error:
            raise ValueError(
                f"{path}: expected this run's state, found another checkpoint "
                f"({' '.join(str(error).split())}); choose another --out"
            ) from error

    def restore(self) -> None:
        """Restore the newest state that is whole; keep the first step if nothing was saved.

        Raise ValueError if no state is whole, or if the saved states are missing.
        """
        paths = [path for name in STATES if (path := self.args.out / name).exists()]
        for path, following in zip_longest(paths, paths[1:]):
            try:
                self.load(path)
                break
            except ValueError as error:
                if following is None:
                    raise
                self.ranks.say(f"{error}; going on from {following}, the state before")
        best = self.args.out / "best.pt"
        step = read_checkpoint(best).get("step", 0) if not paths and best.exists() else 0
        if step > self.args.save_every:
            missing = "last.pt and previous.pt are missing beside best.pt"
            raise ValueError(f"{self.args.out}: {missing}; choose another --out")
        self.keep_sweep()
        if self.ranks.first:
            trim_log(self.args.out, self.step if paths else -1)


def load_weights(colorizer: Colorizer, found: dict[str, Tensor]) -> None:
    """Load a state; raise ValueError if it does not fit, or has another palette."""
    check_tensors(dict(found), colorizer.state_dict())
    if not torch.equal(found["centers"].to(colorizer.centers), colorizer.centers):
        raise ValueError("its palette is another one")
    colorizer.load_state_dict(dict(found))


def load_moments(optimizer: torch.optim.Optimizer, found: dict[int, Any]) -> None:
    """Load Adam's moments; raise ValueError if a weight's do not fit: Adam does not check.

    Its options stay those of the command line.
    """
    if not all(isinstance(state, dict) for state in found.values()):
        raise ValueError("the optimizer's moments are none")
    options = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": found, "param_groups": options})
    for weights in (weights for group in optimizer.param_groups for weights in group["params"]):
        state = optimizer.state.get(weights, {})
        like = {"step": torch.zeros(()), "exp_avg": weights, "exp_avg_sq": weights}
        check_tensors(state, like)
        if state["step"] < 1 or (state["exp_avg_sq"] < 0).any():
            raise ValueError("a step of the optimizer is below 1, or a second moment below 0")
        for name in ("exp_avg", "exp_avg_sq"):  # fused Adam takes the strides of the weights
            state[name] = torch.empty_like(weights).copy_(state[name])


def check_figures(figures: dict[str, Any]) -> None:
    """Raise ValueError if a state's sums, seconds or lowest loss are impossible."""
    for name, value in figures.items():
        plain = type(value) in (int, float) or (isinstance(value, Tensor) and value.ndim == 0)
        most = math.inf if name == "best" else sys.float_info.max  # inf: not validated yet
        if not plain or not 0 <= value <= most or (name == "steps" and type(value) is not int):
            raise ValueError(f"its {name} is {shorten(value)}")


def check_finite(run: Run) -> None:
    """Raise ValueError if the loss is not finite, before a save replaces good weights."""
    if not math.isfinite(float(run.losses.weighted + run.losses.norm)):
        last, lr, clip = run.args.out / "last.pt", run.args.lr / 4, run.args.clip / 4
        saved = f"{last} or previous.pt is still good" if last.exists() else "nothing was saved"
        raise ValueError(
            f"the loss or its gradient is not finite by step {run.step}; {saved}; start another "
            f"--out with --lr {lr:g}, --clip {clip:g} or a longer --warmup"
        )


# ---- validation --------------------------------------------------------------------------------
def validate_run(run: Run) -> None:
    """Validate, log and print the scores, save the weights if best, draw samples and curves."""
    args, average = run.args, run.average
    B = max(1, args.batch_size // run.ranks.world_size)
    if run.device.type == "cuda":
        B = min(B, GPU_BATCH)
    measured = validate(average, run.objective, run.val, B, run.decoding)
    best = measured["val_loss"] < run.best
    run.log(**measured)
    tqdm.write(describe_validation(run.step, measured, best))
    if warning := warn_of_collapse(measured):
        tqdm.write(warning)
    if best:
        run.save_best()
        run.best = measured["val_loss"]
    sample, lines = args.out / "samples" / f"{run.step:07d}.png", read_log(args.out)
    draw(sample, lambda path: draw_samples(average, run.val, run.decoding).save(path, "PNG"))
    draw(args.out / "curves.png", lambda path: plot_curves(path, str(args.out), lines))


# ---- files ---------------------------------------------------------------------------------------
def write_config(run: Run) -> None:
    """Write config.json: the options with their resolved values, cache, device and versions."""
    options = {key: str(v) if isinstance(v, Path) else v for key, v in vars(run.args).items()}
    left_out = ("out", "resume") if run.args.init else ("out", "resume", "init")
    config = {
        "options": {key: value for key, value in options.items() if key not in left_out},
        "cache_digest": run.cache.digest,
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "device": describe_device(run.device),
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }
    write_json(run.args.out / "config.json", config)


# ---- the log -----------------------------------------------------------------------------------
def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log.jsonl that no kill and no disk has damaged."""
    path, lines = folder / "log.jsonl", []
    for text in path.read_bytes().split(b"\n") if path.exists() else []:
        with suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict) and isinstance(line.get("step"), int):
                lines.append(line)
    return lines


def trim_log(folder: Path, step: int) -> None:
    """Drop the log's lines after a step: the resumed run writes them again."""
    kept = [json.dumps(line) + "\n" for line in read_log(folder) if line["step"] <= step]
    write_whole(folder / "log.jsonl", lambda temporary: temporary.write_text("".join(kept)))
