"""Evaluation sets of every kind: their items, names and identities."""

import gzip
import json
import shutil

import polars as pl
import pytest
from support.hub_server import COMMIT, in_process, serve_dataset

from data_pipeline.config.decontamination import DecontaminationConfig
from data_pipeline.download.evaluation_sets import open_evaluation_sets
from data_pipeline.errors import RecordError, SourceError
from data_pipeline.stages.pipeline import prepare_paragraphs
from data_pipeline.store import ParagraphStore


def written(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def items_of(path, **settings):
    (evaluation_set,) = open_evaluation_sets(DecontaminationConfig(paths=[str(path)], **settings))
    return [(item.name, *item.texts) for item in evaluation_set.items()]


def identity_of(path, **settings):
    (evaluation_set,) = open_evaluation_sets(DecontaminationConfig(paths=[str(path)], **settings))
    return dict(evaluation_set.identity)


def test_json_lines_and_parquet_give_the_same_items(tmp_path):
    records = [{"id": 7, "text": "a b"}, {"id": 8, "text": None}, {"id": 9, "text": "c"}]
    lines = written(tmp_path / "x.jsonl", records)
    pl.DataFrame(records).write_parquet(tmp_path / "x.parquet")
    packed = tmp_path / "y.jsonl.gz"
    packed.write_bytes(gzip.compress(lines.read_bytes()))
    assert items_of(lines) == [("x.jsonl:7", "a b"), ("x.jsonl:9", "c")]
    assert items_of(tmp_path / "x.parquet") == [("x.parquet:7", "a b"), ("x.parquet:9", "c")]
    assert items_of(packed) == [("y.jsonl.gz:7", "a b"), ("y.jsonl.gz:9", "c")]


def test_a_question_and_its_answers_are_texts_of_one_item(tmp_path):
    records = [{"question": "q one", "answer": {"text": ["a", None, "b"]}}, {"question": "q two"}]
    path = written(tmp_path / "qa.jsonl", records)
    fields = {"text_fields": ["question", "answer.text"]}
    assert items_of(path, **fields) == [("qa.jsonl:1", "q one", "a", "b"), ("qa.jsonl:2", "q two")]
    with pytest.raises(RecordError, match=r"qa\.jsonl, line 1: there is no field 'text'; it has question, answer"):
        items_of(path)
    with pytest.raises(RecordError, match="the field 'question' must be a text, found 3"):
        items_of(written(path, [{"question": 3}]), **fields)


def test_the_id_is_a_usual_field_or_the_one_that_is_named(tmp_path):
    path = written(tmp_path / "x.jsonl", [{"_id": "a", "id": "b", "n": 4, "text": "t"}])
    assert items_of(path) == [("x.jsonl:a", "t")]
    assert items_of(path, id_field="n") == [("x.jsonl:4", "t")]


def test_queries_of_a_beir_folder_are_read_and_the_corpus_if_asked(tmp_path):
    written(tmp_path / "queries.jsonl", [{"_id": "q1", "text": "the query"}])
    written(tmp_path / "corpus.jsonl", [{"_id": "d1", "title": "t", "text": "the document"}])
    assert items_of(tmp_path) == [("queries.jsonl:q1", "the query")]
    both = items_of(tmp_path, beir_files=["queries", "corpus"])
    assert both == [("queries.jsonl:q1", "the query"), ("corpus.jsonl:d1", "the document")]
    assert set(identity_of(tmp_path)) == {"queries.jsonl"}
    (tmp_path / "queries.jsonl").unlink()
    with pytest.raises(SourceError, match=r"has no queries\.jsonl, which decontamination\.beir_files names"):
        items_of(tmp_path)


def test_a_folder_of_files_is_read_with_their_paths(tmp_path):
    (tmp_path / "sub").mkdir()
    written(tmp_path / "b.jsonl", [{"text": "one"}])
    written(tmp_path / "sub" / "a.jsonl", [{"text": "two"}])
    assert items_of(tmp_path) == [("b.jsonl:1", "one"), ("sub/a.jsonl:1", "two")]


def test_val_and_test_of_a_processed_folder(config):
    prepare_paragraphs(config)
    store = ParagraphStore(config.processed_dir)
    expected = [
        (f"sample_processed/{split}:{text_id}", text)
        for split in ("val", "test")
        for text_id, text in store.read(split, ["text_id", "text"]).rows()
    ]
    assert items_of(config.processed_dir) == items_of(config.data_dir) == expected
    assert len(items_of(config.processed_dir, splits=["test"])) == len(store.read("test"))
    assert list(identity_of(config.processed_dir)) == ["sample_processed/val", "sample_processed/test"]
    shutil.copytree(config.processed_dir, config.data_dir / "other_processed")
    with pytest.raises(SourceError, match="has 2 processed folders, expected one"):
        items_of(config.data_dir)


@pytest.mark.parametrize("name", ["nowhere.jsonl", "no/such/folder", "owner name/x"])
def test_what_does_not_exist_is_an_error(name):
    with pytest.raises(SourceError, match=r"decontamination\.paths: no such file or folder"):
        items_of(name)


READ = """
import json, sys
from data_pipeline.config.decontamination import DecontaminationConfig
from data_pipeline.download.evaluation_sets import open_evaluation_sets
from data_pipeline.errors import SourceError
try:
    (one,) = open_evaluation_sets(DecontaminationConfig(**json.loads(sys.argv[1])))
    print(json.dumps({"identity": dict(one.identity), "items": [[item.name, *item.texts] for item in one.items()]}))
except SourceError as error:
    print(json.dumps({"error": str(error)}))
"""
REPO = "somebody/questions"
FILES = {
    "README.md": b"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: train.jsonl\n"
    b"  - split: validation\n    path: validation.jsonl\n---\n",
    "train.jsonl": b'{"question": "not this"}\n',
    "validation.jsonl": b'{"question": "one"}\n{"question": "two"}\n',
}


def read(home, path, **settings):
    with serve_dataset(REPO, FILES) as hub:
        return in_process(READ, hub.url, home, json.dumps({"paths": [path], "text_fields": ["question"]} | settings))


def test_the_evaluation_splits_of_a_dataset_of_the_hub(tmp_path):
    for path in (REPO, f"hf://datasets/{REPO}", f"{REPO}@main"):
        assert read(tmp_path, path) == {
            "identity": {REPO: COMMIT, "config": ""},
            "items": [[f"{REPO}/validation:1", "one"], [f"{REPO}/validation:2", "two"]],
        }
    assert "has the splits train, validation" in read(tmp_path, REPO, splits=["test"])["error"]
    assert read(tmp_path, REPO, splits=["train"])["items"] == [[f"{REPO}/train:1", "not this"]]
