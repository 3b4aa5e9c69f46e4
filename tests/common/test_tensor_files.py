"""Files that would take more memory than they have bytes, and what torch would run or make."""

import io
import pickle
import re
import struct
import zipfile
from collections import OrderedDict

import pytest
import torch
from mutation import reason_of
from running import CODE, run_script

from common.tensor_files import load_tensors

EVERYTHING = {
    "format": 1,
    "model": OrderedDict(a=torch.arange(6.0).view(2, 3).T, b=torch.ones(2).half()),
    "count": [torch.tensor(3), torch.ones(1).double()],
    "plain": [None, True, False, -1, 2**70, 0.5, "text", (), (1,), (1, 2), (1, 2, 3), 4 * (0,)],
    "more": {0: [], 1: {}, "a": [1], "same": "text", 300: 70_000},
}


@pytest.mark.parametrize("legacy", [False, True])
def test_load_tensors_returns_what_was_saved(legacy, tmp_path):
    torch.save(EVERYTHING, path := tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    found = load_tensors(path)
    assert repr(found) == repr(EVERYTHING)


def write_zip(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(f"a/{name}", content)
    return path


def members(contents):
    torch.save(contents, saved := io.BytesIO())
    with zipfile.ZipFile(saved) as file:
        return {name.partition("/")[2]: file.read(name) for name in file.namelist()}


def refusal(path):
    with pytest.raises(ValueError, match=re.escape(f"{path}: ")) as refused:
        load_tensors(path)
    return reason_of(refused.value, f"{path}: ")


def test_a_compressed_file_is_refused(tmp_path):
    path = write_zip(tmp_path / "a.pt", members({"a": torch.zeros(10**6)}), zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10**5
    assert "a.pt: is compressed, of 4.0 MB, expected it as torch saves" in refusal(path)


def test_tensors_over_few_numbers_are_refused(tmp_path):
    torch.save({"a": torch.zeros(1).expand(10**5, 10**5)}, path := tmp_path / "a.pt")
    assert "its tensors take 40,000.0 MB, expected at most the file's 0.0 MB" in refusal(path)
    one = torch.zeros(10**4)
    torch.save({"a": [one[i:] for i in range(9)]}, path)
    assert "its tensors take 0.4 MB" in refusal(path)


def test_a_zip_of_many_parts_is_refused(tmp_path):
    path = write_zip(tmp_path / "a.pt", {str(i): b"" for i in range(10_001)})
    assert "holds more than 10,000 parts" in refusal(path)


def call(function, *arguments):
    """Return an object that is a call when it is unpickled."""
    return type("Call", (), {"__reduce__": lambda self: (function, arguments)})()


def nest(depth):
    return b"\x80\x02}" + b")" + depth * b"\x85" + b"K\x01s."  # {((((),),),): 1}


spoiled = OrderedDict()
spoiled.get = 1
DOUBLED = b"\x80\x02})" + b"".join(b"q\x00h\x00\x86" for _ in range(60)) + b"K\x01s."
PICKLES = {
    "a call of bytearray": pickle.dumps({"a": call(bytearray, 10**12)}, 2),
    "a call of encode": pickle.dumps({"a": call(__import__("codecs").encode, b"a", "hex")}, 2),
    "a key of many tuples in tuples": nest(90_000),
    "more of them": nest(300_000),
    "a key of few tuples whose hash takes ages": DOUBLED,
    "a key that is a float": pickle.dumps({0.5: 1}, 2),
    "an odd side": None,
    "a gradient": None,
    "an attribute": pickle.dumps(spoiled, 2),
    "a set": pickle.dumps({1, 2}, 2),
    "later opcodes": pickle.dumps({"a": b"b"}, 4),
    "another protocol": b"\x80\x03}.",
    "a mark less": b"\x80\x02}\x85u.",
    "a memo that is not there": b"\x80\x02h\x05.",
    "an append to a dict": b"\x80\x02}K\x01a.",
    "many opcodes": b"\x80\x02]" + 100_001 * b"Na" + b".",
    "no end": b"\x80\x02}",
    "nothing": b"",
}
PICKLES["a gradient"] = members({"a": torch.zeros(3, requires_grad=True)})["data.pkl"]
PICKLES["an odd side"] = members({"a": torch.zeros(3)})["data.pkl"].replace(b"K\x03\x85", b"N\x85")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", PICKLES)
def test_odd_pickles_are_refused_before_torch_reads_them(name, legacy, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch was asked"))
    path = tmp_path / "a.pt"
    if legacy:
        start = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {})]
        path.write_bytes(b"".join(start) + PICKLES[name] + pickle.dumps([], 2))
    else:
        write_zip(path, members({"a": torch.zeros(3)}) | {"data.pkl": PICKLES[name]})
    assert "not a checkpoint, or a damaged one, or one that holds code" in refusal(path)


def test_a_damaged_number_is_refused(tmp_path):
    torch.save({"a": torch.full((100,), 7.25)}, path := tmp_path / "a.pt")
    content = path.read_bytes()
    number = struct.pack("<f", 7.25)
    path.write_bytes(content.replace(number, struct.pack("<f", 7.5), 1))
    assert content.count(number) == 100
    assert "a damaged one" in refusal(path)


def test_a_number_that_looks_like_a_directory_is_a_number(tmp_path):
    contents = {"a": torch.tensor([0x0201_4B50, 7])}
    torch.save(contents, path := tmp_path / "a.pt")
    assert path.read_bytes().count(b"PK\1\2") > len(members(contents))
    assert repr(load_tensors(path)) == repr(contents)


def test_a_second_directory_is_not_read(tmp_path):
    packed = members({"a": torch.tensor([6.0, 6.0])})
    hidden = write_zip(tmp_path / "hidden.zip", packed, zipfile.ZIP_DEFLATED).read_bytes()
    n, _, size, start, _ = struct.unpack("<HHIIH", hidden[-14:])
    record = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, n, n, size, start)
    torch.save(contents := {"a": torch.tensor([5.0, 5.0])}, saved := io.BytesIO())
    good = bytearray(saved.getvalue())
    good[-34:-26] = struct.pack("<Q", len(hidden))  # where torch, not Python, looks for the record
    path = tmp_path / "a.pt"
    path.write_bytes(hidden + record + good)
    assert torch.load(path, weights_only=True)["a"].tolist() == [6, 6]
    assert repr(load_tensors(path)) == repr(contents)


MEASURE = """
import resource, sys, time
from pathlib import Path
from colorizer import load_colorizer
before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
try:
    load_colorizer(Path(sys.argv[1]))
except ValueError as error:
    print(error)
seconds = time.process_time() - began
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, f"KB, {seconds:.2f} s")
"""


def zeros_deflated(path):
    """2 GB in 2 MB."""
    packed = members({"a": torch.zeros(1)})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in packed.items():
            file.writestr(f"a/{name}", content)
        with file.open("a/data/1", "w", force_zip64=True) as member:
            for _ in range(30):
                member.write(bytes(2**26))


BOMBS = {
    "zeros, deflated": zeros_deflated,
    "a tensor over one number": lambda path: torch.save(torch.zeros(1).expand(5, 10**9), path),
    "a width of 4096": None,
    "tuples": lambda path: write_zip(path, members({}) | {"data.pkl": nest(10**7)}),
    "a list": lambda path: write_zip(
        path, members({}) | {"data.pkl": b"\x80\x02](" + 3 * 10**7 * b"N" + b"e."}
    ),
    "parts": lambda path: write_zip(path, {str(i): b"" for i in range(200_000)}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_takes_little_memory(name, make_checkpoint, tmp_path):
    path = tmp_path / "bomb.pt"
    if make := BOMBS[name]:
        make(path)
    else:
        contents = torch.load(make_checkpoint(path), weights_only=True)
        torch.save({**contents, "width": 4096}, path)
    done = run_script(CODE, MEASURE, path)
    reason, _, figures = done.stdout.strip().rpartition("\n")
    print(figures, path.stat().st_size)
    reason_of(reason, f"{path}: ")
    assert int(figures.split()[0]) * 1024 < 2 * path.stat().st_size + 2**27
