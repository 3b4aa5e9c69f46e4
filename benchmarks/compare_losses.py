"""Train each loss on each data set with each seed, and compare what the test split scores.

Each run is train.py, then generate.py three times: decoded as in the paper (T = 0.38, all bins),
and at the two points that its sweep of the validation split finds, the highest PSNR, and the
highest of those as colorful as the truth. losses.json in --out has the scores of each run that is
done, one run a line: the same command again goes on where it was stopped, and adds the runs of more
losses or seeds. Prints tables, mean and half the spread over seeds. The paper's network can be set
beside the losses, trained as ours is and by its own recipe.

examples:
  python benchmarks/compare_losses.py
  python benchmarks/compare_losses.py --datasets flowers --ways plain zhang zhang-own --seeds 0
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from timing import ROOT

from common.command_line import DEFAULT_CACHE, make_parser, number, photo_size, run_command
from common.files import locked, write_whole
from dataset import Cache
from shards.plan import find_cache

WAYS = {  # options of train.py
    "plain": "--loss plain",
    "rebalanced": "--loss rebalanced",
    "normalized": "--loss normalized",
    "zhang": "--net zhang --loss plain",
    "zhang-own": "--net zhang --loss rebalanced --lr 3e-5 --weight-decay 1e-3 --batch-size 40 --num-neighbors 10 --ema 0",
}
PAPER = {"vividness": 0.0, "temperature": 0.38, "top_k": 313}
GOALS = {  # of the decodings
    "paper": "as in the paper",
    "psnr": "best PSNR",
    "colorfulness": "as colorful as the truth",
}
BASELINES = ("mean colour", "gray", "true colours at quarter resolution")  # as in metrics.json
FIGURES = {"psnr": 2, "ssim": 3, "colorfulness": 1, "auc_macro": 3, "auc_balanced": 3}  # decimals
Scores = dict[str, dict[str, Any]]


# ---- runs --------------------------------------------------------------------------------------
def call(script: str, threads: int, options: list[str]) -> None:
    """Run one of the project's scripts; the last line of its errors is kept for ours."""
    done = subprocess.run(
        [sys.executable, ROOT / script, *options],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        told = done.stderr.strip() or f"ended with status {done.returncode}"
        raise ValueError(f"{script} {' '.join(options)}: {told.splitlines()[-1]}")


def decode_and_score(run: Path, name: str, decoding: dict[str, float], common: list[str]) -> Scores:
    """Score a run's best weights on the test split with a decoding, unless that is done."""
    folder = run / name
    if not (folder / "metrics.json").exists():
        options = [f"--{key.replace('_', '-')}={value}" for key, value in decoding.items()]
        checkpoint = ["--checkpoint", str(run / "best.pt"), "--out", str(folder)]
        call("generate.py", 1, [*common, *checkpoint, *options])
    return json.loads((folder / "metrics.json").read_text())["scores"]


def run_once(folder: Path, run: dict[str, Any], root: Path, threads: int) -> dict[str, Any]:
    """Train and score one run, as far as that is not done; return its scores."""
    common = ["--cache", str(root), "--dataset", run["dataset"], "--size", str(run["size"])]
    options = [*common, *WAYS[run["way"]].split(), *run["length"].split()]
    options += ["--seed", str(run["seed"]), "--out", str(folder), "--resume"]
    call("train.py", threads, options)
    if not (folder / "sweep.json").exists():
        checkpoint = ["--checkpoint", str(folder / "best.pt"), "--out", str(folder)]
        call("generate.py", threads, [*common, *checkpoint, "--sweep"])
    best = json.loads((folder / "sweep.json").read_text())["best"]
    decodings = {"paper": PAPER, "psnr": best["psnr"], "colorfulness": best["colorfulness"]}
    for name, decoding in decodings.items():
        point = {key: decoding[key] for key in PAPER}
        decodings[name] = {**point, "scores": decode_and_score(folder, name, point, common)}
    return decodings


def find(done: list[dict[str, Any]], run: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the run of that cache, loss, seed and length, if it is done."""
    return [other for other in done if run.items() <= other.items()]


def read_scores(path: Path) -> list[dict[str, Any]]:
    """Return the runs that are done.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        return json.loads(path.read_text()) if path.exists() else []
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}); delete it: runs are scored again") from error


def write_scores(path: Path, done: list[dict[str, Any]]) -> None:
    """Write the runs that are done as one JSON array, a line each."""
    text = "[\n" + ",\n".join(json.dumps(run) for run in done) + "\n]\n"
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


