"""An embedder over any Hugging Face text encoder."""

import importlib.util
import logging
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings.base import Identity, Tokenized, tokenizer_sha256
from data_pipeline.embeddings.pooling import POOLINGS
from data_pipeline.embeddings.recipe import Recipe, read_recipe
from data_pipeline.embeddings.weights import ModelFiles, find_model
from data_pipeline.errors import ConfigError, ModelError, OutOfMemory
from data_pipeline.types import Float32Array

logger = logging.getLogger(__name__)


class TransformerEmbedder:
    """A model, its tokenizer, and the recipe that joins them; see `base.Embedder`.

    Texts are padded on the right. A causal model then needs no mask at all: no token sees
    what comes after it, so positions and vectors are those of the text alone.
    """

    def __init__(self, config: EmbeddingConfig) -> None:
        files = find_model(config)
        self._folder = files.folder
        _quiet_loading()
        self._trust_remote_code = config.trust_remote_code
        self.tokenizer, limit, self._pad_id = load_tokenizer(files, config)
        recipe = read_recipe(files.folder, limit, config.pooling)
        max_length = min(config.max_length or recipe.max_length, recipe.max_length)
        self._encoder = Tokenizer.from_str(self.tokenizer.to_str())
        self._encoder.enable_truncation(max_length)
        self._end_id = _end_id(self._encoder, recipe, config.model_name)
        self._device = torch.device(choose_device(config.device))
        self._dtype = choose_dtype(config.dtype, self._device.type, recipe)
        self.attention = choose_attention(config.attention, self._device, self._dtype)
        self._pool = POOLINGS[recipe.pooling]
        self._model = self._load(self._dtype)
        self._causal = _is_causal(self._model)
        width = int(self._model.config.hidden_size)
        self.query_prompt = recipe.query_prompt if config.query_prompt is None else config.query_prompt
        self.identity = Identity(
            model=config.model_name,
            revision=files.revision,
            pooling=recipe.pooling,
            normalized=config.normalize,
            dtype=self._dtype,
            dim=_checked_dim(config, recipe, width),
            max_length=max_length,
            prompt=recipe.prompt if config.prompt is None else config.prompt,
            tokenizer=tokenizer_sha256(self.tokenizer),
        )
        logger.info(
            "model %s (%s): %s pooling, %d of %d dimensions, at most %d tokens, %s on %s, attention %s",
            config.model_name, files.revision[:32], recipe.pooling, self.identity.dim, width,
            max_length, self._dtype, self._device, self.attention,
        )  # fmt: skip

    def tokenize(self, texts: Sequence[str]) -> Tokenized:
        """Token ids with special tokens, cut to the maximum length; see `base.Embedder`.

        Raises:
            ModelError: the token to be pooled is missing at the end of a text.
        """
        encodings = self._encoder.encode_batch_fast(list(texts), add_special_tokens=True)
        ids = [encoding.ids for encoding in encodings]
        if self._end_id is not None:
            for text, row in zip(texts, ids, strict=True):
                if not row or row[-1] != self._end_id:
                    raise ModelError(
                        f"the tokens of {text[:60]!r} end in {row[-1:]}, expected the end token {self._end_id}, "
                        "whose state is the text's vector"
                    )
        return Tokenized(ids, [bool(encoding.overflowing) for encoding in encodings])

    def forward(self, ids: Sequence[Sequence[int]], dtype: str | None = None) -> Float32Array:
        """Pooled vectors in float32; see `base.Embedder`."""
        if dtype is None or dtype == self._dtype:
            return self._run(self._model, ids)
        # Rarely needed, so the other copy is loaded for the moment; the first makes room.
        self._model.to("cpu")
        try:
            return self._run(self._load(dtype), ids)
        finally:
            self._model.to(self._device)

    def _run(self, model: Any, ids: Sequence[Sequence[int]]) -> Float32Array:
        lengths = [len(row) for row in ids]
        longest = max(lengths)
        padded = torch.full((len(ids), longest), self._pad_id, dtype=torch.long)
        for place, row in enumerate(ids):
            padded[place, : len(row)] = torch.tensor(row, dtype=torch.long)
        lengths_N = torch.tensor(lengths, device=self._device)
        inputs = {"input_ids": padded.to(self._device)}
        if not self._causal:
            inputs["attention_mask"] = (torch.arange(longest, device=self._device) < lengths_N[:, None]).long()
        try:
            with torch.inference_mode():
                hidden_NLD = model(**inputs, use_cache=False).last_hidden_state if self._causal \
                    else model(**inputs).last_hidden_state  # fmt: skip
                vectors: Float32Array = self._pool(hidden_NLD, lengths_N).float().cpu().numpy()
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise OutOfMemory(f"{len(ids)} texts of up to {longest} tokens do not fit into {self._device}") from error
        except RuntimeError as error:
            raise ModelError(
                f"the model failed on {self._device}: {error}. What is finished is kept; run again to go on from there."
            ) from error
        return vectors

    def _load(self, dtype: str) -> Any:
        attention = self.attention
        if attention == "flash_attention_2" and dtype == "float32":
            attention = "sdpa"  # flash attention has no float32
        try:
            model = transformers.AutoModel.from_pretrained(
                self._folder,
                dtype=getattr(torch, dtype),
                attn_implementation=attention,
                trust_remote_code=self._trust_remote_code,
                use_safetensors=True,
                local_files_only=True,
            )
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            raise ModelError(f"cannot load the model in {self._folder}: {error}") from error
        try:
            return model.to(self._device).eval()
        except torch.OutOfMemoryError as error:
            raise ModelError(
                f"the model does not fit into the memory of {self._device}: {error}. Choose a smaller one."
            ) from error


