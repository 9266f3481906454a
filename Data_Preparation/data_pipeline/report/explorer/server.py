"""The explorer's server: the atlas's page and its queries, for this machine alone.

Any page in the browser, and any user of the machine, can send requests to a port of 127.0.0.1. Therefore all paths
begin with a secret word, which only the printed URL has; the name of the host must be that of this machine, so that no
other name can be made to resolve to it; and requests that a page of another origin sends are refused.
"""

import json
import secrets
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_pipeline.errors import ConfigError
from data_pipeline.report.explorer.contents import Contents
from data_pipeline.report.explorer.database import Database, duckdb
from data_pipeline.report.explorer.page import POLICY, SCRIPTS, STATIC, index_page, metadata
from data_pipeline.utils.extras import require

require("starlette", "explore", "the explorer")

from starlette.applications import Starlette  # noqa: E402
from starlette.background import BackgroundTask  # noqa: E402
from starlette.datastructures import Headers, MutableHeaders  # noqa: E402
from starlette.middleware import Middleware  # noqa: E402
from starlette.requests import Request  # noqa: E402
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response  # noqa: E402
from starlette.routing import Mount, Route  # noqa: E402
from starlette.staticfiles import StaticFiles  # noqa: E402
from starlette.types import ASGIApp, Message, Receive, Scope, Send  # noqa: E402

