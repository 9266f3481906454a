"""Limit of the text that a judge is shown of a passage: none, or the one in the config."""

from collections.abc import Callable
from typing import Any

from data_pipeline.config.judge import JudgeConfig
from data_pipeline.errors import ConfigError

Cut = Callable[[str], str]


def passage_limit(config: JudgeConfig) -> tuple[Cut, dict[str, Any]]:
    """The function that cuts a passage, and its description for the record of a run.

    Raises:
        ConfigError: the tokenizer cannot be loaded, or cannot tell where its tokens stand in a text.
    """
    if config.passage_chars is not None:
        chars = config.passage_chars
        return lambda passage: passage[:chars], {"passage_chars": chars}
    if config.passage_tokens is None or config.tokenizer is None:
        return lambda passage: passage, {}
    limit = {"passage_tokens": config.passage_tokens, "tokenizer": config.tokenizer}
    return _token_cut(config.tokenizer, config.passage_tokens), limit


def _token_cut(name: str, most: int) -> Cut:
    # Not at the top: transformers takes seconds to import.
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ConfigError(f"tokenizer: {name} cannot be loaded: {error}") from error
    if not tokenizer.is_fast:
        raise ConfigError(f"tokenizer: {name} has no fast tokenizer, which alone knows where its tokens stand")

    def cut(passage: str) -> str:
        places = tokenizer(passage, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ends = [end for _, end in places["offset_mapping"]]
        return passage if len(ends) <= most else passage[: ends[most - 1]]

    return cut
