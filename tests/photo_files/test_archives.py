"""Archives, whole, damaged and hostile."""

import gzip
import io
import os
import resource
import shutil
import struct
import sys
import tarfile
import tracemalloc
import zipfile
from pathlib import Path
from random import Random

import pytest
from mutation import SECONDS, at_most, hurt, reason_of, some_at_first

from photo_files.archives import ZipReader, list_zip, unpack_tar
from photo_files.finding import is_photo_name
from photo_files.opening import MAX_BYTES, PhotoError

STORED, *PACKED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA
pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's of broken EXIF, zipfile's of copies
OLD, GNU, PAX = tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT


# ---- mutated bytes -----------------------------------------------------------------------------
def write_anew(path, data):
    path.unlink(missing_ok=True)  # ext4 waits for the disk when a file is overwritten
    path.write_bytes(data)
    return path


def read_all(read, names):
    """Return the bytes of pictures, or the reasons why they are not read."""
    found = {}
    for name in names:
        try:
            found[name] = read(name)
        except PhotoError as error:
            found[name] = reason_of(error)
    return found


def make_zip(names, method=STORED, content=None):
    """Return a zip of pictures whose content is their number, many times."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for i, name in enumerate(names):
            file.writestr(name, content or b"%d " % i * 50)
    return buffer.getvalue()


def read_zip(folder, data):
    archive = write_anew(folder / "x.zip", data)
    members = list_zip(archive)
    return read_all(ZipReader(archive, members), members)


def test_a_zip_on_a_disk_that_fails_is_not_called_damaged(tmp_path):
    memory = Path("/proc/self/mem")  # opens, but its first bytes cannot be read
    if not memory.exists():
        pytest.skip("no file here that cannot be read")
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.png", b"pixels")
    read = ZipReader(archive, list_zip(archive))
    archive.unlink()
    archive.symlink_to(memory)
    with pytest.raises(PhotoError, match=r"^cannot be read in x\.zip: .*Input/output error"):
        read("a.png")


def tar_member(name, data=b"", form=GNU, size=None, **fields):
    """Return a member of a tar as bytes; its header may lie."""
    info = tarfile.TarInfo(name)
    for field, value in {"size": len(data) if size is None else size, **fields}.items():
        setattr(info, field, value)
    return info.tobuf(form) + data + bytes(-len(data) % 512)


def seal(data):
    """Return a tar with all checksums right again, so that its headers are believed."""
    data = bytearray(data)
    for at in range(0, len(data) - 511, 512):
        if data[at + 257 : at + 262] == b"ustar":
            total = tarfile.calc_chksums(bytes(data[at : at + 512]))[0]
            data[at + 148 : at + 156] = b"%06o\0 " % total
    return bytes(data)


def sparse_member(size, data=b"s" * 512, more=b"\0"):
    """Return s.jpg of some size, which has 256 bytes at its begin and at 2048, as GNU's tar."""
    head = bytearray(tar_member("s.jpg", size=len(data), type=tarfile.GNUTYPE_SPARSE))
    head[386:434] = b"".join(tarfile.itn(n, 12, GNU) for n in (0, 256, 2048, 256))
    head[482:495] = more + tarfile.itn(size, 12, GNU)
    return seal(head) + data


def make_tars():
    """Return small tars in all forms, three without and three with a sparse picture."""
    names, data = ["d/a.jpg", "n.txt", f"{'d' * 90}/{'n' * 90}.jpg", "ü.jpg"], b"s" * 512
    plain = [b"".join(tar_member(n, n.encode(), form) for n in names) for form in (OLD, GNU, PAX)]
    maps = {"GNU.sparse.map": "0,256,2048,256", "GNU.sparse.size": "4096"}
    sparse = [sparse_member(4096), tar_member("s.jpg", data, PAX, pax_headers=maps)]
    maps = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "4096"}
    data = b"2\n0\n256\n2048\n256\n".ljust(512, b"\0") + data
    sparse += [tar_member("s.jpg", data, PAX, pax_headers=maps)]
    return [tar + bytes(1024) for tar in (*plain, *(member + plain[0] for member in sparse))]


class AnyPicture:
    """All names of pictures."""

    def __contains__(self, name):
        return is_photo_name(name) and len(os.fsencode(name)) < 200


def read_tgz(folder, data):
    archive, unpacked = write_anew(folder / "x.tgz", data), folder / "jpg"
    try:
        unpack_tar(archive, AnyPicture(), unpacked)
        return {path.name: path.read_bytes() for path in unpacked.iterdir()}
    finally:
        assert unpacked.exists() == (sys.exc_info()[0] is None)  # nothing is left of a failure
        shutil.rmtree(unpacked, ignore_errors=True)


