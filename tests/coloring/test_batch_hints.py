"""--hints, as typed: what it changes, what it leaves, what the record knows, what is refused."""

import json
import shutil
import zipfile

import numpy as np
import pytest
import torch
from encoding import encode_turned, swapped_profile
from pictures import write_photo, write_strokes
from PIL import Image
from skimage.color import rgb2lab
from written import lightness, stamps, written

from coloring.hints import MOST
from photo_files.finding import RECORD
from quantize import lab_to_rgb

SIZE = (50, 38)
LEFT, RIGHT = (0, 0, 25, 38), (25, 0, 50, 38)
RED, BLUE = (180, 40, 40), (40, 80, 180)


@pytest.fixture
def photo(tmp_path):
    return write_photo(tmp_path / "a.jpg")


@pytest.fixture
def hints(tmp_path):
    return tmp_path / "hints"


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"), int)


def mean_ab(path, box=None):
    """Return the mean a and b of a colored photograph, or of a box of it."""
    return rgb2lab(np.asarray(Image.open(path).crop(box)))[..., 1:].mean((0, 1))


def entries(out):
    return [json.loads(line) for line in (out / RECORD).read_text().split("\n") if line]


# ---- colors ------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["a.png", "a.jpg.png"])
def test_strokes_color_what_they_paint_and_what_is_like_it(name, color, photo, hints, tmp_path):
    out = tmp_path / "out"
    for stroke in (RED, BLUE):
        write_strokes(hints / name, box=(5, 5, 20, 30), color=stroke)
        status, printed = color(photo, "--hints", hints)
        assert (status, written(out)) == (0, ["a.jpg"])
        assert "1  with hints" in printed
        if stroke == RED:
            red = [mean_ab(out / "a.jpg", box) for box in (LEFT, RIGHT)]
        assert np.abs(lightness(photo) - lightness(out / "a.jpg")).mean() < 1
        shutil.rmtree(out)
        color(photo)
        plain = mean_ab(out / "a.jpg", (5, 5, 20, 30))
        shutil.rmtree(out)
    color(photo, "--hints", hints)
    blue = [mean_ab(out / "a.jpg", box) for box in (LEFT, RIGHT)]
    for one, other in zip(red, blue, strict=True):
        assert one[0] > other[0] + 5  # redder, on the side without strokes too
        assert one[1] > other[1] + 10
    said = rgb2lab(np.array([[BLUE]], np.uint8))[0, 0, 1:]
    found = mean_ab(out / "a.jpg", (5, 5, 20, 30))
    assert np.linalg.norm(found - said) < np.linalg.norm(plain - said) / 2


def test_a_photograph_without_strokes_keeps_its_bytes(color, photo, hints, tmp_path):
    other = write_photo(tmp_path / "b.png", seed=1)
    assert color(photo, other)[0] == 0
    out, kept = tmp_path / "out", tmp_path / "kept"
    out.rename(kept)
    write_strokes(hints / "a.png", box=LEFT)
    status, printed = color(photo, other, "--hints", hints)
    assert status == 0
    assert f"{hints}: no hints for 1 of the photographs" in printed
    assert (out / "b.png").read_bytes() == (kept / "b.png").read_bytes()
    assert (out / "a.jpg").read_bytes() != (kept / "a.jpg").read_bytes()
    hinted = {entry["names"][0]: "hints" in entry for entry in entries(out)}
    assert hinted == {"a.jpg": True, "b.png": False}  # written by threads, in any order


def test_a_picture_without_a_stroke_changes_nothing_and_is_told(color, photo, hints, tmp_path):
    color(photo)
    out, kept = tmp_path / "out", tmp_path / "kept"
    out.rename(kept)
    write_strokes(hints / "a.png")
    status, printed = color(photo, "--hints", hints)
    assert (status, "1  whose picture of hints has no stroke yet" in printed) == (0, True)
    assert (out / "a.jpg").read_bytes() == (kept / "a.jpg").read_bytes()


def test_the_lightness_of_a_stroke_does_not_count(color, hints, tmp_path):
    path, out = write_photo(tmp_path / "a.png"), tmp_path / "out"
    L, ab = torch.tensor([35.0, 55.0]), torch.tensor([30.0, 20.0])
    rgb = lab_to_rgb(L[None, None, None], ab[None, :, None, None].expand(1, 2, 1, 2))
    found = []
    for stroke in [*rgb[0, :, 0].T.tolist(), BLUE]:
        write_strokes(hints / "a.png", box=LEFT, color=tuple(stroke))
        assert color(path, "--hints", hints)[0] == 0
        found.append(pixels(out / "a.png"))
        shutil.rmtree(out)
    assert np.abs(found[0] - found[1]).mean() < 1
    assert np.abs(found[0] - found[2]).mean() > 10


