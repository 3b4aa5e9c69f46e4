import os
from functools import partial

import pytest
import torch
from PIL import Image
from running import call

import generate
from colorizer import load_colorizer
from common import command_line
from quantize import load_centers

CENTERS = load_centers()


run_generate = partial(call, generate.main)


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
    run_generate("--checkpoint", "--cache", cache_folder.parent)
    assert "runs/new/best.pt: the newest" in capsys.readouterr().out
    assert (tmp_path / "runs" / "new" / "metrics.json").exists()


@pytest.mark.parametrize("age", [-10, 10])
def test_without_checkpoint_photographs_take_the_general_one_or_a_newer_run(
    age, make_checkpoint, tmp_path, monkeypatch, capsys
):
    general, run = tmp_path / "checkpoints" / "photos-128.pt", tmp_path / "runs" / "a" / "best.pt"
    for path, time in ((general, 1e9), (run, 1e9 + age)):
        path.parent.mkdir(parents=True)
        os.utime(make_checkpoint(path), (time, time))
    monkeypatch.setattr(command_line, "GENERAL", general)
    monkeypatch.chdir(tmp_path)
    Image.linear_gradient("L").save("gray.png")
    assert run_generate("--images", "gray.png") == 0
    said = capsys.readouterr().out
    newer = age > 0
    assert ("runs/a/best.pt: the newest checkpoint; choose another" in said) == newer
    assert ("checkpoints/photos-128.pt: for photographs of all kinds; choose" in said) != newer
    assert (tmp_path / "out" / "gray.png").exists()


def test_the_general_checkpoint_is_there_and_says_what_it_saw():
    info = load_colorizer(command_line.GENERAL)[1]
    assert (info["size"], info["loss"], info["vividness"]) == (128, "plain", 0.2)
    assert command_line.GENERAL.with_suffix(".md").read_text().startswith("# ")


def test_scores_of_a_file_that_is_no_runs_go_to_a_folder_of_its_name(
    checkpoint, cache_folder, tmp_path, monkeypatch
):
    checkpoint.rename(tmp_path / "faces.pt")
    monkeypatch.chdir(tmp_path)
    assert run_generate("--checkpoint", "faces.pt", "--cache", cache_folder.parent) == 0
    assert (tmp_path / "scores" / "faces" / "metrics.json").exists()
    assert not (tmp_path / "metrics.json").exists()


def test_no_checkpoint_at_all_is_a_usage_error(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        run_generate("--checkpoint")
    assert stopped.value.code == 2
    assert "found no runs/*/best.pt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--images", "a.jpg", "--sweep"], "do not go with --images"),
        (["--images", "a.jpg", "--save-decode", "psnr"], "do not go with --images"),
        (["--save-decode", "psnr"], "add --sweep"),
        (["--sweep", "--temperature", "1"], "leave yours out"),
        (["--sweep", "--top-k", "1"], "leave yours out"),
        (["--images", "a.jpg", "--ask", "3", "--samples", "2"], "--ask colors nothing"),
        (["--images", "a.jpg", "--ask", "3", "--format", "png"], "--ask colors nothing"),
        (["--images", "a.jpg", "--ask", "3", "--uncertainty"], "--ask colors nothing"),
        (["--images", "a.jpg", "--ask", "0"], "--ask: must be a whole number >= 1"),
        (["--images", "a.jpg", "--working-size", "4100"], ">= 16 and <= 4096, got 4100"),
        (["--images", "a.jpg", "--ask", "501"], "<= 500, got 501"),
        (["--images", "a.jpg", "--ask", "many"], "got many"),
        (["--images", "a.mp4", "--start", "1", "--ask", "3"], "and not with --ask"),
        (["--images", "a.mp4", "--stills", "--ask", "3"], "and not with --ask"),
        (["--start", "1"], "go with --images"),
        (["--end", "1"], "go with --images"),
        (["--stills"], "go with --images"),
        (["--images", "a.mp4", "--stills", "--samples", "2"], "--stills colors nothing"),
        (["--images", "a.mp4", "--stills", "--hints", "b"], "--stills colors nothing"),
        (["--images", "a.mp4", "--start", "5", "--end", "5"], "later than --start, got 5 s"),
        (["--images", "a.mp4", "--end", "0"], "--end must be later than --start, got 0 s"),
    ],
)
def test_options_that_make_no_sense_together_are_refused(options, reason, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_generate("--checkpoint", "a.pt", *options)
    assert stopped.value.code == 2
    assert reason in capsys.readouterr().err


def test_options_of_photographs_without_photographs_are_usage_errors(capsys):
    colored = (["--format", "png"], ["--samples", "2"], ["--uncertainty"], ["--compare"])
    for options in (*colored, ["--hints", "hints"], ["--ask", "3"], ["--no-stretch"]):
        with pytest.raises(SystemExit) as stopped:
            run_generate("--checkpoint", "x.pt", *options)
        assert stopped.value.code == 2
        assert "--images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("83.5", 83.5),
        ("1:23.5", 83.5),
        ("0:01:23.5", 83.5),
        ("2:00:00", 7200),
        ("90:00", 5400),
        ("0", 0),
    ],
)
def test_read_seconds_reads_times_as_people_write_them(text, expected):
    assert generate.read_seconds(text) == expected


@pytest.mark.parametrize(
    "text", ["", "a", "-1", "1:60", "0:99:01", "1:-5", "1:2:3:4", "nan", "inf", "1:", "1h"]
)
def test_seconds_refuses_what_is_no_time(text, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_generate("--checkpoint", "a.pt", "--images", "a.mp4", f"--start={text}")
    assert stopped.value.code == 2
    assert f"--start: expected a time as 83.5 or 0:01:23.5, got {text}" in capsys.readouterr().err


@pytest.mark.parametrize(("options", "folder"), [((), "out"), (("--ask", 2), "hints")])
def test_photographs_and_pictures_to_paint_on_have_a_folder_each(
    options, folder, checkpoint, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Image.linear_gradient("L").save("gray.png")
    assert run_generate("--checkpoint", checkpoint, "--images", "gray.png", *options) == 0
    assert [path.name for path in tmp_path.glob("*/gray.png")] == ["gray.png"]
    assert (tmp_path / folder / "gray.png").exists()


def test_top_k_above_the_number_of_bins_is_refused(checkpoint):
    with pytest.raises(ValueError, match="--top-k must be at most the number of bins, 313"):
        run_generate("--checkpoint", checkpoint, "--top-k", 314)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
@pytest.mark.parametrize(("more", "name"), [([], "score"), (["--sweep"], "sweep")])
def test_memory_that_is_used_up_in_scoring_is_said(
    error, more, name, checkpoint, cache_folder, monkeypatch
):
    def fail(*_):
        raise error

    monkeypatch.setattr(generate, f"{name}_checkpoint", fail)
    options = ["--checkpoint", checkpoint, "--cache", cache_folder.parent, "--device", "cpu", *more]
    with pytest.raises(ValueError, match="out of memory on cpu; close other programs"):
        run_generate(*options)
