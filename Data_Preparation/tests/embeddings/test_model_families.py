"""Vectors of small models in the files of published families, beside those of sentence-transformers."""

import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.alibi_model import write_alibi_model
from support.model_families import (
    FAMILIES,
    MEAN,
    TEXTS,
    WIDTH,
    dense,
    letters,
    write_family,
    write_json,
    write_module,
    write_modules,
    write_table,
    write_transformer,
)

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings import RoutedEmbedder, encode, load_embedder
from data_pipeline.errors import ModelError

sentence_transformers = pytest.importorskip("sentence_transformers", reason='needs the extra "bench"')
pytestmark = pytest.mark.usefixtures("one_thread")


def load(folder, **config):
    return load_embedder(EmbeddingConfig(model_name=str(folder), device="cpu", **{"normalize": False} | config))


def peer(folder, **arguments):
    return sentence_transformers.SentenceTransformer(str(folder), device="cpu", **arguments)


def assert_equal(embedder, model):
    """Vectors of documents and queries equal those of the peer, to 1e-5 of the largest number."""
    for query, expected in ((False, model.encode_document(TEXTS)), (True, model.encode_query(TEXTS))):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(encode(embedder, TEXTS, query=query) / scale, expected / scale, atol=1e-5)
        assert np.abs(expected[0] - expected[1]).max() > 0.01 * scale


@pytest.mark.parametrize("name", FAMILIES)
def test_vectors_equal_those_of_sentence_transformers(tmp_path, name):
    family = write_family(name, tmp_path)
    model = peer(tmp_path)
    embedder = load(tmp_path, **family.embedding)
    assert_equal(embedder, model)
    if not family.architecture:
        return
    assert (embedder.runtime.attention == "segments") is family.packs
    assert_equal(load(tmp_path, attention="padded", **family.embedding), model)
    plain = model.encode(TEXTS, normalize_embeddings=True)
    if not family.usage:  # without prompts, encode() is what documents and queries get
        np.testing.assert_allclose(encode(load(tmp_path, **family.embedding, normalize=True), TEXTS), plain, atol=1e-5)
    low = load(tmp_path, dtype="bfloat16", normalize=True, **family.embedding)
    documents = model.encode_document(TEXTS, normalize_embeddings=True)
    assert (1 - (encode(low, TEXTS) * documents).sum(1)).max() < 0.03


def test_a_family_that_is_not_equal_would_be_noticed(tmp_path):
    write_family("bert, cls (BGE)", tmp_path)
    with pytest.raises(AssertionError):
        assert_equal(load(tmp_path, pooling="mean"), peer(tmp_path))


def write_router(folder, types, structure, kind="Router", **parameters):
    """A router of modules in subfolders, and a normalization behind it."""
    settings = {"types": types, "structure": structure, "parameters": parameters}
    write_json(folder / ("router_config.json" if kind == "Router" else "config.json"), settings)
    write_modules(folder, [("", kind), ("1_Normalize", "Normalize")])
    write_json(folder / "1_Normalize" / "config.json", {})


@pytest.fixture
def towers(tmp_path):
    """A table of vectors for queries, and a transformer for documents."""
    write_table(tmp_path / "query_0_StaticEmbedding")
    write_transformer(FAMILIES["bert, cls (BGE)"], tmp_path / "document_0_Transformer")
    write_json(tmp_path / "document_1_Pooling" / "config.json", {"word_embedding_dimension": WIDTH} | dict(MEAN))
    write_module("Dense", dense(WIDTH)["settings"], tmp_path / "document_2_Dense")
    return tmp_path


TYPES = {
    "query_0_StaticEmbedding": "sentence_transformers.models.StaticEmbedding",
    "document_0_Transformer": "sentence_transformers.models.Transformer",
    "document_1_Pooling": "sentence_transformers.models.Pooling",
    "document_2_Dense": "sentence_transformers.models.Dense",
}
STRUCTURE = {
    "query": ["query_0_StaticEmbedding"],
    "document": ["document_0_Transformer", "document_1_Pooling", "document_2_Dense"],
}


@pytest.mark.parametrize("kind", ["Router", "Asym"])
def test_a_router_has_a_tower_for_documents_and_one_for_queries(towers, kind):
    write_router(towers, TYPES, STRUCTURE, kind)
    embedder = load(towers)
    assert isinstance(embedder, RoutedEmbedder)
    assert_equal(embedder, peer(towers))
    assert embedder.identity.modules == "Dense to 64 with Tanh, Normalize"
    before = embedder.identity.revision
    weights = load_file(towers / "query_0_StaticEmbedding" / "model.safetensors")
    save_file({"embedding.weight": -weights["embedding.weight"]}, towers / "query_0_StaticEmbedding/model.safetensors")
    assert load(towers).identity.revision != before


def test_a_router_may_map_kinds_of_texts_to_its_chains(towers):
    structure = {"fast": STRUCTURE["query"], "exact": STRUCTURE["document"]}
    mapped = {str(("query", None)): "fast", str((None, None)): "exact"}
    write_router(towers, TYPES, structure, route_mappings=mapped)
    assert_equal(load(towers), peer(towers))


def test_towers_of_different_sizes_are_refused(towers):
    write_module("Dense", dense(32)["settings"], towers / "document_2_Dense")
    write_router(towers, TYPES, STRUCTURE)
    with pytest.raises(ModelError, match="gives documents 32 dimensions and queries 64; they cannot be compared"):
        load(towers)


