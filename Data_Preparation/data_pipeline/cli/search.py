"""Command `search`: the rows that are nearest to a query."""

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from data_pipeline.cli.command import Command, common_arguments, configure_existing
from data_pipeline.cli.flags import Given
from data_pipeline.cli.output import Grid, present
from data_pipeline.errors import ConfigError
from data_pipeline.types import SPLITS
from data_pipeline.utils import encodable
from data_pipeline.utils.terminal import one_line

if TYPE_CHECKING:
    from data_pipeline.dataset.multi_search import Hit

_TEXT_CHARS = 100


def _search(parsed: argparse.Namespace, given: Given) -> int:
    from data_pipeline.dataset.inspection import vector_of
    from data_pipeline.dataset.multi_search import search_splits

    text = " ".join(parsed.query) if parsed.query else None
    if (text is None) == (parsed.like is None):
        raise ConfigError('give a query or --like TEXT_ID, one of the two: elm search "how do bees find flowers?"')
    if text is not None and not text.strip():
        raise ConfigError("the query is empty")
    config = configure_existing(parsed, given)
    query = vector_of(config, parsed.like) if text is None else encodable(text)
    hits = search_splits(config, query, parsed.k, parsed.splits, parsed.where, without=parsed.like)
    document = {"query": text, "like": parsed.like, "k": parsed.k, "where": parsed.where, "hits": hits}
    present(document, hits_table(hits) if hits else "no row matches")
    return 0


def hits_table(hits: "Sequence[Hit]") -> Grid:
    """Return found rows as a table, with the beginnings of their texts."""
    rows = [(f"{hit.score:.3f}", hit.split, f"{hit.row}", hit.text_id, one_line(hit.text, _TEXT_CHARS)) for hit in hits]
    return Grid(("score", "split", "row", "text_id", "text"), rows, right={0, 2})


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("query", nargs="*", help="text to search for; quotes are needed for characters of the shell")
    parser.add_argument("--like", metavar="TEXT_ID", help="search with the vector of this row instead of a query")
    parser.add_argument("-k", type=int, default=10, metavar="N", help="number of rows to find (default 10)")
    parser.add_argument(
        "--split", "--splits", nargs="+", choices=SPLITS, dest="splits", help="splits to search (default: all)"
    )
    parser.add_argument(
        "--where", action="append", default=[], metavar="CONDITION",
        help="search only rows that fulfil this condition on a column of metadata or scores: language=en, 'edu >= 3' "
        "(=, !=, <, <=, >, >=); may be given several times",
    )  # fmt: skip
    common_arguments(parser)


COMMANDS: Mapping[str, Command] = {
    "search": Command(
        "find the rows nearest to a query, by cosine",
        _arguments,
        _search,
        example='elm search "how do animals keep warm?" -k 5 --where "token_count >= 100"',
    ),
}
