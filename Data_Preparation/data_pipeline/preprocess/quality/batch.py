"""Batch of texts that several presets look at, tokenized at most once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from data_pipeline.preprocess.quality.words import Words, WordTable

Reasons = list[str | None]
"""Reason to drop each text; None to keep it."""


@dataclass(frozen=True)
class TextBatch:
    """Texts and their words."""

    texts: Sequence[str]
    """Whole documents, with their lines."""
    table: WordTable
    """Words that were seen before."""

    @cached_property
    def words(self) -> Words:
        """Words of the texts, computed at the first use."""
        return self.table.read(self.texts)

    @property
    def has_words(self) -> bool:
        """Whether the words are known already."""
        return "words" in self.__dict__

    def select(self, rows: Sequence[int]) -> "TextBatch":
        """Some of the texts, in order, with their words if those are known."""
        part = TextBatch([self.texts[row] for row in rows], self.table)
        if self.has_words:
            part.__dict__["words"] = self.words.select(np.array(rows, np.int64))
        return part
