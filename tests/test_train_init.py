"""train.py --init: the start from a checkpoint, what is refused, and how such a run resumes."""

import json
import shutil

import pytest
import torch
from runs import compare_runs, log_of, run_train

import train
from colorizer import Colorizer, load_colorizer, read_checkpoint, save_checkpoint
from common.processes import Ranks
from dataset import Cache
from export import export_weights
from quantize import load_centers
from training.start import read_start


@pytest.fixture
def start(tmp_path, make_checkpoint):
    """Write a checkpoint of width 8 in half precision, as those of checkpoints/ are."""
    whole = make_checkpoint(tmp_path / "whole.pt")
    export_weights(tmp_path / "start.pt", *load_colorizer(whole))
    return tmp_path / "start.pt"


@pytest.fixture
def typed(options, start):
    """Return options of a tiny run from that checkpoint, without its width."""
    place = options.index("--width")
    return [*options[:place], *options[place + 2 :], "--init", start]


# ---- the start ---------------------------------------------------------------------------------
def test_the_first_step_has_the_weights_of_the_file(cache_folder, start):
    parsed = train.make_train_parser().parse_args(["--crop", "16", "--steps", "10"])
    parsed.init, parsed.out = start, start.parent / "run"
    run = train.build_run(parsed, Cache(cache_folder), Ranks())
    expected = load_colorizer(start)[0].state_dict()
    for model in (run.model, run.average):
        torch.testing.assert_close(model.state_dict(), expected, rtol=0, atol=0)
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}
    assert run.model.training
    assert not run.optimizer.state


def test_net_and_width_are_those_of_the_file(typed, start, tmp_path, capsys):
    run_train(*typed, "--steps", 2)
    assert f"starting from {start} with 50 photographs" in capsys.readouterr().out
    config = json.loads((tmp_path / "run" / "config.json").read_text())["options"]
    assert (config["net"], config["width"], config["init"]) == ("unet", 8, str(start))
    assert config["init_digest"] == read_start(start)[1]
    assert load_colorizer(tmp_path / "run" / "best.pt")[1]["width"] == 8


def test_a_run_from_nothing_says_nothing_of_a_start(options, tmp_path):
    run_train(*options, "--steps", 2)
    config = json.loads((tmp_path / "run" / "config.json").read_text())["options"]
    assert not {"init", "init_digest"} & config.keys()


def test_a_start_lowers_the_validation_loss(options, tmp_path):
    first = tmp_path / "first"
    run_train(*options, "--out", first, "--steps", 60, "--ema", 0)
    losses = {}
    for name, more in {"nothing": [], "start": ["--init", first / "best.pt"]}.items():
        run_train(*options, *more, "--out", tmp_path / name, "--steps", 6, "--seed", 1)
        losses[name] = log_of(tmp_path / name)[-1]["val_loss"]
    assert losses["start"] < losses["nothing"] - 0.2


def test_a_start_keeps_its_statistics_and_moves_its_weights(typed, start, tmp_path):
    run_train(*typed, "--steps", 4)
    before = load_colorizer(start)[0].state_dict()
    content = read_checkpoint(tmp_path / "run" / "last.pt")
    for after in (content["model"], content["run"]["model"]):
        for name, value in before.items():
            kept = name.endswith(("running_mean", "running_var", "num_batches_tracked", "centers"))
            assert torch.equal(after[name], value) == kept, name


def test_best_is_the_start_where_no_step_is_better(typed, start, tmp_path):
    run_train(*typed, "--steps", 6, "--lr", 0.3)
    values = {x["step"]: x["val_loss"] for x in log_of(tmp_path / "run") if "val_loss" in x}
    assert list(values) == [0, 6]
    assert values[0] < values[6]
    best = read_checkpoint(tmp_path / "run" / "best.pt")
    assert best["step"] == 0
    expected = load_colorizer(start)[0].state_dict()
    torch.testing.assert_close(best["model"], expected, rtol=0, atol=0)


def test_the_published_weights_are_a_start(tmp_path):
    state = Colorizer(load_centers(), "zhang").state_dict()
    published = {name.removeprefix("net."): x for name, x in state.items() if name != "centers"}
    torch.save(published, tmp_path / "published.pth")
    found, _ = read_start(tmp_path / "published.pth")
    assert found.options == {"net": "zhang", "width": 0}
    torch.testing.assert_close(found.state_dict(), state, rtol=0, atol=0)


