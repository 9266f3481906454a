"""The ways a sparse encoder makes a vector of a text: by a transformer, or by a table of weights."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from data_pipeline.embeddings.base import Runtime
from data_pipeline.embeddings.sparse.poolings import SparsePooling, keep_largest, largest_of_words
from data_pipeline.embeddings.tokens import Tokens, from_rows
from data_pipeline.embeddings.transformer.forward import pad, to_device
from data_pipeline.errors import ModelError, OutOfMemoryError
from data_pipeline.store.sparse import SparseRows
from data_pipeline.utils.devices import free_cached_memory, is_out_of_memory

_TABLE_BATCH_TOKENS = 1_000_000


class TransformerTower:
    """Tower of a transformer with a pooling of its own.

    Args:
        model: model of transformers, on the device.
        pooling: makes sparse vectors of its output.
        encoder: tokenizer with truncation.
        pad_id: id of the padding token.
        device: device of the model.
        batch_tokens: number of tokens of a batch, padding included.
        max_active: number of weights to keep; None for all.
    """

    def __init__(
        self,
        model: Any,
        pooling: SparsePooling,
        encoder: Tokenizer,
        pad_id: int,
        device: torch.device,
        batch_tokens: int,
        max_active: int | None,
    ) -> None:
        self._model, self._pooling, self._encoder = model, pooling, encoder
        self._pad_id, self._device, self._max_active = pad_id, device, max_active
        self.runtime = Runtime(attention="padded", padded=True, batch_tokens=batch_tokens)

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Token ids with special tokens; see `Tower`."""
        encodings = self._encoder.encode_batch_fast(list(texts), add_special_tokens=True)
        return from_rows([encoding.ids for encoding in encodings], [bool(found.overflowing) for found in encodings])

    def forward(self, texts: Tokens) -> SparseRows:
        """Sparse vectors; see `Tower`."""
        padded, is_token = pad(texts, self._pad_id)
        try:
            with torch.inference_mode():
                ids, mask = to_device(padded, self._device).long(), to_device(is_token, self._device)
                rows = self._pooling(self._model(input_ids=ids, attention_mask=mask.long()), ids, mask)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise ModelError(f"the model failed on {self._device}: {error}. Run again to resume.") from error
            free_cached_memory(self._device)
            raise OutOfMemoryError(
                f"{len(texts)} texts of up to {texts.lengths.max()} tokens do not fit into {self._device}"
            ) from error
        return rows if self._max_active is None else keep_largest(rows, self._max_active)


class TableTower:
    """Tower that gives each distinct token of a text its weight in a table, for queries without a model.

    Args:
        weights: weight of every word of the vocabulary, shape (V,).
        encoder: tokenizer with truncation.
    """

    def __init__(self, weights: NDArray[np.float32], encoder: Tokenizer) -> None:
        self._weights, self._encoder = weights, encoder
        self.runtime = Runtime(attention="table", batch_tokens=_TABLE_BATCH_TOKENS)

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Token ids without special tokens; see `Tower`."""
        encodings = self._encoder.encode_batch_fast(list(texts), add_special_tokens=False)
        return from_rows([encoding.ids for encoding in encodings], [bool(found.overflowing) for found in encodings])

    def forward(self, texts: Tokens) -> SparseRows:
        """Sparse vectors; see `Tower`."""
        rows = np.repeat(np.arange(len(texts)), np.diff(texts.offsets))
        return largest_of_words(rows, texts.ids, self._weights[texts.ids], len(texts), len(self._weights))
