import logging
import threading
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from data_pipeline.embeddings import Engine, Identity, Runtime, encode
from data_pipeline.embeddings.plan import make_plan
from data_pipeline.embeddings.tokens import from_rows
from data_pipeline.errors import DeviceHungError, ModelError, OutOfMemoryError


class Fake:
    """A text of n letters `a` has n tokens and the vector (n, n/2, 0, 0); prompts are kept for a look."""

    query_prompt = "query: "
    tokenizer = Tokenizer(models.WordLevel({"?": 0}))

    def __init__(self, dim=4, normalized=False, dtype="float32", most_tokens=10**9, **runtime):
        self.identity = Identity("fake", "1", "mean", normalized, dtype, dim, 99, "passage: ", "hash")
        self.runtime = Runtime(attention="none", **runtime)
        self.most_tokens = most_tokens
        self.calls = []
        self.texts = []

    def tokenize(self, texts):
        self.texts += texts
        counts = [max(1, text.rsplit(": ")[-1].count("a")) for text in texts]
        return from_rows([[1] * count for count in counts], [False] * len(texts))

    def forward(self, texts, dtype=None):
        if self.runtime.computed_tokens(texts.lengths) > self.most_tokens:
            raise OutOfMemoryError("too much")
        self.calls.append((len(texts), dtype))
        vectors = np.array([[n, n / 2, 0, 0] for n in texts.lengths], dtype=np.float32)
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


def plan_of(lengths):
    """A plan of texts of these lengths, no two the same; their ids are their rows."""
    return make_plan(from_rows([[row] * length for row, length in enumerate(lengths)], [False] * len(lengths)))


def run_all(embedder, lengths, batch_tokens=10**6, batch_size=None, done=None):
    """Vectors by row, and the engine that made them."""
    engine = Engine(embedder, batch_tokens, batch_size)
    found = {}
    for rows, vectors in engine.run(plan_of(lengths), lambda row: f"text-{row}", done):
        assert vectors.dtype == np.float32
        for row, vector in zip(rows.tolist(), vectors, strict=True):
            assert row not in found
            found[row] = vector.tolist()
    return found, engine


def expected(lengths):
    return {row: [n, n / 2, 0, 0] for row, n in enumerate(lengths)}


@pytest.mark.parametrize("in_flight", [1, 2])
@pytest.mark.parametrize("padded", [False, True])
def test_out_of_memory_halves_tries_again_and_says_so_once(padded, in_flight, caplog):
    lengths = [4, 4, 4, 4, 4, 4, 4, 4]
    embedder = Fake(most_tokens=8, padded=padded, in_flight=in_flight)
    with caplog.at_level(logging.WARNING):
        done, engine = run_all(embedder, lengths, batch_tokens=32)
    assert done == expected(lengths)
    # 32 tokens fail, then 16 once or, where both halves are under way, twice; nothing larger than 8 is tried again.
    assert engine.tally.memory_backoffs in (2, 3)
    assert [record.message for record in caplog.records] == ["Out of memory (too much): halving packs and trying again"]
    assert embedder.calls == [(2, None)] * 4


@given(
    lengths=st.lists(st.integers(1, 30), max_size=40),
    batch_tokens=st.integers(1, 300),
    most_tokens=st.integers(30, 200),
    padded=st.booleans(),
    in_flight=st.integers(1, 3),
)
def test_every_row_comes_out_once_however_often_memory_runs_out(lengths, batch_tokens, most_tokens, padded, in_flight):
    embedder = Fake(most_tokens=most_tokens, padded=padded, in_flight=in_flight)
    done, engine = run_all(embedder, lengths, batch_tokens)
    assert done == expected(lengths)
    # No text is computed twice.
    assert sum(rows for rows, _ in embedder.calls) == engine.tally.texts == len(lengths)
    assert engine.tally.tokens == sum(lengths)


def test_finished_rows_stay_when_memory_runs_out_later():
    class Shrinking(Fake):
        def forward(self, texts, dtype=None):
            if texts.ids[0] >= 4 and len(texts) > 1:
                raise OutOfMemoryError("too much")
            return super().forward(texts, dtype)

    embedder = Shrinking()
    done, engine = run_all(embedder, [4] * 8, batch_tokens=16)
    assert done == expected([4] * 8)
    assert embedder.calls == [(4, None), *[(1, None)] * 4]
    # Four texts, and twice two.
    assert engine.tally.memory_backoffs == 3


