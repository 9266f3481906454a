"""A bad network before an S3 server: requests that fail, hang, end in their middle, or whose answer gets lost."""

import http.client
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

_CONTENTS = re.compile(rb"<Contents>.*?</Contents>", re.DOTALL)


@dataclass
class Faults:
    """Shares of the requests that have a fault, 0 to 1, and what happened."""

    error: float = 0.0
    """Answered with 500, 503 or 429 without reaching the server."""
    lost: float = 0.0
    """Done by the server, whose answer is never sent."""
    cut: float = 0.0
    """Answered with half of the body."""
    slow: float = 0.0
    """Answered after a while."""
    shuffled: bool = False
    """Whether listings are in any order."""
    seen: Counter[str] = field(default_factory=Counter)
    """Number of requests with each fault."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, upstream: str, faults: Faults, seed: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.host, self.faults = urlsplit(upstream).netloc, faults
        self._random, self._lock = random.Random(seed), threading.Lock()

    def drawn(self) -> str:
        """The fault of the next request; empty for none."""
        with self._lock:
            number = self._random.random()
            for name in ("error", "lost", "cut", "slow"):
                share = getattr(self.faults, name)
                if number < share:
                    self.faults.seen[name] += 1
                    return name
                number -= share
            return ""

    def shuffled(self, body: bytes) -> bytes:
        entries = _CONTENTS.findall(body)
        with self._lock:
            self._random.shuffle(entries)
        replaced = iter(entries)
        return _CONTENTS.sub(lambda match: next(replaced), body)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.drawn()
        if fault == "error":
            self._answer(503, [], b"")
            return
        if fault == "slow":
            time.sleep(0.2)
        connection = http.client.HTTPConnection(self.server.host, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in {"host", "expect"}}
        connection.request(self.command, self.path, body, {**headers, "Host": self.server.host})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if fault == "lost":
            self.close_connection = True
            return
        if self.server.faults.shuffled and "list-type" in self.path:
            content = self.server.shuffled(content)
        kept = [
            (name, value)
            for name, value in answer.getheaders()
            if name.lower() not in {"connection", "transfer-encoding"}
        ]
        self._answer(answer.status, kept, content, is_cut=fault == "cut" and len(content) > 1)

    def __getattr__(self, name: str) -> Any:
        if name in {"do_GET", "do_PUT", "do_POST", "do_DELETE", "do_HEAD"}:
            return self._forward
        raise AttributeError(name)

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, is_cut: bool = False) -> None:
        self.send_response_only(status)
        given = {name.lower() for name, _ in headers}
        for name, value in headers:
            self.send_header(name, value)
        if "content-length" not in given:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if is_cut:
            content, self.close_connection = content[: len(content) // 2], True
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        del format, args


@contextmanager
def bad_network(upstream: str, faults: Faults, seed: int = 0) -> Iterator[str]:
    """Run a server that forwards requests to another one, with faults; gives its address."""
    server = _Server(upstream, faults, seed)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
