"""Which temperature and how many bins a checkpoint's answers are best decoded with.

The network sees each validation photograph once; its answer is decoded at every point of a grid.
The test split is never looked at: what is chosen here would be scored too well there.
"""

import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coloring.enlarge import enlarge
from colorizer import Colorizer, read_checkpoint, save_checkpoint
from common.files import write_json, write_whole
from common.plots import plot_sweep
from common.processes import Ranks
from dataset import Cache, Split
from quantize import (
    Decoding,
    annealed_mean,
    best_bins,
    decode,
    lab_to_rgb,
    stored_to_lab,
)
from scoring.metrics import colorfulness, compare_photos
from scoring.test_split import PROTOCOL, batches

TEMPERATURES = (0.1, 0.2, 0.38, 0.6, 0.8, 1.0)
TOP_KS = (1, 3, 10, 30, 100)  # and all bins
FIGURES = ("psnr", "ssim", "colorfulness")
GOALS = (*FIGURES, "vivid")
SAMPLES = 8  # photographs, the most colourful of which is drawn
VIVID_COST = 0.25  # dB below the highest PSNR, at most


def grid(Q: int) -> list[Decoding]:
    """Return all points of the grid, the temperatures' rows one after another."""
    return [Decoding(T, k) for T in TEMPERATURES for k in (*(k for k in TOP_KS if k < Q), Q)]


def decode_grid(logits: Tensor, centers: Tensor, points: list[Decoding]) -> Iterator[Tensor]:
    """Decode logits (B, Q, h, w) at each point of a grid, as `quantize.decode`: ab (B, 2, h, w).

    The best bins are sought once and shared: those of a smaller top_k come first among them.
    """
    B, Q, h, w = logits.shape
    rows = logits.float().movedim(1, -1).reshape(-1, Q)
    best, colors = best_bins(rows, centers, max(p.top_k for p in points if p.top_k < Q))
    for point in points:
        k = point.top_k  # (P, K) and (P, K, 2), or all (P, Q) and (Q, 2)
        some = (best[:, :k], colors[:, :k]) if k < Q else (rows, centers)
        ab = annealed_mean(*some, point.temperature)
        yield ab.view(B, h, w, 2).movedim(-1, 1)


@torch.inference_mode()
def sweep(
    colorizer: Colorizer, split: Split, points: list[Decoding], ranks: Ranks
) -> tuple[np.ndarray, float]:
    """Score every point of a grid on a split.

    Returns:
        On rank 0, empty elsewhere: PSNR in dB, SSIM and colourfulness, means over photographs to 4
        decimals, of each point, (points, 3) float64; the truth's colourfulness.
    """
    centers, sums = colorizer.centers, []
    for indices in batches(split, ranks, "sweeping"):
        L, ab = stored_to_lab(*split.read(indices, centers.device))
        truth = lab_to_rgb(L, ab)
        found = []
        for small in decode_grid(colorizer(L), centers, points):
            photos = lab_to_rgb(L, enlarge(L, small))
            found.append(torch.stack(list(compare_photos(photos, truth).values())).sum(1))
        of_truth = colorfulness(truth).sum().expand(1, 3)
        sums.append(torch.cat((torch.stack(found), of_truth)).cpu().double().numpy())
    sums = ranks.gather(sums)
    if not sums:
        return np.empty((0, 3)), 0.0
    means = (np.sum(sums, axis=0) / len(split)).round(4)  # equal points tie: the first is chosen
    return means[:-1], float(means[-1, 0])


def choose(means: np.ndarray, true_colorfulness: float) -> dict[str, int]:
    """Return the best point for each goal.

    The highest PSNR, the highest SSIM, the colourfulness nearest the truth's; and, vivid, the most
    colourful of those that are at most VIVID_COST below the highest PSNR: not brown, at a price
    that is known.
    """
    psnr, ssim, colors = means.T
    near = np.where(psnr >= psnr.max() - VIVID_COST, colors, -np.inf)
    best = psnr.argmax(), ssim.argmax(), np.abs(colors - true_colorfulness).argmin(), near.argmax()
    return dict(zip(GOALS, map(int, best), strict=True))


