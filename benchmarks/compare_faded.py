"""Score a checkpoint on photographs that faded or became dark, shown to the network in several ways.

The L of each photograph is damaged by known curves, and rounded as 8 bits do. The network colors
it; the colors are laid on the undamaged L and compared with the true photograph, so that the damage
itself does not count. faded.json in --out has the scores of each checkpoint and cache, one a line:
a command adds its own to them, or puts them in place of its earlier ones. Prints a table of all.

examples:
  python benchmarks/compare_faded.py --checkpoint checkpoints/flowers-64.pt
  python benchmarks/compare_faded.py --checkpoint checkpoints/photos-128.pt --dataset photos
  python benchmarks/compare_faded.py --checkpoint checkpoints/celeba-64.pt --choose
"""

import argparse
from typing import Any

import numpy as np
import torch
from one_checkpoint import Entry, add_entry, make_checkpoint_parser, open_run
from torch import Tensor
from tqdm import tqdm

from coloring.enlarge import enlarge
from coloring.photo import EMPTY, ENDS, FADED, USUAL, stretch
from colorizer import Colorizer
from common.command_line import run_command
from common.files import locked
from dataset import Split
from quantize import L_SCALE, Decoding, decode, lab_to_rgb, stored_to_lab
from scoring.metrics import colorfulness, psnr
from scoring.score import bootstrap

DAMAGES = {  # of L, 0..100
    "undamaged": lambda L: L,
    "15 + 0.75 L": lambda L: 15 + 0.75 * L,
    "30 + 0.5 L": lambda L: 30 + 0.5 * L,
    "45 + 0.3 L": lambda L: 45 + 0.3 * L,
    "0.5 L": lambda L: 0.5 * L,
    "40 + 0.6 L": lambda L: 40 + 0.6 * L,
    "gamma 2": lambda L: 100 * (L / 100) ** 2,
    "gamma 0.5": lambda L: 100 * (L / 100) ** 0.5,
}
WIDE = 10.0, 85.0  # where "always" moves the ends
MEAN, DEVIATION, MEDIAN = 48.0, 22.0, 48.0  # of L, usual ones of the caches' training photographs
STEEPEST = 3.0  # gamma
TRIED = (35.0, 40.0, 45.0, 50.0, 55.0, 60.0)  # limits of --choose: ends nearer than this
TARGETS = ((10.0, 85.0), (15.0, 80.0), (20.0, 75.0), (25.0, 70.0))  # and in place of USUAL


# ---- ways to show a photograph -----------------------------------------------------------------
def always(L: np.ndarray, target: tuple[float, float] = WIDE) -> np.ndarray:
    """Stretch any L (S, S) from its ends to the target; a blank one stays."""
    low, high = np.percentile(L, ENDS)
    return np.interp(L, (low, high), target) if low < high else L


def as_needed(L: np.ndarray, usual: tuple[float, float] = USUAL) -> np.ndarray:
    """Move the ends of L (S, S) to the usual ones, where they are within these."""
    low, high = np.percentile(L, ENDS)
    return always(L, (min(low, usual[0]), max(high, usual[1])))


def match(L: np.ndarray) -> np.ndarray:
    """Give L (S, S) the usual mean and standard deviation."""
    return np.clip((L - L.mean()) * (DEVIATION / max(L.std(), 1)) + MEAN, 0, 100)


def bend(L: np.ndarray) -> np.ndarray:
    """Give L (S, S) the usual median by a gamma."""
    gamma = np.log(MEDIAN / 100) / np.log(np.clip(np.median(L), 1, 99) / 100)
    return 100 * (L / 100) ** np.clip(gamma, 1 / STEEPEST, STEEPEST)


WAYS = {
    "as it is": lambda L: L,
    "stretched": stretch,
    "always": always,
    "as needed": as_needed,
    "mean, sd": match,
    "gamma": bend,
}


# ---- scores ------------------------------------------------------------------------------------
def damage(L: Tensor, name: str) -> Tensor:
    """Damage L (1, 1, S, S), 0..100, and round it to stored levels, which 8 bits are about."""
    return (DAMAGES[name](L) * L_SCALE).round() / L_SCALE


@torch.inference_mode()
def score_ways(
    colorizer: Colorizer, L: Tensor, ab: Tensor, seen: Tensor, damaged: Tensor, decoding: Decoding
) -> Tensor:
    """Return PSNR in dB and colorfulness of a photograph shown in W ways, (W, 2) float64.

    Args:
        colorizer: the network.
        L: (1, 1, S, S), and ab (1, 2, S, S), the truth.
        seen: (W, 1, S, S), what the network sees.
        damaged: (1, 1, S, S), along which the colors are enlarged.
        decoding: of the network's answer.
    """
    L, damaged = (x.expand(len(seen), -1, -1, -1) for x in (L, damaged))
    decoded = decode(colorizer(seen), colorizer.centers, decoding, colorizer.prior)
    colored = lab_to_rgb(L, enlarge(damaged, decoded))
    return torch.stack((psnr(colored, lab_to_rgb(L[:1], ab)), colorfulness(colored)), dim=1)


