"""A cache of random pictures written by hand, for tests of what reads and checks caches."""

import numpy as np

from quantize import load_centers, palette_digest
from shards.plan import SPLITS, Plan, write_plan
from shards.shard import shard_path, write_shard

S, Q = 16, 313
LENGTHS = {"train": (5, 3, 6), "val": (2,), "test": (2,)}  # of the shards


def random_arrays(n, seed):
    """Return the datasets of a shard of n photographs."""
    generator = np.random.default_rng(seed)
    skipped = np.array([[b"bad.jpg", b"damaged"], [b"\xff.jpg", b"the file is empty"]])
    return {
        "L": generator.integers(0, 256, (n, S, S), dtype=np.uint8),
        "ab": generator.integers(-100, 100, (n, 2, S, S), dtype=np.int8),
        "bins": generator.integers(0, Q, (n, S // 4, S // 4), dtype=np.uint16),
        "names": np.array([f"{seed}-{i}.jpg".encode() for i in range(n)]),
        "skipped": skipped if seed == 1 else skipped[:0],
    }


def make_plan(**changes):
    """Return the plan of a small cache, some of it changed."""
    plan = {
        "name": "small",
        "dataset": "folder",
        "size": S,
        "limit": None,
        "keep_gray": False,
        "resampling": "bilinear",
        "decoding": "reduced",
        "palette": palette_digest(load_centers()),
        "originals": "0123456789abcdef",
        "shard_photos": 6,
        "photos": {split: sum(lengths) for split, lengths in LENGTHS.items()},
        "shards": {split: len(lengths) for split, lengths in LENGTHS.items()},
        "complete": True,
    }
    return Plan(**{**plan, **changes})


def write_small_shard(folder, split, index, plan, /, **changes):
    """Write a shard of a plan by hand, some of its attributes changed."""
    number = [(s, i) for s in SPLITS for i in range(len(LENGTHS[s]))].index((split, index))
    arrays = random_arrays(LENGTHS[split][index], seed=number)
    attributes = {key: getattr(plan, key) for key in ("name", "size", "palette", "digest")}
    attributes |= {
        "split": split,
        "index": index,
        "counts": np.bincount(arrays["bins"].ravel(), minlength=Q),
        "ab_sum": (arrays["ab"] + 0.5).mean((2, 3)).sum(0),
        "gray": number,
        "enlarged": 10 * number,
    }
    write_shard(shard_path(folder, split, index), arrays, {**attributes, **changes})


def write_cache(folder, **changes):
    """Write a small cache by hand: its plan, some keys of it changed, and shards of that plan."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = make_plan(**changes)
    for split in SPLITS:
        for index in range(len(LENGTHS[split])):
            write_small_shard(folder, split, index, plan)
    write_plan(folder, plan)
    return folder
