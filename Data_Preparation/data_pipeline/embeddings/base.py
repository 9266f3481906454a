"""What an embedder is, what identifies its vectors, and how it likes to be fed."""

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from data_pipeline.embeddings.tokens import Tokens
from data_pipeline.types import Float32Array, IntArray
from data_pipeline.utils import sha256_of_json

API_REVISION = "api:"
"""Beginning of the revision of a model behind an API; the name of the provider follows."""
_LATER_FIELDS = {"task", "modules", "probes"}


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
    modules: str = ""
    """Modules behind the pooling, and prompts that are not pooled; empty for a model with neither."""
    probes: str = ""
    """Sketch of the vectors of the probe texts (see `probes`), of a model whose weights cannot be read."""

    def to_metadata(self) -> dict[str, str]:
        """For a safetensors header, whose values are strings."""
        fields = asdict(self) | {"normalized": str(self.normalized).lower()}
        # Later fields only where they say something: files that were written before them must stay equal.
        return {name: str(value) for name, value in fields.items() if name not in _LATER_FIELDS or value}


@dataclass(frozen=True, slots=True)
class Cost:
    """Floating-point operations of a text: `linear` a token, and `quadratic` a token squared."""

    linear: float = 0.0
    quadratic: float = 0.0

    def flops(self, lengths: IntArray) -> NDArray[np.float64]:
        """Floating-point operations of each text, shape (N,), for its number of tokens."""
        return self.linear * lengths + self.quadratic * np.square(lengths, dtype=np.float64)


@dataclass
class Usage:
    """Calls to a server that computes vectors, all tries counted."""

    calls: int = 0
    failed_calls: int = 0
    tokens: int = 0
    """Tokens as the server counted them, or as they were counted here where it does not say."""
    busy_s: float = 0.0
    """Time that calls took, in seconds, over all slots."""
    cost: float = 0.0
    """Price of the tokens; 0 without a price."""


class Remote(Protocol):
    """Server that computes the vectors of an embedder, as the engine sees it."""

    usage: Usage
    slots: int
    """Number of concurrent calls, over all runs."""
    price_per_million_tokens: float | None
    max_cost: float | None
    """Maximum cost of a run."""

    def run(self) -> AbstractContextManager[None]:
        """Count a run while it lasts; the first one after an interruption may make calls again."""

    def interrupt(self, reason: str) -> None:
        """End the calls of all runs as soon as they can, for a reason: none is tried again, and none begins."""


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
    batch_size: int | None = None
    """Texts of a pack, where the user names none; None for no limit."""
    remote: Remote | None = None
    """Server that computes the vectors; None if this process does. Its packs come back in any order."""
    tunable_threads: bool = False
    """Runs on the threads of torch, whose number may be chosen by measurement."""
    cost: Cost = Cost()
    trial_flops: float = 2e11
    """Floating-point operations of a pack that is computed to measure the machine's speed."""
    unpooled_prompts: Mapping[str, int] = field(default_factory=dict)
    """Number of tokens of each prompt that the pooling leaves out (INSTRUCTOR); other prompts are pooled."""

    def computed_tokens(self, lengths: IntArray) -> int:
        """Tokens that are computed for a pack of texts of these lengths, longest first."""
        if self.padded:
            return len(lengths) * int(lengths[0])
        return -(-int(lengths.sum()) // self.row_multiple) * self.row_multiple


class Embedder(Protocol):
    """Turns texts into vectors. Implement these six names to bring your own."""

    @property
    def identity(self) -> Identity:
        """Everything that decides which vector a text gets."""

    @property
    def query_prompt(self) -> str:
        """Prefix of every query."""

    @property
    def runtime(self) -> Runtime:
        """How the embedder runs."""

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


@dataclass(frozen=True)
class RoutedEmbedder:
    """A model that sends documents and queries through different modules; an embedder of documents, see `Embedder`."""

    documents: Embedder
    queries: Embedder
    """Embedder of queries."""

    @property
    def identity(self) -> Identity:
        """Identity of the embedder of documents, which belongs to that of queries."""
        return self.documents.identity

    @property
    def query_prompt(self) -> str:
        """Prefix of every query."""
        return self.queries.query_prompt

    @property
    def runtime(self) -> Runtime:
        """How documents are embedded."""
        return self.documents.runtime

    @property
    def tokenizer(self) -> Tokenizer:
        """Tokenizer of documents."""
        return self.documents.tokenizer

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Token ids of documents; see `Embedder`."""
        return self.documents.tokenize(texts)

    def forward(self, texts: Tokens, dtype: str | None = None) -> Float32Array:
        """Vectors of documents; see `Embedder`."""
        return self.documents.forward(texts, dtype)


def tokenize_with_prompt(embedder: Embedder, texts: Sequence[str], prompt: str) -> Tokens:
    """Tokenize texts behind a prompt.

    Args:
        embedder: the model.
        texts: the texts.
        prompt: document or query prompt of the model; may be empty.
    """
    tokens = embedder.tokenize([prompt + text for text in texts] if prompt else texts)
    left_out = embedder.runtime.unpooled_prompts.get(prompt, 0)
    return replace(tokens, prompt_tokens=left_out) if left_out else tokens


def tokenizer_sha256(tokenizer: Tokenizer) -> str:
    """SHA-256 of a tokenizer's description, the same however its file was laid out."""
    return sha256_of_json(json.loads(tokenizer.to_str()))
