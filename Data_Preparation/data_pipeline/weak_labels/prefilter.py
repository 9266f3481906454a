"""Candidates that the judge is not asked about: an option, since every such rule costs relevant passages.

Who is left out stays unjudged: neither a no nor a negative. How many of gold's relevant passages a rule would have cost
is in the report.
"""

from data_pipeline.config.labels import PrefilterConfig
from data_pipeline.retrieval.tokenizer import Tokeniser


class Prefilter:
    """The rules, ready to be applied.

    Args:
        config: see `PrefilterConfig`.
        language: of the words.
        stop_words: leave out the language's most common words.
    """

    def __init__(self, config: PrefilterConfig, language: str, stop_words: bool) -> None:
        self._config = config
        self._tokeniser = Tokeniser(language, stop_words) if config.min_words or config.shared_word else None

    def reason(self, query: str, passage: str) -> str | None:
        """Reason why a pair is not judged; None if it is judged."""
        if self._tokeniser is None:
            return None
        words = self._tokeniser.tokens(passage)
        if len(words) < self._config.min_words:
            return "too_short"
        if self._config.shared_word and not set(words) & set(self._tokeniser.tokens(query)):
            return "no_shared_word"
        return None
