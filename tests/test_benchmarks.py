"""Every benchmark still runs, on little data; its figures are looked at by people."""

import importlib
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"
SMALL = {  # options, and what the last line holds
    "coloring_large": (["--megapixels", "1"], "less CPU time"),
    "coloring_many": (["--photos", "3", "--workers", "2"], "times as fast as in turn"),
    "coloring_resized": (["PHOTOS", "--working-size", "16", "--number", "2"], "ab moves"),
    "creating": (["--sizes", "16", "--number", "5", "--rounds", "1"], "times as fast as one"),
    "creating_many": (["--numbers", "50", "--size", "16", "--workers", "1"], "MB"),
    "enlarging": (["CACHE", "--working-size", "8", "--number", "2"], "better on"),
    "reading": (["--photos", "8192", "--size", "16", "--rounds", "1"], "of a training step"),
    "scoring": (["--photos", "4", "--size", "16", "--rounds", "1"], "fast as obvious, search_tree"),
    "training": (
        ["--sizes", "16", "--crop", "16", "--batch-size", "4", "--rounds", "2"],
        "times as fast",
    ),
}


def test_benchmarks_are_measured_and_hide_no_module():
    names = {path.stem for path in BENCHMARKS.glob("*.py")}
    assert names == {f"measure_{what}" for what in SMALL} | {"compare_losses", "timing"}
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
