"""Sparse vectors of small models, beside those of sentence-transformers and of the definition."""

import json
import logging
import os
import shutil

import numpy as np
import pytest
import torch
import transformers
from support.model_families import TEXTS, write_family, write_json
from support.sparse_models import USAGE, write_masked_model, write_routed_splade, write_splade, write_token_weights

from data_pipeline.config import EmbeddingConfig
from data_pipeline.config.sparse import SparseConfig
from data_pipeline.embeddings import load_embedder
from data_pipeline.embeddings.sparse.encoder import encode_sparse
from data_pipeline.embeddings.sparse.load import load_sparse_encoder
from data_pipeline.embeddings.sparse.towers import TransformerTower
from data_pipeline.errors import ConfigError, ModelError, OutOfMemoryError, SourceError

pytestmark = pytest.mark.usefixtures("one_thread")

MANY = [*TEXTS, "", "a cat", *(f"text {n} of many" for n in range(40))]


def load(folder, **config):
    return load_sparse_encoder(SparseConfig(model_name=str(folder), device="cpu", **config))


def assert_equal(encoder, folder, **usage):
    """Vectors of documents and queries equal those of the peer, with the same words."""
    library = pytest.importorskip("sentence_transformers", reason='needs the extra "bench"')
    peer = library.SparseEncoder(str(folder), device="cpu", **usage)
    for query, encode in ((False, peer.encode_document), (True, peer.encode_query)):
        theirs = encode(MANY, convert_to_sparse_tensor=False, convert_to_tensor=True).numpy()
        ours = encode_sparse(encoder, MANY, query=query)
        np.testing.assert_allclose(ours.to_dense(), theirs, rtol=2e-6, atol=2e-6)
        assert np.diff(ours.indptr).tolist() == (theirs > 0).sum(axis=1).tolist()
        assert 0 < len(ours.values) < 0.9 * theirs.size


@pytest.mark.parametrize("pooling", [
    {"pooling_strategy": "max"},
    {"pooling_strategy": "sum"},
    {"pooling_strategy": "max", "activation_function": "log1p_relu"},
    {"pooling_strategy": "sum", "activation_function": "log1p_relu"},
])  # fmt: skip
def test_splade_equals_sentence_transformers(tmp_path, pooling):
    encoder = load(write_splade(tmp_path, **pooling))
    assert_equal(encoder, tmp_path)
    name = f"splade_{pooling['pooling_strategy']}"
    assert encoder.identity.pooling == name + ("_log_twice" if "activation_function" in pooling else "")
    assert (encoder.identity.dim, encoder.identity.max_length) == (77, 100)


def test_prompts_and_the_largest_weights_equal_those_of_sentence_transformers(tmp_path):
    write_splade(tmp_path, pooling_strategy="max")
    usage = {**USAGE, "prompts": {"query": "query: ", "document": "text: "}, "max_active_dims": 7}
    write_json(tmp_path / "config_sentence_transformers.json", usage)
    encoder = load(tmp_path)
    assert_equal(encoder, tmp_path)
    assert np.diff(encode_sparse(encoder, MANY).indptr).max() == 7
    assert (encoder.identity.prompt, encoder.query_prompt) == ("text: ", "query: ")
    assert encoder.identity.modules == "7 largest weights"
    fewer = load(tmp_path, max_active=3, prompt="", query_prompt="")
    assert np.diff(encode_sparse(fewer, MANY).indptr).max() == 3
    assert (fewer.identity.prompt, fewer.query_prompt) == ("", "")


def test_queries_of_a_router_are_looked_up_in_a_table(tmp_path):
    encoder = load(write_routed_splade(tmp_path))
    assert_equal(encoder, tmp_path)
    letters_of_query = encode_sparse(encoder, ["a b a e"], query=True)
    assert len(letters_of_query.indices) == 2  # each letter once, and e has no weight
    # As the makers of OpenSearch's models write it: a file of words and their weights.
    table = tmp_path / "query_0_SparseStaticEmbedding"
    (table / "model.safetensors").unlink()
    (table / "idf.json").write_text(json.dumps({"a": 2.5, "##b": 0.5}))
    assert encode_sparse(load(tmp_path), ["a ab"], query=True).values.tolist() == [2.5, 0.5]
    (table / "idf.json").write_text(json.dumps({"whale": 2.5}))
    with pytest.raises(ModelError, match="'whale' is not a word of the tokenizer"):
        load(tmp_path)


