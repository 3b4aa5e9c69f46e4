"""What app.py's page lets strangers do: a real server, and requests made by hand."""

import contextlib
import http.client
import importlib.util
import io
import os
import signal
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from running import ROOT
from skimage.data import astronaut

from benchmarks.visiting import Visitor, ask, form, serve
from page.answers import FULL_DISK

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not importlib.util.find_spec("gradio"), reason="there is no gradio"),
]
ROOM = 0.05  # GB


@pytest.fixture(scope="module")
def begin(make_checkpoint):
    """Give tests `begin(folder, *options)`: it starts a server whose files lie in the folder.

    It returns the process, the port, and where temporary files lie, by default in the folder.
    """
    processes = []

    def begin_one(folder, *options, temporary=None):
        temporary = temporary or folder / "temporary"
        temporary.mkdir(exist_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TMPDIR", str(temporary))
            process, port = serve(make_checkpoint(folder / "best.pt"), *options)
        processes.append(process)
        return process, port, temporary

    yield begin_one
    for process in processes:
        process.kill()


@pytest.fixture(scope="module")
def served(begin, tmp_path_factory):
    """Serve the page; return its port and the folder of its files."""
    process, port, temporary = begin(tmp_path_factory.mktemp("page"), "--room", ROOM)
    yield port, temporary
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    said = process.stderr.read()
    assert "Traceback" not in said, said
    assert list(temporary.iterdir()) == []


@pytest.fixture
def visitor(served):
    """A visitor, who leaves nothing."""
    visitor = Visitor(served[0])
    yield visitor
    visitor.do("upload", "clear", [None])


@pytest.fixture
def photo(tmp_path):
    """A gray photograph."""
    Image.fromarray(astronaut()[:200, :300]).convert("L").save(tmp_path / "flag.jpg")
    return tmp_path / "flag.jpg"


def stored(folder: Path) -> list[str]:
    """Return the names of visitors' files on the disk."""
    return sorted(path.name for path in folder.glob("colors-*/uploads/*/*"))


# ---- who asks ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Host": "evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"},
    ],
)
def test_another_page_cannot_upload_nor_ask(headers, served, photo):
    port, folder = served
    body, kind = form(photo)
    status, said, _ = ask(port, "POST", "/gradio_api/upload", body, content_type=kind, **headers)
    assert status in (403, 421)
    assert b"open this page itself" in said or b"not known as" in said
    assert stored(folder) == []
    assert ask(port, "GET", "/", **headers)[0] == status
    assert ask(port, "OPTIONS", "/", Access_Control_Request_Method="POST", **headers)[0] == status


def test_a_proxys_headers_are_not_believed(served):
    forwarded = {"X_Forwarded_Host": "evil.example", "Forwarded": "host=evil.example"}
    status, page, headers = ask(served[0], "GET", "/", **forwarded)
    assert status == 200
    assert b"evil.example" not in page
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/monitoring"),
        ("GET", "/config"),
        ("GET", "/gradio_api/info"),
        ("GET", "/gradio_api/proxy=http://127.0.0.1/"),
        ("POST", "/gradio_api/process_recording"),
        ("POST", "/gradio_api/run/call"),
        ("POST", "/gradio_api/api/call"),
        ("POST", "/gradio_api/call/call"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/login"),
        ("PUT", "/"),
    ],
)
def test_what_the_page_does_not_use_is_closed(method, path, served):
    status, said, _ = ask(served[0], method, path, b"{}" if method == "POST" else None)
    assert (status, said) == (404, b'{"detail":"this page has nothing there"}')


@pytest.mark.parametrize("path", ["/etc/passwd", str(ROOT / "app.py"), "app.py", "/proc/self/maps"])
@pytest.mark.parametrize("prefix", ["/gradio_api/file=", "/file="])
def test_no_file_outside_is_readable(prefix, path, served):
    assert ask(served[0], "GET", prefix + path)[0] in (403, 404)


def test_a_page_that_was_uploaded_is_no_page(visitor, tmp_path):
    (tmp_path / "a.html").write_text("<script>alert(1)</script>")
    (file,) = visitor.upload(tmp_path / "a.html")
    _, _, headers = ask(visitor.port, "GET", f"/gradio_api/file={file['path']}")
    assert headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    visitor.do("upload", "upload", [[file]])


# ---- what is asked -----------------------------------------------------------------------------
def test_a_file_that_is_an_address_is_not_fetched(visitor):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(1)
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/a.jpg"
        for file in ({"path": address}, {"url": address}, {"path": "/etc/passwd", "url": address}):
            status, said = visitor.join("upload", "upload", [[file]])
            assert status == 400
            assert said["detail"].startswith("not what this page sends")
        with pytest.raises(TimeoutError):
            listening.accept()


