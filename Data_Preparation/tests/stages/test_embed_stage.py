import json
import os
import shutil
import struct
import threading
import zlib
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
from support.counting_embedder import Counting

from data_pipeline.config import CorpusConfig, EmbeddingConfig
from data_pipeline.embeddings import HashingEmbedder, encode
from data_pipeline.embeddings.autotune import Tuned
from data_pipeline.errors import ModelError, ShardMismatchError, StaleStageError, StoreError
from data_pipeline.stages.embed import embed_split
from data_pipeline.stages.pipeline import embed, prepare_paragraphs
from data_pipeline.store import ParagraphStore, read_manifest, write_manifest
from data_pipeline.store.manifest import EmbeddingManifest
from data_pipeline.store.paragraphs import ParagraphWriter, paragraph_schema
from data_pipeline.types import SPLITS


@pytest.fixture
def paragraphs(config):
    """The sample's paragraphs on disk: 165 train, 43 val, 14 test."""
    prepare_paragraphs(config)
    return ParagraphStore(config.processed_dir)


def write(store, config, split="train", embedder=None, **changes):
    settings = config.embedding.model_copy(update=changes)
    overwrite = changes.pop("overwrite", False)
    return embed_split(store, split, embedder or HashingEmbedder(settings), settings, config.embeddings_dir, overwrite)


