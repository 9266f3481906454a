import base64
import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.api import api_config, expected_vectors

from data_pipeline.embeddings import encode, load_embedder, load_tokenizer
from data_pipeline.embeddings.api.providers import QUERY_MARK
from data_pipeline.embeddings.api.texts import estimating_tokenizer, to_ids, to_text
from data_pipeline.embeddings.api.vectors import read_vectors
from data_pipeline.errors import ApiError, ConfigError, ModelError
from data_pipeline.testing import misbehaving_server, simulated_vectors
from data_pipeline.testing.embedding_replies import EMBEDDING_FAULTS, EMBEDDING_QUIRKS

TEXTS = [f"text number {number} of a few" for number in range(20)] + [
    "ünïcödé 漢字 🙂",
    "a\nb\x00",
    "text number 3 of a few",
]
UNUSABLE_VECTOR = {"not_finite", "null_in_vector", "zeros"}
"""Faults that name a text: the reply itself is in order."""


def embed(server, texts=TEXTS, **changes):
    return encode(load_embedder(api_config(server.base_url, **changes)), texts)


def test_vectors_are_those_of_the_server_in_input_order():
    with misbehaving_server() as server:
        np.testing.assert_array_equal(embed(server, batch_size=4), expected_vectors(TEXTS))
        sent = [text for request in server.embedding_requests[1:] for text in request.texts]
    # Each distinct text once, in requests of four.
    assert sorted(sent) == sorted(set(TEXTS))
    assert {len(request.texts) for request in server.embedding_requests[1:]} == {4, 2}


def test_requests_are_limited_by_items_and_by_tokens():
    with misbehaving_server() as server:
        embed(server)
        embed(server, batch_tokens=14)
    sizes = [len(request.texts) for request in server.embedding_requests]
    assert sizes == [3, 22, 3, *[2] * 11]


@pytest.mark.parametrize("quirk", sorted(set(EMBEDDING_QUIRKS) - {"noisy", "half_precision_noise", "short_texts"}))
@pytest.mark.parametrize("dim", [None, 16])
def test_every_quirk_gives_the_same_vectors(quirk, dim):
    with misbehaving_server(quirks=[quirk]) as server:
        np.testing.assert_array_equal(embed(server, dim=dim), expected_vectors(TEXTS, dim))


def test_base64_and_lists_of_numbers_are_the_same_vectors():
    with misbehaving_server() as server:
        as_lists = embed(server, api={"encoding": "float"})
        assert all("encoding_format" not in request.body for request in server.embedding_requests)
        np.testing.assert_array_equal(embed(server, api={"encoding": "base64"}), as_lists)
        assert server.embedding_requests[-1].body["encoding_format"] == "base64"


def test_dimensions_are_asked_for_unless_the_server_refuses_them(caplog):
    with misbehaving_server() as server:
        embed(server, dim=16)
        assert {request.body["dimensions"] for request in server.embedding_requests} == {16}
        embed(server, dim=16, api={"send_dimensions": False})
        assert "dimensions" not in server.embedding_requests[-1].body
    with misbehaving_server(quirks=["dimensions_refused"]) as server:
        embed(server, dim=16)
        assert "vectors are cut to 16 dimensions here" in caplog.text
        with pytest.raises(ApiError, match=r"refuses the probe texts: HTTP 400: This model does not support"):
            embed(server, dim=16, api={"send_dimensions": True})
    with misbehaving_server(quirks=["base64_refused"]) as server:
        raises = pytest.raises(ApiError, match=r"only float is supported")
        with raises:
            embed(server, api={"encoding": "base64"})


def test_more_dimensions_than_the_model_has_are_refused():
    with misbehaving_server() as server, pytest.raises(ConfigError, match=r"embedding.dim 65: .* gives 64 dimensions"):
        embed(server, dim=65)


