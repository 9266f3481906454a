"""Heads: load, apply, train, evaluate.

Names are loaded at their first use: the command line lists its flags without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_pipeline.annotation.heads.apply import Scorer, column_names, probabilities
    from data_pipeline.annotation.heads.evaluate import Evaluation, evaluate_head
    from data_pipeline.annotation.heads.files import head_sha256, load_head, save_head
    from data_pipeline.annotation.heads.head import Head, Layer
    from data_pipeline.annotation.heads.identity import (
        PROBE_SENTENCES,
        EmbedderIdentity,
        check_embedder,
        check_identity,
        identity_of,
    )
    from data_pipeline.annotation.heads.labelled import Labelled, identity_of_maker
    from data_pipeline.annotation.heads.named import DEFAULT_EMBEDDER, NAMED_HEADS
    from data_pipeline.annotation.heads.train import Trained, train_head
    from data_pipeline.annotation.heads.training_config import TrainingConfig

_HEADS = "data_pipeline.annotation.heads"
_LAZY = {
    "DEFAULT_EMBEDDER": "named",
    "EmbedderIdentity": "identity",
    "Evaluation": "evaluate",
    "Head": "head",
    "Labelled": "labelled",
    "Layer": "head",
    "NAMED_HEADS": "named",
    "PROBE_SENTENCES": "identity",
    "Scorer": "apply",
    "Trained": "train",
    "TrainingConfig": "training_config",
    "check_embedder": "identity",
    "check_identity": "identity",
    "column_names": "apply",
    "evaluate_head": "evaluate",
    "head_sha256": "files",
    "identity_of": "identity",
    "identity_of_maker": "labelled",
    "load_head": "files",
    "probabilities": "apply",
    "save_head": "files",
    "train_head": "train",
}

__all__ = [
    "DEFAULT_EMBEDDER",
    "NAMED_HEADS",
    "PROBE_SENTENCES",
    "EmbedderIdentity",
    "Evaluation",
    "Head",
    "Labelled",
    "Layer",
    "Scorer",
    "Trained",
    "TrainingConfig",
    "check_embedder",
    "check_identity",
    "column_names",
    "evaluate_head",
    "head_sha256",
    "identity_of",
    "identity_of_maker",
    "load_head",
    "probabilities",
    "save_head",
    "train_head",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{_HEADS}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value