def names(folder):
    """Files of the present version."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".versions")


def store_of(config, texts, shard_rows=1_000_000, tokenizer=None, counts=None):
    """Paragraphs on disk with these texts as train, and with empty splits beside it."""
    config.processed_dir.mkdir(parents=True)
    entries = {}
    for split in SPLITS:
        writer = ParagraphWriter(config.processed_dir, split, paragraph_schema({}), shard_rows)
        some = texts if split == "train" else []
        columns = {name: [name] * len(some) for name in writer._schema.names}
        columns |= {
            "text_id": [f"id-{row}" for row in range(len(some))],
            "text": some,
            "token_count": [(counts or {}).get(row, len(text.split())) for row, text in enumerate(some)],
            "char_count": [len(text) for text in some],
        }
        writer.write(pa.table(columns, schema=writer._schema))
        entries[split] = {"shards": [entry.to_json() for entry in writer.close()]}
    settings = {"tokenizer": tokenizer}
    write_manifest(config.processed_dir, {"fingerprint": "", "settings": settings, "upstream": "", "splits": entries})
    return ParagraphStore(config.processed_dir)


def vectors_of(result):
    return np.concatenate([load_file(path)["embeddings"] for path in result.files])


def test_every_row_gets_the_vector_of_its_text(config, paragraphs):
    result = write(paragraphs, config)
    assert (result.rows, result.dim, result.skipped) == (165, 256, False)
    vectors = load_file(config.get_embeddings_path("train"))["embeddings"]
    texts = paragraphs.read("train")["text"].to_list()
    np.testing.assert_array_equal(vectors, encode(HashingEmbedder(config.embedding), texts))


def test_the_file_opens_with_safetensors_and_says_everything_as_strings(config, paragraphs):
    write(paragraphs, config, "test")
    with safe_open(config.get_embeddings_path("test"), "numpy") as file:
        metadata = file.metadata()
        assert list(file.keys()) == ["embeddings"]
        assert file.get_tensor("embeddings").shape == (14, 256)
    (shard,) = paragraphs.shards("test")
    assert metadata == {
        "model": "hashing",
        "revision": "2",
        "pooling": "mean",
        "normalized": "true",
        "dtype": "float32",
        "dim": "256",
        "max_length": "8192",
        "prompt": "",
        "tokenizer": HashingEmbedder(config.embedding).identity.tokenizer,
        "attention": "none",
        "precision": "float32",
        "split": "test",
        "package_version": version("elm-data-preparation"),
        "ids_sha256": shard.ids_sha256,
        "texts_sha256": shard.texts_sha256,
    }


def test_the_manifest_speaks_of_every_split_that_was_made(config, paragraphs):
    write(paragraphs, config, "val")
    write(paragraphs, config, "test")
    splits = read_manifest(config.embeddings_dir, EmbeddingManifest)["splits"]
    assert {split: (entry["rows"], entry["dim"], entry["corpus"]) for split, entry in splits.items()} == {
        "val": (43, 256, "sample"),
        "test": (14, 256, "sample"),
    }


def test_finished_work_is_skipped_without_calling_the_model(config, paragraphs):
    write(paragraphs, config)
    before = config.get_embeddings_path("train").stat().st_mtime_ns
    embedder = Counting(config.embedding)
    assert write(paragraphs, config, embedder=embedder).skipped
    assert write(paragraphs, config, embedder=embedder, overwrite=True).skipped
    assert embedder.texts == 0
    assert config.get_embeddings_path("train").stat().st_mtime_ns == before


def test_batch_size_and_flushing_are_not_part_of_what_was_made(config, paragraphs):
    write(paragraphs, config)
    assert write(paragraphs, config, batch_size=3, batch_tokens=100, flush_s=1.0, device="cpu").skipped


def test_an_interrupted_run_goes_on_where_it_stopped(config, paragraphs):
    often = {"flush_s": 1e-9}
    first = Counting(config.embedding, enough=100)
    with pytest.raises(KeyboardInterrupt):
        write(paragraphs, config, embedder=first, **often)
    assert first.texts == 96  # six batches of 16
    assert names(config.embeddings_dir) == [
        ".train_embeddings.safetensors.partial",
        ".train_embeddings.safetensors.progress",
    ]
    second = Counting(config.embedding)
    write(paragraphs, config, embedder=second, **often)
    assert second.texts == 165 - 96
    interrupted = config.get_embeddings_path("train").read_bytes()
    shutil.rmtree(config.embeddings_dir)
    write(paragraphs, config)
    assert config.get_embeddings_path("train").read_bytes() == interrupted
    assert names(config.embeddings_dir) == ["manifest.json", "train_embeddings.safetensors"]


def test_unfinished_work_of_other_settings_is_not_gone_on_with(config, paragraphs):
    with pytest.raises(KeyboardInterrupt):
        write(paragraphs, config, embedder=Counting(config.embedding, enough=100), flush_s=1e-9)
    with pytest.raises(StaleStageError, match=r"is unfinished work made with other settings.*--overwrite to discard"):
        write(paragraphs, config, dim=64)
    assert write(paragraphs, config, dim=64, overwrite=True).dim == 64


def test_stale_settings_are_named_with_both_values_and_the_way_out(config, paragraphs):
    write(paragraphs, config, dim=64)
    with pytest.raises(StaleStageError) as error:
        write(paragraphs, config, dim=32, normalize=False)
    message = str(error.value)
    assert "dim was '64', now '32'" in message
    assert "normalized was 'true', now 'false'" in message
    assert "--overwrite" in message
    assert "embedding.variant" in message
    assert load_file(config.get_embeddings_path("train"))["embeddings"].shape == (165, 64)
    assert write(paragraphs, config, dim=32, normalize=False, overwrite=True).dim == 32


def test_changed_paragraphs_make_embeddings_stale(config, paragraphs):
    write(paragraphs, config)
    changed = config.model_copy(update={"preprocess": config.preprocess.model_copy(update={"min_tokens": 150})})
    prepare_paragraphs(changed, overwrite=True)
    store = ParagraphStore(config.processed_dir)
    with pytest.raises(StaleStageError, match="the paragraphs it was made from have changed"):
        write(store, config)
    assert write(store, config, overwrite=True).rows == len(store.read("train")) < 165


def test_a_file_no_manifest_speaks_of_is_not_overwritten(config, paragraphs):
    path = config.get_embeddings_path("train")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    with pytest.raises(StaleStageError, match=r"exists and was not made with these settings"):
        write(paragraphs, config)
    assert path.read_bytes() == b"mine"
    write(paragraphs, config, overwrite=True)
    assert load_file(path)["embeddings"].shape == (165, 256)


def test_a_finished_file_whose_manifest_was_lost_is_not_made_again(config, paragraphs):
    write(paragraphs, config)
    manifest = (config.embeddings_dir / "manifest.json").read_bytes()
    (config.embeddings_dir / "manifest.json").unlink()
    embedder = Counting(config.embedding)
    write(paragraphs, config, embedder=embedder)
    assert embedder.texts == 0
    assert (config.embeddings_dir / "manifest.json").read_bytes() == manifest


@pytest.mark.parametrize("changes", [{"prompt": "passage: "}, {"precision": "float16"}, {"normalize": False}])
def test_a_finished_file_of_other_settings_is_not_taken_though_its_manifest_was_lost(config, paragraphs, changes):
    write(paragraphs, config, "test")
    before = config.get_embeddings_path("test").read_bytes()
    (config.embeddings_dir / "manifest.json").unlink()
    with pytest.raises(StaleStageError, match="exists and was not made with these settings"):
        write(paragraphs, config, "test", **changes)
    assert config.get_embeddings_path("test").read_bytes() == before
    write(paragraphs, config, "test", overwrite=True, **changes)
    found = config.get_embeddings_path("test").read_bytes()
    shutil.rmtree(config.embeddings_dir)
    write(paragraphs, config, "test", **changes)
    assert config.get_embeddings_path("test").read_bytes() == found != before


@pytest.mark.parametrize("keep", [0, 5, 4000, -1])
def test_a_truncated_file_is_made_again(config, paragraphs, keep):
    write(paragraphs, config)
    path = config.get_embeddings_path("train")
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    write(paragraphs, config)
    assert path.read_bytes() == whole


def test_an_altered_file_is_made_again_with_overwrite(config, paragraphs):
    write(paragraphs, config)
    path = config.get_embeddings_path("train")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"\x01")
    assert not write(paragraphs, config, overwrite=True).skipped
    assert path.read_bytes() == whole


def sharded(config, rows):
    return config.model_copy(update={"storage": config.storage.model_copy(update={"shard_rows": rows})})


def test_several_shards_hold_the_rows_of_one_file(config, paragraphs):
    write(paragraphs, config)
    whole = load_file(config.get_embeddings_path("train"))["embeddings"]
    prepare_paragraphs(sharded(config, 60), overwrite=True)
    store = ParagraphStore(config.processed_dir)
    result = write(store, config, overwrite=True)
    assert [path.name for path in result.files] == [
        "train_embeddings-00000-of-00003.safetensors",
        "train_embeddings-00001-of-00003.safetensors",
        "train_embeddings-00002-of-00003.safetensors",
    ]
    # The file of the time before the shards is gone, and the other way round below.
    assert names(config.embeddings_dir) == ["manifest.json", *(path.name for path in result.files)]
    parts = [load_file(path)["embeddings"] for path in result.files]
    assert [len(part) for part in parts] == [60, 60, 45]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    prepare_paragraphs(config, overwrite=True)
    write(ParagraphStore(config.processed_dir), config, overwrite=True)
    assert names(config.embeddings_dir) == ["manifest.json", "train_embeddings.safetensors"]


def test_unfinished_shards_of_another_number_are_swept(config, paragraphs):
    prepare_paragraphs(sharded(config, 60), overwrite=True)
    with pytest.raises(KeyboardInterrupt):
        write(ParagraphStore(config.processed_dir), config, embedder=Counting(config.embedding, 100), flush_s=1e-9)
    prepare_paragraphs(config, overwrite=True)
    write(ParagraphStore(config.processed_dir), config, overwrite=True)
    assert names(config.embeddings_dir) == ["manifest.json", "train_embeddings.safetensors"]


def test_another_split_is_left_alone_by_the_sweep(config, paragraphs):
    write(paragraphs, config, "test")
    write(paragraphs, config, "train")
    assert names(config.embeddings_dir) == [
        "manifest.json", "test_embeddings.safetensors", "train_embeddings.safetensors",
    ]  # fmt: skip


def test_an_empty_split_gets_an_empty_tensor(config):
    split = config.split.model_copy(update={"train_ratio": 1.0, "val_ratio": 0.0, "test_ratio": 0.0})
    config = config.model_copy(update={"split": split})
    prepare_paragraphs(config)
    store = ParagraphStore(config.processed_dir)
    assert write(store, config, "val").rows == 0
    with safe_open(config.get_embeddings_path("val"), "numpy") as file:
        assert file.get_tensor("embeddings").shape == (0, 256)
    assert write(store, config, "val").skipped


def test_a_variant_has_a_folder_of_its_own(config, paragraphs):
    embed(config, ["test"])
    small = config.model_copy(update={"embedding": config.embedding.model_copy(update={"dim": 32, "variant": "d32"})})
    embed(small, ["test"])
    root = config.data_dir / "embeddings"
    assert load_file(root / "test_embeddings.safetensors")["embeddings"].shape == (14, 256)
    assert load_file(root / "d32" / "test_embeddings.safetensors")["embeddings"].shape == (14, 32)


def test_vectors_can_be_stored_in_half_precision(config, paragraphs):
    write(paragraphs, config, precision="float16")
    stored = load_file(config.get_embeddings_path("train"))["embeddings"]
    texts = paragraphs.read("train")["text"].to_list()
    assert stored.dtype == np.float16
    np.testing.assert_array_equal(stored, encode(HashingEmbedder(config.embedding), texts).astype(np.float16))


def test_vectors_beyond_half_precision_are_refused_not_stored_as_infinite(config, paragraphs):
    class Large(HashingEmbedder):
        def forward(self, texts, dtype=None):
            return super().forward(texts, dtype) * 1e6

    settings = config.embedding.model_copy(update={"normalize": False, "precision": "float16"})
    with pytest.raises(ModelError, match=r"too large for float16. Set embedding.precision to float32"):
        write(paragraphs, config, embedder=Large(settings), normalize=False, precision="float16")


def test_the_same_settings_give_the_same_bytes(config, paragraphs):
    write(paragraphs, config)
    first = {name: (config.embeddings_dir / name).read_bytes() for name in names(config.embeddings_dir)}
    shutil.rmtree(config.embeddings_dir)
    write(paragraphs, config)
    assert {name: (config.embeddings_dir / name).read_bytes() for name in names(config.embeddings_dir)} == first


def test_truncated_texts_are_counted_also_when_the_work_was_done_before(config, paragraphs):
    counts = paragraphs.read("train")["token_count"]
    expected = int((counts > 150).sum())
    assert 0 < expected < 165
    assert write(paragraphs, config, max_length=150).tally.truncated == expected
    assert write(paragraphs, config, max_length=150).tally.truncated == expected
    manifest = json.loads((config.embeddings_dir / "manifest.json").read_text())
    assert manifest["splits"]["train"]["truncated"] == expected


def test_paragraphs_of_the_older_pipeline_are_embedded_too(config, tmp_path):
    folder = config.data_dir / "old_processed"
    folder.mkdir(parents=True)
    rows = {"text_id": ["a", "b"], "text": ["one two", "three"], "token_count": [7, 9], "char_count": [7, 5]}
    for split in ("train", "val", "test"):
        pl.DataFrame(rows).write_parquet(folder / f"{split}.parquet")
    config = config.model_copy(update={"corpus": CorpusConfig(source="sample", name="old")})
    # Its counts are another tokenizer's, so they are not compared.
    assert embed(config, ["train"]).embeddings["train"].rows == 2


def test_no_paragraphs_says_what_to_run(config):
    with pytest.raises(StoreError, match=r"No paragraphs in .*\. Run `elm run` first"):
        embed(config, ["train"])


def test_a_prompt_is_put_before_every_document(config, paragraphs):
    write(paragraphs, config, "test", prompt="passage: ")
    settings = EmbeddingConfig(model_name="hashing")
    texts = ["passage: " + text for text in paragraphs.read("test")["text"]]
    stored = load_file(config.get_embeddings_path("test"))["embeddings"]
    np.testing.assert_array_equal(stored, encode(HashingEmbedder(settings), texts))


# What does not belong together is refused before anything is written


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("column", ["text_id", "text"])
def test_texts_and_ids_that_change_under_the_run_are_refused_and_nothing_is_written(
    config, paragraphs, column, precision
):
    undisturbed = write(paragraphs, config, precision=precision).files[0].read_bytes()
    manifest = (config.embeddings_dir / "manifest.json").read_bytes()
    shutil.rmtree(config.embeddings_dir)
    path = config.get_processed_path("train")
    original = path.read_bytes()
    table = pq.read_table(path)
    others = table[column].to_pylist()
    others[77] += "x"
    pq.write_table(table.set_column(table.schema.get_field_index(column), column, [others]), path)
    embedder = Counting(config.embedding)
    with pytest.raises(ShardMismatchError, match=r"train\.parquet was changed while it was being embedded"):
        write(paragraphs, config, embedder=embedder, flush_s=1e-6, precision=precision)
    # int8 is calibrated first, with the texts; they are checked as well.
    calibrated_with_these_texts = precision == "int8" and column == "text_id"
    assert embedder.texts == (165 if calibrated_with_these_texts else 0)
    assert names(config.embeddings_dir) == (["manifest.json"] if calibrated_with_these_texts else [])
    path.write_bytes(original)
    write(paragraphs, config, precision=precision)
    assert config.get_embeddings_path("train").read_bytes() == undisturbed
    assert (config.embeddings_dir / "manifest.json").read_bytes() == manifest


def test_a_later_shard_that_changed_is_refused_and_the_earlier_ones_are_kept(config):
    store = store_of(config, [f"text {row} of some" for row in range(90)], shard_rows=30)
    undisturbed = [path.read_bytes() for path in write(store, config).files]
    shutil.rmtree(config.embeddings_dir)
    path = store.shards("train")[1].path
    original = path.read_bytes()
    table = pq.read_table(path)
    pq.write_table(table.set_column(1, "text", [["other"] * 30]), path)
    with pytest.raises(ShardMismatchError, match=r"train-00001-of-00003\.parquet was changed"):
        write(store, config)
    assert names(config.embeddings_dir) == ["train_embeddings-00000-of-00003.safetensors"]
    path.write_bytes(original)
    embedder = Counting(config.embedding)
    assert [path.read_bytes() for path in write(store, config, embedder=embedder).files] == undisturbed
    assert embedder.texts == 60


# Names in messages

LATE = 9000  # beyond the first row group of 8,192


def many(special=""):
    """Ten thousand texts of several lengths, so that the order of the work is not that of the rows."""
    texts = [f"word{row} " * (1 + row * 7 % 5) for row in range(10_000)]
    if special:
        texts[LATE] += special
    return texts


class Faulty(HashingEmbedder):
    """Gives no usable vector for texts of an odd word."""

    def __init__(self, config, word, factor):
        super().__init__(config)
        (self.word,) = self.tokenize([word]).ids.tolist()
        self.factor = factor

    def forward(self, texts, dtype=None):
        vectors = super().forward(texts, dtype)
        for row in range(len(texts)):
            if self.word in texts.row(row):
                vectors[row] *= self.factor
        return vectors


@pytest.mark.parametrize("shard_rows", [1_000_000, 8500])
def test_a_vector_that_is_not_finite_is_named_by_its_row_s_id(config, shard_rows):
    store = store_of(config, many("poison"), shard_rows)
    embedder = Faulty(config.embedding, "poison", np.nan)
    with pytest.raises(ModelError, match=rf"no finite vector for id-{LATE}\."):
        write(store, config, embedder=embedder, batch_size=None)


@pytest.mark.parametrize("shard_rows", [1_000_000, 8500])
def test_a_vector_too_large_for_float16_is_named_by_its_row_s_id(config, shard_rows):
    store = store_of(config, many("huge"), shard_rows)
    settings = {"normalize": False, "precision": "float16"}
    embedder = Faulty(config.embedding.model_copy(update=settings), "huge", 1e6)
    with pytest.raises(ModelError, match=rf"the vector of id-{LATE} is too large"):
        write(store, config, embedder=embedder, batch_size=None, **settings)


@pytest.mark.parametrize("shard_rows", [1_000_000, 8500])
def test_a_wrong_token_count_is_named_by_its_row_s_id_and_nothing_is_written(config, shard_rows):
    tokenizer = HashingEmbedder(config.embedding).identity.tokenizer
    store = store_of(config, many(), shard_rows, tokenizer, {LATE: 77})
    expected = len(many()[LATE].split())
    with pytest.raises(
        ShardMismatchError, match=rf"says that id-{LATE} has 77 tokens, its tokenizer finds {expected}\."
    ):
        write(store, config, batch_size=None)
    finished = [] if shard_rows == 1_000_000 else ["train_embeddings-00000-of-00002.safetensors"]
    assert names(config.embeddings_dir) == finished


# Identical texts


def repetitive(rows):
    """Few distinct texts in an order of their own, of several lengths."""
    generator = np.random.default_rng(0)
    return [f"text {n} " + "more " * (n % 7) for n in generator.integers(0, 40, rows)]


def test_identical_texts_are_computed_once_and_get_the_same_vector(config):
    texts = repetitive(300)
    distinct = len(set(texts))
    store = store_of(config, texts)
    embedder = Counting(config.embedding)
    result = write(store, config, embedder=embedder)
    assert embedder.texts == distinct == 40
    assert (result.tally.texts, result.tally.repeated) == (300, 260)
    assert result.tally.tokens == sum(len(text.split()) for text in set(texts))
    alone = np.concatenate([encode(HashingEmbedder(config.embedding), [text]) for text in texts])
    np.testing.assert_array_equal(vectors_of(result), alone)


def test_texts_that_repeat_in_another_shard_are_computed_there_again(config):
    texts = repetitive(300)
    store = store_of(config, texts, shard_rows=100)
    embedder = Counting(config.embedding)
    result = write(store, config, embedder=embedder)
    distinct = [len(set(texts[start : start + 100])) for start in (0, 100, 200)]
    assert (embedder.texts, result.tally.repeated) == (sum(distinct), 300 - sum(distinct))
    np.testing.assert_array_equal(vectors_of(result), encode(HashingEmbedder(config.embedding), texts))


def test_a_corpus_with_repeated_paragraphs_is_embedded_whole_where_they_are_kept(config, tmp_path):
    """The whole way: two copies of every document, and no search for duplicates."""
    texts = [f"Paragraph {row % 30} speaks of {row % 30} things that are worth keeping." for row in range(60)]
    lines = [json.dumps({"id": str(row), "text": text}) + "\n" for row, text in enumerate(texts)]
    (tmp_path / "twice.jsonl").write_text("".join(lines))
    changes = {
        "corpus": CorpusConfig(source="jsonl", name="twice", path=tmp_path / "twice.jsonl", id_field="id"),
        "preprocess": config.preprocess.model_copy(update={"exact_dedup": False, "min_tokens": 1}),
        "split": config.split.model_copy(update={"method": "paragraph"}),
    }
    config = config.model_copy(update=changes)
    prepare_paragraphs(config)
    report = embed(config, SPLITS).embeddings
    assert sum(result.rows for result in report.values()) == 60
    found = {}
    for split in SPLITS:
        kept = ParagraphStore(config.processed_dir).read(split)["text"].to_list()
        assert report[split].tally.repeated == len(kept) - len(set(kept))
        for text, vector in zip(kept, vectors_of(report[split]), strict=True):
            np.testing.assert_array_equal(found.setdefault(text, vector), vector)
    assert report["train"].tally.repeated > 0
    assert len({vector.tobytes() for vector in found.values()}) == len(found) == 30


def test_truncated_texts_that_become_identical_share_a_vector(config):
    store = store_of(config, ["a b c one", "a b c two", "a b", "a b c"])
    result = write(store, config, max_length=3)
    assert (result.tally.truncated, result.tally.repeated) == (2, 2)
    vectors = vectors_of(result)
    assert vectors[0].tolist() == vectors[1].tolist() == vectors[3].tolist() != vectors[2].tolist()


# Rows that are partly there


class Sociable(Counting):
    """A text's vector depends on how many others are in its pack, as the last bits of real ones may."""

    def __init__(self, config, enough=10**9):
        super().__init__(config, enough)
        self.runtime = replace(self.runtime, batch_dependent=True)

    def forward(self, texts, dtype=None):
        vectors = super().forward(texts, dtype)
        vectors[:, 0] += len(texts) * 1e-3
        return vectors


