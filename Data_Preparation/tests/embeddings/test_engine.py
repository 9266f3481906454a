import logging
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from data_pipeline.embeddings import Engine, Identity, Tokenized, encode
from data_pipeline.embeddings.batching import plan_batches
from data_pipeline.errors import ModelError, OutOfMemory


class Fake:
    """A text of n letters `a` has n tokens and the vector (n, n/2, 0, 0); prompts are kept for a look."""

    attention = "none"
    query_prompt = "query: "
    tokenizer = Tokenizer(models.WordLevel({"?": 0}))

    def __init__(self, dim=4, normalized=False, dtype="float32", most_tokens=10**9):
        self.identity = Identity("fake", "1", "mean", normalized, dtype, dim, 99, "passage: ", "hash")
        self.most_tokens = most_tokens
        self.calls = []
        self.texts = []

    def tokenize(self, texts):
        self.texts += texts
        ids = [[1] * max(1, text.count("a")) for text in (text.rsplit(": ")[-1] for text in texts)]
        return Tokenized(ids, [False] * len(texts))

    def forward(self, ids, dtype=None):
        if len(ids) * max(map(len, ids)) > self.most_tokens:
            raise OutOfMemory("too much")
        self.calls.append((len(ids), dtype))
        vectors = np.array([[len(row), len(row) / 2, 0, 0] for row in ids], dtype=np.float32)
        return self.spoil(vectors, dtype)

    def spoil(self, vectors, dtype):
        return vectors


class Spoiled(Fake):
    """Vectors of texts with two tokens are spoiled, unless the precision is one of `fine`."""

    def __init__(self, value, fine=(), dtype="float16", **more):
        super().__init__(dtype=dtype, **more)
        self.value, self.fine = value, fine

    def spoil(self, vectors, dtype):
        if (dtype or self.identity.dtype) not in self.fine:
            vectors[vectors[:, 0] == 2] = self.value
        return vectors


def run_all(embedder, lengths, batch_size=100, batch_tokens=10**6):
    """Vectors by row, and the engine that made them."""
    ids = [[1] * length for length in lengths]
    engine = Engine(embedder, batch_size, batch_tokens)
    done = {}
    for batch in engine.plan(ids):
        for rows, vectors in engine.run(ids, batch, [f"text-{row}" for row in range(len(ids))]):
            for row, vector in zip(rows.tolist(), vectors, strict=True):
                assert row not in done
                done[row] = vector.tolist()
    return done, engine


@given(
    lengths=st.lists(st.integers(0, 300), max_size=60),
    batch_size=st.integers(1, 20),
    batch_tokens=st.integers(1, 1000),
)
def test_batches_hold_every_row_once_keep_the_budgets_and_begin_with_the_longest(lengths, batch_size, batch_tokens):
    batches = [batch.tolist() for batch in plan_batches(lengths, batch_size, batch_tokens)]
    order = [row for batch in batches for row in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert order == sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    for batch in batches:
        assert 1 <= len(batch) <= batch_size
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= batch_tokens


def test_batches_by_hand():
    batches = plan_batches([3, 9, 1, 9, 2], batch_size=3, batch_tokens=18)
    # 9 + 9 fill the budget; then 3, 2, 1 fill the size.
    assert [batch.tolist() for batch in batches] == [[1, 3], [0, 4, 2]]
    assert plan_batches([], 3, 18) == []
    assert [batch.tolist() for batch in plan_batches([50, 1], 3, 18)] == [[0], [1]]


def test_out_of_memory_halves_tries_again_and_says_so_once(caplog):
    embedder = Fake(most_tokens=8)
    with caplog.at_level(logging.WARNING):
        done, engine = run_all(embedder, [4, 4, 4, 4, 3, 3, 2, 1], batch_size=8, batch_tokens=32)
    assert done == {row: [n, n / 2, 0, 0] for row, n in enumerate([4, 4, 4, 4, 3, 3, 2, 1])}
    # 8 x 4 = 32 tokens fail, then 4 x 4; two texts of 4 fit, and nothing larger is tried again.
    assert engine.tally.memory_backoffs == 2
    assert [record.message for record in caplog.records] == [
        "out of memory (too much): batches are halved and tried again"
    ]
    assert sum(rows for rows, _ in embedder.calls) == 8


def test_finished_rows_stay_when_memory_runs_out_later():
    embedder = Fake()
    ids = [[1] * 4 for _ in range(4)]
    engine = Engine(embedder, 4, 16)
    (batch,) = engine.plan(ids)
    embedder.most_tokens = 8
    work = engine.run(ids, batch, ["a", "b", "c", "d"])
    first, _ = next(work)
    embedder.most_tokens = 4
    rest = [row for rows, _ in work for row in rows.tolist()]
    assert first.tolist() + rest == [0, 1, 2, 3]
    assert sum(rows for rows, _ in embedder.calls) == 4


def test_the_smaller_budget_holds_for_the_batches_to_come():
    embedder = Fake(most_tokens=8)
    run_all(embedder, [4] * 8, batch_size=4, batch_tokens=16)
    assert embedder.calls == [(2, None)] * 4


def test_a_single_text_that_does_not_fit_is_named():
    with pytest.raises(
        ModelError, match=r"text-1 has 9 tokens and does not fit into memory alone.*max_length"
    ) as error:
        run_all(Fake(most_tokens=8), [3, 9, 2])
    assert not isinstance(error.value, OutOfMemory)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0])
