"""What a checkpoint may say: the types and ranges of its entries, the shapes of its tensors."""

import math
import sys
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from quantize import BLOCK

SIZES = range(16, 4097, BLOCK)  # px: no less than SSIM's window of 11; memory grows with the square
MOST_WIDTH = 4096
MOST_BINS, LARGEST_AB = 4096, 128  # of a palette
NUMBER, TEXT, WHOLE = (int, float), (str,), (int,)  # no bool: it is no number here
# fmt: off
NEEDED = {  # entries of each checkpoint: the types of its value, the value in words, its range
    "model": ((dict, OrderedDict), "tensors by their names", lambda _: True),
    "net": (TEXT, "unet or zhang", lambda net: net in ("unet", "zhang")),
    "width": (WHOLE, f"a whole number from 0 to {MOST_WIDTH}", lambda w: 0 <= w <= MOST_WIDTH),
    "dataset": ((*TEXT, type(None)), "the name of a data set", lambda name: len(name or "") < 256),
    "size": (WHOLE, f"a multiple of {BLOCK} from {SIZES[0]} to {SIZES[-1]}", lambda s: s in SIZES),
    "temperature": (NUMBER, "a number above 0", lambda T: 0 < T <= sys.float_info.max),
    "top_k": (WHOLE, "a number of bins", lambda k: 1 <= k <= MOST_BINS),
}
ENTRIES = NEEDED | {  # those that files of earlier versions, or the published weights, may lack
    "vividness": (NUMBER, "a number from 0 to 1", lambda V: 0 <= V <= 1),
    "step": (WHOLE, "a whole number from 0", lambda step: 0 <= step < 2**63),
    "loss": (TEXT, "the name of a loss", lambda name: len(name) < 256),
    "cache": (TEXT, "the digest of a cache", lambda digest: len(digest) < 256),
}
# fmt: on


def shorten(value: Any) -> str:
    """Return a value in at most a few words, however large it is."""
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} of {value.dtype}"
    plain = value is None or isinstance(value, (bool, int, float, str))
    return f"{value!r:.40}" if plain else f"a {type(value).__name__}"


def check_entries(contents: dict[str, Any]) -> None:
    """Raise ValueError if an entry is missing, or is not of its type and in its range."""
    if missing := [name for name in NEEDED if name not in contents]:
        raise ValueError(f"lacks {', '.join(missing)}")
    for name, (types, expected, fits) in ENTRIES.items():
        value = contents.get(name)
        if name in contents and (type(value) not in types or not fits(value)):
            raise ValueError(f"its {name} is {shorten(value)}, expected {expected}")


def check_palette(contents: dict[str, Any]) -> int:
    """Return the number of bins; raise ValueError if they are no colors, or prior, top_k differ."""
    centers = dict(contents["model"]).get("centers")
    shape = centers.shape if isinstance(centers, Tensor) else ()
    Q = shape[0] if len(shape) == 2 else 0
    if shape != (Q, 2) or not 1 <= Q <= MOST_BINS or not centers.float().abs().max() <= LARGEST_AB:
        expected = f"1 to {MOST_BINS} pairs from -{LARGEST_AB} to {LARGEST_AB}"
        raise ValueError(f"its centers are {shorten(centers)}, expected {expected}")
    if contents["top_k"] > Q:
        raise ValueError(f"its top_k is {contents['top_k']}, expected at most its {Q} bins")
    if (prior := contents.get("prior")) is not None:
        fits = isinstance(prior, Tensor) and prior.is_floating_point() and prior.shape == (Q,)
        if not fits or not prior.float().min() > 0 or not abs(prior.float().sum() - 1) < 0.01:
            raise ValueError(f"its prior is not {Q} positive numbers with the sum 1")
    return Q


def check_tensors(found: dict[str, Any], like: dict[str, Tensor]) -> None:
    """Raise ValueError unless tensors have the names, shapes and kinds of others, and are finite.

    The numbers of `like` are not read: it may lie on the device "meta".
    """
    if wrong := like.keys() ^ found.keys():
        verb = "lacks" if (name := min(wrong, key=str)) in like else "has"
        raise ValueError(f"its tensors do not fit its network: it {verb} {shorten(name)}")
    for name, expected in like.items():
        check_tensor(name, found[name], expected)


def check_tensor(name: str, found: Any, like: Tensor) -> None:
    """Raise ValueError unless a tensor has the shape and kind of another, and possible values."""
    floats = like.is_floating_point()
    kinds = (torch.float16, torch.float32) if floats else (like.dtype,)
    if not isinstance(found, Tensor) or found.shape != like.shape or found.dtype not in kinds:
        expected = f"{name} is {shorten(found)}, expected {shorten(like)}"
        raise ValueError(f"its tensors do not fit its network: {expected}")
    low, high = (float(value) for value in found.aminmax())  # NaN if one is
    if not math.isfinite(low) or not math.isfinite(high):
        raise ValueError(f"its {name} holds NaN or infinity, expected finite numbers")
    if low < 0 and (not floats or name.endswith("running_var")):
        raise ValueError(f"its {name} holds {low:g}, expected numbers from 0")
