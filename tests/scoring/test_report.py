"""What is printed and written of scores."""

import csv

import numpy as np
import pytest
import torch

from colorizer import load_colorizer
from dataset import Cache
from quantize import Decoding
from scoring.report import draw_grid, print_table, write_per_image

VALUES = {"psnr": 21.25, "psnr_interval": [20.75, 21.75], "ssim": 0.9, "auc": 0.8765}
VALUES |= {"auc_macro": None, "ciede2000": 9.75, "colorfulness": 31.26}


def test_print_table_has_a_line_for_each_row(capsys):
    others = {**VALUES, "auc_macro": 0.5}
    print_table({"ours": VALUES, "gray": others, "truth": {"colorfulness": 44.44}})
    _, ours, gray, truth = capsys.readouterr().out.splitlines()
    assert ours.split() == ["ours", "21.25", "±", "0.50", "0.900", "0.876", "-", "9.75", "31.3"]
    assert gray.split()[6] == "0.500"
    assert truth.split() == ["truth", "44.4"]


def test_write_per_image_has_a_line_for_each_photograph(cache_folder, tmp_path):
    split = Cache(cache_folder).split("test")
    n = len(split)
    scores = {("ours", "psnr"): np.arange(n) + 0.12345, ("gray", "ssim"): np.ones(n)}
    write_per_image(tmp_path / "a.csv", split, scores)
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["name", "ours psnr", "gray ssim"]
    assert [row[0] for row in rows] == split.names(np.arange(n))
    assert [float(row[1]) for row in rows] == pytest.approx(
        [i + 0.1235 for i in range(n)], abs=2e-4
    )


@torch.inference_mode()
def test_draw_grid_shows_the_best_the_median_and_the_worst(cache_folder, checkpoint, monkeypatch):
    split, (colorizer, _) = Cache(cache_folder).split("test"), load_colorizer(checkpoint)
    read, places = split.read, []

    def note(indices, *more):
        places.extend(indices.tolist())
        return read(indices, *more)

    monkeypatch.setattr(split, "read", note)
    scores = np.random.default_rng(0).permutation(len(split)).astype(float)
    draw_grid(colorizer, split, scores, Decoding(0.38, 313))
    ranks = [int(scores[place]) for place in places]
    n = len(split)
    assert ranks[:2] == [n - 1, n - 2]
    assert ranks[-2:] == [1, 0]
    assert sorted(ranks[2:4]) == sorted(sorted(range(n))[::-1][max(0, n // 2 - 1) : n // 2 + 1])
