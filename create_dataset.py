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
  python create_dataset.py --dataset flowers --download
  python create_dataset.py --dataset celeba --root ~/downloads/celeba
  torchrun --nproc-per-node 4 create_dataset.py --dataset folder --root /shared/pictures
  python create_dataset.py --dataset folder --root ~/Pictures --size 128 --name holidays
"""

import argparse
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image
from tqdm import tqdm

from common.command_line import DEFAULT_CACHE, make_parser, number, photo_size, run_command
from common.files import check_space, half_written, locked, write_csv, write_whole
from common.plots import plot_colors
from common.processes import Ranks, default_workers
from common.workers import share
from dataset import Cache, count_reasons, describe, skipped_photos
from photo_files.opening import RESAMPLING, PhotoError, fit, open_photo
from quantize import (
    BLOCK,
    ab_to_bins,
    block_mean,
    lab_table,
    load_centers,
    palette_digest,
    rgb_to_lab,
)
from shards.originals import DATASETS, UNPACKED, Originals, download_flowers, hash_fraction
from shards.plan import SPLITS, Plan, begin_cache, complete_plan, read_plan
from shards.shard import photo_bytes, shard_path, to_bytes, write_shard

ALONE = Ranks()
SHARD_PHOTOS = 2048  # in a shard, at most
SHARD_BYTES = 120_000_000  # likewise
PROGRESS_STEP = 64  # photographs between two steps of the bar
BINS_AT_ONCE = (
    64  # photographs whose bins are found together; the sum ab_sum, on disk, rounds by it
)
RECORDED = ("name", "size", "palette", "digest", "resampling", "decoding")  # in each shard
GRAY_LIMIT = 5  # a photograph none of whose |ab| is greater has no colour to learn (Zhang et al.)


# ---- making shards -----------------------------------------------------------------------------
def is_gray(ab: np.ndarray) -> bool:
    """Tell whether a photograph, stored ab (2, S, S), has no colour to learn."""
    return int(ab.min()) + 0.5 >= -GRAY_LIMIT and int(ab.max()) + 0.5 <= GRAY_LIMIT


def find_bins(ab: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find each block's bin, a batch of photographs at a time: they stay in the processor's cache.

    Args:
        ab: (N, 2, S, S) int8, stored.

    Returns:
        Bins (N, S/4, S/4) uint16, and the sum over the photographs of their mean ab, (2,).
    """
    N, _, S, _ = ab.shape
    centers, ab_sum = load_centers().numpy(), np.zeros(2)
    bins = np.empty((N, S // BLOCK, S // BLOCK), np.uint16)
    for first in range(0, N, BINS_AT_ONCE):
        means = np.moveaxis(block_mean(ab[first : first + BINS_AT_ONCE]), -3, -1)  # (64, h, w, 2)
        bins[first : first + BINS_AT_ONCE] = ab_to_bins(means, centers)
        ab_sum += means.mean((1, 2), dtype=np.float64).sum(0)
    return bins, ab_sum


@dataclass
class ShardMaker:
    """Makes the shards of a cache by its plan, in any process."""

    folder: Path
    plan: Plan
    originals: Originals
    table: np.ndarray | None = None  # from `quantize.lab_table`

    def jobs(self, ranks: Ranks = ALONE) -> list[tuple[str, int]]:
        """Return split and index of each shard of a rank that is not made yet."""
        jobs = [(split, i) for split in SPLITS for i in range(self.plan.shards[split])]
        return [job for job in ranks.part(jobs) if not shard_path(self.folder, *job).exists()]

    def names(self, split: str, index: int) -> list[str]:
        """Return the originals of one shard."""
        first = index * self.plan.shard_photos
        return self.originals.splits[split][first : first + self.plan.shard_photos]

    def read(self, name: str) -> Image.Image:
        """Decode one original.

        Raises:
            PhotoError: with the reason why it cannot be.
        """
        exact = self.plan.decoding == "exact"
        return open_photo(self.originals.read(name), None if exact else self.plan.size)

    def take(
        self, names: list[str], progress: Callable[[int], None]
    ) -> tuple[dict[str, np.ndarray], dict[str, int]]:
        """Read originals; return a shard's arrays without bins, and what attributes count."""
        size, n = self.plan.size, 0  # n are kept so far
        L = np.empty((len(names), size, size), np.uint8)
        ab = np.empty((len(names), 2, size, size), np.int8)
        kept, skipped, counted = [], [], {"gray": 0, "enlarged": 0}
        for done, name in enumerate(names, start=1):
            if done % PROGRESS_STEP == 0:
                progress(PROGRESS_STEP)
            try:
                image = self.read(name)
            except PhotoError as error:
                skipped += [name, str(error)]
                continue
            L[n], ab[n] = rgb_to_lab(fit(image, size), self.table)
            if is_gray(ab[n]) and not self.plan.keep_gray:
                counted["gray"] += 1
                continue
            counted["enlarged"] += min(image.size) < size
            kept.append(name)
            n += 1
        progress(len(names) % PROGRESS_STEP)
        texts = {"names": to_bytes(kept), "skipped": to_bytes(skipped).reshape(-1, 2)}
        return {"L": L[:n], "ab": ab[:n], **texts}, counted

    def __call__(self, job: tuple[str, int], progress: Callable[[int], None]) -> None:
        """Make one shard; `progress` is told how many photographs are done."""
        arrays, counted = self.take(self.names(*job), progress)
        bins, ab_sum = find_bins(arrays["ab"])
        attributes = {
            **{key: getattr(self.plan, key) for key in RECORDED},
            "split": job[0],
            "index": job[1],
            "counts": np.bincount(bins.ravel(), minlength=len(load_centers())),
            "ab_sum": ab_sum,
            **counted,
        }
        write_shard(shard_path(self.folder, *job), {**arrays, "bins": bins}, attributes)


# ---- the whole cache ---------------------------------------------------------------------------
def limit_split(names: list[str], limit: int | None) -> list[str]:
    """Choose at most `limit` names, evenly spread by hash, in order."""
    return names if limit is None else sorted(sorted(names, key=hash_fraction)[:limit])


def make_plan(args: argparse.Namespace, originals: Originals) -> Plan:
    """Return the plan of a cache."""
    shard_photos = max(1, min(SHARD_PHOTOS, SHARD_BYTES // photo_bytes(args.size)))
    photos = {split: len(names) for split, names in originals.splits.items()}
    return Plan(
        name=args.name,
        dataset=args.dataset,
        size=args.size,
        limit=args.limit,
        keep_gray=args.keep_gray,
        resampling=RESAMPLING.name.lower(),
        decoding="exact" if args.exact else "reduced",
        originals=originals.digest(),
        shard_photos=shard_photos,
        photos=photos,
        shards={split: -(-number // shard_photos) for split, number in photos.items()},
        palette=palette_digest(load_centers()),
    )


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
    skipped, total = len(skipped_photos(cache)), sum(cache.plan.photos.values())
    if 100 * skipped > max_skipped * total:
        raise ValueError(
            f"{skipped} of {total} photographs were skipped, more than --max-skipped "
            f"{max_skipped:g} percent; see {cache.folder / 'skipped.csv'}, mend them, delete {cache.folder} and run it again, or allow more"
        )


def parse_args(ranks: Ranks) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    group = parser.add_argument_group("photographs")
    # fmt: off
    group.add_argument("--dataset", required=True, choices=DATASETS, help="which data set")
    group.add_argument("--root", type=Path, metavar="DIR", help="folder of the originals; default: datasets/<dataset>")
    group.add_argument("--download", action="store_true", help="download flowers to --root first (needs pooch)")
    group.add_argument("--limit", type=number(int, 1), metavar="N", help="at most N photographs of each split; default: all")
    group.add_argument("--keep-gray", action="store_true", help="keep photographs without colour (no |ab| above 5)")
    group.add_argument("--max-skipped", type=number(float, 0, 100), default=10, metavar="PERCENT", help="fail if more of the photographs are bad")
    group = parser.add_argument_group("cache")
    group.add_argument("--name", help="the cache's name; default: the data set's, or the last part of --root for folder")
    group.add_argument("--size", type=photo_size, default=64, metavar="PX", help="side of the cached photographs, a multiple of 4")
    group.add_argument("--cache", type=Path, default=DEFAULT_CACHE, metavar="DIR", help="folder of all caches")
    group.add_argument("--exact", action="store_true", help="decode JPEGs in full before they are resized, instead of at reduced scale: slower")
    group.add_argument("--overwrite", action="store_true", help="remake a cache made with other options or photographs")
    group = parser.add_argument_group("runtime")
    group.add_argument("--workers", type=number(int, 1), default=default_workers(), metavar="N", help="worker processes")
    # fmt: on
    args = parser.parse_args()
    args.root = args.root or Path("datasets") / args.dataset
    if args.name is None:
        args.name = args.root.resolve().name if args.dataset == "folder" else args.dataset
    if not args.name or Path(args.name).name != args.name or args.name in (".", ".."):
        parser.error(f"--name must be a plain folder name, got {args.name!r}")
    if args.download and args.dataset != "flowers":
        parser.error(f"--download is for flowers, got --dataset {args.dataset}")
    if args.overwrite and ranks.several:
        parser.error("--overwrite is for one process; with ranks, delete the cache's folder first")
    return args


def report(cache: Cache, originals: Originals, seconds: float) -> None:
    """Write skipped.csv and colors.png, and print the closing table."""
    skipped, counts = skipped_photos(cache), cache.split("train").counts.numpy()
    title = f"{cache.name}, {cache.size} px"
    write_csv(cache.folder / "skipped.csv", [("name", "reason"), *skipped])
    write_whole(cache.folder / "colors.png", lambda path: plot_colors(path, title, counts))
    left_out = {
        "skipped": len(skipped),
        "missing": originals.missing,
        "copies": originals.copies,
        "of other kinds": originals.others,
    }
    print(describe(cache))
    print("left out: " + ", ".join(f"{number:,} {why}" for why, number in left_out.items()))
    print(count_reasons(skipped), end="")
    print(f"{cache.folder}: {seconds:.1f} s")


def make_shards(maker: ShardMaker, workers: int, ranks: Ranks) -> None:
    """Make this rank's shards that are not there yet."""
    jobs = maker.jobs(ranks)
    remove_half_written(maker, jobs)  # by a killed process
    photos = sum(len(maker.names(*job)) for job in maker.jobs())  # of all ranks
    check_space(maker.folder, photos * photo_bytes(maker.plan.size))
    total = sum(len(maker.names(*job)) for job in jobs)
    if jobs:
        maker.table = lab_table()  # here: forked workers share its memory
    quiet = None if ranks.first else True  # None: where it is no terminal
    with tqdm(total=total, unit=" photos", desc=maker.folder.name, disable=quiet) as bar:
        try:
            for done in share(maker, jobs, min(workers, len(jobs))):
                bar.update(done)
        finally:
            remove_half_written(maker, jobs)  # by a worker that was ended


def remove_half_written(maker: ShardMaker, jobs: list[tuple[str, int]]) -> None:
    """Delete what processes left of shards that they did not finish."""
    for job in jobs:
        half_written(shard_path(maker.folder, *job)).unlink(missing_ok=True)


def finish_cache(maker: ShardMaker, max_skipped: float, start: float, ranks: Ranks) -> None:
    """Check, report and complete a cache, if no rank has shards left to make."""
    if left := len(maker.jobs()):
        print(
            f"rank {ranks.rank} of {ranks.world_size} has made its shards; others have {left} left to make"
        )
        return
    if not ranks.first and read_plan(maker.folder).complete:
        return  # another rank has reported
    for path in maker.folder.glob("*.tmp"):
        path.unlink()  # of killed processes
    for path in maker.folder.glob(f"{UNPACKED}*"):
        shutil.rmtree(path)
    cache = Cache(maker.folder, finished=False)
    check_splits({split: len(cache.split(split)) for split in SPLITS}, str(maker.folder))
    report(cache, maker.originals, time.monotonic() - start)
    try:
        check_skipped(cache, max_skipped)
    except ValueError:
        complete_plan(maker.folder, maker.plan, False)  # it may have been complete by a laxer limit
        raise
    complete_plan(maker.folder, maker.plan)


def main() -> None:
    """Make a cache, or this rank's part of one."""
    ranks, start = Ranks.find(), time.monotonic()
    args = parse_args(ranks)
    folder = args.cache / f"{args.name}-{args.size}"
    if args.download:
        download_flowers(args.root)
    with locked(folder, ranks.rank, ranks.world_size):
        originals = DATASETS[args.dataset](args.root, folder)
        for split, names in originals.splits.items():
            originals.splits[split] = limit_split(names, args.limit)
        check_splits({s: len(n) for s, n in originals.splits.items()}, str(args.root))
        maker = ShardMaker(folder, make_plan(args, originals), originals)
        originals.sizes.clear()  # for the plan alone; a hundred bytes for each photograph
        with FileLock(folder / ".plan.lock"):
            begin_cache(folder, maker.plan, args.overwrite)
        make_shards(maker, args.workers, ranks)
        with FileLock(folder / ".plan.lock"):
            finish_cache(maker, args.max_skipped, start, ranks)


if __name__ == "__main__":
    run_command(
        main, "finished shards are kept; run the same command again, without --overwrite, to go on"
    )
