"""--ask, as typed: pictures to paint on, what is printed of them, and painting on them."""

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from encoding import encode_turned
from pictures import write_photo, write_strokes
from PIL import Image
from skimage.color import rgb2lab
from written import lightness, stamps, written

from coloring import ask as module
from coloring.ask import choose_paths
from coloring.hints import LEAST
from coloring.sources import Source, find_strokes
from coloring.strokes import PAINTED, block_at, draw_rings, find_hints

SIZE, BLOCKS = (50, 38), (4, 5)  # as the network sees it at 16 px
LINE = re.compile(r"^ +(\d+)  x (\d+), y (\d+): (.+)$", re.MULTILINE)


@pytest.fixture
def photo(tmp_path):
    return write_photo(tmp_path / "a.jpg", quality=95)


def places(printed):
    """Return the numbers and places that were printed."""
    return [tuple(map(int, found)) for found in (m.groups()[:3] for m in LINE.finditer(printed))]


def blocks(printed, size=SIZE, grid=BLOCKS):
    return [block_at((x, y), size, *grid) for _, x, y in places(printed)]


def colors(printed):
    """Return the colors and percentages printed for each place."""
    found = [re.findall(r"#([0-9a-f]{6}) (\d+)%", m.group(4)) for m in LINE.finditer(printed)]
    return [[(tuple(bytes.fromhex(color)), int(share)) for color, share in row] for row in found]


# ---- pictures to paint on ----------------------------------------------------------------------
def test_ask_writes_rings_that_count_as_nothing_and_prints_their_places(color, photo, tmp_path):
    status, printed = color(photo, "--ask", 3)
    assert (status, written(tmp_path / "out")) == (0, ["a.png"])
    path = tmp_path / "out" / "a.png"
    assert f"{path}, for a.jpg:" in printed
    assert f"{tmp_path / 'out'}: 1 pictures to paint on, 0 skipped" in printed
    assert printed.rstrip().endswith(f"then color with --hints {tmp_path / 'out'}")
    assert [number for number, _, _ in places(printed)] == [1, 2, 3]
    assert len(set(blocks(printed))) == 3
    picture = Image.open(path)
    assert (picture.mode, picture.size, picture.format) == ("RGBA", SIZE, "PNG")
    alpha = np.asarray(picture)[..., 3]
    assert 0 < (alpha > 0).mean() < 0.9
    assert alpha.max() < PAINTED
    assert find_hints(picture, *BLOCKS) is None


def test_rings_are_around_the_printed_places(color, tmp_path):
    path = write_photo(tmp_path / "a.png", (600, 600))
    _, printed = color(path, "--ask", 1)
    ((_, x, y),) = places(printed)
    alpha = np.asarray(Image.open(tmp_path / "out" / "a.png"))[..., 3]
    radius = 150  # of the ring: a block, of which there are 4 x 4
    for angle in np.linspace(0, 2 * np.pi, 16):
        for distance, seen in ((radius - 2, True), (radius - 30, False)):
            column, row = int(x + distance * np.cos(angle)), int(y + distance * np.sin(angle))
            if 0 <= row < 600 and 0 <= column < 600:
                assert (alpha[row, column] > 0) == seen


def test_colors_are_printed_by_their_shares_at_the_photographs_lightness(color, photo):
    _, printed = color(photo, "--ask", 20)
    offered, L = colors(printed), lightness(photo)
    assert len(offered) == 20
    for row, (_, x, y) in zip(offered, places(printed), strict=True):
        assert 1 <= len(row) <= 3
        shares = [share for _, share in row]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) <= 101
        assert min(shares[1:], default=100) >= 100 * LEAST
        lab = rgb2lab(np.array([color for color, _ in row], np.uint8))
        assert np.ptp(lab[:, 0]) < 1.5
        assert abs(lab[0, 0] - L[max(0, y - 5) : y + 5, max(0, x - 5) : x + 5].mean()) < 15
        assert len(row) == 1 or np.ptp(lab[:, 1:], 0).max() > 5


def test_vividness_changes_the_colors_and_not_the_places(color, photo, tmp_path):
    _, dull = color(photo, "--ask", 3)
    _, vivid = color(photo, "--ask", 3, "--vividness", 1, "--out", tmp_path / "vivid")
    assert places(dull) == places(vivid)
    assert colors(dull) != colors(vivid)


