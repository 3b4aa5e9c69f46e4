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
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
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
    short_digest,
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
from workers import share

SHARD_PHOTOS = 2048  # in a shard, at most
SHARD_BYTES = 120_000_000  # likewise
GRAY_LIMIT = 5  # a photograph none of whose |ab| is greater has no colour to learn (Zhang et al.)


# ---- making shards -----------------------------------------------------------------------------
def is_gray(ab: np.ndarray) -> bool:
    """Tell whether a photograph, stored ab (2, S, S), has no colour to learn."""
    return np.abs(ab + 0.5).max() <= GRAY_LIMIT


@dataclass
class ShardMaker:
    """Makes the shards of a cache by its plan, in any process."""

    folder: Path
    plan: dict[str, Any]
    originals: Originals
    table: np.ndarray | None = None  # from `quantize.lab_table`

    def jobs(self) -> list[tuple[str, int]]:
        """Return split and index of each shard that is not made yet."""
        jobs = [(split, i) for split in SPLITS for i in range(self.plan["shards"][split])]
        return [job for job in jobs if not shard_path(self.folder, *job).exists()]

    def names(self, split: str, index: int) -> list[str]:
        """Return the originals of one shard."""
        first = index * self.plan["shard_photos"]
        return self.originals.splits[split][first : first + self.plan["shard_photos"]]

    def __call__(self, job: tuple[str, int], progress: Callable[[int], None]) -> None:
        """Make one shard; `progress` is told of every photograph done."""
        size, names = self.plan["size"], self.names(*job)
        L = np.empty((len(names), size, size), np.uint8)
        ab = np.empty((len(names), 2, size, size), np.int8)
        kept, skipped, gray, enlarged = [], [], 0, 0
        for name in names:
            progress(1)
            try:
                image = open_photo(self.originals.read(name), size)
            except PhotoError as error:
                skipped.append((name, str(error)))
                continue
            n = len(kept)
            L[n], ab[n] = rgb_to_lab(fit(image, size), self.table)
            if is_gray(ab[n]) and not self.plan["keep_gray"]:
                gray += 1
                continue
            enlarged += min(image.size) < size
            kept.append(name)
        n = len(kept)
        centers = load_centers().numpy()
        means = np.moveaxis(block_mean(ab[:n]), -3, -1)  # (N, h, w, 2)
        bins = ab_to_bins(means, centers)
        arrays = {
            "L": L[:n],
            "ab": ab[:n],
            "bins": bins,
            "names": to_bytes(kept),
            "skipped": to_bytes([text for row in skipped for text in row]).reshape(-1, 2),
        }
        attributes = {
            **{key: self.plan[key] for key in ("name", "size", "palette", "digest")},
            "split": job[0],
            "counts": np.bincount(bins.ravel(), minlength=len(centers)),
            "ab_sum": means.mean((1, 2), dtype=np.float64).sum(0),  # of the photographs' means
            "gray": gray,
            "enlarged": enlarged,
        }
        write_shard(shard_path(self.folder, *job), arrays, attributes)


# ---- the whole cache ---------------------------------------------------------------------------
def limit_split(names: list[str], limit: int | None) -> list[str]:
    """Choose at most `limit` names, evenly spread by hash, in order."""
    return sorted(sorted(names, key=hash_fraction)[:limit])


