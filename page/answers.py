"""The work behind the page in the browser: predict each photograph once, color it many times.

Nothing here depends on Gradio. Shapes: h and w blocks, Q bins.
"""

import contextlib
import errno
import shutil
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
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

MOST_MEGABYTES = 50  # of a file
MOST_PIXELS = 50_000_000  # of a photograph
SHOWN_QUALITY = 92  # of the JPEGs on the page; downloads have their own format
SHOWN_SIDE = 1024  # pixels, the longer side of a photograph on the page, at most
ANSWERS = 3  # of a kind to keep: the browser may still fetch the one before
QUESTIONS = 3  # rings on a photograph
OFFERED = 6  # likeliest colors of a place
FULL_DISK = "the disk of the machine that serves this page is full; try again later"
SAID_HERE = {  # where the system's own words would tell nothing to a visitor
    errno.ENOSPC: FULL_DISK,
    errno.EDQUOT: FULL_DISK,
    errno.ENOENT: "this photograph was deleted meanwhile; drop it on the page again",
}
Said = list[tuple[int, Color]]  # the colors that a visitor has said of blocks, in this order


# ---- photographs -------------------------------------------------------------------------------
@dataclass
class Upload:
    """A visitor's photograph, the network's answer to it, and what the visitor said of it."""

    uploaded: Path  # its folder is its own
    folder: Path  # of the files below, and of answers
    before: Path  # the photograph as the page shows it
    uncertainty: Path  # a drawing of where the network is not sure
    size: tuple[int, int]  # width, height of the uploaded photograph
    prediction: Prediction
    said: Said = field(default_factory=list)
    colored: Path | None = None  # the newest answer as the page shows it, before rings are drawn

    @property
    def name(self) -> str:
        """The name of the uploaded file."""
        return self.uploaded.name

    @property
    def blocks(self) -> tuple[int, int]:
        """The height and width in blocks."""
        return self.prediction.L.shape[-2:]

    @property
    def click_size(self) -> tuple[int, int]:
        """The width and height of the picture to click on: a small photograph is enlarged."""
        width, height = (max(1, round(s * SHOWN_SIDE / max(self.size))) for s in self.size)
        return width, height

    @property
    def memory(self) -> int:
        """The bytes that the network's answer takes."""
        seen = self.prediction
        return sum(tensor.nbytes for tensor in (seen.L, seen.logits, seen.features, seen.points))

    def delete(self) -> None:
        """Delete its files."""
        for folder in (self.folder, self.uploaded.parent):
            shutil.rmtree(folder, ignore_errors=True)


def prepare(colorizer: Colorizer, path: Path, working_size: int, folder: Path) -> Upload:
    """Show a photograph to the network; write to a folder the pictures that never change.

    Raise PhotoError if the file is no photograph or is too large.
    """
    if (size := path.stat().st_size) > MOST_MEGABYTES * 10**6:
        raise PhotoError(f"{size / 1e6:.0f} MB; at most {MOST_MEGABYTES}")
    image = open_photo(read_bytes(path), most=MOST_PIXELS)
    seen, size = predict(colorizer, image, working_size), image.size
    photo = Upload(path, folder, folder / "before.jpg", folder / "uncertainty.png", size, seen)
    folder.mkdir(parents=True)
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    image.save(photo.before, quality=SHOWN_QUALITY)
    draw_uncertainty(seen, image.size).save(photo.uncertainty)
    return photo


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
        code = getattr(error, "errno", None)
        raise kind(SAID_HERE.get(code) or explain(error)) from error


