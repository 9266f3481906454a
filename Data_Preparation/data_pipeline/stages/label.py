"""Weak label run: passages and queries -> candidates -> sample -> judgements -> labels on disk.

All results are stored in one state file, and outputs are rendered from it. A killed run resumes, and its outputs have
the same bytes as those of an uninterrupted run.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.config.labels import LabelConfig
from data_pipeline.embeddings import Embedder
from data_pipeline.errors import SourceError
from data_pipeline.judge import STATUSES, Judge, load_judge
from data_pipeline.judge.pool import run_judge
from data_pipeline.judge.summary import JudgeSummary, no_label_error
from data_pipeline.retrieval.candidates import Candidate, Finder, open_finder
from data_pipeline.retrieval.passages import Passages
from data_pipeline.retrieval.rerank import Reranker, reordered
from data_pipeline.stages.label_inputs import (
    gold_of_run,
    open_embedder,
    open_passages,
    read_all_queries,
    read_runs,
    thresholds_of,
)
from data_pipeline.stages.label_outputs import render
from data_pipeline.weak_labels.accounts import describe
from data_pipeline.weak_labels.label_accounts import Inputs, Searches
from data_pipeline.weak_labels.prefilter import Prefilter
from data_pipeline.weak_labels.push import push
from data_pipeline.weak_labels.sampling import sample
from data_pipeline.weak_labels.state import Pair, RunRecorder, SampledCandidate, State


@dataclass(frozen=True)
class LabelReport:
    """Result of a weak label run."""

    folder: Path
    """Folder of the outputs."""
    queries: int
    """Number of queries, with and without candidates."""
    pairs: int
    """Number of sampled pairs of a query and a candidate."""
    summary: JudgeSummary
    """Calls to the judge, and their results."""
    figures: Mapping[str, Any]
    """Content of report.json: accounts, grades, positives and negatives, agreement with gold."""
    pushed: str | None = None
    """Address on the hub, if the outputs were pushed there."""


def make_weak_labels(
    config: LabelConfig, *, judge: Judge | None = None, embedder: Embedder | None = None
) -> LabelReport:
    """Make weak labels; resumes an earlier run of the same name.

    Failed pairs are tried again. Pairs without a judgement are listed in `judgements.parquet` only.

    Args:
        config: settings of the run.
        judge: judge to use instead of the one in the config.
        embedder: embedder to use instead of the one in the config or the store.

    Raises:
        SourceError, ConfigError, StoreError, ModelError, MissingExtraError: an input, a setting or a file is unusable.
        JudgeError: the judge cannot be used, failed too often, or gave no label at all; finished judgements are saved.
    """
    passages = open_passages(config)
    read = read_all_queries(config.queries, config.records_dir)
    queries = dict(list(read.items())[: config.queries.max_queries])
    gold, runs = gold_of_run(config, passages, queries), read_runs(config, passages, queries)
    embedder = embedder or open_embedder(config, passages)
    reranker = Reranker(config.rerank) if config.rerank.model else None
    if judge is None:
        judge = load_judge(config.judge, embedder, thresholds_of(config, passages, queries, gold, embedder))
    for folder in (config.work_dir, config.indexes_dir, config.state_path.parent):
        folder.mkdir(parents=True, exist_ok=True)
    searches = Searches()
    with State(config.state_path) as state:
        state.start_run(config.run, _deciding_settings(config, passages))
        state.add_queries(config.run, queries.items())
        finder = open_finder(passages, config.candidates, work_dir=config.indexes_dir, embedder=embedder)
        pairs = _pairs(config, passages, queries, finder, reranker, state, searches)
        summary = run_judge(pairs, judge, RunRecorder(state, config.run), config.judge)
        _require_a_label(config, judge, state)
        _require_a_candidate(config, searches, state)
        figures = render(config, Inputs(passages, len(read), len(queries), gold, runs, searches), state)
        state.finish_run(config.run, {"judging": summary.to_json(), **figures})
    folder = config.work_dir / config.run
    pushed = push(folder, config.push) if config.push.repo_id else None
    pairs_of_run = sum(figures["statuses"].values())
    return LabelReport(folder, len(queries), pairs_of_run, summary, figures, pushed)


label = make_weak_labels
"""Former name of `make_weak_labels`."""


def _require_a_label(config: LabelConfig, judge: Judge, state: State) -> None:
    """Check that the judge gave at least one label, if it was called."""
    statuses = state.counts(config.run)
    if statuses["ok"] or not sum(statuses[status] for status in STATUSES):
        return
    judged = (pair.judgement for pair in state.judged_pairs(config.run))
    raise no_label_error(judge.name, statuses, next(judgement for judgement in judged if judgement is not None))


def _require_a_candidate(config: LabelConfig, searches: Searches, state: State) -> None:
    """Check that at least one query has a candidate."""
    reasons = Counter(searches.without.values())
    if not searches.without or searches.candidates or sum(state.counts(config.run).values()):
        return
    raise SourceError(
        f"none of the {len(searches.without):,} queries has a candidate ({describe(reasons)}), so there is nothing to "
        "judge and no output was written. Check queries.text_field, passages.text_field and candidates.language."
    )


def _deciding_settings(config: LabelConfig, passages: Passages) -> dict[str, Any]:
    """Return the settings that decide the pairs of a run."""
    sections = {name: getattr(config, name).deciding() for name in ("candidates", "rerank", "sampling", "prefilter")}
    return {"passages": passages.fingerprint, **sections}


def _pairs(
    config: LabelConfig,
    passages: Passages,
    queries: Mapping[str, str],
    finder: Finder,
    reranker: Reranker | None,
    state: State,
    searches: Searches,
) -> Iterator[Pair]:
    """Iterate over the pairs to judge, query by query; stores the candidates, and counts them in `searches`."""
    prefilter = Prefilter(config.prefilter, config.candidates.language, config.candidates.stop_words)
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
        reasons = [prefilter.reason(text, passage) for passage in texts]
        kept = [
            _kept(query_id, name, one, read.get(one.row), reason)
            for name, one, reason in zip(ids, chosen, reasons, strict=True)
        ]
        state.add_candidates(config.run, query_id, kept)
        searches.add(query_id, len(found), len(chosen), "" if found else finder.reason_for_none(text))
        for name, passage, reason in zip(ids, texts, reasons, strict=True):
            if reason is None:
                yield Pair(query_id, name, text, passage)


def _kept(
    query_id: str, passage_id: str, found: Candidate, read: tuple[int, float] | None, not_asked: str | None
) -> SampledCandidate:
    scores = {"fused": found.score, "bm25": found.bm25_score, "dense": found.dense_score}
    ranks = {"fused": found.rank, "bm25": found.bm25_rank, "dense": found.dense_rank}
    if read is not None:
        ranks["rerank"], scores["rerank"] = read
    return SampledCandidate(
        query_id,
        passage_id,
        {name: score for name, score in scores.items() if score is not None},
        {name: rank for name, rank in ranks.items() if rank is not None},
        {} if not_asked is None else {"not_asked": not_asked},
    )
