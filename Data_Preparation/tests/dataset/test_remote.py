import json
import logging
import shutil

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from support.builders import JOINED, ROWS, files, flat, make, rows_of, same

from data_pipeline import ELMDataset
from data_pipeline.errors import CorruptShardError, StoreError
from data_pipeline.store.access.remote import RemoteFolder
from data_pipeline.utils import remote as remote_systems

COLUMNS = ["text", "metadata", "embedding", "index"]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(remote_systems, "_FIRST_PAUSE_S", 0.001)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("made"), JOINED)


@pytest.fixture
def there(made, tmp_path):
    """A data folder, to be reached by its URL, that a test may change."""
    shutil.copytree(made, tmp_path / "there", ignore=shutil.ignore_patterns(".cache"))
    return tmp_path / "there"


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def opened(there, cache, *args, **how):
    return ELMDataset(f"file://{there}", *args, cache_dir=cache, columns=COLUMNS, **how)


def fetched(cache):
    return sorted(
        path.name for path in (cache / "files").rglob("*") if path.is_file() and not path.name.startswith(".")
    )


def test_a_remote_data_set_is_the_local_one(made, there, cache):
    local, remote = ELMDataset(made, columns=COLUMNS), opened(there, cache)
    same(remote.get_batch(range(ROWS)), local.get_batch(range(ROWS)))
    assert remote.fingerprint == local.fingerprint
    assert remote.metadata.equals(local.metadata)
    assert (remote.embeddings == local.embeddings).all()
    assert rows_of(remote.get_dataloader(20, "full")) == rows_of(local.get_dataloader(20, "full"))
    assert remote.search(local[42]["text"], k=1)[0]["index"] == 42
    assert not (there / "sample_processed" / ".cache").exists()


def test_a_data_set_in_memory_or_with_a_slash_at_the_end_of_its_url_opens(made, cache):
    system = MemoryFileSystem()
    system.put(str(made), "/elm-test", recursive=True)
    try:
        for url in ("memory://elm-test", "memory://elm-test/"):
            remote = ELMDataset(url, "val", cache_dir=cache)
            same(remote.get_batch(range(43)), ELMDataset(made, "val").get_batch(range(43)))
    finally:
        system.rm("/elm-test", recursive=True)


def test_files_are_fetched_when_they_are_needed_and_once(there, cache):
    remote = opened(there, cache)
    assert fetched(cache) == []
    assert len(remote) == ROWS
    remote[40]["text"]
    # The first file of vectors says how wide all are.
    names = [path.name for path in files(there, "embeddings")]
    texts = [path.name for path in files(there, "sample_processed")]
    assert fetched(cache) == sorted([texts[1], *names[:2]])
    remote.get_batch(range(70))
    assert fetched(cache) == sorted(texts[:3] + names[:3])
    for path in [*there.glob("*/*.parquet"), *there.glob("*/*.safetensors")]:
        if path.name in fetched(cache):
            path.unlink()
    again = opened(there, cache)
    same(again.get_batch([0, 64, 69]), remote.get_batch([0, 64, 69]))
    shutil.rmtree(cache / "files")
    with pytest.raises(StoreError, match=f"file://{there}/sample_processed/{texts[1]} cannot be fetched"):
        opened(there, cache)[40]


def test_each_mode_fetches_only_what_it_returns(there, cache):
    texts = ELMDataset(f"file://{there}", cache_dir=cache, load_embeddings=False)
    texts[0]["text"]
    assert [name.split(".")[-1] for name in fetched(cache)] == ["parquet"]
    shutil.rmtree(cache)
    vectors = ELMDataset(f"file://{there}", cache_dir=cache, columns=["embedding"])
    vectors.get_batch(range(ROWS))
    assert {name.split(".")[-1] for name in fetched(cache)} == {"safetensors"}


