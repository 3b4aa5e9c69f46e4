"""The grid of decodings, what is chosen from it, and what is kept in a checkpoint."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from running import call

import generate
import scoring.sweep
from coloring.enlarge import enlarge
from colorizer import Colorizer
from dataset import Cache
from quantize import (
    Decoding,
    decode,
    lab_to_rgb,
    load_centers,
    load_imagenet_prior,
    stored_to_lab,
)
from scoring.metrics import colorfulness, psnr, ssim
from scoring.sweep import choose, decode_grid, find_front, grid, read_others

CENTERS = load_centers()


def run_generate(checkpoint, cache_folder, *options):
    where = ["--checkpoint", checkpoint, "--cache", cache_folder.parent]
    return call(generate.main, *where, "--device", "cpu", *options)


def run_sweep(checkpoint, cache_folder, *options):
    assert run_generate(checkpoint, cache_folder, "--sweep", *options) == 0
    return json.loads((checkpoint.parent / "sweep.json").read_text())


@pytest.mark.parametrize("scale", [0.01, 3, 60])
def test_decode_grid_agrees_with_decode_at_every_point(scale):
    logits = scale * torch.randn(2, 313, 3, 5, generator=torch.Generator().manual_seed(0))
    points, colorizer = grid(313), Colorizer(CENTERS, "unet", 8)
    colorizer.prior = load_imagenet_prior().float()
    assert {point.top_k for point in points} >= {1, 313}
    assert {point.vividness for point in points} >= {0, 0.5, 1}
    for point, ab in zip(points, decode_grid(logits, colorizer, points), strict=True):
        expected = decode(logits, CENTERS, point, colorizer.prior)
        torch.testing.assert_close(ab, expected, atol=1e-3, rtol=1e-4)


def test_a_network_without_a_prior_has_no_vivid_points():
    assert {point.vividness for point in grid(313, has_prior=False)} == {0}
    assert set(grid(313, has_prior=False)) < set(grid(313))


def test_choose_takes_the_highest_and_the_most_like_the_truth():
    means = np.array([[20, 0.8, 10], [19, 0.9, 38], [18, 0.7, 43], [20, 0.6, 60]])
    assert choose(means, 40.0) == {"psnr": 0, "ssim": 1, "colorfulness": 1, "vivid": 3}
    assert choose(means, 42.0)["colorfulness"] == 2


def test_choose_takes_the_best_of_those_as_colorful_as_the_truth():
    means = np.array([[18.0, 0.7, 40.0], [18.5, 0.7, 41.1], [19, 0.7, 38.7], [18.6, 0.7, 38.9]])
    assert choose(means, 40.0)["colorfulness"] == 3


def test_find_front_leaves_out_what_another_exceeds():
    means = np.array([[18, 0.7, 40], [20, 0.7, 30], [19, 0.7, 30], [17, 0.7, 50], [16, 0.7, 45]])
    assert find_front(means) == [1, 0, 3]


def test_the_networks_beside_are_those_of_other_losses_on_the_same_photographs(tmp_path):
    paper = {"temperature": 0.38, "top_k": 313, "psnr": 18.4, "colorfulness": 70.2}
    sweeps = {
        "rebalanced": {"loss": "rebalanced", "cache_digest": "a", "scores": [paper]},
        "ours": {"loss": "plain", "cache_digest": "a", "scores": [paper]},
        "elsewhere": {"loss": "normalized", "cache_digest": "b", "scores": [paper]},
        "another grid": {"loss": "normalized", "cache_digest": "a", "scores": []},
        "without a figure": {
            "loss": "other",
            "cache_digest": "a",
            "scores": [{**paper, "psnr": None}],
        },
    }
    for name, contents in sweeps.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "sweep.json").write_text(json.dumps(contents))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "sweep.json").write_text("{")
    found = read_others(tmp_path / "ours", {"loss": "plain", "cache_digest": "a"})
    assert found == {"rebalanced": {"psnr": 18.4, "colorfulness": 70.2}}


def test_choose_vivid_pays_a_quarter_of_a_decibel_and_no_more():
    means = np.array([[20, 0.8, 10], [19.8, 0.8, 30], [19.76, 0.8, 40], [19.7, 0.8, 50]])
    assert choose(means, 60.0)["vivid"] == 2


@pytest.mark.draws
def test_sweep_scores_the_validation_split_at_each_point(checkpoint, cache_folder):
    found = run_sweep(checkpoint, cache_folder)
    split = Cache(cache_folder).split("val")
    assert (found["split"], found["photographs"]) == ("val", len(split))
    L, ab = stored_to_lab(*split.read(np.arange(len(split))))
    colorizer = Colorizer(CENTERS, "unet", 8).eval()
    colorizer.load_state_dict(torch.load(checkpoint, weights_only=True)["model"])
    with torch.inference_mode():
        logits = colorizer(L)
    truth, prior = lab_to_rgb(L, ab), torch.load(checkpoint, weights_only=True)["prior"]
    assert found["true_colorfulness"] == pytest.approx(colorfulness(truth).mean().item(), abs=1e-3)
    assert len(found["scores"]) == len(grid(313))
    for point in found["scores"][::7]:
        decoding = Decoding(point["temperature"], point["top_k"], point["vividness"])
        small = decode(logits, CENTERS, decoding, prior)
        photos = lab_to_rgb(L, enlarge(L, small))
        assert point["psnr"] == pytest.approx(psnr(photos, truth).mean().item(), abs=1e-2)
        assert point["ssim"] == pytest.approx(ssim(photos, truth).mean().item(), abs=1e-3)
        assert point["colorfulness"] == pytest.approx(colorfulness(photos).mean().item(), abs=1e-1)
    assert found["best"]["psnr"]["psnr"] == max(point["psnr"] for point in found["scores"])
    image = Image.open(checkpoint.parent / "sweep.png").convert("RGB")
    assert len(image.getcolors(image.width * image.height)) > 100


@pytest.mark.parametrize("goal", ["psnr", "colorfulness", "vivid"])
def test_save_decode_changes_three_values_and_nothing_else(goal, checkpoint, cache_folder, capsys):
    before = torch.load(checkpoint, weights_only=True)
    found = run_sweep(checkpoint, cache_folder, "--save-decode", goal)
    after = torch.load(checkpoint, weights_only=True)
    best = found["best"][goal]
    decoding = ("temperature", "top_k", "vividness")
    assert all(after[key] == best[key] for key in decoding)
    assert (best["temperature"], best["top_k"]) != (0.38, 313)
    assert before.keys() | {"vividness"} == after.keys()
    for key in before.keys() - {*decoding, "model", "run", "prior"}:
        assert after[key] == before[key]
    for key in ("model", "run", "prior"):
        torch.testing.assert_close(after[key], before[key], atol=0, rtol=0)
    assert sorted(path.name for path in checkpoint.parent.iterdir()) == [
        "best.pt",
        "sweep.json",
        "sweep.png",
    ]
    capsys.readouterr()
    run_generate(checkpoint, cache_folder)
    assert f"temperature {best['temperature']}, top-k {best['top_k']};" in capsys.readouterr().out


def test_the_decoding_is_saved_before_the_picture_is_drawn(
    checkpoint, cache_folder, monkeypatch, capsys
):
    saved = []

    def fail(*_):
        saved.append(torch.load(checkpoint, weights_only=True))
        raise RuntimeError("no fonts")

    monkeypatch.setattr(scoring.sweep, "plot_sweep", fail)
    found = run_sweep(checkpoint, cache_folder, "--save-decode", "vivid")
    assert saved[0]["vividness"] == found["best"]["vivid"]["vividness"]
    said = capsys.readouterr()
    assert "sweep.png: not drawn (no fonts)" in said.err
    assert said.out.endswith(f"wrote sweep.json to {checkpoint.parent}\n")


def test_save_decode_refuses_published_weights(checkpoint, cache_folder):
    content = torch.load(checkpoint, weights_only=True)
    torch.save({**content, "dataset": None}, checkpoint)
    with pytest.raises(ValueError, match="published weights, which hold no default"):
        run_sweep(checkpoint, cache_folder, "--save-decode", "psnr")


def test_save_decode_keeps_links_and_permissions(checkpoint, cache_folder, tmp_path):
    checkpoint.chmod(0o640)
    link = tmp_path / "linked" / "best.pt"
    link.parent.mkdir()
    link.symlink_to(checkpoint)
    run_sweep(link, cache_folder, "--save-decode", "colorfulness")
    assert link.is_symlink()
    assert checkpoint.stat().st_mode & 0o777 == 0o640
