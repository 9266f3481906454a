import numpy as np
import pytest
import torch
from support.builders import JOINED, ONE, ROWS, UNJOINED, flat, make, stored_rows, stored_vectors

from data_pipeline import ELMDataset
from data_pipeline.errors import StoreError

PRECISIONS = ["float32", "float16", "int8", "float8", "ubinary"]


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Data folders by rows of a shard and precision, made when they are first asked for."""
    made = {}

    def get(shard_rows=JOINED, **how):
        key = (shard_rows, *how.items())
        if key not in made:
            made[key] = make(tmp_path_factory.mktemp("made"), shard_rows, **how)
        return made[key]

    return get


# All vectors as one array


@pytest.mark.parametrize(("shard_rows", "precision"), [(ONE, "float32"), (JOINED, "float32"), (64, "float16")])
def test_all_vectors_are_one_array_without_a_copy(stores, shard_rows, precision):
    data_dir = stores(shard_rows, precision=precision)
    dataset = ELMDataset(data_dir)
    vectors = dataset.embeddings
    np.testing.assert_array_equal(vectors, stored_vectors(data_dir))
    assert vectors.dtype == np.dtype(precision)
    assert vectors.shape == (ROWS, 256)
    assert not vectors.flags.owndata
    assert not vectors.flags.writeable
    assert np.shares_memory(vectors, dataset.embeddings)
    with pytest.raises(ValueError):
        vectors[0] = 0
    norms = np.linalg.norm(vectors.astype(np.float32), axis=1)
    assert norms == pytest.approx(np.ones(ROWS), abs=1e-3)


def test_an_array_of_all_vectors_outlives_its_data_set(stores):
    data_dir = stores(JOINED, precision="float32")
    vectors = ELMDataset(data_dir).embeddings[40:]
    np.testing.assert_array_equal(vectors, stored_vectors(data_dir)[40:])


def test_what_is_no_one_array_says_what_to_use_instead(stores):
    with pytest.raises(StoreError, match=r"5 shards that cannot be mapped as one array.*Use to_numpy\(\)"):
        _ = ELMDataset(stores(UNJOINED)).embeddings
    with pytest.raises(StoreError, match=r"stored as int8; use to_numpy\(\), which decodes them"):
        _ = ELMDataset(stores(precision="int8")).embeddings
    with pytest.raises(StoreError, match="without embeddings|load_embeddings=False"):
        _ = ELMDataset(stores(), load_embeddings=False).embeddings


# Types and dimensions


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_vectors_have_the_type_that_was_asked_for_everywhere(stores, precision, dtype):
    data_dir = stores(40, precision=precision)
    dataset = ELMDataset(data_dir, dtype=dtype)
    exact = ELMDataset(data_dir, dtype=torch.float64)
    expected = dtype or (torch.float16 if precision == "float16" else torch.float32)
    asked = [164, 3, 40, 39]
    whole = exact.get_batch(asked)["embedding"].to(expected)
    found = [dataset.get_batch(asked)["embedding"], torch.stack([dataset[row]["embedding"] for row in asked])]
    found.append(torch.stack([dataset[row : row + 1][0]["embedding"] for row in asked]))
    found.append(dataset.select(asked).get_batch(range(4))["embedding"])
    for vectors in found:
        assert vectors.dtype == expected
        assert torch.equal(vectors, whole)
    array = dataset.to_numpy()
    assert str(array.dtype) == str(expected).removeprefix("torch.")
    np.testing.assert_array_equal(array[asked].astype(np.float64), whole.double().numpy())
    batches = np.concatenate([batch["embedding"] for batch in dataset.iter_batches(50)])
    np.testing.assert_array_equal(batches.astype(np.float64), array.astype(np.float64))
    assert batches.dtype == array.dtype


@pytest.mark.parametrize("precision", PRECISIONS)
def test_fewer_dimensions_are_the_first_ones_at_length_1_again(stores, precision):
    data_dir = stores(40, precision=precision)
    whole = ELMDataset(data_dir, dtype=torch.float64).get_batch(range(ROWS))["embedding"]
    for dim in (8, 96, 256):
        dataset = ELMDataset(data_dir, dim=dim)
        assert dataset.dim == dim
        expected = torch.nn.functional.normalize(whole[:, :dim], dim=1)
        batch = dataset.get_batch(range(ROWS))["embedding"]
        assert batch.shape == (ROWS, dim)
        torch.testing.assert_close(batch.double(), expected, atol=2e-3 if precision == "float16" else 1e-6, rtol=0)
        if precision != "float16" or dim < 256:
            lengths = batch.double().norm(dim=1)
            torch.testing.assert_close(lengths, torch.ones(ROWS, dtype=torch.float64), atol=1e-6, rtol=0)
        assert torch.equal(torch.stack([dataset[row]["embedding"] for row in range(ROWS)]), batch)
        np.testing.assert_array_equal(np.concatenate(list(dataset.iter_embeddings(50))), batch.numpy())
        np.testing.assert_array_equal(dataset.to_numpy(), batch.numpy())
        assert next(iter(dataset.get_dataloader(7)))["embedding"].shape == (7, dim)


def test_vectors_of_another_length_are_cut_and_not_scaled(stores):
    data_dir = stores(normalize=False)
    found = ELMDataset(data_dir, dim=5).get_batch(range(ROWS))["embedding"]
    np.testing.assert_array_equal(found.numpy(), stored_vectors(data_dir)[:, :5])
    assert found.norm(dim=1).max() > 10


@pytest.mark.parametrize("dim", [0, -1, 257])
def test_a_dimension_that_is_not_stored_is_refused(stores, dim):
    with pytest.raises(ValueError, match=f"dim must be from 1 to 256, the width of the stored vectors; got {dim}"):
        ELMDataset(stores(), dim=dim)


def test_search_works_with_fewer_dimensions(stores):
    dataset = ELMDataset(stores(), dim=64)
    assert dataset.search(dataset[42]["embedding"], k=1)[0]["index"] == 42
    best = dataset.search(dataset[42]["text"], k=1)[0]
    assert best["index"] == 42
    assert best["score"] == pytest.approx(1, abs=1e-6)


# To other libraries


def test_batches_without_torch_are_all_rows_in_order(stores):
    data_dir = stores()
    dataset = ELMDataset(data_dir, columns=["text", "metadata", "embedding", "index"])
    rows, vectors = stored_rows(data_dir), stored_vectors(data_dir)
    for size in (1, 40, 164, 165, 1000):
        batches = list(dataset.iter_batches(size))
        assert [len(batch["text"]) for batch in batches[:-1]] == [size] * (-(-ROWS // size) - 1)
        assert flat(batch["text"] for batch in batches) == rows["text"].to_list()
        assert flat(batch["metadata"]["title"] for batch in batches) == rows["title"].to_list()
        assert all(type(batch["embedding"]) is type(batch["index"]) is np.ndarray for batch in batches)
        np.testing.assert_array_equal(np.concatenate([batch["embedding"] for batch in batches]), vectors)
        assert np.concatenate([batch["index"] for batch in batches]).tolist() == list(range(ROWS))
    view = dataset.select([7, 3])
    (batch,) = view.iter_batches()
    np.testing.assert_array_equal(batch["embedding"], vectors[[7, 3]])
    assert list(dataset.select([]).iter_batches()) == []


def test_an_array_in_memory_can_be_written_into(stores):
    data_dir = stores()
    array = ELMDataset(data_dir).to_numpy()
    array[:] = 0
    np.testing.assert_array_equal(ELMDataset(data_dir).to_numpy(), stored_vectors(data_dir))
    empty = ELMDataset(data_dir).select([]).to_numpy()
    assert (empty.shape, empty.dtype) == ((0, 256), np.float32)


CASES = {
    "joined": ({}, {}),
    "unjoined": ({"shard_rows": UNJOINED}, {}),
    "float16": ({"precision": "float16"}, {}),
    "int8": ({"precision": "int8"}, {}),
    "dim": ({}, {"dim": 16}),
    # Arrow has no such type; they are float32 there.
    "bfloat16": ({}, {"dtype": torch.bfloat16, "dim": 16}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_hugging_face_data_set_has_the_same_rows(stores, name):
    how, options = CASES[name]
    data_dir = stores(**how)
    dataset = ELMDataset(data_dir, **options)
    rows = stored_rows(data_dir)
    chosen = [160, 3, 3, 40]
    for view, expected in ((dataset, list(range(ROWS))), (dataset.select(chosen), chosen)):
        found = view.to_hf()
        assert found.column_names == [*rows.columns, "embedding"]
        assert found.num_rows == len(expected)
        assert list(found["text"]) == rows["text"][expected].to_list()
        assert list(found["subject"]) == rows["subject"][expected].to_list()
        vectors = np.array(found.with_format("numpy")["embedding"][:], np.float64)
        wanted = dataset.get_batch(expected)["embedding"].double().numpy()
        np.testing.assert_allclose(vectors, wanted, atol=1e-3 if name == "float16" else 1e-7)
        assert found[len(expected) - 1]["text_id"] == rows["text_id"][expected[-1]]


def test_a_hugging_face_data_set_of_texts_only_and_of_no_rows(stores):
    texts = ELMDataset(stores(), load_embeddings=False).to_hf()
    assert "embedding" not in texts.column_names
    assert ELMDataset(stores()).select([]).to_hf().num_rows == 0


def test_a_hugging_face_data_set_copies_no_vectors(stores):
    dataset = ELMDataset(stores())
    column = dataset.to_hf().data.table["embedding"].chunk(0)
    assert column.flatten().buffers()[1].address == dataset.embeddings.ctypes.data
