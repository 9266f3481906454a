"""Corpora of CSV, TSV and text files."""

import gzip

import polars as pl
import pytest
from pydantic import ValidationError
from support.shared_data import SHARED

from data_pipeline.config import Config, CorpusConfig, EmbeddingConfig, PreprocessConfig
from data_pipeline.download import open_corpus
from data_pipeline.errors import SourceError
from data_pipeline.stages.pipeline import run
from data_pipeline.types import BadRecord

CSV = b'\xef\xbb\xbfid,text,year,seen\r\na,"one, with ""quotes""\nand a line",1999,true\r\n\r\nb,two,,0\r\n'


def documents(path, source, **fields):
    return list(open_corpus(CorpusConfig(source=source, path=path, **fields)).documents())


def bad_records(path, source, **fields):
    bad: list[BadRecord] = []
    corpus = open_corpus(CorpusConfig(source=source, path=path, **fields))
    texts = [document.text for document in corpus.documents(bad.append)]
    return texts, [(record.where, record.reason) for record in bad]


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz"])
def test_csv_has_quotes_a_mark_and_types(tmp_path, name):
    fields = {"id_field": "id", "metadata_fields": {"year": "int", "seen": "bool"}}
    first, second = documents(write(tmp_path / name, CSV), "csv", **fields)
    assert (first.id, first.text, first.metadata) == (
        "a", 'one, with "quotes"\nand a line', {"year": 1999, "seen": True},
    )  # fmt: skip
    assert (second.id, second.text, second.metadata) == ("b", "two", {"year": None, "seen": False})


def test_quotes_of_tsv_are_text(tmp_path):
    path = write(tmp_path / "x.tsv", b'text\tlabel\nsay "hi\t1\nit is 5" wide\t0\n')
    found = documents(path, "tsv", metadata_fields={"label": "int"})
    assert [(document.text, document.metadata["label"]) for document in found] == [('say "hi', 1), ('it is 5" wide', 0)]


def test_columns_without_a_header_have_numbers(tmp_path):
    path = write(tmp_path / "x.csv", b"a,one\nb,two\n")
    found = documents(path, "csv", header=False, id_field="1", text_field="2")
    assert [(document.id, document.text) for document in found] == [("a", "one"), ("b", "two")]


def test_another_encoding_is_taken_only_when_it_is_named(tmp_path):
    path = write(tmp_path / "x.csv", "text\ncafé\n".encode("cp1252"))
    with pytest.raises(SourceError, match=r"x\.csv, line 2: not UTF-8: byte 0xe9"):
        documents(path, "csv")
    assert [document.text for document in documents(path, "csv", encoding="cp1252")] == ["café"]
    (document,) = documents(write(tmp_path / "x.txt", "時間".encode("shift_jis")), "text", encoding="shift-jis")
    assert document.text == "時間"
    for wrong, message in [("utf-16", "iconv -f utf-16"), ("klingon", "no encoding"), ("hex", "no encoding")]:
        with pytest.raises(ValidationError, match=message):
            CorpusConfig(encoding=wrong)


@pytest.mark.parametrize(
    ("content", "texts", "bad"),
    [
        (b"text,n\na,1\nb\nc,2,3\nd,4\n", ["a", "d"], {3: "broken_line", 4: "broken_line"}),
        (b'text,n\na,1\n"b"x,2\nd,4\n', ["a", "d"], {3: "broken_line"}),
        (b"text,n\na,1\nb,many\nd,4\n", ["a", "d"], {3: "wrong_type"}),
        (b"text,n\na,1\ncaf\xe9,2\nd,4\n", ["a", "d"], {3: "not_utf8"}),
        (b'text,n\n"two\nlines",1\nb\nd,4\n', ["two\nlines", "d"], {4: "broken_line"}),
    ],
)
def test_a_bad_row_is_one_record(tmp_path, content, texts, bad):
    path = write(tmp_path / "x.csv", content)
    found = bad_records(path, "csv", metadata_fields={"n": "int"})
    assert found == (texts, [(f"x.csv, line {line}", reason) for line, reason in bad.items()])
    with pytest.raises(SourceError, match=rf"x\.csv, line {min(bad)}: "):
        documents(path, "csv", metadata_fields={"n": "int"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'text,n\na,1\n"b,2\nc,3\n', r"x\.csv, line 3: not CSV: unexpected end of data. Is a quote missing\?"),
        (b"", r"x\.csv is empty, expected a line with the names of the columns"),
        (b"text,text\na,b\n", r"x\.csv, line 1: two columns have the same name"),
        (b"body\na\n", r"x\.csv has no column 'text'; it has body"),
        ("text\na\n".encode("utf-16"), r"x\.csv is encoded as UTF-16"),
    ],
)
def test_what_is_wrong_with_a_whole_file_is_said(tmp_path, content, message):
    with pytest.raises(SourceError, match=message):
        documents(write(tmp_path / "x.csv", content), "csv")


