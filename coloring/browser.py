"""The page in the browser: its parts, laid out by Gradio, and the functions that they call.

Gradio is slow to import, and optional: each function imports it itself.
"""

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from PIL import Image

from coloring.hints import MOST, Color
from coloring.page import MOST_MEGABYTES, MOST_PHOTOS, Page, Said, Upload, explain_failures

SWATCH = 64, 64  # pixels
HOW_TO_SAY = (
    "Click on a place, then on one of its likeliest colors, or take any other. What is alike takes "
    "the color too. The rings show where a color would tell most."
)
HOUR, DAY = 3600, 24 * 3600  # seconds: every hour Gradio deletes uploads older than a day
STYLE = """
.gradio-container { max-width: min(1180px, 100vw) !important; margin: auto; }
.gradio-container main { max-width: 100%; box-sizing: border-box; }
footer { display: none !important; }
#gallery .grid-container { grid-template-columns: repeat(auto-fill, 84px) !important; }
#gallery button.thumbnail-item { width: 84px; height: 84px; }
#gallery .grid-wrap { min-height: 0; max-height: 200px; }
#swatches { flex-grow: 0; }
#swatches .grid-wrap { min-height: 0; }
#swatches .grid-container {
  grid-template-columns: repeat(6, minmax(0, 1fr)) !important; min-height: 56px;
}
#swatches .caption-label { font-size: 11px; padding: 0 3px; left: 0; right: auto; }
#other { align-items: flex-start; }
#say > div, #buttons {
  padding: var(--spacing-lg); gap: var(--spacing-lg); background: var(--block-background-fill);
}
#buttons button { border-radius: var(--radius-lg); }
"""


# ---- functions ---------------------------------------------------------------------------------
def parse_color(text: str | None) -> Color:
    """Return the color that a color picker gives, as "#a0522d" or "rgba(160.2, 82, 45, 1)".

    Raise ValueError if it is none.
    """
    if re.fullmatch("#[0-9a-fA-F]{6}", text or ""):
        return tuple(bytes.fromhex(text[1:]))
    levels = [float(level) for level in re.findall(r"\d+\.?\d*", text or "")[:3]]
    if len(levels) < 3 or max(levels) > 255:
        raise ValueError(f"{text}: no color; choose one with the color picker")
    return tuple(map(round, levels))


def replace_colors(said: list[Said], index: int, colors: Said) -> list[Said]:
    """Return what was said of all photographs, with other colors for one of them."""
    return [*said[:index], colors, *said[index + 1 :]]


def say_color(said: list[Said], index: int, place: int | None, color: Color) -> list[Said]:
    """Return what was said of all photographs, with one more color of a block of one of them.

    Raise ValueError if no place is chosen, or if the photograph has MOST colors.
    """
    if place is None:
        raise ValueError("click on a place of the photograph first")
    if len(said[index]) >= MOST:
        raise ValueError(f"{MOST} colors are the most for one photograph; undo some")
    return replace_colors(said, index, [*said[index], (place, color)])


