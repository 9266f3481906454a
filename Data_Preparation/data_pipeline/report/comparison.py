"""Comparison of two datasets, or of two variants of one: a page with rows in common, neighbours and drift."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from data_pipeline.config import Config
from data_pipeline.heads.metrics import spearman
from data_pipeline.report.blocks import (
    Block,
    Fact,
    Facts,
    Figure,
    FigureGrid,
    Fold,
    Note,
    Section,
    Table,
    Text,
    Texts,
    Verdict,
)
from data_pipeline.report.common_rows import CommonRows, match_rows, read_column, read_vectors
from data_pipeline.report.figures import bars, histograms
from data_pipeline.report.make import WrittenReport, save_page
from data_pipeline.report.measures import NEIGHBORS, draw_queries
from data_pipeline.report.neighbors import nearest_of
from data_pipeline.report.opened import SAMPLE_ROWS, OpenedDataset, Sample, draw_sample, open_dataset
from data_pipeline.report.page import check_report_extra, render_page
from data_pipeline.report.sections.scores import finite_values, number_scores
from data_pipeline.report.wording import share
from data_pipeline.store.manifest import version_of
from data_pipeline.utils import shortened

_BINS = 48
_LANGUAGES = 20
_SHOWN = 20
_TEXT_CHARS = 600
_MUCH_DRIFT = 0.1


def write_comparison(
    configs: tuple[Config, Config], names: tuple[str, str], path: Path, *, rows: int = SAMPLE_ROWS
) -> WrittenReport:
    """Write a page that compares two datasets.

    Args:
        configs: configurations with the folders of each.
        names: how each is called on the page.
        path: path of the file.
        rows: maximum number of rows of each whose texts and vectors are read.

    Raises:
        MissingExtraError: the extra `report` is not installed.
        StoreError: files are missing or damaged, or do not belong together.
    """
    check_report_extra()
    started = time.monotonic()
    datasets = (open_dataset(configs[0]), open_dataset(configs[1]))
    samples = (draw_sample(datasets[0], rows), draw_sample(datasets[1], rows))
    sections = comparison_sections(datasets, samples, names)
    page = render_page(f"{names[0]} and {names[1]}", "Comparison of two datasets", sections)
    return save_page(page, path, sum(map(len, samples)), sum(sample.total for sample in samples), started)


def comparison_sections(
    datasets: tuple[OpenedDataset, OpenedDataset], samples: tuple[Sample, Sample], names: tuple[str, str]
) -> list[Section]:
    """Return the sections of a comparison, in order."""
    common = match_rows(*datasets)
    return [
        Section("at-a-glance", "Side by side", [_side_by_side(datasets, names)]),
        _common_section(common, datasets, names),
        _neighbor_section(common, datasets),
        _drift_section(samples, names),
        _scores_section(common, datasets, samples, names),
    ]


def _side_by_side(datasets: tuple[OpenedDataset, OpenedDataset], names: tuple[str, str]) -> Table:
    values = [_described(dataset) for dataset in datasets]
    rows = [(name, values[0][name], values[1][name]) for name in values[0]]
    return Table("Both datasets", ("", *names), rows)


def _described(dataset: OpenedDataset) -> dict[str, str]:
    manifest, entry = dataset.manifest, None
    if dataset.has_vectors and dataset.embeddings is not None:
        entry = next(iter(dataset.embeddings["splits"].values()))
    settings = entry["settings"] if entry else {}
    return {
        "source": (manifest.get("corpus") if manifest else None) or dataset.store.corpus,
        "rows": ", ".join(f"{split} {len(rows):,}" for split, rows in dataset.rows.items()),
        "version": f"{version_of(manifest)}",
        "fingerprint": manifest["fingerprint"][:16] if manifest else "none",
        "model": str(settings.get("model", "no vectors")),
        "revision": str(settings.get("revision", "")),
        "pooling": str(settings.get("pooling", "")),
        "dimensions": f"{entry['dim']:,}" if entry else "",
        "stored as": str(settings.get("precision", "")),
    }


def _common_section(
    common: CommonRows, datasets: tuple[OpenedDataset, OpenedDataset], names: tuple[str, str]
) -> Section:
    same, totals = len(common.pairs), [dataset.count for dataset in datasets]
    of = ", ".join(f"{share(same, total)} of {name}" for name, total in zip(names, totals, strict=True))
    facts = [
        Fact("Rows in common", f"{same:,}: {of}", "good" if same == max(totals) else "note"),
        Fact("Same id, other text", f"{common.changed:,}", "check" if common.changed else "good"),
        Fact("In another split", f"{common.moved:,}", "check" if common.moved else "good",
             "a row that is train here may be test there" if common.moved else ""),
        *(Fact(f"Only in {name}", f"{count:,}") for name, count in zip(names, common.only, strict=True)),
    ]  # fmt: skip
    return Section("rows", "Rows in common", [Facts(facts)], "Rows are the same if their ids and their texts are.")


def _neighbor_section(common: CommonRows, datasets: tuple[OpenedDataset, OpenedDataset], seed: int = 0) -> Section:
    """Compare the nearest neighbours of the rows in common, searched among them."""
    title = "Agreement of neighbours"
    if not all(dataset.has_vectors for dataset in datasets):
        return Section(
            "neighbors", title, [Note("One of the datasets has no vectors; make them with elm embed.", "check")]
        )
    rng = np.random.default_rng(seed)
    pairs = common.draw(SAMPLE_ROWS, rng)
    if len(pairs) <= 1:
        return Section("neighbors", title, [Note("The datasets have no rows in common to compare.", "check")])
    vectors = (
        read_vectors(datasets[0], pairs["split"], pairs["index"]),
        read_vectors(datasets[1], pairs["split_b"], pairs["index_b"]),
    )
    queries = draw_queries(len(pairs), rng)
    one, other = (nearest_of(part, queries, NEIGHBORS).rows for part in vectors)
    shared = (one[:, :, None] == other[:, None, :]).any(axis=2).sum(axis=1)
    count = one.shape[1]
    mean = float(shared.mean() / count)
    edges = np.arange(count + 2) - 0.5
    alt = f"mean {mean:.1%} of {count}"
    least = np.argsort(shared, kind="stable")[:_SHOWN]
    rows = pairs[queries[least]]
    texts = read_column(datasets[0], rows["split"], rows["index"], "text").to_list()
    ids = read_column(datasets[0], rows["split"], rows["index"], "text_id").to_list()
    shown = [
        Text(shortened(text, _TEXT_CHARS), name, f"{number} of {count} neighbours are the same")
        for text, name, number in zip(texts, ids, shared[least].tolist(), strict=True)
    ]
    caption = "Rows whose neighbours differ most"
    blocks: list[Block] = [
        Facts([Fact("Agreement", f"{mean:.1%} of the {count} nearest neighbours are the same")]),
        histograms("Neighbours that are the same", alt, edges, {"rows": np.histogram(shared, edges)[0]}, "neighbours"),
        Fold(caption, [Texts(caption, shown)]),
    ]
    lead = f"Measured for {len(queries):,} rows among {len(pairs):,} that both have."
    return Section("neighbors", title, blocks, lead)


def _drift_section(samples: tuple[Sample, Sample], names: tuple[str, str]) -> Section:
    lengths = [sample.frame["token_count"].to_numpy() for sample in samples]
    blocks: list[Block] = [_drift(lengths, names, "Lengths in tokens", "tokens")]
    if all("language" in sample.frame.columns for sample in samples):
        blocks += _languages(samples, names)
    return Section("drift", "Drift of lengths and languages", blocks)


def _drift(values: Sequence[NDArray[np.number]], names: tuple[str, str], caption: str, unit: str) -> Figure:
    statistic = largest_gap(*values)
    everything = np.concatenate(values)
    low, high = float(everything.min(initial=0)), float(np.quantile(everything, 0.995)) if len(everything) else 1.0
    edges = np.linspace(low, max(high, low + 1e-9), _BINS + 1)
    counts = {
        name: np.histogram(np.minimum(part, edges[-1]), edges)[0] for name, part in zip(names, values, strict=True)
    }
    alt = f"largest distance of the distributions {statistic:.3f}"
    return histograms(f"{caption} (largest distance of the distributions: {statistic:.3f})", alt, edges, counts, unit)


def largest_gap(one: NDArray[np.number], other: NDArray[np.number]) -> float:
    """Compute the largest distance of two cumulative distributions, 0 to 1 (Kolmogorov-Smirnov); 0 without values."""
    if not (len(one) and len(other)):
        return 0.0
    points = np.concatenate([one, other])
    shares = [np.searchsorted(np.sort(part), points, side="right") / len(part) for part in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())


def _languages(samples: tuple[Sample, Sample], names: tuple[str, str]) -> list[Block]:
    parts = [sample.frame["language"].fill_null("unknown").value_counts(normalize=True) for sample in samples]
    one, other = (dict(zip(part["language"], part["proportion"], strict=True)) for part in parts)
    languages = sorted(one.keys() | other.keys(), key=lambda name: -max(one.get(name, 0), other.get(name, 0)))
    drift = sum(abs(one.get(name, 0) - other.get(name, 0)) for name in languages) / 2
    changes = {name: round(other.get(name, 0) - one.get(name, 0), 4) for name in languages[:_LANGUAGES]}
    alt = "; ".join(f"{name}: {change:+.1%}" for name, change in changes.items())
    verdict: Verdict = "check" if drift > _MUCH_DRIFT else "good"
    fact = Fact("Languages", f"{drift:.1%} of the rows would have to change their language", verdict)
    return [
        Facts([fact]),
        bars(f"Share of languages: {names[1]} less {names[0]}", alt, changes, "difference of shares"),
    ]


def _scores_section(
    common: CommonRows,
    datasets: tuple[OpenedDataset, OpenedDataset],
    samples: tuple[Sample, Sample],
    names: tuple[str, str],
    seed: int = 0,
) -> Section:
    """Compare the scores that both have: their distributions, and their ranks over rows in common."""
    columns = [number_scores(dataset, sample) for dataset, sample in zip(datasets, samples, strict=True)]
    shared = [name for name in columns[0] if name in columns[1]]
    if not shared:
        return Section("scores", "Drift of scores", [Note("The datasets have no scores of the same name.")])
    pairs, figures, rows = common.draw(SAMPLE_ROWS, np.random.default_rng(seed)), [], []
    for name in shared[:_SHOWN]:
        values = [finite_values(sample.frame[name]) for sample in samples]
        figures.append(_drift(values, names, name, name))
        one = read_column(datasets[0], pairs["split"], pairs["index"], name).cast(pl.Float64).to_numpy()
        other = read_column(datasets[1], pairs["split_b"], pairs["index_b"], name).cast(pl.Float64).to_numpy()
        both = np.isfinite(one) & np.isfinite(other)
        rank = f"{spearman(one[both], other[both]):.3f}" if both.sum() > 1 else "–"
        rows.append((name, *(f"{part.mean():.4g}" if len(part) else "–" for part in values), rank))
    heads = ("score", f"mean in {names[0]}", f"mean in {names[1]}", "rank correlation over rows in common")
    return Section(
        "scores", "Drift of scores", [Table("Scores", heads, rows, frozenset({1, 2, 3})), FigureGrid(figures)]
    )
