"""Killed, interrupted, crowded, out of space: create_dataset.py never loses work."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from pictures import make_patches
from running import CODE, Forks, children, finish, run_script, start_script, wait_until

import create_dataset
from dataset import Cache

SMALL_SHARDS = """
import sys
import numpy as np
import create_dataset
from common.command_line import run_command

create_dataset.lab_table = lambda: np.load(table, mmap_mode="r")
create_dataset.plot_colors = lambda path, *_: path.write_bytes(b"plot")
create_dataset.SHARD_PHOTOS = 16


def command():
    global table
    table = sys.argv.pop(1)
    run_command(create_dataset.main, "run the same command again")
"""


@pytest.fixture(scope="module")
def scans(table, tmp_path_factory):
    """Write 330 pictures that take some seconds to decode, and beside them the table of colors."""
    folder = tmp_path_factory.mktemp("originals") / "scans"
    folder.mkdir()
    np.save(folder.parent / "table.npy", table)
    generator = np.random.default_rng(0)
    for i in range(330):
        make_patches((700, 500), generator).save(folder / f"{i:03d}.png", compress_level=1)
    return folder


def typed(scans, caches, *more):
    return ["--dataset", "folder", "--root", scans, "--cache", caches, "--size", "32", *more]


def start(scans, caches, *more, **environment):
    """Start the command on those pictures, with 21 shards of at most 16 of them."""
    table = scans.parent / "table.npy"
    code = f"{SMALL_SHARDS}\ncommand()"
    return start_script(CODE, code, table, *typed(scans, caches, *more), **environment)


@pytest.fixture
def create_here(create, scans, monkeypatch, capsys):
    """Give tests `create_here(caches, *more)`: the exit status and what was said, likewise."""
    monkeypatch.setattr(create_dataset, "SHARD_PHOTOS", 16)

    def run(caches, *more):
        return create(*typed(scans, caches, *more)), "".join(capsys.readouterr())

    return run


def end(process):
    """Wait for a command; return its exit status and what it said."""
    done = finish(process)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def undisturbed(scans, tmp_path_factory):
    """Make the cache without a disturbance."""
    caches = tmp_path_factory.mktemp("caches")
    status, said = end(start(scans, caches))
    assert status == 0, said
    return caches / "scans-32"


def content(folder):
    """Return the bytes of all that a cache consists of."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != "."}


def shards(folder):
    """Return each finished shard with what would change if it were made again."""
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.glob("*.h5")}


def wait_for_shards(folder, number, process):
    """Wait until so many shards are made."""
    wait_until(lambda: len(shards(folder)) >= number, process)


# ---- killed ------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def forks(scans):
    """Start the command again and again from one process."""
    with Forks(SMALL_SHARDS, scans.parent / "said.txt") as forks:
        yield forks


def kill_and_go_on(forks, scans, caches, delays):
    """Kill the command after each delay in seconds from its first new shard, then let it finish.

    Returns:
        The number of shards that were finished when it was killed the last time.
    """
    folder, made = caches / "scans-32", {}
    for delay in delays:
        forks.start(scans.parent / "table.npy", *typed(scans, caches))
        while len(shards(folder)) <= len(made) and forks.runs():
            time.sleep(0.005)
        time.sleep(delay)
        os.kill(forks.pid, signal.SIGKILL)
        assert forks.end() == -signal.SIGKILL
        after = shards(folder)
        assert after.items() >= made.items()  # none was made twice
        made = after
    status, said = end(start(scans, caches))
    assert status == 0, said
    assert shards(folder).items() >= made.items()
    return len(made)


def test_a_killed_command_goes_on(forks, scans, undisturbed, tmp_path):
    assert 1 <= kill_and_go_on(forks, scans, tmp_path, [0.08]) < 21
    assert content(tmp_path / "scans-32") == content(undisturbed)


@pytest.mark.slow
def test_a_command_killed_at_10_random_moments_goes_on(forks, scans, undisturbed, tmp_path):
    generator = random.Random(1)
    for repeat in range(2):
        caches = tmp_path / str(repeat)
        kill_and_go_on(forks, scans, caches, [generator.uniform(0, 0.08) for _ in range(5)])
        assert content(caches / "scans-32") == content(undisturbed)


@pytest.mark.slow
def test_a_command_killed_before_its_first_shard_goes_on(scans, undisturbed, tmp_path):
    generator = random.Random(2)
    for _ in range(5):
        process = start(scans, tmp_path)
        time.sleep(generator.uniform(0.2, 3))
        process.kill()
        process.communicate()
    assert end(start(scans, tmp_path))[0] == 0
    assert content(tmp_path / "scans-32") == content(undisturbed)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc")
def test_workers_end_with_a_killed_parent(scans, tmp_path):
    process = start(scans, tmp_path, "--workers", "2")
    wait_for_shards(tmp_path / "scans-32", 1, process)
    workers = children(process)
    assert len(workers) == 2
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("name", ["SIGINT", pytest.param("SIGTERM", marks=pytest.mark.slow)])
def test_ctrl_c_ends_with_one_line_that_says_how_to_go_on(scans, undisturbed, tmp_path, name):
    process = start(scans, tmp_path)
    wait_for_shards(tmp_path / "scans-32", 2, process)
    began = time.monotonic()
    process.send_signal(getattr(signal, name))
    status, said = end(process)
    seconds = time.monotonic() - began
    assert status == 130
    assert said.strip().splitlines()[-1].endswith("interrupted; run the same command again")
    assert "Traceback" not in said
    assert seconds < 5  # one where the machine is not shared
    assert not list((tmp_path / "scans-32").glob("*.tmp"))
    assert end(start(scans, tmp_path))[0] == 0
    assert content(tmp_path / "scans-32") == content(undisturbed)


