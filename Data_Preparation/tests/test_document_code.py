"""Code of documents that cannot run here (a GPU, the hub, a server) is checked as far as that is possible without them.

Command lines are parsed by the parsers of `elm` and their settings validated, Python is compiled and what it imports
from the package looked up, names of extras, presets, make targets and scripts must exist.
"""

import argparse
import ast
import dataclasses
import importlib
import json
import re
import shlex
import tomllib

import pytest
from page_runner import commands
from test_documents import CHECKOUT, DOCS, PAGES, RESULTS, blocks, name_of

from data_pipeline import errors
from data_pipeline.cli import main as command_line
from data_pipeline.cli.flags import add_setting_flags
from data_pipeline.cli.main import COMMANDS
from data_pipeline.config import Config, preset_names, preset_path
from data_pipeline.config.load import load_config

ERRORS = DOCS / "errors.md"
NEEDS = {"hub", "gpu", "network", "server", "model", "time"}
"""What a block may need so that it is not run."""
OTHER_MARKS = {("text", "layout"), ("text", "example"), ("yaml", "settings")}
_EXTRA = re.compile(r"(?:elm-data-preparation|\.)\[([\w,-]+)\]")
EXTRAS = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
_SPAN = re.compile(r"`elm ([^`]+)`")


def marked_blocks():
    """Page, language, mark and code of every block that has a mark."""
    return [(page, language, extra, code) for page in PAGES for language, extra, code in blocks(page) if extra]


def not_run():
    found = [(page, *rest) for page, *rest in marked_blocks() if rest[0] in ("bash", "python")]
    return [pytest.param(*block, id=f"{name_of(block[0])}-{number}") for number, block in enumerate(found)]


def test_marks_are_known():
    unknown = [
        (name_of(page), language, extra)
        for page, language, extra, _ in marked_blocks()
        if (language, extra.partition("=")[0]) not in OTHER_MARKS and extra.removeprefix("needs=") not in NEEDS
    ]
    assert unknown == []


def test_only_what_needs_another_machine_is_not_run():
    timed = sum(extra == "needs=time" for *_, extra, _ in marked_blocks())  # a benchmark takes minutes or hours
    assert sum(1 for _ in not_run()) - timed <= 20, (
        "more blocks are exempt than before; is there no way to run the new ones?"
    )


@pytest.fixture
def parsed(monkeypatch):
    """Commands that were parsed, with their settings; nothing is run."""
    calls = []

    def recording(name, command):
        def run(parsed, given):
            settings = given(parsed)
            if command.settings:
                preset = settings.get("preset", "auto")
                load_config(None if preset == "auto" else preset_path(preset), settings)
            calls.append((name, settings))
            return 0

        return dataclasses.replace(command, run=run)

    recorded = {name: recording(name, command) for name, command in COMMANDS.items()}
    monkeypatch.setattr(importlib.import_module("data_pipeline.cli.main"), "COMMANDS", recorded)
    return calls


