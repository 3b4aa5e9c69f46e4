"""Scores against what their formulas say, one photograph at a time; one rank against two."""

import csv
import json
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from running import call, run_script
from skimage.color import deltaE_ciede2000
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import generate
from colorizer import load_colorizer
from common.processes import Ranks
from dataset import Cache
from quantize import Decoding, decode, lab_to_rgb, load_centers, load_imagenet_prior, stored_to_lab
from scoring import report
from scoring import score as scoring

CENTERS = load_centers()
ROWS = ["ours", "gray", "mean colour", "another photograph's colours"]
ROWS += ["true colours at quarter resolution", "true colours rounded to bins", "truth"]
SMALL_BATCHES = """
import generate, scoring.score
from common.command_line import run_command

scoring.score.BATCH_PIXELS = 512  # two photographs of 16 px
run_command(generate.main, "again")
"""


@pytest.fixture
def run_score(checkpoint, cache_folder, tmp_path):
    """Give tests a function that scores with more options and returns metrics.json."""

    def run(*options):
        where = ["--checkpoint", checkpoint, "--cache", cache_folder.parent]
        assert call(generate.main, *where, "--device", "cpu", *options) == 0
        return json.loads((tmp_path / "metrics.json").read_text())

    return run


@pytest.fixture
def stored(cache_folder):
    """Return L and ab of all test photographs."""
    split = Cache(cache_folder).split("test")
    return stored_to_lab(*split.read(np.arange(len(split))))


@pytest.mark.parametrize(
    ("device", "ranks", "sizes"),
    [("cpu", 1, [4, 4, 2]), ("cpu", 2, [4, 2]), ("cuda", 1, [8, 2]), ("cuda", 2, [5])],
)
def test_a_gpu_scores_more_photographs_at_a_time(device, ranks, sizes, monkeypatch):
    monkeypatch.setattr(scoring, "BATCH_PIXELS", 4 * 64**2)
    monkeypatch.setattr(scoring, "GPU_BATCH_PIXELS", 8 * 64**2)
    shard = SimpleNamespace(attributes={"size": 64})
    split = type("TenPhotos", (), {"__len__": lambda _: 10, "shards": [shard]})()
    device, parts = torch.device(device), [Ranks(rank, ranks) for rank in range(ranks)]
    batches = [list(scoring.batch_indices(split, part, "scoring", device)) for part in parts]
    assert [len(batch) for batch in batches[0]] == sizes
    assert sorted(chain.from_iterable(chain.from_iterable(batches))) == list(range(10))


