"""Corpora at URLs: S3 by a real server, HTTP with the faults of a bad network, several paths, patterns."""

import gzip
import hashlib
import json
from pathlib import Path

import polars as pl
import pytest
from support.object_store import FileServer, file_server, s3_at, s3_server

from data_pipeline.config import Config, CorpusConfig, EmbeddingConfig, PreprocessConfig
from data_pipeline.download import open_corpus
from data_pipeline.errors import MissingExtraError, SourceError, StaleStageError
from data_pipeline.stages.pipeline import prepare_paragraphs
from data_pipeline.user_files import remote, text
from data_pipeline.user_files.inputs import list_inputs
from data_pipeline.utils import remote as remote_systems


def lines(*texts: str) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def texts_of(source: str, *paths: str | Path, **settings: object) -> list[str]:
    corpus = open_corpus(CorpusConfig(source=source, path=paths, **settings))
    return [document.text for document in corpus.documents()]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(remote_systems, "_FIRST_PAUSE_S", 0.001)


@pytest.fixture
def server():
    with file_server() as running:
        yield running


@pytest.fixture(scope="module")
def bucket():
    """An S3 bucket on this machine, as a file system; the environment names its server."""
    with s3_server() as url, s3_at(url) as system:
        system.mkdir("corpus")
        yield system


def test_a_corpus_on_s3_is_read_like_local_files(bucket, tmp_path):
    bucket.pipe("corpus/a/train-1.jsonl.gz", gzip.compress(lines("first", "second")))
    bucket.pipe("corpus/a/sub/test.jsonl", lines("third"))
    bucket.pipe("corpus/a/.hidden/x.jsonl", lines("hidden"))
    bucket.pipe("corpus/a/notes.md", b"not a record")
    pl.DataFrame({"text": ["in parquet", "again"], "other": [1, 2]}).write_parquet(tmp_path / "x.parquet")
    bucket.put(str(tmp_path / "x.parquet"), "corpus/b/x.parquet")

    assert texts_of("jsonl", "s3://corpus/a") == ["third", "first", "second"]
    assert texts_of("jsonl", "s3://corpus/a/train-1.jsonl.gz") == ["first", "second"]
    assert texts_of("jsonl", "s3://corpus/a/*.jsonl.gz") == ["first", "second"]
    assert texts_of("parquet", "s3://corpus/b/x.parquet") == ["in parquet", "again"]
    local = tmp_path / "more.jsonl"
    local.write_bytes(lines("local"))
    assert texts_of("jsonl", "s3://corpus/a/sub", local) == ["third", "local"]
    corpus = open_corpus(CorpusConfig(source="jsonl", path="s3://corpus/a"))
    assert list(corpus.identity) == ["sub/test.jsonl", "train-1.jsonl.gz"]
    assert [document.source_split for document in corpus.documents()] == ["test", "train", "train"]


def test_a_file_that_is_added_replaced_or_removed_on_s3_makes_the_paragraphs_stale(bucket, tmp_path):
    bucket.pipe("corpus/grow/1.jsonl", lines("The first text of the corpus."))
    config = Config(
        data_dir=tmp_path,
        corpus=CorpusConfig(source="jsonl", path="s3://corpus/grow"),
        preprocess=PreprocessConfig(min_tokens=1),
        embedding=EmbeddingConfig(model_name="hashing"),
    )
    assert prepare_paragraphs(config).manifest["counts"]["documents"] == 1
    assert prepare_paragraphs(config).preprocess_skipped
    bucket.pipe("corpus/grow/2.jsonl", lines("The second text of the corpus."))
    with pytest.raises(StaleStageError, match=r"\n  the corpus has a new file 2.jsonl\nPass"):
        prepare_paragraphs(config)
    bucket.pipe("corpus/grow/1.jsonl", lines("The first text of the corpus, changed."))
    bucket.rm("corpus/grow/2.jsonl")
    with pytest.raises(StaleStageError, match=r"\n  the file 1.jsonl of the corpus was changed\nPass"):
        prepare_paragraphs(config)
    bucket.mv("corpus/grow/1.jsonl", "corpus/grow/3.jsonl")
    with pytest.raises(
        StaleStageError, match=r"\n  the corpus no longer has the file 1.jsonl\n  .* a new file 3.jsonl\n"
    ):
        prepare_paragraphs(config)


def test_nothing_at_an_address_of_s3_is_an_error_that_names_it(bucket):
    for path in ("s3://corpus/nowhere/", "s3://corpus/nowhere/*.jsonl", "s3://no-such-bucket/x.jsonl"):
        with pytest.raises(SourceError, match=path.rstrip("/").replace("*", r"\*")):
            texts_of("jsonl", path)


def test_a_transfer_that_is_cut_is_repeated_and_never_taken_for_the_end(server: FileServer):
    texts = [f"The text of document {number}." for number in range(2000)]
    server.files["/x.jsonl"] = lines(*texts)
    server.cut_answers = 2
    assert texts_of("jsonl", f"{server.url}/x.jsonl") == texts
    server.cut_answers = 1000
    with pytest.raises(SourceError, match=r"x.jsonl cannot be read after line 0: .*after 4 attempts"):
        texts_of("jsonl", f"{server.url}/x.jsonl")


