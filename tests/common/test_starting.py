"""Ctrl-C before a command's main runs, and the end of torchrun."""

import signal
import time
from pathlib import Path

import pytest
from running import CODE, exit_status, finish, run_script, start_script, wait_until

from common.starting import prepare

SCRIPTS = ("create_dataset", "train", "generate", "export", "app", "dataset")
NEEDED = {
    "create_dataset": ["--dataset", "sample"],
    "export": ["--checkpoint", "a.pt", "--out", "b.pt"],
    "dataset": ["nowhere"],
}


@pytest.fixture
def handlers():
    """Put back how this process takes signals."""
    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    yield
    for name, handler in before.items():
        signal.signal(name, handler)


def signal_in_imports(script, name, delay, folder):
    """Start a script; send it a signal so many seconds after it began to import torch."""
    process = start_script(f"{script}.py", *NEEDED.get(script, []), cwd=folder)
    maps = Path(f"/proc/{process.pid}/maps")
    wait_until(lambda: "libtorch" in maps.read_text(), process)
    time.sleep(delay)
    process.send_signal(name)
    return finish(process)


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_import_says_nothing(name, tmp_path):
    done = signal_in_imports("train", name, 0, tmp_path)
    assert done.returncode == -name
    assert done.stdout + done.stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_no_script_has_a_traceback_where_it_is_interrupted(script, tmp_path):
    statuses = []
    for delay in (0, 0.2, 0.8):
        done = signal_in_imports(script, signal.SIGINT, delay, tmp_path)
        assert "Traceback" not in done.stderr
        assert len(done.stderr.strip().splitlines()) <= 1
        statuses.append(done.returncode)
    assert statuses[0] == -signal.SIGINT


def test_scripts_that_are_imported_leave_signals_alone():
    code = f"import signal, {', '.join(SCRIPTS)}; print(signal.getsignal(signal.SIGINT).__name__)"
    assert run_script(CODE, code).stdout == "default_int_handler\n"


def test_prepare_leaves_an_ignored_signal_ignored(handlers):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup and & in a script do
    prepare()
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_run_command_takes_over_from_prepare(handlers, capsys):
    def main():
        signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    prepare()
    assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    assert exit_status(main) == 130
    assert "interrupted" in capsys.readouterr().err


DEAF = """
import signal, time
from common import starting

starting.PAUSE, starting.GRACE = 0.1, 0.5
starting.prepare()
signal.signal(signal.SIGTERM, lambda *_: print("asked", flush=True))
print("ready", flush=True)
time.sleep(60)
print("not ended", flush=True)
"""


def test_a_process_ends_with_torchrun_though_it_does_not_hear():
    agent = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    with start_script(CODE, agent, DEAF, TORCHELASTIC_RUN_ID="none") as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.3)  # it lives as long as its parent
        began = time.monotonic()
        process.kill()
        assert process.communicate(timeout=30)[0] == "asked\n"  # the process has closed it
        assert time.monotonic() - began < 10
