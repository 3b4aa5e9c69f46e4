"""Who works next, in an event loop of each test's own."""

import asyncio

import pytest

from page.turns import Replaced, Turns


class Bench:
    """Visitors whose work lasts until `finish` is called; `begun` lists it in order."""

    def __init__(self, at_once=1, most=10):
        self.turns, self.begun = Turns(at_once, most), []
        self.ends, self.tasks = {}, {}

    async def work(self, visitor, kind, name):
        async with self.turns.take(visitor, kind):
            self.begun.append(name)
            self.ends[name] = asyncio.get_running_loop().create_future()
            await self.ends[name]

    async def wish(self, *wishes):
        for visitor, kind, name in wishes:
            self.tasks[name] = asyncio.create_task(self.work(visitor, kind, name))
            await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def finish(self, *names):
        for name in names:
            self.ends[name].set_result(None)
            await asyncio.gather(self.tasks[name])
            await asyncio.sleep(0)


def test_a_newer_wish_replaces_an_older_one_of_its_kind_that_waits():
    async def run():
        bench = Bench()
        await bench.wish(*[("a", "show", i) for i in range(40)], ("b", "show", "b"))
        replaced = [i for i, task in bench.tasks.items() if task.done()]
        assert replaced == list(range(1, 39))
        assert all(isinstance(bench.tasks[i].exception(), Replaced) for i in replaced)
        await bench.finish(0, "b", 39)
        assert bench.begun == [0, "b", 39]
        assert (bench.turns.free, bench.turns.working, bench.turns.waiting) == (1, set(), {})

    asyncio.run(run())


def test_visitors_take_turns_whatever_one_of_them_wishes():
    async def run():
        bench = Bench()
        await bench.wish(*[("a", kind, kind) for kind in ("show", "zip", "click")])
        await bench.wish(("b", "show", "b"))
        await bench.finish("show", "b", "zip", "click")
        assert bench.begun == ["show", "b", "zip", "click"]

    asyncio.run(run())


def test_a_visitor_works_once_at_a_time_and_some_visitors_together():
    async def run():
        bench = Bench(at_once=2)
        await bench.wish(("a", "show", "a1"), ("a", "zip", "a2"), ("b", "show", "b"))
        assert bench.begun == ["a1", "b"]
        await bench.finish("b")
        assert bench.begun == ["a1", "b"]
        await bench.finish("a1")
        assert bench.begun == ["a1", "b", "a2"]

    asyncio.run(run())


def test_too_many_wishes_are_refused_in_a_sentence():
    async def run():
        bench = Bench(most=2)
        await bench.wish(*[(name, "show", name) for name in "abcd"])
        with pytest.raises(ValueError, match="2 colorings wait for their turn; try again"):
            await bench.tasks["d"]
        await bench.wish(("c", "show", "c2"))  # replaces c
        await bench.finish("a", "b", "c2")
        assert bench.begun == ["a", "b", "c2"]
        assert bench.turns.waiting == {}

    asyncio.run(run())


def test_a_wish_that_is_broken_off_holds_up_no_other_of_its_visitor():
    async def run():
        bench = Bench()
        await bench.wish(("b", "show", "b"), ("a", "show", "a1"), ("a", "zip", "a2"))
        bench.tasks["a1"].cancel()
        await bench.finish("b")
        assert bench.begun == ["b", "a2"]
        await bench.finish("a2")

    asyncio.run(run())


@pytest.mark.parametrize("granted", [False, True])
def test_a_wish_that_is_broken_off_keeps_no_turn(granted):
    async def run():
        bench = Bench()
        await bench.wish(("a", "show", "a"), ("b", "show", "b"))
        start = bench.turns.start

        def start_and_break_off():
            start()
            bench.tasks["b"].cancel()

        if granted:
            bench.turns.start = start_and_break_off
        else:
            bench.tasks["b"].cancel()
        await bench.finish("a")
        bench.turns.start = start
        await bench.wish(("c", "show", "c"))
        assert bench.begun == ["a", "c"]
        await bench.finish("c")
        assert (bench.turns.free, bench.turns.working) == (1, set())

    asyncio.run(run())
