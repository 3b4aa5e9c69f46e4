"""How a run begins: from nothing, from the checkpoint --init, or where the run in --out stopped."""

import hashlib
import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from colorizer import Colorizer, load_colorizer
from common.files import read_whole
from quantize import load_centers, palette_digest
from training.run import STATES

LENGTH = ("minutes", "steps", "epochs")  # options: a run has one of them
CHANGEABLE = ("cache", "device", "save_every", *LENGTH)  # options that --resume may change


# ---- a run that is there ----------------------------------------------------------------------
def has_state(folder: Path) -> bool:
    """Tell whether a run has saved a state, damaged or not."""
    return any((folder / name).exists() for name in STATES)


def find_run(folder: Path, resume: bool) -> dict[str, Any] | None:
    """Return the config.json of the run to resume; None where a run is to start.

    Raise FileExistsError if a run has saved something and `resume` is false, ValueError if
    config.json is damaged, or missing beside the rest of a run.
    """
    path = folder / "config.json"
    if not path.exists():
        if rest := [name for name in ("log.jsonl", *STATES) if (folder / name).exists()]:
            raise ValueError(f"{path}: missing beside {', '.join(rest)}; choose another --out")
        return None
    try:
        config = json.loads(read_whole(path).decode())
        if not isinstance(config["options"], dict) or not isinstance(config["cache_digest"], str):
            raise ValueError("expected its options and its cache's digest")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: damaged ({error}); choose another --out") from error
    if resume:
        return config
    if has_state(folder) or (folder / "best.pt").exists():
        raise FileExistsError(
            f"{folder}: holds a run already; continue it with --resume, or choose another --out"
        )
    return None  # the run failed before it saved anything


# ---- a start from a checkpoint -----------------------------------------------------------------
def read_start(path: Path) -> tuple[Colorizer, str]:
    """Return the network of the checkpoint --init, and a digest of the file.

    Raise errors as `load_colorizer` does, and ValueError if its palette is not ours.
    """
    colorizer, _ = load_colorizer(path)
    found, ours = palette_digest(colorizer.centers), palette_digest(load_centers())
    if found != ours:
        expected = f"expected the palette of this project, {ours}, found {found}"
        raise ValueError(f"{path}: {expected}; name another file by --init")
    with path.open("rb") as file:
        return colorizer, hashlib.file_digest(file, "sha256").hexdigest()[:16]


def start_options(parser: ArgumentParser, typed: Namespace) -> Namespace:
    """Read the command line again, with the net and width of --init as defaults.

    Exit if a typed one differs.
    """
    start, digest = read_start(typed.init)
    parser.set_defaults(**start.options)
    args = parser.parse_args()
    args.out, args.init_digest = typed.out, digest
    for key, value in start.options.items():
        if (found := getattr(args, key)) != value:
            parser.error(f"--{key} must be that of --init, {value}, got {found}; leave it out")
    return args


def check_start(args: Namespace, typed: bool, saved: dict[str, Any]) -> None:
    """Raise ValueError if --init is not the file that a run to resume began with.

    A run that has saved a state needs that file no more: it is read only if --init was typed, and
    counts by its name if it is gone.
    """
    path, needed = args.init, not has_state(args.out)
    if path is None or not (needed or typed):
        return
    by_content = needed or path.exists()
    key, found = ("init_digest", read_start(path)[1]) if by_content else ("init", str(path))
    if saved.get(key) != found:
        began, now = f"--init {saved['init']}" if "init" in saved else "no --init", str(path)
        if by_content and "init" in saved:
            began, now = f"{began} ({saved.get('init_digest')})", f"{path} ({found})"
        raise ValueError(
            f"{args.out}: began with {began}, now {now}; leave --init out, or choose another --out"
        )


def make_model(args: Namespace) -> Colorizer:
    """Return the network of a run's first step: random weights, or those of --init."""
    if args.init is None or has_state(args.out):  # a state replaces any weights
        return Colorizer(load_centers(), args.net, args.width)
    return read_start(args.init)[0].train()


# ---- the options -------------------------------------------------------------------------------
def resume_options(parser: ArgumentParser, typed: Namespace, saved: dict[str, Any]) -> Namespace:
    """Read the command line again, with the run's options as defaults.

    A typed length replaces the run's: no step depends on when the run ends. Raise ValueError if
    another typed option differs from the run's.
    """
    if any(getattr(typed, name) for name in LENGTH):
        saved |= dict.fromkeys(LENGTH)
    parser.set_defaults(**saved)
    args = parser.parse_args()
    args.out = typed.out
    for key, value in saved.items():
        if key not in (*CHANGEABLE, "init") and getattr(args, key) != value:
            option = "--" + key.replace("_", "-")
            began = f"no {option}" if value is None else f"{option} {value}"
            raise ValueError(
                f"{args.out}: began with {began}, now {getattr(args, key)}; "
                f"leave {option} out, or choose another --out"
            )
    check_start(args, typed.init is not None, saved)
    return args
