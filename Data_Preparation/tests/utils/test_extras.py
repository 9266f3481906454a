"""Extras are read from the installed package; each has a meaning and a pip line."""

from importlib.metadata import PackageNotFoundError

import pytest

from data_pipeline.utils import extras
from data_pipeline.utils.extras import list_extras


class Package:
    """Stands in for an installed distribution."""

    version = "1.0"

    def __init__(self, requires=(), names=()):
        self.requires, self.names = list(requires), list(names)
        self.metadata = self

    def get_all(self, name):
        return self.names


def install(monkeypatch, packages):
    def distribution(name):
        if name not in packages:
            raise PackageNotFoundError(name)
        return packages[name]

    monkeypatch.setattr(extras, "distribution", distribution)


def test_what_is_missing_is_found_through_extras_of_extras(monkeypatch):
    own = Package(
        [
            "numpy>=1",
            'a>=1; extra == "one"',
            'b>=2; extra == "one"',
            'elm-data-preparation[one]; extra == "two"',
            'c; extra == "two"',
            "d; sys_platform == 'nowhere' and extra == \"three\"",
            'e>=1.5; extra == "four"',
        ],
        ["one", "two", "three", "four", "html"],
    )
    install(monkeypatch, {"elm-data-preparation": own, "a": Package(), "e": Package(), "numpy": Package()})
    found = {extra.name: extra for extra in list_extras()}
    assert list(found) == ["one", "two", "three", "four", "html"]
    assert found["one"].missing == ("b>=2",)
    assert found["two"].missing == ("b>=2", "c")
    assert found["three"].missing == ()
    assert found["four"].missing == ("e>=1.5",)  # another version is there
    assert found["two"].pip_command == 'pip install "elm-data-preparation[two]"'
    assert found["html"].about == "the text of web pages"
    assert found["one"].about == ""


def test_a_checkout_that_is_not_installed_has_no_list(monkeypatch):
    install(monkeypatch, {})
    assert list_extras() == []


def test_every_extra_of_the_project_has_a_meaning():
    found = list_extras()
    if not found:
        pytest.skip("the package is not installed")
    assert [extra.name for extra in found if not extra.about] == []
    assert {"report", "explore", "html"} <= {extra.name for extra in found}
