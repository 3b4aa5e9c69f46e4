"""Set a whole training step beside the machine's matrix-product rate, and beside the paper's net.

All in one process, in turn. The rate is that of one square product, float32 on a processor and
bfloat16 on a GPU (Ampere or newer); a step's operations are those of its convolutions, counted by
torch. "Apart from the network": reading, cutting, tones, targets, clipping, Adam, moving average,
logging. A step's kernels are counted by torch's profiler; on a GPU it also says how long they run,
and steps that the GPU repeats by itself are set beside steps that Python launches one by one.

examples:
  python benchmarks/measure_training.py
  python benchmarks/measure_training.py --batch-size 64
  python benchmarks/measure_training.py --device cuda --batch-size 256
  python benchmarks/measure_training.py --device cuda --batch-size 256 --compile
"""

import gc
import math
import re
import resource
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from timing import SHARD, begin_run, time_in_turn, write_random_cache
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from common.command_line import add_device_option, make_parser
from common.processes import choose_device, keep_freed_memory
from common.recording import Recorder
from dataset import Cache
from quantize import BLOCK, stored_to_lab
from training.losses import call_in_training, color_loss
from training.run import Run, check_finite
from training.step import take_step, train_step

WORDS = {"step": "a step", "launched": "a step that Python launches"}
NO_WORK = re.compile(  # operations that only describe or take memory
    r"(as_strided|resize)_?|detach|empty.*|lift_fresh|_nnpack_available|_reshape_alias|resolve_conj"
    r"|view|to"
)
PRODUCT = {"cpu": (1024, torch.float32), "cuda": (8192, torch.bfloat16)}  # side and type


def square_product(device: torch.device) -> tuple[object, float]:
    """Return a function that multiplies two square matrices, and its operations."""
    side, dtype = PRODUCT[device.type]
    a, b = torch.randn(2, side, side, device=device, dtype=dtype)
    return lambda: finish(a @ b), 2 * side**3


def finish(result: torch.Tensor) -> None:
    """Wait until a result is there."""
    if result.device.type == "cuda":
        torch.cuda.synchronize()


def whole_steps(run: Run, take: Callable[..., object], steps: int) -> None:
    """Take steps as `train.train` does, a line of the log every --log-every steps."""
    run.take_next = take
    for _ in range(steps):
        loss, unweighted, norm, rate = train_step(run)
        run.losses.add(loss, unweighted, norm)
        run.step += 1
        if run.device.type == "cpu":
            check_finite(run)
        if run.step % run.args.log_every == 0:
            run.log(loss=run.losses.means(run.ranks)[0], lr=rate)
    finish(loss)


def network_alone(run: Run, passes: int) -> object:
    """Return a function that passes one batch forward and back, as often as it is told."""
    L, ab = run.batches.split.read(np.arange(run.args.batch_size), run.device)
    cut = slice(run.args.crop)
    L, ab = stored_to_lab(L[:, cut, cut].contiguous(), ab[..., cut, cut].contiguous())
    targets = run.objective.soft_encode(F.avg_pool2d(ab, BLOCK))

    def pass_once(L: torch.Tensor) -> torch.Tensor:
        run.optimizer.zero_grad()
        logits = call_in_training(run.shared, L)
        loss, _ = color_loss(logits, *targets, run.objective.weights)
        loss.backward()
        return loss.detach()

    take = Recorder(pass_once) if run.device.type == "cuda" else pass_once

    def pass_often() -> None:
        for _ in range(passes):
            loss = take(L)
        finish(loss)

    return pass_often


def count_operations(run: Run) -> int:
    """Return a step's floating-point operations in convolutions."""
    shared, run.shared = run.shared, run.model  # what is compiled cannot be counted
    with FlopCounterMode(display=False) as counter:
        take_step(run, *run.batches.read(run.step, run.device), 0.0, 1.0)
    run.shared = shared
    return counter.get_total_flops()