def score_split(
    colorizer: Colorizer, split: Split, decoding: Decoding, most: int | None, ways: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Score photographs of a split, by damage and way.

    Returns:
        PSNR and colorfulness, (N, damages, ways, 2); the distance of the ends of L, (N, damages).
    """
    scores, spans = [], []
    for index in tqdm(split.spread(most or len(split)), "scoring", unit=" photos", disable=None):
        L, ab = stored_to_lab(*split.read(np.array([index])))
        for name in DAMAGES:
            damaged = damage(L, name)
            plane = damaged[0, 0].numpy()
            seen = np.stack([way(plane) for way in ways.values()])[:, None].astype(np.float32)
            found = score_ways(colorizer, L, ab, torch.from_numpy(seen), damaged, decoding)
            scores.append(found.numpy())
            spans.append(np.ptp(np.percentile(plane, ENDS)))
    scores = np.stack(scores).reshape(-1, len(DAMAGES), len(ways), 2)
    return scores, np.reshape(spans, (-1, len(DAMAGES)))


def choose(colorizer: Colorizer, split: Split, decoding: Decoding, most: int | None) -> None:
    """Print what limits and targets of TRIED and TARGETS gain, in dB, for each of DAMAGES."""
    ways = {"as it is": lambda L: L}
    ways |= {f"{t[0]:g}..{t[1]:g}": lambda L, t=t: as_needed(L, t) for t in TARGETS}
    scores, spans = score_split(colorizer, split, decoding, most, ways)
    gains = scores[..., 0] - scores[:, :, :1, 0]  # (N, damages, ways)
    print(f"{len(scores)} photographs; target, limit, gain:", *DAMAGES, sep="  ")
    for way, target in enumerate(ways):
        for limit in TRIED if way else ():
            means = np.where(spans < limit, gains[:, :, way], 0).mean(0)
            print(f"{target:8} {limit:3g} ", *(f"{mean:+8.3f}" for mean in means))


def summarize(scores: np.ndarray) -> dict[str, dict[str, Any]]:
    """Return means over photographs of scores (N, damages, ways, 2), with 95% intervals of PSNR.

    The gain is over "as it is".
    """
    rows: dict[str, dict[str, Any]] = {}
    for name, values in zip(DAMAGES, scores.swapaxes(0, 1), strict=True):  # (N, ways, 2) each
        decibels, gains = values[..., 0], values[..., 0] - values[:, :1, 0]
        bounds, gained = bootstrap(decibels).T, bootstrap(gains).T
        for i, way in enumerate(WAYS):
            figures = {
                "psnr": decibels[:, i].mean(),
                "psnr_interval": bounds[i],
                "gain": gains[:, i].mean(),
                "gain_interval": gained[i],
                "colorfulness": values[:, i, 1].mean(),
            }
            rounded = {key: np.round(figure, 4).tolist() for key, figure in figures.items()}
            rows.setdefault(name, {})[way] = rounded
    return rows


# ---- what is shown -----------------------------------------------------------------------------
def make_table(entries: list[Entry]) -> str:
    """Return a table in Markdown: PSNR in dB by photographs, damage and way, and what it gains."""
    head = ["photographs", "L", *WAYS, "gain of stretched", "share", "colorfulness"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for entry in entries:
        for name, ways in entry["rows"].items():
            low, high = ways["stretched"]["gain_interval"]
            colors = " -> ".join(f"{ways[w]['colorfulness']:.1f}" for w in list(WAYS)[:2])
            cells = [f"{entry['dataset']}, {entry['size']} px", name]
            cells += [f"{ways[way]['psnr']:.2f}" for way in WAYS]
            cells += [f"{ways['stretched']['gain']:+.2f} ({low:+.2f} to {high:+.2f})"]
            cells += [f"{entry['shares'][name]:.1%}", colors]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


# ---- command line ------------------------------------------------------------------------------
def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser, group = make_checkpoint_parser(__doc__, "runs/faded", "faded.json")
    # fmt: off
    group.add_argument("--choose", action="store_true", help="instead, print what other limits and targets gain on the validation split")
    # fmt: on
    return parser.parse_args()


def main() -> None:
    """Score, print."""
    args = parse_args()
    colorizer, decoding, cache, run = open_run(args)
    if args.choose:
        choose(colorizer, cache.split("val"), decoding, args.photos)
        return
    with locked(args.out):
        scores, spans = score_split(colorizer, cache.split("test"), decoding, args.photos, WAYS)
        shares = ((spans > EMPTY) & (spans < FADED)).mean(0).round(4).tolist()
        found = {"photographs": len(scores), "rows": summarize(scores)}
        found["shares"] = dict(zip(DAMAGES, shares, strict=True))  # of photographs stretched
        entries = add_entry(args.out / "faded.json", run, found)
    print(make_table(entries))


if __name__ == "__main__":
    run_command(main)