def make_plan(args: argparse.Namespace, originals: Originals) -> dict[str, Any]:
    """Return the plan of a cache: all that decides its content."""
    listing = sorted((s, n, originals.sizes[n]) for s in SPLITS for n in originals.splits[s])
    bytes_each = 3 * args.size**2 + 2 * (args.size // BLOCK) ** 2
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
        "originals": short_digest(repr(listing)),
        "shard_photos": shard_photos,
        "photos": {split: len(names) for split, names in originals.splits.items()},
        "shards": {s: -(-len(names) // shard_photos) for s, names in originals.splits.items()},
    }
    return {**plan, "digest": plan_digest(plan), "complete": False}


def check_splits(counts: dict[str, int], where: str) -> None:
    """Refuse a data set with an empty split.

    Raises:
        ValueError: with what to do.
    """
    if not all(counts.values()):
        found = ", ".join(f"{number} {split}" for split, number in counts.items())
        raise ValueError(
            f"{where}: expected photographs with colour in each split, found {found}; add "
            "photographs (with about 50 in a folder, every split has some) or keep gray ones by "
            "--keep-gray, and run it again with --overwrite"
        )


def check_skipped(cache: Cache, max_skipped: float) -> None:
    """Refuse a cache if too many of its photographs were bad.

    Raises:
        ValueError: with where to look.
    """
    skipped, total = len(skipped_photos(cache)), sum(cache.plan["photos"].values())
    if 100 * skipped > max_skipped * total:
        raise ValueError(
            f"{skipped} of {total} photographs were skipped, more than --max-skipped "
            f"{max_skipped:g} percent; see {cache.folder / 'skipped.csv'}, mend them and run it again with --overwrite, or allow more"
        )


def begin_cache(folder: Path, plan: dict[str, Any], overwrite: bool) -> None:
    """Put the plan into a cache's folder; go on with the same plan, refuse another.

    Raises:
        FileExistsError: the folder holds a cache made otherwise.
    """
    folder.mkdir(parents=True, exist_ok=True)
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


def write_skipped(path: Path, skipped: list[tuple[str, str]]) -> None:
    """Write names and reasons of skipped photographs."""
    with path.open("w", newline="", encoding="utf-8", errors="replace") as file:
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
    group.add_argument("--max-skipped", type=number(float, 0, 100), default=10, metavar="PERCENT", help="fail if more of the photographs are bad")
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


def report(cache: Cache, originals: Originals, seconds: float) -> None:
    """Write skipped.csv and colors.png, and print the closing table."""
    skipped, counts = skipped_photos(cache), cache.split("train").counts.numpy()
    write_skipped(cache.folder / "skipped.csv", skipped)
    plot_colors(cache.folder / "colors.png", f"{cache.name}, {cache.size} px", counts)
    left_out = {"skipped": len(skipped), "missing": originals.missing, "copies": originals.copies}
    print(describe(cache))
    print("left out: " + ", ".join(f"{number:,} {why}" for why, number in left_out.items()))
    print(count_reasons(skipped), end="")
    print(f"{cache.folder}: {seconds:.1f} s")


def main() -> None:
    """Make a cache."""
    args = parse_args()
    start = time.monotonic()
    folder = args.cache / f"{args.name}-{args.size}"
    originals = DATASETS[args.dataset](args.root, folder)
    try:
        for split, names in originals.splits.items():
            originals.splits[split] = limit_split(names, args.limit)
        check_splits({s: len(names) for s, names in originals.splits.items()}, str(args.root))
        plan = make_plan(args, originals)
        begin_cache(folder, plan, args.overwrite)
        maker = ShardMaker(folder, plan, originals)
        jobs = maker.jobs()
        if jobs:
            maker.table = lab_table()  # here: forked workers share its memory
        total = sum(len(maker.names(*job)) for job in jobs)
        with tqdm(total=total, unit=" photos", desc=folder.name, disable=None) as bar:
            for done in share(maker, jobs, min(args.workers, len(jobs))):
                bar.update(done)
    finally:
        for path in originals.temporary:
            path.unlink(missing_ok=True)
    cache = Cache(folder, finished=False)
    check_splits({split: len(cache.split(split)) for split in SPLITS}, str(folder))
    report(cache, originals, time.monotonic() - start)
    check_skipped(cache, args.max_skipped)
    write_plan(folder, {**plan, "complete": True})


if __name__ == "__main__":
    run_command(
        main, "finished shards are kept; run the same command again, without --overwrite, to go on"
    )
