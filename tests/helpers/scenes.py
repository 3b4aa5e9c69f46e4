"""Films of several shots for an untrained network of 16 px, and what is read of colored ones."""

import numpy as np
from pictures import make_patches

from films.reading import open_film

SIZE = (64, 48)  # width and height


def pan(seed: int, number: int, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    """Return frames (H, W, 3) uint8 of a shot: a camera moves over colors, with grain."""
    rng, (width, height) = np.random.default_rng(seed), size
    wide = np.asarray(make_patches((width + number, height), seed), float)
    grain = rng.normal(0, 2, (number, height, width, 1))
    frames = (wide[:, k : k + width] + grain[k] for k in range(number))
    return [frame.clip(0, 255).astype(np.uint8) for frame in frames]


def read_frames(path) -> tuple[list[float], np.ndarray]:
    """Return the seconds and the pictures (K, H, W, 3) of a film."""
    film = open_film(path)
    frames = list(film.frames())
    images = np.stack([np.asarray(frame.image) for frame in frames])
    return [float(frame.pts * film.time_base) for frame in frames], images.astype(int)
