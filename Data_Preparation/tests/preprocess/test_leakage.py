from functools import partial
from itertools import chain, pairwise

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.unspaced_texts import SCRIPTS, text_of

from data_pipeline.preprocess import leakage
from data_pipeline.preprocess.leakage import most_similar_pairs
from data_pipeline.stages import leakage as stage
from data_pipeline.stages.leakage import measure_leakage
from data_pipeline.store import ParagraphStore, write_manifest
from data_pipeline.store.paragraphs import ParagraphWriter, paragraph_schema

PLANTED = " ".join(f"w{number}" for number in range(60))
NEAR = " ".join(["other", *PLANTED.split()[1:]])  # 55 of 57 shingles
OTHER = " ".join(f"v{number}" for number in range(60))


def store_of(folder, shard_rows=100, **splits):
    """A store whose splits are lists of (document, text)."""
    folder.mkdir()
    schema = paragraph_schema({})
    entries = {}
    for split in ("train", "val", "test"):
        rows = splits.get(split, [])
        columns = {name: [""] * len(rows) for name in schema.names}
        columns |= {"text_id": [f"{split}{i}" for i in range(len(rows))], "text": [text for _, text in rows]}
        columns |= {"document_id": [document for document, _ in rows]}
        columns |= {"token_count": [1] * len(rows), "char_count": [1] * len(rows)}
        writer = ParagraphWriter(folder, split, schema, shard_rows)
        writer.write(pa.table(columns, schema=schema))
        entries[split] = {"shards": [entry.to_json() for entry in writer.close()]}
    write_manifest(folder, {"fingerprint": "f", "settings": {}, "upstream": "", "splits": entries})
    return ParagraphStore(folder)


@pytest.mark.parametrize("shard_rows", [100, 1])
def test_the_figures_are_those_counted_by_hand(tmp_path, shard_rows):
    store = store_of(
        tmp_path / "x",
        shard_rows,
        train=[("a", PLANTED), ("a", "first one"), ("b", "second one"), ("c", "third one")],
        test=[("a", "fourth one"), ("a", "fifth one"), ("d", NEAR), ("e", OTHER)],
    )
    assert measure_leakage(store.folder, 0.8) == {
        "test_paragraphs": 4,
        "test_paragraphs_compared": 4,
        "article_in_train": 0.5,
        "near_duplicate_in_train": 0.25,
        "near_threshold": 0.8,
        "pairs": [{"test_id": "test2", "train_id": "train0", "similarity": round(55 / 57, 6)}],
    }


def test_a_division_by_document_without_repeats_leaks_nothing(tmp_path):
    store = store_of(
        tmp_path / "x", train=[("a", PLANTED), ("b", "words here")], test=[("c", OTHER), ("d", "and there")]
    )
    figures = measure_leakage(store.folder, 0.8)
    assert (figures["article_in_train"], figures["near_duplicate_in_train"]) == (0, 0)


def test_a_near_duplicate_below_the_threshold_is_none(tmp_path):
    store = store_of(tmp_path / "x", train=[("a", PLANTED)], test=[("b", NEAR)])
    # 55 shared of 57: 0.965.
    assert measure_leakage(store.folder, 0.96)["near_duplicate_in_train"] == 1
    assert measure_leakage(store.folder, 0.97)["near_duplicate_in_train"] == 0


def test_what_val_shares_with_test_or_train_is_no_leak_from_train(tmp_path):
    store = store_of(tmp_path / "x", train=[("a", "x y")], val=[("b", PLANTED)], test=[("b", PLANTED)])
    figures = measure_leakage(store.folder, 0.8)
    assert (figures["article_in_train"], figures["near_duplicate_in_train"]) == (0, 0)


def test_several_copies_in_train_count_once_and_copies_in_test_each(tmp_path):
    store = store_of(
        tmp_path / "x", train=[("a", PLANTED), ("b", NEAR)], test=[("c", PLANTED), ("d", NEAR), ("e", OTHER)]
    )
    assert measure_leakage(store.folder, 0.8)["near_duplicate_in_train"] == pytest.approx(2 / 3)


def text(name, words=60):
    return " ".join(f"{name}{number}" for number in range(words))


