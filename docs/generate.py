"""Writes the generated parts of the documentation: settings, commands, and the tree in `docs/architecture.md`.

Run by `make docs`. Modules are found by reading the package's source, so that none is named here by its path.
"""

import ast
import re
import sys
import types
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from inspect import cleandoc, isclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from data_pipeline.config.training import TrainingConfig

sys.path.insert(0, str(Path(__file__).resolve().parent))  # where this is loaded by its path
from generate_reference import commands

CHECKOUT = Path(__file__).resolve().parents[1]
SOURCE = CHECKOUT / "Data_Preparation"
PACKAGE = SOURCE / "data_pipeline"
DOCS = CHECKOUT / "docs"
ARCHITECTURE = DOCS / "architecture.md"

_INTRODUCTION = """Settings of the main job are merged in this order, the later one winning:

1. the defaults below;
2. a preset (`--preset NAME`, `ELM_PRESET`) or a YAML file (`--config FILE`);
3. environment variables: `ELM_EMBEDDING__DIM=256`;
4. flags: `--embedding.dim 256`.

An unknown name, a value of the wrong type and a value out of range are errors that name the setting. Each run saves its
resolved configuration in the folder of logs. Secrets, such as a token of the hub, are read from the environment by the
libraries that need them and are never saved.

A YAML file nests the names: `embedding: {dim: 256}`. A switch is `--preprocess.near_dedup` or
`--no-preprocess.near_dedup`. Short forms of some flags: `--output-dir` (`--data_dir`), `--source`, `--min-tokens`,
`--max-tokens`, `--batch-size`, `--model-name`, `--precision`; `elm run --help` lists them all.

Other settings: [weak labels](configuration_weak_labels.md), [selectors, measures and the
study](configuration_selection.md), [file pipelines](configuration_file_pipelines.md)."""

_HEADS = """Flags of `elm heads train`, with hyphens: `--learning-rate 0.001`. See
[Scoring with heads](scoring_with_heads.md)."""

_DEDUPLICATION = """Flags of `elm semantic-dedup`, with hyphens: `--evaluation-threshold 0.9`. See
[Deduplication by embeddings](deduplication.md)."""


@cache
def _defined() -> Mapping[str, list[str]]:
    """Modules of the package by the names that they define at top level."""
    found: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            for name in [*names, *([node.name] if isinstance(node, ast.ClassDef) else [])]:
                found.setdefault(name, []).append(module)
    return found


def find(name: str) -> Any:
    """The object that the package defines under a name.

    Raises:
        LookupError: no module defines it, or several do.
    """
    modules = _defined().get(name, [])
    if len(modules) != 1:
        raise LookupError(f"{name} must be defined by one module, found {', '.join(modules) or 'none'}")
    return getattr(import_module(modules[0]), name)


def configuration() -> str:
    """The settings of the main job, of the training of heads, and of semantic deduplication."""
    return _page(
        "Configuration",
        _INTRODUCTION,
        "## The main job",
        *_model_parts(find("Config"), flags=True),
        "## Training of heads",
        _HEADS,
        *_model_parts(TrainingConfig),
        "## Semantic deduplication",
        _DEDUPLICATION,
        *_model_parts(find("SemanticDedupConfig")),
    )


def configuration_of_weak_labels() -> str:
    """The settings of a YAML file for `elm label`."""
    text = "Keys of a YAML file for `elm label --config FILE`. See [Weak labels](weak_labels.md)."
    return _page("Configuration of weak labels", text, *_model_parts(find("LabelConfig")))


def configuration_of_selection() -> str:
    """The parameters of selectors and measures, and the settings of the study."""
    measures = [
        _entry(name, entry.config, f"Columns: {', '.join(f'`{column}`' for column in entry.columns)}.")
        for name, entry in find("MEASURES").items()
    ]
    return _page(
        "Configuration of selectors, measures and the study",
        "[Selectors](#selectors), [measures](#measures), [the study](#the-study).",
        "## Selectors",
        "Parameters of `elm select --name NAME --set PARAMETER=VALUE`. See [Selection](selection.md).",
        *(_entry(name, entry.config, entry.help) for name, entry in find("SELECTORS").items()),
        "## Measures",
        "Parameters of `elm measure NAME --set PARAMETER=VALUE`.",
        *measures,
        "## The study",
        "Arguments `KEY=VALUE` of `elm study`, or keys of a YAML file for `--config`. See [The study](study.md).",
        *_model_parts(find("StudyConfig")),
    )


