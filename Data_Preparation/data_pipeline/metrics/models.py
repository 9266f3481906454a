"""Transformers for metrics: loading, tokenization, and batches of texts of different lengths."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from data_pipeline.config import EmbeddingConfig, Section
from data_pipeline.config.base import setting
from data_pipeline.embeddings.model_files import ModelFiles, find_model
from data_pipeline.errors import ModelError, OutOfMemoryError, SelectionError
from data_pipeline.types import IntArray
from data_pipeline.utils import batched, converted_errors, require
from data_pipeline.utils.devices import half_or_float32, is_out_of_memory

Kind = Literal["AutoModelForCausalLM", "AutoModelForMaskedLM", "AutoModelForSequenceClassification"]
_TEXTS = 4096  # tokenized in one call


class ModelConfig(Section):
    """Model of a measure, and how it is run."""

    model: str
    """Name on the hub, or folder; weights must be safetensors, and no code that comes with the model is run."""
    revision: str | None = None
    """Commit, tag or branch of the model."""
    max_length: int = Field(512, ge=2)
    """Tokens, including special ones, at which a text is truncated; at most the maximum of the model."""
    batch_tokens: int = setting(2_048, decides=False, ge=1)
    """Tokens per batch, including padding. Logits of a language model take this times the vocabulary in memory."""
    device: str = setting("auto", decides=False)
    """Torch device, such as cuda:1; auto: a GPU if there is one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Dtype of the computation; auto: float32 on a CPU, bfloat16 on a GPU that has it."""


class TextTokens(NamedTuple):
    """Tokens of a text."""

    ids: IntArray
    """Shape (L,), token ids, including special tokens if they were asked for."""
    own: IntArray
    """Positions of the tokens that are not special; at least one."""


@dataclass(frozen=True)
class TextModel:
    """Loaded model with its tokenizer."""

    model: Any
    """Model of transformers, in evaluation mode."""
    tokenizer: Any
    """Tokenizer of the tokenizers library, which truncates texts to the maximum length."""
    files: ModelFiles
    """Folder and revision of the model."""
    pad_id: int
    """Id of the padding token."""
    device: torch.device
    """Device of the model."""

    def tokenize(self, texts: Sequence[str], special_tokens: bool) -> list[TextTokens]:
        """Tokenize texts.

        Args:
            texts: N texts.
            special_tokens: Add the special tokens of the model.

        Raises:
            SelectionError: A text has no tokens other than special ones.
        """
        tokens = list[TextTokens]()
        for batch in batched(texts, _TEXTS):
            for encoding in self.tokenizer.encode_batch(batch, add_special_tokens=special_tokens):
                own = np.flatnonzero(np.equal(encoding.special_tokens_mask, 0))
                if not len(own):
                    raise SelectionError(f"text {len(tokens)} ({texts[len(tokens)]!r}) has no tokens. Leave it out")
                tokens.append(TextTokens(np.array(encoding.ids, np.int64), own))
        return tokens

    def logits(self, rows: Sequence[IntArray]) -> Tensor:
        """Logits of a batch in float32, rows padded on the right to the longest.

        Args:
            rows: Token ids of each text, shape (L,).

        Raises:
            OutOfMemoryError: The batch does not fit into the memory of the device.
        """
        tensors = [torch.from_numpy(ids) for ids in rows]
        padded = pad_sequence(tensors, batch_first=True, padding_value=self.pad_id)
        mask = pad_sequence([torch.ones_like(ids) for ids in tensors], batch_first=True)
        inputs = {"input_ids": padded.to(self.device), "attention_mask": mask.to(self.device)}
        try:
            with torch.inference_mode():
                return self.model(**inputs).logits.float()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(
                f"{len(rows)} texts of up to {padded.shape[1]} tokens do not fit into the memory of {self.device}: "
                f"{error}. Lower batch_tokens."
            ) from error


def load_text_model(config: ModelConfig, kind: Kind) -> TextModel:
    """Find and load a model.

    Args:
        config: Name of the model, and how it is run.
        kind: Class of transformers that loads it.

    Raises:
        SourceError: The hub cannot be reached, or has no such model.
        ModelError: The model cannot be loaded, or lacks weights of that kind of model.
        ConfigError: The device is not available.
    """
    transformers = require("transformers", "selection", "a measure by a model")
    from data_pipeline.embeddings.recipes.recipe import read_recipe
    from data_pipeline.embeddings.transformer.loading import choose_device

    files = find_model(EmbeddingConfig(model_name=config.model, revision=config.revision), setting="model")
    tokenizer, limit, pad_id = _tokenizer(files)
    device = torch.device(choose_device(config.device, "device"))
    transformers.utils.logging.disable_progress_bar()  # loading weights takes about a second
    automatic = "float32" if device.type == "cpu" else half_or_float32(device)
    dtype = automatic if config.dtype == "auto" else config.dtype
    failures = (OSError, ValueError, LookupError, RuntimeError, ImportError, SafetensorError)
    with converted_errors(failures, ModelError, f"cannot load {config.model} as {kind}"):
        model, info = getattr(transformers, kind).from_pretrained(
            files.folder, dtype=getattr(torch, dtype), use_safetensors=True, trust_remote_code=False,
            local_files_only=True, output_loading_info=True,
        )  # fmt: skip
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"{config.model} lacks {len(missing)} weights of a {type(model).__name__}, such as {missing[0]}: its "
            "output would be random. Choose a model that was trained as one."
        )
    # For the maximum length, which model families count differently; the pooling is not used.
    recipe = read_recipe(files.folder, limit, "mean")
    tokenizer.enable_truncation(min(config.max_length, recipe.max_length))
    return TextModel(model.to(device).eval(), tokenizer, files, pad_id, device)


def load_tokenizer(name: str, revision: str | None = None) -> Any:
    """Load the tokenizer of a model, of the tokenizers library, without truncation.

    Args:
        name: Name on the hub, or folder.
        revision: Commit, tag or branch of the model.

    Raises:
        SourceError: The hub cannot be reached, or has no such model.
        ModelError: The tokenizer cannot be loaded.
    """
    files = find_model(EmbeddingConfig(model_name=name, revision=revision), weights=False, setting="model")
    return _tokenizer(files)[0]


def _tokenizer(files: ModelFiles) -> tuple[Any, int, int]:
    from data_pipeline.embeddings.transformer.loading import load_tokenizer

    return load_tokenizer(files, EmbeddingConfig(model_name=str(files.folder)))


def batches(lengths: IntArray, batch_tokens: int) -> Iterator[IntArray]:
    """Batches of rows by descending length; a row longer than `batch_tokens` is a batch of its own.

    Args:
        lengths: Shape (N,), tokens of each row.
        batch_tokens: Tokens per batch, including padding.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        count = max(1, batch_tokens // int(lengths[order[start]]))
        yield order[start : start + count]
        start += count


def finite(name: str, values: NDArray[np.float64], model: str) -> dict[str, NDArray[np.float64]]:
    """The column by name, after checking that all values are finite.

    Args:
        name: Name of the column.
        values: Shape (N,).
        model: Name of the model, for the message.

    Raises:
        ModelError: A value is NaN or infinite.
    """
    if len(bad := np.flatnonzero(~np.isfinite(values))):
        raise ModelError(
            f"{model} returned {values[bad[0]]} as {name} of text {bad[0]}, and NaN or infinity for {len(bad) - 1} "
            "more. A wider dtype may help"
        )
    return {name: values}
