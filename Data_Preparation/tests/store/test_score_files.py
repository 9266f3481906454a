"""Score files as a data set reads them, and as `verify` looks at them."""

import json
import logging
import multiprocessing
import pickle
import shutil

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import DataLoader

from data_pipeline import verify
from data_pipeline.config import Config, CorpusConfig, EmbeddingConfig, PreprocessConfig, StorageConfig
from data_pipeline.dataset import ELMDataset
from data_pipeline.embeddings import HashingEmbedder
from data_pipeline.errors import CorruptShardError, ShardMismatchError, StoreError
from data_pipeline.heads.identity import EmbedderIdentity, identity_settings
from data_pipeline.heads.model import Head, Layer
from data_pipeline.stages.pipeline import run
from data_pipeline.stages.score import annotate
from data_pipeline.store import ScoreWriter, open_scores
from data_pipeline.store.hashing import column_sha256
from data_pipeline.types import SPLITS
from data_pipeline.utils import sha256_of_file

ROWS = 165
HASHING = HashingEmbedder(EmbeddingConfig(model_name="hashing")).identity.to_metadata()


def head(kind, labels, seed):
    rng = np.random.default_rng(seed)
    outputs = len(labels) if kind in {"regression", "multiclass"} else 1
    weight = rng.normal(scale=5, size=(outputs, 256)).astype(np.float32)
    weight[:, 0] = 0  # where all vectors are alike: the hashing embedder counts words there
    layers = (Layer(weight, np.zeros(outputs, np.float32)),)
    return Head(kind, labels, layers, EmbedderIdentity(identity_settings(HASHING)))


HEADS = {
    "edu": head("regression", ("score",), 0),
    "edu-1": head("regression", ("clear", "a.b"), 1),
    "topic": head("multiclass", ("art", 'the "law"'), 2),
}
COLUMNS = ["edu", "edu-1_clear", "edu-1_a.b", "topic", "topic_label", "topic_art", 'topic_the "law"']


def config_of(folder, min_tokens=60):
    return Config(
        data_dir=folder / "data",
        logs_dir=folder / "logs",
        corpus=CorpusConfig(source="sample", name="sample"),
        preprocess=PreprocessConfig(min_tokens=min_tokens),
        storage=StorageConfig(shard_rows=40),
        embedding=EmbeddingConfig(model_name="hashing", batch_size=16),
    )


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """The bundled sample in several shards, with the scores of all heads; not to be changed."""
    config = config_of(tmp_path_factory.mktemp("scored"))
    run(config)
    annotate(config, HEADS)
    return config


@pytest.fixture
def copy(scored, tmp_path):
    """The same, to be changed."""
    shutil.copytree(scored.data_dir, tmp_path / "data")
    return config_of(tmp_path)


@pytest.fixture
def dataset(scored):
    return ELMDataset(config=scored)


def manifest_of(config, name="edu"):
    return json.loads((config.scores_dir / name / "manifest.json").read_text())


def stored(config, split="train"):
    """All scores, read without the package, in the order of the columns."""
    tables = []
    for name in HEADS:
        shards = manifest_of(config, name)["splits"][split]["shards"]
        tables.append(pl.concat([pl.read_parquet(config.scores_dir / name / shard["file"]) for shard in shards]))
    assert all(table["text_id"].equals(tables[0]["text_id"]) for table in tables)
    return pl.concat([tables[0], *(table.drop("text_id") for table in tables[1:])], how="horizontal")


# What a data set hands out


def test_scores_are_metadata_of_their_rows(scored):
    for split in SPLITS:
        dataset, expected = ELMDataset(config=scored, split=split), stored(scored, split)
        assert expected.columns == ["text_id", *COLUMNS]
        assert dataset.metadata.select(expected.columns).equals(expected)
        assert dataset.rows.names[-len(COLUMNS) :] == COLUMNS