def test_a_large_file_is_read_in_blocks_by_byte_ranges(server: FileServer, monkeypatch):
    monkeypatch.setattr(remote, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(text, "_BLOCK_BYTES", 1000)
    texts = [f"The text of document {number}." for number in range(500)]
    server.files["/x.jsonl"] = lines(*texts)
    assert texts_of("jsonl", f"{server.url}/x.jsonl") == texts
    assert sum(request.startswith("GET bytes=") for request in server.requests) > 10
    server.has_ranges = False
    with pytest.raises(SourceError, match=r"range requests.*Download the file first"):
        texts_of("jsonl", f"{server.url}/x.jsonl")


@pytest.mark.parametrize("status", [404, 403])
def test_an_address_without_a_file_is_an_error_with_its_status(server: FileServer, status):
    server.statuses["/x.jsonl"] = [status] * 100
    with pytest.raises(
        SourceError, match=rf"nothing can be read at {server.url}/x.jsonl \({status}, .*Check the address"
    ):
        texts_of("jsonl", f"{server.url}/x.jsonl?token=secret")
    assert len(server.requests) == 2


def test_a_fault_of_a_server_is_tried_again(server: FileServer):
    server.files["/x.jsonl"] = lines("text")
    server.statuses["/x.jsonl"] = [500, 503]
    assert texts_of("jsonl", f"{server.url}/x.jsonl") == ["text"]
    server.statuses["/x.jsonl"] = [500] * 100
    with pytest.raises(SourceError, match=r"/x.jsonl \(500, ") as caught:
        texts_of("jsonl", f"{server.url}/x.jsonl?token=secret")
    assert "secret" not in str(caught.value)


def test_a_web_page_in_place_of_the_file_is_an_error(server: FileServer):
    server.files["/x.jsonl"] = b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>"
    with pytest.raises(SourceError, match=r"x.jsonl is a web page \(HTML\), expected a data file"):
        texts_of("jsonl", f"{server.url}/x.jsonl")


def test_a_file_that_changes_while_it_is_read_is_an_error(server: FileServer):
    server.files["/x.jsonl"] = lines("one", "two")
    documents = open_corpus(CorpusConfig(source="jsonl", path=f"{server.url}/x.jsonl")).documents()
    assert next(documents).text == "one"
    server.etag = '"2"'
    with pytest.raises(SourceError, match=r"x.jsonl was changed while it was read"):
        list(documents)


def test_a_saved_config_holds_no_secret_of_an_address():
    config = CorpusConfig(source="jsonl", path="https://user:pass@host/x.jsonl?token=secret")
    assert config.model_dump(mode="json")["path"] == ["https://host/x.jsonl"]
    assert config.path == ("https://user:pass@host/x.jsonl?token=secret",)


def test_a_protocol_without_its_library_gives_the_command_that_installs_it(monkeypatch):
    with pytest.raises(SourceError, match="Protocol not known: nosuch. Expected s3://"):
        texts_of("jsonl", "nosuch://x/y.jsonl")
    pytest.importorskip  # noqa: B018
    try:
        import gcsfs  # noqa: F401
    except ImportError:
        with pytest.raises(
            MissingExtraError, match=r"gs://x/y.jsonl needs .* pip install \"elm-data-preparation\[gcs\]\""
        ):
            texts_of("jsonl", "gs://x/y.jsonl")


def test_several_paths_and_patterns_are_read_in_their_order_each_file_once(tmp_path):
    for name in ("a/1.jsonl", "a/deep/2.jsonl", "b/3.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(lines(name))
    assert texts_of("jsonl", tmp_path / "b", tmp_path / "a" / "1.jsonl", tmp_path / "a") == [
        "b/3.jsonl", "a/1.jsonl", "a/deep/2.jsonl",
    ]  # fmt: skip
    assert texts_of("jsonl", f"{tmp_path}/*/*.jsonl") == ["a/1.jsonl", "b/3.jsonl"]
    assert texts_of("jsonl", f"{tmp_path}/**/*.jsonl") == ["a/1.jsonl", "a/deep/2.jsonl", "b/3.jsonl"]

    def names(*paths: Path) -> list[str]:
        return [listed.name for listed in list_inputs([str(path) for path in paths], (".jsonl",), "corpus.path")]

    assert names(tmp_path / "a") == ["1.jsonl", "deep/2.jsonl"]
    assert names(tmp_path / "a" / "1.jsonl") == ["1.jsonl"]
    assert names(tmp_path / "a", tmp_path / "b") == ["a/1.jsonl", "a/deep/2.jsonl", "b/3.jsonl"]


def test_a_pattern_that_matches_nothing_or_two_formats_is_an_error(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines("a"))
    (tmp_path / "b.csv").write_text("text\nb\n")
    with pytest.raises(SourceError, match=r"\* matches 1 files of another format, such as .*b.csv; expected .jsonl"):
        texts_of("jsonl", f"{tmp_path}/*")
    with pytest.raises(SourceError, match=r"corpus.path: no file matches .*\*.nope"):
        texts_of("jsonl", f"{tmp_path}/*.nope")


def test_a_file_of_a_server_without_tags_is_identified_by_its_content(server: FileServer):
    server.etag = ""
    identities = []
    for word in ("one", "two"):  # of the same length
        server.files["/x.jsonl"] = lines(word)
        identities.append(open_corpus(CorpusConfig(source="jsonl", path=f"{server.url}/x.jsonl")).identity["x.jsonl"])
    assert identities == [hashlib.sha256(lines(word)).hexdigest() for word in ("one", "two")]
