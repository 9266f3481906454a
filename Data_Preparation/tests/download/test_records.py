import gzip
import json

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipeline.config import Config, CorpusConfig, EmbeddingConfig, PreprocessConfig
from data_pipeline.download import open_corpus
from data_pipeline.download.corpus import split_of_file
from data_pipeline.errors import SourceError, StaleStageError
from data_pipeline.stages.pipeline import prepare_paragraphs

RECORDS = [
    {"text": "one\n\ntwo", "name": "a", "n": 7, "head": "A", "part": "train", "year": 1999, "share": 0.5, "good": True},
    {"text": "drei ü 😀", "name": "b", "n": 8, "head": None, "part": "Dev", "year": None, "share": 1, "good": None},
]


def write(path, lines):
    text = "".join(line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines)
    content = text.encode()
    if path.suffix == ".gz":
        content = gzip.compress(content)
    if path.suffix == ".zst":
        with pa.OSFile(str(path), "wb") as raw, pa.CompressedOutputStream(raw, "zstd") as file:
            file.write(content)
    else:
        path.write_bytes(content)
    return path


def jsonl(path, *records):
    return write(path, [json.dumps(record) + "\n" for record in records])


def opened(path, source="jsonl", **fields):
    return open_corpus(CorpusConfig(source=source, path=path, **fields))


def documents(path, source="jsonl", **fields):
    return list(opened(path, source, **fields).documents())


def error_of(path, source="jsonl", **fields):
    with pytest.raises(SourceError) as caught:
        documents(path, source, **fields)
    return str(caught.value)


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_json_lines_are_read_plain_and_compressed(tmp_path, ending):
    first, second = documents(jsonl(tmp_path / f"x{ending}", *RECORDS), id_field="name", title_field="head")
    assert (first.id, first.text, first.title, first.format, first.source_split) == (
        "a",
        "one\n\ntwo",
        "A",
        "plain",
        "",
    )
    assert (second.id, second.text, second.title) == ("b", "drei ü 😀", "")


def test_parquet_is_read(tmp_path):
    pl.DataFrame(RECORDS, strict=False).write_parquet(tmp_path / "x.parquet")
    first, second = documents(tmp_path / "x.parquet", "parquet", id_field="n", title_field="head", split_field="part")
    assert (first.id, first.text, first.title, first.source_split) == ("7", "one\n\ntwo", "A", "train")
    assert (second.id, second.text, second.title, second.source_split) == ("8", "drei ü 😀", "", "val")


def test_metadata_have_their_types_and_keep_nulls(tmp_path):
    kinds = {"year": "int", "share": "float", "good": "bool", "head": "str"}
    corpus = opened(jsonl(tmp_path / "x.jsonl", *RECORDS), metadata_fields=kinds)
    first, second = corpus.documents()
    assert corpus.metadata == kinds
    assert first.metadata == {"year": 1999, "share": 0.5, "good": True, "head": "A"}
    assert second.metadata == {"year": None, "share": 1.0, "good": None, "head": None}
    assert type(second.metadata["share"]) is float


def test_blank_lines_and_a_missing_last_line_end_are_fine(tmp_path):
    path = write(tmp_path / "x.jsonl", ['{"text": "a"}\n', "\n", "  \r\n", '{"text": "b"}\r\n', '{"text": "c"}'])
    assert [document.text for document in documents(path)] == ["a", "b", "c"]


def test_lines_longer_than_a_block_are_read_whole(tmp_path):
    texts = ["x" * 3_000_000, "ü" * 1_500_001, "z"]
    path = jsonl(tmp_path / "x.jsonl.gz", *({"text": text} for text in texts))
    assert [document.text for document in documents(path)] == texts


def test_without_an_id_field_a_document_is_known_by_its_text(tmp_path):
    first, second = documents(jsonl(tmp_path / "x.jsonl", *RECORDS))
    again_second, again_first = documents(jsonl(tmp_path / "y.jsonl", *RECORDS[::-1]))
    assert (first.id, second.id) == (again_first.id, again_second.id)
    assert len(first.id) == 20
    assert first.id != second.id


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.jsonl", "train"), ("valid.jsonl.gz", "val"), ("my_dev.parquet", "val"),
        ("test-00000-of-00002.parquet", "test"),
        ("Validation.jsonl", "val"), ("training.jsonl", "train"), ("brains.jsonl", ""), ("latest.jsonl", ""),
        ("contest.jsonl", ""), ("data.jsonl", ""),
    ],
)  # fmt: skip
def test_a_file_name_tells_its_split(name, split):
    assert split_of_file(f"some/folder/{name}") == split


