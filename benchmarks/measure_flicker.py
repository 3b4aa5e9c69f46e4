"""Color films frame by frame and steadily, and score flicker, PSNR and color.

Films are made of photographs by known motion, with new grain in each frame: pans, zooms and turns,
one after another, so that there are cuts. Flicker is the root mean square by which ab changes from
a frame to the next, along the motion. What is gray does not flicker: so PSNR and colorfulness stand
beside it. So does the color distribution consistency (CDC; Liu et al., "Temporally Consistent Video
Colorization": the mean Jensen-Shannon divergence of the channels' histograms, of frames 1, 2 and 4
apart), beside that of the true film. The photographs should be of a test split.

examples:
  python benchmarks/measure_flicker.py PHOTOS --number 60
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise, starmap
from pathlib import Path

import numpy as np
import timing
import torch
import torch.nn.functional as F
from skimage.color import rgb2lab
from torch import Tensor

from coloring.enlarge import enlarge
from coloring.photo import Prediction
from colorizer import Colorizer, load_colorizer
from common.command_line import make_parser
from films.steady import REACH, prepare, steady
from photo_files.finding import find_files, is_photo_name
from photo_files.opening import open_photo, read_bytes
from quantize import BLOCK, Decoding, decode, lab_to_rgb
from scoring.metrics import colorfulness, psnr

GRAIN = 5.0  # standard deviation of L
APART = (1, 2, 4)  # frames, of CDC
Answer = tuple[Prediction, "Frame"]


@dataclass(frozen=True)
class Frame:
    """A frame of a film that was made of a photograph."""

    film: int
    place: Tensor  # (3, 3), from places in the frame to places in the photograph, both -1..1
    L: Tensor  # (1, 1, S, S), with grain
    ab: Tensor  # (1, 2, S, S)


def move(film: int, share: float) -> Tensor:
    """Return the place of a frame, (3, 3), at a share 0..1 of its film: a pan, a zoom or a turn."""
    kind, x, y, side, angle = film % 3, 0.0, 0.0, 0.6, 0.0
    if kind == 0:
        x, y = 0.4 * (2 * share - 1), 0.15 * (1 - 2 * share)
    elif kind == 1:
        side = 0.5 + 0.4 * share
    else:
        angle = math.radians(30 * share - 15)
    cos, sin = side * math.cos(angle), side * math.sin(angle)
    return torch.tensor([[cos, -sin, x], [sin, cos, y], [0, 0, 1]])


def make_films(paths: list[Path], frames: int, S: int) -> Iterator[Frame]:
    """Yield the frames of films, one film after another."""
    generator = torch.Generator().manual_seed(0)
    for film, path in enumerate(paths):
        image = open_photo(read_bytes(path))
        side = min(image.size)
        left, top = ((length - side) // 2 for length in image.size)
        lab = rgb2lab(np.asarray(image.crop((left, top, left + side, top + side))))
        photo = torch.from_numpy(lab).float().movedim(-1, 0)[None]
        for share in torch.linspace(0, 1, frames).tolist():
            place = move(film, share)
            grid = F.affine_grid(place[None, :2], [1, 3, S, S], align_corners=False)
            cut = F.grid_sample(photo, grid, "bicubic", "reflection", align_corners=False)
            L = cut[:, :1] + GRAIN * torch.randn(1, 1, S, S, generator=generator)
            yield Frame(film, place, L.clamp(0, 100), cut[:, 1:])


def predict_all(colorizer: Colorizer, frames: Iterator[Frame]) -> Iterator[Answer]:
    """Yield the network's answer to each frame."""
    for frame in frames:
        yield Prediction(F.avg_pool2d(frame.L, BLOCK), *colorizer.predict(frame.L)), frame


# ---- ways --------------------------------------------------------------------------------------
def average_colors(films: list[list[Tensor]]) -> list[list[Tensor]]:
    """Average ab over as many frames as `steady` does, at one place."""
    return [
        [torch.stack(film[max(0, i - REACH) : i + REACH + 1]).mean(0) for i in range(len(film))]
        for film in films
    ]


