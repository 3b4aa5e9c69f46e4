"""Find photographs in folders, by the names of the files."""

import functools
import os
import stat
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from PIL import Image

RECORD = "colored.jsonl"  # in a folder that generate.py wrote colored photographs to
NO_PICTURES = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF"}  # Pillow names them but cannot decode them


@functools.cache
def photo_endings() -> frozenset[str]:
    """Return the file endings of all formats that Pillow reads here, as ".jpg"."""
    Image.init()
    readable = (Image.OPEN.keys() | {"MPO"}) - NO_PICTURES  # JPEG's reader opens MPO
    return frozenset(e for e, name in Image.registered_extensions().items() if name in readable)


def is_photo_name(name: str) -> bool:
    """Tell by its ending whether a file may be a photograph; macOS's "._" files are none."""
    base = os.path.basename(name)
    return os.path.splitext(base)[1].lower() in photo_endings() and not base.startswith("._")


def warn_of_folder(error: OSError) -> None:
    """Print which folder could not be read, and why."""
    print(f"{error.filename}: left out: {error.strerror}", file=sys.stderr)


def find_files(
    root: Path, without: Iterable[Path], failed: Callable[[OSError], None] = warn_of_folder
) -> Iterator[str]:
    """Yield the relative paths of all files below a folder, with "/", in any order.

    Hidden folders, links to folders, folders of colored photographs and `without` are left out;
    `failed` is called with the error of each folder that cannot be read.
    """
    left_out = {folder.resolve() for folder in without}
    for folder, names, files in os.walk(root, onerror=failed):
        folders = [Path(folder, name) for name in names if not name.startswith(".")]
        folders = [path for path in folders if path.resolve() not in left_out]
        names[:] = [path.name for path in folders if not os.path.exists(path / RECORD)]
        for path in (Path(folder, file) for file in files):
            if may_be_file(path):
                yield path.relative_to(root).as_posix()


def may_be_file(path: Path) -> bool:
    """Tell whether a path is no pipe or device; if in doubt yes, and reading gives the reason."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True


def normalize_name(name: str) -> str:
    """Return a name as NFC: macOS and Linux spell the same accent in different bytes."""
    return unicodedata.normalize("NFC", name)