@torch.inference_mode()
def draw_points(colorizer: Colorizer, split: Split, points: list[Decoding]) -> np.ndarray:
    """Decode a colourful photograph at every point, (points, S, S, 3) uint8."""
    L, ab = stored_to_lab(*split.read(split.spread(SAMPLES), colorizer.centers.device))
    L = L[colorfulness(lab_to_rgb(L, ab)).argmax()][None]
    logits = colorizer(L)
    photos = [
        lab_to_rgb(L, enlarge(L, decode(logits, colorizer.centers, point))) for point in points
    ]
    return torch.cat(photos).movedim(1, -1).cpu().numpy()


def check_default(checkpoint: Path, info: dict[str, Any]) -> None:
    """Refuse to make a decoding a checkpoint's default, before the work.

    Raises:
        ValueError: the checkpoint holds no default, or may not be written.
    """
    if info["dataset"] is None:
        raise ValueError(
            f"{checkpoint}: expected a checkpoint of train.py, found published weights, which "
            "hold no default; leave --save-decode out, and give --temperature and --top-k"
        )
    if not os.access(checkpoint.resolve().parent, os.W_OK):
        raise ValueError(f"{checkpoint}: you may not write to its folder; leave --save-decode out")


def save_decoding(checkpoint: Path, decoding: Decoding) -> None:
    """Make a decoding the default of a checkpoint; all else in it stays."""
    path = checkpoint.resolve()  # a link stays one
    contents, mode = read_checkpoint(path), path.stat().st_mode
    del contents["format"]
    contents |= asdict(decoding)
    save_checkpoint(path, contents.pop("model"), **contents)
    path.chmod(mode)
    print(
        f"{checkpoint}: decodes at temperature {decoding.temperature}, top-k {decoding.top_k} "
        "from now on"
    )


def print_sweep(points: list[Decoding], means: np.ndarray, best: dict[str, int]) -> None:
    """Print the scores of each point, and for what it is the best."""
    print(f"{'temperature':>11}{'top-k':>7}{'PSNR dB':>9}{'SSIM':>8}{'colourfulness':>15}")
    for i, (point, (psnr, ssim, colors)) in enumerate(zip(points, means, strict=True)):
        goals = " ".join(goal for goal in GOALS if best[goal] == i)
        line = f"{point.temperature:11}{point.top_k:7}{psnr:9.2f}{ssim:8.3f}{colors:15.1f}"
        print(f"{line}  best {goals}" if goals else line)


def sweep_checkpoint(
    colorizer: Colorizer, cache: Cache, out: Path, description: dict[str, Any], ranks: Ranks
) -> dict[str, Decoding]:
    """Sweep the validation split, all ranks together; print and write what comes out, rank 0 alone.

    Args:
        colorizer: the checkpoint's network.
        cache: whose validation split is swept.
        out: folder to write to.
        description: from `reports.describe`.
        ranks: all processes.

    Returns:
        On rank 0, empty elsewhere: the best decoding for each goal.
    """
    split, points = cache.split("val"), grid(len(colorizer.centers))
    means, truth = sweep(colorizer, split, points, ranks)
    if not ranks.first:
        return {}
    best = choose(means, truth)
    print(f"{cache.folder}, {len(split):,} validation photographs, colourfulness {truth:.1f}")
    print_sweep(points, means, best)
    scores = [
        {**asdict(point), **dict(zip(FIGURES, row.tolist(), strict=True))}
        for point, row in zip(points, means, strict=True)
    ]
    contents = {
        "protocol": {key: PROTOCOL[key] for key in ("photographs", "ours", "sRGB", *FIGURES)},
        **description,
        "true_colorfulness": truth,
        "best": {goal: scores[i] for goal, i in best.items()},
        "scores": scores,
    }
    write_json(out / "sweep.json", contents)
    photos = draw_points(colorizer, split, points)
    write_whole(
        out / "sweep.png", lambda path: plot_sweep(path, points, means, truth, best, photos)
    )
    print(f"wrote sweep.json and sweep.png to {out}")
    return {goal: points[i] for goal, i in best.items()}
