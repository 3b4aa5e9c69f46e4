"""Work shared among processes."""

import os
import signal

import pytest

from common.workers import run_in_processes


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


def test_run_in_processes_of_no_jobs_ends():
    assert list(run_in_processes(count_up, [], 2)) == []
