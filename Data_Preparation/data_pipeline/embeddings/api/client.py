"""One HTTP call to a server of vectors, and what its failure means for the next."""

import json
import time
import weakref
from dataclasses import dataclass
from typing import Any

from data_pipeline.config.api import ApiConfig
from data_pipeline.embeddings.api.providers import Provider
from data_pipeline.errors import ApiError, RequestRefusedError
from data_pipeline.utils import require
from data_pipeline.utils.keys import read_key, without_key
from data_pipeline.utils.retry import FORBIDDEN, is_retryable, parse_retry_after

_REFUSED = frozenset({400, 413, 422})
"""HTTP statuses about the content or the size of a request."""
_BUDGET_SPENT = {"insufficient_quota", "billing_hard_limit_reached"}
_OK, _NOT_FOUND, _RATE_LIMITED = 200, 404, 429
_MAX_QUOTED_CHARS = 300


@dataclass
class CallFailedError(Exception):
    """A call that failed, and may succeed when it is tried again."""

    reason: str
    is_limited: bool = False
    """Whether the server only asks to slow down."""
    retry_after_s: float | None = None
    """Wait that the server asked for, in seconds."""


class Client:
    """Connections to the server of a config.

    Args:
        config: address, key and timeout.
        model: name of the model, for messages.
        provider: form of the requests.

    Raises:
        ConfigError: the environment variable with the key is not set.
        MissingExtraError: the package httpx2 is not installed.
    """

    def __init__(self, config: ApiConfig, model: str, provider: Provider) -> None:
        self._httpx: Any = require("httpx2", "api", "an embedder behind an API")
        self._config = config
        self._key = read_key(config.api_key_env, "embedding.api.api_key_env", "the embedder")
        address = config.base_url or provider.address
        self._url = address + provider.path
        self.name = f"{address} (model {model})"
        self._client = self._httpx.Client(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=config.timeout_s,
            limits=self._httpx.Limits(max_connections=config.slots, max_keepalive_connections=config.slots),
            follow_redirects=False,
        )
        weakref.finalize(self, self._client.close)

    def post(self, body: dict[str, Any]) -> dict[str, Any]:
        """Send a request, and return the body of its reply.

        Raises:
            CallFailedError: the call failed, and may be tried again.
            RequestRefusedError: the server does not accept this request.
            ApiError: the server accepts no request.
        """
        try:
            status, headers, content = self._send(body)
        except self._httpx.TimeoutException:
            raise CallFailedError(f"no answer within {self._config.timeout_s:g} s") from None
        except self._httpx.HTTPError as error:
            raise CallFailedError(self.clean(f"{type(error).__name__}: {error}")) from None
        text = self.clean(content.decode("utf-8", "replace"))
        if status != _OK:
            raise self._to_error(status, text, headers.get("retry-after"))
        try:
            reply = json.loads(text)
        except ValueError as error:
            raise CallFailedError(f"a reply that is not JSON: {error}") from None
        if not isinstance(reply, dict):
            raise CallFailedError(f"a reply that is not an object: {text[:_MAX_QUOTED_CHARS]}")
        return reply

    def clean(self, text: str) -> str:
        """Remove the key from a text, which servers may repeat."""
        return without_key(text, self._key)

    def _send(self, body: dict[str, Any]) -> tuple[int, Any, bytes]:
        content = json.dumps(body, ensure_ascii=False).encode()
        headers = {"Content-Type": "application/json"}
        # The library's timeout starts anew with every byte that arrives.
        deadline = time.monotonic() + self._config.timeout_s
        parts = []
        with self._client.stream("POST", self._url, content=content, headers=headers) as reply:
            for part in reply.iter_bytes():
                parts.append(part)
                if time.monotonic() > deadline:
                    raise self._httpx.ReadTimeout("the reply does not end")
            return int(reply.status_code), reply.headers, b"".join(parts)

    def _to_error(self, status: int, text: str, retry_after: str | None) -> Exception:
        message, code = _read_error(text)
        reply = f"HTTP {status}: {message}"[:_MAX_QUOTED_CHARS]
        if status in FORBIDDEN or code in _BUDGET_SPENT:
            source = self._config.api_key_env
            key = f"the key in ${source}" if source else "a call without a key (embedding.api.api_key_env is not set)"
            return ApiError(
                f"{self.name} refuses {key}: {reply}. Vectors computed so far are stored. "
                "Check the key, its rights and its budget, then run the same command again."
            )
        if is_retryable(status):
            return CallFailedError(reply, status == _RATE_LIMITED, parse_retry_after(retry_after))
        if status in _REFUSED:
            return RequestRefusedError(reply)
        hint = "the server has no such model, or nothing at this address" if status == _NOT_FOUND else "no usable reply"
        return ApiError(
            f"{self.name}: {hint}: {reply}. Check embedding.api.base_url (most end with /v1) and embedding.model_name."
        )


def _read_error(text: str) -> tuple[str, str]:
    """Message and code of an error's body, in any of the common forms."""
    try:
        body = json.loads(text)
    except ValueError:
        return text.strip(), ""
    error = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(error, dict):
        return str(error), ""
    message = error.get("message") or error.get("detail") or error.get("error") or text
    return str(message), str(error.get("code") or error.get("type") or "")
