from itertools import pairwise, zip_longest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.embeddings import Cost, Runtime, Tokens
from data_pipeline.embeddings.plan import Pack, Summary, make_plan
from data_pipeline.embeddings.tokens import from_rows, spill

PACKED = Runtime(attention="none")
PADDED = Runtime(attention="none", padded=True)

# Few ids and short texts, so that many are the same.
TEXTS = st.lists(st.lists(st.integers(0, 2), max_size=6), max_size=50)


def tokens_of(texts, truncated=None):
    return from_rows(texts, [False] * len(texts) if truncated is None else truncated)


def of_lengths(lengths):
    """Texts of these lengths, no two the same."""
    return tokens_of([[row] * length for row, length in enumerate(lengths)])


def packs_of(plan, runtime=PACKED, batch_tokens=10**6, batch_size=None):
    return [pack.rows.tolist() for pack in plan.packs(runtime, batch_tokens, batch_size)]


@given(
    lengths=st.lists(st.integers(1, 300), max_size=60),
    batch_size=st.none() | st.integers(1, 20),
    batch_tokens=st.integers(1, 1000),
    padded=st.booleans(),
)
def test_packs_hold_every_text_once_keep_the_budgets_and_begin_with_the_longest(
    lengths, batch_size, batch_tokens, padded
):
    plan = make_plan(of_lengths(lengths))
    packs = packs_of(plan, PADDED if padded else PACKED, batch_tokens, batch_size)
    order = [row for pack in packs for row in pack]
    assert order == sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    assert order == plan.order.tolist()

    def computed(rows):
        return max(lengths[row] for row in rows) * len(rows) if padded else sum(lengths[row] for row in rows)

    for pack, following in zip_longest(packs, packs[1:]):
        assert 1 <= len(pack) <= (batch_size or len(pack))
        assert len(pack) == 1 or computed(pack) <= batch_tokens
        # Nothing more would have fitted.
        if following and len(pack) != batch_size:
            assert computed([*pack, following[0]]) > batch_tokens


def test_packs_by_hand():
    plan = make_plan(of_lengths([3, 9, 1, 9, 2, 7]))
    # 9 + 9 fill 18 tokens; then 7 + 3 + 2 + 1, or without the last where four would need 28 with padding.
    assert packs_of(plan, PACKED, 18) == [[1, 3], [5, 0, 4, 2]]
    assert packs_of(plan, PADDED, 18) == [[1, 3], [5, 0], [4, 2]]
    assert packs_of(plan, PACKED, 18, 3) == [[1, 3], [5, 0, 4], [2]]
    assert packs_of(plan, PADDED, 27, 2) == [[1, 3], [5, 0], [4, 2]]


@pytest.mark.parametrize("runtime", [PACKED, PADDED])
def test_a_text_longer_than_the_budget_goes_alone(runtime):
    assert packs_of(make_plan(of_lengths([1, 50, 60, 1])), runtime, 40) == [[2], [1], [0, 3]]


def test_a_pack_knows_its_place_and_its_longest_text():
    packs = list(make_plan(of_lengths([3, 9, 1, 9, 2])).packs(PACKED, 18, None))
    assert [(pack.start, pack.longest) for pack in packs] == [(0, 9), (2, 3)]


@pytest.mark.parametrize("runtime", [PACKED, PADDED])
def test_no_texts_make_no_packs(runtime):
    plan = make_plan(tokens_of([]))
    assert packs_of(plan, runtime) == []
    assert plan.summary(runtime, 100, None) == Summary(0, 0, 0, 0, 0, 0.0, 0.0)


@given(texts=TEXTS, batch_tokens=st.integers(1, 30), batch_size=st.none() | st.integers(1, 5), padded=st.booleans())
def test_identical_texts_are_computed_once_and_every_copy_gets_the_vector(texts, batch_tokens, batch_size, padded):
    plan = make_plan(tokens_of(texts))
    computed, given_to = [], {}
    for pack in plan.packs(PADDED if padded else PACKED, batch_tokens, batch_size):
        vectors = [tuple(texts[row]) for row in pack.rows]
        computed += vectors
        rows, places = plan.rows_of(pack)
        for row, place in zip(rows.tolist(), places.tolist(), strict=True):
            assert row not in given_to
            given_to[row] = vectors[place]
    first_rows = {}
    for row, text in enumerate(texts):
        first_rows.setdefault(tuple(text), row)
    assert given_to == {row: tuple(text) for row, text in enumerate(texts)}
    assert computed == sorted(first_rows, key=lambda text: (-len(text), first_rows[text]))
    assert plan.order.tolist() == [first_rows[text] for text in computed]