def test_copies_go_to_the_user_s_cache_folder_where_none_is_given(there, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    ELMDataset(f"file://{there}")[0]["text"]
    assert len(fetched(tmp_path / "xdg" / "elm-data-preparation")) == 2


@pytest.mark.parametrize("kind", ["sample_processed", "embeddings"])
def test_a_changed_file_under_an_unchanged_manifest_is_refused_by_name(there, cache, kind):
    path = files(there, kind)[0]
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptShardError, match=rf"{kind}/{path.name} has SHA-256 .*manifest.json expects.*Upload"):
        opened(there, cache)[0]
    assert path.name not in fetched(cache)
    assert not any(name.endswith(".tmp") for name in fetched(cache))


def test_a_new_manifest_brings_new_files_and_the_old_ones_are_kept(made, there, cache, tmp_path):
    before = opened(there, cache)
    first = before.get_batch(range(ROWS))
    other = make(tmp_path / "other", JOINED, dim=128)
    shutil.rmtree(there)
    shutil.copytree(other, there)
    after = opened(there, cache)
    assert after.dim == 128
    same(after.get_batch([3, 99]), ELMDataset(other, columns=COLUMNS).get_batch([3, 99]))
    same(before.get_batch(range(ROWS)), first)


def test_what_a_killed_or_failed_fetch_left_is_not_taken_for_the_file_and_goes(there, cache):
    remote = opened(there, cache)
    path = remote.rows.source.paragraphs[0].path
    path.parent.mkdir(parents=True)
    path.with_name(f"{path.name}.tmp").write_bytes(b"half")
    same(remote.get_batch([0]), ELMDataset(there, columns=COLUMNS).get_batch([0]))
    assert not any(name.endswith(".tmp") for name in fetched(cache))
    files(there, "embeddings")[5].unlink()
    with pytest.raises(StoreError, match="cannot be fetched"):
        remote[ROWS - 1]
    assert not any(name.endswith(".tmp") for name in fetched(cache))


def test_a_file_that_was_damaged_in_the_cache_is_found_by_verify(there, cache):
    remote = opened(there, cache)
    assert remote.verify("hash")
    (path,) = cache.rglob("train_embeddings-00003*")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptShardError, match=r"train_embeddings-00003-of-00006.safetensors: checksum mismatch"):
        opened(there, cache).verify("hash")


