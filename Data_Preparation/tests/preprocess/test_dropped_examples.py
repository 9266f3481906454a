from hashlib import blake2b
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.preprocess import dropped_examples
from data_pipeline.preprocess.dropped_examples import EXAMPLES_PER_REASON, DropExamples
from data_pipeline.preprocess.ledger import DropLedger
from data_pipeline.store.dropped import read_dropped, read_dropped_examples
from data_pipeline.types import BadRecord, Document


def row(number, reason="too_short", text="text"):
    return {
        "text_id": f"d{number}#p0", "document_id": f"d{number}", "stage": "quality", "reason": reason,
        "duplicate_of": None, "text": f"{text} {number}",
    }  # fmt: skip


def examples_of(rows):
    examples = DropExamples()
    for one in rows:
        examples.add(**one)
    return examples


def by_hash(row):
    return blake2b(row["text_id"].encode(), digest_size=8).digest()


def test_the_ten_rows_of_each_reason_with_the_smallest_hashes_are_kept():
    rows = [row(number, reason) for number in range(200) for reason in ("too_short", "boilerplate")]
    rows += [row(number, "rare") for number in range(3)]
    kept = examples_of(rows).table().to_pylist()
    expected = []
    for reason in ("boilerplate", "rare", "too_short"):
        expected += sorted((one for one in rows if one["reason"] == reason), key=by_hash)[:10]
    assert kept == expected
    assert len(kept) == 23


rows_of_any_kind = st.lists(
    st.fixed_dictionaries(
        {
            "text_id": st.sampled_from([f"t{number}" for number in range(20)]),
            "document_id": st.sampled_from("ab"),
            "stage": st.sampled_from(["quality", "tokens"]),
            "reason": st.sampled_from(["x", "y"]),
            "duplicate_of": st.sampled_from([None, "other"]),
            "text": st.sampled_from([None, "", "one", "two"]),
        }
    ),
    max_size=80,
)


@given(rows_of_any_kind, st.lists(st.integers(0, 80), max_size=4), st.randoms(use_true_random=False))
def test_examples_depend_neither_on_the_order_of_rows_nor_on_their_parts(rows, cuts, shuffler):
    whole = examples_of(rows).table()
    shuffled = list(rows)
    shuffler.shuffle(shuffled)
    bounds = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    parts = [examples_of(shuffled[start:end]).table() for start, end in pairwise(bounds)]
    merged = DropExamples()
    for part in reversed(parts):
        merged.merge(part)
    assert merged.table().equals(whole)


def test_texts_are_read_only_for_examples_and_are_cut():
    reads = []

    def text(number):
        reads.append(number)
        return "é" * 3000

    examples = DropExamples()
    for number in range(1000):
        examples.add(f"d{number}", "d", "duplicates", "exact_duplicate", "other", lambda number=number: text(number))
    assert EXAMPLES_PER_REASON <= len(reads) < 150
    assert {one["text"] for one in examples.table().to_pylist()} == {"é" * 2000}


def test_a_text_that_utf8_cannot_spell_is_kept_with_a_replacement():
    examples = examples_of([row(1, text="half a pair \ud83d of")])
    assert examples.table()["text"].to_pylist() == ["half a pair \N{REPLACEMENT CHARACTER} of 1"]


def test_of_very_many_reasons_the_first_ones_have_examples_however_rows_are_cut(monkeypatch):
    monkeypatch.setattr(dropped_examples, "_REASONS", 4)
    rows = [row(number, f"reason {number * 7 % 50:02}") for number in range(50)]
    wanted = [f"reason {number:02}" for number in range(4)]
    assert examples_of(rows).table()["reason"].to_pylist() == wanted
    merged = examples_of(rows[25:])
    merged.merge(examples_of(rows[:25]).table())
    assert merged.table()["reason"].to_pylist() == wanted


def test_the_examples_of_a_ledger_have_texts_where_there_are_any(tmp_path):
    ledger = DropLedger(tmp_path / "dropped.parquet")
    ledger.add_bad_record(BadRecord("a.jsonl, line 3", "broken_line", "a.jsonl, line 3: not JSON"))
    assert ledger.add_empty_documents([Document("d1", " \n"), Document("d2", "")]) == 2
    ledger.add("d3#p0", "d3", "duplicates", "exact_duplicate", "d0#p0", lambda: "seen before")
    ledger.close()
    assert read_dropped(tmp_path).num_rows == 4
    rows = read_dropped_examples(tmp_path).to_pylist()
    assert {(one["text_id"], one["duplicate_of"], one["text"]) for one in rows} == {
        ("a.jsonl, line 3", None, None),
        ("d1", None, " \n"),
        ("d2", None, ""),
        ("d3#p0", "d0#p0", "seen before"),
    }


@pytest.mark.parametrize("with_overlap", [False, True])
def test_a_ledger_takes_the_rows_and_examples_of_another(tmp_path, with_overlap):
    other = DropLedger(tmp_path / "other.parquet")
    whole = DropLedger(tmp_path / "dropped.parquet", with_overlap)
    for number in range(30):
        other.add(**row(number))
    other.close()
    whole.add(**row(99))
    whole.copy_file(tmp_path / "other.parquet")
    whole.close()
    assert whole.counts == {"too_short": 31}
    assert read_dropped(tmp_path)["text_id"].to_pylist() == [row(number)["text_id"] for number in (99, *range(30))]
    expected = sorted([row(99), *map(row, range(30))], key=by_hash)[:10]
    assert read_dropped_examples(tmp_path).to_pylist() == expected
