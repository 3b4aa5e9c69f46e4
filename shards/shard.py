"""Write and read shards, the files of a cache that hold its photographs.

A shard is HDF5 behind a user block of 512 bytes. These datasets lie at HDF5's root, contiguous and
uncompressed so that reading can map them into memory:

    L       (N, S, S) uint8       units of quantize.py, "stored"
    ab      (N, 2, S, S) int8
    bins    (N, S/4, S/4) uint16  the class of each 4x4 block's mean ab: for other readers
    names   (N,) bytes            UTF-8
    skipped (M, 2) bytes          name and reason

Attributes name the plan that made the shard. The user block holds the CRC-32 of all bytes outside
the datasets, its own included, and as JSON each dataset's place and CRC-32. So reading notices a
flipped bit or a cut anywhere. HDF5's own bytes are checked before HDF5 reads them: it may crash.
Shapes: N photographs, S pixels a side, M skipped pictures.
"""

import errno
import io
import json
import mmap
import os
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from common.files import write_whole
from quantize import BLOCK
from shards.plan import FORMAT, REMEDY, Plan

USER_BLOCK = 512  # bytes; HDF5 takes no less
CHECKSUM = 8  # bytes of a checksum as text
MAPPED, READ_WHOLE = ("L", "ab", "bins"), ("names", "skipped")  # datasets


def shard_path(folder: Path, split: str, index: int) -> Path:
    """Return the path of one shard."""
    return folder / f"{split}-{index:05d}.h5"


