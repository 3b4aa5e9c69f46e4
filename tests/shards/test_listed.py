"""Lists of splits and pictures that are not quite as the data sets come."""

import zipfile

import numpy as np
import pytest
from pictures import lay_out_celeba, lay_out_flowers
from scipy.io import savemat

from shards.listed import match_listed
from shards.originals import list_celeba, list_flowers

PARTITION = {f"{i:06d}.jpg": split for i, split in enumerate("00012120", start=1)}
FACES = {
    "train": ["000001", "000002", "000003", "000008"],
    "val": ["000004", "000006"],
    "test": ["000005", "000007"],
}
IDS = {"trnid": [3, 1], "valid": [2], "tstid": [9, 8, 7, 6, 5, 4]}
FLOWERS = {"train": [4, 5, 6, 7, 8, 9], "val": [2], "test": [1, 3]}


def write_faces(root, ending=".jpg", layout="folder"):
    """Write CelebA; its pictures have another ending than those in its list."""
    names = [name.replace(".jpg", ending) for name in PARTITION]
    lay_out_celeba(root, {name: name.encode() for name in names}, PARTITION, layout)
    return root / "list_eval_partition.txt"


def faces(ending=".jpg"):
    return {split: [stem + ending for stem in stems] for split, stems in FACES.items()}


def write_flowers(root, ending=".jpg"):
    names = [f"image_{i:05d}{ending}" for i in range(1, 10)]
    lay_out_flowers(root, {name: name.encode() for name in names}, IDS, "jpg")
    return root / "setid.mat"


def flowers(ending=".jpg"):
    return {split: [f"image_{i:05d}{ending}" for i in ids] for split, ids in FLOWERS.items()}


# ---- pictures of another ending ----------------------------------------------------------------
@pytest.mark.parametrize("layout", ["zip", "folder"])
@pytest.mark.parametrize("ending", [".png", ".JPG"])
def test_faces_may_have_another_ending_than_their_list_says(tmp_path, ending, layout):
    write_faces(tmp_path, ending, layout)
    originals = list_celeba(tmp_path, tmp_path)
    assert originals.splits == faces(ending)
    assert (originals.missing, originals.left_out) == (0, [])
    assert originals.read("000005" + ending) == ("000005" + ending).encode()


def test_flowers_may_have_another_ending(tmp_path):
    write_flowers(tmp_path, ".JPG")
    originals = list_flowers(tmp_path, tmp_path)
    assert originals.splits == flowers(".JPG")
    assert originals.read("image_00002.JPG") == b"image_00002.JPG"


@pytest.mark.parametrize(
    ("listed", "files", "found", "missing"),
    [
        ("a.jpg", "a.jpg a.png", "a.jpg", ""),  # its own name counts
        ("a.jpg", "A.PNG", "A.PNG", ""),
        ("a", "a.png", "a.png", ""),
        ("a.jpg", "a.png a.webp", "", "a.jpg"),  # which of them?
        ("a.jpg a.tif", "a.png", "", "a.jpg a.tif"),  # whose is it?
        ("a.jpg a.png", "a.png", "a.png", "a.jpg"),  # it is listed itself
        ("a.jpg", "ab.jpg b.jpg", "", "a.jpg"),
    ],
)
def test_match_listed_takes_what_is_plain(listed, files, found, missing, tmp_path):
    full = {"v.jpg": "val", "t.jpg": "test", "x.jpg": "train"}
    listed = dict.fromkeys(listed.split(), "train") | full
    splits, lacking = match_listed(listed, [*files.split(), *full], tmp_path)
    assert splits == {"train": [*found.split(), "x.jpg"], "val": ["v.jpg"], "test": ["t.jpg"]}
    assert lacking == missing.split()


def test_some_missing_pictures_are_told_with_one_of_them(tmp_path):
    write_faces(tmp_path)
    for name in ("000002.jpg", "000008.jpg"):
        (tmp_path / "img_align_celeba" / name).unlink()
    originals = list_celeba(tmp_path, tmp_path)
    assert originals.missing == 2
    said = "2 of 8 listed pictures (000002.jpg, for one): not there"
    assert originals.left_out == [said]


@pytest.mark.parametrize("found", ["face_1.jpg", "no pictures"])
def test_an_error_names_a_listed_picture_and_one_that_is_there(tmp_path, found):
    write_faces(tmp_path)
    for path in (tmp_path / "img_align_celeba").iterdir():
        path.unlink()
    if found != "no pictures":
        (tmp_path / "img_align_celeba" / found).touch()
    said = rf"img_align_celeba: 8 of 8 listed .* expected 000001\.jpg, for one, found {found}; put"
    with pytest.raises(ValueError, match=said) as error:
        list_celeba(tmp_path, tmp_path)
    assert "keep-gray" not in str(error.value)


