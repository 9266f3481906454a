"""Limit on the part of a passage that is shown to the judge: none, or the one in the config."""

from collections.abc import Callable
from typing import Any

from data_pipeline.config.judge import JudgeConfig
from data_pipeline.errors import ConfigError
from data_pipeline.utils import converted_errors

Cut = Callable[[str], str]


def passage_limit(config: JudgeConfig) -> tuple[Cut, dict[str, Any]]:
    """Make the function that cuts a passage, and its description for the record of a run.

    Raises:
        ConfigError: the tokenizer cannot be loaded, or does not report the positions of tokens in a text.
    """
    if config.passage_chars is not None:
        chars = config.passage_chars
        return lambda passage: passage[:chars], {"passage_chars": chars}
    if config.passage_tokens is None or config.tokenizer is None:
        return lambda passage: passage, {}
    limit = {"passage_tokens": config.passage_tokens, "tokenizer": config.tokenizer}
    return _token_cut(config.tokenizer, config.passage_tokens), limit


def _token_cut(name: str, max_tokens: int) -> Cut:
    # Not at the top: transformers takes seconds to import.
    from transformers import AutoTokenizer

    with converted_errors((OSError, ValueError), ConfigError, f"judge.tokenizer: cannot load {name}"):
        tokenizer = AutoTokenizer.from_pretrained(name)
    if not tokenizer.is_fast:
        raise ConfigError(
            f"judge.tokenizer: {name} has no fast tokenizer; others do not report the positions of tokens"
        )

    def cut(passage: str) -> str:
        encoding = tokenizer(passage, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ends = [end for _, end in encoding["offset_mapping"]]
        return passage if len(ends) <= max_tokens else passage[: ends[max_tokens - 1]]

    return cut
