"""Score a checkpoint on its test split, beside baselines that say what its scores mean.

Each photograph has a figure of each score, and sums over bins are sums of integers: so memory stays
small, and scores do not depend on how many processes share the work.

Shapes: B batch, N photographs of the split, S pixels a side, h and w blocks, Q bins.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from coloring.enlarge import EPSILON, RADIUS, enlarge
from colorizer import Colorizer
from common.processes import Ranks
from dataset import Cache, Split
from quantize import (
    BLOCK,
    Decoding,
    SoftEncoder,
    decode,
    in_gamut,
    lab_to_linear_rgb,
    lab_to_rgb,
    load_imagenet_prior,
    stored_to_lab,
)
from scoring import metrics

BATCH_PIXELS = 2**18  # scored at a time, 64 photographs at 64 px: 0.3 GB
GPU_BATCH_PIXELS = 2**22  # on a GPU, 4 GB with the U-Net: larger batches launch no more kernels
RESAMPLES = 1000  # of the bootstrap
SEED = 0  # of the bootstrap
MACRO_PIXELS = 1000  # that a bin needs to count in auc_macro
CREDIT = 2**24  # a pixel's AuC is rounded to 1 / CREDIT: integers add up alike in any order
Scores = dict[tuple[str, str], np.ndarray]  # (row, score): a figure for each photograph, (N,)

# in words, so that a stranger can compute each figure again; spelled as in earlier metrics.json
PROTOCOL = {
    "photographs": "all of the split, as its cache holds them: the central square, antialiased to "
    "size x size pixels; L in 255 levels, ab floored to whole units and read as + 0.5, whence also "
    "the true sRGB (D65, 2 degree observer)",
    "ours": "the checkpoint sees the true L, in float32; its logits, one row for each 4 x 4 block, "
    "minus vividness times the log of the prior over bins that the checkpoint holds, become "
    "ab as softmax(logits / temperature) over the top_k highest times the bin centers; ab "
    "is enlarged along the true L, as by --images: around each block ab is a line in the block's "
    f"mean L, with slope cov(L, ab) / (var(L) + {EPSILON:g}) over the blocks within {RADIUS}, "
    "through the block's own ab; slopes and offsets are enlarged bilinearly (align_corners=False)",
    "gray": "ab = 0",
    "mean colour": "the mean ab of all pixels of the training split",
    "another photograph's colours": "photograph i of N has the ab of photograph (i + N // 2) mod N",
    "true colours at quarter resolution": "the mean ab of each 4 x 4 block, enlarged as ours",
    "true colours rounded to bins": "each pixel has the center of the bin nearest its ab",
    "sRGB": "8 bits a channel, of predicted and true colours alike; colours outside sRGB first "
    "lose chroma, at constant L and hue, until they fit",
    "psnr": "dB, 10 log10(255^2 / mean squared error over all pixels and three channels of sRGB), "
    "at most 100, of each photograph; mean over photographs",
    "psnr_pooled": "dB, 10 log10(255^2 / mean squared error over all photographs)",
    "ssim": "of sRGB: Gaussian window, sigma 1.5, 11 pixels, population covariance, data range "
    "255, borders left out; mean over pixels, channels, photographs",
    "psnr_interval, ssim_interval": "95% of the bootstrap: percentiles 2.5 and 97.5 of the mean "
    f"over N photographs drawn with replacement, {RESAMPLES} times, numpy default_rng({SEED})",
    "rmse_ab": "root of the mean of the squared error over pixels, a and b, all photographs; this "
    "and the next five are of Lab, before sRGB",
    "ciede2000": "mean over pixels of CIEDE2000 with kC = kH = 1 (L is the same)",
    "auc": "mean over pixels of clip(1 - e / 150, 0, 1), e the Euclidean distance in ab: the share "
    "of pixels with e <= t, averaged over t = 0..150",
    "auc_balanced": "the same, each pixel weighed by 1 / frequency over ImageNet (the published "
    "prior_probs.npy) of the bin nearest its true ab",
    "auc_macro": "mean over bins of the mean of auc over their pixels, by the bin nearest the true "
    f"ab; of the bins that have at least {MACRO_PIXELS} pixels",
    "macro_bins": "how many these are",
    "outside_srgb": "share of pixels more than 1e-4 of linear RGB outside sRGB, before they lose "
    "chroma",
    "colorfulness": "Hasler and Suesstrunk 2003 of sRGB: sigma + 0.3 mu of signed R - G and "
    "(R + G) / 2 - B; mean over photographs",
    "top_1, top_5": "share of 4 x 4 blocks whose true bin, nearest the block's mean ab (of two as "
    "near the one with larger a, then b), has the highest logit, or one of the five highest; equal "
    "logits are a miss",
    "cross_entropy": "nats, mean over blocks of -log softmax(logits)[true bin]; temperature 1",
    "entropy": "nats, mean over blocks of the entropy of softmax(logits)",
}


# ---- one batch ---------------------------------------------------------------------------------
def baselines(
    L: Tensor, ab: Tensor, other: Tensor, bins: Tensor, mean_ab: Tensor, centers: Tensor
) -> dict[str, Tensor]:
    """Return the rows of PROTOCOL that say what a score means, (B, 2, S, S) each.

    They follow from the true L (B, 1, S, S), ab (B, 2, S, S) and bins (B, S, S), other photographs'
    ab, the training split's mean ab (2,) and the centers (Q, 2).
    """
    return {
        "gray": torch.zeros_like(ab),
        "mean colour": mean_ab.to(ab)[:, None, None].expand_as(ab),
        "another photograph's colours": other,
        "true colours at quarter resolution": enlarge(L, F.avg_pool2d(ab, BLOCK)),
        "true colours rounded to bins": centers[bins].movedim(-1, 1),
    }


def measure(
    L: Tensor, predicted: Tensor, ab: Tensor, truth: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """Measure predicted ab (B, 2, S, S) by L (B, 1, S, S), true ab and sRGB (B, 3, S, S) uint8.

    Returns:
        A figure of each score for each photograph, (B,); each pixel's credit, (B, S, S), the mean
        of which is AuC.
    """
    error = metrics.ab_error(predicted, ab)
    credit = metrics.auc(error)
    pixels = {
        "ciede2000": metrics.ciede2000(predicted, ab),
        "auc": credit,
        "outside_srgb": ~in_gamut(lab_to_linear_rgb(L[:, 0], predicted[:, 0], predicted[:, 1])),
    }
    scores = {
        **metrics.compare_photos(lab_to_rgb(L, predicted), truth),
        "rmse_ab": (metrics.precise(error).square().mean((1, 2)) / 2).sqrt(),
        **{name: metrics.precise(values).mean((1, 2)) for name, values in pixels.items()},
    }
    return scores, credit


def sum_credit(credit: Tensor, bins: Tensor, Q: int) -> np.ndarray:
    """Add up the credit (B, S, S) of each bin's pixels, in steps of 1 / CREDIT, (Q,) int64."""
    steps = metrics.precise((credit * CREDIT).round()).flatten()
    sums = torch.bincount(bins.flatten(), weights=steps, minlength=Q)
    return sums.cpu().numpy().astype(np.int64)


