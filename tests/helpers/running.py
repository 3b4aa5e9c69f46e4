"""The project's commands, run in processes of their own or in pytest's."""

import os
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