def test_a_faded_photograph_is_asked_about_as_it_will_be_colored(color, photo, tmp_path):
    Image.open(photo).convert("L").point([100 + level // 5 for level in range(256)]).save(photo)
    _, stretched = color(photo, "--ask", 3)
    _, plain = color(photo, "--ask", 3, "--no-stretch", "--out", tmp_path / "plain")
    assert colors(stretched) != colors(plain)


def test_more_questions_than_blocks_are_asked_once_each(color, tmp_path):
    _, printed = color(write_photo(tmp_path / "a.png"), "--ask", 500)
    assert sorted(blocks(printed)) == list(range(20))


@pytest.mark.parametrize("size", [(1, 1), (9, 2), (200, 3)])
def test_photographs_smaller_than_their_blocks_are_asked_about(size, color, tmp_path):
    path = write_photo(tmp_path / "a.png", size)
    status, printed = color(path, "--ask", 4, "--working-size", 64)
    assert (status, len(places(printed))) == (0, 4)
    assert all(0 <= x < size[0] and 0 <= y < size[1] for _, x, y in places(printed))
    assert Image.open(tmp_path / "out" / "a.png").size == size


def test_many_blocks_are_asked_about(color, tmp_path):
    path = write_photo(tmp_path / "a.png", (300, 200))
    status, printed = color(path, "--ask", 5, "--working-size", 160)  # 40 x 60 blocks
    assert (status, len(set(blocks(printed, (300, 200), (40, 60))))) == (0, 5)


def test_the_picture_is_as_the_photograph_is_seen(color, photo, tmp_path):
    (tmp_path / "b.png").write_bytes(encode_turned(np.asarray(Image.open(photo)), 6, "PNG"))
    _, upright = color(photo, "--ask", 4)
    _, turned = color(tmp_path / "b.png", "--ask", 4)
    assert places(upright) == places(turned)
    assert np.array_equal(*(Image.open(tmp_path / "out" / f"{name}.png") for name in "ab"))


# ---- names -------------------------------------------------------------------------------------
def test_trees_and_zips_are_kept(color, tmp_path):
    data = write_photo(tmp_path / "scans" / "deep" / "b.jpg").read_bytes()
    with zipfile.ZipFile(tmp_path / "album.zip", "w") as file:
        file.writestr("z/c.jpg", data)
    status, printed = color(tmp_path / "scans", tmp_path / "album.zip", "--ask", 1)
    assert (status, written(tmp_path / "out")) == (0, ["deep/b.png", "z/c.png"])
    assert len(places(printed)) == 2


def source_of(folder, name):
    return Source(f"/{folder}/{name}", name, (1, 1), lambda: b"")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["x/a.gif", "x/a.jpg", "x/a.png"], ["a.png", "a.jpg.png", "a.png.png"]),
        (["x/a.jpg", "x/A.PNG"], ["a.png", "A.PNG.png"]),
        (["x/a.png", "y/a.png", "z/b.png"], ["a.png", None, "b.png"]),
        (["x/a.png.gif", "x/a.png"], ["a.png.png", None]),
        (["x/a.png", "x/a.png.gif"], ["a.png", "a.png.gif.png"]),
        (["x/a.jpg", "y/deep/a.jpg"], ["a.png", "deep/a.png"]),
    ],
)
def test_each_picture_is_found_by_its_photograph_alone(names, expected, tmp_path):
    sources = [source_of(*name.split("/", 1)) for name in names]
    chosen, skipped = choose_paths(sources, tmp_path)
    paths = {source.where: path.relative_to(tmp_path).as_posix() for source, path in chosen}
    assert [paths.get(source.where) for source in sources] == expected
    assert [where for where, _ in skipped] == [
        source.where for source, path in zip(sources, expected, strict=True) if path is None
    ]
    for _, path in chosen:
        write_strokes(path)
    found = find_strokes([source for source, _ in chosen], tmp_path)
    assert [source.strokes for source in found] == [path for _, path in chosen]


def test_a_photograph_whose_name_another_has_is_skipped(color, tmp_path):
    paths = [write_photo(tmp_path / folder / "a.png") for folder in "xy"]
    status, printed = color(*paths, "--ask", 1)
    assert (status, written(tmp_path / "out")) == (1, ["a.png"])
    assert f"skipped {paths[1]}: another photograph has its name; ask for its colors" in printed
    assert "1 pictures to paint on, 1 skipped" in printed


# ---- painting ----------------------------------------------------------------------------------
def test_what_is_painted_in_a_ring_colors_the_photograph(color, photo, tmp_path):
    _, printed = color(photo, "--ask", 1)
    ((_, x, y),) = places(printed)
    asked = tmp_path / "out"
    asked.rename(hints := tmp_path / "hints")
    assert "1  whose picture of hints has no stroke yet" in color(photo, "--hints", hints)[1]
    (tmp_path / "out").rename(tmp_path / "plain")
    picture = Image.open(hints / "a.png")
    picture.paste((200, 30, 30, 255), (x - 3, y - 3, x + 3, y + 3))
    picture.save(hints / "a.png")
    status, printed = color(photo, "--hints", hints)
    assert (status, "1  with hints" in printed) == (0, True)
    a = [
        rgb2lab(np.asarray(Image.open(tmp_path / folder / "a.jpg")))[
            y - 2 : y + 2, x - 2 : x + 2, 1
        ]
        for folder in ("out", "plain")
    ]
    assert a[0].mean() > 45
    assert abs(a[0].mean() - 58) < abs(a[1].mean() - 58)