# ---- tables ------------------------------------------------------------------------------------
def describe(values: list[float | None], decimals: int) -> str:
    """Return the mean, and half the spread where there are several values; None: no figure."""
    if None in values:
        return "-"
    spread = f" ± {(max(values) - min(values)) / 2:.{decimals}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{decimals}f}{spread}"


def make_table(runs: list[dict[str, Any]]) -> str:
    """Return a data set's table in Markdown: ways and decodings, then the baselines."""
    truth = runs[0]["decodings"]["paper"]["scores"]["truth"]["colorfulness"]
    head = f"PSNR | SSIM | colorfulness (true {truth:.1f}) | AuC macro | AuC balanced"
    lines = [f"| {runs[0]['dataset']} | decoded | V, T, top-k | {head} |", "|---" * 8 + "|"]

    def row(name: str, goal: str, decoding: str, scores: list[dict[str, float]]) -> str:
        cells = [describe([s[key] for s in scores], n) for key, n in FIGURES.items()]
        return f"| {name} | {goal} | {decoding} | {' | '.join(cells)} |"

    for way in dict.fromkeys(run["way"] for run in runs):
        for name, goal in GOALS.items():
            found = [run["decodings"][name] for run in runs if run["way"] == way]
            points = dict.fromkeys(", ".join(f"{d.get(key, 0):g}" for key in PAPER) for d in found)
            ours = [d["scores"]["ours"] for d in found]
            lines.append(row(way, goal, "; ".join(points), ours))
    baselines = runs[0]["decodings"]["paper"]["scores"]
    lines += [row(name, "", "", [baselines[name]]) for name in BASELINES]
    return "\n".join(lines)


# ---- command line ------------------------------------------------------------------------------
def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    # fmt: off
    parser.add_argument("--datasets", nargs="+", default=["flowers", "celeba"], metavar="NAME", help="names of caches")
    parser.add_argument("--size", type=photo_size, default=64, metavar="PX", help="side of their photographs")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, metavar="DIR", help="folder of all caches")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["plain", "rebalanced", "normalized"], help="losses; zhang: the paper's network by our recipe; zhang-own: by its own optimizer and targets")
    parser.add_argument("--seeds", nargs="+", type=number(int, 0, 2**31), default=[0, 1], metavar="N", help="of each loss and data set")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=number(float, 0, above=True), default=8, metavar="T", help="length of each run")
    length.add_argument("--steps", type=number(int, 1, 2**31), metavar="N", help="length of each run, instead: the same on any machine")
    parser.add_argument("--jobs", type=number(int, 1), default=1, metavar="N", help="runs at a time; they share the processors")
    parser.add_argument("--out", type=Path, default=Path("runs/losses"), metavar="DIR", help="folder of the runs")
    # fmt: on
    return parser.parse_args()


def plan_runs(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return all runs that are asked for, each once, after a look whether their caches are there."""
    caches = {name: Cache(find_cache(args.cache, name, args.size)) for name in args.datasets}
    length = f"--steps {args.steps}" if args.steps else f"--minutes {args.minutes:g}"
    return [
        dict(dataset=name, size=args.size, cache=cache.digest, way=way, seed=seed, length=length)
        for seed in dict.fromkeys(args.seeds)
        for name, cache in caches.items()
        for way in dict.fromkeys(args.ways)
    ]


def main() -> None:
    """Train, score, print."""
    args = parse_args()
    threads = max(1, (os.cpu_count() or 1) // args.jobs)
    wanted, scores, lock = plan_runs(args), args.out / "losses.json", threading.Lock()
    done: list[dict[str, Any]] = []

    def finish(run: dict[str, Any]) -> None:
        unit, value = run["length"].removeprefix("--").split()
        name = "{dataset}-{size}-{way}-{seed}".format(**run)
        folder = args.out / name / f"{value}-{unit}-{run['cache'][:8]}"
        print(f"{folder}: begins", flush=True)
        found = run_once(folder, run, args.cache, threads)
        with lock:
            done.append({**run, "decodings": found})
            write_scores(scores, done)
            print(f"{folder}: done", flush=True)

    with locked(args.out), ThreadPoolExecutor(args.jobs) as pool:
        done += read_scores(scores)
        list(pool.map(finish, [run for run in wanted if not find(done, run)]))
    for dataset in dict.fromkeys(args.datasets):
        runs = [found for run in wanted for found in find(done, run) if run["dataset"] == dataset]
        print(f"\n{make_table(runs)}")


if __name__ == "__main__":
    run_command(main, "run the same command again: it goes on where it was")
