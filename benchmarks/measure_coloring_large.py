"""Color a photograph of some megapixels our way and the obvious way, in one process.

Prints the CPU seconds of each way, and its memory above the start. The obvious way: scikit-image's
Lab of the whole photograph, ab enlarged bilinearly, Lab to RGB. Above 25 megapixels it would take
more than 4 GB: ours is measured alone. Linux only.

examples:
  python benchmarks/measure_coloring_large.py
  python benchmarks/measure_coloring_large.py --megapixels 100
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from skimage.color import lab2rgb, rgb2lab
from timing import CHECKPOINT, COLORING, color_silently, generate_jpegs

from coloring.enlarge import predict_ab
from colorizer import Colorizer, load_colorizer
from common.command_line import make_parser

OBVIOUS_MOST = 25  # megapixels


def color_obviously(colorizer: Colorizer, path: Path, out: Path) -> None:
    """Color a photograph with whole-picture floats, as scikit-image's examples do."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    L = rgb2lab(pixels)[..., 0]
    tensor = torch.from_numpy(L).float()[None, None]
    scale = COLORING.working_size / min(L.shape)
    small = [round(side * scale) for side in L.shape]
    seen = F.interpolate(tensor, small, mode="bilinear", antialias=True)
    ab = predict_ab(colorizer, seen, COLORING.decoding)
    ab = F.interpolate(ab, L.shape, mode="bilinear")[0].movedim(0, -1).numpy()
    rgb = lab2rgb(np.concatenate((L[..., None], ab), axis=-1))
    Image.fromarray((rgb * 255).round().astype(np.uint8)).save(out, quality=95)


def memory(field: str) -> float:
    """Return a figure of this process's memory in MB: VmRSS now, VmHWM at its peak."""
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) / 1024


def measure(megapixels: int, folder: Path) -> None:
    """Print CPU seconds and memory of both ways."""
    colorizer, _ = load_colorizer(CHECKPOINT)
    width, height = round((megapixels * 4e6 / 3) ** 0.5), round((megapixels * 3e6 / 4) ** 0.5)
    large, small = folder / "large.jpg", folder / "small.jpg"
    large.write_bytes(generate_jpegs(1, width, height)[0])
    Image.open(large).resize((64, 48)).save(small)
    ways = {"ours": lambda path, out: color_silently(colorizer, [path], out)}
    if megapixels <= OBVIOUS_MOST:
        ways["obvious"] = lambda path, out: color_obviously(colorizer, path, out / "colored.jpg")
    seconds = {}
    for name, way in ways.items():
        (folder / name).mkdir()
        way(small, folder / name)  # what is loaded at first use is none of its cost
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew; Linux alone
        before, start = memory("VmRSS"), time.process_time()
        way(large, folder / name)
        seconds[name] = time.process_time() - start
        above = memory("VmHWM") - before
        print(f"{megapixels} megapixels, {name:8} {seconds[name]:6.1f} CPU s {above:7.0f} MB")
    if "obvious" in seconds:
        ratio = seconds["obvious"] / seconds["ours"]
        print(f"{ratio:.1f} times less CPU time than the obvious way")


def main() -> None:
    """Print the figures."""
    parser = make_parser(__doc__)
    # fmt: off
    parser.add_argument("--megapixels", type=int, default=12, metavar="N", help="of the photograph")
    # fmt: on
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        measure(args.megapixels, Path(folder))


if __name__ == "__main__":
    main()
