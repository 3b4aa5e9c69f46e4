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

from PIL import Image

from coloring.hints import MOST, Color
from coloring.painting import draw_gray, lay_side_by_side, shrink
from coloring.photo import (
    Coloring,
    Prediction,
    ask,
    color_in_place,
    draw_uncertainty,
    likely_colors,
    predict,
)
from coloring.strokes import block_at, draw_dots, draw_rings, draw_strokes, hints_of_colors
from colorizer import Colorizer
from common.command_line import explain
from common.plots import plot_distribution
from common.processes import lacks_memory
from photo_files import PhotoError
from photo_files.opening import open_photo, read_bytes
from photo_files.writing import output_name, read_metadata, write_photo
from quantize import Decoding

MOST_PHOTOS = 20  # that one visitor may upload at a time
MOST_MEGABYTES = 50  # of a file; Gradio refuses far larger ones during the upload, without a word
MOST_PIXELS = 50_000_000  # of a photograph
SHOWN_QUALITY = 92  # of the JPEGs on the page; downloads have their own format
SHOWN_SIDE = 1024  # pixels, the longer side of the photograph to click on
ANSWERS = 3  # of a kind to keep: the browser may still fetch the one before
QUESTIONS = 3  # rings on a photograph
OFFERED = 6  # likeliest colors of a place
Said = list[tuple[int, Color]]  # the colors that a visitor has said of blocks, in this order


# ---- photographs -------------------------------------------------------------------------------
@dataclass(frozen=True)
class Upload:
    """A visitor's photograph, and the network's answer to it."""

    uploaded: Path  # its folder is named by its content; Gradio deletes it after a day
    folder: Path  # of the files below, and of answers
    original: Path  # a copy of the uploaded file
    before: Path  # the photograph as the page shows it
    uncertainty: Path  # a drawing of where the network is not sure
    plain: Path  # the colored photograph to click on, before rings are drawn on it
    size: tuple[int, int]  # width, height
    prediction: Prediction

    @property
    def name(self) -> str:
        """The name of the uploaded file."""
        return self.uploaded.name

    @property
    def blocks(self) -> tuple[int, int]:
        """The height and width in blocks."""
        return self.prediction.L.shape[-2:]


def prepare(colorizer: Colorizer, path: Path, working_size: int, folder: Path) -> Upload:
    """Show a photograph to the network; write to a folder the pictures that never change.

    Raise PhotoError if the file is no photograph or is too large.
    """
    if (size := path.stat().st_size) > MOST_MEGABYTES * 10**6:
        raise PhotoError(f"{size / 1e6:.0f} MB; at most {MOST_MEGABYTES}")
    image = open_photo(read_bytes(path), most=MOST_PIXELS)
    seen = predict(colorizer, image, working_size)
    names = ("original", "before.jpg", "uncertainty.png", "plain.jpg")
    photo = Upload(path, folder, *(folder / name for name in names), image.size, seen)
    folder.mkdir()
    shutil.copyfile(path, photo.original)
    image.save(photo.before, quality=SHOWN_QUALITY)
    draw_uncertainty(seen, image.size).save(photo.uncertainty)
    return photo


