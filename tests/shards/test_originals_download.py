import hashlib
import http.server
import sys
import threading
from functools import partial

import pytest
from running import exit_status

import create_dataset
from shards import originals

FILES = {"102flowers.tgz": b"petals " * 50_000, "setid.mat": b"splits " * 100}


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves FILES as its server's `fault` says."""

    def do_GET(self):
        content = FILES[self.path.removeprefix("/")]
        self.server.asked.append(self.path)
        if self.server.fault == "missing":
            self.send_error(404)
            return
        if self.server.fault == "web page":
            content = b"<html><body>Log in to download</body></html>"
        if self.server.fault == "other bytes":
            content = content.replace(b"e", b"3")
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2 if self.server.fault == "cut off" else None])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """Serve FILES on localhost in Oxford's place."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.fault, server.asked = None, []
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(originals, "FLOWERS_PAGE", f"http://127.0.0.1:{server.server_port}/")
        md5 = {name: hashlib.md5(content).hexdigest() for name, content in FILES.items()}
        monkeypatch.setattr(originals, "FLOWERS_MD5", md5)
        yield server
        server.shutdown()


def test_download_flowers_writes_both_files_once(server, tmp_path):
    root = tmp_path / "datasets" / "flowers"
    for _ in range(2):  # the second time, nothing is asked for
        originals.download_flowers(root)
        assert {name: (root / name).read_bytes() for name in FILES} == FILES
    assert server.asked == ["/102flowers.tgz", "/setid.mat"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", r"102flowers\.tgz: not downloaded \(404 .*try again later"),
        ("cut off", r"102flowers\.tgz: not downloaded \(.*IncompleteRead.*try again later"),
        ("web page", r"102flowers\.tgz: expected a file of MD5 .*, found another.*try again later"),
        (
            "other bytes",
            r"102flowers\.tgz: expected a file of MD5 .*, found another.*try again later",
        ),
    ],
)
def test_download_flowers_says_what_failed_and_leaves_nothing(server, tmp_path, fault, message):
    server.fault = fault
    with pytest.raises((ConnectionError, ValueError), match=message) as error:
        originals.download_flowers(tmp_path)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == [".download.lock"]
    server.fault = None
    originals.download_flowers(tmp_path)
    assert (tmp_path / "102flowers.tgz").read_bytes() == FILES["102flowers.tgz"]


def test_download_flowers_says_that_no_server_answers(server, tmp_path):
    server.server_close()
    with pytest.raises(ConnectionError, match="not downloaded"):
        originals.download_flowers(tmp_path)


def test_download_flowers_keeps_another_file(server, tmp_path):
    (tmp_path / "102flowers.tgz").write_bytes(b"a part, made by hand")
    with pytest.raises(FileExistsError, match="move it away"):
        originals.download_flowers(tmp_path)
    assert (tmp_path / "102flowers.tgz").read_bytes() == b"a part, made by hand"
    assert server.asked == []


def test_oxfords_address_and_checksums():
    assert originals.FLOWERS_PAGE == "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
    assert [len(md5) for md5 in originals.FLOWERS_MD5.values()] == [32, 32]


# ---- the option --------------------------------------------------------------------------------
create = partial(exit_status, create_dataset.main)


def test_download_option_fetches_before_it_lists(server, tmp_path, capsys):
    options = ["--dataset", "flowers", "--download", "--cache", tmp_path / "cache"]
    assert create(*options, "--root", tmp_path / "flowers") == 1
    assert "102flowers.tgz" in server.asked[0]
    assert "setid.mat: expected Oxford's splits" in capsys.readouterr().err  # ours are no splits


def test_download_option_without_pooch_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pooch", None)
    options = ["--dataset", "flowers", "--download", "--root", tmp_path]
    assert create(*options) == 1
    assert "pip install pooch" in capsys.readouterr().err


def test_download_option_is_for_flowers(capsys):
    assert create("--dataset", "folder", "--download") == 2
    assert "--download is for flowers, got --dataset folder" in capsys.readouterr().err
