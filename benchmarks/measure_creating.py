"""Make a cache our way and the obvious way, in one process, and print the ratios of speed.

The obvious way: Pillow decodes and resizes each photograph, scikit-image's rgb2lab converts it, a
ball tree finds each pixel's bin, and HDF5 stores both, gzipped, a dataset for each photograph: Lab
as rgb2lab returns it (float64), and again as float32. Times are CPU seconds of this process without
start-up, medians of rounds in turn. Needs scikit-learn, for the ball tree.

examples:
  python benchmarks/measure_creating.py --zip img_align_celeba.zip --sizes 64 128
  python benchmarks/measure_creating.py --folder ~/Pictures --shape 500 375 --sizes 64 176
  python benchmarks/measure_creating.py                       on crops of scikit-image's photographs
"""

import argparse
import importlib.util
import io
import tempfile
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np
from PIL import Image
from skimage.color import rgb2lab
from timing import encode_jpeg, generate_jpegs, plan_random_cache, time_in_turn

from common.command_line import make_parser
from common.workers import share
from create_dataset import ShardMaker
from photo_files.finding import find_files, is_photo_name
from quantize import lab_table, load_centers
from shards.originals import Originals

SHARD = 1200  # photographs: 116 MB at 176 px
Maker = Callable[[int, bool, int], ShardMaker]  # of a size, exact or not, for some shards


def read_jpegs(args: argparse.Namespace) -> list[bytes]:
    """Return the photographs to measure on, as JPEG files' bytes."""
    if args.zip:
        with zipfile.ZipFile(args.zip) as file:
            names = [name for name in file.namelist() if name.endswith(".jpg")]
            return [file.read(name) for name in names[: args.number]]
    if args.folder:
        names = sorted(filter(is_photo_name, find_files(args.folder, ())))[: args.number]
        images = (Image.open(args.folder / name) for name in names)
        return [encode_jpeg(image, *args.shape) for image in images]
    return generate_jpegs(args.number, *args.shape)


def decode(jpegs: list[bytes]) -> None:
    """Decode photographs in full, and no more."""
    for data in jpegs:
        Image.open(io.BytesIO(data)).load()


def make_obviously(jpegs: list[bytes], size: int, dtype: str, path: Path) -> None:
    """Make a cache the obvious way."""
    from sklearn.neighbors import NearestNeighbors  # --help runs without it

    tree = NearestNeighbors(n_neighbors=1, algorithm="ball_tree").fit(load_centers().numpy())
    with h5py.File(path, "w") as file:
        for i, data in enumerate(jpegs):
            image = Image.open(io.BytesIO(data)).convert("RGB")
            lab = rgb2lab(np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)))
            bins = tree.kneighbors(lab[..., 1:].reshape(-1, 2), return_distance=False)
            bins = bins.reshape(size, size).astype(np.uint16)
            file.create_dataset(f"{i}/lab", data=lab.astype(dtype), compression="gzip")
            file.create_dataset(f"{i}/bins", data=bins, compression="gzip")


def make_maker(
    jpegs: list[bytes], table: np.ndarray, folder: Path, size: int, exact: bool, shards: int
) -> ShardMaker:
    """Return what makes shards, the command's own; each holds every photograph several times."""
    names = [f"{i:06d}" for i in range(SHARD * shards)]
    plan = plan_random_cache(size, {"train": [SHARD] * shards}, "exact" if exact else "reduced")
    originals = Originals({"train": names}, lambda name: jpegs[int(name) % len(jpegs)], {})
    return ShardMaker(folder, plan, originals, table)


def compare(maker: Maker, jpegs: list[bytes], size: int, rounds: int, folder: Path) -> None:
    """Compare our way and the obvious way at one size."""
    ours, exact = (maker(size, exact, 1) for exact in (False, True))
    ways = {
        "obvious, float64": lambda: make_obviously(jpegs, size, "float64", folder / "obvious.h5"),
        "obvious, float32": lambda: make_obviously(jpegs, size, "float32", folder / "obvious.h5"),
        "decoding in full": lambda: decode(jpegs),
        "ours, --exact": lambda: exact(("train", 0), lambda _: None),
        "ours": lambda: ours(("train", 0), lambda _: None),
    }
    times = time_in_turn(ways, rounds, time.process_time)
    seconds = {n: t / (SHARD if "ours" in n else len(jpegs)) for n, t in times.items()}
    print(f"{f'{size} px':18}  photos/s x float64 x float32 of decoding")
    for name, value in seconds.items():
        others = ("obvious, float64", "obvious, float32", "decoding in full")
        x, y, decoding = (seconds[other] / value for other in others)
        print(f"{name:18} {1 / value:9,.0f} {x:9.1f} {y:9.1f} {decoding:11.0%}")


def compare_workers(maker: Maker, size: int, rounds: int) -> None:
    """Compare one worker process with two, by the clock on the wall."""
    make, jobs = maker(size, False, 4), [("train", i) for i in range(4)]
    seconds = time_in_turn({n: lambda n=n: list(share(make, jobs, n)) for n in (1, 2)}, rounds)
    print(f"two workers are {seconds[1] / seconds[2]:.2f} times as fast as one\n")


def main() -> None:
    """Print a table for each size."""
    parser = make_parser(__doc__)
    # fmt: off
    parser.add_argument("--zip", type=Path, metavar="FILE", help="photographs: a zip of JPEGs")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="photographs: a folder, each resized to --shape")
    parser.add_argument("--shape", type=int, nargs=2, default=[178, 218], metavar="PX", help="width and height")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128], metavar="PX", help="sides of the cached photographs")
    parser.add_argument("--number", type=int, default=200, metavar="N", help="photographs, at most")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="of which the median counts")
    # fmt: on
    args = parser.parse_args()
    if importlib.util.find_spec("sklearn") is None:
        parser.error("scikit-learn is not here, for the ball tree: pip install scikit-learn")
    jpegs = read_jpegs(args)
    print(f"{len(jpegs)} photographs of {np.mean([len(data) for data in jpegs]) / 1e3:.0f} kB")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        maker = partial(make_maker, jpegs, lab_table(), folder)
        for size in args.sizes:
            compare(maker, jpegs, size, args.rounds, folder)
            compare_workers(maker, size, args.rounds)


if __name__ == "__main__":
    main()
