"""Forward passes of a transformers model that give pooled vectors: packed, or padded where packing is impossible."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_pipeline.embeddings.tokens import Tokens
from data_pipeline.embeddings.transformer.attention import Kernel, Segments
from data_pipeline.embeddings.transformer.sentence_layers import SentenceLayers

# Shapes: N texts, L tokens of the longest, T tokens of all, W width of the vectors.

_MAX_POOLED_MULTIPLE = 64  # enough for the kernels, also where packs are filled up to one large shape


Forward = Callable[[Tokens], Tensor]
"""Forward pass of a pack: computes the vectors of its texts, shape (N, W), float32, on the device."""


@dataclass(frozen=True)
class Packed:
    """Forward pass with all texts concatenated in one row, without padding.

    Positions start again with every text. There is no mask: the attention function receives the
    segments of the texts (see `attention`).
    """

    model: Any
    layers: SentenceLayers
    kernel: Kernel
    device: torch.device
    row_multiple: int
    """The row is filled up to a multiple of this number of tokens."""
    first_position: int
    """Position of the first token of a text."""
    pruned: bool
    """Whether the last layer of the model computes the pooled tokens only (see `last_layer`)."""

    def __call__(self, texts: Tokens) -> Tensor:
        """See `Forward`."""
        lengths = texts.lengths
        filler = -len(texts.ids) % self.row_multiple
        segment_lengths = np.append(lengths, filler) if filler else lengths
        starts = np.concatenate([[0], np.cumsum(segment_lengths)])
        filled = int(starts[-1])
        # Ids, positions and starts in one array, so that one copy transfers them to the device.
        host = np.zeros(2 * filled + len(starts), dtype=np.int32)
        host[: len(texts.ids)] = texts.ids
        positions_in_texts = np.arange(len(texts.ids)) - np.repeat(texts.offsets[:-1], lengths)
        host[filled : filled + len(texts.ids)] = positions_in_texts
        host[filled : 2 * filled] += self.first_position
        host[2 * filled :] = starts
        on_device = to_device(host, self.device)
        ids, positions, cu_seqlens = on_device[:filled], on_device[filled : 2 * filled], on_device[2 * filled :]
        longest = int(segment_lengths.max())
        segments = Segments(len(lengths), tuple(segment_lengths.tolist()), longest, cu_seqlens, self.kernel)
        bounds = cu_seqlens[: len(lengths) + 1]
        extra: dict[str, Any] = {}
        if self.pruned:
            pooled = bounds[1:] - 1 if self.layers.pooling.position == "last" else bounds[:-1]
            extra["pooled_positions"] = _fill_up(pooled, min(self.row_multiple, _MAX_POOLED_MULTIPLE))
        hidden = self.model(
            input_ids=ids[None], position_ids=positions[None].long(), use_cache=False, segments=segments, **extra
        ).last_hidden_state[0]
        if self.pruned:
            return self.layers.project(hidden[: len(lengths)])
        return self.layers(hidden[: len(texts.ids)], bounds.diff().long(), texts.prompt_tokens)


@dataclass(frozen=True)
class Padded:
    """Forward pass with each text in a row of its own, padded on the right to the longest.

    A causal model needs no mask, because no token attends to the padding after it.
    """

    model: Any
    layers: SentenceLayers
    device: torch.device
    causal: bool
    pad_id: int
    adapter: int | None = None
    """Number of the adapter, for models that take it with every batch."""

    def __call__(self, texts: Tokens) -> Tensor:
        """See `Forward`."""
        padded, is_token = pad(texts, self.pad_id)
        ids, mask = to_device(padded, self.device).long(), to_device(is_token, self.device)
        extra: dict[str, Any] = {"use_cache": False} if self.causal else {"attention_mask": mask.long()}
        if self.adapter is not None:
            extra["adapter_mask"] = torch.full((len(texts),), self.adapter, dtype=torch.int32, device=self.device)
        hidden = self.model(input_ids=ids, **extra).last_hidden_state
        lengths = to_device(texts.lengths, self.device)
        return self.layers(hidden[mask], lengths, texts.prompt_tokens)


def pad(texts: Tokens, pad_id: int) -> tuple[np.ndarray[Any, np.dtype[np.int32]], np.ndarray[Any, np.dtype[np.bool_]]]:
    """Token ids padded on the right, and whether each of them is a token of the text; both of shape (N, L)."""
    lengths = texts.lengths
    is_token = np.arange(lengths.max()) < lengths[:, None]
    padded = np.full(is_token.shape, pad_id, dtype=np.int32)
    padded[is_token] = texts.ids
    return padded, is_token


def to_device(array: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    """Copy an array to the device; to a CUDA GPU through pinned memory, without waiting."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _fill_up(positions: Tensor, multiple: int) -> Tensor:
    """Repeat the first position until their number is a multiple of `multiple`; the repetitions are not used."""
    missing = -len(positions) % multiple
    return torch.cat([positions, positions[:1].expand(missing)]) if missing else positions
