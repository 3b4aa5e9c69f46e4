"""Color photographs on a page in the browser, on this machine.

Drop one photograph or several: one slider compares before and after, at full resolution. The
network looks at each photograph once; vividness, temperature, top-k and other colorings answer at
once. A click shows the network's answer at that place. Needs Gradio:
pip install -r requirements-app.txt

examples:
  python app.py
  python app.py --checkpoint checkpoints/flowers-64.pt --port 8000
"""

import argparse
import importlib.util
import os
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coloring.page import MOST_MEGABYTES, MOST_PHOTOS, Page, Upload, explain_failures
from colorizer import load_colorizer
from common.command_line import (
    add_device_option,
    default_checkpoint,
    make_parser,
    number,
    run_command,
)
from common.processes import choose_device

HOUR, DAY = 3600, 24 * 3600  # seconds: every hour Gradio deletes uploads older than a day
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


# ---- the page ----------------------------------------------------------------------------------
def make_handlers(page: Page) -> tuple[Callable[..., Any], ...]:
    """Return the functions that the page's parts call; `Page` does the work."""
    import gradio as gr

    @explain_failures(gr.Error)
    def receive(paths: list[str] | None, earlier: list[Upload]) -> tuple:
        page.forget(earlier)
        photos, faults = page.receive(paths or [])
        for fault in faults:
            gr.Warning(fault, duration=None)
        several = len(photos) > 1
        gallery = gr.Gallery([str(photo.before) for photo in photos], visible=several)
        shown = gr.Group(visible=bool(photos)), gr.Button(visible=several)
        return photos, 0, gallery, *shown, gr.File(None, visible=False), None

    @explain_failures(gr.Error)
    def show(photos: list[Upload], index: int, *settings: float) -> tuple:
        if not photos:
            return (gr.skip(),) * 4
        photo = photos[index]
        after, file = map(str, page.show(photo, *settings))
        return (str(photo.before), after), after, str(photo.uncertainty), file

    def choose(event: gr.SelectData) -> int:
        return event.index

    @explain_failures(gr.Error)
    def explain(photos: list[Upload], index: int, event: gr.SelectData) -> str:
        return str(page.explain(photos[index], event.index))

    @explain_failures(gr.Error)
    def write_all(photos: list[Upload], *settings: float) -> Any:
        return gr.File(str(page.write_all(photos, *settings)), visible=True)

    return receive, show, choose, explain, write_all


def add_views() -> tuple[Any, ...]:
    """Lay out the views of a photograph: the slider, the place clicked on, the uncertainty."""
    import gradio as gr

    plain = {
        "type": "filepath",
        "buttons": ["fullscreen"],
    }  # no share button: it sends the picture off this machine
    with gr.Tab("Before, after"):
        slider = gr.ImageSlider(**plain, show_label=False, elem_id="slider", max_height=720)
    with gr.Tab("A place"), gr.Row():
        label, place = "Click: what does the network think?", {**plain, "min_width": 300}
        clicked = gr.Image(**place, label=label, elem_id="clicked")
        distribution = gr.Image(**place, show_label=False, elem_id="distribution")
    with gr.Tab("Uncertainty"):
        label = "Where the network is not sure: white, no idea; black, certain"
        uncertainty = gr.Image(**plain, label=label, elem_id="uncertainty")
    return slider, clicked, distribution, uncertainty


def add_controls(info: dict[str, Any], Q: int) -> list[Any]:
    """Lay out the sliders of a coloring: vividness, temperature, top-k, sample."""
    import gradio as gr

    common = "0: colors are as common as in training; 1: all colors are equally common"
    scale = "low: the most probable color, patchy; high: the mean, smooth and dull"
    drawn = "0: not random; each other number is one random choice among probable colors"
    sliders = {  # what it does; lowest, highest, first, step
        "Vividness": (common, 0, 1, info["vividness"], 0.01),
        "Temperature": (scale, 0.05, 1.5, info["temperature"], 0.01),
        "Top-k": ("number of most probable colors to average", 1, Q, info["top_k"], 1),
        "Sample": (drawn, 0, 8, 0, 1),
    }
    with gr.Row():
        controls = [
            gr.Slider(*span, label=label, info=text, elem_id=label.lower(), min_width=200)
            for label, (text, *span) in sliders.items()
        ]
        controls[0].interactive = info.get("prior") is not None
        return controls


