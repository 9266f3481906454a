import ml_dtypes
import numpy as np
import pytest
import torch
from support.selector_checks import gaussian_clusters, ranked

from data_pipeline.selection import vectors as module
from data_pipeline.selection.selectors.dedup import DedupConfig, dedup
from data_pipeline.selection.selectors.facility_location import FacilityLocationConfig, facility_location
from data_pipeline.selection.selectors.herding import HerdingConfig, herding
from data_pipeline.selection.selectors.kcenter import KCenterConfig, kcenter
from data_pipeline.selection.selectors.kmeans import KMeansConfig, kmeans
from data_pipeline.selection.vectors import VectorBlocks, squared

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_ROWS", 7)


def kinds(values, folder):
    np.save(folder / "vectors.npy", values)
    yield values
    yield np.load(folder / "vectors.npy", mmap_mode="r")  # not to be written
    yield torch.from_numpy(values)
    yield np.asfortranarray(values)
    yield np.repeat(values, 2, axis=0)[::2]
    yield values.astype(values.dtype.newbyteorder(">"))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_any_array_gives_the_same_float32_blocks(tmp_path, dtype):
    values = gaussian_clusters(20).astype(dtype)
    for source in kinds(values, tmp_path):
        vectors = VectorBlocks(source, CPU)
        places, blocks = zip(*vectors.blocks(), strict=True)
        assert [(place.start, place.stop) for place in places] == [(0, 7), (7, 14), (14, 20)]
        assert all(block.dtype == torch.float32 for block in blocks)
        assert torch.cat(blocks).tolist() == values.astype(np.float32).tolist()
        some = vectors.rows(np.array([19, 0, 0]))
        assert some.tolist() == values[[19, 0, 0]].astype(np.float32).tolist()
        assert len(vectors) == 20
        assert vectors.dim == 8


def test_bfloat16_of_numpy_and_of_torch():
    values = gaussian_clusters(20)
    expected = torch.from_numpy(values).bfloat16()
    for source in (expected, values.astype(ml_dtypes.bfloat16)):
        found = torch.cat([block for _, block in VectorBlocks(source, CPU).blocks()])
        assert torch.equal(found, expected.float())


def test_mean_and_norms():
    values = gaussian_clusters(50)
    vectors = VectorBlocks(values, CPU)
    assert vectors.mean() == pytest.approx(values.mean(axis=0, dtype=float), rel=1e-5)
    assert vectors.squared_norms() == pytest.approx((values.astype(float) ** 2).sum(axis=1), rel=1e-5)
    assert squared(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist() == [25, 0]


def test_unit_rows_have_length_1_and_zero_rows_stay():
    values = gaussian_clusters(20)
    values[3] = 0
    before = values.copy()
    vectors = VectorBlocks(values, CPU, unit=True)
    lengths = np.ones(20)
    lengths[3] = 0
    assert np.sqrt(vectors.squared_norms()) == pytest.approx(lengths, abs=1e-6)
    assert vectors.rows(np.array([3, 4])).norm(dim=1).tolist() == pytest.approx([0, 1])
    assert np.array_equal(values, before)


def test_wide_rows_make_blocks_of_bounded_size(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_NUMBERS", 100)
    wide = VectorBlocks(np.zeros((5, 40), np.float32), CPU)
    assert [len(block) for _, block in wide.blocks()] == [2, 2, 1]
    wider = VectorBlocks(np.zeros((2, 400), np.float32), CPU)
    assert [len(block) for _, block in wider.blocks()] == [1, 1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize(
    ("select", "config"),
    [
        (dedup, DedupConfig),
        (facility_location, FacilityLocationConfig),
        (herding, HerdingConfig),
        (kcenter, KCenterConfig),
        (kmeans, KMeansConfig),
    ],
)
def test_a_gpu_chooses_like_the_cpu(select, config):
    values = gaussian_clusters(2000, dim=32)
    cpu = ranked(select, values, 100, config()).rows
    on_gpu = ranked(select, torch.from_numpy(values).cuda(), 100, config())
    from_memory = ranked(select, values, 100, config(device="cuda"))
    assert np.array_equal(on_gpu.rows, from_memory.rows)
    assert np.mean(on_gpu.rows[:20] == cpu[:20]) > 0.9  # rounding may decide between near ties
