"""A user's photographs, as typed: what is written is read back."""

import errno
import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from encoding import swapped_profile
from pictures import write_photo
from PIL import Image
from running import CODE, finish, run_script, start_script, wait_until
from skimage.color import rgb2lab
from skimage.data import astronaut, chelsea, coffee
from written import lightness, stamps, written

from coloring import batch as coloring
from photo_files.finding import RECORD

ORIENTATION, MAKE, ARTIST, EXIF_FOLDER, COLOR_SPACE = 274, 271, 315, 0x8769, 0xA001


# ---- pixels ------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [(50, 38), (38, 50), (301, 97), (20, 20), (200, 3), (1, 1)])
@pytest.mark.parametrize("more", [[], ["--samples", 2], ["--temperature", 0.01]])
def test_colored_photo_keeps_its_size_and_lightness(size, more, color, tmp_path):
    path = write_photo(tmp_path / "photos" / "a.png", size)
    assert color(path, *more)[0] == 0
    for name in written(tmp_path / "out"):
        found = tmp_path / "out" / name
        assert Image.open(found).size == size
        assert np.abs(lightness(path) - lightness(found)).max() < 1
        assert not np.array_equal(Image.open(path), Image.open(found))


def test_gray_photo_becomes_colored(color, tmp_path):
    path = tmp_path / "gray.png"
    Image.linear_gradient("L").save(path)
    assert "colors of their own" not in color(path)[1]
    image = Image.open(tmp_path / "out" / "gray.png")
    assert image.mode == "RGB"
    assert np.ptp(np.asarray(image).astype(int), axis=-1).max() > 10


def test_colors_of_photos_are_replaced_and_counted(color, tmp_path):
    paths = [write_photo(tmp_path / f"{i}.png", seed=i) for i in range(2)]
    gray = Image.open(paths[0]).convert("L").convert("RGB")
    gray.save(tmp_path / "gray.png")
    _, printed = color(*paths, tmp_path / "gray.png")
    assert "2  with colors of their own, colored anew" in printed


# ---- names -------------------------------------------------------------------------------------
def test_photos_of_one_name_are_kept_apart(color, tmp_path):
    paths = [tmp_path / name for name in ("x/a.png", "y/a.png", "x/a.gif", "y/A.PNG")]
    for i, path in enumerate(paths):
        write_photo(path, seed=i)
    assert color(*paths)[0] == 0
    out = tmp_path / "out"
    assert written(out) == ["A (3).PNG", "a (2).png", "a.gif.png", "a.png"]
    for path, name in zip(paths[:3], ("a.png", "a (2).png", "a.gif.png"), strict=True):
        assert np.abs(lightness(path) - lightness(out / name)).max() < 1
    assert color(*reversed(paths))[0] == 0  # each keeps its name in any order
    assert len(written(out)) == len(paths)


def test_format_writes_another_one_and_keeps_names_apart(color, tmp_path):
    for name in ("a.jpg", "a.gif", "b.jpeg", "c.png"):
        write_photo(tmp_path / "scans" / name)
    assert color(tmp_path / "scans", "--format", "png")[0] == 0
    assert written(tmp_path / "out") == ["a.jpg.png", "a.png", "b.png", "c.png"]
    shutil.rmtree(tmp_path / "out")
    assert color(tmp_path / "scans", "--format", "jpg")[0] == 0
    assert written(tmp_path / "out") == ["a.gif.jpg", "a.jpg", "b.jpeg", "c.jpg"]
    assert {Image.open(tmp_path / "out" / n).format for n in written(tmp_path / "out")} == {"JPEG"}


def test_a_name_too_long_is_skipped_and_the_next_colored(color, tmp_path):
    long = write_photo(tmp_path / ("a" * 251 + ".png"))
    status, output = color(long, write_photo(tmp_path / "b.png"), "--samples", 2)
    assert status == 1
    assert "its name is too long" in output
    assert "b-2.png" in {path.name for path in (tmp_path / "out").iterdir()}


