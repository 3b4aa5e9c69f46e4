"""Plots and grids of photographs. Matplotlib is slow to import: the first plot imports it."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from common.files import write_whole
from quantize import Decoding, lab_to_rgb, load_centers

GRID_SIDE = 128  # pixels: a grid enlarges smaller photographs to this side
LIGHTNESS = 65.0  # L of the bins' colors in plots
LABELS = {  # of curves, instead of the log's keys
    "loss": "training",
    "val_loss": "validation",
    "top_1": "best bin",
    "top_5": "best five",
    "colorfulness": "predicted",
    "true_colorfulness": "true",
    "bins_predicted": "predicted",
    "bins_occurring": "occurring",
}


def draw(path: Path, write: Callable[[Path], Any]) -> bool:
    """Write a picture by `write`, whole or not at all; return whether it was written.

    A picture that fails, on a full disk too, costs itself and a sentence: nothing depends on it.
    """
    try:
        path.parent.mkdir(exist_ok=True)
        write_whole(path, write)
    except Exception as error:  # Matplotlib raises errors of any type
        reason = " ".join(str(error).split()) or type(error).__name__
        tqdm.write(f"{path}: not drawn ({reason}); all else goes on", file=sys.stderr)
        return False
    return True


def make_figure(width: float, height: float) -> Any:
    """Return a figure of a size in inches; it needs no window and no notebook."""
    try:
        import matplotlib.figure
    except (OSError, ValueError):  # of a notebook's MPLBACKEND, or of a broken matplotlibrc
        os.environ |= {"MPLBACKEND": "agg", "MATPLOTLIBRC": os.devnull}  # else none can import it
        for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
            del sys.modules[name]  # half imported
        import matplotlib.figure
    return matplotlib.figure.Figure(figsize=(width, height), layout="constrained")


def bin_colors(L: float) -> np.ndarray:
    """Return the bins' colors at a lightness, RGB (Q, 3), 0..1."""
    centers = load_centers()
    rgb = lab_to_rgb(torch.full((1, 1, 1, len(centers)), L), centers.T[None, :, None])
    return rgb[0, :, 0].T.numpy() / 255


def plot_colors(path: Path, title: str, counts: np.ndarray) -> None:
    """Draw how often each bin occurs over the ab plane, in its color and as a heat map."""
    centers = load_centers()
    share = counts / counts.sum()
    a, b = centers.numpy().T
    figure = make_figure(11, 5)
    figure.suptitle(title)
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    side = np.sqrt(share / share.max()).clip(0.06)  # of each bin's square; every bin is visible
    left.scatter(b, a, s=(15 * side) ** 2, c=bin_colors(LIGHTNESS), marker="s")
    left.set(title="bins in their color, area by frequency", xlabel="b", ylabel="a")
    seen = share > 0
    right.scatter(b, a, s=150, c="0.92", marker="s")
    heat = right.scatter(b[seen], a[seen], s=150, c=np.log10(share[seen]), marker="s")
    right.set(title=f"log10 of the frequency, {seen.sum()} of {len(a)} bins occur", xlabel="b")
    figure.colorbar(heat, ax=right)
    for axes in (left, right):
        axes.set_aspect("equal")
    figure.savefig(path, dpi=100, format="png")


def plot_curves(path: Path, title: str, log: list[dict[str, Any]]) -> None:
    """Draw the lines of log.jsonl over steps: losses, scores, accuracy, colors, bins."""
    figure = make_figure(12, 6.5)
    figure.suptitle(title)
    panels = {
        "loss": ("loss", "val_loss"),
        "PSNR, dB": ("psnr",),
        "SSIM": ("ssim",),
        "share of blocks whose bin is found": ("top_1", "top_5"),
        "colorfulness": ("colorfulness", "true_colorfulness"),
        "bins": ("bins_predicted", "bins_occurring"),
    }
    for axes, (name, keys) in zip(figure.subplots(2, 3).flat, panels.items(), strict=True):
        for key in keys:
            lines = [line for line in log if key in line]
            steps, values = [line["step"] for line in lines], [line[key] for line in lines]
            mark = "" if key == "loss" else "."
            axes.plot(steps, values, marker=mark, linewidth=1, label=LABELS.get(key, key))
        axes.set(title=name, xlabel="step")
        axes.grid(alpha=0.3)
        if len(keys) > 1:
            axes.legend()
    figure.savefig(path, dpi=100, format="png")


def draw_scores(
    axes: Any,
    scores: list[dict[str, float]],
    best: dict[str, dict[str, float]],
    others: dict[str, dict[str, float]],
) -> None:
    """Draw PSNR over colorfulness, with the names of the best points; see plot_sweep."""
    groups = {
        "temperature and top-k alone": ([p for p in scores if not p["vividness"]], ".", "0.6"),
        "with vividness": ([p for p in scores if p["vividness"]], ".", "tab:orange"),
    }
    for marker, (loss, p) in zip("sD^", others.items(), strict=False):
        groups[f"--loss {loss}, decoded as in the paper"] = [p], marker, "tab:blue"
    for label, (group, marker, color) in groups.items():
        colors, psnr = [p["colorfulness"] for p in group], [p["psnr"] for p in group]
        axes.plot(colors, psnr, marker, color=color, label=label if colors else None)
    for name, p in best.items():  # ssim's point is near psnr's, and paler
        side, x = ("right", -5) if name == "ssim" else ("left", 5)
        place = p["colorfulness"], p["psnr"]
        axes.annotate(name, place, (x, 4), textcoords="offset points", horizontalalignment=side)


