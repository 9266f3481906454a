"""A static model with real weights: the table of token vectors in the package wordllama, in a published layout."""

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.model_families import write_modules

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings import encode, load_embedder

if importlib.util.find_spec("wordllama") is None:
    pytest.skip('wordllama is not installed (extra "dev")', allow_module_level=True)

TEXTS = [
    "The capital of France is Paris.", "Paris is the French capital.", "Water boils at 100 degrees at sea level.",
    "On a high mountain, water boils sooner.", "x", "Ünïcödé and 漢字 in one text",
]  # fmt: skip


@pytest.fixture(scope="module")
def package():
    return Path(importlib.util.find_spec("wordllama").submodule_search_locations[0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory, package):
    """The files as sentence-transformers lays out a StaticEmbedding."""
    folder = tmp_path_factory.mktemp("wordllama")
    (folder / "0_StaticEmbedding").mkdir()
    shutil.copy(package / "weights" / "l2_supercat_256.safetensors", folder / "0_StaticEmbedding" / "model.safetensors")
    tokenizer = package / "tokenizers" / "l2_supercat_tokenizer_config.json"
    shutil.copy(tokenizer, folder / "0_StaticEmbedding" / "tokenizer.json")
    write_modules(folder, [("0_StaticEmbedding", "StaticEmbedding")])
    return folder


def test_vectors_are_those_of_the_package_and_of_sentence_transformers(folder, package):
    wordllama = pytest.importorskip("wordllama")
    vectors = encode(load_embedder(EmbeddingConfig(model_name=str(folder))), TEXTS)
    # Its own folder has the layout of its cache.
    own = wordllama.WordLlama.load(cache_dir=package, disable_download=True).embed(TEXTS, norm=True)
    np.testing.assert_allclose(vectors, own, atol=1e-5)
    sentence_transformers = pytest.importorskip("sentence_transformers", reason='needs the extra "bench"')
    peer = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    # It computes in the float16 of the file.
    np.testing.assert_allclose(vectors, peer.encode(TEXTS, normalize_embeddings=True), atol=2e-4)


def test_texts_about_the_same_are_near(folder):
    vectors = encode(load_embedder(EmbeddingConfig(model_name=str(folder))), TEXTS)
    similarity = vectors @ vectors.T
    assert similarity[0, 1] > similarity[0, 2] + 0.2
    assert similarity[2, 3] > similarity[0, 3] + 0.2


def test_the_bits_of_a_vector_do_not_depend_on_the_other_texts(folder):
    embedder = load_embedder(EmbeddingConfig(model_name=str(folder)))
    alone = np.concatenate([encode(embedder, [text]) for text in TEXTS])
    np.testing.assert_array_equal(encode(embedder, TEXTS), alone)
