"""All evaluated runs as a table: each selector and budget compared with random rows, with errors over seeds.

A difference to random has the standard error of the difference of two independent means. All runs are evaluated on the
same dev rows: their sampling error is common to all, and not part of these numbers.
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.errors import NotFoundError, StoreError
from data_pipeline.utils import atomic_write_bytes, atomic_write_json, sha256_of_json

_RANDOM = "random"
_DESCRIBED = (
    "mean_tokens", "length_ratio", "length_drift", "label_drift", "kcenter_radius", "mean_distance", "mean_deviation",
    "mmd2", "near_duplicates_of_dev",
)  # fmt: skip
_Z = 1.96


@dataclass(frozen=True)
class Row:
    """A selector at a budget: means over its seeds."""

    model: str
    """Folder name of the model."""
    study: str
    """Short hash of model, training and data: only rows of the same study are compared."""
    method: str
    """Name of the selector in tables."""
    budget: str
    """Label of the budget, such as p10."""
    fraction: float
    """Fraction of all rows."""
    subset_rows: float
    """Rows of the subset."""
    runs: int
    """Number of runs."""
    accuracy: float
    """Accuracy on dev, 0 to 1."""
    accuracy_se: float | None
    """Standard error of the mean over seeds; None for a single run."""
    accuracy_min: float
    """Accuracy of the worst seed."""
    accuracy_max: float
    """Accuracy of the best seed."""
    f1: float
    """F1 on dev, 0 to 1."""
    loss: float
    """Mean cross-entropy on dev, in nats."""
    minus_random: float | None
    """Accuracy minus that of random rows of the same budget; None if there are none."""
    minus_random_se: float | None
    """Standard error of that difference."""
    train_s: float
    """Seconds of training."""
    rank_s: float | None = None
    """Seconds that ranking the largest budget took, if recorded."""
    seeds: tuple[int, ...] = ()
    """Seeds of the runs."""
    about: Mapping[str, float] = field(default_factory=dict)
    """Means of the descriptions of the subsets, see `data_pipeline.selection.describe`."""

    @property
    def band(self) -> tuple[float, float] | None:
        """Mean plus and minus 1.96 standard errors."""
        if self.accuracy_se is None:
            return None
        return self.accuracy - _Z * self.accuracy_se, self.accuracy + _Z * self.accuracy_se


def find_runs(artifacts: Path) -> list[dict[str, Any]]:
    """Read every `metrics.json` below a folder.

    Raises:
        NotFoundError: There is none.
    """
    paths = sorted(artifacts.rglob("metrics.json"))
    if not paths:
        raise NotFoundError(f"No metrics.json below {artifacts}. Run `elm study eval` first")
    return [{**json.loads(path.read_text(encoding="utf-8")), "path": str(path)} for path in paths]


def study_table(runs: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Aggregate runs to rows, sorted by model and budget; random first, then by descending accuracy.

    Args:
        runs: Records of `evaluate` or `run_study`.

    Raises:
        StoreError: Two different runs have the same method, budget and seed.
    """
    groups: dict[tuple[str, str, str, str], list[Mapping[str, Any]]] = {}
    for run in runs:
        key = run["model"], sha256_of_json(run["study"])[:8], run["budget"], run["method"]
        groups.setdefault(key, []).append(run)
    rows = [_row(key, _one_per_seed(group)) for key, group in groups.items()]
    randoms = {(row.model, row.study, row.budget): row for row in rows if row.method == _RANDOM}
    rows = [_compare_with_random(row, randoms.get((row.model, row.study, row.budget))) for row in rows]
    return sorted(
        rows, key=lambda row: (row.model, row.study, row.fraction, row.method != _RANDOM, -row.accuracy, row.method)
    )


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and its standard error, the sample standard deviation over the root of n; None for a single value."""
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    return float(np.mean(values)), error


def _one_per_seed(runs: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    by_seed: dict[int, Mapping[str, Any]] = {}
    for run in sorted(runs, key=lambda run: run["seed"]):
        previous = by_seed.setdefault(run["seed"], run)
        if previous["fingerprint"] != run["fingerprint"]:
            raise StoreError(
                f"two runs of {run['method']} at {run['budget']} have the seed {run['seed']}, but different rows or "
                f"settings: {previous.get('path')} and {run.get('path')}. Move one of them away"
            )
    return list(by_seed.values())


def _row(key: tuple[str, str, str, str], runs: list[Mapping[str, Any]]) -> Row:
    model, study, budget, method = key
    accuracies = [run["accuracy"] for run in runs]
    mean, error = mean_and_error(accuracies)

    def average(name: str) -> float:
        # Rounded: means of equal fractions must stay equal.
        return float(f"{np.mean([run[name] for run in runs]):.12g}")

    descriptions = [run["description"] for run in runs]
    about = {
        name: float(np.mean([description[name] for description in descriptions]))
        for name in _DESCRIBED
        if all(description.get(name) is not None for description in descriptions)
    }
    return Row(
        model, study, method, budget, average("fraction"), average("subset_rows"), len(runs), mean, error,
        min(accuracies), max(accuracies), average("f1"), average("loss"), None, None, average("train_s"),
        average("rank_s") if all("rank_s" in run for run in runs) else None,
        tuple(run["seed"] for run in runs), about,
    )  # fmt: skip


def _compare_with_random(row: Row, random: Row | None) -> Row:
    if random is None or row is random:
        return row
    error = None
    if row.accuracy_se is not None and random.accuracy_se is not None:
        error = math.hypot(row.accuracy_se, random.accuracy_se)
    return replace(row, minus_random=row.accuracy - random.accuracy, minus_random_se=error)


def write_table(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write `table.json`, `table.md` and `table.csv`."""
    listed = [{**asdict(row), "band": row.band} for row in rows]
    atomic_write_json(folder / "table.json", {"rows": listed})
    atomic_write_bytes(folder / "table.md", (markdown(rows) + "\n").encode())
    atomic_write_bytes(folder / "table.csv", _csv(rows).encode())
    return [folder / f"table.{ending}" for ending in ("json", "md", "csv")]


