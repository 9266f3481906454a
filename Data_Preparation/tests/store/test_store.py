import contextlib
import hashlib
import json
import os
import shutil
import struct
import sys
from importlib.metadata import version

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from data_pipeline.errors import CorruptShardError, StaleStageError, StoreError
from data_pipeline.store import (
    Coding,
    ColumnHash,
    ParagraphStore,
    fingerprint,
    open_embedding_shard,
    read_manifest,
    write_manifest,
)
from data_pipeline.store.embeddings import EmbeddingWriter
from data_pipeline.store.hashing import column_sha256
from data_pipeline.store.manifest import FORMAT_VERSION, ParagraphManifest, check_fresh
from data_pipeline.store.paragraphs import ParagraphWriter, paragraph_schema, shard_name
from data_pipeline.utils import folders
from data_pipeline.utils.folders import recover_folder, replace_folder

# Hashes and names


def test_the_column_hash_is_sha256_over_length_and_bytes_of_every_string():
    by_hand = b"\x01\0\0\0\0\0\0\0a" + b"\0\0\0\0\0\0\0\0" + b"\x03\0\0\0\0\0\0\0\xc3\xa9b"
    assert column_sha256(["a", "", "éb"]) == hashlib.sha256(by_hand).hexdigest()
    assert column_sha256([]) == hashlib.sha256(b"").hexdigest()


def test_the_column_hash_is_the_same_in_parts_and_tells_borders_apart():
    column = ColumnHash()
    column.update(["ab"])
    column.update(iter(["c", "d"]))
    assert column.hexdigest() == column_sha256(["ab", "c", "d"])
    assert len({column_sha256(strings) for strings in (["ab", "c"], ["a", "bc"], ["abc"], ["c", "ab"])}) == 4


def test_names_of_shards():
    assert shard_name("train", ".parquet", 0, 1) == "train.parquet"
    assert shard_name("train_embeddings", ".safetensors", 3, 12) == "train_embeddings-00003-of-00012.safetensors"


# Manifests


def test_a_manifest_is_read_as_it_was_written(tmp_path):
    write_manifest(tmp_path, {"package_version": "0.0.1", "fingerprint": "f", "settings": {"é": [1, None]}})
    assert read_manifest(tmp_path, ParagraphManifest) == {
        "format_version": 1,
        "package_version": version("elm-data-preparation"),
        "fingerprint": "f",
        "settings": {"é": [1, None]},
    }
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
    assert read_manifest(tmp_path / "nowhere", ParagraphManifest) is None


def test_a_manifest_of_a_newer_format_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"format_version": FORMAT_VERSION + 1}))
    with pytest.raises(StoreError, match=r"has format 2, expected at most 1\. Update this package") as caught:
        read_manifest(tmp_path, ParagraphManifest)
    assert not isinstance(caught.value, CorruptShardError)


