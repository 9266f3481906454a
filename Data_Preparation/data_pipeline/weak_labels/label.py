"""The cascade: passages and queries -> candidates -> a sample of them -> judgements -> labels on disk.

Everything that is known is in one state file; outputs are rendered from it. A run that was killed goes on, and ends in
the bytes of an undisturbed one.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.dataset import ELMDataset
from data_pipeline.dataset.maker import load_maker
from data_pipeline.download.records import json_records
from data_pipeline.download.sample import sample_qrels, sample_queries
from data_pipeline.embeddings import Embedder, encode, load_embedder, load_tokenizer
from data_pipeline.errors import ConfigError, SourceError
from data_pipeline.utils import atomic_write_json
from data_pipeline.weak_labels import export
from data_pipeline.weak_labels.agreement import agreement
from data_pipeline.weak_labels.candidates import Candidate as Found
from data_pipeline.weak_labels.candidates import Finder, open_finder
from data_pipeline.weak_labels.judge import Judge, Pair, Thresholds, calibrate, load_judge
from data_pipeline.weak_labels.judging import JudgeSummary, run_judge
from data_pipeline.weak_labels.label_config import LabelConfig, QueriesConfig
from data_pipeline.weak_labels.negatives import Mined, mine
from data_pipeline.weak_labels.passage_files import passages_of_documents, passages_of_file
from data_pipeline.weak_labels.passages import Passages, passages_of_dataset
from data_pipeline.weak_labels.rerank import Reranker, reordered
from data_pipeline.weak_labels.sampling import sample
from data_pipeline.weak_labels.state import Candidate, State

logger = logging.getLogger(__name__)

Gold = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class LabelReport:
    """What became of a run."""

    folder: Path
    """With the outputs."""
    queries: int
    pairs: int
    summary: JudgeSummary
    figures: Mapping[str, Any]
    """Grades, positives and negatives a query, agreement with gold; as in report.json."""


def label(config: LabelConfig, *, judge: Judge | None = None, embedder: Embedder | None = None) -> LabelReport:
    """Make weak labels; goes on where an earlier run of the same name stopped.

    Pairs that failed are tried again. A pair that nobody judged is in no output but `judgements.parquet`, as such.

    Args:
        config: see `LabelConfig`.
        judge: is used instead of the one that the config names.
        embedder: is used instead of loading the one that config or store name.

    Raises:
        SourceError, ConfigError, StoreError, ModelError, MissingExtra: the run cannot start, or not like this.
        JudgeError: the judge cannot be used, or failed too often; what was judged is kept.
    """
    passages = _passages(config)
    queries = read_queries(config.queries)
    gold = read_gold(config)
    embedder = embedder or _embedder(config, passages)
    if judge is None:
        judge = load_judge(config.judge, embedder, _thresholds(config, passages, queries, gold, embedder))
    config.work_dir.mkdir(parents=True, exist_ok=True)
    with State(config.work_dir / "state.sqlite") as state:
        state.start_run(config.run, _decisive(config, passages))
        state.add_queries(config.run, queries.items())
        finder = open_finder(passages, config.candidates, work_dir=config.work_dir, embedder=embedder)
        pairs = _pairs(config, passages, queries, finder, state)
        summary = run_judge(pairs, judge, state, config.run, config.judge)
        report = _render(config, passages, gold, state, summary, len(queries))
        state.finish_run(config.run, {"judging": summary.to_json(), **report.figures})
        return report


def read_queries(config: QueriesConfig) -> dict[str, str]:
    """Query texts by id, in the file's order.

    Raises:
        SourceError: a record lacks a field, is empty, or an id is there twice.
    """
    if config.source == "sample":
        found = sample_queries()
    else:
        assert config.path is not None
        found = {}
        for number, record in json_records(config.path):
            where = f"{config.path}, line {number}"
            values = [record.get(name) for name in (config.id_field, config.text_field)]
            if not all(isinstance(value, str) and value.strip() for value in values):
                raise SourceError(
                    f"{where}: a query needs texts in {config.id_field!r} and {config.text_field!r}, found {values}"
                )
            if values[0] in found:
                raise SourceError(f"{where}: the query id {values[0]!r} is there twice")
            found[str(values[0])] = str(values[1])
    if not found:
        raise SourceError(f"{config.path} has no queries")
    return dict(list(found.items())[: config.max_queries])


def read_gold(config: LabelConfig) -> Gold:
    """Gold judgements, query id -> passage id -> grade; none where the config names none.

    Raises:
        SourceError: a line is not `query 0 passage grade`.
    """
    if config.gold is None:
        return {}
    if config.gold == "sample":
        return sample_qrels()
    found: dict[str, dict[str, int]] = {}
    try:
        lines = config.gold.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"the gold judgements in {config.gold} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        parts = line.split()
        if not parts:
            continue
        try:
            query_id, _, passage_id, grade = parts
            found.setdefault(query_id, {})[passage_id] = int(grade)
        except ValueError:
            raise SourceError(
                f"{config.gold}, line {number}: expected query id, 0, passage id and grade, found {line[:80]!r}"
            ) from None
    return found


def _passages(config: LabelConfig) -> Passages:
    source = config.passages
    if source.source == "store":
        with_vectors = config.candidates.needs_vectors or config.judge.judge == "similarity"
        dataset = ELMDataset(source.data_dir, source.split, with_vectors, corpus=source.corpus, scores=[])
        return passages_of_dataset(dataset)
    assert source.path is not None
    if source.source == "file":
        return passages_of_file(source.path, config.work_dir, source)
    if config.candidates.embedding is None:
        raise ConfigError("passages.source documents needs candidates.embedding, whose tokenizer counts the tokens")
    return passages_of_documents(source.path, config.work_dir, load_tokenizer(config.candidates.embedding), source)


def _embedder(config: LabelConfig, passages: Passages) -> Embedder | None:
    if not config.candidates.needs_vectors and config.judge.judge != "similarity":
        return None
    if config.candidates.embedding is not None:
        return load_embedder(config.candidates.embedding)
    if passages.dataset is None:
        raise ConfigError("passages of files need candidates.embedding, or candidates.fusion: bm25")
    return load_maker(passages.dataset.rows.first_shard)


def _thresholds(
    config: LabelConfig, passages: Passages, queries: Mapping[str, str], gold: Gold, embedder: Embedder | None
) -> Thresholds | None:
    """Of the judge `similarity`: from the gold judgements of these passages and queries."""
    if config.judge.judge != "similarity" or embedder is None:
        return None
    known = [
        (query_id, row, grade)
        for query_id, grades in gold.items()
        if query_id in queries
        for row, grade in zip(passages.rows_of(list(grades)).tolist(), grades.values(), strict=True)
        if row >= 0
    ]
    if not known:
        raise ConfigError("no gold judgement is of these queries and passages: there is nothing to calibrate on")
    names = list(dict.fromkeys(query_id for query_id, _, _ in known))
    left = dict(zip(names, encode(embedder, [queries[name] for name in names], query=True), strict=True))
    rows = list(dict.fromkeys(row for _, row, _ in known))
    right = dict(zip(rows, encode(embedder, passages.texts(np.array(rows))), strict=True))
    cosines = [float(left[query_id] @ right[row]) for query_id, row, _ in known]
    found = calibrate(cosines, [grade for _, _, grade in known])
    logger.info("similarity (no LLM), calibrated on %d gold judgements: %s", len(known), found)
    return found


def _decisive(config: LabelConfig, passages: Passages) -> dict[str, Any]:
    """What decides which pairs a run has."""
    sections = config.model_dump(mode="json", include={"candidates", "rerank", "sampling"})
    return {"passages": passages.fingerprint, **sections}


def _pairs(
    config: LabelConfig, passages: Passages, queries: Mapping[str, str], finder: Finder, state: State
) -> Iterator[Pair]:
    """Pairs to be judged, each query's as soon as its candidates are found and kept."""
    reranker = Reranker(config.rerank) if config.rerank.model else None
    for (query_id, text), found in zip(queries.items(), finder.find(list(queries.values())), strict=True):
        read: dict[int, tuple[int, float]] = {}
        if reranker is not None and found:
            some = [one.row for one in found[: config.rerank.top_k]]
            scores = reranker.scores(text, passages.texts(np.array(some, np.int64)))
            order = reordered(scores, len(found))
            found = [found[place] for place in order]
            read = {some[place]: (rank, float(scores[place])) for rank, place in enumerate(order[: len(some)], start=1)}
        documents = passages.documents(np.array([one.row for one in found], np.int64)) if found else []
        chosen = [found[place] for place in sample(documents, query_id, config.sampling)]
        rows = np.array([one.row for one in chosen], np.int64)
        ids, texts = (passages.ids(rows), passages.texts(rows)) if chosen else ([], [])
        state.add_candidates(
            config.run,
            query_id,
            [_kept(query_id, name, one, read.get(one.row)) for name, one in zip(ids, chosen, strict=True)],
        )
        for name, passage in zip(ids, texts, strict=True):
            yield Pair(query_id, name, text, passage)


def _kept(query_id: str, passage_id: str, found: Found, read: tuple[int, float] | None) -> Candidate:
    scores = {"fused": found.score, "bm25": found.bm25_score, "dense": found.dense_score}
    ranks = {"fused": found.rank, "bm25": found.bm25_rank, "dense": found.dense_rank}
    if read is not None:
        ranks["rerank"], scores["rerank"] = read
    return Candidate(
        query_id,
        passage_id,
        {name: score for name, score in scores.items() if score is not None},
        {name: rank for name, rank in ranks.items() if rank is not None},
    )


def _render(
    config: LabelConfig, passages: Passages, gold: Gold, state: State, summary: JudgeSummary, queries: int
) -> LabelReport:
    """Write the outputs of a run from its state."""
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
    return LabelReport(folder, queries, sum(figures["statuses"].values()), summary, figures)


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
        "judge": json.loads(json.dumps(state.run_record(config.run)["judge"])),
    }
