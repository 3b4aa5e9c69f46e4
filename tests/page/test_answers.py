"""What the page in the browser calls."""

import errno
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut

from coloring.hints import MOST
from coloring.photo import Coloring, color_photo
from coloring.strokes import find_hints
from colorizer import load_colorizer
from page import answers as module
from page.answers import ANSWERS, FULL_DISK, SHOWN_SIDE, Page, explain_failures, prepare
from photo_files.opening import PhotoError, open_strokes
from quantize import Decoding

RED, BLUE = (200, 30, 20), (20, 30, 200)
SETTINGS = 0, 0.3, 313, 0  # vividness, temperature, top-k, sample


@pytest.fixture
def page(checkpoint):
    """A page whose network is untrained and saw photographs at 16 px."""
    return Page(*load_colorizer(checkpoint))


@pytest.fixture
def root(tmp_path):
    """A visitor's folder."""
    (tmp_path / "visitor").mkdir()
    return tmp_path / "visitor"


@pytest.fixture
def photos(tmp_path):
    """A JPEG with EXIF, a PNG, and what is none."""
    exif = Image.Exif()
    exif[315] = "A. Photographer"
    Image.fromarray(astronaut()[:90, :120]).convert("L").save(tmp_path / "gray.jpg", exif=exif)
    Image.fromarray(astronaut()[200:290, :120]).save(tmp_path / "face.png")
    (tmp_path / "page.jpg").write_text("<html>no picture</html>")
    return [tmp_path / name for name in ("gray.jpg", "page.jpg", "face.png")]


@pytest.fixture
def seen(page, photos, root):
    """The JPEG, predicted."""
    return page.prepare(photos[0], root / "0")


@pytest.mark.parametrize(("samples", "vividness"), [(0, 0.0), (3, 0.0), (0, 0.6)])
def test_color_is_what_generate_writes(samples, vividness, page, seen):
    coloring = Coloring(16, Decoding(0.5, 10, vividness), samples)
    for said in ([], [(3, RED), (9, RED), (3, BLUE)]):
        strokes = open_strokes(page.write_hints(seen, said).read_bytes(), seen.size)
        hints = find_hints(strokes, *seen.blocks)
        gray = Image.open(seen.uploaded).convert("RGB")
        *_, expected = color_photo(page.colorizer, gray, coloring, hints)
        found = page.color(seen, said, vividness, 0.5, 10, samples)
        assert np.array_equal(found, expected)
    assert len(hints) == 2


def test_prepare_refuses_what_is_none_and_deletes_it(page, root):
    (upload := root / "upload").mkdir()
    (upload / "page.jpg").write_text("<html>no picture</html>")
    with pytest.raises(PhotoError, match="a web page, not a picture"):
        page.prepare(upload / "page.jpg", root / "0")
    assert not any(root.iterdir())


def test_prepare_refuses_a_large_photograph_by_its_header(page, photos, root, monkeypatch):
    monkeypatch.setattr(module, "MOST_PIXELS", 10_000)
    monkeypatch.setattr(Image.Image, "load", pytest.fail)
    with pytest.raises(PhotoError, match="more than 0 million pixels"):
        prepare(page.colorizer, photos[0], 16, root / "0")
    assert not any(root.iterdir())


