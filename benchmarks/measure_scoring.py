"""Score photographs our way and the obvious way, in one process, in turn, and print the ratio.

The obvious way, one photograph at a time: the network, its logits enlarged to the photograph,
SciPy's softmax over all bins in float64, scikit-image for sRGB, PSNR, SSIM and CIEDE2000, NumPy
for the rest; the true bins by comparing all centers, and less obviously by a k-d tree. Ours: a
batch at a time, as generate.py. Both give the scores of the row "ours", and their means are printed
side by side (the obvious way clips colors and enlarges logits, so that they differ). Then ours
with all rows. The photographs are crops of those inside scikit-image; the network is untrained.
One thread, processor time.

examples:
  python benchmarks/measure_scoring.py
  python benchmarks/measure_scoring.py --size 176 --photos 32
"""

import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial import cKDTree
from scipy.special import log_softmax, softmax
from skimage.color import deltaE_ciede2000, lab2rgb, lab2xyz
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from timing import ROOT, time_in_turn
from torch import Tensor

from coloring.enlarge import enlarge
from colorizer import Colorizer
from common.command_line import make_parser
from common.processes import Ranks
from dataset import Cache
from quantize import (
    BLOCK,
    XYZ_FROM_RGB,
    Decoding,
    SoftEncoder,
    decode,
    lab_to_rgb,
    load_centers,
    stored_to_lab,
)
from scoring.metrics import classify, colorfulness
from scoring.score import BATCH_PIXELS, measure, score, sum_credit

DECODING = Decoding(0.38, 313)
Batch = tuple[Tensor, Tensor]  # L (B, 1, S, S), ab (B, 2, S, S)


def colorfulness_obviously(photo: np.ndarray) -> float:
    """Return the colorfulness of a photograph (S, S, 3) uint8."""
    R, G, B = photo.astype(float).transpose(2, 0, 1)
    rg, yb = R - G, (R + G) / 2 - B
    return np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean())


