"""Photographs colored by generate.py, run here with an untrained network."""

import pytest
from running import call

import generate


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint, tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("run") / "best.pt")


@pytest.fixture
def color(checkpoint, tmp_path, capsys):
    """Give tests `color(*options)`: the exit status and what was printed; --out is tmp_path/out."""

    def run(*options, checkpoint=checkpoint):
        where = ["--checkpoint", checkpoint, "--out", tmp_path / "out"]
        status = call(generate.main, *where, "--images", *options)
        return status, capsys.readouterr().out

    return run
