"""Previews of corpora: format, fields, and the settings that read them."""

import json

import polars as pl
import pytest

from data_pipeline.cli import main
from data_pipeline.config import CorpusConfig
from data_pipeline.download import open_corpus
from data_pipeline.download.preview import length_advice, preview_corpus
from data_pipeline.errors import SourceError


def write_lines(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_the_fields_of_records_are_shown_with_types_and_examples(tmp_path):
    path = write_lines(
        tmp_path / "my.jsonl",
        {"key": "a", "body": "The first text.\nIts second line.", "meta": {"year": 1999, "tags": ["x"]}, "part": "dev"},
        {"key": "b", "body": "The second text is longer than the key.", "meta": {"year": None}, "part": "train"},
    )
    preview = preview_corpus([str(path)])
    assert [(field.name, field.kind, field.filled) for field in preview.fields] == [
        ("key", "text", 2), ("body", "text", 2), ("meta.year", "whole number", 1), ("meta.tags", "list", 1),
        ("part", "text", 2),
    ]  # fmt: skip
    assert preview.fields[1].example == r"'The first text.\nIts second line.'"
    assert preview.settings == {
        "path": [str(path)], "text_field": ["body"], "id_field": ["key"], "split_field": ["part"],
        "metadata_fields": ["meta.year:int"],
    }  # fmt: skip
    fields = {name: values[0] for name, values in preview.settings.items() if name.endswith("_field")}
    config = CorpusConfig(source="jsonl", path=path, metadata_fields={"meta.year": "int"}, **fields)
    first, second = open_corpus(config).documents()
    assert (first.id, first.source_split, first.metadata) == ("a", "val", {"meta.year": 1999})
    assert second.text.startswith("The second text")


@pytest.mark.parametrize(
    ("name", "content", "source"),
    [
        ("x.csv", b"text,n\nhello,1\n", "csv"), ("x.tsv", b"sentence\tlabel\nhello\t1\n", "tsv"),
        ("x.md", b"# A\n\ntext", "text"), ("x.html", b"<html><p>text", "html"), ("x", b'{"text": "a"}\n', "jsonl"),
        ("page", b"<!DOCTYPE html><p>text", "html"), ("wiki.train.tokens", b" \n = A = \n \n text \n", "wikitext"),
    ],
)  # fmt: skip
def test_the_format_is_found_by_the_ending_or_the_content(tmp_path, name, content, source):
    if source == "html":
        pytest.importorskip("trafilatura")
    (tmp_path / name).write_bytes(content)
    preview = preview_corpus([str(tmp_path / name)])
    assert preview.source == source
    assert preview.records == 1


def test_of_several_formats_the_largest_is_read_and_the_others_are_counted(tmp_path, capsys):
    pl.DataFrame({"content": ["a text " * 1000]}).write_parquet(tmp_path / "x.parquet", compression="uncompressed")
    write_lines(tmp_path / "a.jsonl", {"text": "a"})
    write_lines(tmp_path / "b.jsonl", {"text": "b"})
    preview = preview_corpus([str(tmp_path)])
    assert (preview.source, preview.formats) == ("parquet", {"jsonl": 2, "parquet": 1})
    assert preview_corpus([f"{tmp_path}/*"]).settings["path"] == [str(tmp_path / "x.parquet")]
    assert main(["sources", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "not looked at: 2 jsonl" in printed
    assert f"elm run --source parquet --corpus.path {tmp_path} --corpus.text_field content" in printed


def test_an_unknown_format_is_an_error(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"\x00\x01")
    with pytest.raises(SourceError, match=r"x.bin has no known format. Give it one of the endings .jsonl, .parquet"):
        preview_corpus([str(tmp_path / "x.bin")])
    with pytest.raises(SourceError, match="PATH: no such file or folder"):
        preview_corpus([str(tmp_path / "none")])


def test_advice_is_given_for_texts_that_would_be_dropped_for_their_length():
    assert "--preprocess.unit chunk" in length_advice(20_000, 2000, 100)
    assert "--min-tokens 1" in length_advice(50, 2000, 100)
    assert length_advice(2000, 2000, 100) == ""
    assert length_advice(0, 2000, 100) == ""


def test_control_characters_of_a_corpus_are_not_printed(tmp_path, capsys):
    path = write_lines(tmp_path / "x.jsonl", {"text": "\x1b[31mred", "a\x1b[2J": "b"})
    assert main(["sources", str(path)]) == 0
    assert "\x1b" not in capsys.readouterr().out
