"""Make caches of 1,000, 10,000 and 100,000 generated photographs: time and each worker's memory.

The photographs, 178 x 218 JPEGs, come as CelebA does, in a zip with a list of splits. Memory is the
largest proportional set size (PSS: pages that processes share are divided among them) and the
largest resident set (RSS) that a worker of create_dataset.py was seen with. Linux only.

examples:
  python benchmarks/measure_creating_many.py
  python benchmarks/measure_creating_many.py --numbers 1000 10000 --size 128
"""

import contextlib
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from timing import ROOT, generate_jpegs

from common.command_line import make_parser

DISTINCT = 500  # photographs that are generated; more are the same again under other names


def write_faces(folder: Path, number: int, jpegs: list[bytes]) -> None:
    """Write a data set laid out as CelebA: a zip and a list, 8 in 10 for training."""
    folder.mkdir()
    names = [f"{i:06d}.jpg" for i in range(number)]
    with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as file:
        for i, name in enumerate(names):
            file.writestr(f"img_align_celeba/{name}", jpegs[i % len(jpegs)])
    lines = [f"{name} {'0000000012'[i % 10]}" for i, name in enumerate(names)]
    (folder / "list_eval_partition.txt").write_text("\n".join(lines))


def memory(pid: str) -> tuple[int, int]:
    """Return the PSS and RSS of a process in bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return 1024 * kilobytes["Pss"], 1024 * kilobytes["Rss"]


def watch(process: subprocess.Popen) -> tuple[int, int]:
    """Wait for a command; return the largest PSS and RSS of its workers."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    pss = rss = 0
    while process.poll() is None:
        with contextlib.suppress(OSError):  # one that has ended
            for worker in children.read_text().split():
                now = memory(worker)
                pss, rss = max(pss, now[0]), max(rss, now[1])
        time.sleep(0.05)
    if process.wait():
        raise SystemExit(process.returncode)
    return pss, rss


def main() -> None:
    """Print a line for each number."""
    parser = make_parser(__doc__)
    # fmt: off
    parser.add_argument("--numbers", type=int, nargs="+", default=[1000, 10_000, 100_000], metavar="N", help="photographs")
    parser.add_argument("--size", type=int, default=64, metavar="PX", help="side of the cached photographs")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="worker processes")
    # fmt: on
    args = parser.parse_args()
    jpegs = generate_jpegs(DISTINCT, 178, 218)
    print("  photos  seconds  photos/s  largest shard     PSS     RSS")
    for number in args.numbers:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            write_faces(folder / "faces", number, jpegs)
            command = [sys.executable, ROOT / "create_dataset.py", "--dataset", "celeba"]
            command += ["--root", folder / "faces", "--cache", folder / "cache"]
            command += ["--size", str(args.size), "--workers", str(args.workers)]
            start = time.perf_counter()
            with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
                pss, rss = watch(process)
            seconds = time.perf_counter() - start
            shard = max(path.stat().st_size for path in (folder / "cache").rglob("*.h5"))
            print(
                f"{number:8,} {seconds:8.1f} {number / seconds:9,.0f} {shard / 1e6:11.1f} MB "
                f"{pss / 1e6:4.0f} MB {rss / 1e6:4.0f} MB"
            )


if __name__ == "__main__":
    main()
