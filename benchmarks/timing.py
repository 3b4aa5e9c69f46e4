"""What the benchmarks share: ways timed in turn in one process, medians, generated photographs."""

import io
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # the project's modules

import numpy as np
from PIL import Image

from originals import read_sample, sample_photos, sample_side

Way = Callable[[], object]


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
