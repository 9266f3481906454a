import json
import random
import shutil

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from data_pipeline import ELMDataset, verify
from data_pipeline.config import Config, CorpusConfig, EmbeddingConfig, PreprocessConfig, StorageConfig
from data_pipeline.errors import CorruptShardError, NotFoundError
from data_pipeline.stages.pipeline import embed, prepare_paragraphs, run
from data_pipeline.store import open_embedding_shard, read_manifest, write_manifest
from data_pipeline.store.manifest import EmbeddingManifest
from data_pipeline.utils import sha256_of_file


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clean")
    config = Config(
        data_dir=folder / "data",
        logs_dir=folder / "logs",
        corpus=CorpusConfig(source="sample", name="sample"),
        preprocess=PreprocessConfig(min_tokens=60),
        storage=StorageConfig(shard_rows=100),
        embedding=EmbeddingConfig(model_name="hashing"),
    )
    run(config)
    return config


@pytest.fixture
def damaged(clean, tmp_path):
    """The config of a copy that a test may damage."""
    shutil.copytree(clean.data_dir, tmp_path / "data")
    return clean.model_copy(update={"data_dir": tmp_path / "data"})


def faults(config):
    return "\n".join(verify(config)[1])


def flip(path, place, bits=0xFF):
    content = bytearray(path.read_bytes())
    content[place] ^= bits
    path.write_bytes(content)


def vectors(path):
    """What a file stores of its vectors, to be written into."""
    shard = open_embedding_shard(path)
    return np.memmap(path, shard.coding.dtype, "r+", shard.offset, shard.stored.shape)


def test_a_clean_store_has_no_faults(clean):
    good, bad = verify(clean)
    assert bad == []
    assert good == [
        "train: 165 paragraphs: hashes, counts, columns and ids",
        "val: 43 paragraphs: hashes, counts, columns and ids",
        "test: 14 paragraphs: hashes, counts, columns and ids",
        "train_embeddings-00000-of-00002.safetensors: 100 vectors: hashes, alignment, finiteness and norms",
        "train_embeddings-00001-of-00002.safetensors: 65 vectors: hashes, alignment, finiteness and norms",
        "val_embeddings.safetensors: 43 vectors: hashes, alignment, finiteness and norms",
        "test_embeddings.safetensors: 14 vectors: hashes, alignment, finiteness and norms",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "sample_processed/train-00001-of-00002.parquet",
        "sample_processed/test.parquet",
        "embeddings/train_embeddings-00000-of-00002.safetensors",
        "embeddings/test_embeddings.safetensors",
    ],
)
def test_a_flipped_byte_is_found_wherever_it_is_and_named(damaged, name):
    path = damaged.data_dir / name
    whole = path.read_bytes()
    generator = random.Random(name)
    places = {0, 8, len(whole) - 1, len(whole) - 6, *(generator.randrange(len(whole)) for _ in range(16))}
    for place in sorted(places):
        flip(path, place, 0xFF if place % 2 else 0x01)
        assert path.parent.name in faults(damaged), place
        path.write_bytes(whole)


@pytest.mark.parametrize("folder", ["sample_processed", "embeddings"])
def test_an_altered_manifest_is_found(damaged, folder):
    path = damaged.data_dir / folder / "manifest.json"
    content = json.loads(path.read_text())
    settings = content["settings"] if "settings" in content else content["splits"]["val"]["settings"]
    settings["dim" if folder == "embeddings" else "tokenizer"] = "other"
    path.write_text(json.dumps(content))
    assert f"{path}: " in faults(damaged)
    assert "do not match their fingerprint" in faults(damaged)
    path.write_text(path.read_text()[:-10])
    assert f"{path} cannot be read" in faults(damaged)


def test_another_number_of_rows_is_found(damaged):
    path = damaged.processed_dir / "train-00000-of-00002.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    assert "train-00000-of-00002.parquet does not match manifest.json: found 99 rows" in faults(damaged)