def load_tokenizer(files: ModelFiles, config: EmbeddingConfig) -> tuple[Tokenizer, int, int]:
    """The tokenizer of a model, without truncation or padding.

    Returns:
        The tokenizer, its own maximum length in tokens, and the padding token's id.

    Raises:
        ModelError: it cannot be loaded, or is not a fast one.
    """
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            files.folder, trust_remote_code=config.trust_remote_code, local_files_only=True
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"cannot load the tokenizer in {files.folder}: {error}") from error
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(f"{files.folder} has no fast tokenizer (tokenizer.json), which this package needs")
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    return backend, int(tokenizer.model_max_length), int(tokenizer.pad_token_id or 0)


def choose_device(asked: str) -> str:
    """`auto` to cuda, else mps, else cpu; a device that was asked for must be there.

    Raises:
        ConfigError: it is not.
    """
    if asked == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=asked)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--embedding.device {asked}: {str(error).splitlines()[0]}. Use auto or cpu.") from error
    return asked


def choose_dtype(asked: str, device_type: str, recipe: Recipe) -> str:
    """`auto` to float32 on CPU, else float16, or bfloat16 where the model overflows float16.

    Raises:
        ConfigError: float16 was asked for on a CPU, where it is slower and less exact than float32.
    """
    if asked == "float16" and device_type == "cpu":
        raise ConfigError("--embedding.dtype float16 is for GPUs; on a CPU use auto, float32 or bfloat16")
    if asked != "auto":
        return asked
    if device_type == "cpu":
        return "float32"
    return "bfloat16" if recipe.fp16_overflows else "float16"


def choose_attention(asked: str, device: torch.device, dtype: str) -> str:
    """`auto` to flash_attention_2 where it is installed and possible, else sdpa.

    Raises:
        ConfigError: flash attention was asked for and is not possible.
    """
    missing = _why_no_flash_attention(device, dtype)
    if asked == "auto":
        return "sdpa" if missing else "flash_attention_2"
    if asked == "flash_attention_2" and missing:
        raise ConfigError(f"--embedding.attention flash_attention_2 is not possible: {missing}. Use auto or sdpa.")
    return asked


def _why_no_flash_attention(device: torch.device, dtype: str) -> str | None:
    if device.type != "cuda":
        return f"the device is {device}, not a CUDA GPU"
    if dtype == "float32":
        return "the dtype is float32, it needs float16 or bfloat16"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "the GPU is older than Ampere"
    if importlib.util.find_spec("flash_attn") is None:
        return 'flash-attn is not installed (pip install "elm-data-preparation[gpu]")'
    return None


def _checked_dim(config: EmbeddingConfig, recipe: Recipe, width: int) -> int:
    dim = width if config.dim is None else config.dim
    if not min(recipe.min_dim, width) <= dim <= width:
        raise ConfigError(f"--embedding.dim {dim}: {config.model_name} gives {recipe.min_dim} to {width} dimensions")
    return dim


def _end_id(encoder: Tokenizer, recipe: Recipe, name: str) -> int | None:
    """The token every text must end in, for models that pool it."""
    if recipe.pooling != "last_token":
        return None
    appended = encoder.encode("").ids
    if recipe.end_token is None:
        return appended[-1] if appended else None
    expected = encoder.token_to_id(recipe.end_token)
    if expected is None or not appended or appended[-1] != expected:
        raise ModelError(
            f"the tokenizer of {name} must end every text with {recipe.end_token} (id {expected}); "
            f"it appends {appended}. Update transformers, or the model's tokenizer files."
        )
    return expected


def _quiet_loading() -> None:
    """No bar for loading weights: it takes a second and tells a user nothing."""
    transformers.utils.logging.disable_progress_bar()


def _is_causal(model: torch.nn.Module) -> bool:
    flags = [bool(module.is_causal) for module in model.modules() if hasattr(module, "is_causal")]
    return bool(flags) and all(flags)
