"""Vectors that exist already: found by their texts in the folders of a dataset, and copied instead of computed."""

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.dataset.spot_check import cosines_to_fresh
from data_pipeline.embeddings import Embedder
from data_pipeline.embeddings.identity import with_recorded_probes
from data_pipeline.errors import StoreError
from data_pipeline.store import Coding, EmbeddingShard, ParagraphShard, ParagraphStore, open_embedding_shard
from data_pipeline.store.embeddings import unit_length
from data_pipeline.store.manifest import EmbeddedSplit, EmbeddingManifest, ShardEntry, read_manifest
from data_pipeline.store.text_digests import text_digests
from data_pipeline.store.text_index import TextIndex
from data_pipeline.store.versions import embedding_folders, list_versions, version_folder
from data_pipeline.types import Float32Array, IntArray
from data_pipeline.user_files import visible
from data_pipeline.utils import sha256_of_file

logger = logging.getLogger(__name__)

_CHECKED_ROWS = 4
_BLOCK_ROWS = 16_384
_UNLIMITED = 1 << 62  # of a model behind an API, whose texts are not cut here
_MAY_DIFFER = {"dim", "max_length", "probes", "precision"}  # compared in another way


@dataclass(frozen=True)
class VectorSource:
    """Embedding file whose vectors can stand for those of the embedder, and the paragraphs that it was made from."""

    paragraphs: ParagraphShard
    path: Path
    settings: Mapping[str, Any]
    """Settings in the manifest beside it."""
    sha256: str
    """SHA-256 of the file in the manifest."""
    folder: Path
    """Folder that is trusted or not as a whole."""


@dataclass(frozen=True)
class VectorPositions:
    """Where the vectors of the rows of a shard are."""

    sources: IntArray
    """Position of the source of each row, shape (N,); -1 for rows without a vector."""
    rows: IntArray
    """Row in the source, shape (N,)."""

    def within(self, first: int, last: int) -> "VectorPositions":
        """Leave out the vectors of rows before `first`, or from `last` on."""
        sources = np.full(len(self.sources), -1, np.int64)
        sources[first:last] = self.sources[first:last]
        return VectorPositions(sources, self.rows)

    @property
    def missing(self) -> IntArray:
        """Rows without a vector."""
        return np.flatnonzero(self.sources < 0)


