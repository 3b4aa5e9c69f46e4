"""What the page in the browser calls."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut

from coloring import page as module
from coloring.page import ANSWERS, MOST_PHOTOS, Page, block_at, color, predict
from coloring.photo import Coloring, color_photo
from colorizer import load_colorizer
from photo_files.opening import PhotoError
from quantize import Decoding


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
    seen = predict(page.colorizer, tmp := Path(photos[0]), 16, page.root / "a")
    coloring = Coloring(16, Decoding(0.5, 10, vividness), samples)
    *_, expected = color_photo(page.colorizer, Image.open(tmp).convert("RGB"), coloring)
    found = color(page.colorizer, seen, coloring, samples)
    assert np.array_equal(found, expected)


def test_receive_takes_photographs_and_names_what_are_none(page, photos):
    seen, faults = page.receive(photos)
    assert [photo.name for photo in seen] == ["gray.jpg", "face.png"]
    assert faults == ["page.jpg: a web page, not a picture"]


def test_receive_takes_so_many(page, photos):
    seen, faults = page.receive([photos[0]] * (MOST_PHOTOS + 1))
    assert len(seen) == MOST_PHOTOS
    assert faults == [f"{MOST_PHOTOS + 1} photographs: the first {MOST_PHOTOS} were taken"]


def test_predict_refuses_a_large_photograph_by_its_header(page, photos, monkeypatch):
    monkeypatch.setattr(module, "MOST_PIXELS", 10_000)
    monkeypatch.setattr(Image.Image, "load", pytest.fail)
    with pytest.raises(PhotoError, match="more than 0 million pixels"):
        predict(page.colorizer, Path(photos[0]), 16, page.root / "a")
    assert not any(page.root.iterdir())


def test_receive_names_what_memory_is_too_small_for(page, photos, monkeypatch):
    def fail(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    monkeypatch.setattr(module, "predict_logits", fail)
    seen, faults = page.receive(photos[:1])
    assert seen == []
    assert faults == ["gray.jpg: not enough memory for this photograph; try a smaller one"]


def test_show_writes_what_the_page_shows(page, photos):
    seen = page.receive(photos)[0][0]
    after, file = page.show(seen, 0, 0.3, 313, 0)
    shown = (seen.before, after, seen.uncertainty, file)
    assert all(path.is_relative_to(page.root) for path in shown)
    assert {Image.open(path).size for path in shown} == {(120, 90)}
    assert file.name == "gray.jpg"
    assert Image.open(file).getexif()[315] == "A. Photographer"
    before, after = (np.asarray(Image.open(path)).astype(int) for path in (seen.before, after))
    assert np.ptp(before, axis=-1).mean() < 2 < np.ptp(after, axis=-1).mean()


def test_a_visitors_files_stay_few_and_go_with_the_visitor(page, photos):
    seen, _ = page.receive(photos)
    others, _ = page.receive(photos)
    for i in range(2 * ANSWERS):
        after, file = page.show(seen[0], 0, 0.1 + i / 10, 313, 0)
        page.write_all(seen, 0, 0.3, 313, 0)
    assert after.exists()
    assert file.exists()
    assert len(list(page.root.rglob("after.jpg"))) == ANSWERS
    assert len(list(page.root.rglob("colored.zip"))) == ANSWERS
    page.forget(seen)
    page.forget([])
    assert list(page.root.iterdir()) == [others[0].folder.parent]


def test_write_all_keeps_photographs_of_one_name_apart(page, photos):
    seen, _ = page.receive([photos[0], photos[0], photos[2]])
    with zipfile.ZipFile(page.write_all(seen, 0, 0.3, 313, 0)) as file:
        assert file.namelist() == ["1-gray.jpg", "2-gray.jpg", "3-face.png"]
        assert file.testzip() is None


def test_block_at_is_the_block_that_holds_the_pixel(page, photos):
    seen = page.receive(photos)[0][0]
    h, w = seen.L.shape[-2:]
    assert block_at(seen, (0, 0)) == (0, 0)
    assert block_at(seen, (119, 89)) == (h - 1, w - 1)
    assert block_at(seen, (60, 0)) == (0, w // 2)


def test_explain_draws_the_distribution_of_the_block(page, photos, monkeypatch):
    seen, drawn = page.receive(photos)[0][0], []
    monkeypatch.setattr(module, "plot_distribution", lambda path, *what: drawn.append(what))
    page.explain(seen, (119, 0))
    ((probs, L),) = drawn
    torch.testing.assert_close(probs, seen.logits[0, :, 0, -1].softmax(0))
    assert seen.L[0, 0, 0, -1] == L
    monkeypatch.undo()
    assert Image.open(page.explain(seen, (60, 40))).size == (500, 500)
