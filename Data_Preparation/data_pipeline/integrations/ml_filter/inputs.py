"""Input and output files of a job: one output for each input, in the same subfolders."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.errors import ConfigError, SourceError
from data_pipeline.integrations.ml_filter.jobs import AnnotationParameters, EmbeddingParameters
from data_pipeline.user_files import visible
from data_pipeline.utils.system import ignores_case, same_file_names

ANNOTATED = "annotated_data"
_PACKED = (".gz", ".zst")
_LINES = (".jsonl", ".ndjson", ".json")


@dataclass(frozen=True)
class File:
    """Input file and its output file."""

    path: Path
    name: str
    """Path relative to the input folder, without its ending."""
    final: Path


def embedding_files(params: EmbeddingParameters) -> list[File]:
    """List the inputs and outputs of an embedding job, sorted by name.

    Raises:
        SourceError: there are none.
        ConfigError: two inputs would have one output, or the pattern leads out of the folder.
    """
    folder = params.output_dir / params.embedding_dir
    made_here = (folder.resolve(), (params.output_dir / ANNOTATED).resolve())
    files = []
    for path in _matching(params.input_dir, params.glob_pattern, "input_dir"):
        if any(path.resolve().is_relative_to(made) for made in made_here):
            continue
        name = _without(_without(path.relative_to(params.input_dir), _PACKED), _LINES)
        files.append(File(path, str(name), folder / f"{name}.h5"))
    return _checked(files, f"{params.input_dir} holds no file that matches {params.glob_pattern!r} (glob_pattern)")


def annotation_files(params: AnnotationParameters) -> list[File]:
    """List the inputs and outputs of an annotation job, sorted by name.

    Raises:
        SourceError: there are none.
    """
    root, ending = params.embeddings_directory, ".jsonl.gz" if params.compression else ".jsonl"
    files = []
    for path in _matching(root, "**/*.h5", "embeddings_directory"):
        name = path.relative_to(root).with_suffix("")
        files.append(File(path, str(name), params.output_dir / ANNOTATED / f"{name}{ending}"))
    return _checked(files, f"{root} holds no .h5 file (embeddings_directory)")


def _matching(root: Path, pattern: str, key: str) -> Iterator[Path]:
    if not root.is_dir():
        raise SourceError(f"{key}: no such folder: {root}")
    if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        raise ConfigError(f"glob_pattern {pattern!r} must not lead out of {root}")
    yield from (path for path in visible(root.glob(pattern), root) if path.is_file())


def _without(path: Path, endings: Sequence[str]) -> Path:
    return path.with_suffix("") if path.suffix in endings else path


def _checked(files: list[File], nothing: str) -> list[File]:
    if not files:
        raise SourceError(f"{nothing}.")
    outputs: dict[Path, File] = {}
    for file in files:
        other = outputs.setdefault(file.final, file)
        if other is not file:
            raise ConfigError(f"{other.path} and {file.path} would both become {file.final}. Rename one of them.")
    for first, second in same_file_names(str(path) for path in outputs):
        if ignores_case(Path(first).parent):
            raise ConfigError(f"{first} and {second} are one file here, where case does not count. Rename an input.")
    return files
