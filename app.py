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
import shutil
import socket
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
    explain,
    make_parser,
    number,
    run_command,
)
from inference import draw_field, draw_uncertainty, guide, look, paint
from photos import PhotoError, open_photo, output_name, read_bytes, read_keepsakes, write_photo
from plots import plot_distribution
from process import lacks_memory
from quantize import decode
from ranks import choose_device

MOST_PHOTOS = 20  # of a visitor, at a time
MOST_MEGABYTES = 50  # of a file; what is far larger is refused while it comes, without a word
MOST_PIXELS = 50_000_000  # of a photograph
SHOWN_QUALITY = 92  # of the JPEGs on the page; what is downloaded has its own format
ANSWERS = 3  # of a kind, that are kept: the browser may still fetch the one before
HOUR, DAY = 3600, 24 * 3600  # seconds: how often uploads are deleted, and how old
STYLE = """
.gradio-container { max-width: min(1180px, 100vw) !important; margin: auto; }
.gradio-container main { max-width: 100%; box-sizing: border-box; }
footer { display: none !important; }
#gallery .grid-container { grid-template-columns: repeat(auto-fill, 84px) !important; }
#gallery button.thumbnail-item { width: 84px; height: 84px; }
#gallery .grid-wrap { min-height: 0; max-height: 200px; }
#buttons { padding: var(--spacing-lg); gap: var(--spacing-lg); background: var(--block-background-fill); }
#buttons button { border-radius: var(--radius-lg); }
"""


# ---- photographs -------------------------------------------------------------------------------
@dataclass(frozen=True)
class Seen:
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
def see(colorizer: Colorizer, path: Path, working_size: int, folder: Path) -> Seen:
    """Show a photograph to the network, and write to a folder what does not change after.

    Raises:
        PhotoError: it is none, or too large.
    """
    if (size := path.stat().st_size) > MOST_MEGABYTES * 10**6:
        raise PhotoError(f"{size / 1e6:.0f} MB; at most {MOST_MEGABYTES}")
    image = open_photo(read_bytes(path), most=MOST_PIXELS)
    seen = Seen(folder, path.name, image.size, *look(colorizer, image, working_size))
    folder.mkdir()
    shutil.copyfile(path, seen.original)
    image.save(seen.before, quality=SHOWN_QUALITY)
    draw_uncertainty(seen.logits, image.size).save(seen.uncertainty)
    return seen


@torch.inference_mode()
def color(seen: Seen, centers: Tensor, temperature: float, top_k: int, sample: int) -> Image.Image:
    """Colour a photograph at its own size; sample 0 is without chance, N generate.py's NAME-N."""
    noise = draw_field(centers, *seen.L.shape[-2:], 0, sample - 1) if sample else 0
    image = seen.open()
    paint(image, guide(seen.L, decode(seen.logits + noise, centers, temperature, top_k)))
    return image


def write_colored(seen: Seen, colored: Image.Image, folder: Path) -> Path:
    """Write a coloured photograph as generate.py does: its own name, format and EXIF."""
    path = folder / output_name(seen.name)
    write_photo(colored, path, read_keepsakes(read_bytes(seen.original)))
    return path


