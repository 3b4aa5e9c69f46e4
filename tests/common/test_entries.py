"""Checkpoints that lie: each is one sentence that says what was found, and what to do."""

import contextlib
import importlib.util
import re
from collections import OrderedDict

import pytest
import torch
from mutation import reason_of
from running import exit_status

import app
import export
import generate
from colorizer import load_colorizer, read_checkpoint
from common.entries import check_tensors, shorten

NAN = float("nan")


@pytest.fixture(scope="module")
def small(make_checkpoint, tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("small") / "best.pt")


@pytest.fixture
def lie(small, tmp_path):
    """Give tests `lie(change)`: a copy of a checkpoint whose contents a function has changed."""

    def write(change):
        contents = torch.load(small, weights_only=True)
        change(contents)
        torch.save(contents, path := tmp_path / "lie.pt")
        return path

    return write


def refusal(path):
    with pytest.raises(ValueError, match=re.escape(f"{path}: ")) as refused:
        load_colorizer(path)
    reason = reason_of(refused.value, f"{path}: ")
    assert reason.endswith("; train again, or take another copy")
    assert len(reason) < len(str(path)) + 250
    return reason


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("net", "resnet", "'resnet', expected unet or zhang"),
        ("net", ["unet"], "a list, expected unet or zhang"),
        ("width", True, "True, expected a whole number from 0 to 4096"),
        ("width", 10**9, "1000000000, expected a whole number"),
        ("width", -1, "-1, expected"),
        ("width", 8.0, "8.0, expected"),
        ("dataset", 7, "7, expected the name of a data set"),
        ("dataset", "a" * 10**6, f"'{'a' * 39}, expected the name"),
        ("size", "64", "'64', expected a multiple of 4 from 16 to 4096"),
        ("size", None, "None, expected"),
        ("size", 20_000, "20000, expected"),
        ("size", 66, "66, expected"),
        ("size", 0, "0, expected"),
        ("temperature", NAN, "nan, expected a number above 0"),
        ("temperature", float("inf"), "inf, expected"),
        ("temperature", -0.4, "-0.4, expected"),
        ("temperature", 0.0, "0.0, expected"),
        ("temperature", "0.4", "'0.4', expected"),
        ("temperature", 10**400, f"1{'0' * 39}, expected"),
        ("temperature", torch.tensor(0.4), "a tensor () of torch.float32, expected"),
        ("top_k", 0, "0, expected a number of bins"),
        ("top_k", 1.5, "1.5, expected"),
        ("top_k", 10**9, "1000000000, expected"),
        ("top_k", 314, "314, expected at most its 313 bins"),
        ("vividness", NAN, "nan, expected a number from 0 to 1"),
        ("vividness", None, "None, expected"),
        ("step", -1, "-1, expected a whole number from 0"),
        ("step", 2**64, "18446744073709551616, expected"),
        ("loss", {"plain": 1}, "a dict, expected the name of a loss"),
        ("cache", None, "None, expected the digest of a cache"),
        ("model", [], "a list, expected tensors by their names"),
    ],
)
def test_an_entry_that_lies_is_refused(name, value, found, lie):
    path = lie(lambda contents: contents.update({name: value}))
    assert f"lie.pt: its {name} is {found}" in refusal(path)


def put(name, change):
    def apply(contents):
        contents["model"][name] = change(contents["model"][name])

    return apply


def fill(number):
    def change(tensor):
        tensor.view(-1)[-1] = number
        return tensor

    return change


