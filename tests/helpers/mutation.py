"""Files damaged as disks, transfers and attackers do it."""

import resource
import signal
import sys
from contextlib import contextmanager
from random import Random

import pytest

SECONDS, MEMORY = 2, 2**30  # that one input may take
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1)


@contextmanager
def at_most(seconds):
    """Stop what takes longer, in seconds of the processor: the machine may be busy."""
    signal.signal(signal.SIGPROF, lambda *_: pytest.fail(f"more than {seconds} s"))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def most_memory():
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def mutate(random, data, other):
    """Damage bytes in one to four places, as disks, transfers and attackers do."""
    for _ in range(random.choice((1, 1, 2, 4))):
        n = random.choice((1, 2, 4, 16, 256))
        at = random.randrange(min(len(data), random.choice((64, 1024, 2**20))) + 1)  # oft headers
        at = len(data) - at if random.random() < 0.2 else at
        part, rest = data[at : at + n], data[at + n :]
        flipped = bytes(byte ^ 1 << random.randrange(8) for byte in part[:1]) + part[1:]
        order = random.choice(("little", "big"))
        number = (random.choice(EXTREMES) % 256**n).to_bytes(n, order)
        noise, splice = random.randbytes(n), other[random.randrange(len(other)) :]
        new = random.choice((flipped, number, bytes(n), b"\xff" * n, noise, b"", part + part))
        data = data[:at] + new + random.choice((*5 * [rest], b"", splice))
    return data


def some_at_first(some, all_of_them):
    """Return the numbers of mutations: some for the fast tests, the rest for the slow ones."""
    rest = range(some, all_of_them)
    return [range(some), pytest.param(rest, marks=pytest.mark.slow)]


def hurt(take, sources, numbers, pack=lambda random, data: data):
    """Hand mutated sources to a function; return what went wrong, with the first number of each."""
    wrong = {}
    for number in numbers:
        random = Random(f"{take.__name__} {number}")
        data = pack(random, mutate(random, *random.choices(sources, k=2)))
        before = most_memory()
        try:
            with at_most(SECONDS):
                take(data)
        except (Exception, pytest.fail.Exception) as error:
            wrong.setdefault(repr(error).split("\\n")[0], number)
        if most_memory() - before > MEMORY:
            wrong.setdefault(f"more than {MEMORY} bytes", number)
    return wrong


def reason_of(error, start=""):
    """Return an error's text: one line, which says something and begins as ours do."""
    reason = str(error)
    assert reason.splitlines() == [reason], f"not one line: {reason!r}"
    assert reason.startswith(start), f"no sentence of ours: {error!r}"
    assert not reason.endswith(": "), f"no reason: {reason!r}"
    return reason
