"""Turn a text corpus into a training-ready embedding data set.

    from data_pipeline import ELMDataset, Config

Names that need torch are loaded at their first use, so importing the package is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from data_pipeline.config import Config
from data_pipeline.errors import (
    ConfigError,
    CorruptShard,
    DataPipelineError,
    DeviceHung,
    FilesFailed,
    JudgeError,
    MissingExtra,
    ModelError,
    NotFound,
    OutOfMemory,
    SelectionError,
    ShardMismatch,
    SourceError,
    StaleStage,
    StoreError,
    WrongEmbedder,
)
from data_pipeline.types import Document

if TYPE_CHECKING:
    from data_pipeline.annotation.files import run_annotation_pipeline, run_embedding_pipeline
    from data_pipeline.annotation.heads import Head, Scorer, evaluate_head, load_head, save_head, train_head
    from data_pipeline.annotation.stores import annotate
    from data_pipeline.dataset import ELMCollator, ELMDataset, ELMLoader, PairDataset, interpolate, mixup
    from data_pipeline.download.sample import sample_qrels, sample_queries
    from data_pipeline.embeddings import HashingEmbedder, encode, load_embedder
    from data_pipeline.pipeline import embed, run
    from data_pipeline.selection import measure, select_from
    from data_pipeline.settings import load_config, load_preset
    from data_pipeline.verification import verify
    from data_pipeline.weak_labels.label import label

_LAZY = {
    "annotate": "data_pipeline.annotation.stores",
    "ELMCollator": "data_pipeline.dataset",
    "ELMDataset": "data_pipeline.dataset",
    "ELMLoader": "data_pipeline.dataset",
    "embed": "data_pipeline.pipeline",
    "encode": "data_pipeline.embeddings",
    "evaluate_head": "data_pipeline.annotation.heads",
    "HashingEmbedder": "data_pipeline.embeddings",
    "Head": "data_pipeline.annotation.heads",
    "interpolate": "data_pipeline.dataset",
    "label": "data_pipeline.weak_labels.label",
    "load_config": "data_pipeline.settings",
    "load_embedder": "data_pipeline.embeddings",
    "load_head": "data_pipeline.annotation.heads",
    "load_preset": "data_pipeline.settings",
    "measure": "data_pipeline.selection",
    "mixup": "data_pipeline.dataset",
    "PairDataset": "data_pipeline.dataset",
    "run": "data_pipeline.pipeline",
    "run_annotation_pipeline": "data_pipeline.annotation.files",
    "run_embedding_pipeline": "data_pipeline.annotation.files",
    "sample_qrels": "data_pipeline.download.sample",
    "sample_queries": "data_pipeline.download.sample",
    "save_head": "data_pipeline.annotation.heads",
    "Scorer": "data_pipeline.annotation.heads",
    "select_from": "data_pipeline.selection",
    "train_head": "data_pipeline.annotation.heads",
    "verify": "data_pipeline.verification",
}

__all__ = [
    "Config",
    "ConfigError",
    "CorruptShard",
    "DataPipelineError",
    "DeviceHung",
    "Document",
    "ELMCollator",
    "ELMDataset",
    "ELMLoader",
    "FilesFailed",
    "HashingEmbedder",
    "Head",
    "JudgeError",
    "MissingExtra",
    "ModelError",
    "NotFound",
    "OutOfMemory",
    "PairDataset",
    "Scorer",
    "SelectionError",
    "ShardMismatch",
    "SourceError",
    "StaleStage",
    "StoreError",
    "WrongEmbedder",
    "annotate",
    "embed",
    "encode",
    "evaluate_head",
    "interpolate",
    "label",
    "load_config",
    "load_embedder",
    "load_head",
    "load_preset",
    "measure",
    "mixup",
    "run",
    "run_annotation_pipeline",
    "run_embedding_pipeline",
    "sample_qrels",
    "sample_queries",
    "save_head",
    "select_from",
    "train_head",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
