"""Output files of one split, one for each paragraph shard, and their record in the manifest."""

import copy
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.errors import StaleStageError
from data_pipeline.stages.base import Task
from data_pipeline.store import CALIBRATED
from data_pipeline.store.manifest import (
    EmbeddingManifest,
    RowFiles,
    ScoreManifest,
    ShardRecord,
    SparseManifest,
    check_fresh,
    contents_of,
    entry_of,
    fingerprint,
    made_with,
    read_manifest,
    write_manifest,
)
from data_pipeline.store.paragraphs import ParagraphShard, earlier_sha256, file_of_shard
from data_pipeline.types import Split
from data_pipeline.utils import sha256_of_file
from data_pipeline.utils.system import remove_unused


@dataclass(frozen=True)
class SplitOutput:
    """Output files that are made from the paragraphs of one split."""

    folder: Path
    split: Split
    manifest_type: type[EmbeddingManifest] | type[SparseManifest] | type[ScoreManifest]
    stem: str
    """Stem of the file names, such as `train_embeddings`."""
    ending: str
    """Ending of the file names, such as `.safetensors`."""
    settings: Mapping[str, Any]
    """Settings that decide the bytes of the files, as JSON values."""
    upstream: str
    """Fingerprint of the paragraphs."""
    corpus: str
    paragraphs: Sequence[ParagraphShard]
    """Paragraph shards in order; each has one file."""
    is_whole: Callable[[Path, ShardRecord], bool]
    """Function that returns whether a listed file exists and has the right size."""
    remakes_damaged: bool = False
    """Whether missing or damaged files are made again without `overwrite`."""
    keeps_listed: bool = False
    """Whether files that are listed already stay, since the paragraphs that they belong to are still there."""

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the files; see `store.manifest.fingerprint`."""
        return fingerprint(self.settings, self.upstream)

    @property
    def paths(self) -> list[Path]:
        """Paths of the files, one for each shard."""
        return [self.folder / file_of_shard(shard, self.split, self.stem, self.ending) for shard in self.paragraphs]

    @property
    def rows(self) -> int:
        """Number of rows of all files."""
        return sum(shard.rows for shard in self.paragraphs)

    def tasks(self) -> list[Task]:
        """Return one task for each file, but for those that were finished before shards were appended."""
        finished = self.finished_files()
        return [Task(path.name, index) for index, path in enumerate(self.paths) if path.name not in finished]

    def finished_files(self) -> dict[str, ShardRecord]:
        """Return the recorded files that stay, by name, where the split has grown."""
        manifest = self.read_manifest()
        previous = manifest["splits"].get(self.split) if manifest else None
        if previous is None or not self._has_grown(previous):
            return {}
        records = previous["shards"]
        if not all(self.is_whole(self.folder / Path(record["file"]).name, record) for record in records):
            return {}
        return {record["file"]: record for record in records}

    def _has_grown(self, previous: RowFiles) -> bool:
        """Return whether files were made with the same settings, of the first shards of these paragraphs."""
        return previous["settings"] == self.settings and previous["upstream"] in earlier_sha256(self.paragraphs)

    def _has_all(self, previous: RowFiles) -> bool:
        """Return whether files were made with the same settings, of these paragraphs and of others beside."""
        records = previous["shards"]
        listed = set(zip((record["file"] for record in records), contents_of(records), strict=True))
        own = {(path.name, shard.content) for path, shard in zip(self.paths, self.paragraphs, strict=True)}
        return previous["settings"] == self.settings and own < listed

    def read_manifest(self) -> EmbeddingManifest | SparseManifest | ScoreManifest | None:
        """Read the manifest of the folder."""
        return read_manifest(self.folder, self.manifest_type)  # type: ignore[type-var]

    def is_finished(self, overwrite: bool) -> bool:
        """Return whether the files are finished; with `overwrite`, files whose checksum differs are removed."""
        manifest = self.read_manifest()
        previous = manifest["splits"].get(self.split) if manifest else None
        if previous is None:
            return False
        if self._has_grown(previous):
            return False
        has_all = self._has_all(previous)
        if not (overwrite or has_all):
            check_fresh(previous, self.settings, self.upstream, self.folder / self.stem)
        names = {path.name for path in self.paths}
        records = [record for record in previous["shards"] if Path(record["file"]).name in names]
        is_same = has_all or previous["fingerprint"] == self.fingerprint
        if not is_same or len(records) < len(names):  # or the same rows are in paragraph files of other names
            return False
        files = [(self.folder / Path(record["file"]).name, record) for record in records]
        whole = all(self.is_whole(path, record) for path, record in files)
        if not (whole or overwrite or self.remakes_damaged):
            raise StaleStageError(
                f"files in {self.folder} are missing or damaged. Pass --overwrite to make them again."
            )
        if whole and not overwrite:
            return True
        for path, record in files:
            if path.is_file() and sha256_of_file(path) != record["sha256"]:
                path.unlink()  # else it could pass as finished, since its header may be intact
                whole = False
        return whole

    def record(self, facts: Mapping[str, Any], empty: Mapping[str, Any]) -> None:
        """Record the finished files in the manifest, and remove files of earlier runs of the split.

        Args:
            facts: additional values of the record.
            empty: manifest of a folder without one.
        """
        finished = self.finished_files()
        shards = [
            finished.get(path.name) or entry_of(path, *shard.content).to_json()
            for path, shard in zip(self.paths, self.paragraphs, strict=True)
        ]
        existing = self.read_manifest()
        if self.keeps_listed and existing is not None and self.split in existing["splits"]:
            own = {path.name for path in self.paths}
            shards += [record for record in existing["splits"][self.split]["shards"] if record["file"] not in own]
        manifest: dict[str, Any] = copy.deepcopy(dict(existing or empty))
        made = made_with(self.settings, self.upstream)
        manifest["splits"][self.split] = {**made, "corpus": self.corpus, "rows": self.rows, **facts, "shards": shards}
        if not any(split["settings"].get("precision") in CALIBRATED for split in manifest["splits"].values()):
            manifest.pop("calibration", None)  # the vectors it belongs to were replaced
        self._remove_leftovers({record["file"] for record in shards})
        if manifest != existing:
            write_manifest(self.folder, manifest)

    def _remove_leftovers(self, listed: Set[str]) -> None:
        """Remove files of earlier runs of this split: other numbers of shards, and unfinished work."""
        finished = (
            f"{self.stem}{self.ending}",
            f"{self.stem}-?????-of-?????{self.ending}",
            f"{self.stem}-v*{self.ending}",
        )
        unfinished = [f"{dots}{name}.*" for dots in (".", "..") for name in finished]
        for pattern in (*finished, *unfinished):
            for path in self.folder.glob(pattern):
                if path.name not in listed:
                    remove_unused(path)


class SplitStage:
    """Part that stages with the files of one split share; see `stages.base.Stage`."""

    output: SplitOutput
    unit = "row"

    @property
    def rows(self) -> int:
        """Number of rows of the split."""
        return self.output.rows

    @property
    def outputs(self) -> list[SplitOutput]:
        """Outputs of the stage."""
        return [self.output]

    def fingerprint(self) -> str:
        """Compute the fingerprint of the outputs."""
        return self.output.fingerprint

    def tasks(self) -> list[Task]:
        """Return one task for each file."""
        return self.output.tasks()
