"""Train on few photographs, from nothing and from checkpoints; compare what the test split scores.

For each number of photographs a cache is made in --out: so many training photographs, chosen by
chance, and the whole validation and test splits. Each run is train.py with --loss plain; at each of
--steps, generate.py scores its weights with the lowest validation loss so far, decoded as in the
paper (T = 0.38, all bins). fine_tuning.json in --out has the scores, one row a line: the same
command again goes on where it was stopped, and another command adds its rows. Prints a table.

examples:
  python benchmarks/compare_fine_tuning.py --numbers 50 200
  python benchmarks/compare_fine_tuning.py --numbers 200 --steps 100 200 400 --lr 1e-3
  python benchmarks/compare_fine_tuning.py --dataset photos --size 128 --numbers 50 --held-out 10 40
"""

import argparse
import json
import os
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from compare_losses import FIGURES, PAPER, call, describe, find, read_scores, write_scores
from timing import ROOT

from common.command_line import DEFAULT_CACHE, make_parser, number, photo_size, run_command
from common.files import locked
from create_dataset import RECORDED, find_bins
from dataset import Cache, Split
from quantize import load_centers
from shards.plan import PLAN, SPLITS, find_cache, write_plan
from shards.shard import shard_path, to_bytes, write_shard

NOTHING = "nothing"  # in place of a checkpoint
KEPT = ("ours", "mean colour", "gray")  # rows of metrics.json
SHOWN = ("psnr", "ssim", "colorfulness")
CHOICE = 0  # seed of the choice of photographs
HEAD = "| cache | photographs | start | steps | best | minutes | PSNR | SSIM | colorfulness |"
Row = dict[str, Any]


# ---- smaller caches ----------------------------------------------------------------------------
def choose(lengths: list[int], n: int, held_out: list[int] | None) -> list[np.ndarray]:
    """Return the photographs that train, validate and test, as indices into all splits in turn.

    Args:
        lengths: of the splits of the whole cache.
        n: how many train.
        held_out: how many validate and test, drawn from all splits; None: those that do already.
    """
    generator, whole = np.random.default_rng(CHOICE), sum(lengths)
    if held_out:
        test, val, train = np.split(generator.permutation(whole), np.cumsum(held_out[::-1]))
    else:
        train = generator.permutation(lengths[0])
        _, val, test = np.split(np.arange(whole), np.cumsum(lengths[:2]))
    return [np.sort(indices) for indices in (train[:n], val, test)]


def make_cache(folder: Path, cache: Cache, n: int, held_out: list[int] | None) -> None:
    """Write a cache of n training photographs of another, one shard a split, unless it is there."""
    if (folder / PLAN).exists():
        return
    splits = [cache.split(name) for name in SPLITS]
    chosen = dict(zip(SPLITS, choose([len(s) for s in splits], n, held_out), strict=True))
    photos = {name: len(indices) for name, indices in chosen.items()}
    plan = replace(cache.plan, name=f"{cache.name}-{n}", photos=photos)
    plan = replace(plan, shards=dict.fromkeys(SPLITS, 1), shard_photos=max(photos.values()))
    everything = Split([shard for split in splits for shard in split.shards])
    folder.mkdir(parents=True)
    for name, indices in chosen.items():
        L, ab = (part.numpy() for part in everything.read(indices))
        bins, ab_sum = find_bins(ab)
        texts = {"names": to_bytes(everything.names(indices)), "skipped": np.empty((0, 2), "S1")}
        attributes = {key: getattr(plan, key) for key in RECORDED} | {"split": name, "index": 0}
        attributes["counts"] = np.bincount(bins.ravel(), minlength=len(load_centers()))
        attributes |= {"ab_sum": ab_sum, "gray": 0, "enlarged": 0}
        write_shard(
            shard_path(folder, name, 0), {"L": L, "ab": ab, "bins": bins, **texts}, attributes
        )
    write_plan(folder, plan)


# ---- runs --------------------------------------------------------------------------------------
def find_best(folder: Path, steps: int) -> tuple[int, float]:
    """Return the step of the lowest validation loss up to a step, and the minutes until then."""
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    losses = {x["step"]: x["val_loss"] for x in log if "val_loss" in x and x["step"] <= steps}
    best = min(losses, key=losses.get)
    batch = json.loads((folder / "config.json").read_text())["options"]["batch_size"]
    speed = statistics.median(x["images_per_second"] for x in log if "images_per_second" in x)
    return best, round(best * batch / speed / 60, 2)


def score(checkpoint: Path, out: Path, common: list[str], threads: int) -> dict[str, Row]:
    """Score a checkpoint on the test split, decoded as in the paper, unless that is done."""
    if not (out / "metrics.json").exists():
        decoding = ["--temperature", str(PAPER["temperature"]), "--top-k", str(PAPER["top_k"])]
        options = ["--checkpoint", str(checkpoint), "--out", str(out), *decoding]
        call("generate.py", threads, [*common, *options])
    scores = json.loads((out / "metrics.json").read_text())["scores"]
    return {name: {key: scores[name][key] for key in SHOWN} for name in KEPT}


