import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
import torch
from support.builders import JOINED, ONE, ROWS, UNJOINED, files, make, same, stored_rows, stored_vectors

from data_pipeline import ELMCollator, ELMDataset
from data_pipeline.errors import CorruptShardError, ShardMismatchError, StoreError
from data_pipeline.store import Columns
from data_pipeline.store.access.vectors import Vectors

COLUMNS = ["text", "metadata", "embedding", "index"]


@pytest.fixture(scope="module", params=[JOINED, UNJOINED, ONE])
def data_dir(request, tmp_path_factory):
    return make(tmp_path_factory.mktemp("made"), request.param)


@pytest.fixture(scope="module")
def dataset(data_dir):
    return ELMDataset(data_dir, columns=COLUMNS)


def test_every_row_is_that_of_the_files_one_by_one_and_in_batches(dataset, data_dir):
    rows, vectors = stored_rows(data_dir), stored_vectors(data_dir)
    metadata = rows.drop("text").to_dicts()
    for row in range(ROWS):
        sample = dataset[row]
        assert sample["text"] == rows["text"][row]
        assert dict(sample["metadata"]) == metadata[row]
        assert sample["embedding"].numpy().tobytes() == vectors[row].tobytes()
        assert sample["index"] == row
    generator = np.random.default_rng(0)
    for size in (1, 2, 40, 500):
        asked = generator.integers(-ROWS, ROWS, size)
        batch = dataset.get_batch(asked)
        asked = asked % ROWS
        assert batch["text"] == rows["text"][asked].to_list()
        assert list(batch["metadata"]) == [metadata[row] for row in asked]
        np.testing.assert_array_equal(batch["embedding"].numpy(), vectors[asked])
        assert batch["index"].tolist() == asked.tolist()


@pytest.mark.parametrize(
    "asked",
    [[3, 1], (3, 1), np.array([3, 1], np.int32), np.array([3, 1], np.uint8), torch.tensor([3, 1]), range(3, -1, -2)],
)
def test_indices_may_be_of_any_kind(dataset, asked):
    same(dataset.get_batch(asked), dataset.get_batch([3, 1]))


@pytest.mark.parametrize("asked", [[1.0], ["1"], [[1, 2]], [None], np.array([True, False])])
def test_what_is_no_list_of_indices_is_a_type_error(dataset, asked):
    with pytest.raises(TypeError):
        dataset.get_batch(asked)


def test_the_metadata_of_a_sample_is_a_mapping_that_is_read_when_it_is_looked_at(dataset, monkeypatch):
    read = []
    records = Columns.records
    monkeypatch.setattr(Columns, "records", lambda self, *args: read.append(args) or records(self, *args))
    metadata = dataset[3]["metadata"]
    assert "title" in set(metadata)
    assert len(metadata) == 8
    assert read == []
    assert metadata["text_id"] == dict(metadata)["text_id"]
    assert len(read) == 1
    assert metadata == dataset[3]["metadata"] == dict(metadata)
    assert metadata != dataset[4]["metadata"]
    assert repr(metadata) == repr(dict(metadata))
    with pytest.raises(KeyError):
        metadata["nothing"]


def test_the_metadata_of_a_batch_by_row_by_name_and_in_parts(dataset, data_dir):
    asked = [9, 3, 160, 33]
    expected = stored_rows(data_dir).drop("text")[asked].to_dicts()
    for look_first in (False, True):
        batch = dataset.get_batch(asked)["metadata"]
        if look_first:
            assert isinstance(batch.table, pa.Table)
        assert len(batch) == 4
        assert dict(batch[1]) == dict(batch[np.int64(1)]) == expected[1]
        assert dict(batch[-1]) == expected[3]
        part = batch[1:3]
        assert list(part) == part == expected[1:3]
        assert (len(part), part.index.tolist()) == (2, [3, 160])
        assert list(batch[::-2]) == expected[::-2]
        assert list(batch) == expected
        assert batch["token_count"] == [record["token_count"] for record in expected]
        assert batch.index.tolist() == asked
        assert "4 rows" in repr(batch)
        for wrong in (4, -5):
            with pytest.raises(IndexError):
                batch[wrong]
    assert list(dataset.get_batch([])["metadata"]) == []


