"""Work shared among processes that never outlive the command that started them."""

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

Task = Callable[[Any, Callable[[int], None]], None]  # a job, and whom to tell of steps done
PAUSE = 0.1  # seconds between looks at the steps done
do: Callable[[Any], None]  # in a worker process: its task, which tells the parent of its steps


def end_with_parent() -> None:
    """End this process when its parent is gone, however that ended."""
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def start_worker(task: Task, steps: Any) -> None:
    """Make a process ready for jobs; a task under fork is shared and not copied."""
    global do
    do = partial(task, progress=steps.put)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=end_with_parent, daemon=True).start()


def do_job(job: Any) -> None:
    """Do a job in a worker process."""
    do(job)


def share(task: Task, jobs: list[Any], workers: int) -> Iterator[int]:
    """Do jobs in processes; yield the numbers of steps done, as the task tells them.

    Args:
        task: called as task(job, progress=...) in some process; under spawn it is pickled.
        jobs: what the task is called with.
        workers: number of processes.

    Raises:
        Exception: what a task raised; the other processes are ended.
        ChildProcessError: a process was killed.
    """
    # forked where that is safe, whatever Python's default: what the task holds is then shared
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    steps, done = context.SimpleQueue(), set[Future]()
    gc.freeze()  # or collecting garbage would write to all that is shared, and so copy it
    pool = ProcessPoolExecutor(workers or 1, context, start_worker, (task, steps))
    try:
        running = {pool.submit(do_job, job) for job in jobs}
        while running:
            done, running = wait(running, PAUSE, FIRST_COMPLETED)
            while not steps.empty():
                yield steps.get()
            for future in done:
                future.result()
    except BrokenProcessPool:
        raise ChildProcessError(
            "a worker process was killed, perhaps for want of memory; what is finished is kept: "
            "type it again with fewer --workers, without --overwrite"
        ) from None
    finally:
        gc.unfreeze()
        for process in multiprocessing.active_children():
            process.terminate()
        pool.shutdown(cancel_futures=True)
