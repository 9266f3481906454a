"""Specifications of Plotly figures, as JSON values. Colours are set by the page, which knows the theme."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.report.blocks import Figure

_CONTROLS = dict.fromkeys((*range(32), *range(127, 160), 0x2028, 0x2029), " ")


def label(text: str, limit: int = 40) -> str:
    """Return a text as Plotly shows it: Plotly reads some HTML in labels, so markup and controls are escaped."""
    text = text.translate(_CONTROLS)
    return html.escape(text if len(text) <= limit else text[: limit - 1] + "…", quote=False)


def bars(caption: str, alt: str, counts: Mapping[str, float], unit: str, *, is_log: bool = False) -> Figure:
    """Draw a horizontal bar for each count, the first one at the top.

    Args:
        caption: caption of the figure.
        alt: what it shows, in words.
        counts: values by name.
        unit: title of the axis of the values.
        is_log: whether that axis is logarithmic.
    """
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": list(counts.values()),
        "y": [label(name) for name in counts],
        "hovertemplate": "%{y}: %{x:,}<extra></extra>",
    }
    axis: dict[str, Any] = {"title": {"text": label(unit)}} | ({"type": "log"} if is_log else {})
    layout = {"xaxis": axis, "yaxis": {"autorange": "reversed", "type": "category", "automargin": True}}
    return Figure(caption, alt, {"data": [trace], "layout": layout}, max(160, 70 + 24 * len(counts)))


def histograms(
    caption: str,
    alt: str,
    edges: NDArray[Any],
    counts: Mapping[str, NDArray[Any]],
    unit: str,
    lines: Mapping[str, float] | None = None,
) -> Figure:
    """Draw histograms over the same bins, as shares of their rows, so that groups of different size compare.

    Args:
        caption: caption of the figure.
        alt: what it shows, in words.
        edges: edges of the bins, shape (B + 1,).
        counts: rows in each bin by group, each of shape (B,).
        unit: title of the axis of the values.
        lines: values that are marked by a line, by name.
    """
    centers, widths = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    traces = [
        {
            "type": "bar",
            "name": label(name),
            "x": _rounded(centers),
            "y": _rounded(values / max(1, values.sum())),
            "customdata": values.tolist(),
            "width": _rounded(widths),
            "opacity": 1 if len(counts) == 1 else 0.6,
            "hovertemplate": "%{x:.4~g}: %{customdata:,} rows (%{y:.1%})<extra>" + label(name) + "</extra>",
        }
        for name, values in counts.items()
    ]
    layout = {
        "barmode": "overlay",
        "xaxis": {"title": {"text": label(unit)}},
        "yaxis": {"title": {"text": "share of rows"}, "tickformat": ".0%"},
        **marked(lines or {}),
    }
    return Figure(caption, alt, {"data": traces, "layout": layout})


def marked(lines: Mapping[str, float]) -> dict[str, Any]:
    """Return the parts of a layout that mark values of the horizontal axis by lines."""
    shapes = [
        {
            "type": "line",
            "x0": value,
            "x1": value,
            "yref": "paper",
            "y0": 0,
            "y1": 1,
            "line": {"dash": "dash", "width": 1},
        }
        for value in lines.values()
    ]
    annotations = [
        {
            "x": value,
            "yref": "paper",
            "y": 1 - 0.09 * number,
            "text": label(name),
            "showarrow": False,
            "xanchor": "left",
        }
        for number, (name, value) in enumerate(lines.items())
    ]
    return {"shapes": shapes, "annotations": annotations}


def curves(
    caption: str, alt: str, lines: Mapping[str, tuple[Sequence[Any], Sequence[float | None]]], x: str, y: str
) -> Figure:
    """Draw lines with markers.

    Args:
        caption: caption of the figure.
        alt: what it shows, in words.
        lines: positions and values by name.
        x: title of the horizontal axis.
        y: title of the vertical axis.
    """
    traces = [
        {"type": "scatter", "mode": "lines+markers", "name": label(name), "x": list(positions), "y": list(values)}
        for name, (positions, values) in lines.items()
    ]
    is_named = any(isinstance(position, str) for positions, _ in lines.values() for position in positions)
    axis = {"title": {"text": label(x)}} | ({"type": "category"} if is_named else {})
    layout = {"xaxis": axis, "yaxis": {"title": {"text": label(y)}, "rangemode": "tozero"}}
    return Figure(caption, alt, {"data": traces, "layout": layout})


def heat_map(caption: str, alt: str, names: Sequence[str], values: NDArray[np.float64]) -> Figure:
    """Draw a square matrix of correlations, -1 to 1.

    Args:
        caption: caption of the figure.
        alt: what it shows, in words.
        names: names of rows and columns.
        values: the matrix, shape (N, N); NaN where there is no value.
    """
    cells = [[None if np.isnan(value) else round(float(value), 3) for value in row] for row in values]
    labels = [label(name, 24) for name in names]
    trace = {
        "type": "heatmap", "x": labels, "y": labels, "z": cells, "zmin": -1, "zmax": 1, "colorscale": "RdBu",
        "texttemplate": "%{z:.2f}", "hovertemplate": "%{y} and %{x}: %{z:.3f}<extra></extra>",
    }  # fmt: skip
    layout = {
        "yaxis": {"autorange": "reversed", "automargin": True, "type": "category"},
        "xaxis": {"automargin": True, "type": "category"},
    }
    return Figure(caption, alt, {"data": [trace], "layout": layout}, 140 + 30 * len(names))


def funnel(caption: str, alt: str, steps: Mapping[str, int]) -> Figure:
    """Draw the numbers that are left after each step."""
    trace = {
        "type": "funnel",
        "y": [label(name) for name in steps],
        "x": list(steps.values()),
        "texttemplate": "%{value:,} (%{percentInitial:.1%})",
        "hovertemplate": "%{y}: %{x:,}<extra></extra>",
    }
    layout = {"yaxis": {"automargin": True, "type": "category"}}
    return Figure(caption, alt, {"data": [trace], "layout": layout}, max(200, 60 + 48 * len(steps)))


def _rounded(values: NDArray[Any]) -> list[float]:
    """Six digits, which is more than a screen shows, in few bytes."""
    return [float(f"{value:.6g}") for value in values.tolist()]