def test_a_batch_is_a_sequence_of_samples(dataset):
    batch = dataset.__getitems__([5, 7, 9])
    assert len(batch) == 3
    for number, row in enumerate((5, 7, 9)):
        same(batch[number], dataset[row])
        same(batch[number - 3], dataset[row])
    assert [int(sample["index"]) for sample in batch] == [5, 7, 9]
    assert [int(sample["index"]) for sample in batch[::-1]] == [9, 7, 5]
    assert [int(sample["index"]) for sample in reversed(batch)] == [9, 7, 5]
    for wrong in (3, -4):
        with pytest.raises(IndexError):
            batch[wrong]


def test_a_sample_of_a_batch_is_that_sample_to_the_type(dataset):
    for sample in (dataset[5:6][0], dataset.__getitems__([5])[0]):
        assert {name: type(value) for name, value in sample.items()} == {
            name: type(value) for name, value in dataset[5].items()
        }


def test_what_a_batch_holds_is_a_copy(dataset):
    batch = dataset.get_batch(range(50))
    batch["embedding"].zero_()
    batch["index"].zero_()
    batch["text"][0] = ""
    assert dataset[0]["embedding"].norm() > 0.9
    assert dataset.get_batch(range(50))["index"].tolist() == list(range(50))
    asked = np.arange(4)
    dataset.get_batch(asked)["index"].zero_()
    assert asked.tolist() == [0, 1, 2, 3]


# Many files


def test_the_order_of_files_is_that_of_the_manifest_and_not_of_their_names(data_dir, tmp_path):
    shutil.copytree(data_dir, tmp_path / "data")
    for folder in ("embeddings", "sample_processed"):
        path = tmp_path / "data" / folder / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["splits"]["train"]["shards"].reverse()
        path.write_text(json.dumps(manifest))
        shutil.copy(files(data_dir, folder)[0], tmp_path / "data" / folder / f"train-00000{path.suffix}")
    found = ELMDataset(tmp_path / "data", columns=COLUMNS)
    batch = found.get_batch(range(ROWS))
    assert batch["text"] == stored_rows(tmp_path / "data")["text"].to_list()
    np.testing.assert_array_equal(batch["embedding"].numpy(), stored_vectors(tmp_path / "data"))


def test_of_very_many_files_sizes_are_checked_at_once_and_content_when_it_is_needed(tmp_path):
    data_dir = make(tmp_path, shard_rows=2)
    paths = files(data_dir, "embeddings")
    assert len(paths) == 83
    content = [paths[number].read_bytes() for number in (79, 80)]
    paths[79].write_bytes(content[1])
    paths[80].write_bytes(content[0])
    whole = paths[82].read_bytes()
    paths[82].write_bytes(whole[:-1])
    with pytest.raises(CorruptShardError, match=r"train_embeddings-00082-of-00083.safetensors has .*--overwrite"):
        ELMDataset(data_dir)
    paths[82].unlink()
    with pytest.raises(StoreError, match=r"train_embeddings-00082-of-00083.safetensors is missing. Make them with"):
        ELMDataset(data_dir)
    paths[82].write_bytes(whole)
    dataset = ELMDataset(data_dir)
    paths[81].unlink()
    paths[82].write_bytes(whole[:-1])
    assert dataset.get_batch(range(158))["embedding"].shape == (158, 256)
    for row, kind, message in (
        (158, ShardMismatchError, "train_embeddings-00079-of-00083.safetensors was not made from .*--overwrite"),
        (162, StoreError, "train_embeddings-00081-of-00083.safetensors is missing. Make them with"),
        (164, CorruptShardError, "train_embeddings-00082-of-00083.safetensors has .*--overwrite"),
    ):
        for read in (lambda row=row: dataset[row], lambda row=row: dataset.get_batch([0, row])):
            with pytest.raises(kind, match=message):
                read()
        with pytest.raises(kind, match=message):
            list(dataset.select([0, 1, row]).get_dataloader(1))


@pytest.mark.parametrize("columns", [["embedding"], ["text"], COLUMNS])
def test_threads_may_read_one_data_set_at_the_same_time(data_dir, dataset, columns):
    generator = np.random.default_rng(0)
    asked = [generator.integers(0, ROWS, 20) for _ in range(60)]
    for _ in range(5):
        fresh = ELMDataset(data_dir, columns=columns)

        def read(rows, fresh=fresh):
            return fresh.get_batch(rows), fresh[int(rows[0])]

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(read, asked))
        for rows, (batch, sample) in zip(asked, found, strict=True):
            same(batch, {name: value for name, value in dataset.get_batch(rows).items() if name in columns})
            same(sample, {name: value for name, value in dataset[int(rows[0])].items() if name in columns})


