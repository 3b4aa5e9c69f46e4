"""README.md, CONTRIBUTING.md and docs/: every command and Python block is run, on little data."""

import http.server
import os
import re
import shlex
import subprocess
import sys
import threading
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from made_films import write_film
from pictures import jpegs, write_celeba, write_flowers, write_photos
from PIL import Image
from skimage.data import astronaut

ROOT = Path(__file__).parent.parent
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").glob("*.md")),
    )
}
TEXT = "\n".join(PAGES.values())
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, flags=re.M | re.S)
COMMANDS = list(dict.fromkeys(re.findall(r"^    ((?:python|torchrun) .*)$", TEXT, flags=re.M)))
SCRIPTS = (
    "create_dataset.py",
    "dataset.py",
    "train.py",
    "generate.py",
    "export.py",
    "compare_losses.py",
)  # in the order in which they are run
SET_UP = {  # what `make` does too, but for the last
    "python3 -m venv .venv",
    ".venv/bin/pip install -r requirements.txt",
    "source .venv/bin/activate",
    "pip install -r requirements-app.txt",
    "pip install -r requirements-film.txt",
    ".venv/bin/pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu",
}
SMALLER = {  # a pattern, and what it becomes on this machine, in this time
    r"(--nnodes.*train\.py.*)": r"\1 --out runs/nodes",  # the run of one machine is there already
    r"--minutes \S+": "--steps 2",
    r"(train\.py(?!.*--(steps|resume)).*)": r"\1 --steps 2",
    r"(compare_losses\.py.*)": r"\1 --datasets flowers --ways plain --seeds 0 --steps 2",
    r"--start \S+ --end \S+": "--start 0.2 --end 0.6",
    r"--nnodes \d+": "--nnodes 1",
    r"--nproc-per-node \d+": "--nproc-per-node 2",
    r"--batch-size \d+": "--batch-size 8",
    r"(train\.py.* --init .*)": r"\1 --batch-size 8",
    r"HOST:29400": "127.0.0.1:0",
    r"/shared/pictures": "~/shared/pictures",
    r"^torchrun ": "python -m torch.distributed.run ",
}


PACKAGES = [  # folders at the top that hold modules, but for tests and scripts
    folder
    for folder in sorted({path.parent for path in ROOT.glob("*/*.py")})
    if folder.name not in ("tests", "benchmarks") and not folder.name.startswith(".")
]


def script_of(command: str) -> str:
    """Return the script that a command runs."""
    return next(word for word in shlex.split(command) if word.endswith(".py"))


def place(command: str) -> int:
    """Return a command's place in SCRIPTS, or -1: of the page, and of benchmarks of speed.

    These are run by tests/test_app.py and tests/test_benchmarks.py.
    """
    name = Path(script_of(command)).name
    return SCRIPTS.index(name) if name in SCRIPTS else -1


def shrink(command: str) -> str:
    """Return a command with less work."""
    for pattern, smaller in SMALLER.items():
        command = re.sub(pattern, smaller, command)
    return command


# ---- what a user has ---------------------------------------------------------------------------
@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Make a home with photographs, data sets and the project, and a server in Oxford's place."""
    home = tmp_path_factory.mktemp("home")
    work = home / "work"
    write_celeba(home / "downloads" / "celeba")
    write_photos(home / "Pictures", 60)
    write_photos(home / "shared" / "pictures", 60)
    write_photos(work / "old_photos", 2)
    (work / "scans" / "1950").mkdir(parents=True)
    Image.fromarray(astronaut()[:90, :70]).save(work / "scans" / "1950" / "wedding.tif")
    with zipfile.ZipFile(work / "album.zip", "w") as file:
        file.writestr("1950/wedding.jpg", jpegs(1)[0])
    Image.fromarray(astronaut()).convert("L").save(work / "gray.jpg")
    Image.fromarray(astronaut()).save(work / "summer.jpg")
    write_film(work / "film.mp4")
    for path in (*ROOT.glob("*.py"), *PACKAGES, ROOT / "checkpoints", ROOT / "benchmarks"):
        (work / path.name).symlink_to(path)
    checksums = write_flowers(home / "oxford")
    serve = partial(http.server.SimpleHTTPRequestHandler, directory=home / "oxford")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (home / "sitecustomize.py").write_text(  # what Python imports before a script
            "import sys\n"
            "if '--download' in sys.orig_argv:\n"
            f"    sys.path.insert(0, {str(ROOT)!r})\n"
            "    from shards import originals\n"
            f"    originals.FLOWERS_PAGE = 'http://127.0.0.1:{server.server_port}/'\n"
            f"    originals.FLOWERS_MD5 = {checksums!r}\n"
        )
        yield home
        server.shutdown()


