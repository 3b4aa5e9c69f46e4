"""Plans: cache.json, which says all that decides what a cache holds, and whether it is complete."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common.files import write_json
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
    limit: int | None  # photographs of each split, at most
    keep_gray: bool
    resampling: str
    decoding: str  # of JPEGs: reduced or exact
    palette: str  # its digest
    originals: str  # their digest
    shard_photos: int  # in a shard, at most
    photos: dict[str, int]  # of each split, as listed
    shards: dict[str, int]  # of each split
    complete: bool = False

    @property
    def digest(self) -> str:
        """A short name for what the plan makes, whether or not it is made yet."""
        lasting = {key: value for key, value in asdict(self).items() if key != "complete"}
        text = json.dumps(lasting, sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]

    def differences(self, other: "Plan") -> str:
        """Return in words what another plan has otherwise."""
        old, new = asdict(self), asdict(other)
        changed = [key for key in old if key != "complete" and old[key] != new[key]]
        return ", ".join(f"{key} {old[key]}, now {new[key]}" for key in changed)


def write_plan(folder: Path, plan: Plan) -> None:
    """Write a cache's plan."""
    contents = asdict(plan)
    complete = contents.pop("complete")
    write_json(folder / PLAN, {**contents, "digest": plan.digest, "complete": complete})


def complete_plan(folder: Path, plan: Plan, complete: bool = True) -> None:
    """Write a cache's plan with the mark that all its shards are made, or without it."""
    write_plan(folder, replace(plan, complete=complete))


def read_plan(folder: Path) -> Plan:
    """Read a cache's plan.

    Raises:
        FileNotFoundError: the folder holds no cache.
        ValueError: the plan is damaged, of another format version or another palette.
    """
    path, expected = folder / PLAN, palette_digest(load_centers())
    try:
        contents: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if contents["format"] != FORMAT:
            raise ValueError(f"expected format {FORMAT}, found {contents['format']}")
        if contents["palette"] != expected:
            raise ValueError(f"expected palette {expected}, found {contents['palette']}")
        digest, plan = contents.pop("digest"), Plan(**contents)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{folder}: expected a cache with {PLAN}, found none; make one with create_dataset.py"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        raise ValueError(f"{path}: damaged; {REMEDY}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}; {REMEDY}") from None
    if plan.digest != digest:
        raise ValueError(f"{path}: damaged (it does not have its digest); {REMEDY}")
    return plan


def find_cache(root: Path, name: str | None, size: int | None) -> Path:
    """Return the folder of the cache made last among those of a name and a size, where given.

    Raises:
        FileNotFoundError: there is none.
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
        return unfinished  # to be refused with the remedy
    if refused:
        raise refused
    wanted = " ".join(str(part) for part in (name, size and f"at {size} px") if part) or "any"
    have = ", ".join(sorted(path.parent.name for path in plans)) or "no cache"
    raise FileNotFoundError(
        f"{root}: expected a cache ({wanted}), found {have}; make it with create_dataset.py"
    )


def begin_cache(folder: Path, plan: Plan, overwrite: bool) -> None:
    """Put the plan into a cache's folder; go on with the same plan, refuse another.

    Raises:
        FileExistsError: the folder holds a cache made otherwise.
    """
    if (folder / PLAN).exists() and any(folder.glob("*.h5")) and not overwrite:
        old = read_plan(folder)
        if old.digest != plan.digest:
            raise FileExistsError(
                f"{folder}: made with other options or photographs ({old.differences(plan)}); "
                "remake it with --overwrite, or choose another --name"
            )
        return
    for pattern in (PLAN, "*.h5", "skipped.csv", "colors.png"):
        for path in folder.glob(pattern):
            path.unlink()
    write_plan(folder, plan)
