import ast
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest

import data_pipeline

PACKAGE = Path(data_pipeline.__file__).parent


def test_all_names_are_there_and_sorted():
    assert data_pipeline.__all__ == sorted(data_pipeline.__all__)
    for name in data_pipeline.__all__:
        value = getattr(data_pipeline, name)
        assert not isinstance(value, types.ModuleType), name
        assert value.__doc__, name


def test_the_package_imports_quickly_and_without_torch():
    code = "import sys, data_pipeline; print('torch' in sys.modules, 'transformers' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]


def test_every_package_folder_travels_in_the_wheel():
    from setuptools import find_namespace_packages

    settings = tomllib.loads((PACKAGE.parents[1] / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = find_namespace_packages(str(PACKAGE.parent), include=settings["packages"]["find"]["include"])
    folders = {path.parent for path in PACKAGE.rglob("__init__.py")}
    assert {".".join(("data_pipeline", *folder.relative_to(PACKAGE).parts)) for folder in folders} <= set(found)
    assert {"data_pipeline.configs", "data_pipeline.configs.presets", "data_pipeline.study.conf"} <= set(found)
    endings = {pattern.lstrip("*") for pattern in settings["package-data"]["*"]}
    for path in PACKAGE.rglob("*"):
        if path.is_file() and path.suffix not in {".py", ".pyc"}:
            assert path.suffix in endings or path.name in endings, path


def test_every_config_field_is_read_somewhere():
    from data_pipeline.config import Config, Section

    read: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name == "config":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                read.add(node.attr)
    # Its own properties and validators read some of them too.
    own = {
        node.attr
        for node in ast.walk(ast.parse("".join(path.read_text() for path in (PACKAGE / "config").glob("*.py"))))
        if isinstance(node, ast.Attribute)
    }

    def fields(section: type[Section]) -> set[str]:
        names = set(section.model_fields)
        for field in section.model_fields.values():
            if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
                names |= fields(field.annotation)
        return names

    # Settings of Slurm are handed on by their names, but for one that older files have and that does nothing.
    handed_on = set(pytest.importorskip("data_pipeline.execution.slurm")._SAME_NAME) | {"skip_completed"}
    # The name of the preset is for the record only: it is saved, not read.
    assert fields(Config) - read - handed_on - (own & {"data_dir", "test_ratio"}) == {"preset"}
