import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.builders import Numbers, rows_of

from data_pipeline.dataset.order import Order, permute

FULL, BLOCK = "full", "block"


def whole(order, epoch=0):
    return order.rows_at(np.arange(order.rows), epoch)


def is_permutation(found, rows):
    return found.dtype == np.int64 and np.array_equal(np.sort(found), np.arange(rows))


SIZES = [*range(1, 40), *range(40, 301, 3), 1023, 1024, 1025, 4095, 4097, 2**16 - 1, 2**16, 2**16 + 1, 100_003]


def test_a_full_order_has_every_row_once_whatever_their_number():
    for rows in SIZES:
        assert is_permutation(whole(Order(rows, FULL, seed=rows), epoch=rows % 7), rows), rows


@pytest.mark.parametrize("rows", [10**9, 2**30, 2**30 + 1, 10**12, 2**62])
def test_among_a_million_positions_of_very_many_no_row_comes_twice(rows):
    generator = np.random.default_rng(rows)
    positions = np.unique(generator.integers(0, rows, 10**6 if rows == 10**9 else 50_000))
    positions = np.union1d(positions, [0, rows - 1])
    found = Order(rows, FULL, seed=3).rows_at(positions, 5)
    assert found.min() >= 0
    assert found.max() < rows
    assert len(np.unique(found)) == len(positions)


def test_an_order_is_the_same_in_any_parts():
    for kind in (FULL, BLOCK):
        order = Order(1000, kind, 4, block_rows=7, window_blocks=5)
        positions = np.random.default_rng(0).integers(0, 1000, 400)
        np.testing.assert_array_equal(order.rows_at(positions, 2), whole(order, 2)[positions])
        assert [int(order.rows_at(np.array([p]), 2)[0]) for p in (0, 34, 35, 999)] == whole(order, 2)[
            [0, 34, 35, 999]
        ].tolist()
        assert order.rows_at(np.zeros(0, np.int64), 2).shape == (0,)


def test_without_shuffling_rows_are_as_they_are():
    assert whole(Order(17, False), epoch=3).tolist() == list(range(17))


# A saved state is of no use with another version if these change.
FROZEN = {
    (FULL, 10, 0, 0): [2, 5, 6, 1, 8],
    (FULL, 1000, 7, 3): [348, 914, 924, 686, 220],
    (FULL, 10**6, 1, 0): [706346, 216010, 360198, 129823, 357841],
    (FULL, 10**9, 42, 11): [391035356, 194882240, 169517236, 787207109, 229216097],
    (FULL, 10**12, 0, 5): [314082119276, 870556549142, 9264064888, 121781883434, 269555124508],
    (BLOCK, 1000, 7, 3): [612, 108, 455, 619, 450],
    (BLOCK, 10**9, 42, 11): [28809379, 805200342, 621150927, 798672948, 116473468],
}


@pytest.mark.parametrize(("kind", "rows", "seed", "epoch"), FROZEN)
def test_the_order_never_changes_between_versions(kind, rows, seed, epoch):
    small = {"block_rows": 16, "window_blocks": 4} if rows == 1000 else {}
    found = Order(rows, kind, seed, **small).rows_at(np.arange(5), epoch)
    assert found.tolist() == FROZEN[kind, rows, seed, epoch]


def passed_once(value, bits, digest):
    """One pass of the network, in Python's own numbers."""
    word, low, high = 2**32 - 1, bits // 2, bits - bits // 2
    left, right = value >> low, value & (1 << low) - 1
    for start in range(0, 24, 4):
        mixed = right ^ int.from_bytes(digest[start : start + 4], "little")
        mixed = (mixed ^ mixed >> 16) * 0x85EBCA6B & word
        mixed = (mixed ^ mixed >> 13) * 0xC2B2AE35 & word
        left, right = right, left ^ (mixed ^ mixed >> 16) >> 32 - high
        low, high = high, low
    return left << low | right


def in_python(position, rows, key):
    """The same permutation, one position at a time."""
    digest = hashlib.shake_256(str(key).encode()).digest(24)
    if rows <= 1024:
        return [value for value in (passed_once(each, 10, digest) for each in range(1024)) if value < rows][position]
    value, bits = position, (rows - 1).bit_length()
    while (value := passed_once(value, bits, digest)) >= rows:
        pass
    return value