@pytest.mark.parametrize(
    "content",
    [b"", b'{"format_version": 1', b"[1]", b"{}", b"\xff\xfe", b'"format_version"', b'{"format_version": "1"}'],
)
def test_a_broken_manifest_is_corrupt(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(CorruptShardError, match=r"manifest\.json .*--overwrite"):
        read_manifest(tmp_path, ParagraphManifest)


def made_with(settings, upstream=""):
    return {"fingerprint": fingerprint(settings, upstream), "settings": settings, "upstream": upstream}


def test_the_fingerprint_depends_on_settings_and_upstream_but_not_on_their_order():
    first = fingerprint({"a": 1, "b": {"c": 2, "d": 3}}, "up")
    assert fingerprint({"b": {"d": 3, "c": 2}, "a": 1}, "up") == first
    assert fingerprint({"a": 1, "b": {"c": 2, "d": 4}}, "up") != first
    assert fingerprint({"a": 1, "b": {"c": 2, "d": 3}}, "other") != first


def test_work_made_with_the_same_settings_is_fresh(tmp_path):
    check_fresh(made_with({"a": {"b": 1}}, "up"), {"a": {"b": 1}}, "up", tmp_path)


def test_stale_work_names_every_knob_that_differs_with_both_values(tmp_path):
    old = {"preprocess": {"min_tokens": 100, "unit": "line", "gone": 1}, "split": {"seed": 1}}
    new = {"preprocess": {"min_tokens": 60, "unit": "line"}, "split": {"seed": 2}, "added": True}
    with pytest.raises(StaleStageError) as caught:
        check_fresh(made_with(old), new, "", tmp_path)
    message = str(caught.value)
    assert message.splitlines()[:5] == [
        f"{tmp_path} was made with other settings:",
        "  added was 'not set', now True",
        "  preprocess.gone was 1, now 'not set'",
        "  preprocess.min_tokens was 100, now 60",
        "  split.seed was 1, now 2",
    ]
    assert "unit" not in message
    assert "--overwrite" in message


def test_stale_input_is_named(tmp_path):
    with pytest.raises(StaleStageError, match="the paragraphs it was made from have changed"):
        check_fresh(made_with({"a": 1}, "old"), {"a": 1}, "new", tmp_path)


# Folders


def is_ours(name):
    return name in {"manifest.json", "data", "shard-2"}


def fill(folder, content, manifest=True):
    folder.mkdir()
    (folder / "data").write_text(content)
    if manifest:
        (folder / "manifest.json").write_text("{}")


def test_replacing_a_folder_keeps_files_of_other_hands(tmp_path):
    folder = tmp_path / "x"
    fill(folder, "old")
    (folder / "notes.txt").write_text("mine")
    (folder / "plots").mkdir()
    (folder / "plots" / "a.png").write_text("png")
    fill(tmp_path / ".x.new", "new")
    replace_folder(folder, is_ours)
    assert (folder / "data").read_text() == "new"
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "plots" / "a.png").read_text() == "png"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_files_of_ours_that_the_new_content_lacks_are_gone(tmp_path):
    folder = tmp_path / "x"
    fill(folder, "old")
    (folder / "shard-2").write_text("old")
    fill(tmp_path / ".x.new", "new")
    replace_folder(folder, is_ours)
    assert sorted(path.name for path in folder.iterdir()) == ["data", "manifest.json"]