def test_every_way_to_ask_for_metadata_gives_the_same_scores(scored, dataset):
    expected = stored(scored).to_dicts()
    picked = [0, 41, 164, 41, 80]

    def scores(record):
        return {name: record[name] for name in ("text_id", *COLUMNS)}

    assert [scores(dict(dataset[row]["metadata"])) for row in picked] == [expected[row] for row in picked]
    assert [scores(sample["metadata"]) for sample in dataset[38:43]] == expected[38:43]
    batch = dataset.get_batch(picked)["metadata"]
    assert [scores(record) for record in batch] == [expected[row] for row in picked]
    assert batch["edu"] == [expected[row]["edu"] for row in picked]
    assert [scores(record) for record in batch[1:3]] == [expected[row] for row in picked[1:3]]
    assert scores(batch[-1]) == expected[80]
    assert dict(pickle.loads(pickle.dumps(dataset[41]["metadata"]))) == dict(dataset[41]["metadata"])  # noqa: S301
    assert pickle.loads(pickle.dumps(batch)) == batch  # noqa: S301
    rows = [record for one in dataset.iter_batches(50) for record in one["metadata"]]
    assert [scores(record) for record in rows] == expected


@pytest.mark.parametrize("looked_at", [False, True])
@pytest.mark.posix
def test_worker_processes_read_scores_for_themselves(scored, dataset, looked_at):
    if looked_at:
        assert dataset.metadata.height == ROWS
    expected = stored(scored)
    context = multiprocessing.get_context("fork")
    torch.set_num_threads(1)
    loader = DataLoader(dataset, batch_size=20, num_workers=2, multiprocessing_context=context)
    found = [value for batch in loader for value in batch["metadata"]["edu-1_a.b"]]
    assert found == expected["edu-1_a.b"].to_list()
    ours = dataset.get_dataloader(20, shuffle=False, num_workers=2)
    assert [value for batch in ours for value in batch["metadata"]["topic_label"]] == expected["topic_label"].to_list()


def test_a_pickled_data_set_names_its_scores_and_does_not_copy_them(dataset):
    before = len(pickle.dumps(dataset))
    expected = dataset.get_batch(range(ROWS))["metadata"]["edu"]
    content = pickle.dumps(dataset)
    assert len(content) < before + 2000  # some small things are kept, the tables are not
    tables = [folder for folder in dataset.rows.source.scores if "table" in folder.__dict__]
    assert tables
    again = pickle.loads(content)  # noqa: S301
    assert not any("table" in folder.__dict__ for folder in again.rows.source.scores)
    assert again.get_batch(range(ROWS))["metadata"]["edu"] == expected


def test_only_the_heads_that_are_named_are_read(scored):
    assert [name for name in ELMDataset(config=scored, scores=["topic"]).rows.names if name in COLUMNS] == COLUMNS[3:]
    assert not set(ELMDataset(config=scored, scores=[]).rows.names) & set(COLUMNS)
    with pytest.raises(ShardMismatchError, match=r"no scores of train in .*nope. Make them with: elm annotate"):
        ELMDataset(config=scored, scores=["edu", "nope"])


def test_scores_need_no_vectors(scored):
    dataset = ELMDataset(config=scored, load_embeddings=False, where="edu > 0")
    assert dataset.metadata["edu"].to_list() == [score for score in stored(scored)["edu"] if score > 0]


def test_a_remote_folder_s_scores_are_not_promised(scored, tmp_path):
    url = f"file://{scored.data_dir}"
    assert "edu" not in ELMDataset(url, cache_dir=tmp_path).rows.names
    with pytest.raises(StoreError, match="scores are read from local folders only"):
        ELMDataset(url, cache_dir=tmp_path, scores=["edu"])


def test_a_hugging_face_data_set_has_the_scores(scored, dataset):
    expected = stored(scored)
    for view, rows in ((dataset, range(ROWS)), (dataset.select([50, 3]), [50, 3])):
        found = view.to_hf()
        for name in COLUMNS:
            assert list(found[name]) == [expected[name][row] for row in rows]


# Views