def test_a_folder_is_read_file_by_file_with_the_splits_of_their_names(tmp_path):
    for name in ("train-1", "test", "train-0", "val"):
        jsonl(tmp_path / f"{name}.jsonl", {"text": name})
    (tmp_path / "notes.txt").write_text("not a record")
    corpus = opened(tmp_path)
    found = [(document.text, document.source_split) for document in corpus.documents()]
    assert found == [("test", "test"), ("train-0", "train"), ("train-1", "train"), ("val", "val")]
    assert set(corpus.identity) == {"train-0.jsonl", "train-1.jsonl", "test.jsonl", "val.jsonl"}


def test_a_split_field_beats_the_file_name(tmp_path):
    (document,) = documents(jsonl(tmp_path / "train.jsonl", {"text": "a", "s": "TEST"}), split_field="s")
    assert document.source_split == "test"


def test_the_first_document_comes_before_the_rest_is_read(tmp_path):
    path = write(tmp_path / "x.jsonl", ['{"text": "first"}\n', "{broken\n"])
    stream = opened(path).documents()
    assert next(stream).text == "first"
    with pytest.raises(SourceError, match=r"x\.jsonl, line 2: not JSON"):
        next(stream)


def test_a_large_file_is_not_read_to_its_end_for_the_first_document(tmp_path):
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "first"}\n' + b'{"text": "more"}\n' * 500_000)[:-100])
    assert next(opened(path).documents()).text == "first"


@pytest.mark.parametrize(
    ("line", "fields", "message"),
    [
        ("{broken", {}, "x.jsonl, line 3: not JSON"),
        ("[1, 2]", {}, "x.jsonl, line 3: expected a JSON object, found [1, 2]"),
        ('"text"', {}, "x.jsonl, line 3: expected a JSON object"),
        pytest.param("[" * 100_000, {}, "x.jsonl, line 3: not JSON", id="nested too deeply"),
        ('{"body": "a", "id": 1}', {}, "x.jsonl, line 3: there is no field 'text'; it has body, id"),
        ("{}", {}, "x.jsonl, line 3: there is no field 'text'; it has none"),
        ('{"text": 5}', {}, "x.jsonl, line 3: the field 'text' must be a text, found 5"),
        ('{"text": ["a"]}', {}, "x.jsonl, line 3: the field 'text' must be a text, found ['a']"),
        ('{"text": "a"}', {"id_field": "i"}, "line 3: the id 'i' must be a text or a whole number, found None"),
        ('{"text": "a", "i": ""}', {"id_field": "i"}, "x.jsonl, line 3: the id 'i' must be a text or a whole number"),
        ('{"text": "a", "i": 1.5}', {"id_field": "i"}, "must be a text or a whole number, found 1.5"),
        ('{"text": "a", "i": true}', {"id_field": "i"}, "must be a text or a whole number, found True"),
        ('{"text": "a", "i": "b\\n"}', {"id_field": "i"}, "x.jsonl, line 3: the id 'b\\n' has control characters"),
        ('{"text": "a", "i": "b\\u0000"}', {"id_field": "i"}, "has control characters"),
        ('{"text": "a", "i": "b\\ud800"}', {"id_field": "i"}, "has control characters"),
        ('{"text": "a", "s": "dev2"}', {"split_field": "s"}, "line 3: 's' is 'dev2', expected one of train, "),
        ('{"text": "a", "s": null}', {"split_field": "s"}, "x.jsonl, line 3: 's' is "),
        ('{"text": "a", "h": 3}', {"title_field": "h"}, "x.jsonl, line 3: the field 'h' must be str, found 3"),
        ('{"text": "a"}', {"title_field": "h"}, "x.jsonl, line 3: there is no field 'h'"),
        ('{"text": "a", "y": "1999"}', {"metadata_fields": {"y": "int"}}, "the field 'y' must be int, found '1999'"),
        ('{"text": "a", "y": true}', {"metadata_fields": {"y": "int"}}, "the field 'y' must be int, found True"),
        ('{"text": "a", "y": 1.5}', {"metadata_fields": {"y": "int"}}, "the field 'y' must be int, found 1.5"),
        ('{"text": "a", "y": 1}', {"metadata_fields": {"y": "bool"}}, "the field 'y' must be bool, found 1"),
        ('{"text": "a"}', {"metadata_fields": {"y": "int"}}, "x.jsonl, line 3: there is no field 'y'"),
        ('{"text": "a", "y": 18446744073709551616}', {"metadata_fields": {"y": "int"}}, "'y' must fit in 64 bits"),
        ('{"text": "a", "y": 1' + "0" * 40 + "}", {"metadata_fields": {"y": "float"}}, "must fit in 64 bits, found 10"),
    ],
)  # fmt: skip
def test_a_bad_record_is_an_error_that_names_file_record_and_field(tmp_path, line, fields, message):
    good = {"text": "ok", "i": "1", "s": "train", "h": "t", "y": None}
    path = write(tmp_path / "x.jsonl", [json.dumps(good) + "\n", "\n", line + "\n"])
    assert message in error_of(path, **fields)


