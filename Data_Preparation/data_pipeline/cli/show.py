"""Command `show`: one row, with its document, its neighbours and its scores."""

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from data_pipeline.cli.command import Command, common_arguments, configure_existing
from data_pipeline.cli.flags import Given
from data_pipeline.cli.output import Facts, Grid, Part, present
from data_pipeline.cli.search import hits_table
from data_pipeline.errors import ConfigError
from data_pipeline.utils.terminal import one_line

if TYPE_CHECKING:
    from data_pipeline.dataset.inspection import DroppedText, RowDescription

_TEXT_CHARS = 100


def _show(parsed: argparse.Namespace, given: Given) -> int:
    from data_pipeline.dataset.inspection import describe_row

    if parsed.k < 0:
        raise ConfigError(f"-k must be 0 or more, found {parsed.k}")
    description = describe_row(configure_existing(parsed, given), parsed.text_id, parsed.k)
    present(description, *_parts(description))
    return 0


def _parts(row: "RowDescription") -> list[Part]:
    parts: list[Part] = []
    if row.split is None:
        parts.append(f"{row.text_id} was dropped")
        own = [(each.stage, _reason(each)) for each in row.dropped if each.text_id == row.text_id]
        parts.append(Facts([*own, ("document", str(row.document_id))]))
    else:
        facts = [("split", f"{row.split}, row {row.row}")]
        facts += [(name, _value(value)) for name, value in row.metadata.items() if value not in (None, "")]
        facts += [(name, _value(value)) for name, value in row.scores.items()]
        facts += [("selection", f"{each.name} (rank {each.rank:,} of {each.rows:,})") for each in row.selections]
        parts += [row.text_id, Facts(facts)]
    if row.text is not None:
        parts += ["", row.text]
    if row.document:
        marked = [(">" if each.text_id == row.text_id else "", each.split, f"{each.row}", each.text_id)
                  for each in row.document]  # fmt: skip
        parts += ["\nrows of its document", Grid(("", "split", "row", "text_id"), marked, right={2})]
    others = [each for each in row.dropped if each.text_id != row.text_id]
    if others:
        width = 3 if any(each.text for each in others) else 2
        table = [(each.text_id, _reason(each), _example(each))[:width] for each in others]
        parts += ["\ndropped from its document", Grid(("text_id", "reason", "text")[:width], table)]
    if row.neighbors:
        parts += ["\nnearest rows", hits_table(row.neighbors)]
    return parts


def _value(value: Any) -> str:
    return (
        f"{value:,}"
        if isinstance(value, int) and not isinstance(value, bool)
        else (f"{value:.4g}" if isinstance(value, float) else one_line(str(value), 4 * _TEXT_CHARS))
    )


def _reason(dropped: "DroppedText") -> str:
    return dropped.reason + (f" of {dropped.duplicate_of}" if dropped.duplicate_of else "")


def _example(dropped: "DroppedText") -> str:
    return "" if dropped.text is None else one_line(dropped.text, _TEXT_CHARS)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("text_id", metavar="TEXT_ID", help="id of the row, as elm search prints it")
    parser.add_argument("-k", type=int, default=5, metavar="N", help="number of nearest rows; 0 for none (default 5)")
    common_arguments(parser)


COMMANDS: Mapping[str, Command] = {
    "show": Command(
        "show a row: text, document, neighbours, scores, selections",
        _arguments,
        _show,
        example="elm show 'saturn-53a4a529b8#s0'",
    ),
}
