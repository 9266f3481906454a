"""Loads the sparse encoder that a config names."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import nn

from data_pipeline.config.sparse import SparseConfig
from data_pipeline.embeddings.base import Identity, tokenizer_sha256
from data_pipeline.embeddings.model_files import ModelFiles, find_model
from data_pipeline.embeddings.recipes import find_card
from data_pipeline.embeddings.recipes.modules import MODULES_FILE, SentenceModule, read_json, read_modules
from data_pipeline.embeddings.recipes.recipe import USAGE_FILE, document_prompt, read_length
from data_pipeline.embeddings.sparse.encoder import SparseEncoder, Tower
from data_pipeline.embeddings.sparse.poolings import SpladePooling, TokenWeightPooling
from data_pipeline.embeddings.sparse.towers import TableTower, TransformerTower
from data_pipeline.embeddings.transformer import loading
from data_pipeline.embeddings.transformer.sentence_layers import read_tensors
from data_pipeline.errors import ConfigError, ModelError
from data_pipeline.utils import converted_errors

logger = logging.getLogger(__name__)

_SETTING = "sparse.model_name"
_LINEAR = "sparse_linear"
_EXTRA = (f"{_LINEAR}.*", "*SparseStaticEmbedding/pytorch_model.bin", "*/idf.json")
_MLM = "AutoModelForMaskedLM"
_TRANSFORMERS = {"Transformer", "MLMTransformer"}
_DENSE = {"Pooling", "Dense", "Normalize", "LayerNorm"}
_BATCH_TOKENS = 16_384
_LOGIT_BYTES = {"cpu": 2**28, "cuda": 2**31}  # of the logits of a batch
_LEAST_TOKENS = 512
_FAILURES = (OSError, SafetensorError, RuntimeError, ValueError, TypeError, KeyError, EOFError)


@dataclass(frozen=True)
class _Kind:
    """How a model gives sparse vectors."""

    folder: Path
    """Folder of the transformer or table."""
    splade: SentenceModule | None = None
    """Pooling of logits; None for weights of tokens."""
    table: SentenceModule | None = None
    """Table of the weights of words; None for a transformer."""


def load_sparse_encoder(config: SparseConfig) -> SparseEncoder:
    """Load the model that a config names.

    Raises:
        ConfigError: none is named, or a setting does not fit the model or the device.
        SourceError: there is no such model, or the hub cannot be reached.
        ModelError: the model gives no sparse vectors, or cannot be loaded.
    """
    if config.model_name is None:
        raise ConfigError(f"{_SETTING} is not set: name a model that gives sparse vectors, such as BAAI/bge-m3")
    files = find_model(config.for_loading(), setting=_SETTING, extra=_EXTRA)
    kind, routed = _kind_of(config.model_name, files.folder, "document")
    if kind.table is not None:
        raise ModelError(f"{config.model_name} looks documents up in a table of weights; expected a transformer")
    usage = read_json(files.folder / USAGE_FILE)
    limit = config.max_active or usage.get("max_active_dims")
    documents, identity = _load_transformer(config, files, kind, usage, limit)
    queries: Tower = documents
    if routed:
        query_kind, _ = _kind_of(config.model_name, files.folder, "query")
        if query_kind.table is not None:
            queries = _load_table(config, files, query_kind.folder, identity)
        elif query_kind.folder != kind.folder:
            queries, _ = _load_transformer(config, files, query_kind, usage, limit)
    prompts = usage.get("prompts") or {}
    query_prompt = (prompts.get("query") or "") if config.query_prompt is None else config.query_prompt
    logger.info(
        "Sparse model %s (%s): %s, %d words, at most %d tokens, %s",
        config.model_name, files.revision[:32], identity.pooling, identity.dim, identity.max_length, identity.dtype,
    )  # fmt: skip
    return SparseEncoder(identity, query_prompt, documents, queries, config.batch_tokens, config.batch_size)


def _kind_of(name: str, folder: Path, route: Any) -> tuple[_Kind, bool]:
    """How a model makes the vectors of a kind of text, and whether that depends on the kind."""
    has_linear = any((folder / f"{_LINEAR}{ending}").exists() for ending in (".pt", ".safetensors"))
    if not (folder / MODULES_FILE).exists():
        if has_linear:
            return _Kind(folder), False
        architectures = read_json(folder / "config.json").get("architectures") or [""]
        if not str(architectures[0]).endswith("ForMaskedLM"):
            raise _not_sparse(name, folder)
        if (match := find_card(name, folder)) is None or match.card.sparse != "splade":
            logger.warning(
                "%s has no sentence-transformers files and is not in the table of models (elm models): assuming that "
                "it is a SPLADE model (maximum of log(1 + relu) of its logits)", name,
            )  # fmt: skip
        return _Kind(folder, SentenceModule("SpladePooling", folder, {})), False
    modules, routed = read_modules(folder, route)
    match [module.kind for module in modules]:
        case [first, "SpladePooling"] if first in _TRANSFORMERS:
            return _Kind(modules[0].folder, splade=modules[1]), routed
        case ["SparseStaticEmbedding"]:
            return _Kind(modules[0].folder, table=modules[0]), routed
        case ["Transformer", *others] if has_linear and set(others) <= _DENSE:
            return _Kind(modules[0].folder), routed
    raise _not_sparse(name, folder)


def _not_sparse(name: str, folder: Path) -> ModelError:
    return ModelError(
        f"{name} gives no sparse vectors: {folder} has neither a SpladePooling module nor {_LINEAR}.pt, and is no "
        f"masked language model. Name a SPLADE model or BGE-M3 as {_SETTING}, and this one as embedding.model_name."
    )


def _load_transformer(
    config: SparseConfig, files: ModelFiles, kind: _Kind, usage: Mapping[str, Any], max_active: int | None
) -> tuple[TransformerTower, Identity]:
    settings = config.for_loading()
    own = ModelFiles(kind.folder, files.revision)
    tokenizer, limit, pad_id = loading.load_tokenizer(own, settings)
    model_config = read_json(kind.folder / "config.json")
    longest, _ = read_length(kind.folder, model_config, limit)
    max_length = min(config.max_length or longest, longest)
    encoder = Tokenizer.from_str(tokenizer.to_str())
    encoder.enable_truncation(max_length)
    device = torch.device(loading.choose_device(config.device, "sparse.device"))
    dtype = loading.choose_dtype(config.dtype, device.type, fp16_overflows=False)
    model = loading.load_model(own, dtype, device, config.trust_remote_code, kind=_MLM if kind.splade else None)
    width = int(model.config.vocab_size)
    if kind.splade is not None:
        pooling: Any = _splade(kind.splade)
        fitting = _LOGIT_BYTES.get(device.type, _LOGIT_BYTES["cpu"]) // (4 * width)
        batch_tokens = max(_LEAST_TOKENS, min(_BATCH_TOKENS, fitting))
    else:
        pooling = _token_weights(files.folder, tokenizer, int(model.config.hidden_size), width, device, dtype)
        batch_tokens = _BATCH_TOKENS
    prompts = usage.get("prompts") or {}
    identity = Identity(
        model=str(config.model_name),
        revision=files.revision,
        pooling=pooling.name,
        normalized=False,
        dtype=dtype,
        dim=width,
        max_length=max_length,
        prompt=document_prompt(prompts) if config.prompt is None else config.prompt,
        tokenizer=tokenizer_sha256(tokenizer),
        modules="" if max_active is None else f"{max_active} largest weights",
    )
    return TransformerTower(model, pooling, encoder, pad_id, device, batch_tokens, max_active), identity


def _splade(module: SentenceModule) -> SpladePooling:
    strategy = str(module.settings.get("pooling_strategy", "max"))
    activation = str(module.settings.get("activation_function", "relu"))
    if strategy not in {"max", "sum"} or activation not in {"relu", "log1p_relu"}:
        raise ModelError(
            f"{module.folder} has pooling_strategy {strategy!r} and activation_function {activation!r}; expected max "
            "or sum, and relu or log1p_relu"
        )
    return SpladePooling(strategy, activation == "log1p_relu")


def _token_weights(
    folder: Path, tokenizer: Tokenizer, hidden: int, width: int, device: torch.device, dtype: str
) -> TokenWeightPooling:
    linear = nn.Linear(hidden, 1)
    with converted_errors(_FAILURES, ModelError, f"cannot load {_LINEAR} of {folder}"):
        linear.load_state_dict(read_tensors(folder / f"{_LINEAR}.safetensors", folder / f"{_LINEAR}.pt"))
    linear = linear.to(device, getattr(torch, dtype)).eval().requires_grad_(False)
    special = tokenizer.get_added_tokens_decoder().items()
    left_out = frozenset(token_id for token_id, token in special if token.special and token.content != "<mask>")
    return TokenWeightPooling(linear, left_out, width)


def _load_table(config: SparseConfig, files: ModelFiles, folder: Path, identity: Identity) -> TableTower:
    tokenizer, limit, _ = loading.load_tokenizer(ModelFiles(folder, files.revision), config.for_loading())
    encoder = Tokenizer.from_str(tokenizer.to_str())
    if limit < 1_000_000:
        encoder.enable_truncation(limit)
    with converted_errors(_FAILURES, ModelError, f"cannot load the table of weights in {folder}"):
        weights = _read_table(folder, tokenizer)
    if len(weights) > identity.dim:
        raise ModelError(
            f"{folder} has weights of {len(weights)} words, the model of documents has {identity.dim}: queries and "
            "documents cannot be compared"
        )
    # A model may have room for more words than its tokenizer has.
    return TableTower(np.pad(weights, (0, identity.dim - len(weights))), encoder)


def _read_table(folder: Path, tokenizer: Tokenizer) -> NDArray[np.float32]:
    if not (path := folder / "idf.json").exists():
        table = read_tensors(folder / "model.safetensors", folder / "pytorch_model.bin")
        return np.asarray(table["weight"].float().numpy())
    weights = np.zeros(tokenizer.get_vocab_size(), np.float32)
    for word, weight in json.loads(path.read_bytes()).items():
        if (word_id := tokenizer.token_to_id(word)) is None:
            raise ValueError(f"{word!r} is not a word of the tokenizer")
        weights[word_id] = weight
    return weights
