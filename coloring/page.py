"""The work behind the page in the browser: predict each photograph once, color it many times.

Each visitor has a folder; nothing here depends on Gradio. Shapes: h and w blocks, Q bins.
"""

import contextlib
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from coloring.enlarge import fit_along_L
from coloring.photo import Coloring, decide_ab, draw_uncertainty, paint, predict_logits
from colorizer import Colorizer
from common.command_line import explain
from common.plots import plot_distribution
from common.processes import lacks_memory
from photo_files.opening import PhotoError, open_photo, read_bytes
from photo_files.writing import output_name, read_metadata, write_photo
from quantize import Decoding

MOST_PHOTOS = 20  # that one visitor may upload at a time
MOST_MEGABYTES = 50  # of a file; Gradio refuses far larger ones during the upload, without a word
MOST_PIXELS = 50_000_000  # of a photograph
SHOWN_QUALITY = 92  # of the JPEGs on the page; downloads have their own format
ANSWERS = 3  # of a kind to keep: the browser may still fetch the one before


# ---- photographs -------------------------------------------------------------------------------
@dataclass(frozen=True)
class Upload:
    """A visitor's photograph, and the network's answer to it."""

    name: str  # of the uploaded file
    folder: Path  # of the files below, and of answers
    original: Path  # a copy: Gradio deletes the uploaded file after a day
    before: Path  # the photograph as the page shows it
    uncertainty: Path  # a drawing of where the network is not sure
    size: tuple[int, int]  # width, height
    L: Tensor  # (1, 1, h, w), each block's mean
    logits: Tensor  # (1, Q, h, w)


@torch.inference_mode()
def predict(colorizer: Colorizer, path: Path, working_size: int, folder: Path) -> Upload:
    """Show a photograph to the network; write to a folder the pictures that never change.

    Raise PhotoError if the file is no photograph or is too large.
    """
    if (size := path.stat().st_size) > MOST_MEGABYTES * 10**6:
        raise PhotoError(f"{size / 1e6:.0f} MB; at most {MOST_MEGABYTES}")
    image = open_photo(read_bytes(path), most=MOST_PIXELS)
    L, logits = predict_logits(colorizer, image, working_size)
    files = [folder / name for name in ("original", "before.jpg", "uncertainty.png")]
    photo = Upload(path.name, folder, *files, image.size, L, logits)
    folder.mkdir()
    shutil.copyfile(path, photo.original)
    image.save(photo.before, quality=SHOWN_QUALITY)
    draw_uncertainty(logits, image.size).save(photo.uncertainty)
    return photo


@torch.inference_mode()
def color(colorizer: Colorizer, photo: Upload, coloring: Coloring, sample: int) -> Image.Image:
    """Color a photograph at its own size; sample 0 is not random, N is generate.py's NAME-N."""
    ab = decide_ab(colorizer, photo.logits, coloring, sample - 1 if sample else None)
    image = open_photo(read_bytes(photo.original), most=MOST_PIXELS)
    paint(image, fit_along_L(photo.L, ab))
    return image


def block_at(photo: Upload, place: tuple[int, int]) -> tuple[int, int]:
    """Return the row and column of the block at a place, x and y in pixels."""
    (h, w), (x, y), (width, height) = photo.L.shape[-2:], place, photo.size
    return min(h - 1, h * y // height), min(w - 1, w * x // width)


def make_answer(folder: Path, kind: str) -> Path:
    """Make a folder for an answer; keep the newest few of its kind."""
    for earlier in sorted(folder.glob(f"{kind}-*"))[: -ANSWERS + 1]:
        shutil.rmtree(earlier, ignore_errors=True)  # another call may delete it too
    answer = folder / f"{kind}-{time.time_ns()}"
    answer.mkdir()
    return answer


@contextlib.contextmanager
def explain_failures(kind: type[Exception]) -> Iterator[None]:
    """Turn a failure into an error of a type, with one sentence as its text."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        raise kind("not enough memory for this photograph; try a smaller one") from error
    except (OSError, ValueError) as error:
        raise kind(explain(error)) from error


# ---- a visitor ---------------------------------------------------------------------------------
class Page:
    """What the page can do. All visitors' files lie below `root`.

    Each call brings its visitor's photographs. `info` is from `load_colorizer`.
    """

    def __init__(self, colorizer: Colorizer, info: dict[str, Any], root: Path):
        self.colorizer, self.info, self.root = colorizer, info, root

    def receive(self, paths: list[str]) -> tuple[list[Upload], list[str]]:
        """Predict uploaded files; return the photographs, and a sentence for each other file."""
        visitor, photos, faults = Path(tempfile.mkdtemp(dir=self.root)), [], []
        for i, path in enumerate(map(Path, paths[:MOST_PHOTOS])):
            try:
                with explain_failures(PhotoError):
                    photo = predict(self.colorizer, path, self.info["size"], visitor / str(i))
                    photos.append(photo)
            except PhotoError as error:
                faults.append(f"{path.name}: {error}")
                shutil.rmtree(visitor / str(i), ignore_errors=True)
        if len(paths) > MOST_PHOTOS:
            faults.append(f"{len(paths)} photographs: the first {MOST_PHOTOS} were taken")
        if not photos:
            visitor.rmdir()
        return photos, faults

    @staticmethod
    def forget(photos: list[Upload]) -> None:
        """Delete a visitor's files."""
        for photo in photos[:1]:
            shutil.rmtree(photo.folder.parent, ignore_errors=True)

    def color(
        self,
        photo: Upload,
        folder: Path,
        vividness: float,
        temperature: float,
        top_k: int,
        sample: int,
    ) -> tuple[Image.Image, Path]:
        """Color a photograph; write it as generate.py does, with its name, format and EXIF."""
        coloring = Coloring(self.info["size"], Decoding(temperature, top_k, vividness))
        path = folder / output_name(photo.name)
        colored = color(self.colorizer, photo, coloring, sample)
        write_photo(colored, path, read_metadata(read_bytes(photo.original)))
        return colored, path

    def show(self, photo: Upload, *settings: float) -> tuple[Path, Path]:
        """Color a photograph with settings of `color`; return its files to show and to download."""
        folder = make_answer(photo.folder, "colored")
        colored, path = self.color(photo, folder, *settings)
        for shown in (photo.before, photo.uncertainty):
            os.utime(shown)  # Gradio deletes what is older than a day
        (folder / "shown").mkdir()
        colored.save(after := folder / "shown" / "after.jpg", quality=SHOWN_QUALITY)
        return after, path

    def explain(self, photo: Upload, place: tuple[int, int]) -> Path:
        """Draw the distribution over the ab plane at a place, x and y in pixels."""
        row, column = block_at(photo, place)
        path = make_answer(photo.folder, "place") / "distribution.png"
        probs = photo.logits[0, :, row, column].softmax(0)
        plot_distribution(path, probs, float(photo.L[0, 0, row, column]))
        return path

    def write_all(self, photos: list[Upload], *settings: float) -> Path:
        """Color all photographs of a visitor, with settings of `color`, into one zip."""
        folder = make_answer(photos[0].folder.parent, "all")
        with zipfile.ZipFile(folder / "colored.zip", "w") as file:
            for i, photo in enumerate(photos, start=1):  # two photographs may have one name
                _, path = self.color(photo, folder / str(i), *settings)
                file.write(path, f"{i}-{path.name}")
                path.unlink()
        return folder / "colored.zip"
