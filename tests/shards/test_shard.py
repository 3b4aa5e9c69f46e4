import errno
import json
import mmap
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from running import CODE, start_script
from small_cache import Q, S, make_plan, random_arrays, write_cache

from common.command_line import explain
from shards.shard import FORMAT, USER_BLOCK, Shard, photo_bytes, shard_path, write_shard


@pytest.fixture
def folder(tmp_path):
    return write_cache(tmp_path / "small-16")


def test_write_shard_comes_back(tmp_path):
    arrays, path = random_arrays(7, seed=1), tmp_path / "train-00000.h5"
    plan = make_plan()
    marks = {key: getattr(plan, key) for key in ("size", "palette", "digest")}
    write_shard(path, arrays, {**marks, "split": "train", "index": 0, "counts": np.arange(Q)})
    shard = Shard(path, plan)
    assert len(shard) == 7
    for name, array in arrays.items():
        found = getattr(shard, name)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)
    np.testing.assert_array_equal(shard.attributes["counts"], np.arange(Q))
    assert shard.attributes["format"] == FORMAT


def test_write_shard_comes_back_empty(tmp_path):
    arrays, plan = random_arrays(0, seed=0), make_plan()
    arrays["names"] = np.empty(0, "S1")
    marks = {key: getattr(plan, key) for key in ("size", "palette", "digest")}
    write_shard(tmp_path / "test-00000.h5", arrays, {**marks, "split": "test", "index": 0})
    shard = Shard(tmp_path / "test-00000.h5", plan)
    assert len(shard) == 0
    assert shard.ab.shape == (0, 2, S, S)


def test_write_shard_is_contiguous_and_mapped(folder):
    path = shard_path(folder, "train", 0)
    with h5py.File(path) as file:
        for name in ("L", "ab", "bins"):
            assert file[name].chunks is None
            assert file[name].compression is None
            assert file[name].id.get_offset() is not None
    shard = Shard(path, make_plan())
    for array in (shard.L, shard.ab, shard.bins):
        assert np.shares_memory(array, np.frombuffer(shard.map, np.uint8))


def test_write_shard_gives_the_same_bytes_again(tmp_path):
    first, second = write_cache(tmp_path / "a"), write_cache(tmp_path / "b")
    names = sorted(path.name for path in first.iterdir())
    assert len(names) == 6
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()


# ---- damage ------------------------------------------------------------------------------------
def open_and_verify(path):
    """Open a shard and compare all of it with its checksums."""
    Shard(path, make_plan()).verify(("L", "ab", "bins"))


def test_user_block_says_what_it_is(folder):
    block = shard_path(folder, "train", 0).read_bytes()[:USER_BLOCK]
    seal = json.loads(block[8:].rstrip(b"\0"))
    assert set(seal["datasets"]) == {"L", "ab", "bins", "names"}  # none was skipped
    assert seal["bytes"] == shard_path(folder, "train", 0).stat().st_size


def test_any_flipped_bit_is_noticed(folder):
    path = shard_path(folder, "train", 1)  # some pictures are skipped in it
    whole = path.read_bytes()
    open_and_verify(path)
    generator = np.random.default_rng(0)
    small = [*range(USER_BLOCK), *generator.integers(USER_BLOCK, len(whole), 1000).tolist()]
    for place in small:
        changed = bytearray(whole)
        changed[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=r"damaged|checksum"):
            open_and_verify(path)


def test_a_cut_anywhere_is_noticed(folder):
    path = shard_path(folder, "train", 1)
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"truncated or damaged .*delete this file"):
            open_and_verify(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match="truncated or damaged"):
        open_and_verify(path)


@pytest.mark.parametrize("name", ["L", "ab", "bins"])
def test_verify_names_the_dataset(folder, name):
    path = shard_path(folder, "val", 0)
    with h5py.File(path) as file:
        offset = file[name].id.get_offset()
    content = bytearray(path.read_bytes())
    content[offset + 5] ^= 4
    path.write_bytes(content)
    shard = Shard(path, make_plan())  # opening does not read the pictures
    with pytest.raises(ValueError, match=rf"\({name} does not have its checksum\)"):
        shard.verify(("L", "ab", "bins"))


