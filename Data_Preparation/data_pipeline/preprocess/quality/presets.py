"""The quality presets by name, applied to batches of whole documents."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import islice

from data_pipeline.preprocess.paragraphs import document_batches
from data_pipeline.preprocess.quality.batch import Reasons, TextBatch
from data_pipeline.preprocess.quality.c4 import c4
from data_pipeline.preprocess.quality.fineweb import fineweb
from data_pipeline.preprocess.quality.gopher_quality import gopher_quality
from data_pipeline.preprocess.quality.gopher_repetition import gopher_repetition
from data_pipeline.preprocess.quality.pieces import EnglishTokenizer
from data_pipeline.preprocess.quality.words import WordTable
from data_pipeline.types import Document

BATCH_CHARS = 500_000
"""Characters of the documents that are judged together, whose arrays fit into the cache of a core."""

Preset = Callable[[TextBatch], tuple[Reasons, Sequence[str]]]
"""Function that returns the reason to drop each text, and the texts, which it may have changed."""


def _only_drops(rules: Callable[[TextBatch], Reasons]) -> Preset:
    return lambda batch: (rules(batch), batch.texts)


PRESETS: Mapping[str, Preset] = {
    "gopher_quality": _only_drops(gopher_quality),
    "gopher_repetition": _only_drops(gopher_repetition),
    "c4": c4,
    "fineweb": _only_drops(fineweb),
}
"""Presets by the names that `filters.presets` takes."""


@cache
def word_table() -> WordTable:
    """Words that this process has seen, for all batches."""
    return WordTable(EnglishTokenizer())


def apply_presets(
    documents: Sequence[Document], names: Sequence[str]
) -> tuple[dict[int, Document], list[tuple[Document, str]]]:
    """Apply presets to documents, in the order of their names; a dropped document is not seen by the next one.

    Args:
        documents: whole documents.
        names: names of presets.

    Returns:
        The documents that are kept, of which c4 removes lines, by their positions in order; and those that are
        dropped, each with its reason.

    Raises:
        MissingExtraError: spaCy is not installed.
    """
    kept: dict[int, Document] = {}
    positions = iter(range(len(documents)))
    dropped: list[tuple[Document, str]] = []
    for part in document_batches(documents, BATCH_CHARS):
        batch = TextBatch([document.text for document in part], word_table())
        places = list(islice(positions, len(part)))
        for name in names:
            reasons, texts = PRESETS[name](batch)
            dropped += [
                (document, f"{name}_{reason}") for document, reason in zip(part, reasons, strict=True) if reason
            ]
            rows = [row for row, reason in enumerate(reasons) if reason is None]
            places = [places[row] for row in rows]
            if all(texts[row] is batch.texts[row] for row in rows):
                batch, part = batch.select(rows), [part[row] for row in rows]
            else:
                part = [replace(part[row], text=texts[row]) for row in rows]
                batch = TextBatch([document.text for document in part], batch.table)
        kept |= zip(places, part, strict=True)
    return kept, dropped