@pytest.mark.parametrize("rows", [2, 700, 1024, 1025, 100_003, 10**9, 2**62])
def test_a_full_order_is_a_feistel_network_in_python_s_own_numbers(rows):
    positions = np.random.default_rng(0).integers(0, rows, 20)
    found = Order(rows, FULL, 2**40 + 1).rows_at(positions, 6)
    assert found.tolist() == [in_python(int(position), rows, (2**40 + 1, 6)) for position in positions]


def test_numbers_of_numpy_mean_the_same_order():
    for kind in (FULL, BLOCK):
        found = Order(500, kind, np.int64(3), 16, 4).rows_at(np.arange(500), np.int64(2))
        np.testing.assert_array_equal(found, whole(Order(500, kind, 3, 16, 4), 2))
    loader = Numbers(500).get_dataloader(10, "full", seed=np.int64(3))
    loader.set_epoch(np.int64(2))
    plain = Numbers(500).get_dataloader(10, "full", seed=3)
    plain.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    assert rows_of(plain) == rows_of(loader)


@pytest.mark.parametrize("kind", [FULL, BLOCK])
def test_every_seed_and_epoch_has_an_order_of_its_own(kind):
    orders = {
        (seed, epoch): tuple(whole(Order(500, kind, seed, 16, 4), epoch).tolist())
        for seed in (0, 1, 2, 2**31, 2**40)
        for epoch in range(6)
    }
    assert len(set(orders.values())) == 30
    rows = [*orders.values()]
    # Two random orders agree at one place on average.
    agreements = [np.equal(rows[i], rows[i + 1]).sum() for i in range(29)]
    assert max(agreements) < 10


def test_a_seed_of_more_than_32_bits_is_not_a_smaller_seed_s_later_epoch():
    # As they would be if the key were cut into words of 32 bits: 5, 1, 0 and 5, 1.
    assert whole(Order(500, FULL, 5 + 2**32), 0).tolist() != whole(Order(500, FULL, 5), 1).tolist()


def test_keys_that_differ_by_a_zero_have_permutations_of_their_own():
    # The order of the blocks has the key (seed, epoch), that within window 0 (seed, epoch, 0).
    positions = np.arange(500)
    assert permute(positions, 500, (3, 4)).tolist() != permute(positions, 500, (3, 4, 0)).tolist()


@pytest.mark.parametrize(("rows", "seeds"), [(3, 60), (7, 100), (50, 250), (300, 1200)])
def test_every_row_is_equally_likely_at_every_position(rows, seeds):
    counts = np.zeros((rows, rows), np.int64)
    for seed in range(seeds):
        counts[np.arange(rows), whole(Order(rows, FULL, seed), seed % 3)] += 1
    expected = seeds / rows
    statistic = ((counts - expected) ** 2 / expected).sum()
    # Chi squared with (rows - 1)^2 degrees of freedom; five standard deviations.
    degrees = (rows - 1) ** 2
    assert statistic < degrees + 5 * np.sqrt(2 * degrees) + 5


def test_all_orders_of_four_rows_are_equally_likely():
    counts = {}
    for seed in range(120):
        found = tuple(whole(Order(4, FULL, seed)).tolist())
        counts[found] = counts.get(found, 0) + 1
    assert len(counts) >= 22  # each is missing with probability (23 / 24)^120 = 0.006
    statistic = sum((count - 5) ** 2 / 5 for count in counts.values())
    assert statistic < 23 + 5 * np.sqrt(46)


def test_neighbours_are_not_kept_together():
    rows, apart, near = 1000, [], 0
    for seed in range(20):
        found = whole(Order(rows, FULL, seed))
        places = np.argsort(found)
        distance = np.abs(np.diff(places))
        apart.append(distance.mean())
        near += int((distance == 1).sum())
    # Two random places out of n are (n + 1) / 3 apart on average, and neighbours with probability 2 / n.
    assert np.mean(apart) == pytest.approx((rows + 1) / 3, rel=0.03)
    assert near == pytest.approx(20 * 2, abs=5 * np.sqrt(40))