@pytest.mark.parametrize("fault", EMBEDDING_FAULTS)
def test_a_faulty_reply_is_no_vector_and_another_try_cures_it(fault):
    applies = [(1, fault)]
    with misbehaving_server(applies) as server:
        if fault in UNUSABLE_VECTOR:
            with pytest.raises(ModelError, match="the model gives no finite vector for 'text number"):
                embed(server)
            return
        np.testing.assert_array_equal(embed(server), expected_vectors(TEXTS))
        assert len(server.embedding_requests) == 3


@pytest.mark.parametrize("fault", sorted(set(EMBEDDING_FAULTS) - UNUSABLE_VECTOR))
def test_a_reply_that_stays_faulty_ends_the_run_with_its_reason(fault):
    reasons = {
        "too_few_vectors": "21 vectors for 22 texts", "too_many_vectors": "23 vectors for 22 texts",
        "repeated_index": "index 0 of a vector", "index_out_of_range": "index 22 of a vector",
        "other_width": "vectors of 63 dimensions, not of 64", "two_widths": "vectors of 1, 64 dimensions",
        "text_in_vector": "something else than numbers", "bad_base64": "an unusable reply: ",
        "no_data": "another structure ('data'): {'object': 'list'}",
        "other_model": "answered by the model 'another-model', not by 'tiny-judge'",
    }  # fmt: skip
    with misbehaving_server([(range(1, 99), fault)]) as server:
        with pytest.raises(ApiError, match=r"no failure became a vector") as caught:
            embed(server)
        assert reasons[fault] in str(caught.value)
        assert len(server.embedding_requests) == 1 + 3


@pytest.mark.parametrize("fault", [*sorted(UNUSABLE_VECTOR), "too_few_vectors"])
def test_faulty_probes_are_an_error_of_the_start(fault):
    with misbehaving_server([(range(99), fault)]) as server, pytest.raises(ModelError):
        load_embedder(api_config(server.base_url))


def test_a_text_that_the_server_refuses_is_named_and_the_others_are_not_to_blame(caplog):
    texts = [*TEXTS, "word " * 500]
    with misbehaving_server(quirks=["short_texts"]) as server, caplog.at_level(logging.WARNING):
        message = r"'word word .* has about 625 tokens, and the server refuses it: HTTP 400: .*maximum context length"
        with pytest.raises(ModelError, match=message):
            embed(server, texts)
    assert "A request was refused (HTTP 400" in caplog.text


def test_fewer_texts_go_into_a_request_where_the_server_wants_it():
    with misbehaving_server(quirks=["few_texts"]) as server:
        np.testing.assert_array_equal(embed(server), expected_vectors(TEXTS))
    assert len(server.embedding_requests) < 20


def test_an_empty_text_is_named_before_anything_is_sent_for_it():
    with misbehaving_server() as server:
        with pytest.raises(ModelError, match=r"'' is empty, and a server gives no vector for an empty text"):
            embed(server, ["a text", ""])
        assert all("" not in request.texts for request in server.embedding_requests)


def test_a_lone_surrogate_is_named():
    with misbehaving_server() as server:  # noqa: SIM117
        with pytest.raises(ModelError, match=r"'bad \\ud800' holds a lone surrogate at character 4"):
            embed(server, ["fine", "bad \ud800"])