@dataclass
class Reuse:
    """Finds and reads the vectors that exist already.

    Args:
        roots: data folders to look into.
        work_dir: folder for the index, on a disk with room for 52 bytes for each text.
        embedder: the model, whose vectors are wanted.
        precision: precision of the stored vectors.
    """

    roots: Sequence[Path]
    work_dir: Path
    embedder: Embedder
    precision: str
    _whole: dict[int, bool] = field(default_factory=dict)
    """Whether the bytes of a source are those of its manifest, by its position."""
    _trusted: dict[Path, bool] = field(default_factory=dict)
    """Whether a few texts have the vectors that the model gives them, by folder."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @cached_property
    def sources(self) -> list[VectorSource]:
        """Embedding files of the same model, each once."""
        own = {**self.embedder.identity.to_metadata(), "precision": self.precision}
        found = [source for root in self.roots for source in _sources_in(root, own)]
        distinct: dict[tuple[int, int], VectorSource] = {}
        for source in found:
            stat = source.path.stat()
            distinct.setdefault((stat.st_dev, stat.st_ino), source)  # versions have links to one file
        return list(distinct.values())

    @cached_property
    def index(self) -> TextIndex:
        """Index of the texts of all sources."""
        self.work_dir.mkdir(parents=True, exist_ok=True)
        rows = [source.paragraphs.rows for source in self.sources]
        return TextIndex(rows, lambda source: text_digests(self.sources[source].paragraphs), self.work_dir)

    def find(self, shard: ParagraphShard, coding: Coding, token_counts: IntArray | None) -> VectorPositions:
        """Find the vectors of a shard, among sources that a few texts prove to be right.

        Args:
            shard: paragraphs that need vectors.
            coding: coding of the stored vectors.
            token_counts: tokens of each text, special tokens and prompt included; None if they are not known, which
                leaves out sources of another maximum length.
        """
        with self._lock:
            if not self.sources or not shard.rows:
                nothing = np.full(shard.rows, -1, np.int64)
                return VectorPositions(nothing, nothing)
            sources, rows = self.index.find(text_digests(shard))
            for number in np.unique(sources[sources >= 0]).tolist():
                own = sources == number
                recorded = int(self.sources[number].settings["max_length"])
                limits = {limit or _UNLIMITED for limit in (recorded, self.embedder.identity.max_length)}
                if len(limits) > 1:
                    own &= np.zeros(shard.rows, np.bool_) if token_counts is None else token_counts <= min(limits)
                if own.any() and not self._is_usable(shard, coding, number, np.flatnonzero(own), rows):
                    own[:] = False
                sources[(sources == number) & ~own] = -1
            return VectorPositions(sources, rows)

    def read(self, found: VectorPositions, coding: Coding) -> Iterator[tuple[IntArray, NDArray[Any], bool]]:
        """Read vectors that were found; those of a file that was replaced meanwhile are left out.

        Yields:
            Rows of the shard, their vectors, and whether these are coded as `coding` does, shape (N, stored width);
            else they are float32, shape (N, dim).
        """
        for number in np.unique(found.sources[found.sources >= 0]).tolist():
            shard = self._open(number)
            if shard is None:
                continue
            own = np.flatnonzero(found.sources == number)
            is_coded = shard.coding.to_metadata() == coding.to_metadata() and shard.dim == self.embedder.identity.dim
            own = own[np.argsort(found.rows[own], kind="stable")]
            for start in range(0, len(own), _BLOCK_ROWS):
                block = own[start : start + _BLOCK_ROWS]
                rows = found.rows[block]
                yield block, shard.stored[rows] if is_coded else self._vectors(shard, rows), is_coded

    def _vectors(self, shard: EmbeddingShard, rows: IntArray) -> Float32Array:
        """Vectors as the embedder gives them: cut, and scaled to length 1 again where they were."""
        vectors: Float32Array = shard.vectors(rows).astype(np.float32)
        if shard.dim == self.embedder.identity.dim:
            return vectors
        vectors = vectors[:, : self.embedder.identity.dim]
        return unit_length(vectors) if shard.normalized else vectors

    def _open(self, number: int) -> EmbeddingShard | None:
        """Open a source; None if it was replaced since it was listed."""
        source = self.sources[number]
        try:
            shard = open_embedding_shard(source.path)
        except StoreError:
            return None
        content = (shard.rows, shard.metadata.get("ids_sha256"), shard.metadata.get("texts_sha256"))
        expected = {name: str(value) for name, value in source.settings.items()}
        is_same = content == source.paragraphs.content and expected.items() <= shard.metadata.items()
        return shard if is_same else None

    def _is_usable(self, shard: ParagraphShard, coding: Coding, number: int, own: IntArray, rows: IntArray) -> bool:
        """Return whether the vectors of a source can be stored, and a few texts prove its folder to be right."""
        stored = self._open(number)
        if stored is None or not (stored.coding.is_float or stored.coding.to_metadata() == coding.to_metadata()):
            return False
        source, folder = self.sources[number], self.sources[number].folder
        if number not in self._whole:
            self._whole[number] = sha256_of_file(source.path) == source.sha256
            if not self._whole[number]:
                logger.warning("%s is not reused: its bytes are not those of its manifest.json", source.path)
        if not self._whole[number]:
            return False
        if folder not in self._trusted:
            chosen = own[:: max(1, len(own) // _CHECKED_ROWS)][:_CHECKED_ROWS]
            self._trusted[folder] = self._agrees(stored, rows[chosen], _texts(shard, chosen), folder)
        return self._trusted[folder]

    def _agrees(self, stored: EmbeddingShard, rows: IntArray, texts: list[str], folder: Path) -> bool:
        cosines, minimum = cosines_to_fresh(stored, self._vectors(stored, rows), texts, self.embedder)
        if not (cosines >= minimum).all():  # NaN counts as wrong
            logger.warning(
                "%s is not reused: it says that its vectors are of this model, but for a text that was embedded again "
                "the cosine is %.4f, expected %s or more", folder, cosines.min(), minimum,
            )  # fmt: skip
            return False
        return True


def _texts(shard: ParagraphShard, rows: IntArray) -> list[str]:
    """Texts of a few rows, ascending."""
    texts, start = [], 0
    for batch in shard.batches(["text"]):
        inside = rows[(rows >= start) & (rows < start + batch.num_rows)] - start
        texts += [str(batch["text"][row].as_py()) for row in inside.tolist()]
        start += batch.num_rows
        if start > rows[-1]:
            break
    return texts


def _sources_in(root: Path, own: Mapping[str, str]) -> Iterator[VectorSource]:
    """Embedding files of a data folder, of all variants and versions, whose vectors can stand for an embedder's."""
    paragraphs: dict[tuple[int, str, str], ParagraphShard] = {}
    for folder in visible(root.glob("*_processed"), root):
        for present in (folder, *(version_folder(folder, number) for number in list_versions(folder))):
            for shard in _paragraphs_in(present):
                paragraphs.setdefault(shard.content, shard)
    for folder in embedding_folders(root / "embeddings"):
        # Earlier versions first: their files stay, while those of the present one may be replaced.
        for present in (*(version_folder(folder, number) for number in list_versions(folder)), folder):
            for listed in _embedded_in(present):
                if not _can_stand_for(listed["settings"], own):
                    continue
                for record in listed["shards"]:
                    entry = ShardEntry(**record)
                    path = present / Path(entry.file).name
                    if entry.content in paragraphs and path.is_file():
                        yield VectorSource(paragraphs[entry.content], path, listed["settings"], entry.sha256, present)


def _paragraphs_in(folder: Path) -> list[ParagraphShard]:
    """Paragraph shards that exist; none if the folder is damaged or of an older pipeline, which stops no run."""
    try:
        store = ParagraphStore(folder)
    except StoreError:
        return []
    if store.manifest is None:
        return []
    return [shard for split in store.splits for shard in store.listed(split) if shard.path.is_file()]


def _embedded_in(folder: Path) -> list[EmbeddedSplit]:
    try:
        manifest = read_manifest(folder, EmbeddingManifest)
    except StoreError:
        return []
    return list(manifest["splits"].values()) if manifest else []


def _can_stand_for(settings: Mapping[str, Any], own: Mapping[str, str]) -> bool:
    """Return whether vectors with some settings are those of an embedder, or can be cut or coded to them."""
    recorded = {name: str(value) for name, value in settings.items()}
    same_probes = with_recorded_probes(own, recorded)
    if same_probes.get("probes") != recorded.get("probes"):
        return False
    if any(recorded.get(name) != own.get(name) for name in (own.keys() | recorded.keys()) - _MAY_DIFFER):
        return False
    dim, precision = int(recorded.get("dim", 0)), recorded.get("precision", "float32")
    if dim < int(own["dim"]):
        return False
    if precision == own["precision"] and precision in {"float32", "float16"}:
        return True
    return precision == "float32" or (precision == own["precision"] and dim == int(own["dim"]))