def test_an_open_quote_is_never_a_bad_record(tmp_path):
    path = write(tmp_path / "x.csv", b'text,n\na,1\n"b,2\nc,3\n')
    with pytest.raises(SourceError, match="Is a quote missing"):
        bad_records(path, "csv")


def test_a_text_file_is_a_document(tmp_path):
    write(tmp_path / "c" / "notes" / "b.md", b"# Title\n\nBody.\r\n")
    write(tmp_path / "c" / "a.txt.gz", b"One.\n\n\nTwo.\nThree.")
    write(tmp_path / "c" / ".hidden.txt", b"no")
    write(tmp_path / "c" / "image.png", b"no")
    found = documents(tmp_path / "c", "text")
    assert [(document.id, document.title, document.text) for document in found] == [
        ("a.txt.gz", "a", "One.\n\n\nTwo.\nThree."), ("notes/b.md", "b", "# Title\n\nBody."),
    ]  # fmt: skip
    blocks = documents(tmp_path / "c", "text", text_unit="block")
    assert [(document.id, document.text) for document in blocks] == [
        ("a.txt.gz:1", "One."), ("a.txt.gz:2", "Two.\nThree."), ("notes/b.md:1", "# Title"), ("notes/b.md:2", "Body."),
    ]  # fmt: skip


def test_a_folder_without_such_files_says_what_it_has(tmp_path):
    write(tmp_path / "c" / "a.json", b"{}")
    with pytest.raises(SourceError, match=r"has no file that ends in \.txt, .*it has 1 others, such as a\.json"):
        documents(tmp_path / "c", "text")


@pytest.mark.parametrize("source", ["csv", "tsv", "text"])
def test_a_changed_file_is_another_corpus(tmp_path, source):
    path = write(tmp_path / f"x.{'txt' if source == 'text' else source}", b"text\na\n")
    before = open_corpus(CorpusConfig(source=source, path=path)).identity
    path.write_bytes(b"text\nb\n")
    assert open_corpus(CorpusConfig(source=source, path=path)).identity != before


def test_sst_2_as_tsv(tmp_path):
    path = SHARED / "sst2" / "dev.tsv"
    if not path.is_file():
        pytest.skip(f"SST-2 is not at {path} (set ELM_SHARED_DATA)")
    lines = path.read_text().splitlines()
    text, label = lines[0].split("\t")[:2]
    config = Config(
        data_dir=tmp_path / "data", logs_dir=tmp_path / "logs", embedding=EmbeddingConfig(model_name="hashing"),
        corpus=CorpusConfig(source="tsv", path=path, name="sst2", text_field=text, metadata_fields={label: "int"}),
        preprocess=PreprocessConfig(unit="line", min_tokens=1, min_chars=1, exact_dedup=False),
    )  # fmt: skip
    manifest = run(config, skip_embeddings=True).manifest
    assert manifest["counts"]["documents"] == len(lines) - 1
    labels = pl.concat([pl.read_parquet(path) for path in config.processed_dir.glob("t*.parquet")])[label]
    assert set(labels.unique()) == {0, 1}
