"""Plots, by Matplotlib; it is slow to import, and imported when one is drawn."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from quantize import lab_to_rgb, load_centers

LABELS = {  # of curves, where the log's word is not the reader's
    "loss": "training",
    "val_loss": "validation",
    "top_1": "best bin",
    "top_5": "best five",
    "colorfulness": "predicted",
    "true_colorfulness": "true",
    "bins_predicted": "predicted",
    "bins_occurring": "occurring",
}


def plot_colors(path: Path, title: str, counts: np.ndarray) -> None:
    """Draw how often each bin occurs over the ab plane, in its colour and as a heat map."""
    from matplotlib.figure import Figure

    centers = load_centers()
    share = counts / counts.sum()
    L = torch.full((1, 1, 1, len(centers)), 65.0)
    colors = lab_to_rgb(L, centers.T[None, :, None])[0, :, 0].T.numpy() / 255
    a, b = centers.numpy().T
    figure = Figure(figsize=(11, 5), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    side = np.sqrt(share / share.max()).clip(0.06)  # of each bin's square; every bin is seen
    left.scatter(b, a, s=(15 * side) ** 2, c=colors, marker="s")
    left.set(title="bins in their colour, area by frequency", xlabel="b", ylabel="a")
    seen = share > 0
    right.scatter(b, a, s=150, c="0.92", marker="s")
    heat = right.scatter(b[seen], a[seen], s=150, c=np.log10(share[seen]), marker="s")
    right.set(title=f"log10 of the frequency, {seen.sum()} of {len(a)} bins occur", xlabel="b")
    figure.colorbar(heat, ax=right)
    for axes in (left, right):
        axes.set_aspect("equal")
    figure.savefig(path, dpi=100, format="png")


def plot_curves(path: Path, title: str, log: list[dict[str, Any]]) -> None:
    """Draw what log.jsonl holds, over steps: losses, scores, accuracy, colours, bins, speed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6.5), layout="constrained")
    figure.suptitle(title)
    panels = {
        "loss": ("loss", "val_loss"),
        "PSNR, dB": ("psnr",),
        "SSIM": ("ssim",),
        "share of blocks whose bin is found": ("top_1", "top_5"),
        "colourfulness": ("colorfulness", "true_colorfulness"),
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
