"""Embedder over any Hugging Face text encoder."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from typing import Any

import torch
from tokenizers import Tokenizer

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings.base import Identity, tokenizer_sha256
from data_pipeline.embeddings.model_files import ModelFiles, find_model
from data_pipeline.embeddings.probes import PROBES
from data_pipeline.embeddings.recipes.card_rules import complete_recipe, warn_about_dim
from data_pipeline.embeddings.recipes.modules import Route, read_chain
from data_pipeline.embeddings.recipes.recipe import Recipe, read_recipe
from data_pipeline.embeddings.tokens import Tokens, from_rows
from data_pipeline.embeddings.transformer import loading
from data_pipeline.embeddings.transformer.float8 import to_float8
from data_pipeline.embeddings.transformer.forward import Forward
from data_pipeline.embeddings.transformer.paths import EmbeddingPath, Setup, choose_path
from data_pipeline.embeddings.transformer.pooling import Pooling
from data_pipeline.embeddings.transformer.probe import Probes, cosine_loss, make_probes
from data_pipeline.embeddings.transformer.sentence_layers import load_sentence_layers
from data_pipeline.errors import ConfigError, DeviceHungError, ModelError, OutOfMemoryError
from data_pipeline.types import Float32Array
from data_pipeline.utils.devices import free_cached_memory, is_out_of_memory

logger = logging.getLogger(__name__)

_POLL_S = 0.0005


class TransformerEmbedder:
    """An embedder of a transformers model, its tokenizer and its recipe; see `base.Embedder`.

    The path that computes the vectors is chosen and checked when the embedder is created (see `paths`).
    """

    def __init__(self, config: EmbeddingConfig, files: ModelFiles | None = None, route: Route = "document") -> None:
        """Load a model.

        Args:
            config: names the model, and how it is used.
            files: files of the model; None to find them.
            route: kind of text, for models that send documents and queries through different modules.
        """
        root = files or find_model(config)
        chain = read_chain(root.folder, route)
        self._files = replace(root, folder=chain.input.folder) if chain else root
        self.tokenizer, limit, pad_id = loading.load_tokenizer(self._files, config)
        recipe = read_recipe(root.folder, limit, config.pooling, config.task, route)
        recipe = complete_recipe(config.model_name, root.folder, recipe, config.pooling)
        max_length = min(config.max_length or recipe.max_length, recipe.max_length)
        self._encoder = Tokenizer.from_str(self.tokenizer.to_str())
        self._encoder.enable_truncation(max_length)
        self._end_id = loading.end_token_id(self._encoder, recipe, config.model_name)
        device = torch.device(loading.choose_device(config.device))
        dtype = loading.choose_dtype(config.dtype, device.type, recipe.fp16_overflows, config.fp8)
        pooling = Pooling(tuple(recipe.pooling.split("+")), recipe.include_prompt)
        layers = load_sentence_layers(pooling, chain.after if chain else (), device)
        self._setup = Setup(config, layers, device, dtype, pad_id, recipe.task, root.folder)
        self._enqueue = threading.Lock()
        path = self._choose_path()
        width = layers.width(int(self._model.config.hidden_size))
        prompt = recipe.prompt if config.prompt is None else config.prompt
        self.query_prompt = recipe.query_prompt if config.query_prompt is None else config.query_prompt
        self._forward = path.forward
        self.runtime = replace(path.runtime, unpooled_prompts=self._unpooled_prompts(pooling, prompt))
        self.identity = Identity(
            model=config.model_name,
            revision=self._files.revision,
            pooling=recipe.pooling,
            normalized=recipe.normalize if config.normalize is None else config.normalize,
            dtype=dtype + ("+float8" if config.fp8 else ""),
            dim=_checked_dim(config, recipe, width, root),
            max_length=max_length,
            prompt=prompt,
            tokenizer=tokenizer_sha256(self.tokenizer),
            task=_recorded_task(config, root, limit, recipe),
            modules=chain.description if chain else "",
        )
        logger.info(
            "Model %s (%s)%s: %s pooling, %d of %d dimensions, at most %d tokens, %s on %s, attention %s",
            config.model_name, self._files.revision[:32], f" for {recipe.task}" if recipe.task else "",
            recipe.pooling, self.identity.dim, width,
            max_length, self.identity.dtype, device, self.runtime.attention,
        )  # fmt: skip

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Tokenize texts with special tokens, truncated to the maximum length; see `base.Embedder`.

        Raises:
            ModelError: a text does not end with the token that is pooled.
        """
        encodings = self._encoder.encode_batch_fast(list(texts), add_special_tokens=True)
        rows = [encoding.ids for encoding in encodings]
        if self._end_id is not None:
            for text, row in zip(texts, rows, strict=True):
                if not row or row[-1] != self._end_id:
                    raise ModelError(
                        f"the tokens of {text[:60]!r} end in {row[-1:]}, expected the end token {self._end_id}, "
                        "whose state is the text's vector"
                    )
        return from_rows(rows, [bool(encoding.overflowing) for encoding in encodings])

    def forward(self, texts: Tokens, dtype: str | None = None) -> Float32Array:
        """Pooled vectors in float32; see `base.Embedder`."""
        if dtype is None:
            return self._run(self._forward, texts)
        # Rarely needed, so a second copy of the model is loaded only for this call, and the first makes room for it.
        with self._enqueue:
            self._model.to("cpu")
            try:
                return self._run(self._setup.padded(self._load(dtype)), texts, nullcontext())
            finally:
                self._model.to(self._setup.device)

    def _run(self, forward: Forward, texts: Tokens, lock: AbstractContextManager[Any] | None = None) -> Float32Array:
        """Enqueue a pack, then wait for its vectors while other threads enqueue theirs."""
        try:
            with lock or self._enqueue, torch.inference_mode():
                vectors = forward(texts)
                if vectors.device.type != "cuda":
                    return vectors.cpu().numpy()
                on_host = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
                on_host.copy_(vectors, non_blocking=True)
                copied: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
                copied.record(torch.cuda.current_stream(vectors.device))
            wait_for(copied.query, self._setup.config.device_timeout_s, str(self._setup.device))
            return on_host.numpy()
        except RuntimeError as error:
            if is_out_of_memory(error):
                free_cached_memory(self._setup.device)
                raise OutOfMemoryError(
                    f"{len(texts)} texts of up to {texts.lengths.max()} tokens do not fit into {self._setup.device}"
                ) from error
            raise ModelError(
                f"the model failed on {self._setup.device}: {error}. Finished work is kept; run again to resume."
            ) from error

    def _unpooled_prompts(self, pooling: Pooling, prompt: str) -> dict[str, int]:
        """Number of tokens of each prompt, without the end token, if they are not pooled."""
        if pooling.include_prompt:
            return {}
        encodings = {text: self._encoder.encode(text) for text in (prompt, self.query_prompt) if text}
        return {text: len(encoding.ids) - encoding.special_tokens_mask[-1] for text, encoding in encodings.items()}

    def _load(self, dtype: str) -> Any:
        setup = self._setup
        return loading.load_model(self._files, dtype, setup.device, setup.config.trust_remote_code, setup.task)

    def _choose_path(self) -> EmbeddingPath:
        """Load the model in the chosen precision, choose its path, and log the loss of lower precision."""
        setup = self._setup
        is_low_on_cpu = setup.device.type == "cpu" and setup.dtype == "bfloat16"
        self._model = self._load("float32" if is_low_on_cpu else setup.dtype)
        tokens = self.tokenize(PROBES)
        probes = exact = self._probe(tokens)
        if is_low_on_cpu:
            self._model.to(torch.bfloat16)
            probes = self._probe(tokens)
        if setup.config.fp8:
            to_float8(self._model, setup.device)
            probes = self._probe(tokens)
        path = choose_path(self._model, setup, probes)
        if probes is not exact:
            loss = cosine_loss(self._run(path.forward, tokens), exact.plain)
            name = "float8" if setup.config.fp8 else setup.dtype
            logger.info("Loss of %s: at most %.2g of cosine on %d probe texts", name, loss, len(PROBES))
        return path

    def _probe(self, tokens: Tokens) -> Probes:
        plain = self._setup.padded(self._model)
        return make_probes(tokens, lambda texts: self._run(plain, texts))


