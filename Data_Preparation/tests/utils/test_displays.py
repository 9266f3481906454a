"""What notebooks show of results: everything escaped, and a plain text elsewhere."""

import json
from html.parser import HTMLParser

import pytest
from support.builders import made

from data_pipeline import ELMDataset
from data_pipeline.execution.run import run_pipeline
from data_pipeline.execution.upkeep import select_subset
from data_pipeline.selection import Budget
from data_pipeline.stages.verify import verify_corpus
from data_pipeline.utils.displays import facts_html, facts_text, table_html

HOSTILE = "<script>alert(1)</script><img src=x onerror=y> {{ 7*7 }} & \" ' \x1b[31m \u202e"
_PLAIN = {"p", "strong", "table", "thead", "tbody", "tr", "th", "td"}


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = set(), [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.open.append(tag)
        assert {name for name, _ in attributes} <= {"style"}

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def check(text):
    tags = Tags(text)
    assert tags.tags <= _PLAIN
    assert tags.open == []
    assert not [letter for letter in text if ord(letter) < 32 and letter not in "\n\t"]
    return tags.text


def test_everything_is_escaped():
    for text in (facts_html(HOSTILE, [(HOSTILE, HOSTILE)]), table_html(HOSTILE, (HOSTILE,), [(HOSTILE,)])):
        shown = check(text)
        assert shown.count("<script>alert(1)</script>") == 3 if "<tbody>" in text else True
        assert r"\x1b[31m \u202e" in shown
    assert facts_text("t", [("a", HOSTILE)]).isascii()


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("displays")
    path = folder / "in.jsonl"
    records = [{"id": f"{n}", "text": f"{HOSTILE} text {n} of a river and a lamp. " * 20} for n in range(30)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    config = made(folder / "sample")
    corpus = config.corpus.model_copy(update={"source": "jsonl", "path": (str(path),), "name": "hostile"})
    preprocess = config.preprocess.model_copy(update={"near_dedup": False})
    return config.model_copy(update={"corpus": corpus, "preprocess": preprocess, "data_dir": folder / "hostile"})


def test_results_are_tables_in_notebooks_and_lines_elsewhere(config):
    report = run_pipeline(config)
    train = ELMDataset(config.data_dir)
    selection = select_subset(config, "random", Budget(rows=3))
    hits = train.search(train[0]["embedding"], k=2)
    shown = {}
    for result in (report, report.embeddings["train"], train, train.select([0]), selection, hits,
                   verify_corpus(config), train.filter("token_count < 0")):  # fmt: skip
        shown[id(result)] = check(result._repr_html_())
        assert repr(result).isprintable() or "\n" in repr(result)
        assert "\x1b" not in repr(result)
    assert "<script>alert(1)</script>" in shown[id(hits)]
    assert "<script>alert(1)</script>" in shown[id(train)]
    assert f"{len(train):,}" in repr(train)
    assert "hashing" in repr(train)
    assert "random_n3_seed0" in repr(selection)


def test_results_are_what_they_were(config):
    good, bad = verify_corpus(config)
    assert isinstance(good, list)
    assert bad == []
    hits = ELMDataset(config.data_dir).search("river", k=2)
    assert isinstance(hits, list)
    assert [set(hit) for hit in hits] == [{"index", "score", "text", "metadata", "embedding"}] * 2


def test_a_fault_comes_first():
    from data_pipeline.stages.verify import Verification

    found = Verification(["fine"], ["bad <b>"])
    assert check(found._repr_html_()).index("bad <b>") < check(found._repr_html_()).index("fine")
    assert repr(found).splitlines()[1] == "  FAULT  bad <b>"
    assert found == (["fine"], ["bad <b>"])


def test_a_dataset_without_vectors_has_a_display(config):
    dataset = ELMDataset(config.data_dir, load_embeddings=False)
    assert "vectors" not in repr(dataset)
    check(dataset._repr_html_())