def test_lone_surrogates_become_the_replacement_character(tmp_path):
    lines = [
        '{"text": "a\\ud800b", "h": "t\\udc00", "m": "\\udfff"}\n',
        '{"text": "\\ud83d\\ude00", "h": "", "m": ""}\n',
    ]
    path = write(tmp_path / "x.jsonl", lines)
    first, second = documents(path, title_field="h", metadata_fields={"m": "str"})
    assert (first.text, first.title, first.metadata["m"]) == ("a\ufffdb", "t\ufffd", "\ufffd")
    assert second.text == "😀"


@pytest.mark.parametrize("ending", [".jsonl.gz", ".jsonl.zst"])
def test_a_truncated_file_is_an_error_that_names_it(tmp_path, ending):
    path = jsonl(tmp_path / f"x{ending}", *({"text": f"some text {number}"} for number in range(5000)))
    path.write_bytes(path.read_bytes()[:-200])
    assert f"x{ending} cannot be read after line" in error_of(path)


@pytest.mark.parametrize("text", ["", None, " \n "])
def test_a_record_without_text_is_an_empty_document(tmp_path, text):
    documents_ = documents(jsonl(tmp_path / "x.jsonl", {"text": text, "n": 1}, {"text": text, "n": 2}))
    assert [document.text for document in documents_] == [text or ""] * 2
    assert len({document.id for document in documents_}) == (1 if text else 2)


def test_text_that_is_not_utf_8_is_an_error(tmp_path):
    (tmp_path / "x.jsonl").write_bytes('{"text": "é"}\n'.encode("latin-1"))
    assert "x.jsonl, line 1: not UTF-8: byte 0xe9 at position 10" in error_of(tmp_path / "x.jsonl")


def test_a_missing_parquet_column_is_an_error_with_those_that_are_there(tmp_path):
    pl.DataFrame({"body": ["a"], "n": [1]}).write_parquet(tmp_path / "x.parquet")
    assert "x.parquet has no column 'text'; it has body, n" in error_of(tmp_path / "x.parquet", "parquet")


def test_parquet_values_of_another_type_are_named(tmp_path):
    pl.DataFrame({"text": ["a", "b"], "y": [1, 2]}).write_parquet(tmp_path / "x.parquet")
    message = error_of(tmp_path / "x.parquet", "parquet", metadata_fields={"y": "str"})
    assert "x.parquet, row 1: the field 'y' must be str, found 1" in message


def test_a_damaged_parquet_file_is_an_error_that_names_it(tmp_path):
    pl.DataFrame({"text": ["a"] * 1000}).write_parquet(tmp_path / "x.parquet")
    content = (tmp_path / "x.parquet").read_bytes()
    (tmp_path / "x.parquet").write_bytes(content[:-20])
    assert "x.parquet cannot be read as parquet" in error_of(tmp_path / "x.parquet", "parquet")


@pytest.mark.parametrize(
    ("path", "message"),
    [(None, "corpus.path: the source 'jsonl' needs a file or folder, found none"),
     ("no", "corpus.path: no such file or folder: "), (".", "has no file that ends in .jsonl, .ndjson, ")],
)  # fmt: skip
def test_a_path_without_records_is_an_error_that_says_what_is_expected(tmp_path, path, message):
    with pytest.raises(SourceError) as caught:
        opened(path and tmp_path / path)
    assert message in str(caught.value)


