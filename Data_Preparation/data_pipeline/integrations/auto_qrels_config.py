"""Adapter of `configs/base.yaml` of auto-qrels to the config of weak labels.

Every key of it has a place here. What is meant is what is done: keys that the older program read and ignored take
effect. Two are met differently: nothing is sent to the hub unless `auto_push` is there and true, and a token in the
file is refused.
"""

import re
from collections.abc import Mapping
from typing import Any

from data_pipeline.errors import ConfigError

_SECTIONS = ("dataset", "paths", "corpus", "bm25", "dense", "llm", "agent", "huggingface")
_CROSS_ENCODER = "cross-encoder/ms-marco-MiniLM-L-6-v2"
# Older key -> place of ours.
_PLACES = {
    "dataset.corpus.name": "passages.hub.name",
    "dataset.corpus.split": "passages.hub.split",
    "dataset.corpus.text_field": "passages.text_field",
    "dataset.corpus.id_field": "passages.id_field",
    "dataset.queries.name": "queries.hub.name",
    "dataset.queries.split": "queries.hub.split",
    "dataset.queries.text_field": "queries.text_field",
    "dataset.queries.id_field": "queries.id_field",
    "dataset.name": "run",
    "paths.prepared_dir": "folders.records",
    "paths.passages_dir": "folders.passages",
    "paths.indexes_dir": "folders.indexes",
    "paths.hf_cache_dir": "passages.hub.cache_dir",
    "corpus.passage_tokens": "passages.window_tokens",
    "corpus.passage_stride": "passages.stride_tokens",
    "bm25.k1": "candidates.k1",
    "bm25.b": "candidates.b",
    "dense.model_name": "candidates.embedding.model_name",
    "dense.device": "candidates.embedding.device",
    "dense.batch_size": "candidates.embedding.batch_size",
    "llm.base_url": "judge.base_url",
    "llm.model": "judge.model",
    "llm.timeout": "judge.timeout_s",
    "llm.max_concurrent": "judge.slots",
    "agent.global_top_k_bm25": "candidates.bm25_k",
    "agent.bm25_score_percentile": "candidates.bm25_percentile",
    "agent.dense_top_k_from_bm25": "candidates.top_k",
    "agent.llm_candidates_top_k": "rerank.top_k",
    "agent.llm_conf_threshold": "positives.min_p",
    "agent.positives_max": "positives.per_query",
    "agent.hard_negatives_per_query": "negatives.per_query",
    "agent.min_passage_tokens": "passages.min_tokens",
    "agent.max_passages_per_page": "sampling.per_document",
    "agent.checkpoint_dir": "folders.state",
    "agent.checkpoint_interval": "judge.flush_answers",
    "agent.max_queries": "queries.max_queries",
    "output.qrels_path": "output.qrels_path",
    "output.triples_path": "output.triples_path",
    "huggingface.repo_id": "push.repo_id",
    "huggingface.private": "push.private",
    "huggingface.token": "push.token_env",
    "logging.level": "logging.level",
}
_ELSEWHERE = {"huggingface.auto_push", "logging.log_dir", "logging.log_file"}  # several make one knob


def is_older(content: Mapping[str, Any]) -> bool:
    """Return whether a file has the sections of auto-qrels."""
    return any(section in content for section in _SECTIONS)


def from_older(content: Mapping[str, Any]) -> dict[str, Any]:
    """Convert settings of auto-qrels, including its order: BM25, then dense, then the best of the cross-encoder.

    Raises:
        ConfigError: a key is none of the older system, or a token is in the file.
    """
    old = dict(_flat(content))
    if unknown := sorted(old.keys() - _PLACES.keys() - _ELSEWHERE):
        raise ConfigError(
            f"{', '.join(unknown)}: no key of the older base.yaml, which this file is taken for because it has "
            f"{', '.join(section for section in _SECTIONS if section in content)}. Older and new sections do not mix."
        )
    settings: dict[str, Any] = {}
    defaults = {
        "passages.source": "documents", "queries.source": "hub", "queries.text_field": "text",
        "candidates.fusion": "bm25_then_dense", "candidates.top_k": 100,
        "candidates.embedding.model_name": "BAAI/bge-base-en-v1.5", "rerank.model": _CROSS_ENCODER,
    }  # fmt: skip
    for name, value in defaults.items():
        _put(settings, name, value)
    for key, value in old.items():
        if key in _PLACES and value is not None:
            _put(settings, _PLACES[key], value)
    _join(settings, old)
    return settings


def _join(settings: dict[str, Any], old: Mapping[str, Any]) -> None:
    """Convert the settings that are not only renamed."""
    if (cache := old.get("paths.hf_cache_dir")) is not None:
        _put(settings, "queries.hub.cache_dir", cache)
    read = old.get("agent.llm_candidates_top_k") or 40
    # The older shares of ranks 1-10, 11-30 and 31-50, as far down as the cross-encoder reads.
    strata = [(1, 10, 10), (11, 30, 10), (31, 50, 5)]
    _put(settings, "sampling.strata", [
        {"first": first, "last": min(last, read), "take": take} for first, last, take in strata if first <= read
    ])  # fmt: skip
    if (queries := old.get("agent.checkpoint_interval")) is not None:
        _put(settings, "judge.flush_answers", queries * sum(take for _, _, take in strata))
    if not old.get("huggingface.auto_push"):
        settings.pop("push", None)
    elif (token := old.get("huggingface.token")) is not None:
        _put(settings, "push.token_env", _variable(token))
    if (file := old.get("logging.log_file")) is not None:
        _put(settings, "logging.file", f"{old.get('logging.log_dir') or '.'}/{file}")


def _variable(token: Any) -> str:
    named = re.fullmatch(r"\$\{?(?:oc\.env:)?([A-Za-z_][A-Za-z0-9_]*)\}?", str(token))
    if named is None:
        raise ConfigError(
            "huggingface.token: a token does not belong in a file, which is kept and shared. Take it out (and revoke "
            "it), set HF_TOKEN instead, or name another variable: ${MY_TOKEN}."
        )
    return named[1]


def _flat(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    items: list[tuple[str, Any]] = []
    for key, value in content.items():
        name = f"{prefix}{key}"
        items += _flat(value, f"{name}.") if isinstance(value, Mapping) else [(name, value)]
    return items


def _put(settings: dict[str, Any], dotted_name: str, value: Any) -> None:
    *sections, name = dotted_name.split(".")
    for section in sections:
        settings = settings.setdefault(section, {})
    settings[name] = value
