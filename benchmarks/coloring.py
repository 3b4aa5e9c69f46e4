"""Colour photographs our way and the obvious way, in one process, and print the ratios.

  --large    one photograph of some megapixels: CPU seconds, and memory above the start. The
             obvious way: scikit-image's Lab of the whole, ab enlarged bilinearly, Lab to RGB.
  --many     many photographs, one after another, and several at a time, in threads.
  --guided   true ab, brought down to what the network answers and back: how far it is from the
             truth, bilinear, by the guided filter as published (at the working size, where every
             pixel takes the mean of all windows' fits), and by ours.
  --scales   how far colours move when a photograph is scaled by 0.5 and 2: the network at the
             working size, and at the photograph's own.

examples:
  python benchmarks/coloring.py --large 12 --many 200
  python benchmarks/coloring.py --guided ~/photos --working-size 64
  python benchmarks/coloring.py --guided cache/celeba-64 --working-size 40
  python benchmarks/coloring.py --scales ~/photos --checkpoint runs/celeba-64-plain/best.pt
"""

import argparse
import contextlib
import io
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from skimage.color import lab2rgb, rgb2lab
from timing import generate_jpegs, time_in_turn
from torch import Tensor

from coloring.batch import color_images
from coloring.enlarge import guide, predict_ab
from coloring.photo import Decoding, look
from colorizer import STRIDE, Colorizer, load_colorizer, save_checkpoint
from common.command_line import make_parser
from dataset import Cache
from photo_files.opening import open_photo
from quantize import decode, load_centers, stored_to_lab

LEAST = 256  # pixels of the short side of photographs for --guided
MOST = 512  # of the long side, for speed
OBVIOUS_MOST = 25  # megapixels, which take the obvious way 4 GB


# ---- a large photograph ------------------------------------------------------------------------
def color_obviously(colorizer: Colorizer, path: Path, out: Path, decoding: Decoding) -> None:
    """Colour a photograph with whole-picture floats, as scikit-image's examples do."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    L = rgb2lab(pixels)[..., 0]
    tensor = torch.from_numpy(L).float()[None, None]
    scale = decoding.working_size / min(L.shape)
    small = [round(side * scale) for side in L.shape]
    ab = predict_ab(
        colorizer, F.interpolate(tensor, small, mode="bilinear", antialias=True), 0.38, 313
    )
    ab = F.interpolate(ab, L.shape, mode="bilinear")[0].movedim(0, -1).numpy()
    rgb = lab2rgb(np.concatenate((L[..., None], ab), axis=-1))
    Image.fromarray((rgb * 255).round().astype(np.uint8)).save(out, quality=95)


def measure_large(
    megapixels: int, colorizer: Colorizer, checkpoint: Path, decoding: Decoding
) -> None:
    """Print CPU seconds and memory of both ways."""
    with tempfile.TemporaryDirectory() as temporary:
        path, folder = Path(temporary) / "large.jpg", Path(temporary)
        width, height = round((megapixels * 4e6 / 3) ** 0.5), round((megapixels * 3e6 / 4) ** 0.5)
        path.write_bytes(generate_jpegs(1, width, height)[0])
        small = folder / "small.jpg"
        Image.open(path).resize((64, 48)).save(small)
        ways = {
            "ours": lambda name, out: silently(
                color_images, colorizer, checkpoint, [name], folder / out, decoding
            ),
            "obvious": lambda name, out: color_obviously(
                colorizer, name, folder / f"{out}.jpg", decoding
            ),
        }
        if megapixels > OBVIOUS_MOST:
            del ways["obvious"]
        seconds = {}
        for name, way in ways.items():
            way(small, f"{name}-first")  # what is loaded at first use is none of its cost
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew; Linux alone
            before, start = memory("VmRSS"), time.process_time()
            way(path, name)
            seconds[name] = time.process_time() - start
            above = memory("VmHWM") - before
            print(f"{megapixels} megapixels, {name:8} {seconds[name]:6.1f} CPU s {above:7.0f} MB")
        if "obvious" in seconds:
            ratio = seconds["obvious"] / seconds["ours"]
            print(f"{ratio:.1f} times less CPU time than the obvious way")


def memory(field: str) -> float:
    """Return a figure of this process's memory in MB: VmRSS now, VmHWM at its peak."""
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) / 1024


