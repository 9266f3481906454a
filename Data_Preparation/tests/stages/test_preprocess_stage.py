import hashlib
import random
from collections import Counter
from itertools import chain

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.paragraphs import corpus_of, write

from data_pipeline.config import CorpusConfig, SplitConfig
from data_pipeline.download import open_corpus
from data_pipeline.errors import SourceError, StoreError
from data_pipeline.preprocess import staging
from data_pipeline.stages.pipeline import run
from data_pipeline.store import ParagraphStore
from data_pipeline.store.dropped import read_dropped_examples
from data_pipeline.types import SPLITS, Document

COLUMNS = ["text_id", "text", "token_count", "char_count", "document_id", "title", "section", "source_split"]


def prepare(documents, folder, split=None, shard_rows=1000, metadata=None, on_duplicate_id="fail", **settings):
    corpus, folder = corpus_of(documents, metadata, on_duplicate_id=on_duplicate_id), folder / "x_processed"
    return write(corpus, folder, shard_rows=shard_rows, split=split or SplitConfig(), preprocess=settings), folder


def documents_of(*texts):
    return [Document(id=f"d{number}", text=text) for number, text in enumerate(texts)]


def all_rows(folder):
    store = ParagraphStore(folder)
    return pl.concat([store.read(split) for split in store.splits])


def test_the_sample_end_to_end(config):
    manifest = run(config, skip_embeddings=True).manifest
    folder = config.processed_dir
    kept, dropped = all_rows(folder), pl.read_parquet(folder / "dropped.parquet")
    counts = manifest["counts"]
    assert counts["documents"] == 48
    assert counts["kept"] == len(kept) == sum(manifest["splits"][split]["rows"] for split in SPLITS)
    assert counts["paragraphs"] == len(kept) + len(dropped)
    assert counts["dropped"] == dict(Counter(dropped["reason"]))
    assert not set(kept["text_id"]) & set(dropped["text_id"])
    assert kept["text_id"].n_unique() == len(kept)
    assert dropped["reason"].null_count() == 0
    assert kept["token_count"].to_list() == [len(text.split()) for text in kept["text"]]
    assert kept["char_count"].to_list() == [len(text) for text in kept["text"]]
    assert kept["token_count"].min() >= 60
    assert manifest["splits"]["train"]["tokens"] == ParagraphStore(folder).read("train")["token_count"].sum()
    for split in SPLITS:
        schema = pq.read_schema(folder / f"{split}.parquet")
        assert schema.names == [*COLUMNS, "subject"]
        assert {schema.field(name).type for name in ("token_count", "char_count")} == {pa.int64()}
        assert {schema.field(name).type for name in schema.names if not name.endswith("_count")} == {pa.string()}
    by_document = kept.group_by("document_id").len()
    assert len(by_document) == sum(
        ParagraphStore(folder).read(split)["document_id"].n_unique() for split in SPLITS
    )  # no article is in two splits


def test_two_runs_write_the_same_bytes(config, tmp_path):
    def hashes(number):
        folder = tmp_path / f"run{number}"
        near = config.preprocess.model_copy(update={"near_dedup": True})
        run(config.model_copy(update={"data_dir": folder, "preprocess": near}), skip_embeddings=True)
        paths = sorted(path for path in (folder / "sample_processed").iterdir() if path.is_file())
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}

    first = hashes(1)
    growth = {".documents.arrow", ".set_aside.parquet"}
    files = {"train.parquet", "val.parquet", "test.parquet", "manifest.json"}
    files |= {"dropped.parquet", "dropped_examples.parquet"}
    assert set(first) == files | growth
    assert hashes(2) == first