CONDITIONS = {
    "edu >= 0.5": pl.col("edu") >= 0.5,
    "edu >= 0 and token_count > 145": (pl.col("edu") >= 0) & (pl.col("token_count") > 145),
    '"edu-1_clear" < 0 or "edu-1_a.b" > 1': (pl.col("edu-1_clear") < 0) | (pl.col("edu-1_a.b") > 1),
    '"topic_the ""law""" > 0.5': pl.col('topic_the "law"') > 0.5,
    "topic_label = 'the \"law\"'": pl.col("topic_label") == 'the "law"',
    "edu between -1 and 1": pl.col("edu").is_between(-1, 1),
    "text like '%moon%' and edu > 0": pl.col("text").str.contains("moon") & (pl.col("edu") > 0),
}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_rows_are_kept_by_their_scores(scored, dataset, condition):
    texts = pl.Series("text", dataset.get_batch(range(ROWS))["text"])
    everything = stored(scored).with_columns(texts, dataset.metadata["token_count"])
    expected = everything.filter(CONDITIONS[condition])["text_id"].to_list()
    assert 0 < len(expected) < ROWS
    for view in (dataset.filter(condition), dataset.filter(CONDITIONS[condition])):
        assert view.metadata["text_id"].to_list() == expected
    view = ELMDataset(config=scored, where=condition)
    assert [sample["metadata"]["text_id"] for sample in view] == expected
    rows = np.flatnonzero(everything.select(CONDITIONS[condition]).to_series().to_numpy())
    np.testing.assert_array_equal(view.to_numpy(), dataset.to_numpy()[rows])


def test_a_view_of_a_view_has_its_rows_scores(scored, dataset):
    expected = stored(scored)
    picked = [160, 2, 77, 41, 3, 99]
    view = dataset.select(picked).filter("edu > -100")
    assert view.metadata["edu"].to_list() == expected["edu"][picked].to_list()
    view = dataset.filter("edu > -1").filter("edu < 1").filter(pl.col("topic_label") == "art")
    kept = expected.filter((pl.col("edu") > -1) & (pl.col("edu") < 1) & (pl.col("topic_label") == "art"))
    assert view.metadata.select(kept.columns).equals(kept)
    some = kept["text_id"].to_list()[::-2]
    assert dataset.subset(some).filter("edu < 100").metadata["text_id"].to_list() == some
    assert dataset.filter("edu > 1e9").filter("edu > 0").metadata.height == 0
    assert pickle.loads(pickle.dumps(view)).metadata["edu"].to_list() == kept["edu"].to_list()  # noqa: S301


@pytest.mark.parametrize(
    "condition",
    [
        "", " ", "*", "edu", "edu + 1", "edu >", "nope > 1", "true", "1 = 1", "count(*) > 0", "max(edu) > 0", "\x00",
        "1; drop table x", "edu > 0; edu > 1", "select * from self", "edu > (select max(edu) from self)",
        "edu in (select 1)", "exists (select 1)", "edu > 0 union select 1", "read_csv('/etc/passwd') > 1", "edu > 'x'",
        "random() > 0.5", "edu > ?", "edu.x > 1", "a.edu > 0", "text ~ '('", "cast(text as int) > 1", "edu[0] > 1",
        "array[1] = edu", "(edu > 0, edu > 1)", "COLUMNS('.*') > 0", "interval '1 day'", "edu-1_clear > 0",
        "(" * 500 + "edu > 0" + ")" * 500, "not " * 5000 + "edu > 0",
    ],
)  # fmt: skip
def test_a_condition_that_is_none_is_a_value_error(scored, dataset, condition):
    with pytest.raises(ValueError, match="condition|unknown column"):
        dataset.filter(condition)
    with pytest.raises(ValueError, match="condition|unknown column"):
        ELMDataset(config=scored, where=condition)


# Files


