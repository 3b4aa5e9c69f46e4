import gzip
import io
import resource
import signal
import struct
import sys
import tarfile
import tracemalloc
import zipfile
from contextlib import contextmanager
from random import Random

import numpy as np
import pytest
from PIL import Image, ImageCms

from originals import ZipReader, list_zip, read_spool, spool_tar
from photos import MAX_BYTES, PhotoError, open_photo

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's of broken EXIF, zipfile's of copies
SECONDS, MEMORY = 2, 2**30  # that one input may take
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1)
OLD, GNU, PAX = tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT
STORED, *PACKED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA
NAMES = ["/etc/{}", "../../{}", "a/b/c/{}", "./{}", "//host/{}", "C:\\a\\{}", "..\\{}"]


# ---- mutated bytes -----------------------------------------------------------------------------
class TooSlowError(BaseException):  # which no `except Exception` swallows
    pass


@contextmanager
def at_most(seconds):
    """Stop what takes longer, in seconds of the processor: the machine may be busy."""

    def stop(*_):
        raise TooSlowError(f"more than {seconds} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def most_memory():
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def mutate(random, data, other):
    """Damage bytes in one to four places, as disks, transfers and attackers do."""
    for _ in range(random.choice((1, 1, 2, 4))):
        n = random.choice((1, 2, 4, 16, 256))
        at = random.randrange(min(len(data), random.choice((64, 1024, 2**20))) + 1)  # oft headers
        at = len(data) - at if random.random() < 0.2 else at
        part, rest = data[at : at + n], data[at + n :]
        flipped = bytes(byte ^ 1 << random.randrange(8) for byte in part[:1]) + part[1:]
        order = random.choice(("little", "big"))
        number = (random.choice(EXTREMES) % 256**n).to_bytes(n, order)
        noise, splice = random.randbytes(n), other[random.randrange(len(other)) :]
        new = random.choice((flipped, number, bytes(n), b"\xff" * n, noise, b"", part + part))
        data = data[:at] + new + random.choice((*5 * [rest], b"", splice))
    return data


def hurt(take, sources, count, pack=lambda random, data: data):
    """Hand mutated sources to a function; return what went wrong, with the first number of each."""
    wrong = {}
    for number in range(count):
        random = Random(f"{take.__name__} {number}")
        data = pack(random, mutate(random, *random.choices(sources, k=2)))
        before = most_memory()
        try:
            with at_most(SECONDS):
                take(data)
        except (Exception, TooSlowError) as error:
            wrong.setdefault(repr(error).split("\\n")[0], number)
        if most_memory() - before > MEMORY:
            wrong.setdefault(f"more than {MEMORY} bytes", number)
    return wrong


def reason_of(error, start=""):
    """Return an error's text: one line, which says something and begins as ours do."""
    reason = str(error)
    assert reason.splitlines() == [reason], f"not one line: {reason!r}"
    assert reason.startswith(start), f"no sentence of ours: {error!r}"
    assert not reason.endswith(": "), f"no reason: {reason!r}"
    return reason


def make_pictures():
    """Return small pictures of the kinds that people have, half of them JPEGs."""
    patches = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    image, exif = Image.fromarray(patches).resize((40, 30)), Image.Exif()
    exif[0x0112] = 6  # it lies on its side
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    icc = icc.replace("sRGB".encode("utf-16-be"), "mine".encode("utf-16-be"))  # so it is applied
    both, frames = {"exif": exif, "icc_profile": icc}, {"append_images": [image.rotate(180)]}
    jpegs = [{}, {"exif": exif}, {"icc_profile": icc}, {"progressive": True}]
    jpegs += [{"progressive": True, **both}, {"restart_marker_blocks": 2}]
    rgb = [("JPEG", options) for options in 2 * jpegs]
    rgb += [(kind, {}) for kind in ("PNG", "BMP", "TIFF", "WEBP")]
    rgb += [(kind, {"save_all": True, **frames}) for kind in ("GIF", "WEBP")]
    rgb += [("TIFF", {"compression": name}) for name in ("tiff_lzw", "jpeg", "tiff_deflate")]
    sources = [(image, *kind) for kind in (*rgb, ("WEBP", {"lossless": True, **both}))]
    sources += [(image.convert(mode), "JPEG", {}) for mode in ("L", "CMYK")]
    sources += [(image.quantize(8), "PNG", {"transparency": 0, **both})]
    sources += [(Image.fromarray(patches[..., 0].astype(np.uint16) * 257), "PNG", {})]
    buffers = [io.BytesIO() for _ in sources]
    for buffer, (picture, kind, options) in zip(buffers, sources, strict=True):
        picture.save(buffer, kind, **options)
    return [buffer.getvalue() for buffer in buffers]


def test_open_photo_survives_mutated_pictures():
    def take_picture(data):
        for size in (16, None):
            try:
                assert open_photo(data, size).mode == "RGB"
            except PhotoError as error:
                reason_of(error)

    assert hurt(take_picture, make_pictures(), 3500) == {}


def make_zip(names, method=STORED, content=None):
    """Return a zip of pictures whose content is their number, many times."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for i, name in enumerate(names):
            file.writestr(name, content or b"%d " % i * 50)
    return buffer.getvalue()


def read_zip(folder, data):
    """Return the bytes of a zip's pictures, or the reasons why they are not read."""
    archive, found = folder / "x.zip", {}
    archive.write_bytes(data)
    members = list_zip(archive)
    read = ZipReader(archive, {name: info.filename for name, info in members.items()})
    for name in members:
        try:
            found[name] = read(name)
        except PhotoError as error:
            found[name] = reason_of(error)
    return found


def test_zip_reader_survives_mutated_zips(tmp_path):
    def take_zip(data):
        try:
            read_zip(tmp_path, data)
        except ValueError as error:
            reason_of(error, f"{tmp_path / 'x.zip'}: ")

    names = ["d/a.jpg", "ü.jpg", "n.txt"]
    sources = [make_zip(names, method) for method in (STORED, *PACKED)]
    assert hurt(take_zip, sources, 1500) == {}


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


def read_tgz(folder, data):
    """Return the bytes of a .tgz's pictures, or the reasons why they are not read."""
    archive, spool, found = folder / "x.tgz", folder / "cache" / "spool.tmp", {}
    archive.write_bytes(data)
    try:
        places = spool_tar(archive, spool)
    except BaseException:
        assert not spool.exists()
        raise
    for name in places:
        try:
            found[name] = read_spool(spool, places, name)
        except PhotoError as error:
            found[name] = reason_of(error)
    spool.unlink()
    return found


def read_tar(folder, data):
    return read_tgz(folder, gzip.compress(data + bytes(1024), 1))


@pytest.mark.parametrize(("inner", "count"), [(False, 1000), (True, 1500)], ids=["outer", "inner"])
def test_spool_tar_survives_mutated_archives(tmp_path, inner, count):
    def take_tgz(data):
        try:
            read_tgz(tmp_path, data)
        except ValueError as error:  # and no OSError: nothing is wrong with this disk
            reason_of(error, f"{tmp_path / 'x.tgz'}: ")

    def pack(random, data):
        return gzip.compress(seal(data) if random.random() < 0.7 else data, 1) if inner else data

    sources = make_tars() if inner else [gzip.compress(tar) for tar in make_tars()]
    assert hurt(take_tgz, sources, count, pack) == {}


# ---- names -------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
def test_archives_are_read_by_the_last_parts_of_names(tmp_path, name):
    folder = tmp_path / "a" / "b" / "c"  # `..` leads to a folder of ours
    (folder / "cache").mkdir(parents=True)
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
FLAGS, METHOD, SIZE = (6, "<H"), (8, "<H"), (22, "<I")  # where, in a member's header


def patch(data, field, value, directory=True):
    """Change a field of a zip's first member, in its own header and perhaps in the directory."""
    data, (place, form) = bytearray(data), field
    struct.pack_into(form, data, data.index(b"PK\3\4") + place, value)
    if directory:
        struct.pack_into(form, data, data.index(b"PK\1\2") + place + 2, value)
    return bytes(data)


def test_list_zip_refuses_an_encrypted_one_with_the_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"x\.zip: encrypted; unpack it .*--root") as error:
        read_zip(tmp_path, patch(make_zip(["a.jpg", "b.jpg"]), FLAGS, 1))
    reason_of(error.value)


