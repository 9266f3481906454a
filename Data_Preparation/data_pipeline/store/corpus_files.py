"""Files of a dataset, and the checks that they belong together.

A shard is opened and checked when its rows are first needed: its size and hashes against the manifests, and its
rows against the paragraphs beside it.
"""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data_pipeline.errors import CorruptShardError, NotFoundError, ShardMismatchError, StoreError
from data_pipeline.store.access.remote import RemoteFolder
from data_pipeline.store.access.text_columns import copy_faults, copy_path
from data_pipeline.store.checks import embedding_faults, paragraph_faults
from data_pipeline.store.embeddings import EmbeddingShard, check_belongs, mismatch_error, open_embedding_shard
from data_pipeline.store.manifest import (
    EmbeddedSplit,
    EmbeddingManifest,
    ShardEntry,
    contents_of,
    entry_for,
    read_manifest,
)
from data_pipeline.store.paragraphs import (
    VERSIONS,
    ParagraphShard,
    ParagraphStore,
    earlier_sha256,
    file_of_shard,
    paragraphs_sha256,
)
from data_pipeline.store.scores import ScoreFolder, open_scores, score_faults
from data_pipeline.store.versions import open_version, version_folder
from data_pipeline.types import Split
from data_pipeline.user_files import visible
from data_pipeline.utils.system import default_cache_dir

logger = logging.getLogger(__name__)

MAKE_EMBEDDINGS = "Make them with: elm embed"
_TRIES = 3  # where a dataset changes while it is opened
# Local shards that are checked when a dataset is opened; further ones are checked when they are needed.
_CHECK_AT_ONCE = 8


