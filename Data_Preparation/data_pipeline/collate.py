"""Samples -> a batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch


class ELMCollator:
    """Puts samples together into a batch.

    Args:
        tokenizer: a transformers tokenizer; with it, the batch also gets `input_ids` and
            `attention_mask`, padded to the longest text.
        max_length: texts are cut to this many tokens.
    """

    def __init__(self, tokenizer: Any | None = None, max_length: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Lists of texts and metadata; vectors stacked to shape (N, dim)."""
        texts = [sample["text"] for sample in samples]
        batch: dict[str, Any] = {"text": texts, "metadata": [sample["metadata"] for sample in samples]}
        if samples and "embedding" in samples[0]:
            batch["embedding"] = torch.stack([sample["embedding"] for sample in samples])
        if self.tokenizer is not None:
            batch |= self.tokenizer(
                texts, padding=True, truncation=self.max_length is not None, max_length=self.max_length,
                return_tensors="pt",
            )  # fmt: skip
        return batch
