"""Read a cache of photographs, in shuffled batches; as a command, print what a cache holds.

    python dataset.py cache/celeba-64             prints what is in a cache
    python dataset.py cache/celeba-64 --verify    compares every byte with its checksum

A cache is a folder that create_dataset.py makes: its plan, `cache.json` (shards/plan.py), and its
shards, `<split>-<index>.h5`, of up to some thousands of photographs (shards/shard.py). They are
mapped into memory: no copy, no decompression, no worker processes.
Shapes: B photographs of a batch, S pixels a side, Q bins.
"""

if __name__ == "__main__":
    from common.starting import prepare

    prepare()  # before torch is imported

import os
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from common.command_line import explain, make_parser, run_command
from common.processes import Ranks
from quantize import L_SCALE, load_centers
from shards.plan import SPLITS, read_plan
from shards.shard import MAPPED, Shard, shard_path

CPU = torch.device("cpu")
HELD_AT_ONCE = 4096  # photographs copied at a time to a device that holds a split
ANGLE = 15  # degrees: a training photograph is turned by at most so much, to either side
STRETCH = 0.2  # largest change of the logarithm of its width; its height changes the other way
CONTRAST = 0.2  # largest share by which its L is stretched or pressed
BRIGHTNESS = 10  # units of L: largest shift of its brightness
MIDDLE = 127.5  # of stored L


# ---- reading -----------------------------------------------------------------------------------
def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device; the host does not wait for a GPU to take it."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


