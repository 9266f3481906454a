import json
import re

import pytest
from support.peer_filters import PEERS, hostile_texts, peer_decisions

from data_pipeline.preprocess.clean import clean_text
from data_pipeline.preprocess.quality.batch import TextBatch
from data_pipeline.preprocess.quality.presets import PRESETS, apply_presets, word_table
from data_pipeline.types import Document

SENTENCES = (
    "The river rises in the hills and flows to the sea. It passes four towns that have old bridges. In spring the "
    "water is high, and boats go up to the mill. Few people live there now. Most of them work with wood. "
)


def decisions(name, texts):
    reasons, changed = PRESETS[name](TextBatch(texts, word_table()))
    return list(
        zip(
            reasons,
            [new if reason is None else old for reason, old, new in zip(reasons, texts, changed, strict=True)],
            strict=True,
        )
    )


def assert_equal_decisions(name, texts):
    for text, own, peer in zip(texts, decisions(name, texts), peer_decisions(name, texts), strict=True):
        assert own == peer, text[:500]


@pytest.mark.parametrize("name", PEERS)
def test_hostile_texts_get_the_decisions_of_datatrove(name):
    assert_equal_decisions(name, hostile_texts(150, seed=7))


@pytest.mark.parametrize("name", PEERS)
def test_texts_around_a_limit_get_the_decisions_of_datatrove(name):
    line = "A line of the text that ends well, with seven more words of it. "
    texts = [
        SENTENCES * 2,
        *(SENTENCES + "\n- ".join(["", *["an item"] * n]) for n in range(3, 60, 4)),
        *(SENTENCES + "\n" + "\n".join(["the same line of text here."] * n) for n in range(8)),
        *(SENTENCES * 3 + " # " * n for n in range(0, 40, 3)),
        *(SENTENCES * 3 + "wait... " * n for n in range(0, 40, 3)),
        *(SENTENCES + "12 34 56 " * n for n in range(12)),
        *("\n".join([line] * n + [f"{line} {n} {m}" for m in range(9 - n)]) for n in range(9)),
        *(("ab c de f g h i " * n + SENTENCES + "a bc d ef g h i ") for n in range(4)),
        *("One is here. Two is there. " * n + "Three {" * (n == 3) for n in range(5)),
    ]
    assert_equal_decisions(name, texts)


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
def test_real_texts_get_the_decisions_of_datatrove(name, shared):
    raw = (shared / "wikitext-2" / "wiki.test.tokens").read_text()
    articles = re.split(r"(?m)^(?= = [^=].* = $)", raw)[1:16]
    cranfield = [json.loads(line)["text"] for line in (shared / "cranfield" / "corpus.jsonl").read_text().splitlines()][
        :300
    ]
    reviews = [line.split("\t")[0] for line in (shared / "sst2" / "train.tsv").read_text().splitlines()[1:400]]
    assert_equal_decisions(name, [*articles[:5], *map(clean_text, articles[5:]), *cranfield, *reviews])


def test_presets_are_applied_in_order_to_what_is_left():
    texts = {"short": "Too short.", "good": SENTENCES * 2, "code": SENTENCES * 2 + "\nA line with a { in it."}
    documents = [Document(id=name, text=text) for name, text in texts.items()]
    kept, dropped = apply_presets(documents, ["gopher_quality", "c4"])
    assert [(document.id, reason) for document, reason in dropped] == [
        ("short", "gopher_quality_short_doc"),
        ("code", "c4_curly_bracket"),
    ]
    assert [document.id for document in kept.values()] == ["good"]
    assert list(kept) == [1]


def test_c4_removes_lines_and_keeps_the_others():
    text = f"Menu\n{SENTENCES}\nThis site needs JavaScript to work.\n  The last line[1] is one of prose.  "
    kept, dropped = apply_presets([Document(id="a", text=text, title="T")], ["c4"])
    (document,) = kept.values()
    assert document.text == f"{SENTENCES.strip()}\nThe last line is one of prose."
    assert document.title == "T"
    assert not dropped


def test_no_texts():
    assert apply_presets([], list(PRESETS)) == ({}, [])
    assert all(PRESETS[name](TextBatch([], word_table()))[0] == [] for name in PRESETS)


def test_large_batches_are_the_same_as_single_texts():
    texts = hostile_texts(60, seed=3)
    for name in PRESETS:
        assert decisions(name, texts) == [decisions(name, [text])[0] for text in texts]
