"""Photographs and data sets as users have them, all generated."""

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat
from skimage.data import astronaut

SIDES = [(48, 36), (36, 48), (40, 40), (60, 40)]  # width, height; larger than the caches' 16 px


# ---- smooth patches of random colors -----------------------------------------------------------
def make_patches(size: tuple[int, int], generator: np.random.Generator | int = 0) -> Image.Image:
    """Return a small, smooth, colorful picture.

    Args:
        size: width and height.
        generator: or its seed.
    """
    generator = np.random.default_rng(generator)
    patches = Image.fromarray(generator.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    return patches.resize(size)


def write_patches(folder: Path, n: int, seed: int = 0) -> list[str]:
    """Write n such pictures of several sizes, PNG and JPEG in turn; return their names."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    names = [f"photo_{i:03d}.{('png', 'jpg')[i % 2]}" for i in range(n)]
    for i, name in enumerate(names):
        make_patches(SIDES[i % len(SIDES)], generator).save(folder / name)
    return names


def write_photo(path: Path, size=(50, 38), seed: int = 0, **options) -> Path:
    """Write one such picture with options of Pillow; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    make_patches(size, seed).save(path, **options)
    return path


def write_strokes(path: Path, size=(50, 38), box=None, color=(180, 40, 40)) -> Path:
    """Write a picture that is transparent but for one box of a color; without it, for nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGBA", size)
    if box:
        picture.paste((*color, 255), box)
    picture.save(path)
    return path


# ---- photographs -------------------------------------------------------------------------------
def jpegs(n: int) -> list[bytes]:
    """Return n crops of the astronaut, each another."""
    found = []
    for i in range(n):
        buffer = io.BytesIO()
        Image.fromarray(astronaut()[i : i + 178, 2 * i : 2 * i + 178]).save(buffer, "JPEG")
        found.append(buffer.getvalue())
    return found


def write_photos(folder: Path, n: int) -> None:
    """Write n JPEGs."""
    folder.mkdir(parents=True)
    for i, jpeg in enumerate(jpegs(n)):
        (folder / f"{i}.jpg").write_bytes(jpeg)


# ---- CelebA ------------------------------------------------------------------------------------
def lay_out_celeba(
    root: Path,
    faces: dict[str, bytes],
    partition: dict[str, int],
    layout: str = "zip",
    form: str = "plain",
) -> None:
    """Write CelebA in one of the forms that users have.

    Args:
        root: the folder to write to.
        faces: names and bytes of the pictures that are there.
        partition: the number of the split of each picture that is listed.
        layout: "zip", "folder" or "doubled folder".
        form: of the list: "plain", "spaces", "crlf", "no last newline" or "csv".
    """
    root.mkdir(parents=True, exist_ok=True)
    if layout == "zip":
        with zipfile.ZipFile(root / "img_align_celeba.zip", "w") as file:
            for name, content in faces.items():
                file.writestr(f"img_align_celeba/{name}", content)
                file.writestr(f"__MACOSX/img_align_celeba/._{name}", b"a shadow")
    else:
        write_files(root / "/".join(["img_align_celeba"] * (1 + (layout != "folder"))), faces)
    lines = [f"{name} {split}" for name, split in partition.items()]
    text, ending = {
        "plain": ("\n".join(lines) + "\n", "txt"),
        "spaces": ("\n".join(lines).replace(" ", "   ") + " \n\n", "txt"),
        "crlf": ("\r\n".join(lines) + "\r\n", "txt"),
        "no last newline": ("\n".join(lines), "txt"),
        "csv": ("image_id,partition\n" + "\n".join(lines).replace(" ", ",") + "\n", "csv"),
    }[form]
    (root / f"list_eval_partition.{ending}").write_bytes(text.encode())


def write_celeba(root: Path) -> None:
    """Write CelebA's two files, with sixty faces."""
    names = [f"{i + 1:06d}.jpg" for i in range(60)]
    partition = {name: (0, 0, 0, 1, 2)[i % 5] for i, name in enumerate(names)}
    lay_out_celeba(
        root, dict(zip(names, jpegs(60), strict=True)), partition, "zip", "no last newline"
    )


# ---- flowers -----------------------------------------------------------------------------------
def lay_out_flowers(
    root: Path, flowers: dict[str, bytes], ids: dict[str, list[int]], layout: str = "tgz"
) -> None:
    """Write Oxford's two files.

    Args:
        root: the folder to write to.
        flowers: names and bytes of the pictures that are there.
        ids: the numbers of the pictures in each split, by Oxford's names for its splits.
        layout: "tgz" as downloaded, or "jpg", the folder that is in it.
    """
    root.mkdir(parents=True, exist_ok=True)
    savemat(root / "setid.mat", {name: np.array([list(part)]) for name, part in ids.items()})
    if layout == "jpg":
        write_files(root / "jpg", flowers)
        return
    with tarfile.open(root / "102flowers.tgz", "w:gz") as file:
        folder = tarfile.TarInfo("jpg")
        folder.type = tarfile.DIRTYPE
        file.addfile(folder)
        for name, content in flowers.items():
            member = tarfile.TarInfo(f"jpg/{name}")
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))


def write_flowers(root: Path) -> dict[str, str]:
    """Write Oxford's two files, with thirty flowers; return their checksums."""
    names = [f"image_{i:05d}.jpg" for i in range(1, 31)]
    parts = np.array_split(np.arange(1, 31), [5, 10])
    ids = dict(zip(("trnid", "valid", "tstid"), parts, strict=True))
    lay_out_flowers(root, dict(zip(names, jpegs(30), strict=True)), ids)
    names = ("102flowers.tgz", "setid.mat")
    return {name: hashlib.md5((root / name).read_bytes()).hexdigest() for name in names}


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Write files below a new folder."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
