"""No photograph, of whatever name, makes a command or the page run a program, unless asked to."""

import shutil
import zipfile

import pytest
from caches import folder_options, read_skipped
from encoding import encode
from pictures import make_patches, write_photo
from PIL import EpsImagePlugin
from running import exit_status
from small_cache import make_plan

import generate
from colorizer import load_colorizer
from create_dataset import BY_PROGRAM, ShardMaker
from dataset import Cache
from page.answers import prepare
from photo_files import PhotoError
from photo_files.finding import register_formats
from shards.originals import Originals
from shards.plan import SPLITS

SIZE = 50, 38
EPS = encode(make_patches(SIZE), "EPS")
REASON = "an EPS, which only a program, Ghostscript, can read"


def iptc_field(record, kind, content):
    return bytes((0x1C, record, kind)) + len(content).to_bytes(2, "big") + content


def iptc_around(data):
    """Return an IPTC file of a compressed picture: Pillow opens what is in it by its content."""
    sides = [iptc_field(3, 20 + 10 * i, bytes((side,))) for i, side in enumerate(SIZE)]
    head = [iptc_field(3, 60, b"\1\0"), *sides, iptc_field(3, 120, b"\5")]
    picture = b"".join(iptc_field(8, 10, data[i : i + 100]) for i in range(0, len(data), 100))
    return b"".join(head) + picture


CONTENTS = {"eps": EPS, "iptc": iptc_around(EPS)}


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """Put a gs first on PATH that draws a picture; return the file that it touches when run."""
    folder = tmp_path / "bin"
    write_photo(drawn := folder / "drawn.ppm", SIZE)
    (folder / "gs").write_text(
        f"#!/bin/sh\ntouch '{folder}/ran'\n"
        f"for word; do case $word in -sOutputFile=*) cp '{drawn}' \"${{word#*=}}\";; esac; done\n"
    )
    (folder / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    register_formats()  # what the patch goes back to
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # as when Pillow was imported
    register_formats.cache_clear()
    return folder / "ran"


@pytest.fixture
def color(checkpoint, tmp_path, capsys):
    """Give tests `color(*options)`: the exit status of generate.py, and all that was printed."""

    def run(*options):
        where = ("--checkpoint", checkpoint, "--out", tmp_path / "out")
        status = exit_status(generate.main, *where, "--images", *options)
        return status, "".join(capsys.readouterr())

    return run


@pytest.mark.parametrize("content", CONTENTS)
def test_coloring_runs_no_program(content, ran, color, tmp_path):
    gray, odd = write_photo(tmp_path / "gray.png"), tmp_path / "odd.jpg"
    odd.write_bytes(CONTENTS[content])
    (tmp_path / "hints").mkdir()
    shutil.copyfile(odd, tmp_path / "hints" / "gray.png")
    with zipfile.ZipFile(tmp_path / "album.zip", "w") as album:
        album.write(odd, "odd.jpg")
    for typed in (
        [odd],
        [tmp_path / "album.zip"],
        [odd, "--ask", 1],
        [gray, "--like", odd],
        [gray, "--hints", tmp_path / "hints"],
    ):
        status, said = color(*typed)
        assert status == 1
        assert REASON in said
    assert not ran.exists()


@pytest.mark.parametrize("content", CONTENTS)
def test_the_page_runs_no_program(content, ran, checkpoint, tmp_path):
    (path := tmp_path / "odd.jpg").write_bytes(CONTENTS[content])
    with pytest.raises(PhotoError, match=REASON):
        prepare(load_colorizer(checkpoint)[0], path, 16, tmp_path / "page")
    assert not ran.exists()


def add_odd(photo_folder, tmp_path):
    """Return a copy of the folder of sixty pictures, with two more that only a program reads."""
    folder = shutil.copytree(photo_folder, tmp_path / "holidays")
    (folder / "a.eps").write_bytes(EPS)
    (folder / "b.jpg").write_bytes(CONTENTS["iptc"])
    return folder


def test_a_cache_is_made_without_a_program(ran, create, photo_folder, tmp_path):
    folder = add_odd(photo_folder, tmp_path)
    assert create(*folder_options(folder, tmp_path)) == 0
    skipped = read_skipped(tmp_path / "holidays-16")
    assert skipped.keys() == {"a.eps", "b.jpg"}
    assert all(reason.startswith(REASON) for reason in skipped.values())
    assert not ran.exists()


# ---- asked to ----------------------------------------------------------------------------------
def test_coloring_with_ghostscript(ran, color, tmp_path):
    (path := tmp_path / "drawing.eps").write_bytes(EPS)
    assert color(path, "--ghostscript")[0] == 0
    assert (tmp_path / "out" / "drawing.png").exists()
    assert ran.exists()


@pytest.mark.parametrize("exact", [[], ["--exact"]])
def test_a_cache_with_ghostscript_is_another(exact, ran, create, photo_folder, tmp_path, capsys):
    folder = add_odd(photo_folder, tmp_path)
    typed = folder_options(folder, tmp_path, "--ghostscript", *exact, workers=2)
    assert create(*typed) == 0
    assert ran.exists()
    cache = Cache(tmp_path / "holidays-16")
    assert sum(len(cache.split(split)) for split in SPLITS) == 62
    typed.remove("--ghostscript")
    assert create(*typed) == 1
    assert "and Ghostscript, now" in capsys.readouterr().err


def test_a_worker_process_that_was_not_forked_may_run_it_too(ran, tmp_path):
    originals, plan = (
        Originals({}, lambda name: EPS, {}),
        make_plan(decoding="reduced" + BY_PROGRAM),
    )
    assert ShardMaker(tmp_path, plan, originals).open("a.eps").size == SIZE
    assert ran.exists()


def test_an_eps_that_ghostscript_cannot_read(ran, color, tmp_path):
    (path := tmp_path / "drawing.eps").write_bytes(EPS)
    (ran.parent / "gs").write_text("#!/bin/sh\n[ $1 = --version ]\n")
    status, said = color(path, "--ghostscript")
    assert status == 1
    assert f"skipped {path}: an EPS that Ghostscript cannot read\n" in said


def test_ghostscript_that_is_not_there(ran, color, tmp_path, monkeypatch):
    (ran.parent / "gs").unlink()
    monkeypatch.setenv("PATH", str(ran.parent))
    status, said = color(write_photo(tmp_path / "gray.png"), "--ghostscript")
    assert status == 1
    assert said.endswith("found no Ghostscript (gs); install it, or leave the option out\n")
