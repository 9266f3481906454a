"""What the YAML files of the two file pipelines may say; the schema is ML-Filter's, with a few keys more."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from data_pipeline.config import EmbeddingConfig, Section, explain
from data_pipeline.config.base import setting
from data_pipeline.config.execution import LocalSettings, SlurmSettings
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
    """What is embedded, with what, and where it goes."""

    input_dir: Path = setting(decides=False)
    """Folder with JSON Lines files, also .gz and .zst; searched as `glob_pattern` says."""
    glob_pattern: str = setting(decides=False)
    """Which files of it: `*.jsonl`, or `**/*.jsonl` for those in folders below too."""
    keys_to_index: Keys = Field(default_factory=lambda: ["text"])
    """Keys that every record must have. Without `text_field`, the text is their values, one a line. With it,
    their values joined by `__` are the document's id."""
    text_field: str | None = None
    """Key with the text; without it, see `keys_to_index`."""
    id_key: str | None = None
    """Key with the document's id. none: see `keys_to_index` and `text_field`; without both, the first of document_id,
    doc_id, id and uuid that the first record has, else file and line."""
    output_dir: Path = setting(decides=False)
    """Everything that is made goes here."""
    embedding_dir: InsideOutput = setting(decides=False)
    """Folder inside of it for the HDF5 files."""
    embedding_model: str = setting(decides=False)
    """A text encoder on the hub, or a folder with one."""
    embedder: dict[str, Any] = setting(decides=False, default_factory=dict)
    """Further settings of the model, by their names in `EmbeddingConfig`: revision, trust_remote_code, device, ..."""
    hdf5_dataset_name: GroupName = "train"
    """Group in the HDF5 files."""
    batch_size: int = setting(decides=False, ge=1)
    """Most texts computed together."""
    writer_batch_size: int = setting(1000, decides=False, ge=1)
    """Vectors after which finished work is made safe on disk."""
    max_length: int | None = setting(None, decides=False, ge=2)
    """Tokens, special ones included; never more than the model takes."""
    padding: bool | Literal["longest", "max_length", "do_not_pad"] = setting(True, decides=False)
    """Accepted, and without effect: texts are packed without padding, and no vector depends on it."""
    truncation: bool | Literal["longest_first", "only_first", "do_not_truncate"] = setting(True, decides=False)
    """false or do_not_truncate: a longer text is an error; else it is cut, and counted."""
    model_dtype: ModelDtype = setting("auto", decides=False)
    """Of the model's arithmetic; auto: float32 on a CPU, half precision on a GPU."""
    embedding_dtype: StoredDtype = "float32"
    """Of the stored vectors; HDF5 has no bfloat16, which is stored as float32."""
    save_labels: bool = False
    """Keep the records' labels."""
    label_key: str | None = None
    """Key with the label, a number or a list of them. none: the first of label, labels, score and scores that a
    record of the file has."""
    label_dtype: LabelDtype = "float32"
    """Type of the stored labels. Missing ones are NaN, so whole-number types need a label in every record; HDF5 has
    no bfloat16, which is stored as float32."""
    keys_to_keep: list[str] | None = None
    """Further keys that are stored beside the vectors; none: all of them, the text too."""
    compression: Literal["gzip", "lzf"] | None = None
    """HDF5's own, of the vectors; the files remain readable by everything that reads HDF5."""
    csv_hashmap_path: Path | None = setting(None, decides=False)
    """Accepted, and without effect: inputs are known by their SHA-256."""

    @model_validator(mode="after")
    def _embedder_is_known(self) -> Self:
        embedding_config(self)
        return self


