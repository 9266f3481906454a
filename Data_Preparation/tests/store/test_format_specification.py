"""docs/format_specification.md is complete and true: a program that was written from it reads and writes datasets."""

import ast
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open
from support import foreign_program as foreign
from support.builders import made

from data_pipeline import ELMDataset
from data_pipeline.cli import main
from data_pipeline.config import Config, CorpusConfig
from data_pipeline.errors import CorruptShardError, DataPipelineError, ShardMismatchError, StaleStageError
from data_pipeline.execution.run import append_documents, run_pipeline
from data_pipeline.execution.scores import compute_metric
from data_pipeline.execution.upkeep import select_subset
from data_pipeline.selection import Budget
from data_pipeline.stages.verify import verify_corpus
from data_pipeline.utils import sha256_of_json

SPECIFICATION = Path(__file__).resolve().parents[3] / "docs" / "format_specification.md"


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """The config of a dataset of several files, with scores and a selection."""
    config = made(tmp_path_factory.mktemp("specified"), shard_rows=50)
    compute_metric(config, "text_metrics", splits=["train"])
    select_subset(config, "kcenter", Budget(rows=7), seed=3)
    return config


def test_the_foreign_program_knows_nothing_of_this_package():
    tree = ast.parse(Path(foreign.__file__).read_text("utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in imports if isinstance(node, ast.ImportFrom)}
    assert names == {
        *("hashlib", "json", "math", "pathlib", "numpy"),
        *("pyarrow", "pyarrow.parquet", "safetensors", "safetensors.numpy"),
    }


@pytest.mark.parametrize(
    "value",
    [
        {"b": 1, "a": [True, False, None, "x"]},
        {"ü": "Straße", "z": 'quote " and \\ and / and \x7f', "é": "\x00\x1f\n\r\t\b\f"},
        [0.8, 1.0, 1e-05, 1e16, 123456789.5, -0.0, 5e-324, 1e22, 0.0001],
        {},
        {"nested": {"2": [], "10": {}}},
        "\u2028\U0001f41d",
    ],
)
def test_canonical_json_is_as_described(value):
    assert foreign.json_sha256(value) == sha256_of_json(value)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_dataset_is_read_from_the_specification_alone(sample, split):
    table, records = foreign.read_paragraphs(sample.processed_dir, split)
    vectors = foreign.read_embeddings(sample.embeddings_dir, split, records)
    dataset = ELMDataset(sample.data_dir, split=split)
    assert len(table) == len(vectors) == len(dataset) > 0
    assert len(records) == (4 if split == "train" else 1)
    whole = dataset.get_batch(range(len(dataset)))
    assert table["text"].to_pylist() == whole["text"]
    assert table["text_id"].to_pylist() == whole["metadata"]["text_id"]
    np.testing.assert_array_equal(vectors, whole["embedding"].numpy())


@pytest.mark.parametrize("precision", ["float16", "int8", "float8", "ubinary"])
def test_every_coding_is_decoded_from_the_specification_alone(tmp_path, precision):
    config = made(tmp_path, precision=precision)
    _, records = foreign.read_paragraphs(config.processed_dir, "train")
    vectors = foreign.read_embeddings(config.embeddings_dir, "train", records)
    dataset = ELMDataset(config.data_dir, dtype=None)
    expected = dataset.get_batch(range(len(dataset)))["embedding"].numpy()
    np.testing.assert_allclose(vectors, expected, rtol=1e-6, atol=1e-7)
    if precision in ("int8", "float8"):
        calibration = foreign.read_manifest(config.embeddings_dir)["calibration"]
        settings = foreign.read_manifest(config.embeddings_dir)["splits"]["train"]["settings"]
        assert calibration["settings_sha256"] == foreign.json_sha256(settings)
        assert calibration["texts_sha256"] == foreign.json_sha256([record["texts_sha256"] for record in records])


def test_scores_and_selections_are_read_from_the_specification_alone(sample):
    table, records = foreign.read_paragraphs(sample.processed_dir, "train")
    scores = foreign.read_scores(sample.data_dir / "scores" / "text_metrics", "train", records)
    assert scores["text_id"].to_pylist() == table["text_id"].to_pylist()
    ids = foreign.read_selection(sample.data_dir / "selections" / "kcenter_n7_seed3", "train", records)
    assert ids == ELMDataset(sample.data_dir, subset="kcenter_n7_seed3").metadata["text_id"].to_list()


def test_deleted_rows_and_later_versions_are_read_from_the_specification_alone(tmp_path):
    source = tmp_path / "corpus.jsonl"
    texts = {name: f"The {name} text has enough words to be kept as a paragraph of its own." for name in "abcdefgh"}

    def write():
        source.write_text("".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in texts.items()))

    write()
    config = Config(
        data_dir=tmp_path / "data",
        logs_dir=tmp_path / "logs",
        corpus=CorpusConfig(source="jsonl", path=[str(source)], name="own", id_field="id", on_changed="replace"),
        preprocess={"min_tokens": 3, "unit": "document", "near_dedup": False},
        embedding={"model_name": "hashing", "dim": 16},
    )
    run_pipeline(config)
    del texts["a"]
    texts["z"] = "A text that was added later, with as many words as the others have."
    write()
    append_documents(config)
    manifest = foreign.read_manifest(config.processed_dir)
    assert (manifest["version"], manifest["parent"]) == (2, 1)
    ids = []
    for split in manifest["splits"]:
        table, records = foreign.read_paragraphs(config.processed_dir, split)
        assert len(foreign.read_embeddings(config.embeddings_dir, split, records)) == len(table)
        gone = set(foreign.deleted_rows(config.processed_dir, split))
        ids += [name for row, name in enumerate(table["document_id"].to_pylist()) if row not in gone]
    assert sorted(ids) == sorted(texts)
    assert (config.processed_dir / ".versions" / "0001" / "manifest.json").is_file()


# Writing


@pytest.fixture
def written(tmp_path):
    """A dataset that the foreign program wrote: the data folder, its rows and its vectors."""
    splits = {
        "train": [(f"document {row // 3}", f"Row {row} of «train»\nwith a second line 🐝.") for row in range(10)],
        "val": [("other", "A single row.")],
        "test": [],
    }
    rng = np.random.default_rng(0)
    vectors = {split: rng.normal(size=(len(rows), 6)).astype(np.float32) for split, rows in splits.items()}
    foreign.write_dataset(tmp_path / "data", "theirs", splits, vectors, shard_rows=4)
    return tmp_path / "data", splits, vectors


def test_a_dataset_is_written_from_the_specification_alone(written, capsys):
    data_dir, splits, vectors = written
    for split, rows in splits.items():
        dataset = ELMDataset(data_dir, split=split)
        assert len(dataset) == len(rows)
        for row, (document, text) in enumerate(rows):
            sample = dataset[row]
            assert (sample["text"], sample["metadata"]["title"]) == (text, f"About {document}")
            np.testing.assert_array_equal(sample["embedding"].numpy(), vectors[split][row])
    good, bad = verify_corpus(Config(data_dir=data_dir, corpus=CorpusConfig(name="theirs")))
    assert bad == []
    assert len(good) == 3 + 5
    assert main(["verify", "--output-dir", str(data_dir)]) == 0
    assert "everything is in order" in capsys.readouterr().out


def test_the_package_works_on_with_such_a_dataset(written):
    data_dir, _, _ = written
    assert main(["select", "--name", "kcenter", "--rows", "3", "--output-dir", str(data_dir)]) == 0
    assert len(ELMDataset(data_dir, subset="kcenter_n3_seed0")) == 3
    assert [len(batch["text"]) for batch in ELMDataset(data_dir).get_dataloader(batch_size=4)] == [4, 4, 2]


def _change_text(data_dir):
    path = data_dir / "theirs_processed" / "val.parquet"
    table = pq.read_table(path)
    changed = table.set_column(1, "text", [["A single low."]])
    pq.write_table(changed.replace_schema_metadata({}), path)


def _swap_vectors(data_dir):
    folder = data_dir / "embeddings"
    (folder / "train_embeddings-00000-of-00003.safetensors").replace(folder / "x")
    (folder / "train_embeddings-00001-of-00003.safetensors").replace(
        folder / "train_embeddings-00000-of-00003.safetensors"
    )
    (folder / "x").replace(folder / "train_embeddings-00001-of-00003.safetensors")


def _change_settings(data_dir):
    path = data_dir / "embeddings" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["splits"]["train"]["settings"]["pooling"] = "cls"
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "split", "error"),
    [
        (_change_text, "val", CorruptShardError),
        (_swap_vectors, "train", ShardMismatchError),
        (_change_settings, "train", StaleStageError),
    ],
)
def test_what_the_specification_forbids_is_refused(written, damage, split, error):
    data_dir, _, _ = written
    damage(data_dir)
    with pytest.raises(error):
        ELMDataset(data_dir, split=split)
    _, bad = verify_corpus(Config(data_dir=data_dir, corpus=CorpusConfig(name="theirs")))
    assert bad


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.set_column(3, "char_count", [[1] * len(table)]),
        lambda table: table.set_column(2, "token_count", [[2000] * len(table)]),
        lambda table: table.set_column(1, "text", pa.nulls(len(table))),
        lambda table: table.set_column(3, "char_count", [["15"] * len(table)]),
        lambda table: table.drop_columns("document_id"),
    ],
    ids=["char_count", "token_count", "no text", "counts as texts", "no document_id"],
)
def test_columns_that_the_specification_forbids_are_found(written, change):
    folder = written[0] / "theirs_processed"
    path, manifest = folder / "val.parquet", foreign.read_manifest(folder)
    table = pq.read_table(path)
    pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), path)
    record = manifest["splits"]["val"]["shards"][0]
    record |= {"sha256": foreign.file_sha256(path), "bytes": path.stat().st_size}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    _, bad = verify_corpus(Config(data_dir=written[0], corpus=CorpusConfig(name="theirs")))
    assert len(bad) == 1


