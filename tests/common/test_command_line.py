"""What the command lines share, as the scripts show it."""

import importlib
import os
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import BytesIO, StringIO, TextIOWrapper
from unittest import mock

import pytest
from running import CODE, ROOT, exit_status, run_script

from common.command_line import run_command

SCRIPTS = ("create_dataset", "train", "generate")


def run(script, *options):
    """Run a script here, 80 columns wide; return its exit status, its output and its errors."""
    main, output = importlib.import_module(script).main, TextIOWrapper(BytesIO(), "utf-8")
    wide = mock.patch.dict(os.environ, COLUMNS="80")
    with wide, redirect_stdout(output), redirect_stderr(StringIO()) as errors:
        status = exit_status(main, *options)
    output.flush()
    return status, output.buffer.getvalue().decode(), errors.getvalue()


@pytest.fixture(scope="module")
def helps():
    return {script: run(script, "--help")[1] for script in SCRIPTS}


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_explains_every_option_and_ends_with_examples(script, helps):
    text = helps[script]
    assert text.rstrip().splitlines()[-1].startswith(f"  python {script}.py")
    options = text.split("options:")[1].split("examples:")[0]
    for line in re.findall(r"^  (--.*)$", options, re.MULTILINE):
        name, _, explained = line.partition("  ")
        assert explained.strip() or re.search(re.escape(name) + r"\n {10,}\S", options), line
    assert "None" not in text


def test_help_of_shared_options_reads_alike(helps):
    shared = {}
    for text in helps.values():
        for name, explained in re.findall(r"^  (--\w+ DIR) +(.*)$", text, re.MULTILINE):
            if name == "--cache DIR":
                shared.setdefault(name, set()).add(explained)
    assert shared == {"--cache DIR": {"folder of all caches (default: cache)"}}


@pytest.mark.parametrize("script", SCRIPTS)
def test_unknown_option_exits_with_2(script):
    needed = ["--dataset", "sample"] if script == "create_dataset" else []
    needed += ["--checkpoint", "a.pt"] if script == "generate" else []
    status, _, errors = run(script, *needed, "--color", "no")
    assert status == 2
    assert errors.splitlines()[-1] == f"{script}.py: error: unrecognized arguments: --color no"


def test_a_process_exits_with_its_status(tmp_path):
    done = run_script("train.py", "--cache", "nowhere", cwd=tmp_path)
    assert done.returncode == 1
    assert re.fullmatch(r"train\.py: error: nowhere: no cache for .*\n", done.stderr)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["create_dataset", "--dataset", "celeba"], "expected img_align_celeba.zip"),
        (["train"], "make one with create_dataset.py"),
        (["generate", "--checkpoint", "nowhere.pt"], "nowhere.pt: no such file"),
        (["dataset", "nowhere"], "nowhere: expected a cache"),
    ],
)
def test_missing_files_are_one_sentence_and_exit_with_1(command, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, errors = run(*command)
    assert status == 1
    assert message in errors
    assert len(errors.strip().splitlines()) == 1


@pytest.mark.parametrize("script", [*SCRIPTS, "dataset", "export"])
def test_help_without_docstrings_says_why(script, monkeypatch):
    monkeypatch.setattr(importlib.import_module(script), "__doc__", None)  # as python -OO does
    status, output, _ = run(script, "--help")
    assert status == 0
    assert "-OO" in output
    assert "options:" in output


CLOSED = """
import sys
from common.command_line import run_command

def main():
    with open(sys.argv[1], "w") as file:
        print("said", "\\udcff")
        print("told", file=sys.stderr)
        file.write(str(file.fileno()))
    if sys.argv[2] == "fails":
        raise ValueError("a fault")

run_command(main)
"""


@pytest.mark.parametrize(
    ("closed", "ends", "status", "out", "err"),
    [
        (">&- 2>&- <&-", "well", 0, "", ""),
        (">&-", "fails", 1, "", "told\n-c: error: a fault\n"),
        ("2>&-", "fails", 1, "said \\udcff\n", ""),
    ],
)
def test_a_command_needs_no_streams(closed, ends, status, out, err, tmp_path):
    written = tmp_path / "file"
    start = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", CLOSED, written, ends]
    done = subprocess.run(start, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (status, out, err)
    assert int(written.read_text()) > 2  # what libraries print to a stream is not in the file


def test_a_command_passes_over_pillows_warnings_and_no_others():
    code = r"""
import warnings
from PIL import Image
from common.command_line import run_command
def main():
    Image.Exif().load(b"II*\0\x08\0\0\0\x05\0")  # promises five tags
    warnings.warn("another's")
run_command(main)
"""
    done = run_script(CODE, code)
    assert (done.returncode, done.stdout) == (0, "")
    assert "another's" in done.stderr
    assert "EXIF" not in done.stderr


def test_full_disk_is_one_sentence(capsys):
    def fill():
        with open("/dev/full", "w") as file:
            file.write("x")

    with pytest.raises(SystemExit) as ended:
        run_command(fill, "never read")
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert "no space left on the disk" in told
    assert len(told.splitlines()) == 1


def test_interrupted_exits_with_130_and_says_how_to_go_on(capsys):
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        run_command(interrupt, "type it again")
    assert ended.value.code == 130
    assert "interrupted; type it again" in capsys.readouterr().err
