"""Read what torch.save wrote: no code is run, and no tensors are made that the file does not hold.

`torch.load(weights_only=True)` runs no code, but it inflates zips, calls `bytearray(10**12)`,
hashes tuples in tuples until the process crashes, and makes tensors of any shape over one number.
So a file is followed first, opcode by opcode, without making what it says.
"""

import io
import math
import pickletools
import zipfile
from collections import OrderedDict
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from common.files import read_whole

ZIP_START = b"PK\3\4"  # as torch tells zips from the files of torch < 1.6
LEGACY_PICKLES = 5  # magic number, version, system, contents, names of the storages
MOST_OPCODES = 100_000  # a run's last.pt has 12,000
MOST_MEMBERS = 10_000  # of a zip: a run's last.pt has 400
ENTRY = b"PK\1\2"  # begins that of each member in the zip's directory
LARGEST_SIDE = 2**40  # of a tensor: products of few of these are quick
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
CONSTANTS |= {"EMPTY_TUPLE": (), "EMPTY_LIST": list}
ARGUMENTS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"}
GLOBALS = {  # all that our checkpoints and the published weights name
    "collections OrderedDict": OrderedDict,
    "torch._utils _rebuild_tensor_v2": torch.empty,
    "torch HalfStorage": torch.float16,
    "torch FloatStorage": torch.float32,
    "torch DoubleStorage": torch.float64,
    "torch LongStorage": torch.int64,
}


class BombError(ValueError):
    """A file that would take more memory than it has bytes."""


class Outline:
    """A pickle's stack without its objects: `nbytes` is the size of all its tensors.

    Lists and tensors are represented by their types, storages by the types of their numbers, dicts
    by their keys.
    """

    def __init__(self):
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks below the marks
        self.memo: dict[int, Any] = {}
        self.nbytes = 0

    def follow(self, file: BinaryIO) -> None:
        """Follow a pickle; raise an error of any type if it is damaged or none of ours."""
        for opcode, argument, _ in islice(pickletools.genops(file), MOST_OPCODES):
            if opcode.name == "STOP":
                return
            if opcode.name in CONSTANTS or opcode.name in ARGUMENTS:
                self.stack.append(CONSTANTS.get(opcode.name, argument))
            elif (opcode.name, argument) != ("PROTO", 2):
                self.step(opcode.name, argument)
        raise ValueError(f"more than {MOST_OPCODES} opcodes")

    def step(self, name: str, argument: Any) -> None:
        """Follow an opcode that is no constant."""
        match name:
            case "MARK":
                self.below.append(self.stack)
                self.stack = []
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[argument])
            case "EMPTY_DICT":
                self.stack.append({})
            case "GLOBAL":
                self.stack.append(GLOBALS[argument])
            case "TUPLE":
                items = tuple(self.pop_to_mark())
                self.stack.append(items)
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                self.stack[-count:] = [tuple(self.stack[-count:])]
            case "BINPERSID":
                self.stack.append(self.storage(self.stack.pop()))
            case "REDUCE":
                arguments = self.stack.pop()
                self.stack.append(self.make(self.stack.pop(), *arguments))
            case _:
                self.fill(name)

    def pop_to_mark(self) -> list[Any]:
        """Return what lies above the last mark."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def storage(self, found: tuple[Any, ...]) -> torch.dtype:
        """Return the type of a storage's numbers: its name must be text, as a dict's keys."""
        _, dtype, name, _, _, *view = found
        if not isinstance(dtype, torch.dtype) or type(name) is not str or view not in ([], [None]):
            raise ValueError("a storage of another kind")
        return dtype

    def make(self, function: Any, *arguments: Any) -> Any:
        """Return what represents a function's result; count a tensor's bytes."""
        if function is OrderedDict and not arguments:
            return {}
        if function is not torch.empty:
            raise ValueError("a call")
        dtype, _, shape, _, requires_grad, _ = arguments
        sides = all(type(side) is int and 0 <= side <= LARGEST_SIDE for side in shape)
        if not isinstance(dtype, torch.dtype) or not sides or len(shape) > 4 or requires_grad:
            raise ValueError("a tensor of another kind")
        self.nbytes += math.prod(shape) * dtype.itemsize
        return Tensor

    def fill(self, name: str) -> None:
        """Follow an opcode that fills a list or a dict; a dict's keys are text or whole numbers."""
        count = {"APPEND": 1, "SETITEM": 2, "BUILD": 1, "APPENDS": 0, "SETITEMS": 0}[name]
        items = [self.stack.pop() for _ in range(count)][::-1] if count else self.pop_to_mark()
        filled = self.stack[-1]
        if name == "BUILD":  # the attributes of an OrderedDict: a state's is not looked at
            possible = isinstance(filled, dict) and items == [{"_metadata": None}]
        elif name.startswith("APPEND"):
            possible = filled is list
        else:
            keys = items[::2]
            possible = isinstance(filled, dict) and all(type(key) in (str, int) for key in keys)
        if not possible:
            raise ValueError("a list or dict of another kind")
        if name.startswith("SETITEM"):
            filled.update(dict.fromkeys(keys))


