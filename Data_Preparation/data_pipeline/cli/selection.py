"""Commands for subsets: `selectors`, `measure`, `select`."""

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel

from data_pipeline.cli.command import Command, common_arguments, configure_existing, local_path
from data_pipeline.cli.flags import Given
from data_pipeline.cli.output import Facts, present
from data_pipeline.errors import ConfigError
from data_pipeline.types import SPLITS

if TYPE_CHECKING:
    from data_pipeline.stages.select import StoredSelection


def _select(parsed: argparse.Namespace, given: Given) -> int:
    if parsed.ids is not None:
        return _select_listed(parsed, given)
    if parsed.name is None:
        raise ConfigError("name a selector (--name, see `elm selectors`), or a file with the ids of the rows (--ids)")
    if parsed.frac is None and parsed.rows is None and parsed.tokens is None:
        raise ConfigError("give the size of the subset: one of --frac, --rows and --tokens")
    from data_pipeline.execution.upkeep import select_subset
    from data_pipeline.selection import Budget, StrataConfig

    config = configure_existing(parsed, given)
    selection = select_subset(
        config,
        parsed.name,
        Budget(parsed.rows, parsed.frac, parsed.tokens),
        seed=parsed.seed,
        parameters=_parameters(parsed.set),
        strata=StrataConfig(by=parsed.strata, bins=parsed.bins, shares=parsed.shares) if parsed.strata else None,
        split=parsed.on,
        label=parsed.label,
        against=parsed.against,
        overwrite=parsed.overwrite,
    )
    _present(selection, str(config.data_dir), parsed.on)
    return 0


def _select_listed(parsed: argparse.Namespace, given: Given) -> int:
    """Store the rows that a file lists."""
    from data_pipeline.execution.upkeep import select_listed
    from data_pipeline.selection.listed import read_listed_ids

    others = {"--name": parsed.name, "--frac": parsed.frac, "--rows": parsed.rows, "--tokens": parsed.tokens,
              "--set": parsed.set or None, "--strata": parsed.strata}  # fmt: skip
    if excluded := [flag for flag, value in others.items() if value is not None]:
        raise ConfigError(f"--ids takes the rows of the file as they are; leave {', '.join(excluded)} out")
    config = configure_existing(parsed, given)
    selection = select_listed(
        config,
        read_listed_ids(parsed.ids),
        split=parsed.on,
        label=parsed.label,
        against=parsed.against,
        overwrite=parsed.overwrite,
    )
    _present(selection, str(config.data_dir), parsed.on)
    return 0


def _present(stored: "StoredSelection", data_dir: str, split: str) -> None:
    nothing = "nothing: a list names the rows" if stored.selection.name == "ids" else "nothing but the number of rows"
    about = {name: value for name, value in stored.about.items() if name not in {"corpus", "paragraphs", "rows", "of"}}
    rows = [
        ("subset", stored.selection.subset),
        ("rows", f"{stored.about['rows']:,} of {stored.about['of']:,}"),
        ("looked at", ", ".join(sorted(stored.selection.sees)) or nothing),
        *((name, _shown(value)) for name, value in about.items()),
    ]
    more = "" if split == "train" else f", split={split!r}"
    opening = (
        "\n  from data_pipeline import ELMDataset\n"
        f"  dataset = ELMDataset({data_dir!r}{more}, subset={stored.selection.subset!r})"
    )
    document = {"subset": stored.selection.subset, "split": split, "file": stored.path,
                "sees": sorted(stored.selection.sees), **stored.about}  # fmt: skip
    present(document, str(stored.path), Facts(rows), opening)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_shown(part)}" for name, part in value.items())
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _parameters(given: list[str]) -> dict[str, Any]:
    """Parse `key=value` flags; a dot in a key selects a section, and values are YAML."""
    parameters: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set takes key=value, found {text!r}")
        section = parameters
        *sections, name = key.split(".")
        for part in sections:
            section = section.setdefault(part, {})
        try:
            section[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {key}: {value!r} is not a YAML value: {error}") from None
    return parameters


def _select_arguments(parser: argparse.ArgumentParser) -> None:
    common_arguments(parser)
    parser.add_argument("--name", metavar="SELECTOR", help="selector, as elm selectors lists it")
    parser.add_argument(
        "--ids", type=local_path, metavar="FILE",
        help="select the rows of this file instead, in its order: one id a line, or a parquet, CSV, JSON Lines or JSON "
        "file with a column text_id, such as an export of the explorer",
    )  # fmt: skip
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--frac", type=float, help="budget: fraction of the rows, above 0 and at most 1")
    budget.add_argument("--rows", type=int, help="budget: rows")
    budget.add_argument("--tokens", type=int, help="budget: tokens")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default 0)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a parameter of the selector")
    parser.add_argument("--strata", metavar="COLUMN", help="groups that share the budget: labels, or a score's bins")
    parser.add_argument("--bins", type=int, default=5, help="number of bins of a score column (default 5)")
    parser.add_argument(
        "--shares", choices=("proportional", "equal"), default="proportional", help="shares of the groups in the budget"
    )
    parser.add_argument("--against", choices=SPLITS, help="also count near duplicates of this split's rows")
    _common(parser, splits=False)