def wait_for(finished: Callable[[], bool], timeout_s: float, device: str) -> None:
    """Wait for a GPU that may hang.

    Args:
        finished: whether the work is done.
        timeout_s: maximum time to wait, in seconds.
        device: name of the GPU, for messages.

    Raises:
        DeviceHungError: the work is not done after `timeout_s` seconds.
    """
    started = time.monotonic()
    while not finished():
        if time.monotonic() - started > timeout_s:
            raise DeviceHungError(
                f"{device} has not answered for {timeout_s:g} s. Finished work is kept: check the GPU with "
                "nvidia-smi, then run again to resume. Long texts may need a larger "
                "embedding.device_timeout_s."
            )
        time.sleep(_POLL_S)


def _recorded_task(config: EmbeddingConfig, files: ModelFiles, limit: int, recipe: Recipe) -> str:
    """Task of the identity: the adapter, or `base` where the model is used without its default adapter.

    A model without a default adapter has no task, whether `base` was set or not: its vectors are the same.
    """
    if recipe.task is not None or config.task is None:
        return recipe.task or ""
    with suppress(ConfigError):  # its default adapter does not exist
        if read_recipe(files.folder, limit, config.pooling).task is None:
            return ""
    return config.task


def _checked_dim(config: EmbeddingConfig, recipe: Recipe, width: int, files: ModelFiles) -> int:
    dim = (recipe.default_dim or width) if config.dim is None else config.dim
    if not min(recipe.min_dim, width) <= dim <= width:
        raise ConfigError(f"embedding.dim {dim}: {config.model_name} gives {recipe.min_dim} to {width} dimensions")
    warn_about_dim(config.model_name, dim, width, files.folder)
    return dim
