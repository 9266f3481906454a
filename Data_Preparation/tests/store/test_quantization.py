"""Vectors <-> codes: by hand, against other implementations, through files."""

import json
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors import safe_open

from data_pipeline.errors import ConfigError, CorruptShardError
from data_pipeline.store import CALIBRATED, Coding, open_embedding_shard
from data_pipeline.store.embeddings import EmbeddingWriter
from data_pipeline.store.quantization import calibrate, coding_from_json, coding_of

PRECISIONS = ["float32", "float16", "float8", "int8", "ubinary"]
TORCH_TYPES = {
    "float32": torch.float32, "float16": torch.float16, "float8": torch.float8_e4m3fn, "int8": torch.int8,
    "ubinary": torch.uint8,
}  # fmt: skip


def f32(*values):
    return np.array(values, dtype=np.float32)


def gaussian(rows, dim, seed=0):
    """Unit vectors, as a model gives them."""
    vectors = np.random.default_rng(seed).normal(size=(rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def same_bits(first, second):
    assert first.dtype == second.dtype
    assert first.tobytes() == second.tobytes()


# By hand


def test_int8_by_hand():
    # 255 steps: of 1 in the first dimension, of 2 in the second.
    coding = Coding("int8", low=f32(0, -10), high=f32(255, 500))
    vectors = f32([0, -10], [255, 500], [1, -8], [127.4, 245], [127.6, 246.9])
    codes = coding.encode(vectors)
    assert codes.dtype == np.int8
    # (245 + 10) / 2 = 127.5 lies in the middle and goes to the even one.
    assert codes.tolist() == [[-128, -128], [127, 127], [-127, -127], [-1, 0], [0, 0]]
    assert coding.decode(codes).tolist() == [[0, -10], [255, 500], [1, -8], [127, 246], [128, 246]]
    assert coding.decode(codes).dtype == np.float32


def test_int8_clips_what_is_outside_the_range():
    coding = Coding("int8", low=f32(0, -10), high=f32(255, 500))
    codes = coding.encode(f32([-1, 1e30], [-1e30, 501], [255.9, -10.9]))
    assert codes.tolist() == [[-128, 127], [-128, 127], [127, -128]]
    assert coding.decode(codes).tolist() == [[0, 500], [0, 500], [255, -10]]


def test_float8_by_hand():
    # The scale is 448 / 448 = 1. Between 16 and 32 the codes are 2 apart, below 2^-6 they are 2^-9 apart.
    coding = Coding("float8", high=f32(448))
    vectors = f32([1, -1, 17, 19, 18.9], [448, -448, 449, -1e30, 0], [2**-9, 2**-10, 0.6 * 2**-9, -(2**-9), 2**-6])
    decoded = f32([1, -1, 16, 20, 18], [448, -448, 448, -448, 0], [2**-9, 0, 2**-9, -(2**-9), 2**-6])
    codes = coding.encode(vectors)
    assert codes.dtype == np.uint8
    assert coding.decode(codes).tolist() == decoded.tolist()
    # Sign, four bits of exponent with bias 7, three of mantissa.
    assert codes[0, :3].tolist() == [0b0_0111_000, 0b1_0111_000, 0b0_1011_000]
    assert codes[1, :2].tolist() == [0b0_1111_110, 0b1_1111_110]


def test_float8_has_one_scale_for_all():
    coding = Coding("float8", high=f32(0.5))
    scale = np.float32(0.5 / 448)
    codes = coding.encode(f32([0.5, -0.5, 0.25, 0.6]))
    assert codes.tolist() == Coding("float8", high=f32(448)).encode(f32([448, -448, 224, 448])).tolist()
    same_bits(coding.decode(codes), f32([448, -448, 224, 448]) * scale)


def test_ubinary_by_hand():
    coding = Coding("ubinary")
    vectors = f32([1, -1, 0, 1e-30, -1e-30, 5, -0.0, 2] + [-1] * 7 + [1])
    codes = coding.encode(vectors)
    assert codes.tolist() == [[0b1001_0101, 0b0000_0001]]
    decoded = coding.decode(codes)
    signs = [1, -1, -1, 1, -1, 1, -1, 1] + [-1] * 7 + [1]
    assert decoded.tolist() == [[sign / 4 for sign in signs]]  # 16 dimensions: each 1 / sqrt(16) from 0
    assert decoded.dtype == np.float32


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_floats_are_stored_as_they_are(precision):
    coding = Coding(precision)
    vectors = gaussian(10, 8)
    assert coding.is_float
    same_bits(coding.encode(vectors), vectors.astype(precision))
    assert coding.decode(coding.encode(vectors)).dtype == precision


def test_ubinary_needs_whole_bytes():
    assert Coding("ubinary").width(1024) == 128
    assert Coding("ubinary").dim(128) == 1024
    with pytest.raises(ConfigError, match=r"embedding\.precision ubinary stores 8 dimensions in a byte, and 1022 is"):
        Coding("ubinary").width(1022)
    assert all(Coding(precision).width(1022) == 1022 for precision in PRECISIONS if precision != "ubinary")


def test_calibration_takes_the_extremes_of_the_sample():
    sample = f32([1, -5], [2, -3], [-7, 4])
    int8, float8 = calibrate("int8", sample), calibrate("float8", sample)
    assert (int8.low.tolist(), int8.high.tolist()) == ([-7, -5], [2, 4])
    assert (float8.low, float8.high.tolist()) == (None, [7])
    for precision in ("float32", "float16", "ubinary"):
        assert (calibrate(precision, sample).low, calibrate(precision, sample).high) == (None, None)


# How large errors are


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_int8_is_right_within_half_a_step_inside_the_range(scale):
    vectors = gaussian(2000, 32) * np.float32(scale)
    coding = calibrate("int8", vectors)
    step = (vectors.max(axis=0) - vectors.min(axis=0)) / 255
    errors = np.abs(coding.decode(coding.encode(vectors)).astype(np.float64) - vectors)
    assert (errors <= step * 0.5001).all()
    assert errors.max() > step.min() * 0.45  # and no better than that
    # Outside, an error is the distance to the range.
    twice = 2 * vectors
    outside = (twice < coding.low) | (twice > coding.high)
    assert outside.any()
    nearest = np.clip(twice, coding.low, coding.high)
    np.testing.assert_allclose(coding.decode(coding.encode(twice))[outside], nearest[outside], rtol=1e-5)


@pytest.mark.parametrize("high", [1e-3, 0.4, 1e4])
def test_float8_is_right_within_a_sixteenth_or_half_the_smallest_step(high):
    vectors = np.random.default_rng(0).normal(size=(2000, 32)).astype(np.float32)
    vectors *= np.float32(high) / np.abs(vectors).max()
    vectors[0] = np.linspace(0, high / 500_000, 32)  # among the smallest codes
    coding = calibrate("float8", vectors)
    scale = float(coding.high[0]) / 448
    errors = np.abs(coding.decode(coding.encode(vectors)).astype(np.float64) - vectors)
    assert (errors <= np.maximum(np.abs(vectors) * 2**-4, scale * 2**-10) * 1.0001).all()
    assert (errors / np.maximum(np.abs(vectors), scale)).max() > 2**-4 * 0.9


@given(
    vectors=arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.sampled_from([8, 16])),
        elements=st.floats(-1000, 1000, width=32),
    ),
    precision=st.sampled_from(PRECISIONS),
)
@settings(max_examples=200, deadline=None)
def test_a_vector_stays_finite_and_its_codes_stay_where_they_are(vectors, precision):
    coding = calibrate(precision, vectors)
    codes = coding.encode(vectors)
    decoded = coding.decode(codes)
    assert codes.shape == (len(vectors), coding.width(vectors.shape[1]))
    assert decoded.shape == vectors.shape
    assert np.isfinite(decoded).all()
    if precision == "ubinary":
        assert ((decoded > 0) == (vectors > 0)).all()
    again = coding.encode(decoded)
    if precision == "int8":  # a step may be finer than float32 itself
        assert np.abs(again.astype(int) - codes).max() <= 1
    else:
        same_bits(again, codes)


