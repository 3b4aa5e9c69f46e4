import csv
import json
import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import generate
from colorizer import Colorizer, load_colorizer, save_checkpoint
from dataset import Cache
from quantize import lab_to_rgb, load_centers, stored_to_lab

CENTERS = load_centers()


def run_generate(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["generate.py", *map(str, options)])
    return generate.main()


@pytest.fixture
def checkpoint(cache_folder, tmp_path):
    """An untrained network that colours strongly: its last bias favours a few bins."""
    torch.manual_seed(0)
    colorizer = Colorizer(CENTERS, "unet", 8)
    colorizer.net.head.weight.data *= 100
    about = {"dataset": Cache(cache_folder).name, "size": 16, "loss": "plain"}
    path = tmp_path / "best.pt"
    save_checkpoint(
        path,
        colorizer.state_dict(),
        **colorizer.options,
        **about,
        temperature=0.38,
        top_k=313,
        step=7,
    )
    return path


# ---- scoring -----------------------------------------------------------------------------------
def test_scores_are_those_of_scikit_image(checkpoint, cache_folder, tmp_path, monkeypatch, capsys):
    run_generate(monkeypatch, "--checkpoint", checkpoint, "--cache", cache_folder.parent)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    split = Cache(cache_folder).split("test")
    L, ab = stored_to_lab(*split.read(np.arange(len(split))))
    truth = lab_to_rgb(L, ab).movedim(1, -1).numpy()
    colorizer, _ = load_colorizer(checkpoint)
    predicted = generate.predict_ab(colorizer, L, 0.38, 313)
    rows = {
        "ours": predicted,
        "gray": 0 * ab,
        "mean colour": 0 * ab + Cache(cache_folder).split("train").mean_ab[:, None, None],
    }
    for row, colors in rows.items():
        photos = lab_to_rgb(L, colors).movedim(1, -1).numpy()
        psnr = [peak_signal_noise_ratio(t, p) for t, p in zip(truth, photos, strict=True)]
        ssim = [
            structural_similarity(
                t, p, gaussian_weights=True, use_sample_covariance=False, channel_axis=-1
            )
            for t, p in zip(truth, photos, strict=True)
        ]
        assert metrics["scores"][row]["psnr"] == pytest.approx(np.mean(psnr), abs=1e-3)
        assert metrics["scores"][row]["ssim"] == pytest.approx(np.mean(ssim), abs=1e-3)
    assert metrics["photographs"] == len(split)
    assert "8-bit sRGB" in metrics["protocol"]
    table = capsys.readouterr().out
    assert all(f"{metrics['scores'][row]['psnr']:.2f}" in table for row in rows)


def test_true_colors_rounded_to_bins_use_the_nearest_centers(cache_folder):
    split = Cache(cache_folder).split("test")
    _, ab = stored_to_lab(*split.read(np.arange(2)))
    rows = generate.predictors(Colorizer(CENTERS, "unet", 8), torch.zeros(2), 1, 1)
    rounded = rows["true colours rounded to bins"](None, ab).movedim(1, -1).reshape(-1, 2)
    colors = ab.movedim(1, -1).reshape(-1, 2)
    nearest = torch.cdist(colors, CENTERS).min(1).values
    torch.testing.assert_close((rounded - colors).norm(dim=1), nearest, atol=1e-3, rtol=0)


def test_per_image_scores_average_to_the_metrics(checkpoint, cache_folder, tmp_path, monkeypatch):
    out = tmp_path / "scores"
    cache = ["--cache", cache_folder.parent]
    run_generate(monkeypatch, "--checkpoint", checkpoint, *cache, "--out", out)
    with (out / "per_image.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    scores = json.loads((out / "metrics.json").read_text())["scores"]
    split = Cache(cache_folder).split("test")
    assert [row["name"] for row in rows] == split.names(np.arange(len(split)))
    for row, values in scores.items():
        for score, mean in values.items():
            column = [float(line[f"{row} {score}"]) for line in rows]
            assert np.mean(column) == pytest.approx(mean, abs=2e-4)
    assert Image.open(out / "grid.png").size[0] == 3 * 128 + 4 * 4


def test_temperature_and_top_k_change_the_prediction(
    checkpoint, cache_folder, tmp_path, monkeypatch
):
    cache = ["--cache", cache_folder.parent]
    found = []
    for decoding in ([], ["--temperature", 1], ["--top-k", 1]):
        run_generate(monkeypatch, "--checkpoint", checkpoint, *cache, *decoding)
        metrics = json.loads((tmp_path / "metrics.json").read_text())
        found.append((metrics["scores"]["ours"]["psnr"], metrics["scores"]["gray"]["psnr"]))
    assert len({ours for ours, _ in found}) == 3
    assert len({gray for _, gray in found}) == 1


def test_checkpoint_without_value_takes_the_newest(
    checkpoint, cache_folder, tmp_path, monkeypatch, capsys
):
    for age, name in enumerate(["new", "old"]):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "best.pt").write_bytes(checkpoint.read_bytes())
        os.utime(folder / "best.pt", (1e9 - age, 1e9 - age))
    monkeypatch.chdir(tmp_path)
    run_generate(monkeypatch, "--checkpoint", "--cache", cache_folder.parent)
    assert "runs/new/best.pt: the newest" in capsys.readouterr().out
    assert (tmp_path / "runs" / "new" / "metrics.json").exists()


def test_no_checkpoint_at_all_is_a_usage_error(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        run_generate(monkeypatch, "--checkpoint")
    assert stopped.value.code == 2
    assert "found no runs/*/best.pt" in capsys.readouterr().err


def test_checkpoint_of_another_palette_is_refused(checkpoint, cache_folder, monkeypatch):
    content = torch.load(checkpoint, weights_only=True)
    content["model"]["centers"] = CENTERS.flip(0)
    torch.save(content, checkpoint)
    with pytest.raises(ValueError, match="palette"):
        run_generate(monkeypatch, "--checkpoint", checkpoint, "--cache", cache_folder.parent)


def test_options_of_photographs_without_photographs_are_usage_errors(monkeypatch, capsys):
    for options in (["--format", "png"], ["--samples", "2"], ["--uncertainty"]):
        with pytest.raises(SystemExit) as stopped:
            run_generate(monkeypatch, "--checkpoint", "x.pt", *options)
        assert stopped.value.code == 2
        assert "--images" in capsys.readouterr().err
