"""What the page in the browser lets in: requests of its own, for what it needs, and no others.

Gradio's server has many routes, and believes much of what a request says. `Guard` stands before it:
it checks hosts, origins, routes and values, receives uploads itself, and sees who is here.
"""

import asyncio
import contextlib
import ipaddress
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from page.answers import MOST_MEGABYTES, explain_failures
from page.visitors import LIMIT, MOST_PHOTOS, Visitors, safe_name

READ = re.compile(
    r"/|/theme\.css|/favicon\.ico|/manifest\.json|/(assets|static)/.*"
    r"|/gradio_api/(file=.*|heartbeat/[0-9a-z]{1,40}|queue/data|app_id)"
)  # what is read; `Guard` itself answers what is written
LONGEST_PATH = 2000
PROGRESS = "/gradio_api/upload_progress"  # is not told
HEARTBEAT, FILE = "/gradio_api/heartbeat/", "/gradio_api/file="
UPLOAD, JOIN = "/gradio_api/upload", "/gradio_api/queue/join"
BELIEVED = b"""accept accept-encoding accept-language cache-control content-length content-type host
if-modified-since if-none-match origin range user-agent""".split()  # headers; none of proxies
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
FILE_POLICY = "default-src 'none'; sandbox"  # a visitor's file is no page
ADDED = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
MOST_UPLOADED = (MOST_PHOTOS + 1) * MOST_MEGABYTES * 10**6  # bytes of a request
MOST_JOINED = 10**6  # bytes of a request
MOST_FILES = 5 * MOST_PHOTOS  # of a request; those beyond MOST_PHOTOS are counted and left out
BROKEN = "not an upload of this page, or one that broke off"
UPLOAD_TIME = 600  # seconds
CHECK = 4_000_000  # bytes of an upload between two looks at the room
SWEEP = 30  # seconds between two looks for what is left


class Refused(Exception):
    """A request that is refused, with a status and a sentence."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


class NoRoom(OSError):
    """An upload that the disk, or the room of all visitors, cannot take."""


# ---- who asks ----------------------------------------------------------------------------------
def plain_host(host: str) -> str:
    """Return the name or address of a Host header, without its port, as Python writes it."""
    host = host.strip().lower()
    name = host[1:].partition("]")[0] if host.startswith("[") else host
    if name.count(":") == 1:
        name = name.partition(":")[0]
    name = name.rstrip(".")
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(name)
        return str(getattr(address, "ipv4_mapped", None) or address)
    return name


def check_sender(scope: Scope, headers: Headers, names: Iterable[str]) -> None:
    """Raise Refused unless a request was sent by the page itself, or by the address bar.

    A request may name the address that it came to, which no foreign name can lead to.
    """
    host, origin = headers.get("host", ""), headers.get("origin")
    here = plain_host((scope.get("server") or ("", 0))[0])
    known = {here, *names} | (LOOPBACK if here in LOOPBACK else set())
    if len(headers.getlist("host")) != 1 or plain_host(host) not in known:
        raise Refused(421, f"this page is not known as {host[:100]!r}; start it with --names")
    ours = [f"{scheme}://{host.lower()}" for scheme in ("http", "https")]
    foreign = origin is not None and origin.lower() not in ours
    site, mode = headers.get("sec-fetch-site"), headers.get("sec-fetch-mode")
    if foreign or (site in ("cross-site", "same-site") and mode != "navigate"):
        raise Refused(403, "another page sent this request; open this page itself")


# ---- what is asked -----------------------------------------------------------------------------
def check_number(value: Any, low: float, high: float, whole: bool) -> float:
    """Return a number of a request; raise ValueError if it is none, or out of its range."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not low <= value <= high or (whole and value != int(value)):
        kind = "a whole number" if whole else "a number"
        raise ValueError(f"expected {kind} from {low} to {high}, got {value!r:.100}")
    return int(value) if whole else value


def is_upload(path: Path, uploads: Path) -> bool:
    """Tell whether a path is one that `Visitors.store` may have returned."""
    folder = path.parent
    named = re.fullmatch("[0-9a-f]{32}", folder.name) and path.name == safe_name(path.name)
    return bool(named) and folder.parent == uploads


