"""Settings of sparse vectors: a weight for each of some words of the model's vocabulary."""

from typing import Literal

from pydantic import Field

from data_pipeline.config.base import FolderName, Section, setting
from data_pipeline.config.embedding import EmbeddingConfig


class SparseConfig(Section):
    """Model that gives sparse vectors, and how it is run."""

    model_name: str | None = None
    """SPLADE-like model or BGE-M3: a name on the hub, or a local folder; none: no sparse vectors."""
    revision: str | None = None
    """Commit, tag or branch of the model; the resolved commit is recorded."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for models whose code you have read."""
    prompt: str | None = None
    """Prompt before every text; none: the document prompt of the model."""
    query_prompt: str | None = None
    """Prompt before every query; none: the query prompt of the model."""
    max_length: int | None = Field(None, ge=2)
    """Number of tokens, special tokens included, to which texts are truncated; at most the limit of the model."""
    max_active: int | None = Field(None, ge=1)
    """Number of weights of a text to keep, the largest ones; none: as many as the model keeps, usually all."""
    dtype: Literal["auto", "float16", "bfloat16", "float32"] = "auto"
    """Data type of the computation; auto: float32 on a CPU, float16 on a GPU."""
    device: str = setting("auto", decides=False)
    """Torch device, such as cuda:1; auto: cuda, else mps, else cpu."""
    batch_size: int | None = setting(None, decides=False, ge=1)
    """Maximum number of texts in a batch; none: limited by batch_tokens only."""
    batch_tokens: int | None = setting(None, decides=False, ge=1)
    """Maximum number of tokens in a batch, padding included; none: as many as have room, by the model's vocabulary."""
    variant: FolderName | None = setting(None, decides=False)
    """Name of a variant, which is written to data/sparse/<variant>/ instead of data/sparse/."""

    def for_loading(self) -> EmbeddingConfig:
        """Return the settings that find and load the model, in the form of an embedder's."""
        return EmbeddingConfig(
            model_name=self.model_name or "",
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
            max_length=self.max_length,
            dtype=self.dtype,
            device=self.device,
        )
