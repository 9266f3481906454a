import numpy as np
import polars as pl
import polars.selectors as cs
import pytest
from support.builders import JOINED, ROWS, flat, make, rows_of, same, stored_rows

from data_pipeline import ELMDataset
from data_pipeline.config.load import load_config
from data_pipeline.errors import SourceError, StoreError
from data_pipeline.stages.pipeline import run
from data_pipeline.store import Columns

COLUMNS = ["text", "metadata", "embedding", "index"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return make(tmp_path_factory.mktemp("made"), JOINED)


@pytest.fixture(scope="module")
def dataset(data_dir):
    return ELMDataset(data_dir, columns=COLUMNS)


@pytest.fixture(scope="module")
def rows(data_dir):
    return stored_rows(data_dir)


def is_rows(view, dataset, expected):
    """A view holds these rows, whatever way they are asked for."""
    assert len(view) == len(expected)
    whole = dataset.get_batch(expected)
    batch = view.get_batch(range(len(expected)))
    for name in ("text", "metadata"):
        assert batch[name] == whole[name]
    assert batch["embedding"].equal(whole["embedding"])
    assert batch["index"].tolist() == list(range(len(expected)))  # numbers of its own
    assert view.metadata.equals(dataset.metadata[expected])
    np.testing.assert_array_equal(view.to_numpy(), dataset.to_numpy()[expected])
    assert [sample["text"] for sample in view] == whole["text"]


def test_selected_rows_come_in_the_order_they_were_asked_for(dataset):
    for expected in ([5, 3, 160, 3], [], list(range(ROWS)), list(range(ROWS - 1, -1, -1))):
        is_rows(dataset.select(expected), dataset, expected)
    is_rows(dataset.select(np.array([-1, 0])), dataset, [ROWS - 1, 0])
    mask = np.arange(ROWS) % 7 == 2
    is_rows(dataset.select(mask), dataset, np.flatnonzero(mask).tolist())
    is_rows(dataset.select(mask.tolist()), dataset, np.flatnonzero(mask).tolist())


def test_a_selection_of_a_selection_counts_its_rows(dataset):
    first = dataset.select(range(100, 60, -1))
    is_rows(first.select([0, 39, 39, -2]), dataset, [100, 61, 61, 62])
    is_rows(first.filter(pl.col("token_count") > 0).select([1]), dataset, [99])


def test_a_selection_that_cannot_be_is_refused(dataset):
    with pytest.raises(IndexError, match="index 165 is out of range"):
        dataset.select([0, 165])
    with pytest.raises(IndexError, match="index 2 is out of range: there are 2 rows"):
        dataset.select([5, 6]).select([2])
    with pytest.raises(ValueError, match=r"one bool for each of 165 rows, it has shape \(3,\)"):
        dataset.select([True, False, True])
    with pytest.raises(TypeError):
        dataset.select([0.5])
    with pytest.raises(IndexError, match="there are 2 rows"):
        dataset.select([5, 6])[2]


def test_a_selection_is_other_rows_for_a_checkpoint(dataset):
    views = [dataset, dataset.select(range(10)), dataset.select(range(9, -1, -1)), dataset.select([1]).select([0])]
    assert len({view.fingerprint for view in views}) == 4
    assert dataset.select(range(10)).fingerprint == views[1].fingerprint


def test_a_selection_is_shuffled_and_read_ahead_like_a_whole(dataset):
    view = dataset.select(range(ROWS - 1, 99, -1))
    for shuffle in ("full", "block"):
        batches = list(view.get_dataloader(7, shuffle, block_rows=8, window_blocks=3))
        assert sorted(flat(rows_of(batches))) == list(range(65))
        for batch in batches:
            same(batch, view.get_batch(batch["index"].numpy()))


def test_a_selection_does_not_lie_in_one_piece(dataset):
    with pytest.raises(StoreError, match=r"a selection of rows cannot be mapped as one array; use to_numpy\(\)"):
        _ = dataset.select([0, 1]).embeddings


# Conditions


CONDITIONS = {
    "number": pl.col("token_count") > 100,
    "several": (pl.col("token_count") > 80) & (pl.col("subject") != "x") | (pl.col("char_count") % 2 == 0),
    "text": pl.col("text").str.contains("the"),
    "of the whole": pl.col("token_count") > pl.col("token_count").mean(),
    "of a group": pl.col("token_count") == pl.col("token_count").max().over("title"),
    "null": pl.when(pl.col("token_count") > 90).then(True),
    "none": pl.col("token_count") < 0,
    "all": pl.col("token_count") >= 0,
    "place": pl.int_range(pl.len()) % 3 == 0,
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_filter_keeps_the_rows_that_polars_keeps(dataset, rows, name):
    expected = rows.with_row_index("row").filter(CONDITIONS[name])["row"].to_list()
    is_rows(dataset.filter(CONDITIONS[name]), dataset, expected)
    # And of a selection, in its own order.
    chosen = np.random.default_rng(0).permutation(ROWS)[:60]
    expected = rows[chosen].with_columns(row=pl.Series(chosen)).filter(CONDITIONS[name])["row"].to_list()
    is_rows(dataset.select(chosen).filter(CONDITIONS[name]), dataset, expected)


def test_only_the_columns_of_a_condition_are_read(dataset, monkeypatch):
    asked = []
    batches = Columns.batches
    monkeypatch.setattr(Columns, "batches", lambda self, names: asked.append(list(names)) or batches(self, names))
    dataset.filter((pl.col("token_count") > 3) & (pl.col("char_count") > 3) & (pl.col("token_count") < 99))
    assert [sorted(columns) for columns in asked] == [["char_count", "token_count"]]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (pl.col("tokens") > 3, "unknown column tokens; expected one of text_id, text, token_count"),
        (pl.col("token_count"), "must be true or false for each of 165 rows; it gives 165 values of Int64"),
        (pl.col("token_count").mean() > 3, "it gives 1 values of Boolean"),
        (pl.col("title") + 1 > 3, "cannot be evaluated"),
    ],
)
def test_a_condition_that_is_none_is_refused(dataset, condition, message):
    with pytest.raises(ValueError, match=message):
        dataset.filter(condition)