def read_heading(card: Path) -> str:
    """Return the first heading of a checkpoint's card, "" if there is none."""
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    return next((line[2:] for line in text.splitlines() if line.startswith("# ")), "")


def describe(info: dict[str, Any]) -> str:
    """Describe the network in a sentence, and say that nothing leaves this machine.

    `info` is from `load_colorizer`, with the heading of the checkpoint's card as "card".
    """
    dataset = f"The photographs of {info['dataset'] or 'ImageNet'}, {info['size']} px"
    return (
        f"The network has learned from these: {info['card'] or dataset}. It colors everything as "
        "they are colored. It replaces a photograph's own colors and keeps its lightness. Nothing "
        "leaves the machine that serves this page."
    )


def lay_out(page: Page) -> Any:
    """Lay out the page, and connect its parts to the functions that they call."""
    import gradio as gr

    receive, show, choose, explain, write_all = make_handlers(page)
    title, limits = "Color photographs", f"{MOST_PHOTOS} photographs of {MOST_MEGABYTES} MB"
    bare = {"show_label": False, "allow_preview": False, "buttons": [], "visible": False}
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(HOUR, DAY)) as blocks:
        photos, index = gr.State([], delete_callback=page.forget), gr.State(0)
        gr.Markdown(f"# {title}\n{describe(page.info)}")
        upload = gr.File(
            label=f"At most {limits}", file_count="multiple", elem_id="upload", height=150
        )
        gallery = gr.Gallery(**bare, height="auto", object_fit="cover", elem_id="gallery")
        with gr.Group(visible=False) as result:
            slider, clicked, distribution, uncertainty = add_views()
            settings = add_controls(page.info, len(page.colorizer.centers))
            with gr.Row(elem_id="buttons"):
                one = gr.DownloadButton("Download", elem_id="download", variant="primary")
                all_ = gr.Button("All in a zip", visible=False, elem_id="zip")
            archive = gr.File(label="All of them", visible=False, elem_id="archive")

        shown = {"fn": show, "inputs": [photos, index, *settings]}
        shown |= {"outputs": [slider, clicked, uncertainty, one], "show_progress": "minimal"}
        received = [photos, index, gallery, result, all_, archive, distribution]
        upload.change(receive, [upload, photos], received).then(**shown)
        gallery.select(choose, None, index).then(**shown)
        gr.on([control.change for control in settings], trigger_mode="always_last", **shown)
        clicked.select(explain, [photos, index], distribution)
        all_.click(write_all, [photos, *settings], archive)
    return blocks


# ---- command line ------------------------------------------------------------------------------
def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    # fmt: off
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="a best.pt or last.pt, or the published weights of Zhang et al.; default: the newest runs/*/best.pt or, if no run is newer, checkpoints/photos-128.pt, for photographs of all kinds")
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="address to serve on; 0.0.0.0 lets other machines in")
    parser.add_argument("--port", type=number(int, 1, 65535), default=7860, metavar="N", help="port to serve on")
    add_device_option(parser)
    # fmt: on
    args = parser.parse_args()
    if importlib.util.find_spec("gradio") is None:
        parser.error("the page needs Gradio; pip install -r requirements-app.txt")
    args.checkpoint = args.checkpoint or default_checkpoint(parser, print, general=True)
    return args


def check_address(host: str, port: int) -> None:
    """Raise ValueError if the page cannot be served there, before the network is loaded."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host.strip("[]"), port), family=family):
            pass
    except OSError as error:
        reason = error.strerror.lower().partition(" (")[0]
        raise ValueError(f"{host}:{port}: {reason}; choose another --port or --host") from error


def main() -> None:
    """Serve the page until Ctrl-C."""
    args = parse_args()
    check_address(args.host, args.port)
    colorizer, info = load_colorizer(args.checkpoint)
    info["card"] = read_heading(args.checkpoint.with_suffix(".md"))
    colorizer.to(choose_device(args.device))
    with tempfile.TemporaryDirectory(prefix="colors-") as temporary:
        os.environ["GRADIO_TEMP_DIR"] = temporary  # uploads; read when Gradio is imported
        import gradio as gr

        blocks = lay_out(Page(colorizer, info, Path(temporary)))
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
        print(f"http://{args.host}:{args.port} colors with {args.checkpoint}; stop with Ctrl-C")
        try:
            threading.Event().wait()  # for Ctrl-C
        finally:
            blocks.close()


if __name__ == "__main__":
    run_command(main, "the page has deleted all visitors' photographs; run the same command again")
