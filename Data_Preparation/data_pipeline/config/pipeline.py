"""The whole configuration of the main pipeline: every section, and the folders that follow from them."""

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from data_pipeline.config.base import Section
from data_pipeline.config.corpus import CorpusConfig
from data_pipeline.config.embedding import EmbeddingConfig
from data_pipeline.config.preprocess import PreprocessConfig, SplitConfig, StorageConfig
from data_pipeline.types import Split


def project_root() -> Path:
    """The checkout this package runs from, or the current folder for an installed copy."""
    checkout = Path(__file__).resolve().parents[3]
    return checkout if (checkout / "Data_Preparation").is_dir() else Path.cwd()


class Config(Section):
    """The whole configuration; `Config()` is the user's own default: WikiText-2 and Qwen3-4B.

    Raises:
        pydantic.ValidationError: an unknown name or a value out of range.
    """

    data_dir: Path = Field(default_factory=lambda: project_root() / "data")
    """Everything that is made goes here."""
    logs_dir: Path = Field(default_factory=lambda: project_root() / "logs")
    """Logs and reports of runs; inside data_dir where that one is named and this one is not."""
    cache_dir: Path | None = None
    """Copies that make reading fast: of remote files, and of texts. none: texts are copied to
    .cache beside the paragraphs, all else (and texts, where that folder cannot be written) to
    ~/.cache/elm-data-preparation."""
    preset: str = ""
    """Start from this preset: offline, qwen3-0.6b, qwen3-4b; on the command line also auto
    (by the GPU's memory alone). Kept for the record."""
    corpus: CorpusConfig = CorpusConfig()
    """Where the text comes from."""
    preprocess: PreprocessConfig = PreprocessConfig()
    """From documents to the paragraphs that are kept."""
    split: SplitConfig = SplitConfig()
    """How paragraphs are divided into train, val and test."""
    storage: StorageConfig = StorageConfig()
    """How rows are laid out in files."""
    embedding: EmbeddingConfig = EmbeddingConfig()
    """The embedder, and how it is run."""

    @model_validator(mode="before")
    @classmethod
    def _logs_beside_the_data(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("data_dir") is not None and values.get("logs_dir") is None:
            return {**values, "logs_dir": Path(values["data_dir"]) / "logs"}
        return values

    @property
    def processed_dir(self) -> Path:
        """Folder of the parquet files."""
        return self.data_dir / f"{self.corpus.name}_processed"

    @property
    def embeddings_dir(self) -> Path:
        """Folder of the safetensors files."""
        folder = self.data_dir / "embeddings"
        return folder / self.embedding.variant if self.embedding.variant else folder

    @property
    def scores_dir(self) -> Path:
        """Folder of the scores, one folder in it for each head."""
        return self.data_dir / "scores"

    @property
    def selections_dir(self) -> Path:
        """Folder of the selections, one folder in it for each."""
        return self.data_dir / "selections"

    def get_processed_path(self, split: Split) -> Path:
        """The parquet file of a split that fits in one file."""
        return self.processed_dir / f"{split}.parquet"

    def get_embeddings_path(self, split: Split) -> Path:
        """The safetensors file of a split that fits in one file."""
        return self.embeddings_dir / f"{split}_embeddings.safetensors"
