import bz2
import gzip
import json
import lzma
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipeline.errors import SourceError
from data_pipeline.user_files import json_records, read_lines, read_records, text
from data_pipeline.user_files.values import checked_id, checked_text, take_field

CONTENT = '{"a": "ü"}\n{"a": "😀"}\n'.encode()
PACKERS = {
    "plain": lambda content: content,
    "gzip": gzip.compress,
    "gzip members": lambda content: gzip.compress(content[:5]) + gzip.compress(content[5:]),
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda content: pa.compress(content, "zstd", asbytes=True),
}


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.txt"])
@pytest.mark.parametrize("packed", PACKERS)
def test_compression_is_told_by_content_and_not_by_the_name(tmp_path, name, packed):
    (tmp_path / name).write_bytes(PACKERS[packed](CONTENT))
    assert [values["a"] for _, values in json_records(tmp_path / name)] == ["ü", "😀"]


@pytest.mark.parametrize("packed", [name for name in PACKERS if name != "plain"])
def test_a_compressed_file_that_ends_too_early_is_an_error(tmp_path, packed):
    content = PACKERS[packed](b'{"a": "' + bytes(np.random.default_rng(0).integers(97, 122, 9000, np.uint8)) + b'"}\n')
    (tmp_path / "x.jsonl").write_bytes(content[:-100])
    with pytest.raises(SourceError, match=r"x\.jsonl cannot be read after line 0|x\.jsonl, line 1: not JSON"):
        list(json_records(tmp_path / "x.jsonl"))


def test_bytes_are_counted_as_they_lie_on_the_disk(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(gzip.compress(CONTENT * 10_000))
    counts = []
    assert sum(1 for _ in read_lines(path, counts.append)) == 20_000
    assert sum(counts) == path.stat().st_size
    pq.write_table(pa.table({"a": ["x"] * 5000}), tmp_path / "x.parquet")
    counts = []
    assert sum(1 for _ in read_records(tmp_path / "x.parquet", on_bytes=counts.append)) == 5000
    assert sum(counts) == pytest.approx((tmp_path / "x.parquet").stat().st_size, rel=0.01)


def test_a_byte_order_mark_is_not_text(tmp_path):
    (tmp_path / "x").write_bytes(b"\xef\xbb\xbf" + CONTENT)
    assert [values for _, values in json_records(tmp_path / "x")] == [{"a": "ü"}, {"a": "😀"}]
    assert [line for _, line in read_lines(tmp_path / "x")] == CONTENT.decode().splitlines()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_utf_16_is_named_as_what_it_is(tmp_path, encoding):
    (tmp_path / "x").write_bytes(CONTENT.decode().encode(encoding))
    with pytest.raises(SourceError, match="is encoded as UTF-16 or UTF-32, expected UTF-8. Convert it: iconv"):
        list(read_lines(tmp_path / "x"))


def test_bytes_that_are_not_utf_8_are_named_by_line(tmp_path):
    (tmp_path / "x").write_bytes(b'{"a": "b"}\n{"a": "caf\xe9"}\n')
    with pytest.raises(SourceError, match=r"x, line 2: not UTF-8: byte 0xe9 at position 10"):
        list(json_records(tmp_path / "x"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '[\n{"a": 1}\n]\n',
            r"x\.json, line 1: the file is a JSON array, expected JSON Lines .* jq -c '\.\[\]' x\.json",
        ),
        ('\n[{"a": 1}]', r"x\.json, line 2: the file is a JSON array"),
        ('{\n  "a": 1\n}\n', r"x\.json, line 1: the file is JSON laid out over several lines"),
        ('{"a": 1}\n{"a": 2', r"x\.json, line 2: not JSON"),
        ('{"a": 1}\n[2]\n', r"x\.json, line 2: expected a JSON object, found \[2\]"),
        ('{"a": 1} {"a": 2}\n', r"x\.json, line 1: not JSON"),
        (f"{{}}\n{json.dumps(['long'] * 9000)}", r"x\.json, line 2: expected a JSON object, found .{,60}$"),
    ],
)
def test_what_is_not_json_lines_is_told_apart(tmp_path, content, message):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(SourceError, match=message):
        list(json_records(tmp_path / "x.json"))


def test_parquet_is_told_by_content_and_refused_where_json_lines_are_expected(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "x")
    assert [record.values for record in read_records(tmp_path / "x")] == [{"a": 1}]
    with pytest.raises(SourceError, match="x is a parquet file, expected JSON Lines"):
        list(json_records(tmp_path / "x"))


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (3 << 20) + 7])
def test_a_line_of_any_length_is_read_whole(tmp_path, size):
    (tmp_path / "x").write_bytes(b"x" * size + b"\r\n\nend")
    assert list(read_lines(tmp_path / "x")) == [(1, "x" * size), (2, ""), (3, "end")]


def test_a_line_beyond_the_limit_is_an_error_and_not_an_empty_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "MAX_LINE_BYTES", 3 << 20)
    (tmp_path / "x").write_bytes(b"a\n" + b"x" * (5 << 20) + b"\n")
    lines = read_lines(tmp_path / "x")
    assert next(lines) == (1, "a")
    with pytest.raises(SourceError, match=r"x, line 2: longer than 3 MiB\. Is each record on a line of its own"):
        next(lines)


def test_missing_numbers_are_null_in_every_kind_of_file(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"a": NaN, "b": [NaN, 1], "c": Infinity}\n')
    ((_, values),) = json_records(tmp_path / "x.jsonl")
    assert values == {"a": None, "b": [None, 1], "c": math.inf}
    for kind in (pa.float16(), pa.float32(), pa.float64()):
        column = pa.array(np.array([np.nan, 1.5], np.float16)).cast(pa.float32()).cast(kind)
        pq.write_table(pa.table({"a": column}), tmp_path / "x.parquet")
        assert [record.values["a"] for record in read_records(tmp_path / "x.parquet")] == [None, 1.5]


def test_values_are_checked_and_shown_shortened():
    assert checked_text("a\ud800", "t", "here") == "a\ufffd"
    assert (checked_id(7, "i", "here"), checked_id("a b", "i", "here")) == ("7", "a b")
    for bad in (None, 1.5, True, "", ["a"]):
        with pytest.raises(SourceError, match="here: the id 'i' must be a text or a whole number, found"):
            checked_id(bad, "i", "here")
    for bad in ("a\tb", "a\n", "\x00"):
        with pytest.raises(SourceError, match="here: the id .* has control characters"):
            checked_id(bad, "i", "here")
    with pytest.raises(SourceError) as caught:
        checked_text(["word"] * 9000, "t", "here")
    assert len(str(caught.value)) < 150
    with pytest.raises(SourceError) as caught:
        take_field(dict.fromkeys(map(str, range(9000))), "t", "here")
    assert len(str(caught.value)) < 300
