"""Vectors with labels, from every kind of file."""

import json
import logging

import h5py
import numpy as np
import polars as pl
import pytest

from data_pipeline import ELMDataset
from data_pipeline.errors import ConfigError, CorruptShardError, SourceError
from data_pipeline.heads import identity_of_maker, labelled
from data_pipeline.heads.task import make_task
from data_pipeline.stages.pipeline import run


@pytest.fixture
def dataset(config):
    run(config)
    return ELMDataset(split="train", config=config)


def test_a_column_of_the_corpus_labels_its_rows(dataset):
    data = labelled.labels_of_rows(dataset.rows, "subject")
    assert len(data) == len(dataset)
    assert data.labels.tolist() == dataset.metadata["subject"].to_list()
    assert (data.vectors == dataset.to_numpy()).all()
    assert data.documents.tolist() == dataset.metadata["document_id"].to_list()
    assert data.embedder["model"] == "hashing"


def test_a_column_that_is_not_there_is_named(dataset):
    with pytest.raises(SourceError, match="no column 'grade' to be the label; they have text_id"):
        labelled.labels_of_rows(dataset.rows, "grade")


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "csv"])
def test_a_table_labels_the_rows_it_names_in_the_stores_order(dataset, tmp_path, ending):
    ids = dataset.metadata["text_id"].to_list()
    table = pl.DataFrame({"text_id": [ids[7], "unknown", ids[2]], "grade": ["c", "x", "a"]})
    path = tmp_path / f"labels.{ending}"
    {"parquet": table.write_parquet, "jsonl": table.write_ndjson, "csv": table.write_csv}[ending](path)
    data = labelled.labels_of_table(dataset.rows, path, "grade")
    assert data.labels.tolist() == ["a", "c"]
    assert (data.vectors == dataset.to_numpy()[[2, 7]]).all()
    assert data.documents.tolist() == dataset.metadata["document_id"].gather([2, 7]).to_list()


def test_a_table_of_documents_labels_all_their_rows(dataset):
    documents = dataset.metadata["document_id"].to_list()
    table = pl.DataFrame({"document_id": [documents[0]], "grade": [4.5]})
    data = labelled.labels_of_table(dataset.rows, table, "grade")
    assert data.labels.tolist() == [4.5] * documents.count(documents[0])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"grade": [1]}, "must have the columns text_id or document_id, and grade; it has grade"),
        (
            {"text_id": ["a", "a"], "grade": [1, 2]},
            "the table, row 2 labels text_id 'a' again, after row 1; leave one of the rows",
        ),
        ({"text_id": ["nobody"], "grade": [1]}, "labels none of the"),
    ],
)
def test_tables_that_cannot_label_are_refused(dataset, table, message):
    with pytest.raises(SourceError, match=message):
        labelled.labels_of_table(dataset.rows, pl.DataFrame(table), "grade")


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_a_table_with_vectors_needs_no_store(tmp_path, ending):
    table = pl.DataFrame({"embedding": [[1.0, 2], [3, 4], [5, 6]], "label": [0.5, None, 2.0], "document_id": [*"aab"]})
    path = tmp_path / f"vectors.{ending}"
    {"parquet": table.write_parquet, "jsonl": table.write_ndjson}[ending](path)
    assert labelled.has_vectors(path)
    data = labelled.labels_of_file(path, "label")
    assert (data.vectors.tolist(), data.labels.tolist()) == ([[1, 2], [5, 6]], [0.5, 2])
    assert data.documents.tolist() == ["a", "b"]
    assert identity_of_maker(data) is None


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"embedding": [[1.0], [1.0, 2]], "label": [1, 2]}, "lists of numbers of one length"),
        ({"embedding": [1.0, 2.0], "label": [1, 2]}, "must hold lists of numbers"),
        ({"embedding": [[1.0]], "grade": [1]}, "has no column 'label'; it has embedding, grade"),
        ({"embedding": [[1.0]], "label": [None]}, "labels must be numbers, lists of them, or strings"),
        ({"embedding": [[1.0], [2.0]], "label": [[1.0], [1.0, 2]]}, "equally many numbers"),
    ],
)
def test_tables_of_vectors_that_cannot_be_used_are_refused(tmp_path, table, message):
    path = tmp_path / "vectors.parquet"
    pl.DataFrame(table).write_parquet(path)
    with pytest.raises(SourceError, match=message):
        labelled.labels_of_file(path, "label")


def hdf5(path, **columns):
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file[f"train/{name}"] = values
    return path


@pytest.mark.parametrize("labels", [[1.5, np.nan, 3], [[1, 2], [-100, -100], [5, -100]], [1, -100, 3]])
def test_ml_filters_files_have_vectors_and_labels_and_missing_ones_are_left_out(tmp_path, labels):
    vectors = np.arange(6, dtype=np.float16).reshape(3, 2)
    path = hdf5(tmp_path / "000_a.h5", embeddings=vectors, labels=labels, document_id=[b"a", b"b", b"c"])
    data = labelled.labels_of_file(path, "label")
    assert data.documents.tolist() == ["a", "c"]
    assert (data.vectors == vectors[[0, 2]]).all()
    expected = np.array(labels, float)[[0, 2]]
    expected[expected == -100] = np.nan
    np.testing.assert_array_equal(data.labels, expected)
    assert data.embedder == {}


