"""One calibration for all shards of all splits, whatever happens in between."""

import itertools
import json
import re
import shutil

import numpy as np
import pytest
from support.counting_embedder import Counting

from data_pipeline.embeddings import HashingEmbedder, calibration, encode
from data_pipeline.errors import ConfigError, CorruptShardError, StaleStageError
from data_pipeline.stages.embed import embed_split
from data_pipeline.stages.pipeline import embed, prepare_paragraphs
from data_pipeline.store import CALIBRATED, ParagraphStore, open_embedding_shard, read_manifest, write_manifest
from data_pipeline.store.manifest import EmbeddingManifest
from data_pipeline.store.quantization import calibrate
from data_pipeline.types import SPLITS

ROWS = {"train": 165, "val": 43, "test": 14}


def with_changes(config, **embedding):
    return config.model_copy(update={"embedding": config.embedding.model_copy(update=embedding)})


@pytest.fixture
def paragraphs(config):
    """The sample's paragraphs on disk, train in five shards and val in two."""
    config = config.model_copy(update={"storage": config.storage.model_copy(update={"shard_rows": 40})})
    prepare_paragraphs(config)
    return ParagraphStore(config.processed_dir)


def write(store, config, split, embedder=None, overwrite=False, **embedding):
    settings = with_changes(config, **embedding).embedding
    return embed_split(store, split, embedder or HashingEmbedder(settings), settings, config.embeddings_dir, overwrite)


def exact(store, config, split):
    return encode(HashingEmbedder(config.embedding), store.read(split)["text"].to_list())


def files(config):
    return {path.name: path.read_bytes() for path in sorted(config.embeddings_dir.iterdir())}


def calibrations(config):
    """What the files say, by name."""
    shards = [open_embedding_shard(path) for path in sorted(config.embeddings_dir.glob("*.safetensors"))]
    return {shard.path.name: json.loads(shard.metadata["calibration"]) for shard in shards}


def in_manifest(config):
    """What the manifest says, as `Coding.to_json` gives it."""
    found = read_manifest(config.embeddings_dir, EmbeddingManifest)["calibration"]
    return {name: found[name] for name in ("precision", "low", "high") if name in found}


@pytest.mark.parametrize("order", list(itertools.permutations(SPLITS)), ids="-".join)
@pytest.mark.parametrize("precision", CALIBRATED)
def test_splits_made_one_after_the_other_share_one_calibration(config, paragraphs, precision, order):
    config = with_changes(config, precision=precision)
    for split in order:
        embed(config, [split])
    expected = calibrate(precision, exact(paragraphs, config, "train")).to_json()  # the largest split
    assert in_manifest(config) == expected
    found = calibrations(config)
    assert len(found) == 5 + 2 + 1
    assert all(of_file == expected for of_file in found.values())
    manifest = read_manifest(config.embeddings_dir, EmbeddingManifest)
    assert (manifest["calibration"]["split"], manifest["calibration"]["rows"]) == ("train", ROWS["train"])
    # The same code is the same value in every file, and rows are encoded with nothing else.
    coding = calibrate(precision, exact(paragraphs, config, "train"))
    for split in SPLITS:
        parts = [open_embedding_shard(config.embeddings_dir / entry["file"]).stored
                 for entry in manifest["splits"][split]["shards"]]  # fmt: skip
        np.testing.assert_array_equal(np.concatenate(parts), coding.encode(exact(paragraphs, config, split)))


@pytest.mark.parametrize("precision", CALIBRATED)
def test_splits_made_together_and_one_after_the_other_are_the_same_files(config, paragraphs, precision):
    config = with_changes(config, precision=precision)
    embed(config, SPLITS)
    together = files(config)
    shutil.rmtree(config.embeddings_dir)
    embed(config, SPLITS)
    assert files(config) == together
    shutil.rmtree(config.embeddings_dir)
    for split in SPLITS:
        embed(with_changes(config, batch_size=3, batch_tokens=500), [split])
    assert files(config) == together


