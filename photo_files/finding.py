"""Find photographs in folders, by the names of the files, and say what is left out."""

import contextlib
import functools
import mimetypes
import os
import stat
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from PIL import EpsImagePlugin, Image

RECORD = "colored.jsonl"  # in a folder that generate.py wrote colored photographs to
NO_PICTURES = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF"}  # Pillow names them but cannot decode them
HEIC, JPEG_XL, RAW, UNNAMED, LINK = "HEIC", "JPEG XL", "RAW", "unnamed", "link"
KINDS = {  # what is left out though it may be meant: how it is called, and what to do
    HEIC: ("HEIC file{s}", "to read HEIC, pip install pillow-heif"),
    JPEG_XL: ("JPEG XL file{s}", "to read JPEG XL, pip install pillow-jxl-plugin"),
    RAW: ("RAW file{s} of a camera", "develop RAW to JPEG or TIFF first"),
    UNNAMED: ("photograph{s} without a photograph's ending", "add .jpg to the name"),
    LINK: ("linked folder{s}", "a link is not followed; name its target"),
}
RAW_ENDINGS = """.3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .gpr .iiq .kdc .mef .mos .mrw .nef
.nrw .orf .pef .raf .rw2 .rwl .sr2 .srf .srw .x3f"""
FILM_ENDINGS = frozenset({".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi"})
KIND_OF_ENDING = {
    **dict.fromkeys((".heic", ".heics", ".heif", ".heifs", ".hif"), HEIC),
    ".jxl": JPEG_XL,
    **dict.fromkeys(RAW_ENDINGS.split(), RAW),
}
MARKS = [  # where in a file, which bytes, and the ending of files that begin so
    (0, b"\xff\xd8\xff", ".jpg"),
    (0, b"\x89PNG\r\n", ".png"),
    (0, b"GIF8", ".gif"),
    (0, b"II*\0", ".tif"),
    (0, b"MM\0*", ".tif"),
    (8, b"WEBP", ".webp"),
    (4, b"ftypavi", ".avif"),
    *((4, b"ftyp" + brand, ".heic") for brand in (b"hei", b"hev", b"mif1", b"msf1")),
    (4, b"JXL \r\n", ".jxl"),
    (4, b"ftypcrx", ".cr3"),
    (0, b"FUJIFILMCCD-RAW", ".raf"),
    (0, b"IIU\0", ".rw2"),
    *((0, mark, ".orf") for mark in (b"IIRO", b"IIRS", b"MMOR")),
]
MARK_BYTES = 16  # of a file, hold all marks


@functools.cache
def register_formats() -> None:
    """Let Pillow read HEIC and JPEG XL, each if its package is installed, and run no program."""
    # the one that it would run, also for an EPS of another name, or inside an IPTC
    EpsImagePlugin.gs_binary = False
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    with contextlib.suppress(ImportError):
        import pillow_jxl  # noqa: F401 - it registers itself


def allow_ghostscript() -> None:
    """Let Pillow run Ghostscript to read EPS; raise FileNotFoundError if it is not installed."""
    register_formats()
    EpsImagePlugin.gs_binary = EpsImagePlugin.gs_binary or None  # None: Pillow looks for it
    if not EpsImagePlugin.has_ghostscript():
        raise FileNotFoundError(
            "--ghostscript: found no Ghostscript (gs); install it, or leave the option out"
        )


@functools.cache
def photo_endings() -> frozenset[str]:
    """Return the file endings of all formats that Pillow reads here, as ".jpg"."""
    Image.init()
    register_formats()
    readable = (Image.OPEN.keys() | {"MPO"}) - NO_PICTURES  # JPEG's reader opens MPO
    return frozenset(e for e, name in Image.registered_extensions().items() if name in readable)


def is_photo_name(name: str) -> bool:
    """Tell by its ending whether a file may be a photograph; macOS's "._" files are none."""
    base = os.path.basename(name)
    return os.path.splitext(base)[1].lower() in photo_endings() and not base.startswith("._")


