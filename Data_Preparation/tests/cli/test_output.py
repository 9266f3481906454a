"""What commands print: tables for people, one JSON document for machines, and no control character of a text."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from support.builders import make

from data_pipeline.cli import COMMANDS, main
from data_pipeline.cli.output import Facts, Grid, as_document, output_of, present, say
from data_pipeline.utils.terminal import one_line, printable, printable_json

HOSTILE = "a\x1b[31mred\x1b[0m \x9b2J \u202eevil\u202c [bold]mark[/bold] \x07 :smile: \ud800 <b>"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The sample with the vectors of the hashing embedder."""
    return make(tmp_path_factory.mktemp("output"))


@pytest.fixture(autouse=True)
def _clean(clean_logging, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "ELM_QUIET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


class Terminal(io.StringIO):
    """Stands in for the standard output of a terminal."""

    encoding = "utf-8"

    def isatty(self):
        return True


def shown_on_a_terminal(*parts):
    with contextlib.redirect_stdout(Terminal()) as stream:
        say(*parts)
    return stream.getvalue()


# Escapes


def test_no_control_character_is_left():
    shown = printable(HOSTILE)
    assert not [character for character in shown if ord(character) < 32 or 0x7F <= ord(character) < 0xA0]
    assert r"a\x1b[31mred" in shown
    assert r"\u202eevil" in shown
    assert r"\ud800" in shown
    assert printable("tab\tand\nline, ünï, 日本, 👩\u200d🔬") == "tab\tand\nline, ünï, 日本, 👩\u200d🔬"


def test_json_is_escaped_and_still_the_same_json():
    text = printable_json(json.dumps({"text": HOSTILE}, ensure_ascii=False))
    assert json.loads(text) == {"text": HOSTILE}
    assert text.isprintable()


def test_a_text_of_many_lines_becomes_one():
    assert one_line("a\n\n b\tc ", 20) == "a b c"
    assert one_line("word " * 100, 12) == "word word w…"
    assert one_line("x" * 10**7, 5) == "xxxx…"
    assert one_line("", 5) == ""


# Tables


def test_without_a_terminal_tables_are_plain(capsys):
    say("head", Facts([("a", "1"), ("long", HOSTILE)]), Grid(("n", "text"), [("1", "x"), ("22", "y\x1b")], right={0}))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "head"
    assert lines[1] == "  a     1"
    assert lines[2].startswith(r"  long  a\x1b[31mred")
    assert lines[3:] == [" n  text", " 1  x", r"22  y\x1b"]


def test_on_a_terminal_there_is_colour_and_no_markup(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    grid = Grid(("n", "text"), [("1", HOSTILE)], right={0})
    shown = shown_on_a_terminal("[red]head[/red]", Facts([("name", HOSTILE)]), grid)
    assert "\x1b[36m" in shown  # of ours
    assert "\x1b[31m" not in shown
    assert "\x9b" not in shown
    assert "\u202e" not in shown
    assert "[red]head[/red]" in shown
    assert shown.count("[bold]mark[/bold]") == 2
    assert ":smile:" in shown


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colour_can_be_turned_off(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    shown = shown_on_a_terminal(Facts([("name", "value")]))
    assert "\x1b[36m" not in shown
    if name == "TERM":
        assert shown == "  name  value\n"


@pytest.mark.parametrize("columns", [40, 90])
def test_a_table_fits_the_terminal_and_a_command_is_not_broken(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    command = "elm run" + " --corpus.path word" * 10
    lines = shown_on_a_terminal(Facts([("name", "word " * 60)]), command).splitlines()
    assert command in lines
    assert max(len(line) for line in lines if line != command) <= columns
    assert len(lines) > 300 / columns


def test_forced_colour_does_not_reach_a_pipe(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    say(Facts([("name", "value")]))
    assert capsys.readouterr().out == "  name  value\n"


# JSON


def test_values_of_all_kinds_become_json(tmp_path):
    import numpy as np

    document = {"path": tmp_path, "nan": float("nan"), "array": np.array([1.5, np.inf]), "count": np.int64(3),
                "set": ("a",), "nested": {1: {"x": None}}}  # fmt: skip
    assert json.loads(as_document(document)) == {
        "path": str(tmp_path), "nan": None, "array": [1.5, None], "count": 3, "set": ["a"],
        "nested": {"1": {"x": None}},
    }  # fmt: skip
    with pytest.raises(TypeError, match="is no JSON value"):
        as_document({"x": object()})


def test_a_command_prints_one_document_and_nothing_else(capsys):
    with output_of(as_json=True, quiet=False):
        say("for people")
        present({"a": 1}, "for people")
        present({"b": 2})
    assert json.loads(capsys.readouterr().out) == {"a": 1, "b": 2}


def test_a_command_without_a_document_prints_its_text_as_one(capsys):
    with output_of(as_json=True, quiet=False):
        say("one", Facts([("a", "b")]))
    assert json.loads(capsys.readouterr().out) == {"text": "one\n  a  b"}


def test_quiet_prints_nothing_and_worker_processes_inherit_it(capsys):
    with output_of(as_json=False, quiet=True):
        say("x")
        present({"a": 1}, "x")
        assert os.environ["ELM_QUIET"]
    assert "ELM_QUIET" not in os.environ
    assert capsys.readouterr() == ("", "")


KEYS = {
    "info": {"corpus", "folder", "version", "counts", "leakage", "splits", "selections", "sparse"},
    "status": {"data_dir", "crews"},
    "versions": {"versions"},
    "verify": {"folder", "level", "ok", "checks", "faults"},
    "dropped": {"folder", "found", "dropped", "reasons"},
    "dropped --reason too_few_tokens": {"folder", "reason", "document_id", "count", "rows"},
    "search sun": {"query", "like", "k", "where", "hits"},
    "show saturn-53a4a529b8#s0": {"text_id", "document_id", "split", "row", "text", "metadata", "scores",
                                  "selections", "document", "dropped", "neighbors"},
    "plan --rows 1e6 --dim 8 --devices 2xH100 --rate 1000": {"work", "limits"},
    "models intfloat/e5-base-v2": {"name", "family", "pooling", "evidence"},
    "sources in.jsonl": {"source", "files", "bytes", "fields", "settings", "command"},
    "gc": {"remove", "removed", "bytes"},
    "compact": {"plan", "version"},
    "selectors": {"selectors", "measures"},
    "select --name random --rows 3": {"subset", "split", "file", "rows", "of"},
    "measure text_length": {"error"},
    "embed --preset offline --model-name hashing": {"data_dir", "model", "counts", "embeddings", "files"},
    "run --preset offline --model-name hashing --dry-run": {"dry_run", "plan"},
    "completion bash": {"shell", "script", "install"},
    "heads train head --label subject --epochs 1 --hidden 0 --without-probes": {"folder", "kind", "curve", "losses"},
    "show nowhere": {"error"},
}  # fmt: skip


@pytest.mark.parametrize("line", KEYS)
def test_the_keys_of_a_document(data, capsys, tmp_path, line):
    (tmp_path / "in.jsonl").write_text('{"text": "one text"}\n')
    words = line.split()
    if COMMANDS[words[0] if words[0] != "heads" else "heads train"].settings:
        words += ["--output-dir", str(data)]
    code = main([*words, "--json"])
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert KEYS[line] <= set(document)
    assert code == (2 if "error" in document else 0), captured.err
    if "error" in document:
        assert set(document["error"]) == {"kind", "message"}
        assert document["error"]["message"] in captured.err
    capsys.readouterr()
    main([*words, "--quiet"])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert all(text.startswith("error: ") for text in captured.err.splitlines()), captured.err


def test_the_document_of_info_has_the_numbers(data, capsys):
    assert main(["info", "--output-dir", str(data), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["counts"]["kept"] == sum(split["rows"] for split in document["splits"].values())
    train = document["splits"]["train"]
    assert (train["embedding"]["dim"], train["embedding"]["model"]) == (256, "hashing")
    assert train["tokens"] > train["rows"] > train["documents"] > 1


def test_a_fault_is_in_the_document_and_the_exit_code(data, capsys, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    path = copy / "embeddings" / "val_embeddings.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert main(["verify", "--output-dir", str(copy), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    assert "checksum mismatch" in document["faults"][0]


def test_an_evaluation_is_written_to_a_file_or_printed(data, capsys, tmp_path):
    here = ["--output-dir", str(data)]
    train = ["heads", "train", "head", "--label", "subject", "--epochs", "1", "--hidden", "0", "--without-probes"]
    assert main([*train, *here, "--quiet"]) == 0
    evaluate = ["heads", "evaluate", "head", "--label", "subject", "--bootstrap", "0", *here]
    assert main([*evaluate, "--json", "out.json"]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert main([*evaluate, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "out.json").read_text())


def test_every_command_takes_the_flags_and_shows_an_example(capsys):
    for name in COMMANDS:
        with pytest.raises(SystemExit, match="0"):
            main([*name.split(), "--help"])
        shown = capsys.readouterr().out
        assert "--json" in shown, name
        assert "--quiet" in shown, name
        assert f"example:\n  elm {name}" in shown, name


def test_the_list_of_commands_is_grouped_and_fits_a_screen(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 55
    assert max(map(len, lines)) <= 100
    groups = [line for line in lines if line in {"make a dataset", "look at it", "enrich it", "maintain it"}]
    assert groups == ["make a dataset", "look at it", "enrich it", "maintain it"]


def test_the_version(capsys):
    from data_pipeline import __version__

    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"elm {__version__}\n"


@pytest.mark.posix
@pytest.mark.slow
def test_on_a_real_terminal_a_table_is_coloured_and_as_wide_as_the_window(data):
    import fcntl
    import pty
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    command = [sys.executable, "-m", "data_pipeline.cli", "info", "--output-dir", str(data)]
    process = subprocess.Popen(command, stdout=slave, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    os.close(slave)
    shown = b""
    try:
        while part := os.read(master, 65_536):
            shown += part
    except OSError:  # EIO, when the process has ended
        pass
    assert process.wait(60) == 0
    text = shown.decode()
    assert "\x1b[36m" in text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    assert max(map(len, plain)) <= 60
    assert any(line.strip().startswith("corpus") for line in plain)
