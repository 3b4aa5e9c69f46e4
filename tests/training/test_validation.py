import json

import numpy as np
import pytest
import torch
from running import call

import train
from coloring.enlarge import enlarge
from colorizer import Colorizer
from dataset import Cache
from quantize import Decoding, decode, lab_to_rgb, load_centers, stored_to_lab
from scoring.metrics import colorfulness, psnr
from training.losses import Objective
from training.validation import classify, validate, warn_of_collapse

CENTERS = load_centers()


def test_classify_counts_the_blocks_of_each_photograph():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(3, 313, 4, 5))
    bins = generator.integers(0, 313, (3, 4, 5))
    bins[0] = logits[0].argmax(0)
    bins[1, :2] = logits[1].argsort(0)[-5, :2]
    measured = classify(torch.from_numpy(logits), torch.from_numpy(bins))
    order = logits.argsort(1)[:, ::-1]
    top_1 = (order[:, 0] == bins).mean((1, 2))
    top_5 = (order[:, :5] == bins[:, None]).any(1).mean((1, 2))
    assert measured["top_1"].tolist() == pytest.approx(top_1.tolist())
    assert measured["top_5"].tolist() == pytest.approx(top_5.tolist())
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    entropy = -(np.exp(log_probs) * log_probs).sum(1).mean((1, 2))
    assert measured["entropy"].tolist() == pytest.approx(entropy.tolist(), rel=1e-5)
    true = np.take_along_axis(log_probs, bins[:, None], axis=1)[:, 0].mean((1, 2))
    assert measured["cross_entropy"].tolist() == pytest.approx((-true).tolist(), rel=1e-5)


def test_classify_at_its_limits():
    bins = torch.zeros(1, 1, 1, dtype=torch.int64)
    uniform = classify(torch.zeros(1, 313, 1, 1), bins)
    assert uniform["entropy"] == pytest.approx(np.log(313), abs=1e-5)
    assert uniform["cross_entropy"] == pytest.approx(np.log(313), abs=1e-5)
    assert uniform["top_5"] == 0  # a tie is a miss
    certain = torch.zeros(1, 313, 1, 1)
    certain[0, 7] = 1000
    assert classify(certain, bins)["entropy"] == 0


def test_colorfulness_follows_its_formula():
    photos = np.random.default_rng(0).integers(0, 256, (4, 3, 9, 7), dtype=np.uint8)
    for photo, found in zip(photos, colorfulness(torch.from_numpy(photos)), strict=True):
        R, G, B = photo.astype(float)
        rg, yb = R - G, (R + G) / 2 - B
        spread, mean = np.hypot(rg.std(), yb.std()), np.hypot(rg.mean(), yb.mean())
        assert found == pytest.approx(spread + 0.3 * mean)
    gray = torch.full((1, 3, 5, 5), 90, dtype=torch.uint8)
    assert colorfulness(gray) == 0


def test_validate_agrees_with_a_photograph_at_a_time(cache_folder, soft_encoder):
    torch.manual_seed(0)
    split = Cache(cache_folder).split("train")
    colorizer = Colorizer(CENTERS, width=8).eval()
    torch.nn.init.normal_(colorizer.net.head.weight, std=1)
    objective = Objective(soft_encoder(CENTERS, 5), torch.ones(313))
    measured = validate(colorizer, objective, split, batch_size=7, decoding=Decoding(0.38, 313))
    scores, occurring, predicted = [], set(), set()
    for i in range(len(split)):
        stored = split.read(np.array([i]))
        L, ab = stored_to_lab(*stored)
        with torch.no_grad():
            logits = colorizer(L)
            loss, _ = objective(colorizer, *stored)
        small = decode(logits, CENTERS, Decoding(0.38, 313))
        ours = enlarge(L, small)
        photos, truth = lab_to_rgb(L, ours), lab_to_rgb(L, ab)
        row = loss, psnr(photos, truth), colorfulness(photos), colorfulness(truth)
        scores.append([value.item() for value in row])
        bins, _ = objective.soft_encode(torch.nn.functional.avg_pool2d(ab, 4))
        occurring |= set(bins[..., 0].flatten().tolist())
        predicted |= set(logits.argmax(1).flatten().tolist())
    names = ("val_loss", "psnr", "colorfulness", "true_colorfulness")
    for name, value in zip(names, np.mean(scores, axis=0), strict=True):
        assert measured[name] == pytest.approx(value, rel=1e-4)
    assert measured["bins_occurring"] == len(occurring)
    assert measured["bins_predicted"] == len(predicted)


# ---- collapse ----------------------------------------------------------------------------------
HEALTHY = {
    "bins_predicted": 40,
    "bins_occurring": 180,
    "colorfulness": 30.0,
    "true_colorfulness": 45.0,
}


@pytest.mark.parametrize(
    ("change", "warns"),
    [
        ({}, False),
        ({"bins_predicted": 9}, True),
        ({"bins_predicted": 10}, False),
        ({"colorfulness": 8.9}, True),
        ({"colorfulness": 9.1}, False),
    ],
)
def test_warn_of_collapse_tells_few_bins_and_brown(change, warns):
    warning = warn_of_collapse({**HEALTHY, **change})
    assert bool(warning) == warns
    assert not warns or ("of 180 bins" in warning and "--loss normalized" in warning)


def test_training_into_a_collapse_warns(cache_folder, tmp_path, capsys):
    """A rate far too high drives every block to one bin."""
    options = ["--loss", "plain", "--width", "8", "--batch-size", "4", "--steps", "60"]
    options += ["--lr", "3", "--clip", "1000", "--warmup", "0", "--ema", "0"]
    call(train.main, "--cache", cache_folder.parent, "--out", tmp_path / "run", *options)
    last = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert last["bins_predicted"] <= 0.05 * last["bins_occurring"]
    output = capsys.readouterr().out
    assert "warning: the colors have collapsed" in output
    assert "lower --lr" in output
    assert (tmp_path / "run" / "curves.png").exists()