@pytest.mark.parametrize("value", [0.0, 0.25, -3.0, 1e-20, 1e6])
def test_dimensions_that_never_change_are_kept(value):
    sample = np.full((5, 8), value, np.float32)
    for precision in CALIBRATED:
        coding = calibrate(precision, sample)
        decoded = coding.decode(coding.encode(sample))
        np.testing.assert_allclose(decoded, sample, rtol=1e-6, atol=1e-12)
        assert np.isfinite(coding.decode(coding.encode(sample + 1))).all()


# Against other implementations


def test_float8_codes_are_those_of_torch():
    coding = Coding("float8", high=f32(448))
    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    finite = every[~every.isnan()]
    halfway = (finite.sort().values[1:] + finite.sort().values[:-1]) / 2  # where rounding has to choose
    values = torch.cat([finite, halfway, torch.randn(10_000) * 100, torch.randn(10_000) / 100]).clamp(-448, 448)
    expected = values.to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    np.testing.assert_array_equal(coding.encode(values.numpy()[None])[0], expected)


def test_codes_are_those_of_sentence_transformers():
    quantization = pytest.importorskip("sentence_transformers.quantization", reason="needs the extra bench")
    vectors, sample = gaussian(500, 64), gaussian(300, 64, seed=1)
    ours = Coding("ubinary").encode(vectors)
    np.testing.assert_array_equal(ours, quantization.quantize_embeddings(vectors, precision="ubinary"))
    coding = calibrate("int8", sample)
    inside = np.clip(vectors, coding.low, coding.high)  # theirs wraps around outside
    theirs = quantization.quantize_embeddings(inside, precision="int8", ranges=np.stack([coding.low, coding.high]))
    differences = np.abs(coding.encode(vectors).astype(int) - theirs.astype(int))
    assert differences.max() <= 1
    assert (differences == 0).mean() > 0.4  # they cut, we round: it is the half above the middle that differs


