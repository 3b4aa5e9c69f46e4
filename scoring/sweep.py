"""Find the vividness, temperature and number of bins that decode a checkpoint's answers best.

The network sees each validation photograph once; its answer is decoded at every point of a grid.
The sweep never reads the test split: a decoding that was chosen there would score too well.
"""

import contextlib
import itertools
import json
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
from common.files import write_json
from common.plots import draw, plot_sweep
from common.processes import Ranks
from dataset import Cache, Split
from quantize import (
    TEMPERATURE,
    Decoding,
    annealed_mean,
    best_bins,
    change_prior,
    lab_to_rgb,
    load_centers,
    stored_to_lab,
)
from scoring.metrics import colorfulness, compare_photos
from scoring.score import PROTOCOL, batch_indices

TEMPERATURES = (0.2, 0.38, 0.6, 0.8, 1.0)
TOP_KS = (1, 3, 10, 30)  # and all bins
VIVIDNESSES = tuple(V / 20 for V in range(1, 21))  # above 0, with all bins: fewer are no better
VIVID_TEMPERATURES = (0.2, 0.38)  # at these; nor are higher ones
FIGURES = ("psnr", "ssim", "colorfulness")
GOALS = (*FIGURES, "vivid")
SAMPLES = 8  # photographs, the most colorful of which is drawn
DRAWN = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # vividnesses
VIVID_COST = 0.25  # dB below the highest PSNR, at most
AS_COLORFUL = 0.03  # the largest distance from the truth's colorfulness, as a share of it


def grid(Q: int, has_prior: bool = True) -> list[Decoding]:
    """Return all points of the grid, vividness 0 first, which alone needs no prior."""
    top_ks = [*(k for k in TOP_KS if k < Q), Q]
    plain = [Decoding(T, k) for T in TEMPERATURES for k in top_ks]
    vivid = [Decoding(T, Q, V) for V in VIVIDNESSES for T in VIVID_TEMPERATURES]
    return plain + vivid if has_prior else plain


