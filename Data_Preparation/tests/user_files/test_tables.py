import gzip
import json

import polars as pl
import pytest

from data_pipeline.errors import SourceError
from data_pipeline.user_files.tables import read_table

ROLES = {"id": "id", "label": "value", "text": "text"}


def write(path, rows):
    """The same rows in the format of the path's ending."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    if path.suffix == ".jsonl":
        content = "".join(json.dumps(row) + "\n" for row in rows)
    elif path.suffix == ".parquet":
        pl.DataFrame([{name: row.get(name) for name in names} for row in rows], infer_schema_length=None).write_parquet(
            path
        )
        return path
    else:
        separator = "," if path.suffix == ".csv" else "\t"
        lines = [
            names,
            *([str(row.get(name, "") if row.get(name) is not None else "") for name in names] for row in rows),
        ]
        content = "".join(separator.join(line) + "\n" for line in lines)
    path.write_text(content)
    return path


@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv", "parquet"])
@pytest.mark.parametrize(
    ("labels", "dtype", "expected"),
    [
        ([1] * 120 + [0.5], pl.Float64, [1.0] * 120 + [0.5]),
        ([None] * 120 + [2], pl.Int64, [None] * 120 + [2]),
        ([float("nan")] * 3 + [0.5], pl.Float64, [None] * 3 + [0.5]),
        (["good", "bad"], pl.String, ["good", "bad"]),
    ],
    ids=["whole numbers, then halves", "missing, then numbers", "NaN", "words"],
)
def test_types_are_those_of_all_rows_in_every_format(tmp_path, ending, labels, dtype, expected):
    rows = [{"id": f"d{row}", "label": label} for row, label in enumerate(labels)]
    table = read_table(write(tmp_path / f"x.{ending}", rows), ROLES)
    assert table.frame["label"].dtype == dtype
    assert table.frame["label"].to_list() == expected
    assert table.frame["id"].to_list() == [row["id"] for row in rows]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv", "parquet"])
def test_ids_and_texts_stay_what_they_are(tmp_path, ending):
    rows = [{"id": "007", "text": "1984", "label": 3}, {"id": "null", "text": "nan", "label": 4}]
    table = read_table(write(tmp_path / f"x.{ending}", rows), ROLES)
    assert table.frame.rows() == [("007", 3, "1984"), ("null", 4, "nan")]


def test_a_key_that_comes_late_is_a_column(tmp_path):
    rows = [{"id": f"d{row}"} for row in range(150)] + [{"id": "last", "label": 1.5}]
    table = read_table(write(tmp_path / "x.jsonl", rows), ROLES)
    assert table.frame["label"].to_list() == [None] * 150 + [1.5]


@pytest.mark.parametrize("label", ["007", "1.2.3", "0x10", "1_000", "１２"])
def test_codes_in_a_csv_are_no_numbers(tmp_path, label):
    table = read_table(write(tmp_path / "x.csv", [{"id": "a", "label": label}]), ROLES)
    assert table.frame["label"].to_list() == [label]


def test_lists_of_ids_may_be_empty_numbers_or_missing(tmp_path):
    rows = [{"id": []} for _ in range(110)] + [{"id": ["a", 7]}, {"id": None}]
    assert read_table(write(tmp_path / "x.jsonl", rows), ROLES).frame["id"].to_list()[109:] == [[], ["a", "7"], None]


def test_vectors_are_lists_of_numbers(tmp_path):
    path = write(tmp_path / "x.jsonl", [{"v": [1, 2]}, {"v": [0.5, 1e300]}])
    assert read_table(path, {"v": "value"}).frame["v"].to_list() == [[1, 2], [0.5, 1e300]]


def test_a_csv_may_be_quoted_compressed_and_begin_with_a_mark(tmp_path):
    content = '\ufeffid,text,label\r\na,"one, ""two""\nthree",1\r\n\r\nb,,2\r\n'.encode()
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(content))
    table = read_table(tmp_path / "x.csv.gz", ROLES)
    assert table.frame.rows() == [("a", 1, 'one, "two"\nthree'), ("b", 2, None)]
    assert table.place(1).endswith("line 5")


def test_cells_of_a_csv_may_be_long(tmp_path):
    path = write(tmp_path / "x.csv", [{"id": "a", "text": "word " * 100_000}])
    assert len(read_table(path, ROLES).frame["text"][0]) == 500_000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "id,label\na,1\nb\n", r"x\.csv, line 3: 1 columns, expected 2 \(id, label\)\. Is there a stray"),
        ("x.tsv", "id\tlabel\na\t1\nb\t2\t\n", r"x\.tsv, line 3: 3 columns, expected 2 .* a stray tab"),
        ("x.tsv", 'id\tlabel\n"a\t1\nb"\t2\t3\n', r"x\.tsv, line 3: 3 columns"),
        ("x.csv", 'id,label\n"a,1\nb,2\n', r"x\.csv, line 2: not CSV: .* Is a quote missing"),
        ("x.csv", "", r"x\.csv is empty, expected a line with the names of the columns"),
        ("x.csv", "id,id\na,b\n", r"x\.csv, line 1: two columns have the same name: id, id"),
        ("x.csv", "id,label\n,1\n", r"x\.csv, line 2: 'id' must be an id \(a text or a whole number\), found None"),
        ("x.jsonl", '{"id": 1.5}\n', r"x\.jsonl, line 1: 'id' must be an id .* found 1\.5"),
        ("x.jsonl", '{"id": "a", "text": 5}\n', r"x\.jsonl, line 1: 'text' must be a text, found int: 5"),
        (
            "x.jsonl", '{"id": "a", "label": 1}\n\n{"id": "b", "label": "one"}\n',
            r"'label' must hold values of one kind, found 1 \(.*line 1\) and 'one' \(.*line 3\)",
        ),
        ("x.jsonl", '{"id": "a", "label": [1, "one"]}\n', "'label' must hold values of one kind"),
        ("x.jsonl", '{"id": "a", "label": 18446744073709551616}\n', "the column 'label' cannot be read"),
        ("x.txt", "id\n", r"x\.txt must be a \.parquet, \.csv, \.tsv or \.jsonl file"),
        ("x.parquet", "id\n", r"x\.parquet cannot be read as parquet"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_by_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(SourceError, match=message):
        read_table(tmp_path / name, ROLES)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"id": ["a", None]}, "the table, row 2: 'id' has no id"),
        ({"id": [1.5]}, "the column 'id' must hold ids"),
        ({"id": [[1.5]]}, "the column 'id' must hold ids"),
        ({"text": [1]}, "the column 'text' must hold texts, found Int64"),
    ],
)
def test_frames_are_checked_like_files(frame, message):
    with pytest.raises(SourceError, match=message):
        read_table(pl.DataFrame(frame), ROLES)


def test_columns_that_nobody_asked_for_may_hold_anything(tmp_path):
    path = write(tmp_path / "x.jsonl", [{"id": "a", "more": 1}, {"id": "b", "more": {"deep": ["x"]}}])
    table = read_table(path, ROLES)
    assert (table.frame.columns, list(table.names)) == (["id"], ["id", "more"])
    with pytest.raises(SourceError, match=r"x\.jsonl has no column 'label'; it has id, more"):
        table.require("id", "label")
