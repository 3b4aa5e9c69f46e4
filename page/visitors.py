"""Who visits the page in the browser, and what they hold: for one thread, that of the event loop.

What a visitor uploads and what was made of it lies on the disk, the network's answers in memory.
"""

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from coloring.hints import MOST, Color
from common.files import LOCK
from page.answers import MOST_MEGABYTES, Upload

MOST_PHOTOS = 20  # of one visitor
LIMIT = f"{MOST_PHOTOS} photographs of {MOST_MEGABYTES} MB"  # of one upload
SMALLEST = 2**16  # bytes that a file counts, at least: many small ones take time
MOST_NAME, MOST_ENDING = 200, 10  # bytes of a file's name and of its ending that are kept
STAY = 1800  # seconds that photographs stay after their page was closed, or a phone went to sleep
SHORT_STAY = 60  # the same where room is short, and of uploads that no page lists
LONGEST_STAY = 24 * 3600  # seconds that they stay on an open page that is not used


def safe_name(name: str) -> str:
    """Return an uploaded file's name as one that any system can store."""
    name = name.replace("\\", "/").rpartition("/")[2]
    name = "".join(c if c.isprintable() and c not in '<>:"|?*' else "_" for c in name)
    stem, ending = os.path.splitext(name.strip(" ."))
    stem, ending = stem.encode(errors="replace"), ending.encode(errors="replace")
    name = (stem[:MOST_NAME].rstrip() + ending[:MOST_ENDING]).decode(errors="ignore")
    return name.strip(" .") or "photograph"


@dataclass
class Visitor:
    """Who has opened the page once, by what Gradio calls a session."""

    folder: Path
    paths: list[Path] = field(default_factory=list)  # that the browser lists as uploaded
    photos: dict[Path, Upload] = field(default_factory=dict)  # by these, once they are predicted
    index: int = 0  # of the photograph that is shown
    place: int | None = None  # the block that is chosen in it
    offered: list[Color] = field(default_factory=list)  # the likeliest colors of this block
    lists: int = 0  # number of lists of paths that the browser has sent
    faults: list[str] = field(default_factory=list)  # why files were refused, not yet told
    open_pages: int = 0
    seen: float = field(default_factory=time.monotonic)  # when the visitor did something

    @property
    def photo(self) -> Upload:
        """The photograph that is shown; raise ValueError if there is none."""
        if self.index >= len(self.photos):
            raise ValueError("there is no such photograph here; drop it on the page again")
        return list(self.photos.values())[self.index]

    def choose(self, index: int) -> None:
        """Show another photograph, by its number from 0 on."""
        if index >= len(self.photos):
            raise ValueError(f"photograph {index}: there are {len(self.photos)}")
        self.index, self.place, self.offered = index, None, []

    def say(self, color: Color) -> None:
        """Say a color of the chosen place."""
        said = self.photo.said
        if self.place is None:
            raise ValueError("click on a place of the photograph first")
        if len(said) >= MOST:
            raise ValueError(f"{MOST} colors are the most for one photograph; undo some")
        said.append((self.place, color))


class Visitors:
    """All visitors. Their files lie below `root`; together they may hold `room` bytes."""

    def __init__(self, root: Path, room: int):
        self.root, self.room = root, room
        self.visitors: dict[str, Visitor] = {}  # by session
        self.arriving = 0  # bytes of uploads under way, twice: they are copied in the end
        self.uploads, self.folder = root / "uploads", root / "visitors"
        self.uploads.mkdir()

    def visitor(self, session: str) -> Visitor:
        """Return a visitor, a new one if need be."""
        if session not in self.visitors:
            self.visitors[session] = Visitor(self.folder / uuid.uuid4().hex)
        self.visitors[session].seen = time.monotonic()
        return self.visitors[session]

    def enter(self, session: str) -> None:
        """Note that a visitor has opened the page."""
        self.visitor(session).open_pages += 1

    def leave(self, session: str) -> None:
        """Note that a visitor has closed the page, or sleeps."""
        visitor = self.visitor(session)
        visitor.open_pages -= 1
        if visitor.open_pages <= 0 and not visitor.paths:
            self.forget(session)

    def expect_photos(self, visitor: Visitor, paths: list[Path]) -> int:
        """Note which photographs a visitor's browser lists; delete those that it lists no more.

        Returns:
            The number of the list.
        """
        taken = paths[:MOST_PHOTOS]
        if len(paths) > MOST_PHOTOS:
            visitor.faults.append(f"{len(paths)} photographs: the first {MOST_PHOTOS} were taken")
        gone = {*visitor.paths, *paths}.difference(taken)
        self.drop(gone)
        for path in gone & visitor.photos.keys():
            visitor.photos.pop(path).delete()
        visitor.paths, visitor.lists = taken, visitor.lists + 1
        visitor.index, visitor.place, visitor.offered = 0, None, []
        return visitor.lists

    def forget(self, session: str) -> None:
        """Delete a visitor's files."""
        visitor = self.visitors.pop(session)
        self.drop(visitor.paths)
        shutil.rmtree(visitor.folder, ignore_errors=True)

    def sweep(self, stay: float = STAY) -> None:
        """Forget who has left, and delete what belongs to nobody, after some seconds."""
        for session, visitor in list(self.visitors.items()):
            limit = LONGEST_STAY if visitor.open_pages > 0 else stay
            if time.monotonic() - visitor.seen > limit:
                self.forget(session)
        kept = {path.parent for visitor in self.visitors.values() for path in visitor.paths}
        kept |= {self.uploads, self.folder, self.root / LOCK}
        for folder, limit in ((self.uploads, SHORT_STAY), (self.root, stay)):
            for path in set(folder.iterdir()) - kept:
                with contextlib.suppress(OSError):
                    if time.time() - path.stat().st_mtime > limit:
                        shutil.rmtree(path) if path.is_dir() else path.unlink()

    def held(self) -> int:
        """Return the bytes that all visitors together hold."""
        photos = [p for visitor in self.visitors.values() for p in list(visitor.photos.values())]
        on_disk = 0
        for folder, _, files in os.walk(self.root):
            for file in files:
                with contextlib.suppress(OSError):
                    on_disk += max(SMALLEST, os.stat(os.path.join(folder, file)).st_size)
        return on_disk + sum(photo.memory for photo in photos) + self.arriving

    def check_room(self, needed: int = 0) -> None:
        """Raise OSError if visitors hold too much for so many more bytes.

        Those who have left are forgotten first.
        """
        if self.held() + needed > self.room:
            self.sweep(SHORT_STAY)
        if self.held() + needed > self.room:
            raise OSError(
                f"all visitors together may hold {self.room / 1e9:.3g} GB of photographs, and that "
                "is reached; delete some of yours, or try again later"
            )

    def store(self, name: str, content: BinaryIO, size: int) -> Path:
        """Store an uploaded file under its name, in a folder whose name cannot be guessed.

        Of a file that is too large there is only the size, for `prepare` to say so.
        """
        folder = self.uploads / uuid.uuid4().hex
        path = folder / safe_name(name)
        folder.mkdir()
        try:
            with path.open("wb") as file:
                if size > MOST_MEGABYTES * 10**6:
                    file.truncate(size)
                else:
                    shutil.copyfileobj(content, file)
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return path

    @staticmethod
    def drop(paths: Iterable[str | Path]) -> None:
        """Delete uploaded files."""
        for path in map(Path, paths):
            shutil.rmtree(path.parent, ignore_errors=True)