def test_a_condition_over_columns_by_their_kind(dataset, rows):
    # A selector names no columns by itself.
    condition = pl.all_horizontal(cs.by_name("token_count", "char_count") > 200)
    expected = rows.with_row_index("row").filter(condition)["row"].to_list()
    is_rows(dataset.filter(condition), dataset, expected)


# Manifests


@pytest.mark.parametrize("kind", ["list", "table", "parquet", "csv", "jsonl"])
def test_a_manifest_of_ids_gives_its_rows_in_its_order(dataset, rows, tmp_path, kind):
    expected = [160, 3, 40, 39]
    table = rows[expected].select("text_id", "title")
    path = tmp_path / f"subset.{kind}"
    {"parquet": table.write_parquet, "csv": table.write_csv, "jsonl": table.write_ndjson}.get(kind, lambda p: None)(
        path
    )
    source = {"list": table["text_id"].to_list(), "table": table}.get(kind, path)
    is_rows(dataset.subset(source), dataset, expected)
    is_rows(dataset.select(range(ROWS - 1, -1, -1)).subset(source), dataset, expected)
    if kind == "jsonl":
        is_rows(dataset.subset(str(path)), dataset, expected)


def test_a_manifest_that_does_not_fit_is_refused_and_says_why(dataset, rows, tmp_path):
    ids = rows["text_id"].to_list()
    with pytest.raises(StoreError, match=r"2 of 3 ids are not in this dataset \(train\), the first is 'x'"):
        dataset.subset([ids[0], "x", "y"])
    with pytest.raises(StoreError, match=rf"the list: duplicate id '{ids[4]}'"):
        dataset.subset([ids[3], ids[4], ids[5], ids[4]])
    with pytest.raises(StoreError, match=r"2 of 2 ids are not"):
        dataset.select([0]).subset(ids[1:3])  # they are in the files, but not in the selection
    with pytest.raises(SourceError, match="the table has no column 'text_id'; it has id"):
        dataset.subset(pl.DataFrame({"id": ids}))
    with pytest.raises(SourceError, match=r"no such file: .*gone\.parquet"):
        dataset.subset(tmp_path / "gone.parquet")
    (tmp_path / "ids.txt").write_text("a")
    with pytest.raises(SourceError, match=r"ids\.txt must be a .parquet, .csv, .tsv or .jsonl file"):
        dataset.subset(tmp_path / "ids.txt")
    (tmp_path / "torn.jsonl").write_text('{"text_id": "a"')
    with pytest.raises(SourceError, match=r"torn\.jsonl, line 1: not JSON"):
        dataset.subset(tmp_path / "torn.jsonl")
    assert len(dataset.subset([])) == 0


@pytest.fixture
def with_missing_scores(tmp_path):
    """A corpus whose metadata has NaN, as Python's JSON writes it, and its data folder."""
    path = tmp_path / "in.jsonl"
    scores = ["NaN" if row % 4 == 0 else row / 100 for row in range(40)]
    lines = (f'{{"id": "n{row}", "text": "river stone lamp {row}", "score": {s}}}' for row, s in enumerate(scores))
    path.write_text("\n".join(lines))
    corpus = {"source": "jsonl", "name": "m", "path": path, "id_field": "id", "metadata_fields": {"score": "float"}}
    flags = {
        "data_dir": tmp_path / "data", "embedding.model_name": "hashing", "corpus": corpus,
        "preprocess": {"min_tokens": 1, "min_chars": 1},
        "split": {"train_ratio": 1, "val_ratio": 0, "test_ratio": 0},
    }  # fmt: skip
    run(load_config(flags=flags))
    return tmp_path / "data"


def test_a_missing_number_passes_no_condition(with_missing_scores):
    for where, rows in (("score > 5", 0), ("score > 0.2", 15), ("score >= 0", 30), ("score is null", 10)):
        assert len(ELMDataset(with_missing_scores, where=where)) == rows
    dataset = ELMDataset(with_missing_scores)
    assert len(dataset.filter(pl.col("score") > 5)) == 0
    assert sorted(value for value in dataset.metadata["score"].to_list() if value is not None)[-1] == 0.39
    assert dataset.metadata["score"].null_count() == 10
    assert [dataset[row]["metadata"]["score"] for row in range(40)] == dataset.metadata["score"].to_list()


def test_nan_in_a_store_or_in_scores_is_null_too(with_missing_scores):
    """An older version wrote it into the paragraphs; a measure may have no answer for a text."""
    path = with_missing_scores / "m_processed" / "train.parquet"
    table = pl.read_parquet(path).with_columns(pl.col("score").fill_null(float("nan")))
    (with_missing_scores / "m_processed" / "manifest.json").unlink()
    table.write_parquet(path)
    dataset = ELMDataset(with_missing_scores, load_embeddings=False, where="score > 5 or score is null")
    assert len(dataset) == 10
    assert {sample["metadata"]["score"] for sample in dataset} == {None}