# Calibrations through JSON and headers


def awkward(dim):
    """Floats whose shortest decimals are long, tiny, huge or subnormal."""
    generator = np.random.default_rng(7)
    values = generator.integers(0, 2**32, 4 * dim, dtype=np.uint32).view(np.float32)
    low = values[np.isfinite(values)][:dim]
    return np.sort(np.stack([low, np.nextafter(low, np.float32(np.inf))]), axis=0)


@pytest.mark.parametrize("precision", CALIBRATED)
def test_a_calibration_comes_back_to_the_bit(precision):
    low, high = awkward(500)
    codings = [Coding("int8", low, high)] if precision == "int8" else [Coding("float8", high=abs(v)[None]) for v in low]
    for coding in codings:
        width = 500 if precision == "int8" else 3
        again = coding_from_json(json.loads(json.dumps(coding.to_json())), precision, width, "here")
        assert again.precision == precision
        same_bits(again.high, coding.high)
        if precision == "int8":
            same_bits(again.low, coding.low)
        metadata = coding.to_metadata()
        assert all(isinstance(value, str) for value in metadata.values())
        of_header = coding_of(coding.format, width, metadata, "here")
        same_bits(of_header.high, coding.high)
        assert of_header.to_metadata() == metadata


@given(st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=0))
@settings(max_examples=300, deadline=None)
def test_any_float_comes_back_to_the_bit(value):
    coding = Coding("float8", high=f32(value))
    same_bits(coding_from_json(json.loads(json.dumps(coding.to_json())), "float8", 1, "here").high, coding.high)


INT8 = {"precision": "int8", "low": [0.0, -1.0], "high": [1.0, 1.0]}
FLOAT8 = {"precision": "float8", "high": [0.5]}


def without(found, name):
    return {key: value for key, value in found.items() if key != name}


