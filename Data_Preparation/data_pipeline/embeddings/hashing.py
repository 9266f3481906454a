"""An embedder without weights, for tests of this package and of yours: it hashes and counts words."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings.base import Identity, Runtime, tokenizer_sha256
from data_pipeline.embeddings.tokens import Tokens, from_rows
from data_pipeline.types import Float32Array

_FULL_DIM = 256
_MAX_LENGTH = 8192


class HashingEmbedder:
    """Deterministic embedder: every word adds +1 or -1 to the dimension that its hash selects.

    Texts with common words get similar vectors; the first dimension counts the words, so no
    vector is zero. See `base.Embedder`.
    """

    runtime = Runtime(attention="none")

    def __init__(self, config: EmbeddingConfig) -> None:
        self.tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))  # noqa: S106
        self.tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        self.query_prompt = config.query_prompt or ""
        self._max_length = config.max_length or _MAX_LENGTH
        self.identity = Identity(
            model="hashing",
            revision="2",
            pooling="mean",
            normalized=config.normalize is not False,
            dtype="float32",
            dim=min(config.dim or _FULL_DIM, _FULL_DIM),
            max_length=self._max_length,
            prompt=config.prompt or "",
            tokenizer=tokenizer_sha256(self.tokenizer),
        )

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Tokenize texts into one id for each word; see `base.Embedder`."""
        words = [text.split() for text in texts]
        return from_rows(
            [[_word_id(word.lower()) for word in row[: self._max_length]] for row in words],
            [len(row) > self._max_length for row in words],
        )

    def forward(self, texts: Tokens, dtype: str | None = None) -> Float32Array:
        """Signed word counts, shape (N, 256); see `base.Embedder`."""
        del dtype
        vectors = np.zeros((len(texts), _FULL_DIM), dtype=np.float32)
        for row in range(len(texts)):
            ids = texts.row(row)
            np.add.at(vectors[row], ids % (_FULL_DIM - 1) + 1, 1 - 2 * (ids >> 24 & 1).astype(np.float32))
            vectors[row, 0] = len(ids) + 1
        return vectors


@lru_cache(maxsize=65_536)
def _word_id(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest(), "big") >> 1
