"""Score a checkpoint with more and more hints: the true colors of some blocks of each photograph.

Three ways are compared: at random blocks; at the blocks that `find_questions` chooses; and, at the
same random blocks, without the network, from the training split's mean color by place and lightness
alone. hints.json in --out has the scores of each checkpoint and cache, one a line: a command adds
its own to them, or puts them in place of its earlier ones. Prints a table of all, and draws them in
hints.png.

examples:
  python benchmarks/compare_hints.py --checkpoint checkpoints/flowers-64.pt --temperature 0.6
  python benchmarks/compare_hints.py --checkpoint checkpoints/celeba-64.pt --choose-scales
"""

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from one_checkpoint import Entry, add_entry, make_checkpoint_parser, open_run
from torch import Tensor
from tqdm import tqdm

from coloring.enlarge import enlarge
from coloring.hints import (
    LIGHTNESS,
    PLACE,
    Hints,
    apply_hints,
    embed,
    find_deviation,
    find_questions,
)
from colorizer import Colorizer
from common.command_line import number, run_command
from common.files import locked
from dataset import Split
from quantize import BLOCK, Decoding, decode, lab_to_rgb, stored_to_lab
from scoring.metrics import psnr
from scoring.score import bootstrap

NUMBERS = (0, 1, 2, 5, 10, 20, 50, 100)  # of hints
WAYS = {"chosen": "tab:blue", "random": "tab:orange", "without the network": "0.5"}
# of the kernel without the network, PLACE and LIGHTNESS: of TRIED, the best on average over 300
# validation photographs each of flowers, faces and all kinds (--choose-scales --photos 300)
SCALES = (1.0, 50.0)
TRIED = (0.5, 0.7, 1.0, 1.4, 2.0), (12.5, 25.0, 50.0, 100.0)  # short sides, units of L
TRIED_AT = 10  # hints, about as many as a user gives


# ---- one photograph ----------------------------------------------------------------------------
def score_hints(
    L: Tensor, ab: Tensor, start: Tensor, points: Tensor, blocks: Tensor, numbers: tuple[int, ...]
) -> Tensor:
    """Return the PSNR in dB with the first so many blocks as hints, (len(numbers),).

    Args:
        L: (1, 1, S, S), and ab (1, 2, S, S), the truth.
        start: (1, 2, h, w), ab without hints.
        points: (P, D), of `embed`.
        blocks: in the order in which they become hints.
        numbers: of hints; a small photograph may have fewer blocks.
    """
    true = F.avg_pool2d(ab, BLOCK)[0].flatten(1).T  # (P, 2)
    corrected = []
    for n in numbers:
        known = blocks[:n]
        hints = Hints(known, true[known], torch.ones(len(known)))
        corrected.append(apply_hints(start, points, hints))
    several = L.expand(len(numbers), -1, -1, -1)
    colored = lab_to_rgb(several, enlarge(several, torch.cat(corrected)))
    return psnr(colored, lab_to_rgb(L, ab))


