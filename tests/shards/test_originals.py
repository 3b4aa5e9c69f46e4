import hashlib
import io
import os
import pickle
import unicodedata

import numpy as np
import pytest
import skimage.data
from pictures import lay_out_celeba, lay_out_flowers, write_files
from PIL import Image
from scipy.io import savemat

from photo_files.opening import PhotoError
from shards.originals import (
    hash_fraction,
    list_celeba,
    list_flowers,
    list_folder,
    list_sample,
    sample_photos,
)

# Eight faces; the second is listed and not there.
PARTITION = {f"{i:06d}.jpg": split for i, split in enumerate("00012120", start=1)}
MISSING = "000002.jpg"
FACES = {
    "train": ["000001.jpg", "000003.jpg", "000008.jpg"],
    "val": ["000004.jpg", "000006.jpg"],
    "test": ["000005.jpg", "000007.jpg"],
}

# Nine flowers by Oxford's names for its splits; the seventh is not there.
OXFORD = {"trnid": [3, 1], "valid": [2], "tstid": [9, 8, 7, 6, 5, 4]}
FLOWERS = {"train": [4, 5, 6, 8, 9], "val": [2], "test": [1, 3]}


def content(name):
    """Return what stands for the bytes of a picture: listing never decodes them."""
    return f"picture {name} ".encode() * 20


def contents(names):
    return {name: content(name) for name in names}


def write_faces(root, layout="zip", form="plain"):
    lay_out_celeba(root, contents(n for n in PARTITION if n != MISSING), PARTITION, layout, form)


def write_flowers(root, layout="tgz"):
    names = [f"image_{i:05d}.jpg" for i in range(1, 10) if i != 7]
    lay_out_flowers(root, contents(names), OXFORD, layout)


def split_of(originals):
    """Return the split of each name."""
    return {name: split for split, names in originals.splits.items() for name in names}


def as_sorted(splits):
    return {split: sorted(names) for split, names in splits.items()}


# ---- CelebA ------------------------------------------------------------------------------------
@pytest.mark.parametrize("layout", ["zip", "folder", "doubled folder"])
def test_list_celeba_finds_the_faces_in_any_layout(tmp_path, layout):
    write_faces(tmp_path, layout)
    originals = list_celeba(tmp_path, tmp_path)
    assert as_sorted(originals.splits) == FACES
    assert originals.missing == 1
    assert originals.read("000005.jpg") == content("000005.jpg")
    assert originals.sizes["000005.jpg"] == len(content("000005.jpg"))


@pytest.mark.parametrize("form", ["plain", "spaces", "crlf", "no last newline", "csv"])
def test_list_celeba_reads_the_splits_in_any_form(tmp_path, form):
    write_faces(tmp_path, form=form)
    originals = list_celeba(tmp_path, tmp_path)
    assert as_sorted(originals.splits) == FACES
    assert originals.missing == 1


@pytest.mark.parametrize("line", ["000004.jpg 3", "000004.jpg", "000004.jpg 1 1", "<html>"])
def test_list_celeba_names_a_bad_line(tmp_path, line):
    write_faces(tmp_path)
    partition = tmp_path / "list_eval_partition.txt"
    partition.write_text(f"000001.jpg 0\n{line}\n000003.jpg 0\n")
    with pytest.raises(ValueError, match=r"list_eval_partition\.txt.*0, 1 or 2") as error:
        list_celeba(tmp_path, tmp_path)
    assert repr(line) in str(error.value)


@pytest.mark.parametrize("lost", ["img_align_celeba.zip", "list_eval_partition.txt"])
def test_list_celeba_says_what_it_expected_and_found(tmp_path, lost):
    write_faces(tmp_path)
    (tmp_path / lost).unlink()
    with pytest.raises(FileNotFoundError, match=f"expected .*{lost}.*found") as error:
        list_celeba(tmp_path, tmp_path)
    assert os.listdir(tmp_path)[0] in str(error.value).split("found")[1]