# Only what is asked for


def test_each_mode_reads_only_what_it_returns(data_dir, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("this is not to be read")

    with monkeypatch.context() as patch:
        patch.setattr(Columns, "__init__", never)
        vectors = ELMDataset(data_dir, columns=["embedding", "index"])
        assert vectors.get_batch([1, 99]).keys() == vectors[3].keys() == {"embedding", "index"}
        assert next(iter(vectors.get_dataloader(7, "full"))).keys() == {"embedding", "index"}
        _ = vectors.to_numpy(), vectors.fingerprint, vectors.select([3])[0]
    with monkeypatch.context() as patch:
        patch.setattr(Vectors, "__init__", never)
        texts = ELMDataset(data_dir, columns=["text"])
        assert texts.get_batch([1, 99]).keys() == texts[3].keys() == {"text"}
        assert next(iter(texts.get_dataloader(7, "block"))).keys() == {"text"}
        assert ELMDataset(data_dir, columns=["index"])[5] == {"index": 5}
    alone = ELMDataset(data_dir, load_embeddings=False)
    assert list(alone[3]) == ["text", "metadata"]


@pytest.mark.parametrize("columns", [[], "text", ["text", "vector"], ["nothing"]])
def test_columns_that_cannot_be_are_refused(data_dir, columns):
    with pytest.raises(ValueError, match="columns must be some of text, metadata, embedding, index"):
        ELMDataset(data_dir, columns=columns)


def test_columns_come_in_the_order_they_were_asked_for_each_once(data_dir):
    dataset = ELMDataset(data_dir, columns=["index", "text", "index"])
    assert list(dataset[0]) == list(dataset.get_batch([0])) == ["index", "text"]
    with pytest.raises(ValueError, match="columns has embedding, and load_embeddings is False"):
        ELMDataset(data_dir, load_embeddings=False, columns=["embedding"])


# Collator


class Tokenizer:
    """The shape of a transformers tokenizer: one number a letter."""

    def __call__(self, texts, padding, truncation, max_length, pad_to_multiple_of, return_tensors):
        assert (return_tensors, truncation) == ("pt", max_length is not None)
        rows = [[ord(letter) for letter in text[:max_length]] for text in texts]
        width = max_length if padding == "max_length" else max(map(len, rows))
        width += -width % (pad_to_multiple_of or 1)
        return {
            "input_ids": torch.tensor([row + [0] * (width - len(row)) for row in rows]),
            "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows]),
        }


def test_the_collator_tokenises_and_pads_as_it_is_told(dataset):
    samples = dataset.__getitems__([0, 5])
    for collator, width in (
        (ELMCollator(Tokenizer()), max(len(text) for text in samples.columns["text"])),
        (ELMCollator(Tokenizer(), 13), 13),
        (ELMCollator(Tokenizer(), 13, pad_to_multiple_of=8), 16),
        (ELMCollator(Tokenizer(), 99_999 // 9, padding="max_length"), 11_111),
    ):
        batch = collator(samples)
        assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, width)
        same({name: batch[name] for name in COLUMNS}, dataset.get_batch([0, 5]))
        same(batch, collator([dataset[0], dataset[5]]))
    assert set(samples.columns) == set(COLUMNS)  # the batch itself was left as it was


def test_the_collator_may_leave_vectors_apart_and_tokenises_only_texts(dataset, data_dir):
    batch = ELMCollator(stack=False)(dataset.__getitems__([0, 5]))
    assert isinstance(batch["embedding"], list)
    assert torch.equal(torch.stack(batch["embedding"]), dataset.get_batch([0, 5])["embedding"])
    vectors = ELMDataset(data_dir, columns=["embedding"])
    assert ELMCollator(Tokenizer())(vectors.__getitems__([0])).keys() == {"embedding"}
    assert ELMCollator()([]) == {}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"padding": "left"}, "padding must be longest or max_length"),
        ({"tokenizer": 1, "padding": "max_length"}, "needs a max_length"),
        ({"max_length": 3}, "give a tokenizer too"),
        ({"pad_to_multiple_of": 8}, "give a tokenizer too"),
    ],
)
def test_options_of_the_collator_that_make_no_sense_are_refused(how, message):
    with pytest.raises(ValueError, match=message):
        ELMCollator(**how)
