"""Colour photographs on a page in the browser, on this machine.

Drop one photograph or several: before and after lie under one slider, at full resolution. The
network looks at each photograph once; temperature, top-k and other colourings answer at once. A
click shows what the network thinks of a place. Needs Gradio: pip install -r requirements-app.txt

examples:
  python app.py
  python app.py --checkpoint runs/flowers-64-plain/best.pt --port 8000
"""

import argparse
import contextlib
import importlib.util
import os
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

from colorizer import Colorizer, load_colorizer
from command_line import (
    add_device_option,
    choose_device,
    explain,
    make_parser,
    number,
    run_command,
)
from inference import draw_field, draw_uncertainty, guide, look, paint
from photos import (
    PhotoError,
    check_pixels,
    open_photo,
    output_name,
    read_bytes,
    read_keepsakes,
    write_photo,
)
from plots import plot_distribution
from process import lacks_memory
from quantize import decode

MOST_PHOTOS = 20  # of a visitor, at a time
MOST_MEGABYTES = 50  # of a file; what is far larger is refused while it comes, without a word
MOST_PIXELS = 50_000_000  # of a photograph
SHOWN_QUALITY = 92  # of the JPEGs on the page; what is downloaded has its own format
HOUR = 3600  # seconds that the photographs of a visitor who has left are kept
STYLE = """
.gradio-container { max-width: min(1180px, 100vw) !important; margin: auto; }
.gradio-container main { max-width: 100%; box-sizing: border-box; }
footer { display: none !important; }
#gallery .grid-container { grid-template-columns: repeat(auto-fill, 100px) !important; }
#gallery button.thumbnail-item { height: 100px; }
"""


# ---- photographs -------------------------------------------------------------------------------
@dataclass(frozen=True)
class Seen:
    """A visitor's photograph, and what the network said when it looked at it."""

    path: Path
    name: str
    size: tuple[int, int]  # width, height
    L: Tensor  # (1, 1, h, w), each block's mean
    logits: Tensor  # (1, Q, h, w)


def see(colorizer: Colorizer, path: Path, working_size: int) -> Seen:
    """Show a photograph to the network.

    Raises:
        PhotoError: it is none, or too large.
    """
    if (size := path.stat().st_size) > MOST_MEGABYTES * 10**6:
        raise PhotoError(f"{size / 1e6:.0f} MB; at most {MOST_MEGABYTES}")
    data = read_bytes(path)
    check_pixels(data, MOST_PIXELS)
    image = open_photo(data)
    with torch.inference_mode():
        L, logits = look(colorizer, image, working_size)
    return Seen(path, path.name, image.size, L, logits)


@torch.inference_mode()
def color(seen: Seen, centers: Tensor, temperature: float, top_k: int, sample: int) -> Image.Image:
    """Colour a photograph at its own size; sample 0 is the most probable, N generate.py's NAME-N."""
    logits = seen.logits
    if sample:
        logits = logits + draw_field(centers, *seen.L.shape[-2:], seed=0, sample=sample - 1)
    image = open_photo(read_bytes(seen.path))
    paint(image, guide(seen.L, decode(logits, centers, temperature, top_k)))
    return image


