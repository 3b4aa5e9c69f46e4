"""A visitor of app.py's page without a browser: it sends what the page's own script would."""

import http.client
import json
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CONFIG = re.compile(r"window\.gradio_config = (\{.*?\});\s*</script>", re.DOTALL)


def serve(checkpoint: Path, *options: Any) -> tuple[subprocess.Popen, int]:
    """Start app.py on a free port, and wait until it answers; return its process and port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "app.py", "--checkpoint", checkpoint, "--port", port, *options]
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        list(map(str, command)), cwd=ROOT, stdout=pipe, stderr=pipe, text=True
    )
    for _ in range(600):
        try:
            ask(port, "GET", "/")
        except OSError as error:
            if process.poll() is not None:
                raise RuntimeError(process.stderr.read()) from error
            time.sleep(0.1)
        else:
            return process, port
    raise RuntimeError("no page within a minute")


def ask(
    port: int, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, bytes, http.client.HTTPMessage]:
    """Send a request to 127.0.0.1; return the status, the body and the headers of the answer.

    `headers` have _ where HTTP has -.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


def form(*files: Path) -> tuple[bytes, str]:
    """Return a form with files, and its type."""
    border = "border" + secrets.token_hex(8)
    parts = []
    for file in files:
        name = f'Content-Disposition: form-data; name="files"; filename="{file.name}"'
        parts.append(f"--{border}\r\n{name}\r\n\r\n".encode() + file.read_bytes() + b"\r\n")
    return b"".join(parts) + f"--{border}--\r\n".encode(), f"multipart/form-data; boundary={border}"


class Visitor:
    """One who has opened the page, but sends no heartbeat."""

    def __init__(self, port: int):
        self.port, self.session = port, secrets.token_hex(5)
        page = CONFIG.search(ask(port, "GET", "/")[1].decode())
        self.config = json.loads(page[1])
        self.settings = [
            part["props"]["value"] for part in self.config["components"] if part["type"] == "slider"
        ]

    def function(self, part: str, event: str) -> tuple[int, int]:
        """Return the number of the function that an event of a part calls, and of the part."""
        for found in self.config["components"]:
            if found["props"].get("elem_id") == part:
                for function in self.config["dependencies"]:
                    if [found["id"], event] in map(list, function["targets"]):
                        return function["id"], found["id"]
        raise KeyError(f"{part}.{event}")

    def upload(self, *files: Path) -> list[dict[str, Any]]:
        """Upload photographs; return them as the page's script lists them."""
        body, kind = form(*files)
        status, answer, _ = ask(self.port, "POST", "/gradio_api/upload", body, content_type=kind)
        if status != 200:
            raise OSError(f"{status}: {answer.decode()}")
        return [
            {"path": path, "meta": {"_type": "gradio.FileData"}, "orig_name": Path(path).name}
            for path in json.loads(answer)
        ]

    def join(
        self, part: str, event: str, data: list[Any], index: Any = None, **more: Any
    ) -> tuple[int, Any]:
        """Wish what an event of a part wishes; return the status and the answer."""
        function, target = self.function(part, event)
        event_data = None if index is None else {"index": index, "value": None}
        wish = {"data": data, "fn_index": function, "trigger_id": target, "event_data": event_data}
        body = json.dumps(wish | {"session_hash": self.session} | more).encode()
        status, answer, _ = ask(
            self.port, "POST", "/gradio_api/queue/join", body, content_type="application/json"
        )
        return status, json.loads(answer)

    def answers(self, number: int = 1) -> list[dict[str, Any]]:
        """Wait for answers to so many wishes, in the order in which they come."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", f"/gradio_api/queue/data?session_hash={self.session}")
        stream, found = connection.getresponse(), []
        while len(found) < number:
            line = stream.readline()
            if not line:
                raise OSError("the page sends no more answers")
            if line.startswith(b"data:"):
                message = json.loads(line[5:])
                if message["msg"] == "process_completed":
                    found.append(message)
        connection.close()
        return found

    def do(self, part: str, event: str, data: list[Any], index: Any = None) -> dict[str, Any]:
        """Wish something; return the answer once it is there. Raise ValueError if it is refused."""
        status, answer = self.join(part, event, data, index)
        if status != 200:
            raise ValueError(f"{status}: {answer['detail']}")
        (message,) = self.answers()
        if not message["success"]:
            raise ValueError(message["output"]["error"])
        return message["output"]

    def fetch(self, file: dict[str, Any]) -> bytes:
        """Return the bytes of a file that an answer names."""
        return ask(self.port, "GET", f"/gradio_api/file={urllib.parse.quote(file['path'])}")[1]
