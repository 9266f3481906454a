import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipeline.errors import CorruptShardError
from data_pipeline.store import Columns, ParagraphStore, copy_path, write_manifest
from data_pipeline.store import corpus_files as source_module
from data_pipeline.store.access import text_columns as columns_module
from data_pipeline.store.access.text_columns import copy_faults, write_copy
from data_pipeline.store.corpus_files import SplitFiles
from data_pipeline.store.paragraphs import ParagraphWriter, paragraph_schema

WORDS = ["", "a", "Größe", "雪が降る", "🦜🧪", "\u0000x", "é" * 300, "plain words", "\n"]


def texts_of(rows):
    return [f"{WORDS[row % len(WORDS)]}{row if row % 4 else ''}" for row in range(rows)]


def write_store(folder, texts, shard_rows=1000, split="train"):
    folder.mkdir(parents=True, exist_ok=True)
    schema = paragraph_schema({"subject": pa.string()})
    rows = [
        {"text_id": f"id-{row}", "text": text, "token_count": row, "char_count": len(text),
         "document_id": "d", "title": "T", "section": "", "source_split": "", "subject": None if row % 2 else "s"}
        for row, text in enumerate(texts)
    ]  # fmt: skip
    writer = ParagraphWriter(folder, split, schema, shard_rows)
    writer.write(pa.Table.from_pylist(rows, schema))
    write_manifest(folder, {"splits": {split: {"shards": [entry.to_json() for entry in writer.close()]}}})
    return ParagraphStore(folder).shards(split)


def columns_of(shards, folder):
    return Columns(shards, lambda number: (shards[number], copy_path(folder, shards[number])))


def copies(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


@pytest.fixture
def small_batches(monkeypatch):
    """Seven rows in a batch of an Arrow file, so that a few rows are in several."""
    monkeypatch.setattr(columns_module, "_BATCH_ROWS", 7)


CASES = {
    "mixed": texts_of(50),
    "empty": [""] * 20,
    "empty first and last": ["", "", *texts_of(12), "", ""],
    "one": ["only"],
    "none": [],
}


@pytest.mark.parametrize("shard_rows", [1000, 16, 14])
@pytest.mark.parametrize("name", CASES)
def test_texts_are_those_of_the_parquet_files_whatever_is_asked_for(tmp_path, small_batches, name, shard_rows):
    texts = CASES[name]
    shards = write_store(tmp_path / "s", texts, shard_rows)
    generator = np.random.default_rng(0)
    asked = [np.zeros(0, np.int64), np.arange(len(texts))]
    if texts:
        asked += [generator.integers(0, len(texts), 60), np.arange(len(texts))[::-1], np.full(4, len(texts) - 1)]
        asked += [np.arange(start, min(start + 5, len(texts))) for start in range(0, len(texts), 3)]
    for rows in asked:
        found = columns_of(shards, tmp_path / "c")
        found.prepare(rows)
        assert found.texts(rows) == [texts[row] for row in rows]
        assert found.records(rows, ["text", "token_count"]).to_pylist() == [
            {"text": texts[row], "token_count": row} for row in rows
        ]
    found = columns_of(shards, tmp_path / "c")
    assert [found.text(row) for row in range(len(texts))] == texts
    found.prepare(np.arange(0, len(texts), 6), 6)
    if texts:
        assert [text for batch in found.batches(["text"]) for text in batch["text"].to_pylist()] == texts
    assert found.schema.names[:3] == ["text_id", "text", "token_count"]


def test_a_full_size_batch_reads_the_same(tmp_path):
    texts = texts_of(500)
    found = columns_of(write_store(tmp_path / "s", texts, 200), tmp_path / "c")
    rows = np.random.default_rng(0).permutation(500)
    assert found.texts(rows) == [texts[row] for row in rows]


def test_only_files_whose_rows_are_asked_for_are_opened(tmp_path):
    shards = write_store(tmp_path / "s", texts_of(40), 10)
    found = columns_of(shards, tmp_path / "c")
    assert found.texts(np.array([25])) == texts_of(40)[25:26]
    assert len(copies(tmp_path / "c")) == 1


def test_the_copy_is_written_once(tmp_path, monkeypatch):
    shards = write_store(tmp_path / "s", texts_of(40))
    written = []
    real = columns_module._write_arrow
    monkeypatch.setattr(columns_module, "_write_arrow", lambda *args: written.append(args) or real(*args))
    for _ in range(3):
        columns_of(shards, tmp_path / "c").text(3)
    path = copy_path(tmp_path / "c", shards[0])
    before = path.stat().st_mtime_ns
    write_copy(shards[0], path)  # another process was quicker
    assert len(written) == 1
    assert path.stat().st_mtime_ns == before


def test_the_same_content_has_the_same_name_and_other_content_another(tmp_path):
    texts = texts_of(20)
    first = write_store(tmp_path / "a", texts)[0]
    again = write_store(tmp_path / "b", texts)[0]
    other = write_store(tmp_path / "c", [*texts[:-1], "changed"])[0]
    assert copy_path(tmp_path, first) == copy_path(tmp_path, again) != copy_path(tmp_path, other)
    assert copy_path(tmp_path, first).name.startswith("train.")


def test_a_changed_parquet_file_gets_a_new_copy_and_the_old_and_stray_ones_go(tmp_path):
    folder = tmp_path / "c"
    columns_of(write_store(tmp_path / "s", texts_of(20)), folder).text(0)
    (old,) = copies(folder)
    for stray in ("train.0123.arrow.tmp", "train.0123.arrow"):
        (folder / stray).write_bytes(b"left by a killed process")
    (folder / "train-00000-of-00002.0123.arrow").write_bytes(b"of another shard")
    changed = [*texts_of(19), "changed"]
    found = columns_of(write_store(tmp_path / "s", changed), folder)
    assert found.text(19) == "changed"
    (kept, new) = copies(folder)
    assert (kept, new != old) == ("train-00000-of-00002.0123.arrow", True)


def test_a_copy_that_cannot_be_finished_leaves_nothing(tmp_path):
    shards = write_store(tmp_path / "s", texts_of(20))
    wrong = replace(shards[0], texts_sha256="0" * 64)
    with pytest.raises(
        CorruptShardError, match=r"train\.parquet: its ids or texts do not match their checksums.*Restore"
    ):
        columns_of([wrong], tmp_path / "c").text(0)
    assert copies(tmp_path / "c") == []
    content = bytearray(shards[0].path.read_bytes())
    content[10:60] = bytes(50)
    shards[0].path.write_bytes(content)
    with pytest.raises(CorruptShardError, match=r"train\.parquet.*(cannot be read|do not match their checksums)"):
        columns_of(shards, tmp_path / "c").text(0)
    assert copies(tmp_path / "c") == []


@pytest.mark.parametrize("size", [0, 5, 8, 100, -1, -100])
def test_a_truncated_copy_is_refused_with_advice(tmp_path, size):
    shards = write_store(tmp_path / "s", texts_of(20))
    path = copy_path(tmp_path / "c", shards[0])
    columns_of(shards, tmp_path / "c").text(0)
    os.truncate(path, size if size >= 0 else path.stat().st_size + size)
    with pytest.raises(
        CorruptShardError, match=rf"{path.name} cannot be read: .*Delete it; it is rebuilt from parquet"
    ):
        columns_of(shards, tmp_path / "c").text(0)
    assert "Delete it; it is rebuilt" in copy_faults(shards[0], path)[0]
    path.unlink()
    assert columns_of(shards, tmp_path / "c").text(1) == texts_of(20)[1]


def rewrite(path, table, **how):
    path.unlink()
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, **how)


