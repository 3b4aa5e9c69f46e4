"""The record of colored photographs, colored.jsonl in --out: what was made of what, and how.

It has a line for each photograph: where it lies, its stamp (bytes and time), a digest of the
checkpoint and options, one of its hints if it has any, and the names of its pictures. The line
comes first, so that every picture has one; the same command continues after an interruption. A
photograph that crashes its decoder has a line that says so.
"""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from coloring.sources import Source
from common.files import half_written
from photo_files.finding import RECORD


class Record:
    """The photographs that all runs began to color into `out`, with their options and names.

    `made` is the digest of this run's checkpoint and options. While a rank works, a hidden file has
    the photographs under way: a crash leaves them there.
    """

    def __init__(self, out: Path, made: str, rank: int = 0):
        self.path, self.made, self.lock = out / RECORD, made, threading.Lock()
        self.begun_path, self.begun = out / f".under-way-{rank}", set()
        self.crashes: dict[str, list[int]] = {}  # stamps of photographs that crash their decoder
        self.left: list[str] = []  # photographs that a crash left under way
        half_written(self.begun_path).unlink(missing_ok=True)
        with contextlib.suppress(OSError, ValueError):
            text = self.begun_path.read_bytes()
            self.begun_path.unlink()
            self.left = json.loads(text)
        self.entries: dict[str, dict] = {}  # of runs with this digest, by source
        self.owners: dict[str, dict] = {}  # of all runs, the last entry with a name, by name
        if self.path.exists():
            for line in self.path.read_text("utf-8", "surrogateescape").split("\n"):
                with contextlib.suppress(ValueError, KeyError, TypeError):  # half a line: full disk
                    entry = json.loads(line)
                    if "crashes" in entry:
                        self.crashes[entry["source"]] = entry["stamp"]
                        continue
                    self.owners |= dict.fromkeys(entry["names"], entry)
                    if entry["made"] == made:
                        self.entries[entry["source"]] = entry

    def names(self, source: Source) -> list[str]:
        """Return the recorded names of a photograph's pictures; none if it has changed since."""
        entry = self.entries.get(source.where)
        if entry is None or entry["stamp"] != list(source.stamp):
            return []
        if entry.get("hints", "") != source.hints:
            return []
        names = entry["names"]
        return names if all(self.owners[name] is entry for name in names) else []

    def explain(self, source: Source, name: str) -> str:
        """Say why an existing picture of that name is not this photograph's."""
        entry = self.owners.get(name)
        if entry is None:
            why = "not by this program"
        elif entry["source"] != source.where:
            why = f"from {entry['source']}"
        elif entry["stamp"] != list(source.stamp):
            why = "from the file as it was before"
        elif entry.get("hints", "") != source.hints:
            why = "with other hints, or with none"
        else:
            why = "with another checkpoint or other options"
        return f"exists already, made {why}, and never overwritten; choose another --out"

    def append(self, entry: dict[str, Any]) -> None:
        """Add a line to the file."""
        with self.lock, self.path.open("a", encoding="utf-8") as file:
            file.write(f"\n{json.dumps(entry)}")  # a new line also after half a line

    def add(self, source: Source, names: list[str]) -> None:
        """Record a photograph before its pictures are written."""
        entry = {"source": source.where, "stamp": source.stamp, "made": self.made, "names": names}
        self.append(entry | ({"hints": source.hints} if source.hints else {}))

    def add_crash(self, source: Source) -> None:
        """Record that a photograph crashes its decoder."""
        self.crashes[source.where] = list(source.stamp)
        self.append({"source": source.where, "stamp": source.stamp, "crashes": True})

    @contextlib.contextmanager
    def under_way(self, source: Source) -> Iterator[None]:
        """Name a photograph in the hidden file while it is colored."""
        self.note(self.begun.add, source)
        try:
            yield
        finally:
            self.note(self.begun.discard, source)

    def note(self, change: Callable[[str], None], source: Source) -> None:
        """Change the photographs that are under way, and the hidden file."""
        with self.lock, contextlib.suppress(OSError):  # on a full disk nothing else is lost
            change(source.where)
            if self.begun:  # whole at each moment: another thread may crash at this one
                temporary = half_written(self.begun_path)
                temporary.write_text(json.dumps(sorted(self.begun)), encoding="utf-8")
                temporary.replace(self.begun_path)
            else:
                self.begun_path.unlink()
