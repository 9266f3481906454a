"""Weak label run: passages and queries -> candidates -> sample -> judgements -> labels on disk.

All results are stored in one state file, and outputs are rendered from it. A killed run resumes, and its outputs have
the same bytes as those of an uninterrupted run.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
from data_pipeline.retrieval.rerank import Reranker, reordered
from data_pipeline.stages.base import Advance, Executor, Task, TaskResult, run_in_order, run_stage
from data_pipeline.stages.label_inputs import (
    gold_of_run,
    open_embedder,
    open_passages,
    read_all_queries,
    read_runs,
    thresholds_of,
)
from data_pipeline.stages.label_outputs import render
from data_pipeline.stages.passage_vectors import write_passage_vectors
from data_pipeline.types import IntArray
from data_pipeline.utils import sha256_of_json
from data_pipeline.utils.displays import Displayed
from data_pipeline.weak_labels.accounts import describe
from data_pipeline.weak_labels.label_accounts import Inputs, Searches
from data_pipeline.weak_labels.prefilter import Prefilter
from data_pipeline.weak_labels.push import push
from data_pipeline.weak_labels.sampling import sample
from data_pipeline.weak_labels.state import Pair, RunRecorder, SampledCandidate, State


@dataclass(frozen=True, repr=False)
class LabelReport(Displayed):
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

    def display_facts(self) -> list[tuple[str, str]]:
        """Return what a notebook shows."""
        grades = ", ".join(f"{grade}: {count:,}" for grade, count in self.figures["grades"].items()) or "none"
        return [
            ("folder", str(self.folder)),
            ("queries", f"{self.queries:,}"),
            ("pairs", f"{self.pairs:,}"),
            ("grades", grades),
            ("calls", f"{self.summary.calls:,}"),
        ]


def make_weak_labels(
    config: LabelConfig,
    *,
    judge: Judge | None = None,
    embedder: Embedder | None = None,
    execute: Executor = run_in_order,
) -> LabelReport:
    """Make weak labels; resumes an earlier run of the same name.

    Failed pairs are tried again. Pairs without a judgement are listed in `judgements.parquet` only.

    Args:
        config: settings of the run.
        judge: judge to use instead of the one in the config.
        embedder: embedder to use instead of the one in the config or the store.
        execute: runs the tasks that embed the passages, if the config names the embedder.

    Raises:
        SourceError, ConfigError, StoreError, ModelError, MissingExtraError: an input, a setting or a file is unusable.
        JudgeError: the judge cannot be used, failed too often, or gave no label at all; finished judgements are saved.
    """
    stage = _open_stage(config, judge, embedder)
    if stage.embedder is not None and embedder is None:
        write_passage_vectors(config, stage.inputs.passages, stage.embedder, execute)
    return run_stage(stage)


label = make_weak_labels
"""Former name of `make_weak_labels`."""


@dataclass(frozen=True)
class WeakLabels:
    """Stage that judges the pairs of a run and writes its labels; one task, since all pairs share a state file."""

    config: LabelConfig
    inputs: Inputs
    queries: Mapping[str, str]
    """Queries of this call by id."""
    judge: Judge
    embedder: Embedder | None
    """Embedder of the queries; None if candidates are found without vectors."""
    reranker: Reranker | None

    name = "Labelling"
    unit = "row"
    rows = 0
    """The judge shows its own progress."""
    outputs = ()
    """Outputs are rendered on each call, since the state may have new judgements."""

    def fingerprint(self) -> str:
        """Compute the fingerprint of the settings that decide the pairs."""
        return sha256_of_json(self._deciding_settings())

    def tasks(self) -> list[Task]:
        """Return the only task, named like the run."""
        return [Task(self.config.run)]

    def run(self, task: Task, advance: Advance = lambda rows: None) -> TaskResult:
        """Find and judge the pairs that have no judgement yet; every judgement is stored as it comes."""
        del advance
        config, searches = self.config, Searches()
        for folder in (config.work_dir, config.indexes_dir, config.state_path.parent):
            folder.mkdir(parents=True, exist_ok=True)
        with State(config.state_path) as state:
            state.start_run(config.run, self._deciding_settings())
            state.add_queries(config.run, self.queries.items())
            finder = open_finder(
                self.inputs.passages, config.candidates, work_dir=config.indexes_dir, embedder=self.embedder
            )
            pairs = self._pairs(finder, state, searches)
            summary = run_judge(pairs, self.judge, RunRecorder(state, config.run), config.judge)
            _require_a_label(config, self.judge, state)
            _require_a_candidate(config, searches, state)
            rows = sum(state.counts(config.run).values())
        return TaskResult(task.name, rows, facts={"summary": summary, "searches": searches})

    def finish(self, results: Sequence[TaskResult]) -> LabelReport:
        """Write the outputs from the state, and push them to the hub if that is configured."""
        config, summary = self.config, results[0].facts["summary"]
        inputs = replace(self.inputs, searches=results[0].facts["searches"])
        with State(config.state_path) as state:
            figures = render(config, inputs, state)
            state.finish_run(config.run, {"judging": summary.to_json(), **figures})
        folder = config.work_dir / config.run
        pushed = push(folder, config.push) if config.push.repo_id else None
        return LabelReport(folder, len(self.queries), results[0].rows, summary, figures, pushed)

    def _deciding_settings(self) -> dict[str, Any]:
        """Return the settings that decide the pairs of a run."""
        names = ("candidates", "rerank", "sampling", "prefilter")
        sections = {name: getattr(self.config, name).deciding() for name in names}
        return {"passages": self.inputs.passages.fingerprint, **sections}

    def _pairs(self, finder: Finder, state: State, searches: Searches) -> Iterator[Pair]:
        """Iterate over the pairs to judge, query by query; stores the candidates, and counts them in `searches`."""
        config, passages = self.config, self.inputs.passages
        prefilter = Prefilter(config.prefilter, config.candidates.language, config.candidates.stop_words)
        candidates_of_queries = finder.find(list(self.queries.values()))
        for (query_id, query), candidates in zip(self.queries.items(), candidates_of_queries, strict=True):
            ranked, reranked = self._rerank(query, candidates)
            documents = passages.documents(_rows(ranked)) if ranked else []
            sampled = [ranked[position] for position in sample(documents, query_id, config.sampling)]
            rows = _rows(sampled)
            ids, texts = (passages.ids(rows), passages.texts(rows)) if sampled else ([], [])
            reasons = [prefilter.reason(query, text) for text in texts]
            records = [
                _to_record(query_id, passage_id, candidate, reranked.get(candidate.row), reason)
                for passage_id, candidate, reason in zip(ids, sampled, reasons, strict=True)
            ]
            state.add_candidates(config.run, query_id, records)
            reason_for_none = "" if ranked else finder.reason_for_none(query)
            searches.add(query_id, len(ranked), len(sampled), reason_for_none)
            for passage_id, text, reason in zip(ids, texts, reasons, strict=True):
                if reason is None:
                    yield Pair(query_id, passage_id, query, text)

    def _rerank(self, query: str, candidates: list[Candidate]) -> tuple[list[Candidate], dict[int, tuple[int, float]]]:
        """Order candidates by the reranker, if there is one; also returns its ranks and scores by row."""
        if self.reranker is None or not candidates:
            return candidates, {}
        rows = _rows(candidates[: self.config.rerank.top_k])
        scores = self.reranker.scores(query, self.inputs.passages.texts(rows))
        order = reordered(scores, len(candidates))
        ranks = enumerate(order[: len(rows)], start=1)
        by_row = {int(rows[position]): (rank, float(scores[position])) for rank, position in ranks}
        return [candidates[position] for position in order], by_row


def _open_stage(config: LabelConfig, judge: Judge | None, embedder: Embedder | None) -> WeakLabels:
    passages = open_passages(config)
    all_queries = read_all_queries(config.queries, config.records_dir)
    queries = dict(list(all_queries.items())[: config.queries.max_queries])
    gold, runs = gold_of_run(config, passages, queries), read_runs(config, passages, queries)
    embedder = embedder or open_embedder(config, passages)
    reranker = Reranker(config.rerank) if config.rerank.model else None
    if judge is None:
        judge = load_judge(config.judge, embedder, thresholds_of(config, passages, queries, gold, embedder))
    inputs = Inputs(passages, len(all_queries), len(queries), gold, runs)
    return WeakLabels(config, inputs, queries, judge, embedder, reranker)


def _rows(candidates: Sequence[Candidate]) -> IntArray:
    return np.array([candidate.row for candidate in candidates], np.int64)


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


def _to_record(
    query_id: str,
    passage_id: str,
    candidate: Candidate,
    reranked: tuple[int, float] | None,
    skipped_because: str | None,
) -> SampledCandidate:
    scores = {
        "fused": candidate.score,
        "bm25": candidate.bm25_score,
        "dense": candidate.dense_score,
        "sparse": candidate.sparse_score,
    }
    ranks = {
        "fused": candidate.rank,
        "bm25": candidate.bm25_rank,
        "dense": candidate.dense_rank,
        "sparse": candidate.sparse_rank,
    }
    if reranked is not None:
        ranks["rerank"], scores["rerank"] = reranked
    return SampledCandidate(
        query_id,
        passage_id,
        {name: score for name, score in scores.items() if score is not None},
        {name: rank for name, rank in ranks.items() if rank is not None},
        {} if skipped_because is None else {"not_asked": skipped_because},
    )
