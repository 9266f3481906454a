"""The cascade: passages and queries -> candidates -> a sample of them -> judgements -> labels on disk.

Everything that is known is in one state file; outputs are rendered from it. A run that was killed goes on, and ends in
the bytes of an undisturbed one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.embeddings import Embedder
from data_pipeline.weak_labels.candidates import Candidate as Found
from data_pipeline.weak_labels.candidates import Finder, open_finder
from data_pipeline.weak_labels.judge import Judge, Pair, load_judge
from data_pipeline.weak_labels.judging import JudgeSummary, run_judge
from data_pipeline.weak_labels.label_config import LabelConfig
from data_pipeline.weak_labels.label_inputs import open_embedder, open_passages, read_gold, read_queries, thresholds_of
from data_pipeline.weak_labels.label_outputs import render
from data_pipeline.weak_labels.passages import Passages
from data_pipeline.weak_labels.prefilter import Prefilter
from data_pipeline.weak_labels.push import push
from data_pipeline.weak_labels.rerank import Reranker, reordered
from data_pipeline.weak_labels.sampling import sample
from data_pipeline.weak_labels.state import Candidate, State

# Another machine may have other values: the same pairs come out.
_HOW_COMPUTED = {
    "bm25_backend", "query_rows", "passage_rows", "batch_size", "batch_tokens", "device", "device_timeout_s", "threads",
    "compile", "flush_s", "variant",
}  # fmt: skip


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
    pushed: str | None = None
    """Address on the hub, where the outputs were sent there."""


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
    passages = open_passages(config)
    queries = read_queries(config.queries, config.records_dir)
    gold = read_gold(config)
    embedder = embedder or open_embedder(config, passages)
    if judge is None:
        judge = load_judge(config.judge, embedder, thresholds_of(config, passages, queries, gold, embedder))
    for folder in (config.work_dir, config.indexes_dir, config.state_path.parent):
        folder.mkdir(parents=True, exist_ok=True)
    with State(config.state_path) as state:
        state.start_run(config.run, _decisive(config, passages))
        state.add_queries(config.run, queries.items())
        finder = open_finder(passages, config.candidates, work_dir=config.indexes_dir, embedder=embedder)
        pairs = _pairs(config, passages, queries, finder, state)
        summary = run_judge(pairs, judge, state, config.run, config.judge)
        figures = render(config, passages, gold, state)
        state.finish_run(config.run, {"judging": summary.to_json(), **figures})
    folder = config.work_dir / config.run
    pushed = push(folder, config.push) if config.push.repo_id else None
    pairs_of_run = sum(figures["statuses"].values())
    return LabelReport(folder, len(queries), pairs_of_run, summary, figures, pushed)


def _decisive(config: LabelConfig, passages: Passages) -> dict[str, Any]:
    """What decides which pairs a run has; not how they are computed."""
    sections: dict[str, Any] = config.model_dump(mode="json", include={"candidates", "rerank", "sampling", "prefilter"})
    candidates = sections["candidates"]
    for section in (candidates, sections["rerank"], candidates["embedding"] or {}):
        for name in _HOW_COMPUTED & section.keys():
            del section[name]
    return {"passages": passages.fingerprint, **sections}


def _pairs(
    config: LabelConfig, passages: Passages, queries: Mapping[str, str], finder: Finder, state: State
) -> Iterator[Pair]:
    """Pairs to be judged, each query's as soon as its candidates are found and kept."""
    prefilter = Prefilter(config.prefilter, config.candidates.language, config.candidates.stop_words)
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
        reasons = [prefilter.reason(text, passage) for passage in texts]
        kept = [
            _kept(query_id, name, one, read.get(one.row), reason)
            for name, one, reason in zip(ids, chosen, reasons, strict=True)
        ]
        state.add_candidates(config.run, query_id, kept)
        for name, passage, reason in zip(ids, texts, reasons, strict=True):
            if reason is None:
                yield Pair(query_id, name, text, passage)


def _kept(
    query_id: str, passage_id: str, found: Found, read: tuple[int, float] | None, not_asked: str | None
) -> Candidate:
    scores = {"fused": found.score, "bm25": found.bm25_score, "dense": found.dense_score}
    ranks = {"fused": found.rank, "bm25": found.bm25_rank, "dense": found.dense_rank}
    if read is not None:
        ranks["rerank"], scores["rerank"] = read
    return Candidate(
        query_id,
        passage_id,
        {name: score for name, score in scores.items() if score is not None},
        {name: rank for name, rank in ranks.items() if rank is not None},
        {} if not_asked is None else {"not_asked": not_asked},
    )
