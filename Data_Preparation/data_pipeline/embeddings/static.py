"""Embedder of static models: the mean of the vectors of a text's tokens, looked up in a table.

model2vec (potion) and the StaticEmbedding module of sentence-transformers. There is no attention, so a text costs
little more than its tokenization.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings.base import Identity, Runtime, tokenizer_sha256
from data_pipeline.embeddings.model_files import ModelFiles
from data_pipeline.embeddings.recipes.card_rules import complete_recipe
from data_pipeline.embeddings.recipes.modules import ModuleChain, Route, SentenceModule, read_chain, read_json
from data_pipeline.embeddings.recipes.recipe import read_recipe
from data_pipeline.embeddings.tokens import Tokens, concatenate, from_rows
from data_pipeline.embeddings.transformer.pooling import Pooling
from data_pipeline.embeddings.transformer.sentence_layers import load_sentence_layers
from data_pipeline.errors import ConfigError, ModelError
from data_pipeline.types import Float32Array
from data_pipeline.utils import batched, converted_errors

logger = logging.getLogger(__name__)

NO_LIMIT = 1_000_000_000
"""Maximum length of a model that has none, in tokens."""
_MODEL2VEC = "model2vec"
_MODEL2VEC_LENGTH = 512  # that of its own encode(), unless the config names another
_BATCH_TOKENS = 1_000_000  # few packs: a pack has a fixed cost, and its tokens need no memory but their ids
_TOKENIZED_AT_ONCE = 1024  # the tokenizer's results take many times the memory of their ids
_FOR_TRANSFORMERS: Mapping[str, tuple[object, ...]] = {
    "backend": ("torch",), "pooling": ("auto", "mean"), "dtype": ("auto", "float32"), "attention": ("auto",),
    "task": (None,), "compile": (False,), "fp8": (False,),
}  # fmt: skip
"""Settings that say nothing about a table, and the values that leave it as it is."""
_FAILURES = (OSError, SafetensorError, KeyError, ValueError, RuntimeError, IndexError)


class StaticEmbedder:
    """Embedder that averages vectors of tokens; see `base.Embedder`.

    Args:
        config: settings of the embedder.
        files: files of the model.
        chain: modules of the model, see `static_chain`.
        route: kind of text, for models that send documents and queries through different modules.

    Raises:
        ModelError: the files cannot be read.
        ConfigError: a setting is for transformers only, or does not fit the model.
    """

    runtime = Runtime(attention="static", batch_tokens=_BATCH_TOKENS)

    def __init__(
        self, config: EmbeddingConfig, files: ModelFiles, chain: ModuleChain, route: Route = "document"
    ) -> None:
        if unfit := [name for name, defaults in _FOR_TRANSFORMERS.items() if getattr(config, name) not in defaults]:
            raise ConfigError(
                f"{config.model_name} is a table of token vectors: embedding.{unfit[0]} "
                f"{getattr(config, unfit[0])} is for transformers; leave it at its default"
            )
        folder = chain.input.folder
        self._table, is_model2vec = _load_table(folder)
        self.tokenizer = load_static_tokenizer(folder)
        recipe = read_recipe(files.folder, NO_LIMIT, "mean", config.task, route)
        recipe = complete_recipe(config.model_name, files.folder, recipe, "mean")
        own_limit = int(read_json(folder / "config.json").get("max_length") or _MODEL2VEC_LENGTH)
        limit = own_limit if is_model2vec else NO_LIMIT
        max_length = min(config.max_length or limit, NO_LIMIT)
        self._encoder = Tokenizer.from_str(self.tokenizer.to_str())
        if max_length < NO_LIMIT:
            self._encoder.enable_truncation(max_length)
        # model2vec leaves unknown tokens out, sentence-transformers does not.
        self._unknown_id = _unknown_id(self.tokenizer) if is_model2vec else None
        self._layers = load_sentence_layers(Pooling(("mean",)), chain.after, torch.device("cpu"))
        width = self._layers.width(self._table.shape[1])
        dim = config.dim or recipe.default_dim or width
        if dim > width:
            raise ConfigError(f"embedding.dim {dim}: {config.model_name} gives 1 to {width} dimensions")
        self.query_prompt = recipe.query_prompt if config.query_prompt is None else config.query_prompt
        self.identity = Identity(
            model=config.model_name,
            revision=files.revision,
            pooling="mean",
            normalized=recipe.normalize if config.normalize is None else config.normalize,
            dtype="float32",
            dim=dim,
            max_length=max_length,
            prompt=recipe.prompt if config.prompt is None else config.prompt,
            tokenizer=tokenizer_sha256(self.tokenizer),
            modules=chain.description,
        )
        logger.info(
            "Model %s (%s): table of %d token vectors, %d of %d dimensions",
            config.model_name, files.revision[:32], len(self._table), dim, width,
        )  # fmt: skip

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Tokenize texts without special tokens; see `base.Embedder`."""
        return concatenate(map(self._tokenize, batched(texts, _TOKENIZED_AT_ONCE)))

    def _tokenize(self, texts: Sequence[str]) -> Tokens:
        encodings = self._encoder.encode_batch_fast(texts, add_special_tokens=False)
        rows = [encoding.ids for encoding in encodings]
        if (unknown := self._unknown_id) is not None:
            rows = [[token for token in row if token != unknown] if unknown in row else row for row in rows]
        return from_rows(rows, [bool(encoding.overflowing) for encoding in encodings])

    def forward(self, texts: Tokens, dtype: str | None = None) -> Float32Array:
        """Vectors of shape (N, width); zeros for a text without a known token. See `base.Embedder`."""
        del dtype
        with torch.inference_mode():
            ids, starts = torch.from_numpy(texts.ids), torch.from_numpy(texts.offsets[:-1].astype(np.int32))
            means = functional.embedding_bag(ids, self._table, starts, mode="mean")
            vectors: Float32Array = self._layers.project(means).numpy()
            return vectors


