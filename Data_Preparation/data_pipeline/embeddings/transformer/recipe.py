"""How a model wants to be used: pooling, prompts, length, end token.

Read from the sentence-transformers files beside the model where it has them, else from a
small table of families. Every choice can be overridden in the config.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.errors import ModelError

_QWEN3_TASK = "Given a web search query, retrieve relevant passages that answer the query"
_QWEN3_QUERY = f"Instruct: {_QWEN3_TASK}\nQuery:"  # no space after the colon (model card)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model wants to be used."""

    pooling: str
    prompt: str
    query_prompt: str
    max_length: int
    end_token: str | None
    """The token whose state is pooled, where the model insists on one."""
    min_dim: int
    """Smallest width its vectors may be cut to."""
    fp16_overflows: bool
    """Known to give non-finite values in float16."""


# model_type of config.json -> pooling, where a model has no sentence-transformers files.
_FAMILY_POOLING = {
    "qwen3": "last_token",
    "qwen2": "last_token",
    "mistral": "last_token",
    "llama": "last_token",
    "bert": "mean",
    "distilbert": "mean",
    "roberta": "mean",
    "xlm-roberta": "mean",
    "mpnet": "mean",
    "modernbert": "mean",
}

_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last_token",
}


def read_recipe(folder: Path, tokenizer_limit: int, pooling: str) -> Recipe:
    """The recipe of the model in a folder.

    Args:
        folder: with `config.json` and, where the model has them, sentence-transformers files.
        tokenizer_limit: the tokenizer's own maximum length, in tokens.
        pooling: what the config asks for; `auto` to find out.

    Raises:
        ModelError: its pooling is unknown or not supported.
    """
    config = _json(folder / "config.json")
    model_type = str(config.get("model_type", ""))
    qwen3 = model_type == "qwen3"
    prompts = _json(folder / "config_sentence_transformers.json").get("prompts") or {}
    modules: Any = _json(folder / "modules.json") or []
    asked = _pooling_of_modules(folder, modules) or _FAMILY_POOLING.get(model_type)
    if pooling == "auto" and asked is None:
        raise ModelError(
            f"{folder} does not say how its tokens become one vector, and its family {model_type!r} is not known. "
            "Set --embedding.pooling to last_token, cls or mean."
        )
    limits = [
        _json(folder / "sentence_bert_config.json").get("max_seq_length"),
        tokenizer_limit if tokenizer_limit < 1_000_000 else None,
        config.get("max_position_embeddings"),
    ]
    known = [int(limit) for limit in limits if limit]
    return Recipe(
        pooling=str(asked if pooling == "auto" else pooling),
        prompt=prompts.get("document") or prompts.get("passage") or "",
        query_prompt=prompts.get("query") or (_QWEN3_QUERY if qwen3 else ""),
        max_length=min(known) if known else 512,
        end_token="<|endoftext|>" if qwen3 else None,
        min_dim=32 if qwen3 else 1,
        # The maintainers confirm it for the 8B model (QwenLM/Qwen3-Embedding issue 164).
        fp16_overflows=qwen3 and int(config.get("hidden_size", 0)) >= 4096,
    )


def _pooling_of_modules(folder: Path, modules: list[dict[str, Any]]) -> str | None:
    pooling = None
    for module in modules:
        kind = str(module.get("type", "")).rsplit(".", 1)[-1]
        if kind == "Pooling":
            pooling = _pooling_of_config(_json(folder / module["path"] / "config.json"), folder)
        elif kind not in {"Transformer", "Normalize"}:
            raise ModelError(
                f"{folder} has a sentence-transformers module {kind!r} after its transformer, which this package "
                "does not run. Choose another model, or set --embedding.pooling in a copy without modules.json."
            )
    return pooling


def _pooling_of_config(config: dict[str, Any], folder: Path) -> str:
    modes = [name for flag, name in _POOLING_FLAGS.items() if config.get(flag)]
    newer = config.get("pooling_mode")
    if isinstance(newer, str):
        modes = [{"lasttoken": "last_token"}.get(newer, newer)]
    if len(modes) != 1 or modes[0] not in _POOLING_FLAGS.values() or config.get("include_prompt") is False:
        raise ModelError(
            f"{folder} asks for a pooling that this package does not have: {config}. "
            "It has last_token, cls and mean, prompts included."
        )
    return modes[0]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
