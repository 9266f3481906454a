"""Small helpers: how values and progress are shown."""

import io
import re

import pytest

from data_pipeline.utils import progress as utils
from data_pipeline.utils import progress_bar, shortened, shown


@pytest.mark.parametrize("value", ["x" * 10_000, ["word"] * 9000, {"a": "b" * 500}, b"\0" * 1000, 10**400])
def test_long_values_are_shown_shortened(value):
    assert len(shown(value)) == 60
    assert shown(value).endswith("…")


def test_short_values_are_shown_as_they_are():
    assert (shown("a\n"), shown(None), shown([1])) == ("'a\\n'", "None", "[1]")
    assert (shortened("abc", 3), shortened("abcd", 3)) == ("abc", "ab…")


@pytest.mark.parametrize(
    ("total", "line"),
    [(None, r"Reading: 77\.6k doc, [\d.]+\w?doc/s"), (100_000, r"Reading: 77\.6k/100k doc, [\d.]+\w?doc/s, \S+ left")],
)
def test_without_a_total_no_time_is_said_to_be_left(monkeypatch, total, line):
    """As a log file has it: a line at a time."""
    stream = io.StringIO()
    monkeypatch.setattr(utils.sys, "stderr", stream)
    with progress_bar(total, "Reading", "doc") as bar:
        bar.delay = bar.mininterval = 0
        bar.start_t -= 5
        bar.update(77_600)
        bar.refresh()
    lines = [written.strip("\r ") for written in stream.getvalue().split("\n") if written.strip("\r ")]
    assert lines
    assert all(re.fullmatch(line, written) for written in lines)