def color(
    colorizer: Colorizer, photo: Upload, said: Said, coloring: Coloring, sample: int
) -> Image.Image:
    """Color a photograph at its own size; sample 0 is not random, N is generate.py's NAME-N."""
    image = open_photo(read_bytes(photo.original), most=MOST_PIXELS)
    drawn, hints = sample - 1 if sample else None, hints_of_colors(dict(said))
    color_in_place(colorizer, image, photo.prediction, coloring, hints, drawn)
    return image


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
                    photo = prepare(self.colorizer, path, self.info["size"], visitor / str(i))
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
        said: Said,
        vividness: float,
        temperature: float,
        top_k: int,
        sample: int,
    ) -> Image.Image:
        """Color a photograph."""
        coloring = Coloring(self.info["size"], Decoding(temperature, top_k, vividness))
        return color(self.colorizer, photo, said, coloring, sample)

    @staticmethod
    def write(photo: Upload, colored: Image.Image, folder: Path) -> Path:
        """Write a colored photograph as generate.py does, with its name, format and EXIF."""
        path = folder / output_name(photo.name)
        write_photo(colored, path, read_metadata(read_bytes(photo.original), colored.size))
        return path

    def show(
        self, photo: Upload, said: Said, place: int | None, *settings: float
    ) -> tuple[Path, Path, Path]:
        """Color a photograph with settings of `color`; `place` is the block that is chosen.

        Returns:
            Its files to show, to click on and to download.
        """
        folder = make_answer(photo.folder, "colored")
        colored = self.color(photo, said, *settings)
        path = self.write(photo, colored, folder)
        for shown in (photo.before, photo.uncertainty):
            os.utime(shown)  # Gradio deletes what is older than a day
        (folder / "shown").mkdir()
        colored.save(after := folder / "shown" / "after.jpg", quality=SHOWN_QUALITY)
        size = [max(1, round(s * SHOWN_SIDE / max(colored.size))) for s in colored.size]
        colored.resize(size, reducing_gap=2).save(photo.plain, quality=SHOWN_QUALITY)
        return after, self.mark(photo, said, place), path

    def compare(self, photo: Upload, said: Said, *settings: float) -> Path:
        """Lay a photograph's lightness and its coloring side by side, with settings of `color`."""
        path = make_answer(photo.folder, "compared") / f"{Path(photo.name).stem}-compare.jpg"
        image = open_photo(read_bytes(photo.original), most=MOST_PIXELS)
        gray = draw_gray(image, columns=2)
        colored = shrink(self.color(photo, said, *settings), columns=2)
        write_photo(lay_side_by_side([gray, colored]), path)
        return path

    def find_block(self, photo: Upload, place: tuple[int, int]) -> int:
        """Return the block at a place of the picture to click on, x and y in its pixels."""
        with Image.open(photo.plain) as shown:
            return block_at(place, shown.size, *photo.blocks)

    def mark(self, photo: Upload, said: Said, place: int | None) -> Path:
        """Draw on a colored photograph what was said, where to say more, and the block chosen."""
        path = make_answer(photo.folder, "marked") / "marked.jpg"
        image, hints = Image.open(photo.plain), hints_of_colors(dict(said))
        if len(said) < MOST:
            draw_rings(
                image, ask(self.colorizer, photo.prediction, hints, QUESTIONS), *photo.blocks
            )
        draw_dots(image, dict(said), place, *photo.blocks)
        image.save(path, quality=SHOWN_QUALITY)
        return path

    def explain(self, photo: Upload, block: int) -> Path:
        """Draw the distribution over the ab plane at a block."""
        path = make_answer(photo.folder, "place") / "distribution.png"
        seen = photo.prediction
        probs = seen.logits[0].flatten(1)[:, block].softmax(0)
        plot_distribution(path, probs, float(seen.L.flatten()[block]))
        return path

    def offer(self, photo: Upload, block: int, vividness: float) -> list[tuple[Color, float]]:
        """Return the likeliest colors of a block, and their probabilities."""
        decoding = Decoding(self.info["temperature"], self.info["top_k"], vividness)
        coloring = Coloring(self.info["size"], decoding)
        return likely_colors(self.colorizer, photo.prediction, coloring, block, OFFERED)

    def write_hints(self, photo: Upload, said: Said) -> Path:
        """Write what was said as the picture of strokes that generate.py --hints takes."""
        path = make_answer(photo.folder, "hints") / f"{Path(photo.name).stem}.png"
        strokes = draw_strokes(dict(said), photo.size, *photo.blocks)
        strokes.save(path, compress_level=1)
        return path

    def write_all(self, photos: list[Upload], said: list[Said], *settings: float) -> Path:
        """Color all photographs of a visitor, with settings of `color`, into one zip."""
        folder = make_answer(photos[0].folder.parent, "all")
        with zipfile.ZipFile(folder / "colored.zip", "w") as file:
            for i, photo in enumerate(photos, start=1):  # two photographs may have one name
                path = self.write(photo, self.color(photo, said[i - 1], *settings), folder / str(i))
                file.write(path, f"{i}-{path.name}")
                path.unlink()
        return folder / "colored.zip"