def test_prepare_names_what_memory_is_too_small_for(page, photos, root, monkeypatch):
    def fail(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    monkeypatch.setattr(module, "predict", fail)
    with pytest.raises(PhotoError, match="not enough memory for this photograph; try a smaller"):
        page.prepare(photos[0], root / "0")


def test_explain_failures_has_the_pages_words_for_a_full_disk():
    with pytest.raises(RuntimeError, match=FULL_DISK), explain_failures(RuntimeError):
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp/x")


def test_show_writes_what_the_page_shows(page, seen):
    after, marked = page.show(seen, [], None, *SETTINGS)
    shown = (seen.before, after, seen.uncertainty)
    assert all(path.is_relative_to(seen.folder) for path in (*shown, marked))
    assert {Image.open(path).size for path in shown} == {(120, 90)}
    assert Image.open(marked).size == seen.click_size == (SHOWN_SIDE, SHOWN_SIDE * 90 // 120)
    before, after = (np.asarray(Image.open(path)).astype(int) for path in (seen.before, after))
    assert np.ptp(before, axis=-1).mean() < 2 < np.ptp(after, axis=-1).mean()


def test_write_keeps_name_size_and_exif(page, seen):
    file = page.write(seen, [], *SETTINGS)
    assert file.name == "gray.jpg"
    assert Image.open(file).size == (120, 90)
    assert Image.open(file).getexif()[315] == "A. Photographer"


def test_compare_lays_gray_and_colored_side_by_side(page, seen):
    path = page.compare(seen, [], *SETTINGS)
    gray, colored = np.split(np.asarray(Image.open(path), int), 2, axis=1)
    assert path.name == "gray-compare.jpg"
    assert gray.shape == (90, 120, 3)
    assert np.ptp(gray[:, :-8], axis=-1).max() <= 4  # JPEG mixes colors beside the seam
    file = page.write(seen, [], *SETTINGS)
    assert np.abs(colored - np.asarray(Image.open(file), int)).mean() < 4


def test_a_photographs_files_stay_few_and_go_with_it(page, root):
    (upload := root / "upload").mkdir()
    Image.linear_gradient("L").save(upload / "gray.png")
    seen = page.prepare(upload / "gray.png", root / "0")
    for i in range(2 * ANSWERS):
        after, _ = page.show(seen, [(i, RED)], i, 0, 0.1 + i / 10, 313, 0)
        page.write_hints(seen, [(i, RED)])
        page.write(seen, [], *SETTINGS)
        page.compare(seen, [], *SETTINGS)
    assert after.exists()
    for name in ("after.jpg", "marked.jpg", "hints-*", "colored-*", "gray-compare.jpg"):
        assert len(list(root.rglob(name))) == ANSWERS
    seen.delete()
    assert not any(root.iterdir())


def test_a_zip_keeps_photographs_of_one_name_apart_and_their_hints(page, seen, root):
    path = root / "colored.zip"
    for number, said in enumerate(([(5, RED)], []), start=1):
        page.add_to_zip(path, number, seen, said, *SETTINGS)
    with zipfile.ZipFile(path) as file:
        assert file.namelist() == ["1-gray.jpg", "2-gray.jpg"]
        assert file.testzip() is None
        hinted, plain = (np.asarray(Image.open(file.open(name)), int) for name in file.namelist())
    apart = np.abs(hinted - plain).sum(-1)
    assert apart[20:40, 25:45].mean() > 10  # block 5 is the second of the second row, of 22 pixels


# ---- colors that a visitor says ----------------------------------------------------------------
def test_show_colors_as_said_and_marks_it(page, seen):
    plain, _ = page.show(seen, [], None, *SETTINGS)
    said, marked = page.show(seen, [(0, RED)], 0, *SETTINGS)
    before, after = (np.asarray(Image.open(path), int)[:22, :22] for path in (plain, said))
    red = np.array((1, -0.5, -0.5))
    assert (after @ red).mean() > (before @ red).mean() + 20
    unmarked = np.asarray(Image.open(said).resize(seen.click_size), int)
    drawn = np.abs(np.asarray(Image.open(marked), int) - unmarked)
    assert (drawn[:22, :22].sum(-1) > 100).any()


def test_what_the_page_shows_has_the_size_of_a_screen(page, tmp_path, root):
    Image.linear_gradient("L").resize((3 * SHOWN_SIDE, 300)).save(tmp_path / "wide.png")
    seen = page.prepare(tmp_path / "wide.png", root / "0")
    after, marked = page.show(seen, [], None, *SETTINGS)
    assert Image.open(marked).size == Image.open(after).size == (SHOWN_SIDE, 100)
    assert Image.open(page.write(seen, [], *SETTINGS)).size == (3 * SHOWN_SIDE, 300)
    h, w = seen.blocks
    assert page.find_block(seen, (0, 0)) == 0
    assert page.find_block(seen, (SHOWN_SIDE - 1, 99)) == h * w - 1
    assert page.find_block(seen, (SHOWN_SIDE // 2, 0)) == w // 2


def test_mark_asks_no_more_when_all_is_said(page, seen, monkeypatch):
    page.show(seen, [], None, *SETTINGS)
    asked = []
    monkeypatch.setattr(module, "ask", lambda *what: asked.append(what) or [])
    page.mark(seen, [(0, RED)] * (MOST - 1), None)
    page.mark(seen, [(0, RED)] * MOST, None)
    assert len(asked) == 1


def test_offer_gives_the_likeliest_colors(page, seen):
    offered = page.offer(seen, 5, 0.0)
    assert 0.1 < sum(share for _, share in offered) <= 1 + 1e-5
    assert [share for _, share in offered] == sorted((s for _, s in offered), reverse=True)
    assert all(0 <= level <= 255 for color, _ in offered for level in color)
    assert page.offer(seen, 5, 1.0) != offered


def test_write_hints_is_named_as_the_photograph(page, seen):
    path = page.write_hints(seen, [(0, RED), (0, BLUE)])
    assert path.name == "gray.png"
    with Image.open(path) as strokes:
        assert (strokes.mode, strokes.size) == ("RGBA", seen.size)
        assert strokes.getpixel((0, 0)) == (*BLUE, 255)
        assert strokes.getpixel((119, 89)) == (0, 0, 0, 0)


def test_explain_draws_the_distribution_of_the_block(page, seen, monkeypatch):
    drawn = []
    monkeypatch.setattr(module, "plot_distribution", lambda path, *what: drawn.append(what))
    w = seen.blocks[1]
    page.explain(seen, w - 1)
    ((probs, L),) = drawn
    torch.testing.assert_close(probs, seen.prediction.logits[0, :, 0, -1].softmax(0))
    assert seen.prediction.L[0, 0, 0, -1] == L
    monkeypatch.undo()
    assert Image.open(page.explain(seen, 3)).size == (500, 500)
