import math

import numpy as np
import pytest
import torch
from support.tiny_text_models import TEXTS, causal, classifier, masked
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from data_pipeline.errors import ConfigError, ModelError, SelectionError, SourceError
from data_pipeline.metrics.models import ModelConfig
from data_pipeline.metrics.perplexity import CausalModelConfig, perplexity, pseudo_perplexity

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def causal_model(tmp_path_factory):
    return causal(tmp_path_factory.mktemp("causal"))


@pytest.fixture(scope="module")
def masked_model(tmp_path_factory):
    return masked(tmp_path_factory.mktemp("masked"))


def by_hand(folder, text, start):
    """One text at a time, one token at a time."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = start + AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False)["input_ids"]
    losses = []
    with torch.inference_mode():
        for place in range(1, len(ids)):
            logits = model(torch.tensor([ids[:place]])).logits[0, -1]
            losses.append(-float(logits.double().log_softmax(0)[ids[place]]))
    return math.exp(sum(losses) / len(losses))


def test_perplexity_is_the_mean_surprise_of_each_token_given_those_before(causal_model):
    found = perplexity(TEXTS, CausalModelConfig(model=causal_model, device="cpu"))
    assert list(found) == ["perplexity"]
    assert found["perplexity"].dtype == np.float64
    expected = [by_hand(causal_model, text, [2]) for text in TEXTS]
    np.testing.assert_allclose(found["perplexity"], expected, rtol=1e-5)
    assert found["perplexity"][0] == pytest.approx(found["perplexity"][4], rel=1e-6)  # the same text


def test_without_a_start_token_the_first_token_counts_for_nothing(causal_model):
    texts = [text for text in TEXTS if len(text) > 1]
    found = perplexity(texts, CausalModelConfig(model=causal_model, device="cpu", start_token=False))["perplexity"]
    np.testing.assert_allclose(found, [by_hand(causal_model, text, []) for text in texts], rtol=1e-5)
    with pytest.raises(SelectionError, match=r"1 texts have one token, first text 2 \('x'\).*start_token to true"):
        perplexity(TEXTS, CausalModelConfig(model=causal_model, device="cpu", start_token=False))


@pytest.mark.parametrize("batch_tokens", [1, 20, 10_000])
def test_the_numbers_do_not_depend_on_what_is_computed_together(causal_model, masked_model, batch_tokens):
    whole = perplexity(TEXTS, CausalModelConfig(model=causal_model, device="cpu"))["perplexity"]
    parts = perplexity(TEXTS, CausalModelConfig(model=causal_model, device="cpu", batch_tokens=batch_tokens))
    np.testing.assert_allclose(parts["perplexity"], whole, rtol=1e-5)
    turned = perplexity(TEXTS[::-1], CausalModelConfig(model=causal_model, device="cpu"))["perplexity"]
    np.testing.assert_allclose(turned[::-1], whole, rtol=1e-5)
    whole = pseudo_perplexity(TEXTS, ModelConfig(model=masked_model, device="cpu"))["pseudo_perplexity"]
    parts = pseudo_perplexity(TEXTS, ModelConfig(model=masked_model, device="cpu", batch_tokens=batch_tokens))
    np.testing.assert_allclose(parts["pseudo_perplexity"], whole, rtol=1e-5)


def test_pseudo_perplexity_masks_each_token_once(masked_model):
    found = pseudo_perplexity(TEXTS, ModelConfig(model=masked_model, device="cpu"))["pseudo_perplexity"]
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(masked_model), AutoTokenizer.from_pretrained(masked_model)
    model.eval()
    for text, value in zip(TEXTS, found, strict=True):
        ids = tokenizer(text)["input_ids"]
        losses = []
        for place in range(1, len(ids) - 1):
            copy = [*ids[:place], tokenizer.mask_token_id, *ids[place + 1 :]]
            with torch.inference_mode():
                logits = model(torch.tensor([copy])).logits[0, place]
            losses.append(-float(logits.double().log_softmax(0)[ids[place]]))
        assert value == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)


def test_long_texts_are_cut_with_the_start_token_counted(causal_model, masked_model):
    long, cut = "a b c d e f g h i j", "a b c d e f g"
    config = CausalModelConfig(model=causal_model, device="cpu", max_length=8)
    found = perplexity([long, cut], config)["perplexity"]
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[1] == pytest.approx(by_hand(causal_model, cut, [2]), rel=1e-5)
    found = pseudo_perplexity([long, "a b c d e f"], ModelConfig(model=masked_model, device="cpu", max_length=8))
    assert found["pseudo_perplexity"][0] == pytest.approx(found["pseudo_perplexity"][1], rel=1e-5)
    # The model takes 64, whatever is asked for.
    longest = perplexity(["a " * 100], CausalModelConfig(model=causal_model, device="cpu"))["perplexity"][0]
    assert longest == pytest.approx(by_hand(causal_model, "a " * 63, [2]), rel=1e-5)


def test_a_text_without_tokens_is_named(causal_model, masked_model):
    with pytest.raises(SelectionError, match=r"text 1 \(' '\) has no tokens"):
        perplexity(["a", " "], CausalModelConfig(model=causal_model, device="cpu"))
    with pytest.raises(SelectionError, match=r"text 1 \(''\) has no tokens"):
        pseudo_perplexity(["a", ""], ModelConfig(model=masked_model, device="cpu"))


def test_no_texts_no_numbers(causal_model, masked_model):
    assert len(perplexity([], CausalModelConfig(model=causal_model, device="cpu"))["perplexity"]) == 0
    assert len(pseudo_perplexity([], ModelConfig(model=masked_model, device="cpu"))["pseudo_perplexity"]) == 0


def test_the_end_token_starts_texts_where_there_is_no_other(tmp_path, causal_model):
    with_end = causal(tmp_path / "end", bos_token_id=None, eos_token_id=2)
    found = perplexity(TEXTS, CausalModelConfig(model=with_end, device="cpu"))["perplexity"]
    np.testing.assert_allclose(found, [by_hand(causal_model, text, [2]) for text in TEXTS], rtol=1e-5)
    with_none = causal(tmp_path / "none", bos_token_id=None, eos_token_id=None)
    with pytest.raises(ConfigError, match="neither a start token nor an end token"):
        perplexity(TEXTS, CausalModelConfig(model=with_none, device="cpu"))


def test_a_model_of_another_kind_is_refused(tmp_path, causal_model, masked_model):
    with pytest.raises(ModelError, match="would be random"):
        pseudo_perplexity(TEXTS, ModelConfig(model=classifier(tmp_path / "classifier"), device="cpu"))
    with pytest.raises(ModelError, match="cannot load"):
        pseudo_perplexity(TEXTS, ModelConfig(model=causal_model, device="cpu"))
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_text("{}")
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(SourceError, match="pickles"):
        perplexity(TEXTS, CausalModelConfig(model=str(tmp_path / "pickled"), device="cpu"))


def test_a_model_that_overflows_is_named(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "broken"
    causal(folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][:] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"returned nan as perplexity of text 0.*5 more"):
        perplexity(TEXTS, CausalModelConfig(model=str(folder), device="cpu"))
