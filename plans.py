"""Plans: cache.json, which says all that decides what a cache holds, and whether it is complete."""

import hashlib
import json
from pathlib import Path
from typing import Any

from files import write_whole
from quantize import load_centers, palette_digest
from shards import FORMAT, REMEDY

SPLITS = ("train", "val", "test")
PLAN = "cache.json"
PLAN_KEYS = frozenset(("name", "size", "shards", "digest", "complete"))


def write_plan(folder: Path, plan: dict[str, Any]) -> None:
    """Write a cache's plan; `complete` tells whether all its shards are made."""
    text = json.dumps(plan, indent=2) + "\n"
    write_whole(folder / PLAN, lambda temporary: temporary.write_text(text, encoding="utf-8"))


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


def begin_cache(folder: Path, plan: dict[str, Any], overwrite: bool) -> None:
    """Put the plan into a cache's folder; go on with the same plan, refuse another.

    Raises:
        FileExistsError: the folder holds a cache made otherwise.
    """
    if (folder / PLAN).exists() and any(folder.glob("*.h5")) and not overwrite:
        old = read_plan(folder)
        if old["digest"] != plan["digest"]:
            keys = [key for key in plan if old.get(key) != plan[key]]
            changes = ", ".join(
                f"{key} {old.get(key)}, now {plan[key]}"
                for key in keys
                if key not in ("digest", "complete")
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