def block_at(seen: Seen, place: tuple[int, int]) -> tuple[int, int]:
    """Return the row and column of the block where a photograph was clicked, at x and y pixels."""
    blocks = reversed(seen.L.shape[-2:])
    column, row = (
        min(n - 1, n * at // side) for at, side, n in zip(place, seen.size, blocks, strict=True)
    )
    return row, column


def make_answer(folder: Path, kind: str) -> Path:
    """Make a folder for an answer; of its kind the newest few are kept."""
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
        visitor, seen, faults = Path(tempfile.mkdtemp(dir=self.root)), [], []
        for i, path in enumerate(map(Path, paths[:MOST_PHOTOS])):
            try:
                with as_sentence(PhotoError):
                    photo = see(self.colorizer, path, self.about["size"], visitor / str(i))
                    seen.append(photo)
            except PhotoError as error:
                faults.append(f"{path.name}: {error}")
        if len(paths) > MOST_PHOTOS:
            faults.append(f"{len(paths)} photographs: the first {MOST_PHOTOS} were taken")
        return seen, faults

    @staticmethod
    def forget(photos: list[Seen]) -> None:
        """Delete a visitor's files."""
        for seen in photos[:1]:
            shutil.rmtree(seen.folder.parent, ignore_errors=True)

    def show(self, seen: Seen, temperature: float, top_k: int, sample: int) -> tuple[Path, Path]:
        """Colour a photograph; write it as the page shows it, and as it is downloaded."""
        folder = make_answer(seen.folder, "colored")
        colored = color(seen, self.centers, temperature, top_k, sample)
        (folder / "shown").mkdir()
        colored.save(after := folder / "shown" / "after.jpg", quality=SHOWN_QUALITY)
        return after, write_colored(seen, colored, folder)

    def explain(self, seen: Seen, place: tuple[int, int]) -> Path:
        """Draw the distribution over the ab plane where a photograph was clicked."""
        row, column = block_at(seen, place)
        path = seen.folder / f"{row}-{column}.png"
        probs = seen.logits[0, :, row, column].softmax(0)
        plot_distribution(path, probs, float(seen.L[0, 0, row, column]))
        return path

    def write_all(self, photos: list[Seen], temperature: float, top_k: int, sample: int) -> Path:
        """Colour all photographs of a visitor into one zip."""
        folder = make_answer(photos[0].folder.parent, "all")
        with zipfile.ZipFile(folder / "colored.zip", "w") as file:
            for i, seen in enumerate(photos, start=1):  # two photographs may have one name
                colored = color(seen, self.centers, temperature, top_k, sample)
                path = write_colored(seen, colored, folder / str(i))
                file.write(path, f"{i}-{path.name}")
                path.unlink()
        return folder / "colored.zip"


def lay_out(page: Page) -> Any:
    """Lay out the page; all that it calls is in `Page`."""
    import gradio as gr

    def receive(paths: list[str] | None, earlier: list[Seen]) -> tuple:
        page.forget(earlier)
        with as_sentence(gr.Error):
            seen, faults = page.receive(paths or [])
        for fault in faults:
            gr.Warning(fault, duration=None)
        several = gr.Gallery([str(photo.before) for photo in seen], visible=len(seen) > 1)
        return seen, 0, several, gr.Group(visible=bool(seen)), gr.Button(visible=len(seen) > 1)

    def show(photos: list[Seen], index: int, *how: float) -> tuple:
        if not photos:
            return (gr.skip(),) * 4
        seen = photos[index]
        with as_sentence(gr.Error):
            after, file = map(str, page.show(seen, *how))
        return (str(seen.before), after), after, str(seen.uncertainty), file

    def choose(event: gr.SelectData) -> int:
        return event.index

    def ask(photos: list[Seen], index: int, event: gr.SelectData) -> str:
        with as_sentence(gr.Error):
            return str(page.explain(photos[index], event.index))

    def write_all(photos: list[Seen], *how: float) -> Any:
        with as_sentence(gr.Error):
            return gr.File(str(page.write_all(photos, *how)), visible=True)

    title = "Colour photographs"
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(HOUR, DAY)) as blocks:
        photos, index = gr.State([], delete_callback=page.forget), gr.State(0)
        gr.Markdown(f"# {title}\n{describe(page.about)}")
        upload = gr.File(
            label=f"At most {MOST_PHOTOS} photographs of {MOST_MEGABYTES} MB",
            file_count="multiple",
            elem_id="upload",
            height=150,
        )
        gallery = gr.Gallery(
            show_label=False,
            visible=False,
            height="auto",
            object_fit="cover",
            allow_preview=False,
            elem_id="gallery",
            buttons=[],
        )
        with gr.Group(visible=False) as result:
            slider, clicked, distribution, uncertainty = add_views()
            how = add_controls(page.about, len(page.centers))
            with gr.Row(elem_id="buttons"):
                one = gr.DownloadButton("Download", elem_id="download", variant="primary")
                all_ = gr.Button("All in a zip", visible=False, elem_id="zip")
            archive = gr.File(label="All of them", visible=False, elem_id="archive")

        shown = {"fn": show, "inputs": [photos, index, *how]}
        shown |= {"outputs": [slider, clicked, uncertainty, one], "show_progress": "minimal"}
        received = [photos, index, gallery, result, all_]
        upload.change(receive, [upload, photos], received).then(**shown)
        gallery.select(choose, None, index).then(**shown)
        gr.on([control.change for control in how], trigger_mode="always_last", **shown)
        clicked.select(ask, [photos, index], distribution)
        all_.click(write_all, [photos, *how], archive)
    return blocks


