"""No row of a labelled data set is lost or changed on its way into the store."""

import csv
import json

import polars as pl
import pytest
from support.study_data import ODD, study, write_data, write_tsv

from data_pipeline.dataset import ELMDataset
from data_pipeline.errors import SourceError, StaleStageError
from data_pipeline.study import choose, load_study, prepare

pytest.importorskip("hydra", reason="the study's config needs the extra study")


def stored(config, split="train"):
    dataset = ELMDataset(split=split, config=config.pipeline_config)
    return list(zip(dataset.get_batch(range(len(dataset)))["text"], dataset.metadata["label"].to_list(), strict=True))


def test_every_row_as_it_is(tmp_path):
    write_data(tmp_path)
    config = study(tmp_path)
    found = prepare(config)
    assert found["rows"] == {"train": 120, "dev": 40}
    assert stored(config)[: len(ODD)] == [(text + " ", label) for text, label in ODD]
    assert ELMDataset(config=config.pipeline_config).metadata["text_id"][0] == "train-0000000#s0"
    assert prepare(config)["skipped"]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_the_same_from_other_files(tmp_path, ending):
    for name, rows in (("train", [*ODD, ("two\nlines", 1)]), ("dev", [("x", 1), ("null", 0)])):
        path = tmp_path / f"{name}.{ending}"
        table = pl.DataFrame({"text": [text for text, _ in rows], "label": [label for _, label in rows]})
        if ending == "csv":
            with path.open("w", newline="") as file:
                csv.writer(file).writerows([("text", "label"), *rows])
        elif ending == "jsonl":
            table.write_ndjson(path)
        else:
            table.write_parquet(path)
    config = study(tmp_path, f"data.train={tmp_path}/train.{ending}", f"data.dev={tmp_path}/dev.{ending}")
    prepare(config)
    assert stored(config) == [*ODD, ("two\nlines", 1)]
    assert stored(config, "val") == [("x", 1), ("null", 0)]


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ([("a", 0), ("b", -1)], "line 3: a label must be a whole number from 0, found -1"),
        ([("a", 0), ("b", "pos")], "found 'pos'"),
        ([("a", 0), (" ", 1)], "line 3: .*blank line"),
        ([("a", 0)], "labels that no training row has: .1."),
    ],
)
def test_rows_that_are_refused(tmp_path, train, said):
    write_tsv(tmp_path / "train.tsv", train)
    write_tsv(tmp_path / "dev.tsv", [("x", 0), ("y", 1)])
    with pytest.raises(SourceError, match=said):
        prepare(study(tmp_path))


def test_columns_and_files_that_are_missing(tmp_path):
    write_data(tmp_path)
    with pytest.raises(SourceError, match=r"must have the columns review, and label; it has sentence, label"):
        prepare(study(tmp_path, "data.text_column=review"))
    with pytest.raises(SourceError, match=r"data.train, data.dev: no such file: .*nothing\.tsv"):
        prepare(study(tmp_path, f"data.train={tmp_path}/nothing.tsv"))


def test_other_data_under_the_same_name(tmp_path):
    write_data(tmp_path)
    prepare(study(tmp_path))
    write_data(tmp_path, rows=130)
    with pytest.raises(StaleStageError, match="other data"):
        prepare(study(tmp_path))
    assert prepare(study(tmp_path), overwrite=True)["rows"]["train"] == 130


def test_the_manifest_is_read_back_row_by_row(tmp_path):
    write_data(tmp_path)
    config = study(tmp_path, "subset.frac=1.0", "subset.manifest=true")
    prepare(config)
    path = choose(config)["manifest"]
    dataset = ELMDataset(config=config.pipeline_config)
    by_manifest = dataset.subset(path)
    by_name = ELMDataset(config=config.pipeline_config, subset="random_p100_seed42")
    assert by_manifest.metadata["text_id"].to_list() == by_name.metadata["text_id"].to_list()
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == by_name.get_batch(range(120))["text"]
    assert "null " in {row["text"] for row in rows}
    assert [int(row["label"]) for row in rows] == by_name.metadata["label"].to_list()


def test_from_the_hub(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(name, split, revision):
        asked.append((name, split))
        return datasets.Dataset.from_dict({"sentence": ["null", "b "], "label": [0, 1], "idx": [0, 1]})

    monkeypatch.setattr(datasets, "load_dataset", load)
    config = load_study([f"paths.data_dir={tmp_path}", "embedding.model_name=hashing"])
    assert prepare(config)["rows"] == {"train": 2, "dev": 2}
    assert asked == [("stanfordnlp/sst2", "train"), ("stanfordnlp/sst2", "validation")]
    assert stored(config) == [("null", 0), ("b ", 1)]
    prepare(config)
    assert len(asked) == 2
    assert json.loads((config.records_dir / "source.json").read_text())["rows"] == {"train": 2, "dev": 2}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "train.tsv",
            "sentence\tlabel\nfine\t1\na stray\ttab\t0\n",
            r"train\.tsv, line 3: 3 columns, expected 2",
        ),
        ("train.tsv", "sentence\tlabel\na fine film\t1\na cut line\n", r"train\.tsv, line 3: 1 columns, expected 2"),
        (
            "train.csv",
            "text,label\nfine,1\nbad,NaN\n",
            r"train\.csv, line 3: a label must be a whole number .* found None",
        ),
        (
            "train.jsonl",
            '{"text": "a", "label": 1}\n\n{"text": "b", "label": NaN}\n',
            r"train\.jsonl, line 3: a label",
        ),
        (
            "train.jsonl",
            '{"text": "a", "label": 1}\n{"text": 5, "label": 0}\n',
            r"train\.jsonl, line 2: 'text' must be",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_named_by_its_line(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    write_tsv(tmp_path / "dev.tsv", [("x", 1), ("y", 0)])
    with pytest.raises(SourceError, match=said):
        prepare(study(tmp_path, f"data.train={tmp_path}/{name}", f"data.dev={tmp_path}/dev.tsv"))
