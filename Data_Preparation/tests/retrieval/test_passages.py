import gzip
import json
from itertools import pairwise

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from data_pipeline.config.retrieval import PassagesConfig
from data_pipeline.dataset import ELMDataset
from data_pipeline.errors import SourceError
from data_pipeline.preprocess.chunking import Chunker
from data_pipeline.retrieval.passage_files import passages_of_documents, passages_of_file
from data_pipeline.retrieval.passages import passages_of_lists, passages_of_rows, passages_of_store
from data_pipeline.stages.pipeline import run
from data_pipeline.store import ParagraphStore
from data_pipeline.store.hashing import column_sha256
from data_pipeline.utils import sha256_of_json


def words_tokenizer():
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def write(path, records):
    text = "".join(json.dumps(record) + "\n" for record in records)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


RECORDS = [
    {"doc_id": "a", "text": "one", "source_doc_id": "d"},
    {"doc_id": 7, "text": ""},
    {"doc_id": "c", "text": " \n", "source_doc_id": None},
]


def test_rows_give_ids_texts_and_documents_and_ids_give_rows():
    passages = passages_of_lists(["a", "b", "c"], ["x", "y", "z"], ["d", "d", "e"])
    assert len(passages) == 3
    assert passages[1] == ("b", "y", "d")
    assert passages.ids([2, 0]) == ["c", "a"]
    assert passages.texts(np.array([1, 2])) == ["y", "z"]
    assert passages.documents() == ["d", "d", "e"]
    assert passages.row_of("c") == 2
    assert passages.rows_of(["b", "nothing", "a"]).tolist() == [1, -1, 0]
    assert passages.rows_of([]).tolist() == []
    assert list(passages.blocks(2)) == [(0, ["x", "y"]), (2, ["z"])]
    with pytest.raises(KeyError, match="no passage 'q'"):
        passages.row_of("q")
    for row in (3, -1):
        with pytest.raises(IndexError, match="rows 0 to 2"):
            passages[row]
        with pytest.raises(IndexError, match="rows 0 to 2"):
            passages.texts([row])


def test_the_fingerprint_is_that_of_ids_and_texts_in_order():
    ids, texts = ["a", "b"], ["x", "y"]
    expected = sha256_of_json([column_sha256(ids), column_sha256(texts)])
    assert passages_of_lists(ids, texts).fingerprint == expected
    assert passages_of_lists(["b", "a"], ["y", "x"]).fingerprint != expected
    assert passages_of_lists(ids, ["x", "z"]).fingerprint != expected
    assert (
        passages_of_lists(["ab", ""], ["x", "y"]).fingerprint != passages_of_lists(["a", "b"], ["x", "y"]).fingerprint
    )


def test_an_id_twice_is_an_error():
    with pytest.raises(SourceError, match="'b' is there twice, in rows 1 and 3"):
        passages_of_lists(["a", "b", "c", "b"], ["x"] * 4)
    with pytest.raises(SourceError, match="2 ids, 1 texts"):
        passages_of_lists(["a", "b"], ["x"])


def test_no_passages():
    passages = passages_of_lists([], [])
    assert len(passages) == 0
    assert passages.rows_of(["a"]).tolist() == [-1]
    assert passages.is_empty.tolist() == []
    assert passages.fingerprint


@pytest.mark.parametrize("name", ["p.jsonl", "p.jsonl.gz", "p.parquet"])
def test_files_are_mapped_and_made_again_when_they_change(tmp_path, name):
    path, work = tmp_path / name, tmp_path / "work"
    records = [{**record, "doc_id": str(record["doc_id"])} for record in RECORDS]
    pl.DataFrame(records).write_parquet(path) if name.endswith("parquet") else write(path, records)
    passages = passages_of_file(path, work)
    assert passages.ids() == ["a", "7", "c"]
    assert passages.documents() == ["d", "7", "c"]
    assert passages.is_empty.tolist() == [False, True, True]
    assert passages.fingerprint == passages_of_lists(["a", "7", "c"], ["one", "", " \n"]).fingerprint
    before = {copy: copy.stat().st_mtime_ns for copy in work.glob("*.arrow")}
    assert passages_of_file(path, work).fingerprint == passages.fingerprint
    assert {copy: copy.stat().st_mtime_ns for copy in work.glob("*.arrow")} == before
    records[0]["text"] = "two"
    pl.DataFrame(records).write_parquet(path) if name.endswith("parquet") else write(path, records)
    assert passages_of_file(path, work).texts() == ["two", "", " \n"]
    assert len(list(work.glob("*.arrow"))) == 1


