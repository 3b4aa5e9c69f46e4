"""Color photographs on a page in the browser, on this machine.

Drop one photograph or several: one slider compares before and after, at full resolution. The
network looks at each photograph once; vividness, temperature, top-k and other colorings answer at
once. A click on a place offers its likeliest colors; choose one, or any other, and what is alike
takes it too. Needs Gradio: pip install -r requirements-app.txt

examples:
  python app.py
  python app.py --checkpoint checkpoints/flowers-64.pt --port 8000
"""

if __name__ == "__main__":
    from common.starting import prepare

    prepare()  # before torch is imported

import argparse
import importlib.util
import os
import socket
import tempfile
import threading
from pathlib import Path

from coloring.browser import STYLE, lay_out
from coloring.page import MOST_MEGABYTES, Page
from colorizer import load_colorizer
from common.command_line import (
    add_device_option,
    default_checkpoint,
    make_parser,
    number,
    run_command,
)
from common.processes import choose_device


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


def read_heading(card: Path) -> str:
    """Return the first heading of a checkpoint's card, "" if there is none."""
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    return next((line[2:] for line in text.splitlines() if line.startswith("# ")), "")


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