# ---- CelebA's list and folders -----------------------------------------------------------------
@pytest.mark.parametrize(
    ("before", "between", "after", "ending"),
    [
        ("img_align_celeba\\", " ", "", "\n"),
        ("img_align_celeba/", " ", "", "\n"),
        ("C:\\faces\\", ",", "", "\r\n"),
        ("", "\t", "", "\r"),
        ("", ";", "", "\n"),
        ("", " , ", " ", "\n\n"),
        ('"', '","', '"', "\r\n"),
        ("it's/", " '", "'", "\n"),
    ],
)
def test_the_list_of_faces_may_have_other_separators(tmp_path, before, between, after, ending):
    lines = [f"{before}{name}{between}{split}{after}" for name, split in PARTITION.items()]
    heads = ["", '"image_id","partition"', "image_id;partition"]
    for head in heads:
        partition = write_faces(tmp_path / str(len(head)))
        partition.write_bytes(ending.join([head, *lines]).encode())
        originals = list_celeba(partition.parent, tmp_path)
        assert originals.splits == faces()


@pytest.mark.parametrize("line", ["a.jpg 0 1 2x", "a;3", '"a.jpg"', "partition,image_id"])
def test_a_line_that_is_none_is_still_refused(tmp_path, line):
    partition = write_faces(tmp_path)
    partition.write_text(f"000001.jpg 0\n{line}\n")
    with pytest.raises(ValueError, match="expected a name and 0, 1 or 2 a line"):
        list_celeba(tmp_path, tmp_path)


def test_a_name_in_two_splits_is_refused_whatever_its_folder(tmp_path):
    write_faces(tmp_path).write_text("a/000001.jpg 0\nb/000001.jpg 2\n")
    with pytest.raises(ValueError, match=r"000001\.jpg stands in two splits"):
        list_celeba(tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("pictures", "partition"),
    [
        ("img_align_celeba/faces", ""),
        ("img_align_celeba/img_align_celeba/img_align_celeba", ""),
        ("archive/img_align_celeba/img_align_celeba", "archive"),
        ("CelebA/Img/img_align_celeba", "CelebA/Eval"),
    ],
)
def test_faces_may_lie_in_folders_inside_the_root(tmp_path, pictures, partition):
    listed = write_faces(tmp_path / "made")
    (tmp_path / "root" / pictures).parent.mkdir(parents=True)
    (tmp_path / "made" / "img_align_celeba").rename(tmp_path / "root" / pictures)
    (tmp_path / "root" / partition).mkdir(parents=True, exist_ok=True)
    listed.rename(tmp_path / "root" / partition / listed.name)
    (tmp_path / "root" / pictures).with_name(".DS_Store").touch()
    originals = list_celeba(tmp_path / "root", tmp_path)
    assert originals.splits == faces()
    assert originals.read("000001.jpg") == b"000001.jpg"


def test_a_zip_may_lie_in_a_folder_inside_the_root(tmp_path):
    write_faces(tmp_path / "root" / "CelebA", layout="zip")
    assert list_celeba(tmp_path / "root", tmp_path).splits == faces()


def test_of_two_sets_of_faces_inside_the_root_none_is_taken(tmp_path):
    for name in "ab":
        write_faces(tmp_path / "root" / name)
    with pytest.raises(FileNotFoundError, match=r"expected img_align_celeba\.zip .*, found a, b"):
        list_celeba(tmp_path / "root", tmp_path)


def test_the_zip_goes_before_the_folder_beside_it(tmp_path):
    write_faces(tmp_path)
    with zipfile.ZipFile(tmp_path / "img_align_celeba.zip", "w") as file:
        for name in PARTITION:
            file.writestr(name, "of the zip")
    assert list_celeba(tmp_path, tmp_path).read("000001.jpg") == b"of the zip"


# ---- Oxford's list -----------------------------------------------------------------------------
def cells(numbers):
    return np.array([[np.array([[n]]) for n in numbers], [None] * len(numbers)], object)[:1]


def cell_of_all(numbers):
    cell = np.empty((1, 1), object)
    cell[0, 0] = np.array([numbers], float)
    return cell


@pytest.mark.parametrize(
    "form",
    [np.float64, np.uint16, lambda ids: np.array([ids], float).T, cells, cell_of_all],
    ids=["doubles", "integers", "a column", "cells", "a cell of all"],
)
def test_the_splits_of_flowers_may_be_doubles_or_cells(tmp_path, form):
    splits = write_flowers(tmp_path)
    savemat(splits, {name: form(ids) for name, ids in IDS.items()})
    assert list_flowers(tmp_path, tmp_path).splits == flowers()


@pytest.mark.parametrize("wrong", [1.5, np.nan, np.inf])
def test_splits_that_are_no_whole_numbers_are_refused(tmp_path, wrong):
    splits = write_flowers(tmp_path)
    savemat(splits, IDS | {"valid": [2, wrong]})
    with pytest.raises(ValueError, match=r"setid\.mat: expected Oxford's splits"):
        list_flowers(tmp_path, tmp_path)


def test_a_flower_in_two_splits_is_refused(tmp_path):
    savemat(write_flowers(tmp_path), IDS | {"valid": [2, 3]})
    with pytest.raises(ValueError, match=r"image_00003\.jpg stands in two splits"):
        list_flowers(tmp_path, tmp_path)