@pytest.mark.parametrize("precision", CALIBRATED)
def test_the_cosines_that_are_logged_are_those_of_the_stored_vectors(config, paragraphs, precision, caplog):
    caplog.set_level("INFO")
    result = write(paragraphs, config, "train", precision=precision)
    wanted = exact(paragraphs, config, "train").astype(np.float64)
    stored = np.concatenate([open_embedding_shard(path).vectors(slice(None)) for path in result.files])
    cosines = [float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in zip(stored, wanted, strict=True)]
    assert f"Calibrating {precision} on 165 texts of train" in caplog.messages
    (line,) = [message for message in caplog.messages if "cosine" in message]
    said = re.fullmatch(rf"{precision}: cosine of stored to exact vectors ([\d.]+) or more, ([\d.]+) on average", line)
    assert float(said[1]) == pytest.approx(min(cosines), abs=1e-5)
    assert float(said[2]) == pytest.approx(np.mean(cosines), abs=1e-5)
    recorded = read_manifest(config.embeddings_dir, EmbeddingManifest)["calibration"]
    assert recorded["cosine_min"] == pytest.approx(min(cosines), abs=1e-6)
    assert recorded["cosine_mean"] == pytest.approx(np.mean(cosines), abs=1e-6)
    assert 0.99 < min(cosines) < np.mean(cosines) < 1


def test_cosines_by_hand():
    found = np.array([[1, 0], [1, 1], [0, -2], [0, 0]], dtype=np.float32)
    wanted = np.array([[3, 0], [1, 0], [0, 5], [1, 0]], dtype=np.float32)
    np.testing.assert_allclose(calibration._cosines(found, wanted), [1, np.sqrt(0.5), -1, 0], rtol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "float16", "ubinary"])
def test_what_needs_no_calibration_has_none_and_costs_nothing(config, paragraphs, precision):
    embedder = Counting(config.embedding)
    result = write(paragraphs, config, "train", embedder, precision=precision)
    assert embedder.texts == 165
    assert "calibration" not in read_manifest(config.embeddings_dir, EmbeddingManifest)
    for path in result.files:
        metadata = open_embedding_shard(path).metadata
        assert metadata["precision"] == precision
        assert "calibration" not in metadata


def test_a_calibration_is_made_once(config, paragraphs):
    first, later = Counting(config.embedding), Counting(config.embedding)
    write(paragraphs, config, "train", first, precision="int8")
    write(paragraphs, config, "val", later, precision="int8")
    write(paragraphs, config, "train", later, precision="int8")
    assert first.texts == 165 + 165
    assert later.texts == 43


def test_the_prompt_is_a_part_of_what_is_calibrated(config, paragraphs):
    write(paragraphs, config, "test", precision="int8", prompt="passage about ")
    texts = ["passage about " + text for text in paragraphs.read("train")["text"]]
    expected = calibrate("int8", encode(HashingEmbedder(config.embedding), texts)).to_json()
    assert in_manifest(config) == expected


def test_values_of_later_splits_outside_the_range_are_clipped(config, paragraphs):
    write(paragraphs, config, "test", precision="int8", normalize=False)
    (path,) = write(paragraphs, config, "val", precision="int8", normalize=False).files[:1]
    coding = open_embedding_shard(path).coding
    settings = config.embedding.model_copy(update={"normalize": False})
    wanted = encode(HashingEmbedder(settings), paragraphs.read("val")["text"].to_list()[:40])
    assert ((wanted < coding.low) | (wanted > coding.high)).any()
    step = np.maximum((coding.high - coding.low) / 255, 1e-12)
    found = open_embedding_shard(path).vectors(slice(None))
    assert (np.abs(found - np.clip(wanted, coding.low, coding.high)) <= step * 0.5001 + 1e-6).all()


# The sample


def test_the_sample_is_spread_over_the_shards_and_the_same_every_time(config, paragraphs, monkeypatch):
    shards = paragraphs.shards("train")
    everything = [paragraphs.read("train")["text"].to_list()[start : start + 40] for start in range(0, 165, 40)]
    assert calibration._sample_texts(shards) == list(itertools.chain(*everything))
    monkeypatch.setattr(calibration, "_SAMPLE_ROWS", 20)
    # Five shards, four rows of each: every tenth, and of the last one with five rows every second.
    by_hand = [text for texts in everything for text in texts[:: 10 if len(texts) == 40 else 2]]
    assert calibration._sample_texts(shards) == calibration._sample_texts(shards) == by_hand
    monkeypatch.setattr(calibration, "_SAMPLE_SHARDS", 2)
    # Every third shard: the first and the fourth, ten rows of each.
    assert calibration._sample_texts(shards) == [*everything[0][::4], *everything[3][::4]]
    assert calibration._sample_texts([]) == []


def test_the_sample_does_not_depend_on_where_a_file_s_row_groups_end(config, paragraphs, monkeypatch):
    (shard,) = paragraphs.shards("test")
    texts = paragraphs.read("test")["text"].to_list()
    monkeypatch.setattr(calibration, "_SAMPLE_ROWS", 5)
    real = type(shard).batches
    for rows in (1, 2, 4, 100):
        monkeypatch.setattr(type(shard), "batches", lambda self, columns, rows=rows: real(self, columns, rows))
        assert calibration._sample_texts([shard]) == texts[::3]


