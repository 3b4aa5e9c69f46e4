"""What is written of photographs that were colored."""

import numpy as np
from PIL import Image
from skimage.color import rgb2lab

from photo_files.finding import RECORD


def written(out):
    """Return the names of the pictures below a folder."""
    paths = (path for path in out.rglob("*") if path.is_file() and path.name != RECORD)
    paths = (path for path in paths if path.suffix != ".lock")
    return sorted(path.relative_to(out).as_posix() for path in paths)


def stamps(out):
    return {name: (out / name).stat().st_mtime_ns for name in written(out)}


def lightness(path):
    return rgb2lab(np.asarray(Image.open(path).convert("RGB")))[..., 0]
