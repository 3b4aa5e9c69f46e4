"""Train each loss on each data set with each seed, and compare what the test split scores.

Each run is train.py, then generate.py three times: decoded as in the paper (T = 0.38, all bins),
and at the two points that its sweep of the validation split finds, the highest PSNR and the
colourfulness nearest the truth's. losses.json in --out has the scores of each run that is done:
the same command again goes on where it was stopped, and more losses or seeds are added to it.
Prints tables, mean and half the spread over seeds. The paper's network can be set beside the
losses, trained as ours is and by its own recipe.

examples:
  python benchmarks/compare_losses.py
  python benchmarks/compare_losses.py --datasets flowers --ways plain zhang zhang-own --seeds 0
"""

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

from command_line import make_parser, number, run_command
from files import write_json

OWN = "--net zhang --loss rebalanced --lr 3e-5 --weight-decay 1e-3 --batch-size 40 --num-neighbors 10 --ema 0"
WAYS = {  # options of train.py
    "plain": "--loss plain",
    "rebalanced": "--loss rebalanced",
    "normalized": "--loss normalized",
    "zhang": "--net zhang --loss plain",
    "zhang-own": OWN,
}
PAPER = {"temperature": 0.38, "top_k": 313}
BASELINES = ("mean colour", "gray", "true colours at quarter resolution")
FIGURES = {"psnr": 2, "ssim": 3, "colorfulness": 1, "auc_macro": 3, "auc_balanced": 3}  # decimals
Scores = dict[str, dict[str, Any]]


# ---- runs --------------------------------------------------------------------------------------
def call(script: str, threads: int, options: list[str]) -> None:
    """Run one of the project's scripts; its output is kept for an error."""
    done = subprocess.run(
        [sys.executable, ROOT / script, *options],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise ValueError(f"{script} {' '.join(options)}: {done.stderr.strip()}")


def decode_and_score(run: Path, name: str, decoding: dict[str, float], common: list[str]) -> Scores:
    """Score a run's best weights on the test split with a decoding, unless that is done."""
    folder = run / name
    if not (folder / "metrics.json").exists():
        options = ["--temperature", str(decoding["temperature"]), "--top-k", str(decoding["top_k"])]
        checkpoint = ["--checkpoint", str(run / "best.pt"), "--out", str(folder)]
        call("generate.py", 1, [*common, *checkpoint, *options])
    return json.loads((folder / "metrics.json").read_text())["scores"]


def run_once(
    folder: Path, way: str, seed: int, length: list[str], common: list[str], threads: int
) -> dict[str, Any]:
    """Train and score one run, as far as that is not done; return its scores."""
    options = [*common, *WAYS[way].split(), *length, "--seed", str(seed)]
    call("train.py", threads, [*options, "--out", str(folder), "--resume"])
    if not (folder / "sweep.json").exists():
        checkpoint = ["--checkpoint", str(folder / "best.pt"), "--out", str(folder)]
        call("generate.py", threads, [*common, *checkpoint, "--sweep"])
    best = json.loads((folder / "sweep.json").read_text())["best"]
    decodings = {"paper": PAPER, "psnr": best["psnr"], "colorfulness": best["colorfulness"]}
    return {
        name: {
            "temperature": decoding["temperature"],
            "top_k": decoding["top_k"],
            "scores": decode_and_score(folder, name, decoding, common),
        }
        for name, decoding in decodings.items()
    }


def find(done: list[dict[str, Any]], run: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the run of that data set, loss, seed and length, if it is done."""
    return [other for other in done if run.items() <= other.items()]


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
    head = f"PSNR | SSIM | colourfulness (true {truth:.1f}) | AuC macro | AuC balanced"
    lines = [f"| {runs[0]['dataset']} | T, top-k | {head} |", "|---" * 7 + "|"]

    def row(name: str, decoding: str, scores: list[dict[str, float]]) -> str:
        cells = [describe([s[key] for s in scores], n) for key, n in FIGURES.items()]
        return f"| {name} | {decoding} | {' | '.join(cells)} |"

    for way in dict.fromkeys(run["way"] for run in runs):
        for name in ("paper", "psnr", "colorfulness"):
            found = [run["decodings"][name] for run in runs if run["way"] == way]
            points = dict.fromkeys(f"{d['temperature']:g}, {d['top_k']}" for d in found)
            lines.append(row(way, "; ".join(points), [d["scores"]["ours"] for d in found]))
    baselines = runs[0]["decodings"]["paper"]["scores"]
    lines += [row(name, "", [baselines[name]]) for name in BASELINES]
    return "\n".join(lines)


def main() -> None:
    """Train, score, print."""
    parser = make_parser(__doc__)
    # fmt: off
    parser.add_argument("--datasets", nargs="+", default=["flowers", "celeba"], metavar="NAME", help="names of caches")
    parser.add_argument("--size", default="64", metavar="PX", help="side of their photographs")
    parser.add_argument("--cache", default="cache", metavar="DIR", help="folder of all caches")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["plain", "rebalanced", "normalized"], help="losses; zhang: the paper's network by our recipe; zhang-own: by its own")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1], metavar="N", help="of each loss and data set")
    parser.add_argument("--minutes", metavar="T", help="length of each run; default: 8")
    parser.add_argument("--steps", metavar="N", help="length of each run, instead: the same on any machine")
    parser.add_argument("--jobs", type=number(int, 1), default=1, metavar="N", help="runs at a time; they share the processors")
    parser.add_argument("--out", type=Path, default=Path("runs/losses"), metavar="DIR", help="folder of the runs")
    # fmt: on
    args = parser.parse_args()
    length = ["--steps", args.steps] if args.steps else ["--minutes", args.minutes or "8"]
    threads = max(1, (os.cpu_count() or 1) // args.jobs)
    scores, lock = args.out / "losses.json", threading.Lock()
    done = json.loads(scores.read_text()) if scores.exists() else []
    wanted = [
        {"dataset": dataset, "way": way, "seed": seed, "length": " ".join(length)}
        for seed in args.seeds
        for dataset in args.datasets
        for way in args.ways
    ]

    def finish(run: dict[str, Any]) -> None:
        folder = args.out / "{dataset}-{way}-{seed}".format(**run)
        common = ["--cache", args.cache, "--dataset", run["dataset"], "--size", args.size]
        found = run_once(folder, run["way"], run["seed"], length, common, threads)
        with lock:
            done.append({**run, "decodings": found})
            write_json(scores, done)
            print(f"{folder}: done", flush=True)

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(finish, (run for run in wanted if not find(done, run))))
    for dataset in args.datasets:
        runs = [found for run in wanted for found in find(done, run) if run["dataset"] == dataset]
        print(f"\n{make_table(runs)}")


if __name__ == "__main__":
    run_command(main, "run the same command again: it goes on where it was")