# ---- formats and metadata ----------------------------------------------------------------------
def test_1_bit_and_16_bit_become_8_bit_and_say_so(color, tmp_path):
    root = tmp_path / "scans"
    root.mkdir()
    ramp = np.linspace(0, 65535, 40 * 30).reshape(30, 40).astype(np.uint16)
    Image.fromarray(ramp).save(root / "deep.tif")
    Image.linear_gradient("L").convert("1").save(root / "bits.tif")
    status, printed = color(root)
    assert status == 0
    assert written(tmp_path / "out") == ["bits.tif", "deep.tif"]
    assert "1  with 1 bit" in printed
    assert "1  with 16 bits a channel, written with 8" in printed
    expected = rgb2lab(np.repeat(ramp[..., None] / 65535, 3, -1))[..., 0]
    assert np.abs(lightness(tmp_path / "out" / "deep.tif") - expected).max() < 1


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_exif_is_kept_and_upright(ending, color, tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION], exif[MAKE], exif[ARTIST] = 6, "Leica", "Vivian"
    exif[EXIF_FOLDER] = {COLOR_SPACE: 65535, 36867: "1954:07:01 12:00:00"}
    write_photo(tmp_path / f"a.{ending}", exif=exif.tobytes(), dpi=(300, 300))
    assert color(tmp_path / f"a.{ending}")[0] == 0
    image = Image.open(tmp_path / "out" / f"a.{ending}")
    assert image.size == (38, 50)
    kept = image.getexif()
    assert (kept[ORIENTATION], kept[MAKE], kept[ARTIST]) == (1, "Leica", "Vivian")
    folder = kept.get_ifd(EXIF_FOLDER)
    assert (folder[COLOR_SPACE], folder[36867]) == (1, "1954:07:01 12:00:00")
    if ending != "webp":
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_jpegs_are_written_at_quality_95(color, tmp_path):
    path = write_photo(tmp_path / "a.jpg", quality=30)
    color(path)
    buffer = tmp_path / "95.jpg"
    Image.open(path).save(buffer, quality=95)
    assert Image.open(tmp_path / "out" / "a.jpg").quantization == Image.open(buffer).quantization


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_no_profile_but_srgb_stays(kind, color, tmp_path):
    color(write_photo(tmp_path / f"a.{kind}", icc_profile=swapped_profile()))
    assert "icc_profile" not in Image.open(tmp_path / "out" / f"a.{kind}").info


# ---- going on ----------------------------------------------------------------------------------
@pytest.mark.parametrize("more", [[], ["--samples", 2, "--uncertainty"]])
def test_the_same_command_again_does_nothing(more, color, tmp_path):
    for name in ("a.png", "b/c.jpg", "b/d.gif"):
        write_photo(tmp_path / "scans" / name)
    assert color(tmp_path / "scans", *more)[0] == 0
    before = stamps(tmp_path / "out")
    status, printed = color(tmp_path / "scans", *more)
    assert status == 0
    assert "0 photographs colored, 0 skipped, 3 done before" in printed
    assert stamps(tmp_path / "out") == before


