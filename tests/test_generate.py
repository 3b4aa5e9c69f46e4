import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.color import rgb2lab

import generate
from colorizer import Colorizer, save_checkpoint
from dataset import Cache
from quantize import load_centers

CENTERS = load_centers()


def run_generate(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["generate.py", *map(str, options)])
    return generate.main()


@pytest.fixture
def checkpoint(cache_folder, tmp_path):
    """An untrained network that colours strongly: its last bias favours a few bins."""
    torch.manual_seed(0)
    colorizer = Colorizer(CENTERS, "unet", 8)
    colorizer.net.head.weight.data *= 100
    about = {"dataset": Cache(cache_folder).name, "size": 16, "loss": "plain"}
    path = tmp_path / "best.pt"
    save_checkpoint(
        path,
        colorizer.state_dict(),
        **colorizer.options,
        **about,
        temperature=0.38,
        top_k=313,
        step=7,
    )
    return path


def write_photo(path, size=(50, 38), seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    smooth = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(smooth).resize(size, Image.Resampling.BICUBIC).save(path, **options)
    return path


# ---- command line ------------------------------------------------------------------------------
def test_checkpoint_without_value_takes_the_newest(
    checkpoint, cache_folder, tmp_path, monkeypatch, capsys
):
    for age, name in enumerate(["new", "old"]):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "best.pt").write_bytes(checkpoint.read_bytes())
        os.utime(folder / "best.pt", (1e9 - age, 1e9 - age))
    monkeypatch.chdir(tmp_path)
    run_generate(monkeypatch, "--checkpoint", "--cache", cache_folder.parent)
    assert "runs/new/best.pt: the newest" in capsys.readouterr().out
    assert (tmp_path / "runs" / "new" / "metrics.json").exists()


def test_no_checkpoint_at_all_is_a_usage_error(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        run_generate(monkeypatch, "--checkpoint")
    assert stopped.value.code == 2
    assert "found no runs/*/best.pt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--images", "a.jpg", "--sweep"], "leave them out with --images"),
        (["--images", "a.jpg", "--save-decode", "psnr"], "leave them out with --images"),
        (["--save-decode", "psnr"], "add --sweep"),
        (["--sweep", "--temperature", "1"], "leave yours out"),
        (["--sweep", "--top-k", "1"], "leave yours out"),
    ],
)
def test_options_that_make_no_sense_together_are_refused(options, reason, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_generate(monkeypatch, "--checkpoint", "a.pt", *options)
    assert stopped.value.code == 2
    assert reason in capsys.readouterr().err


# ---- photographs -------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [(50, 38), (38, 50), (301, 97), (20, 20), (200, 3)])
def test_colored_photo_keeps_its_size_and_lightness(size, checkpoint, tmp_path, monkeypatch):
    path = write_photo(tmp_path / "photos" / "a.png", size)
    out = tmp_path / "out"
    assert (
        run_generate(monkeypatch, "--checkpoint", checkpoint, "--images", path, "--out", out) == 0
    )
    before, after = np.asarray(Image.open(path)), np.asarray(Image.open(out / "a.png"))
    assert before.shape == after.shape
    assert np.abs(rgb2lab(before)[..., 0] - rgb2lab(after)[..., 0]).max() < 1
    assert np.abs(rgb2lab(after)[..., 1:]).max() > 5  # coloured, not the gray input


def test_gray_photo_becomes_colored(checkpoint, tmp_path, monkeypatch):
    path = tmp_path / "gray.png"
    Image.linear_gradient("L").save(path)
    out = tmp_path / "out"
    run_generate(monkeypatch, "--checkpoint", checkpoint, "--images", path, "--out", out)
    image = Image.open(out / "gray.png")
    assert image.mode == "RGB"
    assert np.ptp(np.asarray(image).astype(int), axis=-1).max() > 10


def test_images_keep_their_tree_and_formats(checkpoint, tmp_path, monkeypatch, capsys):
    root = tmp_path / "scans"
    for name in ("a.jpg", "deep/er/b.webp", "deep/c.bmp", "d.gif"):
        write_photo(root / name)
    (root / "notes.txt").write_text("no photograph")
    out = tmp_path / "out"
    assert (
        run_generate(monkeypatch, "--checkpoint", checkpoint, "--images", root, "--out", out) == 0
    )
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert found == {"a.jpg", "deep/er/b.webp", "deep/c.bmp", "d.png"}
    kinds = {Image.open(out / name).format for name in found}
    assert kinds == {"JPEG", "WEBP", "BMP", "PNG"}
    assert "4 photographs coloured, 0 skipped" in capsys.readouterr().out


def test_bad_and_existing_photos_are_skipped_and_told(checkpoint, tmp_path, monkeypatch, capsys):
    root, out = tmp_path / "scans", tmp_path / "out"
    for name in ("a.png", "b.png", "c.png"):
        write_photo(root / name)
    (root / "b.png").write_bytes((root / "b.png").read_bytes()[:200])
    write_photo(out / "c.png", seed=9)
    kept = (out / "c.png").read_bytes()
    assert (
        run_generate(monkeypatch, "--checkpoint", checkpoint, "--images", root, "--out", out) == 1
    )
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "c.png"]
    assert (out / "c.png").read_bytes() == kept
    printed = capsys.readouterr().out
    assert "b.png: damaged" in printed
    assert "never overwritten" in printed
    assert "1 photographs coloured, 2 skipped" in printed


def test_missing_images_are_named(checkpoint, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run_generate(monkeypatch, "--checkpoint", checkpoint, "--images", tmp_path / "nowhere")