def test_the_smaller_budget_holds_for_the_rest_of_the_plan_and_no_longer():
    embedder = Fake(most_tokens=8)
    engine = Engine(embedder, 16)
    assert [len(rows) for rows, _ in engine.run(plan_of([4] * 16), str)] == [2] * 8
    # The two packs that were under way failed, no other.
    assert engine.tally.memory_backoffs == 2
    embedder.most_tokens = 16
    embedder.calls.clear()
    assert [len(rows) for rows, _ in engine.run(plan_of([4] * 16), str)] == [4] * 4
    assert engine.batch_tokens == 16


def test_the_budget_never_grows_again():
    embedder = Fake(most_tokens=15)
    lengths = [11, 11, 8, 8, 8, 8]
    # 22 tokens fail and leave 11; 32 that were under way would leave 16, which fails again.
    done, engine = run_all(embedder, lengths, batch_tokens=32)
    assert done == expected(lengths)
    assert engine.tally.memory_backoffs == 2


def test_halves_keep_their_order():
    work = Engine(Fake(most_tokens=8), 16).run(plan_of([4] * 4), str)
    assert [rows.tolist() for rows, _ in work] == [[0, 1], [2, 3]]


def test_a_single_text_that_does_not_fit_is_named():
    with pytest.raises(
        ModelError, match=r"text-1 has 9 tokens and does not fit into memory alone.*max_length"
    ) as error:
        run_all(Fake(most_tokens=8), [3, 9, 2])
    assert not isinstance(error.value, OutOfMemoryError)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0])
def test_an_unusable_vector_is_computed_again_in_bfloat16(value, caplog):
    embedder = Spoiled(value, fine=("bfloat16", "float32"))
    done, engine = run_all(embedder, [1, 2, 3])
    assert done == {0: [1, 0.5, 0, 0], 1: [2, 1, 0, 0], 2: [3, 1.5, 0, 0]}
    # The whole pack, then the one text alone.
    assert embedder.calls == [(3, None), (1, "bfloat16")]
    assert engine.tally.recomputed == {"bfloat16": 1}
    assert "1 vectors were not finite; 1 of them are after computing them again in bfloat16" in caplog.text


def test_what_bfloat16_does_not_mend_is_computed_in_float32():
    embedder = Spoiled(np.nan, fine=("float32",))
    done, engine = run_all(embedder, [2, 1, 2])
    assert done[0] == done[2] == [2, 1, 0, 0]
    assert embedder.calls == [(3, None), (2, "bfloat16"), (2, "float32")]
    assert engine.tally.recomputed == {"bfloat16": 0, "float32": 2}


def test_what_float8_spoils_is_computed_without_it():
    embedder = Spoiled(np.nan, fine=("bfloat16", "float32"), dtype="bfloat16+float8")
    done, engine = run_all(embedder, [2, 1])
    assert done == {0: [2, 1, 0, 0], 1: [1, 0.5, 0, 0]}
    assert embedder.calls == [(2, None), (1, "bfloat16")]
    assert engine.tally.recomputed == {"bfloat16": 1}


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
    [
        ("float16", [None, "bfloat16", "float32"]),
        ("bfloat16", [None, "float32"]),
        ("float32", [None]),
        ("bfloat16+float8", [None, "bfloat16", "float32"]),
    ],
)
@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_a_text_without_a_finite_vector_in_any_precision_is_named(value, dtype, precisions):
    embedder = Spoiled(value, dtype=dtype)
    with pytest.raises(ModelError, match="no finite vector for text-1 and 1 others"):
        run_all(embedder, [1, 2, 3, 2])
    assert [asked for _, asked in embedder.calls] == precisions


def test_memory_that_runs_out_while_a_vector_is_computed_again_is_halved_too():
    class Greedy(Spoiled):
        def forward(self, texts, dtype=None):
            if dtype is not None and len(texts) > 1:
                raise OutOfMemoryError("too much")
            return super().forward(texts, dtype)

    embedder = Greedy(np.nan, fine=("bfloat16",))
    done, engine = run_all(embedder, [2, 2, 2])
    assert Counter(map(tuple, done.values())) == {(2, 1, 0, 0): 3}
    assert engine.tally.recomputed == {"bfloat16": 3}


