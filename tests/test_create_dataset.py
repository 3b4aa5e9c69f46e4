"""create_dataset.py: what is stored, which photographs, and what is said of bad ones."""

import io
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from caches import SIZE, all_names, folder_options, names_in, read_skipped, shard_bytes, total
from encoding import encode_turned, require_format
from pictures import make_patches, write_patches
from PIL import Image
from running import ROOT
from scipy.io import loadmat
from skimage.color import rgb2lab

import create_dataset
from dataset import Cache
from quantize import load_centers
from shards.plan import SPLITS, read_plan

DATA = Path(os.environ.get("ZHANG_DATA", ROOT.parent / "shared" / "data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not here (ZHANG_DATA)")


def independent(data, size=SIZE, exact=False):
    """Compute L, ab and bins of a picture the plain way: Pillow, scikit-image, all distances."""
    image = Image.open(io.BytesIO(data))
    if not exact:
        image.draft(None, (size, size))
    image = image.convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    lab = rgb2lab(np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box)))
    ab = np.floor(lab[..., 1:])
    means = (ab + 0.5).reshape(size // 4, 4, size // 4, 4, 2).mean((1, 3))
    centers = load_centers().double().numpy()
    distances = ((means[:, :, None] - centers) ** 2).sum(-1)
    nearest = distances == distances.min(-1, keepdims=True)
    ties_go_up = np.argsort(np.lexsort((centers[:, 1], centers[:, 0])))  # rank by a, then b
    return (
        np.rint(lab[..., 0] * 2.55),
        ab.transpose(2, 0, 1),
        (nearest * (ties_go_up + 1)).argmax(-1),
    )


# ---- what is stored ----------------------------------------------------------------------------
@pytest.mark.parametrize("exact", [False, True])
def test_cache_holds_each_picture_as_computed_otherwise(
    create, cache_folder, photo_folder, tmp_path, exact
):
    folder = tmp_path / "holidays-16" if exact else cache_folder
    assert not exact or create(*folder_options(photo_folder, tmp_path, "--exact")) == 0
    cache, seen = Cache(folder), 0
    for split in map(cache.split, SPLITS):
        (shard,) = split.shards
        L, ab = split.read(np.arange(len(split)))
        for i, name in enumerate(split.names(np.arange(len(split)))):
            expected_L, expected_ab, bins = independent(
                (photo_folder / name).read_bytes(), exact=exact
            )
            np.testing.assert_array_equal(L[i], expected_L)
            np.testing.assert_array_equal(ab[i], expected_ab)
            np.testing.assert_array_equal(shard.bins[i], bins)
            seen += 1
        assert shard.attributes["decoding"] == ("exact" if exact else "reduced")
        assert shard.attributes["resampling"] == "bilinear"
    assert seen == 60


def test_cache_holds_every_picture_in_one_split(cache_folder, photo_folder):
    assert all_names(cache_folder) == sorted(os.listdir(photo_folder))


@pytest.mark.draws
def test_cache_has_a_picture_of_its_colors(cache_folder):
    with Image.open(cache_folder / "colors.png") as image:
        assert image.width >= 800
        assert len(image.convert("RGB").getcolors(2**24)) > 100


def test_cache_lists_no_skipped_pictures(cache_folder):
    assert read_skipped(cache_folder) == {}
    assert total(cache_folder, "gray") == total(cache_folder, "enlarged") == 0


def test_a_picture_of_the_colors_that_fails_costs_itself_alone(
    create, photo_folder, tmp_path, monkeypatch, capsys
):
    complete = []

    def fail(path, *_):
        complete.append(read_plan(path.parent).complete)
        raise RuntimeError("no fonts")

    monkeypatch.setattr(create_dataset, "plot_colors", fail)
    assert create(*folder_options(photo_folder, tmp_path)) == 0
    assert complete == [True]
    said = capsys.readouterr()
    assert "colors.png: not drawn (no fonts)" in said.err
    assert "left out: 0 skipped" in said.out


def test_any_number_of_workers_makes_the_same_bytes(create, photo_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(create_dataset, "SHARD_PHOTOS", 10)
    for workers in (1, 3):
        assert create(*folder_options(photo_folder, tmp_path / str(workers), workers=workers)) == 0
    one, three = (shard_bytes(tmp_path / str(workers) / "holidays-16") for workers in (1, 3))
    assert one == three
    assert len(one) >= 7


def test_shards_hold_at_most_their_number(
    create, photo_folder, cache_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(create_dataset, "SHARD_PHOTOS", 10)
    assert create(*folder_options(photo_folder, tmp_path)) == 0
    many, one = Cache(tmp_path / "holidays-16"), Cache(cache_folder)
    sizes = [len(shard) for shard in many.split("train").shards]
    assert sizes[:-1] == [10] * (len(sizes) - 1)
    assert names_in(many.folder) == names_in(one.folder)
    for split in SPLITS:
        indices = np.arange(len(one.split(split)))
        for found, expected in zip(
            many.split(split).read(indices), one.split(split).read(indices), strict=True
        ):
            np.testing.assert_array_equal(found, expected)


# ---- choosing photographs ----------------------------------------------------------------------
def test_limit_takes_at_most_so_many_of_each_split(create, photo_folder, cache_folder, tmp_path):
    assert create(*folder_options(photo_folder, tmp_path, "--limit", 5)) == 0
    limited, whole = names_in(tmp_path / "holidays-16"), names_in(cache_folder)
    for split in SPLITS:
        assert len(limited[split]) == min(5, len(whole[split]))
        assert set(limited[split]) <= set(whole[split])


def write_tints(folder):
    """Write plain pictures from gray to reddish; return the names of those with color."""
    colorful = []
    for red in range(120, 140):
        color = np.full((1, 1, 3), (red, 120, 120), np.uint8)
        Image.new("RGB", (20, 20), tuple(color[0, 0].tolist())).save(folder / f"tint_{red}.png")
        if np.abs(rgb2lab(color)[..., 1:]).max() > 5:
            colorful.append(f"tint_{red}.png")
    return colorful


def test_gray_pictures_are_left_out_and_counted(create, tmp_path):
    names = write_patches(tmp_path / "mixed", 50)
    colorful = write_tints(tmp_path / "mixed")
    assert 5 <= len(colorful) <= 15
    assert create(*folder_options(tmp_path / "mixed", tmp_path / "cache")) == 0
    folder = tmp_path / "cache" / "mixed-16"
    assert all_names(folder) == sorted(names + colorful)
    assert total(folder, "gray") == 20 - len(colorful)
    assert read_skipped(folder) == {}


def test_keep_gray_keeps_them(create, tmp_path):
    names = write_patches(tmp_path / "mixed", 50)
    write_tints(tmp_path / "mixed")
    assert create(*folder_options(tmp_path / "mixed", tmp_path / "cache", "--keep-gray")) == 0
    folder = tmp_path / "cache" / "mixed-16"
    assert all_names(folder) == sorted([*names, *(f"tint_{red}.png" for red in range(120, 140))])
    assert total(folder, "gray") == 0


def test_small_pictures_are_enlarged_and_counted(create, tmp_path):
    write_patches(tmp_path / "mixed", 50)
    generator = np.random.default_rng(0)
    for name, shape in {
        "tiny.png": (10, 12, 3),
        "flat.png": (15, 40, 3),
        "even.png": (16, 16, 3),
    }.items():
        pixels = generator.integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "mixed" / name)
    assert create(*folder_options(tmp_path / "mixed", tmp_path / "cache")) == 0
    folder = tmp_path / "cache" / "mixed-16"
    assert total(folder, "enlarged") == 2
    for split in map(Cache(folder).split, SPLITS):
        for i, name in enumerate(split.names(np.arange(len(split)))):
            if name in ("tiny.png", "flat.png", "even.png"):
                expected_L, expected_ab, _ = independent((tmp_path / "mixed" / name).read_bytes())
                L, ab = split.read(np.array([i]))
                np.testing.assert_array_equal(L[0], expected_L)
                np.testing.assert_array_equal(ab[0], expected_ab)


def test_copies_are_counted(create, photo_folder, tmp_path, capsys):
    root = tmp_path / "mixed"
    for name in sorted(os.listdir(photo_folder)):
        (root / "copies").mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes((photo_folder / name).read_bytes())
        if name < "photo_007":
            (root / "copies" / name).write_bytes((photo_folder / name).read_bytes())
    assert create(*folder_options(root, tmp_path / "cache")) == 0
    assert len(all_names(tmp_path / "cache" / "mixed-16")) == 60
    assert "0 skipped, 0 missing, 7 copies" in capsys.readouterr().out


# ---- bad pictures ------------------------------------------------------------------------------
@pytest.fixture
def bad_folder(tmp_path):
    """Write 57 pictures and three bad ones: 5 percent."""
    root = tmp_path / "pictures"
    write_patches(root, 57)
    (root / "empty.jpg").touch()
    (root / "page.jpg").write_text("<html><body>not found</body></html>")
    whole = (root / "photo_001.jpg").read_bytes()
    (root / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    return root


def test_bad_pictures_are_skipped_with_their_reason(create, bad_folder, tmp_path, capsys):
    assert create(*folder_options(bad_folder, tmp_path / "cache")) == 0
    folder = tmp_path / "cache" / "pictures-16"
    skipped = read_skipped(folder)
    assert sorted(skipped) == ["cut.jpg", "empty.jpg", "page.jpg"]
    assert skipped["empty.jpg"] == "the file is empty"
    assert skipped["page.jpg"] == "a web page, not a picture"
    assert "truncated" in skipped["cut.jpg"].lower()
    assert len(all_names(folder)) == 57
    output = capsys.readouterr().out
    assert "left out: 3 skipped" in output
    assert "1  the file is empty" in output


def test_heic_is_cached_upright_where_its_package_is(create, tmp_path):
    require_format("HEIF")
    turned = {1: "HEIF", 6: "HEIF", 8: "HEIF", 3: "PNG"}
    upright, root = np.asarray(make_patches((96, 64), 3)), tmp_path / "pictures"
    files = {
        f"{turn}.{'HEIC' if kind == 'HEIF' else 'png'}": encode_turned(upright, turn, kind)
        for turn, kind in turned.items()
    }
    write_patches(root, 50)
    for name, data in files.items():
        (root / name).write_bytes(data)
    assert create(*folder_options(root, tmp_path / "cache")) == 0
    cache, found = Cache(tmp_path / "cache" / "pictures-16"), {}
    for split in map(cache.split, SPLITS):
        L, ab = split.read(np.arange(len(split)))
        names = split.names(np.arange(len(split)))
        found |= {n: np.dstack([L[i] / 2.55, *ab[i]]) for i, n in enumerate(names) if n in files}
    assert found.keys() == files.keys()
    for name in files:
        assert np.abs(found[name] - found["3.png"]).mean() < 2


def test_max_skipped_fails_above_its_percentage(create, bad_folder, tmp_path, capsys):
    assert create(*folder_options(bad_folder, tmp_path / "cache", "--max-skipped", 5)) == 0
    assert create(*folder_options(bad_folder, tmp_path / "cache", "--max-skipped", 4.9)) == 1
    errors = capsys.readouterr().err
    assert "3 of 60 photographs were skipped, more than --max-skipped 4.9 percent" in errors
    assert "skipped.csv" in errors


def test_unreadable_pictures_are_skipped(create, tmp_path):
    write_patches(tmp_path / "pictures", 50)
    (tmp_path / "pictures" / "gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "pictures" / "round.jpg").symlink_to("round.jpg")
    assert create(*folder_options(tmp_path / "pictures", tmp_path / "cache")) == 0
    skipped = read_skipped(tmp_path / "cache" / "pictures-16")
    assert skipped["gone.jpg"] == "No such file or directory"
    assert "symbolic links" in skipped["round.jpg"]


def test_names_survive_as_bytes(create, tmp_path):
    root = tmp_path / "pictures"
    plain = write_patches(root, 50)
    odd = [
        b"caf\xc3\xa9.png",
        b"cafe\xcc\x81.png",
        b"two\nlines.png",
        b'a,"b".png',
        b"\xff\xe9.png",
    ]
    for i, name in enumerate(odd):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / os.fsdecode(name))
    (root / os.fsdecode(b"bad\n\xff.jpg")).touch()
    (root / "bad\u00e9.jpg").write_text("words")
    assert create(*folder_options(root, tmp_path / "cache")) == 0
    folder = tmp_path / "cache" / "pictures-16"
    assert set(all_names(folder)) == {*plain, *map(os.fsdecode, odd)}
    skipped = read_skipped(folder)
    assert skipped["bad\n?.jpg"] == "the file is empty"
    assert skipped["bad\u00e9.jpg"] == "not a picture of a format that Pillow reads"


# ---- the other data sets -----------------------------------------------------------------------
def test_sample_comes_with_the_project(create, tmp_path):
    assert create("--dataset", "sample", "--cache", tmp_path, "--size", 16, "--limit", 8) == 0
    assert [len(names) for names in names_in(tmp_path / "sample-16").values()] == [8, 8, 8]


@needs_data
def test_real_celeba(create, tmp_path):
    root = DATA / "celeba"
    assert create("--dataset", "celeba", "--root", root, "--cache", tmp_path, "--limit", 20) == 0
    official = dict(
        line.split() for line in (root / "list_eval_partition.txt").read_text().splitlines()
    )
    cache = Cache(tmp_path / "celeba-64")
    for number, names in enumerate(names_in(cache.folder).values()):
        assert len(names) == 20
        assert {official[name] for name in names} == {str(number)}
    name = cache.split("test").names(np.array([7]))[0]
    with zipfile.ZipFile(root / "img_align_celeba.zip") as archive:
        (member,) = (m for m in archive.namelist() if m.endswith(name))
        expected_L, expected_ab, bins = independent(archive.read(member), 64)
    L, ab = cache.split("test").read(np.array([7]))
    np.testing.assert_array_equal(L[0], expected_L)
    np.testing.assert_array_equal(ab[0], expected_ab)
    np.testing.assert_array_equal(cache.split("test").shards[0].bins[7], bins)


@needs_data
def test_real_flowers(create, tmp_path):
    root = DATA / "flowers"
    assert create("--dataset", "flowers", "--root", root, "--cache", tmp_path, "--limit", 20) == 0
    ids = loadmat(root / "setid.mat")
    cache = Cache(tmp_path / "flowers-64")
    for part, names in zip(
        ("tstid", "valid", "trnid"), names_in(cache.folder).values(), strict=True
    ):
        assert len(names) == 20
        assert {int(name[6:11]) for name in names} <= set(ids[part].ravel().tolist())
    assert not list(cache.folder.glob("unpacked*"))
    name = cache.split("val").names(np.array([0]))[0]
    with tarfile.open(root / "102flowers.tgz") as archive:
        expected_L, *_ = independent(archive.extractfile(f"jpg/{name}").read(), 64)
    np.testing.assert_array_equal(cache.split("val").read(np.array([0]))[0][0], expected_L)
