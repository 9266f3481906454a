"""What a run of weak labels reads: passages, queries, gold judgements; and the thresholds learnt from those."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.dataset import ELMDataset
from data_pipeline.dataset.maker import load_maker
from data_pipeline.download.sample import sample_qrels, sample_queries
from data_pipeline.embeddings import Embedder, encode, load_embedder, load_tokenizer
from data_pipeline.errors import ConfigError, SourceError
from data_pipeline.user_files import json_records
from data_pipeline.weak_labels.hub_records import fetch_records
from data_pipeline.weak_labels.judge import Thresholds, calibrate
from data_pipeline.weak_labels.label_config import LabelConfig, QueriesConfig
from data_pipeline.weak_labels.passage_files import passages_of_documents, passages_of_file
from data_pipeline.weak_labels.passages import Passages, passages_of_dataset

logger = logging.getLogger(__name__)

Gold = Mapping[str, Mapping[str, int]]
"""Query id -> passage id -> grade."""


def open_passages(config: LabelConfig) -> Passages:
    """The passages of a run.

    Raises:
        SourceError, StoreError, ConfigError: they cannot be read, or not like this.
    """
    source = config.passages
    if source.source == "store":
        with_vectors = config.candidates.needs_vectors or config.judge.judge == "similarity"
        dataset = ELMDataset(source.data_dir, source.split, with_vectors, corpus=source.corpus, scores=[])
        return passages_of_dataset(dataset)
    path = fetch_records(source.hub, config.records_dir) if source.hub.name else source.path
    assert path is not None
    if source.source != "documents":
        return passages_of_file(path, config.passages_dir, source)
    if config.candidates.embedding is None:
        raise ConfigError("passages.source documents needs candidates.embedding, whose tokenizer counts the tokens")
    return passages_of_documents(path, config.passages_dir, load_tokenizer(config.candidates.embedding), source)


def read_queries(config: QueriesConfig, records_dir: Path) -> dict[str, str]:
    """Query texts by id, in the file's order.

    Args:
        config: where they are.
        records_dir: for what is fetched from the hub.

    Raises:
        SourceError: a record lacks a field, is empty, or an id is there twice.
    """
    if config.source == "sample":
        found = sample_queries()
    else:
        found = {}
        for where, record in _query_records(config, records_dir):
            values = [record.get(name) for name in (config.id_field, config.text_field)]
            if not all(isinstance(value, str) and value.strip() for value in values):
                raise SourceError(
                    f"{where}: a query needs texts in {config.id_field!r} and {config.text_field!r}, found {values}"
                )
            if values[0] in found:
                raise SourceError(f"{where}: the query id {values[0]!r} is there twice")
            found[str(values[0])] = str(values[1])
    if not found:
        raise SourceError(f"{config.path or config.hub.name} has no queries")
    return dict(list(found.items())[: config.max_queries])


def _query_records(config: QueriesConfig, records_dir: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    path = fetch_records(config.hub, records_dir) if config.source == "hub" else config.path
    assert path is not None
    for number, record in json_records(path):
        yield f"{path}, line {number}", record


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


def open_embedder(config: LabelConfig, passages: Passages) -> Embedder | None:
    """The model that the candidates or the judge need; None where neither does.

    Raises:
        ConfigError, ModelError, SourceError: none is named, or it cannot be had.
    """
    if not config.candidates.needs_vectors and config.judge.judge != "similarity":
        return None
    if config.candidates.embedding is not None:
        return load_embedder(config.candidates.embedding)
    if passages.dataset is None:
        raise ConfigError("passages of files need candidates.embedding, or candidates.fusion: bm25")
    return load_maker(passages.dataset.rows.first_shard)


def thresholds_of(
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