def test_a_full_order_is_mixed_over_the_whole_length():
    rows = 100_000
    found = whole(Order(rows, FULL, 9))
    assert abs(np.corrcoef(np.arange(rows), found)[0, 1]) < 0.02
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.02
    found = whole(Order(2**16, FULL, 9))
    for bit in range(16):  # no bit of a row says anything of the same bit of its position
        assert np.mean((found >> bit & 1) == (np.arange(2**16) >> bit & 1)) == pytest.approx(0.5, abs=0.02)


# Blocks


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 3), st.integers(0, 359), st.integers(0, 9))
def test_a_block_order_has_every_row_once_and_stays_within_its_windows(
    block_rows, window_blocks, whole_ones, rest, epoch
):
    rows, seed = block_rows * window_blocks * whole_ones + rest % (block_rows * window_blocks) + 1, rest
    order = Order(rows, BLOCK, seed, block_rows, window_blocks)
    found = whole(order, epoch)
    assert is_permutation(found, rows)
    windows = np.array([order.window_of(position) for position in range(rows)])
    assert (np.diff(windows) >= 0).all()
    assert windows[-1] == order.windows() - 1
    for window in range(order.windows()):
        here = found[windows == window]
        starts = order.window_starts(window, epoch)
        # Exactly the blocks that are used, whole, in ascending order.
        assert starts.tolist() == sorted(set((here // block_rows * block_rows).tolist()))
        expected = np.concatenate([np.arange(start, min(start + block_rows, rows)) for start in starts])
        np.testing.assert_array_equal(np.sort(here), expected)
        # A window is as large as was asked for; the last one takes what is left over, less than another window.
        if window < order.windows() - 1:
            assert len(here) == block_rows * window_blocks
        else:
            assert len(here) < 2 * block_rows * window_blocks


@pytest.mark.parametrize("rows", [1, 5, 8, 9])
def test_fewer_rows_than_a_block_are_still_mixed_among_themselves(rows):
    order = Order(rows, BLOCK, 0, block_rows=10, window_blocks=3)
    orders = {tuple(whole(order, epoch).tolist()) for epoch in range(5)}
    assert len(orders) == (5 if rows > 4 else 1)
    assert order.window_starts(0, 0).tolist() == [0]


def test_no_rows_have_an_order_too():
    for kind in (False, FULL, BLOCK):
        order = Order(0, kind)
        assert whole(order).tolist() == []
        assert order.windows() == 1
        assert order.window_starts(0, 0).tolist() == []


def test_which_blocks_share_a_window_changes_with_the_epoch_and_a_batch_mixes_many_of_them():
    order = Order(64 * 1000, BLOCK, 1, block_rows=64, window_blocks=50)
    together = [frozenset(order.window_starts(0, epoch).tolist()) for epoch in range(4)]
    assert len(set(together)) == 4
    found = whole(order)
    # 256 rows out of 50 blocks of 64: nearly all blocks are in a batch.
    used = [len(np.unique(found[start : start + 256] // 64)) for start in range(0, 3200 - 256, 256)]
    assert min(used) > 45
    # Blocks are in every window with the same probability: their means are those of all rows.
    means = [found[start : start + 3200].mean() for start in range(0, 64_000, 3200)]
    assert np.std(means) == pytest.approx(64_000 / np.sqrt(12) / np.sqrt(50), rel=0.6)


def test_positions_of_a_block_order_are_computed_in_the_middle_of_very_many_rows():
    order = Order(10**9 + 7, BLOCK, 5)
    positions = np.arange(10**9 - 40_000, 10**9 + 7)
    found = order.rows_at(positions, 3)
    assert len(np.unique(found)) == len(positions)
    last = positions[[order.window_of(int(p)) == order.windows() - 1 for p in positions]]
    blocks = np.unique(order.rows_at(last, 3) // 256) * 256
    assert set(blocks.tolist()) <= set(order.window_starts(order.windows() - 1, 3).tolist())


def test_what_a_checkpoint_says_of_an_order_is_what_decides_it():
    assert Order(9, False, seed=3).to_json() == {"rows": 9, "shuffle": False}
    assert Order(9, FULL, 3, 5, 6).to_json() == {"rows": 9, "shuffle": "full", "seed": 3}
    assert Order(9, BLOCK, 3, 5, 6).to_json() == {
        "rows": 9, "shuffle": "block", "seed": 3, "block_rows": 5, "window_blocks": 6
    }  # fmt: skip
