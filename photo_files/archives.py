"""Read pictures inside zips and .tgz files, damaged and hostile ones included."""

import errno
import gzip
import io
import os
import re
import shutil
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

from tqdm import tqdm

from common.files import check_space
from photo_files import PhotoError
from photo_files.finding import is_photo_name
from photo_files.opening import MAX_BYTES, check_bytes

ENCRYPTED = 1  # of a zip's flags
BOUNDED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # methods that zipfile reads to a limit
EMPTY_ZIP = b"PK\5\6" + bytes(18)
DEFLATE_RATIO = 1032  # most bytes that one byte can become
ARCHIVE_ERRORS = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError)
# RuntimeError: encrypted, or of an unknown method; the rest: broken headers
ARCHIVE_ERRORS += (RuntimeError, ValueError, IndexError, OverflowError, MemoryError)


def last_part(name: str) -> str:
    """Return the last part of a name in an archive; Windows may have written backslashes."""
    return re.split(r"[/\\]", name)[-1]


def inner_path(name: str) -> str:
    """Return a name in an archive as a relative path, with "/", that stays inside its folder."""
    parts = re.split(r"[/\\]", name)
    return "/".join(p for p in parts if p not in ("", ".", "..") and not p.endswith(":"))


# ---- zip ---------------------------------------------------------------------------------------
def list_zip(
    archive: Path,
    key: Callable[[str], str] = last_part,
    passed_over: Callable[[str], None] = lambda name: None,
) -> dict[str, zipfile.ZipInfo]:
    """Return a zip's pictures by the `key` of their names; of two equal keys, the later.

    `passed_over` is called with each other name, hidden ones excepted. Raise ValueError if the zip
    is damaged or encrypted.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            infos = []
            for info in file.infolist():
                if is_photo_name(name := last_part(info.filename)):
                    infos.append(info)
                elif not name.startswith("."):
                    passed_over(info.filename)
    except ARCHIVE_ERRORS as error:
        raise ValueError(
            f"{archive}: expected a whole zip, found a damaged one ({error}); download it again"
        ) from error
    if any(info.flag_bits & ENCRYPTED for info in infos):
        raise ValueError(f"{archive}: encrypted; unpack it into a folder for --root or --images")
    return {key(info.filename): info for info in infos}


class ZipReader:
    """Reads members of a zip, from `list_zip`; each process and thread opens the zip for itself."""

    def __init__(self, path: Path, members: dict[str, zipfile.ZipInfo]):
        self.path, self.members, self.handles = path, members, {}

    def __call__(self, name: str) -> bytes:
        """Return the bytes of a picture, no more than the zip's list says.

        Raise PhotoError if it is damaged, too large, or packed by a rare method.
        """
        info = self.members[name]
        check_bytes(info.file_size)
        if info.compress_type not in BOUNDED:
            raise PhotoError(f"packed in {self.path.name} otherwise than by deflate")
        try:
            place = os.getpid(), threading.get_ident()
            if place not in self.handles:
                # without its list of members, which takes a kilobyte each: we have it
                handle = zipfile.ZipFile(io.BytesIO(EMPTY_ZIP))
                handle.fp = self.path.open("rb")
                self.handles[place] = handle
            with self.handles[place].open(info) as file:
                return file.read(info.file_size)
        except (*ARCHIVE_ERRORS, OSError) as error:
            reason = str(error) or "it ends early"
            hindered = getattr(error, "errno", None) not in (None, errno.EINVAL)  # by the system
            fault = "cannot be read" if hindered else "damaged"
            raise PhotoError(f"{fault} in {self.path.name}: {reason}") from error

    def __getstate__(self) -> dict[str, Any]:
        """Leave the handles out when pickled for another process."""
        return {**self.__dict__, "handles": {}}


# ---- tgz ---------------------------------------------------------------------------------------
def unpack_tar(archive: Path, wanted: Container[str], folder: Path) -> None:
    """Unpack the files of a .tgz whose last part of the name is wanted into a new folder.

    No file gets another name; of two equal names, the later counts. If this fails, the folder is
    removed: raise ValueError if the archive is damaged, OSError if the disk lacks space.
    """
    packed = archive.stat().st_size
    shutil.rmtree(folder, ignore_errors=True)  # of a killed process
    check_space(folder.parent, packed)
    try:
        folder.mkdir()
        with gzip.open(archive) as unzipped, tarfile.open(fileobj=unzipped, mode="r|") as tar:
            for member in tqdm(tar, f"unpacking {archive.name}", unit=" files", disable=None):
                if member.size < 0 or tar.offset > DEFLATE_RATIO * packed:
                    raise tarfile.ReadError(f"{member.name!r} claims {member.size} bytes")
                name = last_part(member.name)
                if member.isfile() and name in wanted and member.size <= MAX_BYTES:
                    with (folder / name).open("wb") as out:
                        shutil.copyfileobj(tar.extractfile(member), out)
            while unzipped.read(2**20):
                pass  # its end shows whether it was cut
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if not isinstance(error, ARCHIVE_ERRORS):
            raise
        raise ValueError(
            f"{archive}: expected a whole .tgz, found a damaged one ({error}); download it again"
        ) from error