def check_value(component: Any, value: Any, uploads: Path) -> Any:
    """Return the value of one of Gradio's components; raise ValueError if it cannot be that."""
    kind = component.get_block_name()
    if kind == "slider":
        whole = component.step == 1
        return check_number(value, component.minimum, component.maximum, whole)
    if kind == "colorpicker" and isinstance(value, str) and value.isascii():
        return value[:100]
    if kind == "file":
        files = value or []
        paths = [Path(file["path"]) for file in files if isinstance(file["path"], str)]
        # none of an earlier server, which a page that was left open still lists
        paths = [path for path in paths if is_upload(path, uploads)]
        if files and not paths:
            raise ValueError("expected files that were uploaded here; reload the page")
        return [{"path": str(p), "meta": {"_type": "gradio.FileData"}} for p in paths]
    raise ValueError(f"expected a value of a {kind}, got {value!r:.100}")


def check_event(component: Any, event: Any) -> dict[str, Any]:
    """Return where one of Gradio's components was clicked on; raise ValueError if nowhere."""
    index, most = event["index"], 10**6
    if component.get_block_name() == "image":
        if not isinstance(index, list) or len(index) != 2:
            raise ValueError(f"expected x and y, got {index!r:.100}")
        return {"index": [check_number(side, 0, most, False) for side in index], "value": None}
    return {"index": check_number(index, 0, most, True), "value": None}


def check_join(body: bytes, blocks: Any, uploads: Path) -> bytes:
    """Return what a visitor wishes, with nothing in it but what the page's parts take.

    Raise Refused, in a sentence, if it is not what the page sends.
    """
    try:
        wish = json.loads(body)
        session, function = wish["session_hash"], blocks.fns[wish["fn_index"]]
        if function.fn is None:
            raise ValueError("fn_index: that is for the browser")
        if not re.fullmatch("[0-9a-z]{1,40}", session):
            raise ValueError("session_hash: expected letters and digits")
        data, inputs = wish["data"], function.inputs
        if len(data) != len(inputs):
            raise ValueError(f"expected {len(inputs)} values, got {len(data)}")
        kept = {"session_hash": session, "fn_index": function._id, "event_data": None}
        kept["data"] = [check_value(c, v, uploads) for c, v in zip(inputs, data, strict=True)]
        kept["trigger_id"] = target = wish.get("trigger_id")
        if target is not None and target not in blocks.blocks:
            raise ValueError("trigger_id: expected a part of the page")
        if any(event == "select" for _, event in function.targets):
            if (target, "select") not in function.targets:
                raise ValueError("trigger_id: expected what was clicked on")
            kept["event_data"] = check_event(blocks.blocks[target], wish["event_data"])
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "a part is missing or misplaced"
        raise Refused(400, f"not what this page sends: {reason}") from error
    return json.dumps(kept).encode()


