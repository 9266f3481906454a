"""What an embedder is, what identifies its vectors, and how it likes to be fed."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from data_pipeline.embeddings.tokens import Tokens
from data_pipeline.types import Float32Array, IntArray
from data_pipeline.utils import sha256_of_json


@dataclass(frozen=True, slots=True)
class Identity:
    """Identity of an embedder: everything that decides which vector a text gets. See `embeddings.identity`."""

    model: str
    revision: str
    """Commit of the hub, version of a package, or hash of a folder's weights."""
    pooling: str
    normalized: bool
    dtype: str
    """Precision of the arithmetic."""
    dim: int
    max_length: int
    prompt: str
    """Prefix of every document."""
    tokenizer: str
    """SHA-256 of the tokenizer's description."""
    task: str = ""
    """Adapter of the model, if it has several."""

    def to_metadata(self) -> dict[str, str]:
        """For a safetensors header, whose values are strings."""
        fields = asdict(self) | {"normalized": str(self.normalized).lower()}
        # A task only where there is one: files that were written before there were any must stay equal.
        return {name: str(value) for name, value in fields.items() if name != "task" or value}


@dataclass(frozen=True, slots=True)
class Cost:
    """Floating-point operations of a text: `linear` a token, and `quadratic` a token squared."""

    linear: float = 0.0
    quadratic: float = 0.0

    def flops(self, lengths: IntArray) -> NDArray[np.float64]:
        """Floating-point operations of each text, shape (N,), for its number of tokens."""
        return self.linear * lengths + self.quadratic * np.square(lengths, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Runtime:
    """How an embedder runs, for planning and for the metadata of files."""

    attention: str
    """Attention implementation; recorded with the vectors."""
    padded: bool = False
    """Texts of a pack are padded to the longest, and the padding is computed too."""
    row_multiple: int = 1
    """Packs that are not padded are filled up to a multiple of so many tokens."""
    batch_dependent: bool = False
    """Whether the last bits of a vector depend on the other texts of its pack."""
    in_flight: int = 1
    """Packs in flight at once, each in a thread of its own."""
    batch_tokens: int = 16_384
    """Tokens of a pack, where the user names none."""
    tunable_threads: bool = False
    """Runs on the threads of torch, whose number may be chosen by measurement."""
    cost: Cost = Cost()
    trial_flops: float = 2e11
    """Floating-point operations of a pack that is computed to measure the machine's speed."""

    def computed_tokens(self, lengths: IntArray) -> int:
        """Tokens that are computed for a pack of texts of these lengths, longest first."""
        if self.padded:
            return len(lengths) * int(lengths[0])
        return -(-int(lengths.sum()) // self.row_multiple) * self.row_multiple


class Embedder(Protocol):
    """Turns texts into vectors. Implement these six names to bring your own."""

    identity: Identity
    query_prompt: str
    """Prefix of every query."""
    runtime: Runtime

    @property
    def tokenizer(self) -> Tokenizer:
        """Counts tokens for the filters."""

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Token ids as the model wants them; prompts are already in the texts."""

    def forward(self, texts: Tokens, dtype: str | None = None) -> Float32Array:
        """Pooled vectors, before any cut or normalisation.

        Args:
            texts: the texts of one pack, longest first.
            dtype: run in this precision instead of the embedder's own.

        Returns:
            Shape (N, full width), in input order; may hold non-finite values.

        Raises:
            OutOfMemoryError: the pack is too large for the device.
        """


def tokenizer_sha256(tokenizer: Tokenizer) -> str:
    """SHA-256 of a tokenizer's description, the same however its file was laid out."""
    return sha256_of_json(json.loads(tokenizer.to_str()))