def is_film_name(name: str) -> bool:
    """Tell by its ending whether a file may be a film; macOS's "._" files are none."""
    base = os.path.basename(name)
    return os.path.splitext(base)[1].lower() in FILM_ENDINGS and not base.startswith("._")


def warn_of_folder(error: OSError) -> None:
    """Print which folder could not be read, and why."""
    print(f"{error.filename}: left out: {error.strerror}", file=sys.stderr)


# ---- what is left out --------------------------------------------------------------------------
def find_ending(data: bytes) -> str:
    """Return the ending that a picture's first bytes ask for, as ".jpg"; "" for other files."""
    return next((e for place, mark, e in MARKS if data[place:].startswith(mark)), "")


def describe_kind(kind: str) -> str:
    """Say what a file of one of KINDS is, and what to do."""
    noun, remedy = KINDS[kind]
    return f"a {noun.format(s='')}; {remedy}"


def explain_unread(data: bytes) -> str:
    """Say what reads a picture that Pillow alone does not read; "" if nothing is known."""
    ending = find_ending(data[:MARK_BYTES])
    kind = KIND_OF_ENDING.get(ending)
    return describe_kind(kind) if kind and ending not in photo_endings() else ""


def kind_of(path: Path) -> str:
    """Return of which of KINDS a file is that has no photograph's name; "" for all others.

    Only a file of an unknown ending is looked into.
    """
    if path.name.startswith("."):
        return ""
    ending = path.suffix.lower()
    if ending not in KIND_OF_ENDING and ending not in mimetypes.types_map:
        try:
            with path.open("rb", buffering=0) as file:
                ending = find_ending(file.read(MARK_BYTES))
        except OSError:
            return ""
    return UNNAMED if ending in photo_endings() else KIND_OF_ENDING.get(ending, "")


class LeftOut:
    """What is left out of folders though it may be meant, by kind."""

    def __init__(self):
        self.paths: dict[str, set[Path]] = defaultdict(set)

    def add_file(self, path: Path) -> None:
        """Add a file that has no photograph's name, if it may be a photograph all the same."""
        if kind := kind_of(path):
            self.paths[kind].add(path)

    def add_member(self, archive: Path, name: str) -> None:
        """Add a file in a zip that has no photograph's name, if its ending is a known one."""
        if kind := KIND_OF_ENDING.get(os.path.splitext(name)[1].lower()):
            self.paths[kind].add(archive / name)

    def add_link(self, path: Path) -> None:
        """Add a link to a folder."""
        self.paths[LINK].add(path)

    def describe(self, named: Iterable[Path]) -> list[str]:
        """Say of each kind how many were left out, and what to do; not of links into `named`."""
        folders, lines = {path.expanduser().resolve() for path in named}, []
        for kind, (noun, remedy) in KINDS.items():
            paths = self.paths[kind]
            if kind == LINK:
                targets = {path: path.resolve() for path in paths}
                paths = [p for p, to in targets.items() if folders.isdisjoint((to, *to.parents))]
            if paths:
                called = f"{len(paths):,} {noun.format(s='s' * (len(paths) > 1))}"
                lines.append(f"{called} ({min(paths)}, for one): {remedy}")
        return lines


# ---- the files of a folder ---------------------------------------------------------------------
def find_files(
    root: Path,
    without: Iterable[Path],
    failed: Callable[[OSError], None] = warn_of_folder,
    linked: Callable[[Path], None] = lambda link: None,
) -> Iterator[str]:
    """Yield the relative paths of all files below a folder, with "/", in any order.

    Hidden folders, links to folders, folders of colored photographs and `without` are left out;
    `failed` is called with the error of each folder that cannot be read, `linked` with each link.
    """
    left_out = {folder.resolve() for folder in without}
    for folder, names, files in os.walk(root, onerror=failed):
        folders = [Path(folder, name) for name in names if not name.startswith(".")]
        folders = [path for path in folders if path.resolve() not in left_out]
        folders = [path for path in folders if not os.path.exists(path / RECORD)]
        names[:] = [path.name for path in folders]
        for link in filter(Path.is_symlink, folders):
            linked(link)
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
