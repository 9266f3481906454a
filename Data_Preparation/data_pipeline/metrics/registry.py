"""The measures by name. A new one is a function in `measures/`, an entry here, and a test."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from pydantic import Field

from data_pipeline.config import EmbeddingConfig, Section
from data_pipeline.embeddings import encode, load_tokenizer, tokenizer_sha256
from data_pipeline.embeddings.model_files import find_model
from data_pipeline.embeddings.reload import load_maker
from data_pipeline.errors import ConfigError, JudgeError
from data_pipeline.heads import Scorer, head_sha256, load_head, probabilities
from data_pipeline.metrics.base import Columns, Measure
from data_pipeline.metrics.confident import ConfidentConfig, confident_learning
from data_pipeline.metrics.consistency import ConsistencyMeasureConfig, consistency
from data_pipeline.metrics.dynamics import DynamicsConfig, training_dynamics
from data_pipeline.metrics.entropy import entropy_of_probabilities, predictive_entropy
from data_pipeline.metrics.judged import JudgedTextsConfig, judged_texts
from data_pipeline.metrics.models import ModelConfig
from data_pipeline.metrics.perplexity import CausalModelConfig, perplexity, pseudo_perplexity
from data_pipeline.metrics.self_filter import SelfFilterMeasureConfig, self_filter
from data_pipeline.metrics.text_metrics import METRICS, text_metrics
from data_pipeline.metrics.wordpieces import wordpiece_ratio
from data_pipeline.selection.features import Features
from data_pipeline.store.lookup import read_frame
from data_pipeline.store.reader import Rows
from data_pipeline.types import IntArray

# Paragraphs have these already, in tokens of the embedder and in characters.
_STORE_METRICS = tuple(name for name in METRICS if name not in {"token_count", "char_count"})


class NoSettings(Section):
    """It has no parameters."""


class TokenizerConfig(Section):
    """Tokenizer whose word pieces are counted."""

    model: str
    """Model on the hub, or a folder with a tokenizer."""
    revision: str | None = None
    """Commit, tag or branch of the model."""


class EntropyConfig(Section):
    """Classifier: one of transformers, or a head over the embeddings."""

    model: ModelConfig | None = None
    """A text classifier."""
    head: Path | None = None
    """Folder of a head, see `elm heads train`."""


class HeadConsistencyConfig(ConsistencyMeasureConfig):
    """Changes of texts, and the head that classifies them."""

    head: Path = Field()
    """Folder of a head over the embeddings of the corpus; the model that made them embeds the changed copies."""


def _entropy(rows: Rows, features: Features, config: EntropyConfig) -> Columns:
    if (config.model is None) == (config.head is None):
        raise ConfigError("predictive_entropy needs a model or a head, one of them")
    if config.model is not None:
        return predictive_entropy(features.need_texts(), config.model)
    head = load_head(str(config.head))
    logits = Scorer({"head": head}).outputs(rows.all_vectors())[0]
    return entropy_of_probabilities(probabilities(head, logits))


def _consistency(rows: Rows, features: Features, config: HeadConsistencyConfig) -> Columns:
    head, embedder = load_head(str(config.head)), load_maker(rows.first_shard)
    scorer = Scorer({"head": head})

    def classes(texts: Any) -> IntArray:
        return probabilities(head, scorer.outputs(encode(embedder, texts))[0]).argmax(axis=1).astype(np.int64)

    return consistency(features.need_texts(), classes, config)


class AllAnsweredConfig(JudgedTextsConfig):
    """Question, judge, and the handling of texts without an answer."""

    unanswered: Literal["error", "keep"] = "error"
    """Texts without an answer: keep nothing and say so (what was answered is not asked again), or NaN."""


class ColumnSelfFilterConfig(SelfFilterMeasureConfig):
    """Training of the head, and the column it learns from."""

    column: str
    """Score column of the judged rows; NaN for rows that were not judged."""


def _judged(rows: Rows, features: Features, config: AllAnsweredConfig) -> Columns:
    state = rows.source.store.folder.parent / "judged_texts.sqlite"
    columns = judged_texts(list(features.need_texts()), config, state)
    missing = int(np.isnan(columns["llm_judge"]).sum())
    if missing and config.unanswered == "error":
        raise JudgeError(
            f"{missing:,} of {len(features):,} texts have no answer; those that have are kept in {state}. Run again to "
            "ask about the others, or set unanswered to keep"
        )
    return columns


def _self_filter(rows: Rows, features: Features, config: ColumnSelfFilterConfig) -> Columns:
    if config.column not in rows.metadata_names:
        raise ConfigError(f"there is no column {config.column!r}; there are {', '.join(rows.metadata_names)}")
    judged = read_frame(rows, [config.column])[config.column].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return self_filter(features.vectors(), judged, config)


def _confident(rows: Rows, features: Features, config: ConfidentConfig) -> Columns:
    documents = [str(name) for name in read_frame(rows, ["document_id"])["document_id"].to_list()]
    return confident_learning(features.vectors(), features.need_labels(), config, documents)


def _model(config: Any) -> dict[str, str]:
    return {} if config is None else {"model": find_model(_named(config)).revision}


def _named(config: Any) -> EmbeddingConfig:
    return EmbeddingConfig(model_name=config.model, revision=config.revision)


def _head(path: Path | None) -> dict[str, str]:
    return {} if path is None else {"head": head_sha256(load_head(str(path)))}


def _of_texts(compute: Callable[[Sequence[str], Any], Columns]) -> Callable[[Rows, Features, Any], Columns]:
    return lambda rows, features, config: compute(features.need_texts(), config)


_LABELS, _VECTORS_AND_LABELS = frozenset({"labels"}), frozenset({"embeddings", "labels"})
_TEXTS, _TEXTS_AND_VECTORS = frozenset({"texts"}), frozenset({"texts", "embeddings"})

MEASURES: Mapping[str, Measure] = {
    "text_metrics": Measure(
        _STORE_METRICS, NoSettings, _of_texts(lambda texts, config: text_metrics(texts, _STORE_METRICS)), _TEXTS
    ),
    "perplexity": Measure(("perplexity",), CausalModelConfig, _of_texts(perplexity), _TEXTS, identity=_model),
    "pseudo_perplexity": Measure(
        ("pseudo_perplexity",), ModelConfig, _of_texts(pseudo_perplexity), _TEXTS, identity=_model
    ),
    "wordpiece_ratio": Measure(
        ("wordpiece_ratio",), TokenizerConfig,
        _of_texts(lambda texts, config: wordpiece_ratio(texts, config.model, config.revision)), _TEXTS,
        identity=lambda config: {"tokenizer": tokenizer_sha256(load_tokenizer(_named(config)))},
    ),
    "predictive_entropy": Measure(
        ("predictive_entropy",), EntropyConfig, _entropy, _TEXTS_AND_VECTORS,
        identity=lambda config: _model(config.model) | _head(config.head),
    ),
    "consistency": Measure(
        ("consistency",), HeadConsistencyConfig, _consistency, _TEXTS_AND_VECTORS,
        identity=lambda config: _head(config.head),
    ),
    "llm_judge": Measure(("llm_judge",), AllAnsweredConfig, _judged, _TEXTS),
    "self_filter": Measure(
        ("self_filter",), ColumnSelfFilterConfig, _self_filter, frozenset({"embeddings"}), row_by_row=False,
        reads=lambda config: (config.column,),
    ),
    "dynamics": Measure(
        ("el2n", "grand", "loss", "forgetting", "margin"), DynamicsConfig,
        lambda rows, features, config: training_dynamics(features.vectors(), features.need_labels(), config),
        _VECTORS_AND_LABELS, _LABELS, row_by_row=False,
    ),
    "confident": Measure(
        ("label_quality", "label_issue"), ConfidentConfig, _confident, _VECTORS_AND_LABELS, _LABELS, row_by_row=False
    ),
}  # fmt: skip
"""Metrics by name, which is also the name of the folder and, of a single column, of the column."""
