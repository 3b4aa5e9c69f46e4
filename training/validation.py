"""Validation: losses and scores of a network on validation photographs, and its samples.

Shapes: B batch, S pixels a side, h and w blocks, Q bins.
"""

import math
from typing import Any

import numpy as np
import torch
from PIL import Image

from coloring.enlarge import enlarge, predict_ab
from colorizer import Colorizer
from common.plots import draw_comparison
from dataset import Split
from quantize import Decoding, decode, lab_to_rgb, stored_to_lab
from scoring.metrics import classify, colorfulness, compare_photos
from training.losses import Objective

PHOTOS = 512  # at most, evenly spread: a validation takes seconds on any data set
SAMPLES = 8  # photographs in samples/STEP.png
FEW_BINS = 0.05  # of the occurring bins: to predict fewer is a collapse
BROWN = 0.2  # of the truth's colorfulness: less is a collapse
REMEDY = (
    "train longer, lower --lr, or weigh rare colors more: --loss normalized or rebalanced, with a "
    "smaller --uniform-mix"
)


@torch.inference_mode()
def validate(
    colorizer: Colorizer, objective: Objective, split: Split, batch_size: int, decoding: Decoding
) -> dict[str, Any]:
    """Measure a network on whole validation photographs.

    Returns:
        Means over photographs: val_loss and val_unweighted, what `classify` and `compare_photos`
        return, the truth's colorfulness; and the numbers of bins that are predicted and that occur.
    """
    device, Q = colorizer.centers.device, len(colorizer.centers)
    indices, sums = split.spread(PHOTOS), {}
    occur, predicted = torch.zeros(2, Q, dtype=torch.bool, device=device)
    for batch in np.array_split(indices, math.ceil(len(indices) / batch_size)):
        stored = split.read(batch, device)
        (loss, unweighted), logits, bins = objective.measure(colorizer, *stored)
        L, ab = stored_to_lab(*stored)
        ours = enlarge(L, decode(logits, colorizer.centers, decoding))
        truth = lab_to_rgb(L, ab)
        measured = {
            "val_loss": len(batch) * loss,
            "val_unweighted": len(batch) * unweighted,
            **classify(logits, bins),
            **compare_photos(lab_to_rgb(L, ours), truth),
            "true_colorfulness": colorfulness(truth),
        }
        for name, value in measured.items():
            sums[name] = sums.get(name, 0) + value.sum().cpu().double()
        occur[bins] = True
        predicted[logits.argmax(1)] = True
    means = {name: float(value) / len(indices) for name, value in sums.items()}
    return {**means, "bins_predicted": int(predicted.sum()), "bins_occurring": int(occur.sum())}


def warn_of_collapse(measured: dict[str, Any]) -> str:
    """Return a warning if the predictions have collapsed to few bins or to brown, else ""."""
    few = measured["bins_predicted"] <= max(1, FEW_BINS * measured["bins_occurring"])
    brown = measured["colorfulness"] < BROWN * measured["true_colorfulness"]
    if not few and not brown:
        return ""
    return (
        f"warning: the colors have collapsed: {measured['bins_predicted']} of "
        f"{measured['bins_occurring']} bins are predicted, colorfulness is "
        f"{measured['colorfulness']:.1f}, the truth's is {measured['true_colorfulness']:.1f}; "
        f"{REMEDY}"
    )


def describe_validation(step: int, measured: dict[str, Any], best: bool) -> str:
    """Describe a validation in one aligned line."""
    return (
        f"step {step:9,}  loss {measured['val_loss']:7.4f}  {measured['psnr']:5.2f} dB  "
        f"SSIM {measured['ssim']:.3f}  "
        f"top-1 {measured['top_1']:4.0%}  top-5 {measured['top_5']:4.0%}  "
        f"colorfulness {measured['colorfulness']:3.0f}, true {measured['true_colorfulness']:3.0f}  "
        f"bins {measured['bins_predicted']:3}, true {measured['bins_occurring']:3}  "
        f"entropy {measured['entropy']:.2f}" + ("  best" if best else "")
    )


def draw_samples(colorizer: Colorizer, split: Split, decoding: Decoding) -> Image.Image:
    """Draw gray, colored and true validation photographs side by side."""
    stored = split.read(split.spread(SAMPLES), colorizer.centers.device)
    L, ab = stored_to_lab(*stored)
    return draw_comparison(L, predict_ab(colorizer, L, decoding), ab)
