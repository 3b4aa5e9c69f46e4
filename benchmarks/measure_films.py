"""Color a film, one frame and several at a time; print frames/s, the parts of the time, the ratio.

The film is made of scikit-image's photographs, gray, in motion, without sound: copying that takes
hardly any time. Its coloring includes reading and encoding.

examples:
  python benchmarks/measure_films.py
  python benchmarks/measure_films.py --width 1920 --height 1080 --frames 48
"""

import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timing import ROOT, time_in_turn

from coloring.enlarge import fit_along_L
from coloring.painting import paint
from coloring.photo import Coloring, Prediction, decide_ab, predict
from colorizer import Colorizer, load_colorizer
from common.command_line import make_parser
from common.threads import one_thread_each
from films.color import color_film
from films.containers import load_av
from films.reading import Film, Frame, open_film
from films.shots import Piece
from films.steady import prepare, steady
from films.writing import write_part
from quantize import Decoding
from shards.originals import sample_photos

RATE = 25


def move(size: tuple[int, int], frames: int) -> Iterator[Image.Image]:
    """Yield the frames of pans over photographs, gray, with grain."""
    photos, generator = list(sample_photos().values()), np.random.default_rng(0)
    width, height = size
    for i in range(frames):
        number, share = divmod(i * len(photos) / frames, 1)
        photo = Image.fromarray(photos[int(number)]).convert("L")
        scale = 1.25 * max(width / photo.width, height / photo.height)
        photo = photo.resize((round(photo.width * scale), round(photo.height * scale)))
        left = int(share * (photo.width - width))
        cut = np.asarray(photo.crop((left, 0, left + width, height)), np.float32)
        noisy = cut + 5 * generator.standard_normal(cut.shape, np.float32)
        yield Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert("RGB")


def write_film(path: Path, size: tuple[int, int], frames: int) -> None:
    """Write a film of those frames."""
    av = load_av()
    with av.open(str(path), "w") as container:
        track = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast"})
        track.width, track.height = size
        track.pix_fmt = "yuv420p"
        for image in move(size, frames):
            container.mux(track.encode(av.VideoFrame.from_image(image)))
        container.mux(track.encode(None))


def time_parts(colorizer: Colorizer, film: Film, coloring: Coloring, folder: Path) -> None:
    """Print the milliseconds of processor time that a frame takes in each part of the work."""
    seconds: dict[str, float] = {}

    def timed(name: str, items: Iterable) -> list:
        start = time.process_time()
        found = list(items)
        seconds[name] = time.process_time() - start
        return found

    def color(prediction: Prediction, frame: Frame) -> tuple[int, Image.Image]:
        paint(frame.image, fit_along_L(prediction.L, decide_ab(colorizer, prediction, coloring)))
        return frame.pts, frame.image

    frames = timed("reading", film.frames())
    size = coloring.working_size
    seen = timed("the network", (prepare(predict(colorizer, f.image, size), f) for f in frames))
    averaged = timed("averaging", steady(seen))
    colored = timed("painting", (color(seen, frame) for seen, frame, _ in averaged))
    timed("encoding", (write_part(path, film, colored) for path in [folder / "part.nut"]))
    for name, taken in seconds.items():
        print(f"{name:12} {1e3 * taken / len(frames):6.1f} ms a frame")


@torch.inference_mode()
def main() -> None:
    """Print the figures."""
    parser = make_parser(__doc__)
    # fmt: off
    parser.add_argument("--width", type=int, default=640, metavar="PX", help="of the film")
    parser.add_argument("--height", type=int, default=360, metavar="PX", help="of the film")
    parser.add_argument("--frames", type=int, default=100, metavar="N", help="of the film")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), metavar="N", help="frames at a time")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of which the median counts")
    # fmt: on
    args = parser.parse_args()
    colorizer, info = load_colorizer(ROOT / "checkpoints" / "photos-128.pt")
    decoding = Decoding(info["temperature"], info["top_k"], info["vividness"])
    coloring = Coloring(info["size"], decoding)
    with tempfile.TemporaryDirectory() as temporary, one_thread_each():
        folder = Path(temporary)
        write_film(folder / "film.mp4", (args.width, args.height), args.frames)

        def color(workers: int) -> None:
            shutil.rmtree(folder / "out", ignore_errors=True)
            film, out = open_film(folder / "film.mp4"), folder / "out" / "film.mp4"
            color_film(colorizer, film, coloring, out, {}, Piece(), {}, workers)

        seconds = time_in_turn({n: lambda n=n: color(n) for n in {1, args.workers}}, args.rounds)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        print(f"{args.frames} frames of {args.width} x {args.height}, at most {memory:,.0f} MB")
        time_parts(colorizer, open_film(folder / "film.mp4"), coloring, folder)
        for workers, taken in seconds.items():
            print(f"{workers} at a time: {args.frames / taken:.1f} frames/s")
        ratio = seconds[1] / seconds[args.workers]
        print(f"overlapped: {ratio:.2f} times as fast as one at a time")


if __name__ == "__main__":
    main()
