import json
import shutil

import numpy as np
import pytest
from support.builders import JOINED, ONE, ROWS, UNJOINED, files, make

from data_pipeline import ELMDataset
from data_pipeline.embeddings import HashingEmbedder
from data_pipeline.errors import CorruptShardError, ShardMismatchError
from data_pipeline.store import open_embedding_shard
from data_pipeline.utils import sha256_of_file


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("made"), UNJOINED)


@pytest.fixture
def copy(made, tmp_path):
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def rewrite(data_dir, index, change):
    """Other vectors in a file, and hashes that fit: as if it had been written like that."""
    path = files(data_dir, "embeddings")[index]
    shard = open_embedding_shard(path)
    rows = np.memmap(path, shard.coding.dtype, "r+", shard.offset, shard.stored.shape)
    rows[:] = change(rows.copy())
    rows.flush()
    manifest = data_dir / "embeddings" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["splits"]["train"]["shards"][index]["sha256"] = sha256_of_file(path)
    manifest.write_text(json.dumps(content))


@pytest.mark.parametrize("level", ["size", "hash", "reembed"])
@pytest.mark.parametrize("shard_rows", [ONE, JOINED, UNJOINED])
def test_a_clean_store_passes_every_level_and_says_what_was_looked_at(tmp_path, shard_rows, level):
    dataset = ELMDataset(make(tmp_path, shard_rows))
    good = dataset.verify(level)
    shards = len(files(dataset.processed_dir.parent, "embeddings"))
    assert len(good) == 2 * shards + {"size": 0, "hash": shards + 1, "reembed": shards + 2}[level]
    if level == "reembed":
        # 0.95^64 = 0.0375
        assert "64 random rows embedded again, smallest cosine 1.000000" in good[-1]
        assert "would have missed it with probability 0.04" in good[-1]


@pytest.mark.parametrize(
    "settings",
    [{"precision": "float16"}, {"precision": "int8"}, {"precision": "float8"}, {"precision": "ubinary"}, {"dim": 64},
     {"normalize": False}, {"prompt": "passage: "}, {"max_length": 20}, {"dim": 64, "precision": "ubinary"}],
    ids=str,
)  # fmt: skip
def test_stores_of_every_kind_pass_the_spot_check(tmp_path, settings):
    data_dir = make(tmp_path, 40, **settings)
    dataset = ELMDataset(data_dir)
    good = dataset.verify("reembed", rows=ROWS)
    assert "165 random rows embedded again" in good[-1]
    # A data set that hands out less of a vector, or in another form, looks at the files all the same.
    dim = ELMDataset(data_dir, dim=8, columns=["embedding"])
    assert len(dim.verify("reembed")) == len(good)


SHUFFLED = np.random.default_rng(0).permutation(33)
WRONG = {
    "shuffled": lambda rows: rows[SHUFFLED],
    "moved on by one": lambda rows: np.roll(rows, 1, axis=0),
    "of other texts": lambda rows: np.roll(rows, 3, axis=1),
    "turned round": lambda rows: -rows,
}


@pytest.mark.parametrize("name", WRONG)
def test_rows_that_were_permuted_before_they_were_hashed_are_found_by_the_spot_check_only(copy, name):
    rewrite(copy, 2, WRONG[name])
    dataset = ELMDataset(copy)
    assert dataset.verify("size")
    assert dataset.verify("hash")
    with pytest.raises(ShardMismatchError, match="rows of train do not have the vector of their text") as caught:
        dataset.verify("reembed")
    message = str(caught.value)
    assert message.startswith(str(copy / "embeddings"))
    assert "elm embed --overwrite" in message
    # The row it names is one of that file.
    there = [text_id for text_id in dataset.metadata["text_id"][66:99] if text_id in message]
    assert there