def run(command: str, home: Path) -> subprocess.CompletedProcess:
    """Run a command as typed in the project's folder, by this Python."""
    environment = {
        **os.environ,
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(home),
        "OMP_NUM_THREADS": "1",
    }
    shell = ["bash", "-c", command]
    options = {"capture_output": True, "text": True, "timeout": 300}
    return subprocess.run(shell, cwd=home / "work", env=environment, **options)


# ---- tests -------------------------------------------------------------------------------------
def test_every_command_of_the_pages_is_one_that_is_run():
    targets = re.findall(r"^(\S+):", (ROOT / "Makefile").read_text(), flags=re.M)
    for line in re.findall(r"^ {4,}(\S.*)$", TEXT, flags=re.M):
        if line.startswith("make "):
            assert line.removeprefix("make ") in targets
        elif re.match(r"(python\d?|torchrun|pip|source|\.venv/\S+) ", line):
            assert f"\n    {line}\n" in TEXT
            assert line in COMMANDS or line in SET_UP
    assert TEXT.count("```") == 2 * len(BLOCKS)  # all but Python is indented
    assert len(COMMANDS) >= 20
    assert {place(command) for command in COMMANDS} >= set(range(len(SCRIPTS)))
    for script in map(script_of, COMMANDS):
        assert (ROOT / script).exists()
        assert Path(script).name in SCRIPTS or script == "app.py" or "benchmarks/" in script


def test_the_readme_can_be_read_in_one_sitting():
    assert len(PAGES["README.md"].splitlines()) <= 230


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/")])
def test_a_page_begins_with_a_command(page):
    title, blank, first = PAGES[page].splitlines()[:3]
    assert title.startswith("# ")
    assert not blank
    assert first.removeprefix("    ") in COMMANDS


def test_the_tree_of_the_readme_lists_every_file_package_and_module():
    tree = PAGES["README.md"].partition("Read the files in this order:\n\n")[2].partition("\n\n")[0]
    lines = [re.fullmatch(r"    (\S+)  +(\S.*)", line).groups() for line in tree.splitlines()]
    listed = dict(lines)
    assert len(listed) == len(lines)
    assert [name for name in listed if not (ROOT / name).exists()] == []
    assert {path.name for path in ROOT.glob("*.py")} <= set(listed)
    assert {f"{package.name}/" for package in PACKAGES} <= set(listed)
    for package in PACKAGES:
        modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
        named = listed[f"{package.name}/"].partition(": ")[2].split(", ")
        assert sorted(named) == sorted(modules), package.name


def anchors(text: str) -> set[str]:
    """Return the names by which the headings of a page are linked to, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_what_is_there(page):
    links = re.findall(r'\]\(([^)\s]+)\)|src="([^"]+)"', PAGES[page])
    for link in (link or source for link, source in links):
        if not link.startswith(("http://", "https://")):
            file, _, heading = link.partition("#")
            path = (ROOT / page).parent / file if file else ROOT / page
            assert path.exists(), link
            assert not heading or heading in anchors(path.read_text()), link


@pytest.mark.parametrize("page", PAGES)
def test_scripts_and_modules_that_a_page_names_are_there(page):
    named = re.findall(r"`((?:\w+/)*\w+\.py)`", PAGES[page])
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_page_is_linked_from_the_readme():
    links = set(re.findall(r"\]\(([^)\s]+)\)", PAGES["README.md"]))
    assert PAGES.keys() - {"README.md"} <= links


@pytest.mark.slow
def test_every_command_of_the_pages_runs(home):
    ordered = sorted((command for command in COMMANDS if place(command) >= 0), key=place)
    failed = []
    for command in dict.fromkeys(map(shrink, ordered)):
        done = run(command, home)
        if done.returncode:
            failed.append(f"{command}\n{done.stdout[-500:]}{done.stderr[-1500:]}")
    assert not failed, "\n\n".join(failed)


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS)
def test_every_python_block_of_the_pages_colors_a_photograph(block, home):
    if "onnxruntime" in block:
        pytest.importorskip("onnxruntime")
    work = home / "work"
    (work / "colored.png").unlink(missing_ok=True)
    if "onnxruntime" in block and not (work / "celeba-64.onnx").exists():
        export = next(command for command in COMMANDS if command.endswith("celeba-64.onnx"))
        done = run(export, home)
        assert done.returncode == 0, done.stderr
    (work / "block.py").write_text(block)
    done = run("python block.py", home)
    assert done.returncode == 0, done.stderr
    colored = np.asarray(Image.open(work / "colored.png")).astype(int)
    assert colored.shape == astronaut().shape
    assert np.abs(colored[..., 0] - colored[..., 2]).mean() > 3  # not gray
