"""Every knob of the main job, once: its default, range, unit and where the value comes from.

Settings are merged in this order, the later winning: defaults < file or preset <
environment (`ELM_EMBEDDING__BATCH_SIZE=4`) < command line (`--embedding.batch_size 4`).
Secrets (a hub token) are read from the environment by the libraries that need them and
never enter the config, which is saved beside every run.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from data_pipeline.errors import ConfigError
from data_pipeline.types import Split
from data_pipeline.utils import shown

CONFIGS_FOLDER = Path(__file__).parent.parent / "configs"


def project_root() -> Path:
    """The checkout this package runs from, or the current folder for an installed copy."""
    checkout = Path(__file__).resolve().parents[2]
    return checkout if (checkout / "Data_Preparation").is_dir() else Path.cwd()


_RESERVED_NAMES = {
    "CON",
    "PRN",
    "AUX",
    "NUL",
    *(f"{port}{number}" for port in ("COM", "LPT") for number in range(1, 10)),
}


def _plain_name(name: str) -> str:
    if not name or name in {".", ".."} or any(c in r'\/:*?"<>|' or ord(c) < 32 for c in name):
        raise ValueError(f"{name!r} must be a plain folder name, without slashes or control characters")
    # A data folder is copied between machines: a name that Windows has no folder for is refused everywhere.
    if name.split(".")[0].strip().upper() in _RESERVED_NAMES or name[-1] in ". ":
        raise ValueError(
            f"{name!r} cannot name a folder on Windows (reserved there, or it ends in a dot or space); use another name"
        )
    return name


FolderName = Annotated[str, AfterValidator(_plain_name)]

_OWN_COLUMNS = {
    "text_id", "text", "token_count", "char_count", "document_id", "title", "section", "source_split", "raw",
}  # fmt: skip


def _column_name(name: str) -> str:
    if name in _OWN_COLUMNS:
        raise ValueError(f"{name!r} is a column of every corpus; give the field another name in your records")
    return name


ColumnName = Annotated[str, AfterValidator(_column_name)]


class Section(BaseModel):
    """A group of knobs: frozen, and a name it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class CorpusConfig(Section):
    """Where the text comes from."""

    source: Literal["hub", "wikitext", "jsonl", "parquet", "sample"] = "hub"
    """hub: a WikiText data set of the Hugging Face hub; wikitext: local WikiText files;
    jsonl, parquet: your own records; sample: the corpus in this package."""
    name: FolderName = "wikitext2"
    """Names the folder data/<name>_processed."""
    path: Path | None = None
    """File or folder, for the sources wikitext, jsonl (also .gz, .zst) and parquet."""
    hf_dataset_name: str = "Salesforce/wikitext"
    """Data set on the hub."""
    hf_dataset_config: str = "wikitext-2-v1"
    """Its configuration: wikitext-2-v1, wikitext-2-raw-v1, wikitext-103-v1, wikitext-103-raw-v1."""
    revision: str | None = None
    """Commit, tag or branch of the data set; the commit it stood for is recorded."""
    text_field: str = "text"
    """jsonl, parquet: the field with the text."""
    id_field: str | None = None
    """jsonl, parquet: the field with the document's id; without it, a hash of the text."""
    title_field: str | None = None
    """jsonl, parquet: the field with the title."""
    split_field: str | None = None
    """jsonl, parquet: the field with the official split; without it, a file name that is a split."""
    metadata_fields: dict[ColumnName, Literal["str", "int", "float", "bool"]] = {}
    """jsonl, parquet: further fields to keep as columns, with their types."""
    hub_timeout_s: float = Field(10.0, gt=0, le=25)
    """How long the preflight waits for the hub, in seconds."""


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
    fast_tokens: Literal["auto", "off"] = "auto"
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
    compile: bool = False
    """Compile the model's layers (torch.compile): minutes at the start, for long jobs on a GPU."""
    fp8: bool = False
    """Matrix products in float8, its loss printed; Ada or Hopper GPUs, needs the extra fp8."""
    device: str = "auto"
    """auto: cuda, else mps, else cpu; or a torch device such as cuda:1."""
    device_timeout_s: float = Field(600.0, gt=0)
    """How long one pack may take on a GPU before it counts as hung, in seconds."""
    threads: int | None = Field(None, ge=1)
    """Threads on a CPU; none: measured at the start of a long job."""
    batch_size: int | None = Field(None, ge=1)
    """Most texts computed together; none: only their tokens count."""
    batch_tokens: int | None = Field(None, ge=1)
    """Tokens computed together, padding counted; halved where the GPU runs out of memory.
    none: 16,384, or 32,768 on a large GPU; on a CPU measured at the start of a long job."""
    flush_s: float = Field(5.0, gt=0)
    """At most this much finished work, in seconds, is repeated after a crash."""
    variant: FolderName | None = None
    """Write to data/embeddings/<variant>/ instead of data/embeddings/."""


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


def preset_names() -> list[str]:
    """Names of the presets that come with the package, sorted."""
    return sorted(path.stem for path in presets_folder().glob("*.yaml"))


def presets_folder() -> Path:
    """`configs/presets/` of a checkout, or its copy inside an installed package."""
    return (CONFIGS_FOLDER if CONFIGS_FOLDER.is_dir() else Path(__file__).parent / "configs") / "presets"


def read_config_file(path: Path) -> dict[str, Any]:
    """Read a YAML config; values only, no code.

    Raises:
        ConfigError: it is missing, not YAML, or not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the config file {path}: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping of sections, found {type(content).__name__}")
    return content


def preset_path(name: str) -> Path:
    """The file of a preset.

    Raises:
        ConfigError: no preset has that name.
    """
    if name not in preset_names():
        raise ConfigError(f"no preset is called {name!r}; there are {', '.join(preset_names())}")
    return presets_folder() / f"{name}.yaml"


def explain(error: ValidationError) -> str:
    """One line for each thing that is wrong, with its dotted name."""
    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"]) or "config"
        # Where the name of a key's variable belongs, somebody may have put the key itself.
        secret = name.endswith("api_key_env") or problem["type"] == "missing"
        found = "" if secret else f" (found {shown(problem['input'], 200)})"
        reason = "no such setting" if problem["type"] == "extra_forbidden" else problem["msg"]
        lines.append(f"{name}: {reason.removeprefix('Value error, ')}{found}")
    return "\n".join(lines)
