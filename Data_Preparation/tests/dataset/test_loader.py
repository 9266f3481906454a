import itertools
import json
import threading
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.builders import JOINED, ROWS, Numbers, flat, make, rows_of, same

from data_pipeline import ELMDataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return ELMDataset(make(tmp_path_factory.mktemp("made"), JOINED), columns=["text", "embedding", "index"])


KINDS = [False, "full", "block"]
SMALL_BLOCKS = {"block_rows": 8, "window_blocks": 4}


def loader_of(rows, batch_size=32, shuffle="full", **how):
    return Numbers(rows).get_dataloader(batch_size, shuffle, prefetch=how.pop("prefetch", 0), **SMALL_BLOCKS | how)


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("elm-loader")]


@settings(max_examples=120, deadline=None, derandomize=True)
@given(st.integers(0, 130), st.integers(1, 20), st.integers(1, 6), st.booleans(), st.sampled_from([False, "full"]))
def test_the_processes_of_an_epoch_see_every_row_once_and_have_batches_of_the_same_sizes(
    rows, batch_size, world_size, drop_last, shuffle
):
    loaders = [
        loader_of(rows, batch_size, shuffle, rank=rank, world_size=world_size, drop_last=drop_last)
        for rank in range(world_size)
    ]
    batches = [rows_of(loader) for loader in loaders]
    sizes = [[len(batch) for batch in of_rank] for of_rank in batches]
    assert all(of_rank == sizes[0] for of_rank in sizes)
    assert len(loaders[0]) == len(sizes[0])
    assert all(size == batch_size for size in sizes[0][:-1])
    seen = [row for of_rank in batches for batch in of_rank for row in batch]
    step = batch_size * world_size
    if drop_last:
        assert sizes[0] == [batch_size] * (rows // step)
        assert loaders[0].padding == 0
        assert len(set(seen)) == len(seen) == rows // step * step
    else:
        padding = loaders[0].padding
        assert 0 <= padding < world_size
        assert len(seen) == rows + padding
        assert set(seen) == set(range(rows))
        order = loaders[0].order.rows_at(np.arange(rows), 0).tolist()
        # What is there twice are the first rows of the epoch, once more in turn.
        expected = sorted(order + [order[i % rows] for i in range(padding)])
        assert sorted(seen) == expected


@pytest.mark.parametrize("shuffle", KINDS)
def test_processes_take_neighbouring_positions_of_one_order_in_turn(shuffle):
    order = [row for batch in rows_of(loader_of(100, 7, shuffle, seed=5)) for row in batch]
    found = [rows_of(loader_of(100, 7, shuffle, seed=5, rank=rank, world_size=3)) for rank in range(3)]
    together = [row for batches in zip(*found, strict=True) for batch in batches for row in batch]
    assert together[:100] == order
    assert together[100:] == order[:2]  # 100 = 4 * 21 + 16, and 16 rows become 3 * 6


def test_processes_that_torch_knows_of_share_the_epoch(monkeypatch):
    for name, value in (("is_initialized", True), ("get_rank", 1), ("get_world_size", 3)):
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    loader = loader_of(100, 7, seed=5)
    assert (loader.rank, loader.world_size) == (1, 3)
    assert rows_of(loader) == rows_of(loader_of(100, 7, seed=5, rank=1, world_size=3))
    alone = loader_of(100, 7, seed=5, rank=0, world_size=1)
    assert (alone.rank, alone.world_size) == (0, 1)


@pytest.mark.parametrize("prefetch", [0, 1, 4, 50])
@pytest.mark.parametrize("shuffle", KINDS)
def test_batches_made_ahead_are_those_made_when_asked_for(dataset, shuffle, prefetch):
    found = dataset.get_dataloader(20, shuffle, seed=3, prefetch=prefetch, **SMALL_BLOCKS)
    alone = dataset.get_dataloader(20, shuffle, seed=3, prefetch=0, **SMALL_BLOCKS)
    for batch, expected in zip(found, alone, strict=True):
        same(batch, expected)
        same(batch, dataset.get_batch(batch["index"].numpy()))


@pytest.mark.parametrize("how", [{"prefetch": 0}, {"prefetch": 3}, {"prefetch": 3, "drop_last": True}])
@pytest.mark.parametrize("shuffle", KINDS)
def test_going_on_at_every_place_gives_the_rest_of_the_epoch_and_the_next_one(shuffle, how):
    loader = loader_of(100, 12, shuffle, seed=2, **how)
    states, batches = [loader.state_dict()], []
    for batch in loader:
        batches.append(batch["index"].tolist())
        states.append(json.loads(json.dumps(loader.state_dict())))
    second = rows_of(loader)
    assert second != batches or not shuffle
    for delivered, state in enumerate(states):
        other = loader_of(100, 12, shuffle, seed=2, **how)
        other.load_state_dict(state)
        assert other.state_dict() == state
        assert rows_of(other) == batches[delivered:], delivered
        assert other.epoch == 1
        assert rows_of(other) == second


def test_a_state_counts_what_was_delivered_not_what_was_made_ahead():
    loader = loader_of(1000, 10, prefetch=30)
    iterator = iter(loader)
    assert loader.state_dict()["position"] == 0
    for count in range(1, 6):
        next(iterator)
        assert loader.state_dict()["position"] == 10 * count
    iterator.close()
    assert loader.state_dict()["position"] == 50
    assert loader_threads() == []


def test_going_on_a_second_time_and_a_third():
    whole = rows_of(loader_of(200, 9, seed=1))
    state, found = None, []
    for _ in range(4):
        loader = loader_of(200, 9, seed=1, prefetch=2)
        if state is not None:
            loader.load_state_dict(state)
        found += rows_of(itertools.islice(loader, 4))
        state = loader.state_dict()
    assert found == whole[:16]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(1, 120), st.sampled_from(KINDS), st.integers(1, 9), st.integers(1, 4), st.integers(0, 6),
    st.integers(1, 9), st.integers(1, 5), st.integers(0, 4),
)  # fmt: skip
def test_another_number_of_processes_and_batch_size_goes_on_with_what_is_left(
    rows, shuffle, batch_size, world_size, steps, other_size, other_world, more
):
    def go_on(batch_size, world_size, state, steps):
        found, states = [], []
        for rank in range(world_size):
            loader = loader_of(rows, batch_size, shuffle, rank=rank, world_size=world_size)
            if state is not None:
                loader.load_state_dict(state)
            iterator = iter(loader)
            batches = list(itertools.islice(iterator, steps))
            found += [row for batch in rows_of(batches) for row in batch]
            states.append(loader.state_dict())
            iterator.close()
        assert all(state == states[0] for state in states)  # the same on every process
        return found, states[0]

    first, state = go_on(batch_size, world_size, None, min(steps, rows // (batch_size * world_size)))
    second, state = go_on(other_size, other_world, state, min(more, (rows - len(first)) // (other_size * other_world)))
    if state["position"] < rows:
        third, _ = go_on(3, 2, state, 10**6)
    else:
        third = []
    seen = first + second + third
    assert set(seen) == set(range(rows))
    assert rows <= len(seen) <= rows + 1  # two processes at the end, at most one row twice


def test_a_state_of_other_rows_or_another_order_is_refused_and_says_what_differs(dataset):
    state = dataset.get_dataloader(10, "full", seed=1).state_dict()
    with pytest.raises(ValueError, match=r"belongs to another order of rows: seed was 1, now 2$"):
        dataset.get_dataloader(10, "full", seed=2).load_state_dict(state)
    with pytest.raises(ValueError, match=r"shuffle was 'full', now False"):
        dataset.get_dataloader(10, seed=1).load_state_dict(state)
    with pytest.raises(ValueError, match=r"block_rows was None, now 256.*window_blocks was None, now 64"):
        dataset.get_dataloader(10, "block", seed=1).load_state_dict(state)
    part = dataset.select(range(100))
    with pytest.raises(ValueError, match=r"rows was 165, now 100; the dataset holds other rows"):
        part.get_dataloader(10, "full", seed=1).load_state_dict(state)
    turned = dataset.select(range(ROWS - 1, -1, -1))
    with pytest.raises(ValueError, match=r"rows: the dataset holds other rows$"):
        turned.get_dataloader(10, "full", seed=1).load_state_dict(state)
    with pytest.raises(ValueError, match="not a state of an ELMLoader"):
        dataset.get_dataloader(10).load_state_dict({"model": 1})


def test_every_iteration_is_an_epoch_and_a_broken_off_one_begins_anew():
    loader = loader_of(60, 7, seed=4, prefetch=2)
    epochs = [rows_of(loader) for _ in range(3)]
    assert loader.epoch == 3
    for first, second in itertools.combinations(epochs, 2):
        assert first != second
    assert all(sorted(flat(epoch)) == list(range(60)) for epoch in epochs)
    other = loader_of(60, 7, seed=4, prefetch=2)
    assert rows_of(itertools.islice(other, 3)) == epochs[0][:3]
    assert other.epoch == 0
    assert rows_of(other) == epochs[0]
    other.set_epoch(2)
    assert rows_of(other) == epochs[2]


def test_set_epoch_keeps_the_middle_of_that_epoch_and_leaves_that_of_another():
    loader = loader_of(60, 7, seed=4)
    whole = [rows_of(loader) for _ in range(3)]
    iterator = iter(loader)  # of epoch 3
    next(iterator)
    state = loader.state_dict()
    assert (state["epoch"], state["position"]) == (3, 7)
    loader.load_state_dict(state)
    loader.set_epoch(3)
    rest = rows_of(loader)
    assert len(rest) == 8
    loader.load_state_dict(state)
    loader.set_epoch(1)
    assert rows_of(loader) == whole[1]


def test_an_error_in_a_batch_reaches_the_loop_and_leaves_no_thread():
    def collate(samples):
        if 55 in samples.columns["index"]:
            raise RuntimeError("no 55 here")
        return dict(samples.columns)

    loader = loader_of(100, 10, False, prefetch=3, collate_fn=collate)
    found = []
    with pytest.raises(RuntimeError, match="no 55 here"):
        found.extend(loader)
    assert len(found) == 5
    assert loader.state_dict()["position"] == 50  # goes on with the very batch that failed
    assert loader_threads() == []


def test_breaking_out_of_the_loop_leaves_no_thread():
    loader = loader_of(1000, 10, prefetch=4)
    for _ in range(3):
        for count, _batch in enumerate(loader):
            assert len(loader_threads()) == 1
            if count == 2:
                break
        assert loader_threads() == []
    list(loader)
    assert loader_threads() == []


@pytest.mark.parametrize("shuffle", KINDS)
def test_going_on_among_a_billion_rows_takes_no_memory(shuffle):
    loader = Numbers(10**9).get_dataloader(256, shuffle, seed=3, prefetch=4)
    state = loader.state_dict() | {"epoch": 7, "position": 256 * 3_515_625}  # 90 %
    next(iter(Numbers(10**5).get_dataloader(256, shuffle, seed=3)))  # what is imported on the way
    tracemalloc.start()
    loader.load_state_dict(state)
    iterator = iter(loader)
    batches = rows_of(itertools.islice(iterator, 3))
    iterator.close()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000
    positions = 900_000_000 + np.arange(3 * 256)
    assert flat(batches) == loader.order.rows_at(positions, 7).tolist()


@pytest.mark.parametrize(("start", "world_size"), [(0, 1), (3, 1), (0, 3)])
def test_the_windows_of_a_block_order_are_fetched_before_they_are_read_each_once(start, world_size):
    numbers = Numbers(1000)
    how = {"rank": world_size - 1, "world_size": world_size}
    loader = numbers.get_dataloader(10, "block", prefetch=0, **SMALL_BLOCKS, **how)
    loader.load_state_dict(loader.state_dict() | {"position": 10 * start})
    fetched = set()
    seen = 0
    for batch in loader:
        for starts, count in numbers.prepared[seen:]:
            rows = {row for first in starts.tolist() for row in range(first, first + count) if row < 1000}
            assert not rows & fetched
            fetched |= rows
        seen = len(numbers.prepared)
        assert set(batch["index"].tolist()) <= fetched
    assert fetched == set(range(1000))


def test_tensors_are_moved_to_the_device_wherever_a_batch_has_them():
    def collate(samples):
        index = samples.columns["index"]
        return {"plain": index, "nested": {"x": index}, "list": [index, index], "text": ["a"]}

    batch = next(iter(loader_of(10, 5, device="meta", collate_fn=collate)))
    assert batch["text"] == ["a"]
    for tensor in (batch["plain"], batch["nested"]["x"], *batch["list"]):
        assert tensor.device.type == "meta"


def test_tensors_of_a_tuple_are_moved_to_the_device_too():
    def collate(samples):
        return samples.columns["index"], samples.columns["index"]

    batch = next(iter(loader_of(10, 5, device="meta", collate_fn=collate)))
    assert [tensor.device.type for tensor in batch] == ["meta", "meta"]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"batch_size": 0}, "batch_size must be 1 or more"),
        ({"rank": 2, "world_size": 2}, "rank 2 of 2"),
        ({"rank": -1, "world_size": 2}, "rank -1 of 2"),
        ({"prefetch": -1}, "prefetch must be 0 or more"),
        ({"shuffle": "blocks"}, "shuffle must be True, False, full or block, got 'blocks'"),
        ({"block_rows": 0}, "block_rows and window_blocks must be 1 or more"),
        ({"seed": -1}, "seed 0 or more"),
        ({"timeout": 3}, "timeout: arguments of torch's DataLoader need num_workers"),
    ],
)
def test_what_cannot_be_is_refused(how, message):
    with pytest.raises(ValueError, match=message):
        Numbers(10).get_dataloader(**how)