def photo_bytes(size: int) -> int:
    """Return how many bytes one photograph takes in a shard."""
    return 3 * size**2 + 2 * (size // BLOCK) ** 2


def to_bytes(texts: list[str]) -> np.ndarray:
    """Encode names for HDF5; names that are not UTF-8 keep their bytes."""
    return np.array([os.fsencode(text) for text in texts] or np.empty(0, "S1"), dtype=np.bytes_)


# ---- checksums ---------------------------------------------------------------------------------
def checksum(*parts: bytes | np.ndarray) -> str:
    """Return the CRC-32 of bytes as 8 hexadecimal digits."""
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    return f"{crc:08x}"


def rest_of(content: np.ndarray, extents: dict[str, tuple[int, int]]) -> list[np.ndarray]:
    """Return the parts of a shard behind the user block that no dataset takes."""
    parts, start = [], USER_BLOCK
    for first, last in sorted(extents.values()):
        parts.append(content[start:first])
        start = last
    return [*parts, content[start:]]


def seal(content: np.ndarray, extents: dict[str, tuple[int, int]]) -> bytes:
    """Return the user block of a shard of these bytes; an extent is (first byte, last byte + 1)."""
    places = {name: (*extents[name], checksum(content[slice(*extents[name])])) for name in extents}
    line = json.dumps({"bytes": len(content), "datasets": places}).encode()
    line = line.ljust(USER_BLOCK - CHECKSUM, b"\0")
    return checksum(line, *rest_of(content, extents)).encode() + line


def read_seal(content: np.ndarray) -> dict[str, tuple[int, int, str]]:
    """Return each dataset's (first byte, last byte + 1, checksum) from the user block of a shard.

    Raise ValueError if the block, or a byte that no dataset takes, is damaged.
    """
    block = content[:USER_BLOCK].tobytes()
    expected, line = block[:CHECKSUM], block[CHECKSUM:]
    try:
        contents = json.loads(line.rstrip(b"\0"))
        length, places = contents["bytes"], contents["datasets"]
        extents = {name: (first, last) for name, (first, last, _) in places.items()}
        found = checksum(line, *rest_of(content, extents)).encode()
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ValueError("its first bytes are not a shard's checksums") from None
    if len(content) != length:
        raise ValueError(f"expected {length} bytes, found {len(content)}")
    if found != expected:
        raise ValueError("its header does not have its checksum")
    return places


# ---- writing -----------------------------------------------------------------------------------
def write_shard(path: Path, arrays: dict[str, np.ndarray], attributes: dict[str, Any]) -> None:
    """Write one shard, whole or not at all; the same content gives the same bytes."""
    extents, buffer = {}, io.BytesIO()  # on a full disk, HDF5's own writing crashes
    with h5py.File(buffer, "w", libver=("earliest", "v110"), userblock_size=USER_BLOCK) as file:
        for name, array in arrays.items():
            data = file.create_dataset(name, data=array)
            if array.nbytes:  # an empty one has no place in the file
                offset = data.id.get_offset()
                extents[name] = (offset, offset + array.nbytes)
        file.attrs.update({"format": FORMAT, **attributes})
    content = buffer.getbuffer()
    content[:USER_BLOCK] = seal(np.frombuffer(content, np.uint8), extents)
    write_whole(path, lambda temporary: temporary.write_bytes(content))


# ---- reading -----------------------------------------------------------------------------------
def map_file(path: Path) -> mmap.mmap:
    """Map a file into memory; where the file system maps none, read it into memory instead."""
    with path.open("rb") as file:
        try:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:  # of FUSE and 9p
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise  # a cache of so many shards may be larger than memory
            memory = mmap.mmap(-1, os.fstat(file.fileno()).st_size)
            file.readinto(memory)
            return memory


def damaged(path: Path, fault: object) -> ValueError:
    """Return the error of a damaged shard."""
    return ValueError(
        f"{path}: truncated or damaged ({fault}); delete this file and run the create_dataset.py "
        f"command of {path.parent} again"
    )


class Shard:
    """One shard, its large arrays mapped from the file.

    Raises:
        FileNotFoundError: the shard is missing.
        OSError: the system does not let the shard be read.
        ValueError: the shard is truncated, damaged, or of another plan.
    """

    def __init__(self, path: Path, plan: Plan):
        self.path = path
        try:
            self.map = map_file(path)  # one for all arrays, as each map holds a file open
            self.content = np.frombuffer(self.map, np.uint8)
            self.places = read_seal(self.content)
            with h5py.File(self.map) as file:  # not the file, which HDF5 would lock
                self.attributes = dict(file.attrs)
                self.L, self.ab, self.bins = (self.view(file[name]) for name in MAPPED)
                self.names, self.skipped = file["names"][:], file["skipped"][:]
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{path}: this shard is missing; run the create_dataset.py command again"
            ) from None
        except (OSError, KeyError, ValueError) as error:
            if getattr(error, "errno", None):  # the system's, not HDF5's: the shard may be whole
                error.filename = str(path)
                raise
            raise damaged(path, error) from error
        self.verify(READ_WHOLE)
        self.check(plan)

    def check(self, plan: Plan) -> None:
        """Raise ValueError if the shard is of another plan, or of another place in it."""
        expected = {key: getattr(plan, key) for key in ("format", "palette", "size", "digest")}
        split, index = self.path.stem.rsplit("-", 1)
        for key, value in {**expected, "split": split, "index": int(index)}.items():
            found = self.attributes.get(key)
            if found != value:
                raise ValueError(f"{self.path}: expected {key} {value}, found {found}; {REMEDY}")

    def verify(self, names: tuple[str, ...]) -> None:
        """Compare datasets with their checksums; raise ValueError if one differs."""
        for name in names:
            first, last, expected = self.places.get(name, (0, 0, checksum()))
            if checksum(self.content[first:last]) != expected:
                raise damaged(self.path, f"{name} does not have its checksum")

    def view(self, data: h5py.Dataset) -> np.ndarray:
        """View a dataset in the mapped file; an empty one has no place in it."""
        name = data.name.lstrip("/")
        if name not in self.places:
            return data[:]
        first, last, _ = self.places[name]
        return self.content[first:last].view(data.dtype).reshape(data.shape)

    def prefetch(self, row: int) -> None:
        """Ask the system to read a photograph from the disk, without waiting for it.

        Else a cache larger than memory reads a hundred kilobytes for each page that it needs.
        """
        for name, array in (("L", self.L), ("ab", self.ab)):
            first = self.places[name][0] + row * array.strides[0]
            start = first - first % mmap.PAGESIZE
            self.map.madvise(mmap.MADV_WILLNEED, start, first + array.strides[0] - start)

    def __len__(self) -> int:
        return len(self.L)
