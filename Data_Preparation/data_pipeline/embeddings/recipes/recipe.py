"""Recipe of a model: pooling, adapter, prompts, maximum length and end token.

It is read from the sentence-transformers files of the model if it has them, else assumed by its family. The card of
the model completes it (see `card_rules`), and the config can override every choice.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.embeddings.recipes.modules import (
    ModuleChain,
    Route,
    read_chain,
    read_json,
    read_text_settings,
)
from data_pipeline.errors import ConfigError
from data_pipeline.user_files import visible

logger = logging.getLogger(__name__)

USAGE_FILE = "config_sentence_transformers.json"
"""File with the prompts of a model, and with how its vectors are used."""

_QWEN3_TASK = "Given a web search query, retrieve relevant passages that answer the query"
_QWEN3_QUERY = f"Instruct: {_QWEN3_TASK}\nQuery:"  # no space after the colon (model card)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Settings with which a model was trained to be used."""

    pooling: str
    """Poolings whose results are concatenated, joined by +."""
    include_prompt: bool
    """Whether the tokens of the prompt are pooled too."""
    chain: ModuleChain | None
    """Modules in the format of sentence-transformers; None if the model has none."""
    prompt: str
    query_prompt: str
    max_length: int
    end_token: str | None
    """Token that every text must end with; None where the model does not require one."""
    min_dim: int
    """Minimum number of dimensions that its vectors can be cut to."""
    default_dim: int | None
    """Number of dimensions that its files cut vectors to; None for all."""
    similarity: str
    """Comparison of two vectors that the model was trained for: cosine, dot, euclidean or manhattan."""
    fp16_overflows: bool
    """Whether it is known to give non-finite values in float16."""
    positions: int | None
    """Maximum number of tokens that the model has positions for; None if it does not say."""
    default_prompt: str = ""
    """Prompt that sentence-transformers' `encode` adds to every text, and neither to documents nor to queries."""
    assumed: frozenset[str] = frozenset()
    """Fields that no file says."""
    task: str | None = None
    """Name of the adapter, as the model spells it; None for no adapter."""

    @property
    def normalize(self) -> bool:
        """Whether vectors are scaled to length 1, unless the config says otherwise.

        Cosine does not see the length; the other comparisons do, so their vectors stay as the model gives them.
        """
        return self.similarity == "cosine"


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

_DOCUMENT_PROMPTS = ("document", "passage", "corpus")  # names, in the order of sentence-transformers
_NO_ADAPTER = "base"
_DEFAULT_TASK = "text-matching"
_JINA_PROMPTS = {  # from the model card; those of the other tasks are empty
    "retrieval_query": "Represent the query for retrieving evidence documents: ",
    "retrieval_passage": "Represent the document for retrieval: ",
}


def read_recipe(
    folder: Path, tokenizer_limit: int, pooling: str, task: str | None = None, route: Route = "document"
) -> Recipe:
    """Read the recipe of the model in a folder.

    Args:
        folder: folder with `config.json` and, if the model has them, sentence-transformers files.
        tokenizer_limit: maximum length of the tokenizer, in tokens.
        pooling: pooling of the config; `auto` for that of the model.
        task: adapter of the config; None for the default of the model.
        route: kind of text, for models that send documents and queries through different modules.

    Raises:
        ModelError: the model has modules that this package does not run.
        ConfigError: the model has no such adapter.
    """
    chain = read_chain(folder, route)
    input_folder = chain.input.folder if chain else folder
    config = read_json(input_folder / "config.json")
    model_type = str(config.get("model_type", ""))
    qwen3 = model_type == "qwen3"
    usage = read_json(folder / USAGE_FILE)
    prompts = usage.get("prompts") or {}
    assumed = {"similarity"} if not usage.get("similarity_fn_name") else set()
    if pooling == "auto":
        pooling = "+".join(chain.pooling) if chain else _FAMILY_POOLING.get(model_type, "mean")
        assumed |= set() if chain else {"pooling"}
    max_length, positions = read_length(input_folder, config, tokenizer_limit)
    adapters = _adapters_of(folder, config)
    if task is None and (model_type == "jina_embeddings_v3" or config.get("lora_adaptations")):
        task = _DEFAULT_TASK
    adapter = _choose_task(folder, adapters, task)
    if adapter is not None:
        prompts = dict.fromkeys(("document", "query"), _prompt_of_task(adapter, config, prompts))
    return Recipe(
        pooling=pooling,
        include_prompt=chain.include_prompt if chain else True,
        chain=chain,
        prompt=document_prompt(prompts),
        query_prompt=prompts.get("query") or (_QWEN3_QUERY if qwen3 else ""),
        max_length=max_length,
        end_token="<|endoftext|>" if qwen3 else None,
        min_dim=32 if qwen3 or any(_plain(name) == _plain(_DEFAULT_TASK) for name in adapters) else 1,
        default_dim=usage.get("truncate_dim"),
        similarity=str(usage.get("similarity_fn_name") or "cosine"),
        # Confirmed by the maintainers for the 8B model (QwenLM/Qwen3-Embedding issue 164).
        fp16_overflows=qwen3 and int(config.get("hidden_size", 0)) >= 4096,
        positions=positions,
        default_prompt=str(prompts.get(usage.get("default_prompt_name")) or ""),
        assumed=frozenset(assumed),
        task=adapter,
    )


def document_prompt(prompts: Mapping[str, str]) -> str:
    """Return the prompt of documents among prompts by name; empty if there is none."""
    return next((prompts[name] for name in _DOCUMENT_PROMPTS if prompts.get(name)), "")


def read_length(folder: Path, config: Mapping[str, Any], tokenizer_limit: int) -> tuple[int, int | None]:
    """Read the maximum length of a transformer, in tokens, and the number of positions it has (None: not said).

    Args:
        folder: folder of the transformer.
        config: content of its `config.json`.
        tokenizer_limit: maximum length of the tokenizer, in tokens.
    """
    model_type = str(config.get("model_type", ""))
    # In the config of Nomic's own code, under another name.
    positions = config.get("max_position_embeddings") or (model_type == "nomic_bert" and config.get("n_positions"))
    positions = int(positions) - _RESERVED_POSITIONS.get(model_type, 0) if positions else None
    limits = (
        read_text_settings(folder).get("max_seq_length"),
        tokenizer_limit if tokenizer_limit < 1_000_000 else None,
        positions,
    )
    return min((int(limit) for limit in limits if limit), default=512), positions


def warn_about_assumptions(name: str, recipe: Recipe) -> None:
    """Name what was assumed of a model that neither its files nor a card describe."""
    if "pooling" in recipe.assumed:
        logger.warning(
            "%s is not in the table of models (elm models) and has no sentence-transformers files: assuming %s "
            "pooling, no prompts and at most %d tokens. Check its card, then set embedding.pooling, embedding.prompt, "
            "embedding.query_prompt and embedding.max_length.",
            name, recipe.pooling, recipe.max_length,
        )  # fmt: skip


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