# ---- what is refused ---------------------------------------------------------------------------
@pytest.mark.parametrize(("option", "value"), [("--width", 16), ("--net", "zhang")])
def test_another_net_or_width_is_a_usage_error(option, value, typed, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_train(*typed, option, value)
    assert stopped.value.code == 2
    assert f"{option} must be that of --init" in capsys.readouterr().err
    run_train(*typed, "--steps", 2, "--net", "unet", "--width", 8)  # as in the file


def save_other_palette(path):
    centers = load_centers() + torch.tensor([0.0, 1.0])
    colorizer = Colorizer(centers, "unet", 8)
    about = {"dataset": "none", "size": 16, "temperature": 1.0, "top_k": 313}
    save_checkpoint(path, colorizer.state_dict(), **colorizer.options, **about)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), r"start\.pt: no such file"),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "a damaged one"),
        (lambda path: torch.save({"model": print}, path), "one that holds code"),
        (save_other_palette, r"start\.pt: expected the palette of this project, \w+, found \w+"),
    ],
)
def test_a_file_that_is_no_start_is_one_sentence(spoil, message, typed, start, tmp_path):
    spoil(start)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run_train(*typed, "--steps", 2)
    assert not (tmp_path / "run").exists()


# ---- resumed -----------------------------------------------------------------------------------
def test_resume_needs_the_file_no_more(typed, start, tmp_path, stop_in_step):
    run_train(*typed, "--steps", 11)
    (tmp_path / "run").rename(tmp_path / "uninterrupted")
    stop_in_step(6)
    with pytest.raises(KeyboardInterrupt):
        run_train(*typed, "--steps", 11)
    stop_in_step(None)
    start.unlink()
    run_train(typed[0], typed[1], "--out", tmp_path / "run", "--resume")
    compare_runs(tmp_path / "uninterrupted", tmp_path / "run")
    run_train(*typed, "--resume")  # the same name, typed again


def test_resume_knows_the_file_by_its_content(typed, start, tmp_path, make_checkpoint):
    run_train(*typed, "--steps", 2)
    moved = shutil.copy(start, tmp_path / "moved.pt")
    run_train(*typed, "--resume")
    run_train(*typed[:-1], moved, "--resume")
    make_checkpoint(start, seed=1)
    with pytest.raises(ValueError, match=r"began with --init .*start\.pt \(\w{16}\), now .*start"):
        run_train(*typed, "--resume")
    run_train(*typed[:-2], "--resume")  # not typed: it is not looked at
    start.unlink()
    with pytest.raises(ValueError, match=r"began with --init .*start\.pt, now .*gone\.pt; leave"):
        run_train(*typed[:-1], tmp_path / "gone.pt", "--resume")


def test_resume_takes_no_start_where_the_digest_is_lost(typed, tmp_path):
    run_train(*typed, "--steps", 2)
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    del config["options"]["init_digest"]
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"began with --init .* \(None\), now .* \(\w{16}\)"):
        run_train(*typed, "--resume")


def test_the_start_itself_keeps_its_prior_and_a_step_has_the_datas(typed, start, tmp_path):
    run_train(*typed, "--steps", 2, "--lr", 0.3)
    priors = [
        torch.load(path, weights_only=True)["prior"]
        for path in (start, tmp_path / "run" / "best.pt", tmp_path / "run" / "last.pt")
    ]
    assert torch.equal(priors[0], priors[1])
    assert not torch.equal(priors[0], priors[2])


def test_resume_of_a_run_from_nothing_refuses_a_start(options, typed):
    run_train(*options, "--steps", 2)
    with pytest.raises(ValueError, match=r"began with no --init, now .*start\.pt"):
        run_train(*typed, "--resume")


def test_a_run_that_saved_nothing_begins_from_the_file_again(
    typed, start, tmp_path, make_checkpoint
):
    run_train(*typed, "--steps", 5)
    run = tmp_path / "run"
    shutil.copytree(run, tmp_path / "uninterrupted")
    for path in run.glob("*.pt"):
        path.unlink()
    run_train(*typed[:-2], "--resume")
    compare_runs(tmp_path / "uninterrupted", run)
    for path in run.glob("*.pt"):
        path.unlink()
    content = start.read_bytes()
    make_checkpoint(start, seed=1)
    with pytest.raises(ValueError, match=r"began with --init .* \(\w{16}\), now .* \(\w{16}\)"):
        run_train(*typed[:-2], "--resume")
    start.unlink()
    with pytest.raises(FileNotFoundError, match=r"start\.pt: no such file"):
        run_train(*typed[:-2], "--resume")
    (tmp_path / "moved.pt").write_bytes(content)
    run_train(*typed[:-1], tmp_path / "moved.pt", "--resume")
    compare_runs(tmp_path / "uninterrupted", run)
