"""A picture of strokes to hints and back, and rings that count as nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.color import rgb2lab
from skimage.data import astronaut

from coloring import strokes as module
from coloring.hints import Hints
from coloring.photo import count_blocks
from coloring.sources import Source
from coloring.strokes import (
    PAINTED,
    block_at,
    blocks_of_pixels,
    box_of,
    draw_rings,
    draw_strokes,
    find_hints,
    hints_of_colors,
    read_strokes,
)
from photo_files.opening import PhotoError
from quantize import lab_to_rgb

GRIDS = [  # width and height in pixels, h and w in blocks
    ((64, 48), 12, 16),
    ((50, 38), 4, 5),
    ((301, 97), 16, 50),
    ((7, 13), 3, 2),
    ((1, 1), 1, 1),
    ((20, 20), 32, 32),  # fewer pixels than blocks
    ((3, 200), 64, 5),
    ((1, 1), 16, 16),
    ((9, 2), 3, 8),
]


def scribble(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Return noise, of which half is painted, in runs and by single pixels."""
    width, height = size
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (height, width, 4), dtype=np.uint8)
    pixels[::3] = pixels[::3, :1]  # rows of one color
    return Image.fromarray(pixels)


def compare(found: Hints, expected: Hints) -> None:
    assert torch.equal(found.blocks, expected.blocks)
    torch.testing.assert_close(found.ab, expected.ab, rtol=0, atol=1e-3)
    torch.testing.assert_close(found.share, expected.share)
    assert [part.dtype for part in vars(found).values()] == [torch.int64, *[torch.float32] * 2]


# ---- pixels and blocks -------------------------------------------------------------------------
@pytest.mark.parametrize(("size", "h", "w"), GRIDS)
def test_pixels_blocks_and_boxes_agree(size, h, w):
    rows, columns = blocks_of_pixels(size, h, w)
    assert (len(columns), len(rows)) == size
    seen = np.zeros((size[1], size[0]), int)
    for block in range(h * w):
        left, top, right, bottom = box_of(block, size, h, w)
        assert 0 <= left <= right < size[0]
        assert 0 <= top <= bottom < size[1]
        if block_at((left, top), size, h, w) == block:
            seen[top : bottom + 1, left : right + 1] += 1
            for x in (left, right):
                for y in (top, bottom):
                    assert rows[y] * w + columns[x] == block_at((x, y), size, h, w) == block
    assert (seen == 1).all()  # each pixel is in one box
    if size[0] >= w and size[1] >= h:
        assert (set(rows), set(columns)) == (set(range(h)), set(range(w)))


@pytest.mark.parametrize(("size", "h", "w"), GRIDS)
def test_a_box_lies_where_its_block_lies(size, h, w):
    for block in range(h * w):
        row, column = divmod(block, w)
        left, top, right, bottom = box_of(block, size, h, w)
        assert left * w < (column + 1) * size[0]  # they overlap
        assert (right + 1) * w > column * size[0]
        assert top * h < (row + 1) * size[1]
        assert (bottom + 1) * h > row * size[1]


def test_a_place_outside_is_in_the_nearest_block():
    for place, block in (((-9, -1), 0), ((50, 0), 4), ((999, 999), 19), ((-1, 38), 15)):
        assert block_at(place, (50, 38), 4, 5) == block
    assert block_at((9.9, 9.4), (50, 38), 4, 5) == 0  # between two pixels


@pytest.mark.parametrize("size", [(640, 480), (37, 251), (20, 20), (1000, 3)])
def test_blocks_are_as_large_as_the_network_sees_them(size):
    h, w = count_blocks(size, 64)
    rows, columns = blocks_of_pixels(size, h, w)
    for blocks, number in ((rows, h), (columns, w)):
        pixels = np.bincount(blocks, minlength=number)
        assert np.ptp(pixels) <= 1
        assert (np.diff(blocks) >= 0).all()


