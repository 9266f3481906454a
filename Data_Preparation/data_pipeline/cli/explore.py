"""Command `explore`: the rows of a dataset as a map in the browser, with search, charts and selections."""

import argparse
import contextlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from data_pipeline.cli.command import Command, common_arguments, configure_existing, local_path, say
from data_pipeline.cli.flags import Given
from data_pipeline.errors import ConfigError
from data_pipeline.types import SPLITS
from data_pipeline.utils import format_table

if TYPE_CHECKING:
    from data_pipeline.report.explorer.explorer import Explorer


_SQL_SEARCH = "by SQL, + Add Predicate: text ILIKE '%word%' (so many rows are too many for a search by words)"


def _explore(parsed: argparse.Namespace, given: Given) -> int:
    from data_pipeline.utils.extras import require

    require("embedding_atlas", "explore", "elm explore")
    from data_pipeline.report.explorer.explorer import open_explorer
    from data_pipeline.report.explorer.export import check_target

    if parsed.neighbors and parsed.export is None:
        raise ConfigError("--neighbors needs --export FOLDER: the server finds the neighbours of a row when asked")
    if parsed.export is not None:
        check_target(parsed.export)
    config = configure_existing(parsed, given)
    explorer = open_explorer(config, parsed.splits, parsed.projection)
    if parsed.export is not None:
        return _export(parsed, explorer)
    return _serve(parsed, explorer)


def _export(parsed: argparse.Namespace, explorer: "Explorer") -> int:
    with_neighbors = parsed.neighbors or explorer.exports_neighbors()
    explorer.export(parsed.export, with_neighbors)
    neighbors = "left out, since it takes minutes for so many rows; add --neighbors"
    if with_neighbors:
        exactly = "by exact cosine" if explorer.exports_neighbors() else "approximate: among the nearest clusters"
        neighbors = f"the ten nearest of every row, {exactly}"
    rows = [
        *_contents(explorer),
        ("neighbours", neighbors),
        ("open it", f"python -m http.server --bind 127.0.0.1 --directory {parsed.export} 8000"),
        ("", "then http://127.0.0.1:8000. Any static web server will do, and no other server is asked for anything"),
    ]
    say(f"{parsed.export}\n{format_table(rows)}")
    return 0


def _serve(parsed: argparse.Namespace, explorer: "Explorer") -> int:
    import webbrowser

    from data_pipeline.report.explorer.server import HOST, listen, serve

    opened = listen(parsed.port)
    app, path = explorer.app()
    url = f"http://{HOST}:{opened.getsockname()[1]}{path}"
    rows = [
        *_contents(explorer),
        ("neighbours", "the ten nearest of a row, by exact cosine, when you ask for them"),
        ("subset", "select points, export the selection, then: elm select --ids FILE"),
        ("privacy", f"listens on {HOST} only; no telemetry, and no request leaves this machine"),
        ("end", "Ctrl-C"),
    ]
    say(f"{url}\n{format_table(rows)}")
    sys.stdout.flush()  # before a server that does not end, also into a pipe
    if not parsed.no_browser:
        webbrowser.open(url)
    with contextlib.suppress(KeyboardInterrupt):
        serve(app, opened)
    say("the explorer has ended")
    return 0


def _contents(explorer: "Explorer") -> list[tuple[str, str]]:
    from data_pipeline.report.explorer.database import MAX_SEARCHED_ROWS, TEXT_CHARACTERS

    contents = explorer.contents
    splits = ", ".join(f"{split} {len(rows):,}" for split, rows in contents.parts.items())
    columns = [name for name in explorer.database.columns if name not in {"text_id", "text"}]
    return [
        ("rows", f"{len(contents):,} ({splits})"),
        ("map", f"{explorer.projection.upper()} of the stored vectors, {contents.dim} dimensions; no model is run"),
        ("columns", ", ".join(columns)),
        ("texts", f"shown up to {TEXT_CHARACTERS:,} characters"),
        ("search", "by words" if len(contents) <= MAX_SEARCHED_ROWS else _SQL_SEARCH),
        *(("note", sentence) for sentence in contents.left_out),
    ]


def _arguments(parser: argparse.ArgumentParser) -> None:
    common_arguments(parser)
    parser.add_argument("--splits", nargs="+", choices=SPLITS, help="splits to show (default: all)")
    parser.add_argument(
        "--projection",
        choices=("pca", "umap"),
        default="pca",
        help="projection to the map (default pca)",
    )
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1 (default: a free one)")
    parser.add_argument("--no-browser", action="store_true", help="only print the URL")
    parser.add_argument(
        "--export", type=local_path, metavar="FOLDER", help="write a static application, and start no server"
    )
    parser.add_argument(
        "--neighbors", action="store_true", help="with --export: also the neighbours of all rows, however many"
    )


COMMANDS: Mapping[str, Command] = {
    "explore": Command(
        "look at a dataset in the browser: map, search, charts, neighbours, selections",
        _arguments,
        _explore,
        example="elm explore --output-dir data",
    ),
}
