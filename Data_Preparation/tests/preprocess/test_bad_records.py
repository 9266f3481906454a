"""Records that are no documents: dropped with file, line and reason, and too many of them stop the run."""

import gzip
import json

import polars as pl
import pytest

from data_pipeline.config import Config, CorpusConfig, EmbeddingConfig, PreprocessConfig, SplitConfig, StorageConfig
from data_pipeline.errors import SourceError
from data_pipeline.stages.pipeline import run
from data_pipeline.user_files import text

FIELDS = {"id_field": "id", "split_field": "part", "metadata_fields": {"year": "int"}}
GOOD = [
    {"id": f"d{number}", "text": f"text number {number} of this corpus", "year": number, "part": "train"}
    for number in range(300)
]
BAD = {
    b'{"id": "x", "text": "cut': "broken_line",
    b"[1, 2]": "wrong_type",
    b'"only a text"': "wrong_type",
    b'{"id": "x", "text": 5, "year": 1, "part": "train"}': "wrong_type",
    b'{"id": "x", "text": "a", "year": "1999", "part": "train"}': "wrong_type",
    b'{"id": "x", "text": "a", "year": 99999999999999999999, "part": "train"}': "wrong_type",
    b'{"id": "x", "year": 1, "part": "train"}': "missing_field",
    b'{"id": null, "text": "a", "year": 1, "part": "train"}': "unusable_id",
    b'{"id": "a\\tb", "text": "a", "year": 1, "part": "train"}': "unusable_id",
    b'{"id": "x", "text": "a", "year": 1, "part": "other"}': "unknown_split",
    b'{"id": "x", "text": "caf\xe9", "year": 1, "part": "train"}': "not_utf8",
    b'{"id": "x", "text": "' + b"a" * 5000 + b'", "year": 1, "part": "train"}': "line_too_long",
}  # fmt: skip


@pytest.fixture(autouse=True)
def short_lines(monkeypatch):
    monkeypatch.setattr(text, "MAX_LINE_BYTES", 4000)
    monkeypatch.setattr(text, "_BLOCK_BYTES", 1000)


def config(tmp_path, source, name="x", **fields):
    return Config(
        data_dir=tmp_path / name,
        logs_dir=tmp_path / "logs",
        corpus=CorpusConfig(source="jsonl", path=source, name="own", **FIELDS | fields),
        preprocess=PreprocessConfig(min_tokens=1, min_chars=0),
        split=SplitConfig(method="official"),
        storage=StorageConfig(shard_rows=100),
        embedding=EmbeddingConfig(model_name="hashing"),
    )


def prepare(config):
    return run(config, skip_embeddings=True).manifest


def write(path, lines):
    path.parent.mkdir(exist_ok=True)
    content = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz"])
def test_each_is_dropped_with_its_place_and_reason_and_nothing_else_changes(tmp_path, ending):
    lines = list(GOOD)
    for number, line in enumerate(BAD):
        lines.insert(20 * number, line)
    write(tmp_path / "source" / f"a{ending}", lines)
    write(tmp_path / "source" / f"b{ending}", [b"{}", *({**record, "id": f"b{record['id']}"} for record in GOOD)])
    write(tmp_path / "clean" / f"a{ending}", GOOD)
    write(tmp_path / "clean" / f"b{ending}", [{**record, "id": f"b{record['id']}"} for record in GOOD])
    with_bad = config(tmp_path, tmp_path / "source", max_bad_share=0.05)
    manifest = prepare(with_bad)
    dropped = pl.read_parquet(with_bad.processed_dir / "dropped.parquet").filter(pl.col("stage") == "records")
    expected = [(f"a{ending}, line {20 * number + 1}", reason) for number, reason in enumerate(BAD.values())]
    assert list(zip(dropped["text_id"], dropped["reason"], strict=True)) == [
        *expected,
        (f"b{ending}, line 1", "missing_field"),
    ]
    examples = pl.read_parquet(with_bad.processed_dir / "dropped_examples.parquet")
    of_records = examples.filter(pl.col("stage") == "records")
    assert sorted(of_records["text_id"]) == sorted(dropped["text_id"])
    assert of_records["text"].null_count() == len(of_records)  # there is no text in what is no document
    without = config(tmp_path, tmp_path / "clean", "y")
    clean = prepare(without)
    assert manifest["counts"]["documents"] == clean["counts"]["documents"] == 600
    assert manifest["counts"]["paragraphs"] == clean["counts"]["paragraphs"] + len(BAD) + 1
    files = sorted(path.name for path in without.processed_dir.glob("train*.parquet"))
    assert len(files) == 3  # the texts of the second file repeat those of the first
    for name in files:
        assert (with_bad.processed_dir / name).read_bytes() == (without.processed_dir / name).read_bytes()


def test_more_than_their_share_stop_the_run_and_replace_nothing(tmp_path):
    settings = config(tmp_path, write(tmp_path / "x.jsonl", GOOD))
    prepare(settings)
    before = {path.name: path.read_bytes() for path in settings.processed_dir.iterdir() if path.is_file()}
    write(tmp_path / "x.jsonl", [*GOOD, *([b'{"id": '] * 4)])
    with pytest.raises(SourceError) as caught:
        run(settings, skip_embeddings=True, overwrite=True)
    message = str(caught.value)
    assert "4 of the first 304 records cannot be used (1.3%; corpus.max_bad_share allows 1.0%)" in message
    assert message.count("x.jsonl, line 30") == 3
    assert "x.jsonl, line 301: not JSON" in message
    assert {path.name: path.read_bytes() for path in settings.processed_dir.iterdir() if path.is_file()} == before


def test_a_field_that_every_record_lacks_is_an_error(tmp_path):
    settings = config(tmp_path, write(tmp_path / "x.jsonl", GOOD), text_field="body", max_bad_share=0.9)
    with pytest.raises(
        SourceError, match=r"(?s)300 of the first 300 records.*line 1: there is no field 'body'; it has id"
    ):
        prepare(settings)


def test_a_corpus_of_bad_records_is_not_read_to_its_end(tmp_path):
    path = write(tmp_path / "x.jsonl", [b'{"no": "text"}'] * 20_000)
    with pytest.raises(SourceError, match=r"1,000 of the first 1,000 records"):
        prepare(config(tmp_path, path))


def test_the_first_one_is_an_error_where_that_is_asked_for(tmp_path):
    path = write(tmp_path / "x.jsonl", [*GOOD, b"[1]"])
    with pytest.raises(SourceError, match=r"x\.jsonl, line 301: expected a JSON object, found \[1\]$"):
        prepare(config(tmp_path, path, on_bad_record="fail"))


def test_a_damaged_file_is_never_a_bad_record(tmp_path):
    path = write(tmp_path / "x.jsonl.gz", GOOD)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(SourceError, match=r"x\.jsonl\.gz cannot be read after line \d+"):
        prepare(config(tmp_path, path, max_bad_share=1))
