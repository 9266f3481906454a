"""Collation of samples into a batch."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

from data_pipeline.dataset.samples import stack


@dataclass(eq=False)
class ELMCollator:
    """Collates samples into a batch, and tokenizes their texts if it has a tokenizer.

    Pairs (see `ELMDataset.pairs`) become one such batch for each role.

    Args:
        tokenizer: a transformers tokenizer; with it, a batch also gets `input_ids` and
            `attention_mask`, of shape (N, L).
        max_length: texts are truncated to this many tokens.
        padding: pad to the `longest` text of the batch, or to `max_length` (one shape for all batches).
        pad_to_multiple_of: L is made a multiple of this; 8 suits GPUs.
        stack: False leaves the vectors as a list instead of one tensor of shape (N, dim).

    Raises:
        ValueError: padding is `max_length` and there is none, or an option of the tokenizer is set without one.
    """

    tokenizer: Any | None = None
    max_length: int | None = None
    _: KW_ONLY
    padding: Literal["longest", "max_length"] = "longest"
    pad_to_multiple_of: int | None = None
    stack: bool = True

    def __post_init__(self) -> None:
        if self.padding not in ("longest", "max_length"):
            raise ValueError(f"padding must be longest or max_length, got {self.padding!r}")
        if self.padding == "max_length" and self.max_length is None:
            raise ValueError("padding='max_length' needs a max_length")
        if self.tokenizer is None and (self.max_length is not None or self.pad_to_multiple_of is not None):
            raise ValueError("max_length and pad_to_multiple_of count tokens: give a tokenizer too")

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Collate samples: texts in a list, metadata unchanged, vectors stacked to shape (N, dim)."""
        return self._finish(stack(samples))

    def _finish(self, batch: dict[str, Any]) -> dict[str, Any]:
        for name, value in batch.items():
            if isinstance(value, dict):
                batch[name] = self._finish(value)
        if not self.stack and "embedding" in batch:
            batch["embedding"] = list(batch["embedding"])
        if self.tokenizer is not None and "text" in batch:
            batch |= self.tokenizer(
                batch["text"],
                padding=self.padding,
                truncation=self.max_length is not None,
                max_length=self.max_length,
                pad_to_multiple_of=self.pad_to_multiple_of,
                return_tensors="pt",
            )
        return batch
