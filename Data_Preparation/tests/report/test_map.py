import base64

import numpy as np
import polars as pl
import pytest

from data_pipeline.report.neighbors import nearest_neighbors
from data_pipeline.report.opened import ROW, SPLIT, Sample
from data_pipeline.report.page import json_in_html
from data_pipeline.report.sections.map import map_section, text_limit


def mapped(frame, **colors):
    vectors = np.random.default_rng(0).normal(size=(len(frame), 6)).astype(np.float32)
    sample = Sample(frame, vectors, 0, len(frame))
    neighbors = nearest_neighbors(vectors, 10)
    block = map_section(sample, {"PCA": vectors[:, :2]}, neighbors, colors).blocks[0]
    return block, vectors, neighbors


def frame(rows, **columns):
    base = {"text_id": [f"id{row}" for row in range(rows)], "text": ["words"] * rows, SPLIT: ["train"] * rows}
    return pl.DataFrame(base | {ROW: range(rows)} | columns)


def unpacked(text, dtype):
    return np.frombuffer(base64.b64decode(text), dtype)


def test_coordinates_and_neighbors_survive_packing():
    block, vectors, neighbors = mapped(frame(50))
    assert unpacked(block.values["projections"]["PCA"], "<f4").tolist() == vectors[:, :2].ravel().tolist()
    assert unpacked(block.values["neighbors"], "<u2").tolist() == neighbors.rows.ravel().tolist()
    np.testing.assert_allclose(unpacked(block.values["cosines"], "<i2") / 30_000, neighbors.cosines.ravel(), atol=1e-4)


def test_columns_become_groups_or_numbers_and_others_are_left_out():
    rows = 120
    table = frame(
        rows,
        subject=["a", "b"] * 60,
        many=[f"name {number % 20}" for number in range(100)] + ["rare 1", "rare 2", "rare 3", "rare 4", "rare 5"] * 4,
        score=np.linspace(0, 1, rows),
        grade=[1, 2, None, 3] * 30,
        same=["x"] * rows,
        title=[f"title {row}" for row in range(rows)],
    )
    block, *_ = mapped(table, cluster=["c1", "c2"] * 60)
    colors = {color["name"]: color for color in block.values["colors"]}
    assert list(colors) == ["split", "subject", "many", "score", "grade", "cluster"]
    assert colors["subject"]["groups"] == ["a", "b"]
    assert unpacked(colors["subject"]["values"], np.uint8).tolist() == [0, 1] * 60
    assert len(colors["many"]["groups"]) == 24
    assert colors["many"]["groups"][-1] == "others"
    assert colors["score"]["kind"] == "number"
    assert unpacked(colors["score"]["values"], "<f4")[-1] == 1
    names = [colors["grade"]["groups"][code] for code in unpacked(colors["grade"]["values"], np.uint8)[:4]]
    assert names == ["1", "2", "none", "3"]


@pytest.mark.parametrize("text", ["plain words ", "中文字符", "<&>", "\u2028"])
def test_texts_are_cut_so_that_all_fit(text):
    texts = [text * 500] * 3000
    limit = text_limit(texts, 1_000_000)
    size = len(json_in_html([one[:limit] for one in texts]).encode())
    assert size <= 1_000_000 * 1.02 or limit == 40
    assert text_limit(["short"] * 10, 1_000_000) == 2000
    assert text_limit([], 10) == 2000


def test_a_cut_is_said():
    table = frame(30).with_columns(text=pl.Series(["long " * 1000] * 30))
    block, *_ = mapped(table)
    assert "texts are cut at 2,000 characters" in block.caption
    assert all(len(text) == 2000 for text in block.values["texts"])
    assert "cut" not in mapped(frame(30))[0].caption