def enlarge_in_words(L, small):
    """Enlarge ab (N, 2, h, w) along L as PROTOCOL says it: a block at a time, in float64."""
    L, small = L[:, 0].double().numpy(), small.double().numpy()
    N, _, h, w = small.shape
    means = L.reshape(N, h, 4, w, 4).mean((2, 4))
    slopes = np.empty_like(small)
    for n, y, x in np.ndindex(N, h, w):
        window = np.s_[n, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
        l = means[window] - means[window].mean()  # noqa: E741
        for c in range(2):
            colors = small[:, c][window]
            slopes[n, c, y, x] = (l * colors).mean() / ((l**2).mean() + 60)
    fits = slopes, small - slopes * means[:, None]
    slope, offset = (
        F.interpolate(torch.from_numpy(fit), L.shape[1:], mode="bilinear") for fit in fits
    )
    return (slope * torch.from_numpy(L)[:, None] + offset).float()


def predicted_rows(checkpoint, cache_folder, L, ab):
    """Return each row's ab, said again in other words than scoring.py's."""
    nearest = torch.cdist(ab.movedim(1, -1).reshape(-1, 2).double(), CENTERS.double()).argmin(1)
    blocks = ab.unflatten(2, (-1, 4)).unflatten(4, (-1, 4)).mean((3, 5))
    with torch.inference_mode():
        logits = load_colorizer(checkpoint)[0](L)
    return {
        "ours": enlarge_in_words(L, decode(logits, CENTERS, Decoding(0.38, 313))),
        "gray": torch.zeros_like(ab),
        "mean colour": 0 * ab + Cache(cache_folder).split("train").mean_ab[:, None, None],
        "another photograph's colours": ab.roll(-(len(ab) // 2), dims=0),
        "true colours at quarter resolution": enlarge_in_words(L, blocks),
        "true colours rounded to bins": CENTERS[nearest].view(len(ab), 16, 16, 2).movedim(-1, 1),
    }


# ---- formulas ----------------------------------------------------------------------------------
def test_scores_are_those_of_scikit_image_a_photograph_at_a_time(
    run_score, checkpoint, cache_folder, stored, capsys, monkeypatch
):
    monkeypatch.setattr(scoring, "MACRO_PIXELS", 20)  # of six photographs of 16 px
    metrics, table = run_score(), capsys.readouterr().out
    L, ab = stored
    truth = lab_to_rgb(L, ab).movedim(1, -1).numpy()
    bins = torch.cdist(ab.movedim(1, -1).reshape(-1, 2), CENTERS).argmin(1).numpy()
    prior = load_imagenet_prior().numpy()
    assert list(metrics["scores"]) == ROWS
    for row, colors in predicted_rows(checkpoint, cache_folder, L, ab).items():
        photos = lab_to_rgb(L, colors).movedim(1, -1).numpy()
        psnr = [peak_signal_noise_ratio(t, p) for t, p in zip(truth, photos, strict=True)]
        ssim = [
            structural_similarity(
                t, p, gaussian_weights=True, use_sample_covariance=False, channel_axis=-1
            )
            for t, p in zip(truth, photos, strict=True)
        ]
        labs = [torch.cat((L, x), 1).movedim(1, -1).numpy() for x in (ab, colors)]
        error = np.hypot(*(colors - ab).movedim(1, 0).numpy())
        credit = np.clip(1 - error / 150, 0, 1).ravel()
        full = [q for q in range(313) if (bins == q).sum() >= 20]
        expected = {
            "psnr": np.mean(psnr),
            "psnr_pooled": peak_signal_noise_ratio(truth, photos),
            "ssim": np.mean(ssim),
            "rmse_ab": np.sqrt(((colors - ab).numpy() ** 2).mean()),
            "ciede2000": deltaE_ciede2000(*labs).mean(),
            "auc": credit.mean(),
            "auc_balanced": np.average(credit, weights=1 / prior[bins]),
            "auc_macro": np.mean([credit[bins == q].mean() for q in full]),
        }
        found = metrics["scores"][row]
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, abs=1e-3), (row, name)
        assert found["psnr_interval"][0] < found["psnr"] < found["psnr_interval"][1]
        assert f"{row:34}{found['psnr']:7.2f} ±" in table
        assert found["macro_bins"] == len(full) > 3


def test_the_truth_scores_best_and_gray_what_its_formula_says(stored):
    L, ab = stored
    truth = lab_to_rgb(L, ab)
    scores, credit = scoring.measure(L, ab, ab, truth)
    for name, value in {"psnr": 100, "ssim": 1, "rmse_ab": 0, "ciede2000": 0, "auc": 1}.items():
        assert scores[name].tolist() == pytest.approx([value] * len(L), abs=1e-9)
    assert scores["colorfulness"].min() > 10
    scores, credit = scoring.measure(L, torch.zeros_like(ab), ab, truth)
    chroma = np.hypot(*ab.movedim(1, 0).numpy())
    assert scores["auc"].tolist() == pytest.approx((1 - chroma / 150).mean((1, 2)).tolist())
    assert credit.shape == chroma.shape
    assert scores["colorfulness"].max() < 1
    assert scores["outside_srgb"].max() == 0


def test_colors_outside_srgb_are_counted():
    L, ab = torch.full((1, 1, 12, 12), 50.0), torch.zeros(1, 2, 12, 12)
    ab[0, 0, :3] = 120  # a quarter of the pixels: redder than sRGB
    scores, _ = scoring.measure(L, ab, ab, lab_to_rgb(L, ab))
    assert scores["outside_srgb"].item() == 0.25


def test_bootstrap_follows_the_theory_and_its_seed():
    values = np.random.default_rng(5).normal(20, 3, (400, 2))
    low, high = scoring.bootstrap(values)
    half = 1.96 * values.std(0) / 20
    np.testing.assert_allclose(high - values.mean(0), half, rtol=0.15)
    np.testing.assert_allclose(values.mean(0) - low, half, rtol=0.15)
    np.testing.assert_array_equal(scoring.bootstrap(values), [low, high])
    np.testing.assert_array_equal(scoring.bootstrap(values[:1]), values[[0, 0]])


def test_macro_without_a_bin_of_enough_pixels_is_none():
    full = np.full(313, 999 * scoring.CREDIT)
    assert scoring.weigh_bins(full // 2, full)["auc_macro"] is None
    full[7] += scoring.CREDIT
    assert scoring.weigh_bins(full // 2, full)["auc_macro"] == pytest.approx(0.5)


# ---- files -------------------------------------------------------------------------------------
def test_metrics_say_what_was_scored(run_score, checkpoint, cache_folder):
    metrics = run_score("--top-k", "5")
    cache = Cache(cache_folder)
    assert metrics["cache_digest"] == cache.digest
    assert metrics["palette_digest"] == cache.plan.palette
    assert len(metrics["checkpoint_sha256"]) == 64
    assert (metrics["split"], metrics["size"], metrics["step"]) == ("test", 16, 7)
    assert metrics["photographs"] == len(cache.split("test"))
    assert (metrics["temperature"], metrics["top_k"]) == (0.38, 5)
    assert metrics["versions"]["torch"] == torch.__version__
    explained = {name for key in metrics["protocol"] for name in key.split(", ")}
    for row, values in metrics["scores"].items():
        assert row in explained | {"truth"}
        assert set(values) <= explained


def test_per_image_scores_average_to_the_metrics(run_score, cache_folder, tmp_path):
    metrics = run_score()
    with (tmp_path / "per_image.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    split = Cache(cache_folder).split("test")
    assert [line["name"] for line in lines] == split.names(np.arange(len(split)))
    for row, values in metrics["scores"].items():
        for name in values.keys() & {"psnr", "ssim", "auc", "ciede2000", "colorfulness", "top_5"}:
            column = [float(line[f"{row} {name}"]) for line in lines]
            assert np.mean(column) == pytest.approx(values[name], abs=2e-4)
    assert Image.open(tmp_path / "grid.png").size[0] == 3 * 128 + 4 * 4


def test_temperature_and_top_k_change_only_the_prediction(run_score):
    found = []
    for decoding in ([], ["--temperature", 1], ["--top-k", 1]):
        scores = run_score(*decoding)["scores"]
        found.append((scores["ours"]["psnr"], scores["gray"]["psnr"]))
    assert len({ours for ours, _ in found}) == 3
    assert len({gray for _, gray in found}) == 1


def test_a_grid_that_fails_costs_itself_alone(run_score, tmp_path, monkeypatch, capsys):
    def fail(*_):
        assert (tmp_path / "per_image.csv").exists()
        raise RuntimeError("no fonts")

    monkeypatch.setattr(report, "draw_grid", fail)
    run_score()
    said = capsys.readouterr()
    assert "grid.png: not drawn (no fonts)" in said.err
    assert said.out.endswith(f"wrote metrics.json and per_image.csv to {tmp_path}\n")


# ---- refusals ----------------------------------------------------------------------------------
def test_checkpoint_of_another_palette_is_refused(checkpoint, run_score):
    content = torch.load(checkpoint, weights_only=True)
    content["model"]["centers"] = CENTERS.flip(0)
    torch.save(content, checkpoint)
    with pytest.raises(ValueError, match=r"its palette is \w+, that of .* is \w+; make"):
        run_score()


def test_cache_of_another_size_is_refused(run_score):
    with pytest.raises(FileNotFoundError, match="--size 32, found holidays-16"):
        run_score("--size", "32")


def test_checkpoint_of_another_cache_is_refused(checkpoint, run_score):
    content = torch.load(checkpoint, weights_only=True)
    torch.save({**content, "cache": "0123456789abcdef"}, checkpoint)
    with pytest.raises(ValueError, match="trained on cache 0123456789abcdef, now"):
        run_score()
    assert run_score("--dataset", "holidays")["cache_digest"] != "0123456789abcdef"


# ---- ranks -------------------------------------------------------------------------------------
def test_gather_alone_is_what_it_is_given():
    assert Ranks().gather([3, 1]) == [3, 1]


@pytest.mark.parametrize(
    ("more", "names"),
    [
        ([], ("metrics.json", "per_image.csv")),
        pytest.param(["--sweep"], ("sweep.json",), marks=pytest.mark.slow),
    ],
)
def test_one_and_two_ranks_write_the_same_scores(more, names, checkpoint, cache_folder, tmp_path):
    script = tmp_path / "small_batches.py"
    script.write_text(SMALL_BATCHES)
    options = ["--checkpoint", checkpoint, "--cache", cache_folder.parent, "--device", "cpu", *more]
    for ranks in (0, 2):
        done = run_script(script, *options, "--out", tmp_path / str(ranks), processes=ranks)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("wrote") == 1
    for name in names:
        one, two = ((tmp_path / str(n) / name).read_bytes() for n in (0, 2))
        assert one == two
