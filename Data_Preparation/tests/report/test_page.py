import base64
import hashlib
import json
import re

import pytest
from support.hostile import TEXTS

from data_pipeline.errors import MissingExtraError
from data_pipeline.report.blocks import Fact, Facts, Figure, Fold, Note, Pair, Pairs, Section, Table, Text, Texts
from data_pipeline.report.figures import label
from data_pipeline.report.page import json_in_html, render_page
from data_pipeline.utils import extras

EVERY_BLOCK = [
    Facts([Fact("{x}", "{x}", "bad", "{x}")]),
    Table("{x}", ["{x}", "b"], [["{x}", "1"]], frozenset({1})),
    Figure("{x}", "{x}", {"data": [{"y": ["{x}"]}], "layout": {}}),
    Texts("{x}", [Text("{x}", "{x}", "{x}")]),
    Pairs("{x}", [Pair("{x}", [("{x}", True)], "{x}", [("{x}", False)], "{x}")]),
    Note("{x}", "check"),
    Fold("{x}", [Note("{x}")]),
]


def filled(value, text):
    """The same blocks with another text in every place."""
    if isinstance(value, str):
        return value.replace("{x}", text)
    if isinstance(value, dict):
        return {key: filled(one, text) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(filled(one, text) for one in value)
    if hasattr(value, "__dataclass_fields__"):
        names = [name for name, field in value.__dataclass_fields__.items() if field.init]
        return type(value)(**{name: filled(getattr(value, name), text) for name in names})
    return value


@pytest.mark.parametrize("text", [text[:3000] for text in TEXTS])
def test_no_text_becomes_markup_wherever_it_stands(text):
    """The elements of a page are those of the same page with plain texts."""
    pages = [
        render_page(filled("{x}", one), one, [Section("a", one, filled(EVERY_BLOCK, one), one)])
        for one in ("plain", text)
    ]
    bodies = [re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL) for page in pages]
    tags = [re.findall(r"<[a-zA-Z/!][^>]*", body) for body in bodies]
    assert [tag.split()[0] for tag in tags[1]] == [tag.split()[0] for tag in tags[0]]
    assert "\x00" not in bodies[1]
    assert "\x1b" not in bodies[1]


@pytest.mark.parametrize("text", [*TEXTS, "\ud800 half of a pair", "\u2028\u2029"])
def test_json_in_a_page_is_the_same_json_and_ends_no_script(text):
    found = json_in_html({"text": text, "number": 1.5, "none": None})
    assert not set("<>&\u2028\u2029") & set(found)
    assert json.loads(found)["text"] == text.encode("utf-8", "replace").decode()
    found.encode()


def test_not_a_number_is_an_error_and_no_value():
    with pytest.raises(ValueError, match="JSON"):
        json_in_html(float("nan"))


def test_only_scripts_of_the_page_run_and_no_request_is_allowed():
    page = render_page("title", "", [])
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1].replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "connect-src" not in policy
    scripts = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert re.findall(r"'sha256-([^']*)'", policy) == hashes
    assert len(scripts) == 2


def test_labels_of_figures_hold_no_markup_and_no_controls():
    assert label("<a href='x'>&\x00\u2028") == "&lt;a href='x'&gt;&amp;  "
    assert label("x" * 50) == "x" * 39 + "…"


def test_a_missing_extra_is_named_with_the_way_to_install_it(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(extras.importlib, "import_module", missing)
    with pytest.raises(MissingExtraError, match=r'pip install "elm-data-preparation\[report\]"'):
        render_page("title", "", [])
