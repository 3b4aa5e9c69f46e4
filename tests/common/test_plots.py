"""Plots: that they are drawn, and that they show what they are given."""

import errno
import os

import numpy as np
import pytest
import torch
from PIL import Image
from running import CODE, run_script

from common.plots import bin_colors, draw, plot_colors, plot_curves, plot_distribution, plot_sweep
from quantize import Decoding, lab_to_rgb, load_centers

pytestmark = pytest.mark.draws
CENTERS = load_centers()


def drawn(path):
    """Return a plot's pixels, (H, W, 3), and check that it is not one color alone."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100
    return pixels


def test_draw_that_fails_costs_a_sentence_and_keeps_the_picture_before(tmp_path, capsys):
    path = tmp_path / "new" / "curves.png"

    def fill(temporary):
        temporary.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert draw(path, lambda temporary: temporary.write_bytes(b"old"))
    assert capsys.readouterr().err == ""
    assert not draw(path, fill)
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]
    said = capsys.readouterr().err
    assert said.startswith(f"{path}: not drawn ([Errno {errno.ENOSPC}] No space left on device); ")
    assert len(said.splitlines()) == 1


def test_draw_lets_ctrl_c_through(tmp_path):
    def interrupt(temporary):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path / "a.png", interrupt)


ELSEWHERE = """
import sys, pathlib
from common.plots import plot_curves
plot_curves(pathlib.Path(sys.argv[1]), "a run", [{"step": 1, "loss": 2.0}])
"""


def test_plots_need_no_backend_and_no_matplotlibrc_of_the_user(tmp_path):
    broken = tmp_path / "matplotlibrc"
    broken.write_bytes(b"font.size: 12 \xff\n")
    chosen = {"MPLBACKEND": "module://a_notebook.that_is_not_here", "MATPLOTLIBRC": str(broken)}
    done = run_script(CODE, ELSEWHERE, tmp_path / "a.png", **chosen)
    assert done.returncode == 0, done.stderr
    drawn(tmp_path / "a.png")


def test_bin_colors_are_those_of_the_centers_at_their_lightness():
    ab = CENTERS.T[None, :, None]
    expected = lab_to_rgb(torch.full((1, 1, 1, 313), 50.0), ab)[0, :, 0].T
    np.testing.assert_array_equal((255 * bin_colors(50.0)).round(), expected)


def test_plot_colors_shows_other_counts_otherwise(tmp_path):
    counts = np.zeros(313)
    counts[[100, 120]] = 1, 1000
    pictures = []
    for i, some in enumerate((counts, counts, np.ones(313))):
        plot_colors(tmp_path / f"{i}.png", "a cache", some)
        pictures.append(drawn(tmp_path / f"{i}.png"))
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert (pictures[0] != pictures[2]).any()


def test_plot_curves_takes_a_log_without_and_with_validations(tmp_path):
    log = [{"step": step, "loss": 5 - step / 100} for step in range(0, 100, 10)]
    plot_curves(tmp_path / "begun.png", "a run", log)
    measured = dict.fromkeys(("val_loss", "psnr", "ssim", "top_1", "top_5"), 0.5)
    measured |= dict.fromkeys(("colorfulness", "true_colorfulness"), 30.0)
    measured |= {"bins_predicted": 40, "bins_occurring": 180}
    log += [{"step": step, **measured} for step in (50, 100)]
    plot_curves(tmp_path / "later.png", "a run", log)
    begun, later = (drawn(tmp_path / f"{name}.png") for name in ("begun", "later"))
    assert begun.shape == later.shape
    assert (begun != later).any()


def draw_sweep(path, best=(), others=None, photos=1):
    """Draw a sweep whose points of these goals are one point; return its pixels."""
    scores = [{"vividness": V, "psnr": 20 - V, "colorfulness": 30 + V} for V in (0, 0.4, 0.8)]
    pixels = np.full((64, 64, 3), (255, 0, 0), np.uint8)
    drawn_at = {Decoding(T, 313, V / 10): pixels for V in range(photos) for T in (0.2, 0.4)}
    plot_sweep(path, scores, 40.0, dict.fromkeys(best, scores[0]), others or {}, drawn_at)
    return drawn(path)


def test_plot_sweep_shows_photographs_and_networks_of_other_losses(tmp_path):
    alone = draw_sweep(tmp_path / "a.png", photos=6)
    assert (alone == (255, 0, 0)).all(-1).mean() > 0.27  # of the picture
    others = {"rebalanced": {"psnr": 19.5, "colorfulness": 30.5}}
    assert (draw_sweep(tmp_path / "a.png", others=others, photos=6) != alone).any()


def test_plot_sweep_writes_the_names_of_one_point_beside_each_other(tmp_path):
    blank = draw_sweep(tmp_path / "a.png")
    psnr, ssim = ((draw_sweep(tmp_path / "a.png", [g]) != blank).any(-1) for g in ("psnr", "ssim"))
    assert psnr.any()
    assert ssim.any()
    assert not (psnr & ssim).any()


@pytest.mark.parametrize("best", [0, 312])
def test_plot_distribution_shows_the_best_bin_in_its_color(best, tmp_path):
    probs = torch.full((313,), 1e-6)
    probs[best] = 1 - probs[1:].sum()
    plot_distribution(tmp_path / "a.png", probs, 60.0)
    color = (255 * bin_colors(60.0)[best]).round()
    assert (np.abs(drawn(tmp_path / "a.png") - color).max(-1) <= 1).sum() > 50