def test_samples_agree_where_strokes_are(color, hints, tmp_path):
    path = write_photo(tmp_path / "a.png", (400, 20))  # so long that its ends are unlike
    box, far = (0, 0, 25, 20), (300, 0, 400, 20)
    write_strokes(hints / "a.png", (400, 20), box)
    assert color(path, "--hints", hints, "--samples", 3)[0] == 0
    samples = [rgb2lab(pixels(tmp_path / "out" / f"a-{i}.png") / 255)[..., 1:] for i in (1, 2, 3)]
    spread = np.std(samples, 0).mean(-1)
    left, top, right, bottom = box
    assert spread[top:bottom, left : right - 5].mean() < 0.4 * spread[:, far[0] :].mean()
    assert spread[:, far[0] :].mean() > 3


def test_everything_painted_is_thinned_and_told(color, hints, tmp_path):
    path = write_photo(tmp_path / "a.png", (120, 100))
    write_strokes(hints / "a.png", (120, 100), (0, 0, 120, 99))
    status, printed = color(path, "--hints", hints, "--working-size", 96)
    assert status == 0
    assert f"1  with more than {MOST} blocks of hints, of which {MOST} were taken" in printed
    said = rgb2lab(np.array([[RED]], np.uint8))[0, 0, 1:]
    assert np.linalg.norm(mean_ab(tmp_path / "out" / "a.png") - said) < 12


def test_photographs_smaller_than_their_blocks_take_hints(color, hints, tmp_path):
    for name, size in (("a.png", (2, 1)), ("b.png", (9, 2)), ("c.png", (200, 3))):
        write_photo(tmp_path / "scans" / name, size)
        write_strokes(hints / name, size, (0, 0, 1, 1))
    status, printed = color(tmp_path / "scans", "--hints", hints, "--working-size", 64)
    assert (status, "3  with hints" in printed) == (0, True)


def test_vividness_and_hints_go_together(color, photo, hints, tmp_path):
    write_strokes(hints / "a.png", box=(0, 0, SIZE[0] - 1, SIZE[1]), color=BLUE)
    for vividness in (0, 1):
        assert color(photo, "--hints", hints, "--vividness", vividness)[0] == 0
        said = rgb2lab(np.array([[BLUE]], np.uint8))[0, 0, 1:]
        assert np.linalg.norm(mean_ab(tmp_path / "out" / "a.jpg") - said) < 25
        shutil.rmtree(tmp_path / "out")


# ---- files -------------------------------------------------------------------------------------
def test_strokes_are_painted_on_the_upright_photograph(color, hints, tmp_path):
    upright = np.asarray(Image.open(write_photo(tmp_path / "upright.png")))
    for orientation in (1, 6):
        data = encode_turned(upright, orientation, "PNG")
        (tmp_path / "a.png").write_bytes(data)
        write_strokes(hints / "a.png", box=LEFT)
        status, printed = color(tmp_path / "a.png", "--hints", hints)
        assert (status, "1  with hints" in printed) == (0, True)
        (tmp_path / "out").rename(tmp_path / str(orientation))
    assert np.array_equal(*(pixels(tmp_path / turn / "a.png") for turn in "16"))


def test_strokes_of_other_modes_and_profiles_are_the_same_hints(color, photo, hints, tmp_path):
    out = tmp_path / "out"
    picture = Image.open(write_strokes(hints / "a.png", box=LEFT))
    palette = picture.convert("RGB").quantize(2)
    clear = palette.getpixel((49, 0))
    turned = Image.merge("RGBA", [picture.getchannel(name) for name in "GRBA"])
    found = []
    for image, options in (
        (picture, {}),
        (palette, {"transparency": clear}),
        (turned, {"icc_profile": swapped_profile()}),
    ):
        image.save(hints / "a.png", **options)
        assert color(photo, "--hints", hints)[0] == 0
        found.append(pixels(out / "a.jpg"))
        shutil.rmtree(out)
    assert np.array_equal(found[0], found[1])
    assert np.abs(found[0] - found[2]).max() < 10


def test_gray_strokes_take_color_away(color, photo, hints, tmp_path):
    gray = Image.new("LA", SIZE)
    gray.paste((90, 255), (0, 0, 50, 37))
    hints.mkdir()
    gray.save(hints / "a.png")
    assert color(photo, "--hints", hints)[0] == 0
    color(photo, "--out", tmp_path / "plain")
    chroma = [
        np.linalg.norm(rgb2lab(pixels(tmp_path / name / "a.jpg") / 255)[..., 1:], axis=-1).mean()
        for name in ("out", "plain")
    ]
    assert chroma[0] < chroma[1] / 2


def test_trees_and_zips_have_trees_of_strokes(color, hints, tmp_path):
    data = write_photo(tmp_path / "x.png").read_bytes()
    with zipfile.ZipFile(tmp_path / "album.zip", "w") as file:
        for name in ("a.png", "deep/b.jpg"):
            file.writestr(name, data)
    write_photo(tmp_path / "scans" / "deep" / "c.jpg")
    for name in ("a.png", "deep/b.png", "deep/c.png"):
        write_strokes(hints / name, box=LEFT)
    status, printed = color(tmp_path / "album.zip", tmp_path / "scans", "--hints", hints)
    assert (status, "3  with hints" in printed) == (0, True)
    assert "no hints" not in printed
    assert written(tmp_path / "out") == ["a.png", "deep/b.jpg", "deep/c.jpg"]


