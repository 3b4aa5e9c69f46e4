"""Hints as a picture: strokes of color on transparency, and rings where a color would tell most.

It has the size of its photograph, upright. A stroke's ab counts, its lightness does not.
Shapes: H and W pixels, h and w blocks, P = h w blocks in rows, N hints.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from skimage.color import rgb2lab

from coloring.hints import Color, Hints
from coloring.sources import Source
from photo_files import PhotoError
from photo_files.opening import open_strokes, read_bytes

PAINTED = 128  # alpha from which a pixel counts; rings have less
STRIP_PIXELS = 2**20  # searched at a time
SMALLEST_RING = 7  # pixels of a ring's radius


def blocks_of_pixels(size: tuple[int, int], h: int, w: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the row of blocks of each row of pixels, (H,), and likewise of columns, (W,)."""
    width, height = size
    return np.arange(height) * h // height, np.arange(width) * w // width


def block_at(place: tuple[int, int], size: tuple[int, int], h: int, w: int) -> int:
    """Return the block, 0..P - 1, of a place, x and y in pixels; outside, the nearest one."""
    column, row = (
        min(max(int(at), 0), side - 1) * number // side
        for at, side, number in zip(place, size, (w, h), strict=True)
    )
    return row * w + column


def box_of(block: int, size: tuple[int, int], h: int, w: int) -> tuple[int, int, int, int]:
    """Return a block's first and last column and row of pixels: left, top, right, bottom.

    A block that is smaller than a pixel, and has none, gets the pixel that it lies in.
    """
    row, column = divmod(block, w)
    spans = []
    for at, side, number in ((column, size[0], w), (row, size[1], h)):
        last = -(-(at + 1) * side // number) - 1
        spans.append((min(-(-at * side // number), last), last))
    (left, right), (top, bottom) = spans
    return left, top, right, bottom


def middle_of(block: int, size: tuple[int, int], h: int, w: int) -> tuple[float, float]:
    """Return x and y of a block's middle, in pixels."""
    left, top, right, bottom = box_of(block, size, h, w)
    return (left + right) / 2, (top + bottom) / 2


def find_hints(strokes: Image.Image, h: int, w: int) -> Hints | None:
    """Return the painted blocks of an RGBA picture, each with the mean ab of its painted pixels.

    None if nothing is painted.
    """
    rows, columns = blocks_of_pixels(strokes.size, h, w)
    total, painted = np.zeros((h * w, 2)), np.zeros(h * w)
    step = max(1, STRIP_PIXELS // strokes.width)
    for top in range(0, strokes.height, step):
        strip = strokes.crop((0, top, strokes.width, min(top + step, strokes.height)))
        pixels = np.asarray(strip).view("<u4")[..., 0]  # alpha, blue, green, red from the top
        # a stroke has few colors: neighbors of one color and one block are converted once
        begins = np.ones(pixels.shape, bool)
        begins[:, 1:] = (pixels[:, 1:] != pixels[:, :-1]) | (columns[1:] != columns[:-1])
        first = np.flatnonzero(begins)
        number, colors = np.diff(first, append=pixels.size), pixels.ravel()[first]
        kept = colors >= PAINTED << 24
        (y, x), number, colors = np.divmod(first[kept], strokes.width), number[kept], colors[kept]
        blocks = rows[top + y] * w + columns[x]
        ab = rgb2lab(colors.view(np.uint8).reshape(-1, 4)[:, :3])[:, 1:]
        np.add.at(total, blocks, ab * number[:, None])
        np.add.at(painted, blocks, number)
    (found,) = np.nonzero(painted)
    if not len(found):
        return None
    pixels = np.outer(np.bincount(rows, minlength=h), np.bincount(columns, minlength=w)).ravel()
    ab, share = total[found] / painted[found, None], painted[found] / pixels[found]
    return Hints(torch.from_numpy(found), *(torch.from_numpy(x).float() for x in (ab, share)))


def hints_of_colors(colors: dict[int, Color]) -> Hints | None:
    """Return the hints of blocks that are painted whole, as `find_hints` of `draw_strokes` does."""
    if not colors:
        return None
    blocks = sorted(colors)
    ab = rgb2lab(np.array([colors[block] for block in blocks], np.uint8))[:, 1:]
    return Hints(torch.tensor(blocks), torch.from_numpy(ab).float(), torch.ones(len(blocks)))


def read_strokes(source: Source, size: tuple[int, int]) -> Image.Image | None:
    """Return a photograph's picture of strokes, RGBA, None if it has none.

    Raise PhotoError if it cannot be read, is opaque, or has not the photograph's size.
    """
    return source.strokes and open_painted(source.strokes, size)


def open_painted(path: Path, size: tuple[int, int]) -> Image.Image:
    """Open a picture of strokes, RGBA; raise PhotoError as `read_strokes` does."""
    try:
        return open_strokes(read_bytes(path), size)
    except PhotoError as error:
        raise PhotoError(f"its hints, {path}: {error}") from error


# ---- drawing -----------------------------------------------------------------------------------
def draw_strokes(colors: dict[int, Color], size: tuple[int, int], h: int, w: int) -> Image.Image:
    """Paint blocks whole on a transparent picture, RGBA."""
    strokes = Image.new("RGBA", size)
    draw = ImageDraw.Draw(strokes)
    for block, color in colors.items():
        draw.rectangle(box_of(block, size, h, w), fill=(*color, 255))
    return strokes


def ring_radius(size: tuple[int, int], h: int, w: int) -> float:
    """Return the radius in pixels of a ring around a block."""
    return max(SMALLEST_RING, min(size[0] / w, size[1] / h))


def dark_and_light(mode: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return black and white for a picture of a mode; in RGBA too faint to count as painted."""
    opacity = (PAINTED - 1,) if mode == "RGBA" else ()
    return (0, 0, 0, *opacity), (255, 255, 255, *opacity)


def draw_circle(
    draw: ImageDraw.ImageDraw,
    x: float,
    y: float,
    radius: float,
    fill: tuple[int, ...] | None = None,
) -> None:
    """Draw a circle in black and white, visible on any picture; half transparent if it can be."""
    line = max(1, round(radius / 8))
    for color, outer in zip(dark_and_light(draw.mode), (radius + line, radius), strict=True):
        box = (x - outer, y - outer, x + outer, y + outer)
        draw.ellipse(box, fill, color, line)


def draw_rings(image: Image.Image, blocks: Iterable[int], h: int, w: int) -> None:
    """Draw rings around blocks, with their numbers from 1 on, on a picture, RGB or RGBA.

    On an RGBA picture they are half transparent, so that no ring counts as painted.
    """
    draw, radius = ImageDraw.Draw(image), ring_radius(image.size, h, w)
    line, font = max(1, round(radius / 8)), ImageFont.load_default(max(10, radius))
    dark, light = dark_and_light(image.mode)
    for number, block in enumerate(blocks, start=1):
        x, y = middle_of(block, image.size, h, w)
        draw_circle(draw, x, y, radius)
        after = x + radius + 3 * line
        place, anchor = (after, "lm") if after + 2 * radius < image.width else (2 * x - after, "rm")
        draw.text((place, y), str(number), light, font, anchor, stroke_width=line, stroke_fill=dark)


def draw_dots(
    image: Image.Image, colors: dict[int, Color], chosen: int | None, h: int, w: int
) -> None:
    """Draw on an RGB picture a dot of its color on each block, and a cross on the chosen one."""
    draw, radius = ImageDraw.Draw(image), ring_radius(image.size, h, w) * 0.6
    for block, color in colors.items():
        draw_circle(draw, *middle_of(block, image.size, h, w), radius, color)
    if chosen is not None:
        (x, y), arm = middle_of(chosen, image.size, h, w), 1.5 * radius
        for level, line in (("black", 5), ("white", 2)):
            draw.line((x - arm, y, x + arm, y), level, line)
            draw.line((x, y - arm, x, y + arm), level, line)
