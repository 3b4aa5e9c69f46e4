"""The page in the browser: its parts, laid out by Gradio.

Gradio is slow to import, and optional: each function imports it itself.
"""

from types import SimpleNamespace
from typing import Any

from page.handlers import Handlers, answer
from page.visitors import LIMIT

HOW_TO_SAY = (
    "Click on a place, then on one of its likeliest colors, or take any other. What is alike takes "
    "the color too. The rings show where a color would tell most."
)
SAVE = """file => { if (!file) return; const link = document.createElement("a");
link.href = file.url; link.download = file.orig_name; link.click(); }"""  # in the browser
AS_IT_IS = {"preprocess": False}  # what comes from the browser was checked before
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
            parts.hints = gr.Button(
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
        "Temperature": (scale, 0.05, 1.5, min(max(info["temperature"], 0.05), 1.5), 0.01),
        "Top-k": ("number of most probable colors to average", 1, Q, info["top_k"], 1),
        "Sample": (drawn, 0, 8, 0, 1),
    }
    with gr.Row():
        controls = [
            gr.Slider(
                *span, step=step, label=label, info=text, elem_id=label.lower(), min_width=200
            )
            for label, (text, *span, step) in sliders.items()
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


def lay_out(handlers: Handlers) -> Any:
    """Lay out the page, and connect its parts to the functions that they call."""
    import gradio as gr

    page = handlers.page
    title = "Color photographs"
    bare = {"show_label": False, "allow_preview": False, "buttons": [], "visible": False}
    with gr.Blocks(title=title, analytics_enabled=False) as blocks:
        blocks.unload(lambda: None)  # so that browsers tell as long as they show the page
        gr.Markdown(f"# {title}\n{describe(page.info)}")
        upload = gr.File(
            label=f"At most {LIMIT}", file_count="multiple", elem_id="upload", height=150
        )
        faults = gr.HTML(visible=False, elem_id="faults")
        gallery = gr.Gallery(**bare, height="auto", object_fit="cover", elem_id="gallery")
        with gr.Group(visible=False) as result:
            parts = add_views()
            settings = add_controls(page.info, len(page.colorizer.centers))
            with gr.Row(elem_id="buttons"):
                parts.one = gr.Button("Download", elem_id="download", variant="primary")
                parts.beside = gr.Button("Gray and colored side by side", elem_id="compare")
                parts.all = gr.Button("All in a zip", visible=False, elem_id="zip")
            parts.archive = gr.File(visible=False, elem_id="archive")
            parts.file = gr.File(visible=False)  # that the browser saves

        outputs = [parts.slider, parts.clicked, parts.uncertainty, parts.hints, parts.archive]
        shown = {"inputs": settings, "outputs": outputs, "show_progress": "minimal", **AS_IT_IS}
        show = answer(handlers.show)
        received = [upload, faults, gallery, result, parts.all]
        chosen = [parts.swatches, parts.distribution]
        gr.on(
            [upload.upload, upload.delete, upload.clear],
            answer(handlers.receive),
            upload,
            received,
            trigger_mode="multiple",
            **AS_IT_IS,
        ).then(lambda: ([], None), None, chosen).then(answer(handlers.show_any), **shown)
        gallery.select(answer(handlers.choose, clicked=True), None, chosen, **AS_IT_IS).then(
            show, **shown
        )
        gr.on([c.change for c in settings], show, trigger_mode="always_last", **shown)
        connect_hints(handlers, parts, shown)
        connect_files(handlers, parts, settings)
    return blocks


def connect_hints(handlers: Handlers, parts: SimpleNamespace, shown: dict[str, Any]) -> None:
    """Connect the parts that take colors; `shown` is how the photograph is colored anew."""
    vividness, found = shown["inputs"][0], [parts.swatches, parts.picker, parts.clicked]
    hidden = {"show_progress": "hidden", **AS_IT_IS}
    click = parts.clicked.select(answer(handlers.click, clicked=True), [vividness], found, **hidden)
    click.success(answer(handlers.explain), None, parts.distribution, **hidden)
    for event, function, first in (
        (parts.swatches.select, answer(handlers.take, clicked=True), []),
        (parts.take.click, answer(handlers.take_other), [parts.picker]),
        (parts.undo.click, answer(handlers.undo), []),
        (parts.clear.click, answer(handlers.clear), []),
    ):
        # by default a click is lost while the one before colors
        event(
            function,
            **{**shown, "inputs": [*first, *shown["inputs"]]},
            trigger_mode="multiple",
        )


def connect_files(handlers: Handlers, parts: SimpleNamespace, settings: list[Any]) -> None:
    """Connect the buttons that write files: a single one is saved at once, others get a link."""
    for button, function, inputs in (
        (parts.one, handlers.download, settings),
        (parts.hints, handlers.write_hints, None),
    ):
        button.click(answer(function), inputs, parts.file, **AS_IT_IS).success(
            None, parts.file, None, js=SAVE
        )
    parts.beside.click(answer(handlers.compare), settings, parts.archive, **AS_IT_IS)
    parts.all.click(answer(handlers.write_all), settings, parts.archive, **AS_IT_IS)
