"""Settings of the embedder."""

from typing import Literal

from pydantic import Field

from data_pipeline.config.base import FolderName, Section, setting


class EmbeddingConfig(Section):
    """The embedder, and how it is run."""

    model_name: str = "Qwen/Qwen3-Embedding-4B"
    """A text encoder on the hub, a folder with one, or `hashing` (a fake for tests)."""
    weights: Literal["hub", "package"] = "hub"
    """package: take the weights from an installed Python package (extra `offline`)."""
    revision: str | None = None
    """Commit, tag or branch of the model; the commit it stood for is recorded."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Only for models you have read."""
    task: str | None = None
    """Adapter of the model to use, for models that come with several (jina-embeddings-v3: text-matching,
    retrieval.query, retrieval.passage, separation, classification); base: none of them; none: what the
    model's recipe says (text-matching). Queries get the same one."""
    pooling: Literal["auto", "last_token", "cls", "mean"] = "auto"
    """auto: what the model's own files say, else what its family uses."""
    normalize: bool = True
    """Scale every vector to length 1."""
    prompt: str | None = None
    """Put before every text; none: what the model asks for with documents (Qwen3: nothing)."""
    query_prompt: str | None = None
    """Put before every query; none: what the model asks for (Qwen3: Instruct: ...)."""
    max_length: int | None = Field(None, ge=2)
    """Tokens, special ones included, after which a text is cut; never more than the model takes."""
    dim: int | None = Field(None, ge=1)
    """Keep this many leading dimensions, then normalise (MRL; Qwen3: 32 to 2560); none: all."""
    dtype: Literal["auto", "float16", "bfloat16", "float32"] = "auto"
    """Of the model's arithmetic; auto: float32 on CPU, on GPU float16 (bfloat16 where it overflows)."""
    precision: Literal["auto", "float32", "float16", "float8", "int8", "ubinary"] = "auto"
    """Of the stored vectors; auto: float16 for half-precision models, else float32. float8 and int8
    (a quarter of float32) and ubinary (one bit a dimension) are calibrated once for all splits."""
    attention: Literal["auto", "flash_attention_2", "varlen", "segments", "padded"] = "auto"
    """auto: the first that can run and is right. The first three pack texts without padding:
    flash_attention_2 (extra gpu), varlen (in torch), both for Ampere GPUs or newer in half
    precision, and segments, which runs anywhere; padded is for models that cannot be packed."""
    backend: Literal["torch", "openvino"] = "torch"
    """What runs the model on a CPU; openvino needs the extra of that name."""
    compile: bool = setting(False, decides=False)
    """Compile the model's layers (torch.compile): minutes at the start, for long jobs on a GPU."""
    fp8: bool = False
    """Matrix products in float8, its loss printed; Ada or Hopper GPUs, needs the extra fp8."""
    device: str = setting("auto", decides=False)
    """auto: cuda, else mps, else cpu; or a torch device such as cuda:1."""
    device_timeout_s: float = setting(600.0, decides=False, gt=0)
    """How long one pack may take on a GPU before it counts as hung, in seconds."""
    threads: int | None = setting(None, decides=False, ge=1)
    """Threads on a CPU; none: measured at the start of a long job."""
    batch_size: int | None = setting(None, decides=False, ge=1)
    """Most texts computed together; none: only their tokens count."""
    batch_tokens: int | None = setting(None, decides=False, ge=1)
    """Tokens computed together, padding counted; halved where the GPU runs out of memory.
    none: 16,384, or 32,768 on a large GPU; on a CPU measured at the start of a long job."""
    flush_s: float = setting(5.0, decides=False, gt=0)
    """At most this much finished work, in seconds, is repeated after a crash."""
    variant: FolderName | None = setting(None, decides=False)
    """Write to data/embeddings/<variant>/ instead of data/embeddings/."""
