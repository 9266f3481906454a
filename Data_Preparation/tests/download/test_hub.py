"""The hub source against a server on this machine that speaks as much of the hub's API as is asked for."""

import io
import json
import os
import socket
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.hub_server import COMMIT, serve_dataset

REPO = "Salesforce/wikitext"
ROWS = {
    "train": ["", " = Alpha = \n", "", " one . \n", " two . \n", "", " = Beta = \n", "", " three \n"],
    "validation": ["", " = Gamma = \n", "", " four \n", ""],
    "test": ["", " = Delta = \n", "", " five \n", ""],
}


def parquet_bytes(rows):
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": rows}), sink)
    return sink.getvalue()


FILES = {f"wikitext-2-v1/{split}-00000-of-00001.parquet": parquet_bytes(rows) for split, rows in ROWS.items()}
FILES["README.md"] = (
    "---\nconfigs:\n- config_name: wikitext-2-v1\n  data_files:\n"
    + "".join(f"  - split: {split}\n    path: wikitext-2-v1/{split}-*\n" for split in ROWS)
    + "---\n"
).encode()


@pytest.fixture(scope="module")
def hub():
    with serve_dataset(REPO, FILES) as server:
        yield server


READ = """
import json, sys
from data_pipeline.config import CorpusConfig
from data_pipeline.download import open_corpus
from data_pipeline.errors import SourceError
try:
    corpus = open_corpus(CorpusConfig(**json.loads(sys.argv[1])))
    found = [(d.title, d.source_split, d.text) for d in corpus.documents()]
    about = {"identity": dict(corpus.identity), "description": corpus.description, "license": corpus.license}
    print(json.dumps(about | {"documents": found}))
except SourceError as error:
    print(json.dumps({"error": str(error)}))
"""


def read(endpoint, home, offline=False, **corpus):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment |= {
        "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": str(int(offline)), "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    command = [sys.executable, "-c", READ, json.dumps({"name": "mine"} | corpus)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1]) | {"stderr": result.stderr}


@pytest.fixture(scope="module")
def endpoint(hub):
    return f"http://127.0.0.1:{hub.server_port}"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("hf-home")


@pytest.fixture(scope="module")
def first_read(endpoint, home):
    return read(endpoint, home)


def test_the_documents_of_the_three_splits_come_in_order(first_read):
    assert first_read.get("error") is None
    assert first_read["documents"] == [
        ["Alpha", "train", "\n one . \n two . \n"],
        ["Beta", "train", "\n three "],
        ["Gamma", "val", "\n four \n"],
        ["Delta", "test", "\n five \n"],
    ]


def test_the_commit_is_recorded_and_everything_is_read_at_it(first_read, hub):
    assert first_read["identity"] == {"dataset": REPO, "config": "wikitext-2-v1", "revision": COMMIT}
    assert COMMIT[:12] in first_read["description"]
    assert set(hub.served) == {COMMIT}
    assert any(line == f"GET /api/datasets/{REPO}" for line in hub.log)


def test_a_named_revision_is_resolved_to_its_commit(first_read, endpoint, home):
    again = read(endpoint, home, revision="v1")
    assert again["identity"]["revision"] == COMMIT
    assert again["documents"] == first_read["documents"]


def test_offline_reads_the_same_documents_from_the_cache(first_read, endpoint, home):
    offline = read(endpoint, home, offline=True)
    assert offline["documents"] == first_read["documents"]
    assert offline["identity"]["revision"] == "cached"


def test_the_licence_of_wikitext_is_known_without_its_card_and_without_the_hub(first_read, endpoint, home):
    assert first_read["license"] == "CC-BY-SA-3.0"
    assert read(endpoint, home, offline=True)["license"] == "CC-BY-SA-3.0"
    assert read(endpoint, home, license="CC-BY-SA-4.0")["license"] == "CC-BY-SA-4.0"


def test_a_missing_revision_is_named(endpoint, tmp_path):
    error = read(endpoint, tmp_path, revision="nowhere")["error"]
    assert error == f"dataset {REPO} has no revision 'nowhere' on {endpoint}"


def test_a_missing_data_set_is_named(endpoint, tmp_path):
    error = read(endpoint, tmp_path, hf_dataset_name="Nobody/nothing")["error"]
    assert error.startswith(f"there is no folder Nobody/nothing here, and no dataset of that name on {endpoint}")


def test_a_missing_configuration_is_named(endpoint, tmp_path):
    error = read(endpoint, tmp_path, hf_dataset_config="wikitext-9")["error"]
    assert error.startswith(f"{REPO} has no configuration 'wikitext-9'")


def test_a_download_that_fails_is_an_error_with_the_ways_out(hub, endpoint, tmp_path):
    hub.broken = True
    try:
        error = read(endpoint, tmp_path)["error"]
    finally:
        hub.broken = False
    assert error.startswith(f"could not download {REPO}: ")
    assert "corpus.source wikitext" in error


def test_offline_without_a_cache_is_an_error_with_the_ways_out(endpoint, tmp_path):
    error = read(endpoint, tmp_path, offline=True)["error"]
    assert REPO in error
    assert "corpus.source wikitext" in error


def test_an_unreachable_hub_is_an_error_with_the_ways_out_within_30_seconds(tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
    started = time.monotonic()
    error = read(endpoint, tmp_path)["error"]
    assert time.monotonic() - started < 30
    assert error.startswith(f"cannot reach the hub at {endpoint}")
    for way_out in ("HF_ENDPOINT", "the preset offline", "corpus.source wikitext", "HF_HUB_OFFLINE=1"):
        assert way_out in error


def test_a_hub_that_never_answers_is_given_up_after_the_time_out(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        error = read(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path, hub_timeout_s=1)["error"]
    assert time.monotonic() - started < 30
    assert error.startswith("cannot reach the hub at")
