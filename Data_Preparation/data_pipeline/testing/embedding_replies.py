"""Replies of the scripted server to requests for embeddings: vectors of a simulated model, faults and quirks."""

import base64
import hashlib
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

EmbeddingFault = Literal[
    "too_few_vectors", "too_many_vectors", "repeated_index", "index_out_of_range", "other_width", "two_widths",
    "not_finite", "null_in_vector", "zeros", "text_in_vector", "bad_base64", "no_data", "other_model",
]  # fmt: skip
"""Faults of one reply with embeddings, besides those of `Fault`."""

EMBEDDING_FAULTS: tuple[EmbeddingFault, ...] = get_args(EmbeddingFault)

EmbeddingQuirk = Literal[
    "shuffled", "base64_ignored", "base64_refused", "dimensions_ignored", "dimensions_refused", "no_usage", "no_model",
    "few_texts", "short_texts", "noisy", "half_precision_noise",
]  # fmt: skip
"""Differences from OpenAI's API of embeddings. shuffled: vectors in another order, with the right `index`; few_texts:
at most 8 texts in a request; short_texts: at most 2000 characters in a text; noisy: another last bit in each reply."""

EMBEDDING_QUIRKS: tuple[EmbeddingQuirk, ...] = get_args(EmbeddingQuirk)

Vectors: TypeAlias = NDArray[np.float32]
Embed: TypeAlias = Callable[[Sequence[str]], Vectors]
"""Takes texts, and returns their vectors, shape (N, D)."""

_DIM = 64
_MAX_TEXTS, _MAX_CHARS = 8, 2000
_NOISE: Mapping[str, float] = {"noisy": 1e-6, "half_precision_noise": 2e-3}


def simulated_vectors(texts: Sequence[str], model: str = "tiny-embedder") -> Vectors:
    """Vectors of a simulated model, shape (N, 64): the sum of a random vector for each word.

    Args:
        texts: documents or queries.
        model: another name is another model.
    """
    sums = [sum((_word_vector(word, model) for word in text.split()), _word_vector("", model)) for text in texts]
    return np.array(sums, np.float32).reshape(len(texts), _DIM)


def embedding_refusal(quirks: Sequence[str], body: Mapping[str, Any]) -> tuple[int, dict[str, Any]] | None:
    """HTTP status and body of the refusal of a request by the given quirks; None if all accept it."""
    texts = texts_of(body)
    if "dimensions_refused" in quirks and ("dimensions" in body or "output_dimension" in body):
        return _error(400, "This model does not support specifying dimensions.")
    if "base64_refused" in quirks and body.get("encoding_format") == "base64":
        return _error(422, "encoding_format: only float is supported")
    if "few_texts" in quirks and len(texts) > _MAX_TEXTS:
        return _error(413, f"batch size {len(texts)} > maximum allowed batch size {_MAX_TEXTS}")
    if "short_texts" in quirks and any(len(text) > _MAX_CHARS for text in texts):
        return _error(400, f"This model's maximum context length is {_MAX_CHARS} characters.")
    if not all(texts):
        return _error(400, "input cannot be an empty string")
    return None


def embedding_reply(
    body: Mapping[str, Any], embed: Embed, model: str, number: int, fault: str | None, quirks: Sequence[str]
) -> dict[str, Any]:
    """Body of a reply, in OpenAI's form, or in Cohere's for a request in that form.

    Args:
        body: body of the request.
        embed: gives the vectors.
        model: name of the model.
        number: number of the request.
        fault: fault of the reply; None for none.
        quirks: quirks of the server; those it does not know are ignored.
    """
    texts = texts_of(body)
    vectors = np.array(embed(texts), np.float32)
    for quirk in quirks:
        if quirk in _NOISE:
            noise = np.random.default_rng(number).standard_normal(vectors.shape)
            vectors = (vectors * (1 + _NOISE[quirk] * noise)).astype(np.float32)
    dim = body.get("dimensions") or body.get("output_dimension")
    if dim and "dimensions_ignored" not in quirks:
        vectors = vectors[:, :dim]
    vectors = _spoil(vectors, fault)
    tokens = sum(len(text.encode()) // 4 + 1 for text in texts)
    if "texts" in body:
        return {"embeddings": {"float": _as_lists(vectors)}, "meta": {"billed_units": {"input_tokens": tokens}}}
    as_base64 = body.get("encoding_format") == "base64" and "base64_ignored" not in quirks
    items = [_as_base64(vector) for vector in vectors] if as_base64 else _as_lists(vectors)
    data = [{"object": "embedding", "index": index, "embedding": item} for index, item in enumerate(items)]
    _spoil_items(data, fault)
    if "shuffled" in quirks:
        data = data[::2][::-1] + data[1::2]
    reply: dict[str, Any] = {
        "object": "list",
        "data": data,
        "model": "another-model" if fault == "other_model" else model,
    }
    reply["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
    for quirk, name in (("no_usage", "usage"), ("no_model", "model")):
        if quirk in quirks:
            del reply[name]
    return {"object": "list"} if fault == "no_data" else reply


def texts_of(body: Mapping[str, Any]) -> list[str]:
    """Texts of a request in OpenAI's, Voyage's or Cohere's form."""
    texts = body["texts"] if "texts" in body else body["input"]
    return [texts] if isinstance(texts, str) else list(texts)


def _spoil(vectors: Vectors, fault: str | None) -> Vectors:
    if fault == "other_width":
        return vectors[:, :-1]
    if fault in {"not_finite", "null_in_vector"}:
        vectors[0, 0] = np.nan
    if fault == "zeros":
        vectors[0] = 0
    return vectors


def _spoil_items(data: list[dict[str, Any]], fault: str | None) -> None:
    """Change the vectors of a reply in place."""
    last = data[-1]
    if fault == "too_few_vectors":
        data.pop()
    elif fault == "too_many_vectors":
        data.append({**last, "index": len(data)})
    elif fault == "repeated_index":
        last["index"] = 0 if len(data) > 1 else 1
    elif fault == "index_out_of_range":
        last["index"] = len(data)
    elif fault == "two_widths":
        last["embedding"] = [0.5]
        data[0]["embedding"] = data[0]["embedding"] if len(data) > 1 else [0.5, 0.5]
    elif fault == "text_in_vector":
        last["embedding"] = ["0.5", True]
    elif fault == "bad_base64":
        last["embedding"] = "not base64"


def _error(status: int, message: str) -> tuple[int, dict[str, Any]]:
    return status, {"error": {"message": message, "type": "invalid_request_error", "code": None}}


def _as_base64(vector: Vectors) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _as_lists(vectors: Vectors) -> list[list[float | None]]:
    """Lists as servers write them, with null for what JSON has no number for."""
    return [[value if np.isfinite(value) else None for value in vector] for vector in vectors.tolist()]


@lru_cache(maxsize=65_536)
def _word_vector(word: str, model: str) -> NDArray[np.float64]:
    digest = hashlib.shake_256(f"{model}\0{word}".encode()).digest(2 * _DIM)
    return np.array(struct.unpack(f"<{_DIM}h", digest), np.float64) / 2**15
