"""Plots, by Matplotlib; it is slow to import, and imported when one is drawn."""

from pathlib import Path

import numpy as np
import torch

from quantize import lab_to_rgb, load_centers


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