@pytest.mark.parametrize("kind", [Counting, Sociable])
def test_packs_of_which_rows_are_missing_are_computed_whole_and_no_others(config, kind):
    texts = repetitive(300)
    store = store_of(config, texts)
    undisturbed = write(store, config, embedder=kind(config.embedding), batch_size=8).files[0].read_bytes()
    shutil.rmtree(config.embeddings_dir)
    with pytest.raises(KeyboardInterrupt):
        write(store, config, embedder=kind(config.embedding, enough=32), batch_size=8, flush_s=1e-9)
    folder = config.embeddings_dir
    partial, progress = (folder / f".train_embeddings.safetensors.{name}" for name in ("partial", "progress"))
    record = progress.read_bytes()
    done = np.unpackbits(np.frombuffer(record[8:], np.uint8))
    (rows,) = np.nonzero(done[:300])
    # Of one pack a row is lost, of the others none.
    longest = max(texts, key=lambda text: len(text.split()))
    lost = next(row for row in rows if texts[row] == longest)
    done[lost] = 0
    bitmap = np.packbits(done).tobytes()
    progress.write_bytes(record[:4] + struct.pack("<I", zlib.crc32(bitmap)) + bitmap)
    content = bytearray(partial.read_bytes())
    start = len(content) - (300 - int(lost)) * 1024
    content[start : start + 1024] = b"\xff" * 1024
    partial.write_bytes(content)
    embedder = kind(config.embedding)
    result = write(store, config, embedder=embedder, batch_size=8, flush_s=1e-9)
    assert embedder.texts == 8 + 8  # the pack with the lost row, and the one that was never begun
    assert result.files[0].read_bytes() == undisturbed


