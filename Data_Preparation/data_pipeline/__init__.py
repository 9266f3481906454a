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
    MissingExtra,
    ModelError,
    OutOfMemory,
    ShardMismatch,
    SourceError,
    StaleStage,
    StoreError,
)
from data_pipeline.types import Document

if TYPE_CHECKING:
    from data_pipeline.dataset import ELMCollator, ELMDataset, ELMLoader, PairDataset, interpolate, mixup
    from data_pipeline.download.sample import sample_qrels, sample_queries
    from data_pipeline.embeddings import HashingEmbedder, encode, load_embedder
    from data_pipeline.pipeline import embed, run
    from data_pipeline.settings import load_config, load_preset
    from data_pipeline.verify import verify

_LAZY = {
    "ELMCollator": "data_pipeline.dataset",
    "ELMDataset": "data_pipeline.dataset",
    "ELMLoader": "data_pipeline.dataset",
    "HashingEmbedder": "data_pipeline.embeddings",
    "PairDataset": "data_pipeline.dataset",
    "embed": "data_pipeline.pipeline",
    "encode": "data_pipeline.embeddings",
    "interpolate": "data_pipeline.dataset",
    "load_embedder": "data_pipeline.embeddings",
    "load_config": "data_pipeline.settings",
    "load_preset": "data_pipeline.settings",
    "mixup": "data_pipeline.dataset",
    "run": "data_pipeline.pipeline",
    "sample_qrels": "data_pipeline.download.sample",
    "sample_queries": "data_pipeline.download.sample",
    "verify": "data_pipeline.verify",
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
    "HashingEmbedder",
    "MissingExtra",
    "ModelError",
    "OutOfMemory",
    "PairDataset",
    "ShardMismatch",
    "SourceError",
    "StaleStage",
    "StoreError",
    "embed",
    "encode",
    "interpolate",
    "load_config",
    "load_embedder",
    "load_preset",
    "mixup",
    "run",
    "sample_qrels",
    "sample_queries",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # `data_pipeline.verify` is a module too; the public name is the function in it.
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