@pytest.mark.parametrize("hash_", ["../../x", "", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_a_manifest_cannot_name_places_outside_the_cache(there, cache, hash_):
    for kind in ("embeddings", "sample_processed"):
        path = there / kind / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["splits"]["train"]["shards"][0]["sha256"] = hash_
        path.write_text(json.dumps(manifest))
        with pytest.raises(CorruptShardError, match="expected a SHA-256"):
            opened(there, cache)[0]


def test_what_is_missing_there_is_named(there, cache):
    with pytest.raises(StoreError, match=r"gone.*(cannot be read|has no manifest)"):
        opened(there / "gone", cache)
    (there / "embeddings" / "manifest.json").unlink()
    with pytest.raises(StoreError, match=rf"file://{there}/embeddings has no manifest with embeddings of train"):
        opened(there, cache)
    shutil.copytree(there / "sample_processed", there / "other_processed")
    with pytest.raises(StoreError, match=r"several corpora \(other, sample\); name one"):
        ELMDataset(f"file://{there}", load_embeddings=False, cache_dir=cache)
    assert len(ELMDataset(f"file://{there}", load_embeddings=False, corpus="other", cache_dir=cache)) == ROWS
    with pytest.raises(StoreError, match=r"nothing://x/y cannot be opened"):
        ELMDataset("nothing://x/y", cache_dir=cache)


class Unlistable(LocalFileSystem):
    protocol = "unlistable"

    def ls(self, path, detail=False, **kwargs):
        raise NotImplementedError


def test_a_place_that_cannot_be_listed_asks_which_corpus(there, cache):
    fsspec.register_implementation("unlistable", Unlistable, clobber=True)
    (there / "embeddings" / "manifest.json").unlink()
    url = f"unlistable://{there}"
    with pytest.raises(StoreError, match=r"cannot be (listed|read).*name the corpus: ELMDataset\(..., corpus=NAME\)"):
        ELMDataset(url, load_embeddings=False, cache_dir=cache)
    assert ELMDataset(url, load_embeddings=False, corpus="sample", cache_dir=cache)[3]["text"]


@pytest.mark.slow
@pytest.mark.posix
def test_worker_processes_fetch_for_themselves(there, cache):
    remote = opened(there, cache)
    loader = remote.get_dataloader(20, "full", 2, multiprocessing_context="fork", timeout=60)
    batches = list(loader)
    assert sorted(flat(rows_of(batches))) == list(range(ROWS))
    local = ELMDataset(there, columns=COLUMNS)
    for batch in batches:
        same(batch, local.get_batch(batch["index"].numpy()))
    assert len(fetched(cache)) == 12


# Secrets


class Vault(LocalFileSystem):
    """Files behind a password; may fail as other systems do, with the whole URL in the message."""

    protocol = "vault"
    fails: type[Exception] | None = None

    @classmethod
    def _strip_protocol(cls, path):
        return path.partition("@host")[2].partition("?")[0] if "@host" in path else path

    def _asked(self):
        if self.fails:
            raise self.fails("403 for vault://user:hunter2@host/data?token=hunter2")

    def cat_file(self, path, **how):
        self._asked()
        return super().cat_file(path, **how)


class Torn(LocalFileSystem):
    """Gives up in the middle of a file."""

    protocol = "torn"

    def get_file(self, source, target, **how):
        with open(target, "wb") as file:
            file.write(b"half")
        raise ConnectionResetError("the other side hung up")


def test_a_fetch_that_broke_off_leaves_nothing(there, cache):
    fsspec.register_implementation("torn", Torn, clobber=True)
    with pytest.raises(StoreError, match="cannot be fetched: the other side hung up"):
        ELMDataset(f"torn://{there}", cache_dir=cache)[0]
    assert fetched(cache) == []


class AnswerError(Exception):
    """Like aiohttp's ClientResponseError, which is no OSError."""


@pytest.fixture
def vault(there, monkeypatch):
    fsspec.register_implementation("vault", Vault, clobber=True)
    return f"vault://user:hunter2@host{there}"


def test_a_url_s_secrets_are_in_no_log_and_in_no_message(vault, there, cache, caplog):
    caplog.set_level(logging.DEBUG)
    remote = ELMDataset(vault, cache_dir=cache)
    assert remote[3]["text"]
    assert f"Downloading vault://host{there}/sample_processed/train-00000" in caplog.text
    assert remote.verify("reembed")
    files(there, "embeddings", "val")[0].write_bytes(b"changed")
    files(there, "embeddings", "test")[0].unlink()
    with pytest.raises(CorruptShardError, match=rf"vault://host{there}/embeddings/val_embeddings") as changed:
        ELMDataset(vault, "val", cache_dir=cache)[0]
    with pytest.raises(StoreError, match=rf"vault://host{there}/embeddings/test_embeddings") as gone:
        ELMDataset(vault, "test", cache_dir=cache)[0]
    shutil.rmtree(there / "sample_processed")
    with pytest.raises(StoreError) as empty:
        ELMDataset(vault, cache_dir=cache)
    for text in (caplog.text, *(str(caught.value) for caught in (changed, gone, empty))):
        assert "hunter2" not in text


@pytest.mark.parametrize("kind", [PermissionError, ValueError, AnswerError])
def test_an_error_of_the_file_system_that_names_the_url_does_not_tell_its_secrets(vault, cache, monkeypatch, kind):
    monkeypatch.setattr(Vault, "fails", kind)
    with pytest.raises(StoreError, match="vault://host") as caught:
        ELMDataset(vault, cache_dir=cache)
    assert "hunter2" not in str(caught.value)


def test_the_name_of_a_remote_folder_has_no_secrets(cache):
    assert RemoteFolder("s3://user:hunter2@bucket/x?token=hunter2", cache).shown == "s3://bucket/x"
    assert "hunter2" not in repr(RemoteFolder("s3://user:hunter2@bucket/x", cache))


def test_the_name_of_a_chained_url_has_no_secrets(cache):
    assert "hunter2" not in RemoteFolder("simplecache::https://user:hunter2@host/x", cache).shown
