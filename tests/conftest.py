"""Pictures and caches that several tests share, all generated."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from colorizer import Colorizer, save_checkpoint
from dataset import Cache
from quantize import lab_table, load_centers

ROOT = Path(__file__).parent.parent
SIDES = [(48, 36), (36, 48), (40, 40), (60, 40)]  # width, height; larger than the caches' 16 px


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


def write_photos(folder: Path, n: int, seed: int = 0) -> list[str]:
    """Write n small, smooth, colourful pictures, PNG and JPEG in turn; return their names."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    names = [f"photo_{i:03d}.{('png', 'jpg')[i % 2]}" for i in range(n)]
    for i, name in enumerate(names):
        patches = Image.fromarray(generator.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        patches.resize(SIDES[i % len(SIDES)]).save(folder / name)
    return names


@pytest.fixture(scope="session")
def make_photos() -> Callable[..., list[str]]:
    """Give tests `make_photos(folder, n, seed=0)`."""
    return write_photos


@pytest.fixture(scope="session")
def table() -> np.ndarray:
    """Make the table of all colours once: it takes seconds."""
    return lab_table()


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write sixty pictures: enough that each split has some. Tests leave them as they are."""
    folder = tmp_path_factory.mktemp("originals") / "holidays"
    write_photos(folder, 60)
    return folder


@pytest.fixture(scope="session")
def cache_folder(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the cache of those pictures at 16 px, as typed. Tests leave it as it is."""
    caches = tmp_path_factory.mktemp("caches")
    options = ["--dataset", "folder", "--root", photo_folder, "--cache", caches, "--size", "16"]
    command = [sys.executable, ROOT / "create_dataset.py", *options, "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return caches / "holidays-16"


def write_checkpoint(path: Path, dataset: str = "none", seed: int = 0) -> Path:
    """Write an untrained network that colours strongly: its last layer is made louder."""
    torch.manual_seed(seed)
    colorizer = Colorizer(load_centers(), "unet", 8)
    colorizer.net.head.weight.data *= 100
    about = {"dataset": dataset, "size": 16, "loss": "plain", "step": 7}
    about |= {**colorizer.options, "temperature": 0.38, "top_k": 313}
    run = {"seconds": 12.5, "moments": torch.arange(6.0).view(2, 3)}  # more than colouring needs
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