def test_titles_come_first_and_fields_have_names(tmp_path):
    path = write(tmp_path / "p.jsonl", [{"_id": 1, "title": "T", "text": "x"}, {"_id": 2, "title": "", "text": "y"}])
    passages = passages_of_file(path, tmp_path / "work", PassagesConfig(id_field="_id", title_field="title"))
    assert passages.texts() == ["T\nx", "y"]


def test_half_a_surrogate_pair_is_replaced(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"doc_id": "a", "text": "x\\ud800y"}\n')
    assert passages_of_file(tmp_path / "p.jsonl", tmp_path / "work").texts() == ["x\ufffdy"]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "x"}, "line 2: there is no field 'doc_id'; it has text"),
        ({"doc_id": "b"}, "line 2: there is no field 'text'"),
        ({"doc_id": "b", "text": 5}, "'text' must be a text, found 5"),
        ({"doc_id": "b", "text": None}, "'text' must be a text"),
        ({"doc_id": "", "text": "x"}, "must be a text or a whole number"),
        ({"doc_id": True, "text": "x"}, "must be a text or a whole number"),
        ({"doc_id": "a\nb", "text": "x"}, "control characters"),
        ({"doc_id": "a", "text": "x"}, "'a' is there twice"),
    ],
)
def test_a_bad_record_is_named(tmp_path, record, message):
    path = write(tmp_path / "p.jsonl", [RECORDS[0], record])
    with pytest.raises(SourceError, match=message):
        passages_of_file(path, tmp_path / "work")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SourceError, match="passages.path: no such file or folder"):
        passages_of_file(tmp_path / "nothing.jsonl", tmp_path / "work")


def test_windows_by_hand():
    chunker = Chunker(words_tokenizer(), 4, 2)
    text = "  a bb ccc d e f  gg "
    chunks = chunker.chunk(text)
    assert [text[chunk.start : chunk.end] for chunk in chunks] == ["a bb ccc d", "ccc d e f", "e f  gg"]
    assert [chunk.number for chunk in chunks] == [0, 1, 2]
    # The end is reached by the first window that can: none is a part of the one before.
    assert len(chunker.chunk("a b c d")) == 1
    assert [chunk[1:] for chunk in chunker.chunk("a b c d e")] == [(0, 7, 4), (4, 9, 3)]
    assert chunker.chunk("") == chunker.chunk(" \n ") == [(0, 0, 0, 0)]
    with pytest.raises(ValueError, match="from 1 to window_tokens"):
        Chunker(words_tokenizer(), 4, 5)


@pytest.mark.parametrize(("window", "stride"), [(5, 5), (5, 1), (7, 3), (1, 1)])
def test_windows_cover_every_token_and_each_has_one_of_its_own(window, stride):
    for count in range(1, 40):
        text = " ".join(f"w{number}" for number in range(count))
        chunks = Chunker(words_tokenizer(), window, stride).chunk(text)
        sets = [set(text[chunk.start : chunk.end].split()) for chunk in chunks]
        assert [chunk.tokens for chunk in chunks] == [len(found) for found in sets]
        assert set().union(*sets) == set(text.split())
        assert all(len(found) <= window for found in sets)
        assert all(not after <= before for before, after in pairwise(sets))


def test_windows_ignore_the_tokenizers_own_limits_and_leave_them_alone():
    tokenizer = words_tokenizer()
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=50)
    assert len(Chunker(tokenizer, 2, 2).chunk("a b c d e f")) == 3
    assert tokenizer.truncation["max_length"] == 3


def test_windows_of_the_qwen3_tokenizer_are_the_documents_own_characters(shared):
    tokenizer = Tokenizer.from_file(str(shared / "qwen3-tokenizer" / "tokenizer.json"))
    text = "Ünïcode — 🤖 combines\u0301 中文字符 and  two spaces, " * 20
    chunks = Chunker(tokenizer, 16, 8).chunk(text)
    assert chunks[0].start == 0
    assert chunks[-1].end == len(text.rstrip())
    for before, after in pairwise(chunks):
        assert before.start < after.start <= before.end < after.end
    assert all(text[one.start : one.end] == text[one.start : one.end].strip() for one in chunks)


