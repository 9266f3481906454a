"""Datasets of the hub other than WikiText, from a server on this machine."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.hub_server import COMMIT, in_process, serve_dataset

REPO = "somebody/reviews"
READ = """
import json, sys
from data_pipeline.config import CorpusConfig
from data_pipeline.download import open_corpus
from data_pipeline.errors import SourceError
try:
    corpus = open_corpus(CorpusConfig(**json.loads(sys.argv[1])))
    bad = []
    found = [[d.id, d.source_split, d.text, dict(d.metadata)] for d in corpus.documents(bad.append)]
    bad = [[record.where, record.reason] for record in bad]
    about = {"identity": dict(corpus.identity), "license": corpus.license}
    print(json.dumps(about | {"documents": found, "bad": bad}))
except SourceError as error:
    print(json.dumps({"error": str(error)}))
"""


def parquet_bytes(rows):
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def card(**configs):
    lines = ["---", "configs:"]
    for name, splits in configs.items():
        lines += [f"- config_name: {name}", "  data_files:"]
        lines += [line for split, path in splits.items() for line in (f"  - split: {split}", f"    path: {path}")]
    return "\n".join([*lines, "---\n"]).encode()


ROWS = [
    {"body": {"text": "one"}, "stars": 5, "key": "a", "image": "x" * 50},
    {"body": {"text": None}, "stars": None, "key": "b", "image": ""},
    {"body": {"text": "three"}, "stars": 1, "key": "c", "image": ""},
]
PARQUET = {
    "README.md": card(default={"train": "data/train-*", "validation": "data/validation-*"}),
    "data/train-00000-of-00001.parquet": parquet_bytes(ROWS[:2]),
    "data/validation-00000-of-00001.parquet": parquet_bytes(ROWS[2:]),
}
FIELDS = {"text_field": "body.text", "id_field": "key", "metadata_fields": {"stars": "int"}}


def read(files, home, offline=False, **fields):
    settings = json.dumps({"hf_dataset_name": REPO, "name": "mine"} | fields)
    with serve_dataset(REPO, files) as hub:
        found = in_process(READ, hub.url, home, settings, offline=offline)
        return found | {"served": set(hub.served), "requests": list(hub.log)}


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("", None),
        ("license: cc-by-4.0", "cc-by-4.0"),
        ("license: [cc-by-sa-3.0, gfdl]", "cc-by-sa-3.0, gfdl"),
        ("license: unknown", None),
        ("license: other\nlicense_name: my-terms", "my-terms"),
        ("license: other", "other"),
    ],
)
def test_the_licence_is_that_of_the_card_and_takes_no_further_request(tmp_path, lines, expected):
    files = PARQUET | {"README.md": PARQUET["README.md"].replace(b"---\n", f"---\n{lines}\n".encode(), 1)}
    found = read(files, tmp_path, **FIELDS)
    assert found["license"] == expected
    assert sum(line == f"GET /api/datasets/{REPO}" for line in found["requests"]) == 1
    assert read(files, tmp_path, license="mine alone", **FIELDS)["license"] == "mine alone"


def test_rows_of_all_splits_are_documents(tmp_path):
    found = read(PARQUET, tmp_path, **FIELDS)
    assert found["documents"] == [
        ["a", "train", "one", {"stars": 5}], ["b", "train", "", {"stars": None}], ["c", "val", "three", {"stars": 1}],
    ]  # fmt: skip
    assert found["identity"] == {"dataset": REPO, "config": "", "revision": COMMIT}
    assert found["served"] == {COMMIT}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.jsonl", b'{"text": "one", "n": 1}\n{"text": "two", "n": 2}\n'),
        ("train.csv", b"text,n\none,1\ntwo,2\n"),
    ],
)
def test_other_formats_are_read(tmp_path, name, content):
    found = read({name: content}, tmp_path, metadata_fields={"n": "int"})
    assert [document[2:] for document in found["documents"]] == [["one", {"n": 1}], ["two", {"n": 2}]]


def test_a_configuration_is_named_where_there_are_several(tmp_path):
    files = {
        "README.md": card(en={"train": "en/*"}, de={"train": "de/*"}),
        "en/a.parquet": parquet_bytes([{"text": "one"}]),
        "de/a.parquet": parquet_bytes([{"text": "eins"}]),
    }
    assert read(files, tmp_path, hf_dataset_config="de")["documents"][0][2] == "eins"
    error = read(files, tmp_path)["error"]
    assert "somebody/reviews cannot be read" in error
    assert "'en', 'de'" in error or "['de', 'en']" in error
    assert error.endswith("Set corpus.hf_dataset_config.")


def test_a_missing_column_is_named_with_those_that_exist(tmp_path):
    error = read(PARQUET, tmp_path)["error"]
    assert error == f"{REPO} has no column 'text'; it has body, stars, key, image"


def test_bad_rows_have_their_split_and_number(tmp_path):
    found = read(PARQUET, tmp_path, **{**FIELDS, "metadata_fields": {"stars": "str"}})
    assert found["bad"] == [["train, row 1", "wrong_type"], ["validation, row 1", "wrong_type"]]


def test_a_dataset_of_a_script_is_refused_with_the_reason(tmp_path):
    error = read({"reviews.py": b"import datasets\n", "README.md": b""}, tmp_path)["error"]
    assert f"{REPO} cannot be read" in error
    assert "script" in error
    assert "refs/convert/parquet" in error


def test_offline_and_never_read_is_an_error_with_the_ways_out(tmp_path):
    error = read(PARQUET, tmp_path, offline=True, **FIELDS)["error"]
    assert "somebody/reviews" in error


def test_a_preview_shows_the_fields_of_a_dataset(tmp_path):
    code = (
        "import json\n"
        "from data_pipeline.download.preview import preview_corpus\n"
        f"preview = preview_corpus([{REPO!r}])\n"
        "fields = {field.name: field.kind for field in preview.fields}\n"
        "print(json.dumps([preview.source, preview.records, fields, dict(preview.settings)]))"
    )
    with serve_dataset(REPO, PARQUET) as hub:
        source, records, fields, settings = in_process(code, hub.url, tmp_path)
    assert (source, records) == ("hub", 3)
    assert fields == {"body.text": "text", "stars": "whole number", "key": "text", "image": "text"}
    assert settings["hf_dataset_name"] == [REPO]
    assert (settings["id_field"], settings["text_field"]) == (["key"], ["body.text"])


def test_files_of_the_hub_are_read_by_their_address(tmp_path):
    path = f"hf://datasets/{REPO}/data"
    found = read(PARQUET, tmp_path, source="parquet", path=path, **FIELDS)
    assert [document[:3] for document in found["documents"]] == [
        ["a", "train", "one"], ["b", "train", ""], ["c", "val", "three"],
    ]  # fmt: skip
    assert list(found["identity"]) == ["train-00000-of-00001.parquet", "validation-00000-of-00001.parquet"]
    assert all(identity.startswith("blob_id ") for identity in found["identity"].values())
