"""Perplexity of texts by a language model.

Perplexity by a causal model: the exponential of the mean negative log-likelihood of the tokens, each given those before
it (Jelinek et al., 1977). Pseudo-perplexity by a masked model: each given all others, one masked at a time (Salazar et
al., "Masked Language Model Scoring", 2020, arXiv:1910.14659).
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from data_pipeline.errors import ConfigError, ModelError, SelectionError
from data_pipeline.metrics.models import ModelConfig, TextModel, batches, finite, load_text_model
from data_pipeline.utils import progress_bar, refuse_single_text, require

_IGNORED = -100  # target without a loss


class CausalModelConfig(ModelConfig):
    """Causal model of the measure `perplexity`."""

    start_token: bool = True
    """Prepend the start token of the model, or its end token if it has none, so that the first token of a text counts,
    too. Without it a text of one token has no perplexity."""


def perplexity(texts: Sequence[str], config: CausalModelConfig) -> dict[str, NDArray[np.float64]]:
    """Perplexity by a causal model, column `perplexity`, 1 or more; special tokens are not counted.

    Args:
        texts: N texts.
        config: The model.

    Raises:
        SelectionError: A text has no tokens, or only one and `start_token` is off.
        ConfigError: The model has neither start nor end token, and `start_token` is on.
        ModelError: The model cannot be loaded, or returns NaN or infinity.
    """
    refuse_single_text(texts, "texts")
    model = load_text_model(config, "AutoModelForCausalLM")
    start = [_start_token(model, config.model)] if config.start_token else []
    if start:
        model.tokenizer.enable_truncation(model.tokenizer.truncation["max_length"] - 1)
    rows = [np.array([*start, *tokens.ids]) for tokens in model.tokenize(texts, special_tokens=False)]
    lengths = np.array([len(ids) for ids in rows], np.int64)
    if len(short := np.flatnonzero(lengths < 2)):
        raise SelectionError(
            f"{len(short)} texts have one token, first text {short[0]} ({texts[short[0]]!r}): no token comes before "
            "it. Set start_token to true, or leave them out."
        )
    sums = np.zeros(len(rows))
    with progress_bar(int(lengths.sum()), "perplexity", "tokens") as bar:
        for batch in batches(lengths, config.batch_tokens):
            batch_ids = [rows[row] for row in batch.tolist()]
            logits = model.logits(batch_ids)
            targets = torch.full(logits.shape[:2], _IGNORED)
            for row, ids in enumerate(batch_ids):
                targets[row, : len(ids) - 1] = torch.from_numpy(ids[1:])
            losses = functional.cross_entropy(
                logits.flatten(0, 1), targets.flatten().to(logits.device), ignore_index=_IGNORED, reduction="none"
            )
            sums[batch] = losses.cpu().double().view(targets.shape).sum(dim=1).numpy()
            bar.update(int(lengths[batch].sum()))
    return finite("perplexity", np.exp(sums / (lengths - 1)), config.model)


def pseudo_perplexity(texts: Sequence[str], config: ModelConfig) -> dict[str, NDArray[np.float64]]:
    """Pseudo-perplexity by a masked model, column `pseudo_perplexity`, 1 or more.

    Special tokens are part of the input, but neither masked nor counted. Costs one pass of a text per token.

    Args:
        texts: N texts.
        config: The model.

    Raises:
        SelectionError: A text has no tokens.
        ModelError: The model cannot be loaded, has no mask token, or returns NaN or infinity.
    """
    refuse_single_text(texts, "texts")
    model = load_text_model(config, "AutoModelForMaskedLM")
    mask_id = _mask_token(model, config.model)
    tokens = model.tokenize(texts, special_tokens=True)
    counts = np.array([len(text.own) for text in tokens], np.int64)
    # One masked copy of a text for each of its tokens.
    text_of = np.repeat(np.arange(len(texts)), counts)
    position_of = np.concatenate([np.zeros(0, np.int64), *(text.own for text in tokens)])
    lengths = np.array([len(text.ids) for text in tokens], np.int64)[text_of]
    losses = np.zeros(len(text_of))
    with progress_bar(len(text_of), "pseudo-perplexity", "tokens") as bar:
        for batch in batches(lengths, config.batch_tokens):
            copies, positions = [tokens[text].ids.copy() for text in text_of[batch]], position_of[batch]
            hidden = torch.tensor([ids[position] for ids, position in zip(copies, positions, strict=True)])
            for ids, position in zip(copies, positions, strict=True):
                ids[position] = mask_id
            logits = model.logits(copies)[torch.arange(len(batch)), torch.from_numpy(positions)]
            losses[batch] = functional.cross_entropy(logits, hidden.to(logits.device), reduction="none").cpu().numpy()
            bar.update(len(batch))
    sums = np.bincount(text_of, losses, minlength=len(texts))
    return finite("pseudo_perplexity", np.exp(sums / counts), config.model)


def _start_token(model: TextModel, name: str) -> int:
    for setting in ("bos_token_id", "eos_token_id"):
        token_id = getattr(model.model.config, setting, None)
        if isinstance(token_id, list):
            token_id = token_id[0]
        if token_id is not None:
            return int(token_id)
    raise ConfigError(f"{name} has neither a start token nor an end token in its config. Set start_token to false")


def _mask_token(model: TextModel, name: str) -> int:
    transformers = require("transformers", "selection", "a masked model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        model.files.folder, trust_remote_code=False, local_files_only=True
    )
    if tokenizer.mask_token_id is None:
        raise ModelError(f"the tokenizer of {name} has no mask token. Choose a masked language model")
    return int(tokenizer.mask_token_id)