def measure_rows(
    L: Tensor, ab: Tensor, bins: Tensor, rows: dict[str, Tensor], Q: int
) -> tuple[dict[tuple[str, str], Tensor], dict[str, np.ndarray]]:
    """Measure rows of predicted ab (B, 2, S, S) as `measure` does, and add up their credit by bin.

    Returns:
        (row, score): (B,); row: (Q,) int64. The truth is a row of both: it has its colorfulness,
        and the full credit of every pixel.
    """
    truth = lab_to_rgb(L, ab)
    figures, credits = {}, {}
    for row, predicted in rows.items():
        measured, credit = measure(L, predicted, ab, truth)
        figures |= {(row, name): value for name, value in measured.items()}
        credits[row] = sum_credit(credit, bins, Q)
    figures["truth", "colorfulness"] = metrics.colorfulness(truth)
    return figures, {**credits, "truth": sum_credit(torch.ones_like(L[:, 0]), bins, Q)}


# ---- a split -----------------------------------------------------------------------------------
def batch_indices(
    split: Split, ranks: Ranks, text: str, device: torch.device
) -> Iterator[np.ndarray]:
    """Yield the indices of this process's part of the batches, which do not depend on its rank."""
    on_gpu, S = device.type == "cuda", split.shards[0].attributes["size"]
    size = max(1, (GPU_BATCH_PIXELS if on_gpu else BATCH_PIXELS) // S**2)
    if on_gpu:
        size = min(size, math.ceil(len(split) / ranks.world_size))  # none has nothing to do
    starts = ranks.part(np.arange(0, len(split), size))
    for start in tqdm(starts, text, unit=" batches", disable=None if ranks.first else True):
        yield np.arange(start, min(start + size, len(split)))


@torch.inference_mode()
def score(
    colorizer: Colorizer, cache: Cache, decoding: Decoding, ranks: Ranks
) -> tuple[Scores, dict[str, np.ndarray]]:
    """Score all photographs of a cache's test split; on ranks other than 0 return nothing.

    Returns:
        Each photograph's figures by row and score; each row's credit by true bin, (Q,) int64.
    """
    split, centers = cache.split("test"), colorizer.centers
    mean_ab, N, Q = cache.split("train").mean_ab, len(split), len(centers)
    find_bins = SoftEncoder(centers.cpu(), num_neighbors=1).to(centers.device)
    tables, total, names = [], {}, []
    for indices in batch_indices(split, ranks, "scoring", centers.device):
        L, ab = stored_to_lab(*split.read(indices, centers.device))
        _, other = stored_to_lab(*split.read((indices + N // 2) % N, centers.device))
        logits, bins = colorizer(L), find_bins(ab)[0][..., 0]
        ours = enlarge(L, decode(logits, centers, decoding, colorizer.prior))
        rows = {"ours": ours, **baselines(L, ab, other, bins, mean_ab, centers)}
        figures, credits = measure_rows(L, ab, bins, rows, Q)
        blocks = find_bins(F.avg_pool2d(ab, BLOCK))[0][..., 0]
        classified = metrics.classify(logits, blocks)
        figures |= {("ours", name): value for name, value in classified.items()}
        names = list(figures)
        tables.append(torch.stack(list(figures.values())).cpu().double().numpy())
        total = {row: total.get(row, 0) + values for row, values in credits.items()}
    tables, totals = ranks.gather(tables), ranks.gather([total])
    if not ranks.first:
        return {}, {}
    scores = dict(zip(names, np.concatenate(tables, axis=1), strict=True))
    return scores, {row: sum(part.get(row, 0) for part in totals) for row in total}


def bootstrap(values: np.ndarray) -> np.ndarray:
    """Return 95% intervals of the means of values (N, K) over photographs: (2, K), low and high."""
    generator, N = np.random.default_rng(SEED), len(values)
    means = np.empty((RESAMPLES, values.shape[1]))
    for i in range(RESAMPLES):  # one at a time: memory stays that of the values
        means[i] = np.bincount(generator.integers(0, N, N), minlength=N) @ values / N
    return np.percentile(means, (2.5, 97.5), axis=0)


def weigh_bins(credit: np.ndarray, full: np.ndarray) -> dict[str, float | None]:
    """Return AuC balanced and macro from credit by true bin, (Q,), and the full credit, (Q,)."""
    weights = 1 / load_imagenet_prior().numpy()
    enough = full >= MACRO_PIXELS * CREDIT
    return {
        "auc_balanced": weights @ credit / (weights @ full),
        "auc_macro": (credit[enough] / full[enough]).mean() if enough.any() else None,
        "macro_bins": int(enough.sum()),
    }


def summarize(scores: Scores, credits: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Return the scores of each row, as PROTOCOL describes them, to 4 decimals."""
    found: dict[str, dict[str, Any]] = {}
    for (row, name), values in scores.items():
        mean = math.sqrt((values**2).mean()) if name == "rmse_ab" else values.mean()
        found.setdefault(row, {})[name] = mean
    bounded = [key for key in scores if key[1] in ("psnr", "ssim")]
    intervals = bootstrap(np.stack([scores[key] for key in bounded], axis=1)).T
    for (row, name), interval in zip(bounded, intervals, strict=True):
        found[row][f"{name}_interval"] = interval
    for row in credits.keys() - {"truth"}:
        squared_error = (10 ** (-scores[row, "psnr"] / 10)).mean()
        found[row]["psnr_pooled"] = -10 * math.log10(squared_error)
        found[row] |= weigh_bins(credits[row], credits["truth"])
    return {
        row: {
            name: None if value is None else np.round(value, 4).tolist()
            for name, value in sorted(values.items())
        }
        for row, values in found.items()
    }
