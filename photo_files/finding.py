"""Which files are photographs, by their names, and where they lie."""

import functools
import os
import stat
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from PIL import Image

RECORD = "colored.jsonl"  # in a folder of photographs that we coloured
NO_PICTURES = frozenset(("BUFR", "GRIB", "HDF5", "MPEG", "WMF"))  # Pillow names, but cannot decode


@functools.cache
def photo_endings() -> frozenset[str]:
    """Return the file endings of all formats that Pillow reads here, as ".jpg"."""
    Image.init()
    readable = (Image.OPEN.keys() | {"MPO"}) - NO_PICTURES  # JPEG's reader opens MPO
    return frozenset(e for e, name in Image.registered_extensions().items() if name in readable)


def is_photo_name(name: str) -> bool:
    """Tell by its ending whether a file may be a photograph; macOS's "._" shadows are none."""
    base = os.path.basename(name)
    return os.path.splitext(base)[1].lower() in photo_endings() and not base.startswith("._")


def warn_of_folder(error: OSError) -> None:
    """Say which folder could not be read."""
    print(f"{error.filename}: left out: {error.strerror}", file=sys.stderr)


def find_files(
    root: Path, without: Iterable[Path], failed: Callable[[OSError], None] = warn_of_folder
) -> Iterator[str]:
    """Yield the relative paths of all files below a folder, with "/", in any order.

    Links to folders are not followed. Left out are hidden folders, those that generate.py has
    coloured photographs into, and `without`; `failed` is told of those that cannot be read.
    """
    ours = {folder.resolve() for folder in without}
    for folder, folders, files in os.walk(root, onerror=failed):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and not os.path.exists(os.path.join(folder, name, RECORD))
            and Path(folder, name).resolve() not in ours
        ]
        for file in files:
            path = Path(folder, file)
            if may_be_file(path):
                yield path.relative_to(root).as_posix()


def may_be_file(path: Path) -> bool:
    """Tell whether a path is no pipe or device, or cannot be told; reading it gives the reason."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True


def normalize_name(name: str) -> str:
    """Return a name as NFC: macOS and Linux spell the same accent in different bytes."""
    return unicodedata.normalize("NFC", name)
