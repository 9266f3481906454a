import itertools
import multiprocessing
import pickle
import shutil

import polars as pl
import pyarrow.parquet as pq
import pytest
from support.builders import JOINED, ROWS, UNJOINED, flat, make, rows_of, same
from torch.utils.data import DataLoader, Subset, default_collate, random_split

from data_pipeline import ELMCollator, ELMDataset

COLUMNS = ["text", "metadata", "embedding", "index"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return make(tmp_path_factory.mktemp("made"), JOINED)


@pytest.fixture(scope="module")
def dataset(data_dir):
    return ELMDataset(data_dir, columns=COLUMNS)


def workers(dataset, method, batch_size=20, shuffle="full", count=2, **how):
    return dataset.get_dataloader(batch_size, shuffle, count, seed=3, multiprocessing_context=method, timeout=60, **how)


def no_other_batches(batches, dataset):
    return [same(batch, dataset.get_batch(batch["index"].numpy())) for batch in batches]


@pytest.mark.slow
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_worker_processes_deliver_what_the_thread_does(dataset, method):
    expected = list(dataset.get_dataloader(20, "full", seed=3))
    found = list(workers(dataset, method))
    for batch, other in zip(found, expected, strict=True):
        same(batch, other)


@pytest.mark.slow
@pytest.mark.posix
def test_a_forked_process_does_not_wait_for_threads_that_only_its_parent_has(data_dir):
    dataset = ELMDataset(data_dir, columns=COLUMNS)
    # The thread pools of polars and Arrow are running, and the files are mapped.
    assert dataset.metadata.group_by("title").len().sort("len").height > 3
    view = dataset.filter(pl.col("token_count") > 0)
    pq.read_table(dataset.processed_dir / "test.parquet")
    next(iter(dataset.get_dataloader(20)))
    for shuffle in ("full", "block"):
        found = list(workers(view, "fork", shuffle=shuffle, block_rows=8, window_blocks=4))
        assert sorted(flat(rows_of(found))) == list(range(ROWS))
        no_other_batches(found, dataset)


@pytest.mark.slow
@pytest.mark.posix
def test_forked_processes_write_the_missing_copies_of_the_texts_between_them(data_dir, tmp_path):
    shutil.copytree(data_dir, tmp_path / "data", ignore=shutil.ignore_patterns(".cache"))
    dataset = ELMDataset(tmp_path / "data", columns=COLUMNS)
    pq.read_table(dataset.processed_dir / "test.parquet")
    pl.DataFrame({"a": range(1000)}).sort("a")
    found = list(workers(dataset, "fork", 10))
    assert sorted(flat(rows_of(found))) == list(range(ROWS))
    copies = sorted(path.name for path in (dataset.processed_dir / ".cache").glob("*.arrow*"))
    assert len(copies) == 6
    no_other_batches(found, dataset)


@pytest.mark.slow
@pytest.mark.posix
def test_going_on_with_worker_processes_counts_what_was_delivered(dataset):
    whole = rows_of(dataset.get_dataloader(20, "full", seed=3))
    for stop in (0, 1, 5, 9):
        loader = workers(dataset, "fork")
        iterator = iter(loader)
        first = rows_of(itertools.islice(iterator, stop))
        state = loader.state_dict()
        assert state["position"] == min(20 * stop, ROWS)
        iterator.close()
        other = workers(dataset, "fork")
        other.load_state_dict(state)
        assert first + rows_of(other) == whole
    # And from the processes back to the thread.
    alone = dataset.get_dataloader(20, "full", seed=3)
    alone.load_state_dict(state | {"position": 60})
    assert rows_of(alone) == whole[3:]


@pytest.mark.slow
@pytest.mark.posix
def test_worker_processes_take_a_collating_function(dataset):
    loader = workers(dataset, "fork", collate_fn=lambda samples: [sample["index"] for sample in samples])
    assert sorted(flat(loader)) == list(range(ROWS))


@pytest.mark.posix
def test_worker_processes_that_may_change_the_order_are_refused(dataset):
    with pytest.raises(ValueError, match="in_order"):
        workers(dataset, "fork", in_order=False)


def test_a_pickled_data_set_is_small_and_opens_again(dataset):
    dataset[0]
    _ = dataset.metadata, dataset.embeddings
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 12_000 < ROWS * 1024
    again = pickle.loads(pickled)  # noqa: S301
    assert again.fingerprint == dataset.fingerprint
    same(again[7], dataset[7])
    same(again.get_batch([3, 164, -1]), dataset.get_batch([3, 164, -1]))
    view = pickle.loads(pickle.dumps(dataset.select([5, 3, 5])))  # noqa: S301
    same(view.get_batch([0, 1, 2]), dataset.select([5, 3, 5]).get_batch([0, 1, 2]))


def test_pickled_samples_and_batches_hold_their_content(dataset):
    batch = dataset.get_batch([4, 2])
    again = pickle.loads(pickle.dumps(batch))  # noqa: S301
    same(again, batch)
    assert again["metadata"]["title"] == batch["metadata"]["title"]
    assert again["metadata"][-1] == batch["metadata"][1]
    assert list(again["metadata"][1:]) == [batch["metadata"][1]]
    assert again["metadata"].index.tolist() == [4, 2]
    sample = pickle.loads(pickle.dumps(dataset[2]))  # noqa: S301
    same(sample, dataset[2])


# torch's own DataLoader


@pytest.mark.parametrize("count", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.posix
def test_the_stock_data_loader_needs_no_collating_function(dataset, count):
    how = {"multiprocessing_context": "fork", "timeout": 60} if count else {}
    batches = list(DataLoader(dataset, 50, shuffle=True, num_workers=count, **how))
    assert [len(batch["text"]) for batch in batches] == [50, 50, 50, 15]
    assert sorted(flat(rows_of(batches))) == list(range(ROWS))
    no_other_batches(batches, dataset)


@pytest.mark.parametrize("shard_rows", [JOINED, UNJOINED])
def test_the_stock_data_loader_gathers_a_batch_at_once(tmp_path, monkeypatch, shard_rows):
    dataset = ELMDataset(make(tmp_path, shard_rows))
    asked = []
    gather = ELMDataset.gather
    monkeypatch.setattr(ELMDataset, "gather", lambda self, index: asked.append(len(index)) or gather(self, index))
    monkeypatch.setattr(ELMDataset, "__getitem__", None)
    list(DataLoader(dataset, 64, shuffle=True))
    assert asked == [64, 64, 37]


def test_subsets_and_random_splits_of_torch_are_gathered_too(dataset):
    rows = [9, 160, 2, 33, 32]
    batch = next(iter(DataLoader(Subset(dataset, rows), 5)))
    same(batch, dataset.get_batch(rows))
    parts = random_split(dataset, [100, 65])
    batches = [batch for part in parts for batch in DataLoader(part, 30)]
    assert sorted(flat(rows_of(batches))) == list(range(ROWS))
    no_other_batches(batches, dataset)


def test_single_samples_can_be_collated_by_torch_and_by_our_collator(dataset):
    samples = [dataset[0], dataset[1]]
    for batch in (default_collate(samples), ELMCollator()(samples), default_collate(list(dataset[0:2]))):
        same(batch, dataset.get_batch([0, 1]))


def test_a_collating_function_of_the_user_gets_a_sequence_of_samples(dataset):
    def collate(samples):
        assert len(samples) == len(list(samples))
        assert samples[-1].keys() == set(COLUMNS)
        assert [sample["index"] for sample in samples[1:3]] == [sample["index"] for sample in samples][1:3]
        return [(int(sample["index"]), sample["text"], sample["metadata"]["text_id"]) for sample in samples]

    for loader in (DataLoader(dataset, 7, collate_fn=collate), dataset.get_dataloader(7, collate_fn=collate)):
        found = flat(loader)
        expected = [(row, dataset[row]["text"], dataset[row]["metadata"]["text_id"]) for row in range(ROWS)]
        assert found == expected
