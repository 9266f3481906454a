import pytest

from data_pipeline.errors import ConfigError
from data_pipeline.utils.breaker import Breaker
from data_pipeline.utils.keys import read_key, without_key


def test_a_breaker_opens_when_its_window_has_too_many_failures():
    breaker = Breaker(4, 0.5, RuntimeError)
    for failure in ("", "a", "b"):
        breaker.count(failure)
    breaker = Breaker(4, 0.5, RuntimeError)
    for failure in ("a", "", ""):
        breaker.count(failure)
    with pytest.raises(RuntimeError, match=r"2 of the last 4 calls failed, .*: a \(2x\)\."):
        breaker.count("a")
    breaker = Breaker(2, 1.0, RuntimeError)
    for failure in ("a", "", "a", "", "a"):
        breaker.count(failure)


def test_a_key_comes_from_the_variable_that_is_named(monkeypatch):
    assert read_key(None, "x.api_key_env", "the owner") == ""
    monkeypatch.setenv("A_KEY", " sk-12345678 ")
    assert read_key("A_KEY", "x.api_key_env", "the owner") == "sk-12345678"
    for value, message in (("", "is not set; set it to the key of the owner"), ("schlüssel", "cannot hold")):
        monkeypatch.setenv("A_KEY", value)
        with pytest.raises(ConfigError, match=rf"^x\.api_key_env: the .*A_KEY.*{message}"):
            read_key("A_KEY", "x.api_key_env", "the owner")


def test_a_key_is_removed_and_a_placeholder_is_not():
    assert without_key("no sk-12345678!", "sk-12345678") == "no [key]!"
    assert without_key("none at all", "none") == "none at all"
    assert without_key("half \ud800", "") == "half \\ud800"