async def read_body(request: Request, most: int) -> bytes:
    """Return the body of a request; raise Refused if it is too large."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise Refused(413, f"a request of more than {most / 1e6:.0f} MB")
    return bytes(body)


# ---- the guard ---------------------------------------------------------------------------------
class Guard:
    """Stand before Gradio's server `app`, of `blocks`; `names` are further ones of this machine."""

    def __init__(self, app: ASGIApp, blocks: Any, visitors: Visitors, names: Iterable[str] = ()):
        self.app, self.blocks, self.visitors = app, blocks, visitors
        self.names = {plain_host(name) for name in names}
        self.sweeper: asyncio.Task | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let Gradio answer it."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close"})
        self.sweeper = self.sweeper or asyncio.create_task(self.sweep())
        path, begun = scope["path"], False

        async def send_guarded(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun, headers = True, MutableHeaders(scope=message)
                headers.update(ADDED)
                policy = FILE_POLICY if path.startswith(FILE) else POLICY
                headers["Content-Security-Policy"] = policy
            await send(message)

        try:
            await self.answer(scope, receive, send_guarded)
        except ClientDisconnect:
            pass
        except Exception as error:  # whatever odd requests lead to
            status, sentence = 500, "this page failed to answer; reload it"
            if isinstance(error, Refused):
                status, sentence = error.status, str(error)
            elif not begun:
                print(f"{scope['method']} {path[:100]!r}: {error!r:.200}", file=sys.stderr)
            if not begun:
                response = JSONResponse({"detail": sentence}, status)
                if path == UPLOAD:  # of which the page shows the text
                    response = PlainTextResponse(sentence, status)
                await response(scope, receive, send_guarded)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; raise Refused if it is refused."""
        headers, path, method = Headers(scope=scope), scope["path"], scope["method"]
        check_sender(scope, headers, self.names)
        scope["headers"] = [(name, value) for name, value in scope["headers"] if name in BELIEVED]
        request = Request(scope, receive)
        if method == "POST" and path == UPLOAD:
            response = await self.upload(request)
            return await response(scope, receive, send)
        if method == "POST" and path == JOIN:
            return await self.join(request, send)
        if method == "GET" and path == PROGRESS:
            response = Response('data: {"msg": "done"}\n\n', media_type="text/event-stream")
            return await response(scope, receive, send)
        known = method in ("GET", "HEAD") and READ.fullmatch(path) and len(path) <= LONGEST_PATH
        if not known:
            raise Refused(404, "this page has nothing there")
        if not path.startswith(HEARTBEAT):
            return await self.app(scope, receive, send)
        session = path.removeprefix(HEARTBEAT)
        self.visitors.enter(session)
        try:
            return await self.app(scope, receive, send)
        finally:
            self.visitors.leave(session)

    async def join(self, request: Request, send: Send) -> None:
        """Let Gradio answer what a visitor wishes."""
        body = check_join(await read_body(request, MOST_JOINED), self.blocks, self.visitors.uploads)
        headers = MutableHeaders(scope=request.scope)
        headers["content-length"], headers["content-type"] = str(len(body)), "application/json"
        first = True

        async def receive() -> Message:
            nonlocal first
            if first:
                first = False
                return {"type": "http.request", "body": body, "more_body": False}
            return await request.receive()

        await self.app(request.scope, receive, send)

    async def upload(self, request: Request) -> Response:
        """Store a visitor's files; return their paths. What is broken off is on no disk."""
        size = request.headers.get("content-length", "")
        if not size.isdecimal() or int(size) > MOST_UPLOADED:
            raise Refused(413, f"at most {LIMIT} can be uploaded at a time")
        arrived, paths = 0, []

        async def receive() -> Message:
            nonlocal arrived
            message = await request.receive()
            before, arrived = arrived, arrived + len(message.get("body", b""))
            self.visitors.arriving += 2 * (arrived - before)
            if arrived > MOST_UPLOADED:  # whatever it said
                raise Refused(413, f"at most {LIMIT} can be uploaded at a time")
            if arrived // CHECK > before // CHECK:
                self.visitors.check_room()
            return message

        try:
            async with asyncio.timeout(UPLOAD_TIME):
                with explain_failures(NoRoom):
                    self.visitors.check_room(2 * int(size))
                    await self.store(Request(request.scope, receive), paths)
            if not paths:
                raise Refused(400, BROKEN)
        except Exception as error:
            self.visitors.drop(paths)
            if isinstance(error, (MultiPartException, AttributeError, KeyError, TimeoutError)):
                raise Refused(400, BROKEN) from error
            if isinstance(error, NoRoom):
                raise Refused(507, str(error)) from error
            raise
        finally:
            self.visitors.arriving -= 2 * arrived
        return JSONResponse(paths)

    async def store(self, request: Request, paths: list[str]) -> None:
        """Store the files of a form; add their paths to a list."""
        async with request.form(max_files=MOST_FILES, max_fields=1) as form:
            for file in form.getlist("files"):
                stored = self.visitors.store, file.filename, file.file, file.size
                paths.append(str(await run_in_threadpool(*stored)))

    async def sweep(self) -> None:
        """Forget who has left, again and again."""
        while True:
            await asyncio.sleep(SWEEP)
            with contextlib.suppress(OSError):
                self.visitors.sweep()