def test_odd_values_are_one_sentence_each(visitor, photo):
    visitor.do("upload", "upload", [visitor.upload(photo)])
    settings = visitor.settings
    for event, data, index in (
        (("temperature", "change"), [0, float("nan"), 313, 0], None),
        (("temperature", "change"), [0, 0.4, 1.5, 0], None),
        (("temperature", "change"), [0, 0.4], None),
        (("clicked", "select"), [0], [5]),
        (("clicked", "select"), [0], ["a", None]),
        (("gallery", "select"), [], -1),
        (("swatches", "select"), settings, 1.5),
    ):
        status, said = visitor.join(*event, data, index)
        assert status == 400
        assert said["detail"].startswith("not what this page sends: ")
    visitor.do("clicked", "select", [0], [3, 4])  # before it was colored
    visitor.do("gallery", "select", [], 0)  # forgets what was offered
    for event, data, index, reason in (
        (("gallery", "select"), [], 7, "photograph 7: there are 1"),
        (("swatches", "select"), settings, 3, "click on a place of the photograph first"),
        (("take", "click"), ["no color", *settings], None, "no color; choose one"),
    ):
        with pytest.raises(ValueError, match=reason):
            visitor.do(*event, data, index)


def test_what_has_no_photograph_is_a_sentence(served):
    visitor = Visitor(served[0])
    for part, event in (("temperature", "change"), ("download", "click"), ("undo", "click")):
        with pytest.raises(ValueError, match="no such photograph here; drop it on the page again"):
            visitor.do(part, event, visitor.settings)


# ---- what stays --------------------------------------------------------------------------------
def test_a_download_has_the_photographs_size_and_what_is_shown_a_screens(visitor, tmp_path):
    image = Image.fromarray(astronaut()).convert("L").resize((2000, 1500))
    image.save(tmp_path / "large.png")
    visitor.do("upload", "upload", [visitor.upload(tmp_path / "large.png")])
    shown = visitor.do("temperature", "change", visitor.settings)["data"][0]
    sizes = [Image.open(io.BytesIO(visitor.fetch(file))).size for file in shown]
    assert sizes == [(1024, 768)] * 2
    (file,) = visitor.do("download", "click", visitor.settings)["data"]
    colored = Image.open(io.BytesIO(visitor.fetch(file)))
    assert (colored.format, colored.size) == ("PNG", (2000, 1500))
    assert np.ptp(np.asarray(colored), axis=-1).mean() > 3


def test_what_is_refused_or_taken_away_is_deleted(visitor, served, photo, tmp_path):
    (tmp_path / "words.jpg").write_text("no picture")
    files = visitor.upload(photo, tmp_path / "words.jpg", photo)
    listed, faults, *_ = visitor.do("upload", "upload", [files])["data"]
    assert [file["path"] for file in listed] == [files[0]["path"], files[2]["path"]]
    assert "<li>words.jpg: not a picture" in faults["value"]
    assert stored(served[1]) == ["flag.jpg", "flag.jpg"]
    visitor.do("upload", "delete", [listed[:1]])
    assert stored(served[1]) == ["flag.jpg"]
    visitor.do("upload", "clear", [None])
    assert stored(served[1]) == []
    assert list(served[1].glob("colors-*/visitors/*/*")) == []


