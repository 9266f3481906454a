"""Settings of the embedder."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from data_pipeline.config.api import ApiConfig
from data_pipeline.config.base import FolderName, Section, setting

POOLINGS = ("last_token", "cls", "mean", "max", "mean_sqrt_len", "weighted_mean")


def _pooling(names: str) -> str:
    modes = names.split("+")
    if names != "auto" and (not set(modes) <= set(POOLINGS) or len(set(modes)) < len(modes)):
        raise ValueError(f"must be auto, or one or several of {', '.join(POOLINGS)} joined by +")
    return names


class EmbeddingConfig(Section):
    """Embedding model and how it is run."""

    model_name: str = "Qwen/Qwen3-Embedding-4B"
    """Text encoder: a name on the hub, a local folder, or `hashing` (a fake for tests); with the backend api, the name
    of the model as its server lists it."""
    weights: Literal["hub", "package"] = "hub"
    """Source of the weights. package: an installed Python package (extra `offline`)."""
    revision: str | None = None
    """Commit, tag or branch of the model; the resolved commit is recorded."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for models whose code you have read."""
    task: str | None = None
    """Adapter of a model that has several (jina-embeddings-v3: text-matching, retrieval.query,
    retrieval.passage, separation, classification); base: no adapter; none: the default of the model
    (text-matching). Queries use the same adapter."""
    pooling: Annotated[str, AfterValidator(_pooling)] = "auto"
    """Pooling of token vectors: last_token, cls, mean, max, mean_sqrt_len, weighted_mean, or several joined by +, whose
    results are concatenated; auto: as the model card or the files of the model say, else as its model family does."""
    normalize: bool | None = None
    """Scale every vector to length 1; none: unless the model compares vectors by something other than their cosine."""
    prompt: str | None = None
    """Prompt before every text; none: the document prompt of the model (Qwen3 has none)."""
    query_prompt: str | None = None
    """Prompt before every query; none: the query prompt of the model (Qwen3: Instruct: ...)."""
    max_length: int | None = Field(None, ge=2)
    """Number of tokens, special tokens included, to which texts are truncated; at most the limit of the model."""
    dim: int | None = Field(None, ge=1)
    """Number of leading dimensions to keep before normalization (MRL; Qwen3: 32 to 2560); none: all."""
    dtype: Literal["auto", "float16", "bfloat16", "float32"] = "auto"
    """Data type of the computation; auto: float32 on a CPU, float16 on a GPU (bfloat16 if float16 overflows)."""
    precision: Literal["auto", "float32", "float16", "float8", "int8", "ubinary"] = "auto"
    """Precision of the stored vectors; auto: float16 for half-precision models, else float32. float8 and int8
    (a quarter of the size of float32) are calibrated once for all splits; ubinary stores one bit per dimension."""
    attention: Literal["auto", "flash_attention_2", "varlen", "segments", "padded"] = "auto"
    """Attention implementation; auto: the first one that runs here and gives correct vectors. The first three
    pack texts without padding: flash_attention_2 (extra gpu) and varlen (in torch) need an Ampere GPU or newer
    and half precision, segments runs anywhere. padded is for models that cannot be packed."""
    backend: Literal["torch", "openvino", "onnx", "api"] = "torch"
    """Engine that runs the model. openvino, onnx: others for CPUs, in the extras of these names; onnx needs an export
    in the folder of the model (onnx/model.onnx), openvino uses one if there is one. api: a server, see
    `embedding.api`."""
    api: ApiConfig = setting(ApiConfig(), added=True)
    """Server that computes the vectors, with the backend api."""
    compile: bool = setting(False, decides=False)
    """Compile the layers of the model (torch.compile); takes minutes at the start, for long jobs on a GPU."""
    fp8: bool = False
    """Compute matrix products in float8 and log the loss of accuracy; needs an Ada or Hopper GPU and the extra fp8."""
    device: str = setting("auto", decides=False)
    """Torch device, such as cuda:1; auto: cuda, else mps, else cpu."""
    device_timeout_s: float = setting(600.0, decides=False, gt=0)
    """Time after which a GPU that does not finish a batch counts as hung, in seconds."""
    threads: int | None = setting(None, decides=False, ge=1)
    """Number of CPU threads; none: measured at the start of a long job."""
    batch_size: int | None = setting(None, decides=False, ge=1)
    """Maximum number of texts in a batch; none: limited by batch_tokens only, 32 with the backend api."""
    batch_tokens: int | None = setting(None, decides=False, ge=1)
    """Maximum number of tokens in a batch, padding included; halved if the GPU runs out of memory.
    none: 16,384, or 32,768 on a large GPU; measured at the start of a long job on a CPU."""
    flush_s: float = setting(5.0, decides=False, gt=0)
    """Interval at which finished vectors are flushed to disk, in seconds; a crash loses at most that much work."""
    reuse: bool = setting(True, decides=False)
    """Copy the vector of a text that has one by the same model: in any variant or earlier version of the data folder,
    also one that is being replaced. A few are computed again before a folder is trusted."""
    reuse_from: tuple[Path, ...] = setting((), decides=False)
    """Other data folders whose vectors are copied."""
    variant: FolderName | None = setting(None, decides=False)
    """Name of a variant, which is written to data/embeddings/<variant>/ instead of data/embeddings/."""