@given(st.text(max_size=50))
def test_ids_are_the_text_and_as_many_as_the_tokenizer_counts(text):
    ids = to_ids(text)
    assert to_text(ids) == text
    assert len(ids) == len(estimating_tokenizer().encode(text).ids) == -(-len(text.encode()) // 4)


def test_a_named_tokenizer_counts_and_cuts(tiny_qwen3, caplog):
    with misbehaving_server() as server:
        config = api_config(server.base_url, max_length=8, api={"tokenizer": str(tiny_qwen3)})
        embedder, tokenizer = load_embedder(config), load_tokenizer(config)
        long = "The lighthouse keeper counted the ships that passed before the fog came in."
        tokens = embedder.tokenize(["A short one", long])
        special = len(tokenizer.encode("").ids)
        assert tokens.lengths.tolist() == [
            len(tokenizer.encode("A short one", add_special_tokens=False).ids) + special,
            8,
        ]
        assert tokens.truncated.tolist() == [False, True]
        cut = to_text(tokens.row(1))
        assert long.startswith(cut)
        assert len(tokenizer.encode(cut).ids) == 8
        vectors = encode(embedder, ["A short one", long])
        np.testing.assert_array_equal(vectors, expected_vectors(["A short one", cut]))
        with pytest.raises(ModelError, match="'' is empty"):
            encode(embedder, ["A short one", ""])
        assert "Tokens are estimated" not in caplog.text
        with pytest.raises(ConfigError, match=r"embedding.max_length 8 needs a tokenizer"):
            load_embedder(api_config(server.base_url, max_length=8))


def test_without_a_tokenizer_a_warning_says_that_tokens_are_estimated(caplog):
    load_tokenizer(api_config())
    assert "Tokens are estimated as a quarter of the bytes" in caplog.text


def test_prompts_are_sent():
    with misbehaving_server() as server:
        embedder = load_embedder(api_config(server.base_url, prompt="passage: ", query_prompt="query: "))
        encode(embedder, ["a"])
        encode(embedder, ["b"], query=True)
    assert [request.texts for request in server.embedding_requests[1:]] == [["passage: a"], ["query: b"]]


def test_prompts_of_the_models_card_are_sent_unless_the_settings_have_others(caplog):
    caplog.set_level(logging.INFO)
    name = "intfloat/e5-base-v2"
    with misbehaving_server(model=name) as server:
        embedder = load_embedder(api_config(server.base_url, model=name))
        assert (embedder.identity.prompt, embedder.query_prompt) == ("passage: ", "query: ")
        assert "prompts of its card, 'passage: ' for documents and 'query: ' for queries" in caplog.text
        encode(embedder, ["a"])
        encode(embedder, ["b"], query=True)
        encode(load_embedder(api_config(server.base_url, model=name, prompt="")), ["c"])
    sent = [request.texts for request in server.embedding_requests if len(request.texts) == 1]
    assert sent == [["passage: a"], ["query: b"], ["c"]]


@pytest.mark.parametrize("provider", ["cohere", "voyage"])
def test_other_providers_are_asked_in_their_form(provider):
    with misbehaving_server() as server:
        embedder = load_embedder(api_config(server.base_url, dim=32, api={"provider": provider}))
        np.testing.assert_array_equal(encode(embedder, TEXTS), expected_vectors(TEXTS, 32))
        np.testing.assert_array_equal(encode(embedder, ["q"], query=True), expected_vectors(["q"], 32))
        mixed = embedder.tokenize(["a document", QUERY_MARK + "a query"])
        np.testing.assert_array_equal(embedder.forward(mixed), simulated_vectors(["a document", "a query"])[:, :32])
    bodies = [request.body for request in server.embedding_requests]
    kinds = ["document", "document", "query", "query", "document"]
    prefix = "search_" if provider == "cohere" else ""
    assert [body["input_type"] for body in bodies] == [prefix + kind for kind in kinds]
    assert all(body["output_dimension"] == 32 and body["model"] == "tiny-judge" for body in bodies)
    assert all(body.get("truncate") == "NONE" or body.get("truncation") is False for body in bodies)
    assert embedder.identity.revision == f"api:{provider}"


def test_vectors_are_read_exactly():
    vectors = np.array([[1.5, -2.25], [0.1, 3e-8]], np.float32)
    as_base64 = [base64.b64encode(vector.tobytes()).decode() for vector in vectors]
    np.testing.assert_array_equal(read_vectors(as_base64), vectors)
    np.testing.assert_array_equal(read_vectors(vectors.tolist()), vectors)
    np.testing.assert_array_equal(read_vectors([as_base64[0], vectors[1].tolist()]), vectors)
    assert np.isnan(read_vectors([[None, 1]])[0, 0])
    assert np.isinf(read_vectors([[1e300, 1]])[0, 0])
    for bad in ([], [[]], [[1], [1, 2]], [{}], [None], ["AAA"], [base64.b64encode(b"123").decode()], [["1"]], [[True]]):
        with pytest.raises(ValueError):
            read_vectors(bad)
