"""Settings of cleaning, filtering, deduplication, splitting and sharding."""

from typing import Literal, Self

from pydantic import Field, model_validator

from data_pipeline.config.base import Section, setting


class PreprocessConfig(Section):
    """From documents to the paragraphs that are kept."""

    unit: Literal["section", "line"] = "section"
    """section: consecutive lines merged into one paragraph; line: every line is one."""
    clean: Literal["auto", "wikitext", "plain", "raw"] = "auto"
    """auto: as the source says; plain: Unicode and white space only; raw: nothing at all."""
    unknown_policy: Literal["drop", "keep"] = "drop"
    """What to do with WikiText's `<unk>`: take it out and tidy the hole, or leave it in."""
    max_unknown_share: float = Field(0.25, ge=0, le=1)
    """Drop paragraphs with a larger share of `<unk>` words (wikitext only)."""
    min_chars: int = Field(20, ge=0)
    """Drop shorter paragraphs, in characters (the original pipeline's value)."""
    max_punctuation_share: float = Field(0.5, ge=0, le=1)
    """Drop paragraphs whose characters, white space aside, are punctuation beyond this share."""
    max_digit_share: float = Field(0.5, ge=0, le=1)
    """Drop paragraphs whose characters, white space aside, are digits beyond this share."""
    min_tokens: int = Field(100, ge=0)
    """Fewest tokens of the embedder's tokenizer, special tokens not counted; inclusive."""
    max_tokens: int = Field(2000, ge=1)
    """Most tokens; inclusive."""
    fast_tokens: Literal["auto", "off"] = setting("auto", decides=False)
    """auto: count with a fast library where it is installed and agrees with the tokenizer."""
    exact_dedup: bool = True
    """Drop paragraphs whose text was seen before."""
    near_dedup: bool = False
    """Drop paragraphs that nearly repeat an earlier one (MinHash)."""
    near_threshold: float = Field(0.8, gt=0, le=1)
    """Jaccard similarity of word 5-grams from which two paragraphs count as near duplicates."""

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> Self:
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens ({self.min_tokens}) is larger than max_tokens ({self.max_tokens})")
        return self


class SplitConfig(Section):
    """How paragraphs are divided into train, val and test."""

    method: Literal["document", "paragraph", "official"] = "document"
    """document: whole articles by keyed hash, so that added data moves nothing;
    paragraph: a seeded shuffle of paragraphs, which leaks articles between splits;
    official: as the source has it."""
    train_ratio: float = Field(0.8, ge=0, le=1)
    """Share of the documents or paragraphs; the three ratios sum to 1."""
    val_ratio: float = Field(0.1, ge=0, le=1)
    """See train_ratio."""
    test_ratio: float = Field(0.1, ge=0, le=1)
    """See train_ratio."""
    seed: int = 42
    """Another seed, another division."""

    @model_validator(mode="after")
    def _ratios_sum_to_one(self) -> Self:
        total = self.train_ratio + self.val_ratio + self.test_ratio
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train_ratio + val_ratio + test_ratio must be 1, found {total:g}")
        return self


class StorageConfig(Section):
    """How rows are laid out in files."""

    shard_rows: int = Field(1_048_576, ge=1)
    """Rows of a split after which it is cut into several files. Shards of a multiple of 4096 rows can be
    read as one array, whatever the width of a vector."""