# Completeness


def named_in_the_specification():
    text = SPECIFICATION.read_text("utf-8")
    return {word for code in re.findall(r"`([^`\n]+)`", text) for word in re.findall(r"[\w.]+", code)}


def manifest_keys(value, path=()):
    """Keys of a manifest, but for those within `settings` and `about`, by reason, kind or split."""
    free = {"settings", "about", "dropped", "personal_data"}
    if isinstance(value, dict):
        for key, inner in value.items():
            if path[-1:] != ("splits",) and key not in ("train", "val", "test"):
                yield key
            if key not in free:
                yield from manifest_keys(inner, (*path, key))
    if isinstance(value, list):
        for inner in value:
            yield from manifest_keys(inner, path)


def test_every_key_column_and_file_is_in_the_specification(sample):
    named = named_in_the_specification()
    folders = [
        sample.processed_dir, sample.embeddings_dir, sample.data_dir / "scores" / "text_metrics",
        sample.data_dir / "selections" / "kcenter_n7_seed3",
    ]  # fmt: skip
    for folder in folders:
        keys = set(manifest_keys(foreign.read_manifest(folder)))
        assert len(keys) > 5
        assert keys - named == set(), folder
    with safe_open(next(sample.embeddings_dir.glob("*.safetensors")), "numpy") as file:
        assert set(file.metadata()) - named == set()
    for file in ("train-00000-of-00004.parquet", "dropped.parquet", "dropped_examples.parquet"):
        columns = set(pq.read_schema(sample.processed_dir / file).names) - {"subject"}  # a metadata field
        assert columns - named == set()
    assert set(pq.read_schema(folders[-1] / "train.parquet").names) - named == set()
    files = {path.name for path in sample.processed_dir.iterdir()}
    known = {".cache", *(name for name in files if re.fullmatch(r"(train|val|test)(-\d{5}-of-\d{5})?\.parquet", name))}
    assert files - known - named == set()


def test_a_dataset_of_a_newer_format_is_refused(written):
    path = written[0] / "theirs_processed" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"format_version": 2}))
    with pytest.raises(DataPipelineError, match="format 2, expected at most 1"):
        ELMDataset(written[0])