def test_list_zip_refuses_one_cut_anywhere(tmp_path):
    whole = make_zip(["a.jpg", "b.jpg"])
    for length in range(len(whole)):
        with pytest.raises(ValueError, match=r"x\.zip: .*download it again"):
            read_zip(tmp_path, whole[:length])


@pytest.mark.parametrize(
    "harm",
    [
        lambda data: data.replace(b"a.jpg", b"c.jpg", 1),
        lambda data: patch(data.replace(b"a.jpg", b"\xff.jpg", 1), FLAGS, 0x800, False),
        lambda data: data.replace(b"PK\3\4", b"PK\3\5", 1),
        lambda data: data.replace(b"0 0 ", b"0 1 ", 1),
        *(lambda data, m=method: patch(data, METHOD, m) for method in (1, 9, 12, 14, 93, 99)),
    ],
)
def test_zip_reader_loses_only_a_bad_member(tmp_path, harm):
    found = read_zip(tmp_path, harm(make_zip(["a.jpg", "b.jpg"])))
    assert found["b.jpg"] == b"1 " * 50
    assert "x.zip: " in found["a.jpg"]


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
def test_spool_tar_reads_no_links_folders_pipes_and_devices(tmp_path):
    kinds = b"123456"
    others = [tar_member(f"{k}.jpg", type=b"%c" % k, linkname="a.jpg") for k in kinds]
    tar = b"".join([tar_member("a.jpg", b"a"), *others, tar_member("b.jpg", b"b")])
    assert read_tar(tmp_path, tar) == {"a.jpg": b"a", "b.jpg": b"b"}