def check_zip(content: bytes) -> tuple[BinaryIO, bytes]:
    """Return a zip with the members that were checked, as a file, and its pickle.

    Raise BombError if a member is compressed, which torch never does, other errors if one is
    damaged: torch itself checks no checksum.
    """
    entries = content.count(ENTRY)
    if entries > MOST_MEMBERS:
        raise BombError(f"holds more than {MOST_MEMBERS:,} parts")
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        members = file.infolist()
        nbytes = sum(max(member.file_size, member.compress_size) for member in members)
        if nbytes > len(content) or any(member.compress_type for member in members):
            raise BombError(f"is compressed, of {nbytes / 1e6:,.1f} MB, expected it as torch saves")
        if entries == len(members) and not any(member.extra for member in members):
            checked, damaged = io.BytesIO(content), file.testzip()
        else:  # torch's own reader may find another directory in the file, with other members
            checked, damaged = io.BytesIO(), None
            with zipfile.ZipFile(checked, "w") as new:
                for member in members:
                    new.writestr(member.filename, file.read(member))
        (pickled,) = (m for m in members if m.filename.partition("/")[2] == "data.pkl")
        if damaged:
            raise ValueError(f"{damaged}: another checksum")
        return checked, file.read(pickled)


def check(content: bytes) -> BinaryIO:
    """Return what torch may load of a file's bytes, as a file.

    Raise BombError if it would take more memory, errors of any type if it is damaged, or names
    anything but tensors and plain types.
    """
    if content.startswith(ZIP_START):
        loaded, pickled = check_zip(content)
        pickles = 1
    else:
        loaded, pickled, pickles = io.BytesIO(content), content, LEGACY_PICKLES
    start, nbytes = io.BytesIO(pickled), 0
    for _ in range(pickles):
        outline = Outline()
        outline.follow(start)
        nbytes += outline.nbytes
    if nbytes > len(content):
        sizes = f"{nbytes / 1e6:,.1f} MB, expected at most the file's {len(content) / 1e6:,.1f} MB"
        raise BombError(f"its tensors take {sizes}")
    loaded.seek(0)
    return loaded


def load_tensors(path: Path) -> Any:
    """Return a file's tensors and plain types, on the CPU.

    Raise OSError if the system does not let it be read, ValueError if it is damaged, holds code, or
    would take more memory than it has bytes.
    """
    content = read_whole(path)  # a failure below is the content's
    try:
        content = check(content)
        return torch.load(content, map_location="cpu", weights_only=True)
    except BombError as error:
        raise ValueError(f"{path}: {error}; take another copy") from error
    except Exception as error:  # broken bytes make torch raise errors of any type
        raise ValueError(
            f"{path}: not a checkpoint, or a damaged one, or one that holds code (which was not "
            "run); name a best.pt, or take another copy"
        ) from error
