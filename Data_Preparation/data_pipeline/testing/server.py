"""A local OpenAI-compatible server with scripted faults and quirks."""

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, get_args

from data_pipeline.judge.prompts import split_instructions
from data_pipeline.testing.judging import simulated_answer
from data_pipeline.testing.quirks import Quirk, change_reply, logprobs_of, refusal_of

Fault = Literal[
    "429", "429_date", "500", "503", "400", "401", "402", "403", "404", "422", "context_length", "content_filter",
    "quota", "hang", "trickle", "truncated", "garbage", "html", "not_an_object", "empty_choices", "null_content",
    "chatter", "wrong_model", "refusal", "reset", "no_logprobs", "bad_logprobs", "outside_labels",
]  # fmt: skip
"""What can go wrong with one reply. A number is an HTTP status; 429 and 503 come with Retry-After in seconds, 429_date
with a date. hang: no reply; trickle: one byte at a time, without end; truncated: half of it; reset: the connection is
torn down; chatter: more than a label."""

FAULTS: tuple[Fault, ...] = get_args(Fault)

When = int | range | Callable[[int, str], bool]
"""Number of a chat request, counted from 0; a range of them; or a function of number and the user's message."""

Answer = Callable[[str, str], str]
"""(system prompt, user's message) -> the reply's text."""

_STATUS: dict[Fault, tuple[int, str]] = {
    "429": (429, "rate_limit_exceeded"),
    "429_date": (429, "rate_limit_exceeded"),
    "500": (500, "server_error"),
    "503": (503, "overloaded"),
    "400": (400, "invalid_request"),
    "401": (401, "invalid_api_key"),
    "402": (402, "insufficient_balance"),
    "403": (403, "permission_denied"),
    "404": (404, "not_found"),
    "422": (422, "unprocessable"),
    "context_length": (400, "context_length_exceeded"),
    "content_filter": (400, "content_filter"),
    "quota": (429, "insufficient_quota"),
}


@dataclass(frozen=True, slots=True)
class Request:
    """One chat request, without its headers."""

    number: int
    """Counted from 0."""
    system: str
    user: str
    body: dict[str, Any]
    """The body of the request."""
    fault: Fault | None
    """The fault of the reply."""
    at_s: float
    """Time of arrival in seconds of `time.monotonic`."""


@dataclass
class JudgeServer:
    """A running server."""

    base_url: str = ""
    requests: list[Request] = field(default_factory=list)
    """All chat requests, in the order in which they came. Keys are not in them."""
    with_key: int = 0
    """Number of requests with the right key."""
    most_at_once: int = 0
    """Maximum number of requests at the same time."""

    @property
    def users(self) -> list[str]:
        """The user's message of every request."""
        return [request.user for request in self.requests]


