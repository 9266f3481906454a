"""Score files of one name and split, and their record in the manifest."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.stages.split_output import SplitOutput
from data_pipeline.store import ScoreWriter
from data_pipeline.store.manifest import ScoreManifest, ShardRecord
from data_pipeline.store.paragraphs import earlier_fingerprints
from data_pipeline.store.reader import Rows


@dataclass(frozen=True, kw_only=True)
class ScoreOutput(SplitOutput):
    """Output of the scores of one name and split."""

    types: Mapping[str, pa.DataType]
    """Names and types of the columns."""

    @classmethod
    def of(
        cls, rows: Rows, folder: Path, types: Mapping[str, pa.DataType], settings: Mapping[str, Any]
    ) -> "ScoreOutput":
        """Make the output of the scores of a split.

        Args:
            rows: rows of the split.
            folder: `data/scores/<name>`.
            types: names and types of the columns.
            settings: settings that decide the scores, as JSON values.
        """
        source = rows.source
        return cls(
            folder=folder,
            split=source.split,
            manifest_type=ScoreManifest,
            stem=source.split,
            ending=".parquet",
            settings=settings,
            upstream=source.fingerprint(),
            corpus=source.corpus,
            paragraphs=source.paragraphs,
            is_whole=_has_its_size,
            types=types,
        )

    def is_written(self, index: int) -> bool:
        """Return whether the file of a shard is finished, as a killed run may have left it."""
        try:
            metadata = pq.read_metadata(self.paths[index])
        except (OSError, pa.ArrowException):
            return False
        recorded = {
            key.decode(): value.decode() for key, value in (metadata.metadata or {}).items() if key != b"ARROW:schema"
        }
        if recorded.get("fingerprint") in earlier_fingerprints(self.settings, self.paragraphs):
            recorded["fingerprint"] = self.fingerprint  # the split has grown since
        return metadata.num_rows == self.paragraphs[index].rows and recorded == self._metadata(index)

    def writer(self, index: int) -> ScoreWriter:
        """Open a writer of the file of a shard."""
        return ScoreWriter(self.paths[index], self.types, self._metadata(index))

    def publish(self) -> None:
        """Record the finished files; see `SplitOutput.record`."""
        self.record({"columns": list(self.types)}, {"stage": "scores", "name": self.folder.name, "splits": {}})

    def _metadata(self, index: int) -> dict[str, str]:
        shard = self.paragraphs[index]
        return {"fingerprint": self.fingerprint, "ids_sha256": shard.ids_sha256, "texts_sha256": shard.texts_sha256}


def _has_its_size(path: Path, record: ShardRecord) -> bool:
    return path.is_file() and path.stat().st_size == record.get("bytes")
