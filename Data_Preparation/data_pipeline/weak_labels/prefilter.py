"""Pre-filter of candidates that the judge is not asked about; optional, since every rule loses relevant passages.

Filtered candidates stay unjudged: they are neither graded nor negatives. The report has the number of passages that are
relevant by gold and that a rule removed.
"""

from data_pipeline.config.labels import PrefilterConfig
from data_pipeline.retrieval.tokenizer import Bm25Tokenizer


class Prefilter:
    """Rules that decide which candidates are judged.

    Args:
        config: see `PrefilterConfig`.
        language: language of the words; see `Bm25Tokenizer`.
        stop_words: ignore the most common words of the language.
    """

    def __init__(self, config: PrefilterConfig, language: str, stop_words: bool) -> None:
        self._config = config
        self._tokenizer = Bm25Tokenizer(language, stop_words) if config.min_words or config.shared_word else None

    def reason(self, query: str, passage: str) -> str | None:
        """Give the reason why a pair is not judged; None if it is judged."""
        if self._tokenizer is None:
            return None
        words = self._tokenizer.tokens(passage)
        if len(words) < self._config.min_words:
            return "too_short"
        if self._config.shared_word and not set(words) & set(self._tokenizer.tokens(query)):
            return "no_shared_word"
        return None