def test_no_stretch_colors_a_faded_photograph_otherwise_and_no_other(color, tmp_path):
    path, out = tmp_path / "faded.png", tmp_path / "out"
    made = {}
    for whole in (False, True):
        levels = range(256) if whole else [100 + level // 5 for level in range(256)]
        Image.linear_gradient("L").point(list(levels)).save(path)
        for option in ([], ["--no-stretch"]):
            assert color(path, *option)[0] == 0
            assert np.abs(lightness(path) - lightness(out / "faded.png")).max() < 1
            made[whole, bool(option)] = (out / "faded.png").read_bytes()
            assert "1 done before" in color(path, *option)[1]
            other = [] if option else ["--no-stretch"]
            assert "made with another checkpoint or other options" in color(path, *other)[1]
            shutil.rmtree(out)
    assert made[False, False] != made[False, True]
    assert made[True, False] == made[True, True]


def test_what_was_made_otherwise_is_left_and_told(color, make_checkpoint, tmp_path):
    path = write_photo(tmp_path / "a.png")
    color(path)
    before = stamps(tmp_path / "out")
    other = make_checkpoint(tmp_path / "other.pt", seed=1)
    options = "made with another checkpoint or other options, and never overwritten"
    changes = (
        (lambda: color(path, "--temperature", 1), options),
        (lambda: color(path, "--working-size", 32), options),
        (lambda: color(path, checkpoint=other), options),
        (lambda: color(write_photo(path, seed=5)), "made from the file as it was before"),
        (lambda: color(write_photo(tmp_path / "b" / "a.png")), f"made from {path}"),
    )
    for change, reason in changes:
        status, printed = change()
        assert status == 1
        assert reason in printed
        assert stamps(tmp_path / "out") == before
    (tmp_path / "out" / "colored.jsonl").write_text('["not ours"]\n{"names": 1}\n{}\n')
    assert "made not by this program" in color(path)[1]


def test_a_name_taken_over_by_other_options_is_not_done(color, tmp_path):
    color(write_photo(tmp_path / "a.png"))
    (tmp_path / "out" / "a.png").unlink()
    assert color(tmp_path / "a.png", "--temperature", 1)[0] == 0
    status, printed = color(tmp_path / "a.png")
    assert (status, "made with another checkpoint" in printed) == (1, True)
    assert color(tmp_path / "a.png", "--temperature", 1)[0] == 0


def test_a_deleted_picture_is_made_again_and_others_are_left(color, tmp_path):
    color(write_photo(tmp_path / "a.png"), "--samples", 3)
    out = tmp_path / "out"
    content, before = (out / "a-2.png").read_bytes(), stamps(out)
    (out / "a-2.png").unlink()
    assert color(tmp_path / "a.png", "--samples", 3)[0] == 0
    after = stamps(out)
    assert (out / "a-2.png").read_bytes() == content
    assert {n: after[n] for n in ("a-1.png", "a-3.png")} == {
        n: before[n] for n in ("a-1.png", "a-3.png")
    }


def test_half_a_line_and_half_a_picture_of_a_killed_process_do_no_harm(color, tmp_path):
    path = write_photo(tmp_path / "a.png")
    color(path)
    out = tmp_path / "out"
    with (out / RECORD).open("a") as file:
        file.write('\n{"source": "/half')
    (out / ".123-456.tmp").write_bytes(b"half")
    assert color(path, write_photo(tmp_path / "b.png"))[0] == 0
    assert written(out) == ["a.png", "b.png"]
    assert "2 done before" in color(path, tmp_path / "b.png")[1]


def test_a_seed_without_samples_changes_nothing(color, tmp_path):
    path = write_photo(tmp_path / "a.png")
    color(path)
    status, output = color(path, "--seed", 4)
    assert status == 0
    assert "1 done before" in output


# ---- what goes wrong ---------------------------------------------------------------------------
def test_bad_and_existing_photos_are_skipped_and_told(color, tmp_path):
    root, out = tmp_path / "scans", tmp_path / "out"
    for name in ("a.png", "b.png", "c.png"):
        write_photo(root / name)
    (root / "b.png").write_bytes((root / "b.png").read_bytes()[:200])
    write_photo(out / "c.png", seed=9)
    kept = (out / "c.png").read_bytes()
    status, printed = color(root)
    assert status == 1
    assert written(out) == ["a.png", "c.png"]
    assert (out / "c.png").read_bytes() == kept
    assert "b.png: damaged" in printed
    assert "never overwritten" in printed
    assert "1 photographs colored, 2 skipped" in printed


def test_a_full_disk_loses_nothing_finished(color, tmp_path, monkeypatch):
    for i in range(6):
        write_photo(tmp_path / "scans" / f"{i}.png", seed=i)
    write, calls = Path.write_bytes, []

    def fill_disk(path, data):
        calls.append(path)
        if len(calls) == 4:
            path.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fill_disk)
        with pytest.raises(OSError, match="No space"):
            color(tmp_path / "scans", "--workers", 1)
    assert len(written(tmp_path / "out")) >= 3
    for name in written(tmp_path / "out"):
        Image.open(tmp_path / "out" / name).load()
    before = stamps(tmp_path / "out")
    assert color(tmp_path / "scans")[0] == 0
    after = stamps(tmp_path / "out")
    assert len(after) == 6
    assert before.items() <= after.items()


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)]
)
def test_an_interrupted_command_goes_on(number, color, checkpoint, tmp_path):
    for i in range(40):
        write_photo(tmp_path / "scans" / f"{i:02d}.png", (700, 500), seed=i)
    out = tmp_path / "out"
    options = ["--checkpoint", checkpoint, "--images", tmp_path / "scans", "--out", out]
    process = start_script("generate.py", *options, "--workers", "1")
    wait_until(lambda: len(list(out.glob("*.png"))) >= 3, process)
    process.send_signal(number)
    done = finish(process)
    assert done.returncode == (130 if number == signal.SIGINT else -number), done.stderr
    finished = list(out.glob("*.png"))
    assert 3 <= len(finished) < 40
    for path in finished:
        Image.open(path).load()
    if number == signal.SIGINT:
        assert not list(out.glob(".*.tmp"))
    before = stamps(out)
    assert color(tmp_path / "scans", "--workers", 1)[0] == 0
    after = stamps(out)
    assert len(after) == 40
    assert {n: t for n, t in before.items() if n.endswith(".png")}.items() <= after.items()