# ---- answers -----------------------------------------------------------------------------------
class Page:
    """What the page can do. `info` is from `load_colorizer`."""

    def __init__(self, colorizer: Colorizer, info: dict[str, Any]):
        self.colorizer, self.info = colorizer, info

    def prepare(self, path: Path, folder: Path) -> Upload:
        """Show an uploaded file to the network; raise PhotoError if it is refused and deleted."""
        try:
            with explain_failures(PhotoError):
                return prepare(self.colorizer, path, self.info["size"], folder)
        except PhotoError:
            for refused in (folder, path.parent):
                shutil.rmtree(refused, ignore_errors=True)
            raise

    def color(
        self,
        photo: Upload,
        said: Said,
        vividness: float,
        temperature: float,
        top_k: int,
        sample: int,
        full: bool = True,
    ) -> Image.Image:
        """Color a photograph at its own size, or as the page shows it.

        Sample 0 is not random, N is generate.py's NAME-N.
        """
        coloring = Coloring(self.info["size"], Decoding(temperature, top_k, vividness))
        image = open_photo(read_bytes(photo.uploaded if full else photo.before), most=MOST_PIXELS)
        drawn, hints = sample - 1 if sample else None, hints_of_colors(dict(said))
        color_in_place(self.colorizer, image, photo.prediction, coloring, hints, drawn)
        return image

    def show(
        self, photo: Upload, said: Said, place: int | None, *settings: float
    ) -> tuple[Path, Path]:
        """Color a photograph with settings of `color`; `place` is the block that is chosen.

        Returns:
            The file to show and the file to click on.
        """
        folder = make_answer(photo.folder, "shown")
        colored = self.color(photo, said, *settings, full=False)
        colored.save(after := folder / "after.jpg", quality=SHOWN_QUALITY)
        photo.colored = after
        return after, self.mark(photo, said, place)

    def mark(self, photo: Upload, said: Said, place: int | None) -> Path:
        """Draw on a colored photograph what was said, where to say more, and the block chosen."""
        path = make_answer(photo.folder, "marked") / "marked.jpg"
        image, hints = Image.open(photo.colored or photo.before), hints_of_colors(dict(said))
        image = image.resize(photo.click_size)
        if len(said) < MOST:
            draw_rings(
                image, ask(self.colorizer, photo.prediction, hints, QUESTIONS), *photo.blocks
            )
        draw_dots(image, dict(said), place, *photo.blocks)
        image.save(path, quality=SHOWN_QUALITY)
        return path

    @staticmethod
    def find_block(photo: Upload, place: tuple[float, float]) -> int:
        """Return the block at a place of the picture to click on, x and y in its pixels."""
        return block_at(place, photo.click_size, *photo.blocks)

    def offer_and_mark(
        self, photo: Upload, said: Said, block: int, vividness: float
    ) -> tuple[list[tuple[Color, float]], Path]:
        """Return `offer`'s colors of a block and `mark`'s file."""
        return self.offer(photo, block, vividness), self.mark(photo, said, block)

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

    def write(
        self, photo: Upload, said: Said, *settings: float, folder: Path | None = None
    ) -> Path:
        """Write a colored photograph as generate.py does, with its name, format and EXIF."""
        colored = self.color(photo, said, *settings)
        path = (folder or make_answer(photo.folder, "colored")) / output_name(photo.name)
        write_photo(colored, path, read_metadata(read_bytes(photo.uploaded), colored.size))
        return path

    def compare(self, photo: Upload, said: Said, *settings: float) -> Path:
        """Lay a photograph's lightness and its coloring side by side, with settings of `color`."""
        path = make_answer(photo.folder, "compared") / f"{Path(photo.name).stem}-compare.jpg"
        image = open_photo(read_bytes(photo.uploaded), most=MOST_PIXELS)
        gray = draw_gray(image, columns=2)
        colored = shrink(self.color(photo, said, *settings), columns=2)
        write_photo(lay_side_by_side([gray, colored]), path)
        return path

    def write_hints(self, photo: Upload, said: Said) -> Path:
        """Write what was said as the picture of strokes that generate.py --hints takes."""
        path = make_answer(photo.folder, "hints") / f"{Path(photo.name).stem}.png"
        strokes = draw_strokes(dict(said), photo.size, *photo.blocks)
        strokes.save(path, compress_level=1)
        return path

    def add_to_zip(
        self, path: Path, number: int, photo: Upload, said: Said, *settings: float
    ) -> None:
        """Color a photograph into a zip; two photographs may have one name, but not one number."""
        colored = self.write(photo, said, *settings, folder=path.parent)
        with zipfile.ZipFile(path, "a") as file:
            file.write(colored, f"{number}-{colored.name}")
        colored.unlink()
