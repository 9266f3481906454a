"""What identifies vectors, in a file's metadata and beside a head."""

import pytest

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings import HashingEmbedder, Identity, encode
from data_pipeline.errors import WrongEmbedderError
from data_pipeline.heads.identity import EmbedderIdentity, check_embedder, check_identity, identity_settings

WITHOUT = Identity("m", "1", "mean", True, "float32", 4, 99, "passage: ", "hash")
WITH = Identity("m", "1", "mean", True, "float32", 4, 99, "passage: ", "hash", task="separation")


def test_the_metadata_of_a_model_without_adapters_are_those_they_always_were():
    assert WITHOUT.to_metadata() == {
        "model": "m", "revision": "1", "pooling": "mean", "normalized": "true", "dtype": "float32", "dim": "4",
        "max_length": "99", "prompt": "passage: ", "tokenizer": "hash",
    }  # fmt: skip
    assert WITH.to_metadata() == WITHOUT.to_metadata() | {"task": "separation"}


def settings(identity):
    return identity_settings(identity.to_metadata())


@pytest.mark.parametrize(
    ("head", "vectors", "difference"),
    [
        (WITH, WITHOUT, "task: the head was trained on 'separation', these vectors have ''"),
        (WITHOUT, WITH, "task: the head was trained on '', these vectors have 'separation'"),
    ],
)
def test_a_head_of_one_adapter_does_not_match_vectors_of_none(head, vectors, difference):
    with pytest.raises(WrongEmbedderError, match=difference):
        check_identity("edu", EmbedderIdentity(settings(head)), 4, vectors.to_metadata(), "here")
    check_identity("edu", EmbedderIdentity(settings(head)), 4, head.to_metadata(), "here")
    # Of other fields nothing follows from what is not said.
    del (known := settings(head))["revision"]
    check_identity("edu", EmbedderIdentity(known), 4, head.to_metadata(), "here")


def test_vectors_that_say_nothing_are_not_taken_for_those_of_no_adapter(caplog):
    check_identity("edu", EmbedderIdentity(settings(WITH)), 4, {"dim": "4"}, "a folder of old vectors")
    assert "a folder of old vectors does not say which embedder it belongs to" in caplog.text


def test_an_embedder_at_hand_has_to_use_the_head_s_adapter():

    embedder = HashingEmbedder(EmbeddingConfig(model_name="hashing", dim=4))
    probes = encode(embedder, ["a"] * 3)
    head = EmbedderIdentity(settings(embedder.identity) | {"task": "separation"}, probes)
    with pytest.raises(WrongEmbedderError, match="task: the head was trained on 'separation', these vectors have ''"):
        check_embedder("edu", head, 4, embedder)
