"""Conditions of a command line: parsed without evaluating anything, with values of the type of the column."""

import polars as pl
import pytest

from data_pipeline.errors import ConfigError
from data_pipeline.store.conditions import column_of, parse_condition

FRAME = pl.DataFrame(
    {
        "name": ["en", "de", None, "a=b", "it's"],
        "edu": [1.5, 3.0, None, 4.0, -1.0],
        "count": [1, 2, 3, 2**53 + 1, -4],
        "good": [True, False, None, True, False],
        "tags": [["a"], [], [], [], []],
        "odd name": ["x", "y", "z", "x", "y"],
    }
)


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ("name=en", [0]),
        ("name == en", [0]),
        ("name = 'en'", [0]),
        ('name="en"', [0]),
        ("name != en", [1, 3, 4]),
        ("name=a=b", [3]),
        ("name=it's", [4]),
        ("name > de", [0, 4]),
        ("edu>=3", [1, 3]),
        ("edu < 3", [0, 4]),
        ("edu<=-1", [4]),
        ("edu = 1.5", [0]),
        ("edu > 1e0", [0, 1, 3]),
        ("count=9007199254740993", [3]),  # which no float is
        ("count > 2.5", [2, 3]),
        ("good=true", [0, 3]),
        ("good = FALSE", [1, 4]),
        ("odd name=y", [1, 4]),
        ("name=", []),
    ],
)
def test_rows_that_fulfil_a_condition(condition, rows):
    assert FRAME.with_row_index().filter(parse_condition(condition, FRAME.schema))["index"].to_list() == rows


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("edu", r"takes COLUMN OPERATOR VALUE with one of <= .* found 'edu'"),
        ("", "takes COLUMN OPERATOR VALUE"),
        (">=3", "takes COLUMN OPERATOR VALUE"),
        ("Edu>3", "unknown column 'Edu'; expected one of name, edu, count, good, tags, odd name"),
        ("edu>x", "the column 'edu' holds numbers, found 'x'"),
        ("count=", "the column 'count' holds numbers, found ''"),
        ("good=1", "the column 'good' is true or false, found '1'"),
        ("tags=a", r"a column of List\(String\) \('tags'\) cannot be compared"),
        ("__import__('os').system('x')=1", "unknown column"),
    ],
)
def test_what_is_wrong_with_a_condition_is_said(condition, message):
    with pytest.raises(ConfigError, match=message):
        parse_condition(condition, FRAME.schema)


def test_the_column_of_a_condition():
    assert column_of("odd name >= 3") == "odd name"
