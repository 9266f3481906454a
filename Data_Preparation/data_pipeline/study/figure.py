"""Figure of accuracy against budget, with the band of random rows."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipeline.study.table import Row, percent
from data_pipeline.utils import atomic_write_bytes, require

# Colours of Okabe and Ito, distinct for all kinds of colour vision; repeated with other marks.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKS = ("o", "s", "^", "D", "v", "P", "X")
_RANDOM, _GREY = "random", "#777777"
_Z = 1.96
_BELOW = 0.08  # accuracy below the worst random mean at which the axis is cut off; the legend gives what lies below
_SPREAD = 0.2  # fraction of a budget over which its error bars are spread


def write_figure(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write `figure.png` and `figure.svg`, one panel per model.

    Error bars are 1.96 standard errors over seeds. The dark band is that of the mean of random rows, the light one
    spans the worst to the best random seed; a dashed line is the accuracy with all rows.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib", "study", "the figure of a study")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys((row.model, row.study) for row in rows))
    # The same rows give the same bytes: no date, and no random names in the SVG.
    with rc_context({"svg.hashsalt": "study", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(8.5, 4.4 * len(panels)), layout="constrained")
        for number, (model, study) in enumerate(panels, start=1):
            axes = figure.add_subplot(len(panels), 1, number)
            _panel(axes, [row for row in rows if (row.model, row.study) == (model, study)])
            axes.set_title(f"{model} ({study})" if len(panels) > 1 else model, loc="left")
        paths = []
        for ending, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            content = io.BytesIO()
            figure.savefig(content, format=ending, dpi=160, metadata=metadata)
            paths.append(folder / f"figure.{ending}")
            atomic_write_bytes(paths[-1], content.getvalue())
    return paths


def _panel(axes: Any, rows: Sequence[Row]) -> None:
    all_rows = [row for row in rows if row.fraction == 1]
    subsets = [row for row in rows if row.fraction < 1]
    random = [row for row in subsets if row.method == _RANDOM]
    if random:
        _band(axes, random)
    # Best at the largest budget first: the legend is in the order of the lines.
    ranked = sorted(subsets, key=lambda row: (-row.fraction, -row.accuracy, row.method))
    methods = list(dict.fromkeys(row.method for row in ranked if row.method != _RANDOM))
    fractions = sorted({row.fraction for row in subsets})
    floor = min((row.accuracy for row in random), default=_BELOW) - _BELOW
    for number, method in enumerate(methods):
        points = [row for row in subsets if row.method == method]
        worst = min(row.accuracy for row in points)
        name = method if worst >= floor else f"{method} (down to {100 * worst:.0f})"
        # Side by side: overlapping bars are unreadable.
        shift = 1 + _SPREAD * ((number + 0.5) / len(methods) - 0.5)
        axes.errorbar(
            [100 * row.fraction * shift for row in points], [100 * row.accuracy for row in points],
            yerr=[100 * _Z * (row.accuracy_se or 0) for row in points], label=name, capsize=2, linewidth=1.2,
            color=_COLOURS[number % len(_COLOURS)], marker=_MARKS[number // len(_COLOURS) % len(_MARKS)], markersize=4,
        )  # fmt: skip
    if all_rows:
        level = 100 * sum(row.accuracy for row in all_rows) / len(all_rows)
        axes.axhline(level, color=_GREY, linestyle="--", linewidth=1, label=f"all rows ({level:.1f})")
    if any(row.accuracy < floor for row in subsets):
        axes.set_ylim(bottom=100 * floor)
    if fractions:
        axes.set_xscale("log")
        axes.set_xticks([100 * fraction for fraction in fractions], [percent(fraction) for fraction in fractions])
        axes.minorticks_off()
    axes.set_xlabel("rows kept")
    axes.set_ylabel("accuracy on dev, per cent")
    axes.grid(axis="y", linewidth=0.4, alpha=0.6)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)


def _band(axes: Any, rows: Sequence[Row]) -> None:
    budgets = [100 * row.fraction for row in rows]
    means = [100 * row.accuracy for row in rows]
    errors = [100 * _Z * (row.accuracy_se or 0) for row in rows]
    lowest, highest = [100 * row.accuracy_min for row in rows], [100 * row.accuracy_max for row in rows]
    axes.fill_between(
        budgets, lowest, highest, color=_GREY, alpha=0.15, linewidth=0, label="random, worst to best seed"
    )
    low = [mean - error for mean, error in zip(means, errors, strict=True)]
    high = [mean + error for mean, error in zip(means, errors, strict=True)]
    axes.fill_between(budgets, low, high, color=_GREY, alpha=0.35, linewidth=0, label="random, mean ± 1.96 s.e.")
    axes.plot(budgets, means, color=_GREY, linewidth=1.6, label="random")
