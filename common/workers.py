"""Share jobs among worker processes, which end whenever the command ends."""

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import connection
from typing import Any

Task = Callable[[Any, Callable[[int], None]], None]  # of a job, and a callback for steps done
SIGNALS = (signal.SIGINT, signal.SIGTERM)
# how a fault in compiled code ends a process; Windows has not all of them
FAULTS = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE")
CRASHES = {getattr(signal, name) for name in FAULTS if hasattr(signal, name)}
NEEDS = "which need a /dev/shm with space that this command may write to"
FURTHEST = 16  # calls before a crash that are searched for the one to blame
PAUSE = 0.1  # seconds between two readings of the steps done
run_task: Callable[[Any], None]  # set in each worker by start_worker: the task, with its callback


class WorkerCrash(ChildProcessError):
    """A worker process ended by a fault in compiled code."""


def stir_heap() -> None:
    """Take and free memory of many sizes; where the heap is damaged, this ends the process."""
    held = [bytearray(2**power + 24 * i) for power in range(9, 17) for i in range(8)]
    del held[::2]  # every second: what is left lies between free parts
    held.clear()


def first_crash(calls: Sequence[Callable[[], Any]]) -> int | None:
    """Make calls in turn in a process of their own; return which one crashes it, None if none does.

    Their results and errors are lost. The process ends with this one, after the call under way.
    """
    output, done = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the C library's last words
            for call in calls:
                if os.getppid() != parent:
                    break
                with contextlib.suppress(Exception):
                    call()
                gc.collect(0)
                stir_heap()
                os.write(done, b".")
        finally:
            os._exit(0)
    os.close(done)
    with open(output, "rb") as file:
        ended = len(file.read())
    status = os.waitpid(child, 0)[1]
    crashed = os.WIFSIGNALED(status) and os.WTERMSIG(status) in CRASHES
    return ended if crashed else None


def find_crashes(calls: Sequence[Callable[[], Any]]) -> set[int]:
    """Return which of some calls crash a process that makes all of them in turn.

    A call that damages memory may crash a later one. So the call under way at a crash is made
    again, then with the one before it, and so on: the first of those that crash again is to blame.
    If none does, nobody is. Where a system cannot fork, none is found.
    """
    found, start = set(), 0
    while hasattr(os, "fork") and (after := first_crash(calls[start:])) is not None:
        last = start + after
        tried = range(last, max(start, last - FURTHEST) - 1, -1)
        first = next((i for i in tried if first_crash(calls[i : last + 1]) is not None), None)
        found |= {first} - {None}
        start = last + 1 if first is None else first + 1
    return found


def end_with_parent() -> None:
    """End this process when its parent has ended, by whatever cause."""
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def start_worker(task: Task, steps: Any, begin: Any) -> None:
    """Prepare a process for jobs, which `begin`; under fork it shares the task's memory."""
    global run_task
    run_task = partial(task, progress=steps.put)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=end_with_parent, daemon=True).start()
    begin.wait()


def run_job(job: Any) -> None:
    """Run the task on a job, in a worker process."""
    run_task(job)


def run_here(task: Task, jobs: list[Any]) -> Iterator[int]:
    """Do what `run_in_processes` does, in this process."""
    for job in jobs:
        told: list[int] = []
        task(job, progress=told.append)
        yield from told


def run_in_processes(task: Task, jobs: list[Any], workers: int) -> Iterator[int]:
    """Call task(job, progress=...) for each job in some process; yield the steps that it reports.

    A task's exception ends all processes, as do WorkerCrash where a process crashed, and
    ChildProcessError where one was killed. Where the system lets none be started, this one works.
    """
    # fork where it is safe, whatever Python's default: processes then share the task's memory
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    try:
        steps, begin = context.SimpleQueue(), context.Event()
        pool = ProcessPoolExecutor(workers or 1, context, start_worker, (task, steps, begin))
    except (ImportError, OSError) as error:  # of semaphores, which Linux keeps in /dev/shm
        reason = getattr(error, "strerror", None) or error
        print(f"no worker processes, {NEEDS} ({reason}): one process does all", file=sys.stderr)
        yield from run_here(task, jobs)
        return
    children: list[Any] = []
    gc.freeze()  # else collecting garbage would write to shared memory, and so copy it
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # a new worker takes none before it is ready
    try:
        running = {pool.submit(run_job, job) for job in jobs}
        children = multiprocessing.active_children()  # all: none has ended yet
        begin.set()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        while running:
            done, running = wait(running, PAUSE, FIRST_COMPLETED)
            while not steps.empty():
                yield steps.get()
            for future in done:
                future.result()
    except BaseException as error:
        for process in multiprocessing.active_children():
            process.kill()
        if not isinstance(error, BrokenProcessPool):
            raise
        pool.shutdown()  # it waits for the exit codes
        if any(-(child.exitcode or 0) in CRASHES for child in children):
            raise WorkerCrash("a worker process crashed in compiled code") from None
        raise ChildProcessError(
            "a worker process was killed, perhaps because memory ran out; finished shards are "
            "kept: run the command again with fewer --workers, without --overwrite"
        ) from None
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        gc.unfreeze()
        pool.shutdown(cancel_futures=True)