def decode_grid(logits: Tensor, colorizer: Colorizer, points: list[Decoding]) -> Iterator[Tensor]:
    """Decode logits (B, Q, h, w) at each point of a grid, as `quantize.decode`: ab (B, 2, h, w).

    The points of one vividness, which follow each other, share one search for the best bins: those
    of a smaller top_k come first among them.
    """
    B, Q, h, w = logits.shape
    answer, centers = logits.float().movedim(1, -1).reshape(-1, Q), colorizer.centers
    for V, group in itertools.groupby(points, lambda point: point.vividness):
        rows, alike = change_prior(answer, colorizer.prior, V), list(group)
        most = max((point.top_k for point in alike if point.top_k < Q), default=1)
        best, colors = best_bins(rows, centers, most)
        for point in alike:
            k = point.top_k  # (P, K) and (P, K, 2), or all (P, Q) and (Q, 2)
            some = (best[:, :k], colors[:, :k]) if k < Q else (rows, centers)
            yield annealed_mean(*some, point.temperature).view(B, h, w, 2).movedim(-1, 1)


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
    for indices in batch_indices(split, ranks, "sweeping", centers.device):
        L, ab = stored_to_lab(*split.read(indices, centers.device))
        truth = lab_to_rgb(L, ab)
        found = []
        for small in decode_grid(colorizer(L), colorizer, points):
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

    The highest PSNR; the highest SSIM; colorfulness, the highest PSNR of the points that are as
    colorful as the truth (if none is, the nearest); and, vivid, the most colorful point at most
    VIVID_COST below the highest PSNR: not brown, at a known price.
    """
    psnr, ssim, colors = means.T
    distance = np.abs(colors - true_colorfulness)
    alike = distance <= max(AS_COLORFUL * true_colorfulness, distance.min())
    as_colorful = np.where(alike, psnr, -np.inf)
    near = np.where(psnr >= psnr.max() - VIVID_COST, colors, -np.inf)
    best = psnr.argmax(), ssim.argmax(), as_colorful.argmax(), near.argmax()
    return dict(zip(GOALS, map(int, best), strict=True))


def find_front(means: np.ndarray) -> list[int]:
    """Return the points that no other exceeds in PSNR and in colorfulness, palest first."""
    psnr, _, colors = means.T
    front, most = [], -np.inf
    for i in np.lexsort((-colors, -psnr)):  # the highest PSNR first
        if colors[i] > most:
            front.append(int(i))
            most = colors[i]
    return front


# ---- pictures and files ------------------------------------------------------------------------
@torch.inference_mode()
def draw_points(colorizer: Colorizer, split: Split) -> dict[Decoding, np.ndarray]:
    """Decode a colorful photograph with all bins at some points, (S, S, 3) uint8 each."""
    L, ab = stored_to_lab(*split.read(split.spread(SAMPLES), colorizer.centers.device))
    L, Q = L[colorfulness(lab_to_rgb(L, ab)).argmax()][None], len(colorizer.centers)
    vividnesses = (0.0,) if colorizer.prior is None else DRAWN
    points = [Decoding(T, Q, V) for V in vividnesses for T in VIVID_TEMPERATURES]
    photos = [lab_to_rgb(L, enlarge(L, ab)) for ab in decode_grid(colorizer(L), colorizer, points)]
    return dict(zip(points, torch.cat(photos).movedim(1, -1).cpu().numpy(), strict=True))


def read_others(out: Path, description: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return how the networks beside `out` decode these photographs as in the paper, by their loss.

    They lie in its sister folders, as train.py's runs do; those of the same loss are left out.
    """
    found, paper = {}, Decoding(TEMPERATURE, len(load_centers()))
    for path in sorted(out.resolve().parent.glob("*/sweep.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            other = json.loads(path.read_text())
            alike = other["cache_digest"] == description["cache_digest"]
            if alike and other["loss"] != description["loss"]:
                scores = {
                    Decoding(s["temperature"], s["top_k"], s.get("vividness", 0)): s
                    for s in other["scores"]
                }
                found[other["loss"]] = {
                    name: float(scores[paper][name]) for name in ("psnr", "colorfulness")
                }
    return found


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
    print(f"{checkpoint}: decodes at {decoding} from now on")


def print_sweep(points: list[Decoding], means: np.ndarray, best: dict[str, int]) -> None:
    """Print the scores of the front and of the best points, and the goals they are best for."""
    print("vividness  temperature  top-k  PSNR dB    SSIM   colorfulness")
    for i in sorted({*find_front(means), *best.values()}, key=lambda i: means[i, 2]):
        goals = " ".join(goal for goal in GOALS if best[goal] == i)
        point, (psnr, ssim, colors) = points[i], means[i]
        line = f"{point.vividness:9}{point.temperature:13}{point.top_k:7}"
        line += f"{psnr:9.2f}{ssim:8.3f}{colors:15.1f}"
        print(f"{line}  best {goals}" if goals else line)
    print(f"Of {len(points)} points, no other has both more PSNR and more color than one of these.")


def sweep_checkpoint(
    colorizer: Colorizer,
    cache: Cache,
    out: Path,
    description: dict[str, Any],
    ranks: Ranks,
    goal: str | None = None,
) -> None:
    """Sweep the validation split with all ranks; rank 0 prints, and writes files to `out`.

    `description` is from `report.describe_scoring`. With a goal, of GOALS, the decoding that is
    best for it becomes the checkpoint's default.
    """
    split, points = cache.split("val"), grid(len(colorizer.centers), colorizer.prior is not None)
    means, truth = sweep(colorizer, split, points, ranks)
    if not ranks.first:
        return
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
    if goal:
        save_decoding(Path(description["checkpoint"]), points[best[goal]])
    shown = scores, truth, contents["best"], read_others(out, description)
    drawn = draw(
        out / "sweep.png", lambda path: plot_sweep(path, *shown, draw_points(colorizer, split))
    )
    print(f"wrote sweep.json{' and sweep.png' if drawn else ''} to {out}")
