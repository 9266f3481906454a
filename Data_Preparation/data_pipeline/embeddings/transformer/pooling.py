"""Pooling of the hidden states of a pack into one vector for each text."""

from collections.abc import Callable

import torch
from torch import Tensor

# Shapes: T tokens of all texts, N texts, D width. The texts are concatenated;
# lengths_N is the number of tokens of each.
Pooling = Callable[[Tensor, Tensor], Tensor]


def last_token(hidden_TD: Tensor, lengths_N: Tensor) -> Tensor:
    """State of the last token (Qwen3-Embedding, e5-mistral), shape (N, D)."""
    return hidden_TD[last_token_positions(lengths_N)]


def cls(hidden_TD: Tensor, lengths_N: Tensor) -> Tensor:
    """State of the first token (BGE, Snowflake Arctic), shape (N, D)."""
    return hidden_TD[cls_positions(lengths_N)]


def mean(hidden_TD: Tensor, lengths_N: Tensor) -> Tensor:
    """Mean over the tokens, in float32 (MiniLM, E5), shape (N, D)."""
    # unsafe=True skips the check of the lengths, which would wait for a GPU.
    return torch.segment_reduce(hidden_TD.float(), "mean", lengths=lengths_N, axis=0, unsafe=True)


def last_token_positions(lengths_N: Tensor) -> Tensor:
    """Position of the last token of each text, shape (N,)."""
    return lengths_N.cumsum(0) - 1


def cls_positions(lengths_N: Tensor) -> Tensor:
    """Position of the first token of each text, shape (N,)."""
    return lengths_N.cumsum(0) - lengths_N


POOLINGS: dict[str, Pooling] = {"last_token": last_token, "cls": cls, "mean": mean}

SINGLE_TOKEN: dict[str, Callable[[Tensor], Tensor]] = {"last_token": last_token_positions, "cls": cls_positions}
"""Positions of the pooled tokens, for poolings that take the state of one token."""
