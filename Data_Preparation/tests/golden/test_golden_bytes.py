"""Every stage on the bundled sample gives the bytes and fingerprints that are recorded in recorded.json.

Stages are run by the command line, so that the test holds whatever module does the work. Where a change of bytes is
meant, record them again and look at the difference:

    GOLDEN_RECORD=1 python -m pytest Data_Preparation/tests/golden

Not covered, because the numbers depend on the processor: trained heads, models, the study's probes.
"""

import hashlib
import json
import logging
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("h5py", reason='needs the extra "annotation"')

from digests import copied, digests

from data_pipeline import Head, load_head, save_head
from data_pipeline.cli import main

RECORDED = Path(__file__).with_name("recorded.json")
RECORDING = bool(os.environ.get("GOLDEN_RECORD"))
LIBRARIES = (
    "h5py", "ml-dtypes", "numpy", "polars", "pyarrow", "rensa", "safetensors", "tokenizers",
    "bm25s", "PyStemmer", "textstat",
)  # fmt: skip
"""Libraries whose version may show in bytes; the lock pins them in CI."""

BY_VECTORS = (
    ("kcenter",),
    ("kmeans", "--set", "clusters=8"),
    ("herding",),
    ("facility_location",),
    ("dedup", "--set", "threshold=0.9"),
)
"""Selectors that compare vectors. Their ids count, and no numbers; each gave the same ids for vectors that were
multiplied by 1 + 1e-6 noise."""

HASHING = ["--preset", "offline", "--embedding.model_name", "hashing"]


@pytest.fixture(scope="module", autouse=True)
def _surroundings():
    """Recorded values count for the recorded versions; no ELM_ variable changes a setting; the log is tidied up."""
    if not RECORDING:
        recorded = json.loads(RECORDED.read_text())["versions"]
        different = [
            f"{name} {installed_version(name)} is installed, {recorded[name]} is recorded"
            for name in LIBRARIES
            if installed_version(name) != recorded[name]
        ]
        if different:
            pytest.skip("; ".join(different))
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("ELM_") and name != "ELM_SHARED_DATA"]:
            patch.delenv(name)
        patch.setenv("ELM_REPORT", "false")  # a page is no data
        yield
    for handler in root.handlers[:]:
        if handler not in before:
            root.removeHandler(handler)
            handler.close()
    root.setLevel(level)


def installed_version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def elm(*arguments):
    assert main([str(argument) for argument in arguments]) == 0, arguments


def check(stage, *trees):
    """Compare with what is recorded for the stage, or record it."""
    files, fingerprints = {}, {}
    for some_files, some_fingerprints in trees:
        files |= some_files
        fingerprints |= some_fingerprints
    assert files
    recorded = json.loads(RECORDED.read_text()) if RECORDED.is_file() else {"versions": {}, "stages": {}}
    if RECORDING:
        recorded["versions"] = {name: installed_version(name) for name in LIBRARIES}
        recorded["stages"][stage] = {"files": files, "fingerprints": fingerprints}
        recorded["stages"] = dict(sorted(recorded["stages"].items()))
        RECORDED.write_text(json.dumps(recorded, indent=1) + "\n")
        return
    expected = recorded["stages"][stage]
    lines = [
        *differences("file", expected["files"], files),
        *differences("fingerprint", expected["fingerprints"], fingerprints),
    ]
    assert not lines, f"{stage} differs from recorded.json:\n  " + "\n  ".join(lines)