def test_the_manifest_says_what_was_made_of_what(scored):
    for name in HEADS:
        folder = scored.scores_dir / name
        manifest = manifest_of(scored, name)
        assert (manifest["stage"], manifest["name"], list(manifest["splits"])) == ("scores", name, list(SPLITS))
        for split, listed in manifest["splits"].items():
            paragraphs = json.loads((scored.processed_dir / "manifest.json").read_text())["splits"][split]["shards"]
            assert listed["rows"] == sum(shard["rows"] for shard in listed["shards"])
            assert listed["settings"]["embedder"] == identity_settings(HASHING)
            assert listed["corpus"] == "sample"
            for shard, of in zip(listed["shards"], paragraphs, strict=True):
                path = folder / shard["file"]
                assert shard["bytes"] == path.stat().st_size
                assert shard["sha256"] == sha256_of_file(path)
                table, texts = pq.read_table(path), pq.read_table(scored.processed_dir / of["file"])
                assert table.column_names == ["text_id", *listed["columns"]]
                assert table["text_id"].equals(texts["text_id"])
                assert shard["ids_sha256"] == of["ids_sha256"] == column_sha256(table["text_id"].to_pylist())
                assert shard["texts_sha256"] == of["texts_sha256"]
        assert {path.name for path in folder.iterdir()} - {".cache"} == {"manifest.json"} | {
            shard["file"] for listed in manifest["splits"].values() for shard in listed["shards"]
        }


@pytest.fixture
def renewed(copy):
    """Scores of paragraphs that have been replaced since."""
    run(config_of(copy.data_dir.parent, min_tokens=150), overwrite=True)
    return config_of(copy.data_dir.parent, min_tokens=150)


def test_scores_of_other_paragraphs_are_left_out_or_refused(renewed, caplog):
    with caplog.at_level(logging.WARNING):
        dataset = ELMDataset(config=renewed)
    assert not set(dataset.rows.names) & set(COLUMNS)
    for name in HEADS:
        assert f"the scores in {renewed.scores_dir / name} were made from other paragraphs of train" in caplog.text
    assert "elm annotate --overwrite They are ignored." in caplog.text
    with pytest.raises(ShardMismatchError, match="edu were made from other paragraphs of train. Make them again with"):
        ELMDataset(config=renewed, scores=["edu"])
    assert any("were made from other paragraphs" in line for line in verify(renewed)[1])
    annotate(renewed, HEADS, overwrite=True)
    assert ELMDataset(config=renewed, scores=["edu"]).metadata["edu"].len() < ROWS
    assert verify(renewed)[1] == []


def rewritten(config, table, name="edu", place=1):
    """Another file in a file's place, its manifest made to fit; None for the manifest only."""
    manifest = manifest_of(config, name)
    shard = manifest["splits"]["train"]["shards"][place]
    path = config.scores_dir / name / shard["file"]
    pq.write_table(table(pq.read_table(path)), path)
    shard |= {"sha256": sha256_of_file(path), "bytes": path.stat().st_size}
    (config.scores_dir / name / "manifest.json").write_text(json.dumps(manifest))
    return path


def test_verify_finds_nothing_wrong_with_what_is_right(scored):
    good, bad = verify(scored)
    assert bad == []
    for name in HEADS:
        assert f"train: scores of {name}: hashes, alignment and values" in good


def test_verify_finds_every_flipped_byte(copy):
    path = copy.scores_dir / "edu" / "train-00001-of-00005.parquet"
    whole = path.read_bytes()
    for place in np.random.default_rng(0).integers(len(whole), size=10):
        content = bytearray(whole)
        content[place] ^= 1
        path.write_bytes(content)
        assert verify(copy)[1] == [f"{path}: missing, or checksum mismatch with manifest.json"]
    path.unlink()
    assert verify(copy)[1] == [f"{path}: missing, or checksum mismatch with manifest.json"]


def permuted(table):
    return table.take(pa.array(np.random.default_rng(0).permutation(table.num_rows)))


