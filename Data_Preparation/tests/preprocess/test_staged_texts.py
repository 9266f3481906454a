import pyarrow as pa
import pytest

from data_pipeline.preprocess.staged_texts import StagedTexts

TEXTS = ["one", "", "zwei ⅱ", "\u202etres\x00", "👋" * 1000, "six"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
@pytest.mark.parametrize("rows", [1, 4, 6])
def test_texts_are_read_in_any_order(tmp_path, kind, rows):
    schema = pa.schema([("number", pa.int64()), ("text", kind)])
    with pa.ipc.new_file(tmp_path / "x", schema) as file:
        for start in range(0, len(TEXTS), rows):
            part = TEXTS[start : start + rows]
            file.write_table(pa.table([range(len(part)), part], schema=schema))
    texts = StagedTexts(tmp_path / "x", "text")
    assert [texts[row] for row in (5, 0, 3, 4, 1, 2, 4)] == [TEXTS[row] for row in (5, 0, 3, 4, 1, 2, 4)]