def read_tar(folder, data):
    return read_tgz(folder, gzip.compress(data + bytes(1024), 1))


def repack(random, data):
    return gzip.compress(seal(data) if random.random() < 0.7 else data, 1)


KINDS = {  # of archives: what reads them, some whole ones, and how a mutated one is packed
    "zip": (read_zip, [make_zip(["a.jpg", "ü.jpg", "n"], m) for m in (STORED, *PACKED)], None),
    "outer tgz": (read_tgz, list(map(gzip.compress, make_tars())), None),
    "inner tgz": (read_tgz, make_tars(), repack),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("numbers", some_at_first(100, 1500), ids=len)
def test_archives_survive_mutations(tmp_path, kind, numbers):
    read, sources, pack = KINDS[kind]

    def take_archive(data):
        try:
            read(tmp_path, data)
        except ValueError as error:  # and no OSError: nothing is wrong with this disk
            reason_of(error, f"{tmp_path}/x.")

    assert hurt(take_archive, sources, numbers, pack or (lambda random, data: data)) == {}


# ---- names -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name", ["/etc/{}", "../../{}", "a/b/c/{}", "./{}", "//host/{}", "C:\\a\\{}", "..\\{}"]
)
def test_archives_are_read_by_the_last_parts_of_names(tmp_path, name):
    folder = tmp_path / "a" / "b" / "c"  # `..` leads to a folder of ours
    folder.mkdir(parents=True)
    names = [name.format("1.jpg"), "__MACOSX/a/._1.jpg", "2.jpg/", "a/.jpg"]
    assert read_zip(folder, make_zip(names)) == {"1.jpg": b"0 " * 50}
    assert read_tar(folder, b"".join(tar_member(n, b"1") for n in names)) == {"1.jpg": b"1"}
    files = {path.name for path in tmp_path.rglob("*") if not path.is_dir()}
    assert files == {"x.zip", "x.tgz"}


def test_archives_give_the_later_of_two_pictures_of_one_name(tmp_path):
    found = read_zip(tmp_path, make_zip(["a.jpg", "b.jpg", "a.jpg", "d/b.jpg"]))
    assert found == {"a.jpg": b"2 " * 50, "b.jpg": b"3 " * 50}
    tar = tar_member("a.jpg", b"0") + tar_member("a.jpg", b"11") + tar_member("d/a.jpg", b"222")
    assert read_tar(tmp_path, tar) == {"a.jpg": b"222"}


# ---- zips --------------------------------------------------------------------------------------
def patch(data, place, value, directory=True):
    """Change a number of a zip's first member, in its own header and perhaps in the directory."""
    data, form = bytearray(data), "<I" if place == SIZE else "<H"
    struct.pack_into(form, data, data.index(b"PK\3\4") + place, value)
    if directory:
        struct.pack_into(form, data, data.index(b"PK\1\2") + place + 2, value)
    return bytes(data)


FLAGS, METHOD, SIZE, UTF_8 = 6, 8, 22, 0x800  # places, and a flag


HARMS = {
    "name": lambda data: data.replace(b"a.jpg", b"c.jpg", 1),
    "no name": lambda data: patch(data.replace(b"a.jpg", b"\xff.jpg", 1), FLAGS, UTF_8, False),
    "signature": lambda data: data.replace(b"PK\3\4", b"PK\3\5", 1),
    "content": lambda data: data.replace(b"0 0 ", b"0 1 ", 1),
    "deflate64": lambda data: patch(data, METHOD, 9),
    "lzma": lambda data: patch(data, METHOD, zipfile.ZIP_LZMA),
}


def test_list_zip_refuses_an_encrypted_one_with_the_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"x\.zip: encrypted; unpack it .*--root") as error:
        read_zip(tmp_path, patch(make_zip(["a.jpg", "b.jpg"]), FLAGS, 1))
    reason_of(error.value)


def test_list_zip_refuses_one_cut_anywhere(tmp_path):
    whole = make_zip(["a.jpg", "b.jpg"])
    for length in range(len(whole)):
        with pytest.raises(ValueError, match=r"x\.zip: .*download it again"):
            read_zip(tmp_path, whole[:length])


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_zip_reader_loses_only_a_bad_member(tmp_path, harm):
    found = read_zip(tmp_path, harm(make_zip(["a.jpg", "b.jpg"])))
    assert found["b.jpg"] == b"1 " * 50
    assert "x.zip" in found["a.jpg"]


