"""Retrieval systems ranked under the labels and under gold: do the labels say which system is the better one?

That is what weak labels are used for in evaluation, and what agreement on single pairs does not tell (Voorhees, 2000).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from data_pipeline.judge.state import JudgedPair
from data_pipeline.utils import require
from data_pipeline.weak_labels.qrels import Grades, Run


def own_runs(pairs: Iterable[JudgedPair]) -> dict[str, Run]:
    """The cascade's own rankings of the pairs that were sampled: bm25, dense, fused, rerank, as far as there."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for pair in pairs:
        for name, rank in pair.candidate.ranks.items():
            found.setdefault(name, {}).setdefault(pair.query_id, {})[pair.candidate.passage_id] = 1.0 / rank
    return dict(found)


def labels_of(pairs: Iterable[JudgedPair]) -> Grades:
    """The grades of a run; a pair without one is not there."""
    found: dict[str, dict[str, int]] = {}
    for pair in pairs:
        if pair.judgement is not None and pair.judgement.grade is not None:
            found.setdefault(pair.query_id, {})[pair.candidate.passage_id] = pair.judgement.grade
    return found


def rank_systems(systems: Mapping[str, Run], labels: Grades, gold: Grades) -> dict[str, Any]:
    """nDCG@10 of each system under both, over the queries that have both; and Kendall's tau between the two orders.

    Args:
        systems: two or more runs by name.
        labels: grades of a judge.
        gold: grades of people on the scale of the labels, 0 to 3; see `Gold.labels`.

    Returns:
        `queries`, `systems` (name -> labels, gold) and `kendall_tau` (tau-b, -1 to 1; None where all systems are
        equal under one of them, or none shares a query with both).

    Raises:
        MissingExtra: the extra weak-labels is not installed.
    """
    queries = sorted(labels.keys() & gold.keys())
    both = [{query: dict(side[query]) for query in queries} for side in (labels, gold)]
    values = {name: [_ndcg(side, run) for side in both] for name, run in sorted(systems.items())}
    stats = require("scipy.stats", "weak-labels", "Kendall's tau")
    enough = (
        bool(queries) and len(values) > 1 and all(len(set(side)) > 1 for side in zip(*values.values(), strict=True))
    )
    tau = float(stats.kendalltau(*zip(*values.values(), strict=True)).statistic) if enough else None
    return {
        "queries": len(queries),
        "systems": {name: {"labels": round(one, 4), "gold": round(two, 4)} for name, (one, two) in values.items()},
        "kendall_tau": None if tau is None else round(tau, 4),
    }


def _ndcg(gains: Mapping[str, dict[str, int]], run: Run) -> float:
    """Mean over the queries of `gains`; a query that the run lacks counts 0."""
    measures = require("ir_measures", "weak-labels", "nDCG")
    if not gains:
        return 0.0
    measure = measures.nDCG @ 10
    found: Sequence[Any] = list(measures.iter_calc([measure], gains, {name: dict(part) for name, part in run.items()}))
    return math.fsum(one.value for one in found) / len(gains)
