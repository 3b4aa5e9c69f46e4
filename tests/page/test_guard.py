"""What the guard refuses, without a server; tests/test_app_strangers.py has one."""

import json
from types import SimpleNamespace

import pytest

pytest.importorskip("starlette", reason="Gradio is not installed")

from starlette.datastructures import Headers

from page.guard import READ, Refused, check_join, check_sender, plain_host

OWN = {"host": "localhost:7860"}


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("localhost:7860", "localhost"),
        ("LocalHost.", "localhost"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("[::1]:7860", "::1"),
        ("::1", "::1"),
        ("[0:0:0:0:0:0:0:1]", "::1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("colors.example.org:443", "colors.example.org"),
    ],
)
def test_plain_host_is_without_port_and_brackets(header, host):
    assert plain_host(header) == host


def sent(headers, server="127.0.0.1", names=()):
    """Tell whether a request with these headers passes."""
    scope = {"server": (server, 7860)}
    try:
        check_sender(scope, Headers(headers), names)
    except Refused as refused:
        return str(refused)
    return True


@pytest.mark.parametrize(
    "headers",
    [
        OWN,
        {"host": "127.0.0.1:7860"},
        {"host": "[::1]:9000"},  # a tunnel
        {**OWN, "origin": "http://localhost:7860"},
        {**OWN, "origin": "https://localhost:7860"},  # a proxy that encrypts
        {**OWN, "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},  # a link
        {**OWN, "sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"},
    ],
)
def test_the_page_itself_is_heard(headers):
    assert sent(headers) is True


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"host": "evil.example"}, "not known as 'evil.example'; start it with --names"),
        ({"host": "8.8.8.8:7860"}, "not known as"),
        ({"host": "localhost.evil.example"}, "not known as"),
        ({}, "not known as ''"),
        ({**OWN, "origin": "http://evil.example"}, "another page"),
        ({**OWN, "origin": "null"}, "another page"),
        ({**OWN, "origin": "http://localhost:3000"}, "another page"),
        ({**OWN, "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, "another page"),
        ({**OWN, "sec-fetch-site": "same-site", "sec-fetch-mode": "cors"}, "another page"),
    ],
)
def test_others_are_refused(headers, reason):
    assert reason in sent(headers)


def test_two_hosts_are_refused():
    scope = {"server": ("127.0.0.1", 7860)}
    raw = [(b"host", b"localhost"), (b"host", b"localhost")]
    with pytest.raises(Refused):
        check_sender(scope, Headers(raw=raw), ())


def test_a_machine_is_known_by_the_address_that_was_asked_and_by_names():
    assert sent({"host": "192.168.1.5:7860"}, "192.168.1.5") is True
    assert sent({"host": "192.168.1.5"}, "::ffff:192.168.1.5") is True
    assert "not known" in sent({"host": "192.168.1.6"}, "192.168.1.5")
    assert "not known" in sent({"host": "localhost"}, "192.168.1.5")
    assert sent({"host": "mine.local:7860"}, "192.168.1.5", {"mine.local"}) is True


@pytest.mark.parametrize(
    "path",
    [
        "/config",
        "/monitoring",
        "/gradio_api/info",
        "/gradio_api/run/show",
        "/gradio_api/api/show",
        "/gradio_api/call/show",
        "/gradio_api/process_recording",
        "/gradio_api/proxy=http://127.0.0.1/",
        "/gradio_api/component_server",
        "/gradio_api/heartbeat/a/b",
        "/gradio_api/heartbeat/",
        "/login",
        "/docs",
        "/gradio_api/stream/a",
        "/gradio_api/vibe-code",
        "/gradio_api/queue/join",
        "//evil.example",
    ],
)
def test_routes_that_the_page_does_not_use_are_closed(path):
    assert not READ.fullmatch(path)


# ---- wishes ------------------------------------------------------------------------------------
def part(number, kind, **more):
    return SimpleNamespace(_id=number, get_block_name=lambda: kind, **more)


@pytest.fixture
def blocks():
    """A page of a slider, a slider of whole numbers, a color, files, a picture and a gallery."""
    parts = [
        part(0, "slider", minimum=0.05, maximum=1.5, step=0.01),
        part(1, "slider", minimum=1, maximum=313, step=1),
        part(2, "colorpicker"),
        part(3, "file"),
        part(4, "image"),
        part(5, "gallery"),
    ]
    wishes = {
        7: SimpleNamespace(_id=7, fn=print, inputs=parts[:4], targets=[(0, "change")]),
        8: SimpleNamespace(_id=8, fn=print, inputs=[], targets=[(4, "select"), (5, "select")]),
        9: SimpleNamespace(_id=9, fn=None, inputs=[], targets=[]),
    }
    return SimpleNamespace(fns=wishes, blocks={part._id: part for part in parts})


@pytest.fixture
def click():
    """What the page sends when something was clicked on, without the place."""
    return {"session_hash": "abc123", "fn_index": 8, "data": []}


@pytest.fixture
def wish(tmp_path):
    """What the page sends when the slider moves."""
    path = str(tmp_path / ("a" * 32) / "a.jpg")
    file = {"path": path, "url": "http://x/", "meta": {"_type": "gradio.FileData"}}
    data = [0.38, 313, "#a0522d", [file]]
    return {"session_hash": "abc123", "fn_index": 7, "trigger_id": 0, "data": data}


