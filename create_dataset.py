"""Turn photographs into a cache of Lab and bins that train.py reads.

The data sets, looked for in datasets/<dataset>/ unless --root says otherwise:
  celeba   img_align_celeba.zip, or the folder unpacked from it, and list_eval_partition.txt
           (or .csv); the official splits
  flowers  102flowers.tgz, or the folder jpg/ unpacked from it, and setid.mat; Oxford's large
           part, tstid, is the training split here, valid the val and trnid the test split
  folder   any tree of pictures, split 80/10/10 by a hash of their relative paths
  sample   crops of six photographs that come with scikit-image: to try things, not to learn colour

examples:
  python create_dataset.py --dataset sample
  python create_dataset.py --dataset celeba --root ~/downloads/celeba
  python create_dataset.py --dataset folder --root ~/Pictures --size 128 --name holidays
"""

import argparse
import csv
import hashlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from command_line import make_parser, number, photo_size, run_command
from dataset import (
    FORMAT,
    PLAN,
    SPLITS,
    Cache,
    count_reasons,
    describe,
    plan_digest,
    read_plan,
    shard_path,
    skipped_photos,
    to_bytes,
    write_plan,
    write_shard,
)
from originals import DATASETS, Originals, hash_fraction
from photos import DRAFT, RESAMPLING, PhotoError, fit, open_photo
from quantize import (
    BLOCK,
    ab_to_bins,
    block_mean,
    lab_table,
    lab_to_rgb,
    load_centers,
    palette_digest,
    rgb_to_lab,
)

SHARD_PHOTOS = 2048  # in a shard, at most
SHARD_BYTES = 120_000_000  # likewise
GRAY_LIMIT = 5  # a photograph none of whose |ab| is greater has no colour to learn (Zhang et al.)


# ---- making shards -----------------------------------------------------------------------------
def convert_photo(
    data: bytes, size: int, table: np.ndarray, keep_gray: bool
) -> tuple[np.ndarray, np.ndarray, bool] | None:
    """Turn a picture's bytes into stored L and ab, and whether it was enlarged; None if gray.

    Returns:
        L (S, S) uint8, ab (2, S, S) int8, bool.

    Raises:
        PhotoError: the bytes are no photograph.
    """
    image = open_photo(data, size)
    L, ab = rgb_to_lab(fit(image, size), table)
    if not keep_gray and np.abs(ab + 0.5).max() <= GRAY_LIMIT:
        return None
    return L, ab, min(image.size) < size


@dataclass
class ShardMaker:
    """Makes shards of a cache by its plan; sent to every worker."""

    folder: Path
    plan: dict[str, Any]
    originals: Originals
    table: np.ndarray

    def jobs(self) -> list[tuple[str, int]]:
        """Return split and index of all shards."""
        return [(split, i) for split in SPLITS for i in range(self.plan["shards"][split])]

    def names(self, split: str, index: int) -> list[str]:
        """Return the originals of one shard."""
        first = index * self.plan["shard_photos"]
        return self.originals.splits[split][first : first + self.plan["shard_photos"]]

    def make(self, split: str, index: int, progress: Callable[[int], None]) -> None:
        """Make one shard; `progress` is told of every photograph done."""
        size, names = self.plan["size"], self.names(split, index)
        L = np.empty((len(names), size, size), np.uint8)
        ab = np.empty((len(names), 2, size, size), np.int8)
        kept, skipped, gray, enlarged = [], [], 0, 0
        for name in names:
            try:
                try:
                    data = self.originals.read(name)
                except OSError as error:
                    raise PhotoError(error.strerror or str(error)) from error
                photo = convert_photo(data, size, self.table, self.plan["keep_gray"])
            except PhotoError as error:
                skipped.append((name, str(error)))
            else:
                if photo is None:
                    gray += 1
                else:
                    L[len(kept)], ab[len(kept)], small = photo
                    enlarged += small
                    kept.append(name)
            progress(1)
        self.write(split, index, L[: len(kept)], ab[: len(kept)], kept, skipped, gray, enlarged)

    def write(
        self,
        split: str,
        index: int,
        L: np.ndarray,
        ab: np.ndarray,
        names: list[str],
        skipped: list[tuple[str, str]],
        gray: int,
        enlarged: int,
    ) -> None:
        """Add bins and write the shard."""
        centers = load_centers().numpy()
        means = np.moveaxis(block_mean(ab), -3, -1)  # (N, h, w, 2)
        bins = ab_to_bins(means, centers)
        write_shard(
            shard_path(self.folder, split, index),
            {
                "L": L,
                "ab": ab,
                "bins": bins,
                "names": to_bytes(names),
                "skipped": to_bytes([text for row in skipped for text in row]).reshape(-1, 2),
            },
            {
                **{key: self.plan[key] for key in ("name", "size", "palette", "digest")},
                "split": split,
                "counts": np.bincount(bins.ravel(), minlength=len(centers)),
                "ab_sum": means.sum((0, 1, 2), dtype=np.float64) / (size_of_block(L.shape[1])),
                "gray": gray,
                "enlarged": enlarged,
            },
        )