def test_documents_become_windows_that_know_their_neighbours(tmp_path):
    records = [{"doc_id": "d", "text": "a b c d e f g"}, {"doc_id": "e", "text": "a b"}, {"doc_id": "f", "text": ""}]
    path = write(tmp_path / "d.jsonl", records)
    config = PassagesConfig(window_tokens=4, stride_tokens=1)
    passages = passages_of_documents(path, tmp_path / "work", words_tokenizer(), config)
    assert passages.ids() == ["d_chunk_0", "d_chunk_1", "d_chunk_2", "d_chunk_3", "e_chunk_0", "f_chunk_0"]
    assert passages.texts()[:4] == ["a b c d", "b c d e", "c d e f", "d e f g"]
    assert passages.documents() == ["d"] * 4 + ["e", "f"]
    assert passages.neighbours(0) == [1, 2, 3]
    assert passages.neighbours(3) == [0, 1, 2]
    assert passages.neighbours(4) == []
    apart = PassagesConfig(window_tokens=2, stride_tokens=2)
    apart_passages = passages_of_documents(path, tmp_path / "work", words_tokenizer(), apart)
    assert apart_passages.texts()[:4] == ["a b", "c d", "e f", "g"]
    assert apart_passages.neighbours(1) == [0, 2]
    long = PassagesConfig(window_tokens=2, stride_tokens=2, min_tokens=2)
    assert passages_of_documents(path, tmp_path / "work", words_tokenizer(), long).ids() == [
        "d_chunk_0", "d_chunk_1", "d_chunk_2", "e_chunk_0",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="would be in no passage"):
        PassagesConfig(window_tokens=2, stride_tokens=3)


def test_our_own_stores(config):
    run(config)
    dataset = ELMDataset(config=config)
    passages = passages_of_rows(dataset.rows)
    assert len(passages) == len(dataset)
    assert passages[3].text == dataset[3]["text"]
    assert passages[3].id == dataset[3]["metadata"]["text_id"]
    assert passages[3].source_document_id == dataset[3]["metadata"]["document_id"]
    assert passages.row_of(passages[3].id) == 3
    assert not passages.is_empty.any()
    store = passages_of_store(ParagraphStore(config.processed_dir), "train")
    assert store.ids() == passages.ids()
    assert store.fingerprint == passages.fingerprint
    view = passages_of_rows(dataset.select([5, 2, 9]).rows)
    assert view.ids() == passages.ids([5, 2, 9])
    assert view[0] == passages[5]
    assert view.row_of(passages[9].id) == 2
    assert view.fingerprint != passages.fingerprint


def test_a_corpus_is_not_held_in_memory(tmp_path):
    path = write(tmp_path / "p.jsonl", [{"doc_id": row, "text": f"{row} " * 1000} for row in range(3000)])
    before = pa.total_allocated_bytes()
    passages = passages_of_file(path, tmp_path / "work")
    assert passages.is_empty.sum() == 0
    assert len(passages.texts([5, 2000])) == 2
    assert pa.total_allocated_bytes() - before < path.stat().st_size / 50


def test_a_store_of_the_older_pipeline_has_no_documents(tmp_path):
    folder = tmp_path / "wikitext2_processed"
    folder.mkdir()
    rows = {"text_id": ["a", "b"], "text": ["one", "two"], "token_count": [1, 1], "char_count": [3, 3]}
    pl.DataFrame(rows).write_parquet(folder / "train.parquet")
    passages = passages_of_rows(ELMDataset(tmp_path, load_embeddings=False).rows)
    assert passages[1] == ("b", "two", "b")
    assert passages.neighbours(0) == []


def test_a_changed_file_is_read_again_also_where_another_folder_has_its_name(tmp_path):
    """Files of one name in two folders: both are part of what the copy is known by."""
    for name in "ab":
        (tmp_path / "corpus" / name).mkdir(parents=True)
        (tmp_path / "corpus" / name / "part-0.jsonl").write_text(json.dumps({"doc_id": name, "text": "old"}) + "\n")
    first = passages_of_file(tmp_path / "corpus", tmp_path / "work")
    assert first.texts() == ["old", "old"]
    (tmp_path / "corpus" / "a" / "part-0.jsonl").write_text(json.dumps({"doc_id": "a", "text": "CHANGED"}) + "\n")
    second = passages_of_file(tmp_path / "corpus", tmp_path / "work")
    assert second.texts() == ["CHANGED", "old"]
    assert second.fingerprint != first.fingerprint


def test_windows_that_are_too_short_are_counted(tmp_path):
    records = [{"doc_id": "a", "text": "one two three four five"}, {"doc_id": "b", "text": "six"}]
    path = write(tmp_path / "d.jsonl", records)
    config = PassagesConfig(window_tokens=4, stride_tokens=4, min_tokens=2)
    for _ in range(2):  # made, and found again
        found = passages_of_documents(path, tmp_path / "work", words_tokenizer(), config)
        assert found.texts() == ["one two three four"]
        assert found.left_out == {"too_short": 2}
