"""What is in caches of photographs, and the options to make them with."""

import csv
import itertools

import numpy as np

from dataset import Cache
from shards.plan import SPLITS

SIZE = 16


def folder_options(root, caches, *more, workers=1):
    """Return the options for a cache of a folder's pictures."""
    chosen = ["--dataset", "folder", "--root", root, "--cache", caches]
    return [*chosen, "--size", SIZE, "--workers", workers, *more]


def shard_bytes(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.h5"))}


def shard_times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.h5")}


def names_in(folder):
    """Return the names in each split of a cache."""
    cache = Cache(folder)
    return {s: cache.split(s).names(np.arange(len(cache.split(s)))) for s in SPLITS}


def all_names(folder):
    return sorted(itertools.chain(*names_in(folder).values()))


def total(folder, attribute):
    """Return the sum of a count over all shards."""
    shards = [shard for name in SPLITS for shard in Cache(folder).split(name).shards]
    return sum(int(shard.attributes[attribute]) for shard in shards)


def read_skipped(folder):
    with (folder / "skipped.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["name", "reason"]
    return dict(rows)