@dataclass(frozen=True)
class SplitFiles:
    """Files of a split, by name; picklable, so that a worker process opens them for itself."""

    split: Split
    store: ParagraphStore
    embeddings_dir: Path
    manifest: EmbeddingManifest | None
    """Manifest of the embeddings."""
    with_embeddings: bool
    cache_dir: Path | None
    remote: RemoteFolder | None
    embeddings_name: str
    """Name of the folder of embeddings in the data folder."""
    scores: tuple[ScoreFolder, ...] = ()
    """Scores of the split, one folder for each head."""

    @property
    def paragraphs(self) -> list[ParagraphShard]:
        """Paragraph shards, as the manifest lists them."""
        return self.store.listed(self.split)

    @property
    def listed(self) -> EmbeddedSplit | None:
        """Entry of the split in the manifest of the embeddings; None if it has none."""
        return self.manifest["splits"].get(self.split) if self.manifest else None

    @property
    def corpus(self) -> str:
        """Name of the corpus."""
        return self.store.corpus

    def fingerprint(self) -> str:
        """Compute the SHA-256 of the ids and texts of all rows, in order."""
        return paragraphs_sha256(self.paragraphs)

    def fingerprints(self) -> list[str]:
        """Compute `fingerprint`, and those that the split may have had before shards were appended."""
        return [self.fingerprint(), *earlier_sha256(self.paragraphs)]

    def check(self) -> None:
        """Check the first shards, and the list of deleted rows; see `open_embeddings` and `open_paragraphs`."""
        listed = self.store.manifest.get("deleted") if self.store.manifest else None
        if self.remote is not None and listed is not None:
            self.remote.fetch(self.store.folder.name, ShardEntry(**listed))
        self.store.deleted_rows(self.split)
        if self.with_embeddings:
            self._check_listed()
        if self.remote is not None:
            return
        for index in range(min(len(self.paragraphs), _CHECK_AT_ONCE)):
            self.open_paragraphs(index)
            if self.with_embeddings:
                self.open_embeddings(index)
        for index in range(_CHECK_AT_ONCE, len(self.paragraphs)):
            if not self._has_sizes(index):
                self.open_paragraphs(index)  # which says what is wrong, or reads a file that was written again
                if self.with_embeddings:
                    self.open_embeddings(index)

    def check_all(self) -> list[str]:
        """Open and check every shard; returns one line for each valid file.

        Raises:
            StoreError: a file is missing or damaged, or does not belong to the others; the first fault is raised.
        """
        good = []
        for index in range(len(self.paragraphs)):
            shard = self.open_paragraphs(index)
            good.append(f"{shard.path.name}: {shard.rows:,} paragraphs: size and hashes of ids and texts")
            if self.with_embeddings:
                vectors = self.open_embeddings(index)
                good.append(f"{vectors.path.name}: {vectors.rows:,} vectors: size, alignment and settings")
        return good

    def check_bytes(self) -> list[str]:
        """Verify every byte; returns one line for each valid group of files.

        Raises:
            CorruptShardError: files are damaged; the message has one line for each fault.
        """
        if self.store.manifest is None:
            raise CorruptShardError(
                f"{self.store.folder} has no manifest: an older pipeline wrote it, and it cannot be verified"
            )
        bad = list(paragraph_faults(self.store, self.split, set()))
        good = [] if bad else [f"{self.split}: paragraphs: every byte"]
        if self.with_embeddings:
            paths = [self.embedding_path(index) for index in range(len(self.paragraphs))]
            checked, faults = embedding_faults(self.embeddings_dir, self.manifest, self.store, self.split, paths)
            good += checked
            bad += faults
        for index in range(len(self.paragraphs)):
            shard, path = self.text_copy(index)
            bad += copy_faults(shard, path)
        for scores in self.scores:
            faults = list(score_faults(scores, self.paragraphs, self.store.deleted_rows(self.split)))
            bad += faults
            good += [] if faults else [f"{self.split}: scores of {scores.name}: hashes, alignment and values"]
        if bad:
            raise CorruptShardError("\n".join(bad))
        return good

    def open_paragraphs(self, index: int) -> ParagraphShard:
        """Return a paragraph shard by its index, downloaded if necessary, and checked.

        Raises:
            CorruptShardError: the file does not match its manifest.
        """
        shard = self.paragraphs[index]
        if self.remote is not None:
            self.remote.fetch(self.store.folder.name, shard)
        shard.check()
        return shard

    def text_copy(self, index: int) -> tuple[ParagraphShard, Path]:
        """Return a paragraph shard by its index, checked, and the path of its copy for random access."""
        shard = self.open_paragraphs(index)
        beside = self.store.folder / ".cache"
        owner = f"{self.remote.url if self.remote else self.store.folder.resolve().parent}/{self.store.folder.name}"
        if self.cache_dir is not None:
            return shard, copy_path(self.cache_dir / "texts", shard, owner)
        path = copy_path(beside, shard)
        if path.exists() or os.access(beside if beside.exists() else self.store.folder, os.W_OK):
            return shard, path
        elsewhere = default_cache_dir() / "texts"
        logger.info("%s is read-only; writing the copy for random access to %s", self.store.folder, elsewhere)
        return shard, copy_path(elsewhere, shard, owner)

    def embedding_path(self, index: int) -> Path:
        """Return the path of an embedding file by its index, downloaded if necessary."""
        entry = self._embedding_entry(index)
        if entry is None:
            name = file_of_shard(self.paragraphs[index], self.split, f"{self.split}_embeddings", ".safetensors")
            return self.embeddings_dir / name
        if self.remote is not None:
            return self.remote.fetch(self.embeddings_name, entry)
        return self.embeddings_dir / Path(entry.file).name

    def open_embeddings(self, index: int) -> EmbeddingShard:
        """Return an embedding shard by its index, downloaded if necessary, and checked.

        Raises:
            NotFoundError: the file is missing.
            CorruptShardError: the file does not match its manifest.
            ShardMismatchError: the file was not made from the paragraphs beside it.
            StaleStageError: the file was made with other settings than the manifest says.
        """
        path = self.embedding_path(index)
        if not path.exists():
            raise NotFoundError(f"there are no embeddings for {self.split}: {path} is missing. {MAKE_EMBEDDINGS}")
        shard = open_embedding_shard(path)
        entry, settings = self._embedding_entry(index), self.listed["settings"] if self.listed else None
        check_belongs(shard, self.paragraphs[index], entry, settings)
        return shard

    def _has_sizes(self, index: int) -> bool:
        """Return whether the files of a shard exist and have the sizes that are listed."""
        shard = self.paragraphs[index]
        files = [(str(shard.path), shard.bytes)]
        if self.with_embeddings and self.listed is not None:
            entry = entry_for(shard, self.listed["shards"], index)
            files.append((os.path.join(self.embeddings_dir, os.path.basename(entry.file)), entry.bytes))
        try:
            return all(os.stat(path).st_size == (size or os.stat(path).st_size) for path, size in files)
        except OSError:
            return False

    def _check_listed(self) -> None:
        """Check that the manifests of embeddings and paragraphs list the same rows, shard by shard.

        Raises:
            StoreError: a remote folder has no manifest of the embeddings.
            ShardMismatchError: the manifests list different rows.
        """
        if self.remote is not None and self.listed is None:
            raise StoreError(
                f"{self.remote.shown}/{self.embeddings_name} has no manifest with embeddings of {self.split}; "
                "a remote folder needs one"
            )
        if self.listed is None:
            return
        records = self.listed["shards"]
        listed = set(contents_of(records))
        missing = [shard for shard in self.paragraphs if shard.content not in listed]
        if not missing:
            return
        entries = [ShardEntry(**record) for record in records]
        if listed < {shard.content for shard in self.paragraphs}:
            raise NotFoundError(
                f"{self.store.folder} has grown: {len(missing)} of its {len(self.paragraphs)} files of {self.split} "
                f"have no vectors in {self.embeddings_dir} yet, the first is {missing[0].path.name}. {MAKE_EMBEDDINGS}"
            )
        if len(entries) != len(self.paragraphs):
            raise ShardMismatchError(
                f"{self.embeddings_dir} has {len(entries)} files of {self.split}, {self.store.folder} has "
                f"{len(self.paragraphs)}: they do not belong together. {MAKE_EMBEDDINGS} --overwrite"
            )
        for entry, paragraphs in zip(entries, self.paragraphs, strict=True):
            if entry.content != paragraphs.content:
                path, advice = self.embeddings_dir / Path(entry.file).name, f"{MAKE_EMBEDDINGS} --overwrite"
                raise mismatch_error(path, paragraphs, "manifest.json lists", entry.content, advice)

    def _embedding_entry(self, index: int) -> ShardEntry | None:
        return entry_for(self.paragraphs[index], self.listed["shards"], index) if self.listed else None


