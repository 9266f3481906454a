import hashlib

import polars as pl
import pytest

from data_pipeline.errors import ConfigError, SourceError
from data_pipeline.preprocess.own_filters import check_conditions, condition_reasons, function_reasons
from data_pipeline.utils.functions import load_function, source_sha256

SETTING = "filters.functions"

MODULE = """
def is_poem(row):
    return "poem" if row["text"].count("\\n") > 2 else None

def fails(row):
    return 1 / 0

def returns_true(row):
    return True

not_a_function = 3
"""
ROWS = pl.DataFrame({"text_id": ["a", "b", "c"], "text": ["x", "1\n2\n3\n4", "y"], "year": [1990, None, 2005]})
SCHEMA = {"text_id": pl.String, "text": pl.String, "year": pl.Int64}


@pytest.fixture
def module(tmp_path, monkeypatch, request):
    name = f"own_{hashlib.sha256(request.node.name.encode()).hexdigest()[:8]}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_a_function_gives_reasons(module):
    name = f"{module}:is_poem"
    assert function_reasons(name, load_function(name, SETTING), ROWS) == [None, "poem", None]


def test_the_identity_is_the_hash_of_the_source(module, tmp_path):
    assert (
        source_sha256(f"{module}:is_poem", SETTING)
        == hashlib.sha256((tmp_path / f"{module}.py").read_bytes()).hexdigest()
    )


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("fails", "failed for 'a': ZeroDivisionError: division by zero"),
        ("returns_true", "returned bool for 'a', expected a reason"),
    ],
)
def test_a_function_that_cannot_be_used(module, function, message):
    name = f"{module}:{function}"
    with pytest.raises(SourceError, match=message) as error:
        function_reasons(name, load_function(name, SETTING), ROWS)
    assert name in str(error.value)


@pytest.mark.parametrize(
    ("attribute", "message"),
    [("missing", "cannot be imported: AttributeError"), ("not_a_function", "expected a function")],
)
def test_a_missing_function(module, attribute, message):
    with pytest.raises(ConfigError, match=message):
        load_function(f"{module}:{attribute}", SETTING)


def test_a_missing_module_and_one_that_fails(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="filters.functions: no_such_module:f cannot be imported"):
        load_function("no_such_module:f", SETTING)
    (tmp_path / "own_broken_module.py").write_text("raise RuntimeError('not today')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="RuntimeError: not today"):
        load_function("own_broken_module:f", SETTING)


def test_a_function_without_a_source_file():
    with pytest.raises(ConfigError, match="builtins:len has no source file"):
        source_sha256("builtins:len", SETTING)


def test_conditions_that_are_not_true_drop_rows():
    assert condition_reasons("old", "year > 2000", ROWS) == ["old", "old", None]
    assert condition_reasons("old", "year IS NULL OR year > 2000", ROWS) == ["old", None, None]
    assert condition_reasons("long", "length(text) < 5", ROWS) == [None, "long", None]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("yaer > 2000", "names the column yaer, expected one of text_id, text, year"),
        ("year >", "cannot be used"),
        ("year + 1", "gives Int64, expected a condition that is true or false"),
        ("text > 5", "cannot be used"),
    ],
)
def test_conditions_that_cannot_be_used(condition, message):
    with pytest.raises(ConfigError, match=message) as error:
        check_conditions({"old": condition}, SCHEMA)
    assert "filters.keep_where.old" in str(error.value)


def test_conditions_that_can():
    check_conditions({"old": "year > 2000", "named": "text LIKE '%x%'"}, SCHEMA)
