"""Parts of every command line: help texts, checks of values, common options, exit statuses.

Exit status: 0 done, 1 something failed, 2 usage, 130 interrupted.
"""

import argparse
import contextlib
import errno
import math
import os
import signal
import sys
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from common.entries import SIZES
from quantize import BLOCK, Decoding

FULL_DISK = (
    "no space left on the disk; finished files are kept, half-written ones removed: free some "
    "space and run the command again (create_dataset.py without --overwrite, train.py with "
    "--resume)"
)
DEFAULT_CACHE = Path("cache")
GENERAL = Path(__file__).parents[1] / "checkpoints" / "photos-128.pt"  # colors any photograph
NO_DOC = "What this command does is said here without python's option -OO, which leaves it out."
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
MORE_FILES = "let more files be open, as `ulimit -n 4096` does"
REMEDIES = {  # where the system hinders reading or writing; the file may be whole
    **dict.fromkeys(UNWRITABLE, "choose a folder that you may use, or change its permissions"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), MORE_FILES),
    errno.ENOMEM: "free some memory",
    errno.ENAMETOOLONG: "choose a shorter name",
    **dict.fromkeys(
        (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENODEV, errno.ENOLCK, errno.EAGAIN),
        "the file may be whole: look after its disk or network, and run the command again",
    ),
}


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keep the examples' line breaks, and show every default that is a value."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = (None, False, argparse.SUPPRESS)
        if any(action.default is value for value in silent) or not action.option_strings:
            return action.help
        return f"{action.help} (default: %(default)s)"


def make_parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help is a script's docstring: its first paragraph, then the rest.

    Under `python -OO` there is none.
    """
    description, _, rest = (doc or NO_DOC).strip().partition("\n\n")
    return argparse.ArgumentParser(
        description=description, epilog=rest, formatter_class=HelpFormatter, allow_abbrev=False
    )


def number(
    kind: type, low: float, high: float = float("inf"), above: bool = False
) -> Callable[[str], float]:
    """Return an argument type: an int or a float from low, or above it, to high."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
            float(value)
        except (ValueError, OverflowError):
            value = float("nan")
        if not math.isfinite(value) or not low <= value <= high or (above and value == low):
            least = f"> {low}" if above else f">= {low}"
            most = f" and <= {high}" if high < float("inf") else ""
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"must be {what} {least}{most}, got {text}")
        return value

    return parse


def photo_size(text: str) -> int:
    """Parse a side in pixels: a multiple of BLOCK, in the range of a checkpoint's `size`."""
    value = number(int, SIZES[0], SIZES[-1])(text)
    if value % BLOCK:
        raise argparse.ArgumentTypeError(f"must be a multiple of {BLOCK}, got {text}")
    return int(value)


def add_cache_options(group: argparse._ArgumentGroup, default: str) -> None:
    """Add the options that choose a cache; `default` says which cache they choose if left out."""
    add = group.add_argument
    add("--dataset", metavar="NAME", help=f"name of the cache; default: {default}")
    add(
        "--size",
        type=photo_size,
        metavar="PX",
        help="side of its photographs; default: that cache's",
    )
    add("--cache", type=Path, default=DEFAULT_CACHE, metavar="DIR", help="folder of all caches")


def add_device_option(group: argparse._ArgumentGroup) -> None:
    """Add `--device`, for `processes.choose_device`."""
    explained = "device to compute on; auto: the first of cuda, mps and cpu that exists here"
    choices = ("auto", "cuda", "mps", "cpu")
    group.add_argument("--device", choices=choices, default="auto", help=explained)


def default_checkpoint(
    parser: argparse.ArgumentParser, say: Callable[[str], None], general: bool
) -> Path:
    """Return the newest runs/*/best.pt and say its name; exit if there is none.

    With `general` the one for photographs of all kinds counts too: a run must be newer than it.
    """
    found = [path for path in Path("runs").glob("*/best.pt") if path.is_file()]
    if general and GENERAL.exists():
        found.append(Path(os.path.relpath(GENERAL)))
    if not found:
        parser.error("--checkpoint: found no runs/*/best.pt; name a file or train with train.py")
    newest = max(found, key=lambda path: path.stat().st_mtime)
    what = "the newest checkpoint" if newest.parts[0] == "runs" else "for photographs of all kinds"
    say(f"{newest}: {what}; choose another with --checkpoint FILE")
    return newest