def test_an_unusable_vector_is_computed_again_in_bfloat16(value, caplog):
    embedder = Spoiled(value, fine=("bfloat16", "float32"))
    done, engine = run_all(embedder, [1, 2, 3])
    assert done == {0: [1, 0.5, 0, 0], 1: [2, 1, 0, 0], 2: [3, 1.5, 0, 0]}
    # The whole batch, then the one text alone.
    assert embedder.calls == [(3, None), (1, "bfloat16")]
    assert engine.tally.recomputed == {"bfloat16": 1}
    assert "1 vectors were not finite; 1 are, computed again in bfloat16" in caplog.text


def test_what_bfloat16_does_not_mend_is_computed_in_float32():
    embedder = Spoiled(np.nan, fine=("float32",))
    done, engine = run_all(embedder, [2, 1, 2])
    assert done[0] == done[2] == [2, 1, 0, 0]
    assert embedder.calls == [(3, None), (2, "bfloat16"), (2, "float32")]
    assert engine.tally.recomputed == {"bfloat16": 0, "float32": 2}


def test_one_spoilt_number_spoils_a_vector():
    class OneNumber(Spoiled):
        def spoil(self, vectors, dtype):
            if dtype is None:
                vectors[0, 3] = np.nan
            return vectors

    embedder = OneNumber(None)
    run_all(embedder, [2, 1])
    assert embedder.calls == [(2, None), (1, "bfloat16")]


@pytest.mark.parametrize(
    ("dtype", "precisions"),
    [("float16", [None, "bfloat16", "float32"]), ("bfloat16", [None, "float32"]), ("float32", [None])],
)
@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_a_text_without_a_finite_vector_in_any_precision_is_named(value, dtype, precisions):
    embedder = Spoiled(value, dtype=dtype)
    with pytest.raises(ModelError, match="no finite vector for text-1 and 1 others"):
        run_all(embedder, [1, 2, 3, 2])
    assert [asked for _, asked in embedder.calls] == precisions


def test_encode_puts_the_prompts_before_documents_and_queries():
    embedder = Fake()
    encode(embedder, ["aa", "a"])
    encode(embedder, ["aaa"], query=True)
    assert embedder.texts == ["passage: aa", "passage: a", "query: aaa"]


def test_encode_gives_vectors_in_input_order():
    texts = ["a", "aaaa", "aa", "aaaaaa", "aaa"]
    vectors = encode(Fake(), texts, batch_size=2)
    assert vectors.dtype == np.float32
    assert vectors[:, 0].tolist() == [1, 4, 2, 6, 3]
    assert encode(Fake(dim=3), []).shape == (0, 3)


def test_vectors_are_cut_first_and_normalised_then():
    class Fixed(Fake):
        def spoil(self, vectors, dtype):
            return np.tile(np.array([[3, 4, 12, 84]], dtype=np.float32), (len(vectors), 1))

    # 3-4-5, 5-12-13 and 13-84-85 are right triangles.
    assert encode(Fixed(), ["a"]).tolist() == [[3, 4, 12, 84]]
    np.testing.assert_allclose(encode(Fixed(normalized=True), ["a"]), [[3 / 85, 4 / 85, 12 / 85, 84 / 85]], rtol=1e-6)
    np.testing.assert_allclose(encode(Fixed(3, normalized=True), ["a"]), [[3 / 13, 4 / 13, 12 / 13]], rtol=1e-6)
    np.testing.assert_allclose(encode(Fixed(2, normalized=True), ["a"]), [[0.6, 0.8]], rtol=1e-6)
    assert encode(Fixed(2), ["a"]).tolist() == [[3, 4]]


def test_the_tally_counts_texts_and_real_tokens():
    _, engine = run_all(Fake(), [1, 2, 3], batch_size=2)
    assert (engine.tally.texts, engine.tally.tokens) == (3, 6)
    assert engine.tally.seconds > 0
    assert engine.tally.tokens_per_s == 6 / engine.tally.seconds


def test_a_vector_that_is_zero_in_the_leading_dimensions_only_is_refused():
    class Late(Fake):
        def spoil(self, vectors, dtype):
            vectors[:] = [0, 0, 0, 1]
            return vectors

    with pytest.raises(ModelError, match="no finite vector for 'a'"):
        encode(Late(2, normalized=True), ["a"])


def test_memory_that_runs_out_while_a_vector_is_computed_again_is_halved_too():
    class Greedy(Spoiled):
        def forward(self, ids, dtype=None):
            if dtype is not None and len(ids) > 1:
                raise OutOfMemory("too much")
            return super().forward(ids, dtype)

    embedder = Greedy(np.nan, fine=("bfloat16",))
    done, engine = run_all(embedder, [2, 2, 2])
    assert Counter(map(tuple, done.values())) == {(2, 1, 0, 0): 3}
    assert engine.tally.recomputed == {"bfloat16": 3}


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_vectors_whose_squares_leave_float32_are_normalised_all_the_same(size):
    class Extreme(Fake):
        def spoil(self, vectors, dtype):
            vectors[:] = [3 * size, 4 * size, 0, 0]
            return vectors

    np.testing.assert_allclose(encode(Extreme(normalized=True), ["a"]), [[0.6, 0.8, 0, 0]], rtol=1e-6)