def spoilt(value):
    def change(table):
        scores = table["edu"].to_pylist()
        scores[3] = value
        return table.set_column(1, table.schema.field("edu"), pa.array(scores, pa.float32()))

    return change


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (permuted, "its rows or ids differ from those of the paragraphs"),
        (lambda table: table.slice(1), "its rows or ids differ from those of the paragraphs"),
        (spoilt(float("nan")), "edu has missing or non-finite values"),
        (spoilt(float("inf")), "edu has missing or non-finite values"),
        (spoilt(None), "edu has missing or non-finite values"),
    ],
    ids=["permuted", "a row less", "NaN", "infinite", "null"],
)
def test_verify_finds_values_that_were_wrong_before_they_were_hashed(copy, change, fault):
    path = rewritten(copy, change)
    assert f"{path}: {fault}" in verify(copy)[1]


def test_verify_finds_settings_that_were_altered(copy):
    path = copy.scores_dir / "edu" / "manifest.json"
    path.write_text(path.read_text().replace('"kind": "regression"', '"kind": "binary"'))
    assert any("the settings of train do not match their fingerprint" in line for line in verify(copy)[1])


def test_verify_lists_a_manifest_that_cannot_be_read(copy):
    (copy.scores_dir / "edu" / "manifest.json").write_text("{")
    assert any("edu/manifest.json cannot be read" in line for line in verify(copy)[1])


def test_a_data_set_that_is_verified_looks_at_its_scores(copy):
    assert "train: scores of edu: hashes, alignment and values" in ELMDataset(config=copy).verify("hash")
    path = copy.scores_dir / "edu" / "train-00001-of-00005.parquet"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptShardError, match=f"{path}: missing, or checksum mismatch with manifest.json"):
        ELMDataset(config=copy).verify("hash")
    ELMDataset(config=copy, scores=["topic"]).verify("hash")


@pytest.mark.parametrize("damage", ["truncated", "missing", "rubbish"])
def test_a_damaged_file_is_noticed_when_its_scores_are_read(copy, damage):
    path = copy.scores_dir / "edu" / "train-00001-of-00005.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:-1] if damage == "truncated" else b"x" * len(content))
    if damage == "missing":
        path.unlink()
    dataset = ELMDataset(config=copy)
    assert len(dataset[0]["text"]) > 0
    with pytest.raises(CorruptShardError, match=r"train-00001-of-00005.parquet .*elm annotate --overwrite"):
        dataset.filter("edu > 0")
    assert len(dataset.filter("topic > 0")) == ROWS


def test_a_file_of_another_head_is_noticed_when_its_scores_are_read(copy):
    path = rewritten(copy, lambda table: table.replace_schema_metadata({"fingerprint": "of another head"}))
    with pytest.raises(CorruptShardError, match=f"{path} was made with other settings than manifest.json says"):
        ELMDataset(config=copy).filter("edu > 0")


def test_a_manifest_cannot_name_files_elsewhere(copy, tmp_path):
    path = copy.scores_dir / "edu" / "manifest.json"
    path.write_text(path.read_text().replace("train-00001-of-00005.parquet", "../../train-00001-of-00005.parquet"))
    (found,) = open_scores(copy.scores_dir, "train", ["edu"])
    assert {each.parent for each in found.paths()} == {copy.scores_dir / "edu"}


def test_a_file_that_is_not_finished_has_no_name(tmp_path):
    writer = ScoreWriter(tmp_path / "a.parquet", {"edu": pa.float32()}, {"what": "test"})
    writer.write({"text_id": ["x", "y"], "edu": np.array([1, 2], np.float32)})
    assert not (tmp_path / "a.parquet").exists()
    writer.abandon()
    assert list(tmp_path.iterdir()) == []
    contents = set()
    for _ in range(2):
        writer = ScoreWriter(tmp_path / "a.parquet", {"edu": pa.float32()}, {"what": "test"})
        writer.write({"text_id": ["x"], "edu": np.array([1], np.float32)})
        writer.write({"text_id": ["y"], "edu": np.array([2], np.float32)})
        writer.finish()
        contents.add((tmp_path / "a.parquet").read_bytes())
    assert len(contents) == 1  # the same rows give the same bytes
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.to_pydict() == {"text_id": ["x", "y"], "edu": [1, 2]}
    assert table.schema.metadata[b"what"] == b"test"
