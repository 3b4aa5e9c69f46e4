"""export.py: what travels is small, whole, and colours as the checkpoint does."""

import sys

import pytest
import torch

import export
from colorizer import load_colorizer
from command_line import run_command


@pytest.fixture
def run_export(monkeypatch, capsys):
    """Give tests a function that runs `python export.py ...` here: status, output, errors."""

    def run(*typed):
        monkeypatch.setattr(sys, "argv", ["export.py", *map(str, typed)])
        with pytest.raises(SystemExit) as ended:
            run_command(export.main, "")
        return ended.value.code or 0, *capsys.readouterr()

    return run


def test_exported_weights_colour_as_the_checkpoint(checkpoint, tmp_path, run_export):
    out = tmp_path / "new" / "small.pt"
    status, output, _ = run_export("--checkpoint", checkpoint, "--out", out)
    assert status == 0
    assert f"wrote {out}, 0.2 MB" in output
    assert out.stat().st_size < 0.6 * (checkpoint.stat().st_size)
    (large, about), (small, same) = load_colorizer(checkpoint), load_colorizer(out)
    kept = {key: value for key, value in about.items() if key != "run"}
    assert kept == same
    L = 100 * torch.rand(1, 1, 32, 48, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        exact, near = large(L), small(L)
    assert near.dtype == torch.float32
    assert 0 < (near - exact).abs().max() < 0.01 * exact.abs().max()


@pytest.mark.parametrize(
    ("out", "message"), [("a.bin", "must end with .pt"), ("best.pt", "another file than")]
)
def test_usage_errors_exit_with_2(out, message, checkpoint, run_export):
    status, _, errors = run_export("--checkpoint", checkpoint, "--out", checkpoint.parent / out)
    assert status == 2
    assert message in errors


def test_a_checkpoint_that_is_none_is_one_sentence(tmp_path, run_export):
    status, _, errors = run_export("--checkpoint", tmp_path / "no.pt", "--out", tmp_path / "a.pt")
    assert status == 1
    assert errors.count("\n") == 1
    assert "no such checkpoint" in errors