def test_a_large_split_is_sampled_not_read_into_the_model(config, paragraphs, monkeypatch):
    monkeypatch.setattr(calibration, "_SAMPLE_ROWS", 20)
    embedder = Counting(config.embedding)
    write(paragraphs, config, "train", embedder, precision="int8")
    sampled = 4 * 4 + 3
    assert embedder.texts == sampled + 165
    assert read_manifest(config.embeddings_dir, EmbeddingManifest)["calibration"]["rows"] == sampled


# Empty splits


@pytest.fixture
def lopsided(config):
    """A store whose val and test are empty."""
    split = config.split.model_copy(update={"train_ratio": 1.0, "val_ratio": 0.0, "test_ratio": 0.0})
    config = config.model_copy(update={"split": split})
    prepare_paragraphs(config)
    return config


@pytest.mark.parametrize("order", [("val", "train", "test"), ("train", "val", "test")])
@pytest.mark.parametrize("precision", CALIBRATED)
def test_an_empty_split_neither_fails_nor_decides_the_calibration(lopsided, precision, order):
    config = with_changes(lopsided, precision=precision)
    store = ParagraphStore(config.processed_dir)
    for split in order:
        embed(config, [split])
    expected = calibrate(precision, exact(store, config, "train"))
    assert in_manifest(config) == expected.to_json()
    train = open_embedding_shard(config.get_embeddings_path("train"))
    np.testing.assert_array_equal(train.stored, expected.encode(exact(store, config, "train")))
    for split in ("val", "test"):
        shard = open_embedding_shard(config.get_embeddings_path(split))
        assert shard.vectors(slice(None)).shape == (0, 256)
    before = files(config)
    assert all(result.skipped for result in embed(config, SPLITS).embeddings.values())
    assert files(config) == before


# Other settings


def test_a_folder_calibrated_for_other_settings_is_refused_and_replaced_on_request(config, paragraphs):
    write(paragraphs, config, "train", precision="int8")
    before = files(config)
    with pytest.raises(StaleStageError) as error:
        write(paragraphs, config, "val", precision="int8", dim=64)
    said = str(error.value)
    assert said.startswith(f"{config.embeddings_dir} is calibrated for int8 vectors of other settings")
    assert "--overwrite" in said
    assert "embedding.variant" in said
    with pytest.raises(StaleStageError, match="is calibrated for int8 vectors of other settings"):
        write(paragraphs, config, "val", precision="float8")
    with pytest.raises(StaleStageError, match="dim was '256', now '64'"):
        write(paragraphs, config, "train", precision="int8", dim=64)
    assert files(config) == before
    write(paragraphs, config, "val", precision="int8", dim=64, overwrite=True)
    small = with_changes(config, dim=64)
    assert in_manifest(config) == calibrate("int8", exact(paragraphs, small, "train")).to_json()
    # What was made before has its own calibration, and can be read as before.
    path = config.embeddings_dir / "train_embeddings-00000-of-00005.safetensors"
    assert path.read_bytes() == before[path.name]
    found = open_embedding_shard(path).vectors(slice(None))
    assert np.abs(found - exact(paragraphs, config, "train")[:40]).max() < 0.01


@pytest.mark.parametrize(
    ("older", "newer"), [("int8", "int8"), ("int8", "float8"), ("int8", "float32"), ("ubinary", "int8")]
)
def test_overwriting_everything_leaves_what_a_fresh_folder_gets(config, paragraphs, older, newer):
    newer = with_changes(config, dim=64, precision=newer)
    embed(newer, SPLITS)
    wanted = files(config)
    shutil.rmtree(config.embeddings_dir)
    embed(with_changes(config, precision=older), SPLITS)
    embed(newer, SPLITS, overwrite=True)
    assert files(config) == wanted


def test_variants_have_calibrations_of_their_own(config, paragraphs):
    embed(with_changes(config, precision="int8"), ["train"])
    small = with_changes(config, precision="int8", dim=64, variant="d64")
    embed(small, ["val"])
    assert in_manifest(config)["low"] != in_manifest(small)["low"]
    assert len(in_manifest(small)["low"]) == 64


