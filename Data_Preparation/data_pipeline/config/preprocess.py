"""Settings of cleaning, filtering, deduplication, splitting and sharding."""

from typing import Literal, Self

from pydantic import Field, model_validator

from data_pipeline.config.base import Section, setting


class PreprocessConfig(Section):
    """Cutting, cleaning, filtering and deduplication of paragraphs."""

    unit: Literal["section", "line"] = "section"
    """Unit of a paragraph. section: consecutive lines are merged into one paragraph; line: each line is a paragraph."""
    clean: Literal["auto", "wikitext", "plain", "raw"] = "auto"
    """Cleaning of the text. auto: as the source says; wikitext: also its spaced-out punctuation; plain: only Unicode
    and white space; raw: none."""
    unknown_policy: Literal["drop", "keep"] = "drop"
    """Whether the `<unk>` of WikiText is dropped, with the spaces around it tidied, or kept."""
    max_unknown_share: float = Field(0.25, ge=0, le=1)
    """Maximum share of `<unk>` among the words of a paragraph, 0 to 1 (wikitext only)."""
    min_chars: int = Field(20, ge=0)
    """Minimum length of a paragraph in characters (default of the original pipeline)."""
    max_punctuation_share: float = Field(0.5, ge=0, le=1)
    """Maximum share of punctuation among the characters of a paragraph that are not white space, 0 to 1."""
    max_digit_share: float = Field(0.5, ge=0, le=1)
    """Maximum share of digits among the characters of a paragraph that are not white space, 0 to 1."""
    min_tokens: int = Field(100, ge=0)
    """Minimum length of a paragraph in tokens of the embedder's tokenizer, without special tokens; inclusive."""
    max_tokens: int = Field(2000, ge=1)
    """Maximum length of a paragraph in tokens; inclusive."""
    fast_tokens: Literal["auto", "off"] = setting("auto", decides=False)
    """Fast token counts. auto: use a fast library if it is installed and agrees with the tokenizer; off: never."""
    exact_dedup: bool = True
    """Drop paragraphs that repeat the text of an earlier one."""
    near_dedup: bool = False
    """Drop near duplicates of an earlier paragraph (MinHash)."""
    near_threshold: float = Field(0.8, gt=0, le=1)
    """Jaccard similarity of word 5-grams at and above which two paragraphs count as near duplicates."""

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> Self:
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens ({self.min_tokens}) is larger than max_tokens ({self.max_tokens})")
        return self


class SplitConfig(Section):
    """Division of paragraphs into train, val and test."""

    method: Literal["document", "paragraph", "official"] = "document"
    """Method of the split assignment. document: whole documents by a keyed hash, so that adding data moves nothing;
    paragraph: a seeded shuffle of paragraphs, which leaks documents between splits; official: the splits of the
    source."""
    train_ratio: float = Field(0.8, ge=0, le=1)
    """Share of the documents or paragraphs in train; the three ratios sum to 1."""
    val_ratio: float = Field(0.1, ge=0, le=1)
    """Share of the documents or paragraphs in val."""
    test_ratio: float = Field(0.1, ge=0, le=1)
    """Share of the documents or paragraphs in test."""
    seed: int = 42
    """Seed of the split assignment."""

    @model_validator(mode="after")
    def _ratios_sum_to_one(self) -> Self:
        total = self.train_ratio + self.val_ratio + self.test_ratio
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train_ratio + val_ratio + test_ratio must be 1, found {total:g}")
        return self


class StorageConfig(Section):
    """Layout of rows in files."""

    shard_rows: int = Field(1_048_576, ge=1)
    """Maximum number of rows per shard. Shards with a multiple of 4096 rows can be memory-mapped as one array,
    whatever the width of a vector."""
