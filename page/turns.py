"""Whose photograph is colored next: visitors take turns, and only the newest wishes wait."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Replaced(Exception):
    """A newer wish of the same visitor and kind replaces this one."""


class Turns:
    """Let some visitors do work at the same time, each one thing, in turn.

    A wish has a visitor and a kind: of wishes that wait, a newer one replaces an older one of its
    visitor and kind. For one event loop.

    Args:
        at_once: number of visitors who work at the same time.
        most: number of wishes that may wait.
    """

    def __init__(self, at_once: int, most: int):
        self.free, self.most = at_once, most
        self.working: set[str] = set()
        self.waiting: dict[str, dict[str, asyncio.Future]] = {}  # by visitor, by kind, oldest first

    @contextlib.asynccontextmanager
    async def take(self, visitor: str, kind: str) -> AsyncIterator[None]:
        """Wait until it is a visitor's turn, and hold it.

        Raise Replaced if a newer wish comes before the turn does, ValueError if too many wait.
        """
        await self.wait(visitor, kind)
        try:
            yield
        finally:
            self.release(visitor)

    async def wait(self, visitor: str, kind: str) -> None:
        """Wait until it is a visitor's turn."""
        kinds = self.waiting.setdefault(visitor, {})
        if older := kinds.pop(kind, None):
            if not older.done():
                older.set_exception(Replaced())
        elif sum(map(len, self.waiting.values())) >= self.most:
            if not kinds:
                del self.waiting[visitor]
            raise ValueError(f"{self.most} colorings wait for their turn; try again in a moment")
        turn = kinds[kind] = asyncio.get_running_loop().create_future()
        self.start()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it came in the same moment
                self.release(visitor)
            raise

    def start(self) -> None:
        """Give free places to visitors who wait and do not work, first come, first served."""
        for visitor, kinds in list(self.waiting.items()):
            while kinds and self.free and visitor not in self.working:
                turn = kinds.pop(next(iter(kinds)))
                if not turn.cancelled():
                    self.free -= 1
                    self.working.add(visitor)
                    turn.set_result(None)
            if not kinds:
                del self.waiting[visitor]

    def release(self, visitor: str) -> None:
        """End a visitor's turn; what this visitor wishes next is behind all others' wishes."""
        self.working.remove(visitor)
        self.free += 1
        if visitor in self.waiting:
            self.waiting[visitor] = self.waiting.pop(visitor)
        self.start()
