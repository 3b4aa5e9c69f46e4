"""Plans of caches: how a cache is found, and what is refused."""

import json
import os
import re

import h5py
import pytest
from small_cache import make_plan, write_cache, write_small_shard

from dataset import (
    Cache,
)
from shards.plan import find_cache, write_plan
from shards.shard import FORMAT, shard_path


@pytest.fixture
def folder(tmp_path):
    return write_cache(tmp_path / "small-16")


# ---- refusals ----------------------------------------------------------------------------------
def change_plan(**changes):
    def change(folder):
        plan = json.loads((folder / "cache.json").read_text())
        (folder / "cache.json").write_text(json.dumps({**plan, **changes}))

    return change


def write_text(text):
    return lambda folder: (folder / "cache.json").write_text(text)


def cut(length):
    def change(folder):
        path = shard_path(folder, "train", 1)
        path.write_bytes(path.read_bytes()[:length])

    return change


def change_shard(**attributes):
    def change(folder):
        plan = make_plan()
        write_small_shard(folder, "train", 1, plan, **attributes)

    return change


def drop_dataset(folder):
    with h5py.File(shard_path(folder, "train", 1), "r+") as file:
        del file["ab"]


def drop_keys(folder):
    (folder / "cache.json").write_text(
        json.dumps({k: getattr(make_plan(), k) for k in ("format", "palette")})
    )


MAKE_AGAIN, ONCE_MORE = "create_dataset.py --overwrite", "run the create_dataset.py command"


PLAN, SHARD = "cache.json", "train-00001.h5"


REFUSALS = {  # what is done to the cache; the file named, the fault, the remedy
    "no plan": (lambda f: (f / PLAN).unlink(), "small-16", "found none", "create_dataset.py"),
    "broken plan": (write_text('{"format": 1'), PLAN, "damaged", MAKE_AGAIN),
    "empty plan": (write_text(""), PLAN, "damaged", MAKE_AGAIN),
    "plan of something else": (write_text("[1, 2]"), PLAN, "damaged", MAKE_AGAIN),
    "plan without keys": (drop_keys, PLAN, "damaged", MAKE_AGAIN),
    "format": (change_plan(format=99), PLAN, f"expected format {FORMAT}, found 99", MAKE_AGAIN),
    "palette": (change_plan(palette="0123abcd"), PLAN, "palette .*found 0123abcd", MAKE_AGAIN),
    "plan changed by hand": (change_plan(name="x"), PLAN, "damaged", MAKE_AGAIN),
    "unfinished": (change_plan(complete=False), "small-16", "not finished", ONCE_MORE),
    "shard's format": (change_shard(format=99), SHARD, f"format {FORMAT}, found 99", MAKE_AGAIN),
    "shard's palette": (change_shard(palette="x"), SHARD, "palette .*found x", MAKE_AGAIN),
    "shard's size": (change_shard(size=32), SHARD, "expected size 16, found 32", MAKE_AGAIN),
    "shard's split": (change_shard(split="val"), SHARD, "split train, found val", MAKE_AGAIN),
    "shard of another cache": (change_shard(digest="y"), SHARD, "digest .*found y", MAKE_AGAIN),
    "shard without its last byte": (cut(-1), SHARD, "truncated", ONCE_MORE),
    "half a shard": (cut(3000), SHARD, "truncated", ONCE_MORE),
    "empty shard": (cut(0), SHARD, "truncated", ONCE_MORE),
    "shard without ab": (drop_dataset, SHARD, "damaged", ONCE_MORE),
    "no shard": (lambda f: (f / SHARD).unlink(), SHARD, "missing", ONCE_MORE),
}


@pytest.mark.parametrize(("change", "file", "fault", "remedy"), REFUSALS.values(), ids=REFUSALS)
def test_cache_refuses_with_file_and_remedy(folder, change, file, fault, remedy):
    change(folder)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        Cache(folder).split("train")
    message = str(error.value)
    assert "\n" not in message
    assert re.search(f"{re.escape(file)}: .*{fault}", message)
    assert remedy in message


def test_cache_refuses_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone: .*create_dataset\.py"):
        Cache(tmp_path / "gone")


# ---- finding -----------------------------------------------------------------------------------
@pytest.fixture
def caches(tmp_path):
    """Make four caches; the one made last has neither the last name nor the greatest size."""
    for time, (name, size) in enumerate([("a", 64), ("b", 128), ("a", 32), ("b", 16)]):
        folder = tmp_path / f"{name}-{size}"
        folder.mkdir()
        write_plan(folder, make_plan(name=name, size=size))
        os.utime(folder / "cache.json", (1e9 + (time + 2) % 4, 1e9 + (time + 2) % 4))
    return tmp_path  # in the order a-32, b-16, a-64, b-128


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        (None, None, "b-128"),
        ("a", None, "a-64"),
        ("b", None, "b-128"),
        (None, 16, "b-16"),
        ("a", 32, "a-32"),
    ],
)
def test_find_cache_takes_the_one_made_last(caches, name, size, expected):
    assert find_cache(caches, name, size) == caches / expected


@pytest.mark.parametrize(("name", "size"), [("c", None), (None, 20), ("a", 128)])
def test_find_cache_says_which_there_are(caches, name, size):
    with pytest.raises(FileNotFoundError, match=r"create_dataset\.py") as error:
        find_cache(caches, name, size)
    for text in (name, size, "a-32, a-64, b-128, b-16"):
        assert text is None or str(text) in str(error.value)


def test_find_cache_refuses_where_there_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no cache"):
        find_cache(tmp_path, None, None)


def test_find_cache_is_not_stopped_by_another_cache(caches):
    change_plan(format=99)(caches / "b-128")  # made last, by another version
    assert find_cache(caches, "a", None) == caches / "a-64"
