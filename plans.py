"""Plans: cache.json, which says all that decides what a cache holds, and whether it is complete."""

import hashlib
import json
from pathlib import Path
from typing import Any

from files import write_json
from quantize import load_centers, palette_digest
from shards import FORMAT, REMEDY

SPLITS = ("train", "val", "test")
PLAN = "cache.json"
PLAN_KEYS = frozenset(("name", "size", "shards", "digest", "complete"))


def write_plan(folder: Path, plan: dict[str, Any]) -> None:
    """Write a cache's plan; `complete` tells whether all its shards are made."""
    write_json(folder / PLAN, plan)


def plan_digest(plan: dict[str, Any]) -> str:
    """Return a short name for what a plan makes, whether or not it is made yet."""
    lasting = {key: value for key, value in plan.items() if key not in ("complete", "digest")}
    text = json.dumps(lasting, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def read_plan(folder: Path) -> dict[str, Any]:
    """Read a cache's plan.

    Raises:
        FileNotFoundError: the folder holds no cache.
        ValueError: the plan is damaged, of another format version or another palette.
    """
    path = folder / PLAN
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        found, palette = plan["format"], plan["palette"]
        if found == FORMAT and not PLAN_KEYS.issubset(plan):
            raise KeyError
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{folder}: expected a cache with {PLAN}, found none; make one with create_dataset.py"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        raise ValueError(f"{path}: damaged; {REMEDY}") from None
    if found != FORMAT:
        raise ValueError(f"{path}: expected format {FORMAT}, found {found}; {REMEDY}")
    expected = palette_digest(load_centers())
    if palette != expected:
        raise ValueError(f"{path}: expected palette {expected}, found {palette}; {REMEDY}")
    if plan_digest(plan) != plan["digest"]:
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
        if name in (None, plan["name"]) and size in (None, plan["size"]):
            if plan["complete"]:
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


def begin_cache(folder: Path, plan: dict[str, Any], overwrite: bool) -> None:
    """Put the plan into a cache's folder; go on with the same plan, refuse another.

    Raises:
        FileExistsError: the folder holds a cache made otherwise.
    """
    if (folder / PLAN).exists() and any(folder.glob("*.h5")) and not overwrite:
        old = read_plan(folder)
        if old["digest"] != plan["digest"]:
            changes = ", ".join(
                f"{key} {old.get(key)}, now {value}"
                for key, value in plan.items()
                if key not in ("digest", "complete") and old.get(key) != value
            )
            raise FileExistsError(
                f"{folder}: made with other options or photographs ({changes}); "
                "remake it with --overwrite, or choose another --name"
            )
        return
    for pattern in (PLAN, "*.h5", "skipped.csv", "colors.png"):
        for path in folder.glob(pattern):
            path.unlink()
    write_plan(folder, plan)
