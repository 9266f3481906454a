"""How a model wants to be used: pooling, adapter, prompts, length, end token.

Read from the sentence-transformers files beside the model where it has them, else from a
small table of families. Every choice can be overridden in the config.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.errors import ConfigError, ModelError
from data_pipeline.user_files import visible

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
    task: str | None = None
    """The adapter to use, as the model calls it, where it comes with several."""


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
    "gte": "cls",
    "new": "cls",  # what Alibaba's gte models were called before transformers had them
    "jina_embeddings_v3": "mean",
}

# Positions that come before a text's first token, of those that config.json counts.
_RESERVED_POSITIONS = {"roberta": 2, "xlm-roberta": 2, "mpnet": 2, "jina_embeddings_v3": 2}

_BASE = "base"  # the task of those who want no adapter
_DEFAULT_TASK = "text-matching"
_JINA_PROMPTS = {  # model card; those of the other tasks are empty
    "retrieval_query": "Represent the query for retrieving evidence documents: ",
    "retrieval_passage": "Represent the document for retrieval: ",
}

_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last_token",
}


def read_recipe(folder: Path, tokenizer_limit: int, pooling: str, task: str | None = None) -> Recipe:
    """The recipe of the model in a folder.

    Args:
        folder: with `config.json` and, where the model has them, sentence-transformers files.
        tokenizer_limit: the tokenizer's own maximum length, in tokens.
        pooling: what the config asks for; `auto` to find out.
        task: the adapter that the config asks for; None to find out.

    Raises:
        ModelError: its pooling is unknown or not supported.
        ConfigError: it has no such adapter.
    """
    config = read_json(folder / "config.json")
    model_type = str(config.get("model_type", ""))
    qwen3 = model_type == "qwen3"
    prompts = read_json(folder / "config_sentence_transformers.json").get("prompts") or {}
    modules: Any = read_json(folder / "modules.json") or []
    asked = _pooling_of_modules(folder, modules) or _FAMILY_POOLING.get(model_type)
    if pooling == "auto" and asked is None:
        raise ModelError(
            f"{folder} does not say how its tokens become one vector, and its family {model_type!r} is not known. "
            "Set --embedding.pooling to last_token, cls or mean."
        )
    positions = config.get("max_position_embeddings")
    limits = [
        read_json(folder / "sentence_bert_config.json").get("max_seq_length"),
        tokenizer_limit if tokenizer_limit < 1_000_000 else None,
        positions and positions - _RESERVED_POSITIONS.get(model_type, 0),
    ]
    known = [int(limit) for limit in limits if limit]
    adapters = _adapters_of(folder, config)
    if task is None and (model_type == "jina_embeddings_v3" or config.get("lora_adaptations")):
        task = _DEFAULT_TASK
    chosen = _choose_task(folder, adapters, task)
    if chosen is not None:
        prompts = dict.fromkeys(("document", "query"), _prompt_of_task(chosen, config, prompts))
    return Recipe(
        pooling=str(asked if pooling == "auto" else pooling),
        prompt=prompts.get("document") or prompts.get("passage") or "",
        query_prompt=prompts.get("query") or (_QWEN3_QUERY if qwen3 else ""),
        max_length=min(known) if known else 512,
        end_token="<|endoftext|>" if qwen3 else None,
        min_dim=32 if qwen3 or any(_plain(name) == _plain(_DEFAULT_TASK) for name in adapters) else 1,
        # The maintainers confirm it for the 8B model (QwenLM/Qwen3-Embedding issue 164).
        fp16_overflows=qwen3 and int(config.get("hidden_size", 0)) >= 4096,
        task=chosen,
    )


def _adapters_of(folder: Path, config: dict[str, Any]) -> list[str]:
    """Names of the adapters a model comes with, in its own order: inside its weights, or as PEFT folders."""
    inside = config.get("lora_adaptations")
    if inside:
        return [str(name) for name in inside]
    return [path.parent.name for path in visible(folder.glob("*/adapter_config.json"), folder)]


def _choose_task(folder: Path, adapters: list[str], asked: str | None) -> str | None:
    if asked is None or asked == _BASE:
        return None
    for name in adapters:
        if _plain(name) == _plain(asked):
            return name
    raise ConfigError(
        f"--embedding.task {asked}: {folder} has the adapters {', '.join(adapters) or '(none)'}. "
        f"Choose one of them, or {_BASE} for none; or fetch the whole model."
    )


def _prompt_of_task(task: str, config: dict[str, Any], prompts: dict[str, str]) -> str:
    known = _JINA_PROMPTS | {
        _plain(name): prompt for name, prompt in ((config.get("task_instructions") or {}) | prompts).items()
    }
    return known.get(_plain(task)) or ""


def _plain(task: str) -> str:
    """`text-matching` of jina-embeddings-v3 is the folder text_matching of its conversion."""
    return task.replace("-", "_").replace(".", "_")


def _pooling_of_modules(folder: Path, modules: list[dict[str, Any]]) -> str | None:
    pooling = None
    for module in modules:
        kind = str(module.get("type", "")).rsplit(".", 1)[-1]
        if kind == "Pooling":
            pooling = _pooling_of_config(read_json(folder / module["path"] / "config.json"), folder)
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


def read_json(path: Path) -> Any:
    """What a JSON file holds, `{}` where there is none.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
