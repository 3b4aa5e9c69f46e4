"""The project's commands, run in processes of their own or in pytest's."""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from common.command_line import run_command

ROOT = Path(__file__).parents[2]
CODE = "-c"  # in place of a script: the first option is Python code


def start_script(
    script: str | Path, *options: Any, processes: int = 0, cwd: Path = ROOT, **environment: str
) -> subprocess.Popen:
    """Start a script, without waiting for it.

    Args:
        script: its path, absolute or below the project's folder; or CODE.
        options: as typed.
        processes: how many torchrun starts; without it, none is started by torchrun.
        cwd: where it is typed.
        environment: variables to set.
    """
    command = [sys.executable]
    if processes:
        command = [Path(sys.executable).with_name("torchrun"), "--nproc-per-node", processes]
        command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]  # any free port
    command += [script if script == CODE else ROOT / script, *options]
    return subprocess.Popen(
        list(map(str, command)),
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen, timeout: float = 200) -> subprocess.CompletedProcess:
    """Wait for a script; return its exit status and what it printed."""
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def run_script(
    script: str | Path, *options: Any, timeout: float = 200, **how: Any
) -> subprocess.CompletedProcess:
    """Run a script as `start_script` starts it, and wait for it."""
    return finish(start_script(script, *options, **how), timeout)


FORKED = """
import json, os, sys
{prelude}
for line in sys.stdin:
    options, said = json.loads(line)
    if not (child := os.fork()):
        with open(said, "wb") as file:
            os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
        sys.argv[1:] = options
        command()  # exits
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Forks:
    """Starts a command again and again by fork, from a process that has imported it once.

    Args:
        prelude: code that imports the command and defines `command()`, which exits.
        said: file for what the command of the moment prints.
    """

    def __init__(self, prelude: str, said: Path):
        self.said, code = said, FORKED.format(prelude=prelude)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        command = [sys.executable, CODE, code]
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)

    def start(self, *options: Any) -> int:
        """Start the command; return its process's id."""
        line = json.dumps([list(map(str, options)), str(self.said)])
        print(line, file=self.process.stdin, flush=True)
        self.pid = int(self.process.stdout.readline())
        return self.pid

    def runs(self) -> bool:
        """Tell whether the command still runs."""
        return not select.select([self.process.stdout], [], [], 0)[0]

    def end(self) -> int:
        """Wait for the command; return its exit status."""
        return int(self.process.stdout.readline())

    def __enter__(self) -> "Forks":
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()


def wait_until(ready: Callable[[], bool], process: subprocess.Popen) -> None:
    """Wait for what a process is to do; fail if it ends before."""
    while not ready():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def children(process: subprocess.Popen) -> list[int]:
    """Return the ids of a process's children."""
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return list(map(int, text.split()))


def call(main: Callable[[], Any], *options: Any) -> Any:
    """Call a script's main in this process, as if its options were typed."""
    with mock.patch.object(sys, "argv", [f"{main.__module__}.py", *map(str, options)]):
        return main()


def exit_status(main: Callable[[], Any], *options: Any) -> int:
    """Run a script's main in this process as its command does; return the exit status."""
    typed = mock.patch.object(sys, "argv", [f"{main.__module__}.py", *map(str, options)])
    with typed, pytest.raises(SystemExit) as ended:
        run_command(main, "")
    return ended.value.code or 0
