"""Every command and every Python block of README.md, run on little data."""

import hashlib
import http.server
import io
import os
import re
import shlex
import subprocess
import sys
import tarfile
import threading
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from skimage.data import astronaut

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.S)
COMMANDS = re.findall(r"^    ((?:python|torchrun) .*)$", README, flags=re.M)
SERVES = "python app.py"  # until it is ended: tests/test_app.py runs it
SCRIPTS = (
    "create_dataset.py",
    "dataset.py",
    "train.py",
    "generate.py",
    "export.py",
    "compare_losses.py",
)
SET_UP = {  # what `make` does too, but for the last
    "python3 -m venv .venv",
    ".venv/bin/pip install -r requirements.txt",
    "source .venv/bin/activate",
    "pip install -r requirements-app.txt",
    ".venv/bin/pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu",
}
SMALLER = {  # a pattern, and what it becomes on this machine, in this time
    r"(--nnodes.*train\.py.*)": r"\1 --out runs/nodes",  # the run of one machine is there already
    r"--minutes \S+": "--steps 2",
    r"(train\.py(?!.*--(steps|resume)).*)": r"\1 --steps 2",
    r"(compare_losses\.py.*)": r"\1 --datasets flowers --ways plain --seeds 0 --steps 2",
    r"--nnodes \d+": "--nnodes 1",
    r"--nproc-per-node \d+": "--nproc-per-node 2",
    r"--batch-size \d+": "--batch-size 8",
    r"HOST:29400": "127.0.0.1:0",
    r"/shared/pictures": "~/shared/pictures",
    r"^torchrun ": "python -m torch.distributed.run ",
}


def script_of(command: str) -> str:
    """Return the script that a command runs."""
    return next(Path(word).name for word in shlex.split(command) if word.endswith(".py"))


def shrink(command: str) -> str:
    """Return a command with less work."""
    for pattern, smaller in SMALLER.items():
        command = re.sub(pattern, smaller, command)
    return command


# ---- what a user has ---------------------------------------------------------------------------
def jpegs(n: int) -> list[bytes]:
    """Return n crops of the astronaut, each another."""
    found = []
    for i in range(n):
        buffer = io.BytesIO()
        Image.fromarray(astronaut()[i : i + 178, 2 * i : 2 * i + 178]).save(buffer, "JPEG")
        found.append(buffer.getvalue())
    return found


def write_celeba(root: Path) -> None:
    """Write CelebA's two files, with sixty faces."""
    root.mkdir(parents=True)
    names = [f"{i + 1:06d}.jpg" for i in range(60)]
    with zipfile.ZipFile(root / "img_align_celeba.zip", "w") as file:
        for name, jpeg in zip(names, jpegs(60), strict=True):
            file.writestr(f"img_align_celeba/{name}", jpeg)
    lines = [f"{name} {(0, 0, 0, 1, 2)[i % 5]}" for i, name in enumerate(names)]
    (root / "list_eval_partition.txt").write_text("\n".join(lines))


def write_flowers(root: Path) -> dict[str, str]:
    """Write Oxford's two files, with thirty flowers; return their checksums."""
    root.mkdir(parents=True)
    with tarfile.open(root / "102flowers.tgz", "w:gz") as file:
        for i, jpeg in enumerate(jpegs(30)):
            member = tarfile.TarInfo(f"jpg/image_{i + 1:05d}.jpg")
            member.size = len(jpeg)
            file.addfile(member, io.BytesIO(jpeg))
    parts = np.array_split(np.arange(1, 31), [5, 10])
    savemat(root / "setid.mat", dict(zip(("trnid", "valid", "tstid"), parts, strict=True)))
    names = ("102flowers.tgz", "setid.mat")
    return {name: hashlib.md5((root / name).read_bytes()).hexdigest() for name in names}


def write_photos(folder: Path, n: int) -> None:
    """Write n JPEGs."""
    folder.mkdir(parents=True)
    for i, jpeg in enumerate(jpegs(n)):
        (folder / f"{i}.jpg").write_bytes(jpeg)


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
    for path in (*ROOT.glob("*.py"), ROOT / "checkpoints", ROOT / "benchmarks"):
        (work / path.name).symlink_to(path)
    checksums = write_flowers(home / "oxford")
    serve = partial(http.server.SimpleHTTPRequestHandler, directory=home / "oxford")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (home / "sitecustomize.py").write_text(  # what Python imports before a script
            "import sys\n"
            "if '--download' in sys.orig_argv:\n"
            f"    sys.path.insert(0, {str(ROOT)!r})\n"
            "    import download\n"
            f"    download.FLOWERS_PAGE = 'http://127.0.0.1:{server.server_port}/'\n"
            f"    download.FLOWERS_MD5 = {checksums!r}\n"
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
def test_every_command_of_the_readme_is_one_that_is_run():
    targets = re.findall(r"^(\S+):", (ROOT / "Makefile").read_text(), flags=re.M)
    for line in re.findall(r"^    (\S.*)$", README, flags=re.M):
        if line.startswith("make "):
            assert line.removeprefix("make ") in targets
        elif re.match(r"(python\d?|torchrun|pip|source|\.venv/\S+) ", line):
            assert line in COMMANDS or line in SET_UP
    assert len(COMMANDS) >= 20
    assert {script_of(command) for command in COMMANDS} >= set(SCRIPTS)


def test_the_tree_of_the_readme_lists_every_file():
    tree = README.partition("Read in this order:")[2].partition("A photograph's Lab")[0]
    listed = re.findall(r"^    (\S+)  ", tree, flags=re.M)
    assert len(listed) == len(set(listed))
    assert {path.name for path in ROOT.glob("*.py")} <= set(listed)
    assert [name for name in listed if not (ROOT / name).exists()] == []


@pytest.mark.slow
def test_every_command_of_the_readme_runs(home):
    commands = dict.fromkeys(command for command in COMMANDS if command != SERVES)
    ordered = sorted(commands, key=lambda c: SCRIPTS.index(script_of(c)))
    failed = []
    for command in ordered:
        done = run(shrink(command), home)
        if done.returncode:
            failed.append(f"{shrink(command)}\n{done.stdout[-500:]}{done.stderr[-1500:]}")
    assert not failed, "\n\n".join(failed)


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS)
def test_every_python_block_of_the_readme_colours_a_photograph(block, home):
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
