"""A decoder with real weights (SmolLM2-135M): its activations have the outliers that random weights lack.

Skipped without the extra `bench-decoder`; takes about three minutes with it.
"""

import numpy as np
import pytest
import torch
from support.chat_server import served
from support.judging import judge_all, quick
from support.smollm2 import write_smollm2

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings import encode, load_embedder
from data_pipeline.embeddings.model_files import ModelFiles
from data_pipeline.embeddings.transformer import loading
from data_pipeline.embeddings.transformer.paths import Setup, choose_path
from data_pipeline.embeddings.transformer.pooling import Pooling
from data_pipeline.embeddings.transformer.probe import make_probes
from data_pipeline.embeddings.transformer.sentence_layers import load_sentence_layers
from data_pipeline.errors import JudgeError
from data_pipeline.judge import load_judge
from data_pipeline.metrics.perplexity import CausalModelConfig, perplexity
from data_pipeline.store.quantization import calibrate
from data_pipeline.weak_labels.state import Pair

pytestmark = pytest.mark.slow

SUBJECTS = (
    "the capital of France", "water that boils on a high mountain", "a lighthouse keeper and his ships",
    "the income tax of 1913", "how bread is baked", "the moons of Jupiter", "a recipe for onion soup",
    "the rules of chess", "the invention of printing", "why leaves are green in summer", "the fall of Rome",
    "how a bicycle stays upright",
)  # fmt: skip
TEXTS = [f"This is a text about {subject}. " * repeats for subject in SUBJECTS for repeats in (1, 9)] + ["x"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_smollm2(tmp_path_factory.mktemp("smollm2"))


def load(folder, **config):
    return load_embedder(EmbeddingConfig(model_name=str(folder), device="cpu", **{"pooling": "last_token"} | config))


@pytest.fixture(scope="module")
def alone(folder):
    """Vectors by transformers' own code, one text at a time."""
    embedder = load(folder, attention="padded")
    return np.concatenate([encode(embedder, [text]) for text in TEXTS])


def loss(vectors, expected):
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
    return (1 - (vectors * expected).sum(axis=1) / lengths).max()


def test_packed_and_padded_texts_get_the_vectors_of_one_text_at_a_time(folder, alone):
    packed = load(folder)
    assert packed.runtime.attention == "segments"
    np.testing.assert_allclose(encode(packed, TEXTS), alone, atol=1e-5)
    np.testing.assert_allclose(encode(load(folder, attention="padded"), TEXTS), alone, atol=1e-5)


def test_bfloat16_is_near(folder, alone):
    assert loss(encode(load(folder, dtype="bfloat16"), TEXTS), alone) < 5e-3


def test_float16_arithmetic_is_near_or_overflows_and_is_noticed(folder, alone):
    """The arithmetic of a GPU, by torch on the CPU."""
    config = EmbeddingConfig(model_name=str(folder), device="cpu", pooling="last_token")
    embedder, device = load(folder), torch.device("cpu")
    model = loading.load_model(ModelFiles(folder, ""), "float16", device, trust_remote_code=False)
    setup = Setup(config, load_sentence_layers(Pooling(("last_token",)), (), device), device, "float16", 0)
    probes = make_probes(embedder.tokenize(TEXTS[:3]), lambda texts: _run(setup.padded(model), texts))
    path = choose_path(model, setup, probes)
    assert path.runtime.attention == "segments"
    vectors = _run(path.forward, embedder.tokenize(TEXTS))
    assert np.isfinite(vectors).all()
    assert loss(vectors, alone) < 1e-3


def _run(forward, texts):
    with torch.inference_mode():
        return forward(texts).numpy()


@pytest.mark.parametrize(("precision", "limit"), [("int8", 2e-3), ("float8", 2e-3)])
def test_vectors_stored_in_a_byte_keep_their_neighbours(alone, precision, limit):
    coding = calibrate(precision, alone)
    stored = coding.decode(coding.encode(alone))
    assert loss(stored, alone) < limit
    assert np.mean(_nearest(stored) == _nearest(alone)) >= 0.9


def test_bits_are_the_signs_of_real_activations(alone):
    coding = calibrate("ubinary", alone)
    np.testing.assert_array_equal(coding.decode(coding.encode(alone)) > 0, alone > 0)
    # A few dimensions with outliers carry most of a vector's length: its signs alone point elsewhere.
    assert 0.3 < loss(coding.decode(coding.encode(alone)), alone) < 0.8


def _nearest(vectors):
    similarity = vectors @ vectors.T / np.linalg.norm(vectors, axis=1)
    np.fill_diagonal(similarity, -np.inf)
    return similarity.argmax(axis=1)


def test_text_is_more_likely_than_noise(folder):
    texts = [
        "The capital of France is Paris, and that of Italy is Rome.", "Paris the Rome and Italy capital that is of is",
        "qx zv kk jj ww pq xz",
    ]  # fmt: skip
    together = perplexity(texts, CausalModelConfig(model=str(folder)))["perplexity"]
    alone = [perplexity([text], CausalModelConfig(model=str(folder)))["perplexity"][0] for text in texts]
    np.testing.assert_allclose(together, alone, rtol=1e-4)
    assert together[0] < 60 < min(together[1:])


def test_a_chat_model_too_small_to_judge_is_refused_by_its_own_words(folder, tmp_path):
    """It answers in sentences, which are no labels: none is stored."""
    pairs = [Pair("q0", "p0", "What is the capital of France?", "Paris is the capital of France.")]
    with served(folder) as address:
        config = quick(address, model=str(folder), timeout_s=120.0, slots=1, reasoning_tokens=0, logprobs=False)
        with pytest.raises(JudgeError, match="expected one of NO, YES and nothing else, found '[A-Z][a-z]+ "):
            judge_all(tmp_path / "s.db", pairs, load_judge(config), config)