def test_shard_rows_cuts_a_split_into_numbered_files(config):
    config = config.model_copy(update={"storage": config.storage.model_copy(update={"shard_rows": 7})})
    manifest = run(config, skip_embeddings=True).manifest
    rows = manifest["splits"]["train"]["rows"]
    shards = -(-rows // 7)
    assert shards > 3
    names = [f"train-{index:05d}-of-{shards:05d}.parquet" for index in range(shards)]
    assert sorted(path.name for path in config.processed_dir.glob("train*")) == names
    assert [entry["file"] for entry in manifest["splits"]["train"]["shards"]] == names
    lengths = [pq.read_metadata(config.processed_dir / name).num_rows for name in names]
    assert lengths == [7] * (rows // 7) + ([rows % 7] if rows % 7 else [])


def test_shards_together_hold_the_rows_of_one_file_in_order(tmp_path):
    texts = [f"number {number} of many" for number in range(50)]
    _, one = prepare(documents_of(*texts), tmp_path / "one")
    _, many = prepare(documents_of(*texts), tmp_path / "many", shard_rows=3)
    assert len(list(many.glob("train-*"))) > 5
    for split in SPLITS:
        assert ParagraphStore(one).read(split).equals(ParagraphStore(many).read(split))


@pytest.mark.parametrize(
    ("text", "settings", "stage", "reason"),
    [
        ("a b", {"min_chars": 4}, "quality", "too_short"),
        ("? ? ? ! !", {}, "quality", "mostly_punctuation"),
        ("1 2 3 4 5 a", {}, "quality", "mostly_digits"),
        ("a b c", {"min_tokens": 4}, "tokens", "too_few_tokens"),
        ("a b c d e f g", {"min_tokens": 4, "max_tokens": 6}, "tokens", "too_many_tokens"),
    ],
)
def test_a_dropped_paragraph_has_a_row_with_stage_and_reason(tmp_path, text, settings, stage, reason):
    manifest, folder = prepare(documents_of("this one stays here", text), tmp_path, **settings)
    assert pl.read_parquet(folder / "dropped.parquet").rows(named=True) == [
        {"text_id": "d1#s0", "document_id": "d1", "stage": stage, "reason": reason, "duplicate_of": None}
    ]
    assert manifest["counts"]["dropped"] == {reason: 1}
    assert all_rows(folder)["text_id"].to_list() == ["d0#s0"]


def test_an_exact_duplicate_is_dropped_and_names_the_first_copy(tmp_path):
    texts = ["one two three", "other words here", "one two three", "one two three"]
    _, folder = prepare(documents_of(*texts), tmp_path)
    dropped = pl.read_parquet(folder / "dropped.parquet").sort("text_id")
    assert dropped.select("text_id", "stage", "reason", "duplicate_of").rows() == [
        ("d2#s0", "duplicates", "exact_duplicate", "d0#s0"),
        ("d3#s0", "duplicates", "exact_duplicate", "d0#s0"),
    ]
    assert sorted(all_rows(folder)["text_id"]) == ["d0#s0", "d1#s0"]


def test_exact_duplicates_stay_where_they_are_not_looked_for(tmp_path):
    _, folder = prepare(documents_of("one two three", "one two three"), tmp_path, exact_dedup=False)
    assert sorted(all_rows(folder)["text_id"]) == ["d0#s0", "d1#s0"]


def test_a_near_duplicate_is_dropped_and_names_the_kept_one(tmp_path):
    words = [f"word{number}" for number in range(60)]
    near = " ".join(words[:59])
    _, folder = prepare(documents_of(" ".join(words), "something else entirely", near), tmp_path, near_dedup=True)
    dropped = pl.read_parquet(folder / "dropped.parquet")
    assert dropped.select("text_id", "stage", "reason", "duplicate_of").rows() == [
        ("d2#s0", "duplicates", "near_duplicate", "d0#s0")
    ]


def test_a_near_duplicate_never_names_a_dropped_exact_copy(tmp_path):
    words = [f"word{number}" for number in range(60)]
    full, near = " ".join(words), " ".join(words[:59])
    _, folder = prepare(documents_of(full, full, near), tmp_path, near_dedup=True)
    kept = set(all_rows(folder)["text_id"])
    assert kept == {"d0#s0"}
    assert set(pl.read_parquet(folder / "dropped.parquet")["duplicate_of"]) == kept


def test_a_corpus_of_which_nothing_passes_is_an_error_with_the_reasons(tmp_path):
    with pytest.raises(SourceError, match=r"2 documents; dropped: mostly_punctuation 1, too_few_tokens 1"):
        prepare(documents_of("a b", "? ? ?"), tmp_path, min_tokens=5)
    with pytest.raises(SourceError, match="there were none"):
        prepare([], tmp_path)


def test_two_documents_with_one_id_are_an_error(tmp_path):
    twins = [Document(id="same", text="one text"), Document(id="same", text="another text")]
    with pytest.raises(SourceError, match="two documents have the id 'same'"):
        prepare(twins, tmp_path)


SAME_IDS = [
    Document("same", "one text\n\nits second paragraph"),
    Document("same", "?\n\nanother text\n\nmore of it"),  # its first paragraph is dropped, so that no text_id is equal
    Document("same~2", "has this id already"),
    Document("other", "something else"),
    Document("same", "a third one"),
    Document("same", "one text"),
]
FILTER = {"min_chars": 2}


def test_no_two_documents_of_one_id_are_mixed_up(tmp_path):
    documents = [Document("same", "one text"), Document("same", "?\n\nanother text")]
    with pytest.raises(SourceError, match="two documents have the id 'same'.*on_duplicate_id"):
        prepare(documents, tmp_path, **FILTER)


def test_later_documents_of_one_id_are_dropped(tmp_path):
    manifest, folder = prepare(SAME_IDS, tmp_path, on_duplicate_id="drop", **FILTER)
    assert set(all_rows(folder)["text_id"]) == {"same#s0", "same#s1", "same~2#s0", "other#s0"}
    dropped = pl.read_parquet(folder / "dropped.parquet").filter(pl.col("reason") == "duplicate_id")
    assert dropped.select("text_id", "document_id", "duplicate_of").rows() == [
        ("same#s1", "same", "same#s0"), ("same#s2", "same", "same#s0"), ("same#s0", "same", "same#s0"),
    ]  # fmt: skip
    assert manifest["counts"]["dropped"] == {"duplicate_id": 3, "exact_duplicate": 1, "too_short": 1}
    examples = read_dropped_examples(folder)
    kept = set(all_rows(folder)["text"])
    by_id = {(row["text_id"], row["reason"]): row["text"] for row in examples.to_pylist()}
    assert len(by_id) == examples.num_rows == 5
    assert {by_id[name, "duplicate_id"] for name in dropped["text_id"]}.isdisjoint(kept)
    assert {text for (_, reason), text in by_id.items() if reason == "exact_duplicate"} <= kept
    assert [text for (_, reason), text in by_id.items() if reason == "too_short"] == ["?"]


@pytest.mark.parametrize("part_rows", [None, 2])
def test_later_documents_of_one_id_get_ids_of_their_own(tmp_path, part_rows, monkeypatch):
    if part_rows:
        monkeypatch.setattr(staging, "_PART_ROWS", part_rows)
    _, folder = prepare(SAME_IDS, tmp_path, on_duplicate_id="suffix", **FILTER)
    assert dict(all_rows(folder).select("text_id", "text").iter_rows()) == {
        "same#s0": "one text", "same#s1": "its second paragraph", "same~3#s1": "another text",
        "same~3#s2": "more of it", "same~2#s0": "has this id already", "other#s0": "something else",
        "same~4#s0": "a third one",
    }  # fmt: skip
    assert all_rows(folder).select(pl.col("text_id").str.starts_with(pl.col("document_id") + "#").all()).item()


def test_copies_of_a_document_are_duplicates_not_an_error(tmp_path):
    twins = [Document(id="same", text="one text"), Document(id="same", text="one text")]
    _, folder = prepare(twins, tmp_path)
    assert all_rows(folder)["text_id"].to_list() == ["same#s0"]


def test_a_failed_run_leaves_the_old_paragraphs(tmp_path):
    _, folder = prepare(documents_of("one two three"), tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(SourceError):
        prepare(documents_of("?"), tmp_path)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_metadata_columns_have_their_types_and_keep_nulls(tmp_path):
    kinds = {"s": "str", "i": "int", "f": "float", "b": "bool"}
    values = {"s": "x", "i": 2**40, "f": 0.5, "b": True}
    documents = [
        Document(id="a", text="one two", metadata=values),
        Document(id="b", text="three four", metadata=dict.fromkeys(kinds)),
    ]
    _, folder = prepare(
        documents, tmp_path, metadata=kinds, split=SplitConfig(train_ratio=1, val_ratio=0, test_ratio=0)
    )
    schema = pq.read_schema(folder / "train.parquet")
    assert schema.names == [*COLUMNS, "s", "i", "f", "b"]
    assert [schema.field(name).type for name in kinds] == [pa.string(), pa.int64(), pa.float64(), pa.bool_()]
    assert pl.read_parquet(folder / "train.parquet").select(*kinds).rows(named=True) == [values, dict.fromkeys(kinds)]


def test_the_official_split_puts_documents_where_the_source_says(tmp_path):
    names = ["train", "test", "val", "train"]
    documents = [Document(id=f"d{i}", text=f"text {i} here", source_split=name) for i, name in enumerate(names)]
    _, folder = prepare(documents, tmp_path, split=SplitConfig(method="official"))
    store = ParagraphStore(folder)
    assert {split: store.read(split)["document_id"].to_list() for split in SPLITS} == {
        "train": ["d0", "d3"],
        "val": ["d2"],
        "test": ["d1"],
    }


def test_the_paragraph_split_has_exact_sizes_and_keeps_order_inside_a_split(tmp_path):
    text = "\n\n".join(f"paragraph number {number}" for number in range(50))
    document = [Document(id="d", text=text)]
    _, folder = prepare(document, tmp_path, split=SplitConfig(method="paragraph"))
    store = ParagraphStore(folder)
    positions = {split: [int(i.split("#s")[1]) for i in store.read(split)["text_id"]] for split in SPLITS}
    assert {split: len(rows) for split, rows in positions.items()} == {"train": 40, "val": 5, "test": 5}
    assert all(rows == sorted(rows) for rows in positions.values())
    assert sorted(chain(*positions.values())) == list(range(50))


def staged(tmp_path, values, batch_rows=7):
    table = pa.table({"text": pa.array(values, pa.large_string())})
    with pa.ipc.new_file(tmp_path / "staging", table.schema) as writer:
        writer.write_table(table, max_chunksize=batch_rows)
    return staging.Staging([staging.staged_file(tmp_path / "staging")])


def first_copies(values):
    seen = {}
    return [(row, seen[value]) for row, value in enumerate(values) if seen.setdefault(value, row) != row]


@pytest.mark.parametrize("part_rows", [8_000_000, 50, 3])
def test_repeats_are_those_of_brute_force_in_any_number_of_parts(tmp_path, monkeypatch, part_rows):
    monkeypatch.setattr(staging, "_PART_ROWS", part_rows)
    values = random.Random(0).choices([f"text {number}" for number in range(60)], k=150)
    assert sorted(staged(tmp_path, values).repeats("text")) == first_copies(values)


@pytest.mark.parametrize("part_rows", [8_000_000, 4])
def test_repeats_hold_when_different_texts_share_a_hash(tmp_path, monkeypatch, part_rows):
    monkeypatch.setattr(staging, "_PART_ROWS", part_rows)
    # Two hashes for everything: nearly every comparison has to look at the texts.
    monkeypatch.setattr(
        staging, "hashes_of", lambda column: pl.Series([len(v) % 2 for v in column], dtype=pl.UInt64).to_numpy()
    )
    values = random.Random(1).choices(["a", "b", "cc", "dd", "e", "ff", "ggg"], k=80)
    assert sorted(staged(tmp_path, values).repeats("text")) == first_copies(values)


def test_nothing_repeats_among_different_texts(tmp_path):
    assert list(staged(tmp_path, [str(number) for number in range(30)]).repeats("text")) == []


@pytest.mark.parametrize("text", ["", " \n\t\n ", "\u3000"])
def test_a_document_without_text_is_in_the_ledger_of_drops_and_in_the_counts(tmp_path, text):
    manifest, folder = prepare(documents_of("one text", text, "another"), tmp_path)
    assert manifest["counts"]["documents"] == 3
    assert manifest["counts"]["paragraphs"] == 3
    assert manifest["counts"]["kept"] == 2
    assert manifest["counts"]["dropped"] == {"empty_document": 1}
    (row,) = pl.read_parquet(folder / "dropped.parquet").to_dicts()
    assert (row["text_id"], row["document_id"], row["stage"], row["reason"]) == (
        "d1",
        "d1",
        "quality",
        "empty_document",
    )


def test_documents_without_text_alone_are_said_to_be_that(tmp_path):
    with pytest.raises(SourceError, match=r"2 documents; dropped: empty_document 2"):
        prepare(documents_of("", " "), tmp_path)


def test_a_paragraph_that_got_lost_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("data_pipeline.preprocess.ledger.DropLedger.add_empty_documents", lambda *_: 1)
    with pytest.raises(StoreError, match=r"3 paragraphs were read, 2 kept, 2 written and 0 dropped: some were lost"):
        prepare(documents_of("one text", "another"), tmp_path)
    assert not (tmp_path / "x_processed").exists()


def test_progress_is_told_in_bytes_of_all_bytes(tmp_path, monkeypatch):
    from data_pipeline.stages import base as module

    bars = []
    real = module.progress_bar

    def recorded(total, description, unit, tokens):
        bars.append((description, total, unit, real(total, description, unit, tokens)))
        return bars[-1][-1]

    monkeypatch.setattr(module, "progress_bar", recorded)
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "one text"}\n' * 3 + '{"text": "another"}\n')
    corpus = open_corpus(CorpusConfig(source="jsonl", path=path))
    write(corpus, tmp_path / "x")
    assert bars[0][:3] == ("Reading", path.stat().st_size, "B")
    assert bars[0][3].n == path.stat().st_size
