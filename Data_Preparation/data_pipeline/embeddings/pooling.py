"""Hidden states of a text's tokens -> one vector. Texts are padded on the right."""

from collections.abc import Callable

import torch
from torch import Tensor

# Shapes: N texts, L tokens, D width; lengths_N counts the real tokens of each text.
Pooling = Callable[[Tensor, Tensor], Tensor]


def last_token(hidden_NLD: Tensor, lengths_N: Tensor) -> Tensor:
    """The last real token's state (Qwen3-Embedding, e5-mistral), shape (N, D)."""
    return hidden_NLD[torch.arange(len(hidden_NLD), device=hidden_NLD.device), lengths_N - 1]


def cls(hidden_NLD: Tensor, lengths_N: Tensor) -> Tensor:
    """The first token's state (BGE, Snowflake Arctic), shape (N, D)."""
    del lengths_N
    return hidden_NLD[:, 0]


def mean(hidden_NLD: Tensor, lengths_N: Tensor) -> Tensor:
    """The mean over real tokens only, in float32 (MiniLM, E5), shape (N, D)."""
    real_NL = torch.arange(hidden_NLD.shape[1], device=hidden_NLD.device) < lengths_N[:, None]
    summed_ND = (hidden_NLD.float() * real_NL[..., None]).sum(dim=1)
    return summed_ND / lengths_N[:, None]


POOLINGS: dict[str, Pooling] = {"last_token": last_token, "cls": cls, "mean": mean}