@contextmanager
def misbehaving_server(
    faults: Sequence[tuple[When, Fault]] = (),
    *,
    answer: Answer = simulated_answer,
    latency_s: float = 0.0,
    logprobs: bool = True,
    model: str = "tiny-judge",
    api_key: str | None = None,
    retry_after_s: float = 0.0,
    quirks: Sequence[Quirk] = (),
) -> Iterator[JudgeServer]:
    """Run a server that speaks OpenAI's chat completions, and breaks as it is told.

        with misbehaving_server([(range(3, 6), "500"), (9, "hang")]) as server:
            config = JudgeConfig(base_url=server.base_url, model="tiny-judge")

    Args:
        faults: when, and what; the first that applies counts. A judge's first request, number 0, is its probe.
        answer: what it says where nothing is broken; must depend on its arguments alone.
        latency_s: how long each reply takes, in seconds.
        logprobs: give probabilities to those who ask; else they are ignored, as some servers do.
        model: what it calls itself.
        api_key: what it asks for; None for nothing. Error messages about a wrong key repeat the key, as bad servers do.
        retry_after_s: what it says with 429 and 503; dates have whole seconds.
        quirks: what it does differently from OpenAI's API, in every reply; see `quirks`.
    """
    http = _Server(("127.0.0.1", 0), _Handler)
    http.state = JudgeServer(base_url=f"http://127.0.0.1:{http.server_port}/v1")
    http.faults, http.answer, http.latency_s, http.logprobs = list(faults), answer, latency_s, logprobs
    http.model, http.api_key, http.retry_after_s, http.quirks = model, api_key, retry_after_s, list(quirks)
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield http.state
    finally:
        http.closing.set()
        http.shutdown()
        http.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256
    state: JudgeServer
    faults: list[tuple[When, Fault]]
    answer: Answer
    latency_s: float
    logprobs: bool
    model: str
    api_key: str | None
    retry_after_s: float
    quirks: list[Quirk]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.now = 0

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect."""

    def admit(self, body: dict[str, Any]) -> Request:
        """Record a request, and find its fault."""
        system, user = split_instructions([{**one, "content": str(one["content"])} for one in body["messages"]])
        with self.lock:
            number = len(self.state.requests)
            fault = next((fault for when, fault in self.faults if _applies(when, number, user)), None)
            request = Request(number, system, user, body, fault, time.monotonic())
            self.state.requests.append(request)
        return request


def _applies(when: When, number: int, user: str) -> bool:
    if isinstance(when, int):
        return number == when
    return number in when if isinstance(when, range) else when(number, user)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body leave in two writes; the kernel would hold the second back for 40 ms.
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, *arguments: Any) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        """The list of models."""
        listed = {"object": "list", "data": [{"id": self.server.model, "object": "model"}]}
        self._send(200, json.dumps(listed))

    def do_POST(self) -> None:
        """A chat completion."""
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self.path.endswith("/chat/completions"):
            return self._send(404, json.dumps({"error": {"message": f"no such path: {self.path}"}}))
        if not self._may_enter():
            return None
        with self.server.lock:
            self.server.now += 1
            self.server.state.most_at_once = max(self.server.state.most_at_once, self.server.now)
        try:
            request = self.server.admit(json.loads(content))
            self.server.closing.wait(self.server.latency_s)
            refusal = refusal_of(self.server.quirks, request.body)
            if request.fault:
                return self._break(request)
            if refusal is not None:
                return self._send(refusal[0], json.dumps(refusal[1]))
            return self._send(200, json.dumps(self._reply(request)))
        finally:
            with self.server.lock:
                self.server.now -= 1

    def _may_enter(self) -> bool:
        wanted, given = self.server.api_key, self.headers.get("Authorization", "").removeprefix("Bearer ")
        if wanted is not None and given != wanted:
            message = f"Incorrect API key provided: {given}"
            self._send(401, json.dumps({"error": {"message": message, "code": "invalid_api_key"}}))
            return False
        self.server.state.with_key += wanted is not None
        return True

    def _send(self, status: int, body: str, kind: str = "application/json", **headers: str) -> None:
        content = body.encode("utf-8", "backslashreplace")
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def _break(self, request: Request) -> None:
        fault = request.fault
        assert fault is not None
        if fault in _STATUS:
            return self._refuse(fault)
        if fault in {"hang", "trickle", "reset"}:
            return self._vanish(fault)
        reply = json.dumps(self._broken(fault, self._reply(request)))
        bodies = {
            "truncated": reply[: len(reply) // 2],
            "garbage": "\x00\x01YES" * 20,
            "html": "<html><body>YES, gateway</body></html>",
            "not_an_object": '["YES"]',
        }
        return self._send(200, bodies.get(fault, reply), "text/html" if fault == "html" else "application/json")

    def _vanish(self, fault: Fault) -> None:
        self.close_connection = True
        if fault == "hang":
            self.server.closing.wait()
        elif fault == "reset":
            # A close that sends RST instead of FIN.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        else:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            while not self.server.closing.wait(0.05):
                self.wfile.write(b" ")

    def _refuse(self, fault: Fault) -> None:
        status, code = _STATUS[fault]
        given = self.headers.get("Authorization", "")
        # Hostile: a label and the key in the message.
        error = {"error": {"message": f"{code} for {given}: YES 3", "code": code, "type": code}}
        headers = {}
        if fault == "429_date":
            when = datetime.now(UTC) + timedelta(seconds=self.server.retry_after_s)
            headers = {"Retry_After": format_datetime(when, usegmt=True)}
        elif fault in {"429", "503"}:
            headers = {"Retry_After": f"{self.server.retry_after_s:g}"}
        self._send(status, json.dumps(error), **headers)

    def _broken(self, fault: Fault, reply: dict[str, Any]) -> dict[str, Any]:
        choice = reply["choices"][0]
        if fault == "empty_choices":
            return reply | {"choices": []}
        if fault == "wrong_model":
            return reply | {"model": "another-model"}
        if fault == "null_content":
            choice["message"]["content"] = None
        elif fault == "refusal":
            choice["message"] |= {"content": None, "refusal": "I will not judge this. YES 3"}
        elif fault == "chatter":
            choice["message"]["content"] = "No. YES would be wrong"
        elif fault == "no_logprobs":
            choice["logprobs"] = None
        elif fault == "bad_logprobs":
            choice["logprobs"] = {"content": [{"top_logprobs": [{"token": "YES", "logprob": "much"}]}]}
        elif fault == "outside_labels":
            choice["message"]["content"] = "Well"
            choice["logprobs"] = logprobs_of({"Well": 0.6, "YES": 0.2, "3": 0.15})
        return reply

    def _reply(self, request: Request) -> dict[str, Any]:
        text = self.server.answer(request.system, request.user)
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length", "logprobs": None}
        choice["message"] = {"role": "assistant", "content": text}
        if self.server.logprobs and request.body.get("logprobs"):
            others = ("NO", "YES") if "YES" in request.system else ("0", "1", "2", "3")
            rest = [label for label in others if label != text]
            # An answer in two spellings, a little for every other label, and a little for none of them.
            shares = {text: 0.7, f" {text.lower()}" if text.isalpha() else f" {text}": 0.1}
            choice["logprobs"] = logprobs_of(shares | {label: 0.15 / len(rest) for label in rest} | {"The": 0.05})
        usage = {"prompt_tokens": len(request.user.split()), "completion_tokens": 1}
        usage["total_tokens"] = sum(usage.values())
        reply = {
            "id": f"chatcmpl-{request.number}",
            "object": "chat.completion",
            "created": 0,
            "model": self.server.model,
            "choices": [choice],
            "usage": usage,
        }
        return change_reply(self.server.quirks, request.body, reply)
