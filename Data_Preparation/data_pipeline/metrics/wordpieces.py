"""Subword tokens per word, many for rare words.

The fertility of Rust et al., "How Good is Your Tokenizer?" (2021), arXiv:2012.15613.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import SelectionError
from data_pipeline.metrics.models import load_tokenizer
from data_pipeline.utils import batched, progress_bar, refuse_single_text
from data_pipeline.utils.words import split_words

_BATCH = 4096


def wordpiece_ratio(texts: Sequence[str], model: str, revision: str | None = None) -> dict[str, NDArray[np.float64]]:
    """Subword tokens per word, column `wordpiece_ratio`. Special tokens are not counted.

    Words are separated by white space; in scripts without spaces they are single characters.

    Args:
        texts: N texts; none is truncated.
        model: Name on the hub or folder of the model whose tokenizer is used.
        revision: Commit, tag or branch of the model.

    Raises:
        SelectionError: A text has no word.
        ModelError: The tokenizer cannot be loaded.
        SourceError: The hub cannot be reached, or has no such model.
    """
    refuse_single_text(texts, "texts")
    words = np.array([len(split_words(text)) for text in texts], np.float64)
    if len(empty := np.flatnonzero(words == 0)):
        raise SelectionError(f"{len(empty)} texts have no word, first text {empty[0]}. Leave them out")
    tokenizer = load_tokenizer(model, revision)
    tokens = list[int]()
    with progress_bar(len(texts), "wordpieces", "texts") as bar:
        for batch in batched(texts, _BATCH):
            tokens += [len(encoding.ids) for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False)]
            bar.update(len(batch))
    return {"wordpiece_ratio": np.array(tokens, np.float64) / words}
