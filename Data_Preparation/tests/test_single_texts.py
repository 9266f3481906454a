"""What takes a list of texts refuses a single one, which Python would take apart into characters."""

import pytest

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings import HashingEmbedder, encode
from data_pipeline.metrics.text_metrics import text_metrics
from data_pipeline.metrics.wordpieces import wordpiece_ratio
from data_pipeline.preprocess import TokenCounter
from data_pipeline.retrieval.passages import passages_of_lists


def embedder():
    return HashingEmbedder(EmbeddingConfig(model_name="hashing"))


CALLS = {
    "encode": lambda: encode(embedder(), "a text"),
    "encode queries": lambda: encode(embedder(), "a text", query=True),
    "count tokens": lambda: TokenCounter(embedder().tokenizer).count("a text"),
    "text metrics": lambda: text_metrics("a text", ["char_count"]),
    "wordpiece ratio": lambda: wordpiece_ratio("a text", "no-model-is-loaded"),
    "passages": lambda: passages_of_lists("abcdef", "a text"),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_single_text_is_refused_with_a_sentence(call):
    with pytest.raises(TypeError, match="must be a list of texts, found a single one: 'a text'. Put it into a list."):
        CALLS[call]()