# The next shard's plan


class Recording(HashingEmbedder):
    """Writes down what happens, in what thread; the first pack waits for the next shard's tokens."""

    def __init__(self, config):
        super().__init__(config)
        self.shard_of = {int(super(Recording, self).tokenize([f"shard{n}"]).ids[0]): n for n in range(4)}
        self.events, self.waits, self.planned = [], True, threading.Event()

    def _happened(self, what, texts):
        shard = self.shard_of[int(texts.row(0)[0])]
        self.events.append((what, shard, threading.current_thread().name.split("_")[0]))
        return shard

    def tokenize(self, texts):
        tokens = super().tokenize(texts)
        if self._happened("tokens", tokens) == 1:
            self.planned.set()
        return tokens

    def forward(self, texts, dtype=None):
        self._happened("forward", texts)
        if self.waits:
            self.waits = False
            assert self.planned.wait(timeout=20), "the next shard is not planned while this one is computed"
        return super().forward(texts, dtype)


def test_the_next_shard_is_planned_while_one_is_computed_and_no_further(config):
    store = store_of(config, [f"shard{row // 10} row {row}" for row in range(40)], shard_rows=10)
    embedder = Recording(config.embedding)
    result = write(store, config, embedder=embedder, batch_size=5)
    happened = [(what, shard) for what, shard, _ in embedder.events]
    for shard in range(4):
        assert happened.count(("tokens", shard)) == 1
        assert happened.count(("forward", shard)) == 2
    last_of_first = max(place for place, event in enumerate(happened) if event == ("forward", 0))
    assert happened.index(("tokens", 1)) < last_of_first
    # Two plans are in memory, not more: shard 2 has to wait for the end of shard 0.
    assert happened.index(("tokens", 2)) > last_of_first
    assert {(what, thread) for what, _, thread in embedder.events} == {("tokens", "plan"), ("forward", "embed")}
    assert result.tally.planning_s > 0
    np.testing.assert_array_equal(
        vectors_of(result), encode(HashingEmbedder(config.embedding), store.read("train")["text"].to_list())
    )