def configuration_of_file_pipelines() -> str:
    """The settings of the two file pipelines."""
    return _page(
        "Configuration of the file pipelines",
        "Keys of the YAML files. See [Scoring with heads](scoring_with_heads.md#json-lines-files).",
        "## `elm run_embedding_pipeline`",
        *_model_parts(find("EmbeddingJob")),
        "## `elm run_annotation_pipeline`",
        "`local_settings` and `slurm_settings` are those of the embedding pipeline.",
        *(part for part in _model_parts(find("AnnotationJob")) if not re.match("### `(local|slurm)_settings`", part)),
    )


def _page(title: str, *parts: str) -> str:
    note = "Written by `make docs` from the configuration models; do not edit."
    return "\n\n".join(part.strip() for part in (f"# {title}", note, *parts)) + "\n"


def _entry(name: str, model: type[BaseModel], text: str) -> str:
    rows = [(f"`{field}`", info) for field, info in model.model_fields.items()]
    return f"### `{name}`\n\n{text.splitlines()[0]}" + (f"\n\n{_table(rows)}" if rows else " No parameters.")


def _model_parts(model: type[BaseModel], *, flags: bool = False) -> Iterator[str]:
    """A model's own fields, then each of its sections, depth first."""
    for prefix, section, text in _sections(model, "", ""):
        own = [(name, info) for name, info in section.model_fields.items() if not _model_of(info)]
        head = f"### `{prefix}`\n\n{text}" if prefix else ""
        rows = []
        for name, info in own:
            dotted = f"{prefix}.{name}" if prefix else name
            variable = "ELM_" + dotted.upper().replace(".", "__")
            rows.append((f"`--{dotted}`<br>`{variable}`" if flags else f"`{name}`", info))
        if part := "\n\n".join(filter(None, [head, _table(rows) if rows else ""])):
            yield part


def _sections(model: type[BaseModel], prefix: str, text: str) -> Iterator[tuple[str, type[BaseModel], str]]:
    yield prefix, model, text
    for name, info in model.model_fields.items():
        if section := _model_of(info):
            dotted = f"{prefix}.{name}" if prefix else name
            described = " ".join((info.description or "").split())
            if section.__name__ == "EmbeddingConfig" and model is not find("Config"):
                yield (
                    dotted,
                    _Elsewhere,
                    f"{described} Fields: see [`embedding`](configuration.md#embedding) of the main job.",
                )
            else:
                yield from _sections(section, dotted, described)


class _Elsewhere(BaseModel):
    """A section whose fields are listed in another place."""


def _model_of(info: FieldInfo) -> type[BaseModel] | None:
    """The section that a field holds, None for a plain value."""
    candidates = [info.annotation, *get_args(info.annotation)]
    if get_origin(info.annotation) not in (None, Union, types.UnionType):
        return None
    return next((part for part in candidates if isclass(part) and issubclass(part, BaseModel)), None)