def test_texts_that_differ_in_one_id_or_in_a_zero_at_the_end_are_not_the_same():
    texts = [[1, 2, 3], [1, 2, 4], [1, 2], [1, 2, 0], [0], [0, 0], [], [256], [1]]
    plan = make_plan(tokens_of(texts))
    assert sorted(plan.order.tolist()) == list(range(9))


def test_the_rows_of_a_pack():
    #                       0       1    2       3       4    5    6
    plan = make_plan(tokens_of([[1, 1], [2], [3, 3], [1, 1], [2], [4], [1, 1]]))
    first, second = plan.packs(PACKED, 5, None)
    assert (first.rows.tolist(), second.rows.tolist()) == ([0, 2, 1], [5])
    rows, places = plan.rows_of(first)
    assert (rows.tolist(), places.tolist()) == ([0, 3, 6, 2, 1, 4], [0, 0, 0, 1, 2, 2])
    rows, places = plan.rows_of(second)
    assert (rows.tolist(), places.tolist()) == ([5], [0])


@given(lengths=st.lists(st.integers(1, 100), min_size=2, max_size=40))
def test_halves_are_two_packs_of_about_as_many_tokens(lengths):
    plan = make_plan(of_lengths(lengths))
    (pack,) = plan.packs(PACKED, 10**6, None)
    lengths = sorted(lengths, reverse=True)
    one, other = pack.halves(np.array(lengths))
    assert [*one.rows, *other.rows] == pack.rows.tolist()
    assert (len(one.rows) > 0, len(other.rows) > 0) == (True, True)
    assert (one.start, other.start) == (0, len(one.rows))
    assert (one.longest, other.longest) == (lengths[0], lengths[len(one.rows)])
    # The rows a half gives its vectors to are its own.
    assert [*plan.rows_of(one)[0], *plan.rows_of(other)[0]] == plan.rows_of(pack)[0].tolist()
    cut = len(one.rows)
    difference = abs(sum(lengths[:cut]) - sum(lengths[cut:]))
    assert difference < 2 * lengths[cut] or cut == 1


def test_halves_by_hand():
    pack = Pack(np.array([7, 3, 5, 1]), 10, 9)
    one, other = pack.halves(np.array([9, 4, 3, 2]))
    assert (one.rows.tolist(), one.start, one.longest) == ([7], 10, 9)
    assert (other.rows.tolist(), other.start, other.longest) == ([3, 5, 1], 11, 4)
    one, other = pack.halves(np.array([5, 5, 5, 5]))
    assert (one.rows.tolist(), other.rows.tolist(), other.start) == ([7, 3], [5, 1], 12)


def test_the_summary_by_hand():
    texts = [[1, 1, 1], [2, 2], [1, 1, 1], [3], [2, 2], [2, 2]]
    plan = make_plan(tokens_of(texts, [True, False, True, False, False, False]))
    cost = Cost(linear=10.0, quadratic=2.0)
    # Distinct are texts of 3, 2 and 1 tokens: 10 x 6 + 2 x (9 + 4 + 1).
    common = {"texts": 6, "repeated": 3, "truncated": 2, "tokens": 6, "flops": 88.0}
    tight = Runtime("none", cost=cost)
    assert plan.summary(tight, 6, None) == Summary(**common, packs=1, padding_share=0.0)
    assert plan.summary(tight, 3, None) == Summary(**common, packs=2, padding_share=0.0)
    # Two packs of 3 and of 2 + 1 tokens, filled up to 8 each.
    filled = Runtime("none", row_multiple=8, cost=cost)
    assert plan.summary(filled, 3, None) == Summary(**common, packs=2, padding_share=1 - 6 / 16)
    # 3 x 2 and 1 x 1 tokens with padding; then 3 x 3.
    padded = Runtime("none", padded=True, cost=cost)
    assert plan.summary(padded, 6, None) == Summary(**common, packs=2, padding_share=pytest.approx(1 / 7))
    assert plan.summary(padded, 100, None) == Summary(**common, packs=1, padding_share=pytest.approx(3 / 9))
    assert plan.summary(padded, 100, 1).packs == 3


def test_the_summary_in_words():
    assert Summary(1, 0, 0, 9, 1, 0.0, 0.0).line() == "1 texts, 9 tokens, 1 packs, 0.00% padding"
    assert Summary(12_345, 67, 8, 1_234_567, 90, 0.0123, 2.5e15).line() == (
        "12,345 texts, 1,234,567 tokens, 67 repeated texts computed once, 8 cut to the maximum length, "
        "90 packs, 1.23% padding, 2.5e+03 TFLOP"
    )


