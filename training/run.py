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
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from colorizer import Colorizer, read_checkpoint, save_checkpoint
from common.files import flush, write_json, write_whole
from common.plots import plot_curves
from common.processes import Ranks, describe_device
from dataset import Batches, Cache, Split
from quantize import Decoding, smooth_prior
from training.losses import Objective
from training.validation import describe_validation, draw_samples, validate, warn_of_collapse

TEMPERATURE = 0.38  # to decode with until another is chosen (Zhang et al. 2016)
STATES = ("next", "last", "previous")  # from the newest; next is left by a kill alone
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
        if ranks.several and self.steps:
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
    batches: Batches  # of the training split
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
        steps = args.steps or math.ceil(args.epochs * len(self.batches.split) / args.batch_size)
        return self.step / steps

    @property
    def decoding(self) -> Decoding:
        """What validation decodes with: all bins, as in the paper."""
        return Decoding(TEMPERATURE, len(self.model.centers))

    def metadata(self) -> dict[str, Any]:
        """Return what a checkpoint says of itself."""
        counts = self.batches.split.counts
        return {
            **self.model.options,
            "dataset": self.cache.name,
            "size": self.cache.size,
            "cache": self.cache.digest,
            "loss": self.args.loss,
            # of the data set, whatever the loss weighs by
            "prior": smooth_prior(counts, self.model.centers.cpu()).float(),
            **asdict(self.decoding),
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
        save_checkpoint(self.args.out / "best.pt", self.average.state_dict(), **self.metadata())

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
        save_checkpoint(new, self.average.state_dict(), **self.metadata(), run=state)
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


# ---- validation --------------------------------------------------------------------------------
def validate_run(run: Run) -> None:
    """Validate, log and print it, draw samples and curves, keep the weights if they are best."""
    args, average = run.args, run.average
    B = max(1, args.batch_size // run.ranks.world_size)  # what fits this rank's memory
    measured = validate(average, run.objective, run.val, B, run.decoding)
    best = measured["val_loss"] < run.best
    run.log(**measured)
    tqdm.write(describe_validation(run.step, measured, best))
    if warning := warn_of_collapse(measured):
        tqdm.write(warning)
    (args.out / "samples").mkdir(exist_ok=True)
    drawn = draw_samples(average, run.val, run.decoding)
    sample, lines = args.out / "samples" / f"{run.step:07d}.png", read_log(args.out)
    write_whole(sample, lambda path: drawn.save(path, "PNG"))
    write_whole(args.out / "curves.png", lambda path: plot_curves(path, str(args.out), lines))
    if best:
        run.best = measured["val_loss"]
        run.save_best()


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


def find_begun(folder: Path, resume: bool) -> dict[str, Any] | None:
    """Return the config.json of a run to go on with; None where one is to begin.

    Raises:
        FileExistsError: a run is there, and is not to be resumed.
        ValueError: as `read_config`.
    """
    config = read_config(folder)
    saved = any((folder / f"{name}.pt").exists() for name in (*STATES, "best"))
    if resume or not config or not saved:  # what failed before it had saved anything begins anew
        return config if resume else None
    raise FileExistsError(
        f"{folder}: a run is there already; go on with it by --resume, or choose another --out"
    )


def resume_options(
    parser: argparse.ArgumentParser, typed: argparse.Namespace, saved: dict[str, Any]
) -> argparse.Namespace:
    """Read the command line again, with a run's options in place of those that were not typed.

    A length that is typed replaces the run's: no step depends on when the run ends.

    Raises:
        ValueError: an option that was typed differs from the run's.
    """
    if any(getattr(typed, name) for name in LENGTH):
        saved |= dict.fromkeys(LENGTH)
    parser.set_defaults(**saved)
    args = parser.parse_args()
    args.out = typed.out
    for key, value in saved.items():
        if key not in CHANGEABLE and getattr(args, key) != value:
            option = "--" + key.replace("_", "-")
            began = f"no {option}" if value is None else f"{option} {value}"
            raise ValueError(
                f"{args.out}: began with {began}, now {getattr(args, key)}; "
                f"leave {option} out, or choose another --out"
            )
    return args


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
