"""Pictures and caches that several tests share, all generated."""

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from pictures import write_patches
from PIL import Image
from running import exit_status
from runs import tiny_options

import create_dataset
import train
from colorizer import Colorizer, save_checkpoint
from dataset import Cache
from quantize import SoftEncoder, lab_table, load_centers, load_imagenet_prior

# files to begin first, in this order: otherwise the last of them runs a minute alone
LONGEST = (
    "test_readme.py",
    "test_benchmarks.py",
    "test_train_processes.py",
    "test_create_dataset_interrupted.py",
    "training/test_run.py",
    "test_app.py",
    "training/test_step.py",
    "test_train.py",
    "test_export.py",
    "test_quantize.py",
    "coloring/test_batch.py",
    "common/test_plots.py",
    "scoring/test_score.py",
    "test_train_init.py",
    "common/test_command_line.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first."""
    order = {Path(__file__).parent / name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


@pytest.fixture(scope="session", autouse=True)
def stay_alive() -> Iterator[None]:
    """Fail a test that would end pytest itself, silently and with status 0, by os._exit."""
    leave, ours = os._exit, os.getpid()

    def refuse(status: int) -> None:
        if os.getpid() != ours:  # a forked worker
            leave(status)
        raise AssertionError(f"os._exit({status}) in pytest's own process")

    os._exit = refuse
    yield
    os._exit = leave


@pytest.fixture(autouse=True)
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Save a dot in place of each plot, but in tests marked `draws`: a plot takes a second."""
    if "draws" not in request.keywords:
        dot = Image.new("RGB", (1, 1))
        monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: dot.save(path, "PNG"))


@pytest.fixture(scope="session")
def table() -> np.ndarray:
    """Make the table of all colors once: it takes seconds."""
    return lab_table()


@pytest.fixture(scope="session")
def centers() -> np.ndarray:
    """Return the bins' centers, (Q, 2) float64."""
    return load_centers().double().numpy()


@pytest.fixture
def rng() -> np.random.Generator:
    """Return a generator that is the same for each test."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write sixty pictures: enough that each split has some. Tests leave them as they are."""
    folder = tmp_path_factory.mktemp("originals") / "holidays"
    write_patches(folder, 60)
    return folder


@pytest.fixture(scope="session")
def cache_folder(
    photo_folder: Path, table: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Make the cache of those pictures at 16 px. Tests leave it as it is."""
    caches = tmp_path_factory.mktemp("caches")
    options = ["--dataset", "folder", "--root", photo_folder, "--cache", caches, "--size", "16"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(create_dataset, "lab_table", lambda: table)
        assert exit_status(create_dataset.main, *options, "--workers", "1") == 0
    return caches / "holidays-16"


def write_checkpoint(path: Path, dataset: str = "none", seed: int = 0) -> Path:
    """Write an untrained network that colors strongly: its last layer is made louder."""
    torch.manual_seed(seed)
    colorizer = Colorizer(load_centers(), "unet", 8)
    colorizer.net.head.weight.data *= 100
    about = {"dataset": dataset, "size": 16, "loss": "plain", "step": 7}
    about |= {**colorizer.options, "temperature": 0.38, "top_k": 313}
    about |= {"prior": load_imagenet_prior().float()}
    run = {"seconds": 12.5, "moments": torch.arange(6.0).view(2, 3)}  # more than coloring needs
    save_checkpoint(path, colorizer.state_dict(), **about, run=run)
    return path


@pytest.fixture(scope="session")
def make_checkpoint() -> Callable[..., Path]:
    """Give tests `make_checkpoint(path, dataset="none", seed=0)`."""
    return write_checkpoint


@pytest.fixture
def checkpoint(cache_folder: Path, tmp_path: Path) -> Path:
    """Write a checkpoint that was made for the cache of sixty pictures."""
    return write_checkpoint(tmp_path / "best.pt", Cache(cache_folder).name)


# ---- scripts in this process -------------------------------------------------------------------
@pytest.fixture
def create(monkeypatch: pytest.MonkeyPatch, table: np.ndarray) -> Callable[..., int]:
    """Give tests `create(*options)`: the exit status of create_dataset.py, run here."""
    monkeypatch.setattr(create_dataset, "lab_table", lambda: table)
    monkeypatch.setattr(create_dataset, "plot_colors", lambda path, *_: path.write_bytes(b"plot"))
    return partial(exit_status, create_dataset.main)


@pytest.fixture(scope="session")
def soft_encoder() -> Callable[..., SoftEncoder]:
    """Make each table of soft targets once: it takes half a second."""
    made = {}

    def look_up(centers: torch.Tensor, num_neighbors: int) -> SoftEncoder:
        assert torch.equal(centers, load_centers())
        if num_neighbors not in made:
            made[num_neighbors] = SoftEncoder(centers, num_neighbors)
        return made[num_neighbors]

    return look_up


@pytest.fixture
def options(
    cache_folder: Path,
    tmp_path: Path,
    soft_encoder: Callable[..., SoftEncoder],
    monkeypatch: pytest.MonkeyPatch,
) -> list:
    """Return options of train.py for a tiny run in tmp_path/run, and have it start quickly."""
    monkeypatch.setitem(train.build_run.__globals__, "SoftEncoder", soft_encoder)
    return tiny_options(cache_folder, tmp_path / "run")


@pytest.fixture
def stop_in_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Give tests `stop_in_step(step)`: the next run is asked to stop while it takes that step."""
    step, stop = train.train_step, threading.Event()

    def stopping(at: int | None) -> None:
        def train_step(run):
            if run.step == at:
                stop.set()
            return step(run)

        stop.clear()
        monkeypatch.setattr(train, "train_step", train_step)

    monkeypatch.setattr(train, "catch_signals", lambda: stop)
    return stopping


# ---- disks -------------------------------------------------------------------------------------
@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Give tests `mount(kilobytes)`: a small disk of its own, where one may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount_one(kilobytes: int) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no disk can be mounted here")
        return folder

    yield mount_one
    subprocess.run(["umount", folder], capture_output=True)