def check(wish, blocks, tmp_path):
    body = wish if isinstance(wish, bytes) else json.dumps(wish).encode()
    return json.loads(check_join(body, blocks, tmp_path))


def test_a_wish_keeps_what_the_page_takes_and_nothing_else(wish, blocks, tmp_path):
    kept = check({**wish, "event_id": "x", "simple_format": True}, blocks, tmp_path)
    path = wish["data"][3][0]["path"]
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    assert kept == {**wish, "data": [0.38, 313, "#a0522d", [file]], "event_data": None}
    assert check({**wish, "data": [0.38, 5.0, "", None]}, blocks, tmp_path)["data"] == [
        0.38,
        5,
        "",
        [],
    ]


@pytest.mark.parametrize(
    ("target", "index", "kept"), [(4, [3, 4.5], [3, 4.5]), (5, 2, 2), (5, 2.0, 2)]
)
def test_a_click_keeps_its_place(target, index, kept, click, blocks, tmp_path):
    event = {"index": index, "value": {"image": {"path": "/etc/passwd"}}}
    clicked = check({**click, "trigger_id": target, "event_data": event}, blocks, tmp_path)
    assert clicked["event_data"] == {"index": kept, "value": None}


NUMBERS = [None, True, "0.4", [], {}, -1, 1e9, 10**400, float("nan"), float("inf"), [0.4]]


@pytest.mark.parametrize(
    "lie",
    [
        *({"data": [number, 313, "", []]} for number in NUMBERS),
        *({"data": [0.38, number, "", []]} for number in (0, 1.5, 314, *NUMBERS)),
        {"data": [0.38, 313, 5, []]},
        {"data": [0.38, 313, "\ud800", []]},
        {"data": [0.38, 313, "", "a.jpg"]},
        {"data": [0.38, 313, "", [{"url": "http://127.0.0.1/"}]]},
        {"data": [0.38, 313, "", [{"path": 5}]]},
        {"data": [0.38, 313, "", [{"path": "http://127.0.0.1/a/b.jpg"}]]},
        {"data": [0.38, 313, "", [{"path": "/etc/passwd"}]]},
        {"data": [0.38, 313, ""]},
        {"data": None},
        {"data": 5},
        {"session_hash": "../x"},
        {"session_hash": 5},
        {"session_hash": "a" * 41},
        {"fn_index": 10},
        {"fn_index": 9, "data": []},  # one for the browser
        {"fn_index": []},
        {"fn_index": None},
        {"trigger_id": 99},
        {"trigger_id": []},
    ],
)
def test_a_hand_made_wish_is_refused_in_a_sentence(lie, wish, blocks, tmp_path):
    with pytest.raises(Refused, match="not what this page sends: ") as refused:
        check(wish | lie, blocks, tmp_path)
    assert refused.value.status == 400
    assert len(str(refused.value)) < 250


@pytest.mark.parametrize(
    "lie",
    [
        {"trigger_id": None, "event_data": {"index": 1}},
        {"trigger_id": 0, "event_data": {"index": 1}},
        {"trigger_id": 4},
        *({"trigger_id": 4, "event_data": event} for event in (None, 5, {}, {"index": 5})),
        *({"trigger_id": 4, "event_data": {"index": [5, x]}} for x in NUMBERS),
        {"trigger_id": 4, "event_data": {"index": [5]}},
        *({"trigger_id": 5, "event_data": {"index": x}} for x in (1.5, *NUMBERS)),
    ],
)
def test_a_hand_made_click_is_refused_in_a_sentence(lie, click, blocks, tmp_path):
    with pytest.raises(Refused, match="not what this page sends: "):
        check(click | lie, blocks, tmp_path)


def test_files_of_an_earlier_server_are_left_out(wish, blocks, tmp_path):
    kept = wish["data"][3][0]["path"]
    earlier = {"path": f"/tmp/colors-a/uploads/{'b' * 32}/b.jpg"}
    found = check({**wish, "data": [0.38, 313, "", [earlier, {"path": kept}]]}, blocks, tmp_path)
    assert [file["path"] for file in found["data"][3]] == [kept]


@pytest.mark.parametrize("body", [b"", b"{", b"5", b"null", b"[]", b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_wish_is_refused(body, blocks, tmp_path):
    with pytest.raises(Refused, match="not what this page sends"):
        check(body, blocks, tmp_path)


FOLDER = "a" * 32


@pytest.mark.parametrize(
    "name",
    [
        *("../a.jpg", f"{FOLDER}/../a.jpg", f"{FOLDER}/b/c.jpg", "a.jpg", "aa/a.jpg", "../.."),
        *(f"{FOLDER}/{name}" for name in ("..", "a\0.jpg", 300 * "a", ".jpg")),
    ],
)
def test_a_path_beside_the_uploads_is_refused(name, wish, blocks, tmp_path):
    wish["data"][3] = [{"path": f"{tmp_path}/{name}"}]
    with pytest.raises(Refused, match="expected files that were uploaded here"):
        check(wish, blocks, tmp_path)