def test_a_missing_file_is_found(damaged):
    (damaged.embeddings_dir / "val_embeddings.safetensors").unlink()
    assert "val_embeddings.safetensors" in faults(damaged)
    (damaged.processed_dir / "val.parquet").unlink()
    assert "val.parquet is missing or damaged" in faults(damaged)


def test_swapped_files_are_found(damaged):
    first, second = (damaged.embeddings_dir / f"{split}_embeddings.safetensors" for split in ("val", "test"))
    first.rename(damaged.data_dir / "x")
    second.rename(first)
    (damaged.data_dir / "x").rename(second)
    found = faults(damaged)
    for split in ("val", "test"):
        assert f"{split}_embeddings.safetensors was not made from" in found
        assert f"{split}_embeddings.safetensors: checksum mismatch with manifest.json" in found


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_a_row_without_a_direction_is_found_even_where_the_hash_was_made_to_fit(damaged, value):
    path = damaged.embeddings_dir / "val_embeddings.safetensors"
    vectors(path)[7] = value
    rehash(path)
    assert faults(damaged) == f"{path}: 1 vectors are not finite or not of length 1, the first is row 7"


@pytest.mark.parametrize("factor", [1.001, 0.999, 2.0])
def test_a_wrong_length_is_found(damaged, factor):
    path = damaged.embeddings_dir / "train_embeddings-00001-of-00002.safetensors"
    vectors(path)[64] *= factor
    rehash(path)
    assert faults(damaged) == f"{path}: 1 vectors are not finite or not of length 1, the first is row 64"


def rehash(path):
    """Make the manifest speak of the file as it is now."""
    manifest = path.parent / "manifest.json"
    content = json.loads(manifest.read_text())
    for split in content["splits"].values():
        for shard in split["shards"]:
            if shard["file"] == path.name:
                shard |= {"sha256": sha256_of_file(path), "bytes": path.stat().st_size}
    manifest.write_text(json.dumps(content))


@pytest.mark.parametrize("change", ["a row less", "a row more", "another reason"])
def test_an_altered_list_of_dropped_paragraphs_is_found(damaged, change):
    path = damaged.processed_dir / "dropped.parquet"
    rows = pl.read_parquet(path)
    altered = {
        "a row less": rows.head(-1),
        "a row more": pl.concat([rows, rows.head(1)]),
        "another reason": rows.with_columns(reason=pl.lit("because")),
    }[change]
    altered.write_parquet(path)
    assert "dropped" in faults(damaged)


@pytest.mark.parametrize("change", ["other bytes", "no file"])
def test_altered_examples_of_dropped_paragraphs_are_found(damaged, change):
    path = damaged.processed_dir / "dropped_examples.parquet"
    content = path.read_bytes()
    path.unlink()
    if change == "other bytes":
        path.write_bytes(content[:-9] + b"x" + content[-8:])
    expected = {"other bytes": "checksum mismatch with manifest.json", "no file": "no such file"}[change]
    assert f"{path}: {expected}" in faults(damaged)


def test_a_wrong_count_of_characters_is_found(damaged):
    path = damaged.processed_dir / "val.parquet"
    metadata = pq.read_metadata(path).metadata
    rows = pl.read_parquet(path).with_columns(pl.col("char_count") + 1)
    pq.write_table(rows.to_arrow().replace_schema_metadata(metadata), path)
    rehash(path)
    assert f"{path}: char_count is wrong for 43 rows, the first is {rows['text_id'][0]}" in faults(damaged)


def test_an_id_in_two_splits_is_found(damaged):
    source, target = damaged.processed_dir / "val.parquet", damaged.processed_dir / "test.parquet"
    shutil.copy(source, target)
    assert "test.parquet does not match manifest.json" in faults(damaged)


def test_embeddings_of_another_corpus_are_found(damaged):
    shutil.copytree(damaged.processed_dir, damaged.data_dir / "other_processed")
    other = damaged.model_copy(update={"corpus": damaged.corpus.model_copy(update={"name": "other"})})
    assert "the embeddings of train belong to the corpus sample, expected other" in faults(other)


def test_paragraphs_without_embeddings_are_in_order(damaged):
    shutil.rmtree(damaged.embeddings_dir)
    good, bad = verify(damaged)
    assert (len(good), bad) == (3, [])


