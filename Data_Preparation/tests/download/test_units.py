"""Units of a corpus: parts of large files and groups of small ones, which together give what the whole files give."""

import gzip
import json
import pickle
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipeline.config import CorpusConfig
from data_pipeline.download import corpus as corpus_module
from data_pipeline.download import open_corpus
from data_pipeline.errors import SourceError
from data_pipeline.user_files.text import line_ranges, read_lines


@pytest.fixture(params=[700, 5_000, 10**9])
def unit_bytes(request, monkeypatch):
    monkeypatch.setattr(corpus_module, "UNIT_BYTES", request.param)
    monkeypatch.setattr("data_pipeline.download.records.UNIT_BYTES", request.param)
    return request.param


def read_all(corpus):
    """Documents and bad records of all units, each read by a copy that another process could have got."""
    bad, documents = [], []
    for unit in corpus.units():
        documents += pickle.loads(pickle.dumps(unit)).read(lambda count: None, bad.append)  # noqa: S301
    return documents, bad


def lines_of(count, seed=0):
    chosen = random.Random(seed)
    lines = [json.dumps({"text": "é" * chosen.randint(0, 200) + str(n)}) for n in range(count)]
    for number in range(5, count, 17):
        lines[number] = chosen.choice(["", "  ", "no json", "[1]", '{"text": 3}'])
    return lines


@pytest.mark.parametrize("end", ["\n", ""])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_json_lines_are_those_of_the_whole_file(tmp_path, unit_bytes, end, start):
    for name in ("a", "b"):
        content = "\n".join(lines_of(120, name)) + end
        (tmp_path / f"{name}.jsonl").write_bytes(start + content.encode())
    config = CorpusConfig(source="jsonl", path=tmp_path, on_bad_record="drop")
    corpus = open_corpus(config)
    documents, bad = read_all(corpus)
    units = len(list(corpus.units()))
    assert units == 1 if unit_bytes == 10**9 else units > 4
    expected = [
        json.loads(line)["text"] for name in ("a", "b") for line in lines_of(120, name) if line[:9] == '{"text": '
    ]
    expected = [text for text in expected if isinstance(text, str)]
    assert [document.text for document in documents] == expected
    wrong = [(name, number) for name in ("a", "b") for number, line in enumerate(lines_of(120, name), start=1)
             if line.strip() and not line.startswith('{"text": "')]  # fmt: skip
    assert [record.where for record in bad] == [f"{name}.jsonl, line {number}" for name, number in wrong]


@pytest.mark.parametrize("size", [1, 7, 100, 10**6])
def test_ranges_of_lines_are_the_file_and_have_the_right_numbers(tmp_path, size):
    chosen = random.Random(size)
    for trial in range(20):
        content = b"".join(
            b"x" * chosen.choice([0, 1, 3, 200]) + (b"\n" if chosen.random() < 0.9 else b"") for _ in range(30)
        )
        path = tmp_path / "f"
        path.write_bytes(content)
        ranges = list(line_ranges(path, size))
        assert b"".join(content[start:end] for start, end, _ in ranges) == content
        assert all(end - start >= size for start, end, _ in ranges[:-1])
        assert all(content[:end].endswith(b"\n") for _, end, _ in ranges[:-1])
        whole = list(read_lines(path))
        parts = [
            line for start, end, first in ranges for line in read_lines(path, span=(start, end), first_number=first)
        ]
        assert parts == whole, trial


def test_row_groups_of_parquet_are_those_of_the_whole_file(tmp_path, unit_bytes):
    table = pa.table({"text": [f"text {n}" * (n % 9) for n in range(500)], "year": list(range(500))})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=37)
    pq.write_table(table.slice(0, 5), tmp_path / "b.parquet")
    fields = {"year": "int"}
    corpus = open_corpus(CorpusConfig(source="parquet", path=tmp_path, metadata_fields=fields, on_bad_record="drop"))
    documents, _ = read_all(corpus)
    assert [document.metadata["year"] for document in documents] == [*range(500), *range(5)]
    units = len(list(corpus.units()))
    assert units == 1 if unit_bytes == 10**9 else units > 1


def test_rows_of_parquet_keep_their_numbers_in_messages(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module, "UNIT_BYTES", 500)
    monkeypatch.setattr("data_pipeline.download.records.UNIT_BYTES", 500)
    values = [f"text {n}" for n in range(200)]
    path, splits = tmp_path / "a.parquet", ["train"] * 150 + ["other"] + ["train"] * 49
    pq.write_table(pa.table({"text": values, "split": splits}), path, row_group_size=20)
    corpus = open_corpus(CorpusConfig(source="parquet", path=path, split_field="split", on_bad_record="drop"))
    assert len(list(corpus.units())) > 3
    documents, bad = read_all(corpus)
    assert len(documents) == 199
    assert [record.where for record in bad] == ["a.parquet, row 151"]


def test_compressed_files_and_small_ones_stay_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module, "UNIT_BYTES", 300)
    monkeypatch.setattr("data_pipeline.download.records.UNIT_BYTES", 300)
    lines = "".join(json.dumps({"text": f"{n} " + "ab" * (n % 50)}) + "\n" for n in range(300))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    for number in range(10):
        (tmp_path / f"b{number}.jsonl").write_text('{"text": "x"}\n' * 8)
    corpus = open_corpus(CorpusConfig(source="jsonl", path=tmp_path))
    assert [unit.bytes for unit in corpus.units()][1:] == [2 * 112] * 5
    assert len(read_all(corpus)[0]) == 380


def test_a_limit_is_one_unit(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n' * 8)
    corpus = open_corpus(CorpusConfig(source="jsonl", path=tmp_path, limit=3))
    assert len(list(corpus.units())) == 1
    assert len(list(corpus.documents())) == 3


def test_json_over_several_lines_is_only_looked_for_at_the_start_of_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module, "UNIT_BYTES", 30)
    monkeypatch.setattr("data_pipeline.download.records.UNIT_BYTES", 30)
    (tmp_path / "a.jsonl").write_text('{"text": "a long one, of the first part"}\n{\n"text": "b"}\n')
    corpus = open_corpus(CorpusConfig(source="jsonl", path=tmp_path, on_bad_record="drop"))
    assert [record.reason for record in read_all(corpus)[1]] == ["broken_line", "broken_line"]
    (tmp_path / "a.jsonl").write_text('{\n"text": "b, which is not the shortest of all texts"}\n')
    with pytest.raises(SourceError, match="laid out over several lines"):
        read_all(open_corpus(CorpusConfig(source="jsonl", path=tmp_path, on_bad_record="drop")))