def test_two_swapped_rows_are_found_if_one_of_them_is_looked_at(copy):
    rewrite(copy, 0, lambda rows: np.concatenate([rows[[1, 0]], rows[2:]]))
    dataset = ELMDataset(copy)
    with pytest.raises(ShardMismatchError, match="2 of 165 rows of train"):
        dataset.spot_check(rows=ROWS)
    found = 0
    for seed in range(40):
        chosen = np.random.default_rng(seed).choice(ROWS, 20, replace=False)
        if {0, 1} & set(chosen.tolist()):
            found += 1
            with pytest.raises(ShardMismatchError):
                dataset.spot_check(20, seed)
        else:
            assert dataset.spot_check(20, seed)
    assert 1 <= found < 20


@pytest.mark.parametrize("precision", ["float32", "int8", "ubinary"])
def test_vectors_of_another_pooling_that_calls_itself_the_same_are_found(tmp_path, precision):
    exact = HashingEmbedder.forward

    def of_the_last_word_only(self, texts, dtype=None):
        words = np.zeros_like(exact(self, texts, dtype))
        for row in range(len(texts)):
            words[row, texts.row(row)[-1] % 255 + 1] = 1
        return words

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HashingEmbedder, "forward", of_the_last_word_only)
        data_dir = make(tmp_path, precision=precision)
        assert ELMDataset(data_dir).verify("reembed")  # by its own measure they are right
    dataset = ELMDataset(data_dir)
    assert dataset.verify("hash")
    with pytest.raises(
        ShardMismatchError, match="64 of 64 rows .*of another model, pooling or prompt than the file says"
    ):
        dataset.verify("reembed")


def test_a_vector_that_is_no_number_is_found_by_the_spot_check_too(copy):
    rewrite(copy, 0, lambda rows: np.full_like(rows, np.nan))
    rewrite(copy, 1, np.zeros_like)
    with pytest.raises(ShardMismatchError, match="66 of 165 rows"):
        ELMDataset(copy).spot_check(rows=ROWS)


def test_a_flipped_bit_is_found_by_hash_and_not_by_size(copy):
    path = files(copy, "embeddings")[1]
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    dataset = ELMDataset(copy)
    assert dataset.verify("size")
    for level in ("hash", "reembed"):
        with pytest.raises(CorruptShardError, match=rf"{path.name}: checksum mismatch with manifest.json"):
            dataset.verify(level)


def test_damage_to_the_copy_of_the_texts_is_found_by_hash(copy):
    dataset = ELMDataset(copy)
    text = dataset[0]["text"]
    (path,) = dataset.processed_dir.glob(".cache/train-00000*.arrow")
    content = path.read_bytes()
    place = content.index(text.encode())
    path.write_bytes(content[:place] + b"#" + content[place + 1 :])
    again = ELMDataset(copy)
    assert again.verify("size")
    with pytest.raises(
        CorruptShardError, match=rf"{path.name}: its ids or texts differ from those of .*Delete it; it is rebuilt"
    ):
        again.verify("hash")
    path.unlink()
    assert ELMDataset(copy).verify("hash")
    assert ELMDataset(copy)[0]["text"] == text


def test_a_selection_is_verified_with_the_whole_of_its_files(copy):
    rewrite(copy, 4, WRONG["turned round"])
    with pytest.raises(ShardMismatchError, match="of 165 rows"):
        ELMDataset(copy).select([0, 1, 2]).spot_check(rows=ROWS)


def test_texts_alone_have_no_spot_check_and_unknown_levels_are_refused(made):
    dataset = ELMDataset(made, load_embeddings=False)
    assert dataset.verify("reembed")[-1] == "train: no embeddings"
    with pytest.raises(ValueError, match="level must be one of size, hash, reembed; got 'bytes'"):
        dataset.verify("bytes")


@pytest.mark.parametrize("rows", [0, -1])
def test_a_spot_check_of_no_rows_is_refused(made, rows):
    with pytest.raises(ValueError, match="rows must be 1 or more"):
        ELMDataset(made).spot_check(rows=rows)


def test_the_former_names_still_work(made):
    dataset = ELMDataset(made)
    assert dataset.verify("canary", rows=5, seed=3) == dataset.verify("reembed", rows=5, seed=3)
    assert dataset.canary(5, seed=3) == dataset.spot_check(5, seed=3)
