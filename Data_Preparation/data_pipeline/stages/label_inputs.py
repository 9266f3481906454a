"""Inputs of a weak label run: passages, queries, gold judgements, runs of systems, and thresholds from gold."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.config.labels import LabelConfig, QueriesConfig
from data_pipeline.config.load import load_config
from data_pipeline.download.sample import FOLDER as SAMPLE
from data_pipeline.download.sample import sample_queries
from data_pipeline.embeddings import Embedder, encode, load_embedder, load_tokenizer
from data_pipeline.embeddings.reload import load_maker
from data_pipeline.errors import ConfigError, SourceError
from data_pipeline.judge import RELEVANT, Thresholds, calibrate
from data_pipeline.judge.similarity import cosine
from data_pipeline.retrieval.hub_records import fetch_records
from data_pipeline.retrieval.ids import has_white_space, refuse_same_spelling, resolve
from data_pipeline.retrieval.passage_files import passages_of_documents, passages_of_file
from data_pipeline.retrieval.passages import Passages, passages_of_rows
from data_pipeline.store.corpus_files import open_source
from data_pipeline.store.reader import Rows
from data_pipeline.user_files import checked_id, json_records
from data_pipeline.utils import encodable, shown
from data_pipeline.weak_labels.gold import Gold, known_in, make_gold, match_gold
from data_pipeline.weak_labels.qrels import Run, read_qrels, read_run

logger = logging.getLogger(__name__)


def open_passages(config: LabelConfig) -> Passages:
    """Open the passages of a run.

    Raises:
        SourceError, StoreError: the passages cannot be read.
        ConfigError: a setting of the source is missing.
    """
    source = config.passages
    if source.source == "store":
        with_vectors = config.candidates.needs_vectors or config.judge.judge == "similarity"
        cache_dir = load_config().cache_dir
        files = open_source(source.data_dir, source.split, source.corpus, None, with_vectors, cache_dir, scores=[])
        return passages_of_rows(Rows(files))
    path = fetch_records(source.hub, config.records_dir) if source.hub.name else source.path
    assert path is not None
    _require_path(path, "passages.path")
    if source.source != "documents":
        return passages_of_file(path, config.passages_dir, source)
    if config.candidates.embedding is None:
        raise ConfigError("passages.source documents needs candidates.embedding, whose tokenizer counts the tokens")
    return passages_of_documents(path, config.passages_dir, load_tokenizer(config.candidates.embedding), source)


def read_queries(config: QueriesConfig, records_dir: Path) -> dict[str, str]:
    """Read at most `max_queries` query texts by id, in the order of the file.

    Args:
        config: source of the queries.
        records_dir: folder of records that are downloaded from the hub.

    Raises:
        SourceError: see `read_all_queries`.
    """
    return dict(list(read_all_queries(config, records_dir).items())[: config.max_queries])


def read_all_queries(config: QueriesConfig, records_dir: Path) -> dict[str, str]:
    """Read all query texts by id, in the order of the file, ignoring `max_queries`.

    Raises:
        SourceError: a record lacks a field, its text is empty, its id is invalid or a duplicate, or there is no query.
    """
    if config.source == "sample":
        return sample_queries()
    source = str(config.path or config.hub.name)
    queries: dict[str, str] = {}
    for where, record in _query_records(config, records_dir):
        if config.id_field not in record or config.text_field not in record:
            missing = config.id_field if config.id_field not in record else config.text_field
            raise SourceError(f"{where}: a query needs the field {missing!r}; it has {', '.join(record) or 'none'}")
        query_id, text = checked_id(record[config.id_field], config.id_field, where), record[config.text_field]
        if not isinstance(text, str) or not text.strip():
            raise SourceError(
                f"{where}: the field {config.text_field!r} of query {query_id!r} must be a text that is not empty, "
                f"found {shown(text)}; leave the query out, or give it a text"
            )
        if query_id in queries:
            raise SourceError(f"{where}: the query id {query_id!r} is there twice; rename or remove one of them")
        queries[query_id] = encodable(text)
    if not queries:
        raise SourceError(f"{source} has no queries")
    refuse_same_spelling(filter(has_white_space, queries), known_in(queries), "query", source)
    return queries


def _query_records(config: QueriesConfig, records_dir: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    path = fetch_records(config.hub, records_dir) if config.source == "hub" else config.path
    assert path is not None
    _require_path(path, "queries.path")
    for number, record in json_records(path):
        yield f"{path}, line {number}", record


def _require_path(path: Path, setting: str) -> None:
    if not path.exists():
        raise SourceError(f"{setting}: no such file or folder: {path}")


def read_gold(config: LabelConfig) -> Gold | None:
    """Read all gold judgements and the scale of their grades; returns None if the config names none.

    Raises:
        SourceError: the file or a line cannot be read.
    """
    if config.gold is None:
        return None
    path = SAMPLE / "qrels.txt" if config.gold == "sample" else config.gold
    _require_path(path, "gold")
    return make_gold(str(config.gold), read_qrels(path), config.gold_relevant)


def gold_of_run(config: LabelConfig, passages: Passages, queries: Mapping[str, str]) -> Gold | None:
    """Read the gold judgements of the queries and passages of a run; others are only counted.

    Raises:
        SourceError: see `read_gold` and `match_gold`.
    """
    gold = read_gold(config)
    if gold is None:
        return None
    matched = match_gold(gold, known_in(queries), passages.known)
    logger.info(
        "Gold judgements: %s of queries and passages of this run, %s of other queries, %s of other passages; "
        "grade %d and more counts as relevant (from %s)",
        f"{matched.pairs:,}", f"{matched.other_queries:,}", f"{matched.other_passages:,}", matched.relevant,
        matched.chosen_by,
    )  # fmt: skip
    if not matched.pairs:
        logger.warning("%s", _no_match(gold, passages, queries))
    return matched


def _no_match(gold: Gold, passages: Passages, queries: Mapping[str, str]) -> str:
    passage_id = passages.ids([0])[0] if len(passages) else ""
    return (
        f"gold: none of the judgements in {gold.source} is of a query and a passage of this run, so there is "
        f"nothing to compare with. It judges passage {gold.example[1]!r} for query {gold.example[0]!r}; this run has "
        f"queries such as {next(iter(queries))!r} and passages such as {passage_id!r}"
    )


def read_runs(config: LabelConfig, passages: Passages, queries: Mapping[str, str]) -> dict[str, Run]:
    """Read the runs of retrieval systems by file name, with the ids of this run.

    Raises:
        SourceError: a file or a line cannot be read, or a file has no query of this run.
    """
    runs: dict[str, Run] = {}
    for path in config.runs:
        _require_path(path, "runs")
        run = read_run(path)
        known_queries = resolve(run, known_in(queries))
        if not known_queries:
            raise SourceError(
                f"runs: {path} has none of the queries of this run; it has {next(iter(run))!r}, this run has "
                f"{next(iter(queries))!r}"
            )
        ids_by_spelling = resolve((name for query in known_queries for name in run[query]), passages.known)
        runs[path.name] = {
            query_id: {ids_by_spelling.get(name, name): score for name, score in run[spelling].items()}
            for spelling, query_id in known_queries.items()
        }
    return runs


def open_embedder(config: LabelConfig, passages: Passages) -> Embedder | None:
    """Load the embedder that the candidates or the judge need; returns None if neither does.

    Raises:
        ConfigError, ModelError, SourceError: no embedder is named, or it cannot be loaded.
    """
    if not config.candidates.needs_vectors and config.judge.judge != "similarity":
        return None
    if config.candidates.embedding is not None:
        return load_embedder(config.candidates.embedding)
    if passages.dataset_rows is None:
        raise ConfigError("passages of files need candidates.embedding, or candidates.fusion: bm25")
    return load_maker(passages.dataset_rows.first_shard)


def thresholds_of(
    config: LabelConfig,
    passages: Passages,
    queries: Mapping[str, str],
    gold: Gold | None,
    embedder: Embedder | None,
) -> Thresholds | None:
    """Calibrate the judge `similarity` on the gold judgements of a run; returns None for other judges.

    Raises:
        ConfigError: gold judges none of these passages for these queries, or calls none of them relevant.
    """
    if config.judge.judge != "similarity" or embedder is None or gold is None:
        return None
    if not gold.pairs:
        raise ConfigError(f"{_no_match(gold, passages, queries)}. The judge similarity needs gold to be calibrated on.")
    judged = [
        (query_id, passages.row_of(name), grade)
        for query_id, grades in gold.labels.items()
        for name, grade in grades.items()
    ]
    if not any(grade >= RELEVANT for _, _, grade in judged):
        raise ConfigError(
            f"gold: no judgement in {gold.source} of these queries and passages has a grade of {gold.relevant} or "
            "more, so there is no relevant pair to calibrate the judge similarity on; check gold_relevant"
        )
    names = list(dict.fromkeys(query_id for query_id, _, _ in judged))
    query_vectors = dict(zip(names, encode(embedder, [queries[name] for name in names], query=True), strict=True))
    rows = list(dict.fromkeys(row for _, row, _ in judged))
    passage_vectors = dict(zip(rows, encode(embedder, passages.texts(np.array(rows))), strict=True))
    cosines = [cosine(query_vectors[query_id], passage_vectors[row]) for query_id, row, _ in judged]
    thresholds = calibrate(cosines, [grade for _, _, grade in judged])
    logger.info("Judge similarity (no LLM), calibrated on %d gold judgements: %s", len(judged), thresholds)
    return thresholds
