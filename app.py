"""Color photographs on a page in the browser, on this machine.

Drop one photograph or several: one slider compares before and after; the download is colored at
full resolution. The network looks at each photograph once; vividness, temperature, top-k and other
colorings answer at once. A click on a place offers its likeliest colors; choose one, or any other,
and what is alike takes it too. Needs Gradio: pip install -r requirements-app.txt

examples:
  python app.py
  python app.py --checkpoint checkpoints/flowers-64.pt --port 8000
  python app.py --host 0.0.0.0 --names mine.local --room 10
"""

if __name__ == "__main__":
    from common.starting import prepare

    prepare()  # before torch is imported

import argparse
import importlib.util
import logging
import os
import signal
import socket
from pathlib import Path
from typing import Any

from colorizer import load_colorizer
from common.command_line import (
    add_device_option,
    default_checkpoint,
    make_parser,
    number,
    run_command,
)
from common.files import temporary_folder
from common.processes import choose_device
from page.answers import Page
from page.visitors import Visitors

MOST_QUEUED = 100  # wishes that Gradio holds before they wait for their turn
MOST_SESSIONS = 500  # of which Gradio keeps how the parts of the page look
MOST_CONNECTIONS = 500


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    # fmt: off
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="a best.pt or last.pt, or the published weights of Zhang et al.; default: the newest runs/*/best.pt or, if no run is newer, checkpoints/photos-128.pt, for photographs of all kinds")
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="address to serve on; 0.0.0.0 lets other machines in, by the address of this one and by --names")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="names or further addresses of this machine by which browsers may ask for the page")
    parser.add_argument("--port", type=number(int, 1, 65535), default=7860, metavar="N", help="port to serve on")
    parser.add_argument("--room", type=number(float, 0.01), default=4, metavar="GB", help="disk and memory, together, that the photographs of all visitors may take")
    add_device_option(parser)
    # fmt: on
    args = parser.parse_args()
    args.host, args.names = args.host.strip("[]"), args.names or []
    if not args.host or any(set(name) & set("/@ ") for name in args.names):
        parser.error("--host and --names take names or addresses, as 192.168.1.5 or mine.local")
    if importlib.util.find_spec("gradio") is None:
        parser.error("the page needs Gradio; pip install -r requirements-app.txt")
    args.checkpoint = args.checkpoint or default_checkpoint(parser, print, general=True)
    return args


def read_heading(card: Path) -> str:
    """Return the first heading of a checkpoint's card, "" if there is none."""
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    return next((line[2:] for line in text.splitlines() if line.startswith("# ")), "")


def listen(host: str, port: int) -> socket.socket:
    """Begin to listen, before the network is loaded; raise ValueError if that is not possible."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        both = host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server((host, port), family=family, dualstack_ipv6=both)
    except OSError as error:
        reason = error.strerror.lower().partition(" (")[0]
        raise ValueError(f"{host}:{port}: {reason}; choose another --port or --host") from error


def make_server(page: Page, root: Path, args: argparse.Namespace) -> Any:
    """Return uvicorn's server of the page, whose files lie below `root`."""
    os.environ["GRADIO_TEMP_DIR"] = str(root)  # read when Gradio is imported
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI

    from page.guard import Guard
    from page.handlers import Handlers
    from page.layout import STYLE, lay_out

    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of broken uploads
    visitors = Visitors(root, int(args.room * 1e9))
    blocks = lay_out(Handlers(page, visitors))
    blocks.queue(default_concurrency_limit=None, max_size=MOST_QUEUED)
    blocks.state_session_capacity = MOST_SESSIONS
    font = ["system-ui", "sans-serif"]  # the default would be fetched from Google
    theme = gr.themes.Base(primary_hue="amber", neutral_hue="stone", font=font)
    shut = {"run_history": False, "enable_monitoring": False, "ssr_mode": False, "pwa": False}
    shut |= {"mcp_server": False, "footer_links": []}
    app = gr.mount_gradio_app(FastAPI(), blocks, "/", theme=theme, css=STYLE, **shut)
    guard = Guard(app, blocks, visitors, [args.host, *args.names])
    config = uvicorn.Config(
        guard,
        log_level="critical",
        proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)


def main() -> None:
    """Serve the page until Ctrl-C."""
    args = parse_args()
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        # a closed terminal ends the page as Ctrl-C does
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    with listen(args.host, args.port) as listening:
        colorizer, info = load_colorizer(args.checkpoint)
        info["card"] = read_heading(args.checkpoint.with_suffix(".md"))
        colorizer.to(choose_device(args.device))
        with temporary_folder("colors-") as root:
            server = make_server(Page(colorizer, info), root, args)
            host = f"[{args.host}]" if ":" in args.host else args.host
            address = f"http://{host}:{args.port}"
            print(f"{address} colors with {args.checkpoint}; stop with Ctrl-C", flush=True)
            server.run(sockets=[listening])


if __name__ == "__main__":
    run_command(
        main,
        "the page has deleted all visitors' photographs; run the same command again",
        at_once=True,
    )
