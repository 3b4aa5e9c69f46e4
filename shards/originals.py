"""The four data sets: the names of their pictures in each split, and how to get their bytes."""

import hashlib
import io
import itertools
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import skimage.data
from filelock import FileLock
from PIL import Image
from scipy.io import loadmat

from common.processes import Ranks
from photo_files import PhotoError
from photo_files.archives import ZipReader, list_zip, unpack_tar
from photo_files.finding import LeftOut, find_files, is_photo_name, normalize_name
from photo_files.opening import check_bytes, read_bytes
from shards.listed import (
    enter,
    find_below,
    match_listed,
    one_split_each,
    read_numbers,
    read_partition,
)
from shards.plan import SPLITS

FLOWERS_PAGE = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
FLOWERS_MD5 = {
    "102flowers.tgz": "52808999861908f626f3c1f4e79d11fa",
    "setid.mat": "a5357ecc9cb78c4bef273ce3793fc85c",
}
UNPACKED = "unpacked-{}"  # in a cache's folder, while a rank works: its unpacked archive
CELEBA = "img_align_celeba"  # its zip of pictures, and the folder in it
TIMEOUT = 60  # seconds that a download waits for a byte
SAMPLE_CROP = 4  # a sample's crop is a quarter of its photograph's height
SAMPLE_STEP = 6  # and the next one begins a sixth of a crop further


