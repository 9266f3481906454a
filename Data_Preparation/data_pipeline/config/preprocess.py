"""Settings of cleaning, filtering, deduplication, splitting and sharding."""

from typing import Literal, Self

from pydantic import Field, model_validator

from data_pipeline.config.base import Section, setting


class PreprocessConfig(Section):
    """Cutting, cleaning, filtering and deduplication of paragraphs."""

    unit: Literal["section", "line", "document", "chunk"] = "section"
    """Unit of a paragraph. section: consecutive lines are merged into one paragraph; line: each line is a paragraph;
    document: each document is a paragraph, with its lines; chunk: documents (of WikiText: sections) are cut into chunks
    at the ends of paragraphs, sentences and words."""
    chunk_tokens: int = setting(512, added=True, ge=1)
    """Maximum length of a chunk in tokens, at most max_tokens (unit chunk)."""
    chunk_overlap: int = setting(0, added=True, ge=0)
    """Tokens, about, that a chunk repeats from the chunk before it; at most half of the chunk."""
    too_long: Literal["drop", "truncate", "chunk"] = setting("drop", added=True)
    """Handling of paragraphs of more than max_tokens. drop: list them in dropped.parquet; truncate: keep their
    beginning; chunk: cut them into paragraphs of at most max_tokens."""
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

    @property
    def cuts(self) -> bool:
        """Whether paragraphs are parts of longer texts, with their positions in extra columns."""
        return self.unit == "chunk" or self.too_long == "chunk"

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> Self:
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens ({self.min_tokens}) is larger than max_tokens ({self.max_tokens})")
        if self.unit == "chunk" and not self.min_tokens <= self.chunk_tokens <= self.max_tokens:
            raise ValueError(
                f"chunk_tokens ({self.chunk_tokens}) must be from min_tokens ({self.min_tokens}) to max_tokens "
                f"({self.max_tokens}), or all chunks would be dropped"
            )
        longest = self.chunk_tokens if self.unit == "chunk" else self.max_tokens
        if self.chunk_overlap > longest // 2:
            raise ValueError(f"chunk_overlap ({self.chunk_overlap}) is more than half of a chunk ({longest} tokens)")
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
    versions: int = setting(3, decides=False, ge=0)
    """Number of earlier versions of the dataset that are kept when it is replaced: hard links to its files, which take
    space once the present version has others."""