def differences(kind, expected, found):
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            yield f"{kind} {name} is missing"
        elif name not in expected:
            yield f"{kind} {name} is new"
        elif expected[name] != found[name]:
            yield f"{kind} {name} differs: expected {expected[name][:12]}, found {found[name][:12]}"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The main job with the defaults of the preset; other stages copy its folder."""
    root = tmp_path_factory.mktemp("base")
    elm("run", *HASHING, "--output-dir", root / "data")
    return root


@pytest.fixture(scope="module")
def whole_numbers(tmp_path_factory):
    """Vectors of whole numbers, which any processor adds up to the same sums."""
    root = tmp_path_factory.mktemp("whole_numbers")
    flags = ["--embedding.dim", 32, "--no-embedding.normalize"]
    elm("run", *HASHING, "--output-dir", root / "data", *flags)
    return root


def test_main_job(base):
    check("main_job", digests(base / "data", base))


def test_vectors_that_are_not_normalized(whole_numbers):
    check("not_normalized", digests(whole_numbers / "data", whole_numbers))


def test_lines_near_duplicates_and_shards(tmp_path):
    (tmp_path / "job.yaml").write_text(
        "corpus: {source: sample, name: sample}\n"
        "preprocess: {unit: line, min_tokens: 5, max_tokens: 200, near_dedup: true, near_threshold: 0.5}\n"
        "split: {method: paragraph, train_ratio: 0.6, val_ratio: 0.2, test_ratio: 0.2, seed: 7}\n"
        "storage: {shard_rows: 50}\n"
        "embedding: {model_name: hashing, dim: 64}\n"
    )
    elm("run", "--config", tmp_path / "job.yaml", "--output-dir", tmp_path / "data")
    check("lines_and_shards", digests(tmp_path / "data", tmp_path))


def test_records_with_metadata(tmp_path):
    rows = []
    for number in range(40):
        text = " ".join(f"word{(number * 7 + position) % 31}" for position in range(8 + number % 9))
        rows.append(
            {"id": f"r{number}", "title": f"Title {number % 4}", "body": f"{text} \u00e9t\u00e9 {number}.",
             "year": 1990 + number, "share": number / 8, "good": number % 3 == 0, "kind": "ab"[number % 2],
             "part": ("train", "train", "validation", "test")[number % 4]}
        )  # fmt: skip
    rows += [dict(rows[3], id="again"), dict(rows[4], id="short", title="", body="too short", year=None)]
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    elm(
        "run", *HASHING, "--output-dir", tmp_path / "data", "--source", "jsonl", "--corpus.name", "mine",
        "--corpus.path", tmp_path / "records.jsonl", "--corpus.text_field", "body", "--corpus.id_field", "id",
        "--corpus.title_field", "title", "--corpus.split_field", "part", "--split.method", "official",
        "--corpus.metadata_fields", '{"year": "int", "share": "float", "good": "bool", "kind": "str"}',
        "--min-tokens", 5, "--embedding.dim", 64, "--embedding.prompt", "passage: ", "--embedding.max_length", 12,
    )  # fmt: skip
    check("records", digests(tmp_path / "data", tmp_path))


def test_wikitext_files(tmp_path):
    (tmp_path / "wiki").mkdir()
    for split in ("train", "valid", "test"):
        lines = [" \n"]
        for article in range(3):
            lines += [f" = {split} article {article} = \n", " \n"]
            for section in range(2):
                lines += [f" = = Section {section} = = \n", " \n"]
                words = " ".join(f"w{(article * 5 + section * 3 + position) % 23}" for position in range(14))
                lines += [f' The <unk> of {split} , in 1 @,@ 000 {words} . It ended " well " ( mostly ) . \n', " \n"]
        (tmp_path / "wiki" / f"wiki.{split}.tokens").write_text("".join(lines))
    flags = ["--output-dir", tmp_path / "data", "--source", "wikitext", "--corpus.path", tmp_path / "wiki"]
    elm("run", *HASHING, *flags, "--corpus.name", "wiki", "--split.method", "official", "--min-tokens", 5,
        "--embedding.dim", 64)  # fmt: skip
    check("wikitext", digests(tmp_path / "data", tmp_path))


def test_embedding_variants(base, tmp_path):
    copied(base, tmp_path / "it")
    data = tmp_path / "it" / "data"
    for name, *flags in (
        ("half", "--precision", "float16"),
        ("bytes", "--precision", "int8"),
        ("bits", "--precision", "ubinary"),
        ("float8", "--precision", "float8"),
        ("short", "--embedding.dim", 64, "--no-embedding.reuse"),  # cut from longer vectors, the last bits differ
        ("cut", "--embedding.max_length", 50, "--embedding.prompt", "text: ", "--precision", "float16"),
    ):
        elm("embed", *HASHING, "--output-dir", data, "--embedding.variant", name, *flags)
    check("variants", digests(data / "embeddings", tmp_path))


def picking_head(base, kind, labels, dimensions):
    """A head whose outputs are single dimensions of a vector: sums of one number and zeros are exact everywhere."""
    weight = np.zeros((len(dimensions), 256), np.float32)
    weight[np.arange(len(dimensions)), dimensions] = 1
    layer = type(load_head(plain_head(base)).layers[0])
    bias = np.zeros(len(dimensions), np.float32)
    cutpoints = np.array([0.0625, 0.125], np.float32) if kind == "ordinal" else None
    return Head(kind=kind, labels=labels, layers=(layer(weight, bias),), cutpoints=cutpoints)


def plain_head(folder):
    """A head as torch saves one."""
    import torch

    path = folder / "plain.pt"
    if not path.is_file():
        first = torch.zeros(4, 256)
        first[torch.arange(4), torch.tensor([1, 5, 9, 13])] = 1
        last = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
        torch.save({"0.weight": first, "0.bias": torch.zeros(4), "2.weight": last, "2.bias": torch.zeros(1)}, path)
    return path


def test_heads_and_annotations(base, tmp_path):
    it = copied(base, tmp_path / "it")
    elm("heads", "convert", plain_head(it), it / "heads" / "plain", "--embedder", "hashing")
    elm("heads", "convert", plain_head(it), it / "heads" / "unbound")
    save_head(picking_head(it, "regression", ("depth", "width"), [3, 7]), it / "heads" / "pair")
    save_head(picking_head(it, "multiclass", ("a", "b", "c"), [2, 4, 6]), it / "heads" / "classes")
    save_head(picking_head(it, "ordinal", ("0", "1", "2"), [8]), it / "heads" / "grades")
    save_head(picking_head(it, "binary", ("no", "yes"), [10]), it / "heads" / "yes")
    named = {name: f"{name}={it / 'heads' / name}" for name in ("plain", "unbound", "pair", "classes", "grades", "yes")}
    exact = ["plain", "unbound", "pair"]
    elm("annotate", "--output-dir", it / "data", "--heads", *[named[name] for name in exact])
    check("annotations", digests(it / "heads", tmp_path), digests(it / "data" / "scores", tmp_path))
    # Probabilities are made of exponentials, whose last bit is the processor's.
    copy = copied(base, tmp_path / "probabilities")
    elm("annotate", "--output-dir", copy / "data", "--heads", *[named[name] for name in named if name not in exact])
    check("probabilities", digests(copy / "data" / "scores", tmp_path, rounded=True))


def test_file_pipelines(tmp_path):
    pytest.importorskip("datatrove", reason='needs the extra "annotation"')
    (tmp_path / "in" / "deeper").mkdir(parents=True)
    for name, first in (("a.jsonl", 0), ("deeper/b.jsonl", 100)):
        rows = [
            {"document_id": f"d{first + row}", "score": row / 4, "lang": "en",
             "text": " ".join(f"word{(row * 7 + first + position) % 31}" for position in range(row % 9 + 1))}
            for row in range(23)
        ]  # fmt: skip
        (tmp_path / "in" / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    save_head(picking_head(tmp_path, "regression", ("depth", "width"), [3, 7]), tmp_path / "pair")
    embedding = {
        "input_dir": str(tmp_path / "in"), "glob_pattern": "**/*.jsonl", "keys_to_index": ["text"],
        "output_dir": str(tmp_path / "out"), "embedding_dir": "embeddings", "embedding_model": "hashing",
        "hdf5_dataset_name": "train", "batch_size": 8, "writer_batch_size": 10, "save_labels": True,
    }  # fmt: skip
    annotation = {
        "embeddings_directory": str(tmp_path / "out" / "embeddings"), "output_keys": ["document_id", "text"],
        "output_dir": str(tmp_path / "out"), "batch_size": 8,
        "regression_head_checkpoints": {"plain": str(plain_head(tmp_path)), "pair": str(tmp_path / "pair")},
    }  # fmt: skip
    jobs = (
        ("run_embedding_pipeline", embedding),
        ("run_embedding_pipeline", embedding | {
            "embedding_dir": "half", "embedding_dtype": "float16", "compression": "gzip", "save_labels": False,
            "id_key": "document_id", "keys_to_keep": ["lang"],
        }),
        ("run_annotation_pipeline", annotation),
    )  # fmt: skip
    for number, (command, params) in enumerate(jobs):
        path = tmp_path / f"job{number}.yaml"
        path.write_text(yaml.safe_dump({"running_on_slurm": False, "params": params, "local_settings": {}}))
        elm(command, "--config_file_path", path)
    check("file_pipelines", digests(tmp_path / "out", tmp_path))


def test_measures_and_selections(base, tmp_path):
    pytest.importorskip("textstat", reason='needs the extra "selection"')
    data = copied(base, tmp_path / "it") / "data"
    elm("measure", "text_metrics", "--output-dir", data)
    elm("measure", "text_metrics", "--output-dir", data, "--as", "again", "--splits", "val", "test")
    for name, *more in (
        ("random", "--frac", 0.1, "--seed", 3, "--strata", "token_count", "--bins", 3, "--shares", "equal"),
        ("random", "--tokens", 2000, "--on", "val", "--against", "train"),
        ("full", "--rows", 20),
        ("length_matched_random", "--rows", 20, "--set", "like=full_n20_seed0"),
        ("stratified", "--rows", 20),
        ("text_metric", "--rows", 20, "--set", "score=mtld", "--set", "direction=middle"),
        ("ccs", "--rows", 20, "--set", "score=mtld"),
        ("hybrid_sequential", "--rows", 20, "--set",
         "steps=[{selector: text_metric, keep: 0.5}, {selector: random}]"),
        ("hybrid_fusion", "--rows", 20, "--set",
         "parts=[{selector: text_metric, weight: 2}, {selector: text_metric, parameters: {score: mtld}}]"),
    ):  # fmt: skip
        elm("select", "--output-dir", data, "--name", name, *more)
    for name, *more in BY_VECTORS:
        elm("select", "--output-dir", data, "--name", name, "--rows", 20, *more)
    check("measures", digests(data / "scores", tmp_path))
    patterns = [f"{name}_*/*" for name, *_ in BY_VECTORS]
    ids_only, of_vectors = [f"{pattern}.parquet" for pattern in patterns], [f"{pattern}.json" for pattern in patterns]
    check("selections", digests(data / "selections", tmp_path, True, ids_only, of_vectors))


def answer(system, user):
    """A judge's answer that depends on every character of the question."""
    return "YES" if hashlib.sha256(f"{system}\n{user}".encode()).digest()[0] < 60 else "NO"