def test_a_router_behind_a_transformer_chooses_what_follows(tmp_path):
    write_family("bert, mean (MiniLM)", tmp_path)
    for n, name in enumerate(("query", "document")):
        torch.manual_seed(n)
        write_module("Dense", dense(32)["settings"], tmp_path / "2_Router" / f"{name}_0_Dense")
    names = {f"{name}_0_Dense": "sentence_transformers.models.Dense" for name in ("query", "document")}
    structure = {name: [f"{name}_0_Dense"] for name in ("query", "document")}
    write_json(tmp_path / "2_Router" / "router_config.json", {"types": names, "structure": structure, "parameters": {}})
    write_modules(tmp_path, [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Router", "Router")])
    assert_equal(load(tmp_path), peer(tmp_path))


def test_a_transformer_may_be_in_a_folder_of_its_own(tmp_path):
    write_transformer(FAMILIES["bert, cls (BGE)"], tmp_path / "0_Transformer")
    write_json(tmp_path / "1_Pooling" / "config.json", {"word_embedding_dimension": WIDTH} | dict(MEAN))
    write_modules(tmp_path, [("0_Transformer", "Transformer"), ("1_Pooling", "Pooling")])
    assert_equal(load(tmp_path), peer(tmp_path))


@pytest.mark.parametrize("quantised", [False, True])
def test_a_model_of_model2vec_gives_its_own_vectors(tmp_path, quantised):
    model2vec = pytest.importorskip("model2vec", reason='needs the extra "bench"')
    tokenizer = letters()
    rows, torch_rows = tokenizer.get_vocab_size(), 7
    vectors = np.random.default_rng(0).normal(size=(torch_rows if quantised else rows, WIDTH)).astype(np.float32)
    more = {}
    if quantised:
        more = {"token_mapping": np.arange(rows) % torch_rows, "weights": np.linspace(0.5, 2, rows)}
    model = model2vec.StaticModel(vectors, tokenizer, config={"normalize": True}, normalize=True, **more)
    model.save_pretrained(tmp_path)
    texts = [*TEXTS[:-1], "öl for a cat"]  # with a letter that the vocabulary lacks, which is left out
    embedder = load(tmp_path)
    np.testing.assert_allclose(encode(embedder, texts), model.encode(texts), atol=1e-6)
    assert (embedder.identity.max_length, embedder.identity.modules) == (512, "")
    (tmp_path / "modules.json").unlink()  # as older versions wrote it
    write_json(
        tmp_path / "config.json", json.loads((tmp_path / "config.json").read_text()) | {"model_type": "model2vec"}
    )
    np.testing.assert_allclose(encode(load(tmp_path, normalize=True), texts), model.encode(texts), atol=1e-6)


def test_a_text_without_a_known_token_gets_no_vector(tmp_path):
    model2vec = pytest.importorskip("model2vec", reason='needs the extra "bench"')
    tokenizer = letters()
    vectors = np.ones((tokenizer.get_vocab_size(), 4), np.float32)
    model2vec.StaticModel(vectors, tokenizer, normalize=True).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"no finite vector for '語'"):
        encode(load(tmp_path), ["a cat", "語"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "openvino"}, "is a table of token vectors: embedding.backend openvino is for transformers"),
        ({"pooling": "cls"}, "embedding.pooling cls is for transformers"),
        ({"attention": "padded"}, "embedding.attention padded is for transformers"),
        ({"fp8": True}, "embedding.fp8 True is for transformers"),
        ({"dim": 65}, "embedding.dim 65: .* gives 1 to 64 dimensions"),
    ],
)
def test_settings_that_a_table_cannot_take_are_refused(tmp_path, settings, message):
    from data_pipeline.errors import ConfigError

    write_family("table (static-retrieval)", tmp_path)
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, **settings)


def test_weights_of_the_older_format_are_read_as_tensors_only(tmp_path):
    write_family("bert, cls and Dense (LaBSE)", tmp_path)
    path = tmp_path / "2_Dense" / "model.safetensors"
    torch.save(load_file(path), path.with_name("pytorch_model.bin"))
    path.unlink()
    assert_equal(load(tmp_path), peer(tmp_path))
    torch.save(SystemExit, path.with_name("pytorch_model.bin"))
    with pytest.raises(ModelError, match="cannot load the Dense module"):
        load(tmp_path)


def test_a_changed_module_is_another_model(tmp_path):
    write_family("bert, cls and Dense (LaBSE)", tmp_path)
    before = load(tmp_path).identity
    write_module("Dense", dense(WIDTH)["settings"], tmp_path / "2_Dense")
    assert load(tmp_path).identity.revision != before.revision
    assert before.modules == "Dense to 64 with Tanh, Normalize"


def test_an_activation_that_is_not_torchs_is_not_run(tmp_path):
    write_family("bert, mean (MiniLM)", tmp_path)
    write_module("Dense", dense(8, "os.system")["settings"], tmp_path / "2_Dense")
    write_modules(tmp_path, [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense")])
    with pytest.raises(ModelError, match="has the activation 'os.system'; expected torch.nn.Identity or one of"):
        load(tmp_path)


def test_a_model_with_alibi_runs_by_its_own_code_only(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    folder = tmp_path / "alibi"
    write_alibi_model(folder)
    with pytest.raises(ModelError, match="only Python code that comes with the model"):
        load(folder)
    embedder = load(folder, trust_remote_code=True)
    assert embedder.runtime.attention == "padded"
    assert_equal(embedder, peer(folder, trust_remote_code=True))
