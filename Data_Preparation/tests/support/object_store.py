"""Servers of files on this machine: S3 (moto), and HTTP with the faults of a bad network."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import fsspec

KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}


@contextmanager
def s3_server() -> Iterator[str]:
    """Run a real S3 server in a process of its own; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **KEYS}
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{url}/moto-api/", timeout=5).close()  # noqa: S310
                break
            except OSError:
                assert process.poll() is None, "the S3 server ended"
                time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()


@contextmanager
def s3_at(url: str) -> Iterator[Any]:
    """Let s3:// mean the server at an address; gives its file system."""
    before = dict(os.environ)
    os.environ.update(KEYS, AWS_ENDPOINT_URL=url)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    try:
        yield fsspec.filesystem("s3", skip_instance_cache=True)
    finally:
        os.environ.clear()
        os.environ.update(before)
        fsspec.get_filesystem_class("s3").clear_instance_cache()


class FileServer(ThreadingHTTPServer):
    """HTTP server of the files in `files`, by path."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.statuses: dict[str, list[int]] = {}
        """Statuses of the next answers to GET for a path, before it is served."""
        self.cut_answers = 0
        """Number of the next answers that end in their middle."""
        self.has_ranges = True
        self.etag = '"1"'
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def file_server() -> Iterator[FileServer]:
    """Run an HTTP server of files in a thread."""
    server = FileServer()
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        self.server.requests.append(f"{self.command} {self.headers.get('Range', '')}")
        planned = self.server.statuses.get(path)
        if planned:
            self.send_error(planned.pop(0) if with_body or len(planned) > 1 else planned[0])
            return
        if path not in self.server.files:
            self.send_error(404)
            return
        content = body = self.server.files[path]
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted and self.server.has_ranges:
            start, stop = int(wanted[1]), int(wanted[2] or len(content) - 1) + 1
            body = content[start:stop]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "text/html" if path.endswith(".html") else "application/octet-stream")
        if self.server.etag:
            self.send_header("ETag", self.server.etag)
        self.end_headers()
        if not with_body:
            return
        if self.server.cut_answers and len(body) > 1000:
            self.server.cut_answers -= 1
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        del format, args