def draw_mosaic(axes: Any, photos: dict[Decoding, np.ndarray]) -> None:
    """Draw photographs, (S, S, 3) uint8 each, by vividness and temperature of their points."""
    columns = list(dict.fromkeys(point.vividness for point in photos))
    rows = list(dict.fromkeys(point.temperature for point in photos))
    tiles = np.pad(list(photos.values()), ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)
    tiles = tiles.reshape(len(columns), len(rows), *tiles.shape[1:])
    mosaic = np.hstack([np.vstack(list(column)) for column in tiles])
    axes.imshow(mosaic, extent=(-0.5, len(columns) - 0.5, len(rows) - 0.5, -0.5))
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)


def plot_sweep(
    path: Path,
    scores: list[dict[str, float]],
    true_colorfulness: float,
    best: dict[str, dict[str, float]],
    others: dict[str, dict[str, float]],
    photos: dict[Decoding, np.ndarray],
) -> None:
    """Draw the PSNR and colorfulness of a sweep's points, and a photograph at some of them.

    Args:
        path: of the picture.
        scores: vividness, psnr in dB and colorfulness of each point, among others.
        true_colorfulness: of the true photographs.
        best: the best point for each goal.
        others: psnr and colorfulness of networks of other losses, by loss.
        photos: (S, S, 3) uint8 each, at all temperatures for each vividness.
    """
    figure = make_figure(10, 8.6)
    upper, lower = figure.subplots(2, 1, height_ratios=(1.4, 1))
    draw_scores(upper, scores, best, others)
    upper.axvline(true_colorfulness, color="0.3", linestyle=":", label="the truth's colorfulness")
    upper.set(xlabel="colorfulness", ylabel="PSNR, dB")
    upper.margins(y=0.08)  # a name stands above the highest point
    upper.grid(alpha=0.3)
    upper.legend(loc="lower left")
    draw_mosaic(lower, photos)
    lower.set(title="a validation photograph", xlabel="vividness", ylabel="temperature")
    figure.savefig(path, dpi=100, format="png")


def draw_distribution(axes: Any, probs: Tensor, L: float, area: float) -> None:
    """Draw a predicted distribution over the ab plane, each bin in its color, area by probability.

    Args:
        axes: of Matplotlib.
        probs: (Q,), sum 1.
        L: 0..100, of the bins' colors.
        area: of the most probable bin's square, in points squared.
    """
    a, b = load_centers().numpy().T
    axes.scatter(b, a, s=3, c="0.85", marker="s")
    areas = area * (probs / probs.max()).cpu().numpy()
    axes.scatter(b, a, s=areas, c=bin_colors(L), marker="s")


def plot_distribution(path: Path, probs: Tensor, L: float) -> None:
    """Draw a predicted distribution (Q,) over the ab plane, in its colors at L, 0..100."""
    figure = make_figure(5, 5)
    axes, most = figure.subplots(), float(probs.max())
    draw_distribution(axes, probs, L, 300 * min(1, 10 * most))  # small where all are improbable
    axes.set(xlabel="b: blue to yellow", ylabel="a: green to red", aspect="equal")
    axes.set_title(f"the most probable bin has {most:.0%}")
    figure.savefig(path, dpi=100, format="png")


# ---- photographs in rows -----------------------------------------------------------------------
def make_grid(rows: list[list[np.ndarray]], scale: int = 1, gap: int = 4) -> Image.Image:
    """Lay out photographs of one size, (H, W, 3) uint8 each, in rows, enlarged by a factor."""
    height, width = rows[0][0].shape[:2]
    step_y, step_x = height * scale + gap, width * scale + gap
    grid = Image.new("RGB", (len(rows[0]) * step_x + gap, len(rows) * step_y + gap), "white")
    for y, row in enumerate(rows):
        for x, pixels in enumerate(row):
            image = Image.fromarray(pixels).resize((width * scale, height * scale))
            grid.paste(image, (gap + x * step_x, gap + y * step_y))
    return grid


def draw_comparison(L: Tensor, predicted: Tensor, truth: Tensor) -> Image.Image:
    """Draw photographs in rows, gray | predicted | truth, from L (B, 1, H, W) and two ab."""
    columns = [
        lab_to_rgb(L, ab).movedim(1, -1).cpu().numpy()
        for ab in (torch.zeros_like(truth), predicted, truth)
    ]
    rows = [list(row) for row in zip(*columns, strict=True)]
    return make_grid(rows, scale=max(1, GRID_SIDE // L.shape[-1]))