def color_all(
    answers: list[Answer], colorizer: Colorizer, decoding: Decoding
) -> dict[str, list[list[Tensor]]]:
    """Return each way's ab (1, 2, S, S) of each frame, by films."""

    def by_film(answers: list[Answer]) -> list[list[Tensor]]:
        small = [
            (frame, decode(seen.logits, colorizer.centers, decoding, colorizer.prior))
            for seen, frame in answers
        ]
        groups = groupby(small, key=lambda pair: pair[0].film)
        return [[enlarge(frame.L, ab) for frame, ab in group] for _, group in groups]

    each = by_film(answers)
    averaged = list(steady(starmap(prepare, answers)))
    shots = sum(begins for *_, begins in averaged)
    print(f"{shots} shots found in {len(each)} films, {len(answers):,} frames")
    return {
        "frame by frame": each,
        "mean of colors": average_colors(each),
        "steady": by_film([(seen, frame) for seen, frame, _ in averaged]),
    }


# ---- scores ------------------------------------------------------------------------------------
def flicker(film: list[Tensor], frames: list[Frame]) -> float:
    """Return the root mean square by which ab changes along the motion."""
    found = []
    for (before, after), (one, two) in zip(pairwise(film), pairwise(frames), strict=True):
        there = torch.linalg.inv(two.place) @ one.place  # from places in one to places in two
        grid = F.affine_grid(there[None, :2], before.shape, align_corners=False)
        moved = F.grid_sample(after, grid, align_corners=False)
        seen = (grid.abs() < 1 - 2 / before.shape[-1]).all(-1)  # (1, S, S)
        found.append((before - moved).square().sum(1)[seen].mean().sqrt())
    return float(torch.stack(found).mean())


def cdc(photos: Tensor) -> float:
    """Return the color distribution consistency of frames (T, 3, S, S) uint8, in thousandths."""
    counts = torch.stack(
        [torch.stack([torch.bincount(c.flatten().int(), minlength=256) for c in p]) for p in photos]
    )
    shares = counts.double() / counts.sum(-1, keepdim=True)  # (T, 3, 256)

    def entropy(p: Tensor) -> Tensor:
        return -torch.special.xlogy(p, p).sum(-1)

    found = [
        (entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2).mean()
        for p, q in ((shares[:-step], shares[step:]) for step in APART)
    ]
    return 1e3 * float(torch.stack(found).mean())


def score(films: list[list[Tensor]], truth: list[list[Frame]]) -> dict[str, float]:
    """Return the means over films of each score."""
    rows = []
    for film, frames in zip(films, truth, strict=True):
        L, ab = (torch.cat([getattr(frame, key) for frame in frames]) for key in ("L", "ab"))
        ours, true = lab_to_rgb(L, torch.cat(film)), lab_to_rgb(L, ab)
        means = float(psnr(ours, true).mean()), float(colorfulness(ours).mean())
        rows.append((flicker(film, frames), *means, cdc(ours)))
    return dict(zip(("flicker", "psnr", "colorfulness", "cdc"), np.mean(rows, axis=0), strict=True))


@torch.inference_mode()
def main() -> None:
    """Print the scores."""
    parser = make_parser(__doc__)
    # fmt: off
    parser.add_argument("folder", type=Path, metavar="DIR", help="of photographs")
    parser.add_argument("--checkpoint", type=Path, default=timing.ROOT / "checkpoints" / "photos-128.pt", metavar="FILE", help="of the network")
    parser.add_argument("--number", type=int, default=60, metavar="N", help="films, one of each photograph")
    parser.add_argument("--frames", type=int, default=24, metavar="N", help="of a film")
    # fmt: on
    args = parser.parse_args()
    torch.set_num_threads(1)
    colorizer, info = load_colorizer(args.checkpoint)
    decoding = Decoding(info["temperature"], info["top_k"], info["vividness"])
    names = sorted(filter(is_photo_name, find_files(args.folder, ())))
    chosen = np.linspace(0, len(names) - 1, min(args.number, len(names))).astype(int)
    frames = make_films([args.folder / names[i] for i in chosen], args.frames, info["size"])
    answers = list(predict_all(colorizer, frames))
    truth = [
        list(film) for _, film in groupby((frame for _, frame in answers), key=lambda f: f.film)
    ]
    ways = color_all(answers, colorizer, decoding)
    ways["truth"] = [[frame.ab for frame in film] for film in truth]
    print(f"{'':16}{'flicker':>9}{'PSNR dB':>9}{'colorfulness':>14}{'CDC / 1000':>12}")
    for name, films in ways.items():
        found = score(films, truth)
        print(
            f"{name:16}{found['flicker']:9.2f}{found['psnr']:9.2f}{found['colorfulness']:14.1f}"
            f"{found['cdc']:12.2f}"
        )


if __name__ == "__main__":
    main()
