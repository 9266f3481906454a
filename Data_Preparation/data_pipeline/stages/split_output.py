"""The files of one split in one folder, one a paragraph shard, and their record in the folder's manifest."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.errors import StaleStageError
from data_pipeline.stages.base import Task
from data_pipeline.store import CALIBRATED
from data_pipeline.store.manifest import (
    EmbeddingManifest,
    ScoreManifest,
    ShardRecord,
    check_fresh,
    entry_of,
    fingerprint,
    made_with,
    read_manifest,
    write_manifest,
)
from data_pipeline.store.paragraphs import ParagraphShard, shard_name
from data_pipeline.types import Split
from data_pipeline.utils import sha256_of_file
from data_pipeline.utils.system import remove_unused


@dataclass(frozen=True)
class SplitOutput:
    """Files that are made from the paragraphs of one split."""

    folder: Path
    split: Split
    manifest_type: type[EmbeddingManifest] | type[ScoreManifest]
    stem: str
    """`train_embeddings`, `train`."""
    ending: str
    """`.safetensors`, `.parquet`."""
    settings: Mapping[str, Any]
    """All that decides the bytes, beside the paragraphs; JSON values."""
    upstream: str
    """Fingerprint of the paragraphs."""
    corpus: str
    paragraphs: Sequence[ParagraphShard]
    """In order; one file for each."""
    is_whole: Callable[[Path, ShardRecord], bool]
    """Whether a file that a manifest lists exists and has the right size."""
    remakes_damaged: bool = False
    """Missing or damaged files are made again without being asked to; else that needs `overwrite`."""

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the files; see `store.manifest.fingerprint`."""
        return fingerprint(self.settings, self.upstream)

    @property
    def paths(self) -> list[Path]:
        """The files, one a shard."""
        count = len(self.paragraphs)
        return [self.folder / shard_name(self.stem, self.ending, index, count) for index in range(count)]

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(shard.rows for shard in self.paragraphs)

    def tasks(self) -> list[Task]:
        """One a file."""
        return [Task(path.name, index) for index, path in enumerate(self.paths)]

    def read_manifest(self) -> EmbeddingManifest | ScoreManifest | None:
        """The folder's manifest."""
        return read_manifest(self.folder, self.manifest_type)  # type: ignore[type-var]

    def is_finished(self, overwrite: bool) -> bool:
        """See `stages.base.Output`; with `overwrite`, files are read and those with other bytes removed."""
        manifest = self.read_manifest()
        previous = manifest["splits"].get(self.split) if manifest else None
        if previous is None:
            return False
        if not overwrite:
            check_fresh(previous, self.settings, self.upstream, self.folder / self.stem)
        if previous["fingerprint"] != self.fingerprint:
            return False
        files = [(self.folder / Path(record["file"]).name, record) for record in previous["shards"]]
        whole = all(self.is_whole(path, record) for path, record in files)
        if not (whole or overwrite or self.remakes_damaged):
            raise StaleStageError(
                f"files in {self.folder} are missing or damaged. Pass --overwrite to make them again."
            )
        if whole and not overwrite:
            return True
        for path, record in files:
            if path.is_file() and sha256_of_file(path) != record["sha256"]:
                path.unlink()  # or it would be taken for finished: its header may be whole
                whole = False
        return whole

    def record(self, facts: Mapping[str, Any], empty: Mapping[str, Any]) -> None:
        """Record the finished files in the manifest, and remove those of earlier runs of the split.

        Args:
            facts: what the record says beside rows and files.
            empty: manifest of a folder that has none yet.
        """
        shards = [
            entry_of(path, shard.rows, shard.ids_sha256, shard.texts_sha256).to_json()
            for path, shard in zip(self.paths, self.paragraphs, strict=True)
        ]
        existing = self.read_manifest()
        manifest: dict[str, Any] = copy.deepcopy(dict(existing or empty))
        made = made_with(self.settings, self.upstream)
        manifest["splits"][self.split] = {**made, "corpus": self.corpus, "rows": self.rows, **facts, "shards": shards}
        if not any(split["settings"].get("precision") in CALIBRATED for split in manifest["splits"].values()):
            manifest.pop("calibration", None)  # of vectors that were replaced
        self._remove_leftovers()
        if manifest != existing:
            write_manifest(self.folder, manifest)

    def _remove_leftovers(self) -> None:
        """Remove what earlier runs of this split left: other numbers of shards, unfinished work."""
        finished = (f"{self.stem}{self.ending}", f"{self.stem}-?????-of-?????{self.ending}")
        unfinished = [f"{dots}{name}.*" for dots in (".", "..") for name in finished]
        for pattern in (*finished, *unfinished):
            for path in self.folder.glob(pattern):
                if path not in self.paths:
                    remove_unused(path)
