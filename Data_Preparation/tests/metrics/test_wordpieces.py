import pytest
from support.tiny_text_models import save_tokenizer

from data_pipeline.errors import SelectionError
from data_pipeline.metrics.wordpieces import wordpiece_ratio


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Of letters, with [CLS] and [SEP] around; there is no model beside it."""
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    return str(folder)


def test_pieces_by_words_without_special_tokens(tokenizer):
    found = wordpiece_ratio(["a", "cat", "a cat", " a \n b  cat "], tokenizer)
    assert list(found) == ["wordpiece_ratio"]
    assert found["wordpiece_ratio"].tolist() == [1, 3, 2, 5 / 3]


def test_texts_are_not_cut(tokenizer):
    assert wordpiece_ratio(["cat " * 2000], tokenizer)["wordpiece_ratio"].tolist() == [3]


def test_a_text_without_words_is_named(tokenizer):
    with pytest.raises(SelectionError, match="2 texts have no word, first text 1"):
        wordpiece_ratio(["a", "", " "], tokenizer)


def test_a_real_tokenizer_cuts_rare_words_and_no_common_ones(tiny_qwen3):
    found = wordpiece_ratio(["the cat sat on the mat", "sesquipedalian obfuscation"], str(tiny_qwen3))
    assert found["wordpiece_ratio"][0] == 1
    assert found["wordpiece_ratio"][1] > 2
