"""Hidden states of a pack's tokens -> one vector a text."""

from collections.abc import Callable

import torch
from torch import Tensor

# Shapes: T tokens of all texts, N texts, D width. Texts lie one after the other;
# lengths_N counts the tokens of each.
Pooling = Callable[[Tensor, Tensor], Tensor]


def last_token(hidden_TD: Tensor, lengths_N: Tensor) -> Tensor:
    """The last token's state (Qwen3-Embedding, e5-mistral), shape (N, D)."""
    return hidden_TD[last_token_places(lengths_N)]


def cls(hidden_TD: Tensor, lengths_N: Tensor) -> Tensor:
    """The first token's state (BGE, Snowflake Arctic), shape (N, D)."""
    return hidden_TD[cls_places(lengths_N)]


def mean(hidden_TD: Tensor, lengths_N: Tensor) -> Tensor:
    """The mean over tokens, in float32 (MiniLM, E5), shape (N, D)."""
    # Unsafe means that the lengths are not checked, for which a GPU would have to be waited for.
    return torch.segment_reduce(hidden_TD.float(), "mean", lengths=lengths_N, axis=0, unsafe=True)


def last_token_places(lengths_N: Tensor) -> Tensor:
    """Where each text ends, shape (N,)."""
    return lengths_N.cumsum(0) - 1


def cls_places(lengths_N: Tensor) -> Tensor:
    """Where each text begins, shape (N,)."""
    return lengths_N.cumsum(0) - lengths_N


POOLINGS: dict[str, Pooling] = {"last_token": last_token, "cls": cls, "mean": mean}

SINGLE_TOKEN: dict[str, Callable[[Tensor], Tensor]] = {"last_token": last_token_places, "cls": cls_places}
"""Poolings that take the state of one token, and where it is."""
