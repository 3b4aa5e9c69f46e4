"""Make a cache of Lab and bins from photographs, for train.py to read.

The data sets, each in datasets/<dataset>/ or where --root says:
  celeba   img_align_celeba.zip or its folder, and list_eval_partition.txt (or .csv); the
           official splits
  flowers  102flowers.tgz or its folder jpg/, and setid.mat; Oxford's large part, tstid, is the
           training split here, valid the val and trnid the test split
  folder   any tree of pictures, split 80/10/10 by a hash of their relative paths
  sample   crops of six photographs that come with scikit-image: to try things, not to learn color

examples:
  python create_dataset.py --dataset sample
  python create_dataset.py --dataset flowers --download
  python create_dataset.py --dataset celeba --root ~/downloads/celeba
  torchrun --nproc-per-node 4 create_dataset.py --dataset folder --root /shared/pictures
  python create_dataset.py --dataset folder --root ~/Pictures --size 128 --name holidays
"""

if __name__ == "__main__":
    from common.starting import prepare

    prepare()  # before torch is imported

import argparse
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image
from tqdm import tqdm

from common.command_line import DEFAULT_CACHE, make_parser, number, photo_size, run_command
from common.files import check_space, half_written, locked, write_csv
from common.plots import draw, plot_colors
from common.processes import ALONE, Ranks, default_workers
from common.workers import WorkerCrash, find_crashes, run_in_processes
from dataset import Cache, count_reasons, describe, skipped_photos
from photo_files import PhotoError
from photo_files.finding import allow_ghostscript
from photo_files.opening import CRASHES, RESAMPLING, fit, open_photo
from quantize import BLOCK, ab_to_bins, block_mean, lab_table, load_centers, rgb_to_lab
from shards.originals import DATASETS, UNPACKED, Originals, download_flowers, hash_fraction
from shards.plan import SPLITS, Plan, begin_cache, read_plan, write_plan
from shards.shard import photo_bytes, shard_path, to_bytes, write_shard

SHARD_PHOTOS = 2048  # largest number of photographs in a shard
SHARD_BYTES = 120_000_000  # largest size of their pixels
PROGRESS_STEP = 64  # photographs between two steps of the bar
BINS_AT_ONCE = 64  # photographs; the rounding of ab_sum, which is on disk, depends on it
RECORDED = ("name", "size", "palette", "digest", "resampling", "decoding")  # in each shard
BY_PROGRAM = " and Ghostscript"  # at the end of a plan's decoding
GRAY_LIMIT = 5  # a photograph without a greater |ab| has no color to learn (Zhang et al.)


# ---- making shards -----------------------------------------------------------------------------
def is_gray(ab: np.ndarray) -> bool:
    """Tell whether a photograph, stored ab (2, S, S), has no color to learn."""
    return int(ab.min()) + 0.5 >= -GRAY_LIMIT and int(ab.max()) + 0.5 <= GRAY_LIMIT


