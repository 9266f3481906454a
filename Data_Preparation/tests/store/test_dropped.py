import pytest

from data_pipeline.errors import CorruptShardError, NotFoundError
from data_pipeline.preprocess.ledger import DropLedger
from data_pipeline.store.dropped import (
    EXAMPLES_SCHEMA,
    count_dropped,
    read_dropped,
    read_dropped_examples,
    read_example_texts,
)


@pytest.fixture
def folder(tmp_path):
    ledger = DropLedger(tmp_path / "dropped.parquet", with_overlap=True)
    ledger.add("a#1", "a", "tokens", "too_few_tokens", None, "short")
    ledger.add("a#2", "a", "duplicates", "near_duplicate", "b#0", "long enough", 0.9)
    ledger.add("b#1", "b", "tokens", "too_few_tokens", None, "brief")
    ledger.close()
    return tmp_path


def test_the_ledger_is_read_whole_by_reason_and_by_document(folder):
    assert read_dropped(folder)["text_id"].to_pylist() == ["a#1", "a#2", "b#1"]
    assert read_dropped(folder, "too_few_tokens")["text_id"].to_pylist() == ["a#1", "b#1"]
    assert read_dropped(folder, document_id="a").to_pylist() == [
        {"text_id": "a#1", "document_id": "a", "stage": "tokens", "reason": "too_few_tokens", "duplicate_of": None,
         "overlap": None},
        {"text_id": "a#2", "document_id": "a", "stage": "duplicates", "reason": "near_duplicate",
         "duplicate_of": "b#0", "overlap": 0.9},
    ]  # fmt: skip
    empty = read_dropped(folder, document_id="nowhere")
    assert read_dropped(folder, "near_duplicate", "b").num_rows == 0  # of another document
    assert (empty.num_rows, empty.column_names) == (0, read_dropped(folder).column_names)


def test_rows_are_counted_by_stage_and_reason(folder, tmp_path):
    assert count_dropped(folder) == {("tokens", "too_few_tokens"): 2, ("duplicates", "near_duplicate"): 1}
    (tmp_path / "empty").mkdir()
    DropLedger(tmp_path / "empty" / "dropped.parquet").close()
    assert count_dropped(tmp_path / "empty") == {}


def test_an_unknown_reason_is_an_error_that_names_those_there_are(folder, tmp_path):
    with pytest.raises(NotFoundError, match="reason 'too_many'; expected one of near_duplicate, too_few_tokens"):
        read_dropped(folder, "too_many")
    (tmp_path / "none").mkdir()
    DropLedger(tmp_path / "none" / "dropped.parquet").close()
    assert read_dropped(tmp_path / "none").num_rows == 0
    with pytest.raises(NotFoundError, match="'too_many', or for any other"):
        read_dropped(tmp_path / "none", "too_many")


def test_examples_have_texts_and_older_datasets_have_none(folder):
    examples = read_dropped_examples(folder)
    assert examples.schema == EXAMPLES_SCHEMA
    assert set(examples["text"].to_pylist()) == {"short", "long enough", "brief"}
    assert read_example_texts(folder)["a#2", "near_duplicate"] == "long enough"
    (folder / "dropped_examples.parquet").unlink()
    assert read_dropped_examples(folder) is None
    assert read_example_texts(folder) == {}


@pytest.mark.parametrize(
    "read", [read_dropped, count_dropped, read_dropped_examples, lambda folder: read_dropped(folder, document_id="a")]
)
def test_a_folder_without_a_ledger_and_a_damaged_file_are_errors(folder, tmp_path, read):
    with pytest.raises(NotFoundError, match=r"nowhere.dropped\.parquet"):
        read(tmp_path / "nowhere")
    for path in folder.glob("*.parquet"):
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CorruptShardError, match="cannot be read"):
        read(folder)
