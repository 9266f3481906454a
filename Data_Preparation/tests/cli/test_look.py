"""The commands that look at rows: `search`, `show` and `dropped`, with right and with wrong input."""

import json

import numpy as np
import polars as pl
import pytest
from support.builders import made, stored_rows, stored_vectors

from data_pipeline import ELMDataset
from data_pipeline.cli import main
from data_pipeline.execution.upkeep import select_subset
from data_pipeline.selection import Budget
from data_pipeline.store.dropped import read_dropped_examples

HOSTILE = "Rivers run \x1b]0;title\x07 to the \u202esea [red]and[/red] \x9b31m the lamp was lit again every night. " * 4


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """The sample with the vectors of the hashing embedder, a measure and a selection."""
    config = made(tmp_path_factory.mktemp("look"))
    select_subset(config, "full", Budget(rows=20))
    return config


@pytest.fixture
def data(config):
    return str(config.data_dir)


@pytest.fixture(autouse=True)
def _clean(clean_logging, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def document_of(capsys, *arguments):
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def fails(capsys, *arguments):
    assert main(list(arguments)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "Traceback" not in error
    return error


def by_hand(data, vector, splits=("train", "val", "test"), keep=lambda row: True):
    """Ids of all rows by cosine to a vector, by brute force."""
    found = []
    for split in splits:
        rows, vectors = stored_rows(data, split), stored_vectors(data, split).astype(np.float64)
        for row, stored in zip(rows.iter_rows(named=True), vectors, strict=True):
            if keep(row):
                cosine = stored @ vector / np.linalg.norm(stored) / np.linalg.norm(vector)
                found.append((-cosine, row["text_id"]))
    return [name for _, name in sorted(found)]


# search


def test_rows_come_by_cosine_over_all_splits(config, data, capsys):
    train = ELMDataset(data, "train")
    text_id = train[5]["metadata"]["text_id"]
    vector = train[5]["embedding"].numpy().astype(np.float64)
    found = document_of(capsys, "search", "--like", text_id, "-k", "12", "--output-dir", data)
    expected = by_hand(config.data_dir, vector)
    assert expected[0] == text_id
    assert [hit["text_id"] for hit in found["hits"]] == expected[1:13]
    assert len({hit["split"] for hit in found["hits"]}) > 1
    for hit in found["hits"]:
        sample = ELMDataset(data, hit["split"])[hit["row"]]
        assert (sample["text"], sample["metadata"]["text_id"]) == (hit["text"], hit["text_id"])
        assert hit["metadata"]["title"] == sample["metadata"]["title"]


def test_a_text_is_embedded_by_the_model_of_the_vectors(config, data, capsys):
    sample = ELMDataset(data, "val")[3]
    found = document_of(capsys, "search", sample["text"], "-k", "1", "--output-dir", data)
    assert found["hits"][0]["text_id"] == sample["metadata"]["text_id"]
    assert found["hits"][0]["score"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("conditions", "keep"),
    [
        (["subject=astronomy"], lambda row: row["subject"] == "astronomy"),
        (["subject != astronomy"], lambda row: row["subject"] != "astronomy"),
        (["token_count>=100", "token_count < 140"], lambda row: 100 <= row["token_count"] < 140),
        (["title == 'Saturn'"], lambda row: row["title"] == "Saturn"),
        (["token_count=0"], lambda row: False),
    ],
)
def test_conditions_apply_before_rows_are_ranked(config, data, capsys, conditions, keep):
    vector = ELMDataset(data, "train")[0]["embedding"].numpy().astype(np.float64)
    text_id = ELMDataset(data, "train")[0]["metadata"]["text_id"]
    where = [word for condition in conditions for word in ("--where", condition)]
    found = document_of(capsys, "search", "--like", text_id, "-k", "7", *where, "--output-dir", data)
    expected = [name for name in by_hand(config.data_dir, vector, keep=keep) if name != text_id]
    assert [hit["text_id"] for hit in found["hits"]] == expected[:7]
    assert found["where"] == conditions


def test_one_split_may_be_searched(config, data, capsys):
    found = document_of(capsys, "search", "sun", "--split", "test", "-k", "1000", "--output-dir", data)
    assert {hit["split"] for hit in found["hits"]} == {"test"}
    assert len(found["hits"]) == len(ELMDataset(data, "test"))


def test_an_unknown_column_names_those_there_are(data, capsys):
    error = fails(capsys, "search", "x", "--where", "beauty>1", "--output-dir", data)
    assert "unknown column 'beauty'; expected one of text_id, text, token_count" in error


def test_scores_are_columns_and_a_split_without_them_is_left_out(config, data, capsys):
    from data_pipeline.execution.scores import annotate
    from data_pipeline.heads import load_head

    train = ["heads", "train", "head", "--label", "subject", "--epochs", "1", "--hidden", "0", "--without-probes"]
    assert main([*train, "--output-dir", data]) == 0
    annotate(config, {"topic": load_head("head")}, ["train"])
    capsys.readouterr()
    found = document_of(capsys, "search", "sun", "--where", "topic_label=astronomy", "-k", "500", "--output-dir", data)
    rows = ELMDataset(data, "train", where="topic_label = 'astronomy'")
    assert {hit["text_id"] for hit in found["hits"]} == set(rows.metadata["text_id"])
    assert all(hit["metadata"]["topic_label"] == "astronomy" for hit in found["hits"])


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["give a query or --like TEXT_ID"]),
        (["a", "--like", "b"], ["one of the two"]),
        (["  "], ["the query is empty"]),
        (["x", "-k", "0"], ["k must be 1 or more, found 0"]),
        (["x", "--where", "token_count"], ["takes COLUMN OPERATOR VALUE", "'token_count'"]),
        (["x", "--where", "=3"], ["takes COLUMN OPERATOR VALUE"]),
        (["x", "--where", "token_count=many"], ["the column 'token_count' holds numbers, found 'many'"]),
        (["x", "--where", "x; import os = 1"], ["unknown column 'x; import os'"]),
        (["--like", "saturn"], ["no row with the id 'saturn'"]),
        (["--like", "saturn-53a4a529b8#s9"], ["did you mean saturn-53a4a529b8#s"]),
    ],
)
def test_what_is_wrong_with_a_search_is_said(data, capsys, arguments, parts):
    error = fails(capsys, "search", *arguments, "--output-dir", data)
    for part in parts:
        assert part in error


