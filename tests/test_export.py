"""export.py: what travels is small, whole, and colors as the checkpoint does."""

import os
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch
from running import CODE, exit_status, finish, start_script

import export
from coloring.enlarge import predict_ab
from colorizer import load_colorizer, save_checkpoint
from quantize import Decoding

NOBODY = 65534
LONG = "x" * 250  # with .pt a name, but none with .pt.tmp; with more no name


@pytest.fixture
def run_export(capsys):
    """Give tests a function that runs `python export.py ...` here: status, output, errors."""

    def run(*typed):
        return exit_status(export.main, *typed), *capsys.readouterr()

    return run


def test_exported_weights_color_as_the_checkpoint(checkpoint, tmp_path, run_export):
    out = tmp_path / "new" / "small.pt"
    status, output, _ = run_export("--checkpoint", checkpoint, "--out", out)
    assert status == 0
    assert output == f"wrote {out}, 0.2 MB\n"
    assert out.stat().st_size < 0.6 * (checkpoint.stat().st_size)
    (large, about), (small, same) = load_colorizer(checkpoint), load_colorizer(out)
    kept = {key: value for key, value in about.items() if key != "run"}
    assert torch.equal(kept.pop("prior"), same.pop("prior"))
    assert kept == same
    L = 100 * torch.rand(1, 1, 32, 48, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        exact, near = large(L), small(L)
    assert near.dtype == torch.float32
    assert 0 < (near - exact).abs().max() < 0.01 * exact.abs().max()


# ---- ONNX --------------------------------------------------------------------------------------
GROWN = """if 1:  # prints how many KB of memory coloring a square takes
    import re, sys
    import numpy, onnxruntime

    session, side = onnxruntime.InferenceSession(sys.argv[1]), int(sys.argv[2])
    session.run(None, {"L": numpy.full((1, 1, side, side), 50, numpy.float32)})
    print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""
SHAPES = [(1, 64, 64), (2, 48, 72), (1, 37, 50), (1, 5, 300), (1, 1, 1)]  # B, H, W


def test_onnx_colors_as_the_checkpoint_at_any_size(checkpoint, tmp_path, run_export):
    onnxruntime = pytest.importorskip("onnxruntime")
    colorizer, about = load_colorizer(checkpoint)
    about |= {"temperature": 0.5, "top_k": 10, "vividness": 0.3}
    save_checkpoint(checkpoint, colorizer.state_dict(), **about)
    out = tmp_path / "colorizer.onnx"
    status, output, errors = run_export("--checkpoint", checkpoint, "--out", out)
    assert (status, errors) == (0, "")
    assert output.startswith(f"wrote {out}, ")
    session = onnxruntime.InferenceSession(out)
    metadata = session.get_modelmeta().custom_metadata_map
    assert (metadata["size"], metadata["top_k"]) == ("16", "10")
    assert metadata["vividness"] == "0.3"
    for B, H, W in SHAPES:
        L = 100 * torch.rand(B, 1, H, W, generator=torch.Generator().manual_seed(0))
        expected = predict_ab(colorizer, L, Decoding(0.5, 10, 0.3))
        (ab,) = session.run(None, {"L": L.numpy()})
        assert ab.shape == (B, 2, H, W)
        assert abs(ab - expected.numpy()).max() < 1e-3
        assert H * W == 1 or expected.std() > 1
    # at 512 x 512 px a table of all pairs of places would take 134 MB
    grown = [int(finish(start_script(CODE, GROWN, out, side)).stdout) for side in (16, 512)]
    assert 0 < grown[1] - grown[0] < 120_000


def test_a_typed_decoding_is_the_files_default(checkpoint, tmp_path, run_export):
    typed = ("--vividness", 0.4, "--temperature", 0.6, "--top-k", 30)
    out = tmp_path / "small.pt"
    assert run_export("--checkpoint", checkpoint, "--out", out, *typed)[0] == 0
    about = load_colorizer(out)[1]
    assert [about[key] for key in ("vividness", "temperature", "top_k")] == [0.4, 0.6, 30]


def test_without_onnx_a_sentence_says_what_to_install(
    checkpoint, tmp_path, run_export, monkeypatch
):
    monkeypatch.setattr(export, "ONNX_PACKAGES", ("onnx", "no_such_package"))
    status, _, errors = run_export("--checkpoint", checkpoint, "--out", tmp_path / "a.onnx")
    assert status == 2
    assert "pip install no_such_package" in errors


# ---- what goes wrong ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("a.bin", "must be NAME.pt or NAME.onnx, got "),
        (".pt", "must be NAME.pt or NAME.onnx, got "),
        ("best.pt", "another file than"),
    ],
)
def test_usage_errors_exit_with_2(out, message, checkpoint, run_export):
    status, _, errors = run_export("--checkpoint", checkpoint, "--out", checkpoint.parent / out)
    assert status == 2
    assert message in errors


@pytest.fixture
def untouched(monkeypatch):
    """Fail a test whose command reads the checkpoint: what is wrong shows before."""
    monkeypatch.setattr(export, "load_colorizer", lambda path: pytest.fail("loaded"))


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("folder.pt", "folder.pt: expected a file to write, found a folder; name another"),
        ("pipe.pt", "pipe.pt: expected a file to write, found a pipe or a device; name another"),
        ("best.pt/a.pt", "best.pt: file exists; choose a folder that you may use"),
        ("best.pt/a/a.onnx", "best.pt/a: not a directory; choose a folder that you may use"),
        (LONG + ".pt", LONG + ".pt: file name too long; choose a shorter name"),
        (LONG + "xxx.pt", LONG + "xxx.pt: file name too long; choose a shorter name"),
        (LONG + "xxxxxx/a.pt", LONG + "xxxxxx/a.pt: file name too long; choose a shorter name"),
    ],
)
def test_an_out_that_cannot_be_written_is_one_sentence(
    out, message, checkpoint, run_export, untouched
):
    folder = checkpoint.parent
    (folder / "folder.pt").mkdir()
    os.mkfifo(folder / "pipe.pt")
    before = sorted(folder.rglob("*"))
    status, _, errors = run_export("--checkpoint", checkpoint, "--out", folder / out)
    assert (status, errors.count("\n")) == (1, 1)
    assert errors.startswith(f"export.py: error: {folder}/{message}")
    assert sorted(folder.rglob("*")) == before


def test_an_out_in_a_folder_that_is_closed(checkpoint, run_export, untouched):
    with tempfile.TemporaryDirectory() as folder:  # tmp_path is closed to nobody
        user, out = os.geteuid(), Path(folder) / "a.onnx"
        Path(folder).chmod(0o555)
        os.seteuid(user or NOBODY)  # root may write everywhere
        try:
            status, _, errors = run_export("--checkpoint", checkpoint, "--out", out)
        finally:
            os.seteuid(user)
    said = f"{out}: permission denied; choose a folder that you may use, or change its permissions"
    assert (status, errors) == (1, f"export.py: error: {said}\n")


def test_a_full_disk_is_one_sentence(checkpoint, run_export, mount, monkeypatch):
    disk = mount(200)  # the network takes 0.4 MB
    monkeypatch.setattr(export, "export_onnx", lambda *_: pytest.fail("traced"))
    status, _, errors = run_export("--checkpoint", checkpoint, "--out", disk / "a.onnx")
    assert (status, errors.count("\n")) == (1, 1)
    assert errors.startswith(f"export.py: error: {disk}: 0 MB are needed, 0 MB are free; delete")
    assert errors.endswith("by --out\n")


def test_a_disk_for_reading_alone(checkpoint, run_export, mount, untouched):
    disk = mount(200)
    if subprocess.run(["mount", "-o", "remount,ro", disk], capture_output=True).returncode:
        pytest.skip("no disk can be mounted for reading alone here")
    status, _, errors = run_export("--checkpoint", checkpoint, "--out", disk / "a.pt")
    assert (status, errors.count("\n")) == (1, 1)
    assert errors.startswith(f"export.py: error: {disk / 'a.pt'}: read-only file system; choose a")


def test_a_checkpoint_that_is_none_is_one_sentence(tmp_path, run_export):
    status, _, errors = run_export("--checkpoint", tmp_path / "no.pt", "--out", tmp_path / "a.pt")
    assert status == 1
    assert errors.count("\n") == 1
    assert "no such file" in errors