class AnnotationParameters(Section):
    """What is scored, by which heads, and where it goes."""

    embeddings_directory: Path
    """Folder with HDF5 files, ours or ML-Filter's; searched whole."""
    output_keys: list[str] = Field(default_factory=lambda: ["document_id"])
    """What each line is to have besides the scores: keys of the records, and document_id (also doc_id) and labels."""
    output_dir: Path
    """The lines go to its folder annotated_data."""
    regression_head_checkpoints: dict[HeadName, str] = Field(min_length=1)
    """Name -> head: a folder, a .ckpt or .pt file, or a name on the hub."""
    batch_size: int = Field(ge=1)
    """Rows that are read and written together."""
    hdf5_dataset_name: GroupName = "train"
    """Group in the HDF5 files."""
    compression: Literal["gzip"] | None = None
    """Of the output."""
    device: str = "auto"
    """auto: a GPU where there is one, else the CPU."""
    embedding_dtype: StoredDtype | None = None
    """Accepted, and without effect: files say how their vectors are stored."""
    label_dtype: LabelDtype | None = None
    """Accepted, and without effect: files say how their labels are stored."""
    model_dtype: ModelDtype | None = None
    """Accepted, and without effect: heads compute in float32."""
    embedding_key: str = "embeddings"
    """Dataset with the vectors in HDF5 files of other systems; ours call it `embeddings`."""
    document_id_key: str = "document_id"
    """Dataset with the ids in HDF5 files of other systems, and another name of theirs in `output_keys`."""
    label_key: str = "labels"
    """Dataset with the labels in HDF5 files of other systems, and another name of theirs in `output_keys`."""
    score_prefix: str = "score_"
    """Put before a head's name in the output."""


class _Job(Section):
    running_on_slurm: bool = False
    """Which of the two blocks counts."""
    local_settings: LocalSettings | None = None
    """For running_on_slurm: false; may be left out."""
    slurm_settings: SlurmSettings | None = None
    """For running_on_slurm: true."""
    overwrite: bool = False
    """Make files again that were made with other settings, or from another input."""

    @model_validator(mode="after")
    def _one_block(self) -> Self:
        if self.running_on_slurm and self.local_settings is not None:
            raise ValueError("running_on_slurm is true, so local_settings must be left out")
        if not self.running_on_slurm and self.slurm_settings is not None:
            raise ValueError("running_on_slurm is false, so slurm_settings must be left out")
        if self.running_on_slurm and self.slurm_settings is None:
            raise ValueError("running_on_slurm is true, so slurm_settings is needed")
        return self


class EmbeddingJob(_Job):
    """A whole `embedding_job.yaml`."""

    params: EmbeddingParameters
    """What is embedded, with what, and where it goes."""


class AnnotationJob(_Job):
    """A whole `annotation_job.yaml`."""

    params: AnnotationParameters
    """What is scored, by which heads, and where it goes."""


_REFERENCE = re.compile(r"\$\{\s*([^.:\[\]{}\s]+)")

J = TypeVar("J", EmbeddingJob, AnnotationJob)


def read_job(path: Path, kind: type[J]) -> J:
    """Read a job's YAML; `${...}` refers to other keys, as OmegaConf has it.

    Raises:
        ConfigError: the file cannot be read, or a key is unknown, missing or wrong; one line each, with its path.
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
    # What other values refer to, and is no setting, is a variable: `dataset_name` in ML-Filter's own files.
    settings = {name: value for name, value in content.items() if name in kind.model_fields or name not in referred_to}
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(f"{path}:\n{explain(error)}") from None


def _referred_to(content: Any) -> set[str]:
    """Top-level keys that `${...}` somewhere in a YAML's values refers to."""
    if isinstance(content, dict):
        return set().union(*map(_referred_to, content.values()))
    if isinstance(content, list):
        return set().union(*map(_referred_to, content))
    return set(_REFERENCE.findall(content)) if isinstance(content, str) else set()


_SET_BY_JOB = {"model_name", "batch_size", "max_length", "dtype", "variant", "precision", "flush_s"}


def embedding_config(params: EmbeddingParameters) -> EmbeddingConfig:
    """The settings of the model that a job names.

    Raises:
        ValueError: `embedder` has a key that is unknown, or that the job itself sets.
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
    """Of the vectors in the HDF5 file."""
    return "float16" if params.embedding_dtype == "float16" else "float32"


def stored_label_dtype(params: EmbeddingParameters) -> str:
    """Type of the labels in the HDF5 file."""
    return "float32" if params.label_dtype == "bfloat16" else params.label_dtype