def make_handlers(page: Page) -> tuple[Callable[..., Any], ...]:
    """Return the functions that the page's parts call; `Page` does the work."""
    import gradio as gr

    @explain_failures(gr.Error)
    def receive(paths: list[str] | None, earlier: list[Upload], said: list[Said]) -> tuple:
        # one more file, or one less, gives them all anew: what was said of the others stays
        kept = {photo.uploaded: colors for photo, colors in zip(earlier, said, strict=True)}
        page.forget(earlier)
        photos, faults = page.receive(paths or [])
        for fault in faults:
            gr.Warning(fault, duration=None)
        several = len(photos) > 1
        gallery = gr.Gallery([str(photo.before) for photo in photos], visible=several)
        shown = gr.Group(visible=bool(photos)), gr.Button(visible=several)
        said = [kept.get(photo.uploaded, []) for photo in photos]
        return photos, said, gallery, *shown, gr.File(None, visible=False)

    @explain_failures(gr.Error)
    def show(
        photos: list[Upload], said: list[Said], index: int, place: int | None, *settings: float
    ) -> tuple:
        if not photos:
            return (gr.skip(),) * 6
        photo, colors = photos[index], said[index]
        after, marked, file = map(str, page.show(photo, colors, place, *settings))
        hints = str(page.write_hints(photo, colors)) if colors else None
        hints = gr.DownloadButton(value=hints, interactive=bool(colors))
        files = (str(photo.before), after), marked, str(photo.uncertainty), file, hints
        return *files, gr.File(visible=False)  # what was made of an earlier answer

    def choose(event: gr.SelectData) -> tuple:
        return event.index, None, [], None

    @explain_failures(gr.Error)
    def write_all(photos: list[Upload], said: list[Said], *settings: float) -> Any:
        path = str(page.write_all(photos, said, *settings))
        return gr.File(path, label="All of them", visible=True)

    @explain_failures(gr.Error)
    def compare(photos: list[Upload], said: list[Said], index: int, *settings: float) -> Any:
        path = str(page.compare(photos[index], said[index], *settings))
        return gr.File(path, label="Gray and colored side by side", visible=True)

    return receive, show, choose, write_all, compare


def make_hint_handlers(page: Page, show: Callable[..., tuple]) -> tuple[Callable[..., Any], ...]:
    """Return the functions that take colors: a click, a swatch, a color picker, undo, clear.

    All but the click `show` the photograph anew, in the same answer: each way costs time.
    """
    import gradio as gr

    @explain_failures(gr.Error)
    def click(
        photos: list[Upload], said: list[Said], index: int, vividness: float, event: gr.SelectData
    ) -> tuple:
        photo, colors = photos[index], said[index]
        place = page.find_block(photo, event.index)
        offered = page.offer(photo, place, vividness)
        swatches = [(Image.new("RGB", SWATCH, color), f"{p:.0%}") for color, p in offered]
        swatches = gr.Gallery(swatches, selected_index=None)
        first = f"#{bytes(offered[0][0]).hex()}"
        return place, offered, swatches, first, str(page.mark(photo, colors, place))

    @explain_failures(gr.Error)
    def explain(photos: list[Upload], index: int, place: int) -> str:
        return str(page.explain(photos[index], place))

    @explain_failures(gr.Error)
    def take(offered: list, event: gr.SelectData, photos, said, index, place, *how) -> tuple:
        said = say_color(said, index, place, offered[event.index][0])
        return said, *show(photos, said, index, place, *how)

    @explain_failures(gr.Error)
    def take_other(color: str, photos, said, index, place, *how) -> tuple:
        said = say_color(said, index, place, parse_color(color))
        return said, *show(photos, said, index, place, *how)

    def undo(photos, said, index, *how) -> tuple:
        said = replace_colors(said, index, said[index][:-1])
        return said, *show(photos, said, index, *how)

    def clear(photos, said, index, *how) -> tuple:
        said = replace_colors(said, index, [])
        return said, *show(photos, said, index, *how)

    return click, explain, take, take_other, undo, clear


