import json
import threading
from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

duckdb = pytest.importorskip("duckdb", reason="needs the extra explore")

from data_pipeline.report.explorer.database import TEXT_CHARACTERS, open_database  # noqa: E402
from data_pipeline.report.explorer.nearest import nearest_rows  # noqa: E402
from data_pipeline.selection.listed import read_listed_ids  # noqa: E402


@pytest.fixture(scope="module")
def database(contents):
    positions = np.arange(2 * len(contents), dtype=np.float32).reshape(-1, 2)
    database = open_database(contents, contents.table(), positions)
    yield database
    database.close()


def rows_of(database, sql):
    return pa.ipc.open_stream(database.arrow(sql)).read_all().to_pylist()


def test_rows_are_in_order_with_their_positions(contents, database):
    found = rows_of(database, "SELECT __row_index__ AS row, __x, __y, text_id FROM dataset ORDER BY row")
    assert [row["row"] for row in found] == list(range(len(contents)))
    assert [row["text_id"] for row in found] == contents.table()["text_id"].to_pylist()
    assert (found[3]["__x"], found[3]["__y"]) == (6, 7)


def test_neighbours_are_computed_for_the_rows_that_are_asked_for_only(contents, database, monkeypatch):
    asked = []

    def watched(contents, row):
        asked.append(row)
        return nearest_rows(contents, row)

    monkeypatch.setattr("data_pipeline.report.explorer.database.nearest_rows", watched)
    other = open_database(contents, contents.table(), np.zeros((len(contents), 2), np.float32))
    rows_of(other, "SELECT text, __x FROM dataset")
    assert asked == []
    (found,) = rows_of(other, "SELECT __neighbors AS near FROM dataset WHERE __row_index__ = 5")
    assert asked == [5]
    expected = nearest_rows(contents, 5)
    assert found["near"]["ids"] == expected.rows.tolist()
    assert np.allclose(found["near"]["distances"], expected.distances)
    other.close()


def test_the_atlas_can_add_a_column_of_categories(database):
    database.execute('ALTER TABLE dataset ADD COLUMN IF NOT EXISTS "__ev_split_id" INTEGER DEFAULT 0')
    database.execute("UPDATE dataset SET \"__ev_split_id\" = CASE split::TEXT WHEN 'train' THEN 1 ELSE 2 END")
    found = rows_of(database, "SELECT __ev_split_id AS id, count(*) AS n FROM dataset GROUP BY 1 ORDER BY 1")
    assert [row["id"] for row in found] == [1, 2]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "COPY dataset TO '/tmp/elm-explorer-copy.csv'",
        "ATTACH '/tmp/elm-explorer-copy.duckdb'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SELECT * FROM read_parquet('https://example.org/a.parquet')",
        "SET enable_external_access = true",
        "SELECT * FROM contents",
    ],
)
def test_queries_reach_no_file_no_address_and_no_variable(database, sql):
    with pytest.raises(duckdb.Error):
        database.execute(sql)


def test_long_texts_are_cut_where_they_are_shown_and_whole_in_files(contents, tmp_path):
    table = contents.table()
    texts = table["text"].to_pylist()
    texts[0], texts[1] = "é" * (TEXT_CHARACTERS + 1), "é" * TEXT_CHARACTERS
    table = table.set_column(table.column_names.index("text"), "text", pa.array(texts, pa.large_string()))
    database = open_database(contents, table, np.zeros((len(contents), 2), np.float32))
    shown = [row["text"] for row in rows_of(database, "SELECT text FROM dataset ORDER BY __row_index__ LIMIT 3")]
    assert shown[0] == f"{'é' * 5000} … [cut: 5000 of 5001 characters are shown]"
    assert shown[1:] == texts[1:3]
    database.write_selection("__row_index__ < 2", "parquet", tmp_path / "file")
    assert pl.read_parquet(tmp_path / "file")["text"].to_list() == texts[:2]
    database.close()


@pytest.mark.parametrize("form", ["parquet", "csv", "json", "jsonl"])
@pytest.mark.parametrize("predicate", ["subject = 'astronomy' AND split = 'train'", None, "1 = 0"])
def test_a_selection_is_a_file_of_the_rows_with_their_ids(contents, database, tmp_path, form, predicate):
    path = tmp_path / f"file.{form}"
    database.write_selection(predicate, form, path)
    table = contents.table()
    if predicate is not None:
        keep = pc.and_(pc.equal(table["subject"], "astronomy"), pc.equal(table["split"].cast(pa.string()), "train"))
        table = table.filter(keep) if predicate != "1 = 0" else table.slice(0, 0)
    if form == "parquet":
        found = pl.read_parquet(path).to_dicts()
    elif form == "csv":
        found = pl.read_csv(path, infer_schema=False).to_dicts()
    else:
        text = path.read_text()
        found = json.loads(text) if form == "json" else [json.loads(line) for line in text.splitlines()]
    assert [row["text_id"] for row in found] == table["text_id"].to_pylist()
    assert [row["text"] for row in found] == table["text"].to_pylist()
    if found:
        assert list(found[0]) == table.column_names  # without row numbers, positions and neighbours
        assert list(read_listed_ids(path).ids) == table["text_id"].to_pylist()  # as elm select --ids reads it


def test_hostile_names_and_values_are_only_names_and_values(contents, tmp_path):
    table = contents.table()
    hostile = ['"; DROP TABLE dataset; --', "a'b", "<b>x</b>", "__x", "TEXT", "__neighbors"]
    for number, name in enumerate(hostile):
        table = table.append_column(name if name != "TEXT" else "text_2", pa.array([f"{number}\0'\""] * len(table)))
    database = open_database(contents, table, np.ones((len(contents), 2), np.float32))
    assert database.names.x != "__x"
    assert database.names.neighbors != "__neighbors"
    (row,) = rows_of(database, "SELECT * FROM dataset WHERE __row_index__ = 0")
    assert row['"; DROP TABLE dataset; --'] == "0\0'\""
    assert row[database.names.x] == 1
    database.write_selection("__row_index__ = 0", "csv", tmp_path / "file.csv")
    assert "DROP TABLE" in (tmp_path / "file.csv").read_text()
    database.close()


def test_json_has_null_for_what_is_no_number(database):
    assert json.loads(database.json("SELECT avg(NULL::INT) AS a, 'nan'::DOUBLE AS b, 1.5 AS c")) == [
        {"a": None, "b": None, "c": 1.5}
    ]


def test_queries_of_several_threads_do_not_mix(database):
    found = {}

    def ask(number):
        found[number] = rows_of(database, f"SELECT {number} AS n")[0]["n"]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: number for number in range(8)}


def test_a_dataset_without_scores_and_subsets_opens(contents):
    bare = replace(contents, subsets={})
    database = open_database(bare, bare.table(), np.zeros((len(contents), 2), np.float32))
    assert not [name for name in database.columns if name.startswith("subset ")]
    database.close()