class Stumbling(Counting):
    """Cannot tokenise a text that holds an odd word."""

    def tokenize(self, texts):
        if any("stumble" in text for text in texts):
            raise ModelError("the tokens of a text are wrong")
        return super().tokenize(texts)


def test_an_error_in_a_later_shard_s_plan_surfaces_and_what_was_done_is_kept(config):
    texts = [f"text {row} says something" for row in range(40)]
    store = store_of(config, [*texts[:35], "stumble over this", *texts[36:]], shard_rows=10)
    first = Stumbling(config.embedding)
    with pytest.raises(ModelError, match="the tokens of a text are wrong"):
        write(store, config, embedder=first)
    assert first.texts == 30
    finished = [f"train_embeddings-0000{shard}-of-00004.safetensors" for shard in range(3)]
    assert names(config.embeddings_dir) == finished
    second = Counting(config.embedding)
    result = write(store, config, embedder=second)
    assert second.texts == 10
    again = {path.name: path.read_bytes() for path in result.files}
    shutil.rmtree(config.embeddings_dir)
    assert {path.name: path.read_bytes() for path in write(store, config).files} == again


def test_an_error_while_computing_surfaces_though_the_next_plan_is_under_way(config):
    store = store_of(config, [f"text {row} says something" for row in range(40)], shard_rows=10)
    with pytest.raises(ModelError, match="no finite vector for id-3"):
        write(store, config, embedder=Faulty(config.embedding, "3", np.nan))
    assert [name for name in names(config.embeddings_dir) if not name.startswith(".train_embeddings-00000")] == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("embed")]


