"""Rows that repeat evaluation items: by brute force on tiny texts, and on Cranfield with its own queries."""

import json
import random
import re
import unicodedata

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from data_pipeline.config import Config, CorpusConfig, EmbeddingConfig, PreprocessConfig, SplitConfig
from data_pipeline.config.decontamination import DecontaminationConfig
from data_pipeline.errors import SourceError, StaleStageError
from data_pipeline.preprocess import decontamination, ngrams
from data_pipeline.preprocess.near import jaccard, shingles
from data_pipeline.preprocess.ngrams import NgramIndex, words_of
from data_pipeline.stages.pipeline import prepare_paragraphs
from data_pipeline.store import ParagraphStore
from data_pipeline.utils.words import split_words


def array(texts):
    return pa.array(texts, pa.large_string())


def plain_words(text):
    """Words by the definition, character by character."""
    text = unicodedata.normalize("NFC", text).lower()
    return split_words("".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in text))


def plain_matches(texts, items, length, min_words):
    """Brute force: for each row the covered words, and the item with most of its n-grams."""
    grams = {}
    for number, item in enumerate(items):
        words = plain_words(item)
        if len(words) < min_words:
            continue
        size = min(length, len(words))
        for start in range(len(words) - size + 1):
            grams.setdefault(tuple(words[start : start + size]), number)
    result = {}
    for row, text in enumerate(texts):
        words = plain_words(text)
        covered, counts = set(), {}
        for size in range(1, length + 1):
            for start in range(len(words) - size + 1):
                item = grams.get(tuple(words[start : start + size]))
                if item is not None:
                    covered |= set(range(start, start + size))
                    counts[item] = counts.get(item, 0) + 1
        if covered:
            best = min(counts, key=lambda item: (-counts[item], item))
            result[row] = (best, counts[best], [number in covered for number in range(len(words))])
    return result


def found(texts, items, length, min_words):
    matches = NgramIndex(items, range(len(items)), length, min_words).find(array(texts))
    columns = (matches.rows.tolist(), matches.items.tolist(), matches.shared.tolist(), matches.covered)
    return {row: (item, shared, mask.tolist()) for row, item, shared, mask in zip(*columns, strict=True)}


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "...", "One, two;three!", "1,000 is 1 000", "it's snake_case", "E = m·c²", "Ünder GPU加速 x",
        "caf\u00e9 cafe\u0301", "ÀÉ ΣΑΣ", "ภาษาไทย ok", "a\nb\tc\u00a0d\u3000e", "x\u0301\u0302 ½ ﬁ", "ด้วย。と、",
    ],
)  # fmt: skip
def test_words_are_those_of_the_definition(text):
    words = words_of(array(["before it", text, "after it"]))
    assert words.words.to_list() == ["before", "it", *plain_words(text), "after", "it"]
    assert np.diff(words.starts).tolist() == [2, len(plain_words(text)), 2]


def random_texts(seed, count, vocabulary, longest):
    source = random.Random(seed)
    return [" ".join(source.choices(vocabulary, k=source.randrange(longest))) for _ in range(count)]


@pytest.mark.parametrize("vocabulary", [["a", "b"], ["a", "b", "C,", "é", "字", "-"], [f"w{n}" for n in range(30)]])
@pytest.mark.parametrize(("length", "min_words"), [(3, 1), (4, 2), (5, 5), (1, 1), (13, 8)])
def test_matches_are_those_of_brute_force(vocabulary, length, min_words):
    texts, items = random_texts(0, 60, vocabulary, 30), random_texts(1, 12, vocabulary, 16)
    texts += [f"and {item} again" for item in items]
    expected = plain_matches(texts, items, length, min_words)
    assert expected
    assert found(texts, items, length, min_words) == expected


@pytest.mark.parametrize("hashes", [1, 3])
def test_different_ngrams_of_one_hash_are_never_taken_for_each_other(hashes, monkeypatch):
    monkeypatch.setattr(
        ngrams.Windows, "hashes", lambda self, length: np.arange(max(0, len(self._ends) - length + 1), dtype=np.uint64)
        % np.uint64(hashes),
    )  # fmt: skip
    vocabulary = ["a", "b", "c"]
    texts, items = random_texts(2, 40, vocabulary, 20), random_texts(3, 10, vocabulary, 10)
    expected = plain_matches(texts, items, 4, 2)
    # Equal n-grams may get different hashes here, so only what is found can be compared.
    for row, (item, _, mask) in found(texts, items, 4, 2).items():
        assert all(real or not covered for covered, real in zip(mask, expected[row][2], strict=True))
        assert item < len(items)


