from typing import Any

import pytest
from pydantic import ValidationError

from data_pipeline.config.base import Section, setting
from data_pipeline.config.judge import JudgeConfig
from data_pipeline.config.retrieval import CandidateConfig
from data_pipeline.metrics.registry import MEASURES
from data_pipeline.selection import SELECTORS


class Inner(Section):
    model: str = "m"
    device: str = setting("cpu", decides=False)


class Outer(Section):
    rows: int = setting(3, ge=1)
    slots: int = setting(2, decides=False, ge=1)
    inner: Inner = Inner()
    parts: tuple[Inner, ...] = (Inner(model="a"), Inner(model="b", device="cuda"))
    named: dict[str, Any] = setting(default_factory=lambda: {"device": "cuda"})


def test_only_settings_that_decide_are_in_a_fingerprint():
    assert Outer().deciding() == {
        "rows": 3, "inner": {"model": "m"}, "parts": [{"model": "a"}, {"model": "b"}], "named": {"device": "cuda"},
    }  # fmt: skip
    assert Outer(slots=9, inner=Inner(device="cuda")).deciding() == Outer().deciding()
    assert Outer(rows=4).deciding() != Outer().deciding()


def test_defaults_can_be_left_out():
    assert Outer().deciding(exclude_defaults=True) == {}
    assert Outer(rows=4, slots=9).deciding(exclude_defaults=True) == {"rows": 4}


def test_constraints_and_required_fields_are_those_of_pydantic():
    class Required(Section):
        folder: str = setting(decides=False)

    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        Outer(rows=0)
    with pytest.raises(ValidationError, match="Field required"):
        Required()


@pytest.mark.parametrize(
    "model",
    [JudgeConfig, CandidateConfig, *(entry.config for entry in [*MEASURES.values(), *SELECTORS.values()])],
)
def test_how_something_is_computed_is_in_no_fingerprint(model):
    """A device, an address or a number of slots may differ on another machine: the same bytes come out."""
    names = {"device", "batch_tokens", "slots", "base_url", "api_key_env", "timeout_s", "flush_s", "tries"}

    def check(section):
        for name, value in section.items():
            assert name not in names, name
            if isinstance(value, dict):
                check(value)

    required = {name: "x" for name, field in model.model_fields.items() if field.is_required()}
    try:
        config = model(**required)
    except ValidationError:  # a part or a list is required: its own model is checked by its own entry
        return
    check(config.deciding())
