import errno
import os
import tempfile
from pathlib import Path

import pytest
from running import CODE, start_script

from colorizer import read_checkpoint
from common import files
from common.command_line import explain
from common.files import LOCK, check_space, locked, read_whole, temporary_folder, write_whole
from shards.plan import read_plan
from training.start import find_run


def test_write_whole_keeps_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "a.h5"
    path.write_bytes(b"old")

    def write(temporary):
        temporary.write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, write)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


FILES = {  # a name; what reads the file
    "any": read_whole,
    "best.pt": read_checkpoint,
    "cache.json": lambda path: read_plan(path.parent),
    "config.json": lambda path: find_run(path.parent, resume=True),
}


@pytest.mark.parametrize("name", FILES)
def test_a_disk_that_fails_is_no_damage(name, tmp_path):
    memory = Path("/proc/self/mem")  # opens, but its first byte cannot be read
    if not memory.exists():
        pytest.skip("no file here that cannot be read")
    path = tmp_path / name
    path.symlink_to(memory)
    with pytest.raises(OSError, match="Input/output error") as error:
        FILES[name](path)
    assert error.value.errno == errno.EIO
    assert explain(error.value).startswith(f"{path}: input/output error; the file may be whole")


def test_check_space_refuses_what_does_not_fit(tmp_path):
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    check_space(tmp_path / "not" / "made", 10**6)
    with pytest.raises(OSError, match=r"made: \S+ MB are needed, \S+ MB are free; .*--cache"):
        check_space(tmp_path / "not" / "made", 2 * free + 10**9)


def test_locked_refuses_a_second_and_ends_with_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PATIENCE", 0.1)
    folder = tmp_path / "cache"
    hold = (
        "import sys, time, pathlib\nfrom common import files\n"
        "with files.locked(pathlib.Path(sys.argv[1]), 1, 3):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    with start_script(CODE, hold, folder) as holder:
        assert holder.stdout.readline() == "held\n"
        for rank, world_size in ((1, 3), (0, 1), (0, 2)):
            with (
                pytest.raises(BlockingIOError, match="cache: another process"),
                locked(folder, rank, world_size),
            ):
                pass
        with locked(folder, 0, 3):  # of the same number of ranks
            pass
        holder.kill()
        holder.wait()
        with locked(folder, 0, 1):  # the lock of a killed process is gone with it
            pass


# ---- temporary folders -------------------------------------------------------------------------
def test_a_temporary_folder_deletes_those_whose_lock_nobody_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    for name in ("ours-abandoned", "ours-unlocked", "other-abandoned"):
        (tmp_path / name).mkdir()
        if name.endswith("abandoned"):
            (tmp_path / name / LOCK).touch()
    (tmp_path / "ours-link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / LOCK).touch()
    kept = {"ours-unlocked", "other-abandoned", "elsewhere", "ours-link"}
    with temporary_folder("ours-") as first:
        assert {path.name for path in tmp_path.iterdir()} == {*kept, first.name}
        with temporary_folder("ours-") as second:
            assert first.exists()
            assert second != first
        assert not second.exists()
        (first / "a").mkdir()
    assert {path.name for path in tmp_path.iterdir()} == kept
