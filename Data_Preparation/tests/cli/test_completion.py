"""Completion scripts, sourced by the shells."""

import shutil
import subprocess

import pytest

from data_pipeline.cli import COMMANDS, main


@pytest.fixture(autouse=True)
def _clean(clean_logging):
    """A command sets up the root logger."""


def script(shell, capsys):
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


def completed(path, *words):
    """What bash offers for the last word of a command line."""
    line = " ".join(words)
    code = (
        f"source {path}\n"
        f"COMP_LINE={line!r} COMP_POINT={len(line)} COMP_CWORD={len(words) - 1}\n"
        f"COMP_WORDS=({' '.join(repr(word) for word in words)})\n"
        "function=$(complete -p elm | sed 's/.*-F \\([^ ]*\\) .*/\\1/')\n"
        "$function elm\n"
        "printf '%s\\n' \"${COMPREPLY[@]}\"\n"
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_and_flags(tmp_path, capsys):
    path = tmp_path / "elm"
    path.write_text(script("bash", capsys))
    names = {name.split()[0] for name in COMMANDS}
    assert completed(path, "elm", "") >= names
    assert completed(path, "elm", "se") == {"search", "select", "selectors", "semantic-dedup"}
    assert completed(path, "elm", "heads", "") >= {"convert", "train", "evaluate"}
    assert {"--like", "--where", "--json", "--quiet", "--embedding.dim"} <= completed(path, "elm", "search", "--")
    assert completed(path, "elm", "completion", "") >= {"bash", "zsh", "tcsh"}
    (tmp_path / "ids.txt").touch()
    assert "--ids" in completed(path, "elm", "select", "--i")


@pytest.mark.parametrize(("shell", "begins"), [("bash", "# AUTOMATICALLY"), ("zsh", "#compdef elm"), ("tcsh", "#")])
def test_a_script_for_every_shell(shell, begins, capsys):
    text = script(shell, capsys)
    assert text.startswith(begins)
    assert "search" in text
    if shutil.which(shell):
        check = subprocess.run([shell, "-n"], input=text, capture_output=True, text=True, timeout=60, check=False)
        assert check.returncode == 0, check.stderr


def test_the_help_says_how_to_install_it(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["completion", "--help"])
    assert "elm completion bash > ~/.local/share/bash-completion/completions/elm" in capsys.readouterr().out


def test_another_shell_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["completion", "fish"])
    assert "invalid choice: 'fish'" in capsys.readouterr().err
