"""Color photographs on the page of app.py, by several visitors at the same time.

Each visitor uploads a JPEG, and then moves a slider as soon as the answer to the move before is
there: the page colors the photograph in a screen's size. In turn with that, each downloads it: it
is colored at its own size and written, as every answer would have to be if the page showed it so.
Prints answers a second, the median and the longest wait, the server's memory, and the ratio.

examples:
  python benchmarks/measure_page.py
  python benchmarks/measure_page.py --users 1 --megapixels 12 --seconds 30
"""

import statistics
import tempfile
import threading
import time
from pathlib import Path

from timing import ROOT, generate_jpegs
from visiting import Visitor, serve

from common.command_line import make_parser, number

WAYS = {"shown": ("temperature", "change"), "downloaded": ("download", "click")}


def visit(visitor: Visitor, way: str, until: float, waits: list[float]) -> None:
    """Wish answers one after the other until a time, and note how long each took."""
    vividness, _, top_k, _ = visitor.settings
    while (start := time.monotonic()) < until:
        temperature = 0.1 + len(waits) % 100 / 100
        visitor.do(*WAYS[way], [vividness, temperature, top_k, 0])
        waits.append(time.monotonic() - start)


def visit_together(visitors: list[Visitor], way: str, seconds: float) -> list[float]:
    """Let visitors wish answers at the same time; return how long each answer took."""
    waits: list[float] = []
    until = time.monotonic() + seconds
    threads = [threading.Thread(target=visit, args=(v, way, until, waits)) for v in visitors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return waits


def memory_of(process: int) -> float:
    """Return the memory of a process in MB, where the system tells."""
    status = Path(f"/proc/{process}/status")
    if not status.exists():
        return float("nan")
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1e3


def main() -> None:
    """Measure."""
    parser = make_parser(__doc__)
    # fmt: off
    parser.add_argument("--users", type=number(int, 1), nargs="+", default=[1, 4, 16], metavar="N", help="numbers of visitors at the same time")
    parser.add_argument("--megapixels", type=number(float, 0.01), default=2, metavar="MP", help="size of the JPEG")
    parser.add_argument("--seconds", type=number(float, 0.1), default=10, metavar="S", help="length of each measurement")
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "checkpoints" / "photos-128.pt", metavar="FILE", help="the page's")
    # fmt: on
    args = parser.parse_args()
    width, height = (round((args.megapixels * 1e6 * share) ** 0.5) for share in (4 / 3, 3 / 4))
    process, port = serve(args.checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder, "photo.jpg")
        (content,) = generate_jpegs(1, width, height)
        photo.write_bytes(content)
        for users in args.users:
            visitors = [Visitor(port) for _ in range(users)]
            for visitor in visitors:
                visitor.do("upload", "upload", [visitor.upload(photo)])
            rates = {}
            for way in WAYS:
                waits = visit_together(visitors, way, args.seconds)
                rates[way] = len(waits) / max(args.seconds, sum(waits) / users)
                print(
                    f"{users:3} visitors, {way:10}: {rates[way]:5.2f} answers/s, "
                    f"median {statistics.median(waits):5.2f} s, longest {max(waits):5.2f} s, "
                    f"memory {memory_of(process.pid):5.0f} MB",
                    flush=True,
                )
            ratio = rates["shown"] / rates["downloaded"]
            print(f"{users:3} visitors: shown {ratio:.1f} times as fast as downloaded", flush=True)
            for visitor in visitors:
                visitor.do("upload", "clear", [None])
    process.terminate()
    process.wait()


if __name__ == "__main__":
    main()