def test_a_shard_written_by_another_library_is_refused(folder):
    path = shard_path(folder, "train", 0)
    arrays = random_arrays(3, 0)
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    with pytest.raises(ValueError, match="not a shard's checksums"):
        Shard(path, make_plan())


# ---- systems that hinder -------------------------------------------------------------------------
LOCK = """
import fcntl, sys, time
file = open(sys.argv[1], "rb+")
fcntl.flock(file, fcntl.LOCK_EX)
print("locked", flush=True)
time.sleep(60)
"""


def test_a_shard_that_another_program_has_locked_is_read(folder):
    path = shard_path(folder, "train", 1)
    with start_script(CODE, LOCK, path) as holder:
        assert holder.stdout.readline() == "locked\n"
        try:
            open_and_verify(path)
        finally:
            holder.kill()


def map_nothing(monkeypatch, code):
    """Have the system map no file; memory alone it still gives."""
    real = mmap.mmap

    def refuse(number, *options, **more):
        if number != -1:
            raise OSError(code, os.strerror(code))
        return real(number, *options, **more)

    monkeypatch.setattr(mmap, "mmap", refuse)


@pytest.mark.parametrize("code", [errno.ENODEV, errno.ENOMEM])
def test_a_shard_that_cannot_be_mapped_is_read_into_memory(code, folder, monkeypatch):
    path = shard_path(folder, "train", 1)
    mapped = Shard(path, make_plan())
    map_nothing(monkeypatch, code)
    shard = Shard(path, make_plan())
    for name in ("L", "ab", "bins", "names", "skipped"):
        np.testing.assert_array_equal(getattr(shard, name), getattr(mapped, name))
    for row in range(len(shard)):
        shard.prefetch(row)
    changed = bytearray(path.read_bytes())
    for place in (3, len(changed) - 1):
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=r"truncated or damaged .*delete this file"):
            open_and_verify(path)


def fail_to_open(monkeypatch, code):
    def refuse(path, *_):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(Path, "open", refuse)


HINDRANCES = {  # what fails, with which error; the remedy
    "open, permission": (fail_to_open, errno.EACCES, "change its permissions"),
    "open, too many files": (fail_to_open, errno.EMFILE, "ulimit -n"),
    "open, a stale handle": (fail_to_open, errno.ESTALE, "disk or network"),
    "open, the disk": (fail_to_open, errno.EIO, "disk or network"),
    "map, too many files": (map_nothing, errno.EMFILE, "ulimit -n"),
}


@pytest.mark.parametrize(("fail", "code", "remedy"), HINDRANCES.values(), ids=HINDRANCES)
def test_a_failure_of_the_system_is_no_damage(fail, code, remedy, folder, monkeypatch):
    path = shard_path(folder, "val", 0)
    fail(monkeypatch, code)
    with pytest.raises(OSError, match=os.strerror(code)) as error:
        Shard(path, make_plan())
    said = explain(error.value)
    assert said.startswith(f"{path}: {os.strerror(code).lower()}; ")
    assert remedy in said
    assert "damaged" not in said


def test_photo_bytes_is_what_a_photograph_takes(tmp_path):
    plan = make_plan()
    marks = {key: getattr(plan, key) for key in ("size", "palette", "digest")}
    marks |= {"split": "val", "index": 0}
    sizes = []
    for n in (100, 1100):
        write_shard(tmp_path / "val-00000.h5", random_arrays(n, 0), marks)
        sizes.append((tmp_path / "val-00000.h5").stat().st_size)
    assert photo_bytes(S) <= (sizes[1] - sizes[0]) / 1000 <= photo_bytes(S) + 16  # and a name