def test_hashes_that_tell_little_apart_change_no_result(monkeypatch):
    real = ngrams.Windows.hashes
    monkeypatch.setattr(ngrams.Windows, "hashes", lambda self, length: real(self, length) % np.uint64(5))
    texts, items = random_texts(4, 60, ["a", "b", "c", "d"], 25), random_texts(5, 10, ["a", "b", "c", "d"], 12)
    assert found(texts, items, 5, 3) == plain_matches(texts, items, 5, 3)


def test_one_item_may_have_several_texts_and_no_ngram_crosses_them():
    index = NgramIndex(["one two three", "four five six"], [0, 0], 3, 3)
    assert index.find(array(["x one two three y"])).items.tolist() == [0]
    assert not len(index.find(array(["two three four", "three four five"])).rows)


# The whole stage


def written(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def sentence(name, words):
    return " ".join(f"{name}{number}" for number in range(words))


def run(tmp_path, documents, overwrite=False, **settings):
    path = written(tmp_path / "corpus.jsonl", documents)
    config = Config(
        data_dir=tmp_path / "data",
        corpus=CorpusConfig(source="jsonl", name="x", path=path, id_field="id", split_field="split"),
        preprocess=PreprocessConfig(min_tokens=1, min_chars=0, max_digit_share=1),
        split=SplitConfig(method="official"),
        decontamination=DecontaminationConfig(**settings),
        embedding=EmbeddingConfig(model_name="hashing"),
    )
    return prepare_paragraphs(config, overwrite=overwrite), config.processed_dir


def ledger(folder):
    return pl.read_parquet(folder / "dropped.parquet")


def documents_of(**texts):
    """Documents by id; the first letter says the split."""
    splits = {"t": "train", "v": "val", "s": "test"}
    return [{"id": name, "text": text, "split": splits[name[0]]} for name, text in texts.items()]


ITEM = sentence("q", 20)


def test_a_row_with_an_ngram_of_an_item_is_dropped_from_train_and_names_it(tmp_path):
    items = written(
        tmp_path / "queries.jsonl", [{"_id": "other", "text": sentence("o", 15)}, {"_id": "q7", "text": ITEM}]
    )
    inside = f"Before. {ITEM.upper().replace(' ', ', ')} {sentence('z', 10)}"
    documents = documents_of(t1=inside, t2=sentence("a", 30), v1=f"{inside} val", t3=" ".join(ITEM.split()[:12]))
    report, folder = run(tmp_path, documents, paths=[str(items)])
    row = ledger(folder).row(0, named=True)
    assert row.pop("overlap") == pytest.approx(20 / 31)
    assert pl.read_parquet(folder / "dropped_examples.parquet").row(0, named=True) == row | {"text": inside}
    assert row == {
        "text_id": "t1#s0", "document_id": "t1", "stage": "decontamination", "reason": "contaminated_ngram",
        "duplicate_of": "queries.jsonl:q7",
    }  # fmt: skip
    assert report.manifest["counts"]["dropped"] == {"contaminated_ngram": 1}
    assert ParagraphStore(folder).read("train")["document_id"].to_list() == ["t2", "t3"]
    assert ParagraphStore(folder).read("val")["document_id"].to_list() == ["v1"]
    report, folder = run(tmp_path, documents, overwrite=True, paths=[str(items)], remove_from="all")
    assert sorted(ledger(folder)["text_id"]) == ["t1#s0", "v1#s0"]


@pytest.mark.parametrize(("min_overlap", "dropped"), [(0.0, ["t1", "t2"]), (0.5, ["t2"]), (1.0, [])])
def test_the_overlap_is_the_share_of_words_in_common_ngrams(tmp_path, min_overlap, dropped):
    items = written(tmp_path / "items.jsonl", [{"id": 1, "text": ITEM}])
    documents = documents_of(t1=f"{ITEM} {sentence('z', 60)}", t2=f"{ITEM} {sentence('y', 5)}", t3="nothing of it")
    _, folder = run(tmp_path, documents, paths=[str(items)], methods=["ngram"], min_overlap=min_overlap)
    assert ledger(folder)["document_id"].to_list() == dropped
    assert ledger(folder)["overlap"].to_list() == [{"t1": 0.25, "t2": 0.8}[name] for name in dropped]


def test_overlap_of_items_in_several_parts_is_that_of_one(tmp_path, monkeypatch):
    texts = [sentence(name, 15) for name in "abcdef"]
    items = written(
        tmp_path / "items.jsonl", [{"id": name, "text": text} for name, text in zip("abcdef", texts, strict=True)]
    )
    documents = documents_of(t1=f"{texts[0]} x y {texts[3]} {texts[3]}", t2=f"{texts[5]} z")
    _, folder = run(tmp_path, documents, paths=[str(items)])
    whole = ledger(folder)
    monkeypatch.setattr(decontamination, "_PART_CHARS", 1)
    monkeypatch.setattr(decontamination, "_PART_TEXTS", 1)
    _, folder = run(tmp_path, documents, overwrite=True, paths=[str(items)])
    assert ledger(folder).equals(whole)
    assert whole["duplicate_of"].to_list() == ["items.jsonl:d", "items.jsonl:f"]
    assert whole["overlap"].to_list() == [45 / 47, 15 / 16]


def test_short_items_match_as_a_whole_and_very_short_ones_not_at_all(tmp_path, caplog):
    short, tiny = sentence("s", 9), "yes no"
    items = written(tmp_path / "items.jsonl", [{"text": short}, {"text": tiny}])
    part = " ".join(short.split()[:8])
    documents = documents_of(t1=f"a {short} b", t2=f"a {part} b", t3=f"a {tiny} b")
    _, folder = run(tmp_path, documents, paths=[str(items)])
    assert ledger(folder).select("document_id", "duplicate_of").rows() == [("t1", "items.jsonl:1")]
    assert "1 of 2 evaluation texts have fewer than 8 words" in caplog.text


def test_near_duplicates_have_a_reason_of_their_own(tmp_path):
    words = sentence("w", 60).split()
    near = " ".join(
        other if number % 12 == 5 else word
        for number, (word, other) in enumerate(zip(words, sentence("v", 60).split(), strict=True))
    )
    items = written(tmp_path / "items.jsonl", [{"id": "far", "text": ITEM}, {"id": "near", "text": " ".join(words)}])
    similarity = jaccard(shingles(near), shingles(" ".join(words)))
    _, folder = run(tmp_path, documents_of(t1=near, t2=sentence("a", 60)), paths=[str(items)], ngram_words=20)
    assert ledger(folder)["reason"].to_list() == []  # 0.4 is below the threshold
    assert similarity < 0.8
    near = " ".join(["other", *words[1:]])
    _, folder = run(tmp_path, documents_of(t1=near, t2=sentence("a", 60)), True, paths=[str(items)], methods=["near"])
    assert ledger(folder).select("document_id", "reason", "duplicate_of", "overlap").rows() == [
        ("t1", "contaminated_near", "items.jsonl:near", jaccard(shingles(near), shingles(" ".join(words))))
    ]


def test_own_val_and_test_can_be_removed_from_train(tmp_path):
    leak, near = sentence("l", 60), sentence("n", 60)
    documents = documents_of(
        t1=f"{leak} and more of it",
        t2=" ".join(["other", *near.split()[1:]]),
        t3=sentence("z", 60),
        v1=f"say {leak}",
        s1=near,
    )
    report, folder = run(tmp_path, documents)
    assert report.manifest["leakage"]["near_duplicate_in_train"] == 1.0
    assert "overlap" not in ledger(folder).columns
    report, folder = run(tmp_path, documents, overwrite=True, own_splits=True)
    assert ledger(folder).select("document_id", "reason", "duplicate_of").rows() == [
        ("t1", "leaked_ngram", "v1#s0"), ("t2", "leaked_ngram", "s1#s0"),
    ]  # fmt: skip
    assert report.manifest["leakage"]["near_duplicate_in_train"] == 0.0
    report, folder = run(tmp_path, documents, overwrite=True, own_splits=True, methods=["near"])
    assert ledger(folder)["reason"].to_list() == ["leaked_near"] * 2
    assert report.manifest["leakage"]["near_duplicate_in_train"] == 0.0
    assert {split: len(ParagraphStore(folder).read(split)) for split in ("train", "val", "test")} == {
        "train": 1, "val": 1, "test": 1,
    }  # fmt: skip


def test_splits_stay_where_they_were_without_decontamination(tmp_path):
    items = written(tmp_path / "items.jsonl", [{"text": sentence("d3 ", 20)}])
    documents = [{"id": f"d{n}", "text": sentence(f"d{n} ", 20)} for n in range(30)]

    def split_of(method, **settings):
        config = Config(
            data_dir=tmp_path / f"{method}{len(settings)}",
            corpus=CorpusConfig(
                source="jsonl", name="x", path=written(tmp_path / "corpus.jsonl", documents), id_field="id"
            ),
            preprocess=PreprocessConfig(min_tokens=1, max_digit_share=1),
            split=SplitConfig(method=method, train_ratio=0.5, val_ratio=0.25, test_ratio=0.25),
            decontamination=DecontaminationConfig(remove_from="all", **settings),
            embedding=EmbeddingConfig(model_name="hashing"),
        )
        prepare_paragraphs(config)
        store = ParagraphStore(config.processed_dir)
        return {split: store.read(split)["document_id"].to_list() for split in store.splits}

    for method in ("document", "paragraph"):
        before, after = split_of(method), split_of(method, paths=[str(items)])
        assert after == {split: [name for name in names if name != "d3"] for split, names in before.items()}


def test_another_evaluation_set_is_another_fingerprint_and_another_path_is_not(tmp_path):
    documents = documents_of(t1=sentence("a", 30), s1=sentence("b", 30))
    items = written(tmp_path / "items.jsonl", [{"text": ITEM}])
    report, _ = run(tmp_path, documents, paths=[str(items)])
    assert not report.preprocess_skipped
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (moved / "items.jsonl").write_bytes(items.read_bytes())
    report, _ = run(tmp_path, documents, paths=[str(moved / "items.jsonl")])
    assert report.preprocess_skipped
    written(items, [{"text": sentence("other", 20)}])
    with pytest.raises(StaleStageError, match=r"decontamination\.sets was"):
        run(tmp_path, documents, paths=[str(items)])
    with pytest.raises(StaleStageError, match=r"decontamination\.ngram_words was"):
        run(tmp_path, documents)


@pytest.mark.parametrize(
    ("extra", "message"), [({"text_fields": ["question"]}, "no field 'question'"), ({}, "has no texts")]
)
def test_a_set_without_texts_is_an_error(tmp_path, extra, message):
    items = written(tmp_path / "items.jsonl", [{"text": " "}])
    with pytest.raises(SourceError, match=message):
        run(tmp_path, documents_of(t1=sentence("a", 30)), paths=[str(items)], **extra)


# Real texts


def test_cranfield_documents_that_quote_a_query(shared, tmp_path):
    """Cranfield's documents against its queries: what is dropped is what brute force finds."""
    source = shared / "cranfield"
    read = [json.loads(line) for line in (source / "corpus.jsonl").read_text().splitlines()][:400]
    queries = [json.loads(line) for line in (source / "queries.jsonl").read_text().splitlines()]
    planted = {"id": "t-planted", "text": f"It asks {queries[10]['text']} {read[0]['text']}", "split": "train"}
    documents = [{"id": f"t{record['_id']}", "text": record["text"], "split": "train"} for record in read]
    documents = [record for record in documents if record["text"].strip()]
    _, folder = run(tmp_path, [*documents, planted], paths=[str(source)], methods=["ngram"], ngram_words=6, min_words=4)
    dropped = ledger(folder).filter(pl.col("reason") == "contaminated_ngram")
    kept = [
        record
        for record in [*documents, planted]
        if record["id"] not in set(ledger(folder).filter(pl.col("reason") != "contaminated_ngram")["document_id"])
    ]
    expected = plain_matches([record["text"] for record in kept], [query["text"] for query in queries], 6, 4)
    assert len(expected) > 1
    assert dict(dropped.select("document_id", "duplicate_of").rows()) == {
        kept[row]["id"]: f"queries.jsonl:{queries[item]['_id']}" for row, (item, _, _) in expected.items()
    }
    assert dropped["overlap"].to_list() == pytest.approx([sum(mask) / len(mask) for _, _, mask in expected.values()])
    assert ("t-planted", f"queries.jsonl:{queries[10]['_id']}") in dropped.select("document_id", "duplicate_of").rows()
    assert re.fullmatch(
        r"[0-9a-f]{64}", ParagraphStore(folder).manifest["settings"]["decontamination"]["sets"][0]["queries.jsonl"]
    )
