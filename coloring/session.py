"""What the page in the browser calls: a visitor's photographs, looked at once, coloured again.

Each visitor has a folder; nothing here knows the page. Shapes: h and w blocks, Q bins.
"""

import contextlib
import os
import shutil
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from coloring.enlarge import fit_along_L
from coloring.photo import draw_field, draw_uncertainty, paint, predict_logits
from colorizer import Colorizer
from common.command_line import explain
from common.plots import plot_distribution
from common.processes import lacks_memory
from photo_files.opening import PhotoError, open_photo, read_bytes
from photo_files.writing import output_name, read_metadata, write_photo
from quantize import Decoding, decode

MOST_PHOTOS = 20  # of a visitor, at a time
MOST_MEGABYTES = 50  # of a file; what is far larger is refused while it comes, without a word
MOST_PIXELS = 50_000_000  # of a photograph
SHOWN_QUALITY = 92  # of the JPEGs on the page; what is downloaded has its own format
MAKING = threading.Lock()
ANSWERS = 3  # of a kind, that are kept: the browser may still fetch the one before


# ---- photographs -------------------------------------------------------------------------------
@dataclass(frozen=True)
class Upload:
    """A visitor's photograph, and what the network said when it looked at it."""

    folder: Path  # of all its files
    name: str
    size: tuple[int, int]  # width, height
    L: Tensor  # (1, 1, h, w), each block's mean
    logits: Tensor  # (1, Q, h, w)

    @property
    def original(self) -> Path:
        """The file as it was uploaded."""
        return self.folder / "original"

    @property
    def before(self) -> Path:
        """The photograph as the page shows it."""
        return self.folder / "before.jpg"

    @property
    def uncertainty(self) -> Path:
        """Where the network is not sure, drawn."""
        return self.folder / "uncertainty.png"

    def open(self) -> Image.Image:
        """Decode the photograph."""
        return open_photo(read_bytes(self.original), most=MOST_PIXELS)


@torch.inference_mode()
def predict(colorizer: Colorizer, path: Path, working_size: int, folder: Path) -> Upload:
    """Show a photograph to the network, and write to a folder what does not change after.

    Raises:
        PhotoError: it is none, or too large.
    """
    if (size := path.stat().st_size) > MOST_MEGABYTES * 10**6:
        raise PhotoError(f"{size / 1e6:.0f} MB; at most {MOST_MEGABYTES}")
    image = open_photo(read_bytes(path), most=MOST_PIXELS)
    photo = Upload(folder, path.name, image.size, *predict_logits(colorizer, image, working_size))
    folder.mkdir()
    shutil.copyfile(path, photo.original)
    image.save(photo.before, quality=SHOWN_QUALITY)
    draw_uncertainty(photo.logits, image.size).save(photo.uncertainty)
    return photo


@torch.inference_mode()
def color(photo: Upload, centers: Tensor, decoding: Decoding, sample: int) -> Image.Image:
    """Colour a photograph at its own size; sample 0 is without chance, N generate.py's NAME-N."""
    noise = draw_field(centers, *photo.L.shape[-2:], 0, sample - 1) if sample else 0
    image = photo.open()
    paint(image, fit_along_L(photo.L, decode(photo.logits + noise, centers, decoding)))
    return image


def write_colored(photo: Upload, colored: Image.Image, folder: Path) -> Path:
    """Write a coloured photograph as generate.py does: its own name, format and EXIF."""
    path = folder / output_name(photo.name)
    write_photo(colored, path, read_metadata(read_bytes(photo.original)))
    return path


def block_at(photo: Upload, place: tuple[int, int]) -> tuple[int, int]:
    """Return the row and column of the block where a photograph was clicked, at x and y pixels."""
    blocks = reversed(photo.L.shape[-2:])
    column, row = (
        min(n - 1, n * at // side) for at, side, n in zip(place, photo.size, blocks, strict=True)
    )
    return row, column


def make_answer(folder: Path, kind: str) -> Path:
    """Make a folder for an answer; of its kind the newest few are kept."""
    with MAKING:  # a visitor may ask twice at a time
        earlier = sorted(folder.glob(f"{kind}-*"), key=lambda path: path.stat().st_mtime_ns)
        for path in earlier[: -ANSWERS + 1]:
            shutil.rmtree(path)
        return Path(tempfile.mkdtemp(dir=folder, prefix=f"{kind}-"))


@contextlib.contextmanager
def as_sentence(kind: type[Exception]) -> Iterator[None]:
    """Turn what went wrong with a photograph into an error of a kind, with a sentence."""
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
    """What the page's parts call; each visitor's photographs travel with the call.

    Args:
        colorizer: the network.
        info: all else that its checkpoint holds.
        root: folder for the files of all visitors.
    """

    def __init__(self, colorizer: Colorizer, info: dict[str, Any], root: Path):
        self.colorizer, self.info, self.root = colorizer, info, root

    def receive(self, paths: list[str]) -> tuple[list[Upload], list[str]]:
        """Look at uploaded files; return what are photographs, and a sentence for each other."""
        visitor, photos, faults = Path(tempfile.mkdtemp(dir=self.root)), [], []
        for i, path in enumerate(map(Path, paths[:MOST_PHOTOS])):
            try:
                with as_sentence(PhotoError):
                    folder = visitor / str(i)
                    photos.append(predict(self.colorizer, path, self.info["size"], folder))
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

    def show(self, photo: Upload, temperature: float, top_k: int, sample: int) -> tuple[Path, Path]:
        """Colour a photograph; write it as the page shows it, and as it is downloaded."""
        folder = make_answer(photo.folder, "colored")
        colored = color(photo, self.colorizer.centers, Decoding(temperature, top_k), sample)
        for path in (photo.before, photo.uncertainty):
            os.utime(path)  # Gradio deletes what is old
        (folder / "shown").mkdir()
        colored.save(after := folder / "shown" / "after.jpg", quality=SHOWN_QUALITY)
        return after, write_colored(photo, colored, folder)

    def explain(self, photo: Upload, place: tuple[int, int]) -> Path:
        """Draw the distribution over the ab plane where a photograph was clicked."""
        row, column = block_at(photo, place)
        path = make_answer(photo.folder, "place") / "distribution.png"
        probs = photo.logits[0, :, row, column].softmax(0)
        plot_distribution(path, probs, float(photo.L[0, 0, row, column]))
        return path

    def write_all(self, photos: list[Upload], temperature: float, top_k: int, sample: int) -> Path:
        """Colour all photographs of a visitor into one zip."""
        folder = make_answer(photos[0].folder.parent, "all")
        with zipfile.ZipFile(folder / "colored.zip", "w") as file:
            for i, photo in enumerate(photos, start=1):  # two photographs may have one name
                colored = color(photo, self.colorizer.centers, Decoding(temperature, top_k), sample)
                path = write_colored(photo, colored, folder / str(i))
                file.write(path, f"{i}-{path.name}")
                path.unlink()
        return folder / "colored.zip"