def add_views() -> tuple[Any, ...]:
    """Lay out what shows a photograph: the slider, the place clicked on, the uncertainty."""
    import gradio as gr

    plain = {"type": "filepath", "buttons": ["fullscreen"]}  # no sharing: that leaves the machine
    with gr.Tab("Before, after"):
        slider = gr.ImageSlider(**plain, show_label=False, elem_id="slider", max_height=720)
    with gr.Tab("A place"), gr.Row():
        with gr.Column(min_width=300):
            clicked = gr.Image(
                **plain, label="Click: what does the network think?", elem_id="clicked"
            )
        with gr.Column(min_width=300):
            distribution = gr.Image(**plain, show_label=False, elem_id="distribution")
    with gr.Tab("Uncertainty"):
        sure = "Where the network is not sure: white, no idea; black, certain"
        uncertainty = gr.Image(**plain, label=sure, elem_id="uncertainty")
    return slider, clicked, distribution, uncertainty


def add_controls(about: dict[str, Any], Q: int) -> list[Any]:
    """Lay out the sliders of a colouring: temperature, top-k, sample."""
    import gradio as gr

    how = "low: the most probable colour, patchy; high: the mean, smooth and dull"
    averaged = "how many of the most probable colours are averaged"
    drawn = "0: without chance; the others are drawn from what is possible"
    sliders = (  # lowest, highest, first, step
        ("Temperature", "temperature", how, (0.05, 1.5, about["temperature"], 0.01)),
        ("Top-k", "top-k", averaged, (1, Q, about["top_k"], 1)),
        ("Another colouring", "sample", drawn, (0, 8, 0, 1)),
    )
    with gr.Row():
        return [
            gr.Slider(*span, label=label, info=info, elem_id=name, min_width=250)
            for label, name, info, span in sliders
        ]


def describe(about: dict[str, Any]) -> str:
    """Say what the network is, and that nothing leaves this machine."""
    data = f"photographs of {about['dataset']}" if about["dataset"] else "ImageNet"
    return (
        f"A network that saw {data} at {about['size']} px; it colours everything as those are "
        "coloured. Colours that a photograph has are replaced, its lightness stays. Nothing leaves "
        "the machine that this page comes from."
    )


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


def check_address(host: str, port: int) -> None:
    """Refuse an address that cannot be served on, before the network is loaded.

    Raises:
        ValueError: it is taken, or of another machine.
    """
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        raise ValueError(
            f"{host}:{port}: {error.strerror.lower().partition(' (')[0]}; choose another --port or --host"
        ) from error


def main() -> None:
    """Serve the page until Ctrl-C."""
    args = parse_args()
    check_address(args.host, args.port)
    colorizer, about = load_colorizer(args.checkpoint)
    colorizer.to(choose_device(args.device))
    with tempfile.TemporaryDirectory(prefix="colors-") as temporary:
        os.environ["GRADIO_TEMP_DIR"] = temporary  # uploads; read when Gradio is imported
        import gradio as gr

        blocks = lay_out(Page(colorizer, about, Path(temporary)))
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
        print(f"http://{args.host}:{args.port} colours with {args.checkpoint}; Ctrl-C ends it")
        try:
            threading.Event().wait()  # for Ctrl-C
        finally:
            blocks.close()


if __name__ == "__main__":
    run_command(main, "the photographs of all visitors are deleted; run the same command again")
