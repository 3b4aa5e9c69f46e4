import re
import subprocess
import sys
from pathlib import Path

import pytest

from common.command_line import run_command

ROOT = Path(__file__).parents[1]
SCRIPTS = ("create_dataset.py", "train.py", "generate.py")


def run(script, *options, cwd=ROOT):
    return subprocess.run(
        [sys.executable, ROOT / script, *options], capture_output=True, text=True, cwd=cwd
    )


@pytest.fixture(scope="module")
def helps():
    return {script: run(script, "--help").stdout for script in SCRIPTS}


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_explains_every_option_and_ends_with_examples(script, helps):
    text = helps[script]
    assert text.rstrip().splitlines()[-1].startswith(f"  python {script}")
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
    done = run(script, "--colour", "no")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["create_dataset.py", "--dataset", "celeba"], "expected img_align_celeba.zip"),
        (["train.py"], "make it with create_dataset.py"),
        (["generate.py", "--checkpoint", "nowhere.pt"], "nowhere.pt: no such checkpoint"),
        (["dataset.py", "nowhere"], "nowhere: expected a cache"),
    ],
)
def test_missing_files_are_one_sentence_and_exit_with_1(command, message, tmp_path):
    done = run(*command, cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


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
