"""Section with the lengths of the rows of each split, and their languages."""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from data_pipeline.report.blocks import Block, Section, Table
from data_pipeline.report.figures import bars, histograms
from data_pipeline.report.opened import OpenedDataset
from data_pipeline.report.wording import share
from data_pipeline.types import Split

_BINS = 48
_LANGUAGES = 20


def lengths_section(dataset: OpenedDataset) -> Section | None:
    """Describe the lengths of all rows, and their languages where these are known; None for no rows."""
    lengths, languages = _read(dataset)
    if not lengths:
        return None
    blocks: list[Block] = [_histogram(dataset, lengths), _table(lengths)]
    if languages:
        counts = dict(languages.most_common(_LANGUAGES))
        alt = "; ".join(f"{name}: {count:,}" for name, count in counts.items())
        blocks.append(bars("Languages", alt, counts, "rows", is_log=len(counts) > 1))
    return Section("lengths", "Lengths and languages" if languages else "Lengths", blocks)


def _read(dataset: OpenedDataset) -> tuple[dict[Split, NDArray[np.int64]], Counter[str]]:
    """Lengths of the rows of each split in tokens, and numbers of rows by language; reads two columns as a stream."""
    lengths: dict[Split, NDArray[np.int64]] = {}
    languages: Counter[str] = Counter()
    for split, rows in dataset.rows.items():
        columns = ["token_count", *(["language"] if "language" in rows.names else [])]
        parts = []
        for batch, _ in dataset.store.live_batches(split, columns):
            parts.append(batch["token_count"].to_numpy())
            if "language" in columns:
                for entry in batch["language"].value_counts().to_pylist():
                    languages[entry["values"] or "unknown"] += entry["counts"]
        lengths[split] = np.concatenate(parts)
    return lengths, languages


def _histogram(dataset: OpenedDataset, lengths: dict[Split, NDArray[np.int64]]) -> Block:
    lines = _limits(dataset)
    everything = np.concatenate([*lengths.values()])
    top = float(max(np.quantile(everything, 0.995), min(lines.values(), default=0))) * 1.05 + 1
    lines = {name: value for name, value in lines.items() if value <= 3 * top}
    edges = np.linspace(0, max([top, *(1.02 * value for value in lines.values())]), _BINS + 1)
    counts = {str(split): np.histogram(np.minimum(values, edges[-1]), edges)[0] for split, values in lengths.items()}
    alt = "; ".join(f"{split}: median {np.median(values):,.0f} tokens" for split, values in lengths.items())
    return histograms("Tokens of a row, by split", alt, edges, counts, "tokens", lines)


def _limits(dataset: OpenedDataset) -> dict[str, float]:
    """Limits of the filters and of the model, in tokens, by name."""
    limits: dict[str, float] = {}
    if dataset.manifest is not None:
        settings = dataset.manifest["settings"].get("preprocess", {})
        for name, words in (("min_tokens", "minimum"), ("max_tokens", "maximum")):
            if settings.get(name):
                limits[words] = float(settings[name])
    if dataset.embeddings is not None and dataset.has_vectors:
        entry = next(iter(dataset.embeddings["splits"].values()))
        if str(entry["settings"].get("max_length", "")).isdigit():
            limits["limit of the model"] = float(entry["settings"]["max_length"])
    return limits


def _table(lengths: dict[Split, NDArray[np.int64]]) -> Table:
    rows = [
        (
            split,
            f"{len(values):,}",
            share(len(values), sum(map(len, lengths.values()))),
            f"{values.sum():,}",
            *(f"{np.quantile(values, quantile):,.0f}" for quantile in (0, 0.25, 0.5, 0.75, 1)),
        )
        for split, values in lengths.items()
    ]
    names = ("split", "rows", "share", "tokens", "shortest", "25 %", "median", "75 %", "longest")
    return Table("Lengths in tokens", names, rows, frozenset(range(1, len(names))))