def run_once(row: Row, start: str, args: argparse.Namespace) -> Row:
    """Train a row's run to its length and score it; return what was found."""
    name = f"{args.dataset}-{row['number']}"
    folder = args.out / f"{name}-{args.size}-{row['start']}-{row['lr'] or 'lr'}-{row['seed']}"
    common = ["--cache", str(args.out / "caches"), "--dataset", name, "--size", str(args.size)]
    best, minutes, checkpoint = 0, 0.0, Path(start)
    if row["steps"]:
        options = ["--loss", "plain", "--steps", str(row["steps"]), "--seed", str(row["seed"])]
        options += ["--validate-every", str(args.validate_every), "--out", str(folder), "--resume"]
        options += [] if start == NOTHING else ["--init", start]
        options += ["--lr", row["lr"]] if row["lr"] else []
        call("train.py", args.threads, [*common, *options])
        best, minutes = find_best(folder, row["steps"])
        checkpoint = folder / "best.pt"
    scores = score(checkpoint, folder / str(row["steps"]), common, args.threads)
    return {"best": best, "minutes": minutes, "scores": scores}


def make_table(rows: list[Row]) -> str:
    """Return a table in Markdown; the seeds of a run share a line."""
    runs: dict[tuple, list[Row]] = {}
    for row in rows:
        start = row["start"] + (f", lr {row['lr']}" if row["lr"] else "")
        dataset = f"{row['dataset']}, {row['size']} px"
        runs.setdefault((dataset, row["number"], start, row["steps"]), []).append(row)
    lines = [HEAD, "|---" * HEAD.count(" | ") + "|---|"]
    for (dataset, n, start, steps), found in runs.items():
        cells = [
            describe([x["best"] for x in found], 0),
            describe([x["minutes"] for x in found], 1),
        ]
        for name in SHOWN:
            cells.append(describe([x["scores"]["ours"][name] for x in found], FIGURES[name]))
        lines.append(f"| {dataset} | {n:,} | {start} | {steps:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


# ---- command line ------------------------------------------------------------------------------
def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    # fmt: off
    parser.add_argument("--dataset", default="flowers", metavar="NAME", help="name of a cache")
    parser.add_argument("--size", type=photo_size, default=64, metavar="PX", help="side of its photographs")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, metavar="DIR", help="folder of all caches")
    parser.add_argument("--numbers", nargs="+", type=number(int, 1), default=[50, 200, 1000], metavar="N", help="numbers of training photographs")
    parser.add_argument("--held-out", nargs=2, type=number(int, 1), metavar="N", help="how many validate and how many test, drawn from all photographs; default: those of the cache's own splits")
    parser.add_argument("--starts", nargs="+", default=[NOTHING, str(ROOT / "checkpoints" / "celeba-64.pt")], metavar="FILE", help=f"checkpoints, and {NOTHING}")
    parser.add_argument("--steps", nargs="+", type=number(int, 0, 2**31), default=[0, 600], metavar="N", help="lengths of each run; 0: the checkpoint as it is")
    parser.add_argument("--lr", help="learning rate; default: that of train.py")
    parser.add_argument("--seeds", nargs="+", type=number(int, 0, 2**31), default=[0], metavar="N", help="seeds of each run")
    parser.add_argument("--validate-every", type=number(int, 1), default=100, metavar="STEPS", help="steps between validations")
    parser.add_argument("--threads", type=number(int, 1), default=os.cpu_count(), metavar="N", help="threads of a run")
    parser.add_argument("--out", type=Path, default=Path("runs/fine_tuning"), metavar="DIR", help="folder of caches and runs")
    # fmt: on
    return parser.parse_args()


def plan_rows(args: argparse.Namespace, digest: str) -> list[tuple[Row, str]]:
    """Return the rows that are asked for, each with its start."""
    fixed = dict(dataset=args.dataset, size=args.size, cache=digest, held_out=args.held_out)
    return [
        (dict(**fixed, number=n, start=Path(start).stem, lr=args.lr, seed=seed, steps=steps), start)
        for n in args.numbers
        for start in args.starts
        for seed in args.seeds
        for steps in sorted(args.steps)
        if steps or start != NOTHING
    ]


def main() -> None:
    """Make the caches, train, score, print."""
    args = parse_args()
    cache = Cache(find_cache(args.cache, args.dataset, args.size))
    wanted, path = plan_rows(args, cache.digest), args.out / "fine_tuning.json"
    with locked(args.out):
        done = read_scores(path)
        for n in args.numbers:
            folder = args.out / "caches" / f"{cache.name}-{n}-{cache.size}"
            make_cache(folder, cache, n, args.held_out)
        for row, start in wanted:
            if not find(done, row):
                print("{number} photographs, {start}, {steps} steps".format(**row), flush=True)
                done.append({**row, **run_once(row, start, args)})
                write_scores(path, done)
    print(f"\n{make_table([found for row, _ in wanted for found in find(done, row)])}")


if __name__ == "__main__":
    run_command(main, "run the same command again: it goes on where it was")