def fault_of_command(command, parsed):
    """What is wrong with a line of bash; None if nothing is."""
    words = shlex.split(command, comments=True)
    name = words[0] if words else ""
    if name == "elm":
        try:
            code = command_line(words[1:])
        except (SystemExit, ValueError) as error:
            return f"{command}: {error}"
        return None if code == 0 and parsed else f"{command}: exit code {code}"
    if name == "make":
        targets = set(re.findall(r"^([a-z]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
        presets = [word.partition("=")[2] for word in words if word.startswith("PRESET=")]
        return None if words[1] in targets and set(presets) <= {*preset_names(), "auto"} else f"{command}: no target"
    if name == "python" and words[1].endswith(".py"):
        return None if (CHECKOUT / words[1]).is_file() else f"{command}: no such script"
    if name == "pip":
        named = {extra for listed in _EXTRA.findall(command) for extra in listed.split(",")}
        return None if named and named <= set(EXTRAS) else f"{command}: no such extra"
    if name == "export":
        return None if re.fullmatch(r"[A-Z][A-Z0-9_]*=\S*", words[1]) else f"{command}: no assignment"
    return f"{command}: no rule checks this command"


def faults_of_python(code):
    """What is wrong with a block of Python: it must compile, and have its imports from the package."""
    tree = ast.parse(code)
    faults = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("data_pipeline"):
            module = importlib.import_module(node.module)
            faults += [f"{node.module} has no {name.name}" for name in node.names if not hasattr(module, name.name)]
        if isinstance(node, ast.Import):
            for name in node.names:
                if name.name.startswith("data_pipeline"):
                    importlib.import_module(name.name)
    return faults


@pytest.mark.parametrize(("page", "language", "extra", "code"), not_run())
def test_a_block_that_is_not_run_is_right_as_far_as_can_be_seen(page, language, extra, code, parsed):
    del page, extra
    if language == "python":
        assert faults_of_python(code) == []
    else:
        lines = list(commands(code))
        assert lines
        assert [fault for line in lines if (fault := fault_of_command(line, parsed))] == []


@pytest.mark.parametrize(
    "line",
    [
        "elm rum --preset offline",
        "elm run --presett offline",
        "elm run --preset nowhere.yaml --embedding.dim many",
        "elm run --embedding.dim 0",
        "elm select --frac a-tenth",
        "make everything",
        "make run PRESET=qwen9",
        "python Data_Preparation/scripts/none.py",
        "export key=value",
        "pip install -e '.[everything]'",
        "kubectl apply -f elm.yaml",
    ],
)
def test_wrong_lines_are_found(line, parsed, capsys):
    assert fault_of_command(line, parsed)
    capsys.readouterr()


@pytest.mark.parametrize(
    "code", ["from data_pipeline import ELMDatasets", "import data_pipeline\nfrom data_pipeline.types import Documents"]
)
def test_wrong_imports_are_found(code):
    assert faults_of_python(code)


def options_of(name, command):
    """All flags of a command."""
    parser = argparse.ArgumentParser(prog=name)
    command.add_arguments(parser)
    if command.settings:
        add_setting_flags(parser)
    return {"--config", "--preset", "--json", "--quiet", *parser._option_string_actions}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_sentences_exist_and_have_their_flags(page):
    known = {name: options_of(name, command) for name, command in COMMANDS.items()}
    groups = {name.split()[0] for name in COMMANDS}
    for span in _SPAN.findall(page.read_text("utf-8").replace("\n", " ")):
        words = span.split()
        if words[0] in ("COMMAND", "...") or words[0].startswith("-"):
            continue
        assert words[0] in groups, span
        name = next((name for name in (" ".join(words[:2]), words[0]) if name in known), None)
        flags = [word.partition("=")[0] for word in words if re.match(r"--\w", word)]
        assert not flags or name, span
        assert [flag for flag in flags if flag not in known[name]] == [], span


def test_extras_of_documents_exist():
    named = {
        (name_of(page), extra)
        for page in PAGES
        for listed in _EXTRA.findall(page.read_text("utf-8"))
        for extra in listed.split(",")
    }
    assert len(named) > 15
    assert [(page, extra) for page, extra in sorted(named) if extra not in EXTRAS] == []


# Environment variables


def read_variables():
    """Names of environment variables that the package reads or sets, by file; names in constants are resolved."""
    package = CHECKOUT / "Data_Preparation" / "data_pipeline"
    trees = {path: ast.parse(path.read_text("utf-8")) for path in sorted(package.rglob("*.py"))}
    constants = {
        target.id: node.value.value
        for tree in trees.values()
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    found = {}
    for path, tree in trees.items():
        for node in ast.walk(tree):
            for part in _names_in(node):
                name = part.value if isinstance(part, ast.Constant) else constants.get(getattr(part, "id", ""))
                found.setdefault(name if isinstance(name, str) else None, set()).add(path.name)
    return found


def _names_in(node):
    """Expressions that name an environment variable, in a call, a subscript, a comparison or a dict."""
    match node:
        case ast.Call(func=ast.Attribute(value=base), args=[name, *_]) if _is_environment(base):
            yield name
        case ast.Call(func=ast.Attribute(attr="getenv"), args=[name, *_]):
            yield name
        case ast.Subscript(value=base, slice=name) if _is_environment(base):
            yield name
        case ast.Compare(left=name, ops=[ast.In() | ast.NotIn()], comparators=[base]) if _is_environment(base):
            yield name
        case ast.Dict(keys=keys, values=values) if any(map(_is_environment, values)):
            yield from (key for key in keys if isinstance(key, ast.Constant))


def _is_environment(node):
    return isinstance(node, ast.Attribute) and node.attr == "environ" and isinstance(node.value, ast.Name)


def test_every_environment_variable_is_documented():
    text = (CHECKOUT / "docs" / "environment_variables.md").read_text("utf-8")
    documented = set(re.findall(r"[A-Z][A-Z0-9_]{3,}", text))
    found = read_variables()
    # Where a setting gives the name, the function that reads it takes it as an argument.
    assert found.pop(None) == {"keys.py", "push.py"}
    assert {"ELM_PRESET", "XDG_CACHE_HOME", "RAY_ADDRESS"} <= set(found)
    assert {name: files for name, files in found.items() if name not in documented} == {}
    named = re.findall(
        r"\bELM_[A-Z]+(?:_[A-Z]+)*\b",
        "\n".join(path.read_text("utf-8") for path in PAGES if "configuration" not in path.name),
    )
    settings = {f"ELM_{name.upper()}" for name in Config.model_fields}
    unknown = {name for name in named if name not in documented | settings and "__" not in name}
    assert unknown <= {"ELM_SECTION"}


def test_every_exception_is_in_the_list_of_messages():
    rows = re.findall(
        r"^\| `(\w+)` \| (?:also )?(?:`(\w+)`)? ?\| .+ \| ([12]) \|$", ERRORS.read_text("utf-8"), re.MULTILINE
    )
    listed = {name: (base, int(code)) for name, base, code in rows}
    classes = {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception) and value.__name__ == name
    }
    assert set(listed) == set(classes)
    for name, (base, code) in listed.items():
        if base:
            assert base in {parent.__name__ for parent in classes[name].__mro__[1:]}, name
        assert code == exit_code_of(classes[name]), name


def exit_code_of(kind):
    """Exit code of a command that raises an error of this class."""
    if kind is errors.DeviceHungError:
        return 1  # the process ends at once, without a regular exit

    def fail(parsed, given):
        raise kind("a message")

    module = importlib.import_module("data_pipeline.cli.main")
    command = dataclasses.replace(COMMANDS["selectors"], run=fail)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "COMMANDS", {"selectors": command})
        return command_line(["selectors"])


def test_every_measured_figure_has_its_command():
    text = (CHECKOUT / "docs" / "benchmarks.md").read_text("utf-8")
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        names = set(re.findall(r"^\| `(\w+)\.\w+` \|", section, re.MULTILINE))
        commands_of_section = re.findall(
            r"^python Data_Preparation/benchmarks/run_benchmarks.py (\w+)$", section, re.MULTILINE
        )
        assert names == set(commands_of_section), section.splitlines()[0]
        for name in names:
            result = json.loads((RESULTS / f"{name}.json").read_text())
            assert result["command"].endswith(f"run_benchmarks.py {name}")