# ---- several at once ---------------------------------------------------------------------------
def stop_a_second_command(create_here, scans, caches, **environment):
    """Hold a command while it makes shards, try another beside it, and let the first end."""
    first = start(scans, caches, "--workers", "1", **environment)
    wait_for_shards(caches / "scans-32", 1, first)
    first.send_signal(signal.SIGSTOP)
    status, said = create_here(caches, "--overwrite")
    first.send_signal(signal.SIGCONT)
    assert status == 1
    assert "scans-32: another process is writing here; wait until it is done" in said
    assert end(first)[0] == 0


def test_a_second_command_says_so_and_stops(create_here, scans, undisturbed, tmp_path):
    stop_a_second_command(create_here, scans, tmp_path)
    assert content(tmp_path / "scans-32") == content(undisturbed)


@pytest.mark.parametrize("world_size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_any_number_of_ranks_makes_the_same_cache(scans, undisturbed, tmp_path, world_size):
    ranks = [
        start(scans, tmp_path, "--workers", "1", RANK=str(rank), WORLD_SIZE=str(world_size))
        for rank in range(world_size)
    ]
    said = [end(rank) for rank in ranks]
    assert [status for status, _ in said] == [0] * world_size
    assert content(tmp_path / "scans-32") == content(undisturbed)
    Cache(tmp_path / "scans-32")


@pytest.mark.slow
def test_ranks_and_a_plain_command_exclude_each_other(create_here, scans, tmp_path):
    stop_a_second_command(create_here, scans, tmp_path, RANK="1", WORLD_SIZE="2")


def test_a_rank_makes_its_own_shards_alone(create_here, undisturbed, tmp_path, monkeypatch):
    folder = tmp_path / "scans-32"
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    status, said = create_here(tmp_path)
    assert status == 0
    total = len(shards(undisturbed))
    made = shards(folder)
    assert len(made) == total // 3
    assert f"rank 1 of 3 has made its shards; others have {total - len(made)} left" in said
    with pytest.raises(ValueError, match="not finished"):
        Cache(folder)
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    status, said = create_here(tmp_path)  # one process makes what the others did not
    assert status == 0
    assert "photos" in said
    assert shards(folder).items() >= made.items()
    assert content(folder) == content(undisturbed)


@pytest.mark.slow
def test_torchrun_starts_the_ranks(scans, undisturbed, tmp_path):
    done = run_script("create_dataset.py", *typed(scans, tmp_path), processes=2)
    assert done.returncode == 0, done.stderr
    assert "commonest bins" in done.stdout
    cache = Cache(tmp_path / "scans-32")
    assert len(cache.split("train")) == len(Cache(undisturbed).split("train"))


@pytest.mark.parametrize(
    ("rank", "world_size"), [("2", "2"), ("0", "0"), ("-1", "2"), ("x", "2"), ("1", None)]
)
def test_ranks_that_do_not_fit_are_refused(create_here, tmp_path, monkeypatch, rank, world_size):
    monkeypatch.setenv("RANK", rank)
    if world_size:
        monkeypatch.setenv("WORLD_SIZE", world_size)
    status, said = create_here(tmp_path)
    assert status == 1
    assert "expected RANK below WORLD_SIZE" in said


def test_ranks_refuse_to_overwrite(create_here, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    status, said = create_here(tmp_path, "--overwrite")
    assert status == 2
    assert "--overwrite is for one process" in said


# ---- disks -------------------------------------------------------------------------------------
def test_space_is_checked_before_starting(create_here, mount):
    disk = mount(500)  # the cache takes 1.1 MB
    status, said = create_here(disk)
    assert status == 1
    assert "scans-32: 1 MB are needed" in said
    assert shards(disk / "scans-32") == {}


def test_a_disk_that_fills_keeps_finished_shards(create_here, undisturbed, mount, monkeypatch):
    disk = mount(700)
    with monkeypatch.context() as patch:  # another program fills the disk
        patch.setattr(create_dataset, "check_space", lambda *_: None)
        status, said = create_here(disk)
    assert status == 1
    assert "no space left on the disk; finished files are kept" in said
    made = shards(disk / "scans-32")
    assert 3 <= len(made) < len(shards(undisturbed))
    assert not list((disk / "scans-32").glob("*.h5.tmp"))
    subprocess.run(["mount", "-o", "remount,size=9000k", disk], check=True)
    status, said = create_here(disk)
    assert status == 0, said
    assert shards(disk / "scans-32").items() >= made.items()
    assert content(disk / "scans-32") == content(undisturbed)


def test_a_read_only_folder_is_one_sentence(create_here, mount):
    disk = mount(9000)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    status, said = create_here(disk)
    assert status == 1
    assert "read-only file system; choose a folder that you may use" in said