@pytest.mark.parametrize("safe", [False, True])
def test_token_weights_are_those_of_the_definition(tmp_path, safe):
    encoder = load(write_token_weights(tmp_path, safe))
    assert encoder.identity.pooling == "token_weights"
    found = encode_sparse(encoder, MANY)
    model = transformers.AutoModel.from_pretrained(tmp_path).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    linear = torch.nn.Linear(32, 1)
    path = next(tmp_path.glob("sparse_linear.*"))
    from safetensors.torch import load_file

    linear.load_state_dict(load_file(path) if safe else torch.load(path, weights_only=True))
    for row, text in enumerate(MANY):
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=100)
        with torch.no_grad():
            weights = linear(model(**inputs).last_hidden_state)[0, :, 0].relu()
        expected: dict[int, float] = {}
        for token, weight in zip(inputs["input_ids"][0].tolist(), weights.tolist(), strict=True):
            if token not in {0, 1, 2, 3} and weight > 0:  # the special tokens
                expected[token] = max(weight, expected.get(token, 0))
        own = slice(found.indptr[row], found.indptr[row + 1])
        assert found.indices[own].tolist() == sorted(expected)
        np.testing.assert_allclose(found.values[own], [expected[token] for token in sorted(expected)], atol=1e-6)
    assert len(found.values) > 100
    # The same folder gives dense vectors to who asks for them.
    assert load_embedder(EmbeddingConfig(model_name=str(tmp_path), device="cpu")).identity.dim == 32


def test_a_model_that_is_not_in_the_table_is_named_in_a_warning(tmp_path, caplog):
    plain, with_modules = write_masked_model(tmp_path / "plain"), write_splade(tmp_path / "modules")
    with caplog.at_level(logging.WARNING):
        encoder = load(plain)
    assert "assuming that it is a SPLADE model" in caplog.text
    first, second = (encode_sparse(one, MANY) for one in (encoder, load(with_modules)))
    np.testing.assert_array_equal(first.to_dense(), second.to_dense())


def test_half_precision_is_near(tmp_path):
    write_splade(tmp_path)
    exact, half = (encode_sparse(load(tmp_path, dtype=dtype), MANY) for dtype in ("float32", "bfloat16"))
    assert np.abs(exact.to_dense() - half.to_dense()).max() < 0.1


def test_a_batch_that_does_not_fit_is_halved(tmp_path, monkeypatch, caplog):
    encoder = load(write_splade(tmp_path))
    expected = encode_sparse(encoder, MANY)
    forward = TransformerTower.forward

    def small(self, texts):
        if len(texts) > 3:
            raise OutOfMemoryError("too many")
        return forward(self, texts)

    monkeypatch.setattr(TransformerTower, "forward", small)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_allclose(encode_sparse(encoder, MANY).to_dense(), expected.to_dense(), atol=2e-6)
    assert "halving the batch" in caplog.text

    def none(self, texts):
        raise OutOfMemoryError("too many")

    monkeypatch.setattr(TransformerTower, "forward", none)
    with pytest.raises(ModelError, match=r"'long long .* has 100 tokens and does not fit .* Lower sparse\.max_length"):
        encode_sparse(encoder, MANY)


def test_a_weight_that_is_not_finite_is_an_error(tmp_path):
    write_token_weights(tmp_path)
    weights = torch.load(tmp_path / "sparse_linear.pt", weights_only=True)
    torch.save(weights | {"bias": torch.tensor([float("nan")])}, tmp_path / "sparse_linear.pt")
    with pytest.raises(ModelError, match=r"no finite weights for .*; no other vector is stored"):
        encode_sparse(load(tmp_path), MANY)


class Code:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("unpickled",)


def test_weights_with_code_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write_token_weights(tmp_path / "model")
    torch.save({"weight": Code()}, folder / "sparse_linear.pt")
    with pytest.raises(ModelError, match=r"sparse_linear\.pt holds more than tensors, and is not read"):
        load(folder)
    assert not (tmp_path / "unpickled").exists()


def test_other_models_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"sparse\.model_name is not set"):
        load_sparse_encoder(SparseConfig())
    with pytest.raises(SourceError, match=r"sparse\.model_name: .* without config\.json"):
        load(tmp_path)
    dense = tmp_path / "dense"
    write_family("bert, mean (MiniLM)", dense)
    with pytest.raises(ModelError, match=r"gives no sparse vectors: .* Name a SPLADE model or BGE-M3"):
        load(dense)
    (dense / "modules.json").unlink()
    with pytest.raises(ModelError, match="gives no sparse vectors"):
        load(dense)
    splade = write_splade(tmp_path / "splade", pooling_strategy="mean")
    with pytest.raises(ModelError, match="has pooling_strategy 'mean'"):
        load(splade)
    shutil.rmtree(splade / "1_SpladePooling")
    write_json(splade / "1_SpladePooling" / "config.json", {})
    with pytest.raises(ModelError, match=r"its vectors are sparse; name it as sparse\.model_name"):
        load_embedder(EmbeddingConfig(model_name=str(splade), device="cpu"))
