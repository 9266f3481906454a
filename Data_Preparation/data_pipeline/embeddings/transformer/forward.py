"""Texts -> pooled vectors, through a transformers model: packed, or padded where that cannot be."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from data_pipeline.embeddings.tokens import Tokens
from data_pipeline.embeddings.transformer.attention import Kernel, Segments
from data_pipeline.embeddings.transformer.pooling import POOLINGS

# Shapes: N texts, L tokens of the longest, T tokens of all, D width.


_MOST_POOLED_FILLER = 64  # also where packs are filled up to one large shape


class Forward(Protocol):
    """Computes a pack."""

    def __call__(self, texts: Tokens) -> Tensor:
        """Pooled vectors of shape (N, D), float32, on the device."""


@dataclass(frozen=True)
class Packed:
    """All texts in one row, one after the other; nothing is padded.

    Positions begin again with every text. No mask is made: the attention function is told
    where each text lies (see `attention`).
    """

    model: Any
    pooling: str
    kernel: Kernel
    device: torch.device
    row_multiple: int
    """The row is filled up to a multiple of so many tokens."""
    first_position: int
    """Of a text's first token."""
    pruned: bool
    """The model's last layer computes the pooled tokens only (see `last_layer`)."""

    def __call__(self, texts: Tokens) -> Tensor:
        """See `Forward`."""
        lengths = texts.lengths
        filler = -len(texts.ids) % self.row_multiple
        parts = np.append(lengths, filler) if filler else lengths
        starts = np.concatenate([[0], np.cumsum(parts)])
        filled = int(starts[-1])
        # One array, so that one copy carries it to the device: ids, positions, starts.
        host = np.zeros(2 * filled + len(starts), dtype=np.int32)
        host[: len(texts.ids)] = texts.ids
        positions_in_texts = np.arange(len(texts.ids)) - np.repeat(texts.offsets[:-1], lengths)
        host[filled : filled + len(texts.ids)] = positions_in_texts
        host[filled : 2 * filled] += self.first_position
        host[2 * filled :] = starts
        on_device = to_device(host, self.device)
        ids, positions, cu_seqlens = on_device[:filled], on_device[filled : 2 * filled], on_device[2 * filled :]
        segments = Segments(len(lengths), tuple(parts.tolist()), int(parts.max()), cu_seqlens, self.kernel)
        bounds = cu_seqlens[: len(lengths) + 1]
        extra: dict[str, Any] = {}
        if self.pruned:
            places = bounds[1:] - 1 if self.pooling == "last_token" else bounds[:-1]
            extra["pooled_places"] = _fill_up(places, min(self.row_multiple, _MOST_POOLED_FILLER))
        hidden = self.model(
            input_ids=ids[None], position_ids=positions[None].long(), use_cache=False, segments=segments, **extra
        ).last_hidden_state[0]
        if self.pruned:
            return hidden[: len(lengths)].float()
        return POOLINGS[self.pooling](hidden[: len(texts.ids)], bounds.diff().long()).float()


@dataclass(frozen=True)
class Padded:
    """Every text in a row of its own, padded on the right to the longest.

    A causal model needs no mask then: no token sees what comes after it.
    """

    model: Any
    pooling: str
    device: torch.device
    causal: bool
    pad_id: int
    adapter: int | None = None
    """Number of the adapter, for models that are told with every batch."""

    def __call__(self, texts: Tokens) -> Tensor:
        """See `Forward`."""
        padded, real = pad(texts, self.pad_id)
        ids, mask = to_device(padded, self.device).long(), to_device(real, self.device)
        more: dict[str, Any] = {"use_cache": False} if self.causal else {"attention_mask": mask.long()}
        if self.adapter is not None:
            more["adapter_mask"] = torch.full((len(texts),), self.adapter, dtype=torch.int32, device=self.device)
        hidden = self.model(input_ids=ids, **more).last_hidden_state
        lengths = to_device(texts.lengths, self.device)
        return POOLINGS[self.pooling](hidden[mask], lengths).float()


def pad(texts: Tokens, pad_id: int) -> tuple[np.ndarray[Any, np.dtype[np.int32]], np.ndarray[Any, np.dtype[np.bool_]]]:
    """Token ids of shape (N, L), padded on the right, and which of them are real."""
    lengths = texts.lengths
    real = np.arange(lengths.max()) < lengths[:, None]
    padded = np.full(real.shape, pad_id, dtype=np.int32)
    padded[real] = texts.ids
    return padded, real


def to_device(array: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    """Copy to the device, through pinned memory and without waiting where it is a CUDA GPU."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _fill_up(places: Tensor, multiple: int) -> Tensor:
    """Repeat the first place until there is a multiple of so many; the surplus is not used."""
    missing = -len(places) % multiple
    return torch.cat([places, places[:1].expand(missing)]) if missing else places