class Split:
    """All photographs of a split, across its shards."""

    def __init__(self, shards: list[Shard]):
        self.shards = shards
        self.held: tuple[Tensor, Tensor] | None = None  # L and ab of all, on a device
        self.ends = np.cumsum([len(shard) for shard in shards])

    def __len__(self) -> int:
        return int(self.ends[-1])

    @property
    def nbytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.content.nbytes for shard in self.shards)

    @property
    def counts(self) -> Tensor:
        """How often each bin occurs, (Q,) float64."""
        counts = sum(shard.attributes["counts"].astype(float) for shard in self.shards)
        return torch.from_numpy(counts)

    @property
    def mean_ab(self) -> Tensor:
        """The mean ab over all pixels, (2,) float32."""
        total = sum(shard.attributes["ab_sum"] for shard in self.shards)
        return torch.from_numpy(total / len(self)).float()

    def locate(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the shard and the row in it of each photograph."""
        shards = np.searchsorted(self.ends, indices, side="right")
        return shards, indices - (self.ends[shards] - [len(self.shards[i]) for i in shards])

    def spread(self, number: int) -> np.ndarray:
        """Return the indices of at most `number` photographs, evenly spread."""
        return np.linspace(0, len(self) - 1, min(number, len(self))).round().astype(int)

    def names(self, indices: np.ndarray) -> list[str]:
        """Return the names of photographs."""
        located = zip(*self.locate(indices), strict=True)
        return [os.fsdecode(self.shards[shard].names[row]) for shard, row in located]

    def hold(self, device: torch.device) -> None:
        """Copy all photographs to a device, for `read` to take them from that copy."""
        L, ab = self.read(np.arange(0), device)
        L, ab = (part.new_empty(len(self), *part.shape[1:]) for part in (L, ab))
        for start in range(0, len(self), HELD_AT_ONCE):  # the host never has a copy of all
            rows = slice(start, min(start + HELD_AT_ONCE, len(self)))
            L[rows], ab[rows] = self.read(np.arange(rows.start, rows.stop))
        self.held = L, ab

    def read(self, indices: np.ndarray, device: torch.device = CPU) -> tuple[Tensor, Tensor]:
        """Return L (B, S, S) uint8 and ab (B, 2, S, S) int8 as stored, copied to a device."""
        if self.held:
            L, ab = self.held
            places = to_device(torch.from_numpy(indices), L.device)
            return L[places].to(device), ab[places].to(device)
        shards, rows = self.locate(indices)
        S = self.shards[0].attributes["size"]
        L, ab = np.empty((len(rows), S, S), np.uint8), np.empty((len(rows), 2, S, S), np.int8)
        places = list(zip(shards.tolist(), rows.tolist(), strict=True))
        for shard, row in places:
            self.shards[shard].prefetch(row)
        for i, (shard, row) in enumerate(places):
            L[i] = self.shards[shard].L[row]  # one by one: faster than a selection from each shard
            ab[i] = self.shards[shard].ab[row]
        return to_device(torch.from_numpy(L), device), to_device(torch.from_numpy(ab), device)


class Cache:
    """A cache that `create_dataset.py` made, completely unless `finished` is False.

    Raises:
        FileNotFoundError: the folder holds no cache, or a shard is missing.
        ValueError: the cache is unfinished, damaged, or of another format version or palette.
    """

    def __init__(self, folder: Path, finished: bool = True):
        self.folder = folder
        self.splits: dict[str, Split] = {}
        self.plan = read_plan(folder)
        self.name, self.size, self.digest = self.plan.name, self.plan.size, self.plan.digest
        if finished and not self.plan.complete:
            raise ValueError(f"{folder}: not finished; run the create_dataset.py command again")

    def split(self, name: str) -> Split:
        """Return a split; its shards are opened once."""
        if name not in self.splits:
            self.splits[name] = Split([Shard(path, self.plan) for path in self.paths(name)])
        return self.splits[name]

    def paths(self, name: str) -> list[Path]:
        """Return the paths of a split's shards."""
        return [shard_path(self.folder, name, i) for i in range(self.plan.shards[name])]

    def faults(self) -> list[str]:
        """Compare every byte with its checksum; return a sentence for each that fails."""
        faults = []
        paths = [path for name in SPLITS for path in self.paths(name)]
        for path in tqdm(paths, "verifying", unit=" shards", disable=None):
            try:
                Shard(path, self.plan).verify(MAPPED)
            except (ValueError, OSError) as error:
                faults.append(explain(error))
        return faults


# ---- batches -----------------------------------------------------------------------------------
class Shuffle:
    """An endless shuffled order: a fresh permutation of all photographs for every epoch.

    A batch is known by its step alone, so a run resumes at any step and gives the same batches.
    `batch_size` counts the photographs of all ranks.
    """

    def __init__(self, length: int, batch_size: int, seed: int):
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.epoch, self.order = -1, np.empty(0, int)

    def permutation(self, epoch: int) -> np.ndarray:
        """Return the order of an epoch, (length,)."""
        if epoch != self.epoch:
            self.epoch = epoch
            self.order = np.random.default_rng([self.seed, epoch]).permutation(self.length)
        return self.order

    def batch(self, step: int) -> np.ndarray:
        """Return the indices of the batch of a step."""
        start, stop = step * self.batch_size, (step + 1) * self.batch_size
        parts = []
        while start < stop:
            epoch, first = divmod(start, self.length)
            parts.append(self.permutation(epoch)[first : first + stop - start])
            start += len(parts[-1])
        return np.concatenate(parts)


def draw_warps(B: int, zoom: float, generator: np.random.Generator) -> np.ndarray:
    """Draw an affine map for each photograph of a batch, by which `warp` cuts a square from it.

    Sizes, places, angles and stretches are uniform; half of the cuts are mirrored. Beyond the
    photograph's border, a turned cut shows its reflection. The smallest side of a cut, before it
    is stretched, is the share `zoom` of the photograph's.

    Returns:
        (B, 2, 3) float32, from places in the cut to places in the photograph, both -1..1.
    """
    stretch = np.exp(generator.uniform(-STRETCH, STRETCH, B))
    sides = generator.uniform(zoom, 1, B) * np.stack((stretch, 1 / stretch))  # (2, B)
    sides = np.minimum(sides, 1)
    centers = (1 - sides) * generator.uniform(-1, 1, (2, B))
    angle = np.radians(generator.uniform(-ANGLE, ANGLE, B))
    (width, height), (x, y) = sides, centers
    width = np.where(generator.random(B) < 0.5, -width, width)
    cos, sin = np.cos(angle), np.sin(angle)
    rows = ((width * cos, -height * sin, x), (width * sin, height * cos, y))
    return np.array(rows, np.float32).transpose(2, 0, 1)


def warp(L: Tensor, ab: Tensor, crop: int, warps: Tensor) -> tuple[Tensor, Tensor]:
    """Cut squares of side `crop` from photographs, bilinearly.

    Args:
        L: (B, S, S), and ab (B, 2, S, S), as stored.
        warps: (B, 2, 3), from `draw_warps`.

    Returns:
        L (B, crop, crop) and ab (B, 2, crop, crop), float32, in stored units.
    """
    photos = torch.cat((L[:, None].float(), ab.float()), dim=1)  # (B, 3, S, S)
    grid = F.affine_grid(warps, [len(L), 3, crop, crop], align_corners=False)
    cut = F.grid_sample(photos, grid, padding_mode="reflection", align_corners=False)
    return cut[:, 0], cut[:, 1:]


def draw_tones(B: int, generator: np.random.Generator) -> np.ndarray:
    """Draw a contrast, and a brightness in stored levels, for each photograph: (B, 2) float32."""
    highest = np.array((CONTRAST, BRIGHTNESS * L_SCALE))
    return (np.array((1, 0)) + generator.uniform(-highest, highest, (B, 2))).astype(np.float32)


def change_tones(L: Tensor, tones: Tensor) -> Tensor:
    """Change the exposures of L (B, S, S) float32, in stored units, by `draw_tones`'s tones (B, 2).

    Old photographs have such exposures. ab, the answer, stays.
    """
    contrast, brightness = tones[..., None, None].unbind(1)
    return ((L - MIDDLE) * contrast + MIDDLE + brightness).clamp(0, 255)


class Batches:
    """Shuffled batches of a split, with new cuts and tones for each; a step alone decides them.

    `batch_size` counts the photographs of all ranks. A cut is scaled to `crop` pixels a side; it
    shows at least the share `zoom` of the photograph's side, before it is stretched.
    """

    def __init__(
        self, split: Split, batch_size: int, crop: int, zoom: float, seed: int, ranks: Ranks
    ):
        self.split, self.batch_size, self.ranks = split, batch_size, ranks
        self.crop, self.zoom, self.seed = crop, zoom, seed
        self.shuffle = Shuffle(len(split), batch_size, seed)

    def read(self, step: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return this process's part of a step's batch, for `cut`, on a device.

        L (B, S, S) and ab (B, 2, S, S) as stored; warps (B, 2, 3); tones (B, 2).
        """
        generator = np.random.default_rng([self.seed, step])
        warps = draw_warps(self.batch_size, self.zoom, generator)
        tones = draw_tones(self.batch_size, generator)
        warps, tones, indices = map(self.ranks.part, (warps, tones, self.shuffle.batch(step)))
        draws = (to_device(torch.from_numpy(draw), device) for draw in (warps, tones))
        return *self.split.read(indices, device), *draws

    def cut(self, L: Tensor, ab: Tensor, warps: Tensor, tones: Tensor) -> tuple[Tensor, Tensor]:
        """Cut a batch from `read`, and change its exposures: L and ab as from `warp`."""
        L, ab = warp(L, ab, self.crop, warps)
        return change_tones(L, tones), ab


# ---- what is in a cache ------------------------------------------------------------------------
def describe(cache: Cache) -> str:
    """Return a table of a cache's splits, and its commonest bins."""
    centers = load_centers().int().tolist()
    lines = ["split    photos shards       MB   gray enlarged skipped"]
    for name in SPLITS:
        split, shards = cache.split(name), cache.split(name).shards
        gray, enlarged = (sum(s.attributes[key] for s in shards) for key in ("gray", "enlarged"))
        skipped = sum(len(shard.skipped) for shard in shards)
        lines.append(
            f"{name:6} {len(split):8,} {len(shards):6} {split.nbytes / 1e6:8.1f} "
            f"{gray:6,} {enlarged:8,} {skipped:7,}"
        )
    counts = cache.split("train").counts
    share, best = (counts / counts.sum()).topk(5)
    commonest = ", ".join(
        f"({centers[i][0]}, {centers[i][1]}) {100 * s:.0f}%"
        for s, i in zip(share.tolist(), best.tolist(), strict=True)
    )
    occur = int((counts > 0).sum())
    lines += [f"commonest bins (a, b): {commonest}", f"{occur} of the {len(counts)} bins occur"]
    return "\n".join(lines)


def skipped_photos(cache: Cache) -> list[tuple[str, str]]:
    """Return name and reason of every photograph that was skipped."""
    shards = [shard for name in SPLITS for shard in cache.split(name).shards]
    return [(os.fsdecode(a), os.fsdecode(b)) for shard in shards for a, b in shard.skipped]


def count_reasons(skipped: list[tuple[str, str]]) -> str:
    """Return the reasons of skipped photographs with their numbers, the commonest first."""
    reasons = Counter(reason for _, reason in skipped).most_common()
    return "".join(f"  {number:6,}  {reason}\n" for reason, number in reasons)


def main() -> int:
    """Print what is in a cache, or what is wrong with it."""
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="a cache, as cache/celeba-64")
    parser.add_argument("--verify", action="store_true", help="compare all bytes with checksums")
    args = parser.parse_args()
    cache = Cache(args.folder)
    print(f"{args.folder}: {cache.name} at {cache.size} px, digest {cache.digest}")
    if args.verify:
        faults = cache.faults()
        print(*faults or ["every byte has its checksum"], sep="\n")
        return int(bool(faults))
    print(describe(cache))
    print(count_reasons(skipped_photos(cache)), end="")
    return 0


if __name__ == "__main__":
    run_command(main)