def test_a_folder_that_was_not_there_is_put_in_place(tmp_path):
    fill(tmp_path / ".x.new", "new")
    replace_folder(tmp_path / "x", is_ours)
    assert (tmp_path / "x" / "data").read_text() == "new"


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ({".x.old": "old"}, "old"),
        ({".x.old": "old", ".x.new": "new"}, "new"),
        ({".x.old": "old", ".x.new": "half"}, "old"),
        ({".x.old": "old", "x": "new"}, "new"),
        ({"x": "old", ".x.new": "new"}, "old"),
        ({"x": "old", ".x.new": "half"}, "old"),
        ({"x": "old"}, "old"),
        ({".x.new": "new"}, None),
        ({}, None),
    ],
)
def test_after_a_crash_at_any_point_the_folder_is_whole_and_nothing_is_left_over(tmp_path, states, expected):
    for name, content in states.items():
        fill(tmp_path / name, content, manifest=content != "half")
        if name in ("x", ".x.old") and content != "new":
            (tmp_path / name / "notes.txt").write_text("mine")
    recover_folder(tmp_path / "x", is_ours)
    if expected is None:
        assert list(tmp_path.iterdir()) == []
    else:
        assert [path.name for path in tmp_path.iterdir()] == ["x"]
        assert (tmp_path / "x" / "data").read_text() == expected
        assert (tmp_path / "x" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("one_step", [True, False])
def test_a_crash_between_any_two_renames_is_recovered(tmp_path, monkeypatch, one_step):
    if not one_step:
        monkeypatch.setattr(folders, "_exchange", lambda one, other: False)
    elif not sys.platform.startswith("linux"):
        pytest.skip("only Linux exchanges two folders in one step")
    real = os.rename
    for survived in range(4):
        root = tmp_path / str(survived)
        root.mkdir()
        fill(root / "x", "old")
        (root / "x" / "notes.txt").write_text("mine")
        fill(root / ".x.new", "new")
        left = [survived]

        def rename(source, target, left=left):
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            real(source, target)

        monkeypatch.setattr(os, "rename", rename)
        with contextlib.suppress(KeyboardInterrupt):
            replace_folder(root / "x", is_ours)
        monkeypatch.setattr(os, "rename", real)
        if one_step:
            assert (root / "x" / "data").read_text() == "new", "there is a moment without the folder"
        recover_folder(root / "x", is_ours)
        assert [path.name for path in root.iterdir()] == ["x"]
        assert (root / "x" / "data").read_text() == ("old" if survived == 0 and not one_step else "new")
        assert (root / "x" / "notes.txt").read_text() == "mine"


# Embedding shards

METADATA = {"model": "m", "é": "ü", "dim": "3"}
VECTORS = np.arange(15, dtype=np.float32).reshape(5, 3)
FLOAT32 = Coding("float32")
INT8 = Coding("int8", low=VECTORS.min(axis=0), high=VECTORS.max(axis=0))


def write_shard(path, coding=FLOAT32, vectors=VECTORS):
    writer = EmbeddingWriter(path, len(vectors), vectors.shape[1], coding, METADATA)
    for row in (3, 0, 4, 1, 2)[: len(vectors)]:
        writer.write(np.array([row]), vectors[row : row + 1])
    writer.finish()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_finished_shard_opens_with_the_official_reader(tmp_path, dtype):
    path = tmp_path / "a.safetensors"
    write_shard(path, Coding(dtype))
    with safe_open(path, framework="numpy") as file:
        assert list(file.keys()) == ["embeddings"]
        assert file.metadata() == METADATA | {"precision": dtype}
        tensor = file.get_tensor("embeddings")
    assert tensor.dtype == dtype
    assert tensor.tolist() == VECTORS.tolist()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_data_begins_at_a_page_s_edge(tmp_path):
    write_shard(tmp_path / "a.safetensors")
    content = (tmp_path / "a.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    assert (8 + length) % 4096 == 0
    assert len(content) == 8 + length + 5 * 3 * 4
    assert content[8 + length :] == VECTORS.tobytes()
    assert open_embedding_shard(tmp_path / "a.safetensors").offset == 8 + length


def test_our_reader_opens_files_of_the_official_writer(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"embeddings": VECTORS}, path, metadata={"dim": "3"})
    shard = open_embedding_shard(path)
    assert (shard.rows, shard.dim, shard.metadata) == (5, 3, {"dim": "3"})
    assert shard.coding.precision == "float32"
    assert shard.stored.tolist() == shard.vectors(slice(None)).tolist() == VECTORS.tolist()
    assert shard.vectors(np.array([4, 0])).tolist() == VECTORS[[4, 0]].tolist()
    for array in (shard.stored, shard.vectors(slice(None))):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1


def test_a_shard_without_rows_is_a_whole_file(tmp_path):
    path = tmp_path / "a.safetensors"
    write_shard(path, vectors=VECTORS[:0])
    assert open_embedding_shard(path).stored.shape == (0, 3)
    assert open_embedding_shard(path).vectors(slice(None)).shape == (0, 3)
    with safe_open(path, framework="numpy") as file:
        assert file.get_tensor("embeddings").shape == (0, 3)


def test_flushed_rows_are_there_after_a_crash_and_unflushed_ones_are_not(tmp_path):
    path = tmp_path / "a.safetensors"
    writer = EmbeddingWriter(path, 5, 3, FLOAT32, METADATA)
    writer.write(np.array([4, 1]), VECTORS[[4, 1]])
    writer.flush()
    writer.write(np.array([0]), VECTORS[[0]])
    writer.close()
    assert not path.exists()
    again = EmbeddingWriter(path, 5, 3, FLOAT32, METADATA)
    assert again.done.tolist() == [False, True, False, False, True]
    again.write(np.array([0, 2, 3]), VECTORS[[0, 2, 3]])
    again.finish()
    interrupted = path.read_bytes()
    write_shard(tmp_path / "b.safetensors")
    assert interrupted == (tmp_path / "b.safetensors").read_bytes()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_a_shard_with_missing_rows_cannot_be_finished(tmp_path):
    writer = EmbeddingWriter(tmp_path / "a.safetensors", 5, 3, FLOAT32, METADATA)
    writer.write(np.array([4, 1]), VECTORS[[4, 1]])
    with pytest.raises(StoreError, match=r"3 of \d+ rows were not written"):
        writer.finish()
    writer.close()
    assert not (tmp_path / "a.safetensors").exists()


def test_vectors_of_another_shape_are_refused(tmp_path):
    writer = EmbeddingWriter(tmp_path / "a.safetensors", 5, 3, FLOAT32, METADATA)
    with pytest.raises(ValueError, match=r"expected vectors of shape \(1, 3\), got \(1, 2\)"):
        writer.write(np.array([0]), VECTORS[:1, :2])
    writer.close()
    assert not writer.done.any()


def begin(path, rows=5, coding=FLOAT32, metadata=METADATA, overwrite=False):
    writer = EmbeddingWriter(path, rows, 3, coding, metadata, overwrite)
    done = writer.done.tolist()
    writer.write(np.array([1]), VECTORS[[1]])
    writer.flush()
    writer.close()
    return done


@pytest.mark.parametrize(
    "other", [{"metadata": METADATA | {"model": "n"}}, {"rows": 6}, {"coding": Coding("float16")}, {"coding": INT8}]
)
def test_unfinished_work_of_other_settings_is_refused_and_discarded_on_request(tmp_path, other):
    path = tmp_path / "a.safetensors"
    begin(path)
    with pytest.raises(StaleStageError, match="unfinished work made with other settings"):
        begin(path, **other)
    assert begin(path) == [False, True, False, False, False]
    assert not any(begin(path, overwrite=True, **other))


@pytest.mark.parametrize(
    "tear",
    [
        lambda content: content[:-1],
        lambda content: content[:5],
        lambda content: b"",
        lambda content: content[:8] + b"\xff",
        lambda content: b"\0\0\0\0" + content[4:],
    ],
)
def test_a_torn_record_of_progress_is_not_believed(tmp_path, tear):
    path = tmp_path / "a.safetensors"
    begin(path)
    progress = tmp_path / ".a.safetensors.progress"
    progress.write_bytes(tear(progress.read_bytes()))
    assert begin(path) == [False] * 5


def test_progress_of_another_shard_s_settings_is_not_believed(tmp_path):
    begin(tmp_path / "a.safetensors")
    begin(tmp_path / "b.safetensors", metadata=METADATA | {"model": "n"})
    shutil.copy(tmp_path / ".b.safetensors.progress", tmp_path / ".a.safetensors.progress")
    assert begin(tmp_path / "a.safetensors") == [False] * 5


def test_a_partial_file_without_progress_starts_anew(tmp_path):
    begin(tmp_path / "a.safetensors")
    (tmp_path / ".a.safetensors.progress").unlink()
    assert begin(tmp_path / "a.safetensors") == [False] * 5


def test_a_truncated_partial_file_is_not_gone_on_with(tmp_path):
    path = tmp_path / "a.safetensors"
    begin(path)
    os.truncate(tmp_path / ".a.safetensors.partial", 4096 + 10)
    with pytest.raises(StaleStageError):
        begin(path)
    assert begin(path, overwrite=True) == [False] * 5


def with_header(header, data=b""):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: content[:4],
        lambda content: b"",
        lambda content: content[:100],
        lambda content: struct.pack("<Q", 2**60) + content[8:],
        lambda content: b"PAR1" * 50,
        lambda content: with_header([1, 2]),
        lambda content: with_header({"other": {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}}, b"0000"),
        lambda content: with_header({"embeddings": {"dtype": "I64", "shape": [1, 1]}}, b"0" * 8),
        lambda content: with_header({"embeddings": {"dtype": "F32", "shape": [1]}}, b"0000"),
        lambda content: with_header({"embeddings": {"dtype": "F32", "shape": [2, 3]}}, b"0" * 20),
        lambda content: with_header({"embeddings": {"dtype": "F32", "shape": [-1, -1]}}, b"0000"),
        lambda content: with_header({"embeddings": {"dtype": "F32", "shape": ["1", 1]}}, b"0000"),
        lambda content: with_header({"embeddings": {"dtype": "F32", "shape": 7}}, b"0000"),
        lambda content: with_header({"embeddings": {"dtype": ["F32"], "shape": [1, 1]}}, b"0000"),
    ],
)
def test_a_damaged_safetensors_file_is_refused(tmp_path, damage):
    path = tmp_path / "a.safetensors"
    write_shard(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CorruptShardError, match=r"a\.safetensors"):
        open_embedding_shard(path)


