import sys

import polars as pl
import pytest

from data_pipeline.errors import MissingExtraError
from data_pipeline.preprocess.pii.mask import FINDERS, PersonalData

KINDS = ["email", "ip", "phone", "credit_card"]


def personal_data(engine="patterns"):
    return PersonalData(FINDERS[engine](KINDS, "US"))


def test_lines_are_masked_and_counted():
    personal = personal_data()
    lines = pl.Series(["Ask a@b.org or c@d.org at 8.8.8.8.", "nothing here", "", "(650) 253-0000"])
    assert personal.mask(lines).to_list() == ["Ask <email> or <email> at <ip>.", "nothing here", "", "<phone>"]
    assert dict(personal.counts) == {"email": 2, "ip": 1, "phone": 1}
    assert lines[0].startswith("Ask a@")


def test_texts_get_a_reason():
    personal = personal_data()
    assert personal.reasons(["one\ntwo a@b.org", "none", "4111 1111 1111 1111"]) == ["has_pii", None, "has_pii"]
    assert dict(personal.counts) == {"email": 1, "credit_card": 1}


def test_presidio_finds_the_same_kinds():
    pytest.importorskip("presidio_analyzer", reason="presidio-analyzer is not installed")
    text = "Ask a@example.org at 8.8.8.8, (650) 253-0000, card 4111 1111 1111 1111"
    masked = personal_data("presidio").mask(pl.Series([text]))[0]
    assert masked == "Ask <email> at <ip>, <phone>, card <credit_card>"


@pytest.mark.parametrize(
    ("engine", "module", "extra"),
    [("patterns", "phonenumbers", "filters"), ("presidio", "presidio_analyzer.predefined_recognizers", "presidio")],
)
def test_a_missing_package_is_named(engine, module, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"elm-data-preparation\[{extra}\]"):
        personal_data(engine)