@pytest.mark.parametrize("listing", [list_celeba, list_flowers, list_folder])
def test_listing_refuses_a_root_that_is_not_there(tmp_path, listing):
    with pytest.raises(FileNotFoundError, match="gone: expected"):
        listing(tmp_path / "gone", tmp_path)


def test_list_folder_refuses_an_archive(tmp_path):
    (tmp_path / "photos.zip").touch()
    with pytest.raises(FileNotFoundError, match=r"found a file .*must be unpacked"):
        list_folder(tmp_path / "photos.zip", tmp_path)


@pytest.mark.parametrize("damaged", [b"", b"<html>not found</html>", "half"])
def test_list_celeba_refuses_a_damaged_zip(tmp_path, damaged):
    write_faces(tmp_path)
    archive = tmp_path / "img_align_celeba.zip"
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2] if damaged == "half" else damaged)
    with pytest.raises(ValueError, match=r"img_align_celeba\.zip.*damaged.*download it again"):
        list_celeba(tmp_path, tmp_path)


def test_list_celeba_loses_only_a_damaged_member(tmp_path):
    write_faces(tmp_path)
    archive = tmp_path / "img_align_celeba.zip"
    face = content("000005.jpg")
    archive.write_bytes(archive.read_bytes().replace(face, face.swapcase()))
    originals = list_celeba(tmp_path, tmp_path)
    with pytest.raises(PhotoError, match=r"damaged in img_align_celeba\.zip"):
        originals.read("000005.jpg")
    assert originals.read("000006.jpg") == content("000006.jpg")


def test_list_celeba_reads_in_another_process(tmp_path):
    write_faces(tmp_path)
    read = list_celeba(tmp_path, tmp_path).read
    read("000001.jpg")  # opens a handle, which must not travel
    assert pickle.loads(pickle.dumps(read))("000008.jpg") == content("000008.jpg")


# ---- flowers -----------------------------------------------------------------------------------
@pytest.mark.parametrize("layout", ["tgz", "jpg"])
def test_list_flowers_trains_on_the_large_part(tmp_path, layout):
    write_flowers(tmp_path / "flowers", layout)
    originals = list_flowers(tmp_path / "flowers", tmp_path)
    expected = {split: [f"image_{i:05d}.jpg" for i in ids] for split, ids in FLOWERS.items()}
    assert as_sorted(originals.splits) == expected
    assert originals.missing == 1
    for name in split_of(originals):
        assert originals.read(name) == content(name)
        assert originals.sizes[name] == len(content(name))


@pytest.mark.parametrize("lost", ["102flowers.tgz", "setid.mat"])
def test_list_flowers_says_what_it_expected_and_found(tmp_path, lost):
    write_flowers(tmp_path)
    (tmp_path / lost).unlink()
    with pytest.raises(FileNotFoundError, match=f"expected .*{lost}.*found") as error:
        list_flowers(tmp_path, tmp_path)
    assert os.listdir(tmp_path)[0] in str(error.value).split("found")[1]


def test_list_flowers_refuses_a_tgz_cut_anywhere(tmp_path):
    root = tmp_path / "flowers"
    write_flowers(root)
    archive = root / "102flowers.tgz"
    whole = archive.read_bytes()
    accepted = []
    for length in range(50, len(whole) - 8, 3):  # the last 8 bytes are a checksum
        archive.write_bytes(whole[:length])
        try:
            list_flowers(root, tmp_path)
        except ValueError:
            continue
        accepted.append(length)
    assert accepted == []


@pytest.mark.parametrize("length", [0, 3, 12])
def test_list_flowers_refuses_a_tgz_cut_in_its_first_bytes(tmp_path, length):
    root = tmp_path / "flowers"
    write_flowers(root)
    archive = root / "102flowers.tgz"
    archive.write_bytes(archive.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"102flowers\.tgz.*download it again"):
        list_flowers(root, tmp_path)


