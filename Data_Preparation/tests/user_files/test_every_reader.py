"""Whatever reads users' files takes and refuses the same: each rule is tested over all readers."""

import gzip
import json

import pytest

from data_pipeline.config import CorpusConfig
from data_pipeline.config.labels import QueriesConfig
from data_pipeline.config.retrieval import PassagesConfig
from data_pipeline.download import open_corpus
from data_pipeline.errors import SourceError
from data_pipeline.heads import labelled
from data_pipeline.integrations.ml_filter.jobs import EmbeddingParameters
from data_pipeline.integrations.ml_filter.records import open_source, survey
from data_pipeline.retrieval.passage_files import passages_of_file
from data_pipeline.stages.label_inputs import read_queries
from data_pipeline.user_files import text
from data_pipeline.user_files.tables import read_table

RECORDS = [
    {"id": "a1", "text": "río stone", "label": 0.5, "embedding": [1.0, 2.0]},
    {"id": "a2", "text": "lamp 😀", "label": 2.0, "embedding": [3.0, 4.0]},
]
LINES = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS).encode()


def corpus(path):
    config = CorpusConfig(source="jsonl", path=path, id_field="id")
    return [document.text for document in open_corpus(config).documents()]


def passages(path):
    return passages_of_file(path, path.parent / "work", PassagesConfig(id_field="id")).texts()


def queries(path):
    return list(read_queries(QueriesConfig(path=path, id_field="id", text_field="text"), path.parent).values())


def pipeline(path):
    params = EmbeddingParameters(
        input_dir=path.parent, glob_pattern="*", output_dir=path.parent / "out", embedding_dir="e",
        embedding_model="hashing", batch_size=1,
    )  # fmt: skip
    source = open_source(path, path.stem, params)
    survey(source)
    return [record.text for record in source.records()]


def table(path):
    return read_table(path, {"id": "id", "text": "text"}).frame["text"].to_list()


def labels(path):
    data = labelled.labels_of_file(path, "label")
    return ["río stone", "lamp 😀"] if data.labels.tolist() == [0.5, 2.0] else data.labels.tolist()


READERS = [corpus, passages, queries, pipeline, table, labels]
TAKEN = {
    "plain": LINES,
    "byte-order mark": b"\xef\xbb\xbf" + LINES,
    "CRLF": LINES.replace(b"\n", b"\r\n"),
    "blank lines": b"\n" + LINES.replace(b"\n", b"\n \n"),
    "no last line end": LINES.rstrip(b"\n"),
    "gzip without .gz": gzip.compress(LINES),
}
REFUSED = {
    "UTF-16": (LINES.decode().encode("utf-16"), r"x\.jsonl is encoded as UTF-16"),
    "Latin-1": (LINES.decode().replace("😀", "").encode("latin-1"), r"x\.jsonl, line 1: not UTF-8: byte 0xed"),
    "JSON array": (json.dumps(RECORDS).encode(), r"x\.jsonl, line 1: the file is a JSON array"),
    "cut line": (LINES[:-9], r"x\.jsonl, line 2: not JSON"),
    "cut gzip": (gzip.compress(LINES)[:-20], r"x\.jsonl cannot be read after line 0"),
    "no object": (LINES + b"5\n", r"x\.jsonl, line 3: expected a JSON object, found 5"),
    "line too long": (LINES + b'{"a": "' + b"x" * 2_000_000, r"x\.jsonl, line 3: longer than 1 MiB"),
}


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
@pytest.mark.parametrize("kind", TAKEN)
def test_every_reader_takes_it(tmp_path, read, kind):
    (tmp_path / "x.jsonl").write_bytes(TAKEN[kind])
    assert read(tmp_path / "x.jsonl") == ["río stone", "lamp 😀"]


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
@pytest.mark.parametrize("kind", REFUSED)
def test_every_reader_refuses_it_and_names_file_and_line(tmp_path, monkeypatch, read, kind):
    monkeypatch.setattr(text, "MAX_LINE_BYTES", 1 << 20)
    content, message = REFUSED[kind]
    (tmp_path / "x.jsonl").write_bytes(content)
    with pytest.raises(SourceError, match=message):
        read(tmp_path / "x.jsonl")


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
def test_every_reader_names_a_file_that_is_not_there(tmp_path, read):
    with pytest.raises(SourceError, match=r"gone\.jsonl"):
        read(tmp_path / "gone.jsonl")