def find_bins(ab: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find each block's bin from stored ab (N, 2, S, S) int8.

    It takes a few photographs at a time, which then stay in the processor's cache. Returns bins
    (N, S/4, S/4) uint16, and the sum over the photographs of their mean ab, (2,).
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
    """Makes the shards that a cache's plan lists, in any process."""

    folder: Path
    plan: Plan
    originals: Originals
    table: np.ndarray | None = None  # from `quantize.lab_table`
    suspected: set[tuple[str, int]] = field(default_factory=set)  # jobs that may crash a process

    def jobs(self, ranks: Ranks = ALONE) -> list[tuple[str, int]]:
        """Return split and index of each shard that a rank has yet to make."""
        jobs = [(split, i) for split in SPLITS for i in range(self.plan.shards[split])]
        return [job for job in ranks.part(jobs) if not shard_path(self.folder, *job).exists()]

    def names(self, split: str, index: int) -> list[str]:
        """Return the originals of one shard."""
        first = index * self.plan.shard_photos
        return self.originals.splits[split][first : first + self.plan.shard_photos]

    def open(self, name: str) -> Image.Image:
        """Decode an original; raise PhotoError if it is skipped."""
        if self.plan.decoding.endswith(BY_PROGRAM):
            allow_ghostscript()  # not yet in a worker process that was not forked
        exact = self.plan.decoding.startswith("exact")
        return open_photo(self.originals.read(name), None if exact else self.plan.size)

    def read(
        self, names: list[str], progress: Callable[[int], None], careful: bool = False
    ) -> tuple[dict[str, np.ndarray], dict[str, int]]:
        """Read originals; return a shard's arrays without bins, and counts of gray and enlarged."""
        size, n = self.plan.size, 0  # n: photographs kept so far
        L = np.empty((len(names), size, size), np.uint8)
        ab = np.empty((len(names), 2, size, size), np.int8)
        kept, skipped, counted = [], [], {"gray": 0, "enlarged": 0}
        crashes = find_crashes([partial(self.open, name) for name in names]) if careful else ()
        for done, name in enumerate(names, start=1):
            if done % PROGRESS_STEP == 0:
                progress(PROGRESS_STEP)
            try:
                if done - 1 in crashes:
                    raise PhotoError(CRASHES)
                image = self.open(name)
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
        """Make one shard; call `progress` with the number of photographs read since the last."""
        path = shard_path(self.folder, *job)
        half_written(path).touch()  # so that a crash leaves the names of jobs that had begun
        arrays, counted = self.read(self.names(*job), progress, job in self.suspected)
        arrays["bins"], ab_sum = find_bins(arrays["ab"])
        attributes = {
            **{key: getattr(self.plan, key) for key in RECORDED},
            "split": job[0],
            "index": job[1],
            "counts": np.bincount(arrays["bins"].ravel(), minlength=len(load_centers())),
            "ab_sum": ab_sum,
            **counted,
        }
        write_shard(path, arrays, attributes)


# ---- the whole cache ---------------------------------------------------------------------------
def make_plan(args: argparse.Namespace, originals: Originals) -> Plan:
    """Return the plan of a cache."""
    options = {key: getattr(args, key) for key in ("name", "dataset", "size", "limit", "keep_gray")}
    shard_photos = max(1, min(SHARD_PHOTOS, SHARD_BYTES // photo_bytes(args.size)))
    photos = {split: len(names) for split, names in originals.splits.items()}
    return Plan(
        **options,
        resampling=RESAMPLING.name.lower(),
        decoding=("exact" if args.exact else "reduced") + BY_PROGRAM * args.ghostscript,
        originals=originals.digest(),
        shard_photos=shard_photos,
        photos=photos,
        shards={split: -(-count // shard_photos) for split, count in photos.items()},
    )


def check_splits(counts: dict[str, int], where: str, left_out: Sequence[str] = ()) -> None:
    """Raise ValueError if a split is empty; it says what was left out that may be meant."""
    if not all(counts.values()):
        found = ", ".join(f"{count} {split}" for split, count in counts.items())
        found = "; ".join([found, *(f"left out: {line}" for line in left_out)])
        raise ValueError(
            f"{where}: expected photographs with color in each split, found {found}; add "
            "photographs (about 50 in a folder fill each split) or keep gray ones by --keep-gray; "
            "then run the command again with --overwrite"
        )


def mark_complete(cache: Cache, max_skipped: float) -> None:
    """Mark a cache as complete; raise ValueError if too many of its photographs were skipped."""
    skipped, total = len(skipped_photos(cache)), sum(cache.plan.photos.values())
    complete = 100 * skipped <= max_skipped * total
    # written in either case: an earlier run with a larger --max-skipped may have completed it
    write_plan(cache.folder, replace(cache.plan, complete=complete))
    if not complete:
        raise ValueError(
            f"{skipped} of {total} photographs were skipped, more than --max-skipped "
            f"{max_skipped:g} percent; see {cache.folder / 'skipped.csv'}, repair them, delete "
            f"{cache.folder} and run the command again, or raise --max-skipped"
        )


def report_cache(cache: Cache, originals: Originals, seconds: float) -> None:
    """Write skipped.csv, and print the closing table."""
    skipped = skipped_photos(cache)
    write_csv(cache.folder / "skipped.csv", [("name", "reason"), *skipped])
    print(describe(cache))
    print(
        f"left out: {len(skipped):,} skipped, {originals.missing:,} missing, "
        f"{originals.copies:,} copies, {originals.others:,} of other kinds"
    )
    print(count_reasons(skipped), end="")
    for line in originals.left_out:
        print(f"left out: {line}")
    print(f"{cache.folder}: {seconds:.1f} s")


def make_shards(maker: ShardMaker, workers: int, ranks: Ranks) -> None:
    """Make the shards that this rank has yet to make."""
    jobs = maker.jobs(ranks)
    remove_half_written(maker, jobs)  # by a killed process
    total = sum(len(maker.names(*job)) for job in jobs)
    photos = sum(len(maker.names(*job)) for job in maker.jobs())  # of all ranks
    check_space(maker.folder, photos * photo_bytes(maker.plan.size))
    if jobs:
        maker.table = lab_table()  # before the workers are forked, which share its memory
    quiet = None if ranks.first else True  # None: a bar in a terminal alone
    with tqdm(total=total, unit=" photos", desc=maker.folder.name, disable=quiet) as bar:
        while jobs:  # again after a crash
            try:
                for done in run_in_processes(maker, jobs, min(workers, len(jobs))):
                    bar.update(done)
            except WorkerCrash:
                suspect(maker, jobs)
            finally:
                remove_half_written(maker, jobs)  # by a worker that we ended
            jobs = maker.jobs(ranks)
            bar.n = total - sum(len(maker.names(*job)) for job in jobs)


def suspect(maker: ShardMaker, jobs: list[tuple[str, int]]) -> None:
    """After a crash, let the photographs of the jobs that had begun be tried before they are read.

    Raise ChildProcessError if that has been done.
    """
    begun = {job for job in jobs if half_written(shard_path(maker.folder, *job)).exists()}
    if begun <= maker.suspected:
        shards = ", ".join(shard_path(maker.folder, *job).name for job in sorted(begun))
        raise ChildProcessError(
            f"a worker process crashed while it made {shards or 'a shard'}, and not by reading its "
            "photographs; finished shards are kept: run the command again, with fewer --workers"
        )
    maker.suspected |= begun
    tqdm.write("a photograph crashed its decoder: looking for it")


def remove_half_written(maker: ShardMaker, jobs: list[tuple[str, int]]) -> None:
    """Delete the temporary files of shards that processes did not finish."""
    for job in jobs:
        half_written(shard_path(maker.folder, *job)).unlink(missing_ok=True)


def finish_cache(maker: ShardMaker, max_skipped: float, start: float, ranks: Ranks) -> None:
    """Check, report and complete a cache, if no rank has shards left to make."""
    folder, left = maker.folder, len(maker.jobs())
    if left:
        rank = f"rank {ranks.rank} of {ranks.world_size}"
        print(f"{rank} has made its shards; others have {left} left to make")
        return
    if not ranks.first and read_plan(folder).complete:
        return  # another rank has reported
    for path in folder.glob("*.tmp"):
        path.unlink()  # of killed processes
    cache = Cache(folder, finished=False)
    check_splits({split: len(cache.split(split)) for split in SPLITS}, str(folder))
    report_cache(cache, maker.originals, time.monotonic() - start)
    mark_complete(cache, max_skipped)
    title, counts = f"{cache.name}, {cache.size} px", cache.split("train").counts.numpy()
    draw(folder / "colors.png", lambda path: plot_colors(path, title, counts))


# ---- command line ------------------------------------------------------------------------------
def parse_args(ranks: Ranks) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    group = parser.add_argument_group("photographs")
    # fmt: off
    group.add_argument("--dataset", required=True, choices=DATASETS, help="data set")
    group.add_argument("--root", type=Path, metavar="DIR", help="folder of the originals; default: datasets/<dataset>")
    group.add_argument("--download", action="store_true", help="download flowers to --root first (needs pooch)")
    group.add_argument("--limit", type=number(int, 1), metavar="N", help="largest number of photographs of each split; default: all")
    group.add_argument("--keep-gray", action="store_true", help="keep photographs without color (no |ab| above 5)")
    group.add_argument("--ghostscript", action="store_true", help="also read EPS, by the program Ghostscript: for files that you trust")
    group.add_argument("--max-skipped", type=number(float, 0, 100), default=10, metavar="PERCENT", help="fail if more of the photographs are skipped")
    group = parser.add_argument_group("cache")
    group.add_argument("--name", help="name of the cache; default: that of the data set, or of the folder --root")
    group.add_argument("--size", type=photo_size, default=64, metavar="PX", help="side of the cached photographs, a multiple of 4")
    group.add_argument("--cache", type=Path, default=DEFAULT_CACHE, metavar="DIR", help="folder of all caches")
    group.add_argument("--exact", action="store_true", help="decode JPEGs at full scale before resizing, not at reduced scale: slower")
    group.add_argument("--overwrite", action="store_true", help="replace a cache made with other options or photographs")
    group = parser.add_argument_group("runtime")
    group.add_argument("--workers", type=number(int, 1), default=default_workers(), metavar="N", help="number of worker processes")
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
        parser.error("--overwrite is for one process; delete the cache's folder instead")
    return args


def main() -> None:
    """Make a cache, or this rank's part of one."""
    ranks, start = Ranks.find(), time.monotonic()
    args = parse_args(ranks)
    folder = args.cache / f"{args.name}-{args.size}"
    if args.ghostscript:
        allow_ghostscript()  # before the work: it may not be there
    if args.download:
        download_flowers(args.root)
    with locked(folder, ranks.rank, ranks.world_size):
        try:
            originals = DATASETS[args.dataset](args.root, folder)
            if args.limit:  # the first by hash: evenly spread
                for split, names in originals.splits.items():
                    originals.splits[split] = sorted(sorted(names, key=hash_fraction)[: args.limit])
            counts = {split: len(names) for split, names in originals.splits.items()}
            check_splits(counts, str(args.root), originals.left_out)
            maker = ShardMaker(folder, make_plan(args, originals), originals)
            originals.sizes.clear()  # for the plan alone; a hundred bytes for each photograph
            with FileLock(folder / ".plan.lock"):
                begin_cache(folder, maker.plan, args.overwrite)
            make_shards(maker, args.workers, ranks)
        finally:
            shutil.rmtree(folder / UNPACKED.format(ranks.rank), ignore_errors=True)
        with FileLock(folder / ".plan.lock"):
            finish_cache(maker, args.max_skipped, start, ranks)


if __name__ == "__main__":
    run_command(
        main, "finished shards are kept; to continue, run the same command without --overwrite"
    )
