"""Films colored by generate.py, run here with an untrained network."""

import pytest
from running import call

import generate
from colorizer import load_colorizer
from films import color as coloring


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint, tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("run") / "best.pt")


@pytest.fixture(scope="module")
def colorizer(checkpoint):
    return load_colorizer(checkpoint)[0]


@pytest.fixture
def short_parts(monkeypatch):
    """Let parts have six frames each."""
    monkeypatch.setattr(coloring, "PART_SECONDS", 0.25)


@pytest.fixture
def color(checkpoint, tmp_path, capsys):
    """Give tests `color(*options)`: the exit status and what was printed; --out is tmp_path/out."""

    def run(*options, out="out", checkpoint=checkpoint):
        where = ["--checkpoint", checkpoint, "--out", tmp_path / out, "--device", "cpu"]
        status = call(generate.main, *where, "--images", *options)
        return status, capsys.readouterr().out

    return run