def test_hdf5_without_labels_or_damaged_is_refused(tmp_path):
    path = hdf5(tmp_path / "a.h5", embeddings=np.zeros((2, 2)), document_id=[b"a", b"b"])
    with pytest.raises(SourceError, match="has no labels; embed with save_labels: true"):
        labelled.labels_of_file(path, "label")
    with pytest.raises(CorruptShardError, match="has no group 'validation'; it has train"):
        labelled.labels_of_file(path, "label", "validation")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CorruptShardError, match="truncated"):
        labelled.labels_of_file(path, "label")


def test_several_files_are_one_if_they_are_alike(tmp_path):
    parts = [
        labelled.labels_of_file(
            hdf5(tmp_path / f"{name}.h5", embeddings=np.zeros((2, width)), document_id=[b"a", b"b"], labels=[1, 2]),
            "label",
        )
        for name, width in (("a", 2), ("b", 2), ("c", 3))
    ]
    assert len(labelled.join(parts[:2])) == 4
    with pytest.raises(SourceError, match="c.h5 has vectors of another embedder than .*a.h5"):
        labelled.join(parts)


def test_the_maker_is_loaded_for_the_heads_probes(dataset):
    data = labelled.labels_of_rows(dataset.rows, "subject")
    assert identity_of_maker(data).probes.shape == (3, 256)
    assert identity_of_maker(data, probes=False).probes is None


def test_unreadable_tables_are_named(dataset, tmp_path):
    (tmp_path / "labels.parquet").write_bytes(b"not parquet")
    with pytest.raises(SourceError, match="labels.parquet cannot be read"):
        labelled.labels_of_table(dataset.rows, tmp_path / "labels.parquet", "grade")


def labels_file(tmp_path, dataset, ending, labels):
    """A table of labels for the first rows of a dataset, in the format of an ending."""
    table = pl.DataFrame({"text_id": dataset.metadata["text_id"][: len(labels)], "grade": labels})
    path = tmp_path / f"labels.{ending}"
    write = {"csv": table.write_csv, "jsonl": table.write_ndjson, "parquet": table.write_parquet}
    write.get(ending, lambda target: table.write_csv(target, separator="\t"))(path)
    return path


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_numbers_are_numbers_in_every_format(tmp_path, dataset, ending):
    data = labelled.labels_of_table(dataset.rows, labels_file(tmp_path, dataset, ending, [0.5, 1.0, 2.0]), "grade")
    assert (data.labels.dtype.kind, data.labels.tolist()) == ("f", [0.5, 1, 2])
    assert make_task(data, "auto").kind == "regression"


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_words_are_classes_in_every_format(tmp_path, dataset, ending):
    data = labelled.labels_of_table(
        dataset.rows, labels_file(tmp_path, dataset, ending, ["good", "bad", "good"]), "grade"
    )
    assert make_task(data, "auto").labels == ("bad", "good")


def test_texts_that_spell_numbers_are_numbers_where_a_regression_is_asked_for(tmp_path, dataset):
    data = labelled.labels_of_table(dataset.rows, labels_file(tmp_path, dataset, "jsonl", ["0.5", "1", "2"]), "grade")
    assert make_task(data, "regression").targets.ravel().tolist() == [0.5, 1, 2]
    assert make_task(data, "auto").kind == "multiclass"
    data = labelled.labels_of_table(
        dataset.rows, labels_file(tmp_path, dataset, "jsonl", ["0.5", "high", "2"]), "grade"
    )
    with pytest.raises(ConfigError, match="a regression needs numbers, found the label 'high'"):
        make_task(data, "regression")


def test_nan_is_no_label_and_no_class(tmp_path, dataset):
    ids, grades = dataset.metadata["text_id"].to_list()[:3], [float("nan"), 1.0, 2.0]
    lines = [json.dumps({"text_id": name, "grade": grade}) for name, grade in zip(ids, grades, strict=True)]
    (tmp_path / "labels.jsonl").write_text("\n".join(lines))
    for table in (tmp_path / "labels.jsonl", pl.DataFrame({"text_id": ids, "grade": grades})):
        data = labelled.labels_of_table(dataset.rows, table, "grade")
        assert data.labels.tolist() == [1, 2]
        assert make_task(data, "multiclass").labels == ("1", "2")


def test_labels_of_other_ids_and_rows_without_a_label_are_counted(dataset, caplog):
    ids = dataset.metadata["text_id"].to_list()
    table = pl.DataFrame({"text_id": [*ids[:3], "nobody"], "grade": [1.0, None, 2.0, 3.0]})
    with caplog.at_level(logging.INFO):
        assert len(labelled.labels_of_table(dataset.rows, table, "grade")) == 2
    (said,) = [message for message in caplog.messages if message.startswith("the table:")]
    assert (
        said
        == f"the table: 4 labels, 1 of them of a text_id that train does not have; 2 of {len(ids)} rows have a label"
    )