def test_want_of_memory_is_a_reason(color, tmp_path, monkeypatch):
    monkeypatch.setattr(coloring, "color_photo", lambda *_: [torch.empty(2**58)])
    status, output = color(write_photo(tmp_path / "a.png"))
    assert status == 1
    assert "not enough memory to color it" in output


# ---- several processes -------------------------------------------------------------------------
def test_ranks_share_photographs_and_names(color, tmp_path, monkeypatch):
    names = ("a.png", "a.gif", "b/a.jpg", "bad.png", "c.png", "d.png")
    for i, name in enumerate(names):
        write_photo(tmp_path / "scans" / name, seed=i)
    (tmp_path / "scans" / "bad.png").write_bytes(b"")
    monkeypatch.setenv("WORLD_SIZE", "2")
    seen, statuses = set(), []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        statuses.append(color(tmp_path / "scans")[0])
        found = set(written(tmp_path / "out")) - seen
        assert 2 <= len(found) <= 3
        seen |= found
    assert sorted(statuses) == [0, 1]  # one had bad.png
    assert seen == {"a.png", "a.gif.png", "b/a.jpg", "c.png", "d.png"}
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    assert "5 done before" in color(tmp_path / "scans")[1]


# ---- samples -----------------------------------------------------------------------------------
def test_samples_differ_and_a_seed_repeats_them(color, tmp_path):
    path = write_photo(tmp_path / "a.png")
    out = tmp_path / "out"
    found = []
    for seed in (0, 0, 1):
        assert color(path, "--samples", 3, "--seed", seed)[0] == 0
        assert written(out) == ["a-1.png", "a-2.png", "a-3.png"]
        found.append([np.asarray(Image.open(out / name)) for name in written(out)])
        shutil.rmtree(out)
    np.testing.assert_array_equal(found[0], found[1])
    photos = [*found[0], *found[2]]
    for i in range(6):
        assert all(np.abs(photos[i].astype(int) - other).mean() > 1 for other in photos[:i])


def test_uncertainty_is_a_gray_picture_of_the_same_size(color, tmp_path):
    assert color(write_photo(tmp_path / "a.jpg"), "--uncertainty")[0] == 0
    image = Image.open(tmp_path / "out" / "a-uncertainty.png")
    assert (image.mode, image.size) == ("L", (50, 38))
    assert np.asarray(image).max() > 0


# ---- gray and colored side by side -------------------------------------------------------------
@pytest.mark.parametrize(("name", "more"), [("a.png", []), ("b.jpg", ["--samples", 2])])
def test_compare_lays_gray_and_each_coloring_side_by_side(name, more, color, tmp_path):
    path = write_photo(tmp_path / name)
    assert color(path, "--compare", *more)[0] == 0
    out = tmp_path / "out"
    stem, ending = name.split(".")
    colored = [f"{stem}-1.{ending}", f"{stem}-2.{ending}"] if more else [name]
    compared = np.asarray(Image.open(out / f"{stem}-compare.{ending}"), int)
    assert written(out) == sorted([*colored, f"{stem}-compare.{ending}"])
    parts = np.split(compared, len(colored) + 1, axis=1)
    assert parts[0].shape == (38, 50, 3)
    assert np.ptp(parts[0][:, :-8], axis=-1).max() <= 4  # JPEG mixes colors beside the seam
    assert np.abs(rgb2lab(parts[0].astype(np.uint8))[..., 0] - lightness(path)).mean() < 1
    for part, file in zip(parts[1:], colored, strict=True):
        assert np.abs(part - np.asarray(Image.open(out / file), int)).mean() < 4
    _, printed = color(path, "--compare", *more)
    assert "1 done before" in printed