def static_chain(folder: Path, route: Route = "document") -> ModuleChain | None:
    """Modules of a static model; None if a folder's model is of another kind.

    Raises:
        ModelError: see `recipes.modules.read_chain`.
    """
    chain = read_chain(folder, route)
    if chain is not None:
        return chain if chain.input.kind == "StaticEmbedding" else None
    if read_json(folder / "config.json").get("model_type") != _MODEL2VEC:
        return None
    return ModuleChain(SentenceModule("StaticEmbedding", folder, {}), (), True, (), routed=False)


def load_static_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokenizer of a static model, without truncation or padding.

    Raises:
        ModelError: it cannot be read.
    """
    path = folder / "tokenizer.json"
    with converted_errors((Exception,), ModelError, f"cannot load the tokenizer {path}"):
        tokenizer: Tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _load_table(folder: Path) -> tuple[Tensor, bool]:
    """Vectors of all tokens, float32, shape (tokens, width), and whether the file is of model2vec.

    A quantised vocabulary of model2vec (a row and a weight for each token) becomes one table.
    """
    path = folder / "model.safetensors"
    with converted_errors(_FAILURES, ModelError, f"{path} is not a table of token vectors"):
        stored = load_file(path)
        if "embedding.weight" in stored:
            return stored["embedding.weight"].float().contiguous(), False
        table = stored["embeddings"].float()
        if "mapping" in stored:
            table = table[stored["mapping"].long()]
        if "weights" in stored:
            table = table * stored["weights"].float()[:, None]
        return table.contiguous(), True


def _unknown_id(tokenizer: Tokenizer) -> int | None:
    """Id of the token for unknown pieces; None if the tokenizer has none."""
    settings: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    token = settings.get("unk_token")
    return settings.get("unk_id") if token is None else tokenizer.token_to_id(token)
