"""What a killed process leaves, and what the next one says of it."""

import contextlib
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from running import CODE, finish, run_script, start_script, wait_until

from common import killed
from common.files import locked
from common.killed import marked, memory_taken

WORK = """
import os, signal, sys, time
from pathlib import Path
from common import files, killed

killed.PAUSE = 0.05
with files.locked(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])):
    exec(sys.argv[4])
"""
TOLD = (
    r"\S*work: a run before this one was killed, begun \d{4}-\d\d-\d\d \d\d:\d\d; "
    r"it had taken \d+\.\d GB of \d+\.\d GB\n"
)


def work(folder, code="pass", rank=0, world_size=1):
    """Run code in a process that has locked a folder."""
    return run_script(CODE, WORK, folder, rank, world_size, code)


def marks(folder):
    return sorted(path.name for path in folder.glob(".*.mark"))


def kill(folder, rank=0, world_size=1):
    """Leave in a folder what a killed process leaves."""
    code = "while not list(Path(sys.argv[1]).glob('.*.mark')): time.sleep(0.01)\n"
    code += "time.sleep(0.1); os.kill(os.getpid(), signal.SIGKILL)"
    assert work(folder, code, rank, world_size).returncode == -signal.SIGKILL


def test_the_next_says_once_that_one_was_killed(tmp_path):
    folder = tmp_path / "work"
    assert work(folder).stderr == ""
    kill(folder)
    assert marks(folder) == [".rank-0-of-1.mark"]
    assert re.fullmatch(TOLD, work(folder).stderr)
    assert work(folder).stderr == ""
    assert marks(folder) == []


@pytest.mark.parametrize(
    ("code", "status"),
    [("1 / 0", 1), ("sys.exit(3)", 3), ("signal.raise_signal(signal.SIGINT)", -signal.SIGINT)],
)
def test_one_that_ends_by_itself_leaves_nothing(code, status, tmp_path):
    assert work(tmp_path / "work", f"time.sleep(0.1)\n{code}").returncode == status
    assert marks(tmp_path / "work") == []


def test_each_rank_has_a_file_and_another_number_of_them_reads_all(tmp_path):
    folder = tmp_path / "work"
    for rank in range(3):
        kill(folder, rank, 3)
    assert len(marks(folder)) == 3
    assert re.fullmatch(TOLD, work(folder, rank=1, world_size=3).stderr)
    assert marks(folder) == [".rank-0-of-3.mark", ".rank-2-of-3.mark"]
    assert re.fullmatch(TOLD * 2, work(folder).stderr)
    assert marks(folder) == []


def test_a_second_process_that_is_refused_leaves_the_file(tmp_path):
    folder = tmp_path / "work"
    holder = start_script(CODE, WORK, folder, 0, 1, "time.sleep(60)")
    wait_until(lambda: marks(folder), holder)
    refused = work(folder, world_size=2)
    assert "another process is writing here" in refused.stderr
    assert "killed" not in refused.stderr
    assert len(marks(folder)) == 1
    holder.kill()
    finish(holder)


def test_an_empty_file_of_a_full_disk_is_told_of(tmp_path, capsys):
    (tmp_path / ".rank-0-of-1.mark").touch()
    with locked(tmp_path):
        pass
    assert capsys.readouterr().err == f"{tmp_path}: a run before this one was killed\n"


def test_a_disk_without_room_stops_nothing(mount):
    disk = mount(64)
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    assert shutil.disk_usage(disk).free == 0
    with marked(disk / ".mark", []):
        time.sleep(0.1)
    assert marks(disk) == []


def test_what_took_most_of_the_memory_is_told_to_take_less(tmp_path, monkeypatch):
    mark = tmp_path / ".mark"
    monkeypatch.setattr(killed, "memory_limit", lambda: 16 * 10**9)
    monkeypatch.setattr(killed, "PAUSE", 0.01)
    for taken, advised in ((1e9, False), (9e9, True)):
        monkeypatch.setattr(killed, "memory_taken", lambda taken=taken: taken)
        with marked(mark, []):
            time.sleep(0.2)
            text = mark.read_text()
        assert text.endswith("GB: give fewer --workers (train.py: a smaller --batch-size, and "
                             "another --out)") == advised  # fmt: skip
        assert f"; it had taken {taken / 1e9:.1f} GB of 16.0 GB" in text


def test_the_most_memory_stays(tmp_path, monkeypatch):
    taken = iter([2e9, 5e9, *[1e9] * 10**6])
    monkeypatch.setattr(killed, "memory_taken", lambda: next(taken))
    monkeypatch.setattr(killed, "PAUSE", 0.001)
    with marked(tmp_path / ".mark", []):
        time.sleep(0.2)
        assert "taken 5.0 GB" in (tmp_path / ".mark").read_text()


GROWING = """
import os, signal
from common.killed import memory_limit, memory_taken

before = memory_taken()
held = b"x" * 10**8
read, write = os.pipe()
if not (child := os.fork()):
    more = b"y" * 5 * 10**7
    os.write(write, b"-")
    signal.pause()
os.read(read, 1)
both = memory_taken()
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
print(memory_taken() - before, both - before, memory_limit())
"""


def test_memory_counts_what_processes_hold_and_share_once():
    alone, both, limit = map(int, run_script(CODE, GROWING).stdout.split())
    assert alone == pytest.approx(1e8, rel=0.1)
    assert both == pytest.approx(1.5e8, rel=0.1)
    assert both < limit


def test_a_system_without_proc_is_told_of_the_time_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))
    assert memory_taken() == 0
    with marked(tmp_path / ".mark", []):
        time.sleep(0.2)
        assert re.fullmatch(r", begun [\d-]+ [\d:]+", (tmp_path / ".mark").read_text())
