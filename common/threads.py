"""Threads that each take whole pieces of work: photographs, frames."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Item, Result = TypeVar("Item"), TypeVar("Result")


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Let torch compute each piece in one thread: pieces are small, and threads take whole ones."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def map_ahead(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], most: int
) -> Iterator[Result]:
    """Call a function on items in threads; yield the results in order, at most so many ahead."""
    futures: deque[Future] = deque()
    for item in items:
        futures.append(pool.submit(function, item))
        if len(futures) >= most:
            yield futures.popleft().result()
    while futures:
        yield futures.popleft().result()
