"""What the benchmarks share: ways timed in turn in one process, and what they are timed on."""

import contextlib
import io
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # the project's modules

import numpy as np
from PIL import Image

from coloring.batch import color_images
from coloring.photo import Coloring
from colorizer import Colorizer
from common.processes import Ranks
from dataset import Cache
from quantize import BLOCK, Decoding, load_centers
from shards.originals import read_sample, sample_photos, sample_side
from shards.plan import SPLITS, Plan, write_plan
from shards.shard import shard_path, write_shard
from train import build_run, default_crop, make_train_parser
from training.run import Run
from training.step import train_step

# trained: an untrained network makes many colors outside sRGB, and they take twice the time
CHECKPOINT = ROOT / "checkpoints" / "flowers-64.pt"
COLORING = Coloring(64, Decoding(0.38, 313))
Way = Callable[[], object]
SHARD = 2048  # photographs


def time_in_turn(
    ways: dict[str, Way], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Time ways of doing the same thing, in turn, and return the median seconds of each.

    Noise of the machine that lasts longer than a round falls on all of them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = clock()
            way()
            seconds[name].append(clock() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def color_silently(
    colorizer: Colorizer, paths: list[Path], out: Path, workers: int = 1, hints: Path | None = None
) -> None:
    """Color photographs as generate.py does, without what it prints."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        color_images(colorizer, CHECKPOINT, paths, out, COLORING, workers=workers, hints=hints)


def plan_random_cache(size: int, lengths: dict[str, list[int]], decoding: str = "") -> Plan:
    """Return the plan of a cache that keeps everything, from the lengths of its shards."""
    return Plan(
        name="random",
        dataset="folder",
        size=size,
        limit=None,
        keep_gray=True,
        resampling="bilinear",
        decoding=decoding,
        originals="",
        shard_photos=SHARD,
        photos={split: sum(lengths[split]) for split in lengths},
        shards={split: len(lengths[split]) for split in lengths},
        complete=True,
    )


def write_random_cache(folder: Path, photos: int, size: int) -> None:
    """Write a cache of random colors: reading does not look at them."""
    generator, Q = np.random.default_rng(0), len(load_centers())
    lengths = {"train": [SHARD] * (photos // SHARD), "val": [64], "test": [64]}
    plan = plan_random_cache(size, lengths)
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        for i, n in enumerate(lengths[split]):
            arrays = {
                "L": generator.integers(0, 256, (n, size, size), np.uint8),
                "ab": generator.integers(-60, 60, (n, 2, size, size), np.int8),
                "bins": generator.integers(0, Q, (n, size // BLOCK, size // BLOCK), np.uint16),
                "names": np.array([f"{j:09d}" for j in range(n)], np.bytes_),
                "skipped": np.empty((0, 2), "S1"),
            }
            marks = {key: getattr(plan, key) for key in ("name", "size", "palette", "digest")}
            marks |= {"split": split, "index": i, "gray": 0, "enlarged": 0}
            marks["counts"] = np.bincount(arrays["bins"].ravel(), minlength=Q)
            marks["ab_sum"] = arrays["ab"].mean((2, 3)).sum(0)
            write_shard(shard_path(folder, split, i), arrays, marks)
    write_plan(folder, plan)


def begin_run(cache: Cache, root: Path, *options: str) -> Run:
    """Set up a training run with the default options but for some, and take its first steps."""
    args = make_train_parser().parse_args(["--steps", "1000000", *options])
    args.out, args.crop = root / "run", args.crop or default_crop(cache.size)
    args.out.mkdir(exist_ok=True)
    run = build_run(args, cache, Ranks())
    run.model.train()
    for _ in range(3):
        train_step(run)
    return run


def generate_jpegs(number: int, width: int, height: int) -> list[bytes]:
    """Return JPEGs of quality 90, crops of scikit-image's photographs, enlarged to one shape."""
    photos, generator = sample_photos(), np.random.default_rng(0)
    jpegs = []
    for i in range(number):
        name = list(photos)[i % len(photos)]
        side = sample_side(photos[name])
        top, left = generator.integers(0, np.array(photos[name].shape[:2]) - side)
        crop = Image.open(io.BytesIO(read_sample(photos, f"{name}-{top}-{left}.png")))
        jpegs.append(encode_jpeg(crop, width, height))
    return jpegs


def encode_jpeg(image: Image.Image, width: int, height: int) -> bytes:
    """Resize a photograph and encode it as JPEG of quality 90."""
    buffer = io.BytesIO()
    resized = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    resized.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
