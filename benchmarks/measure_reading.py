"""Read shuffled training batches our way and the obvious way, in one process, and print the ratio.

The obvious way: a torch DataLoader over the same shards, one photograph at a time by h5py, with
no, one and two worker processes; the best of these counts. Ours: Shuffle and Split.read. Both give
stored bytes. Then the share of a training step (default net and batch, this machine's processors)
that reading takes, and reading with cutting.

examples:
  python benchmarks/measure_reading.py
  python benchmarks/measure_reading.py --photos 400000 --folder /data/large --rounds 1    more than memory
"""

import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import torch
from timing import SHARD, begin_run, time_in_turn, write_random_cache
from torch.utils.data import DataLoader, Dataset

from common.command_line import make_parser
from dataset import Cache, Shuffle, Split, draw_warps, warp
from quantize import BLOCK
from training.step import train_step


class OneByOne(Dataset):
    """The obvious data set: a photograph at a time, by h5py."""

    def __init__(self, paths: list[Path]):
        self.paths, self.files = paths, {}
        self.rows = []
        for number, path in enumerate(paths):
            with h5py.File(path) as file:
                self.rows += [(number, row) for row in range(len(file["L"]))]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        number, row = self.rows[index]
        if number not in self.files:
            self.files[number] = h5py.File(self.paths[number])
        file = self.files[number]
        return torch.from_numpy(file["L"][row]), torch.from_numpy(file["ab"][row])


def read_obviously(paths: list[Path], batch_size: int, batches: int, workers: int) -> float:
    """Read batches by a DataLoader; return photographs/s after the first batch."""
    loader = DataLoader(OneByOne(paths), batch_size, shuffle=True, num_workers=workers)
    batch = iter(loader)
    next(batch)
    start = time.perf_counter()
    for _ in range(batches):
        next(batch)
    return batches * batch_size / (time.perf_counter() - start)


def read_ours(split: Split, batch_size: int, steps: range, crop: int | None = None) -> None:
    """Read batches our way; with a crop, cut them too."""
    shuffle = Shuffle(len(split), batch_size, seed=0)
    for step in steps:
        L, ab = split.read(shuffle.batch(step))
        if crop:
            warps = draw_warps(len(L), 0.5, np.random.default_rng([0, step]))
            warp(L, ab, crop, torch.from_numpy(warps))


def measure(cache: Cache, root: Path, rounds: int) -> None:
    """Compare reading, and set it beside a training step."""
    split, batch_size, batches = cache.split("train"), 32, 300
    paths = [shard.path for shard in split.shards]
    obvious, ours = {n: [] for n in (0, 1, 2)}, {"reading": [], "reading and cutting": []}
    crops = (None, 7 * cache.size // 8 // BLOCK * BLOCK)
    first = 0
    for _ in range(rounds):
        for workers, rates in obvious.items():
            rates.append(read_obviously(paths, batch_size, 100, workers))
        for rates, crop in zip(ours.values(), crops, strict=True):
            start = time.perf_counter()
            read_ours(split, batch_size, range(first, first + batches), crop)
            rates.append(batches * batch_size / (time.perf_counter() - start))
            first += batches
    best = max(np.median(rates) for rates in obvious.values())
    for workers, rates in obvious.items():
        print(f"DataLoader, {workers} workers      {np.median(rates):10,.0f} photos/s")
    for name, rates in zip(("ours", "ours, cut by affine maps"), ours.values(), strict=True):
        rate = np.median(rates)
        print(f"{name:25} {rate:9,.0f} photos/s, {rate / best:.0f} times the best DataLoader")
    run = begin_run(cache, root, "--device", "cpu")
    step = time_in_turn({"step": lambda: train_step(run)}, 40)["step"]
    print(f"a training step of {run.args.batch_size} photographs takes {1e3 * step:.0f} ms")
    for name, rates in ours.items():
        print(f"{name}: {batch_size / np.median(rates) / step:.1%} of a training step")


def main() -> None:
    """Print the figures."""
    parser = make_parser(__doc__)
    # fmt: off
    parser.add_argument("--photos", type=int, default=20 * SHARD, metavar="N", help="in the cache, at 13 kB each at 64 px")
    parser.add_argument("--size", type=int, default=64, metavar="PX", help="side of the cached photographs")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where the cache is made and kept; default: a temporary one")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="of which the median counts")
    # fmt: on
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = args.folder or Path(temporary)
        folder = root / f"random-{args.size}"
        if not folder.exists():
            write_random_cache(folder, args.photos, args.size)
        measure(Cache(folder), root, args.rounds)


if __name__ == "__main__":
    main()
