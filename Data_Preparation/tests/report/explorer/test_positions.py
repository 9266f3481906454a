import os

import numpy as np
import pytest

from data_pipeline.errors import ConfigError
from data_pipeline.report.explorer import positions
from data_pipeline.report.explorer.contents import open_contents
from data_pipeline.report.explorer.nearest import nearest_rows
from data_pipeline.report.explorer.positions import CACHE, Cache, open_cache, positions_of
from data_pipeline.report.projection import principal_components
from data_pipeline.stages.pipeline import find_corpus
from data_pipeline.stages.versions import find_leftovers
from data_pipeline.working_copy.names import published_files


def test_positions_are_principal_components_of_the_stored_vectors(config, contents, tmp_path):
    found = positions_of(contents, "pca", Cache(tmp_path, "x", contents.fingerprint()))
    vectors = contents[:]
    assert np.allclose(found, principal_components(vectors).project(vectors), atol=1e-5)


def test_a_sample_is_enough_to_fit(contents, tmp_path, monkeypatch):
    monkeypatch.setattr(positions, "_SAMPLE_ROWS", 100)
    found = positions_of(contents, "pca", Cache(tmp_path, "x", "y"))
    assert found.shape == (len(contents), 2)
    assert np.isfinite(found).all()


def test_positions_are_computed_once_and_those_of_earlier_rows_are_removed(tmp_path):
    made = []

    def make():
        made.append(1)
        return np.arange(4.0)

    first = Cache(tmp_path, "all", "a")
    assert first.get("pca", make).tolist() == first.get("pca", make).tolist() == [0, 1, 2, 3]
    assert len(made) == 1
    Cache(tmp_path, "other splits", "a").get("pca", make)
    first.get("umap", make)
    assert len(list(tmp_path.iterdir())) == 3
    Cache(tmp_path, "all", "b").get("pca", make)
    assert len(made) == 4
    assert len(list(tmp_path.iterdir())) == 3


def test_a_damaged_file_is_made_again(tmp_path, caplog):
    cache = Cache(tmp_path, "all", "a")
    cache.get("pca", lambda: np.ones(8))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    assert cache.get("pca", lambda: np.zeros(3)).tolist() == [0, 0, 0]
    assert "is damaged" in caplog.text
    assert np.load(path).tolist() == [0, 0, 0]


def test_an_array_that_fails_leaves_nothing(tmp_path):
    def fail():
        raise ConfigError("no")

    with pytest.raises(ConfigError):
        Cache(tmp_path / "new", "all", "a").get("pca", fail)
    assert not (tmp_path / "new").exists()


def test_the_cache_is_hidden_from_what_lists_the_data_folder(config, contents):
    cache = open_cache(config, contents)
    cache.get("pca", lambda: np.zeros((len(contents), 2), np.float32))
    assert cache.folder == config.data_dir / CACHE
    assert not [name for name in published_files(config.data_dir) if CACHE in name]
    assert find_corpus(config, named=False) == config
    assert find_leftovers(config) == []
    assert open_contents(config).fingerprint() == contents.fingerprint()


def test_a_read_only_folder_has_its_cache_elsewhere(config, contents, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    cache = open_cache(config.model_copy(update={"cache_dir": tmp_path}), contents)
    assert tmp_path in cache.folder.parents


def test_umap_of_too_many_rows_is_refused(contents, tmp_path, monkeypatch):
    monkeypatch.setattr(positions, "MAX_UMAP_ROWS", 10)
    with pytest.raises(ConfigError, match=r"limited to 10 rows.*--projection pca"):
        positions_of(contents, "umap", Cache(tmp_path, "x", "y"))


def test_nearest_rows_are_those_of_brute_force(contents, vectors):
    for row in (0, 7, len(contents) - 1):
        cosines = vectors @ vectors[row]
        cosines[row] = -np.inf
        found = nearest_rows(contents, row)
        assert np.allclose(found.distances, 1 - np.sort(cosines)[::-1][:10], atol=1e-5)
        assert np.allclose(cosines[found.rows], 1 - found.distances, atol=1e-5)
        assert row not in found.rows
    assert len(nearest_rows(contents, 0, count=10**6).rows) == len(contents) - 1