def add_decoding_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options of `quantize.Decoding`, for `choose_decoding`; return their group."""
    group = parser.add_argument_group("decoding")
    add = group.add_argument
    add(
        "--vividness",
        type=number(float, 0, 1),
        metavar="V",
        help="0: rare colors count as rare, as in the training photographs; 1: as common as all "
        "others; between them a color counts as its frequency to the power of 1 - V; default: the "
        "checkpoint's",
    )
    add(
        "--temperature",
        type=number(float, 0, above=True),
        metavar="T",
        help="temperature of decoding: toward 0 the most probable bin, patchy; 1 the mean, dull; "
        "default: the checkpoint's",
    )
    add(
        "--top-k",
        type=number(int, 1),
        metavar="K",
        help="number of most probable bins to average; default: the checkpoint's",
    )
    return group


def choose_decoding(args: argparse.Namespace, info: dict[str, Any], Q: int) -> Decoding:
    """Return the decoding of the options, and of a checkpoint's entries where they are left out.

    Raise ValueError if it does not go with the checkpoint, which has Q bins.
    """
    names = [field.name for field in fields(Decoding)]
    typed = {name: getattr(args, name) for name in names}
    decoding = Decoding(**{n: info[n] if typed[n] is None else typed[n] for n in names})
    if decoding.top_k > Q:
        raise ValueError(f"--top-k must be at most the number of bins, {Q}, got {decoding.top_k}")
    if decoding.vividness and info.get("prior") is None:
        raise ValueError(
            f"{args.checkpoint}: does not say how common each color was in training, which "
            "--vividness needs; train again with this version, or use --vividness 0"
        )
    return decoding


def explain(error: OSError | ValueError) -> str:
    """Return an error's text, with the remedy where the system gives the error."""
    code = getattr(error, "errno", None)
    if code in (errno.ENOSPC, errno.EDQUOT):
        return FULL_DISK
    if code in REMEDIES and error.filename:
        return f"{error.filename}: {error.strerror.lower()}; {REMEDIES[code]}"
    return str(error)


def open_streams() -> None:
    """Lead standard streams that are closed, as cron and `>&-` close them, to nowhere.

    Else the next file that is opened takes a stream's number, and what libraries print to it.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    if sys.stdout and sys.stderr:
        os.close(number)
        return
    nowhere = os.fdopen(number, "w")
    sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere


def in_group() -> bool:
    """Tell whether torch.distributed has joined this process with others."""
    distributed = sys.modules.get("torch.distributed")
    return bool(distributed) and distributed.is_initialized()


def run_command(
    main: Callable[[], int | None],
    interrupted: str = "run the same command again",
    at_once: bool = False,
) -> None:
    """Run a script's main and exit with its status; failures and Ctrl-C become one sentence.

    `main` returns None or an exit status; `interrupted` says what to do after Ctrl-C; `at_once`
    ends without waiting for threads.
    """
    script = Path(sys.argv[0]).name
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # by `starting.prepare`
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    warnings.filterwarnings("ignore", module="PIL")  # of broken metadata: no photograph is lost
    open_streams()
    with contextlib.suppress(AttributeError):  # of a notebook's stream
        sys.stdout.reconfigure(errors="backslashreplace")  # for file names that are not UTF-8
    try:
        status = main() or 0
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(f"\n{script}: interrupted; {interrupted}", file=sys.stderr)
        status = 130
    except BrokenPipeError:  # `| head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except (ValueError, OSError) as error:
        print(f"{script}: error: {explain(error)}", file=sys.stderr)
        status = 1
    except Exception:  # a fault of ours
        if not in_group():
            raise
        sys.excepthook(*sys.exc_info())  # torch's, which names the rank
        status = 1
    if in_group() or at_once:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # threads, torch.distributed's for one, may abort what ends slowly
    sys.exit(status)
