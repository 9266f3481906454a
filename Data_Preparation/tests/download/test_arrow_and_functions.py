"""Corpora of Arrow files, and of users' functions."""

import pyarrow as pa
import pytest

from data_pipeline.config import CorpusConfig
from data_pipeline.download import open_corpus
from data_pipeline.errors import ConfigError, SourceError


def documents(on_bad=None, **settings):
    return list(open_corpus(CorpusConfig(**settings)).documents(on_bad))


def write_arrow(path, table, stream):
    path.parent.mkdir(exist_ok=True)
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(str(path), table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize("stream", [True, False])
def test_arrow_files_are_read_row_by_row(tmp_path, stream):
    table = pa.table({"text": [f"text {n}" for n in range(2500)], "n": range(2500), "other": [None] * 2500})
    write_arrow(tmp_path / "x.arrow", table, stream)
    found = documents(source="arrow", path=tmp_path, metadata_fields={"n": "int"})
    assert [document.text for document in found] == table["text"].to_pylist()
    assert [document.metadata["n"] for document in found] == list(range(2500))


def test_a_dataset_saved_by_datasets_keeps_its_splits(tmp_path):
    datasets = pytest.importorskip("datasets")
    splits = {
        name: datasets.Dataset.from_dict({"text": [f"{name} {n}" for n in range(3)]})
        for name in ("train", "validation")
    }
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    found = documents(source="arrow", path=tmp_path / "saved")
    assert {(document.source_split, document.text[:-2]) for document in found} == {
        ("train", "train"), ("val", "validation"),
    }  # fmt: skip


@pytest.mark.parametrize("stream", [True, False])
def test_an_arrow_file_that_is_cut_is_an_error(tmp_path, stream):
    path = tmp_path / "x.arrow"
    write_arrow(path, pa.table({"text": [f"text {n}" for n in range(5000)]}), stream)
    whole = path.read_bytes()
    for size in (len(whole) - 1, len(whole) - 8, len(whole) // 2, 100, 3):
        path.write_bytes(whole[:size])
        with pytest.raises(SourceError, match=r"x\.arrow"):
            documents(source="arrow", path=path)


def test_an_arrow_file_without_texts_is_an_error(tmp_path):
    write_arrow(tmp_path / "x.arrow", pa.table({"body": ["a"], "text": [1]}), stream=True)
    with pytest.raises(SourceError, match=r"x\.arrow: the column 'text' holds int64, expected texts"):
        documents(source="arrow", path=tmp_path)
    with pytest.raises(SourceError, match=r"x\.arrow has no column 'nope'; it has body, text"):
        documents(source="arrow", path=tmp_path, text_field="nope")


@pytest.fixture
def module(tmp_path, monkeypatch, request):
    """A module in the current folder with a name of its own; call it with the code, it returns the name."""
    monkeypatch.chdir(tmp_path)
    name = f"module_{abs(hash(request.node.name))}"

    def write(code):
        (tmp_path / f"{name}.py").write_text(code)
        return name

    return write


def test_a_function_yields_documents_texts_or_records(module):
    name = module(
        "from data_pipeline.types import Document\n"
        "def load():\n"
        "    yield Document(id='a', text='one', title='A', source_split='val')\n"
        "    yield {'text': 'two', 'key': 'b', 'year': 1999}\n"
        "    yield 'three'\n"
    )
    settings = {"source": "function", "function": f"{name}:load", "metadata_fields": {"year": "int"}}
    bad = []
    found = documents(bad.append, **settings, id_field="key")
    assert [(document.id, document.text) for document in found] == [("a", "one"), ("b", "two")]
    assert found[1].metadata == {"year": 1999}
    assert [(record.where, record.reason) for record in bad] == [(f"{name}:load, document 3", "unusable_id")]
    corpus = open_corpus(CorpusConfig(**settings))
    assert corpus.identity["function"] == f"{name}:load"
    assert len(corpus.identity["source"]) == 64


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (None, SourceError, "corpus.function: the source 'function' needs a function, as module:function, found none"),
        ("load", ConfigError, "corpus.function must be module:function, found 'load'"),
        ("no_such_module:load", ConfigError, "no_such_module:load cannot be imported: ModuleNotFoundError"),
        ("{}:nothing", ConfigError, "cannot be imported: AttributeError"),
        ("{}:VALUE", ConfigError, "is a int, expected a function"),
        ("{}:broken", SourceError, "failed: ZeroDivisionError: ", ),
        ("{}:numbers", SourceError, "document 1: expected a Document, a mapping or a text, found 1"),
    ],
)  # fmt: skip
def test_a_function_that_cannot_be_used_is_an_error_that_says_why(module, function, error, message):
    name = module("VALUE = 1\ndef broken():\n    yield 'a' * (1 // 0)\ndef numbers():\n    return [1]\n")
    with pytest.raises(error) as caught:
        documents(source="function", function=function and function.format(name))
    assert message in str(caught.value)
