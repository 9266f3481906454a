"""Whether a classifier's label survives small changes of a text's words.

The changes are those of Wei and Zou, "EDA: Easy Data Augmentation Techniques" (2019), arXiv:1901.11196, that need no
thesaurus: words are deleted, swapped, or, instead of a synonym, put in once more.
"""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from data_pipeline.config import Section
from data_pipeline.errors import ModelError
from data_pipeline.types import IntArray
from data_pipeline.utils import batched, progress_bar, refuse_single_text
from data_pipeline.utils.words import join_words, split_words

Predict = Callable[[Sequence[str]], IntArray]
"""Texts -> the number of each one's class, shape (N,); a text's does not depend on the others."""

_TEXTS = 512  # whose copies are classified in one call


class ConsistencyMeasureConfig(Section):
    """How texts are changed."""

    copies: int = Field(9, ge=1)
    """Changed copies of a text: deletion, swap and insertion in turn."""
    share: float = Field(0.1, gt=0, lt=1)
    """Words that a change is about, as a share of the text's; one at least. Each is deleted with this probability."""
    seed: int = 0
    """Another seed, other changes."""


def consistency(
    texts: Sequence[str], predict: Predict, config: ConsistencyMeasureConfig
) -> dict[str, NDArray[np.float64]]:
    """The share of a text's changed copies that have its own predicted label, column `consistency`, 0 to 1.

    A copy that happens to be the text again counts as having it, as all copies of an empty text do.

    Args:
        texts: to be changed; what becomes of one depends on itself and the seed, not on the others.
        predict: the classifier; sees each text and its copies.
        config: see `ConsistencyMeasureConfig`.

    Raises:
        ModelError: the classifier does not give one whole number a text.
    """
    refuse_single_text(texts, "texts")
    found = list[float]()
    with progress_bar(len(texts), "consistency", "texts") as bar:
        for some in batched(texts, _TEXTS):
            versions = [version for text in some for version in (text, *changed_copies(text, config))]
            place = {version: number for number, version in enumerate(dict.fromkeys(versions))}
            classes = _classes(predict, list(place))[[place[version] for version in versions]]
            classes = classes.reshape(len(some), config.copies + 1)
            found += (classes[:, 1:] == classes[:, :1]).mean(axis=1).tolist()
            bar.update(len(some))
    return {"consistency": np.array(found, np.float64)}


def changed_copies(text: str, config: ConsistencyMeasureConfig) -> list[str]:
    """The changed copies of a text, its words (see `words.split_words`) joined by single spaces."""
    digest = hashlib.blake2b(f"{config.seed}\0{text}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "little"))
    words = split_words(text)
    if not words:
        return [text] * config.copies
    changes = (_deleted, _swapped, _inserted)
    return [join_words(changes[copy % len(changes)](words, config.share, rng)) for copy in range(config.copies)]


def _deleted(words: list[str], share: float, rng: np.random.Generator) -> list[str]:
    """Without some words; one stays at least."""
    kept = [word for word, draw in zip(words, rng.random(len(words)).tolist(), strict=True) if draw >= share]
    return kept or [words[rng.integers(len(words))]]


def _swapped(words: list[str], share: float, rng: np.random.Generator) -> list[str]:
    """With some pairs of words changing places."""
    found = list(words)
    for _ in range(_count(words, share) if len(words) > 1 else 0):
        one, other = rng.choice(len(found), 2, replace=False).tolist()
        found[one], found[other] = found[other], found[one]
    return found


def _inserted(words: list[str], share: float, rng: np.random.Generator) -> list[str]:
    """With some words a second time, anywhere."""
    found = list(words)
    for _ in range(_count(words, share)):
        found.insert(int(rng.integers(len(found) + 1)), words[rng.integers(len(words))])
    return found


def _count(words: list[str], share: float) -> int:
    return max(1, int(share * len(words)))


def _classes(predict: Predict, texts: list[str]) -> IntArray:
    classes = np.asarray(predict(texts))
    if classes.shape != (len(texts),) or classes.dtype.kind not in "iu":
        raise ModelError(
            f"the classifier gives {classes.dtype} of shape {classes.shape} for {len(texts)} texts; one whole number "
            "a text is needed, that of its class"
        )
    return classes
