"""Consistency of a classifier under small changes of the words of a text.

The changes are those of Wei and Zou, "EDA: Easy Data Augmentation Techniques" (2019), arXiv:1901.11196, that need no
thesaurus: words are deleted, swapped or, instead of a synonym, repeated.
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
"""Texts -> class of each, shape (N,), counted from 0; the class of a text does not depend on the others."""

_TEXTS = 512  # classified in one call, with their copies


class ConsistencyMeasureConfig(Section):
    """Settings of the changes of a text."""

    copies: int = Field(9, ge=1)
    """Number of changed copies of a text: deletion, swap and insertion in turn."""
    share: float = Field(0.1, gt=0, lt=1)
    """Fraction of the words that a change affects, at least one word; the probability with which a word is deleted."""
    seed: int = 0
    """Seed of the changes."""


def consistency(
    texts: Sequence[str], predict: Predict, config: ConsistencyMeasureConfig
) -> dict[str, NDArray[np.float64]]:
    """Fraction of the changed copies of a text that keep its predicted label, column `consistency`, 0 to 1.

    A copy that equals the text keeps the label, as do all copies of an empty text.

    Args:
        texts: N texts; the copies of one depend on the text and the seed, not on the other texts.
        predict: Classifier; gets each text and its copies.
        config: Settings.

    Raises:
        ModelError: The classifier does not return one whole number per text.
    """
    refuse_single_text(texts, "texts")
    fractions = list[float]()
    with progress_bar(len(texts), "consistency", "texts") as bar:
        for batch in batched(texts, _TEXTS):
            versions = [version for text in batch for version in (text, *changed_copies(text, config))]
            index = {version: number for number, version in enumerate(dict.fromkeys(versions))}
            classes = _classify(predict, list(index))[[index[version] for version in versions]]
            classes = classes.reshape(len(batch), config.copies + 1)
            fractions += (classes[:, 1:] == classes[:, :1]).mean(axis=1).tolist()
            bar.update(len(batch))
    return {"consistency": np.array(fractions, np.float64)}


def changed_copies(text: str, config: ConsistencyMeasureConfig) -> list[str]:
    """Changed copies of a text, whose words (see `words.split_words`) are joined by single spaces."""
    digest = hashlib.blake2b(f"{config.seed}\0{text}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "little"))
    words = split_words(text)
    if not words:
        return [text] * config.copies
    changes = (_delete_words, _swap_words, _repeat_words)
    return [join_words(changes[copy % len(changes)](words, config.share, rng)) for copy in range(config.copies)]


def _delete_words(words: list[str], share: float, rng: np.random.Generator) -> list[str]:
    """Delete random words; at least one remains."""
    remaining = [word for word, draw in zip(words, rng.random(len(words)).tolist(), strict=True) if draw >= share]
    return remaining or [words[rng.integers(len(words))]]


def _swap_words(words: list[str], share: float, rng: np.random.Generator) -> list[str]:
    """Swap random pairs of words."""
    swapped = list(words)
    for _ in range(_count(words, share) if len(words) > 1 else 0):
        left, right = rng.choice(len(swapped), 2, replace=False).tolist()
        swapped[left], swapped[right] = swapped[right], swapped[left]
    return swapped


def _repeat_words(words: list[str], share: float, rng: np.random.Generator) -> list[str]:
    """Repeat random words at random positions."""
    repeated = list(words)
    for _ in range(_count(words, share)):
        repeated.insert(int(rng.integers(len(repeated) + 1)), words[rng.integers(len(words))])
    return repeated


def _count(words: list[str], share: float) -> int:
    return max(1, int(share * len(words)))


def _classify(predict: Predict, texts: list[str]) -> IntArray:
    classes = np.asarray(predict(texts))
    if classes.shape != (len(texts),) or classes.dtype.kind not in "iu":
        raise ModelError(
            f"the classifier returned {classes.dtype} of shape {classes.shape} for {len(texts)} texts; expected one "
            "whole number per text, its class"
        )
    return classes
