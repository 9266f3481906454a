import math

import numpy as np
import pytest
import torch
from support.tiny_text_models import TEXTS, classifier, masked
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from data_pipeline.errors import ModelError, SelectionError
from data_pipeline.metrics.entropy import entropy_of_probabilities, predictive_entropy
from data_pipeline.metrics.models import ModelConfig

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return classifier(tmp_path_factory.mktemp("classifier"))


@pytest.mark.parametrize("batch_tokens", [1, 30, 10_000])
def test_the_entropy_of_the_classes(model, batch_tokens):
    found = predictive_entropy(TEXTS, ModelConfig(model=model, device="cpu", batch_tokens=batch_tokens))
    assert list(found) == ["predictive_entropy"]
    network, tokenizer = AutoModelForSequenceClassification.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    network.eval()
    for text, value in zip(TEXTS, found["predictive_entropy"], strict=True):
        with torch.inference_mode():
            probabilities = network(**tokenizer(text, return_tensors="pt")).logits[0].double().softmax(0).tolist()
        assert value == pytest.approx(-sum(p * math.log(p) for p in probabilities), rel=1e-5)
        assert 0 < value < math.log(3)


def test_from_probabilities():
    found = entropy_of_probabilities(np.array([[0.5, 0.5], [1, 0], [0.25, 0.75]], np.float32))["predictive_entropy"]
    expected = [math.log(2), 0, -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))]
    np.testing.assert_allclose(found, expected, rtol=1e-7)
    assert not np.signbit(found).any()


def test_probabilities_of_half_precision_are_scaled_to_a_sum_of_one():
    halves = np.full((1, 3), 1 / 3, np.float16)
    found = entropy_of_probabilities(halves)["predictive_entropy"]
    assert found[0] == pytest.approx(math.log(3), abs=1e-12)


@pytest.mark.parametrize("wrong", [[[0.5, 0.6]], [[1.5, -0.5]], [[np.nan, 1]], [[1.0]], [0.5, 0.5]])
def test_what_are_no_probabilities_is_refused(wrong):
    with pytest.raises(SelectionError, match="probabilities"):
        entropy_of_probabilities(np.array(wrong))


def test_a_model_that_is_no_classifier_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"lacks \d+ weights .* would be random"):
        predictive_entropy(TEXTS, ModelConfig(model=masked(tmp_path / "masked"), device="cpu"))
    with pytest.raises(ModelError, match="two classes or more"):
        predictive_entropy(TEXTS, ModelConfig(model=classifier(tmp_path / "number", num_labels=1), device="cpu"))
    several = classifier(tmp_path / "several", problem_type="multi_label_classification")
    with pytest.raises(ModelError, match="multi_label_classification"):
        predictive_entropy(TEXTS, ModelConfig(model=several, device="cpu"))
    unpadded = classifier(tmp_path / "unpadded", pad_token_id=None)
    with pytest.raises(ModelError, match="padding token"):
        predictive_entropy(TEXTS, ModelConfig(model=unpadded, device="cpu"))
