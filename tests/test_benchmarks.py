"""Every benchmark still runs, on little data; its figures are looked at by people."""

import importlib.util
import json
import shutil
from functools import partial

import pytest
from running import ROOT, run_script

BENCHMARKS = ROOT / "benchmarks"
SMALL = {
    "coloring.py": ["--large", "1", "--many", "3", "--workers", "2"],
    "creating.py": ["--sizes", "16", "--number", "5", "--rounds", "1"],
    "reading.py": ["--photos", "8192", "--size", "16", "--rounds", "1"],
    "scoring.py": ["--photos", "4", "--size", "16", "--rounds", "1"],
    "scaling.py": ["--numbers", "50", "--size", "16", "--workers", "1"],
    "training.py": ["--sizes", "16", "--crop", "16", "--batch-size", "4", "--rounds", "2"],
}
LAST = {
    "coloring.py": "times as fast as in turn",
    "creating.py": "times as fast as one",
    "reading.py": "of a training step",
    "scoring.py": "times as fast as obvious, search_tree",
    "scaling.py": "MB",
    "training.py": "times as fast",
}


@pytest.mark.slow
@pytest.mark.parametrize("script", SMALL)
def test_benchmark_runs(script):
    if script == "creating.py" and importlib.util.find_spec("sklearn") is None:
        pytest.skip("creating.py needs scikit-learn, which is not here")
    done = run_script(BENCHMARKS / script, *SMALL[script], timeout=300)
    assert done.returncode == 0, done.stderr
    assert LAST[script] in done.stdout.rstrip().splitlines()[-1]


@pytest.mark.slow
def test_losses_are_compared_and_a_stopped_comparison_goes_on(cache_folder, tmp_path):
    options = ["--cache", cache_folder.parent, "--datasets", "holidays", "--size", "16"]
    options += ["--ways", "plain", "--steps", "2", "--jobs", "2", "--out", tmp_path]
    compare = partial(run_script, BENCHMARKS / "compare_losses.py", *options, timeout=300)
    first = compare()
    assert first.returncode == 0, first.stderr
    runs = json.loads((tmp_path / "losses.json").read_text())
    runs.sort(key=lambda run: run["seed"])
    assert len(runs) == 2
    one = runs[0]["decodings"]["paper"]["scores"]["ours"]["psnr"]
    two = runs[1]["decodings"]["paper"]["scores"]["ours"]["psnr"]
    assert one != two
    mean, spread = (one + two) / 2, abs(one - two) / 2
    assert f"| plain | as in the paper | 0.38, 313 | {mean:.2f} ± {spread:.2f} |" in first.stdout
    one, two = (next(tmp_path.glob(f"holidays-16-plain-{seed}/2-steps-*")) for seed in (0, 1))
    shutil.rmtree(one)  # its scores are known
    checkpoint = two / "best.pt"
    time = checkpoint.stat().st_mtime_ns
    (tmp_path / "losses.json").write_text(json.dumps(runs[:1]))
    (two / "psnr" / "metrics.json").unlink()
    second = compare()
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
