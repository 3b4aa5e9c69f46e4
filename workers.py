"""Work shared among processes that never outlive the command that started them."""

import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import connection
from queue import Empty
from typing import Any

Task = Callable[[Any, Callable[[int], None]], None]  # a job, and whom to tell of each step done


def end_with_parent() -> None:
    """End this process when its parent is gone, however that ended."""
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def work(task: Task, jobs: multiprocessing.Queue, results: multiprocessing.Queue) -> None:
    """Take jobs from a queue until it gives None, in a process of its own."""

    def end(*_: Any) -> None:
        results.cancel_join_thread()
        sys.unraisablehook = lambda *_: os._exit(1)  # where Python would ignore the next line
        sys.exit(1)  # what is half written is removed on the way out

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us:
    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        for job in iter(jobs.get, None):
            task(job, results.put)
        results.put(None)
    except Exception as error:
        results.put(error)
    finally:  # what comes after is multiprocessing's own, which an exception would lead out of
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def share(task: Task, jobs: list[Any], workers: int) -> Iterator[int]:
    """Do jobs in processes; yield the numbers of steps done, as the task tells them.

    Args:
        task: called as task(job, progress) in some process; under spawn it is pickled.
        jobs: none may be None.
        workers: number of processes.

    Raises:
        Exception: what a task raised; the other processes are ended.
        ChildProcessError: a process was killed.
    """
    # forked where that is safe, whatever Python's default: what the task holds is then shared
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    queue, results = context.Queue(), context.Queue()
    for job in jobs + [None] * workers:
        queue.put(job)
    processes = [context.Process(target=work, args=(task, queue, results)) for _ in range(workers)]
    gc.freeze()  # or collecting garbage would write to all that is shared, and so copy it
    try:
        for process in processes:
            process.start()
        running = workers
        while running:
            try:
                result = results.get(timeout=1)
            except Empty:
                if any(process.exitcode for process in processes):
                    raise ChildProcessError(
                        "a worker process was killed, perhaps for want of memory; what is "
                        "finished is kept: type it again with fewer --workers, without --overwrite"
                    ) from None
                continue
            if isinstance(result, Exception):
                raise result
            if result is None:
                running -= 1
            else:
                yield result
    finally:
        gc.unfreeze()
        queue.cancel_join_thread()
        for process in processes:
            process.terminate()
            process.join()
