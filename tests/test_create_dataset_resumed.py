"""create_dataset.py typed once more: what is refused, what is made again, what ranks share."""

import json
import re

import h5py
import numpy as np
import pytest
from caches import SIZE, folder_options, shard_bytes, shard_times
from encoding import encode
from pictures import lay_out_flowers, make_patches, write_patches
from PIL import Image
from running import exit_status

import create_dataset
import dataset
from dataset import Cache


# ---- refusals ----------------------------------------------------------------------------------
def test_an_empty_split_is_refused_with_the_remedy(create, tmp_path, capsys):
    write_patches(tmp_path / "few", 2)
    assert create(*folder_options(tmp_path / "few", tmp_path / "cache")) == 1
    errors = capsys.readouterr().err
    assert re.search("few: expected photographs .*in each split, found", errors)
    assert "add photographs" in errors


def test_an_empty_split_names_what_was_left_out(create, tmp_path, capsys):
    write_patches(tmp_path / "few", 2)
    (tmp_path / "few" / "a.NEF").touch()
    assert create(*folder_options(tmp_path / "few", tmp_path / "cache")) == 1
    errors = capsys.readouterr().err
    assert "left out: 1 RAW file of a camera" in errors
    assert "develop RAW to JPEG or TIFF first; add photographs" in errors


def test_a_split_of_gray_pictures_alone_is_refused(create, tmp_path, capsys):
    root = tmp_path / "gray"
    root.mkdir()
    for i in range(50):
        Image.new("RGB", (20 + i, 20), (i, i, i)).save(root / f"{i}.png")
    assert create(*folder_options(root, tmp_path / "cache")) == 1
    assert "with color in each split, found 0 train" in capsys.readouterr().err
    with pytest.raises(ValueError, match="not finished"):
        Cache(tmp_path / "cache" / "gray-16")


def test_other_options_are_refused_and_overwrite_remakes(create, photo_folder, tmp_path, capsys):
    folder = tmp_path / "holidays-16"
    assert create(*folder_options(photo_folder, tmp_path)) == 0
    before = shard_bytes(folder), (folder / "cache.json").read_bytes()
    assert create(*folder_options(photo_folder, tmp_path, "--limit", 3)) == 1
    errors = capsys.readouterr().err
    assert "limit None, now 3" in errors
    assert "--overwrite" in errors
    assert (shard_bytes(folder), (folder / "cache.json").read_bytes()) == before
    assert create(*folder_options(photo_folder, tmp_path, "--limit", 3, "--overwrite")) == 0
    assert len(Cache(folder).split("train")) == 3


