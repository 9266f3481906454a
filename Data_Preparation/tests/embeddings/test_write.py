import json
import shutil
from importlib.metadata import version

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from data_pipeline.config import CorpusConfig, EmbeddingConfig
from data_pipeline.embeddings import HashingEmbedder, embed_split, encode
from data_pipeline.errors import ModelError, ShardMismatch, StaleStage, StoreError
from data_pipeline.pipeline import embed, prepare_paragraphs
from data_pipeline.store import ParagraphStore, read_manifest


@pytest.fixture
def paragraphs(config):
    """The sample's paragraphs on disk: 165 train, 43 val, 14 test."""
    prepare_paragraphs(config)
    return ParagraphStore(config.processed_dir)


class Counting(HashingEmbedder):
    """Counts the texts it is given, and fails when it has been given enough."""

    def __init__(self, config, enough=10**9):
        super().__init__(config)
        self.enough, self.texts = enough, 0

    def forward(self, ids, dtype=None):
        if self.texts + len(ids) > self.enough:
            raise KeyboardInterrupt
        self.texts += len(ids)
        return super().forward(ids, dtype)


def write(store, config, split="train", embedder=None, **changes):
    settings = config.embedding.model_copy(update=changes)
    overwrite = changes.pop("overwrite", False)
    return embed_split(store, split, embedder or HashingEmbedder(settings), settings, config.embeddings_dir, overwrite)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


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
        "revision": "1",
        "pooling": "mean",
        "normalized": "true",
        "dtype": "float32",
        "dim": "256",
        "max_length": "8192",
        "prompt": "",
        "tokenizer": HashingEmbedder(config.embedding).identity.tokenizer,
        "attention": "none",
        "split": "test",
        "package_version": version("elm-data-preparation"),
        "ids_sha256": shard.ids_sha256,
        "texts_sha256": shard.texts_sha256,
    }


def test_the_manifest_speaks_of_every_split_that_was_made(config, paragraphs):
    write(paragraphs, config, "val")
    write(paragraphs, config, "test")
    splits = read_manifest(config.embeddings_dir)["splits"]
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
    with pytest.raises(StaleStage, match=r"is unfinished work made with other settings.*--overwrite to discard"):
        write(paragraphs, config, dim=64)
    assert write(paragraphs, config, dim=64, overwrite=True).dim == 64


def test_stale_settings_are_named_with_both_values_and_the_way_out(config, paragraphs):
    write(paragraphs, config, dim=64)
    with pytest.raises(StaleStage) as error:
        write(paragraphs, config, dim=32, normalize=False)
    message = str(error.value)
    assert "dim was '64', now '32'" in message
    assert "normalized was 'true', now 'false'" in message
    assert "--overwrite" in message
    assert "--embedding.variant" in message
    assert load_file(config.get_embeddings_path("train"))["embeddings"].shape == (165, 64)
    assert write(paragraphs, config, dim=32, normalize=False, overwrite=True).dim == 32


def test_changed_paragraphs_make_embeddings_stale(config, paragraphs):
    write(paragraphs, config)
    changed = config.model_copy(update={"preprocess": config.preprocess.model_copy(update={"min_tokens": 150})})
    prepare_paragraphs(changed, overwrite=True)
    store = ParagraphStore(config.processed_dir)
    with pytest.raises(StaleStage, match="the paragraphs it was made from have changed"):
        write(store, config)
    assert write(store, config, overwrite=True).rows == len(store.read("train")) < 165


def test_a_file_no_manifest_speaks_of_is_not_overwritten(config, paragraphs):
    path = config.get_embeddings_path("train")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    with pytest.raises(StaleStage, match=r"is there already and was not made with these settings"):
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
    write(paragraphs, config, store_dtype="float16")
    stored = load_file(config.get_embeddings_path("train"))["embeddings"]
    texts = paragraphs.read("train")["text"].to_list()
    assert stored.dtype == np.float16
    np.testing.assert_array_equal(stored, encode(HashingEmbedder(config.embedding), texts).astype(np.float16))


def test_vectors_beyond_half_precision_are_refused_not_stored_as_infinite(config, paragraphs):
    class Large(HashingEmbedder):
        def forward(self, ids, dtype=None):
            return super().forward(ids, dtype) * 1e6

    settings = config.embedding.model_copy(update={"normalize": False, "store_dtype": "float16"})
    with pytest.raises(ModelError, match=r"too large for float16.*--embedding.store_dtype float32"):
        write(paragraphs, config, embedder=Large(settings), normalize=False, store_dtype="float16")


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
    with pytest.raises(StoreError, match=r"holds no paragraphs. Make them with: python .*run_pipeline.py"):
        embed(config, ["train"])


def test_a_prompt_is_put_before_every_document(config, paragraphs):
    write(paragraphs, config, "test", prompt="passage: ")
    settings = EmbeddingConfig(model_name="hashing")
    texts = ["passage: " + text for text in paragraphs.read("test")["text"]]
    stored = load_file(config.get_embeddings_path("test"))["embeddings"]
    np.testing.assert_array_equal(stored, encode(HashingEmbedder(settings), texts))


def test_texts_that_change_under_the_run_are_noticed_and_their_vectors_forgotten(config, paragraphs):
    path = config.get_processed_path("train")
    original = path.read_bytes()
    table = pq.read_table(path)
    others = [text.replace("a", "b") for text in table["text"].to_pylist()]
    pq.write_table(table.set_column(table.schema.get_field_index("text"), "text", [others]), path)
    with pytest.raises(ShardMismatch, match=r"train\.parquet was changed while it was being embedded"):
        write(paragraphs, config, flush_s=1e-6)
    assert names(config.embeddings_dir) == []
    path.write_bytes(original)
    write(paragraphs, config)
    texts = paragraphs.read("train")["text"].to_list()
    vectors = load_file(config.get_embeddings_path("train"))["embeddings"]
    np.testing.assert_array_equal(vectors, encode(HashingEmbedder(config.embedding), texts))
