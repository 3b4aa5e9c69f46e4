import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from common.threads import map_ahead, one_thread_each


@pytest.fixture
def threads():
    usual = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(usual)


@pytest.mark.usefixtures("threads")
def test_one_thread_each_gives_torch_its_threads_back():
    with one_thread_each():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
    with pytest.raises(KeyError), one_thread_each():
        raise KeyError
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("most", [1, 3, 100])
def test_map_ahead_keeps_the_order(most):
    def slow(i):
        time.sleep(0.01 * (i % 3 == 0))
        return i * i

    with ThreadPoolExecutor(4) as pool:
        assert list(map_ahead(pool, slow, range(20), most)) == [i * i for i in range(20)]
        assert list(map_ahead(pool, slow, [], most)) == []


def test_map_ahead_works_in_several_threads_at_once():
    meet = threading.Barrier(3, timeout=5)
    with ThreadPoolExecutor(3) as pool:
        assert len(list(map_ahead(pool, lambda _: meet.wait(), range(3), 3))) == 3


@pytest.mark.parametrize("most", [1, 2, 5])
def test_map_ahead_takes_no_more_items_than_may_wait(most):
    taken = []

    def items():
        for i in range(20):
            taken.append(i)
            yield i

    with ThreadPoolExecutor(2) as pool:
        for i in map_ahead(pool, lambda i: i, items(), most):
            assert len(taken) == min(20, i + most)


def test_map_ahead_raises_what_a_thread_raised_in_its_turn():
    def fail(i):
        return 1 / (2 - i)

    found = []
    with ThreadPoolExecutor(2) as pool:
        results = map_ahead(pool, fail, range(5), 4)
        found += [next(results), next(results)]
        with pytest.raises(ZeroDivisionError):
            next(results)
    assert found == [0.5, 1.0]
