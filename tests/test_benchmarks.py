"""Every benchmark still runs, on little data; its figures are looked at by people."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
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
    command = [sys.executable, BENCHMARKS / script, *SMALL[script]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert LAST[script] in done.stdout.rstrip().splitlines()[-1]