def compare_all(ab: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Return the nearest bins of ab (..., 2) by comparing all centers."""
    return np.linalg.norm(ab[..., None, :] - centers, axis=-1).argmin(-1)


def search_tree(ab: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Return the nearest bins of ab (..., 2) by a k-d tree."""
    return cKDTree(centers).query(ab)[1]


def score_obviously(
    colorizer: Colorizer, find_bins: Callable[..., np.ndarray], L: Tensor, ab: Tensor
) -> dict[str, float]:
    """Score one photograph, L (1, 1, S, S)."""
    centers = colorizer.centers.double().numpy()
    logits = colorizer(L)
    large = F.interpolate(logits, scale_factor=BLOCK, mode="bilinear")[0].permute(1, 2, 0)
    predicted = softmax(large.double().numpy() / DECODING.temperature, axis=-1) @ centers
    lightness, true = (x[0].permute(1, 2, 0).double().numpy() for x in (L, ab))
    labs = [np.concatenate((lightness, x), axis=-1) for x in (predicted, true)]
    photo, truth = (np.rint(255 * lab2rgb(lab)).astype(np.uint8) for lab in labs)
    linear = lab2xyz(labs[0]) @ np.linalg.inv(XYZ_FROM_RGB).T
    error = np.linalg.norm(predicted - true, axis=-1)
    credit, bins = np.clip(1 - error / 150, 0, 1), find_bins(true, centers)
    credits = np.bincount(bins.ravel(), credit.ravel(), minlength=len(centers))
    blocks = find_bins(F.avg_pool2d(ab, BLOCK)[0].permute(1, 2, 0).double().numpy(), centers)
    rows = logits[0].permute(1, 2, 0).double().numpy()
    hits = rows.argsort(-1)[..., ::-1][..., :5] == blocks[..., None]
    log_probs = log_softmax(rows, axis=-1)
    return {
        "psnr": peak_signal_noise_ratio(truth, photo),
        "ssim": structural_similarity(
            truth, photo, gaussian_weights=True, use_sample_covariance=False, channel_axis=-1
        ),
        "colorfulness": colorfulness_obviously(photo),
        "true_colorfulness": colorfulness_obviously(truth),
        "rmse_ab": np.sqrt((error**2).mean() / 2),
        "ciede2000": deltaE_ciede2000(labs[1], labs[0]).mean(),
        "auc": credits.sum() / credit.size,
        "outside_srgb": ((linear < -1e-4) | (linear > 1 + 1e-4)).any(-1).mean(),
        "top_1": hits[..., 0].mean(),
        "top_5": hits.any(-1).mean(),
        "cross_entropy": -np.take_along_axis(log_probs, blocks[..., None], -1).mean(),
        "entropy": -(np.exp(log_probs) * log_probs).sum(-1).mean(),
    }


def predict(colorizer: Colorizer, L: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits (B, Q, h, w) and ab (B, 2, S, S) of a batch, our way."""
    logits = colorizer(L)
    ab = decode(logits, colorizer.centers, DECODING)
    return logits, enlarge(L, ab)


def score_ours(
    colorizer: Colorizer, find_bins: SoftEncoder, L: Tensor, ab: Tensor
) -> dict[str, float]:
    """Score a batch's row "ours", our way."""
    logits, predicted = predict(colorizer, L)
    truth = lab_to_rgb(L, ab)
    scores, credit = measure(L, predicted, ab, truth)
    sum_credit(credit, find_bins(ab)[0][..., 0], len(colorizer.centers))
    scores |= classify(logits, find_bins(F.avg_pool2d(ab, BLOCK))[0][..., 0])
    scores["true_colorfulness"] = colorfulness(truth)
    return {name: values.mean().item() for name, values in scores.items()}


def compare(cache: Cache, photos: int, rounds: int) -> None:
    """Time both ways and the parts of ours."""
    torch.manual_seed(0)
    centers, split = load_centers(), cache.split("train")
    colorizer = Colorizer(centers).eval().to(memory_format=torch.channels_last)
    torch.nn.init.normal_(colorizer.net.head.weight, std=0.15)  # 3% outside sRGB
    find_bins = SoftEncoder(centers, num_neighbors=1)
    L, ab = stored_to_lab(*split.read(np.arange(photos) % len(split)))
    parts = [part.split(max(1, BATCH_PIXELS // cache.size**2)) for part in (L, ab)]
    ones, found = list(zip(L.split(1), ab.split(1), strict=True)), {}

    def run(way: str, score_one: Callable[..., dict[str, float]], batches: list[Batch]) -> None:
        found[way] = [score_one(*batch) for batch in batches]

    ours = partial(score_ours, colorizer, find_bins)
    obvious = {f"obvious, {f.__name__}": f for f in (compare_all, search_tree)}
    ways = {
        name: partial(run, name, partial(score_obviously, colorizer, f), ones)
        for name, f in obvious.items()
    }
    ways["ours"] = partial(run, "ours", ours, list(zip(*parts, strict=True)))
    ways["the network and decoding"] = lambda: [predict(colorizer, part) for part in parts[0]]
    seconds = time_in_turn(ways, rounds, time.process_time)
    print(f"{'mean of':20}" + "".join(f"{way:>22}" for way in found))
    for name in found["obvious, search_tree"][0]:
        means = (np.mean([scores[name] for scores in found[way]]) for way in found)
        print(f"{name:20}" + "".join(f"{mean:22.4f}" for mean in means))
    for name, value in seconds.items():
        print(f"{name}: {photos / value:,.1f} photographs/s of processor time")
    test = len(cache.split("test"))
    score_all = partial(score, colorizer, cache, DECODING, Ranks())
    every = time_in_turn({"all": score_all}, 3)["all"]
    print(f"all seven rows, {test} test photographs: {test / every:,.1f} photographs/s")
    ratios = (f"{seconds[way] / seconds['ours']:.1f} times as fast as {way}" for way in obvious)
    print(f"ours is {', '.join(ratios)}")


@torch.inference_mode()
def main() -> None:
    """Print the figures."""
    parser = make_parser(__doc__)
    # fmt: off
    parser.add_argument("--size", type=int, default=64, metavar="PX", help="side of the photographs")
    parser.add_argument("--photos", type=int, default=64, metavar="N", help="scored in a round")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of which the median counts")
    # fmt: on
    args = parser.parse_args()
    torch.set_num_threads(1)  # one of each: a ratio that other processes do not change
    warnings.simplefilter("ignore")  # scikit-image names each color outside sRGB
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, ROOT / "create_dataset.py", "--dataset", "sample"]
        command += ["--size", str(args.size), "--cache", folder]
        subprocess.run(command, check=True, capture_output=True)
        compare(Cache(Path(folder) / f"sample-{args.size}"), args.photos, args.rounds)


if __name__ == "__main__":
    main()