def test_a_missing_safetensors_file_is_missing_not_corrupt(tmp_path):
    with pytest.raises(StoreError, match=r"no such file: .*a\.safetensors") as caught:
        open_embedding_shard(tmp_path / "a.safetensors")
    assert not isinstance(caught.value, CorruptShardError)


# Paragraph shards


def rows_of(ids):
    schema = paragraph_schema({})
    columns = {name: [f"{name} {i}" for i in ids] for name in schema.names}
    columns |= {"text_id": list(ids), "token_count": [1] * len(ids), "char_count": [1] * len(ids)}
    return pa.table(columns, schema=schema)


def make_store(folder, shard_rows=100, **splits):
    folder.mkdir()
    entries = {}
    for split, ids in splits.items():
        writer = ParagraphWriter(folder, split, paragraph_schema({}), shard_rows)
        writer.write(rows_of(ids))
        entries[split] = {"shards": [entry.to_json() for entry in writer.close()]}
    write_manifest(folder, {"fingerprint": "f", "settings": {}, "upstream": "", "splits": entries})
    return folder


SPLIT_IDS = {"train": ["a", "b", "c", "d", "e"], "val": ["f", "g"], "test": ["h", "i"]}


def test_what_the_writer_wrote_is_read_back_in_order(tmp_path):
    store = ParagraphStore(make_store(tmp_path / "x", shard_rows=2, **SPLIT_IDS))
    assert [shard.path.name for shard in store.shards("train")] == [f"train-0000{i}-of-00003.parquet" for i in range(3)]
    assert [shard.rows for shard in store.shards("train")] == [2, 2, 1]
    assert store.read("train")["text_id"].to_list() == SPLIT_IDS["train"]
    first = store.shards("train")[1]
    assert first.ids_sha256 == column_sha256(["c", "d"])
    assert first.texts_sha256 == column_sha256(["text c", "text d"])
    assert [batch["text_id"].to_pylist() for batch in first.batches(["text_id"], batch_rows=1)] == [["c"], ["d"]]