def test_a_text_too_large_for_the_safer_precision_is_named():
    class Greedy(Spoiled):
        def forward(self, texts, dtype=None):
            if dtype is not None:
                raise OutOfMemoryError("too much")
            return super().forward(texts, dtype)

    with pytest.raises(ModelError, match="text-1 does not fit into memory in bfloat16: too much"):
        run_all(Greedy(np.nan), [3, 2, 2])


@pytest.mark.parametrize("runtime", [{}, {"padded": True}, {"in_flight": 2}])
def test_identical_texts_are_computed_once_and_each_gets_the_vector(runtime):
    embedder = Fake(**runtime)
    texts = ["aa", "a", "aa", "aaa", "a", "aa"]
    assert encode(embedder, texts, batch_tokens=4)[:, 0].tolist() == [2, 1, 2, 3, 1, 2]
    assert sum(rows for rows, _ in embedder.calls) == 3
    engine = Engine(Fake(), 4)
    for _ in engine.run(make_plan(embedder.tokenize(texts)), str):
        pass
    assert (engine.tally.texts, engine.tally.tokens) == (6, 6)


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


def test_encode_keeps_the_budgets_and_else_the_embedders_own():
    texts = ["a" * n for n in range(1, 7)]
    by_own, by_tokens, by_size = Fake(batch_tokens=11), Fake(), Fake()
    encode(by_own, texts)
    encode(by_tokens, texts, batch_tokens=9)
    encode(by_size, texts, batch_size=4)
    assert [rows for rows, _ in by_own.calls] == [2, 4]
    assert [rows for rows, _ in by_tokens.calls] == [1, 2, 3]
    assert [rows for rows, _ in by_size.calls] == [4, 2]


def test_a_text_encode_cannot_embed_is_quoted():
    with pytest.raises(ModelError, match=r"'aaaa' has 4 tokens and does not fit into memory alone"):
        encode(Fake(most_tokens=3), ["a", "aaaa"])


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
    _, engine = run_all(Fake(padded=True), [1, 2, 3], batch_size=2)
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


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_vectors_whose_squares_leave_float32_are_normalised_all_the_same(size):
    class Extreme(Fake):
        def spoil(self, vectors, dtype):
            vectors[:] = [3 * size, 4 * size, 0, 0]
            return vectors

    np.testing.assert_allclose(encode(Extreme(normalized=True), ["a"]), [[0.6, 0.8, 0, 0]], rtol=1e-6)


def test_packs_that_are_done_are_left_out_and_others_computed_whole():
    #          packs: 0 1 | 2 3 | 4 5
    done = np.array([True, True, False, True, False, False])
    embedder = Fake()
    found, engine = run_all(embedder, [4] * 6, batch_tokens=8, done=done)
    assert sorted(found) == [2, 3, 4, 5]
    assert embedder.calls == [(2, None), (2, None)]
    assert engine.tally.texts == 4
    assert run_all(embedder, [4] * 6, batch_tokens=8, done=np.ones(6, dtype=bool))[0] == {}
    assert len(embedder.calls) == 2


def test_a_text_is_done_when_all_its_copies_are():
    plan = make_plan(from_rows([[1, 1], [2], [1, 1], [2]], [False] * 4))
    engine = Engine(Fake(), 2)

    def rows_left(done):
        return [row for rows, _ in engine.run(plan, str, np.array(done)) for row in rows.tolist()]

    assert rows_left([True, False, False, True]) == [0, 2, 1, 3]
    assert rows_left([True, False, True, True]) == [1, 3]


def test_packs_of_a_resumed_run_are_those_of_an_undisturbed_one():
    lengths = list(range(1, 40))
    seen = []

    class Watched(Fake):
        def forward(self, texts, dtype=None):
            seen.append(texts.lengths.tolist())
            return super().forward(texts, dtype)

    run_all(Watched(), lengths, batch_tokens=100)
    undisturbed = list(seen)
    seen.clear()
    done = np.zeros(39, dtype=bool)
    done[::2] = True
    done[-2:] = True  # the first pack is of 39 and 38 tokens
    run_all(Watched(), lengths, batch_tokens=100, done=done)
    assert seen == undisturbed[1:]


