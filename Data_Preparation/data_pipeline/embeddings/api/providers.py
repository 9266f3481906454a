"""Requests and replies of the providers: OpenAI's form, which most servers speak, Cohere's and Voyage's.

To add a provider, write two functions and add an entry to `PROVIDERS`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

QUERY_MARK = "\ufdd0"
"""First character of a query, for providers that embed queries in another way. It is a noncharacter of Unicode, which
is in no text, and is removed before a text is sent."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a server is asked for."""

    model: str
    texts: Sequence[str]
    is_query: bool
    base64: bool
    """Whether vectors are wanted as base64 instead of lists of numbers."""
    dim: int | None
    """Dimensions that are asked for; None to leave them to the server."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Fields of a reply, as the server sent them."""

    vectors: Sequence[Any]
    """Vectors in the order of the texts, each a list of numbers or base64."""
    model: str
    """Model that the server names; empty if it names none."""
    tokens: Any
    """Number of tokens that the server counted; None if it does not say."""


@dataclass(frozen=True, slots=True)
class Provider:
    """How a provider is asked for vectors."""

    address: str
    """Address of its API."""
    path: str
    """Path of the embeddings below the address."""
    body: Callable[[Request], dict[str, Any]]
    read: Callable[[Mapping[str, Any], int], Reply]
    """Takes the body of a reply and the number of texts. A wrong structure raises KeyError, TypeError or ValueError."""
    has_queries: bool
    """Whether queries are embedded in another way than documents, as the request says."""
    has_base64: bool


def _openai_body(request: Request) -> dict[str, Any]:
    body = {"model": request.model, "input": list(request.texts)}
    body |= {"encoding_format": "base64"} if request.base64 else {}
    return body | ({} if request.dim is None else {"dimensions": request.dim})


def _voyage_body(request: Request) -> dict[str, Any]:
    body = {"model": request.model, "input": list(request.texts), "truncation": False}
    body |= {"input_type": "query" if request.is_query else "document"}
    body |= {"encoding_format": "base64"} if request.base64 else {}
    return body | ({} if request.dim is None else {"output_dimension": request.dim})


def _cohere_body(request: Request) -> dict[str, Any]:
    body = {"model": request.model, "texts": list(request.texts), "truncate": "NONE", "embedding_types": ["float"]}
    body |= {"input_type": "search_query" if request.is_query else "search_document"}
    return body | ({} if request.dim is None else {"output_dimension": request.dim})


def _read_openai(reply: Mapping[str, Any], texts: int) -> Reply:
    data = reply["data"]
    if len(data) != texts:
        raise ValueError(f"{len(data)} vectors for {texts} texts")
    vectors: list[Any] = [None] * texts
    for position, item in enumerate(data):
        # The standard says that `index` is the position of the text; the order of the list may be another.
        index = item.get("index", position)
        if not isinstance(index, int) or not 0 <= index < texts or vectors[index] is not None:
            raise ValueError(f"the index {index!r} of a vector is not one of 0 to {texts - 1}, each once")
        vectors[index] = item["embedding"]
    usage = reply.get("usage") or {}
    return Reply(vectors, str(reply.get("model") or ""), usage.get("total_tokens", usage.get("prompt_tokens")))


def _read_cohere(reply: Mapping[str, Any], texts: int) -> Reply:
    vectors = reply["embeddings"]["float"]
    if len(vectors) != texts:
        raise ValueError(f"{len(vectors)} vectors for {texts} texts")
    billed = (reply.get("meta") or {}).get("billed_units") or {}
    return Reply(vectors, "", billed.get("input_tokens"))


PROVIDERS: Mapping[str, Provider] = {
    "openai": Provider("https://api.openai.com/v1", "/embeddings", _openai_body, _read_openai, False, True),
    "cohere": Provider("https://api.cohere.com/v2", "/embed", _cohere_body, _read_cohere, True, False),
    "voyage": Provider("https://api.voyageai.com/v1", "/embeddings", _voyage_body, _read_openai, True, True),
}
"""Providers by the name in `embedding.api.provider`."""
