"""Into how many pieces a tokenizer cuts a text's words: many for rare ones.

Rust et al., "How Good is Your Tokenizer?" (2021), arXiv:2012.15613, call it fertility.
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
    """Subword tokens per word, column `wordpiece_ratio`: special tokens not counted, words as white space
    separates them, or single characters in scripts without spaces.

    Args:
        texts: whole; none is cut.
        model: whose tokenizer it is, on the hub or in a folder.
        revision: commit, tag or branch of the model.

    Raises:
        SelectionError: a text has no word.
        ModelError: the tokenizer cannot be loaded.
        SourceError: the hub can't be reached, or has no such model.
    """
    refuse_single_text(texts, "texts")
    words = np.array([len(split_words(text)) for text in texts], np.float64)
    if len(empty := np.flatnonzero(words == 0)):
        raise SelectionError(f"{len(empty)} texts have no word, text {empty[0]} for one; leave them out")
    tokenizer = load_tokenizer(model, revision)
    tokens = list[int]()
    with progress_bar(len(texts), "wordpieces", "texts") as bar:
        for some in batched(texts, _BATCH):
            tokens += [len(encoding.ids) for encoding in tokenizer.encode_batch_fast(some, add_special_tokens=False)]
            bar.update(len(some))
    return {"wordpiece_ratio": np.array(tokens, np.float64) / words}
