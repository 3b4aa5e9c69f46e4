"""Small runs of train.py in this process, and what they leave."""

import json
from functools import partial

import torch
from running import call

import train
from colorizer import read_checkpoint

TINY = ["--width", "8", "--batch-size", "4", "--warmup", "2", "--validate-every", "6"]
EVERY = ["--log-every", "4", "--save-every", "3"]
TIMES = {"/run/seconds", "/run/losses/seconds"}  # of a state

run_train = partial(call, train.main)


def tiny_options(cache_folder, out):
    """Return options of train.py for a tiny run."""
    return ["--cache", cache_folder.parent, "--out", out, "--loss", "plain", *TINY, *EVERY]


def log_of(folder):
    """Return a run's log without its speed."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


def flatten(value, name=""):
    """Yield the leaves of nested dicts and lists with their paths."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in items:
        if isinstance(part, (dict, list, tuple)):
            yield from flatten(part, f"{name}/{key}")
        else:
            yield f"{name}/{key}", part


def compare_runs(whole, other):
    """Check that two runs ended alike to the bit, apart from the time that they took."""
    for name in ("last.pt", "best.pt"):
        one, two = (dict(flatten(read_checkpoint(folder / name))) for folder in (whole, other))
        assert one.keys() == two.keys()
        for key in one.keys() - TIMES:
            tensors = torch.is_tensor(one[key])
            same = torch.equal(one[key], two[key]) if tensors else one[key] == two[key]
            assert same, (name, key)
    assert log_of(whole) == log_of(other)
