"""What the page in the browser calls."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut

from coloring import page as module
from coloring.hints import MOST
from coloring.page import ANSWERS, MOST_PHOTOS, SHOWN_SIDE, Page, color, prepare
from coloring.photo import Coloring, color_photo
from coloring.strokes import find_hints
from colorizer import load_colorizer
from photo_files.opening import PhotoError, open_strokes
from quantize import Decoding

RED, BLUE = (200, 30, 20), (20, 30, 200)
SETTINGS = 0, 0.3, 313, 0  # vividness, temperature, top-k, sample


@pytest.fixture
def page(checkpoint, tmp_path):
    """A page whose network is untrained and saw photographs at 16 px."""
    root = tmp_path / "visitors"
    root.mkdir()
    return Page(*load_colorizer(checkpoint), root)


@pytest.fixture
def photos(tmp_path):
    """A JPEG with EXIF, a PNG, and what is none."""
    exif = Image.Exif()
    exif[315] = "A. Photographer"
    Image.fromarray(astronaut()[:90, :120]).convert("L").save(tmp_path / "gray.jpg", exif=exif)
    Image.fromarray(astronaut()[200:290, :120]).save(tmp_path / "face.png")
    (tmp_path / "page.jpg").write_text("<html>no picture</html>")
    return [str(tmp_path / name) for name in ("gray.jpg", "page.jpg", "face.png")]


@pytest.mark.parametrize(("samples", "vividness"), [(0, 0.0), (3, 0.0), (0, 0.6)])
def test_color_is_what_generate_writes(samples, vividness, page, photos):
    seen = prepare(page.colorizer, path := Path(photos[0]), 16, page.root / "a")
    coloring = Coloring(16, Decoding(0.5, 10, vividness), samples)
    for said in ([], [(3, RED), (9, RED), (3, BLUE)]):
        strokes = open_strokes(page.write_hints(seen, said).read_bytes(), seen.size)
        hints = find_hints(strokes, *seen.blocks)
        gray = Image.open(path).convert("RGB")
        *_, expected = color_photo(page.colorizer, gray, coloring, hints)
        found = color(page.colorizer, seen, said, coloring, samples)
        assert np.array_equal(found, expected)
    assert len(hints) == 2


def test_receive_takes_photographs_and_names_what_are_none(page, photos):
    seen, faults = page.receive(photos)
    assert [photo.name for photo in seen] == ["gray.jpg", "face.png"]
    assert faults == ["page.jpg: a web page, not a picture"]


def test_receive_takes_so_many(page, photos):
    seen, faults = page.receive([photos[0]] * (MOST_PHOTOS + 1))
    assert len(seen) == MOST_PHOTOS
    assert faults == [f"{MOST_PHOTOS + 1} photographs: the first {MOST_PHOTOS} were taken"]


def test_prepare_refuses_a_large_photograph_by_its_header(page, photos, monkeypatch):
    monkeypatch.setattr(module, "MOST_PIXELS", 10_000)
    monkeypatch.setattr(Image.Image, "load", pytest.fail)
    with pytest.raises(PhotoError, match="more than 0 million pixels"):
        prepare(page.colorizer, Path(photos[0]), 16, page.root / "a")
    assert not any(page.root.iterdir())


def test_receive_names_what_memory_is_too_small_for(page, photos, monkeypatch):
    def fail(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    monkeypatch.setattr(module, "predict", fail)
    seen, faults = page.receive(photos[:1])
    assert seen == []
    assert faults == ["gray.jpg: not enough memory for this photograph; try a smaller one"]


def test_show_writes_what_the_page_shows(page, photos):
    seen = page.receive(photos)[0][0]
    after, marked, file = page.show(seen, [], None, *SETTINGS)
    shown = (seen.before, after, seen.uncertainty, file)
    assert marked.is_relative_to(page.root)
    assert all(path.is_relative_to(page.root) for path in shown)
    assert {Image.open(path).size for path in shown} == {(120, 90)}
    assert Image.open(marked).size == (SHOWN_SIDE, SHOWN_SIDE * 90 // 120)
    assert file.name == "gray.jpg"
    assert Image.open(file).getexif()[315] == "A. Photographer"
    before, after = (np.asarray(Image.open(path)).astype(int) for path in (seen.before, after))
    assert np.ptp(before, axis=-1).mean() < 2 < np.ptp(after, axis=-1).mean()


def test_compare_lays_gray_and_colored_side_by_side(page, photos):
    seen = page.receive(photos)[0][0]
    path = page.compare(seen, [], *SETTINGS)
    gray, colored = np.split(np.asarray(Image.open(path), int), 2, axis=1)
    assert path.name == "gray-compare.jpg"
    assert gray.shape == (90, 120, 3)
    assert np.ptp(gray[:, :-8], axis=-1).max() <= 4  # JPEG mixes colors beside the seam
    file = page.show(seen, [], None, *SETTINGS)[2]
    assert np.abs(colored - np.asarray(Image.open(file), int)).mean() < 4


def test_a_visitors_files_stay_few_and_go_with_the_visitor(page, photos):
    seen, _ = page.receive(photos)
    others, _ = page.receive(photos)
    for i in range(2 * ANSWERS):
        after, _, file = page.show(seen[0], [(i, RED)], i, 0, 0.1 + i / 10, 313, 0)
        page.write_hints(seen[0], [(i, RED)])
        page.write_all(seen, [[], []], *SETTINGS)
        page.compare(seen[0], [], *SETTINGS)
    assert after.exists()
    assert file.exists()
    assert len(list(page.root.rglob("after.jpg"))) == ANSWERS
    for name in ("colored.zip", "marked.jpg", "hints-*", "gray-compare.jpg"):
        assert len(list(page.root.rglob(name))) == ANSWERS
    page.forget(seen)
    page.forget([])
    assert list(page.root.iterdir()) == [others[0].folder.parent]


def test_write_all_keeps_photographs_of_one_name_apart(page, photos):
    seen, _ = page.receive([photos[0], photos[0], photos[2]])
    with zipfile.ZipFile(page.write_all(seen, [[], [], []], *SETTINGS)) as file:
        assert file.namelist() == ["1-gray.jpg", "2-gray.jpg", "3-face.png"]
        assert file.testzip() is None


def test_write_all_gives_each_photograph_its_own_hints(page, photos):
    seen, _ = page.receive([photos[0], photos[0]])
    with zipfile.ZipFile(page.write_all(seen, [[(5, RED)], []], *SETTINGS)) as file:
        hinted, plain = (np.asarray(Image.open(file.open(name)), int) for name in file.namelist())
    apart = np.abs(hinted - plain).sum(-1)
    assert apart[20:40, 25:45].mean() > 10  # block 5 is the second of the second row, of 22 pixels


# ---- colors that a visitor says ----------------------------------------------------------------
def test_show_colors_as_said_and_marks_it(page, photos):
    seen = page.receive(photos)[0][0]
    plain, _, _ = page.show(seen, [], None, *SETTINGS)
    first = np.asarray(Image.open(seen.plain), int)
    said, marked, _ = page.show(seen, [(0, RED)], 0, *SETTINGS)
    before, after = (np.asarray(Image.open(path), int)[:22, :22] for path in (plain, said))
    red = np.array((1, -0.5, -0.5))
    assert (after @ red).mean() > (before @ red).mean() + 20
    assert not np.array_equal(first, np.asarray(Image.open(seen.plain)))
    drawn = np.abs(np.asarray(Image.open(marked), int) - np.asarray(Image.open(seen.plain)))
    assert (drawn[:22, :22].sum(-1) > 100).any()


def test_the_picture_to_click_on_has_the_size_of_a_screen(page, tmp_path):
    Image.linear_gradient("L").resize((3 * SHOWN_SIDE, 300)).save(tmp_path / "wide.png")
    seen = page.receive([str(tmp_path / "wide.png")])[0][0]
    after, marked, _ = page.show(seen, [], None, *SETTINGS)
    assert Image.open(marked).size == (SHOWN_SIDE, 100)
    assert Image.open(after).size == (3 * SHOWN_SIDE, 300)
    h, w = seen.blocks
    assert page.find_block(seen, (0, 0)) == 0
    assert page.find_block(seen, (SHOWN_SIDE - 1, 99)) == h * w - 1
    assert page.find_block(seen, (SHOWN_SIDE // 2, 0)) == w // 2


def test_mark_asks_no_more_when_all_is_said(page, photos, monkeypatch):
    seen = page.receive(photos)[0][0]
    page.show(seen, [], None, *SETTINGS)
    asked = []
    monkeypatch.setattr(module, "ask", lambda *what: asked.append(what) or [])
    page.mark(seen, [(0, RED)] * (MOST - 1), None)
    page.mark(seen, [(0, RED)] * MOST, None)
    assert len(asked) == 1


def test_offer_gives_the_likeliest_colors(page, photos):
    seen = page.receive(photos)[0][0]
    offered = page.offer(seen, 5, 0.0)
    assert 0.1 < sum(share for _, share in offered) <= 1 + 1e-5
    assert [share for _, share in offered] == sorted((s for _, s in offered), reverse=True)
    assert all(0 <= level <= 255 for color, _ in offered for level in color)
    assert page.offer(seen, 5, 1.0) != offered


def test_write_hints_is_named_as_the_photograph(page, photos):
    seen = page.receive(photos)[0][0]
    path = page.write_hints(seen, [(0, RED), (0, BLUE)])
    assert path.name == "gray.png"
    with Image.open(path) as strokes:
        assert (strokes.mode, strokes.size) == ("RGBA", seen.size)
        assert strokes.getpixel((0, 0)) == (*BLUE, 255)
        assert strokes.getpixel((119, 89)) == (0, 0, 0, 0)


def test_explain_draws_the_distribution_of_the_block(page, photos, monkeypatch):
    seen, drawn = page.receive(photos)[0][0], []
    monkeypatch.setattr(module, "plot_distribution", lambda path, *what: drawn.append(what))
    w = seen.blocks[1]
    page.explain(seen, w - 1)
    ((probs, L),) = drawn
    torch.testing.assert_close(probs, seen.prediction.logits[0, :, 0, -1].softmax(0))
    assert seen.prediction.L[0, 0, 0, -1] == L
    monkeypatch.undo()
    assert Image.open(page.explain(seen, 3)).size == (500, 500)