def test_two_packs_are_in_flight_and_come_back_in_the_plans_order():
    class Together(Fake):
        """A pack is finished only while another one is under way; the later of the two is the faster."""

        meeting = threading.Barrier(2, timeout=5)

        def forward(self, texts, dtype=None):
            self.meeting.wait()
            if texts.ids[0] % 4 == 0:
                time.sleep(0.02)
            return super().forward(texts, dtype)

    plan = plan_of([5] * 16)
    rows = [rows.tolist() for rows, _ in Engine(Together(in_flight=2), 10).run(plan, str)]
    assert rows == [[n, n + 1] for n in range(0, 16, 2)]


@pytest.mark.parametrize("in_flight", [1, 3])
def test_no_more_packs_are_in_flight_than_the_embedder_likes(in_flight):
    lock, now, most, threads = threading.Lock(), [0], [0], set()

    class Counting(Fake):
        def forward(self, texts, dtype=None):
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
                threads.add(threading.current_thread())
            time.sleep(0.005)
            with lock:
                now[0] -= 1
            return super().forward(texts, dtype)

    run_all(Counting(in_flight=in_flight), [5] * 12, batch_tokens=5)
    assert most[0] == in_flight
    assert threading.main_thread() not in threads


def test_packs_are_computed_while_the_caller_looks_after_earlier_ones():
    second = threading.Event()

    class Announcing(Fake):
        def forward(self, texts, dtype=None):
            if texts.ids[0] == 1:
                second.set()
            return super().forward(texts, dtype)

    work = Engine(Announcing(), 5).run(plan_of([5, 5, 5]), str)
    next(work)
    assert second.wait(5)
    work.close()


def engine_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("embed")]


@pytest.mark.parametrize("in_flight", [1, 2])
@pytest.mark.parametrize("error", [ModelError("broken"), MemoryError("no"), KeyError("bug")])
def test_an_error_while_computing_reaches_the_caller_and_nothing_hangs(in_flight, error):
    class Failing(Fake):
        def forward(self, texts, dtype=None):
            if texts.ids[0] == 2:
                raise error
            return super().forward(texts, dtype)

    embedder = Failing(in_flight=in_flight)
    work = Engine(embedder, 5).run(plan_of([5] * 100), str)
    assert [next(work)[0].tolist(), next(work)[0].tolist()] == [[0], [1]]
    with pytest.raises(type(error)) as raised:
        next(work)
    assert raised.value is error
    assert engine_threads() == []
    # What had not begun was not begun any more.
    assert len(embedder.calls) <= 2 + in_flight + 1


def test_a_device_that_hangs_is_not_waited_for():
    back, under_way = threading.Event(), threading.Event()

    class Hanging(Fake):
        def forward(self, texts, dtype=None):
            if texts.ids[0] == 0:
                under_way.wait(5)
                raise DeviceHungError("cuda:0 has not answered")
            under_way.set()
            back.wait(5)
            return super().forward(texts, dtype)

    try:
        with pytest.raises(DeviceHungError):
            run_all(Hanging(in_flight=2), [5] * 4, batch_tokens=5)
        # The other thread still waits for the device.
        assert engine_threads() != []
    finally:
        back.set()
        for thread in engine_threads():
            thread.join(5)


def test_a_caller_that_stops_early_leaves_no_threads():
    embedder = Fake(in_flight=2)
    work = Engine(embedder, 5).run(plan_of([5] * 100), str)
    next(work)
    assert engine_threads() != []
    work.close()
    assert engine_threads() == []
    assert len(embedder.calls) <= 4


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("a string", r"a list of texts, found a single one: 'a string'\. Put it into a list"),
        (b"bytes", "a list of texts, found a single one"),
        (["a", None], r"texts\[1\] must be a text, found None"),
        (["a", 5], r"texts\[1\] must be a text, found 5"),
        ([["a"]], r"texts\[0\] must be a text, found \['a'\]"),
    ],
)
def test_encode_refuses_what_is_not_a_list_of_texts(texts, message):
    with pytest.raises(TypeError, match=message):
        encode(Fake(), texts)
