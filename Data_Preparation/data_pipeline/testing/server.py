"""Local OpenAI-compatible server with scripted faults and quirks."""

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from data_pipeline.judge.prompts import split_instructions
from data_pipeline.testing.embedding_replies import (
    Embed,
    EmbeddingFault,
    EmbeddingQuirk,
    embedding_refusal,
    embedding_reply,
    simulated_vectors,
    texts_of,
)
from data_pipeline.testing.judging import simulated_answer
from data_pipeline.testing.quirks import Quirk, change_reply, logprobs_of, refusal_of
from data_pipeline.testing.server_state import (
    FAULTS,
    STATUS,
    Answer,
    EmbeddingRequest,
    Fault,
    JudgeServer,
    Request,
    When,
)


@contextmanager
def misbehaving_server(
    faults: Sequence[tuple[When, Fault | EmbeddingFault]] = (),
    *,
    answer: Answer = simulated_answer,
    embed: Embed = simulated_vectors,
    latency_s: float = 0.0,
    logprobs: bool = True,
    model: str = "tiny-judge",
    api_key: str | None = None,
    retry_after_s: float = 0.0,
    quirks: Sequence[Quirk | EmbeddingQuirk] = (),
) -> Iterator[JudgeServer]:
    """Run a server with OpenAI's APIs of chat completions and embeddings that fails as scripted.

        with misbehaving_server([(range(3, 6), "500"), (9, "hang")]) as server:
            config = JudgeConfig(base_url=server.base_url, model="tiny-judge")

    Args:
        faults: requests and their faults; the first that applies is used. Request 0 of a judge or an embedder is its
            probe; chat requests and those for embeddings are numbered apart.
        answer: gives the text of a reply without a fault; must depend on its arguments alone.
        embed: gives the vectors of a request for embeddings without a fault.
        latency_s: latency of each reply, in seconds.
        logprobs: return log-probabilities if they are requested; False ignores the request, as some servers do.
        model: name of the model.
        api_key: the required key; None for no key. Error messages repeat a wrong key, as bad servers do.
        retry_after_s: Retry-After of 429 and 503, in seconds; dates have whole seconds.
        quirks: differences from OpenAI's API, in every reply; see `quirks` and `embedding_replies`.

    Yields:
        State of the server.
    """
    http = _Server(("127.0.0.1", 0), _Handler)
    http.state = JudgeServer(base_url=f"http://127.0.0.1:{http.server_port}/v1", embed=embed)
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
    faults: list[tuple[When, Fault | EmbeddingFault]]
    answer: Answer
    latency_s: float
    logprobs: bool
    model: str
    api_key: str | None
    retry_after_s: float
    quirks: list[Quirk | EmbeddingQuirk]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.active = 0

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect."""

    def admit(self, body: dict[str, Any]) -> Request:
        """Record a request, and find its fault."""
        system, user = split_instructions(
            [{**message, "content": str(message["content"])} for message in body["messages"]]
        )
        with self.lock:
            number = len(self.state.requests)
            request = Request(number, system, user, body, self._fault_of(number, user), time.monotonic())
            self.state.requests.append(request)
        return request

    def admit_embedding(self, body: dict[str, Any]) -> EmbeddingRequest:
        """Record a request for embeddings, and find its fault."""
        texts = texts_of(body)
        with self.lock:
            number = len(self.state.embedding_requests)
            fault = self._fault_of(number, "\n".join(texts))
            request = EmbeddingRequest(number, texts, body, fault, time.monotonic())
            self.state.embedding_requests.append(request)
        return request

    def _fault_of(self, number: int, text: str) -> Any:
        return next((fault for when, fault in self.faults if _applies(when, number, text)), None)


def _applies(when: When, number: int, user: str) -> bool:
    if isinstance(when, int):
        return number == when
    return number in when if isinstance(when, range) else when(number, user)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body are two writes; the kernel would delay the second by 40 ms.
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, *arguments: Any) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        """Reply with the list of models."""
        listed = {"object": "list", "data": [{"id": self.server.model, "object": "model"}]}
        self._send(200, json.dumps(listed))

    def do_POST(self) -> None:
        """Reply with a chat completion or embeddings."""
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        is_embedding = self.path.endswith(("/embeddings", "/embed"))
        if not (is_embedding or self.path.endswith("/chat/completions")):
            return self._send(404, json.dumps({"error": {"message": f"no such path: {self.path}"}}))
        if not self._is_authorized():
            return None
        with self.server.lock:
            self.server.active += 1
            self.server.state.most_at_once = max(self.server.state.most_at_once, self.server.active)
        try:
            request = (self.server.admit_embedding if is_embedding else self.server.admit)(json.loads(content))
            self.server.closing.wait(self.server.latency_s)
            if request.fault in FAULTS:
                return self._send_fault(request)
            quirks = self.server.quirks
            refusal = (embedding_refusal if is_embedding else refusal_of)(quirks, request.body)
            if refusal is not None:
                return self._send(refusal[0], json.dumps(refusal[1]))
            return self._send(200, json.dumps(self._reply(request)))
        finally:
            with self.server.lock:
                self.server.active -= 1

    def _is_authorized(self) -> bool:
        required, given = self.server.api_key, self.headers.get("Authorization", "").removeprefix("Bearer ")
        if required is not None and given != required:
            message = f"Incorrect API key provided: {given}"
            self._send(401, json.dumps({"error": {"message": message, "code": "invalid_api_key"}}))
            return False
        self.server.state.with_key += required is not None
        return True

    def _send(self, status: int, body: str, kind: str = "application/json", **headers: str) -> None:
        content = body.encode("utf-8", "backslashreplace")
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def _send_fault(self, request: Request | EmbeddingRequest) -> None:
        fault: Any = request.fault
        if fault in STATUS:
            return self._send_error(fault)
        if fault in {"hang", "trickle", "reset"}:
            return self._drop_connection(fault)
        reply = json.dumps(self._corrupt(fault, self._reply(request)))
        bodies = {
            "truncated": reply[: len(reply) // 2],
            "garbage": "\x00\x01YES" * 20,
            "html": "<html><body>YES, gateway</body></html>",
            "not_an_object": '["YES"]',
        }
        return self._send(200, bodies.get(fault, reply), "text/html" if fault == "html" else "application/json")

    def _drop_connection(self, fault: Fault) -> None:
        self.close_connection = True
        if fault == "hang":
            self.server.closing.wait()
        elif fault == "reset":
            # With this option, close sends RST instead of FIN.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        else:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            while not self.server.closing.wait(0.05):
                self.wfile.write(b" ")

    def _send_error(self, fault: Fault) -> None:
        status, code = STATUS[fault]
        given = self.headers.get("Authorization", "")
        # A hostile message, with a label and the key.
        error = {"error": {"message": f"{code} for {given}: YES 3", "code": code, "type": code}}
        headers = {}
        if fault == "429_date":
            retry_at = datetime.now(UTC) + timedelta(seconds=self.server.retry_after_s)
            headers = {"Retry_After": format_datetime(retry_at, usegmt=True)}
        elif fault in {"429", "503"}:
            headers = {"Retry_After": f"{self.server.retry_after_s:g}"}
        self._send(status, json.dumps(error), **headers)

    def _corrupt(self, fault: Fault, reply: dict[str, Any]) -> dict[str, Any]:
        if "choices" not in reply:
            return reply
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

    def _reply(self, request: Request | EmbeddingRequest) -> dict[str, Any]:
        if isinstance(request, EmbeddingRequest):
            server = self.server
            return embedding_reply(
                request.body, server.state.embed, server.model, request.number, request.fault, server.quirks
            )
        text = self.server.answer(request.system, request.user)
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length", "logprobs": None}
        choice["message"] = {"role": "assistant", "content": text}
        if self.server.logprobs and request.body.get("logprobs"):
            others = ("NO", "YES") if "YES" in request.system else ("0", "1", "2", "3")
            rest = [label for label in others if label != text]
            # The answer in two spellings, a small share for every other label, and a small share for no label.
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