def test_an_upload_that_breaks_off_leaves_nothing(served, photo):
    port, folder = served
    body, kind = form(photo)
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.putrequest("POST", "/gradio_api/upload")
    connection.putheader("Content-Type", kind)
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body[: len(body) // 2])
    time.sleep(0.2)
    connection.close()
    for sent, its_kind in ((body, kind.replace("border", "b")), (body[:-50], kind), (b"", "text")):
        status, said, _ = ask(port, "POST", "/gradio_api/upload", sent, content_type=its_kind)
        assert (status, b"not an upload of this page, or one that broke off" in said) == (400, True)
    assert stored(folder) == []
    assert [path.name for path in folder.iterdir() if not path.name.startswith("colors-")] == []


def test_room_is_limited_and_comes_back(visitor, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (3000, 4000), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    paths, limit = [], f"all visitors together may hold {ROOM} GB of photographs"
    for _ in range(3):
        paths += visitor.upload(tmp_path / "noise.png")
    with pytest.raises(OSError, match=f"507: .*{limit}.*try again later"):
        visitor.upload(tmp_path / "noise.png")
    visitor.do("upload", "upload", [paths])
    visitor.do("upload", "clear", [None])
    visitor.do("upload", "clear", [visitor.upload(tmp_path / "noise.png")])


def test_an_upload_that_says_too_little_is_counted(served):
    port, folder = served
    with socket.create_connection(("127.0.0.1", port)) as connection:
        head = "POST /gradio_api/upload HTTP/1.1", f"Host: 127.0.0.1:{port}", "Content-Length: 5"
        kind = "Content-Type: multipart/form-data; boundary=b", "Transfer-Encoding: chunked"
        connection.sendall("\r\n".join((*head, *kind, "", "")).encode())
        part = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'
        with contextlib.suppress(OSError):  # it hangs up
            for chunk in (part, *[bytes(2**20)] * 60):
                connection.sendall(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            connection.sendall(b"0\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert b"HTTP/1.1 507" in connection.recv(100)
    assert stored(folder) == []
    assert ask(port, "GET", "/gradio_api/app_id")[0] == 200


def test_an_upload_that_says_too_much_is_refused_unread(served):
    status, said, _ = ask(served[0], "POST", "/gradio_api/upload", b"", content_length="5000000000")
    assert status == 413
    assert b"at most 20 photographs of 50 MB can be uploaded at a time" in said


# ---- fairness ----------------------------------------------------------------------------------
def test_wishes_that_newer_ones_replace_are_dropped(served, visitor, photo):
    other = Visitor(served[0])
    for each in (visitor, other):
        each.do("upload", "upload", [each.upload(photo)])
    for i in range(40):
        status, _ = visitor.join("temperature", "change", [0, 0.1 + i / 40, 313, 0])
        assert status == 200
    done = []
    waiting = threading.Thread(target=lambda: done.extend(visitor.answers(40)))
    waiting.start()
    other.do("temperature", "change", other.settings)
    waiting.join()
    assert all(message["success"] for message in done)
    colored = [message for message in done if isinstance(message["output"]["data"][0], list)]
    assert 1 <= len(colored) <= 20
    assert isinstance(done[-1]["output"]["data"][0], list)  # the newest
    other.do("upload", "clear", [None])


# ---- how the server ends -----------------------------------------------------------------------
def test_what_kill_leaves_the_next_start_deletes_and_a_closed_terminal_too(begin, tmp_path, photo):
    killed, port, folder = begin(tmp_path)
    Visitor(port).upload(photo)
    killed.kill()
    killed.wait()
    (left,) = folder.iterdir()
    (folder / "colors-of-another").mkdir()  # without a lock
    process, port, _ = begin(tmp_path)
    assert not left.exists()
    assert stored(folder) == []
    assert (folder / "colors-of-another").exists()
    Visitor(port).upload(photo)
    process.send_signal(signal.SIGHUP)
    assert process.wait(30) == 130
    assert [path.name for path in folder.iterdir()] == ["colors-of-another"]


@pytest.mark.skipif(not socket.has_ipv6, reason="there is no IPv6")
def test_ctrl_c_while_coloring_ends_at_once_on_any_address(begin, tmp_path):
    Image.linear_gradient("L").resize((6000, 6000)).save(tmp_path / "large.jpg")
    process, port, folder = begin(tmp_path, "--host", "::")
    assert f"http://[::]:{port} colors with" in process.stdout.readline()
    connection = http.client.HTTPConnection("::1", port)
    connection.request("GET", "/")
    assert connection.getresponse().status == 200
    connection.close()
    visitor = Visitor(port)
    visitor.do("upload", "upload", [visitor.upload(tmp_path / "large.jpg")])
    visitor.join("download", "click", visitor.settings)
    time.sleep(0.3)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    print(f"ended after {time.monotonic() - start:.2f} s")
    said = process.stderr.read()
    assert said.strip().count("\n") == 0
    assert "app.py: interrupted; the page has deleted all visitors' photographs" in said
    assert list(folder.iterdir()) == []


def test_a_full_disk_is_told_in_the_pages_words(begin, tmp_path, mount):
    disk = mount(8000)
    noise = np.random.default_rng(0).integers(0, 256, (2000, 2000), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    process, port, _ = begin(tmp_path, temporary=disk)
    visitor = Visitor(port)
    visitor.upload(tmp_path / "noise.png")
    with pytest.raises(OSError, match=f"507: .*{FULL_DISK}"):
        visitor.upload(tmp_path / "noise.png")
    process.terminate()
    assert process.wait(30) == 130
    assert "Traceback" not in process.stderr.read()
    assert os.listdir(disk) == []
