"""Poolings that make a sparse vector of the states of a text's tokens."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data_pipeline.store.sparse import SparseRows, concatenate_rows

# Shapes: N texts, L tokens of the longest, D width of the model, V words of the vocabulary.

SparsePooling = Callable[[Any, Tensor, Tensor], SparseRows]
"""Output of the model, ids of the tokens and whether each is a token of the text, both (N, L) -> N sparse vectors."""


@dataclass(frozen=True)
class SpladePooling:
    """The model's logits of every word, through log(1 + relu), pooled over the tokens of a text.

    See Formal et al., "SPLADE v2", 2021, arXiv 2109.10086.
    """

    strategy: str
    """max or sum."""
    log_twice: bool
    """Whether the logarithm is taken twice (Geng et al., 2024, arXiv 2411.04403)."""

    @property
    def name(self) -> str:
        """Name of the pooling, for the identity of the model."""
        return f"splade_{self.strategy}" + ("_log_twice" if self.log_twice else "")

    def __call__(self, output: Any, ids_NL: Tensor, is_token_NL: Tensor) -> SparseRows:
        """See `SparsePooling`."""
        logits_NLV, lengths = output.logits, is_token_NL.sum(1).tolist()
        # Text by text, because a copy of all logits would double the memory.
        rows = [self._pool(logits_NLV[text, :length]) for text, length in enumerate(lengths)]
        return concatenate_rows([_of_dense(row) for row in rows], logits_NLV.shape[2])

    def _pool(self, logits_LV: Tensor) -> Tensor:
        if self.strategy == "max":  # the logarithm keeps the order
            return self._log(logits_LV.amax(0).float())
        return self._log(logits_LV.float()).sum(0)

    def _log(self, logits: Tensor) -> Tensor:
        weights = logits.relu().log1p()
        return weights.log1p() if self.log_twice else weights


@dataclass(frozen=True)
class TokenWeightPooling:
    """A weight for each token from its state; a word that is there several times has its largest weight (BGE-M3).

    See Chen et al., "BGE M3-Embedding", 2024, arXiv 2402.03216.
    """

    linear: nn.Linear
    """D -> 1, on the device of the model."""
    left_out: frozenset[int]
    """Ids of the special tokens, which have no weight."""
    width: int
    """Number of words of the vocabulary, V."""
    name: str = "token_weights"

    def __call__(self, output: Any, ids_NL: Tensor, is_token_NL: Tensor) -> SparseRows:
        """See `SparsePooling`."""
        states = output.last_hidden_state.to(self.linear.weight.dtype)
        weights_NL = self.linear(states)[..., 0].relu().float().cpu().numpy()
        ids, is_token = ids_NL.cpu().numpy(), is_token_NL.cpu().numpy()
        is_word = is_token & ~np.isin(ids, list(self.left_out))
        rows, _ = np.nonzero(is_word)
        return largest_of_words(rows, ids[is_word], weights_NL[is_word], len(ids), self.width)


def largest_of_words(
    rows: NDArray[np.int64], words: NDArray[Any], weights: NDArray[np.float32], count: int, width: int
) -> SparseRows:
    """Make sparse vectors of words with weights; of several weights of a word, the largest counts.

    Args:
        rows: text of each word, shape (words,).
        words: ids of the words, shape (words,).
        weights: their weights, shape (words,); those of 0 are left out.
        count: number of texts.
        width: number of words of the vocabulary.
    """
    kept = weights != 0  # also those that are not finite
    keys, positions = np.unique(rows[kept] * width + words[kept].astype(np.int64), return_inverse=True)
    largest = np.full(len(keys), -np.inf, np.float32)
    with np.errstate(invalid="ignore"):  # NaN is kept, so that it is found
        np.maximum.at(largest, positions, weights[kept])
    indptr = np.concatenate([[0], np.cumsum(np.bincount(keys // width, minlength=count))]).astype(np.int64)
    return SparseRows(indptr, (keys % width).astype(np.int32), largest, width)


def keep_largest(rows: SparseRows, count: int) -> SparseRows:
    """Keep the largest weights of each row, of equal ones those of the first words."""
    kept = []
    for start, end in zip(rows.indptr[:-1].tolist(), rows.indptr[1:].tolist(), strict=True):
        order = np.argsort(-rows.values[start:end], kind="stable")[:count]
        kept.append(start + np.sort(order))
    positions = np.concatenate([np.zeros(0, np.int64), *kept])
    indptr = np.concatenate([[0], np.cumsum([len(part) for part in kept])]).astype(np.int64)
    return SparseRows(indptr, rows.indices[positions], rows.values[positions], rows.width)


def _of_dense(weights_V: Tensor) -> SparseRows:
    """One row; NaN is kept, so that it is found."""
    words = torch.nonzero(weights_V)[:, 0]
    values = weights_V[words].cpu().numpy()
    return SparseRows(np.array([0, len(values)]), words.cpu().numpy().astype(np.int32), values, len(weights_V))
