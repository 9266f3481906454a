"""Section with the map of the vectors: coordinates, colours, texts and neighbours, packed for the page."""

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from data_pipeline.report.blocks import Map, Section
from data_pipeline.report.figures import label
from data_pipeline.report.neighbors import Neighbors
from data_pipeline.report.opened import ROW, SPLIT, Sample
from data_pipeline.report.page import json_in_html
from data_pipeline.types import Float32Array
from data_pipeline.utils import shortened

_BYTES = 6_000_000  # beside the 5 MB of Plotly's script
_TEXT_CHARS = (2000, 1200, 800, 500, 300, 220, 160, 120, 80, 40)
_ID_CHARS = 120
_MAX_GROUPS = 24
_OTHERS = "others"
_SHOWN_COLUMNS = 24


def map_section(
    sample: Sample, projections: Mapping[str, Float32Array], neighbors: Neighbors, colors: Mapping[str, Sequence[str]]
) -> Section:
    """Draw the rows by their vectors.

    Args:
        sample: the rows.
        projections: coordinates by name of the projection, each of shape (N, 2).
        neighbors: nearest neighbours of the rows.
        colors: further groups of the rows by name, such as clusters and subsets: a name for each row.
    """
    values: dict[str, Any] = {
        "count": len(sample),
        "ids": [shortened(name, _ID_CHARS) for name in sample.ids],
        "projections": {name: packed(points.astype("<f4").ravel()) for name, points in projections.items()},
        "neighbors": packed(neighbors.rows.astype("<u4" if len(sample) > 65_535 else "<u2").ravel()),
        "cosines": packed(np.rint(neighbors.cosines * 30_000).astype("<i2").ravel()),
        "neighborCount": neighbors.rows.shape[1],
        "wide": len(sample) > 65_535,
        "colors": _colors(sample.frame, colors),
    }
    limit = text_limit(sample.texts, _BYTES - len(json_in_html(values).encode()))
    values["texts"] = [shortened(text, limit) for text in sample.texts]
    drawn = f"{sample.described}; texts are cut at {limit:,} characters" if _is_cut(sample, limit) else sample.described
    lead = "Each point is a row; rows with similar vectors are near each other, as far as two dimensions can show it."
    return Section("map", "Map", [Map(f"Shown: {drawn}.", values)], lead)


def text_limit(texts: Sequence[str], budget: int) -> int:
    """Return the number of characters that texts are cut at, from 40 to 2,000, so that they fit a page.

    Args:
        texts: the texts; a thousand of them are measured.
        budget: number of bytes that all of them may take in the page.
    """
    measured = texts[:: max(1, len(texts) // 1000)]
    for limit in _TEXT_CHARS:
        size = sum(len(json_in_html(text[:limit]).encode()) for text in measured)
        if size * len(texts) <= budget * max(1, len(measured)):
            return limit
    return _TEXT_CHARS[-1]


def _is_cut(sample: Sample, limit: int) -> bool:
    return any(len(text) > limit for text in sample.texts)


def packed(values: NDArray[Any]) -> str:
    """Return the bytes of an array as base64, little-endian."""
    return base64.b64encode(values.tobytes()).decode()


def _colors(frame: pl.DataFrame, further: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Colours of the points: groups have the name of each group and its number for each row, numbers their values."""
    colors = [_groups("split", frame[SPLIT])]
    for name in frame.columns:
        if name in {"text_id", "text", "document_id", SPLIT, ROW} or len(colors) >= _SHOWN_COLUMNS:
            continue
        if (color := _color_of(name, frame[name])) is not None:
            colors.append(color)
    return [*colors, *(_groups(name, pl.Series(name, values)) for name, values in further.items())]


def _color_of(name: str, column: pl.Series) -> dict[str, Any] | None:
    """Colour by a column; None if it is of one value, or of as many as rows."""
    distinct = column.n_unique()
    if distinct < 2:
        return None
    if column.dtype.is_numeric() and distinct > _MAX_GROUPS:
        values = column.cast(pl.Float32).fill_null(float("nan")).to_numpy()
        return {"name": name, "kind": "number", "values": packed(values.astype("<f4"))}
    is_group = distinct <= _MAX_GROUPS or (column.dtype == pl.String and distinct < len(column) / 4)
    return _groups(name, column) if is_group else None


def _groups(name: str, column: pl.Series) -> dict[str, Any]:
    """Colour by groups, the largest first; beyond 24 groups, the smaller ones are one."""
    texts = column.cast(pl.String, strict=False).fill_null("none")
    counts = texts.value_counts(sort=True).sort(["count", texts.name], descending=[True, False])
    names = counts[texts.name].to_list()
    shown = names if len(names) <= _MAX_GROUPS else [*names[: _MAX_GROUPS - 1], _OTHERS]
    numbers: Callable[[str], int] = {
        value: min(number, len(shown) - 1) for number, value in enumerate(names)
    }.__getitem__
    codes = np.array([numbers(value) for value in texts.to_list()], np.uint8)
    return {"name": name, "kind": "group", "groups": [label(value) for value in shown], "values": packed(codes)}
