"""Runs the code blocks of documentation pages: a process that imports the package once and forks for every page.

Reads one request a line from standard input, `{"folder": ..., "steps": [{"language": ..., "code": ...}, ...]}`, and
answers each with a line, `{"outputs": [...], "error": ...}`. In a page's process, Python blocks share one namespace,
and lines that call `elm` or a script of the project run without a new interpreter; all other lines go to bash.
"""

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import time
import traceback
from pathlib import Path

from support import forks

SCRIPT = re.compile(r"python (Data_Preparation/scripts/\w+\.py)\b")
HEREDOC = re.compile(r"<<\s*'(\w+)'")


def commands(code):
    """Logical lines of a bash block: continued lines joined, a here-document with the line that opens it."""
    lines = iter(code.splitlines())
    for line in lines:
        command = line
        while command.endswith("\\"):
            command = command[:-1] + next(lines)
        if heredoc := HEREDOC.search(command):
            for text in lines:
                command += f"\n{text}"
                if text == heredoc[1]:
                    break
        if command.strip():
            yield command


def in_this_process(command):
    """Words of a command that needs no shell and no interpreter of its own, else None."""
    if not (command.startswith("elm ") or SCRIPT.match(command)) or re.search(r"[|&;<>$`*]", command):
        return None
    return shlex.split(command, comments=True)


def run_words(words):
    """Run `elm ...` or `python script.py ...`; raises RuntimeError for any exit code but 0."""
    from data_pipeline.cli import main

    try:
        if words[0] == "elm":
            code = main(words[1:])
        else:
            sys.argv = words[1:]
            runpy.run_path(words[1], run_name="__main__")
            code = 0
    except SystemExit as end:
        code = end.code
    if code:
        raise RuntimeError(f"exit code {code}: {shlex.join(words)}")


def run_bash(code):
    """Run commands, as many of them in this process as can be."""
    shell = []

    def flush():
        if shell:
            done = subprocess.run(["bash", "-euc", "\n".join(shell)], check=False)
            if done.returncode:
                raise RuntimeError(f"exit code {done.returncode}: {shell}")
            shell.clear()

    for command in commands(code):
        if words := in_this_process(command):
            flush()
            run_words(words)
        else:
            shell.append(command)
    flush()


def run_page(folder, steps):
    """Run a page's blocks one after the other in a folder; the output of each, and what went wrong."""
    os.chdir(folder)
    log = Path(f"{folder}.log").open("w+b")  # noqa: SIM115  # standard output goes there until the process ends
    for stream in (1, 2):
        os.dup2(log.fileno(), stream)
    sys.stdout.reconfigure(line_buffering=True)
    namespace, outputs, seconds, error = {"__name__": "__main__"}, [], [], ""
    for step in steps:
        start, began = log.seek(0, os.SEEK_END), time.monotonic()
        try:
            if step["language"] == "bash":
                run_bash(step["code"])
            else:
                exec(compile(step["code"], f"<{step['language']} block>", "exec"), namespace)  # noqa: S102
        except BaseException:  # noqa: BLE001  # whatever ends a block is the answer
            error = f"{step['code']}\n{traceback.format_exc()}"
        sys.stdout.flush()
        sys.stderr.flush()
        log.seek(start)
        outputs.append(log.read().decode(errors="replace"))
        seconds.append(time.monotonic() - began)
        if error:
            break
    return {"outputs": outputs, "seconds": seconds, "error": error}


def import_everything(data_dir):
    """Import what the commands import, so that no page has to: public names, then what loading a model imports.

    Args:
        data_dir: data folder of the embedded sample.
    """
    import transformers

    import data_pipeline
    from data_pipeline.cli import main

    for name in data_pipeline.__all__:
        getattr(data_pipeline, name)
    for name in ("AutoConfig", "AutoModel", "AutoTokenizer"):
        getattr(transformers, name)

    def load_a_model():
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        if main(["verify", "--level", "reembed", "--rows", "1", "--preset", "offline", "--output-dir", data_dir]):
            raise SystemExit(1)

    forks.import_what_is_imported_by(load_a_model)


def main():
    """Serve requests until standard input ends; the first argument is the data folder of the embedded sample."""
    import_everything(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        request = json.loads(line)
        code, answer = forks.answer_of(lambda: run_page(request["folder"], request["steps"]))  # noqa: B023
        answers.write(json.dumps(answer or {"outputs": [], "seconds": [], "error": f"ended with {code}"}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