@pytest.mark.parametrize("damaged", [b"<html>not found</html>" * 100, "half"])
def test_list_flowers_leaves_nothing_of_a_damaged_tgz(tmp_path, damaged):
    root = tmp_path / "flowers"
    write_flowers(root)
    archive = root / "102flowers.tgz"
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2] if damaged == "half" else damaged)
    with pytest.raises(ValueError, match=r"102flowers\.tgz.*download it again"):
        list_flowers(root, tmp_path)
    assert [name for name in os.listdir(tmp_path) if name[0] != "."] == ["flowers"]
    assert sorted(os.listdir(root)) == ["102flowers.tgz", "setid.mat"]


@pytest.mark.parametrize("length", [0, 20, 128, 200])
def test_list_flowers_refuses_cut_splits(tmp_path, length):
    write_flowers(tmp_path)
    splits = tmp_path / "setid.mat"
    splits.write_bytes(splits.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"setid\.mat.*trnid, valid, tstid"):
        list_flowers(tmp_path, tmp_path)


def test_list_flowers_refuses_other_splits(tmp_path):
    write_flowers(tmp_path)
    savemat(tmp_path / "setid.mat", {"labels": np.arange(9)})  # imagelabels.mat under its name
    with pytest.raises(ValueError, match=r"setid\.mat.*trnid, valid, tstid"):
        list_flowers(tmp_path, tmp_path)


# ---- a folder ----------------------------------------------------------------------------------
def test_hash_fraction_is_the_hash_of_the_nfc_path():
    name = "été/bl\u00e5.jpg"
    digest = hashlib.sha256(unicodedata.normalize("NFC", name).encode()).hexdigest()
    assert hash_fraction(name) == int(digest[:14], 16) / 16**14
    assert hash_fraction(unicodedata.normalize("NFD", name)) == hash_fraction(name)
    assert 0 <= hash_fraction(os.fsdecode(b"\xff.jpg")) < 1


def test_hash_fraction_is_uniform():
    fractions = np.array([hash_fraction(f"holidays/{i}.jpg") for i in range(2000)])
    shares = np.histogram(fractions, [0, 0.8, 0.9, 1])[0] / 2000
    np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=0.025)


def test_list_folder_splits_by_the_hash_of_the_path(tmp_path):
    names = [f"{folder}/{i}.jpg" for folder in "ab" for i in range(30)]
    for folder in "ab":
        files = {f"{i}.jpg": content(f"{folder}/{i}") for i in range(30)}  # no two alike
        write_files(tmp_path / folder, files)
    expected = {
        name: "train" if fraction < 0.8 else "val" if fraction < 0.9 else "test"
        for name, fraction in zip(names, map(hash_fraction, names), strict=True)
    }
    assert set(expected.values()) == {"train", "val", "test"}
    originals = list_folder(tmp_path, tmp_path / "cache" / "x")
    assert split_of(originals) == expected
    assert originals.read("b/7.jpg") == content("b/7")


def test_list_folder_moves_no_picture_when_others_are_added(tmp_path):
    write_files(tmp_path / "old", contents([f"{i}.jpg" for i in range(40)]))
    before = split_of(list_folder(tmp_path, tmp_path / "cache" / "x"))
    write_files(tmp_path / "new", contents([f"new {i}.jpg" for i in range(40)]))
    after = split_of(list_folder(tmp_path, tmp_path / "cache" / "x"))
    assert len(before) == 40
    assert len(after) == 80
    assert {name: after[name] for name in before} == before


def test_list_folder_gives_an_accent_one_split_on_every_system(tmp_path):
    names = [unicodedata.normalize("NFC", f"\u00e9{i}.jpg") for i in range(40)]
    write_files(tmp_path / "linux", contents(names))
    write_files(tmp_path / "mac", contents(unicodedata.normalize("NFD", name) for name in names))
    linux, mac = (
        split_of(list_folder(tmp_path / system, tmp_path / "cache" / "x"))
        for system in ("linux", "mac")
    )
    assert set(linux.values()) == {"train", "val", "test"}
    assert {unicodedata.normalize("NFC", name): mac[name] for name in mac} == linux