def block_at(seen: Seen, place: tuple[int, int], size: tuple[int, int]) -> tuple[Tensor, float]:
    """Return the distribution over bins, (Q,), and L where a photograph was clicked.

    Args:
        seen: the photograph.
        place: x and y, in pixels.
        size: width and height, in pixels.
    """
    blocks = reversed(seen.L.shape[-2:])
    column, row = (
        min(n - 1, n * at // side) for at, side, n in zip(place, size, blocks, strict=True)
    )
    return seen.logits[0, :, row, column].softmax(0), float(seen.L[0, 0, row, column])


# ---- the page ----------------------------------------------------------------------------------
class Page:
    """What the page's parts call; each visitor's photographs travel with the call.

    Args:
        colorizer: the network.
        about: all else that its checkpoint holds.
        root: folder for the files of all visitors.
    """

    def __init__(self, colorizer: Colorizer, about: dict[str, Any], root: Path):
        self.colorizer, self.about, self.root = colorizer, about, root
        self.centers = colorizer.centers

    def receive(self, paths: list[str]) -> tuple[list[Seen], list[str]]:
        """Look at uploaded files; return what are photographs, and a sentence for each other."""
        seen, faults = [], []
        for path in map(Path, paths[:MOST_PHOTOS]):
            try:
                seen.append(see(self.colorizer, path, self.about["size"]))
            except PhotoError as error:
                faults.append(f"{path.name}: {error}")
        if len(paths) > MOST_PHOTOS:
            faults.append(f"{len(paths)} photographs: the first {MOST_PHOTOS} were taken")
        return seen, faults

    def folder(self) -> Path:
        """Make a folder for the files of one answer."""
        return Path(tempfile.mkdtemp(dir=self.root))

    def show(self, seen: Seen, temperature: float, top_k: int, sample: int) -> dict[str, Path]:
        """Colour a photograph, and write what the page shows of it."""
        folder = self.folder()
        colored = color(seen, self.centers, temperature, top_k, sample)
        shown = {name: folder / f"{name}.jpg" for name in ("before", "after", "uncertainty")}
        open_photo(read_bytes(seen.path)).save(shown["before"], quality=SHOWN_QUALITY)
        colored.save(shown["after"], quality=SHOWN_QUALITY)
        draw_uncertainty(seen.logits, colored.size).save(shown["uncertainty"])
        return {**shown, "file": self.write(seen, colored, folder)}

    @staticmethod
    def write(seen: Seen, colored: Image.Image, folder: Path) -> Path:
        """Write a coloured photograph as generate.py does: its own name, format and EXIF."""
        path = folder / output_name(seen.name)
        write_photo(colored, path, read_keepsakes(read_bytes(seen.path)))
        return path

    def explain(self, seen: Seen, place: tuple[int, int]) -> Path:
        """Draw the distribution over the ab plane where a photograph was clicked."""
        path = self.folder() / "distribution.png"
        plot_distribution(path, *block_at(seen, place, seen.size))
        return path

    def write_all(self, photos: list[Seen], temperature: float, top_k: int, sample: int) -> Path:
        """Colour all photographs of a visitor into one zip."""
        folder = self.folder()
        with zipfile.ZipFile(folder / "colored.zip", "w") as file:
            for i, seen in enumerate(photos, start=1):
                inside = folder / str(i)  # two photographs may have one name
                inside.mkdir()
                colored = color(seen, self.centers, temperature, top_k, sample)
                path = self.write(seen, colored, inside)
                file.write(path, f"{i}-{path.name}")
                path.unlink()
        return folder / "colored.zip"


def lay_out(page: Page) -> Any:
    """Lay out the page; all that it calls is in `Page`."""
    import gradio as gr

    about, Q = page.about, len(page.centers)

    def receive(paths: list[str] | None) -> tuple:
        seen, faults = page.receive(paths or [])
        for fault in faults:
            gr.Warning(fault, duration=None)
        thumbnails = [(str(photo.path), photo.name) for photo in seen]
        several = gr.Gallery(thumbnails, visible=len(seen) > 1)
        return seen, 0, several, gr.Group(visible=bool(seen)), gr.Button(visible=len(seen) > 1)

    def show(photos: list[Seen], index: int, *how: float) -> tuple:
        if not photos:
            return (gr.skip(),) * 4
        with as_sentence(gr.Error):
            shown = {name: str(path) for name, path in page.show(photos[index], *how).items()}
        slider = (shown["before"], shown["after"])
        return slider, shown["after"], shown["uncertainty"], shown["file"]

    def choose(event: gr.SelectData) -> int:
        return event.index

    def ask(photos: list[Seen], index: int, event: gr.SelectData) -> str:
        return str(page.explain(photos[index], event.index))

    def write_all(photos: list[Seen], *how: float) -> str:
        with as_sentence(gr.Error):
            return str(page.write_all(photos, *how))

    def slide(*span: float, label: str, info: str, name: str) -> Any:
        *limits, step = span  # lowest, highest, first
        options = {"label": label, "info": info, "elem_id": name, "min_width": 250}
        return gr.Slider(*limits, step=step, **options)

    with gr.Blocks(title="Colour photographs", analytics_enabled=False) as blocks:
        photos, index = gr.State([], time_to_live=HOUR), gr.State(0)
        gr.Markdown(f"# Colour photographs\n{describe(about)}")
        upload = gr.File(
            label=f"Drop photographs here: at most {MOST_PHOTOS}, of {MOST_MEGABYTES} MB each",
            file_count="multiple",
            elem_id="upload",
            height=120,
        )
        gallery = gr.Gallery(
            label="Choose one",
            visible=False,
            columns=6,
            height=140,
            object_fit="contain",
            allow_preview=False,
            elem_id="gallery",
            buttons=[],
        )
        with gr.Group(visible=False) as result:
            with gr.Tab("Before and after"):
                slider = gr.ImageSlider(
                    type="filepath", show_label=False, elem_id="slider", max_height=720
                )
            with gr.Tab("A place"), gr.Row():
                clicked = gr.Image(type="filepath", label="Click on a place", elem_id="clicked")
                distribution = gr.Image(
                    type="filepath", label="What the network thinks of it", elem_id="distribution"
                )
            with gr.Tab("Uncertainty"):
                uncertainty = gr.Image(
                    type="filepath",
                    label="Where the network is not sure: white, no idea; black, certain",
                    elem_id="uncertainty",
                )
            with gr.Row():
                temperature = slide(
                    *(0.05, 1.5, about["temperature"], 0.01),
                    label="Temperature",
                    info="low: vivid and patchy; high: smooth and dull",
                    name="temperature",
                )
                top_k = slide(
                    *(1, Q, about["top_k"], 1),
                    label="Top-k",
                    info="how many of the most probable colours are averaged",
                    name="top-k",
                )
                sample = slide(
                    *(0, 8, 0, 1),
                    label="Another colouring",
                    info="0: the most probable; the others are drawn from what is possible",
                    name="sample",
                )
            with gr.Row():
                one = gr.DownloadButton("Download it", elem_id="download", variant="primary")
                all_ = gr.Button("Make a zip of all", visible=False, elem_id="zip")
            archive = gr.File(label="All of them", visible=False, elem_id="archive")

        how = [temperature, top_k, sample]
        shown = {"fn": show, "inputs": [photos, index, *how]}
        shown |= {"outputs": [slider, clicked, uncertainty, one], "show_progress": "minimal"}
        upload.change(receive, upload, [photos, index, gallery, result, all_]).then(**shown)
        gallery.select(choose, None, index).then(**shown)
        for control in how:
            control.release(**shown)
        clicked.select(ask, [photos, index], distribution)
        all_.click(write_all, [photos, *how], archive).then(
            lambda: gr.File(visible=True), None, archive
        )
    return blocks


def describe(about: dict[str, Any]) -> str:
    """Say what the network is, and that nothing leaves this machine."""
    data = f"photographs of {about['dataset']}" if about["dataset"] else "ImageNet"
    return (
        f"A network that saw {data} at {about['size']} px; it colours everything as those are "
        "coloured. Colours that a photograph has are replaced, its lightness stays. Nothing leaves "
        "the machine that this page comes from."
    )


@contextlib.contextmanager
def as_sentence(error_of_page: type[Exception]) -> Iterator[None]:
    """Turn what went wrong into a sentence on the page."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        raise error_of_page("Not enough memory for this photograph; try a smaller one.") from error
    except (OSError, ValueError) as error:
        raise error_of_page(explain(error)) from error


# ---- command line ------------------------------------------------------------------------------
def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    # fmt: off
    parser.add_argument("--checkpoint", type=Path, default=Path(__file__).parent / "checkpoints" / "celeba-64.pt", metavar="FILE", help="a best.pt or last.pt, or the published weights")
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="to serve on; 0.0.0.0 lets other machines in")
    parser.add_argument("--port", type=number(int, 1, 65535), default=7860, metavar="N", help="to serve on")
    add_device_option(parser)
    # fmt: on
    args = parser.parse_args()
    if importlib.util.find_spec("gradio") is None:
        parser.error("the page needs Gradio; pip install -r requirements-app.txt")
    return args


def main() -> None:
    """Serve the page until Ctrl-C."""
    args = parse_args()
    colorizer, about = load_colorizer(args.checkpoint)
    colorizer.to(choose_device(args.device))
    with tempfile.TemporaryDirectory(prefix="colors-") as temporary:
        os.environ["GRADIO_TEMP_DIR"] = temporary  # uploads; read when Gradio is imported
        import gradio as gr

        blocks = lay_out(Page(colorizer, about, Path(temporary)))
        print(f"http://{args.host}:{args.port} colours with {args.checkpoint}; Ctrl-C ends it")
        font = ["system-ui", "sans-serif"]  # the default would be fetched from Google
        theme = gr.themes.Base(primary_hue="amber", neutral_hue="stone", font=font)
        blocks.queue(default_concurrency_limit=2).launch(
            server_name=args.host,
            server_port=args.port,
            max_file_size=10 * MOST_MEGABYTES * 10**6,
            prevent_thread_lock=True,
            theme=theme,
            css=STYLE,
            quiet=True,
            share=False,
            footer_links=[],
        )
        try:
            threading.Event().wait()  # for Ctrl-C
        finally:
            blocks.close()


if __name__ == "__main__":
    run_command(main, "the photographs of all visitors are deleted")
