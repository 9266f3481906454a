"""Selections from lists of ids: files of every kind, the order of the list, and what is wrong with a list."""

import gzip
import json

import polars as pl
import pytest
from support.builders import made

from data_pipeline import ELMDataset
from data_pipeline.cli import main
from data_pipeline.errors import SelectionError, SourceError, StaleStageError
from data_pipeline.execution.upkeep import select_listed
from data_pipeline.selection.listed import ListedIds, choose_listed, read_listed_ids
from data_pipeline.stages.verify import verify_corpus

IDS = ["b", "007", "ü d"]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return made(tmp_path_factory.mktemp("listed"))


@pytest.fixture(autouse=True)
def _clean(clean_logging, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def lines(path):
    path.write_text("\ufeffb\r\n007\r\n\r\nü d\r\n", encoding="utf-8")


def compressed(path):
    path.write_bytes(gzip.compress("b\n007\nü d".encode()))


WRITERS = {
    "ids.txt": lines,
    "ids": lines,
    "ids.gz": compressed,
    "ids.parquet": lambda path: pl.DataFrame({"x": [1, 2, 3], "text_id": IDS}).write_parquet(path),
    "ids.csv": lambda path: pl.DataFrame({"x": [1, 2, 3], "text_id": IDS}).write_csv(path),
    "ids.tsv": lambda path: pl.DataFrame({"text_id": IDS}).write_csv(path, separator="\t"),
    "ids.jsonl": lambda path: path.write_text("".join(json.dumps({"text_id": name}) + "\n" for name in IDS)),
    "a.json": lambda path: path.write_text(json.dumps(IDS)),
    "b.json": lambda path: path.write_text(json.dumps([{"text_id": name, "x": 1} for name in IDS])),
    "c.json": lambda path: path.write_text(json.dumps({"text_id": IDS})),
}


@pytest.mark.parametrize("name", WRITERS)
def test_ids_are_read_as_they_are_written(tmp_path, name):
    WRITERS[name](tmp_path / name)
    assert list(read_listed_ids(tmp_path / name).ids) == IDS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "no such file: .*none.txt"),
        ("empty.txt", "\n\n", "empty.txt has no id"),
        ("a.csv", "id\nx\n", "has no column 'text_id'; it has id"),
        ("a.json", "{", "cannot be read as JSON"),
        ("a.json", '{"text_id": "a"}\n{"text_id": "b"}\n', "must end in .jsonl"),
        ("a.json", '"a"', "expected an array of ids"),
        ("a.json", '["a", 1.5]', "item 2: expected an id, or an object with text_id, found 1.5"),
        ("a.json", '[{"id": "a"}]', "item 1: expected an id, or an object with text_id"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(SourceError, match=message):
        read_listed_ids(tmp_path / name)


def test_rows_are_in_the_order_of_the_list():
    selection = choose_listed(ListedIds(["c", "a"], "x"), ["a", "b", "c"], "train", {})
    assert (selection.rows.tolist(), selection.ids) == ([2, 0], ["c", "a"])
    other = choose_listed(ListedIds(["a", "c"], "x"), ["a", "b", "c"], "train", {})
    assert selection.subset != other.subset
    assert selection.subset.startswith("ids_n2_")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a", "b", "a", "a"], "x: 1 id is listed more than once: 'a'"),
        (["a", "q"], "x: 1 of 2 ids are not in train: 'q', nor in another split"),
        (["v", "w", "a"], r"2 of 3 ids are not in train: 'v', 'w'. 2 ids are in val \('v', 'w'\): .* --split val$"),
        (["v", "q", "t"], r"1 id is in val .* 1 id is in test .*--split test. 1 id is in no split \('q'\)"),
        ([f"q{n}" for n in range(9)], r"'q3', 'q4', \.\.\., nor"),
    ],
)
def test_what_is_wrong_with_a_list_is_said(ids, message):
    with pytest.raises(SelectionError, match=message):
        choose_listed(ListedIds(ids, "x"), ["a", "b"], "train", {"val": ["v", "w"], "test": ["t"]})


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_subset_opens_in_the_order_of_the_list_and_verifies(config, capsys, tmp_path, split):
    ids = ELMDataset(config.data_dir, split).metadata["text_id"].to_list()
    wanted = [ids[9], ids[2], ids[5]]
    (tmp_path / "ids.txt").write_text("\n".join(wanted))
    arguments = ["select", "--ids", "ids.txt", "--split", split, "--output-dir", str(config.data_dir), "--json"]
    assert main(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["rows"], document["of"], document["split"]) == (3, len(ids), split)
    subset = ELMDataset(config.data_dir, split, subset=document["subset"])
    assert subset.metadata["text_id"].to_list() == wanted
    good, bad = verify_corpus(config)
    assert bad == []
    assert any(document["subset"] in line and line.startswith(split) for line in good)
    assert main(arguments) == 0  # again, the same
    capsys.readouterr()


def test_a_subset_of_other_paragraphs_is_stale(config, tmp_path):
    ids = ELMDataset(config.data_dir).metadata["text_id"].to_list()[:2]
    stored = select_listed(config, ListedIds(ids, "x"))
    manifest = json.loads((stored.path.parent / "manifest.json").read_text())
    manifest["splits"]["train"] |= {"upstream": "other", "fingerprint": "other"}
    (stored.path.parent / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StaleStageError):
        select_listed(config, ListedIds(ids, "x"))
    select_listed(config, ListedIds(ids, "x"), overwrite=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ids", "gone"], "no such file: gone"),
        (["--ids", "gone", "--frac", "0.1", "--name", "random"], "leave --name, --frac out"),
        ([], "name a selector (--name, see `elm selectors`), or a file"),
        (["--name", "random"], "one of --frac, --rows and --tokens"),
    ],
)
def test_flags_that_do_not_fit(config, capsys, arguments, message):
    assert main(["select", *arguments, "--output-dir", str(config.data_dir)]) == 2
    assert message in capsys.readouterr().err