def open_source(
    data_dir: str | Path,
    split: Split,
    corpus: str | None,
    variant: str | None,
    with_embeddings: bool,
    cache_dir: Path | None,
    scores: Sequence[str] | None = None,
    version: int | None = None,
) -> SplitFiles:
    """Find the files of a split and check them; see `ELMDataset`.

    A dataset that grows meanwhile is opened as it was, or as it is then.

    Raises:
        StoreError: files are missing or damaged, or do not belong together.
    """
    attempt = partial(_open_source, data_dir, split, corpus, variant, with_embeddings, cache_dir, scores, version)
    for _ in range(_TRIES):
        before = _versions(data_dir)
        try:
            return attempt()
        except StoreError:
            if _versions(data_dir) == before:
                raise
    return attempt()


def _versions(data_dir: str | Path) -> list[tuple[str, int, int]]:
    """Manifests of the corpora of a local data folder: names, inodes and times, which change with every version."""
    if "://" in str(data_dir):
        return []
    paths = sorted(Path(data_dir).glob("*_processed/manifest.json"))
    return [(path.parent.name, *_state(path)) for path in paths]


def _state(path: Path) -> tuple[int, int]:
    """Inode and time of a file, which change when it is replaced; zeros if there is none."""
    try:
        stat = path.stat()
    except OSError:
        return 0, 0
    return stat.st_ino, stat.st_mtime_ns