def test_list_folder_keeps_copies_once(tmp_path):
    write_files(tmp_path / "pictures", contents(["a.jpg", "b.jpg", "c.jpg"]))
    for copy, original in (("a copy.jpg", "a.jpg"), ("z.jpg", "a.jpg"), ("c2.jpg", "c.jpg")):
        (tmp_path / "pictures" / copy).write_bytes(content(original))
    originals = list_folder(tmp_path / "pictures", tmp_path / "cache" / "x")
    kept = [originals.read(name) for name in split_of(originals)]
    assert sorted(kept) == [content("a.jpg"), content("b.jpg"), content("c.jpg")]
    assert originals.copies == 3


def test_list_folder_leaves_out_the_caches(tmp_path):
    write_files(tmp_path / "pictures", contents(["a.jpg"]))
    write_files(tmp_path / "cache" / "x-64", contents(["colors.png"]))
    assert list(split_of(list_folder(tmp_path, tmp_path / "cache" / "x-64"))) == ["pictures/a.jpg"]


# ---- the sample --------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return list_sample(tmp_path_factory.mktemp("none"), tmp_path_factory.mktemp("cache"))


def place(name):
    """Return a crop's photograph, top and left."""
    photo, top, left = name.removesuffix(".png").split("-")
    return photo, int(top), int(left)


def test_list_sample_shares_no_pixel_between_splits(sample):
    sides = {name: len(pixels) // 4 for name, pixels in sample_photos().items()}
    places = {split: list(map(place, names)) for split, names in sample.splits.items()}
    overlaps = [
        (a, b)
        for first, second in (("train", "val"), ("train", "test"), ("val", "test"))
        for a in places[first]
        for b in places[second]
        if a[0] == b[0] and max(abs(a[1] - b[1]), abs(a[2] - b[2])) < sides[a[0]]
    ]
    assert overlaps == []


def test_list_sample_shows_six_photographs_in_each_split(sample):
    expected = ["astronaut", "chelsea", "coffee", "motorcycle", "retina", "rocket"]
    for names in sample.splits.values():
        assert sorted({place(name)[0] for name in names}) == expected
        assert len(set(names)) == len(names)
    assert len(sample.splits["train"]) >= 300  # several batches


def test_list_sample_cuts_where_the_name_says(sample):
    photos = {
        "coffee": skimage.data.coffee(),
        "motorcycle": skimage.data.stereo_motorcycle()[0],  # the left one alone
    }
    for names in sample.splits.values():
        for name in names:
            photo, top, left = place(name)
            if photo in photos:
                found = np.asarray(Image.open(io.BytesIO(sample.read(name))))
                side = {"coffee": 100, "motorcycle": 125}[photo]  # of 400 and of 500 rows
                expected = photos[photo][top : top + side, left : left + side]
                np.testing.assert_array_equal(found, expected)
                assert found.shape == (side, side, 3)


# ---- what probing found --------------------------------------------------------------------------
def test_list_celeba_refuses_a_name_in_two_splits(tmp_path):
    (tmp_path / "img_align_celeba").mkdir()
    (tmp_path / "img_align_celeba" / "000001.jpg").write_bytes(b"x")
    (tmp_path / "list_eval_partition.txt").write_text("000001.jpg 0\n000001.jpg 2\n")
    with pytest.raises(ValueError, match=r"000001\.jpg stands in two splits"):
        list_celeba(tmp_path, tmp_path)


def test_list_folder_leaves_out_pipes(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert list_folder(tmp_path, tmp_path / "caches" / "x-16").sizes == {}


def test_list_folder_leaves_out_our_own_pictures(tmp_path):
    for name in ("a.png", "x-16/colors.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    assert list(list_folder(tmp_path, tmp_path / "x-16").sizes) == ["a.png"]