def size_of_block(size: int) -> int:
    """Return how many blocks a photograph has."""
    return (size // BLOCK) ** 2


def work(maker: ShardMaker, jobs: multiprocessing.Queue, results: multiprocessing.Queue) -> None:
    """Make shards from a queue until it is empty, in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C and ends its workers
    parent = multiprocessing.parent_process().sentinel
    threading.Thread(
        target=lambda: (connection.wait([parent]), os._exit(1)), daemon=True
    ).start()  # a worker never outlives its parent
    try:
        for split, index in iter(jobs.get, None):
            maker.make(split, index, results.put)
        results.put(None)
    except Exception as error:
        results.put(error)


def make_shards(maker: ShardMaker, jobs: list[tuple[str, int]], workers: int) -> Iterator[int]:
    """Make shards in worker processes; yield the numbers of photographs done.

    Raises:
        OSError, ValueError: what a worker met.
        ChildProcessError: a worker was killed.
    """
    queue, results = multiprocessing.Queue(), multiprocessing.Queue()
    for job in jobs + [None] * workers:
        queue.put(job)
    processes = [
        multiprocessing.Process(target=work, args=(maker, queue, results)) for _ in range(workers)
    ]
    try:
        for process in processes:
            process.start()
        running = workers
        while running:
            try:
                result = results.get(timeout=1)
            except Empty:
                if any(process.exitcode for process in processes):
                    raise ChildProcessError(
                        "a worker process was killed, perhaps for want of memory; finished shards "
                        "are kept: run the same command again, with fewer --workers"
                    ) from None
                continue
            if isinstance(result, Exception):
                raise result
            running -= result is None
            yield result or 0
    finally:
        for process in processes:
            process.terminate()
            process.join()


# ---- the whole cache ---------------------------------------------------------------------------
def limit_split(names: list[str], limit: int | None) -> list[str]:
    """Choose at most `limit` names, evenly spread by hash, in order."""
    return sorted(sorted(names, key=hash_fraction)[:limit])


def make_plan(args: argparse.Namespace, originals: Originals) -> dict[str, Any]:
    """Return the plan of a cache: all that decides its content."""
    listing = sorted((name, originals.sizes[name]) for s in SPLITS for name in originals.splits[s])
    bytes_each = args.size**2 * 3 + 2 * size_of_block(args.size)
    shard_photos = max(1, min(SHARD_PHOTOS, SHARD_BYTES // bytes_each))
    plan = {
        "format": FORMAT,
        "name": args.name,
        "dataset": args.dataset,
        "size": args.size,
        "limit": args.limit,
        "keep_gray": args.keep_gray,
        "resampling": RESAMPLING.name.lower(),
        "draft": DRAFT,
        "palette": palette_digest(load_centers()),
        "originals": hashlib.sha256(repr(listing).encode("utf-8", "surrogateescape")).hexdigest()[
            :16
        ],
        "shard_photos": shard_photos,
        "photos": {split: len(names) for split, names in originals.splits.items()},
        "shards": {s: -(-len(names) // shard_photos) for s, names in originals.splits.items()},
    }
    return {**plan, "digest": plan_digest(plan), "complete": False}


def check_splits(counts: dict[str, int], what: str) -> None:
    """Refuse a cache with an empty split."""
    empty = [split for split in SPLITS if not counts[split]]
    if empty:
        found = ", ".join(f"{counts[split]} {split}" for split in SPLITS)
        raise ValueError(
            f"{what}: expected photographs in each split, found {found}; add photographs "
            "(with about 50, every split has some), or a larger --limit"
        )


def begin_cache(folder: Path, plan: dict[str, Any], overwrite: bool) -> None:
    """Put the plan into a cache's folder; go on with the same plan, refuse another.

    Raises:
        FileExistsError: the folder holds a cache made otherwise.
    """
    if (folder / PLAN).exists() and not overwrite:
        old = read_plan(folder)
        if old["digest"] != plan["digest"]:
            keys = [key for key in plan if old.get(key) != plan[key]]
            changes = ", ".join(
                f"{key} {old.get(key)}, now {plan[key]}"
                for key in keys
                if key not in ("digest", "complete")
            )
            raise FileExistsError(
                f"{folder}: made with other options or photographs ({changes}); "
                "remake it with --overwrite, or choose another --name"
            )
        return
    for pattern in (PLAN, "*.h5", "skipped.csv", "colors.png"):
        for path in folder.glob(pattern):
            path.unlink()
    write_plan(folder, plan)


def write_skipped(folder: Path, skipped: list[tuple[str, str]]) -> None:
    """Write skipped.csv."""
    with (folder / "skipped.csv").open("w", newline="", encoding="utf-8", errors="replace") as file:
        csv.writer(file).writerows([("name", "reason"), *skipped])


def plot_colors(path: Path, title: str, counts: np.ndarray) -> None:
    """Draw how often each bin occurs over the ab plane, in its colour and as a heat map."""
    from matplotlib.figure import Figure  # slow to import, and needed here alone

    centers = load_centers()
    share = counts / counts.sum()
    L = torch.full((1, 1, 1, len(centers)), 65.0)
    colors = lab_to_rgb(L, centers.T[None, :, None])[0, :, 0].T.numpy() / 255
    a, b = centers.numpy().T
    figure = Figure(figsize=(11, 5), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    side = np.sqrt(share / share.max()).clip(0.06)  # of each bin's square; every bin is seen
    left.scatter(b, a, s=(15 * side) ** 2, c=colors, marker="s")
    left.set(title="bins in their colour, area by frequency", xlabel="b", ylabel="a")
    seen = share > 0
    right.scatter(b, a, s=150, c="0.92", marker="s")
    heat = right.scatter(b[seen], a[seen], s=150, c=np.log10(share[seen]), marker="s")
    right.set(title=f"log10 of the frequency, {seen.sum()} of {len(a)} bins occur", xlabel="b")
    figure.colorbar(heat, ax=right)
    for axes in (left, right):
        axes.set_aspect("equal")
    figure.savefig(path, dpi=100)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    group = parser.add_argument_group("photographs")
    # fmt: off
    group.add_argument("--dataset", required=True, choices=DATASETS, help="which data set")
    group.add_argument("--root", type=Path, metavar="DIR", help="folder of the originals; default: datasets/<dataset>")
    group.add_argument("--limit", type=number(int, 1), metavar="N", help="at most N photographs of each split; default: all")
    group.add_argument("--keep-gray", action="store_true", help="keep photographs without colour (no |ab| above 5)")
    group.add_argument("--max-skipped", type=number(float, 0, 100), default=10, metavar="PERCENT", help="fail if more photographs are bad")
    group = parser.add_argument_group("cache")
    group.add_argument("--name", help="the cache's name; default: the data set's, or the last part of --root for folder")
    group.add_argument("--size", type=photo_size, default=64, metavar="PX", help="side of the cached photographs, a multiple of 4")
    group.add_argument("--cache", type=Path, default=Path("cache"), metavar="DIR", help="folder of all caches")
    group.add_argument("--overwrite", action="store_true", help="remake a cache made with other options or photographs")
    group = parser.add_argument_group("runtime")
    group.add_argument("--workers", type=number(int, 1), default=os.cpu_count(), metavar="N", help="worker processes")
    # fmt: on
    args = parser.parse_args()
    args.root = args.root or Path("datasets") / args.dataset
    if args.name is None:
        args.name = args.root.resolve().name if args.dataset == "folder" else args.dataset
    if not args.name or Path(args.name).name != args.name or args.name in (".", ".."):
        parser.error(f"--name must be a plain folder name, got {args.name!r}")
    return args


def report(cache: Cache, originals: Originals, seconds: float, max_skipped: float) -> None:
    """Write skipped.csv and colors.png, print the closing table, and fail if too much is bad."""
    skipped = skipped_photos(cache)
    write_skipped(cache.folder, skipped)
    plot_colors(
        cache.folder / "colors.png",
        f"{cache.name}, {cache.size} px",
        cache.split("train").counts.numpy(),
    )
    print(f"\n{describe(cache)}")
    print(
        f"left out: {len(skipped):,} skipped, {originals.missing:,} missing, {originals.copies:,} copies"
    )
    if skipped:
        print(count_reasons(skipped))
    print(f"{cache.folder}: done in {seconds:.1f} s")
    total = sum(cache.plan["photos"].values())
    if 100 * len(skipped) > max_skipped * total:
        raise ValueError(
            f"{len(skipped)} of {total} photographs were skipped, more than --max-skipped "
            f"{max_skipped:g} percent; see {cache.folder / 'skipped.csv'}"
        )


def main() -> None:
    """Make a cache."""
    args = parse_args()
    start = time.monotonic()
    folder = args.cache / f"{args.name}-{args.size}"
    folder.mkdir(parents=True, exist_ok=True)
    originals = DATASETS[args.dataset](args.root, folder)
    try:
        splits = originals.splits
        originals.splits = {split: limit_split(splits[split], args.limit) for split in SPLITS}
        check_splits({split: len(names) for split, names in splits.items()}, str(args.root))
        plan = make_plan(args, originals)
        begin_cache(folder, plan, args.overwrite)
        maker = ShardMaker(folder, plan, originals, table=None)
        jobs = [job for job in maker.jobs() if not shard_path(folder, *job).exists()]
        if jobs:
            maker.table = lab_table()
        total = sum(len(maker.names(*job)) for job in jobs)
        with tqdm(total=total, unit=" photos", desc=folder.name, disable=None) as bar:
            for done in make_shards(maker, jobs, min(args.workers, len(jobs))):
                bar.update(done)
    finally:
        for path in originals.temporary:
            path.unlink(missing_ok=True)
    write_plan(folder, {**plan, "complete": True})
    report(Cache(folder), originals, time.monotonic() - start, args.max_skipped)


if __name__ == "__main__":
    run_command(main, "finished shards are kept; run the same command again to go on")
