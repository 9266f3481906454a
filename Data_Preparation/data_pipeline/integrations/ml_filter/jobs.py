"""Settings in the YAML files of the two file pipelines; the schema is that of ML-Filter with additional keys."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from data_pipeline.config import EmbeddingConfig, Section, explain
from data_pipeline.config.base import setting
from data_pipeline.config.execution import ExecutionConfig, LocalSettings, SlurmSettings
from data_pipeline.errors import ConfigError
from data_pipeline.utils import require

_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def _long_name(dtype: Any) -> Any:
    return _DTYPES.get(dtype, dtype) if isinstance(dtype, str) else dtype


def _inside(folder: Path) -> Path:
    if folder.is_absolute() or ".." in folder.parts:
        raise ValueError("must be a folder inside output_dir, relative to it")
    return folder


def _hdf5_name(name: str) -> str:
    if not name or "/" in name or name == "." or "\0" in name:
        raise ValueError("must be a name without slashes")
    return name


def _head_name(name: str) -> str:
    if not name or not name.isprintable():
        raise ValueError("a head needs a name of printable characters")
    return name


InsideOutput = Annotated[Path, AfterValidator(_inside)]
GroupName = Annotated[str, AfterValidator(_hdf5_name)]
HeadName = Annotated[str, AfterValidator(_head_name)]
ModelDtype = Annotated[Literal["auto", "float16", "bfloat16", "float32"], BeforeValidator(_long_name)]
StoredDtype = Annotated[Literal["float16", "float32", "bfloat16"], BeforeValidator(_long_name)]
LabelDtype = Annotated[Literal["int8", "int16", "int32", "float16", "float32", "bfloat16"], BeforeValidator(_long_name)]
Keys = Annotated[list[str], Field(min_length=1)]


class EmbeddingParameters(Section):
    """Input, embedding model and output of the embedding pipeline."""

    input_dir: Path = setting(decides=False)
    """Folder with JSON Lines files, also .gz and .zst."""
    glob_pattern: str = setting(decides=False)
    """Pattern of the files in `input_dir`: `*.jsonl`, or `**/*.jsonl` to include subfolders."""
    keys_to_index: Keys = Field(default_factory=lambda: ["text"])
    """Keys that every record must have. Without `text_field`, their values, one per line, are the text; with it,
    their values joined by `__` are the document id."""
    text_field: str | None = None
    """Key with the text; none: the values of `keys_to_index` are the text."""
    id_key: str | None = None
    """Key with the document id; none: with `text_field`, the values of `keys_to_index`; without it, the first of
    document_id, doc_id, id and uuid that the first record has, else file and line."""
    output_dir: Path = setting(decides=False)
    """Folder of all outputs."""
    embedding_dir: InsideOutput = setting(decides=False)
    """Folder of the HDF5 files, inside `output_dir`."""
    embedding_model: str = setting(decides=False)
    """Text encoder: a name on the hub, or a local folder."""
    embedder: dict[str, Any] = setting(decides=False, default_factory=dict)
    """Additional settings of the model, by their names in `EmbeddingConfig`: revision, trust_remote_code, device."""
    hdf5_dataset_name: GroupName = "train"
    """Group in the HDF5 files."""
    batch_size: int = setting(decides=False, ge=1)
    """Maximum number of texts in a batch."""
    writer_batch_size: int = setting(1000, decides=False, ge=1)
    """Number of vectors after which finished work is flushed to disk."""
    max_length: int | None = setting(None, decides=False, ge=2)
    """Number of tokens, special tokens included, to which texts are truncated; at most the limit of the model."""
    padding: bool | Literal["longest", "max_length", "do_not_pad"] = setting(True, decides=False)
    """Accepted without effect: texts are packed without padding."""
    truncation: bool | Literal["longest_first", "only_first", "do_not_truncate"] = setting(True, decides=False)
    """Handling of longer texts. false or do_not_truncate: they are an error; else they are truncated and counted."""
    model_dtype: ModelDtype = setting("auto", decides=False)
    """Data type of the computation; auto: float32 on a CPU, half precision on a GPU."""
    embedding_dtype: StoredDtype = "float32"
    """Data type of the stored vectors; bfloat16, which HDF5 lacks, is stored as float32."""
    save_labels: bool = False
    """Whether to store the labels of records."""
    label_key: str | None = None
    """Key with the label, a number or a list of numbers; none: the first of label, labels, score and scores that a
    record of the file has."""
    label_dtype: LabelDtype = "float32"
    """Data type of the stored labels. Missing labels are NaN, so integer types need a label in every record; bfloat16,
    which HDF5 lacks, is stored as float32."""
    keys_to_keep: list[str] | None = None
    """Additional keys of records to store; none: all keys, including the text."""
    compression: Literal["gzip", "lzf"] | None = None
    """HDF5 compression of the vectors; all HDF5 readers can read it."""
    csv_hashmap_path: Path | None = setting(None, decides=False)
    """Accepted without effect: inputs are identified by their SHA-256."""

    @model_validator(mode="after")
    def _embedder_is_known(self) -> Self:
        embedding_config(self)
        return self


class AnnotationParameters(Section):
    """Input, heads and output of the annotation pipeline."""

    embeddings_directory: Path
    """Folder with HDF5 files of this package or of ML-Filter; subfolders are included."""
    output_keys: list[str] = Field(default_factory=lambda: ["document_id"])
    """Fields of each output line besides the scores: keys of records, document_id (also doc_id) and labels."""
    output_dir: Path
    """Folder of the outputs; JSON Lines files are written to its subfolder annotated_data."""
    regression_head_checkpoints: dict[HeadName, str] = Field(min_length=1)
    """Heads by name: a folder, a .ckpt or .pt file, or a name on the hub."""
    batch_size: int = Field(ge=1)
    """Number of rows to read and write together."""
    hdf5_dataset_name: GroupName = "train"
    """Group in the HDF5 files."""
    compression: Literal["gzip"] | None = None
    """Compression of the output."""
    device: str = "auto"
    """Device that computes the scores; auto: a GPU if one is available, else the CPU."""
    embedding_dtype: StoredDtype | None = None
    """Accepted without effect: files record the data type of their vectors."""
    label_dtype: LabelDtype | None = None
    """Accepted without effect: files record the data type of their labels."""
    model_dtype: ModelDtype | None = None
    """Accepted without effect: heads compute in float32."""
    embedding_key: str = "embeddings"
    """Name of the dataset with the vectors in HDF5 files of other systems."""
    document_id_key: str = "document_id"
    """Name of the dataset with the ids in HDF5 files of other systems, also accepted in `output_keys`."""
    label_key: str = "labels"
    """Name of the dataset with the labels in HDF5 files of other systems, also accepted in `output_keys`."""
    score_prefix: str = "score_"
    """Prefix of the names of heads in the output."""


class _Job(Section):
    running_on_slurm: bool = False
    """Whether the job runs on Slurm, with slurm_settings, or on this machine, with local_settings."""
    local_settings: LocalSettings | None = None
    """Processes on this machine, if running_on_slurm is false; none: the defaults."""
    slurm_settings: SlurmSettings | None = None
    """Job array on a Slurm cluster, required if running_on_slurm is true."""
    execution: ExecutionConfig | None = None
    """Any engine, as in a main job, instead of running_on_slurm, local_settings and slurm_settings."""
    overwrite: bool = False
    """Whether to replace files that were made with other settings or from another input."""

    @model_validator(mode="after")
    def _one_block(self) -> Self:
        if self.execution is not None and (self.running_on_slurm or self.local_settings or self.slurm_settings):
            raise ValueError("execution names the engine, so leave out running_on_slurm and both other blocks")
        if self.running_on_slurm and self.local_settings is not None:
            raise ValueError("running_on_slurm is true, so local_settings must be left out")
        if not self.running_on_slurm and self.slurm_settings is not None:
            raise ValueError("running_on_slurm is false, so slurm_settings must be left out")
        if self.running_on_slurm and self.slurm_settings is None:
            raise ValueError("running_on_slurm is true, so slurm_settings is needed")
        return self


class EmbeddingJob(_Job):
    """Complete configuration of the embedding pipeline, as in `embedding_job.yaml`."""

    params: EmbeddingParameters
    """Input, embedding model and output."""


class AnnotationJob(_Job):
    """Complete configuration of the annotation pipeline, as in `annotation_job.yaml`."""

    params: AnnotationParameters
    """Input, heads and output."""


_REFERENCE = re.compile(r"\$\{\s*([^.:\[\]{}\s]+)")

J = TypeVar("J", EmbeddingJob, AnnotationJob)


def read_job(path: Path, kind: type[J]) -> J:
    """Read the YAML file of a job; `${...}` refers to other keys, as in OmegaConf.

    Raises:
        ConfigError: the file cannot be read, or keys are unknown, missing or invalid; one line for each, with its path.
    """
    omegaconf = require("omegaconf", "annotation", "a pipeline's YAML file")
    import yaml

    try:
        loaded = omegaconf.OmegaConf.load(path)
        referred_to = _referred_to(omegaconf.OmegaConf.to_container(loaded, resolve=False))
        content = omegaconf.OmegaConf.to_container(loaded, resolve=True, throw_on_missing=True)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the job file {path}: {error}") from error
    except (yaml.YAMLError, omegaconf.errors.OmegaConfBaseException) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping with params, found {type(content).__name__}")
    # An unknown key that other values refer to is a variable, such as `dataset_name` in files of ML-Filter.
    settings = {name: value for name, value in content.items() if name in kind.model_fields or name not in referred_to}
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(f"{path}:\n{explain(error)}") from None


def _referred_to(content: Any) -> set[str]:
    """Return the top-level keys that `${...}` in the values of a YAML file refers to."""
    if isinstance(content, dict):
        return set().union(*map(_referred_to, content.values()))
    if isinstance(content, list):
        return set().union(*map(_referred_to, content))
    return set(_REFERENCE.findall(content)) if isinstance(content, str) else set()


_SET_BY_JOB = {"model_name", "batch_size", "max_length", "dtype", "variant", "precision", "flush_s"}


def embedding_config(params: EmbeddingParameters) -> EmbeddingConfig:
    """Return the settings of the embedding model of a job.

    Raises:
        ValueError: `embedder` has a key that is unknown or set by another key of the job.
    """
    twice = sorted(_SET_BY_JOB & params.embedder.keys())
    if twice:
        raise ValueError(f"embedder: {', '.join(twice)} is set by the job's own keys; leave it out")
    try:
        return EmbeddingConfig(
            **{
                **params.embedder,
                "model_name": params.embedding_model,
                "batch_size": params.batch_size,
                "max_length": params.max_length,
                "dtype": params.model_dtype,
            }
        )
    except ValidationError as error:
        raise ValueError(f"embedder: {explain(error)}") from None


def stored_dtype(params: EmbeddingParameters) -> Literal["float16", "float32"]:
    """Return the data type of the vectors in the HDF5 file."""
    return "float16" if params.embedding_dtype == "float16" else "float32"


def stored_label_dtype(params: EmbeddingParameters) -> str:
    """Return the data type of the labels in the HDF5 file."""
    return "float32" if params.label_dtype == "bfloat16" else params.label_dtype
