"""--vividness and --like, as typed: what they change, what they leave, what they refuse."""

import numpy as np
import pytest
import torch
from PIL import Image
from running import call
from skimage.color import rgb2lab
from skimage.data import astronaut

import generate
from coloring.photo import read_reference
from quantize import load_centers

CENTERS = load_centers()


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(astronaut()[:90, :120]).convert("L").save(tmp_path / "gray.png")
    return tmp_path / "gray.png"


@pytest.fixture
def red(tmp_path):
    """A photograph in reds alone."""
    pixels = np.random.default_rng(0).integers(100, 250, (40, 50, 1)) * [1, 0.2, 0.2]
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "red.png")
    return tmp_path / "red.png"


def mean_ab(path):
    """Return the mean a and b of a colored photograph."""
    return rgb2lab(np.asarray(Image.open(path)))[..., 1:].mean((0, 1))


def test_vividness_0_is_as_if_it_were_not_typed(color, photo, tmp_path):
    assert color(photo)[0] == 0
    before = (tmp_path / "out" / "gray.png").read_bytes()
    assert "1 done before" in color(photo, "--vividness", 0)[1]
    assert (tmp_path / "out" / "gray.png").read_bytes() == before
    status, printed = color(photo, "--vividness", 0.4)
    assert (status, "with another checkpoint or other options" in printed) == (1, True)


def test_a_checkpoints_vividness_is_the_default(color, photo, checkpoint, tmp_path):
    torch.save({**torch.load(checkpoint), "vividness": 0.8}, tmp_path / "vivid.pt")
    assert color(photo, checkpoint=tmp_path / "vivid.pt")[0] == 0
    vivid = Image.open(tmp_path / "out" / "gray.png").copy()
    (tmp_path / "out" / "gray.png").unlink()
    assert color(photo, "--vividness", 0.8)[0] == 0
    assert np.array_equal(Image.open(tmp_path / "out" / "gray.png"), vivid)


def test_like_pulls_colors_toward_the_reference(color, photo, red, tmp_path):
    assert color(photo)[0] == 0
    plain = mean_ab(tmp_path / "out" / "gray.png")
    (tmp_path / "out" / "gray.png").unlink()
    assert color(photo, "--like", red, "--vividness", 1)[0] == 0
    assert mean_ab(tmp_path / "out" / "gray.png")[0] > plain[0] + 15


def test_another_reference_is_another_coloring(color, photo, red):
    assert color(photo, "--like", red)[0] == 0
    assert "1 done before" in color(photo, "--like", red)[1]
    Image.open(red).rotate(180).save(red)
    assert "other options" in color(photo, "--like", red)[1]
    assert "other options" in color(photo, "--vividness", generate.LIKENESS)[1]


def test_read_reference_counts_each_color_of_a_photograph(tmp_path):
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[:, :96], pixels[:, 96:] = (200, 60, 50), (40, 90, 200)
    Image.fromarray(pixels).save(path := tmp_path / "two.png")
    colors = read_reference(path, CENTERS, 64).colors
    ab = torch.from_numpy(rgb2lab(pixels[:1, [0, 127]])[0, :, 1:]).float()
    near = torch.cdist(ab, CENTERS) < 15
    assert colors[near[0]].sum() == pytest.approx(0.75, abs=0.04)
    assert colors[near[1]].sum() == pytest.approx(0.25, abs=0.04)


def test_read_reference_counts_the_photographs_colors(red):
    colors = read_reference(red, CENTERS, 32).colors
    assert float(colors.sum()) == pytest.approx(1)
    assert float(colors.min()) > 0
    a, b = (colors @ CENTERS).tolist()
    np.testing.assert_allclose((a, b), mean_ab(red), atol=3)


@pytest.mark.parametrize("name", ["gray.png", "broken.jpg", "missing.jpg"])
def test_a_reference_without_colors_is_one_sentence(name, photo, checkpoint, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    options = ["--images", photo, "--out", tmp_path / "out", "--like", tmp_path / name]
    with pytest.raises(ValueError, match=f"{name}: expected a color photograph: .+") as refused:
        call(generate.main, "--checkpoint", checkpoint, *options)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_without_a_prior_takes_no_vividness(photo, checkpoint, tmp_path, capsys):
    contents = torch.load(checkpoint)
    del contents["prior"]
    torch.save(contents, path := tmp_path / "old.pt")
    options = ["--checkpoint", path, "--images", photo, "--out", tmp_path / "out"]
    assert call(generate.main, *options) == 0
    for more in (["--vividness", 0.1], ["--like", photo]):
        with pytest.raises(ValueError, match=r"old\.pt: does not say how common each color was"):
            call(generate.main, *options, *more)


@pytest.mark.parametrize("vividness", ["much", None, 3.0])
def test_a_checkpoint_with_a_damaged_vividness_is_one_sentence(
    vividness, photo, checkpoint, tmp_path
):
    torch.save({**torch.load(checkpoint), "vividness": vividness}, path := tmp_path / "odd.pt")
    options = ["--checkpoint", path, "--images", photo, "--out", tmp_path / "out"]
    with pytest.raises(ValueError, match=r"odd\.pt: its vividness is .*, expected a number from 0"):
        call(generate.main, *options)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            ["--images", "a.jpg", "--vividness", "1.1"],
            "--vividness: must be a number >= 0 and <= 1",
        ),
        (["--images", "a.jpg", "--vividness", "nan"], "got nan"),
        (["--like", "a.jpg"], "need --images"),
        (["--sweep", "--vividness", "0"], "leave yours out"),
    ],
)
def test_usage_errors_exit_with_2(options, reason, capsys):
    with pytest.raises(SystemExit) as stopped:
        call(generate.main, "--checkpoint", "a.pt", *options)
    assert stopped.value.code == 2
    assert reason in capsys.readouterr().err