def test_dimensions_that_do_not_fill_bytes_are_refused_before_anything_is_computed(config, paragraphs):
    embedder = Counting(config.embedding.model_copy(update={"dim": 100}))
    with pytest.raises(ConfigError, match="ubinary stores 8 dimensions in a byte, and 100 is no multiple"):
        write(paragraphs, config, "train", embedder, precision="ubinary", dim=100)
    assert embedder.texts == 0
    assert files(config) == {}


# Interruptions and damage


@pytest.mark.parametrize("precision", CALIBRATED)
@pytest.mark.parametrize("enough", [0, 64, 165, 165 + 16, 165 + 64])
def test_interrupted_anywhere_it_goes_on_to_the_same_bytes(config, paragraphs, precision, enough):
    """While it calibrates, between that and the first row, among the rows, between two shards."""
    config = with_changes(config, precision=precision, flush_s=1e-9, batch_size=8)
    embed(config, SPLITS)
    undisturbed = files(config)
    shutil.rmtree(config.embeddings_dir)
    with pytest.raises(KeyboardInterrupt):
        write(paragraphs, config, "train", Counting(config.embedding, enough))
    calibrated = enough >= 165
    assert ("manifest.json" in files(config)) == calibrated
    if calibrated:
        manifest = read_manifest(config.embeddings_dir, EmbeddingManifest)
        assert manifest["splits"] == {}
        assert manifest["calibration"]["rows"] == 165
    embedder = Counting(config.embedding)
    write(paragraphs, config, "train", embedder)
    assert embedder.texts == 165 + (165 if not calibrated else 165 - enough)
    embed(config, SPLITS)
    assert files(config) == undisturbed


@pytest.mark.parametrize(
    "damage",
    [
        lambda found: found.pop("low"),
        lambda found: found["high"].pop(),
        lambda found: found.update(low=None),
        lambda found: found["low"].__setitem__(0, 1e300),
        lambda found: found.update(precision="float8"),
    ],
)
def test_a_damaged_calibration_is_refused_and_made_anew_on_request(config, paragraphs, damage):
    write(paragraphs, config, "train", precision="int8")
    manifest = read_manifest(config.embeddings_dir, EmbeddingManifest)
    damage(manifest["calibration"])
    write_manifest(config.embeddings_dir, manifest)
    with pytest.raises(CorruptShardError, match=r"manifest\.json holds int8.*--overwrite"):
        write(paragraphs, config, "val", precision="int8")
    write(paragraphs, config, "val", precision="int8", overwrite=True)
    assert in_manifest(config) == calibrate("int8", exact(paragraphs, config, "train")).to_json()


def test_a_lost_manifest_is_made_again_from_the_same_texts(config, paragraphs):
    config = with_changes(config, precision="int8")
    embed(config, SPLITS)
    before = files(config)
    (config.embeddings_dir / "manifest.json").unlink()
    embedder = Counting(config.embedding)
    write(paragraphs, config, "train", embedder)
    assert embedder.texts == 165  # for the calibration; the rows are there
    embed(config, SPLITS)
    assert files(config) == before


def test_without_its_manifest_a_folder_is_calibrated_alike_and_its_files_are_taken(config, paragraphs):
    write(paragraphs, config, "test", precision="int8")
    before = files(config)
    (config.embeddings_dir / "manifest.json").unlink()
    write(paragraphs, config, "train", precision="int8")
    write(paragraphs, config, "test", precision="int8")
    assert files(config)["test_embeddings.safetensors"] == before["test_embeddings.safetensors"]
    assert set(map(json.dumps, calibrations(config).values())) == {json.dumps(in_manifest(config))}


def test_a_folder_calibrated_on_other_texts_is_refused_and_calibrated_anew_on_request(config, paragraphs):
    write(paragraphs, config, "val", precision="int8")
    grown = config.model_copy(update={"preprocess": config.preprocess.model_copy(update={"min_tokens": 80})})
    prepare_paragraphs(grown, overwrite=True)
    store = ParagraphStore(config.processed_dir)
    with pytest.raises(StaleStageError, match="is calibrated for int8 vectors of other settings or texts"):
        write(store, config, "train", precision="int8")
    write(store, config, "train", precision="int8", overwrite=True)
    assert in_manifest(config) == calibrate("int8", exact(store, config, "train")).to_json()


def test_few_texts_to_calibrate_on_are_warned_of(config, paragraphs, monkeypatch, caplog):
    monkeypatch.setattr(calibration, "_FEW_ROWS", 166)
    write(paragraphs, config, "val", precision="int8")
    assert "int8: 165 texts are few to calibrate on; check the cosines of other splits" in caplog.messages
