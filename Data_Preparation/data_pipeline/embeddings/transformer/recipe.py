"""Recipe of a model: pooling, adapter, prompts, maximum length and end token.

It is read from the sentence-transformers files of the model if it has them, else from a
small table of families. The config can override every choice.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.errors import ConfigError, ModelError
from data_pipeline.user_files import visible
from data_pipeline.utils import converted_errors

_QWEN3_TASK = "Given a web search query, retrieve relevant passages that answer the query"
_QWEN3_QUERY = f"Instruct: {_QWEN3_TASK}\nQuery:"  # no space after the colon (model card)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Settings with which a model was trained to be used."""

    pooling: str
    prompt: str
    query_prompt: str
    max_length: int
    end_token: str | None
    """Token that every text must end with; None where the model does not require one."""
    min_dim: int
    """Minimum number of dimensions that its vectors can be cut to."""
    fp16_overflows: bool
    """Whether it is known to give non-finite values in float16."""
    task: str | None = None
    """Name of the adapter, as the model spells it; None for no adapter."""


# Pooling by the model_type of config.json, for models without sentence-transformers files.
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
    "new": "cls",  # name of Alibaba's gte models before transformers supported them
    "jina_embeddings_v3": "mean",
}

# Positions before the first token of a text that config.json includes in its maximum.
_RESERVED_POSITIONS = {"roberta": 2, "xlm-roberta": 2, "mpnet": 2, "jina_embeddings_v3": 2}

_NO_ADAPTER = "base"
_DEFAULT_TASK = "text-matching"
_JINA_PROMPTS = {  # from the model card; those of the other tasks are empty
    "retrieval_query": "Represent the query for retrieving evidence documents: ",
    "retrieval_passage": "Represent the document for retrieval: ",
}

_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last_token",
}


def read_recipe(folder: Path, tokenizer_limit: int, pooling: str, task: str | None = None) -> Recipe:
    """Read the recipe of the model in a folder.

    Args:
        folder: folder with `config.json` and, if the model has them, sentence-transformers files.
        tokenizer_limit: maximum length of the tokenizer, in tokens.
        pooling: pooling of the config; `auto` for that of the model.
        task: adapter of the config; None for the default of the model.

    Raises:
        ModelError: the pooling of the model is unknown or not supported.
        ConfigError: the model has no such adapter.
    """
    config = read_json(folder / "config.json")
    model_type = str(config.get("model_type", ""))
    qwen3 = model_type == "qwen3"
    prompts = read_json(folder / "config_sentence_transformers.json").get("prompts") or {}
    modules: Any = read_json(folder / "modules.json") or []
    own_pooling = _pooling_of_modules(folder, modules) or _FAMILY_POOLING.get(model_type)
    if pooling == "auto" and own_pooling is None:
        raise ModelError(
            f"{folder} does not say how its tokens become one vector, and its family {model_type!r} is not known. "
            "Set embedding.pooling to last_token, cls or mean."
        )
    positions = config.get("max_position_embeddings")
    limits = (
        read_json(folder / "sentence_bert_config.json").get("max_seq_length"),
        tokenizer_limit if tokenizer_limit < 1_000_000 else None,
        positions and positions - _RESERVED_POSITIONS.get(model_type, 0),
    )
    known_limits = [int(limit) for limit in limits if limit]
    adapters = _adapters_of(folder, config)
    if task is None and (model_type == "jina_embeddings_v3" or config.get("lora_adaptations")):
        task = _DEFAULT_TASK
    adapter = _choose_task(folder, adapters, task)
    if adapter is not None:
        prompts = dict.fromkeys(("document", "query"), _prompt_of_task(adapter, config, prompts))
    return Recipe(
        pooling=str(own_pooling if pooling == "auto" else pooling),
        prompt=prompts.get("document") or prompts.get("passage") or "",
        query_prompt=prompts.get("query") or (_QWEN3_QUERY if qwen3 else ""),
        max_length=min(known_limits) if known_limits else 512,
        end_token="<|endoftext|>" if qwen3 else None,
        min_dim=32 if qwen3 or any(_plain(name) == _plain(_DEFAULT_TASK) for name in adapters) else 1,
        # Confirmed by the maintainers for the 8B model (QwenLM/Qwen3-Embedding issue 164).
        fp16_overflows=qwen3 and int(config.get("hidden_size", 0)) >= 4096,
        task=adapter,
    )


def _adapters_of(folder: Path, config: dict[str, Any]) -> list[str]:
    """Names of the adapters of a model, in its own order: inside its weights, or in folders in the format of PEFT."""
    merged = config.get("lora_adaptations")
    if merged:
        return [str(name) for name in merged]
    return [path.parent.name for path in visible(folder.glob("*/adapter_config.json"), folder)]


def _choose_task(folder: Path, adapters: list[str], task: str | None) -> str | None:
    if task is None or task == _NO_ADAPTER:
        return None
    for name in adapters:
        if _plain(name) == _plain(task):
            return name
    raise ConfigError(
        f"embedding.task {task}: {folder} has the adapters {', '.join(adapters) or '(none)'}. "
        f"Choose one of them, or {_NO_ADAPTER} for none; or download the whole model."
    )


def _prompt_of_task(task: str, config: dict[str, Any], prompts: dict[str, str]) -> str:
    prompt_by_task = _JINA_PROMPTS | {
        _plain(name): prompt for name, prompt in ((config.get("task_instructions") or {}) | prompts).items()
    }
    return prompt_by_task.get(_plain(task)) or ""


def _plain(task: str) -> str:
    """Spelling of a task for comparisons: jina-embeddings-v3 has `text-matching`, its conversion text_matching."""
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
                "does not run. Choose another model, or set embedding.pooling and use a copy without modules.json."
            )
    return pooling


def _pooling_of_config(config: dict[str, Any], folder: Path) -> str:
    modes = [name for flag, name in _POOLING_FLAGS.items() if config.get(flag)]
    newer = config.get("pooling_mode")
    if isinstance(newer, str):
        modes = [{"lasttoken": "last_token"}.get(newer, newer)]
    if len(modes) != 1 or modes[0] not in _POOLING_FLAGS.values() or config.get("include_prompt") is False:
        raise ModelError(
            f"{folder} has a pooling that this package does not support: {config}. "
            "It supports last_token, cls and mean, with prompts included."
        )
    return modes[0]


def read_json(path: Path) -> Any:
    """Content of a JSON file; `{}` if there is no such file.

    Raises:
        ModelError: the file cannot be read.
    """
    with converted_errors((OSError, ValueError), ModelError, f"{path} cannot be read"):
        return json.loads(path.read_bytes()) if path.exists() else {}
