import numpy as np
import pytest

from data_pipeline.embeddings.identity import COMPARED, identity_differences, recorded_identity
from data_pipeline.embeddings.probes import short_sketch, sketch_of

IDENTITY = {
    "model": "owner/model", "revision": "abc", "pooling": "mean", "normalized": "true", "max_length": "512", "dim": "8",
    "prompt": "", "tokenizer": "t1", "task": "", "modules": "",
}  # fmt: skip


@pytest.mark.parametrize("field", COMPARED)
def test_every_field_is_compared(field):
    recorded = IDENTITY | {"probes": sketch_of(np.eye(3, 8, dtype=np.float32))}
    other = sketch_of(np.eye(3, 8, 1, dtype=np.float32)) if field == "probes" else "other"
    (difference,) = identity_differences(recorded, recorded | {field: other})
    names = (short_sketch(recorded[field]), short_sketch(other)) if field == "probes" else (recorded[field], other)
    assert (difference.field, difference.recorded, difference.other) == (field, *names)


def test_vectors_of_probe_texts_may_differ_by_rounding():
    vectors = np.random.default_rng(0).standard_normal((3, 96)).astype(np.float32)
    recorded, rounded = (IDENTITY | {"probes": sketch_of(some)} for some in (vectors, vectors * 3 + 1e-3))
    assert recorded != rounded
    assert identity_differences(recorded, rounded) == []
    assert [each.field for each in identity_differences(recorded, recorded | {"probes": "damaged"})] == ["probes"]
    assert identity_differences(recorded, IDENTITY) == []


def test_a_tokenizer_that_cuts_nothing_decides_no_vector():
    unlimited = IDENTITY | {"max_length": "0"}
    assert identity_differences(unlimited, unlimited | {"tokenizer": "other"}) == []


def test_the_same_identity_and_another_precision_do_not_differ():
    assert identity_differences(IDENTITY, IDENTITY) == []
    assert identity_differences(IDENTITY | {"dtype": "float32"}, IDENTITY | {"dtype": "float16"}) == []


def test_what_only_one_records_is_not_compared():
    older = {name: value for name, value in IDENTITY.items() if name not in {"tokenizer", "prompt"}}
    assert identity_differences(older, IDENTITY | {"tokenizer": "t2", "prompt": "query: "}) == []
    assert identity_differences({}, IDENTITY) == []


def test_a_file_without_an_adapter_is_of_the_model_itself():
    older = {name: value for name, value in IDENTITY.items() if name != "task"}
    assert identity_differences(older, IDENTITY) == []
    assert [each.field for each in identity_differences(older, IDENTITY | {"task": "retrieval"})] == ["task"]


def test_a_copy_of_a_folder_is_the_same_model():
    hashed = IDENTITY | {"revision": "sha256:0011"}
    assert identity_differences(hashed | {"model": "/old/place"}, hashed | {"model": "/new/place"}) == []
    other = hashed | {"model": "/new/place", "revision": "sha256:2233"}
    assert [each.field for each in identity_differences(hashed, other)] == ["model", "revision"]


def test_recorded_identity_leaves_other_metadata_out():
    assert recorded_identity(IDENTITY | {"split": "train", "ids_sha256": "x"}) == IDENTITY
