"""The plan of a run: its arithmetic, what it says about a sample, and wrong input."""

import json
import re

import pytest

from data_pipeline.cli import main
from data_pipeline.config.load import load_config
from data_pipeline.errors import ConfigError
from data_pipeline.execution.plan import (
    Devices,
    Rows,
    describe_seconds,
    devices_of,
    estimate_work,
    limits_of,
    plan_rows,
    sample_rows,
)


def config_of(**settings):
    return load_config(None, {"embedding.model_name": "Qwen/Qwen3-Embedding-4B", **settings})


def test_a_billion_paragraphs_by_hand():
    config, rows = config_of(), Rows(10**9, 100, 450, 0)
    devices = devices_of("64xH100", config, None, None, 2.5)
    # 40 % of 989 TFLOP/s, 2 operations for each of 4e9 parameters and token.
    assert devices.tokens_per_s == pytest.approx(0.4 * 989e12 / 8e9)
    table = dict(plan_rows(estimate_work(config, rows, 2560, 100, devices)))
    assert table["all tokens"] == "100,000,000,000"
    assert table["vectors"] == "5.1 TB (2,560 dimensions, float16)"
    hours = 1e11 / devices.tokens_per_s / 3600
    assert table["embedding"].startswith(f"{hours / 64:,.1f} h by 64 H100, {hours:,.1f} hours of one")
    assert table["price"] == f"{hours * 2.5:,.2f} at 2.5 for an hour of one device"
    assert table["tasks"] == "about 13,412 units to read, 954 shards to write"


@pytest.mark.parametrize(
    ("settings", "dim", "size"),
    [({}, 256, "512.0 GB"), ({"embedding.precision": "int8"}, 256, "256.0 GB"),
     ({"embedding.precision": "ubinary"}, 2560, "320.0 GB"), ({"embedding.dtype": "float32"}, 256, "1.0 TB")],
)  # fmt: skip
def test_bytes_of_vectors(settings, dim, size):
    assert dict(plan_rows(estimate_work(config_of(**settings), Rows(10**9, 100, 450, 0), dim, 1, None)))[
        "vectors"
    ].startswith(size)


def test_what_is_tight_comes_first():
    config = config_of()
    devices = Devices(1000, "X", 1.0, "")
    limits = limits_of(config, Rows(10**9, 100, 450, 0), 2560, 10**12, 10**12, devices)
    assert limits == sorted(limits)
    assert limits[0][1].startswith("disk: ")
    assert limits[0][0] < 1
    assert {text.split(":")[0]: times for times, text in limits}["blocks of rows"] == pytest.approx(30.5, abs=0.1)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (90, "90 s"), (240, "4.0 min"), (7300, "2.0 h"), (200_000, "2.3 days")]
)
def test_times_in_words(seconds, text):
    assert describe_seconds(seconds) == text


@pytest.mark.parametrize(
    ("text", "rate", "message"),
    [("64 H100", None, "expected a number and a name"), ("0xH100", None, "expected a number and a name"),
     ("8xTPU", None, "the peak of 'TPU' is not known")],
)  # fmt: skip
def test_wrong_devices_are_told(text, rate, message):
    with pytest.raises(ConfigError, match=message):
        devices_of(text, config_of(), rate, None, None)


def test_a_model_without_a_number_of_parameters_needs_one():
    config = config_of(**{"embedding.model_name": "intfloat/e5-base"})
    with pytest.raises(ConfigError, match="does not say how many parameters"):
        devices_of("8xH100", config, None, None, None)
    assert devices_of("8xH100", config, None, 1e8, None).tokens_per_s == pytest.approx(0.4 * 989e12 / 2e8)
    assert devices_of("h100", config, 5000, None, None) == Devices(1, "h100", 5000, "as given")


def test_a_sample_gives_the_rows_of_the_corpus(tmp_path):
    lines = [json.dumps({"text": f"word{n} " * 20}) for n in range(100_000)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    own = {"corpus.source": "jsonl", "corpus.path": str(tmp_path / "in.jsonl"), "preprocess.min_tokens": 1,
           "embedding.model_name": "hashing", "preprocess.max_digit_share": 1.0}  # fmt: skip
    rows = sample_rows(load_config(None, own))
    assert rows.count == pytest.approx(100_000, rel=0.1)
    assert rows.tokens == 20
    assert "documents" in rows.about
    whole = sample_rows(load_config(None, {**own, "corpus.limit": 50}))
    assert whole.count == 50
    assert whole.about == "the whole corpus"


def test_the_command(tmp_path, capsys):
    arguments = ["plan", "--rows", "1e9", "--model-name", "Qwen/Qwen3-Embedding-4B", "--output-dir", str(tmp_path)]
    assert main([*arguments, "--devices", "64xH100", "--workers", "64"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"vectors +5\.1 TB \(2,560 dimensions, float16\)", shown)
    assert "64 H100" in shown
    assert "What is tight" in shown
    assert main([*arguments, "--rate", "5"]) == 2
    assert "--rate, --parameters and --price describe --devices" in capsys.readouterr().err
    assert main([*arguments, "--devices", "64xH100", "--price", "-1"]) == 2
    assert "--price must be more than 0" in capsys.readouterr().err
    assert main(["plan", "--rows", "5", "--model-name", "me/unknown", "--devices", "1xH100"]) == 2
    assert "the width of vectors of 'me/unknown' is not known" in capsys.readouterr().err