def test_other_photographs_are_refused(create, tmp_path, capsys):
    write_patches(tmp_path / "pictures", 50)
    assert create(*folder_options(tmp_path / "pictures", tmp_path / "cache")) == 0
    Image.new("RGB", (20, 20), "red").save(tmp_path / "pictures" / "new.png")
    assert create(*folder_options(tmp_path / "pictures", tmp_path / "cache")) == 1
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--size", "30"),
        ("--size", "12"),
        ("--size", "large"),
        ("--name", "a/b"),
        ("--name", ".."),
        ("--name", ""),
        ("--limit", "0"),
        ("--workers", "0"),
        ("--max-skipped", "101"),
        ("--dataset", "cats"),
        ("--unknown", "x"),
    ],
)
def test_usage_errors_name_the_option(create, option, value, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert create("--dataset", "folder", option, value) == 2
    *_, message = capsys.readouterr().err.splitlines()
    assert option in message
    assert value in message
    assert list(tmp_path.iterdir()) == []


def test_a_data_set_must_be_named(create, capsys):
    assert create("--limit", "3") == 2
    assert "required: --dataset" in capsys.readouterr().err


def test_help_says_which_flowers_train(create, capsys):
    assert create("--help") == 0
    assert "tstid" in capsys.readouterr().out


@pytest.mark.parametrize("dataset", ["celeba", "flowers", "folder"])
def test_missing_originals_are_named(create, dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert create("--dataset", dataset) == 1
    assert f"datasets/{dataset}: expected" in capsys.readouterr().err


# ---- going on ----------------------------------------------------------------------------------
def test_a_missing_shard_alone_is_made_again(create, photo_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(create_dataset, "SHARD_PHOTOS", 10)
    folder = tmp_path / "holidays-16"
    assert create(*folder_options(photo_folder, tmp_path)) == 0
    content, times = shard_bytes(folder), shard_times(folder)
    (folder / "train-00002.h5").unlink()
    assert create(*folder_options(photo_folder, tmp_path)) == 0
    assert shard_bytes(folder) == content
    remade = [name for name, time in shard_times(folder).items() if time != times[name]]
    assert remade == ["train-00002.h5"]


def test_a_failed_run_is_refused_and_goes_on(
    create, photo_folder, cache_folder, tmp_path, monkeypatch
):
    folder, write_shard = tmp_path / "holidays-16", create_dataset.write_shard

    def fail_at_last(path, *content):
        if path.name == "test-00000.h5":
            raise OSError("the disk fell out")
        write_shard(path, *content)

    monkeypatch.setattr(create_dataset, "write_shard", fail_at_last)
    assert create(*folder_options(photo_folder, tmp_path)) == 1
    assert sorted(shard_bytes(folder)) == ["train-00000.h5", "val-00000.h5"]
    with pytest.raises(ValueError, match="not finished"):
        Cache(folder)
    monkeypatch.setattr(create_dataset, "write_shard", write_shard)
    times = shard_times(folder)
    assert create(*folder_options(photo_folder, tmp_path)) == 0
    assert shard_times(folder).items() >= times.items()
    assert shard_bytes(folder) == shard_bytes(cache_folder)


def test_an_unfinished_cache_is_refused(create, photo_folder, tmp_path):
    folder = tmp_path / "holidays-16"
    assert create(*folder_options(photo_folder, tmp_path)) == 0
    plan = json.loads((folder / "cache.json").read_text())
    (folder / "cache.json").write_text(json.dumps({**plan, "complete": False}))
    with pytest.raises(ValueError, match=r"not finished.*create_dataset\.py"):
        Cache(folder)


def test_verify_names_the_shard_and_its_remedy_works(create, photo_folder, tmp_path, capsys):
    folder = tmp_path / "holidays-16"
    assert create(*folder_options(photo_folder, tmp_path)) == 0
    assert exit_status(dataset.main, folder, "--verify") == 0
    assert "every byte has its checksum" in capsys.readouterr().out
    whole = shard_bytes(folder)
    with h5py.File(folder / "train-00000.h5") as file:
        place = file["ab"].id.get_offset() + 100
    content = bytearray(whole["train-00000.h5"])
    content[place] ^= 1
    (folder / "train-00000.h5").write_bytes(content)
    (folder / "test-00000.h5").unlink()
    (folder / "val-00000.h5").write_bytes(whole["train-00000.h5"])
    assert exit_status(dataset.main, folder, "--verify") == 1
    told = capsys.readouterr().out
    assert re.search(r"train-00000\.h5: .*\(ab does not have its checksum\); delete", told)
    assert re.search(r"test-00000\.h5: this shard is missing; run", told)
    assert re.search(r"val-00000\.h5: expected split val, found train", told)
    (folder / "train-00000.h5").unlink()
    (folder / "val-00000.h5").unlink()
    assert create(*folder_options(photo_folder, tmp_path)) == 0
    assert shard_bytes(folder) == whole


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_unpack_a_tgz_and_leave_nothing_of_it(create, tmp_path, world_size, monkeypatch):
    monkeypatch.setattr(create_dataset, "SHARD_PHOTOS", 4)
    root, generator = tmp_path / "flowers", np.random.default_rng(0)
    flowers = {
        f"image_{i:05d}.jpg": encode(make_patches((40, 30), generator), "JPEG")
        for i in range(1, 31)
    }
    ids = {"tstid": range(1, 19), "valid": range(19, 25), "trnid": range(25, 31)}
    lay_out_flowers(root, flowers, ids)
    typed = ["--dataset", "flowers", "--root", root, "--size", SIZE, "--workers", 1]
    assert create(*typed, "--cache", tmp_path / "one") == 0
    monkeypatch.setenv("WORLD_SIZE", str(world_size))
    for rank in reversed(range(world_size)):
        monkeypatch.setenv("RANK", str(rank))
        assert create(*typed, "--cache", tmp_path / "many") == 0
    one, many = (shard_bytes(tmp_path / name / "flowers-16") for name in ("one", "many"))
    assert one == many
    assert len(one) == 5 + 2 + 2
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.delenv("RANK")
    assert create(*typed, "--cache", tmp_path / "many", "--limit", 5) == 1  # refused
    assert not list(tmp_path.rglob("unpacked*"))