def markdown(rows: Sequence[Row]) -> str:
    """The table as Markdown, in per cent; one table for each model."""
    parts = []
    for model, study in dict.fromkeys((row.model, row.study) for row in rows):
        compared = [row for row in rows if (row.model, row.study) == (model, study)]
        parts.append(f"**{model}** (settings {study})\n\n" + "\n".join(_lines(compared)))
    return "\n\n".join(parts) + (
        "\n\nAccuracy on dev in per cent, ± its standard error over seeds; vs random: the difference of the means, ± "
        "its standard error. tokens: of a row, mean; near dev: rows with a cosine of 0.95 or more to a dev row."
    )


def _lines(rows: Sequence[Row]) -> list[str]:
    lines = [
        "| budget | rows | method | seeds | accuracy | vs random | F1 | tokens | label drift | radius | near dev |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        about = row.about
        cells = [
            percent(row.fraction), f"{row.subset_rows:,.0f}", row.method.replace("|", "\\|"), str(row.runs),
            _points(row.accuracy, row.accuracy_se), _points(row.minus_random, row.minus_random_se, sign="+"),
            _points(row.f1, None), _number(about, "mean_tokens", ".1f"), _number(about, "label_drift", ".3f"),
            _number(about, "kcenter_radius", ".3f"), _number(about, "near_duplicates_of_dev", ",.0f"),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def percent(fraction: float) -> str:
    """`0.00999` -> `1 %`: a fraction of whole rows is rarely a round number."""
    return f"{round(100 * fraction, 2):g} %"


def _points(value: float | None, error: float | None, sign: str = "") -> str:
    if value is None:
        return ""
    return f"{100 * value:{sign}.1f}" + ("" if error is None else f" ± {100 * error:.1f}")


def _number(about: Mapping[str, float], name: str, form: str) -> str:
    return format(about[name], form) if name in about else ""


def _csv(rows: Sequence[Row]) -> str:
    names = [name for name in Row.__dataclass_fields__ if name not in {"about", "seeds"}]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, "seeds", *_DESCRIBED])
    for row in rows:
        seeds = " ".join(map(str, row.seeds))
        writer.writerow([*(getattr(row, name) for name in names), seeds, *(row.about.get(n) for n in _DESCRIBED)])
    return text.getvalue()