def test_without_vectors_there_is_no_search(capsys, tmp_path):
    run = ["run", "--preset", "offline", "--model-name", "hashing", "--source", "sample", "--skip-embeddings"]
    assert main([*run, "--output-dir", "d", "--quiet"]) == 0
    assert "Run `elm embed` first" in fails(capsys, "search", "x", "--output-dir", "d")
    shown = document_of(capsys, "show", "saturn-53a4a529b8#s0", "--output-dir", "d")
    assert shown["neighbors"] == []


# show


def test_a_row_is_shown_with_all_that_is_known(config, data, capsys):
    dropped = pl.read_parquet(config.processed_dir / "dropped.parquet").filter(pl.col("reason") == "too_few_tokens")
    train = ELMDataset(data, "train")
    document_id = next(name for name in dropped["document_id"] if name in set(train.metadata["document_id"]))
    rows = train.metadata.with_row_index().filter(pl.col("document_id") == document_id)
    text_id, row = rows["text_id"][1], rows["index"][1]
    shown = document_of(capsys, "show", text_id, "-k", "3", "--output-dir", data)
    assert (shown["split"], shown["row"], shown["text"]) == ("train", row, train[row]["text"])
    assert shown["metadata"]["token_count"] == rows["token_count"][1]
    assert [entry["text_id"] for entry in shown["document"]] == rows["text_id"].to_list()
    expected = dropped.filter(pl.col("document_id") == document_id)["text_id"].to_list()
    assert [entry["text_id"] for entry in shown["dropped"]] == expected
    assert {entry["reason"] for entry in shown["dropped"]} == {"too_few_tokens"}
    vector = train[row]["embedding"].numpy().astype(np.float64)
    assert [hit["text_id"] for hit in shown["neighbors"]] == by_hand(config.data_dir, vector)[1:4]
    ranks = [{"name": entry["name"], "rank": entry["rank"]} for entry in shown["selections"]]
    assert ranks == ([{"name": "full_n20_seed0", "rank": row + 1}] if row < 20 else [])


def test_a_row_of_a_selection_names_it(data, capsys):
    shown = document_of(capsys, "show", ELMDataset(data)[7]["metadata"]["text_id"], "-k", "0", "--output-dir", data)
    assert shown["selections"] == [{"name": "full_n20_seed0", "rank": 8, "rows": 20}]
    assert shown["neighbors"] == []