def silently(work: Callable, *args: object, **options: object) -> None:
    """Do something that prints."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        work(*args, **options)


# ---- many photographs --------------------------------------------------------------------------
def measure_many(
    number: int, colorizer: Colorizer, checkpoint: Path, decoding: Decoding, workers: int
) -> None:
    """Print photographs/s, one after another and several at a time."""
    with tempfile.TemporaryDirectory() as temporary:
        scans, out = Path(temporary) / "scans", Path(temporary) / "out"
        scans.mkdir()
        for i, jpeg in enumerate(generate_jpegs(number, 500, 375)):
            (scans / f"{i:05d}.jpg").write_bytes(jpeg)

        def color(threads: int) -> None:
            shutil.rmtree(out, ignore_errors=True)
            silently(color_images, colorizer, checkpoint, [scans], out, decoding, None, threads)

        ways = {n: lambda n=n: color(n) for n in (1, workers)}
        seconds = time_in_turn(ways, 3)
        for n, taken in seconds.items():
            print(f"{number} photographs of 500 x 375, {n} at a time: {number / taken:.1f}/s")
        print(f"overlapped: {seconds[1] / seconds[workers]:.2f} times as fast as in turn")


# ---- guided by L -------------------------------------------------------------------------------
def true_photos(source: Path, number: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield L (1, 1, H, W) and ab (1, 2, H, W) of photographs in a folder, or of a cache."""
    if (source / "cache.json").exists():
        split = Cache(source).split("val")
        for index in np.linspace(0, len(split) - 1, number).astype(int):
            yield stored_to_lab(*split.read(np.array([index])))
        return
    for path in sorted(source.iterdir()):
        image = open_photo(path.read_bytes())
        if min(image.size) >= LEAST:
            image.thumbnail((max(MOST, LEAST * max(image.size) // min(image.size) + 1),) * 2)
            lab = torch.from_numpy(rgb2lab(np.asarray(image))).float().movedim(-1, 0)[None]
            yield lab[:, :1], lab[:, 1:]


def guide_as_published(L: Tensor, ab: Tensor, radius: int, epsilon: float) -> Tensor:
    """Fit ab as the fast guided filter does (He and Sun 2015, eq. 3 to 8); as `guide`."""

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2 * radius + 1, 1, radius, count_include_pad=False)

    slope = (mean(L * ab) - mean(L) * mean(ab)) / (mean(L * L) - mean(L) ** 2 + epsilon)
    return mean(torch.cat((slope, mean(ab) - slope * mean(L)), dim=1))


def errors(L: Tensor, ab: Tensor, working_size: int) -> dict[str, float]:
    """Return the mean distance from true ab of each way of bringing it back."""
    size = L.shape[-2:]
    scale = working_size / min(size)
    blocks = [round(side * scale / STRIDE) for side in size]
    seen = F.interpolate(L, [STRIDE * n for n in blocks], mode="bilinear", antialias=True)
    small_L, small_ab = F.avg_pool2d(seen, STRIDE), F.interpolate(ab, blocks, mode="area")

    def error(fit: Tensor) -> float:
        slope, offset = F.interpolate(fit, size, mode="bilinear").split(2, dim=1)
        return float((slope * L + offset - ab).square().sum(1).sqrt().mean())

    found = {"bilinear": error(torch.cat((0 * small_ab, small_ab), dim=1))}
    for r, e in itertools.product((1, 2, 4), (3.0, 10.0, 30.0)):
        seen_ab = F.interpolate(small_ab, scale_factor=STRIDE, mode="bilinear")
        fit = guide_as_published(seen, seen_ab, r, e)
        found[f"as published, radius {r} pixels, epsilon {e:.0f}"] = error(fit)
    for r, e in itertools.product((1, 2), (10.0, 30.0, 60.0, 100.0, 300.0)):
        found[f"ours, radius {r} blocks, epsilon {e:.0f}"] = error(guide(small_L, small_ab, r, e))
    return found


def measure_guided(source: Path, working_size: int, number: int) -> None:
    """Print the error of ab, bilinear and guided."""
    found = [errors(*photo, working_size) for photo in true_photos(source, number)]
    print(f"{source}, {len(found)} photographs, working size {working_size}")
    for way in found[0]:
        ab, bilinear = (np.array([photo[w] for photo in found]) for w in (way, "bilinear"))
        print(
            f"{way:45} {ab.mean():6.3f} {ab.mean() / bilinear.mean() - 1:+6.1%}, "
            f"better on {(ab < bilinear).mean():.0%}"
        )


# ---- scales ------------------------------------------------------------------------------------
@torch.inference_mode()
def colors_at(colorizer: Colorizer, image: Image.Image, working_size: int) -> Tensor:
    """Return the network's ab of a photograph, (1, 2, 64, 64)."""
    _, logits = look(colorizer, image, working_size)
    return F.interpolate(decode(logits, colorizer.centers, 0.38, 313), (64, 64), mode="bilinear")


def measure_scales(source: Path, colorizer: Colorizer, working_size: int, number: int) -> None:
    """Print the mean distance in ab between a photograph's colours and those of it scaled."""
    moved = {(way, s): [] for way in ("working size", "own size") for s in (0.5, 2)}
    for path in sorted(source.iterdir())[:number]:
        image = open_photo(path.read_bytes())
        image.thumbnail((256, 256))
        own = min(image.size) // STRIDE * STRIDE
        for scale in (0.5, 2):
            size = [max(8, round(side * scale)) for side in image.size]
            scaled = image.resize(size, Image.Resampling.BICUBIC)
            for way, sizes in (
                ("working size", (working_size, working_size)),
                ("own size", (own, round(own * scale))),
            ):
                one, other = (
                    colors_at(colorizer, i, s) for i, s in zip((image, scaled), sizes, strict=True)
                )
                moved[way, scale].append(float((one - other).norm(dim=1).mean()))
    for (way, scale), distances in moved.items():
        print(f"scaled by {scale}, network at the {way:12}: ab moves {np.mean(distances):5.2f}")


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    # fmt: off
    parser.add_argument("--large", type=int, metavar="MP", help="megapixels of one photograph")
    parser.add_argument("--many", type=int, metavar="N", help="photographs")
    parser.add_argument("--guided", type=Path, metavar="DIR", help="folder of photographs, or a cache")
    parser.add_argument("--scales", type=Path, metavar="DIR", help="folder of photographs; needs a trained --checkpoint")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="default: an untrained network, as fast")
    parser.add_argument("--working-size", type=int, default=64, metavar="PX", help="short side that the network sees")
    parser.add_argument("--number", type=int, default=100, metavar="N", help="photographs looked at")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), metavar="N", help="photographs at a time for --many")
    # fmt: on
    return parser.parse_args()


def main() -> None:
    """Print the figures that are asked for."""
    args = parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        checkpoint = args.checkpoint or Path(temporary) / "untrained.pt"
        if not args.checkpoint:
            model = Colorizer(load_centers())
            about = {"dataset": "", "size": 64, "temperature": 0.38, "top_k": 313}
            save_checkpoint(checkpoint, model.state_dict(), **model.options, **about)
        colorizer, _ = load_colorizer(checkpoint)
        decoding = Decoding(args.working_size, 0.38, 313)
        if args.large:
            measure_large(args.large, colorizer, checkpoint, decoding)
        if args.many:
            measure_many(args.many, colorizer, checkpoint, decoding, args.workers)
    if args.guided:
        measure_guided(args.guided, args.working_size, args.number)
    if args.scales:
        measure_scales(args.scales, colorizer, args.working_size, args.number)


if __name__ == "__main__":
    main()
