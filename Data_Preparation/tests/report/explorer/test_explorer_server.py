import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from support.explorer_server import served

pytest.importorskip("embedding_atlas", reason="needs the extra explore")

from data_pipeline.errors import ConfigError
from data_pipeline.report.explorer.explorer import open_explorer
from data_pipeline.report.explorer.server import HOST, listen

SECRET = "word"  # noqa: S105, it opens nothing
FORBIDDEN_HEADERS = [
    {"Host": "evil.example"},
    {"Host": "evil.example:{port}"},
    {"Host": "127.0.0.1.evil.example:{port}"},
    {"Host": ""},
    {"Origin": "http://evil.example"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
]


@pytest.fixture(scope="module")
def port(config):
    """Port of a server in a thread of its own."""
    with served(open_explorer(config), SECRET) as url:
        assert url.endswith(f"/{SECRET}/")
        yield int(url.split("/")[2].split(":")[1])


def ask(port, method, path, body=None, headers=None, secret=f"/{SECRET}"):
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    filled = {name: value.format(port=port) for name, value in (headers or {}).items()}
    connection.request(method, secret + path, None if body is None else json.dumps(body), filled)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response, content


def test_the_page_names_the_corpus_and_allows_nothing_from_elsewhere(port):
    response, content = ask(port, "GET", "/")
    assert response.status == 200
    assert "<title>sample - Embedding Atlas</title>" in content.decode()
    assert '<html lang="en">' in content.decode()
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self' 'wasm-unsafe-eval'" in policy
    assert "http" not in policy
    assert "unsafe-eval" not in policy.replace("wasm-unsafe-eval", "")
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    for name in ("index.html", "scripts/full_precision.js", "data/metadata.json"):
        assert ask(port, "GET", f"/{name}")[0].status == 200


@pytest.mark.parametrize("headers", FORBIDDEN_HEADERS)
@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("POST", "/data/query"), ("GET", "/data/archive.zip")])
def test_requests_from_elsewhere_are_refused(port, headers, method, path):
    response, content = ask(port, method, path, {"type": "exec", "sql": "DROP TABLE dataset"}, headers)
    assert response.status == 403
    assert content.startswith(b"Refused: ")
    assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "localhost:{port}", "Origin": "http://localhost:{port}"},
        {"Host": "127.0.0.1:9999", "Origin": "http://127.0.0.1:9999"},  # a tunnel from another port
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},  # a link
        {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"},
    ],
)
def test_its_own_page_and_links_to_it_are_answered(port, headers):
    assert ask(port, "GET", "/", headers=headers)[0].status == 200


@pytest.mark.parametrize("path", ["/", "/data/metadata.json", "/docs", "/openapi.json", "/mcp", "/data/query"])
def test_without_the_secret_word_there_is_nothing(port, path):
    for secret in ("", "/wrong"):
        assert ask(port, "GET", path, secret=secret)[0].status == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("POST", "/mcp"),
        ("GET", "/data/query?query={}"),
        ("PUT", "/data/query"),
        ("GET", "/..%2f..%2fcli.py"),
        ("GET", "/../cli.py"),
        ("GET", "/assets/..%2f..%2f..%2fserver.py"),
    ],
)
def test_what_is_not_needed_is_not_there(port, method, path):
    assert ask(port, method, path)[0].status in {404, 405}


def test_queries_are_answered_and_wrong_ones_get_an_error(port, contents):
    response, content = ask(port, "POST", "/data/query", {"type": "arrow", "sql": "SELECT count(*) AS n FROM dataset"})
    assert response.status == 200
    assert pa.ipc.open_stream(content).read_all().to_pylist() == [{"n": len(contents)}]
    assert ask(port, "POST", "/data/query", {"type": "exec", "sql": "CREATE SCHEMA IF NOT EXISTS mosaic"})[1] == b"{}"
    for wrong in (
        {"type": "arrow", "sql": "SELECT nothing"},
        {"type": "other", "sql": "SELECT 1"},
        {"sql": "SELECT 1"},
        ["x"],
    ):
        response, content = ask(port, "POST", "/data/query", wrong)
        assert response.status == 500
        assert json.loads(content)["error"]