# ---- hints -------------------------------------------------------------------------------------
@pytest.mark.parametrize("strip", [module.STRIP_PIXELS, 100, 1])
@pytest.mark.parametrize(("size", "h", "w"), [GRIDS[1], GRIDS[3], GRIDS[5], GRIDS[8]])
def test_find_hints_gives_each_painted_block_its_mean_ab_and_share(size, h, w, strip, monkeypatch):
    monkeypatch.setattr(module, "STRIP_PIXELS", strip)
    picture = scribble(size)
    pixels, lab = np.asarray(picture), rgb2lab(np.asarray(picture.convert("RGB")))
    inside: dict[int, list] = {}
    for y in range(size[1]):
        for x in range(size[0]):
            inside.setdefault((y * h // size[1]) * w + x * w // size[0], []).append((y, x))
    blocks, ab, share = [], [], []
    for block, places in sorted(inside.items()):
        painted = [lab[place][1:] for place in places if pixels[place][3] >= 128]
        if painted:
            blocks.append(block)
            ab.append(np.mean(painted, 0))
            share.append(len(painted) / len(places))
    expected = Hints(torch.tensor(blocks), torch.tensor(np.array(ab)).float(), torch.tensor(share))
    compare(find_hints(picture, h, w), expected)


def test_two_colors_in_one_block_are_averaged():
    picture = Image.new("RGBA", (8, 8))
    picture.paste((200, 60, 50, 255), (0, 0, 2, 4))
    picture.paste((40, 90, 200, 255), (2, 0, 3, 4))
    hints = find_hints(picture, 2, 2)
    colors = rgb2lab(np.array([(200, 60, 50), (40, 90, 200)], np.uint8))[:, 1:]
    mean = torch.from_numpy((2 * colors[0] + colors[1]) / 3).float()
    compare(hints, Hints(torch.tensor([0]), mean[None], torch.tensor([0.75])))


def test_a_strokes_lightness_does_not_count():
    L, ab = torch.tensor([30.0, 50.0, 70.0]), torch.tensor([30.0, 20.0])
    rgb = lab_to_rgb(L[None, None, None], ab[None, :, None, None].expand(1, 2, 1, 3))
    picture = Image.fromarray(rgb[0].movedim(0, -1).numpy()).convert("RGBA")
    expected = ab.expand(3, 2)
    torch.testing.assert_close(find_hints(picture, 1, 3).ab, expected, rtol=0, atol=0.6)


@pytest.mark.parametrize("alpha", [0, 1, PAINTED - 1])
def test_what_is_fainter_than_half_is_not_painted(alpha):
    assert find_hints(Image.new("RGBA", (9, 9), (255, 0, 0, alpha)), 3, 3) is None
    for color in ((255, 0, 0), (0, 0, 0)):
        assert len(find_hints(Image.new("RGBA", (9, 9), (*color, PAINTED)), 3, 3)) == 9


@pytest.mark.parametrize(("size", "h", "w"), GRIDS[:5])
def test_hints_of_colors_are_those_of_painted_blocks(size, h, w):
    random = np.random.default_rng(1)
    blocks = random.choice(h * w, max(1, h * w // 3), replace=False).tolist()
    colors = {block: tuple(random.integers(0, 256, 3).tolist()) for block in blocks}
    painted = draw_strokes(colors, size, h, w)
    assert (painted.mode, painted.size) == ("RGBA", size)
    compare(hints_of_colors(colors), find_hints(painted, h, w))


def test_no_colors_are_no_hints():
    assert hints_of_colors({}) is None
    assert find_hints(draw_strokes({}, (50, 38), 4, 5), 4, 5) is None


def test_blocks_without_a_pixel_can_be_painted():
    painted = draw_strokes(dict.fromkeys(range(32 * 32), (255, 0, 0)), (20, 20), 32, 32)
    assert painted.getcolors() == [(400, (255, 0, 0, 255))]


# ---- files -------------------------------------------------------------------------------------
def source_of(strokes: Path | None) -> Source:
    return Source("/photos/a.png", "a.png", (1, 1), lambda: b"", strokes)


def test_read_strokes_names_the_picture_that_is_wrong(tmp_path):
    assert read_strokes(source_of(None), (9, 9)) is None
    scribble((9, 9)).save(path := tmp_path / "a.png")
    assert np.array_equal(read_strokes(source_of(path), (9, 9)), scribble((9, 9)))
    with pytest.raises(PhotoError) as refused:
        read_strokes(source_of(path), (8, 9))
    reason = "9 x 9 pixels, expected the photograph's 8 x 9"
    assert str(refused.value) == f"its hints, {path}: {reason}"
    with pytest.raises(PhotoError, match=r"its hints, .*none\.png: No such file or directory"):
        read_strokes(source_of(tmp_path / "none.png"), (9, 9))


# ---- rings -------------------------------------------------------------------------------------
@pytest.mark.parametrize(("size", "h", "w"), GRIDS)
def test_rings_count_as_nothing(size, h, w):
    picture = Image.new("RGBA", size)
    draw_rings(picture, range(0, h * w, 7), h, w)
    assert find_hints(picture, h, w) is None
    if min(size) > 20:
        assert np.asarray(picture)[..., 3].max() == PAINTED - 1


def test_rings_leave_their_middle_free_and_are_seen_on_any_ground():
    h, w = 16, 16
    for ground in ("black", "white"):
        picture = Image.new("RGB", (512, 512), ground)
        draw_rings(picture, [5 * w + 3, 12 * w + 15], h, w)
        pixels = np.asarray(picture.convert("L"))
        changed = pixels != (0 if ground == "black" else 255)
        for row, column in ((5, 3), (12, 15)):
            middle = np.s_[32 * row + 8 : 32 * row + 24, 32 * column + 8 : 32 * column + 24]
            assert not changed[middle].any()
            around = np.s_[max(0, 32 * row - 24) : 32 * row + 56, max(0, 32 * column - 24) :]
            assert changed[around].sum() > 60


def test_rings_are_where_their_blocks_are_and_numbered():
    size, (h, w) = (300, 200), (10, 15)
    one, other = (Image.new("RGBA", size) for _ in range(2))
    draw_rings(one, [3 * w + 7], h, w)
    draw_rings(other, [0, 3 * w + 7], h, w)
    left, top, right, bottom = one.getbbox()
    assert left < 7 * 20 < 8 * 20 < right  # the ring, and its number to the right
    assert top < 3 * 20 < 4 * 20 < bottom
    box = (left, top, right + 20, bottom)
    pictures = [np.asarray(picture.crop(box)) for picture in (one, other)]
    assert not np.array_equal(*pictures)  # 1 and 2
    ring = np.s_[:, : bottom - top]
    assert np.array_equal(*(picture[ring] for picture in pictures))


def test_rings_on_a_photograph_leave_what_is_far_from_them():
    photo = Image.fromarray(astronaut())
    ringed = photo.copy()
    draw_rings(ringed, [0], 16, 16)
    assert np.array_equal(np.asarray(ringed)[128:], astronaut()[128:])
    assert not np.array_equal(np.asarray(ringed)[:64, :64], astronaut()[:64, :64])
