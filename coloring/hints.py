"""Correct the network's colors where a user says a color, and find where to ask for one.

A hint is a block whose color is known. Gaussian-process regression (Rasmussen and Williams 2006)
spreads what the network got wrong there to blocks that are near, as light, and alike in the
network's features: it needs no training, and works with every checkpoint. Levin et al. 2004 spread
strokes over near and equally light pixels; Zhang et al. 2017 train a network to take hints.

Shapes: h and w blocks of a photograph, P = h w blocks in rows, N hints, C channels, Q bins.
Units:  places in short sides of the photograph, L 0..100, ab about -110..110; the variance of the
        network's error is 1, whatever it is in units of ab.
"""

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

# the kernel's scales: at this distance its wide part falls to exp(-1/2)
PLACE = 1.0  # in short sides
LIGHTNESS = 50.0  # in units of L
FEATURES = 0.6  # of 1 - cos of features: there it falls to exp(-1)
NARROW = 0.5  # share of the variance that is local: one hint moves what is far half as much
NARROWNESS = 6.0  # by which the squared distance counts more in the narrow part
NOISE = 0.05  # sigma^2, the variance of a hint whose block is painted whole
PART_NOISE = 0.1  # what it grows by, in proportion to the share that is not painted: measured
MOST = 500  # hints: the time to solve for them grows with their cube
MOST_ASKED = 1500  # blocks of which those to ask for are chosen: memory grows with their square
ROWS = 4096  # blocks corrected at a time: a table of 4096 x 500 fits 8 MB
RADIUS = 20.0  # of a cluster of likely colors, in units of ab
LEAST = 0.02  # probability of a cluster that is worth a name
Color = tuple[int, int, int]  # sRGB, 0..255 each


@dataclass(frozen=True)
class Hints:
    """Blocks whose color a user says."""

    blocks: Tensor  # (N,) int64, their places in rows of h x w
    ab: Tensor  # (N, 2)
    share: Tensor  # (N,), of each block's pixels that are painted, above 0, at most 1

    def __len__(self) -> int:
        return len(self.blocks)

    def to(self, device: torch.device) -> Self:
        """Copy them to a device."""
        return replace(self, **{name: part.to(device) for name, part in vars(self).items()})


def choose_evenly(number: int) -> Tensor:
    """Return the places of at most MOST of so many hints, (M,) int64."""
    return torch.linspace(0, number - 1, min(MOST, number)).round().long()


def thin(hints: Hints) -> Hints:
    """Return at most MOST hints, evenly chosen."""
    chosen = choose_evenly(len(hints))
    return Hints(hints.blocks[chosen], hints.ab[chosen], hints.share[chosen])


# ---- Gaussian-process regression ---------------------------------------------------------------
def embed(L: Tensor, features: Tensor) -> Tensor:
    """Describe blocks by vectors between which `kernel` is a function of the distance alone.

    Args:
        L: (1, 1, h, w), 0..100, each block's mean.
        features: (1, C, h, w), of any length.

    Returns:
        (P, 3 + C): place, L and unit features, each divided by its scale.
    """
    h, w = L.shape[-2:]
    y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    place = torch.stack((y, x)).to(L) / min(h, w) / PLACE
    unit = features[0] / features[0].norm(dim=0).clamp(min=1e-12)
    # |f - g|^2 / 2 is 1 - cos(f, g) of unit vectors
    parts = (place, L[0] / LIGHTNESS, unit / math.sqrt(FEATURES))
    return torch.cat(parts).flatten(1).T.contiguous()


def kernel(x: Tensor, y: Tensor) -> Tensor:
    """Return how alike blocks x (X, D) and y (Y, D) of `embed` are, (X, Y), 0..1.

    (1 - NARROW) exp(-d) + NARROW exp(-NARROWNESS d), where d = |x - y|^2 / 2 PLACE^2 +
    (L_x - L_y)^2 / 2 LIGHTNESS^2 + (1 - cos(f_x, f_y)) / FEATURES: the sum of two squared
    exponential kernels with a scale for each input (Rasmussen and Williams, eq. 5.1).
    """
    squared = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T
    wide = torch.exp(-squared.clamp(min=0) / 2)
    return (1 - NARROW) * wide + NARROW * wide**NARROWNESS


def solve(known: Tensor, share: Tensor, right: Tensor) -> Tensor:
    """Return (K + sigma^2 I)^-1 times `right` (N, M), with K of hints' blocks (N, D).

    `share` (N,) is that of `Hints`.
    """
    noise = NOISE + PART_NOISE * (1 - share)
    factor = torch.linalg.cholesky(kernel(known, known) + torch.diag(noise))
    return torch.cholesky_solve(right, factor)


