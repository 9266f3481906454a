import json
import os
from pathlib import Path

import pytest

from data_pipeline.cli import main
from data_pipeline.report import make as report_module

RUN = ["run", "--preset", "offline", "--source", "sample", "--embedding.model_name", "hashing"]


@pytest.fixture(autouse=True)
def _clean(clean_logging, monkeypatch, tmp_path):
    """No variable of the environment is a setting, and paths are shown relative to the folder of the test."""
    for name in [name for name in os.environ if name.startswith("ELM_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def elm(*arguments):
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        return end.code


def test_a_run_ends_with_a_report(capsys):
    assert elm(*RUN, "--output-dir", "data") == 0
    assert "  report      data/report.html (5." in capsys.readouterr().out
    assert "At a glance" in Path("data/report.html").read_text("utf-8")


def test_a_run_that_appends_ends_with_a_new_report(capsys):
    assert elm(*RUN, "--output-dir", "data", "--limit", "20") == 0
    before = Path("data/report.html").read_text("utf-8")
    assert elm(*RUN, "--output-dir", "data", "--append", "--corpus.limit", "30") == 0
    assert capsys.readouterr().out.count("data/report.html (5.") == 2
    assert Path("data/report.html").read_text("utf-8") != before


def test_a_run_without_a_report(capsys):
    assert elm(*RUN, "--output-dir", "data", "--no-report") == 0
    assert "report" not in capsys.readouterr().out
    assert not Path("data/report.html").exists()


def test_a_missing_extra_fails_no_run_and_is_said(capsys, monkeypatch):
    monkeypatch.setattr(report_module, "missing_extra", lambda: 'needs jinja2: pip install "elm[report]"')
    assert elm(*RUN, "--output-dir", "data") == 0
    printed = capsys.readouterr()
    assert 'needs jinja2: pip install "elm[report]", or leave the report out with --no-report' in printed.err
    assert "report.html" not in printed.out


def test_reports_and_comparisons(capsys):
    assert elm(*RUN, "--output-dir", "data", "--no-report") == 0
    variant = ["--embedding.model_name", "hashing", "--embedding.variant", "int8"]
    assert elm("embed", "--preset", "offline", "--output-dir", "data", *variant, "--precision", "int8") == 0
    capsys.readouterr()
    assert elm("report", "--output-dir", "data", "--output", "here/page.html", "--rows", "50") == 0
    assert capsys.readouterr().out.startswith("  report  here/page.html (")
    assert elm("report", "data", "data@int8", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["report"]["path"].endswith("data/comparison.html")
    assert "data@int8" in Path("data/comparison.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "--output-dir", "nothing"], "No paragraphs in nothing. Run `elm run` first."),
        (["report", "one"], "expected no dataset, for a report, or two to compare; found one."),
        (["report", "one", "two"], "no such data folder: one. Name two data folders, or FOLDER@VARIANT"),
        (["report", "one@x", "two"], "no such data folder: one. Name"),
        (["report", "--rows", "0"], "--rows must be 1 or more, found 0"),
        (["report", "--output", "s3://bucket/x"], "s3://bucket/x is a URL; expected a path on this machine"),
        (["report", "a", "b", "--umap"], "a comparison has no map; leave --umap out"),
    ],
)
def test_wrong_input_is_said_in_a_sentence(arguments, message, capsys):
    assert elm(*arguments) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_variant_is_no_dataset(capsys):
    assert elm(*RUN, "--output-dir", "data", "--no-report") == 0
    assert elm("report", "data", "data@nothing") == 2
    assert "data has no variant 'nothing'; expected one of none" in capsys.readouterr().err