# Files that nobody should see


class Watching(HashingEmbedder):
    """Lists the folder while it works."""

    def __init__(self, config, folder):
        super().__init__(config)
        self.folder, self.seen = folder, set()

    def tokenize(self, texts):
        self.seen.update(os.listdir(self.folder) if self.folder.exists() else [])
        return super().tokenize(texts)

    def forward(self, texts, dtype=None):
        self.seen.update(os.listdir(self.folder))
        return super().forward(texts, dtype)


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="files without a name are Linux's")
def test_the_file_of_tokens_has_no_name_while_it_is_used_nor_after(config):
    store = store_of(config, many(), shard_rows=4000)
    embedder = Watching(config.embedding, config.embeddings_dir)
    result = write(store, config, embedder=embedder, batch_size=None, flush_s=1e-9)
    finished = {path.name for path in result.files}
    ours = finished | {f".{name}.{kind}" for name in finished for kind in ("partial", "progress")}
    ours |= {f"..{name}.progress.tmp" for name in finished}
    assert embedder.seen - ours == set()
    assert names(config.embeddings_dir) == ["manifest.json", *sorted(finished)]


def test_no_file_of_tokens_is_left_when_tokenising_fails_in_the_middle(config):
    # Rows are tokenised 8,192 at a time: the first ones are in the file when the others fail.
    store = store_of(config, many("stumble"))
    with pytest.raises(ModelError, match="the tokens of a text are wrong"):
        write(store, config, embedder=Stumbling(config.embedding), batch_size=None)
    assert names(config.embeddings_dir) == []