def _measure(parsed: argparse.Namespace, given: Given) -> int:
    from data_pipeline.execution.scores import compute_metric

    config = configure_existing(parsed, given)
    measured = compute_metric(
        config,
        parsed.name,
        _parameters(parsed.set),
        splits=parsed.splits,
        called=parsed.called,
        label=parsed.label,
        overwrite=parsed.overwrite,
    )
    rows = [
        (split, f"{done.rows:,} rows{', finished before' if done.skipped else ''}") for split, done in measured.items()
    ]
    columns = next(iter(measured.values())).columns
    splits = {split: {"rows": done.rows, "skipped": done.skipped} for split, done in measured.items()}
    document = {"splits": splits, "columns": columns, "folder": config.scores_dir}
    present(document, Facts([*rows, ("columns", ", ".join(columns)), ("files", str(config.scores_dir))]))
    return 0


def _measure_arguments(parser: argparse.ArgumentParser) -> None:
    common_arguments(parser)
    parser.add_argument("name", metavar="MEASURE", help="measure, as elm selectors lists it")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a parameter of the measure")
    parser.add_argument("--as", dest="called", metavar="NAME", help="another name for folder and columns")
    _common(parser, splits=True)


def _list(parsed: argparse.Namespace, given: Given) -> int:
    from data_pipeline.metrics.registry import MEASURES
    from data_pipeline.selection import SELECTORS

    lines = ["selectors (elm select --name NAME --set PARAMETER=VALUE)"]
    for name, selector in SELECTORS.items():
        lines += [f"\n{name}: {selector.help}", *_fields(selector.config)]
    lines.append("\nmeasures (elm measure NAME --set PARAMETER=VALUE)")
    for name, measure in MEASURES.items():
        lines += [f"\n{name}: columns {', '.join(measure.columns)}", *_fields(measure.config)]
    document = {
        "selectors": {name: _fields_to_json(selector.config) for name, selector in SELECTORS.items()},
        "measures": {
            name: {"columns": measure.columns, **_fields_to_json(measure.config)} for name, measure in MEASURES.items()
        },
    }
    present(document, *lines)
    return 0


def _fields_to_json(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema()
    return {"parameters": schema.get("properties", {}), "required": schema.get("required", [])}


def _fields(model: type[BaseModel]) -> list[str]:
    return [
        f"  {name}{'' if field.is_required() else f' = {field.get_default(call_default_factory=True)}'}: "
        f"{' '.join((field.description or '').split())}"
        for name, field in model.model_fields.items()
    ]


def _common(parser: argparse.ArgumentParser, splits: bool) -> None:
    if splits:
        parser.add_argument(
            "--splits", nargs="+", choices=SPLITS, default=["train"], help="splits to measure (default train)"
        )
    else:
        parser.add_argument(
            "--on", "--split", choices=SPLITS, default="train", dest="on", help="split to select from (default train)"
        )
    parser.add_argument("--label", metavar="COLUMN", help="column with the class")
    parser.add_argument("--overwrite", action="store_true", help="replace what was made from other data or settings")


COMMANDS: Mapping[str, Command] = {
    "selectors": Command(
        "list the selectors and measures",
        lambda parser: None,
        _list,
        settings=False,
        example="elm selectors",
        group="enrich",
    ),
    "measure": Command(
        "compute a measure of texts or vectors, as score columns",
        _measure_arguments,
        _measure,
        example="elm measure text_metrics",
        group="enrich",
    ),
    "select": Command(
        "select rows to train on, as a subset that ELMDataset opens",
        _select_arguments,
        _select,
        example="elm select --name kcenter --frac 0.1",
        group="enrich",
    ),
}