def profile_steps(run: Run, take: Callable[..., object], steps: int) -> tuple[float, float]:
    """Return a step's kernels, and the seconds in which the GPU runs them.

    On a processor, these are torch's operations that compute something, and 0 seconds.
    """
    on_gpu = run.device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=kinds) as profiler:
        whole_steps(run, take, steps)
    events = profiler.events()
    if not on_gpu:
        leaves = (event.name.partition("aten::") for event in events if not event.cpu_children)
        found = [name for _, aten, name in leaves if aten and not NO_WORK.fullmatch(name)]
        return len(found) / steps, 0.0
    work = [e for e in events if e.device_type == DeviceType.CUDA and not e.is_user_annotation]
    busy, until = 0.0, -math.inf  # microseconds; several kernels may run at a time
    for start, end in sorted((e.time_range.start, e.time_range.end) for e in work):
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    kernels = [event for event in work if not event.name.startswith(("Memcpy", "Memset"))]
    return len(kernels) / steps, busy / steps / 1e6


def measure(cache: Cache, root: Path, options: list[str], rounds: int) -> float:
    """Print the figures of the default net on a cache; return its photographs/s."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    run = begin_run(cache, root, *options)
    multiply, product = square_product(run.device)
    operations = count_operations(run)
    on_gpu = run.device.type == "cuda"
    many = 20 if on_gpu else 1  # steps at a time: as in a run, Python is ahead of a GPU
    takes = {"step": run.take_next} | ({"launched": run.take_next.function} if on_gpu else {})
    ways = {name: partial(whole_steps, run, take, many) for name, take in takes.items()}
    ways |= {"network": network_alone(run, many), "product": multiply}
    time_in_turn(ways, 3)  # compiles, and seeks the fastest kernels
    seconds = time_in_turn(ways, rounds)
    seconds |= {name: seconds[name] / many for name in (*takes, "network")}
    rate, peak = operations / seconds["step"], product / seconds["product"]
    speed, apart = run.args.batch_size / seconds["step"], 1 - seconds["network"] / seconds["step"]
    print(
        f"{cache.size:4} px, crops of {run.args.crop}, batch {run.args.batch_size}: "
        f"{speed:9,.0f} photos/s, {rate / 1e9:,.0f} of {peak / 1e9:,.0f} GFLOP/s ({rate / peak:.0%}); "
        f"apart from the network {apart:.0%}; peak memory {peak_memory(run.device):.2f} GB"
    )
    for name, take in takes.items():
        kernels, busy = profile_steps(run, take, many)
        print(f"     {WORDS[name]}: {kernels:,.0f} {'kernels' if on_gpu else 'operations'}", end="")
        print(
            f", busy {busy / seconds[name]:.0%} of {1e3 * seconds[name]:.2f} ms" if on_gpu else ""
        )
    if on_gpu:
        print(f"     repeated is {seconds['launched'] / seconds['step']:.1f} times as fast")
    return speed


def peak_memory(device: torch.device) -> float:
    """Return the most memory that was taken so far, in GB: the GPU's, or the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # kB on Linux


def main() -> None:
    """Print the figures."""
    parser = make_parser(__doc__)
    # fmt: off
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128], metavar="PX", help="sides of the cached photographs")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="photographs a step")
    parser.add_argument("--crop", type=int, metavar="PX", help="side of the crops; default: 7/8 of the size")
    parser.add_argument("--compile", action="store_true", help="compile the network")
    parser.add_argument("--rounds", type=int, default=25, metavar="N", help="of which the median counts")
    add_device_option(parser)
    # fmt: on
    args = parser.parse_args()
    device = choose_device(args.device)
    keep_freed_memory()
    options = ["--device", device.type, "--batch-size", str(args.batch_size)]
    options += ["--crop", str(args.crop)] if args.crop else []
    options += ["--compile"] if args.compile else []
    with tempfile.TemporaryDirectory() as temporary:
        root, speeds = Path(temporary), {}
        for size in args.sizes:
            write_random_cache(root / f"random-{size}", SHARD, size)
            cache = Cache(root / f"random-{size}")
            speeds[size] = measure(cache, root, options, args.rounds)
        for size in args.sizes:
            cache = Cache(root / f"random-{size}")
            run = begin_run(cache, root, *options, "--net", "zhang")
            step = partial(whole_steps, run, run.take_next, 1)
            step()
            seconds = time_in_turn({"step": step}, max(1, args.rounds // 10))["step"]
            theirs = args.batch_size / seconds
            print(
                f"{size:4} px, the paper's net: {theirs:9,.1f} photos/s; "
                f"ours is {speeds[size] / theirs:.1f} times as fast"
            )


if __name__ == "__main__":
    main()