def test_a_copy_of_something_else_is_refused_with_advice(tmp_path):
    shards = write_store(tmp_path / "s", texts_of(20))
    path = copy_path(tmp_path / "c", shards[0])
    columns_of(shards, tmp_path / "c").text(0)
    table = pa.ipc.open_file(path).read_all()
    rewrite(path, table.slice(1))
    with pytest.raises(
        CorruptShardError, match="has other rows or columns than.*Delete it; it is rebuilt from parquet"
    ):
        columns_of(shards, tmp_path / "c").text(0)
    # The same rows and columns with other texts are found by their hash.
    swapped = table.take(pa.array([1, 0, *range(2, 20)]))
    rewrite(path, swapped.combine_chunks())
    assert "its ids or texts differ from those of train.parquet. Delete it" in copy_faults(shards[0], path)[0]


def test_a_copy_without_texts_is_refused_with_advice(tmp_path):
    shards = write_store(tmp_path / "s", texts_of(20))
    path = copy_path(tmp_path / "c", shards[0])
    columns_of(shards, tmp_path / "c").text(0)
    rewrite(path, pa.ipc.open_file(path).read_all().drop_columns(["text"]))
    with pytest.raises(CorruptShardError, match="Delete it; it is rebuilt from parquet"):
        columns_of(shards, tmp_path / "c").text(0)


def test_a_copy_in_batches_of_another_size_is_refused_and_not_read_wrongly(tmp_path):
    # They would go over the end of the list of batches, or over the next shard's.
    shards = write_store(tmp_path / "s", texts_of(40), 20)
    columns_of(shards, tmp_path / "c").texts(np.arange(40))
    path = copy_path(tmp_path / "c", shards[0])
    rewrite(path, pa.ipc.open_file(path).read_all(), max_chunksize=10)
    columns = columns_of(shards, tmp_path / "c")
    with pytest.raises(CorruptShardError, match="Delete it; it is rebuilt from parquet"):
        assert [columns.text(0), columns.text(20)] == [texts_of(40)[0], texts_of(40)[20]]


