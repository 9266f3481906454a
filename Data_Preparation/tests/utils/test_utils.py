"""Small helpers: how values and progress are shown."""

import io
import logging
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
    ("total", "unit", "line"),
    [
        (None, "doc", r"Reading: 77,600 docs, [\d.]+k docs/s"),
        (100_000, "doc", r"Reading: 77,600/100,000 docs, [\d.]+k docs/s, \d+ s left"),
        (1_000_000, "B", r"Reading: 77.6 kB/1.0 MB, [\d.]+ kB/s, \d+ s left"),
    ],
)
def test_without_a_terminal_progress_is_a_line_at_a_time(monkeypatch, total, unit, line):
    stream = io.StringIO()
    monkeypatch.setattr(utils.sys, "stderr", stream)
    with progress_bar(total, "Reading", unit) as bar:
        bar.delay = bar.mininterval = 0
        bar.start_t -= 5
        bar.last_print_t -= 5
        bar.update(77_600)
        bar.refresh()
    lines = stream.getvalue().splitlines()
    assert lines
    assert "\r" not in stream.getvalue()
    assert [written for written in lines if not re.fullmatch(line, written)] == []


class Clock:
    """Stands in for the time of tqdm."""

    now = 1000.0

    def __call__(self):
        return self.now


def run_for(seconds, monkeypatch, stream, log=None):
    """Lines of a progress bar that is told of ten rows a second."""
    clock = Clock()
    monkeypatch.setattr(utils.time, "time", clock)
    monkeypatch.setattr(utils.time, "monotonic", clock)
    monkeypatch.setattr(utils.sys, "stderr", stream)
    if log is not None:
        utils.configure_logging(log)
    tokens = [0]
    with progress_bar(10 * seconds, "Embedding train", "row", lambda: tokens[0]) as bar:
        bar._time = clock
        bar.start_t = bar.last_print_t = clock.now
        for _ in range(seconds):
            clock.now += 1
            tokens[0] += 500
            bar.update(10)
    return stream.getvalue().splitlines()


def test_a_log_file_gets_a_line_a_minute_with_tokens_and_time_left(monkeypatch, tmp_path, clean_logging):
    lines = run_for(300, monkeypatch, io.StringIO(), tmp_path / "run.log")
    assert len(lines) == 5
    assert lines[1] == "Embedding train: 1,200/3,000 rows, 10 rows/s, 500 tokens/s, 3.0 min left"
    logged = [line.split("progress: ")[1] for line in (tmp_path / "run.log").read_text().splitlines()]
    assert logged == lines


def test_what_takes_less_than_a_minute_writes_no_line(monkeypatch):
    assert run_for(45, monkeypatch, io.StringIO()) == []


class Terminal(io.StringIO):
    """Stands in for a terminal."""

    def isatty(self):
        return True


def test_a_terminal_has_a_bar_and_the_log_file_a_line_a_minute(monkeypatch, tmp_path, clean_logging):
    stream = Terminal()
    run_for(150, monkeypatch, stream, tmp_path / "run.log")
    assert "\r" in stream.getvalue()
    assert "500 tokens/s" in stream.getvalue()
    logged = (tmp_path / "run.log").read_text().splitlines()
    assert len(logged) == 2
    assert logged[0].endswith("rows, 10 rows/s, 500 tokens/s, 90 s left")


def test_quiet_shows_no_progress_and_only_errors(monkeypatch, clean_logging):
    monkeypatch.setenv("ELM_QUIET", "1")
    stream = io.StringIO()
    assert run_for(300, monkeypatch, stream) == []
    utils.configure_logging(None)
    logging.getLogger("x").warning("a warning")
    logging.getLogger("x").error("an error")
    assert stream.getvalue() == "an error\n"


def test_messages_are_escaped(monkeypatch, tmp_path, clean_logging):
    stream = io.StringIO()
    monkeypatch.setattr(utils.sys, "stderr", stream)
    utils.configure_logging(tmp_path / "run.log")
    logging.getLogger("x").info("id %s", "a\x1b[2J\u202e")
    assert stream.getvalue() == "id a\\x1b[2J\\u202e\n"
    assert "\x1b" not in (tmp_path / "run.log").read_text()
