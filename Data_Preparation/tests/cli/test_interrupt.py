"""Ctrl-C: a real SIGINT to a real process group; what is kept, and that the command that is named goes on."""

import os
import shlex
import signal
import subprocess
import sys
import time

import psutil
import pytest
from support.slow_model import slow_model

from data_pipeline.cli import main
from data_pipeline.cli.interrupt import command_line, describe_interrupt, stopped_by_second_interrupt

pytestmark = [pytest.mark.posix, pytest.mark.slow]

RUN = ["run", "--preset", "offline", "--source", "sample", "--model-name", "hashing", "--batch-size", "1"]


@pytest.fixture(autouse=True)
def _clean(clean_logging):
    """A command sets up the root logger."""


def start(*arguments):
    command = [sys.executable, "-m", "data_pipeline.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for(condition, process):
    for _ in range(1200):
        if condition():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("it did not happen in a minute")


def vectors_of(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "embeddings").glob("*.safetensors"))}


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_finished_is_saved_and_the_command_that_is_named_goes_on(tmp_path, monkeypatch, workers):
    calls = slow_model(tmp_path, monkeypatch, here=False)
    folder = tmp_path / "a folder"
    process = start(*RUN, "--output-dir", folder, *(["--workers", "2"] if workers == 2 else []))
    wait_for(lambda: len(calls()) >= 20 and len(set(calls())) == workers, process)
    others = psutil.Process(process.pid).children(recursive=True)
    assert len(others) >= workers - 1
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert "KeyboardInterrupt" not in err
    said = err[err.index("Stopping; what is finished is being saved.") :]
    assert "Interrupted.\n  Embedding train: " in said
    assert " of 181 rows are saved" in said
    _, alive = psutil.wait_procs(others, timeout=10)
    assert not alive
    done = int(said.split("Embedding train: ")[1].split(" ")[0])
    assert 0 < done < 181

    before = len(calls())
    command = shlex.split(said.splitlines()[-1])
    assert command[-len(RUN) - 2 :][:2] == RUN[:2] or "--workers" in command
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stderr
    if workers == 1:
        assert len(calls()) - before == 222 - done  # nothing is computed twice
    assert main([*RUN, "--output-dir", str(tmp_path / "undisturbed"), "--quiet"]) == 0
    assert vectors_of(folder) == vectors_of(tmp_path / "undisturbed")


def test_a_second_one_stops_at_once(tmp_path):
    code = (
        "import sys, time\n"
        "from data_pipeline.cli.interrupt import stopped_by_second_interrupt\n"
        "with stopped_by_second_interrupt():\n"
        "    try:\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
        "    finally:\n"
        "        print('saving', flush=True)\n"
        "        time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in ("ready\n", "saving\n"):
        assert process.stdout.readline() == line
        process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert err.count("Stopping") == 1
    assert "Traceback" not in err


def test_a_command_that_only_looks_has_nothing_to_go_on_with(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/elm"])
    interrupt = KeyboardInterrupt()
    assert describe_interrupt(interrupt, resumable=False, arguments=["info"]) == "Interrupted."
    assert describe_interrupt(interrupt, resumable=True, arguments=["select", "--ids", "a b"]) == (
        "Interrupted.\n  what is finished is saved\nGo on with:\n  elm select --ids 'a b'"
    )


def test_a_command_line_has_no_secrets(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/elm-data"])
    words = ["run", "--corpus.path", "https://user:secret@host/a?token=secret", "--corpus.name", "it's"]
    assert command_line(words) == """elm-data run --corpus.path https://host/a --corpus.name 'it'"'"'s'"""


def test_a_handler_of_the_calling_program_stays(monkeypatch):
    def own(number, frame):
        raise AssertionError

    before = signal.signal(signal.SIGINT, own)
    try:
        with stopped_by_second_interrupt():
            assert signal.getsignal(signal.SIGINT) is own
        assert signal.getsignal(signal.SIGINT) is own
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with stopped_by_second_interrupt():
            assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)  # which may be to ignore it, in a process of the background