def embed_alone(L: Tensor, scales: tuple[float, float]) -> Tensor:
    """Describe blocks by place and L alone, at scales of their own, for `kernel`: (P, 3)."""
    points = embed(F.avg_pool2d(L, BLOCK), torch.zeros(1, 0, *(s // BLOCK for s in L.shape[-2:])))
    place, lightness = scales
    return points * torch.tensor((PLACE / place, PLACE / place, LIGHTNESS / lightness))


@torch.inference_mode()
def score_ways(
    colorizer: Colorizer,
    L: Tensor,
    ab: Tensor,
    decoding: Decoding,
    mean_ab: Tensor,
    order: Tensor,
) -> Tensor:
    """Return a photograph's PSNR for each of WAYS and NUMBERS, (3, 8); `order` is a random one."""
    logits, features = colorizer.predict(L)
    points = embed(F.avg_pool2d(L, BLOCK), features)
    deviation = find_deviation(logits, colorizer.centers)
    chosen = find_questions(points, deviation, None, max(NUMBERS))
    decoded = decode(logits, colorizer.centers, decoding, colorizer.prior)
    ways = {
        "chosen": (decoded, points, chosen),
        "random": (decoded, points, order),
        "without the network": (
            mean_ab[:, None, None].expand_as(decoded),
            embed_alone(L, SCALES),
            order,
        ),
    }
    return torch.stack([score_hints(L, ab, *ways[way], NUMBERS) for way in WAYS])


# ---- a split -----------------------------------------------------------------------------------
def read_photos(
    split: Split, most: int | None, seed: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield L (1, 1, S, S), ab (1, 2, S, S) and a random order of the blocks of photographs."""
    for index in tqdm(split.spread(most or len(split)), "scoring", unit=" photos", disable=None):
        L, ab = stored_to_lab(*split.read(np.array([index])))
        blocks = L.shape[-2] // BLOCK * (L.shape[-1] // BLOCK)
        order = np.random.default_rng([seed, index]).permutation(blocks)
        yield L, ab, torch.from_numpy(order)


def choose_scales(split: Split, mean_ab: Tensor, most: int | None, seed: int) -> None:
    """Print the PSNR without the network at TRIED_AT hints, for each pair of TRIED."""
    scores = []
    for L, ab, order in read_photos(split, most, seed):
        start = mean_ab[:, None, None].expand_as(F.avg_pool2d(ab, BLOCK))
        found = [
            score_hints(L, ab, start, embed_alone(L, scales), order, (TRIED_AT,))
            for scales in itertools.product(*TRIED)
        ]
        scores.append(torch.cat(found))
    means = torch.stack(scores).mean(0)
    for (place, lightness), mean in zip(itertools.product(*TRIED), means, strict=True):
        print(f"place {place:4}, L {lightness:5}: {mean:.3f} dB")


def summarize(scores: np.ndarray) -> dict[str, list[dict[str, Any]]]:
    """Return each way's mean over photographs of scores (N, 3, 8), with 95% intervals."""
    rows = {}
    for way, values in zip(WAYS, scores.swapaxes(0, 1), strict=True):  # (N, 8) each
        found = np.stack((values.mean(0), *bootstrap(values)), axis=1).round(4).tolist()
        rows[way] = [
            {"hints": n, "psnr": mean, "psnr_interval": interval}
            for n, (mean, *interval) in zip(NUMBERS, found, strict=True)
        ]
    return rows


# ---- what is shown -----------------------------------------------------------------------------
def name_of(entry: Entry) -> str:
    """Name the photographs of an entry."""
    return f"{entry['dataset']}, {entry['size']} px"


def make_table(entries: list[Entry]) -> str:
    """Return a table in Markdown: PSNR in dB by photographs, way and number of hints."""
    numbers = " | ".join(map(str, NUMBERS))
    lines = [f"| photographs | hints | {numbers} |", "|---" * (len(NUMBERS) + 2) + "|"]
    for entry in entries:
        for way in WAYS:
            cells = " | ".join(f"{row['psnr']:.2f}" for row in entry["rows"][way])
            lines.append(f"| {name_of(entry)} | {way} | {cells} |")
    return "\n".join(lines)


def plot_hints(path: Path, entries: list[Entry]) -> None:
    """Draw PSNR over the number of hints, a panel for each entry, with 95% intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    panels = figure.subplots(1, len(entries), squeeze=False)[0]
    for axes, entry in zip(panels, entries, strict=True):
        for way, color in WAYS.items():
            rows = entry["rows"][way]
            axes.plot(NUMBERS, [r["psnr"] for r in rows], ".-", color=color, label=way)
            low, high = zip(*(r["psnr_interval"] for r in rows), strict=True)
            axes.fill_between(NUMBERS, low, high, color=color, alpha=0.2, linewidth=0)
        axes.set_xscale("symlog", linthresh=1, linscale=0.4)  # 0 too has a place
        axes.set_xticks(NUMBERS, map(str, NUMBERS))
        axes.minorticks_off()
        axes.set(title=name_of(entry), xlabel="hints a photograph")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("PSNR, dB")
    panels[0].legend(loc="upper left")
    figure.savefig(path, dpi=100, format="png")


# ---- command line ------------------------------------------------------------------------------
def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser, group = make_checkpoint_parser(__doc__, "runs/hints", "hints.json and hints.png")
    # fmt: off
    group.add_argument("--seed", type=number(int, 0, 2**31), default=0, metavar="N", help="of the random blocks")
    group.add_argument("--choose-scales", action="store_true", help="instead, print what pairs of scales score without the network on the validation split")
    # fmt: on
    return parser.parse_args()


def main() -> None:
    """Score, print, draw."""
    args = parse_args()
    colorizer, decoding, cache, run = open_run(args)
    mean_ab = cache.split("train").mean_ab
    if args.choose_scales:
        choose_scales(cache.split("val"), mean_ab, args.photos, args.seed)
        return
    run["seed"] = args.seed
    with locked(args.out):
        photos = read_photos(cache.split("test"), args.photos, args.seed)
        scores = [score_ways(colorizer, *p[:2], decoding, mean_ab, p[2]) for p in photos]
        found = {"photographs": len(scores), "rows": summarize(torch.stack(scores).numpy())}
        entries = add_entry(args.out / "hints.json", run, found)
        plot_hints(args.out / "hints.png", entries)
    print(make_table(entries))


if __name__ == "__main__":
    run_command(main)
