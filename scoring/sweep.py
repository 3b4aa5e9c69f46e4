"""Find the temperature and the number of bins that decode a checkpoint's answers best.

The network sees each validation photograph once; its answer is decoded at every point of a grid.
The sweep never reads the test split: a decoding that was chosen there would score too well.
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
from quantize import Decoding, annealed_mean, best_bins, decode, lab_to_rgb, stored_to_lab
from scoring.metrics import colorfulness, compare_photos
from scoring.score import PROTOCOL, batch_indices

TEMPERATURES = (0.1, 0.2, 0.38, 0.6, 0.8, 1.0)
TOP_KS = (1, 3, 10, 30, 100)  # and all bins
FIGURES = ("psnr", "ssim", "colorfulness")
GOALS = (*FIGURES, "vivid")
SAMPLES = 8  # photographs, the most colorful of which is drawn
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
    """Score every point of a grid on a split; on ranks other than 0 return nothing.

    Returns:
        PSNR in dB, SSIM and colorfulness of each point, means over photographs to 4 decimals,
        (points, 3) float64; the truth's colorfulness.
    """
    centers, sums = colorizer.centers, []
    for indices in batch_indices(split, ranks, "sweeping"):
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

    The highest PSNR, the highest SSIM, the colorfulness nearest the truth's; and, vivid, the most
    colorful point at most VIVID_COST below the highest PSNR: not brown, at a known price.
    """
    psnr, ssim, colors = means.T
    near = np.where(psnr >= psnr.max() - VIVID_COST, colors, -np.inf)
    best = psnr.argmax(), ssim.argmax(), np.abs(colors - true_colorfulness).argmin(), near.argmax()
    return dict(zip(GOALS, map(int, best), strict=True))


@torch.inference_mode()
def draw_points(colorizer: Colorizer, split: Split, points: list[Decoding]) -> np.ndarray:
    """Decode a colorful photograph at every point, (points, S, S, 3) uint8."""
    L, ab = stored_to_lab(*split.read(split.spread(SAMPLES), colorizer.centers.device))
    L = L[colorfulness(lab_to_rgb(L, ab)).argmax()][None]
    logits = colorizer(L)
    ab = [enlarge(L, decode(logits, colorizer.centers, point)) for point in points]
    return torch.cat([lab_to_rgb(L, each) for each in ab]).movedim(1, -1).cpu().numpy()


def check_can_save(checkpoint: Path, info: dict[str, Any]) -> None:
    """Raise ValueError if a decoding cannot become a checkpoint's default."""
    if info["dataset"] is None:
        raise ValueError(
            f"{checkpoint}: expected a checkpoint of train.py, found published weights, which "
            "hold no default; give --temperature and --top-k instead of --save-decode"
        )
    if not os.access(checkpoint.resolve().parent, os.W_OK):
        raise ValueError(f"{checkpoint}: you may not write to its folder; leave --save-decode out")


def save_decoding(checkpoint: Path, decoding: Decoding) -> None:
    """Make a decoding a checkpoint's default; its other contents stay."""
    path = checkpoint.resolve()  # a link stays one
    contents, mode = read_checkpoint(path), path.stat().st_mode
    del contents["format"]
    contents |= asdict(decoding)
    save_checkpoint(path, contents.pop("model"), **contents)
    path.chmod(mode)
    T, k = decoding.temperature, decoding.top_k
    print(f"{checkpoint}: decodes at temperature {T}, top-k {k} from now on")


def print_sweep(points: list[Decoding], means: np.ndarray, best: dict[str, int]) -> None:
    """Print the scores of each point, and the goals that it is the best for."""
    print(f"{'temperature':>11}{'top-k':>7}{'PSNR dB':>9}{'SSIM':>8}{'colorfulness':>15}")
    for i, (point, (psnr, ssim, colors)) in enumerate(zip(points, means, strict=True)):
        goals = " ".join(goal for goal in GOALS if best[goal] == i)
        line = f"{point.temperature:11}{point.top_k:7}{psnr:9.2f}{ssim:8.3f}{colors:15.1f}"
        print(f"{line}  best {goals}" if goals else line)


def sweep_checkpoint(
    colorizer: Colorizer, cache: Cache, out: Path, description: dict[str, Any], ranks: Ranks
) -> dict[str, Decoding]:
    """Sweep the validation split with all ranks; rank 0 prints, and writes files to `out`.

    `description` is from `report.describe_scoring`.

    Returns:
        The best decoding for each goal; empty on ranks other than 0.
    """
    split, points = cache.split("val"), grid(len(colorizer.centers))
    means, truth = sweep(colorizer, split, points, ranks)
    if not ranks.first:
        return {}
    best = choose(means, truth)
    print(f"{cache.folder}, {len(split):,} validation photographs, colorfulness {truth:.1f}")
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
    drawn = points, means, truth, best, draw_points(colorizer, split, points)
    write_whole(out / "sweep.png", lambda path: plot_sweep(path, *drawn))
    print(f"wrote sweep.json and sweep.png to {out}")
    return {goal: points[i] for goal, i in best.items()}