def test_a_dropped_id_says_why(config, data, capsys):
    entry = pl.read_parquet(config.processed_dir / "dropped.parquet").row(0, named=True)
    assert main(["show", entry["text_id"], "--output-dir", data]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{entry['text_id']} was dropped\n")
    assert entry["reason"] in out
    shown = document_of(capsys, "show", entry["text_id"], "--output-dir", data)
    assert (shown["split"], shown["row"], shown["document_id"]) == (None, None, entry["document_id"])
    assert shown["dropped"][0]["reason"] == entry["reason"]


@pytest.mark.parametrize(
    ("text_id", "part"),
    [
        ("saturn-53a4a529b8#s9", "did you mean saturn-53a4a529b8#s"),
        ("saturn-53a4a529b8", "is a document; its rows are saturn-53a4a529b8#s0, "),
        ("\x1b[31m", r"'\\x1b[31m'"),
        ("", "no row with the id ''"),
    ],
)
def test_an_unknown_id_gets_near_ones(data, capsys, text_id, part):
    assert part.replace("\\\\", "\\") in fails(capsys, "show", text_id, "--output-dir", data)


# dropped


def test_reasons_are_counted(config, data, capsys):
    ledger = pl.read_parquet(config.processed_dir / "dropped.parquet")
    counted = document_of(capsys, "dropped", "--output-dir", data)
    assert counted["dropped"] == len(ledger)
    assert counted["found"] == len(ledger) + sum(len(ELMDataset(data, split)) for split in ("train", "val", "test"))
    assert sum(entry["count"] for entry in counted["reasons"]) == len(ledger)
    assert [entry["count"] for entry in counted["reasons"]] == sorted(
        (entry["count"] for entry in counted["reasons"]), reverse=True
    )
    for entry in counted["reasons"]:
        assert entry["count"] == len(ledger.filter(pl.col("reason") == entry["reason"]))
        assert entry["share"] == pytest.approx(entry["count"] / counted["found"])


def test_rows_of_a_reason_and_of_a_document(config, data, capsys):
    ledger = pl.read_parquet(config.processed_dir / "dropped.parquet").filter(pl.col("reason") == "too_few_tokens")
    rows = document_of(capsys, "dropped", "--reason", "too_few_tokens", "--limit", "4", "--output-dir", data)
    assert rows["count"] == len(ledger)
    texts = {row["text_id"]: row["text"] for row in read_dropped_examples(config.processed_dir).to_pylist()}
    with_texts = [name for name in ledger["text_id"].to_list() if name in texts]
    assert [(row["text_id"], row["text"]) for row in rows["rows"]] == [(name, texts[name]) for name in with_texts[:4]]
    document_id = ledger["document_id"][0]
    rows = document_of(capsys, "dropped", "--document", document_id, "--output-dir", data)
    assert {row["document_id"] for row in rows["rows"]} == {document_id}
    assert main(["dropped", "--document", "nowhere", "--output-dir", data]) == 0
    assert "no paragraph of document nowhere was dropped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--reason", "bad"], "was dropped for the reason 'bad'; expected one of too_few_tokens"),
        (["--limit", "3"], "add --reason or --document"),
        (["--reason", "too_few_tokens", "--limit", "0"], "--limit must be 1 or more, found 0"),
    ],
)
def test_what_is_wrong_with_the_flags_of_dropped_is_said(data, capsys, arguments, part):
    assert part in fails(capsys, "dropped", *arguments, "--output-dir", data)


# Hostile texts


def test_a_hostile_text_cannot_control_the_terminal(capsys, tmp_path):
    (tmp_path / "in.jsonl").write_text(
        "".join(json.dumps({"id": f"a\x1b[2J{n}", "text": f"{HOSTILE} {n}"}) + "\n" for n in range(30))
    )
    run = ["run", "--preset", "offline", "--model-name", "hashing", "--source", "jsonl", "--corpus.path", "in.jsonl",
           "--min-tokens", "1", "--no-preprocess.near_dedup", "--output-dir", "d"]  # fmt: skip
    code = main(run)
    captured = capsys.readouterr()
    assert code == 0, captured.err
    text_id = ELMDataset("d")[0]["metadata"]["text_id"]
    for arguments in (["search", "rivers"], ["show", text_id], ["dropped"], ["info"]):
        for flags in ([], ["--json"]):
            assert main([*arguments, *flags, "--output-dir", "d"]) == 0
            captured = capsys.readouterr()
            shown = captured.out + captured.err
            assert not [letter for letter in shown if letter in "\x1b\x07\x9b\u202e"], arguments
    assert json.loads(_json_of(capsys, "show", text_id, "--output-dir", "d"))["text"] == ELMDataset("d")[0]["text"]


def _json_of(capsys, *arguments):
    assert main([*arguments, "--json"]) == 0
    return capsys.readouterr().out