# Files of other hands


def test_overwrite_replaces_strangers_shards_and_leaves_their_other_files(config):
    texts = [f"text {row} says something" for row in range(25)]
    store = store_of(config, texts, shard_rows=10)
    folder = config.embeddings_dir
    folder.mkdir(parents=True)
    stranger = folder / "train_embeddings-00001-of-00003.safetensors"
    stranger.write_bytes(b"theirs")
    (folder / "notes.txt").write_text("mine")
    (folder / "train_embeddings.safetensors").write_bytes(b"of another number of shards")
    (folder / "val_embeddings.safetensors").write_bytes(b"of another split")
    embedder = Counting(config.embedding)
    with pytest.raises(StaleStageError, match=r"00001-of-00003\.safetensors exists .*--overwrite.*variant"):
        write(store, config, embedder=embedder)
    assert embedder.texts == 0
    assert stranger.read_bytes() == b"theirs"
    result = write(store, config, overwrite=True)
    np.testing.assert_array_equal(vectors_of(result), encode(HashingEmbedder(config.embedding), texts))
    assert names(folder) == [
        "manifest.json", "notes.txt", *(path.name for path in result.files), "val_embeddings.safetensors",
    ]  # fmt: skip
    assert (folder / "val_embeddings.safetensors").read_bytes() == b"of another split"


