"""Outputs of a weak label run, rendered from its state."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data_pipeline.config.labels import LabelConfig
from data_pipeline.judge import RELEVANT
from data_pipeline.retrieval.ids import has_white_space
from data_pipeline.utils import atomic_write_json
from data_pipeline.weak_labels import export
from data_pipeline.weak_labels.agreement import agreement
from data_pipeline.weak_labels.label_accounts import Inputs, accounts_of_run
from data_pipeline.weak_labels.negatives import Mined, mine
from data_pipeline.weak_labels.push import write_card
from data_pipeline.weak_labels.qrels import Grades
from data_pipeline.weak_labels.state import JudgedPair, State
from data_pipeline.weak_labels.systems import labels_of, own_runs, rank_systems


def render(config: LabelConfig, inputs: Inputs, state: State) -> Mapping[str, Any]:
    """Write the outputs of a run from its state; returns the content of report.json.

    Raises:
        StoreError: the accounts of inputs and outputs do not add up.
    """
    folder, passages = config.work_dir / config.run, inputs.passages

    def pairs() -> Iterator[JudgedPair]:
        return state.judged_pairs(config.run)

    def text_of(passage_id: str) -> str:
        return passages[passages.row_of(passage_id)].text

    def neighbours_of(passage_id: str) -> list[str]:
        rows = passages.neighbours(passages.row_of(passage_id))
        return passages.ids(np.array(rows, np.int64)) if rows else []

    # First, so that accounts that do not add up leave the outputs of an earlier call as they are.
    accounts = accounts_of_run(inputs, config.run, state)
    output, queries, tally = config.output, state.queries(config.run), LabelCounts()
    export.write_qrels(folder / "qrels.tsv", pairs(), output.zeros)
    with export.MinedFiles(folder, text_of, output.training_negatives, config.negatives.margin_score) as files:
        for group in export.by_query(pairs()):
            query = mine(group, config.negatives, text_of, neighbours_of, config.positives)
            files.add(query)
            tally.add(query)
    tally.positives[0] += len(queries) - tally.positives.total()
    export.write_judgements(folder / "judgements.parquet", pairs())
    for copy, name in ((output.qrels_path, "qrels.tsv"), (output.triples_path, "triples.jsonl")):
        if copy is not None:
            export.copy_file(folder / name, copy)
    if config.output.beir:
        everything = (
            (name, text)
            for start, texts in passages.blocks()
            for name, text in zip(passages.ids(np.arange(start, start + len(texts))), texts, strict=True)
        )
        export.write_beir(folder / "beir", pairs(), everything, queries, config.output.zeros)
    figures = {
        "accounts": {account.name: account.to_json() for account in (*accounts, *files.accounts)},
        **_figures(config, inputs, state, tally),
    }
    atomic_write_json(folder / "report.json", figures)
    write_card(folder, config.run, figures)
    return figures


@dataclass
class LabelCounts:
    """Counts of the positives and negatives of all queries."""

    positives: Counter[int] = field(default_factory=Counter)
    """Numbers of queries, by their number of positives."""
    kinds: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    short: int = 0
    """Number of queries with a positive and fewer negatives than requested."""

    def add(self, query: Mined) -> None:
        """Count the next query."""
        self.positives[len(query.positives)] += 1
        self.kinds.update(negative.kind for negative in query.negatives)
        self.left_out.update(query.left_out)
        self.short += bool(query.positives) and query.missing > 0


def _figures(config: LabelConfig, inputs: Inputs, state: State, tally: LabelCounts) -> dict[str, Any]:
    """Compute the figures of the labels, without times, so that they are reproducible."""
    grades = Counter(
        pair.judgement.grade
        for pair in state.judged_pairs(config.run)
        if pair.judgement is not None and pair.judgement.grade is not None
    )
    gold = None if inputs.gold is None else inputs.gold.labels
    return {
        "statuses": state.counts(config.run),
        "grades": {str(grade): grades[grade] for grade in sorted(grades)},
        "queries_by_positives": {str(count): tally.positives[count] for count in sorted(+tally.positives)},
        "negatives": tally.kinds.total(),
        "negatives_by_kind": dict(sorted(tally.kinds.items())),
        "negatives_left_out": dict(sorted(tally.left_out.items())),
        "queries_short_of_negatives": tally.short,
        "gold": None if inputs.gold is None else inputs.gold.to_json(),
        "agreement_with_gold": None if gold is None else agreement(state.judged_pairs(config.run), gold).to_json(),
        "systems": None if gold is None else _systems(config, inputs, gold, state),
        "not_asked": _not_asked(config, gold or {}, state),
        "percent_encoded_ids": _encoded_ids(config, state),
        "judge": json.loads(json.dumps(state.run_record(config.run)["judge"])),
    }


def _systems(config: LabelConfig, inputs: Inputs, gold: Grades, state: State) -> dict[str, Any]:
    """Rank systems by the labels and by gold: those of the run itself, and those of `runs`."""
    pairs = [pair for pair in state.judged_pairs(config.run) if pair.query_id in gold]
    return rank_systems({**own_runs(pairs), **inputs.runs}, labels_of(pairs), gold)


def _not_asked(config: LabelConfig, gold: Grades, state: State) -> dict[str, dict[str, int]]:
    """Count the pairs that the prefilter skipped, by rule, and those of them that gold calls relevant."""
    counts_by_rule: dict[str, dict[str, int]] = {}
    for pair in state.judged_pairs(config.run):
        rule = pair.candidate.provenance.get("not_asked")
        if rule is not None:
            counts = counts_by_rule.setdefault(str(rule), {"pairs": 0, "relevant_in_gold": 0})
            counts["pairs"] += 1
            grade = gold.get(pair.candidate.query_id, {}).get(pair.candidate.passage_id, 0)
            counts["relevant_in_gold"] += grade >= RELEVANT
    return counts_by_rule


def _encoded_ids(config: LabelConfig, state: State) -> dict[str, int]:
    """Count the queries and passages whose ids have white space, which is percent-encoded in qrels.tsv."""
    queries, passages = set(), set()
    for pair in state.judged_pairs(config.run):
        queries.add(pair.query_id)
        passages.add(pair.candidate.passage_id)
    return {"queries": sum(map(has_white_space, queries)), "passages": sum(map(has_white_space, passages))}
