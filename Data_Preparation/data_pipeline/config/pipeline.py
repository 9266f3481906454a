"""Configuration of the main pipeline: all sections, and the folders derived from them."""

import re
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from data_pipeline.config.base import PathText, Section
from data_pipeline.config.corpus import CorpusConfig
from data_pipeline.config.decontamination import DecontaminationConfig
from data_pipeline.config.embedding import EmbeddingConfig
from data_pipeline.config.execution import ExecutionConfig
from data_pipeline.config.filters import FiltersConfig
from data_pipeline.config.preprocess import PreprocessConfig, SplitConfig, StorageConfig
from data_pipeline.config.sparse import SparseConfig
from data_pipeline.types import Split
from data_pipeline.utils import sha256_of_json
from data_pipeline.utils.system import default_cache_dir
from data_pipeline.utils.urls import is_url, without_secrets

_URL_OF_PATH = re.compile(r"[a-z][a-z0-9+.-]+:/[^/]")


def project_root() -> Path:
    """Return the checkout this package runs from, or the current folder for an installed copy."""
    checkout = Path(__file__).resolve().parents[3]
    return checkout if (checkout / "Data_Preparation").is_dir() else Path.cwd()


def _with_working_copy(values: dict[str, Any]) -> dict[str, Any]:
    """Replace a URL of the data folder by the folder of its working copy."""
    url = str(values["data_dir"])
    if isinstance(values["data_dir"], Path) and _URL_OF_PATH.match(url):
        raise ValueError(f"data_dir: {without_secrets(url)} is a URL as a Path, which loses a slash. Give it as text")
    if not is_url(url):
        return values
    url = url.rstrip("/")
    if values.get("data_url") not in (None, url):
        raise ValueError("data_dir and data_url are different URLs. Leave one of them out")
    cache = Path(values.get("cache_dir") or default_cache_dir())
    name = re.sub(r"[^\w.-]", "_", without_secrets(url).rpartition("/")[2])
    folder = cache / "working_copies" / f"{name}-{sha256_of_json(without_secrets(url))[:12]}"
    return {**values, "data_dir": folder, "data_url": url}


class Config(Section):
    """Complete configuration; the defaults embed WikiText-2 with Qwen3-Embedding-4B.

    Raises:
        pydantic.ValidationError: a name is unknown, or a value is out of range.
    """

    data_dir: Path = Field(default_factory=lambda: project_root() / "data")
    """Folder of all outputs, or its URL (s3://bucket/folder, gs://, hf://, any protocol of fsspec), which sets data_url
    and stands for a folder in cache_dir."""
    data_url: PathText | None = None
    """URL that data_dir is a working copy of: commands fetch from it what is missing or new, and publish to it what
    they make. none: data_dir is the only one."""
    logs_dir: Path = Field(default_factory=lambda: project_root() / "logs")
    """Folder of logs and reports; `logs` in data_dir if data_dir is set and this setting is not."""
    cache_dir: Path | None = None
    """Folder of the local copies of remote files and of texts for random access. none: texts are copied to
    .cache beside the paragraphs; other copies, and those of texts in a read-only folder, go to
    ~/.cache/elm-data-preparation."""
    preset: str = ""
    """Preset that the settings start from: offline, qwen3-0.6b, qwen3-4b; on the command line also auto
    (chosen by the memory of the GPU). Recorded with each run."""
    report: bool = True
    """Whether `elm run` writes the report of the dataset, report.html in data_dir, if the extra of that name is
    installed."""
    corpus: CorpusConfig = CorpusConfig()
    """Source of the text."""
    preprocess: PreprocessConfig = PreprocessConfig()
    """Cutting, cleaning, filtering and deduplication of paragraphs."""
    filters: FiltersConfig = FiltersConfig()
    """Filters by quality presets, language, personal data and the user's own rules."""
    decontamination: DecontaminationConfig = DecontaminationConfig()
    """Rows that repeat items of evaluation sets are dropped."""
    split: SplitConfig = SplitConfig()
    """Division of paragraphs into train, val and test."""
    storage: StorageConfig = StorageConfig()
    """Layout of rows in files."""
    embedding: EmbeddingConfig = EmbeddingConfig()
    """Embedding model and how it is run."""
    sparse: SparseConfig = SparseConfig()
    """Model of sparse vectors and how it is run; none by default."""
    execution: ExecutionConfig = ExecutionConfig()
    """Workers that run the tasks of stages."""

    @model_validator(mode="before")
    @classmethod
    def _folders(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("data_dir") is None:
            return values
        values = _with_working_copy(values)
        if values.get("logs_dir") is None:
            return {**values, "logs_dir": Path(values["data_dir"]) / "logs"}
        return values

    @model_validator(mode="after")
    def _language_is_one_column(self) -> Self:
        taken = {"language", "language_score"}.intersection(self.corpus.metadata_fields)
        if taken and self.filters.identifies_language:
            raise ValueError(
                f"corpus.metadata_fields names {', '.join(sorted(taken))}, which filters.language writes. Give the "
                "field another name in your records, or leave the language filters out"
            )
        return self

    @property
    def data_location(self) -> str | Path:
        """URL of the data folder, or its path where there is none; see `ELMDataset`."""
        return self.data_url or self.data_dir

    @property
    def sources_root(self) -> Path | None:
        """Folder that the paths of sources are recorded relative to; None for absolute paths.

        A working copy is at another place on each machine, and a data folder may be moved with its sources.
        """
        return None if self.data_url else self.data_dir

    @property
    def shown_location(self) -> str:
        """URL of the data folder without secrets, or its path where there is none."""
        return without_secrets(str(self.data_location))

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
    def sparse_dir(self) -> Path:
        """Folder of the sparse vectors."""
        folder = self.data_dir / "sparse"
        return folder / self.sparse.variant if self.sparse.variant else folder

    @property
    def crews_dir(self) -> Path:
        """Folder of the workers that run together, with a subfolder for each run."""
        return self.data_dir / ".crews"

    @property
    def scores_dir(self) -> Path:
        """Folder of the scores, with a subfolder for each head."""
        return self.data_dir / "scores"

    @property
    def selections_dir(self) -> Path:
        """Folder of the selections, with a subfolder for each subset."""
        return self.data_dir / "selections"

    def get_processed_path(self, split: Split) -> Path:
        """Return the path of the parquet file of a split that has only one shard."""
        return self.processed_dir / f"{split}.parquet"

    def get_embeddings_path(self, split: Split) -> Path:
        """Return the path of the safetensors file of a split that has only one shard."""
        return self.embeddings_dir / f"{split}_embeddings.safetensors"