def _table(rows: list[tuple[str, FieldInfo]]) -> str:
    lines = ["| setting | type | default | meaning |", "|---|---|---|---|"]
    for name, info in rows:
        meaning = _escaped(" ".join((info.description or "").split()))
        cells = (name, _type(info.annotation) + _limits(info.metadata), _default(info), meaning)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    """Text whose angle brackets are not read as HTML; what stands in backticks is left as it is."""
    parts = text.split("`")
    return "`".join(part.replace("<", "&lt;") if number % 2 == 0 else part for number, part in enumerate(parts))


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0]) + _limits(arguments[1:])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join("none" if part is types.NoneType else _type(part) for part in arguments)
    if origin in (list, tuple, set, frozenset):
        return "list of " + " or ".join(_type(part) for part in arguments if part is not Ellipsis)
    if origin in (dict, Mapping):
        return f"mapping of {_type(arguments[0])} to {_type(arguments[1])}"
    names = {str: "text", int: "integer", float: "number", bool: "true or false", Path: "path", Any: "any value"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _limits(metadata: Any) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "min_length": "at least"}
    limits = []
    for part in metadata:
        for constraint in (part, *getattr(part, "metadata", ())):
            limits += [f"{sign} {getattr(constraint, name):,g}" for name, sign in signs.items()
                       if getattr(constraint, name, None) is not None]  # fmt: skip
    return f", {', '.join(limits)}" if limits else ""


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, Path):
        if value.is_absolute():  # a folder of the checkout
            return f"`{value.name}`"
        value = value.as_posix()
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, (list, tuple, dict, frozenset)) and not value:
        return "empty"
    if isinstance(value, BaseModel):
        return "its defaults"
    if isinstance(value, (list, tuple)):
        return ", ".join(f"`{_brief(part)}`" for part in value)
    if isinstance(value, dict):
        return "`" + "; ".join(f"{key}: {_brief(part)}" for key, part in value.items()) + "`"
    return f"`{value}`" if value != "" else "empty"


def _brief(value: Any) -> str:
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_defaults=True)
    if isinstance(value, dict):
        return ", ".join(f"{key} {part}" for key, part in value.items())
    return str(value)


# The tree


def tree() -> str:
    """The files below Data_Preparation/, each with the first line of what it says about itself."""
    return "\n".join(["Data_Preparation/", *_entries(SOURCE, 1)])


_SKIPPED = {"__pycache__", "__init__.py", "py.typed", "results"}


def _entries(folder: Path, depth: int) -> Iterator[str]:
    paths = sorted(
        path
        for path in folder.iterdir()
        if path.name not in _SKIPPED and not path.name.startswith(".") and path.suffix != ".egg-info"
    )
    for path in [path for path in paths if path.is_file()]:
        if about := _about(path):
            yield _line(path.name, about, depth)
    for path in [path for path in paths if path.is_dir()]:
        yield _line(f"{path.name}/", _about(path / "__init__.py"), depth)
        if path != SOURCE / "tests":
            yield from _entries(path, depth + 1)


def _line(name: str, about: str, depth: int) -> str:
    return f"{'  ' * depth + name:<35} {about}".rstrip()


def _about(path: Path) -> str:
    """The first line of a docstring, of a comment at the top, or of a heading; empty for files of data."""
    if path.suffix == ".py":
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) if path.exists() else ""
        return _first_line(text or "")
    if path.suffix in {".yaml", ".yml", ".md"} or path.name == "Snakefile":
        first = path.read_text(encoding="utf-8").splitlines()[0]
        return _first_line(first.lstrip("# ")) if first.startswith("#") else ""
    return "The same steps as a notebook, for Colab" if path.suffix == ".ipynb" else ""


def _first_line(text: str) -> str:
    return cleandoc(text).split("\n")[0].rstrip(".:") if text else ""


_BEGIN, _END = "<!-- The tree is written by `make docs`. -->\n```text layout\n", "\n```\n<!-- End of the tree. -->"


def architecture() -> str:
    """Content of docs/architecture.md: as it is, with the tree of now."""
    before, _, rest = ARCHITECTURE.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not end:
        raise ValueError(f"{ARCHITECTURE} has no place for the tree: {_BEGIN!r} ... {_END!r}")
    return before + _BEGIN + tree() + _END + after


def pages() -> dict[Path, str]:
    """Every page with a generated part, and what it should be."""
    return {
        DOCS / "configuration.md": configuration(),
        DOCS / "configuration_weak_labels.md": configuration_of_weak_labels(),
        DOCS / "configuration_selection.md": configuration_of_selection(),
        DOCS / "configuration_file_pipelines.md": configuration_of_file_pipelines(),
        DOCS / "commands.md": commands(),
        ARCHITECTURE: architecture(),
    }


def main() -> None:
    """Write the pages."""
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(SOURCE))
    main()
