"""What commit 4db691f made is read as before: a cache, a run, a checkpoint, a colored folder.

made_before/ holds one of each, by these commands, --size 16 and --width 1:

    python create_dataset.py --dataset sample --size 16 --limit 3
    python train.py --loss normalized --width 1 --steps 4 --batch-size 2 --crop 16 ...
    python generate.py --checkpoint run/best.pt
    python generate.py --checkpoint run/best.pt --images photos --out colored
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import generate
import train
from colorizer import load_colorizer
from common.command_line import run_command
from dataset import Cache, skipped_photos

BEFORE = Path(__file__).parent / "made_before"
STAMP = (15548, 1795714170904442227)  # bytes and time of change, as colored.jsonl has them


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Copy what was made before, and work there."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(BEFORE / "cache", "cache/sample-16")
    shutil.copytree(BEFORE / "run", "run")
    shutil.copytree(BEFORE / "colored", "colored")
    photo = tmp_path / "photos" / "astronaut.png"
    photo.parent.mkdir()
    shutil.copy(BEFORE / "astronaut.png", photo)
    os.utime(photo, ns=(STAMP[1], STAMP[1]))
    record = Path("colored/colored.jsonl")
    record.write_text(record.read_text().replace("PHOTOS/", f"{photo.parent}/"))
    return tmp_path


def run(monkeypatch, script, *options):
    """Run a script here; return its exit status."""
    monkeypatch.setattr("sys.argv", [script.__name__, *map(str, options)])
    with pytest.raises(SystemExit) as ended:
        run_command(script.main)
    return ended.value.code


def test_a_cache_is_read(home):
    cache = Cache(Path("cache/sample-16"))
    assert (cache.name, cache.size, cache.digest) == ("sample", 16, "8ba7c5e4602c6e13")
    assert cache.faults() == []
    assert skipped_photos(cache) == []
    for split in ("train", "val", "test"):
        L, ab = cache.split(split).read(np.arange(3))
        assert L.shape == (3, 16, 16)
        assert ab.shape == (3, 2, 16, 16)


def test_a_checkpoint_scores_as_before(home, monkeypatch):
    assert load_colorizer(Path("run/best.pt"))[1]["loss"] == "normalized"
    assert run(monkeypatch, generate, "--checkpoint", "run/best.pt", "--out", "scores") == 0
    made, before = (
        json.loads(p.read_text()) for p in (Path("scores/metrics.json"), BEFORE / "metrics.json")
    )
    assert made.keys() == before.keys() | {"vividness"}
    assert made["cache_digest"] == before["cache_digest"]
    assert made["checkpoint_sha256"] == before["checkpoint_sha256"]
    assert made["scores"].keys() == before["scores"].keys()
    for row, scores in before["scores"].items():
        assert made["scores"][row].keys() == scores.keys()
        for name, value in scores.items():
            assert made["scores"][row][name] == pytest.approx(value, abs=2e-3), (row, name)


def test_a_run_goes_on(home, monkeypatch):
    before = Path("run/log.jsonl").read_text()
    assert run(monkeypatch, train, "--out", "run", "--resume", "--steps", 6) == 0
    after = Path("run/log.jsonl").read_text()
    assert [json.loads(line) for line in after.splitlines()][: before.count("\n")] == [
        json.loads(line) for line in before.splitlines()
    ]
    assert [json.loads(line)["step"] for line in after.splitlines()][-2:] == [6, 6]


def test_a_colored_folder_is_known(home, monkeypatch, capsys):
    options = ["--checkpoint", "run/best.pt", "--images", "photos", "--out", "colored"]
    assert run(monkeypatch, generate, *options) == 0
    assert "colored: 0 photographs" in (said := capsys.readouterr().out)
    assert "1 done before" in said
    assert (
        Path("colored/astronaut.png").read_bytes()
        == (BEFORE / "colored/astronaut.png").read_bytes()
    )