HOST = "127.0.0.1"
_NAMES = {HOST, "localhost"}
_OWN_ORIGIN = {"same-origin", "none"}
_HEADERS = {
    "Content-Security-Policy": f"{POLICY}; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
MESSAGE = "X-Elm-Message"
"""Header with a message that the page shows."""
_MAX_NOTES, _MAX_NOTE_BYTES = 256, 4_000_000
_FORMATS = {"parquet", "csv", "json", "jsonl"}

Archive = Callable[[Path], None]
"""Writes the static application as a ZIP file."""


class Guard:
    """Middleware that refuses requests from elsewhere, and states what the page may load."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request that this machine's own page or user sent, or refuse it."""
        if scope["type"] != "http":  # the start and end of the server; there are no web sockets
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        refusal = refusal_reason(Headers(scope=scope))
        if refusal is None:
            await self._app(scope, receive, send_guarded)
        else:
            await PlainTextResponse(f"Refused: {refusal}\n", 403)(scope, receive, send_guarded)


def refusal_reason(headers: Headers) -> str | None:
    """Return why a request is refused by its headers; None if it is not."""
    host = headers.get("host", "")
    if host.rpartition(":")[0] not in _NAMES and host not in _NAMES:
        return f"the host must be {HOST} or localhost"
    origin = headers.get("origin")
    if origin is not None and origin != f"http://{host}":
        return "the request came from a page of another origin"
    # A link of another page may open the explorer, but no other page may send queries or include its answers.
    is_link = headers.get("sec-fetch-mode") == "navigate"
    if headers.get("sec-fetch-site", "none") not in _OWN_ORIGIN and not is_link:
        return "the request came from a page of another origin"
    return None


def make_app(contents: Contents, database: Database, archive: Archive, secret: str | None = None) -> tuple[Any, str]:
    """Make the application of the server.

    Args:
        contents: rows that are shown.
        database: the same rows as a database.
        archive: writes the static application as a ZIP file.
        secret: word that all paths begin with; None for a random one.

    Returns:
        The ASGI application, and the path of its page.
    """
    secret = secret or secrets.token_urlsafe(12)
    page = index_page(contents.corpus)
    about = metadata(contents, database.names, is_static=False)
    notes: dict[str, bytes] = {}

    def show_page(request: Request) -> Response:
        del request
        return HTMLResponse(page)

    def show_metadata(request: Request) -> Response:
        del request
        return JSONResponse(about)

    async def query(request: Request) -> Response:
        return await _in_thread(_query, database, await request.body())

    async def selection(request: Request) -> Response:
        return await _in_thread(_selection, database, await request.body())

    def show_archive(request: Request) -> Response:
        del request
        return _file_response(archive, "application/zip")

    async def note(request: Request) -> Response:
        # Labels that the page has computed; they are kept while the server runs.
        name = request.path_params["name"]
        if request.method == "POST":
            body = await request.body()
            if len(notes) < _MAX_NOTES and len(body) <= _MAX_NOTE_BYTES:
                notes[name] = body
            return JSONResponse(None)
        return Response(notes.get(name, b"null"), media_type="application/json")

    routes = [
        Route("/", show_page),
        Route("/index.html", show_page),
        Route("/data/metadata.json", show_metadata),
        Route("/data/query", query, methods=["POST"]),
        Route("/data/selection", selection, methods=["POST"]),
        Route("/data/archive.zip", show_archive),
        Route("/data/cache/{name}", note, methods=["GET", "POST"]),
        Mount(f"/{SCRIPTS.name}", StaticFiles(directory=SCRIPTS)),
        Mount("/", StaticFiles(directory=STATIC)),
    ]
    return Starlette(routes=[Mount(f"/{secret}", routes=routes)], middleware=[Middleware(Guard)]), f"/{secret}/"


async def _in_thread(work: Callable[[Database, bytes], Response], database: Database, body: bytes) -> Response:
    from starlette.concurrency import run_in_threadpool

    try:
        return await run_in_threadpool(work, database, body)
    except (duckdb.Error, ValueError, KeyError, TypeError) as error:
        return JSONResponse({"error": str(error)}, 500)


def _query(database: Database, body: bytes) -> Response:
    asked = json.loads(body)
    sql, kind = str(asked["sql"]), asked["type"]
    if kind == "exec":
        database.execute(sql)
        return JSONResponse({})
    if kind == "arrow":
        refusal = database.search_refusal(sql)
        if refusal is None:
            return Response(database.arrow(sql), media_type="application/octet-stream")
        # No rows instead of an error, after which the page could not search until it is loaded again.
        none = database.arrow(f"SELECT * FROM ({sql}) LIMIT 0")  # noqa: S608
        return Response(none, media_type="application/octet-stream", headers={MESSAGE: refusal})
    if kind == "json":
        return Response(database.json(sql), media_type="application/json")
    raise ValueError(f"unknown type of query {kind!r}; expected exec, arrow or json")


def _selection(database: Database, body: bytes) -> Response:
    asked = json.loads(body)
    form, predicate = asked["format"], asked.get("predicate")
    if form not in _FORMATS:
        raise ValueError(f"unknown format {form!r}; expected one of {', '.join(sorted(_FORMATS))}")
    return _file_response(lambda path: database.write_selection(predicate, form, path), "application/octet-stream")


def _file_response(write: Callable[[Path], None], media_type: str) -> Response:
    """Write a file, and send it without holding it in memory."""
    folder = tempfile.TemporaryDirectory(prefix="elm-explorer-")
    path = Path(folder.name) / "file"
    try:
        write(path)
    except BaseException:
        folder.cleanup()
        raise
    return FileResponse(path, media_type=media_type, background=BackgroundTask(folder.cleanup))


def listen(port: int) -> socket.socket:
    """Open a socket on 127.0.0.1.

    Args:
        port: port; 0 for a free one.

    Raises:
        ConfigError: the port is used by another program, or is reserved.
    """
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        opened.bind((HOST, port))
        opened.listen(128)
    except OSError as error:
        opened.close()
        raise ConfigError(
            f"cannot listen on {HOST}:{port}: {error.strerror}. Leave --port out for a free one"
        ) from None
    return opened


def serve(app: Any, opened: socket.socket) -> None:
    """Serve an application until the process is interrupted.

    Raises:
        KeyboardInterrupt: the user interrupted it.
    """
    uvicorn = require("uvicorn", "explore", "the explorer")
    settings = uvicorn.Config(
        app, access_log=False, log_level="error", server_header=False, ws="none", timeout_graceful_shutdown=2
    )
    uvicorn.Server(settings).run(sockets=[opened])
