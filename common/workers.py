"""Share jobs among worker processes, which end whenever the command ends."""

import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import connection
from typing import Any

Task = Callable[[Any, Callable[[int], None]], None]  # of a job, and a callback for steps done
SIGNALS = (signal.SIGINT, signal.SIGTERM)
PAUSE = 0.1  # seconds between two readings of the steps done
run_task: Callable[[Any], None]  # set in each worker by start_worker: the task, with its callback


def end_with_parent() -> None:
    """End this process when its parent has ended, by whatever cause."""
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def start_worker(task: Task, steps: Any) -> None:
    """Prepare a process for jobs; under fork it shares the task's memory."""
    global run_task
    run_task = partial(task, progress=steps.put)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=end_with_parent, daemon=True).start()


def run_job(job: Any) -> None:
    """Run the task on a job, in a worker process."""
    run_task(job)


def run_in_processes(task: Task, jobs: list[Any], workers: int) -> Iterator[int]:
    """Call task(job, progress=...) for each job in some process; yield the steps that it reports.

    A task's exception ends all processes, as does ChildProcessError where one was killed.
    """
    # fork where it is safe, whatever Python's default: processes then share the task's memory
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    steps = context.SimpleQueue()
    gc.freeze()  # else collecting garbage would write to shared memory, and so copy it
    pool = ProcessPoolExecutor(workers or 1, context, start_worker, (task, steps))
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # a new worker takes none before it is ready
    try:
        running = {pool.submit(run_job, job) for job in jobs}
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
        raise ChildProcessError(
            "a worker process was killed, perhaps because memory ran out; finished shards are "
            "kept: run the command again with fewer --workers, without --overwrite"
        ) from None
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        gc.unfreeze()
        pool.shutdown(cancel_futures=True)
