"""Data sets that come with a list of splits: find the list, read it, find the pictures it names."""

import itertools
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from photo_files.archives import last_part
from shards.plan import SPLITS


# ---- where the files are -----------------------------------------------------------------------
def find_below(root: Path, *names: str) -> Path | None:
    """Return the first of some paths that is in a folder, or else once in the folders inside it."""
    for folders in ("", "*/", "*/*/"):
        for name in names:
            found = list(root.glob(folders + name))
            if len(found) == 1:
                return found[0]
    return None


def enter(folder: Path) -> Path:
    """Return the folder of pictures: where one holds nothing but another, that other."""
    seen = (path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX")))
    inside = list(itertools.islice(seen, 2))
    return enter(inside[0]) if len(inside) == 1 and inside[0].is_dir() else folder


# ---- the list ----------------------------------------------------------------------------------
def one_split_each(pairs: Iterable[tuple[str, str]], where: Path) -> dict[str, str]:
    """Return the split of each name; raise ValueError if a list puts a name into two."""
    listed: dict[str, str] = {}
    for name, split in pairs:
        if listed.setdefault(name, split) != split:
            raise ValueError(f"{where}: {name} stands in two splits; download it again")
    return listed


def read_partition(partition: Path) -> dict[str, str]:
    """Return the split of each picture that CelebA's list names, without folders.

    Raise ValueError if a line has no name and number, or if a name stands in two splits.
    """
    pairs = []
    for line in partition.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        match = re.fullmatch(r"""\s*["']?(\S+?)["']?[\s,;]+["']?([012])["']?\s*""", line)
        if match:
            pairs.append((last_part(match[1]), SPLITS[int(match[2])]))
        elif line.strip() and not line.lstrip("\"'").startswith("image_id"):
            raise ValueError(f"{partition}: expected a name and 0, 1 or 2 a line, found {line!r}")
    return one_split_each(pairs, partition)


def read_numbers(array: np.ndarray) -> list[int]:
    """Return the numbers that MATLAB saved as integers, doubles or cells of them, sorted.

    Raise ValueError if they are no whole numbers.
    """
    if array.dtype == object:
        return sorted(n for cell in array.ravel() for n in read_numbers(np.asarray(cell)))
    numbers = sorted(map(int, array.ravel()))
    if numbers != sorted(array.ravel().tolist()):
        raise ValueError("numbers that are not whole")
    return numbers


# ---- the pictures ------------------------------------------------------------------------------
def stem(name: str) -> str:
    """Return a name without its ending, in small letters."""
    return os.path.splitext(name)[0].casefold()


def match_listed(
    listed: dict[str, str], files: Iterable[str], where: Path
) -> tuple[dict[str, list[str]], list[str]]:
    """Find the file of each listed picture: of that name, or the only one with another ending.

    Args:
        listed: the split of each picture's name.
        files: the names that are there.
        where: the archive or folder that they are in, for messages.

    Returns:
        The files of each split, in the list's order, and the listed names that have none.

    Raises:
        ValueError: names have no file, and a split is empty.
    """
    files, splits, missing = set(files), {split: [] for split in SPLITS}, []
    asked, spare = Counter(stem(name) for name in listed.keys() - files), defaultdict(list)
    for name in files - listed.keys():
        spare[stem(name)].append(name)
    for name, split in listed.items():
        alike = spare[stem(name)] if asked[stem(name)] == 1 else []
        found = [name] if name in files else alike
        if len(found) == 1:
            splits[split] += found
        else:
            missing.append(name)
    if missing and not all(splits.values()):
        found = min(files, default="no pictures")
        raise ValueError(
            f"{where}: {len(missing):,} of {len(listed):,} listed pictures are not there: expected "
            f"{missing[0]}, for one, found {found}; put the listed pictures there"
        )
    return splits, missing