def test_compare_makes_a_wide_photograph_small_enough_for_every_format(color, tmp_path):
    assert color(write_photo(tmp_path / "a.webp", (12_000, 9)), "--compare")[0] == 0
    assert Image.open(tmp_path / "out" / "a-compare.webp").size == (16382, 6)


def test_a_sepia_photograph_counts_as_gray(color, tmp_path):
    sepia = np.array([(0.393, 0.769, 0.189), (0.349, 0.686, 0.168), (0.272, 0.534, 0.131)])
    for i, photo in enumerate((astronaut(), coffee(), chelsea())):
        light = photo.mean(-1, keepdims=True).repeat(3, -1)
        levels = (light @ sepia.T).clip(0, 255).astype(np.uint8)
        Image.fromarray(levels).save(tmp_path / f"sepia{i}.jpg", quality=80)
        Image.fromarray(photo).save(tmp_path / f"colored{i}.jpg")
    assert "colors of their own" not in color(*tmp_path.glob("sepia*"))[1]
    faint = [
        Image.blend(Image.fromarray(p), Image.fromarray(p).convert("L").convert("RGB"), 0.6)
        for p in (astronaut(), coffee(), chelsea())
    ]
    for i, photo in enumerate(faint):
        photo.save(tmp_path / f"faint{i}.png")
    assert "3  with colors of their own" in color(*tmp_path.glob("colored*"))[1]
    assert "3  with colors of their own" in color(*tmp_path.glob("faint*"))[1]


# ---- crashes -----------------------------------------------------------------------------------
CRASH = """
import faulthandler, signal, sys
from coloring import batch
import generate
from common.command_line import run_command

def decode(data):
    if b"crash" in data:
        signal.raise_signal(signal.SIGSEGV)
    return opened(data)

opened, batch.open_photo = batch.open_photo, decode
run_command(generate.main)
"""


def test_a_photograph_that_crashed_a_run_is_named_in_the_next_ones_and_the_rest_goes_on(
    checkpoint, tmp_path
):
    folder, out = tmp_path / "photos", tmp_path / "out"
    for i in range(3):
        write_photo(folder / f"{i}.png", seed=i)
    for i in range(70):
        (folder / f"page {i}.jpg").write_text("<html>no picture</html>")
    (folder / "z.jpg").write_bytes(b"crash")
    options = ["--checkpoint", checkpoint, "--images", folder, "--out", out, "--workers", 2]
    assert run_script(CODE, CRASH, *options).returncode == -signal.SIGSEGV
    for _ in range(2):
        again = run_script(CODE, CRASH, *options)
        assert again.returncode == 1
        assert f"skipped {folder / 'z.jpg'}: crashes its decoder in Pillow" in again.stdout
        assert "71 skipped" in again.stdout
    assert written(out) == [f"{i}.png" for i in range(3)]
    assert not list(out.glob(".under-way*"))


def test_what_a_kill_left_under_way_is_colored(color, tmp_path):
    path = write_photo(tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    for left in (json.dumps([str(path)]), "half a l"):
        (tmp_path / "out" / ".under-way-0").write_text(left)
        assert color(path)[0] == 0
    assert written(tmp_path / "out") == ["a.png"]


def test_a_comparison_has_no_metadata_of_another_picture(color, tmp_path):
    exif = Image.Exif()
    exif[MAKE], exif[EXIF_FOLDER] = "Leica", {0xA002: 50, 0xA003: 38}
    assert color(write_photo(tmp_path / "a.jpg", exif=exif), "--compare")[0] == 0
    tags = Image.open(tmp_path / "out" / "a.jpg").getexif()
    assert (tags[MAKE], tags.get_ifd(EXIF_FOLDER)[0xA002]) == ("Leica", 50)
    compared = Image.open(tmp_path / "out" / "a-compare.jpg").getexif()
    assert dict(compared).keys() == {305}