def _open_source(
    data_dir: str | Path,
    split: Split,
    corpus: str | None,
    variant: str | None,
    with_embeddings: bool,
    cache_dir: Path | None,
    scores: Sequence[str] | None,
    version: int | None,
) -> SplitFiles:
    name = f"embeddings/{variant}" if variant else "embeddings"
    remote = None
    if "://" in str(data_dir):
        cache_dir = cache_dir or default_cache_dir()
        remote = RemoteFolder(str(data_dir).rstrip("/"), cache_dir)
        folder = remote.local(name)
    else:
        folder = Path(data_dir) / name
    state = _state(folder / "manifest.json")
    manifest = read_manifest(folder, EmbeddingManifest) if with_embeddings else None
    entry = manifest["splits"].get(split) if manifest else None
    embedded = str(entry["corpus"]) if entry else None
    if remote is not None:
        if version is not None:
            raise StoreError(f"earlier versions are read from local folders only, found {remote.shown}")
        processed = _corpus_folder(remote.shown, corpus, embedded, remote.names)
        store = ParagraphStore(remote.local(processed), remote.local_path)
    else:
        root = Path(data_dir)
        processed_dir = root / _corpus_folder(str(root), corpus, embedded, partial(_folders, root))
        store = open_version(processed_dir, version)
        if version is not None and store.folder != processed_dir:
            folder = version_folder(folder, version)
            name = f"{name}/{VERSIONS}/{version:04d}"
        if _state(folder / "manifest.json") != state:
            # After the paragraphs, since an append lists the vectors of new rows before it publishes these.
            manifest = read_manifest(folder, EmbeddingManifest) if with_embeddings else None
            entry = manifest["splits"].get(split) if manifest else None
        if version is None and with_embeddings and not _has_vectors_of(entry, store.listed(split)):
            folder, manifest = _kept_vectors(folder, store, split) or (folder, manifest)
            entry = manifest["splits"].get(split) if manifest else None
    if remote is not None and scores:
        raise StoreError(f"scores are read from local folders only, found {remote.shown}; copy it to this machine")
    score_folders = () if remote is not None else _scores(Path(data_dir) / "scores", split, store, scores)
    source = SplitFiles(split, store, folder, manifest, with_embeddings, cache_dir, remote, name, score_folders)
    source.check()
    if with_embeddings and remote is None and (entry is None or store.manifest is None):
        first = source.open_embeddings(0)
        if "ids_sha256" not in first.metadata or store.manifest is None:
            logger.warning(
                "%s was written by an older pipeline without row hashes: that its rows belong to %s cannot be proved",
                folder, store.folder,
            )  # fmt: skip
    return source


def _kept_vectors(folder: Path, store: ParagraphStore, split: Split) -> tuple[Path, EmbeddingManifest] | None:
    """Return where the vectors of the present rows are kept while those of another version are being restored."""
    kept = version_folder(folder, store.version)
    manifest = read_manifest(kept, EmbeddingManifest)
    if manifest is None or not _has_vectors_of(manifest["splits"].get(split), store.listed(split)):
        return None
    return kept, manifest


def _has_vectors_of(entry: EmbeddedSplit | None, shards: Sequence[ParagraphShard]) -> bool:
    listed = set(contents_of(entry["shards"] if entry else []))
    return all(shard.content in listed for shard in shards)


def _scores(folder: Path, split: Split, store: ParagraphStore, names: Sequence[str] | None) -> tuple[ScoreFolder, ...]:
    """Return the scores that belong to the paragraphs of a split; those requested by name must."""
    matching = []
    for scores in open_scores(folder, split, names):
        mismatch = scores.mismatch(store.listed(split))
        if mismatch is None:
            matching.append(scores.of(store.listed(split)))
        elif names is not None:
            raise ShardMismatchError(mismatch)
        elif scores.listed["corpus"] == store.corpus:
            logger.warning("%s They are ignored.", mismatch)
    return tuple(matching)


def _corpus_folder(where: str, named: str | None, embedded: str | None, list_folders: Callable[[], list[str]]) -> str:
    """Return the name of the folder with the paragraphs: the named, the embedded, or the only corpus."""
    if named is not None:
        return f"{named}_processed"
    existing = sorted(name for name in list_folders() if name.endswith("_processed"))
    if embedded is not None and f"{embedded}_processed" in existing:
        return f"{embedded}_processed"
    if len(existing) == 1:
        return existing[0]
    names = ", ".join(name.removesuffix("_processed") for name in existing)
    if existing:
        raise NotFoundError(f"{where} holds several corpora ({names}); name one: ELMDataset(..., corpus=NAME)")
    raise NotFoundError(f"No paragraphs in {where}. Run `elm run` first.")


def _folders(root: Path) -> list[str]:
    return [path.name for path in visible(root.glob("*_processed"), root) if path.is_dir()]