@pytest.mark.parametrize(
    ("format_name", "calibration"),
    [
        ("I8", None),
        ("F8_E4M3", None),
        ("I8", ""),
        ("I8", "{"),
        ("I8", "5"),
        ("I8", "null"),
        ("I8", "[1]"),
        ("I8", '"x"'),
        ("I8", "{}"),
        ("I8", without(INT8, "low")),
        ("I8", without(INT8, "high")),
        ("I8", without(INT8, "precision")),
        ("I8", INT8 | {"low": [0.0]}),
        ("I8", INT8 | {"low": [0.0, 0.0, 0.0], "high": [1.0, 1.0, 1.0]}),
        ("I8", INT8 | {"low": [[0.0, 0.0], [0.0, 0.0]]}),
        ("I8", INT8 | {"low": 0.0}),
        ("I8", INT8 | {"low": None}),
        ("I8", INT8 | {"low": ["a", 0.0]}),
        ("I8", INT8 | {"low": [float("nan"), 0.0]}),
        ("I8", INT8 | {"high": [1.0, float("inf")]}),
        ("I8", INT8 | {"high": [1.0, 1e300]}),
        ("I8", INT8 | {"high": [1.0, 10**400]}),
        ("I8", INT8 | {"low": [2.0, -1.0]}),  # above the largest
        ("I8", FLOAT8),
        ("I8", INT8 | {"precision": "float8"}),
        ("F8_E4M3", INT8),
        ("F8_E4M3", without(FLOAT8, "high") | {"low": [0.5]}),
        ("F8_E4M3", FLOAT8 | {"low": [0.5]}),
        ("F8_E4M3", FLOAT8 | {"high": []}),
        ("F8_E4M3", FLOAT8 | {"high": [0.5, 0.5]}),
        ("F8_E4M3", FLOAT8 | {"high": [-0.5]}),
        ("F8_E4M3", FLOAT8 | {"high": [float("nan")]}),
    ],
)
def test_a_missing_damaged_or_foreign_calibration_is_refused(format_name, calibration):
    text = calibration if isinstance(calibration, str) else json.dumps(calibration)
    metadata = {} if calibration is None else {"calibration": text}
    with pytest.raises(CorruptShardError, match=r"^x\.safetensors holds (int8|float8)"):
        coding_of(format_name, 2, metadata, "x.safetensors")


def test_a_whole_calibration_is_taken():
    # What the test above damages.
    coding = coding_of("I8", 2, {"calibration": json.dumps(INT8)}, "here")
    assert (coding.low.tolist(), coding.high.tolist()) == ([0, -1], [1, 1])
    assert coding_of("F8_E4M3", 2, {"calibration": json.dumps(FLOAT8)}, "here").high.tolist() == [0.5]


@pytest.mark.parametrize("name", ["I64", "BF16", "F8_E5M2", "BOOL", ""])
def test_forms_that_are_not_known_are_refused(name):
    with pytest.raises(CorruptShardError, match=f"holds {name}, expected one of F32, F16, F8_E4M3, I8, U8"):
        coding_of(name, 2, {}, "x.safetensors")


# Through files