@pytest.mark.parametrize("form", range(6))
def test_spool_tar_reads_all_forms(tmp_path, form):
    names = ["d/a.jpg", f"{'d' * 90}/{'n' * 90}.jpg", "ü.jpg"]
    found = {name.split("/")[-1]: name.encode() for name in names}
    sparse = {"s.jpg": 2 * (b"s" * 256 + bytes(1792))} if form >= 3 else {}
    assert read_tar(tmp_path, make_tars()[form]) == found | sparse


@pytest.mark.parametrize(
    "member",
    [
        tar_member("n.txt", b"x", size=2**60),  # skipping so much takes years
        tar_member("a.jpg", b"x", size=2**60),
        tar_member("a.jpg", size=-100),
        tar_member("n.txt", size=-5000),  # leads backwards
        sparse_member(4096, b"", more=b"\1"),  # more of its map would follow
        tar_member("a.jpg", b"x", PAX, pax_headers={"GNU.sparse.map": "a,b"}),
    ],
    ids=["text", "picture", "negative", "backwards", "map", "words"],
)
def test_spool_tar_refuses_a_header_that_lies(tmp_path, member):
    packed = gzip.compress(member)
    with at_most(SECONDS), pytest.raises(ValueError, match=r"x\.tgz: .*download it again"):
        read_tgz(tmp_path, packed)


def test_spool_tar_takes_no_disk_for_a_picture_that_is_too_large(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))  # of bytes in one file
    try:
        found = read_tar(tmp_path, sparse_member(2**40) + tar_member("b.jpg", b"b"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert found == {"s.jpg": "a file of more than 1024 MB", "b.jpg": b"b"}


class OneWayFile(io.FileIO):
    """A file that is read from front to back alone; Ctrl-C may come when so much is read."""

    patience, taken = 2**30, 0

    def seek(self, *_):
        raise AssertionError("a second look")

    def read(self, size=-1):
        data = super().read(size)
        self.taken += len(data)
        if self.taken > self.patience:
            raise KeyboardInterrupt
        return data


@pytest.mark.parametrize("patience", [2**30, 0, 50_000, 100_000])
def test_spool_tar_reads_once_and_leaves_nothing_after_ctrl_c(tmp_path, monkeypatch, patience):
    pictures = {f"{i}.jpg": Random(i).randbytes(1000) for i in range(100)}  # which do not shrink
    packed = gzip.compress(b"".join(map(tar_member, pictures, pictures.values())) + bytes(1024))
    (tmp_path / "x.tgz").write_bytes(packed)
    with OneWayFile(tmp_path / "x.tgz") as file:
        file.patience = patience
        monkeypatch.setattr(gzip, "open", lambda path: gzip.GzipFile(fileobj=file))
        if patience < len(packed):
            with pytest.raises(KeyboardInterrupt):
                read_tgz(tmp_path, packed)
        else:
            assert read_tgz(tmp_path, packed) == pictures
            assert file.taken == len(packed)
    assert not (tmp_path / "cache" / "spool.tmp").exists()
