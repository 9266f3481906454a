"""Settings of decontamination: dropping rows that repeat the items of evaluation sets, or of our own val and test."""

from typing import Literal

from pydantic import Field

from data_pipeline.config.base import PathText, Section, setting
from data_pipeline.types import Split


class DecontaminationConfig(Section):
    """Rows that repeat items of evaluation sets are dropped."""

    paths: list[PathText] = setting(default_factory=list, decides=False)
    """Evaluation sets: JSON Lines and parquet files, folders of them, BEIR folders, processed folders of this package,
    datasets of the hub (owner/name, or hf://datasets/owner/name@revision), and files at other addresses."""
    own_splits: bool = False
    """Drop rows of train that repeat rows of our own val and test."""
    remove_from: Literal["train", "all"] = "train"
    """Splits from which rows that repeat items of `paths` are dropped; `own_splits` drops rows of train only."""
    methods: list[Literal["ngram", "near"]] = setting(default_factory=lambda: ["ngram", "near"], min_length=1)
    """Comparisons. ngram: sequences of words in common; near: near duplicates (MinHash) with a similarity of
    preprocess.near_threshold or more. `elm semantic-dedup` compares embeddings."""
    ngram_words: int = Field(13, ge=1)
    """Words of an n-gram; in scripts without spaces, characters. Shorter items match as a whole."""
    min_words: int = Field(8, ge=1)
    """Minimum words of an item for the comparison of n-grams; shorter items would match by chance."""
    min_overlap: float = Field(0.0, ge=0, le=1)
    """Minimum share of the words of a row that are in common n-grams, 0 to 1; 0: one common n-gram is enough."""
    text_fields: list[str] = setting(default_factory=lambda: ["text"], min_length=1)
    """Fields with the texts of an item, such as question and answer; each is compared on its own. A field may hold a
    list of texts."""
    id_field: str | None = None
    """Field with the id of an item; none: _id, id, text_id or query_id, else the number of the line or row."""
    beir_files: list[Literal["queries", "corpus"]] = setting(default_factory=lambda: ["queries"], min_length=1)
    """Files of a BEIR folder that are read."""
    splits: list[Split] = setting(default_factory=lambda: ["val", "test"], min_length=1)
    """Splits that are read of processed folders and of datasets of the hub (validation is val)."""
    hub_config: str | None = None
    """Configuration of the datasets of the hub, if they have several."""

    @property
    def is_on(self) -> bool:
        """Whether there is anything to compare with."""
        return bool(self.paths) or self.own_splits
