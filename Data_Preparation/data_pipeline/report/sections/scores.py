"""Section with the scores of heads and measures: distributions, agreement, and calibration where labels are known."""

from collections.abc import Iterator

import numpy as np
import polars as pl
from numpy.typing import NDArray

from data_pipeline.heads.metrics import expected_calibration_error, reliability, spearman
from data_pipeline.report.blocks import Block, Figure, FigureGrid, Section, Table
from data_pipeline.report.figures import curves, heat_map, histograms
from data_pipeline.report.opened import SPLIT, OpenedDataset, Sample

_BINS = 40
_SHOWN = 24
_MIN_SHARED = 3
_MIN_LABELLED = 20


def scores_section(dataset: OpenedDataset, sample: Sample) -> Section | None:
    """Describe the scores of the rows; None if there are none."""
    folders = {scores.name: scores.columns for rows in dataset.rows.values() for scores in rows.source.scores}
    if not (numbers := number_scores(dataset, sample)):
        return None
    blocks: list[Block] = [_summary(sample.frame, numbers)]
    blocks.append(FigureGrid([_distribution(sample.frame, name) for name in numbers[:_SHOWN]]))
    if len(numbers) > 1:
        blocks.append(_agreement(sample.frame, numbers[:_SHOWN]))
    blocks += _calibrations(sample.frame, folders)
    return Section("scores", "Scores", blocks, f"Measured on {sample.described}.")


def number_scores(dataset: OpenedDataset, sample: Sample) -> list[str]:
    """Return the names of the scores of a dataset that are numbers."""
    names = dict.fromkeys(
        name for rows in dataset.rows.values() for scores in rows.source.scores for name in scores.columns
    )
    return [name for name in names if name in sample.frame.columns and sample.frame[name].dtype.is_numeric()]


def _summary(frame: pl.DataFrame, names: list[str]) -> Table:
    rows = []
    for name in names:
        column = frame[name].cast(pl.Float64).fill_nan(None)
        present = column.drop_nulls()
        numbers = [present.quantile(part) for part in (0, 0.25, 0.5, 0.75, 1)] if len(present) else []
        rows.append((name, f"{len(present):,}", *(f"{number:.4g}" for number in numbers if number is not None)))
    columns = ("score", "rows", "lowest", "25 %", "median", "75 %", "highest")
    return Table("Scores", columns, [[*row, *[""] * (len(columns) - len(row))] for row in rows], frozenset(range(1, 7)))


def _distribution(frame: pl.DataFrame, name: str) -> Figure:
    values = {split: finite_values(part[name]) for (split,), part in frame.group_by(SPLIT, maintain_order=True)}
    everything = np.concatenate([*values.values()])
    low, high = (float(everything.min()), float(everything.max())) if len(everything) else (0.0, 1.0)
    edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
    counts = {str(split): np.histogram(part, edges)[0] for split, part in values.items() if len(part)}
    alt = "; ".join(f"{split}: median {np.median(part):.3g}" for split, part in values.items() if len(part))
    return histograms(f"Distribution of {name}", alt, edges, counts, name)


def finite_values(column: pl.Series) -> NDArray[np.float64]:
    """Return the values of a column that are finite numbers."""
    values: NDArray[np.float64] = column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return values[np.isfinite(values)]


def _agreement(frame: pl.DataFrame, names: list[str]) -> Block:
    """Rank correlations of all pairs of scores, over the rows that have both."""
    columns = [frame[name].cast(pl.Float64).fill_null(float("nan")).to_numpy() for name in names]
    matrix = np.full((len(names), len(names)), np.nan)
    for one, left in enumerate(columns):
        for other, right in enumerate(columns[: one + 1]):
            both = np.isfinite(left) & np.isfinite(right)
            if both.sum() >= _MIN_SHARED:
                matrix[one, other] = matrix[other, one] = spearman(left[both], right[both])
    off = matrix[~np.eye(len(names), dtype=bool)]
    alt = f"from {np.nanmin(off):.2f} to {np.nanmax(off):.2f}" if np.isfinite(off).any() else "not defined"
    return heat_map("Agreement of scores (Spearman rank correlation)", f"Rank correlations {alt}.", names, matrix)


def _calibrations(frame: pl.DataFrame, folders: dict[str, list[str]]) -> Iterator[Block]:
    """Calibration of heads whose labels are those of a metadata column."""
    for head, columns in folders.items():
        label = f"{head}_label"
        if label not in columns or label not in frame.columns or head not in frame.columns:
            continue
        predicted = frame[label].cast(pl.String)
        for name in frame.columns:
            if name in columns or frame[name].dtype != pl.String or name in {"text", "text_id", "document_id", SPLIT}:
                continue
            if set(predicted.drop_nulls()) <= set(frame[name].drop_nulls()):
                yield from _calibration(frame, head, label, name)


def _calibration(frame: pl.DataFrame, head: str, label: str, truth: str) -> Iterator[Block]:
    lines = {}
    errors = []
    for (split,), part in frame.group_by(SPLIT, maintain_order=True):
        known = part.drop_nulls([head, label, truth])
        if len(known) < _MIN_LABELLED:
            continue
        is_right = (known[label].cast(pl.String) == known[truth]).to_numpy()
        probability = known[head].cast(pl.Float64).to_numpy().clip(0, 1)
        bins = reliability(is_right, probability)
        lines[str(split)] = ([round(one.predicted, 4) for one in bins], [round(one.observed, 4) for one in bins])
        errors.append(f"{split}: expected calibration error {expected_calibration_error(is_right, probability):.3f}")
    if lines:
        lines["ideal"] = ([0.0, 1.0], [0.0, 1.0])
        caption = f"Calibration of {head} against {truth}"
        yield curves(caption, "; ".join(errors), lines, "predicted probability", "share that is right")
