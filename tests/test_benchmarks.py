"""Every benchmark still runs, on little data; its figures are looked at by people."""

import importlib
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from coloring.hints import NARROW, NARROWNESS, kernel
from colorizer import load_colorizer
from common.processes import ALONE
from dataset import Cache
from quantize import Decoding
from scoring.score import score

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"
SMALL = {  # options, and what the last line holds
    "coloring_hints": (
        ["--megapixels", "1", "--hints", "20", "--rounds", "1"],
        "times as long",
    ),
    "coloring_large": (["--megapixels", "1"], "less CPU time"),
    "coloring_many": (["--photos", "3", "--workers", "2"], "times as fast as in turn"),
    "coloring_resized": (["PHOTOS", "--working-size", "16", "--number", "2"], "ab moves"),
    "creating": (["--sizes", "16", "--number", "5", "--rounds", "1"], "times as fast as one"),
    "creating_many": (["--numbers", "50", "--size", "16", "--workers", "1"], "MB"),
    "films": (
        ["--width", "64", "--height", "48", "--frames", "12", "--rounds", "1"],
        "times as fast",
    ),
    "enlarging": (["CACHE", "--working-size", "8", "--number", "2"], "better on"),
    "flicker": (["PHOTOS", "--number", "3", "--frames", "3"], "truth"),
    "page": (["--users", "1", "--megapixels", "0.1", "--seconds", "1"], "as fast as downloaded"),
    "reading": (["--photos", "8192", "--size", "16", "--rounds", "1"], "of a training step"),
    "scoring": (["--photos", "4", "--size", "16", "--rounds", "1"], "fast as obvious, search_tree"),
    "training": (
        ["--sizes", "16", "--crop", "16", "--batch-size", "4", "--rounds", "2"],
        "times as fast",
    ),
}


def test_benchmarks_are_measured_and_hide_no_module():
    names = {path.stem for path in BENCHMARKS.glob("*.py")}
    compared = {"compare_losses", "compare_fine_tuning", "compare_hints", "compare_faded"}
    assert names == {f"measure_{what}" for what in SMALL} | compared | {
        "timing",
        "one_checkpoint",
        "visiting",
    }
    assert not names & {path.stem for path in ROOT.iterdir()}


