"""Work shared among processes."""

import ctypes
import errno
import faulthandler
import multiprocessing
import os
import signal
import time
from functools import partial

import pytest

from common.workers import WorkerCrash, find_crashes, first_crash, run_in_processes


def count_up(job, progress):
    """Tell of as many steps as the job says."""
    for step in range(job):
        progress(step)


def fail_at_seven(job, progress):
    if job == 7:
        raise ValueError("seven")
    progress(job)


def die_at_seven(job, progress):
    if job == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    progress(job)


@pytest.mark.parametrize("workers", [1, 3])
def test_run_in_processes_does_every_job_and_tells_of_every_step(workers):
    told = list(run_in_processes(count_up, [1, 4, 2, 3, 5], workers))
    assert sorted(told) == sorted(step for job in (1, 4, 2, 3, 5) for step in range(job))


def test_run_in_processes_works_in_other_processes():
    seen = set(run_in_processes(lambda job, progress: progress(os.getpid()), [1, 2, 3], 1))
    assert len(seen) == 1
    assert os.getpid() not in seen


def test_run_in_processes_raises_what_a_job_raised():
    with pytest.raises(ValueError, match="seven"):
        list(run_in_processes(fail_at_seven, [1, 7, 2], 2))


def test_run_in_processes_says_that_a_process_was_killed():
    with pytest.raises(ChildProcessError, match="killed, perhaps because memory ran out"):
        list(run_in_processes(die_at_seven, [7, 1], 1))


@pytest.mark.parametrize("lacking", ["SimpleQueue", "BoundedSemaphore"])  # ours, the pool's
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.ENOENT])
def test_run_in_processes_works_here_where_there_are_no_semaphores(
    lacking, code, monkeypatch, capsys
):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(multiprocessing.get_context("fork"), lacking, refuse)
    seen = list(run_in_processes(lambda job, progress: progress((job, os.getpid())), [1, 2], 2))
    assert seen == [(1, os.getpid()), (2, os.getpid())]
    said = capsys.readouterr().err
    assert f"/dev/shm with space that this command may write to ({os.strerror(code)})" in said
    assert len(said.splitlines()) == 1
    with pytest.raises(ValueError, match="seven"):
        list(run_in_processes(fail_at_seven, [1, 7, 2], 2))


def test_run_in_processes_of_no_jobs_ends():
    assert list(run_in_processes(count_up, [], 2)) == []


# ---- crashes -----------------------------------------------------------------------------------
def crash(number=signal.SIGSEGV):
    """End this process as a fault in compiled code does; without pytest's report of it."""
    faulthandler.disable()
    os.kill(os.getpid(), number)


def crash_at_seven(job, progress):
    if job == 7:
        crash()
    progress(job)


@pytest.mark.parametrize("workers", [1, 2])
def test_run_in_processes_tells_a_crash_from_a_kill(workers):
    with pytest.raises(WorkerCrash, match="crashed in compiled code"):
        list(run_in_processes(crash_at_seven, [7, 1], workers))


def fail():
    raise ValueError


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
def test_first_crash_tells_which_call_crashes(number):
    assert first_crash([int, fail, lambda: crash(number), crash]) == 2
    assert first_crash([int, fail]) is None
    assert first_crash([killed]) is None  # by another, and for no fault of its own


def test_find_crashes_finds_each_and_leaves_this_process_alone():
    kept = []
    calls = [int, crash, int, crash, crash, lambda: kept.append(1), int]
    assert find_crashes(calls) == {1, 3, 4}
    assert kept == []


def test_find_crashes_blames_the_call_that_made_a_later_one_crash():
    damaged = []  # as a decoder leaves the heap; each process has its own
    calls = [int, lambda: damaged.append(1), int, int, lambda: crash() if damaged else 0, int]
    assert find_crashes(calls) == {1}


def test_first_crash_finds_a_damaged_heap_before_the_next_call():
    def write_past_the_end():
        faulthandler.disable()
        held = [(ctypes.c_char * 5000)() for _ in range(9)]
        ctypes.memset(ctypes.addressof(held[4]) - 64, 255, 5200)

    assert first_crash([int, write_past_the_end, int]) == 1


def test_find_crashes_blames_nobody_for_a_crash_that_does_not_come_again(tmp_path):
    def crash_once():
        if not (tmp_path / "crashed").exists():
            (tmp_path / "crashed").touch()
            crash()

    assert find_crashes([int] * 5 + [crash_once] + [int] * 3) == set()
    assert find_crashes([int, crash_once, crash]) == {2}


def test_first_crash_stays_in_its_process_whatever_a_call_raises():
    def interrupt():
        raise KeyboardInterrupt

    pid = os.getpid()
    assert first_crash([interrupt, crash]) is None
    assert os.getpid() == pid


def test_first_crash_ends_with_the_process_that_searches(tmp_path):
    def note(name):
        (tmp_path / name).touch()
        time.sleep(0.2)

    searcher = os.fork()
    if searcher == 0:
        first_crash([partial(note, str(i)) for i in range(50)])
        os._exit(0)
    while not (tmp_path / "0").exists():
        time.sleep(0.01)
    os.kill(searcher, signal.SIGKILL)
    os.waitpid(searcher, 0)
    time.sleep(1)
    assert len(list(tmp_path.iterdir())) <= 3


@pytest.mark.parametrize(("jobs", "workers"), [(600, 16), (16, 16), (2, 2)])
def test_a_crash_at_once_is_no_kill(jobs, workers):
    with pytest.raises(WorkerCrash):
        list(run_in_processes(lambda job, progress: crash(), list(range(jobs)), workers))
