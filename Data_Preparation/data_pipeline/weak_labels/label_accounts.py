"""Accounts of a run of weak labels: passages, queries, candidates, pairs and gold judgements."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from data_pipeline.retrieval.passages import Passages
from data_pipeline.weak_labels.accounts import Account
from data_pipeline.weak_labels.gold import Gold
from data_pipeline.weak_labels.qrels import Run
from data_pipeline.weak_labels.state import State


@dataclass
class Searches:
    """Counts of the candidates of a search, updated while it runs."""

    candidates: int = 0
    """Number of candidates of all queries."""
    sampled: int = 0
    """Number of candidates that were sampled."""
    without: dict[str, str] = field(default_factory=dict)
    """Query id -> reason, for queries without sampled candidates."""

    def add(self, query_id: str, candidates: int, sampled: int, reason: str) -> None:
        """Count the candidates of a query.

        Args:
            query_id: id of the query.
            candidates: number of candidates.
            sampled: number of candidates that were sampled.
            reason: reason why there is no candidate; empty if there are some.
        """
        self.candidates += candidates
        self.sampled += sampled
        if not sampled:
            self.without[query_id] = reason or "none_sampled"


@dataclass(frozen=True)
class Inputs:
    """Inputs of a run."""

    passages: Passages
    queries_read: int
    """Number of queries in the file."""
    queries_used: int
    """Number of queries that are used: at most `max_queries`."""
    gold: Gold | None
    runs: Mapping[str, Run]
    """Runs of retrieval systems, by file name."""
    searches: Searches = field(default_factory=Searches)
    """Counts of the candidates, known after the search."""


def accounts_of_run(inputs: Inputs, run: str, state: State) -> list[Account]:
    """Make the accounts of all steps of a run up to the judging.

    Raises:
        StoreError: an account does not add up.
    """
    query_ids = [query_id for query_id, _ in state.queries(run)]
    pairs, with_candidates, compared = _count_pairs(inputs.gold, run, state)
    empty = int(inputs.passages.is_empty.sum())
    searches, left_out = inputs.searches, inputs.passages.left_out
    accounts = [
        Account(
            "passages", {"read": len(inputs.passages) + sum(left_out.values())},
            {"indexed": len(inputs.passages) - empty, "empty": empty, "left_out": dict(left_out)},
        ),
        _queries_account(inputs, query_ids, with_candidates),
        Account(
            "candidates", {"found": searches.candidates},
            {"sampled": searches.sampled, "not_sampled": searches.candidates - searches.sampled},
        ),
        Account("pairs", {"sampled": sum(state.counts(run).values())}, pairs),
    ]  # fmt: skip
    if inputs.gold is not None:
        accounts.append(_gold_account(inputs.gold, compared))
    return accounts


def _queries_account(inputs: Inputs, query_ids: list[str], with_candidates: set[str]) -> Account:
    reasons = Counter(
        inputs.searches.without.get(query_id, "not_searched")
        for query_id in query_ids
        if query_id not in with_candidates
    )
    return Account(
        "queries",
        {"read": inputs.queries_read, "of_earlier_calls": len(query_ids) - inputs.queries_used},
        {
            "beyond_max_queries": inputs.queries_read - inputs.queries_used,
            "with_candidates": len(with_candidates),
            "without_candidates": dict(sorted(reasons.items())),
        },
    )


def _count_pairs(gold: Gold | None, run: str, state: State) -> tuple[dict[str, int | dict[str, int]], set[str], int]:
    """Count pairs by outcome, collect the queries that have pairs, and count the labels with a gold judgement."""
    failed: Counter[str] = Counter()
    prefiltered: Counter[str] = Counter()
    judged = unjudged = compared = 0
    queries: set[str] = set()
    for pair in state.judged_pairs(run):
        queries.add(pair.query_id)
        rule = pair.candidate.provenance.get("not_asked")
        if pair.grade is not None:
            judged += 1
            compared += gold is not None and pair.candidate.passage_id in gold.grades.get(pair.query_id, {})
        elif pair.judgement is not None:
            failed[pair.judgement.status] += 1
        elif rule is not None:
            prefiltered[str(rule)] += 1
        else:
            unjudged += 1
    pairs: dict[str, int | dict[str, int]] = {
        "judged": judged,
        "failed": dict(sorted(failed.items())),
        "prefiltered": dict(sorted(prefiltered.items())),
        "unjudged": unjudged,
    }
    return pairs, queries, compared


def _gold_account(gold: Gold, compared: int) -> Account:
    return Account(
        "gold",
        {"judgements": gold.judgements},
        {
            "compared": compared,
            "of_other_queries": gold.other_queries,
            "of_other_passages": gold.other_passages,
            "without_label": gold.pairs - compared,
        },
    )