def label_run(root, name, **settings):
    config = {
        "run": name, "work_dir": str(root / "labels"), "passages": {"data_dir": str(root / "data")},
        "queries": {"source": "sample", "max_queries": 12}, "gold": "sample",
        "output": {"beir": True, "training_negatives": 2},
    }  # fmt: skip
    (root / f"{name}.yaml").write_text(yaml.safe_dump(config | settings))
    elm("label", "--config", root / f"{name}.yaml")
    return digests(root / "labels" / name, root, rounded=True)


def test_weak_labels(base, tmp_path):
    pytest.importorskip("bm25s", reason='needs the extra "weak-labels"')
    root = copied(base, tmp_path / "it")
    # The labels were compared with those of vectors multiplied by 1 + 1e-6 noise: the same.
    check(
        "labels_by_similarity",
        label_run(
            root, "similarity", judge={"judge": "similarity"}, negatives={"margin_score": "bm25"},
            candidates={"fusion": "bm25", "bm25_backend": "numpy"},
        ),
    )  # fmt: skip


def test_weak_labels_of_a_server(whole_numbers, tmp_path):
    pytest.importorskip("bm25s", reason='needs the extra "weak-labels"')
    pytest.importorskip("openai", reason='needs the extra "weak-labels"')
    from data_pipeline.testing import misbehaving_server

    # Dot products of whole numbers are exact on every processor, so equal ones are equal everywhere. All passages are
    # in the dense list.
    root = copied(whole_numbers, tmp_path / "it")
    with misbehaving_server(answer=answer) as server:
        judge = {"base_url": server.base_url, "model": "tiny-judge", "slots": 4}
        candidates = {"measure": "dot", "fusion": "rrf", "bm25_backend": "numpy", "top_k": 60}
        found = label_run(root, "server", judge=judge, candidates=candidates)
    check("labels_of_a_server", found)


def test_study(tmp_path):
    pytest.importorskip("hydra", reason='needs the extra "study"')
    for name, rows, step in (("train", 80, 7), ("dev", 20, 5)):
        lines = [
            f"{('bad', 'good')[row % 2]} " + " ".join("abcdefgh"[(row * step + k) % 8] for k in range(row % 9))
            for row in range(rows)
        ]
        content = "".join(f"{text} \t{row % 2}\n" for row, text in enumerate(lines))
        (tmp_path / f"{name}.tsv").write_text("sentence\tlabel\n" + content)
    settings = [
        f"data.train={tmp_path}/train.tsv", f"data.dev={tmp_path}/dev.tsv", f"paths.data_dir={tmp_path}/study",
        "embedding.model_name=hashing", "model.kind=probe", "training.device=cpu", "subset.frac=0.2",
        "subset.manifest=true",
    ]  # fmt: skip
    elm("study", "prepare", *settings)
    elm("study", "select", *settings)
    elm("study", "select", *settings, "selection.strata={by: labels}", "seed=7")
    check("study", digests(tmp_path / "study", tmp_path, rounded=True))