def find_wrong(ab: Tensor, hints: Hints) -> Tensor:
    """Return what ab (1, 2, h, w) lacks to the colors of hints, (N, 2)."""
    return hints.ab - ab[0].flatten(1).T[hints.blocks]


def spread(ab: Tensor, points: Tensor, known: Tensor, alpha: Tensor) -> Tensor:
    """Add sum_h k(x, h) alpha_h to ab (1, 2, h, w); see `apply_hints`.

    Args:
        ab: as the network decodes it.
        points: (P, D), of `embed`.
        known: (N, D), those of the hints, also of another frame of a film.
        alpha: (N, 2), from `solve`.
    """
    rows = ab[0].flatten(1).T  # (P, 2)
    corrected = [
        part + kernel(x, known) @ alpha
        for part, x in zip(rows.split(ROWS), points.split(ROWS), strict=True)
    ]
    return torch.cat(corrected).T.reshape(ab.shape)


def apply_hints(ab: Tensor, points: Tensor, hints: Hints) -> Tensor:
    """Add to ab the mean of the error's posterior (Rasmussen and Williams, eq. 2.25).

    ab'(x) = ab(x) + sum_h k(x, h) alpha_h, (K + sigma^2 I) alpha = color of h - ab(h).

    Args:
        ab: (1, 2, h, w), as the network decodes it.
        points: (P, D), of `embed`.
        hints: of the same blocks.

    Returns:
        (1, 2, h, w). A hint's block has nearly its color, and what is like none keeps its own.
    """
    known = points[hints.blocks]
    return spread(ab, points, known, solve(known, hints.share, find_wrong(ab, hints)))


# ---- where to ask ------------------------------------------------------------------------------
def find_deviation(logits: Tensor, centers: Tensor) -> Tensor:
    """Return the standard deviation in ab of predicted distributions (1, Q, h, w), (P,)."""
    probs = logits[0].float().flatten(1).softmax(0)  # (Q, P)
    variance = centers.square().sum(1) @ probs - (centers.T @ probs).square().sum(0)
    return variance.clamp(min=0).sqrt()


def find_questions(points: Tensor, deviation: Tensor, hints: Hints | None, number: int) -> Tensor:
    """Find the blocks whose colors would tell most about all others, most telling first.

    The covariance of two blocks' errors is k(x, y) sd_x sd_y, given the hints. Each question is the
    block that explains most of the remaining variance, and counts as answered for the next. None is
    asked for twice, nor if it is a hint.

    Args:
        points: (P, D), of `embed`.
        deviation: (P,), sd in units of ab.
        hints: that are known already.
        number: of blocks; there may be fewer.

    Returns:
        (number,) int64, places in rows of h x w.
    """
    candidates = torch.arange(len(points), device=points.device)
    if len(points) > MOST_ASKED:
        spread = torch.linspace(0, len(points) - 1, MOST_ASKED, device=points.device)
        candidates = spread.round().long()
    x, variance = points[candidates], deviation[candidates].square()
    covariance = kernel(x, x)  # of errors in units of each block's sd
    known = torch.zeros_like(candidates, dtype=torch.bool)
    if hints is not None:
        known = torch.isin(candidates, hints.blocks)
        points_known = points[hints.blocks]
        cross = kernel(points_known, x)
        covariance -= cross.T @ solve(points_known, hints.share, cross)
    found = []
    for _ in range(min(number, int((~known).sum()))):
        noisy = covariance.diagonal() + NOISE
        explained = variance @ covariance.square() / noisy
        found.append(int(explained.masked_fill(known, -1).argmax()))
        known[found[-1]] = True
        column = covariance[:, found[-1]].clone()
        covariance -= torch.outer(column, column / noisy[found[-1]])
    return candidates[found]


# ---- what to offer -----------------------------------------------------------------------------
def likeliest_colors(probs: Tensor, centers: Tensor, number: int) -> list[tuple[Tensor, float]]:
    """Return clusters of a distribution over bins: their mean ab (2,) and their probability.

    Each is the disc of RADIUS around a bin that holds most of what the clusters before it leave.

    Args:
        probs: (Q,), sum 1.
        centers: (Q, 2).
        number: of clusters at most; improbable ones are left out, but never the first.
    """
    near = (torch.cdist(centers, centers) <= RADIUS).to(probs)  # (Q, Q)
    left, clusters = probs.clone(), []
    for _ in range(number):
        inside = left * near[int((near @ left).argmax())]
        share = float(inside.sum())
        if clusters and share < LEAST:
            break
        clusters.append((inside @ centers / share, share))
        left = left - inside
    return clusters