HEAD, VARIANCE = "net.head.weight", "net.down4.1.1.running_var"
COUNT = "net.down4.1.1.num_batches_tracked"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (
            put("centers", lambda centers: centers.T.contiguous()),
            r"its centers are a tensor \(2, 313",
        ),
        (
            put("centers", lambda centers: centers[:, :1].clone()),
            r"its centers are a tensor \(313, 1",
        ),
        (put("centers", lambda centers: centers[:0].clone()), r"its centers are a tensor \(0, 2\)"),
        (put("centers", lambda centers: torch.zeros(5000, 2)), r"expected 1 to 4096 pairs"),
        (put("centers", lambda centers: centers.tolist()), "its centers are a list"),
        (
            put("centers", lambda centers: centers.long()),
            r"centers is a tensor \(313, 2\) of .*int64",
        ),
        (put("centers", lambda centers: 2 * centers), "pairs from -128 to 128"),
        (put("centers", fill(NAN)), "pairs from -128 to 128"),
        (put(HEAD, fill(NAN)), "its net.head.weight holds NaN or infinity"),
        (put(HEAD, fill(float("inf"))), "its net.head.weight holds NaN or infinity"),
        (put(HEAD, torch.Tensor.double), r"net.head.weight is a tensor .* of torch.float64"),
        (
            put(HEAD, lambda weight: weight[:5].clone()),
            r"net.head.weight is a tensor \(5, 16, 1, 1\)",
        ),
        (put(HEAD, lambda weight: 1.0), r"net.head.weight is 1.0, expected a tensor"),
        (put(VARIANCE, fill(-1.0)), "running_var holds -1, expected numbers from 0"),
        (put(VARIANCE, fill(NAN)), "running_var holds NaN"),
        (put(COUNT, lambda count: count - 9), "num_batches_tracked holds -9"),
        (put(COUNT, torch.Tensor.float), "num_batches_tracked is a tensor () of torch.float32"),
        (lambda contents: contents["model"].pop(HEAD), "it lacks 'net.head.weight'"),
        (lambda contents: contents["model"].update({"x" * 10**5: 1}), "it has 'x{39};"),
        (lambda contents: contents["model"].update({5: 1}), "it has 5;"),
        (lambda contents: contents.update(width=16), "its tensors do not fit its network"),
        (lambda contents: contents.update(width=0), "width must be at least 1, got 0"),
        (lambda contents: contents.update(net="zhang"), "its tensors do not fit its network"),
        (lambda contents: contents.pop("model"), "lacks model"),
        (lambda contents: contents.update(prior=2 * contents["prior"]), "with the sum 1"),
    ],
)
def test_tensors_that_lie_are_refused(change, found, lie):
    found = found.replace("()", r"\(\)")
    assert re.search(found, refusal(lie(change)))


def test_the_version_of_a_state_counts_for_nothing(small, tmp_path):
    contents = torch.load(small, weights_only=True)
    contents["model"] = OrderedDict(contents["model"])
    contents["model"]._metadata = 4
    torch.save(contents, path := tmp_path / "odd.pt")
    expected = load_colorizer(small)[0].state_dict()
    assert all(torch.equal(a, expected[k]) for k, a in load_colorizer(path)[0].state_dict().items())


@pytest.mark.parametrize("spoil", [{"temperature": NAN}, {"size": 20_000}, {"width": 10**9}])
@pytest.mark.parametrize("command", [generate, export, app])
def test_every_command_says_one_sentence_and_fails(
    command, spoil, lie, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(app, "listen", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: True)  # Gradio need not be there
    path = lie(lambda contents: contents.update(spoil))
    more = {generate: ["--images", tmp_path, "--out", tmp_path / "out"]}
    more |= {export: ["--out", tmp_path / "a.pt"], app: []}
    assert exit_status(command.main, "--checkpoint", path, *more[command]) == 1
    error = capsys.readouterr().err.removesuffix("\n")
    reason_of(error, f"{command.__name__}.py: error: {path}: its ")


def test_what_the_project_wrote_is_read_as_it_is(small):
    contents, read = torch.load(small, weights_only=True), read_checkpoint(small)
    assert contents.keys() == read.keys()
    assert type(read["model"]) is type(contents["model"])
    check_tensors(read["model"], contents["model"])


def test_shorten_is_short_for_any_value():
    nested = ()
    for _ in range(60):
        nested = (nested, nested)
    for value in ("a" * 10**6, 10**1000, nested, {"a": nested}, torch.zeros(10**5)):
        assert len(shorten(value)) < 60