def write(path, precision, vectors, metadata=None):
    coding = calibrate(precision, vectors)
    writer = EmbeddingWriter(path, len(vectors), vectors.shape[1], coding, metadata or {})
    writer.write(np.arange(len(vectors))[::-1], vectors[::-1])
    writer.finish()
    return coding


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_official_reader_opens_every_precision_with_the_same_codes(tmp_path, precision):
    vectors = gaussian(7, 16)
    path = tmp_path / "a.safetensors"
    coding = write(path, precision, vectors, {"model": "m"})
    with safe_open(path, framework="pt") as file:
        assert list(file.keys()) == ["embeddings"]
        assert file.metadata() == {"model": "m", **coding.to_metadata()}
        tensor = file.get_tensor("embeddings")
    assert tensor.dtype == TORCH_TYPES[precision]
    assert tuple(tensor.shape) == (7, 2 if precision == "ubinary" else 16)
    stored = tensor.view(torch.uint8).numpy() if precision == "float8" else tensor.numpy()
    same_bits(stored, coding.encode(vectors))
    shard = open_embedding_shard(path)
    assert (shard.rows, shard.dim, shard.coding.precision) == (7, 16, precision)
    same_bits(np.asarray(shard.stored), stored)
    # Without this package: what the calibration says is enough to get the values back.
    found = json.loads(shard.metadata.get("calibration", "{}"))
    if precision == "float8":
        values = tensor.float().numpy() * np.float32(found["high"][0] / 448)
    elif precision == "int8":
        low, high = np.array(found["low"]), np.array(found["high"])
        values = low + (stored.astype(float) + 128) * (high - low) / 255
    elif precision == "ubinary":
        values = (np.unpackbits(stored, axis=1) * 2.0 - 1) / 4
    else:
        values = stored
    np.testing.assert_allclose(shard.vectors(slice(None)), values, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_the_official_reader_for_numpy_opens_what_numpy_knows(tmp_path, precision):
    coding = write(tmp_path / "a.safetensors", precision, gaussian(7, 16))
    with safe_open(tmp_path / "a.safetensors", framework="numpy") as file:
        same_bits(file.get_tensor("embeddings"), coding.encode(gaussian(7, 16)))


@pytest.mark.parametrize("precision", ["float8", "int8", "ubinary"])
def test_decoded_vectors_have_length_1_again_where_they_had_it(tmp_path, precision):
    vectors = gaussian(50, 32)
    raw = write(tmp_path / "a.safetensors", precision, vectors)
    write(tmp_path / "b.safetensors", precision, vectors, {"normalized": "true"})
    write(tmp_path / "c.safetensors", precision, vectors, {"normalized": "false"})
    plain, unit, other = (open_embedding_shard(tmp_path / f"{name}.safetensors") for name in "abc")
    decoded = raw.decode(raw.encode(vectors))
    for shard in (plain, other):
        np.testing.assert_array_equal(shard.vectors(slice(None)), decoded)
    found = unit.vectors(slice(None))
    assert found.dtype == np.float32
    assert np.abs(np.linalg.norm(found.astype(np.float64), axis=1) - 1).max() < 1e-6
    expected = decoded / np.linalg.norm(decoded.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    rows = np.array([49, 0, 7, 7])
    np.testing.assert_array_equal(unit.vectors(rows), found[rows])
    np.testing.assert_array_equal(unit.vectors(slice(3, 9)), found[3:9])
    assert found.flags.writeable
    same_bits(np.asarray(unit.stored), raw.encode(vectors))  # reading changed nothing


def test_bytes_on_disk_are_the_codes_and_nothing_else(tmp_path):
    for precision, row_bytes in {"float32": 64, "float16": 32, "float8": 16, "int8": 16, "ubinary": 2}.items():
        path = tmp_path / f"{precision}.safetensors"
        coding = write(path, precision, gaussian(7, 16))
        content = path.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        assert (8 + length) % 4096 == 0
        assert content[8 + length :] == coding.encode(gaussian(7, 16)).tobytes()
        assert len(content) == 8 + length + 7 * row_bytes


def test_a_file_whose_calibration_is_too_narrow_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    write(path, "int8", gaussian(7, 16))
    content = path.read_bytes()
    low, high = gaussian(7, 15).min(axis=0), gaussian(7, 15).max(axis=0)
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] |= Coding("int8", low, high).to_metadata()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    with pytest.raises(CorruptShardError, match=r"a\.safetensors holds int8 with a calibration .*of other vectors"):
        open_embedding_shard(path)


def test_a_vector_that_cannot_be_stored_in_whole_bytes_gets_no_file(tmp_path):
    with pytest.raises(ConfigError, match="12 is no multiple"):
        EmbeddingWriter(tmp_path / "a.safetensors", 3, 12, Coding("ubinary"), {})
    assert list(tmp_path.iterdir()) == []
