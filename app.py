"""Colour photographs on a page in the browser, on this machine.

Drop one photograph or several: before and after lie under one slider, at full resolution. The
network looks at each photograph once; temperature, top-k and other colourings answer at once. A
click shows what the network thinks of a place. Needs Gradio: pip install -r requirements-app.txt

examples:
  python app.py
  python app.py --checkpoint runs/flowers-64-plain/best.pt --port 8000
"""

import argparse
import importlib.util
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

from coloring.session import MOST_MEGABYTES, MOST_PHOTOS, Page, Upload, as_sentence
from colorizer import load_colorizer
from common.command_line import add_device_option, make_parser, number, run_command
from common.processes import choose_device

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


# ---- the page ----------------------------------------------------------------------------------
def lay_out(page: Page) -> Any:
    """Lay out the page; all that it calls is in `Page`."""
    import gradio as gr

    def receive(paths: list[str] | None, earlier: list[Upload]) -> tuple:
        page.forget(earlier)
        with as_sentence(gr.Error):
            photos, faults = page.receive(paths or [])
        for fault in faults:
            gr.Warning(fault, duration=None)
        several = len(photos) > 1
        gallery = gr.Gallery([str(photo.before) for photo in photos], visible=several)
        shown = gr.Group(visible=bool(photos)), gr.Button(visible=several)
        return photos, 0, gallery, *shown, gr.File(None, visible=False), None

    def show(photos: list[Upload], index: int, *how: float) -> tuple:
        if not photos:
            return (gr.skip(),) * 4
        photo = photos[index]
        with as_sentence(gr.Error):
            after, file = map(str, page.show(photo, *how))
        return (str(photo.before), after), after, str(photo.uncertainty), file

    def choose(event: gr.SelectData) -> int:
        return event.index

    def ask(photos: list[Upload], index: int, event: gr.SelectData) -> str:
        with as_sentence(gr.Error):
            return str(page.explain(photos[index], event.index))

    def write_all(photos: list[Upload], *how: float) -> Any:
        with as_sentence(gr.Error):
            return gr.File(str(page.write_all(photos, *how)), visible=True)

    title = "Colour photographs"
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(HOUR, DAY)) as blocks:
        photos, index = gr.State([], delete_callback=page.forget), gr.State(0)
        gr.Markdown(f"# {title}\n{describe(page.info)}")
        upload, gallery = add_inputs()
        with gr.Group(visible=False) as result:
            slider, clicked, distribution, uncertainty = add_views()
            how = add_controls(page.info, len(page.colorizer.centers))
            one, all_, archive = add_downloads()

        shown = {"fn": show, "inputs": [photos, index, *how]}
        shown |= {"outputs": [slider, clicked, uncertainty, one], "show_progress": "minimal"}
        received = [photos, index, gallery, result, all_, archive, distribution]
        upload.change(receive, [upload, photos], received).then(**shown)
        gallery.select(choose, None, index).then(**shown)
        gr.on([control.change for control in how], trigger_mode="always_last", **shown)
        clicked.select(ask, [photos, index], distribution)
        all_.click(write_all, [photos, *how], archive)
    return blocks


def add_inputs() -> tuple[Any, Any]:
    """Lay out where photographs are dropped, and the small pictures of several to choose from."""
    import gradio as gr

    label = f"At most {MOST_PHOTOS} photographs of {MOST_MEGABYTES} MB"
    upload = gr.File(label=label, file_count="multiple", elem_id="upload", height=150)
    bare = {"show_label": False, "allow_preview": False, "buttons": [], "visible": False}
    gallery = gr.Gallery(**bare, height="auto", object_fit="cover", elem_id="gallery")
    return upload, gallery


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


def add_controls(info: dict[str, Any], Q: int) -> list[Any]:
    """Lay out the sliders of a colouring: temperature, top-k, sample."""
    import gradio as gr

    scale = "low: the most probable colour, patchy; high: the mean, smooth and dull"
    averaged = "how many of the most probable colours are averaged"
    drawn = "0: without chance; the others are drawn from what is possible"
    sliders = (  # lowest, highest, first, step
        ("Temperature", "temperature", scale, (0.05, 1.5, info["temperature"], 0.01)),
        ("Top-k", "top-k", averaged, (1, Q, info["top_k"], 1)),
        ("Another colouring", "sample", drawn, (0, 8, 0, 1)),
    )
    with gr.Row():
        return [
            gr.Slider(*span, label=label, info=info, elem_id=name, min_width=250)
            for label, name, info, span in sliders
        ]


def add_downloads() -> tuple[Any, Any, Any]:
    """Lay out the button that downloads a photograph, that for all of them, and their zip."""
    import gradio as gr

    with gr.Row(elem_id="buttons"):
        one = gr.DownloadButton("Download", elem_id="download", variant="primary")
        all_ = gr.Button("All in a zip", visible=False, elem_id="zip")
    return one, all_, gr.File(label="All of them", visible=False, elem_id="archive")


def describe(info: dict[str, Any]) -> str:
    """Say what the network is, and that nothing leaves this machine."""
    data = f"photographs of {info['dataset']}" if info["dataset"] else "ImageNet"
    return (
        f"A network that saw {data} at {info['size']} px; it colours everything as those are "
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


def main() -> None:
    """Serve the page until Ctrl-C."""
    args = parse_args()
    colorizer, info = load_colorizer(args.checkpoint)
    colorizer.to(choose_device(args.device))
    with tempfile.TemporaryDirectory(prefix="colors-") as temporary:
        os.environ["GRADIO_TEMP_DIR"] = temporary  # uploads; read when Gradio is imported
        import gradio as gr

        blocks = lay_out(Page(colorizer, info, Path(temporary)))
        font = ["system-ui", "sans-serif"]  # the default would be fetched from Google
        theme = gr.themes.Base(primary_hue="amber", neutral_hue="stone", font=font)
        try:
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
        except OSError as error:
            raise ValueError(
                f"{args.host}:{args.port}: the page cannot be served there (the port is taken, or "
                "the address is of another machine); choose another --port or --host"
            ) from error
        print(f"http://{args.host}:{args.port} colours with {args.checkpoint}; Ctrl-C ends it")
        try:
            threading.Event().wait()  # for Ctrl-C
        finally:
            blocks.close()


if __name__ == "__main__":
    run_command(main, "the photographs of all visitors are deleted; run the same command again")
