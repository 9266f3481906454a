"""The page of the explorer: the atlas's own files, what they are told to show, and what they may load."""

import html
from pathlib import Path
from typing import Any

from data_pipeline.errors import DataPipelineError
from data_pipeline.report.explorer.contents import TEXT, TEXT_ID, Contents
from data_pipeline.report.explorer.database import Names
from data_pipeline.utils.extras import require

atlas = require("embedding_atlas", "explore", "the explorer")

STATIC = Path(str(atlas.__file__)).parent / "static"
"""Folder of the atlas's page and scripts, and of DuckDB for browsers with its extensions."""

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'wasm-unsafe-eval'",  # DuckDB is WebAssembly
        "worker-src 'self' blob:",
        "connect-src 'self' data:",
        "img-src 'self' data: blob:",
        "style-src 'self' 'unsafe-inline'",
        "font-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
    )
)
"""Content security policy: nothing from elsewhere, and no scripts but files of the explorer."""

MAX_LABELLED_ROWS = 200_000
"""Number of rows up to which the map has automatic labels, which the browser computes from densities and texts."""

SCRIPTS = Path(__file__).with_name("scripts")
"""Folder of the scripts that run before the atlas's own."""

_SERVED_SCRIPTS = ("full_precision.js", "messages.js")
_STATIC_SCRIPTS = ("full_precision.js", "static_notes.js")
_ICON = '<link rel="icon" href="data:,">'
_HEAD = "<head>"
_TITLE = "<title>Embedding Atlas</title>"


def index_page(corpus: str, is_static: bool = False) -> str:
    """Return the atlas's page with the name of the corpus as its title.

    Args:
        corpus: name of the corpus.
        is_static: whether the page must do with a static server, which sends no content security policy, so that the
            page states it.

    Raises:
        DataPipelineError: the installed version of the atlas has another kind of page.
    """
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    policy = f'<meta http-equiv="Content-Security-Policy" content="{html.escape(POLICY)}">' if is_static else ""
    names = _STATIC_SCRIPTS if is_static else _SERVED_SCRIPTS
    scripts = "".join(f'<script src="./{SCRIPTS.name}/{name}"></script>' for name in names)
    if _HEAD not in page:
        raise DataPipelineError(
            f"embedding-atlas {atlas.__version__} has a page of another kind than 0.26, which the explorer can change. "
            'Install that one: pip install "embedding-atlas>=0.26,<0.27"'
        )
    page = page.replace("<html>", '<html lang="en">', 1)
    page = page.replace(_TITLE, f"<title>{html.escape(corpus)} - Embedding Atlas</title>")
    return page.replace(_HEAD, f"{_HEAD}{policy}{_ICON}{scripts}", 1)


def metadata(contents: Contents, names: Names, *, is_static: bool, has_neighbors: bool = True) -> dict[str, Any]:
    """Return what the atlas reads first: columns of the table, and where the table is.

    Args:
        contents: rows that are shown.
        names: names of the columns that the explorer adds.
        is_static: whether the browser queries a parquet file, and not this package's server.
        has_neighbors: whether the table has neighbours.
    """
    from embedding_atlas.options import make_embedding_atlas_props

    neighbors = names.neighbors if has_neighbors else None
    props = make_embedding_atlas_props(row_id=names.row, x=names.x, y=names.y, text=TEXT, neighbors=neighbors)
    if len(contents) > MAX_LABELLED_ROWS:
        props["embeddingViewLabels"] = []
    embedding = {"x": names.x, "y": names.y, "text": TEXT, "neighbors": neighbors}
    if len(contents.parts) > 1:
        embedding["category"] = "split"
    # Charts of ids would count as many bars as there are rows.
    props["defaultChartsConfig"] = {
        "embedding": {"data": {name: value for name, value in embedding.items() if value is not None}},
        "exclude": [TEXT_ID, TEXT, "document_id", names.x, names.y],
    }
    if is_static:
        return {"props": props, "isStatic": True, "database": {"type": "wasm", "load": True}}
    return {"props": props, "database": {"type": "rest"}}