def test_tables_of_losses_are_those_of_its_runs(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    compare_losses = importlib.import_module("compare_losses")
    runs = json.loads((BENCHMARKS / "losses.json").read_text())
    for dataset in ("celeba", "flowers"):
        ours = [run for run in runs if run["dataset"] == dataset and "zhang" not in run["way"]]
        ours.sort(key=lambda run: ("plain", "rebalanced", "normalized").index(run["way"]))
        assert compare_losses.make_table(ours) in (BENCHMARKS / "LOSSES.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("what", SMALL)
def test_benchmark_runs(what, photo_folder, cache_folder):
    if what == "creating" and importlib.util.find_spec("sklearn") is None:
        pytest.skip("measure_creating.py needs scikit-learn, which is not here")
    options, last = SMALL[what]
    folders = {"PHOTOS": photo_folder, "CACHE": cache_folder}
    command = [sys.executable, BENCHMARKS / f"measure_{what}.py"]
    command += [folders.get(option, option) for option in options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert last in done.stdout.rstrip().splitlines()[-1]


@pytest.mark.slow
def test_losses_are_compared_and_a_stopped_comparison_goes_on(cache_folder, tmp_path):
    options = ["--cache", cache_folder.parent, "--datasets", "holidays", "--size", "16"]
    options += ["--ways", "plain", "--steps", "2", "--jobs", "2", "--out", tmp_path]
    command = [sys.executable, BENCHMARKS / "compare_losses.py", *options]
    first = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert first.returncode == 0, first.stderr
    text = (tmp_path / "losses.json").read_text()
    runs = json.loads(text)
    assert len(text.splitlines()) == 2 + len(runs)  # one a line, between brackets
    runs.sort(key=lambda run: run["seed"])
    assert len(runs) == 2
    one = runs[0]["decodings"]["paper"]["scores"]["ours"]["psnr"]
    two = runs[1]["decodings"]["paper"]["scores"]["ours"]["psnr"]
    assert one != two
    mean, spread = (one + two) / 2, abs(one - two) / 2
    assert f"| plain | as in the paper | 0, 0.38, 313 | {mean:.2f} ± {spread:.2f} |" in first.stdout
    one, two = (next(tmp_path.glob(f"holidays-16-plain-{seed}/2-steps-*")) for seed in (0, 1))
    shutil.rmtree(one)  # its scores are known
    checkpoint = two / "best.pt"
    time = checkpoint.stat().st_mtime_ns
    (tmp_path / "losses.json").write_text(json.dumps(runs[:1], indent=2))  # as it was before
    (two / "psnr" / "metrics.json").unlink()
    second = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert second.returncode == 0, second.stderr
    assert (two / "psnr" / "metrics.json").exists()
    kept = [  # scores made anew may round otherwise
        [line for line in done.stdout.splitlines() if line.startswith("| ") and "best" not in line]
        for done in (first, second)
    ]
    assert kept[0] == kept[1]
    again = next(run for run in json.loads((tmp_path / "losses.json").read_text()) if run["seed"])
    for name, decoding in runs[1]["decodings"].items():
        for row, figures in decoding["scores"].items():
            found = again["decodings"][name]["scores"][row]
            assert found.keys() == figures.keys()
            for key, figure in figures.items():
                assert found[key] == (figure and pytest.approx(figure, abs=2e-3))
    assert checkpoint.stat().st_mtime_ns == time
    assert not one.exists()


# ---- fine-tuning -------------------------------------------------------------------------------
@pytest.fixture
def comparing(monkeypatch):
    """Import compare_fine_tuning.py."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("compare_fine_tuning")


def test_a_smaller_choice_is_part_of_a_larger_one_and_no_photograph_is_in_two_splits(comparing):
    for held_out, val, test in ((None, 7, 16), ([10, 40], 10, 40)):
        few, many = (comparing.choose([77, 7, 16], n, held_out) for n in (20, 50))
        assert set(few[0]) < set(many[0])
        assert [len(part) for part in many] == [50, val, test]
        assert len(set(np.concatenate(many))) == 50 + val + test
        for part in (1, 2):
            np.testing.assert_array_equal(few[part], many[part])


def test_tables_of_fine_tuning_are_those_of_its_runs(comparing):
    rows = json.loads((BENCHMARKS / "fine_tuning.json").read_text())
    text = (BENCHMARKS / "FINE_TUNING.md").read_text()
    missing = [line for line in comparing.make_table(rows).splitlines() if line not in text]
    assert missing == []


@pytest.mark.slow
def test_fine_tuning_is_compared_and_a_stopped_comparison_goes_on(
    cache_folder, checkpoint, tmp_path
):
    options = ["--cache", cache_folder.parent, "--dataset", "holidays", "--size", "16"]
    options += ["--numbers", "9", "--starts", "nothing", checkpoint, "--out", tmp_path / "out"]
    options += ["--validate-every", "1"]
    command = [sys.executable, BENCHMARKS / "compare_fine_tuning.py", *options]
    first = subprocess.run([*command, "--steps", "0"], capture_output=True, text=True, timeout=300)
    assert first.returncode == 0, first.stderr
    assert Cache(tmp_path / "out" / "caches" / "holidays-9-16").faults() == []
    rows = json.loads((tmp_path / "out" / "fine_tuning.json").read_text())
    assert [(row["start"], row["steps"]) for row in rows] == [("best", 0)]
    again = [*command, "--steps", "0", "2"]
    second = subprocess.run(again, capture_output=True, text=True, timeout=300)
    assert second.returncode == 0, second.stderr
    more = json.loads((tmp_path / "out" / "fine_tuning.json").read_text())
    assert more[:1] == rows
    assert [(row["start"], row["steps"]) for row in more[1:]] == [("nothing", 2), ("best", 2)]
    for row in more:
        assert f"{row['scores']['ours']['psnr']:.2f}" in second.stdout


# ---- hints -------------------------------------------------------------------------------------
@pytest.fixture
def hinting(monkeypatch):
    """Import compare_hints.py."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("compare_hints")


def test_table_of_hints_is_that_of_its_runs(hinting):
    entries = json.loads((BENCHMARKS / "hints.json").read_text())
    assert hinting.make_table(entries) in (BENCHMARKS / "HINTS.md").read_text()


def test_kernel_without_the_network_falls_by_place_and_lightness_alone(hinting):
    L = torch.tensor([[20.0, 60.0], [20.0, 20.0]]).repeat_interleave(4, 0).repeat_interleave(4, 1)
    points = hinting.embed_alone(L[None, None], (0.5, 25.0))
    squared = torch.tensor([0.0, 1 + 1.6**2, 1.0, 2.0])  # from the first, one block is one scale
    wide = torch.exp(-squared / 2)
    expected = (1 - NARROW) * wide + NARROW * wide**NARROWNESS
    torch.testing.assert_close(kernel(points[:1], points)[0], expected)


def test_no_hint_scores_as_the_project_does_and_hints_everywhere_score_more(
    hinting, cache_folder, checkpoint
):
    cache, decoding = Cache(cache_folder), Decoding(0.6, 313)
    colorizer, mean_ab = load_colorizer(checkpoint)[0], cache.split("train").mean_ab
    found = np.stack(
        [
            hinting.score_ways(colorizer, L, ab, decoding, mean_ab, order).numpy()
            for L, ab, order in hinting.read_photos(cache.split("test"), None, seed=0)
        ]
    )
    none, every = found[..., 0].T, found[..., -1].T  # (3, N); a photograph has but 16 blocks
    scores, _ = score(colorizer, cache, decoding, ALONE)
    ours, mean = scores["ours", "psnr"], scores["mean colour", "psnr"]
    np.testing.assert_allclose(none, [ours, ours, mean], atol=0.01)
    np.testing.assert_allclose(every[0], every[1], atol=0.01)  # in whatever order they come
    assert (every.mean(1) > none.mean(1) + 1).all()


def test_the_order_of_random_blocks_moves_their_ways_alone(hinting, cache_folder, checkpoint):
    cache, colorizer = Cache(cache_folder), load_colorizer(checkpoint)[0]
    L, ab, order = next(hinting.read_photos(cache.split("test"), 1, seed=0))
    one, other = (
        hinting.score_ways(colorizer, L, ab, Decoding(0.6, 313), torch.zeros(2), blocks)
        for blocks in (order, order.flip(0))
    )
    assert sorted(order.tolist()) == list(range(16))
    assert torch.equal(one[0], other[0])
    assert (one[1:, 1:4] != other[1:, 1:4]).all()  # with 1, 2 and 5 hints


def run_comparison(script, cache_folder, checkpoint, out, *options):
    """Run a comparison of one checkpoint; return what it prints."""
    command = [sys.executable, BENCHMARKS / f"compare_{script}.py", "--checkpoint", checkpoint]
    command += ["--cache", cache_folder.parent, "--out", out, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def compare_three_times(script, *where):
    """Run a comparison, with another temperature, and again; return its entries, what it prints."""
    entries = []
    for options in ([], ["--temperature", "1"], []):
        printed = run_comparison(script, *where, *options)
        entries.append(json.loads((where[-1] / f"{script}.json").read_text()))
    one, two, three = entries
    assert two[:1] == one
    assert three == two[::-1]
    return two, printed


@pytest.mark.slow
def test_hints_are_compared_and_the_same_command_puts_its_scores_in_their_place(
    cache_folder, checkpoint, tmp_path
):
    where = "hints", cache_folder, checkpoint, tmp_path
    two, printed = compare_three_times(*where)
    for row in two[1]["rows"]["random"]:
        low, high = row["psnr_interval"]
        assert low < row["psnr"] < high
        assert f"{row['psnr']:.2f}" in printed
    assert Image.open(tmp_path / "hints.png").size == (1000, 360)
    assert len(run_comparison(*where, "--choose-scales").splitlines()) == 20


# ---- faded photographs -------------------------------------------------------------------------
@pytest.fixture
def fading(monkeypatch):
    """Import compare_faded.py."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("compare_faded")


def test_table_of_faded_photographs_is_that_of_its_runs(fading):
    entries = json.loads((BENCHMARKS / "faded.json").read_text())
    assert fading.make_table(entries) in (BENCHMARKS / "FADED.md").read_text()


def test_undamaged_photographs_as_they_are_score_as_the_project_does(
    fading, cache_folder, checkpoint
):
    cache, decoding, colorizer = Cache(cache_folder), Decoding(0.6, 313), load_colorizer(checkpoint)
    found, spans = fading.score_split(
        colorizer[0], cache.split("test"), decoding, None, fading.WAYS
    )
    scores, _ = score(colorizer[0], cache, decoding, ALONE)
    as_it_is = found[:, list(fading.DAMAGES).index("undamaged"), 0]  # (N, 2)
    for i, name in enumerate(("psnr", "colorfulness")):
        np.testing.assert_allclose(as_it_is[:, i], scores["ours", name], atol=0.01)
    faded = list(fading.DAMAGES).index("30 + 0.5 L")
    np.testing.assert_allclose(spans[:, faded], spans[:, 0] / 2, atol=0.5)


def test_ways_undo_what_faded(fading):
    L = np.random.default_rng(0).beta(2, 2, (64, 64)) * 90 + 5
    faded = 45 + 0.3 * L
    assert np.abs(faded - L).mean() > 12
    for name in ("stretched", "always", "as needed", "mean, sd"):
        assert np.abs(fading.WAYS[name](faded) - L).mean() < 8, name
    for name in ("always", "mean, sd"):
        np.testing.assert_allclose(fading.WAYS[name](faded), fading.WAYS[name](L), atol=1e-6)
    assert np.percentile(fading.as_needed(faded), fading.ENDS) == pytest.approx(
        fading.USUAL, abs=0.1
    )
    assert np.median(fading.bend(faded)) == pytest.approx(fading.MEDIAN)


@pytest.mark.slow
def test_faded_photographs_are_compared_and_the_same_command_puts_its_scores_in_their_place(
    cache_folder, checkpoint, tmp_path
):
    where = "faded", cache_folder, checkpoint, tmp_path
    two, printed = compare_three_times(*where)
    for ways in two[1]["rows"].values():
        low, high = ways["stretched"]["gain_interval"]
        assert low <= ways["stretched"]["gain"] <= high
        assert f"{ways['stretched']['psnr']:.2f}" in printed
    assert len(run_comparison(*where, "--choose").splitlines()) == 1 + 4 * 6