@pytest.mark.parametrize("precision", ["float16", "float8", "int8", "ubinary"])
def test_another_precision_is_another_work(config, paragraphs, precision):
    write(paragraphs, config, "val")
    with pytest.raises(StaleStageError, match=rf"precision was 'float32', now '{precision}'"):
        write(paragraphs, config, "val", precision=precision)
    assert write(paragraphs, config, "val", precision=precision, overwrite=True).rows == 43
    assert write(paragraphs, config, "val", precision=precision).skipped
    assert (
        read_manifest(config.embeddings_dir, EmbeddingManifest)["splits"]["val"]["settings"]["precision"] == precision
    )


@pytest.mark.parametrize("precision", ["float16", "float8", "int8", "ubinary"])
def test_an_interrupted_run_goes_on_in_every_precision(config, paragraphs, precision):
    small = {"precision": precision, "flush_s": 1e-9}
    write(paragraphs, config, **small)
    undisturbed = {name: (config.embeddings_dir / name).read_bytes() for name in names(config.embeddings_dir)}
    shutil.rmtree(config.embeddings_dir)
    calibration = 165 if precision in ("float8", "int8") else 0
    with pytest.raises(KeyboardInterrupt):
        write(paragraphs, config, embedder=Counting(config.embedding, enough=calibration + 100), **small)
    second = Counting(config.embedding)
    write(paragraphs, config, embedder=second, **small)
    assert second.texts == 165 - 96
    assert {name: (config.embeddings_dir / name).read_bytes() for name in names(config.embeddings_dir)} == undisturbed


def test_the_machine_is_measured_once_a_split_not_once_a_shard(config, monkeypatch, caplog):
    caplog.set_level("INFO")
    config = config.model_copy(update={"storage": config.storage.model_copy(update={"shard_rows": 40})})
    prepare_paragraphs(config)
    measured = []

    def tune(embedder, plan, batch_tokens, threads):
        measured.append(len(plan.tokens))
        return Tuned(500, None, 1e9)

    monkeypatch.setattr("data_pipeline.stages.embed.tune", tune)
    write(ParagraphStore(config.processed_dir), config)
    assert measured == [40]
    assert len([message for message in caplog.messages if ", about 0 s" in message]) == 5
