"""A cache's plan, cache.json: all that decides what the cache holds, and whether it is complete."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.files import read_whole, write_json
from quantize import load_centers, palette_digest

FORMAT = 2  # of plans and shards
SPLITS = ("train", "val", "test")
PLAN = "cache.json"
REMEDY = "make the cache again with create_dataset.py --overwrite"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that decides what a cache holds, and whether it is complete."""

    format: int = FORMAT
    name: str
    dataset: str
    size: int  # pixels a side
    limit: int | None  # largest number of photographs of each split
    keep_gray: bool
    resampling: str
    decoding: str  # of JPEGs: reduced or exact; "and Ghostscript" if EPS are read
    palette: str = field(default_factory=lambda: palette_digest(load_centers()))
    originals: str  # their digest
    shard_photos: int  # largest number of photographs in a shard
    photos: dict[str, int]  # number of originals of each split
    shards: dict[str, int]  # number of shards of each split
    complete: bool = False

    @property
    def digest(self) -> str:
        """A short name for what the plan makes, complete or not."""
        lasting = {key: value for key, value in asdict(self).items() if key != "complete"}
        text = json.dumps(lasting, sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]

    def differences(self, other: "Plan") -> str:
        """Say where another plan differs."""
        old, new = asdict(self), asdict(other)
        changed = [key for key in old if key != "complete" and old[key] != new[key]]
        return ", ".join(f"{key} {old[key]}, now {new[key]}" for key in changed)


def write_plan(folder: Path, plan: Plan) -> None:
    """Write a cache's plan."""
    contents = asdict(plan)
    complete = contents.pop("complete")
    write_json(folder / PLAN, {**contents, "digest": plan.digest, "complete": complete})


def read_plan(folder: Path) -> Plan:
    """Read a cache's plan.

    Raises:
        FileNotFoundError: the folder holds no cache.
        ValueError: the plan is damaged, of another format version or another palette.
    """
    path, palette = folder / PLAN, palette_digest(load_centers())
    try:
        contents: dict[str, Any] = json.loads(read_whole(path).decode())
        for key, expected in (("format", FORMAT), ("palette", palette)):
            if contents[key] != expected:
                raise ValueError(f"expected {key} {expected}, found {contents[key]}")
        digest, plan = contents.pop("digest"), Plan(**contents)
        if plan.digest != digest:
            raise ValueError("damaged (its digest is another)")
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{folder}: expected a cache with {PLAN}, found none; make one with create_dataset.py"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        raise ValueError(f"{path}: damaged; {REMEDY}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}; {REMEDY}") from None
    return plan


def find_cache(root: Path, name: str | None, size: int | None) -> Path:
    """Return the folder of the newest cache, of a name and a size if these are given.

    Raise FileNotFoundError if none fits. An unfinished cache is returned where no finished one
    fits: reading it then names the remedy.
    """
    plans = sorted(root.glob(f"*/{PLAN}"), key=lambda path: path.stat().st_mtime)
    unfinished, refused = None, None
    for path in reversed(plans):
        try:
            plan = read_plan(path.parent)
        except ValueError as error:
            if name is None or path.parent.name.startswith(f"{name}-"):
                refused = refused or error
            continue
        if name in (None, plan.name) and size in (None, plan.size):
            if plan.complete:
                return path.parent
            unfinished = unfinished or path.parent
    if unfinished:
        return unfinished
    if refused:
        raise refused
    wanted = (f" --dataset {name}" if name else "") + (f" --size {size}" if size else "")
    found = ", ".join(sorted(path.parent.name for path in plans)) or "none"
    raise FileNotFoundError(
        f"{root}: no cache for{wanted or ' any data set'}, found {found} (name-size); name one by "
        "--dataset NAME and --size PX, or make one with create_dataset.py"
    )


def begin_cache(folder: Path, plan: Plan, overwrite: bool) -> None:
    """Write a cache's plan, or raise FileExistsError if the folder holds a cache of another plan.

    A cache of the same plan keeps its shards; `overwrite` deletes whatever cache is in the folder.
    """
    if (folder / PLAN).exists() and any(folder.glob("*.h5")) and not overwrite:
        old = read_plan(folder)
        if old.digest != plan.digest:
            raise FileExistsError(
                f"{folder}: this cache has other options or photographs ({old.differences(plan)}); "
                "replace it with --overwrite, or choose another --name"
            )
        return
    for pattern in (PLAN, "*.h5", "skipped.csv", "colors.png"):
        for path in folder.glob(pattern):
            path.unlink()
    write_plan(folder, plan)