def test_the_identity_follows_the_content_not_the_folder(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = opened(jsonl(tmp_path / "a" / "x.jsonl", *RECORDS)).identity
    assert opened(jsonl(tmp_path / "b" / "x.jsonl", *RECORDS)).identity == first
    assert opened(jsonl(tmp_path / "b" / "x.jsonl", *RECORDS[:1])).identity != first


def test_a_limit_reads_the_first_documents_and_no_more(tmp_path):
    lines = [json.dumps({"text": f"text {number}"}) + "\n" for number in range(5)]
    path = write(tmp_path / "x.jsonl", [*lines, "broken"])
    assert [document.text for document in documents(path, limit=3)] == ["text 0", "text 1", "text 2"]
    assert "not JSON" in error_of(path, limit=6)
    assert opened(path, limit=3).description.startswith("the first 3 documents of 1 jsonl file")
    whole, limited = CorpusConfig(source="jsonl", path=path), CorpusConfig(source="jsonl", path=path, limit=3)
    assert limited.deciding() == {**whole.deciding(), "limit": 3}


NESTED = [
    {"meta": {"id": "a", "year": 1999}, "body": {"text": "one"}},
    {"meta": {"id": "b", "year": None}, "body": {"text": "two"}},
]
FIELDS = {"text_field": "body.text", "id_field": "meta.id", "metadata_fields": {"meta.year": "int"}}


@pytest.mark.parametrize("source", ["jsonl", "parquet"])
def test_a_dotted_name_is_a_field_of_an_object(tmp_path, source):
    path = tmp_path / f"x.{source}"
    if source == "jsonl":
        jsonl(path, *NESTED)
    else:
        pq.write_table(pa.Table.from_pylist(NESTED), path)
    found = documents(path, source, **FIELDS)
    assert [(document.id, document.text, document.metadata["meta.year"]) for document in found] == [
        ("a", "one", 1999), ("b", "two", None),
    ]  # fmt: skip


def test_a_field_with_a_dot_in_its_name_comes_first(tmp_path):
    path = jsonl(tmp_path / "x.jsonl", {"a.b": "itself", "a": {"b": "another"}}, {"a": {"b": "only this"}})
    assert [document.text for document in documents(path, text_field="a.b")] == ["itself", "only this"]
    assert "line 1: there is no field 'a.c'; it has a.b, a" in error_of(path, text_field="a.c")
    assert "line 1: the field 'a' must be a text, found {'b': 'another'}" in error_of(path, text_field="a")


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (pa.large_string(), "one", ""),
        (pa.dictionary(pa.int8(), pa.string()), "one", ""),
        (pa.string_view(), "one", ""),
        (pa.binary(), b"one", "x.parquet: the column 'text' holds binary, expected texts. Convert the column"),
        (pa.list_(pa.string()), ["one"], "x.parquet: the column 'text' holds list<"),
        (pa.dictionary(pa.int8(), pa.int64()), 1, "x.parquet: the column 'text' holds int64"),
        (pa.struct({"en": pa.string(), "de": pa.string()}), {"en": "one"}, "Name one of its fields: text.en, text.de."),
    ],
)
def test_types_of_a_parquet_column(tmp_path, kind, value, message):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"text": pa.array([value], kind)}), path)
    if message:
        assert message in error_of(path, "parquet")
    else:
        assert [document.text for document in documents(path, "parquet")] == ["one"]


@pytest.mark.parametrize("source", ["parquet", "csv", "jsonl"])
def test_a_column_that_only_some_files_have_is_reported_with_the_file_that_lacks_it(tmp_path, source):
    for name, column in (("a", "text"), ("b", "body")):
        frame = pl.DataFrame({column: ["one", "two"], "n": [1, 2]})
        path = tmp_path / f"{name}.{source}"
        {"parquet": frame.write_parquet, "csv": frame.write_csv, "jsonl": frame.write_ndjson}[source](path)
    corpus = open_corpus(CorpusConfig(source=source, path=tmp_path))
    bad = []
    if source == "jsonl":
        assert [document.text for document in corpus.documents(bad.append)] == ["one", "two"]
        assert [(record.where, record.reason) for record in bad] == [
            ("b.jsonl, line 1", "missing_field"), ("b.jsonl, line 2", "missing_field"),
        ]  # fmt: skip
        return
    with pytest.raises(SourceError, match=rf"b\.{source} has no column 'text'; it has body, n"):
        list(corpus.documents(bad.append))


def test_a_local_folder_that_changed_names_the_file(tmp_path):
    (tmp_path / "in").mkdir()
    jsonl(tmp_path / "in" / "a.jsonl", {"text": "The first text of a folder."})
    config = Config(
        data_dir=tmp_path / "data",
        corpus=CorpusConfig(source="jsonl", path=tmp_path / "in"),
        preprocess=PreprocessConfig(min_tokens=1),
        embedding=EmbeddingConfig(model_name="hashing"),
    )
    prepare_paragraphs(config)
    jsonl(tmp_path / "in" / "b.jsonl", {"text": "The second text of a folder."})
    with pytest.raises(StaleStageError, match=r"\n  the corpus has a new file b\.jsonl\nPass --overwrite"):
        prepare_paragraphs(config)
    jsonl(tmp_path / "in" / "a.jsonl", {"text": "The first text of a folder, changed."})
    (tmp_path / "in" / "b.jsonl").unlink()
    with pytest.raises(StaleStageError, match=r"\n  the file a\.jsonl of the corpus was changed\nPass"):
        prepare_paragraphs(config)