def add_views() -> SimpleNamespace:
    """Lay out the views of a photograph: the slider, the place clicked on, the uncertainty."""
    import gradio as gr

    # no share button: it sends the picture off this machine
    plain, parts = {"type": "filepath", "buttons": ["fullscreen"]}, SimpleNamespace()
    with gr.Tab("Before, after"):
        parts.slider = gr.ImageSlider(**plain, show_label=False, elem_id="slider", max_height=720)
    with gr.Tab("Say a color"), gr.Row(elem_id="say"):
        with gr.Column(scale=3, min_width=320):
            parts.clicked = gr.Image(
                type="filepath", buttons=[], interactive=False, show_label=False, elem_id="clicked"
            )
        with gr.Column(scale=2, min_width=280):
            gr.Markdown(HOW_TO_SAY)
            parts.swatches = gr.Gallery(
                show_label=False, allow_preview=False, buttons=[], height="auto", elem_id="swatches"
            )
            small = {"size": "sm", "min_width": 80}
            with gr.Row(elem_id="other"):  # an open picker moves nothing that is beside it
                label = "Any other color"
                parts.picker = gr.ColorPicker("#a0522d", label=label, elem_id="picker", scale=3)
                parts.take = gr.Button("Take it", elem_id="take", **small)
            with gr.Row():
                parts.undo = gr.Button("Undo", elem_id="undo", **small)
                parts.clear = gr.Button("Clear", elem_id="clear", **small)
            parts.hints = gr.DownloadButton(
                "Download the hints", interactive=False, elem_id="hints", size="sm"
            )
            with gr.Accordion("What the network thinks of the place", open=False):
                parts.distribution = gr.Image(**plain, show_label=False, elem_id="distribution")
    with gr.Tab("Uncertainty"):
        label = "Where the network is not sure: white, no idea; black, certain"
        parts.uncertainty = gr.Image(**plain, label=label, elem_id="uncertainty")
    return parts


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

    receive, show, choose, write_all, compare = make_handlers(page)
    title, limits = "Color photographs", f"{MOST_PHOTOS} photographs of {MOST_MEGABYTES} MB"
    bare = {"show_label": False, "allow_preview": False, "buttons": [], "visible": False}
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(HOUR, DAY)) as blocks:
        photos, said = gr.State([], delete_callback=page.forget), gr.State([])
        index, place = gr.State(0), gr.State(None)
        gr.Markdown(f"# {title}\n{describe(page.info)}")
        upload = gr.File(
            label=f"At most {limits}", file_count="multiple", elem_id="upload", height=150
        )
        gallery = gr.Gallery(**bare, height="auto", object_fit="cover", elem_id="gallery")
        with gr.Group(visible=False) as result:
            parts = add_views()
            settings = add_controls(page.info, len(page.colorizer.centers))
            with gr.Row(elem_id="buttons"):
                one = gr.DownloadButton("Download", elem_id="download", variant="primary")
                beside = gr.Button("Gray and colored side by side", elem_id="compare")
                all_ = gr.Button("All in a zip", visible=False, elem_id="zip")
            archive = gr.File(visible=False, elem_id="archive")

        shown = {"fn": show, "inputs": [photos, said, index, place, *settings]}
        shown["outputs"] = [parts.slider, parts.clicked, parts.uncertainty, one, parts.hints]
        shown["outputs"].append(archive)
        shown["show_progress"] = "minimal"
        received = [photos, said, gallery, result, all_, archive]
        chosen = [index, place, parts.swatches, parts.distribution]
        upload.change(receive, [upload, photos, said], received).then(
            lambda: (0, None, [], None), None, chosen
        ).then(**shown)
        gallery.select(choose, None, chosen).then(**shown)
        gr.on([control.change for control in settings], trigger_mode="always_last", **shown)
        beside.click(compare, [photos, said, index, *settings], archive)
        all_.click(write_all, [photos, said, *settings], archive)
        connect_hints(page, parts, shown)
    return blocks


def connect_hints(page: Page, parts: SimpleNamespace, shown: dict[str, Any]) -> None:
    """Connect the parts that take colors; `shown` is the event that colors the photograph anew."""
    import gradio as gr

    click, explain, take, take_other, undo, clear = make_hint_handlers(page, shown["fn"])
    photos, said, index, place, vividness, *_ = state = shown["inputs"]
    offered = gr.State([])
    found = [place, offered, parts.swatches, parts.picker, parts.clicked]
    parts.clicked.select(
        click, [photos, said, index, vividness], found, show_progress="hidden"
    ).success(explain, [photos, index, place], parts.distribution, show_progress="hidden")
    for event, function, first in (
        (parts.swatches.select, take, [offered]),
        (parts.take.click, take_other, [parts.picker]),
        (parts.undo.click, undo, []),
        (parts.clear.click, clear, []),
    ):
        event(
            function,
            [*first, *state],
            [said, *shown["outputs"]],
            show_progress="minimal",
            # by default a click is lost while the one before colors; in turn, each reads what the
            # one before said
            trigger_mode="multiple",
            concurrency_limit=1,
            concurrency_id="said",
        )
