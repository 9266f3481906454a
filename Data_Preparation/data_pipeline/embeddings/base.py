"""What an embedder is, and what identifies its vectors."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tokenizers import Tokenizer

from data_pipeline.types import Float32Array
from data_pipeline.utils import sha256_of_json


@dataclass(frozen=True, slots=True)
class Identity:
    """Everything that decides what vector a text gets; two equal ones can be compared."""

    model: str
    revision: str
    """Commit of the hub, version of a package, or hash of a folder's weights."""
    pooling: str
    normalized: bool
    dtype: str
    """Of the arithmetic."""
    dim: int
    max_length: int
    prompt: str
    """Put before every document."""
    tokenizer: str
    """SHA-256 of its description."""

    def to_metadata(self) -> dict[str, str]:
        """For a safetensors header, whose values are strings."""
        return {
            "model": self.model,
            "revision": self.revision,
            "pooling": self.pooling,
            "normalized": str(self.normalized).lower(),
            "dtype": self.dtype,
            "dim": str(self.dim),
            "max_length": str(self.max_length),
            "prompt": self.prompt,
            "tokenizer": self.tokenizer,
        }


@dataclass(frozen=True, slots=True)
class Tokenized:
    """Token ids of some texts, special tokens included."""

    ids: list[list[int]]
    truncated: list[bool]
    """Which texts were longer than the model's maximum."""


class Embedder(Protocol):
    """Turns texts into vectors. Implement these six names to bring your own."""

    identity: Identity
    query_prompt: str
    """Put before every query."""
    attention: str
    """How attention is computed, for the record."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Counts tokens for the filters."""

    def tokenize(self, texts: Sequence[str]) -> Tokenized:
        """Token ids as the model wants them; prompts are already in the texts."""

    def forward(self, ids: Sequence[Sequence[int]], dtype: str | None = None) -> Float32Array:
        """Pooled vectors, before any cut or normalisation.

        Args:
            ids: token ids of the texts of one batch.
            dtype: run in this precision instead of the embedder's own.

        Returns:
            Shape (N, full width), in input order; may hold non-finite values.

        Raises:
            OutOfMemory: the batch is too large for the device.
        """


def tokenizer_sha256(tokenizer: Tokenizer) -> str:
    """SHA-256 of a tokenizer's description, the same however its file was laid out."""
    return sha256_of_json(json.loads(tokenizer.to_str()))