def test_a_split_without_rows_is_an_empty_file(tmp_path):
    store = ParagraphStore(make_store(tmp_path / "x", train=["a"], val=[], test=[]))
    assert store.splits == ["train", "val", "test"]
    assert store.read("val").height == 0


def test_swapped_files_are_refused(tmp_path):
    folder = make_store(tmp_path / "x", **SPLIT_IDS)
    (folder / "val.parquet").rename(folder / "other")
    (folder / "test.parquet").rename(folder / "val.parquet")
    (folder / "other").rename(folder / "test.parquet")
    with pytest.raises(CorruptShardError, match=r"val\.parquet does not match manifest.json"):
        ParagraphStore(folder).check()


@pytest.mark.parametrize("change", [{"text_id": "other"}, {"text": "other"}])
def test_a_file_written_again_with_other_ids_or_texts_is_refused(tmp_path, change):
    folder = make_store(tmp_path / "x", **SPLIT_IDS)
    ((column, value),) = change.items()
    table = pq.read_table(folder / "val.parquet").replace_schema_metadata(None)
    place = table.schema.get_field_index(column)
    pq.write_table(table.set_column(place, column, [["f" if column == "text_id" else "text f", value]]),
                   folder / "val.parquet")  # fmt: skip
    with pytest.raises(CorruptShardError, match=r"val\.parquet does not match manifest.json"):
        ParagraphStore(folder).check()