def test_ask_with_hints_keeps_the_strokes_and_asks_for_other_places(color, photo, tmp_path):
    _, printed = color(photo, "--ask", 2)
    first = blocks(printed)
    (tmp_path / "out").rename(hints := tmp_path / "hints")
    picture = Image.open(hints / "a.png")
    for _, x, y in places(printed):
        picture.paste((200, 30, 30, 200), (x - 1, y - 1, x + 1, y + 1))
    picture.save(hints / "a.png")
    status, printed = color(photo, "--ask", 3, "--hints", hints)
    assert (status, written(tmp_path / "out")) == (0, ["a.png"])
    again = Image.open(tmp_path / "out" / "a.png")
    before, after = np.asarray(picture), np.asarray(again)
    painted = before[..., 3] >= PAINTED
    assert np.array_equal(after[painted], before[painted])
    rings = Image.new("RGBA", SIZE)
    draw_rings(rings, blocks(printed), *BLOCKS)
    assert np.array_equal(after[~painted], np.asarray(rings)[~painted])  # the old ones are gone
    assert len(places(printed)) == 3
    assert {*blocks(printed)}.isdisjoint(first)


def test_ask_with_hints_takes_photographs_without_strokes(color, photo, tmp_path):
    other = write_photo(tmp_path / "b.png")
    write_strokes(tmp_path / "hints" / "a.png", box=(0, 0, 9, 9))
    status, _ = color(photo, other, "--ask", 2, "--hints", tmp_path / "hints")
    assert (status, written(tmp_path / "out")) == (0, ["a.png", "b.png"])


def test_everything_painted_leaves_nothing_to_ask(color, photo, tmp_path):
    write_strokes(tmp_path / "hints" / "a.png", box=(0, 0, 50, 37))
    status, printed = color(photo, "--ask", 2, "--hints", tmp_path / "hints")
    assert (status, places(printed)) == (0, [])


# ---- what goes wrong ---------------------------------------------------------------------------
def test_ask_never_writes_over_a_picture(color, photo, tmp_path):
    out = tmp_path / "out"
    color(photo, "--ask", 1)
    write_strokes(out / "a.png", box=(0, 0, 9, 9))
    before, content = stamps(out), (out / "a.png").read_bytes()
    other = write_photo(tmp_path / "b.png")
    for _ in range(2):
        status, printed = color(photo, other, "--ask", 2)
        assert status == 1
        reason = f"{out / 'a.png'} exists, and may hold your strokes; choose another --out"
        assert f"skipped {photo}: {reason}" in printed
        assert (out / "a.png").read_bytes() == content
        assert stamps(out)["a.png"] == before["a.png"]
    assert written(out) == ["a.png", "b.png"]
    assert "0 pictures to paint on, 2 skipped\n" in printed  # and nothing to color then


def test_photographs_and_strokes_that_cannot_be_read_are_skipped(color, photo, tmp_path):
    bad, odd = tmp_path / "bad.jpg", write_photo(tmp_path / "odd.png")
    bad.write_bytes(photo.read_bytes()[:200])
    strokes = write_strokes(tmp_path / "hints" / "odd.png", (9, 9))
    status, printed = color(bad, odd, photo, "--ask", 1, "--hints", tmp_path / "hints")
    assert (status, written(tmp_path / "out")) == (1, ["a.png"])
    assert f"skipped {bad}: damaged" in printed
    assert f"skipped {odd}: its hints, {strokes}: 9 x 9 pixels, expected the" in printed
    assert "1 pictures to paint on, 2 skipped" in printed


def test_no_photograph_and_no_folder_are_one_sentence(color, photo, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such photograph"):
        color(tmp_path / "none.jpg", "--ask", 1)
    with pytest.raises(FileNotFoundError, match="expected a folder, found nothing; --ask N makes"):
        color(photo, "--ask", 1, "--hints", tmp_path / "hints")
    assert not (tmp_path / "out").exists()


def test_ranks_share_the_questions(color, tmp_path, monkeypatch):
    for name in ("a.gif", "a.jpg", "b.jpg"):
        write_photo(tmp_path / "scans" / name)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert color(tmp_path / "scans", "--ask", 1)[0] == 0
    found = written(Path(tmp_path / "out"))
    assert found == ["a.jpg.png", "a.png", "b.png"]


def test_want_of_memory_is_a_reason(color, photo, monkeypatch):
    monkeypatch.setattr(module, "predict", lambda *_: torch.empty(2**58))
    status, printed = color(photo, "--ask", 3)
    assert status == 1
    assert "a.jpg: not enough memory to ask for its colors" in printed