def test_an_older_directory_cannot_be_verified_and_says_so(damaged):
    (damaged.processed_dir / "manifest.json").unlink()
    assert "has no manifest: an older pipeline wrote it, and it cannot be verified" in faults(damaged)


def test_nothing_there_is_no_corpus_in_order(clean, tmp_path):
    with pytest.raises(NotFoundError, match="No paragraphs in "):
        faults(clean.model_copy(update={"data_dir": tmp_path}))
    other = clean.embedding.model_copy(update={"variant": "other"})
    with pytest.raises(NotFoundError, match=r"embedding.variant 'other': no folder"):
        faults(clean.model_copy(update={"embedding": other}))


# Vectors that are stored in a quarter or less of the bytes


@pytest.fixture(scope="module", params=["float16", "float8", "int8", "ubinary"])
def small_clean(request, clean, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    shutil.copytree(clean.processed_dir, folder / "sample_processed")
    embedding = clean.embedding.model_copy(update={"precision": request.param})
    config = clean.model_copy(update={"data_dir": folder, "embedding": embedding})
    embed(config, ["train", "val", "test"])
    return config


@pytest.fixture
def small(small_clean, tmp_path):
    """The config of a copy that a test may damage."""
    shutil.copytree(small_clean.data_dir, tmp_path / "data")
    return small_clean.model_copy(update={"data_dir": tmp_path / "data"})


def test_small_vectors_have_no_faults(small_clean):
    good, bad = verify(small_clean)
    assert bad == []
    assert len(good) == 7
    assert good[-1] == "test_embeddings.safetensors: 14 vectors: hashes, alignment, finiteness and norms"


def test_a_flipped_byte_among_small_vectors_is_found_wherever_it_is_and_named(small):
    path = small.embeddings_dir / "train_embeddings-00001-of-00002.safetensors"
    whole = path.read_bytes()
    offset = open_embedding_shard(path).offset
    generator = random.Random(small.embedding.precision)
    places = {0, 8, offset - 1, offset, len(whole) - 1}  # the length, the header, its filler, the first and last code
    places |= {whole.index(b"precision") + 15, *(generator.randrange(offset, len(whole)) for _ in range(4))}
    if b'"calibration"' in whole:
        places.add(whole.index(b'"calibration"') + 60)
    for place in sorted(places):
        flip(path, place, 0x01)
        assert str(path) in faults(small), place
        path.write_bytes(whole)
    assert faults(small) == ""


@pytest.mark.parametrize("small_clean", ["float16", "float8"], indirect=True)  # other codes all have a direction
def test_codes_of_a_row_without_a_direction_are_found_even_where_the_hash_was_made_to_fit(small):
    path = small.embeddings_dir / "val_embeddings.safetensors"
    vectors(path)[7] = 0
    rehash(path)
    assert faults(small) == f"{path}: 1 vectors are not finite or not of length 1, the first is row 7"
    if small.embedding.precision == "float8":
        vectors(path)[7] = 0x7F  # not a number
        rehash(path)
        assert faults(small) == f"{path}: 1 vectors are not finite or not of length 1, the first is row 7"


@pytest.mark.parametrize("small_clean", ["float8", "int8"], indirect=True)
@pytest.mark.parametrize("where", ["manifest.json", "test_embeddings.safetensors"])
def test_a_calibration_that_is_not_that_of_all_the_others_is_found(small, where):
    path = small.embeddings_dir / where
    if where == "manifest.json":
        manifest = read_manifest(small.embeddings_dir, EmbeddingManifest)
        manifest["calibration"]["high"][0] *= 2
        write_manifest(small.embeddings_dir, manifest)
    else:
        content = path.read_bytes()
        place = content.index(b"]}", content.index(b"high")) - 1  # the last digit of the last number
        flip(path, place, 0x01)
        rehash(path)
        assert open_embedding_shard(path).coding.high is not None
    named = (
        sorted(path.name for path in small.embeddings_dir.glob("*.safetensors"))
        if where == "manifest.json"
        else [where]
    )
    found = sorted(faults(small).splitlines())
    assert found == [
        f"{small.embeddings_dir / name}: its calibration differs from that of manifest.json" for name in named
    ]


def test_splits_that_were_calibrated_for_other_settings_are_in_order(small):
    embedding = small.embedding.model_copy(update={"dim": 64})
    embed(small.model_copy(update={"embedding": embedding}), ["val"], overwrite=True)
    assert faults(small) == ""


def test_a_split_without_rows_needs_no_calibration_to_be_in_order(clean, tmp_path):
    changes = {
        "data_dir": tmp_path / "data",
        "split": clean.split.model_copy(update={"train_ratio": 1.0, "val_ratio": 0.0, "test_ratio": 0.0}),
        "embedding": clean.embedding.model_copy(update={"precision": "int8"}),
    }
    config = clean.model_copy(update=changes)
    prepare_paragraphs(config)
    for split in ("val", "train", "test"):
        embed(config, [split])
    assert faults(config) == ""


# Levels


def test_the_size_level_looks_at_files_and_headers_only(damaged):
    good, bad = verify(damaged, "size")
    assert bad == []
    assert len(good) == 4 + 4  # four files each: train has two
    path = damaged.embeddings_dir / "val_embeddings.safetensors"
    flip(path, -5)
    assert verify(damaged, "size")[1] == []
    assert f"{path}: checksum mismatch with manifest.json" in faults(damaged)
    path.write_bytes(path.read_bytes() + b"x")
    assert f"{path} has {path.stat().st_size} bytes" in "\n".join(verify(damaged, "size")[1])


def test_the_size_level_finds_a_file_of_other_paragraphs(damaged):
    first, second = (damaged.processed_dir / f"{split}.parquet" for split in ("val", "test"))
    first.rename(damaged.data_dir / "x")
    second.rename(first)
    (damaged.data_dir / "x").rename(second)
    found = verify(damaged, "size")[1]
    assert len(found) == 2
    assert all("does not match manifest.json" in line for line in found)


def test_a_file_of_another_model_is_found_though_all_its_rows_are_right(damaged):
    other = damaged.model_copy(
        update={"embedding": damaged.embedding.model_copy(update={"variant": "other", "max_length": 77})}
    )
    embed(other, ("val",))
    path = damaged.embeddings_dir / "val_embeddings.safetensors"
    shutil.copy(other.embeddings_dir / path.name, path)
    found = "\n".join(verify(damaged, "size")[1])
    assert f"{path} was made with max_length '77', manifest.json expects '8192'" in found


def test_only_the_canary_finds_vectors_that_were_permuted_before_they_were_hashed(damaged):
    assert [line for line in verify(damaged, "canary")[0] if "embedded again" in line]
    path = damaged.embeddings_dir / "val_embeddings.safetensors"
    stored = vectors(path)
    stored[:] = np.roll(stored, 1, axis=0)
    stored.flush()
    rehash(path)
    assert verify(damaged)[1] == []
    (found,) = verify(damaged, "canary")[1]
    assert f"{damaged.embeddings_dir}: 43 of 43 rows of val do not have the vector of their text" in found
    assert "--overwrite" in found


def test_a_damaged_copy_of_the_texts_is_found(damaged):
    dataset = ELMDataset(damaged.data_dir, "val")
    text = dataset[7]["text"]
    (copy,) = (damaged.processed_dir / ".cache").glob("val.*.arrow")
    content = copy.read_bytes()
    copy.write_bytes(content.replace(text.encode(), text.swapcase().encode()))
    with pytest.raises(
        CorruptShardError, match=f"{copy.name}: its ids or texts differ from those of val.parquet. Delete it"
    ):
        dataset.verify("hash")
    copy.unlink()
    assert dataset.verify("hash")[-1].startswith("val_embeddings.safetensors: 43 vectors")


def test_an_unknown_level_is_refused(damaged):
    with pytest.raises(ValueError, match="level must be one of size, hash, reembed; got 'deep'"):
        ELMDataset(damaged.data_dir, "val").verify("deep")