@pytest.mark.parametrize("part_rows", [1, 2, 100])
def test_each_test_row_is_paired_with_its_most_similar_train_row(tmp_path, monkeypatch, part_rows):
    monkeypatch.setattr(stage, "_PART_ROWS", part_rows)
    monkeypatch.setattr(leakage, "most_similar_pairs", partial(most_similar_pairs, count=3))
    near_b = text("b").replace("b0 ", "x ")
    folder = store_of(
        tmp_path / "x",
        1,
        train=[("1", NEAR), ("2", PLANTED), ("3", near_b), ("4", text("c")), ("5", text("c")), ("6", near_b)],
        test=[("7", PLANTED), ("8", text("b")), ("9", text("c")), ("10", text("b")), ("11", OTHER)],
    ).folder
    figures = measure_leakage(folder, 0.8)
    assert figures["near_duplicate_in_train"] == pytest.approx(4 / 5)
    assert figures["pairs"] == [
        {"test_id": "test0", "train_id": "train1", "similarity": 1.0},
        {"test_id": "test2", "train_id": "train3", "similarity": 1.0},
        {"test_id": "test1", "train_id": "train2", "similarity": round(55 / 57, 6)},
    ]


@given(
    st.lists(
        st.tuples(st.sampled_from([0.8, 0.9, 1.0]), st.sampled_from("abcd"), st.sampled_from("uvwxyz")), max_size=30
    ),
    st.integers(1, 5),
    st.lists(st.integers(0, 30), max_size=4),
)
def test_the_best_pairs_do_not_depend_on_the_parts_of_train(pairs, count, cuts):
    bounds = [0, *sorted(cuts), len(pairs)]
    parts = [most_similar_pairs(pairs[start:end], count) for start, end in pairwise(bounds)]
    merged = most_similar_pairs(chain.from_iterable(reversed(parts)), count)
    best = {test: min((pair for pair in pairs if pair[1] == test), key=lambda p: (-p[0], p[2])) for _, test, _ in pairs}
    assert merged == sorted(best.values(), key=lambda pair: (-pair[0], pair[1]))[:count]


def test_at_most_twenty_pairs_are_recorded(tmp_path):
    rows = [(f"d{number}", text(f"t{number}w")) for number in range(25)]
    figures = measure_leakage(store_of(tmp_path / "x", train=rows, test=rows).folder, 0.8)
    assert [pair["test_id"] for pair in figures["pairs"]] == sorted(f"test{number}" for number in range(25))[:20]
    assert all(pair["train_id"] == pair["test_id"].replace("test", "train") for pair in figures["pairs"])


def test_without_test_paragraphs_there_is_no_share(tmp_path):
    figures = measure_leakage(store_of(tmp_path / "x", train=[("a", PLANTED)]).folder, 0.8)
    assert (figures["test_paragraphs"], figures["article_in_train"], figures["near_duplicate_in_train"]) == (
        0,
        None,
        None,
    )


def test_without_train_paragraphs_leakage_is_not_measured(tmp_path):
    figures = measure_leakage(store_of(tmp_path / "x", test=[("a", PLANTED)]).folder, 0.8)
    assert (figures["article_in_train"], figures["near_duplicate_in_train"]) == (None, None)


@pytest.mark.parametrize(("limit", "most"), [("_SAMPLE_ROWS", 3), ("_SAMPLE_CHARACTERS", len(PLANTED) + 4)])
def test_texts_are_compared_up_to_a_number_and_articles_all(tmp_path, monkeypatch, limit, most):
    monkeypatch.setattr(leakage, limit, most)
    test = [("b", PLANTED), ("c", "one"), ("d", "two"), ("a", PLANTED)]
    figures = measure_leakage(store_of(tmp_path / "x", 2, train=[("a", PLANTED)], test=test).folder, 0.8)
    assert (figures["test_paragraphs"], figures["test_paragraphs_compared"]) == (4, 3)
    assert figures["article_in_train"] == 0.25
    assert figures["near_duplicate_in_train"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("script", SCRIPTS)
def test_near_duplicates_are_found_in_scripts_without_spaces_too(tmp_path, script):
    text = text_of(script, 120, 0)
    test = [("b", text[:50] + "\u4e00" + text[51:]), ("c", text_of(script, 120, 1))]
    figures = measure_leakage(store_of(tmp_path / "x", train=[("a", text)], test=test).folder, 0.8)
    assert figures["near_duplicate_in_train"] == 0.5


def test_what_cannot_be_measured_is_said_and_is_not_zero(tmp_path):
    from data_pipeline.cli.info import _leakage_text

    nothing = measure_leakage(store_of(tmp_path / "x", test=[("a", PLANTED)]).folder, 0.8)
    assert _leakage_text(nothing) == "not measured: train or test is empty"
    some = {**nothing, "article_in_train": 0.0, "near_duplicate_in_train": 0.5, "test_paragraphs": 40_000}
    assert _leakage_text(some | {"test_paragraphs_compared": 20_000}).endswith(
        "50.0% a near duplicate (of the first 20,000)"
    )
