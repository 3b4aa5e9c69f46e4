"""Share jobs among worker processes, which end whenever the command ends."""

import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import connection
from typing import Any

Task = Callable[[Any, Callable[[int], None]], None]  # of a job, and a callback for steps done
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
    threading.Thread(target=end_with_parent, daemon=True).start()


def run_job(job: Any) -> None:
    """Run the task on a job, in a worker process."""
    run_task(job)


def run_in_processes(task: Task, jobs: list[Any], workers: int) -> Iterator[int]:
    """Call task(job, progress=...) for each job in some process; yield the steps that it reports.

    An exception of a task ends all processes and is raised here, ChildProcessError if a process
    was killed. Under spawn, the task is pickled.
    """
    # fork where it is safe, whatever Python's default: processes then share the task's memory
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    steps, done = context.SimpleQueue(), set[Future]()
    gc.freeze()  # else collecting garbage would write to shared memory, and so copy it
    pool = ProcessPoolExecutor(workers or 1, context, start_worker, (task, steps))
    try:
        running = {pool.submit(run_job, job) for job in jobs}
        while running:
            done, running = wait(running, PAUSE, FIRST_COMPLETED)
            while not steps.empty():
                yield steps.get()
            for future in done:
                future.result()
    except BrokenProcessPool:
        raise ChildProcessError(
            "a worker process was killed, perhaps because memory ran out; finished shards are "
            "kept: run the command again with fewer --workers, without --overwrite"
        ) from None
    finally:
        gc.unfreeze()
        for process in multiprocessing.active_children():
            process.terminate()
        pool.shutdown(cancel_futures=True)
