"""Rankings of retrieval systems under the labels and under gold: do the labels tell which system is better?

Weak labels are used for this in evaluation, and agreement on single pairs does not measure it (Voorhees, 2000).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from data_pipeline.utils import require
from data_pipeline.weak_labels.qrels import Grades, Run
from data_pipeline.weak_labels.state import JudgedPair


def own_runs(pairs: Iterable[JudgedPair]) -> dict[str, Run]:
    """Collect the rankings of the sampled pairs by each retriever: bm25, dense, fused, rerank, as far as they exist."""
    runs: dict[str, dict[str, dict[str, float]]] = {}
    for pair in pairs:
        for name, rank in pair.candidate.ranks.items():
            runs.setdefault(name, {}).setdefault(pair.query_id, {})[pair.candidate.passage_id] = 1.0 / rank
    return dict(runs)


def labels_of(pairs: Iterable[JudgedPair]) -> Grades:
    """Collect the grades of a run; pairs without a grade are left out."""
    grades: dict[str, dict[str, int]] = {}
    for pair in pairs:
        if pair.grade is not None:
            grades.setdefault(pair.query_id, {})[pair.candidate.passage_id] = pair.grade
    return grades


def rank_systems(systems: Mapping[str, Run], labels: Grades, gold: Grades) -> dict[str, Any]:
    """Compute nDCG@10 of each system under labels and gold, and Kendall's tau between the two rankings of systems.

    Args:
        systems: two or more runs by name.
        labels: grades by the judge.
        gold: grades by people on the scale of the labels, 0 to 3; see `Gold.labels`.

    Returns:
        `queries`, the number of queries that have both; `systems`, name -> nDCG@10 under `labels` and `gold`; and
        `kendall_tau`, tau-b from -1 to 1, or None if there are no such queries or all systems are equal under one.

    Raises:
        MissingExtraError: the extra weak-labels is not installed.
    """
    queries = sorted(labels.keys() & gold.keys())
    gains = [{query: dict(grades[query]) for query in queries} for grades in (labels, gold)]
    values = {name: [_ndcg(by_query, run) for by_query in gains] for name, run in sorted(systems.items())}
    stats = require("scipy.stats", "weak-labels", "Kendall's tau")
    columns = list(zip(*values.values(), strict=True))
    is_defined = bool(queries) and len(values) > 1 and all(len(set(column)) > 1 for column in columns)
    tau = float(stats.kendalltau(*columns).statistic) if is_defined else None
    return {
        "queries": len(queries),
        "systems": {
            name: {"labels": round(by_labels, 4), "gold": round(by_gold, 4)}
            for name, (by_labels, by_gold) in values.items()
        },
        "kendall_tau": None if tau is None else round(tau, 4),
    }


def _ndcg(gains: Mapping[str, dict[str, int]], run: Run) -> float:
    """Compute the mean nDCG@10 over the queries of `gains`; a query that the run lacks counts as 0."""
    measures = require("ir_measures", "weak-labels", "nDCG")
    if not gains:
        return 0.0
    measure = measures.nDCG @ 10
    scores = {query_id: dict(by_passage) for query_id, by_passage in run.items()}
    values: Sequence[Any] = list(measures.iter_calc([measure], gains, scores))
    return math.fsum(value.value for value in values) / len(gains)
