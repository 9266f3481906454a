import json

import numpy as np
import polars as pl
import pytest

pytest.importorskip("embedding_atlas", reason="needs the extra explore")

from data_pipeline.errors import ConfigError
from data_pipeline.report.explorer import explorer as opening
from data_pipeline.report.explorer.explorer import open_explorer


@pytest.fixture(scope="module")
def explorer(config):
    explorer = open_explorer(config)
    yield explorer
    explorer.database.close()


def test_an_application_has_the_rows_their_positions_and_their_neighbours(explorer, contents, vectors, tmp_path):
    explorer.export(tmp_path / "app", with_neighbors=True)
    rows = pl.read_parquet(tmp_path / "app" / "data" / "dataset.parquet")
    assert rows["text_id"].to_list() == contents.table()["text_id"].to_pylist()
    assert rows["__row_index__"].to_list() == list(range(len(contents)))
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    distances = np.array([row["distances"] for row in rows["__neighbors"]])
    ids = np.array([row["ids"] for row in rows["__neighbors"]])
    assert np.allclose(distances, 1 - np.sort(cosines, axis=1)[:, ::-1][:, :10], atol=1e-5)
    assert np.allclose(np.take_along_axis(cosines, ids, axis=1), 1 - distances, atol=1e-5)
    about = json.loads((tmp_path / "app" / "data" / "metadata.json").read_text())
    assert about["database"] == {"type": "wasm", "load": True}
    assert about["isStatic"] is True
    assert about["props"]["data"]["neighbors"] == "__neighbors"


def test_its_page_states_the_policy_itself(explorer, tmp_path):
    explorer.export(tmp_path / "app", with_neighbors=False)
    page = (tmp_path / "app" / "index.html").read_text()
    assert page.index("Content-Security-Policy") < page.index("<script")
    assert "script-src &#x27;self&#x27; &#x27;wasm-unsafe-eval&#x27;" in page
    about = json.loads((tmp_path / "app" / "data" / "metadata.json").read_text())
    assert "neighbors" not in about["props"]["data"]
    assert "__neighbors" not in pl.read_parquet_schema(tmp_path / "app" / "data" / "dataset.parquet")


def test_only_a_folder_of_its_own_is_replaced(explorer, tmp_path):
    folder = tmp_path / "app"
    folder.mkdir()
    explorer.export(folder, with_neighbors=False)  # empty
    (folder / "notes.txt").write_text("mine")
    (folder / "data" / "old.txt").write_text("of the application before")
    explorer.export(folder, with_neighbors=False)
    assert (folder / "notes.txt").read_text() == "mine"
    assert not (folder / "data" / "old.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["app"]
    (folder / "manifest.json").write_text("[]")
    with pytest.raises(ConfigError, match="is not empty, and elm explore did not write it"):
        explorer.export(folder, with_neighbors=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        explorer.export(tmp_path / "file", with_neighbors=False)


def test_an_error_leaves_the_application_before(explorer, tmp_path, monkeypatch):
    explorer.export(tmp_path / "app", with_neighbors=False)
    before = sorted(path.name for path in (tmp_path / "app").iterdir())

    def fail(*arguments, **options):
        raise OSError("the disk is full")

    monkeypatch.setattr("data_pipeline.report.explorer.export.atomic_write_json", fail)
    with pytest.raises(OSError, match="disk is full"):
        explorer.export(tmp_path / "app", with_neighbors=False)
    assert sorted(path.name for path in (tmp_path / "app").iterdir()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["app"]


def test_neighbours_of_many_rows_are_approximate_and_only_there_if_asked_for(config, explorer, monkeypatch, tmp_path):
    assert explorer.exports_neighbors()
    exact = explorer.all_neighbors()
    monkeypatch.setattr(opening, "MAX_EXPORTED_NEIGHBORS_ROWS", 10)
    assert not explorer.exports_neighbors()
    for path in explorer.cache.folder.glob("neighbors*"):
        path.unlink()
    found = explorer.all_neighbors()
    common = [len(set(a) & set(b)) for a, b in zip(found.rows.tolist(), exact.rows.tolist(), strict=True)]
    assert np.mean(common) > 9
    assert np.array_equal(explorer.all_neighbors().cosines, found.cosines)  # from the cache
