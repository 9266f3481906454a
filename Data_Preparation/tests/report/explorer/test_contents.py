import dataclasses
import shutil

import numpy as np
import pyarrow as pa
import pytest
from support.builders import made, stored_rows, stored_vectors

from data_pipeline.config import Config, CorpusConfig, EmbeddingConfig, PreprocessConfig
from data_pipeline.errors import NotFoundError
from data_pipeline.report.explorer.contents import open_contents, unique_names
from data_pipeline.stages.pipeline import embed_corpus, prepare_paragraphs
from data_pipeline.store.selections import read_selection

SPLITS = ["train", "val", "test"]


def test_rows_of_all_splits_follow_one_another(config, contents):
    table = contents.table()
    texts = [text for split in SPLITS for text in stored_rows(config.data_dir, split)["text"]]
    ids = [text_id for split in SPLITS for text_id in stored_rows(config.data_dir, split)["text_id"]]
    assert table["text"].to_pylist() == texts
    assert table["text_id"].to_pylist() == ids
    counts = [len(stored_rows(config.data_dir, split)) for split in SPLITS]
    assert table["split"].to_pylist() == list(np.repeat(SPLITS, counts))
    assert len(contents) == table.num_rows == sum(counts)


def test_vectors_are_those_of_the_rows(config, contents):
    expected = np.concatenate([stored_vectors(config.data_dir, split) for split in SPLITS])
    assert np.array_equal(np.concatenate(list(contents.blocks())), expected)
    index = np.array([len(contents) - 1, 0, 3, 0])
    assert np.array_equal(contents.vectors(index), expected[index])
    assert np.array_equal(contents[2:5], expected[2:5])
    assert contents.shape == expected.shape


def test_scores_and_subsets_are_columns(config, contents):
    table = contents.table()
    assert {"mtld", "subject", "document_id"} <= set(table.column_names)
    (subset,) = contents.subsets
    members = table.filter(table[f"subset {subset}"])["text_id"].to_pylist()
    assert sorted(members) == sorted(read_selection(config.selections_dir / subset, "train"))
    assert len(members) == 30


def test_some_splits_can_be_named(config):
    contents = open_contents(config, ["val", "test"])
    assert list(contents.parts) == ["val", "test"]
    assert contents.table()["split"].unique().to_pylist() == ["val", "test"]
    assert contents.subsets == {}  # it selects from train


def test_the_fingerprint_is_that_of_texts_and_vectors(config, contents, tmp_path):
    assert open_contents(config).fingerprint() == contents.fingerprint()
    assert open_contents(config, ["train"]).fingerprint() != contents.fingerprint()
    other = made(tmp_path, precision="float16")
    assert open_contents(other).fingerprint() != contents.fingerprint()


def test_a_dataset_without_vectors_says_what_to_do(tmp_path):
    config = Config(
        data_dir=tmp_path,
        corpus=CorpusConfig(source="sample", name="sample"),
        preprocess=PreprocessConfig(min_tokens=60),
        embedding=EmbeddingConfig(model_name="hashing"),
    )
    prepare_paragraphs(config)
    with pytest.raises(NotFoundError, match=r"shows rows by their vectors.*elm embed"):
        open_contents(config)
    embed_corpus(config, ["train"])
    contents = open_contents(config)
    assert list(contents.parts) == ["train"]
    said = [sentence.split(":")[0] for sentence in contents.left_out]
    assert said == ["The split val is left out", "The split test is left out"]
    with pytest.raises(NotFoundError, match="there are no embeddings for val"):
        open_contents(config, ["val"])


def test_a_subset_of_other_rows_is_left_out_with_the_reason(config, contents, tmp_path):
    other = made(tmp_path)
    shutil.copytree(config.selections_dir, other.selections_dir)
    manifest = next(other.selections_dir.glob("*/manifest.json"))
    manifest.write_text(manifest.read_text().replace('"paragraphs": "', '"paragraphs": "0'))
    opened = open_contents(other)
    assert opened.subsets == {}
    assert "was made from other paragraphs" in " ".join(opened.left_out)


def test_names_are_unique_to_sql():
    assert unique_names(["a", "A", "b", "a_2"]) == ["a", "A_2", "b", "a_2_2"]


def test_a_column_that_a_split_lacks_is_null_there(contents):
    parts = dict(contents.parts)
    table = contents.table()
    assert table.schema.field("split").type == pa.dictionary(pa.int8(), pa.string())
    only = dataclasses.replace(contents, parts={"train": parts["train"]})
    assert only.table().num_rows == len(parts["train"])