@dataclass
class Originals:
    """A data set's pictures: their names in each split, and how to get their bytes."""

    splits: dict[str, list[str]]  # names, sorted
    read: Callable[[str], bytes]
    sizes: dict[str, int]  # bytes of each file, to notice changed originals
    missing: int = 0  # number of listed names without a file
    copies: int = 0  # number of files left out as byte-identical to another
    others: int = 0  # number of files left out as no pictures, by their names
    left_out: list[str] = field(default_factory=list)  # a line for each kind that may be meant

    def digest(self) -> str:
        """Return a short name for the pictures' names, splits and sizes."""
        digest = hashlib.sha256()
        for split, names in self.splits.items():
            for name in names:
                line = f"{split} {self.sizes[name]} {name}\0"
                digest.update(line.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()[:16]


def describe_folder(root: Path) -> str:
    """Say what lies in a folder, for messages."""
    if not root.is_dir():
        return "no such folder"
    names = sorted(os.listdir(root))
    return (", ".join(names[:5]) + (" ..." if len(names) > 5 else "")) or "an empty folder"


# ---- the four data sets ------------------------------------------------------------------------
def read_file(folder: Path, name: str) -> bytes:
    """Return the bytes of a file in a folder."""
    return read_bytes(folder / name)


def photo_sizes(folder: Path) -> dict[str, int]:
    """Return how many bytes each picture in a folder has, by name."""
    return {e.name: e.stat().st_size for e in os.scandir(folder) if is_photo_name(e.name)}


def choose_listed(
    listed: dict[str, str], sizes: dict[str, int], read: Callable[[str], bytes], where: Path
) -> Originals:
    """Return the pictures of a list that are there, see `match_listed`."""
    splits, missing = match_listed(listed, sizes, where)
    counts = f"{len(missing):,} of {len(listed):,} listed pictures"
    left_out = [f"{counts} ({name}, for one): not there" for name in missing[:1]]
    return Originals(splits, read, sizes, len(missing), left_out=left_out)


def list_celeba(root: Path, cache: Path) -> Originals:
    """Find CelebA's aligned faces and their official splits."""
    partition = find_below(root, "list_eval_partition.txt", "list_eval_partition.csv")
    pictures = find_below(root, CELEBA + ".zip", f"{CELEBA}/{CELEBA}", CELEBA)
    if partition is None or pictures is None:
        raise FileNotFoundError(
            f"{root}: expected {CELEBA}.zip (or the folder {CELEBA}) and list_eval_partition.txt, "
            f"found {describe_folder(root)}; download both by a browser from "
            "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, or name their folder by --root"
        )
    if pictures.is_file():
        members = list_zip(pictures)
        sizes = {name: info.file_size for name, info in members.items()}
        read = ZipReader(pictures, members)
    else:
        pictures = enter(pictures)
        sizes, read = photo_sizes(pictures), partial(read_file, pictures)
    return choose_listed(read_partition(partition), sizes, read, pictures)


def list_flowers(root: Path, cache: Path) -> Originals:
    """Find Oxford's 102 flowers; the largest of the official splits is for training."""
    archive, folder, splits_file = root / "102flowers.tgz", root / "jpg", root / "setid.mat"
    if not splits_file.is_file() or not (archive.is_file() or folder.is_dir()):
        raise FileNotFoundError(
            f"{root}: expected {archive.name} (or the folder {folder.name}) and "
            f"{splits_file.name}, found {describe_folder(root)}; get both by --download or "
            f"from {FLOWERS_PAGE}, or name their folder by --root"
        )
    try:
        ids = loadmat(splits_file)
        oxford = {"train": "tstid", "val": "valid", "test": "trnid"}
        parts = {split: read_numbers(ids[name]) for split, name in oxford.items()}
    except Exception as error:  # SciPy raises whatever broken bytes lead to
        raise ValueError(
            f"{splits_file}: expected Oxford's splits (trnid, valid, tstid), found another or a "
            f"damaged file ({error}); download it again"
        ) from error
    pairs = ((f"image_{i:05d}.jpg", split) for split in SPLITS for i in parts[split])
    listed = one_split_each(pairs, splits_file)
    if archive.is_file():
        folder = cache / UNPACKED.format(Ranks.find().rank)
        unpack_tar(archive, listed, folder)
    return choose_listed(listed, photo_sizes(folder), partial(read_file, folder), folder)


def is_verified(path: Path, md5: str) -> bool:
    """Tell whether a file exists with an MD5; raise FileExistsError if it has another one."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != md5:
        raise FileExistsError(
            f"{path}: expected MD5 {md5}, found {found}; move it away to download it again, or "
            "leave out --download to use it as it is"
        )
    return True


def download_flowers(root: Path) -> None:
    """Download Oxford's 102 flowers and their splits, whole and verified or not at all.

    Files that exist and have the right MD5 are kept.

    Raises:
        ConnectionError: the download failed.
        FileExistsError: another file of that name exists.
        ValueError: the server sent another file; or pooch is not installed.
    """
    if all(is_verified(root / name, md5) for name, md5 in FLOWERS_MD5.items()):
        return
    try:
        import pooch
        import requests
    except ImportError:
        raise ValueError("--download needs pooch: pip install pooch") from None
    by_hand = f"try again later, or download it by a browser into {root}"
    downloader = pooch.HTTPDownloader(progressbar=True, timeout=TIMEOUT)
    root.mkdir(parents=True, exist_ok=True)
    for name, md5 in FLOWERS_MD5.items():
        url = FLOWERS_PAGE + name
        with FileLock(root / ".download.lock"):  # one rank downloads, the others wait
            try:
                pooch.retrieve(url, f"md5:{md5}", name, root, downloader=downloader)
            except requests.RequestException as error:
                raise ConnectionError(f"{url}: not downloaded ({error}); {by_hand}") from error
            except ValueError as error:
                raise ValueError(
                    f"{url}: expected a file of MD5 {md5}, found another, perhaps a web page or a "
                    f"newer edition; {by_hand}"
                ) from error


def hash_fraction(name: str) -> float:
    """Return a number in [0, 1) that depends on a name alone."""
    digest = hashlib.sha256(os.fsencode(normalize_name(name))).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def drop_copies(root: Path, sizes: dict[str, int]) -> list[str]:
    """Return the sorted names without byte-identical copies; only files of one size are read."""
    files_of_size, kept, seen = Counter(sizes.values()), [], set()
    for name in sorted(sizes):
        digest = content_digest(root / name) if files_of_size[sizes[name]] > 1 else None
        if digest is None or digest not in seen:
            kept.append(name)
        seen.add(digest)
    return kept


def file_size(path: Path) -> int:
    """Return a file's bytes, 0 where the system refuses to say: reading it gives the reason."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def content_digest(path: Path) -> bytes | None:
    """Return the hash of a file's content, None where it cannot be read or is too large."""
    try:
        check_bytes(path.stat().st_size)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except (PhotoError, OSError):
        return None


def list_folder(root: Path, cache: Path) -> Originals:
    """Find all pictures of a tree; a hash of its path chooses each picture's split."""
    if not root.is_dir():
        found = "a file (an archive must be unpacked)" if root.is_file() else "none"
        raise FileNotFoundError(f"{root}: expected a folder, found {found}; name one by --root")
    left = LeftOut()
    files = list(find_files(root, without=(cache.parent, cache), linked=left.add_link))
    for name in itertools.filterfalse(is_photo_name, files):
        left.add_file(root / name)
    sizes = {name: file_size(root / name) for name in filter(is_photo_name, files)}
    others = len(files) - len(sizes)
    names = drop_copies(root, sizes)
    splits: dict[str, list[str]] = {split: [] for split in SPLITS}
    for name in names:
        fraction = hash_fraction(name)
        splits["train" if fraction < 0.8 else "val" if fraction < 0.9 else "test"].append(name)
    copies, left_out = len(sizes) - len(names), left.describe([root])
    return Originals(splits, partial(read_file, root), sizes, 0, copies, others, left_out)


def sample_photos() -> dict[str, np.ndarray]:
    """Return scikit-image's color photographs, (H, W, 3) uint8; of the motorcycle's pair, one."""
    names = ("astronaut", "chelsea", "coffee", "retina", "rocket")
    photos = {name: getattr(skimage.data, name)() for name in names}
    return {**photos, "motorcycle": skimage.data.stereo_motorcycle()[0]}


def sample_side(photo: np.ndarray) -> int:
    """Return the side of a photograph's crops in pixels."""
    return len(photo) // SAMPLE_CROP


def read_sample(photos: dict[str, np.ndarray], name: str) -> bytes:
    """Return as PNG the crop whose name, as "coffee-048-120.png", gives its top and left."""
    photo, top, left = name.removesuffix(".png").split("-")
    y, x, side = int(top), int(left), sample_side(photos[photo])
    buffer = io.BytesIO()
    crop = np.ascontiguousarray(photos[photo][y : y + side, x : x + side])
    Image.fromarray(crop).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def list_sample(root: Path, cache: Path) -> Originals:
    """List crops of scikit-image's photographs: train at the left, val, test at the right edge."""
    photos = sample_photos()
    splits: dict[str, list[str]] = {split: [] for split in SPLITS}
    sizes = {}
    for photo, pixels in photos.items():
        (height, width), side = pixels.shape[:2], sample_side(pixels)
        step, test, val = side // SAMPLE_STEP, width - side, width - 2 * side
        lefts = {"train": range(0, val - side + 1, step), "val": [val], "test": [test]}
        for split in SPLITS:
            tops = range(0, height - side + 1, step if split == "train" else side // 2)
            names = [f"{photo}-{y:03d}-{x:03d}.png" for y in tops for x in lefts[split]]
            splits[split] += names
            sizes |= dict.fromkeys(names, 3 * side**2)
    return Originals(splits, partial(read_sample, photos), sizes)


DATASETS = {
    "celeba": list_celeba,
    "flowers": list_flowers,
    "folder": list_folder,
    "sample": list_sample,
}
