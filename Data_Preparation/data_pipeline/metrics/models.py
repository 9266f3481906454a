"""Running a transformer over many texts of different lengths, for the measures that need one."""

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
from data_pipeline.embeddings.transformer.weights import ModelFiles, find_model
from data_pipeline.errors import ModelError, OutOfMemory, SelectionError
from data_pipeline.types import IntArray
from data_pipeline.utils import batched, require
from data_pipeline.utils.devices import half_or_float32, is_out_of_memory

Kind = Literal["AutoModelForCausalLM", "AutoModelForMaskedLM", "AutoModelForSequenceClassification"]
_TEXTS = 4096  # tokenized in one call


class ModelConfig(Section):
    """The model that measures, and how it is run."""

    model: str
    """On the hub, or a folder; its weights are safetensors, and no code that comes with it is run."""
    revision: str | None = None
    """Commit, tag or branch of the model."""
    max_length: int = Field(512, ge=2)
    """Tokens, special ones included, after which a text is cut; never more than the model takes."""
    batch_tokens: int = setting(2_048, decides=False, ge=1)
    """Tokens computed together, padding counted. A language model's memory is this times its vocabulary."""
    device: str = setting("auto", decides=False)
    """auto: a GPU where there is one; or a torch device such as cuda:1."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Dtype of the arithmetic; auto: float32 on a CPU, bfloat16 on a GPU that has it."""


class Tokens(NamedTuple):
    """A text as a model sees it."""

    ids: IntArray
    """Shape (L,), special tokens among them where they were asked for."""
    own: IntArray
    """Places of those that are not special; one at least."""


@dataclass(frozen=True)
class TextModel:
    """A loaded model with its tokenizer."""

    model: Any
    tokenizer: Any
    """Of the tokenizers library; cuts texts to the maximum length."""
    files: ModelFiles
    pad_id: int
    device: torch.device

    def tokenize(self, texts: Sequence[str], special_tokens: bool) -> list[Tokens]:
        """The tokens of each text.

        Raises:
            SelectionError: a text has no tokens but special ones.
        """
        found = list[Tokens]()
        for some in batched(texts, _TEXTS):
            for encoding in self.tokenizer.encode_batch(some, add_special_tokens=special_tokens):
                own = np.flatnonzero(np.equal(encoding.special_tokens_mask, 0))
                if not len(own):
                    raise SelectionError(f"text {len(found)} ({texts[len(found)]!r}) has no tokens; leave it out")
                found.append(Tokens(np.array(encoding.ids, np.int64), own))
        return found

    def logits(self, rows: Sequence[IntArray]) -> Tensor:
        """What the model says of some token ids, in float32; padded on the right to the longest.

        Raises:
            OutOfMemory: they do not fit into the device's memory together.
        """
        tensors = [torch.from_numpy(ids) for ids in rows]
        padded = pad_sequence(tensors, batch_first=True, padding_value=self.pad_id)
        mask = pad_sequence([torch.ones_like(ids) for ids in tensors], batch_first=True)
        try:
            with torch.inference_mode():
                found: Tensor = self.model(
                    input_ids=padded.to(self.device), attention_mask=mask.to(self.device)
                ).logits.float()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(
                f"{len(rows)} texts of up to {padded.shape[1]} tokens do not fit into the memory of {self.device}: "
                f"{error}. Lower batch_tokens."
            ) from error
        return found


def load_text_model(config: ModelConfig, kind: Kind) -> TextModel:
    """Find and load a model of a kind.

    Raises:
        SourceError: the hub can't be reached, or has no such model.
        ModelError: it cannot be loaded, or lacks the weights of that kind of model.
        ConfigError: the device is not there.
    """
    transformers = require("transformers", "selection", "a measure by a model")
    from data_pipeline.embeddings.transformer.loading import choose_device
    from data_pipeline.embeddings.transformer.recipe import read_recipe

    files = find_model(EmbeddingConfig(model_name=config.model, revision=config.revision), setting="model")
    tokenizer, limit, pad_id = _tokenizer(files)
    device = torch.device(choose_device(config.device, "device"))
    transformers.utils.logging.disable_progress_bar()  # of loading weights: a second, mostly
    automatic = "float32" if device.type == "cpu" else half_or_float32(device)
    dtype = automatic if config.dtype == "auto" else config.dtype
    try:
        model, info = getattr(transformers, kind).from_pretrained(
            files.folder, dtype=getattr(torch, dtype), use_safetensors=True, trust_remote_code=False,
            local_files_only=True, output_loading_info=True,
        )  # fmt: skip
    except (OSError, ValueError, LookupError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelError(f"cannot load {config.model} as {kind}: {error}") from error
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"{config.model} lacks {len(missing)} weights of a {type(model).__name__}, {missing[0]} for one: its "
            "numbers would be random. Choose a model that was trained as one."
        )
    # For the number of tokens it takes, which families count differently; its pooling is not used.
    recipe = read_recipe(files.folder, limit, "mean")
    tokenizer.enable_truncation(min(config.max_length, recipe.max_length))
    return TextModel(model.to(device).eval(), tokenizer, files, pad_id, device)


def load_tokenizer(name: str, revision: str | None = None) -> Any:
    """The tokenizer of a model, of the tokenizers library, that cuts nothing.

    Raises:
        SourceError: the hub can't be reached, or has no such model.
        ModelError: it cannot be loaded.
    """
    return _tokenizer(find_model(EmbeddingConfig(model_name=name, revision=revision), weights=False, setting="model"))[
        0
    ]


def _tokenizer(files: ModelFiles) -> tuple[Any, int, int]:
    from data_pipeline.embeddings.transformer.loading import load_tokenizer

    return load_tokenizer(files, EmbeddingConfig(model_name=str(files.folder)))


def batches(lengths: IntArray, batch_tokens: int) -> Iterator[IntArray]:
    """Rows that are computed together, longest first; a row longer than `batch_tokens` goes alone."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        count = max(1, batch_tokens // int(lengths[order[start]]))
        yield order[start : start + count]
        start += count


def finite(name: str, values: NDArray[np.float64], model: str) -> dict[str, NDArray[np.float64]]:
    """The column, checked.

    Raises:
        ModelError: a number is NaN or infinite.
    """
    if len(bad := np.flatnonzero(~np.isfinite(values))):
        raise ModelError(
            f"{model} gives {values[bad[0]]} as {name} of text {bad[0]}, and no finite number for {len(bad) - 1} more; "
            "a wider dtype may help"
        )
    return {name: values}
