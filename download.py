"""Originals from the page of their makers, verified; by pooch, an optional dependency."""

import hashlib
from pathlib import Path

from filelock import FileLock

FLOWERS_PAGE = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
FLOWERS_MD5 = {
    "102flowers.tgz": "52808999861908f626f3c1f4e79d11fa",
    "setid.mat": "a5357ecc9cb78c4bef273ce3793fc85c",
}
TIMEOUT = 60  # seconds without a byte


def is_there(path: Path, md5: str) -> bool:
    """Tell whether a file is there already.

    Raises:
        FileExistsError: another file of that name is.
    """
    if not path.exists():
        return False
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != md5:
        raise FileExistsError(
            f"{path}: expected MD5 {md5}, found {found}; move it away to download it anew, or "
            "leave out --download to use it as it is"
        )
    return True


def fetch(url: str, path: Path, md5: str) -> None:
    """Download a file, whole and verified or not at all.

    Raises:
        ConnectionError: the server cannot be reached, has no such file, or broke off.
        ValueError: what came is another file; or pooch is not installed.
    """
    try:
        import pooch
        import requests
    except ImportError:
        raise ValueError("--download needs pooch, which is not here: pip install pooch") from None
    by_hand = f"try again later, or take it by a browser and put it into {path.parent}"
    downloader = pooch.HTTPDownloader(progressbar=True, timeout=TIMEOUT)
    try:
        pooch.retrieve(url, f"md5:{md5}", path.name, path.parent, downloader=downloader)
    except requests.RequestException as error:
        raise ConnectionError(f"{url}: not downloaded ({error}); {by_hand}") from error
    except ValueError as error:
        raise ValueError(
            f"{url}: what came is not the file that was expected, of MD5 {md5}, perhaps a web "
            f"page or a newer edition; {by_hand}"
        ) from error


def download_flowers(root: Path) -> None:
    """Download Oxford's 102 flowers and their splits; what is there already is kept."""
    if all(is_there(root / name, md5) for name, md5 in FLOWERS_MD5.items()):
        return
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".download.lock"):  # one rank does, the others wait
        for name, md5 in FLOWERS_MD5.items():
            if not is_there(root / name, md5):
                fetch(FLOWERS_PAGE + name, root / name, md5)
