"""Command `label` for weak labels."""

import argparse
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from data_pipeline.cli.command import Command, local_path
from data_pipeline.cli.flags import Given
from data_pipeline.cli.output import Facts, present
from data_pipeline.config import explain, read_config_file
from data_pipeline.errors import ConfigError
from data_pipeline.utils import configure_logging

if TYPE_CHECKING:
    from data_pipeline.stages.label import LabelReport

_ROWS_OF = ("training.parquet", "margins.parquet")
"""Output files whose rows are in the accounts."""


def _label(parsed: argparse.Namespace, given: Given) -> int:
    from data_pipeline.config.labels import LabelConfig
    from data_pipeline.execution.labels import make_weak_labels
    from data_pipeline.integrations.auto_qrels_config import from_older, is_older

    content = read_config_file(parsed.config)
    try:
        config = LabelConfig.model_validate(from_older(content) if is_older(content) else content)
    except ValidationError as error:
        raise ConfigError(f"{parsed.config}:\n{explain(error)}") from None
    configure_logging(config.logging.file)
    logging.getLogger().setLevel(config.logging.level)
    report = make_weak_labels(config)
    document = {
        "folder": report.folder,
        "queries": report.queries,
        "pairs": report.pairs,
        "judging": report.summary.to_json(),
        "figures": report.figures,
        "pushed": report.pushed,
    }
    present(document, str(report.folder), Facts(_rows(report)))
    return 0


def _rows(report: "LabelReport") -> list[tuple[str, str]]:
    figures, done = report.figures, report.summary
    statuses = ", ".join(f"{count:,} {status}" for status, count in figures["statuses"].items() if count)
    positives = sum(int(number) * count for number, count in figures["queries_by_positives"].items())
    accounts = figures["accounts"]
    rows = [
        ("passages", _account(accounts["passages"], 1)),
        ("queries", f"{report.queries:,} used; {_account(accounts['queries'], 2)}"),
        ("pairs", f"{report.pairs:,}: {statuses or 'none'}; {_account(accounts['pairs'], 1)}"),
        ("calls", f"{done.calls:,}; {done.known:,} pairs had an answer from an earlier call{_cost(done.cost)}"),
        ("grades", ", ".join(f"{grade}: {count:,}" for grade, count in figures["grades"].items()) or "none"),
        ("positives", f"{positives:,}, {positives / max(1, report.queries):.1f} a query"),
        (
            "negatives",
            f"{figures['negatives']:,}; {figures['queries_short_of_negatives']:,} queries have fewer than asked for",
        ),
    ]
    rows += [
        (file.removesuffix(".parquet"), _account(accounts[file], 1))
        for file in _ROWS_OF
        if any(accounts[file].values())
    ]
    if done.stopped:
        rows.append(("stopped", f"{done.stopped} was reached; run the same command again to resume"))
    gold = figures["agreement_with_gold"]
    if gold is not None:
        named = ", ".join(f"{name} {value}" for name, value in gold.items() if name != "pairs")
        scale = figures["gold"]
        rows.append(("gold", f"{gold['pairs']:,} pairs: {named}"))
        rows.append(("", f"relevant from grade {scale['relevant_from']} ({scale['chosen_by']})"))
        rows.append(("", _account(accounts["gold"], 1)))
        systems = figures["systems"]
        rows.append(("systems", f"{len(systems['systems'])} ranked: kendall_tau {systems['kendall_tau']}"))
    if encoded := sum(figures["percent_encoded_ids"].values()):
        rows.append(("ids", f"{encoded:,} have white space, which is percent-encoded in qrels.tsv"))
    if report.pushed is not None:
        rows.append(("pushed to", report.pushed))
    files = ", ".join(sorted(path.name for path in report.folder.iterdir() if not path.name.startswith(".")))
    return [*rows, ("files", files)]


def _cost(cost: float | None) -> str:
    return "" if cost is None else f"; cost {cost:,.4g}"


def _account(account: Mapping[str, Any], came_in: int) -> str:
    """Describe an account in words; its first `came_in` counts are the input."""
    from data_pipeline.weak_labels.accounts import describe

    parts = list(account.items())
    return f"{describe(dict(parts[:came_in]))}: {describe(dict(parts[came_in:]))}"


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=local_path, required=True, help="YAML file of the run")


COMMANDS: Mapping[str, Command] = {
    "label": Command(
        "make weak labels for retrieval: qrels and training triples",
        _arguments,
        _label,
        settings=False,
        example="elm label --config Data_Preparation/configs/weak_labels.yaml",
        group="enrich",
    )
}