@pytest.mark.parametrize("claim", [100, MAX_BYTES + 1])
@pytest.mark.parametrize("method", PACKED)
def test_zip_reader_takes_no_memory_for_a_bomb(tmp_path, method, claim):
    bomb = patch(make_zip(["a.jpg"], method, content=bytes(2**24)), SIZE, claim)
    tracemalloc.start()
    found, most = read_zip(tmp_path, bomb), tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(found["a.jpg"], str)
    assert most < 2**23  # half of what is in it


# ---- tars --------------------------------------------------------------------------------------
def test_unpack_tar_takes_no_links_devices_folders_and_pipes(tmp_path):
    others = [tar_member(f"{c}.jpg", type=c.encode(), linkname="a.jpg") for c in "123456"]
    tar = b"".join([tar_member("a.jpg", b"a"), *others, tar_member("b.jpg", b"b")])
    assert read_tar(tmp_path, tar) == {"a.jpg": b"a", "b.jpg": b"b"}


@pytest.mark.parametrize("form", range(6))
def test_unpack_tar_reads_all_forms(tmp_path, form):
    names = ["d/a.jpg", f"{'d' * 90}/{'n' * 90}.jpg", "ü.jpg"]
    found = {name.split("/")[-1]: name.encode() for name in names}
    sparse = {"s.jpg": 2 * (b"s" * 256 + bytes(1792))} if form >= 3 else {}
    assert read_tar(tmp_path, make_tars()[form]) == found | sparse


LIES = {
    "text": tar_member("n.txt", b"x", size=2**60),  # skipping so much takes years
    "picture": tar_member("a.jpg", b"x", size=2**60),
    "negative": tar_member("a.jpg", size=-100),
    "backwards": tar_member("n.txt", size=-5000),
    "map": sparse_member(4096, b"", more=b"\1"),  # more of its map would follow
    "words": tar_member("a.jpg", b"x", PAX, pax_headers={"GNU.sparse.map": "a,b"}),
}


@pytest.mark.parametrize("member", LIES.values(), ids=LIES)
def test_unpack_tar_refuses_a_header_that_lies(tmp_path, member):
    packed = gzip.compress(member)
    with at_most(SECONDS), pytest.raises(ValueError, match=r"x\.tgz: .*download it again"):
        read_tgz(tmp_path, packed)


def test_unpack_tar_takes_no_disk_for_a_picture_that_is_too_large(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))  # of bytes in one file
    try:
        found = read_tar(tmp_path, sparse_member(2**40) + tar_member("b.jpg", b"b"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert found == {"b.jpg": b"b"}


class OneWayFile(io.FileIO):
    """A file that is read from front to back alone; Ctrl-C comes when so much is read."""

    patience, taken = 2**30, 0

    def seek(self, *_):
        raise AssertionError("a second look")

    def read(self, size=-1):
        data = super().read(size)
        self.taken += len(data)
        if self.taken > self.patience:
            raise KeyboardInterrupt
        return data


@pytest.fixture
def one_way(tmp_path, monkeypatch):
    """Have gzip open a .tgz, of 100 pictures that do not shrink, as a one-way file."""
    pictures = {f"{i}.jpg": Random(i).randbytes(1000) for i in range(100)}
    tar = b"".join(tar_member(name, data) for name, data in pictures.items()) + bytes(1024)
    (tmp_path / "x.tgz").write_bytes(gzip.compress(tar))
    with OneWayFile(tmp_path / "x.tgz") as file:
        monkeypatch.setattr(gzip, "open", lambda path: gzip.GzipFile(fileobj=file))
        yield file


def test_unpack_tar_reads_an_archive_once(tmp_path, one_way):
    unpack_tar(tmp_path / "x.tgz", AnyPicture(), tmp_path / "jpg")
    assert len(list((tmp_path / "jpg").iterdir())) == 100
    assert one_way.taken == (tmp_path / "x.tgz").stat().st_size


@pytest.mark.parametrize("patience", [0, 50_000, 100_000])
def test_unpack_tar_leaves_nothing_after_ctrl_c(tmp_path, one_way, patience):
    one_way.patience = patience
    with pytest.raises(KeyboardInterrupt):
        unpack_tar(tmp_path / "x.tgz", AnyPicture(), tmp_path / "jpg")
    assert [path.name for path in tmp_path.iterdir()] == ["x.tgz"]
