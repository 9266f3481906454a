"""What a run of weak labels writes, rendered from its state."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from data_pipeline.utils import atomic_write_json
from data_pipeline.weak_labels import export
from data_pipeline.weak_labels.agreement import agreement
from data_pipeline.weak_labels.judge import RELEVANT
from data_pipeline.weak_labels.label_config import LabelConfig
from data_pipeline.weak_labels.label_inputs import Gold
from data_pipeline.weak_labels.negatives import Mined, mine
from data_pipeline.weak_labels.passages import Passages
from data_pipeline.weak_labels.push import write_card
from data_pipeline.weak_labels.state import State


def render(config: LabelConfig, passages: Passages, gold: Gold, state: State) -> Mapping[str, Any]:
    """Write the outputs of a run from its state; returns what is in its report."""
    folder = config.work_dir / config.run

    def pairs() -> Iterator[Any]:
        return state.judged_pairs(config.run)

    def text_of(passage_id: str) -> str:
        return passages[passages.row_of(passage_id)].text

    def neighbours_of(passage_id: str) -> list[str]:
        rows = passages.neighbours(passages.row_of(passage_id))
        return passages.ids(np.array(rows, np.int64)) if rows else []

    def mined() -> Iterator[Mined]:
        for group in export.by_query(pairs()):
            yield mine(group, config.negatives, text_of, neighbours_of)

    export.write_qrels(folder / "qrels.tsv", pairs(), config.output.zeros)
    export.write_triples(folder / "triples.jsonl", mined())
    export.write_training(folder / "training.parquet", mined(), text_of, config.output.training_negatives)
    export.write_margins(folder / "margins.parquet", mined(), text_of, config.negatives.margin_score)
    export.write_judgements(folder / "judgements.parquet", pairs())
    if config.output.beir:
        everything = (
            (name, text)
            for start, texts in passages.blocks()
            for name, text in zip(passages.ids(np.arange(start, start + len(texts))), texts, strict=True)
        )
        export.write_beir(folder / "beir", pairs, everything, config.output.zeros)
    figures = _figures(config, gold, state, mined())
    atomic_write_json(folder / "report.json", figures)
    write_card(folder, config.run, figures)
    return figures


def _figures(config: LabelConfig, gold: Gold, state: State, mined: Iterator[Mined]) -> dict[str, Any]:
    """What is in the labels; nothing of how long it took, so that it is the same in every run."""
    grades = Counter(
        pair.judgement.grade
        for pair in state.judged_pairs(config.run)
        if pair.judgement is not None and pair.judgement.grade is not None
    )
    positives: Counter[int] = Counter()
    negatives, kinds, left_out, short = 0, Counter[str](), Counter[str](), 0
    for query in mined:
        positives[len(query.positives)] += 1
        negatives += len(query.negatives)
        kinds.update(negative.kind for negative in query.negatives)
        left_out.update(query.left_out)
        short += bool(query.positives) and query.missing > 0
    return {
        "statuses": state.counts(config.run),
        "grades": {str(grade): grades[grade] for grade in sorted(grades)},
        "queries_by_positives": {str(count): positives[count] for count in sorted(positives)},
        "negatives": negatives,
        "negatives_by_kind": dict(sorted(kinds.items())),
        "negatives_left_out": dict(sorted(left_out.items())),
        "queries_short_of_negatives": short,
        "agreement_with_gold": agreement(state.judged_pairs(config.run), gold).to_json() if gold else None,
        "not_asked": _not_asked(config, gold, state),
        "judge": json.loads(json.dumps(state.run_record(config.run)["judge"])),
    }


def _not_asked(config: LabelConfig, gold: Gold, state: State) -> dict[str, dict[str, int]]:
    """Pairs that a pre-filter kept from the judge, by rule, and how many of them gold calls relevant."""
    found: dict[str, dict[str, int]] = {}
    for pair in state.judged_pairs(config.run):
        rule = pair.candidate.provenance.get("not_asked")
        if rule is not None:
            counts = found.setdefault(str(rule), {"pairs": 0, "relevant_in_gold": 0})
            counts["pairs"] += 1
            grade = gold.get(pair.candidate.query_id, {}).get(pair.candidate.passage_id, 0)
            counts["relevant_in_gold"] += grade >= RELEVANT
    return found
