import pyarrow as pa
import pytest
from support.unspaced_texts import SCRIPTS, text_of

from data_pipeline.preprocess import leakage
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
    from data_pipeline.cli.corpus import _leakage_text

    nothing = measure_leakage(store_of(tmp_path / "x", test=[("a", PLANTED)]).folder, 0.8)
    assert _leakage_text(nothing) == "not measured: train or test is empty"
    some = {**nothing, "article_in_train": 0.0, "near_duplicate_in_train": 0.5, "test_paragraphs": 40_000}
    assert _leakage_text(some | {"test_paragraphs_compared": 20_000}).endswith(
        "50.0% a near duplicate (of the first 20,000)"
    )
