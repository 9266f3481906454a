"""Pooling of the hidden states of a pack into one vector for each text."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

# Shapes: T pooled tokens of all texts, N texts, D width. The texts are concatenated; lengths_N is the number of
# pooled tokens of each, skipped_N the number of tokens before them (the prompt).
Mode = Callable[[Tensor, Tensor, Tensor], Tensor]


def last_token(hidden_TD: Tensor, lengths_N: Tensor, skipped_N: Tensor) -> Tensor:
    """State of the last token (Qwen3-Embedding, e5-mistral), shape (N, D)."""
    del skipped_N
    return hidden_TD[lengths_N.cumsum(0) - 1]


def cls(hidden_TD: Tensor, lengths_N: Tensor, skipped_N: Tensor) -> Tensor:
    """State of the first token (BGE, Snowflake Arctic), shape (N, D)."""
    del skipped_N
    return hidden_TD[lengths_N.cumsum(0) - lengths_N]


def mean(hidden_TD: Tensor, lengths_N: Tensor, skipped_N: Tensor) -> Tensor:
    """Mean over the tokens, in float32 (MiniLM, E5), shape (N, D)."""
    del skipped_N
    return _reduced(hidden_TD, lengths_N, "mean")


def mean_sqrt_len(hidden_TD: Tensor, lengths_N: Tensor, skipped_N: Tensor) -> Tensor:
    """Sum over the tokens divided by the square root of their number, in float32, shape (N, D)."""
    return mean(hidden_TD, lengths_N, skipped_N) * lengths_N[:, None].sqrt()


def maximum(hidden_TD: Tensor, lengths_N: Tensor, skipped_N: Tensor) -> Tensor:
    """Maximum over the tokens in each dimension, shape (N, D)."""
    del skipped_N
    return _reduced(hidden_TD, lengths_N, "max")


def weighted_mean(hidden_TD: Tensor, lengths_N: Tensor, skipped_N: Tensor) -> Tensor:
    """Mean over the tokens weighted by their position, in float32 (SGPT), shape (N, D)."""
    weights_T1 = (_positions(lengths_N, len(hidden_TD)) + _repeated(skipped_N, lengths_N, len(hidden_TD)))[
        :, None
    ].float()
    return _reduced(hidden_TD * weights_T1, lengths_N, "sum") / _reduced(weights_T1, lengths_N, "sum")


def _repeated(values_N: Tensor, lengths_N: Tensor, total: int) -> Tensor:
    """A value of each text for each of its tokens, shape (T,)."""
    return torch.repeat_interleave(values_N, lengths_N, output_size=total)


def _positions(lengths_N: Tensor, total: int) -> Tensor:
    """Position of each token in its text, from 1, shape (T,)."""
    starts_N = lengths_N.cumsum(0) - lengths_N
    return torch.arange(1, total + 1, device=lengths_N.device) - _repeated(starts_N, lengths_N, total)


def _reduced(values: Tensor, lengths_N: Tensor, how: str) -> Tensor:
    # unsafe=True skips the check of the lengths, which would wait for a GPU.
    return torch.segment_reduce(values.float(), how, lengths=lengths_N, axis=0, unsafe=True)


MODES: dict[str, Mode] = {
    "last_token": last_token,
    "cls": cls,
    "mean": mean,
    "max": maximum,
    "mean_sqrt_len": mean_sqrt_len,
    "weighted_mean": weighted_mean,
}


@dataclass(frozen=True, slots=True)
class Pooling:
    """Pooling by one or several modes, whose results are concatenated.

    Args:
        modes: names of `MODES`.
        include_prompt: whether the tokens of the prompt are pooled too (not those of INSTRUCTOR).
    """

    modes: tuple[str, ...]
    include_prompt: bool = True

    def __call__(self, hidden_TD: Tensor, lengths_N: Tensor, prompt_tokens: int = 0) -> Tensor:
        """Pool states.

        Args:
            hidden_TD: states of the tokens of all texts, one text after the other.
            lengths_N: number of tokens of each text.
            prompt_tokens: number of tokens of the prompt at the start of every text.

        Returns:
            Shape (N, D times the number of modes).
        """
        skipped_N = torch.zeros_like(lengths_N)
        if prompt_tokens and not self.include_prompt:
            # A text that was cut inside its prompt keeps its last token.
            skipped_N = torch.clamp(lengths_N - 1, max=prompt_tokens)
            total = len(hidden_TD)
            is_pooled = _positions(lengths_N, total) > _repeated(skipped_N, lengths_N, total)
            hidden_TD, lengths_N = hidden_TD[is_pooled], lengths_N - skipped_N
        pooled = [MODES[mode](hidden_TD, lengths_N, skipped_N) for mode in self.modes]
        return pooled[0] if len(pooled) == 1 else torch.cat([part.float() for part in pooled], dim=-1)

    @property
    def position(self) -> Literal["first", "last"] | None:
        """Which token is pooled, if it is one, and the same with any prompt."""
        if self.modes == ("last_token",):
            return "last"
        return "first" if self.modes == ("cls",) and self.include_prompt else None
