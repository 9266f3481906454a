"""Texts as token ids and back, for servers that take texts: planning, packing and spilling need ids.

An id holds four bytes of UTF-8, so that the number of ids is the usual estimate of the number of tokens. A tokenizer of
the model, if one is named, counts them exactly.
"""

from collections.abc import Sequence

import numpy as np
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from data_pipeline.embeddings.tokens import Int32Array, Tokens, from_rows
from data_pipeline.errors import ModelError
from data_pipeline.utils import shown

_FILLER = b"\xff"  # is in no UTF-8
_BYTES_PER_TOKEN = 4


def to_ids(text: str) -> Int32Array:
    """Ids of a text, shape (bytes / 4, rounded up).

    Raises:
        ModelError: the text holds half of a surrogate pair, which no request can hold.
    """
    try:
        content = text.encode()
    except UnicodeEncodeError as error:
        raise ModelError(
            f"the text {shown(text)} holds a lone surrogate at character {error.start}, which cannot be sent to a "
            "server. Remove it, or replace it by U+FFFD."
        ) from None
    return np.frombuffer(content + _FILLER * (-len(content) % _BYTES_PER_TOKEN), "<i4").astype(np.int32, copy=False)


def to_text(ids: Int32Array) -> str:
    """The text that `to_ids` took apart."""
    return ids.astype("<i4", copy=False).tobytes().rstrip(_FILLER).decode()


def estimating_tokenizer() -> Tokenizer:
    """Tokenizer that counts a token for every four bytes of a text, as `to_ids` does."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))  # noqa: S106
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    four_bytes = pre_tokenizers.Split(Regex(f".{{1,{_BYTES_PER_TOKEN}}}"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([as_bytes, four_bytes])
    return tokenizer


class TextReader:
    """Turns texts into ids, counting and cutting them with the tokenizer of the model.

    Args:
        tokenizer: tokenizer of the model; None to estimate.
        max_length: number of tokens, special tokens included, to which texts are cut; None for no limit.
    """

    def __init__(self, tokenizer: Tokenizer | None, max_length: int | None) -> None:
        self._counter = None
        if tokenizer is not None:
            self._counter = Tokenizer.from_str(tokenizer.to_str())
            if max_length is not None:
                self._counter.enable_truncation(max_length)
            else:
                self._counter.no_truncation()
            self._counter.no_padding()

    def read(self, texts: Sequence[str]) -> Tokens:
        """Ids of texts, and their numbers of tokens.

        Raises:
            ModelError: see `to_ids`.
        """
        if self._counter is None:
            return from_rows([to_ids(text) for text in texts], np.zeros(len(texts), np.bool_))
        for text in texts:
            to_ids(text)  # the tokenizer's own error does not name the text
        encodings = self._counter.encode_batch(list(texts), add_special_tokens=True)
        truncated = [bool(encoding.overflowing) for encoding in encodings]
        shortened = [
            text[: _end(encoding)] if is_cut else text
            for text, encoding, is_cut in zip(texts, encodings, truncated, strict=True)
        ]
        counts = np.array([len(encoding.ids) for encoding in encodings], np.int64)
        return from_rows([to_ids(text) for text in shortened], truncated, counts)


def _end(encoding: object) -> int:
    """Position after the last character of a truncated text."""
    offsets, special = getattr(encoding, "offsets", []), getattr(encoding, "special_tokens_mask", [])
    return max((end for (_, end), is_special in zip(offsets, special, strict=True) if not is_special), default=0)