def test_hints_inside_the_images_are_not_colored(color, tmp_path):
    root = tmp_path / "scans"
    write_photo(root / "a.jpg")
    write_strokes(root / "hints" / "a.png", box=LEFT)
    for paths in ([root], [root / "**" / "*"]):
        status, printed = color(*paths, "--hints", root / "hints")
        assert (status, written(tmp_path / "out")) == (0, ["a.jpg"])
    assert "1 done before" in printed


# ---- the record --------------------------------------------------------------------------------
def test_the_same_hints_again_do_nothing_and_others_are_told(color, photo, hints, tmp_path):
    out, other = (
        tmp_path / "out",
        "exists already, made with other hints, or with none, and never overwritten",
    )
    write_strokes(hints / "a.png", box=LEFT)
    assert color(photo, "--hints", hints)[0] == 0
    before = stamps(out)
    status, printed = color(photo, "--hints", hints)
    assert status == 0
    assert "0 photographs colored, 0 skipped, 1 done before" in printed
    hints.rename(tmp_path / "moved")
    assert "1 done before" in color(photo, "--hints", tmp_path / "moved")[1]
    write_strokes(hints / "a.png", box=RIGHT)
    for options in (["--hints", hints], []):
        status, printed = color(photo, *options)
        assert (status, other in printed) == (1, True)
    status, printed = color(photo, "--hints", tmp_path / "moved", "--temperature", 1)
    assert (status, "another checkpoint or other options" in printed) == (1, True)
    assert stamps(out) == before
    assert color(photo, "--hints", hints, "--out", tmp_path / "new")[0] == 0
    assert not np.array_equal(pixels(out / "a.jpg"), pixels(tmp_path / "new" / "a.jpg"))


def test_a_folder_made_without_hints_knows_none(color, photo, hints, tmp_path):
    assert color(photo)[0] == 0
    (entry,) = entries(tmp_path / "out")
    assert set(entry) == {"source", "stamp", "made", "names"}  # as earlier versions wrote it
    write_strokes(hints / "a.png", box=LEFT)
    status, printed = color(photo, "--hints", hints)
    assert (status, "made with other hints" in printed) == (1, True)
    assert "1 done before" in color(photo)[1]


def test_a_deleted_picture_is_made_again_with_its_hints(color, photo, hints, tmp_path):
    write_strokes(hints / "a.png", box=LEFT)
    assert color(photo, "--hints", hints)[0] == 0
    path = tmp_path / "out" / "a.jpg"
    content = path.read_bytes()
    path.unlink()
    assert color(photo, "--hints", hints)[0] == 0
    assert path.read_bytes() == content
    path.unlink()
    assert color(photo)[0] == 0
    assert path.read_bytes() != content
    status, printed = color(photo, "--hints", hints)
    assert (status, "made with other hints" in printed) == (1, True)


# ---- what goes wrong ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        (Image.new("RGBA", (38, 50)), "38 x 50 pixels, expected the photograph's 50 x 38"),
        (Image.new("RGB", SIZE, RED), "opaque, expected a picture that is transparent but for"),
        (None, "not a picture of a format that Pillow reads"),
    ],
)
def test_strokes_that_cannot_be_used_skip_their_photograph(
    picture, reason, color, photo, hints, tmp_path
):
    other = write_photo(tmp_path / "b.png")
    strokes = write_strokes(hints / "a.png")
    if picture:
        picture.save(strokes)
    else:
        strokes.write_text("no picture")
    status, printed = color(photo, other, "--hints", hints)
    assert (status, written(tmp_path / "out")) == (1, ["b.png"])
    assert f"skipped {photo}: its hints, {strokes}: {reason}" in printed
    write_strokes(strokes, box=LEFT)
    assert color(photo, other, "--hints", hints)[0] == 0  # nothing was recorded of it


def test_no_strokes_at_all_make_nothing(color, photo, hints, tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a folder, found nothing"):
        color(photo, "--hints", hints)
    write_strokes(hints / "A.png", box=LEFT)
    with pytest.raises(FileNotFoundError, match="no hints for any of the photographs"):
        color(photo, "--hints", hints)
    with pytest.raises(ValueError, match="--images and --hints are the same"):
        color(hints, "--hints", hints)
    assert not (tmp_path / "out").exists()


def test_ranks_share_photographs_with_hints(color, hints, tmp_path, monkeypatch):
    for i, name in enumerate("abc"):
        write_photo(tmp_path / "scans" / f"{name}.png", seed=i)
    write_strokes(hints / "a.png", box=LEFT)
    write_strokes(hints / "b.png", box=LEFT)
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        status, printed = color(tmp_path / "scans", "--hints", hints)
        assert status == 0
        said.append(printed)
    assert written(tmp_path / "out") == ["a.png", "b.png", "c.png"]
    assert ["no hints for 1" in printed for printed in said] == [True, False]