def test_a_file_written_again_with_the_same_rows_is_accepted(tmp_path):
    folder = make_store(tmp_path / "x", **SPLIT_IDS)
    table = pq.read_table(folder / "val.parquet").replace_schema_metadata(None)
    pq.write_table(table, folder / "val.parquet", compression="snappy")
    assert ParagraphStore(folder).read("val")["text_id"].to_list() == ["f", "g"]


def test_rows_in_another_order_are_refused(tmp_path):
    folder = make_store(tmp_path / "x", **SPLIT_IDS)
    table = pq.read_table(folder / "train.parquet").replace_schema_metadata(None)
    pq.write_table(table.take([1, 0, 2, 3, 4]), folder / "train.parquet")
    with pytest.raises(CorruptShardError):
        ParagraphStore(folder).check()


@pytest.mark.parametrize("size", [0, 3, 100, -1])
def test_a_truncated_parquet_file_is_refused(tmp_path, size):
    folder = make_store(tmp_path / "x", **SPLIT_IDS)
    content = (folder / "train.parquet").read_bytes()
    (folder / "train.parquet").write_bytes(content[:size])
    with pytest.raises(CorruptShardError, match=r"train\.parquet is missing or damaged"):
        ParagraphStore(folder).check()


def test_a_missing_parquet_file_is_named(tmp_path):
    folder = make_store(tmp_path / "x", **SPLIT_IDS)
    (folder / "test.parquet").unlink()
    with pytest.raises(CorruptShardError, match=r"test\.parquet is missing or damaged"):
        ParagraphStore(folder).check()


def test_damage_inside_a_parquet_file_is_found_when_it_is_read(tmp_path):
    folder = make_store(tmp_path / "x", **SPLIT_IDS)
    path = folder / "train.parquet"
    content = bytearray(path.read_bytes())
    content[4:200] = bytes(196)
    path.write_bytes(content)
    (shard,) = ParagraphStore(folder).shards("train")
    with pytest.raises(CorruptShardError, match="cannot be read"):
        list(shard.batches(["text_id", "text"]))


def test_an_older_folder_without_a_manifest_opens(tmp_path):
    folder = make_store(tmp_path / "x", **SPLIT_IDS)
    (folder / "manifest.json").unlink()
    store = ParagraphStore(folder)
    assert store.manifest is None
    assert store.splits == ["train", "val", "test"]
    (shard,) = store.shards("val")
    assert shard.ids_sha256 == column_sha256(["f", "g"])


def test_a_missing_shard_without_a_manifest_is_noticed(tmp_path):
    folder = make_store(tmp_path / "x", shard_rows=2, train=list("abcde"))
    (folder / "manifest.json").unlink()
    (folder / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(CorruptShardError, match="2 shards of train, their names expect 3"):
        ParagraphStore(folder)


def test_an_empty_folder_holds_no_paragraphs(tmp_path):
    with pytest.raises(StoreError, match="No paragraphs in "):
        ParagraphStore(tmp_path)


def test_a_split_that_is_not_there_is_named_with_those_that_are(tmp_path):
    store = ParagraphStore(make_store(tmp_path / "x", train=["a"]))
    with pytest.raises(StoreError, match="has no split 'test'; it has train"):
        store.shards("test")


def test_a_manifest_cannot_name_files_outside_its_folder(tmp_path):
    folder = make_store(tmp_path / "x", train=["a"])
    outside = make_store(tmp_path / "y", train=["a"])
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["splits"]["train"]["shards"][0]["file"] = str(outside / "train.parquet")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (shard,) = ParagraphStore(folder).shards("train")
    assert shard.path == folder / "train.parquet"