def test_a_search_of_too_many_rows_finds_none_and_says_why(port, contents, monkeypatch):
    sql = 'SELECT\n "__row_index__" AS id,\n "text" AS text\n FROM dataset'
    response, content = ask(port, "POST", "/data/query", {"type": "arrow", "sql": sql})
    assert pa.ipc.open_stream(content).read_all().num_rows == len(contents)
    assert "X-Elm-Message" not in response.headers
    monkeypatch.setattr("data_pipeline.report.explorer.database.MAX_SEARCHED_ROWS", 100)
    response, content = ask(port, "POST", "/data/query", {"type": "arrow", "sql": sql})
    assert pa.ipc.open_stream(content).read_all().num_rows == 0
    assert response.headers["X-Elm-Message"].startswith(f"{len(contents)} rows are too many for a search by words")
    fewer = f"{sql} WHERE (split = 'val')"
    response, content = ask(port, "POST", "/data/query", {"type": "arrow", "sql": fewer})
    assert pa.ipc.open_stream(content).read_all().num_rows == len(contents.parts["val"])


def test_a_selection_can_be_downloaded(port, tmp_path):
    response, content = ask(port, "POST", "/data/selection", {"predicate": "split = 'val'", "format": "parquet"})
    assert response.status == 200
    (tmp_path / "file.parquet").write_bytes(content)
    assert set(pl.read_parquet(tmp_path / "file.parquet")["split"].to_list()) == {"val"}
    assert ask(port, "POST", "/data/selection", {"predicate": None, "format": "exe"})[0].status == 500
    assert ask(port, "POST", "/data/selection", {"predicate": "(", "format": "csv"})[0].status == 500


def test_notes_of_the_page_are_kept_while_the_server_runs(port):
    assert ask(port, "GET", "/data/cache/abc")[1] == b"null"
    ask(port, "POST", "/data/cache/abc", {"labels": [1]})
    assert json.loads(ask(port, "GET", "/data/cache/abc")[1]) == {"labels": [1]}
    big = "x" * 5_000_000
    ask(port, "POST", "/data/cache/big", big)
    assert ask(port, "GET", "/data/cache/big")[1] == b"null"


def test_the_application_can_be_downloaded(port, tmp_path):
    response, content = ask(port, "GET", "/data/archive.zip")
    assert response.status == 200
    (tmp_path / "a.zip").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert {"index.html", "data/metadata.json", "data/dataset.parquet"} <= set(archive.namelist())


def test_only_this_machine_is_listened_to():
    opened = listen(0)
    host, port = opened.getsockname()
    assert host == "127.0.0.1"
    with pytest.raises(ConfigError, match=rf"cannot listen on 127.0.0.1:{port}.*Leave --port out"):
        listen(port)
    opened.close()


@pytest.mark.slow
@pytest.mark.posix
def test_no_model_and_no_projection_of_the_atlas_is_run_and_ctrl_c_ends_it(config):
    """The command, in a process that cannot import what embeds and projects, and that may not open a connection."""
    program = """
import socket, sys
for name in ("embedding_atlas.embedding", "embedding_atlas.projection", "embedding_atlas.cli", "transformers", "umap",
             "sentence_transformers", "litellm", "data_pipeline.embeddings.transformer"):
    sys.modules[name] = None
def refuse(*arguments):
    raise AssertionError("a connection was opened")
socket.socket.connect = socket.socket.connect_ex = socket.create_connection = refuse
from data_pipeline.cli import main
sys.exit(main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", program, "explore", "--no-browser", "--output-dir", str(config.data_dir)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    lines = [process.stdout.readline()]
    while lines[-1] and "Ctrl-C" not in lines[-1]:
        lines.append(process.stdout.readline())
    url = lines[0].strip()
    assert url.startswith("http://127.0.0.1:"), process.stderr.read()
    assert "no request leaves this machine" in "".join(lines)
    host = url.split("/")[2]
    with socket.create_connection(("127.0.0.1", int(host.split(":")[1]))) as connection:
        connection.sendall(f"GET /{url.split('/')[3]}/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert said == "the explorer has ended\n"