def test_a_texts_cost_is_linear_and_quadratic():
    lengths = np.array([1, 10, 100_000])
    assert Cost(linear=3.0, quadratic=0.5).flops(lengths).tolist() == [3.5, 80.0, 300_000 + 0.5 * 1e10]
    assert Cost().flops(lengths).tolist() == [0, 0, 0]


def test_computed_tokens_are_those_of_a_runtime():
    lengths = np.array([7, 5, 5])
    assert Runtime("none").computed_tokens(lengths) == 17
    assert Runtime("none", row_multiple=16).computed_tokens(lengths) == 32
    assert Runtime("none", row_multiple=17).computed_tokens(lengths) == 17
    assert Runtime("none", padded=True).computed_tokens(lengths) == 21
    # What is padded is not filled up too.
    assert Runtime("none", padded=True, row_multiple=16).computed_tokens(lengths) == 21


def test_tokens_are_flat():
    tokens = tokens_of([[5, 6], [], [7, 8, 9]], [False, False, True])
    assert (tokens.ids.tolist(), tokens.offsets.tolist()) == ([5, 6, 7, 8, 9], [0, 2, 2, 5])
    assert (tokens.ids.dtype, tokens.offsets.dtype) == (np.int32, np.int64)
    assert (len(tokens), tokens.lengths.tolist()) == (3, [2, 0, 3])
    assert [tokens.row(row).tolist() for row in range(3)] == [[5, 6], [], [7, 8, 9]]
    taken = tokens.take(np.array([2, 0, 2]))
    assert [taken.row(row).tolist() for row in range(3)] == [[7, 8, 9], [5, 6], [7, 8, 9]]
    assert taken.truncated.tolist() == [True, False, True]
    taken.ids[:] = 0  # a copy
    assert tokens.ids.tolist() == [5, 6, 7, 8, 9]


@given(texts=TEXTS, cuts=st.lists(st.integers(0, 50), max_size=4))
def test_spilled_tokens_are_those_in_memory(tmp_path_factory, texts, cuts):
    truncated = [len(text) == 6 for text in texts]
    edges = [0, *sorted(min(cut, len(texts)) for cut in cuts), len(texts)]
    parts = [tokens_of(texts[a:b], truncated[a:b]) for a, b in pairwise(edges)]
    spilled = spill(iter(parts), tmp_path_factory.getbasetemp())
    expected = tokens_of(texts, truncated)
    assert [spilled.row(row).tolist() for row in range(len(texts))] == texts
    np.testing.assert_array_equal(spilled.ids, expected.ids)
    np.testing.assert_array_equal(spilled.offsets, expected.offsets)
    np.testing.assert_array_equal(spilled.truncated, expected.truncated)
    assert (spilled.ids.dtype, spilled.offsets.dtype, spilled.truncated.dtype) == (np.int32, np.int64, np.bool_)


def test_spilled_tokens_are_mapped_from_a_file_without_a_name(tmp_path):
    tokens = spill([tokens_of([[1, 2, 3]]), tokens_of([[4], [5, 6]])], tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert isinstance(tokens.ids, np.memmap)
    assert not tokens.ids.flags.writeable
    assert isinstance(tokens, Tokens)
    # It outlives what it was made of, and its rows can be taken into memory.
    assert tokens.take(np.array([2, 0])).ids.tolist() == [5, 6, 1, 2, 3]
    assert not isinstance(tokens.take(np.array([2, 0])).ids, np.memmap)


def test_no_tokens_can_be_spilled(tmp_path):
    nothing = spill([], tmp_path)
    assert (len(nothing), nothing.ids.tolist(), nothing.truncated.tolist()) == (0, [], [])
    empty = spill([tokens_of([[]]), tokens_of([[], []])], tmp_path)
    assert (len(empty), empty.lengths.tolist()) == (3, [0, 0, 0])
    assert list(tmp_path.iterdir()) == []


def test_a_plan_of_spilled_tokens_is_that_of_tokens_in_memory(tmp_path):
    texts = [[3, 1], [2], [3, 1], [4, 4, 4]]
    plan = make_plan(spill([tokens_of(texts[:2]), tokens_of(texts[2:])], tmp_path))
    assert packs_of(plan) == packs_of(make_plan(tokens_of(texts))) == [[3, 0, 1]]