FLIP = """
import sys; from pathlib import Path; import numpy as np
sys.path[:0] = [{tests!r}]
from test_text_columns import columns_of; from data_pipeline.store import ParagraphStore
from data_pipeline.errors import CorruptShardError
shards = ParagraphStore(Path({store!r})).shards("train")
try:
    columns_of(shards, Path({copies!r})).texts(np.array({rows}))
except CorruptShardError as error:
    assert "Delete it" in str(error)
"""


@pytest.mark.parametrize("rows", [[3, 7, 9, 11, 5], [11, 12]])
def test_damaged_offsets_of_a_copy_are_refused_and_do_not_read_beyond_its_end(tmp_path, rows):
    # What is cut from the file is shorter than its offsets say; where the last offset happens to fit, Arrow would
    # read from behind the buffer.
    shards = write_store(tmp_path / "s", ["word " * 40] * 20)
    path = copy_path(tmp_path / "c", shards[0])
    columns_of(shards, tmp_path / "c").text(0)
    content = bytearray(path.read_bytes())
    place = content.index(b"".join((200 * row).to_bytes(8, "little") for row in range(21)))
    content[place + 12 * 8 + 5] ^= 1  # where text 11 ends: 2^40 bytes later
    path.write_bytes(content)
    code = FLIP.format(
        tests=os.path.dirname(__file__), store=str(tmp_path / "s"), copies=str(tmp_path / "c"), rows=rows
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (done.returncode, done.stderr[-500:])


# Where copies go


def source_of(folder, cache_dir=None):
    store = ParagraphStore(folder)
    return SplitFiles("train", store, folder, None, False, cache_dir, None, "embeddings")


def test_copies_lie_beside_the_parquet_files_or_in_the_cache_folder_that_was_given(tmp_path):
    write_store(tmp_path / "s", texts_of(9))
    assert source_of(tmp_path / "s").text_copy(0)[1].parent == tmp_path / "s" / ".cache"
    assert source_of(tmp_path / "s", tmp_path / "c").text_copy(0)[1].parent == tmp_path / "c" / "texts"


def test_where_the_folder_cannot_be_written_copies_go_to_the_user_s_cache_folder(tmp_path, monkeypatch):
    write_store(tmp_path / "s", texts_of(9))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    real = os.access  # the tests may run as root, who may write everywhere
    monkeypatch.setattr(
        source_module.os, "access", lambda path, mode: real(path, mode) and tmp_path / "s" not in (path, *path.parents)
    )
    source = source_of(tmp_path / "s")
    found = Columns(source.paragraphs, source.text_copy)
    assert found.text(1) == texts_of(9)[1]
    assert len(copies(tmp_path / "xdg" / "elm-data-preparation" / "texts")) == 1
    assert not list((tmp_path / "s").glob(".cache/*.arrow"))
    # A copy that is there already is used, wherever that is.
    path = copy_path(tmp_path / "s" / ".cache", source.paragraphs[0])
    write_copy(source.paragraphs[0], path)
    assert source.text_copy(0)[1] == path


def test_two_data_sets_in_one_cache_folder_leave_each_other_s_copies(tmp_path):
    # In a shared cache folder every data set's shard is called `train`.
    write_store(tmp_path / "a", texts_of(9))
    write_store(tmp_path / "b", texts_of(10))
    for name in ("a", "b", "a"):
        source = source_of(tmp_path / name, tmp_path / "cache")
        Columns(source.paragraphs, source.text_copy).text(0)
    assert len(copies(tmp_path / "cache" / "texts")) == 2


def _write(folder, copy, start, results):
    start.wait(30)
    shards = ParagraphStore(folder).shards("train")
    found = columns_of(shards, copy)
    results.put([found.text(row) for row in range(0, 5000, 100)])


@pytest.mark.slow
@pytest.mark.posix
def test_two_processes_that_come_at_the_same_time_write_one_good_copy(tmp_path):
    texts = texts_of(5000)
    shards = write_store(tmp_path / "s", texts, 10_000)
    context = multiprocessing.get_context("fork")
    start, results = context.Event(), context.Queue()
    processes = [
        context.Process(target=_write, args=(tmp_path / "s", tmp_path / "c", start, results)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    start.set()
    for _ in processes:
        assert results.get(timeout=60) == texts[::100]
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert copies(tmp_path / "c") == [copy_path(tmp_path / "c", shards[0]).name]
    assert copy_faults(shards[0], copy_path(tmp_path / "c", shards[0])) == []
    assert pq.read_metadata(shards[0].path).num_rows == 5000
