"""Making the score files of a split: what is finished is skipped, and a killed job goes on with the file it was at."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.errors import StaleStage
from data_pipeline.store.manifest import check_fresh, entry_of, fingerprint, read_manifest, write_manifest
from data_pipeline.store.paragraphs import ParagraphShard, shard_name
from data_pipeline.store.scores import ScoreWriter
from data_pipeline.types import Split
from data_pipeline.utils import sha256_of_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoreStage:
    """Scores of one name and split that are to be made."""

    folder: Path
    """`data/scores/<name>`."""
    split: Split
    types: Mapping[str, pa.DataType]
    """Columns, and what they hold."""
    settings: Mapping[str, Any]
    """All that decides the numbers, beside the paragraphs; JSON values."""
    upstream: str
    """Fingerprint of the paragraphs."""
    corpus: str
    """Whose paragraphs."""
    paragraphs: Sequence[ParagraphShard]
    """In order; one score file for each."""

    @property
    def paths(self) -> list[Path]:
        """The files, one a shard."""
        count = len(self.paragraphs)
        return [self.folder / shard_name(self.split, ".parquet", index, count) for index in range(count)]

    def is_finished(self, overwrite: bool = False) -> bool:
        """Whether all is there already.

        Args:
            overwrite: what was made with other settings, or is damaged, is to be replaced.

        Raises:
            StaleStage: scores of other settings are there under the name, or damaged ones, and not `overwrite`.
        """
        known = (read_manifest(self.folder) or {"splits": {}})["splits"].get(self.split)
        if known is None:
            return False
        if not overwrite:
            check_fresh(known, self.settings, self.upstream, self.folder / self.split)
        there = True
        for entry in known["shards"]:
            path = self.folder / Path(entry["file"]).name
            if not path.is_file() or path.stat().st_size != entry["bytes"]:
                there = False
            elif overwrite and sha256_of_file(path) != entry["sha256"]:
                path.unlink()  # or it would be taken for finished: its metadata may be whole
                there = False
        if not there and not overwrite:
            raise StaleStage(f"scores in {self.folder} are missing or damaged. Pass --overwrite to make them again.")
        return there and known["fingerprint"] == fingerprint(self.settings, self.upstream)

    def is_written(self, index: int) -> bool:
        """Whether a shard's file is what this job would write: a killed one may have finished it."""
        try:
            metadata = pq.read_metadata(self.paths[index])
        except (OSError, pa.ArrowException):
            return False
        found = {
            key.decode(): value.decode() for key, value in (metadata.metadata or {}).items() if key != b"ARROW:schema"
        }
        return metadata.num_rows == self.paragraphs[index].rows and found == self._metadata(index)

    def writer(self, index: int) -> ScoreWriter:
        """For a shard's file."""
        return ScoreWriter(self.paths[index], self.types, self._metadata(index))

    def finish(self) -> None:
        """Write the manifest, when all files are there; those of earlier scores of the name go."""
        entries = [
            entry_of(path, shard.rows, shard.ids_sha256, shard.texts_sha256).to_json()
            for path, shard in zip(self.paths, self.paragraphs, strict=True)
        ]
        manifest = read_manifest(self.folder) or {"stage": "scores", "name": self.folder.name, "splits": {}}
        rows = sum(shard.rows for shard in self.paragraphs)
        manifest["splits"][self.split] = {
            "fingerprint": fingerprint(self.settings, self.upstream),
            "settings": dict(self.settings),
            "upstream": self.upstream,
            "corpus": self.corpus,
            "rows": rows,
            "columns": list(self.types),
            "shards": entries,
        }
        write_manifest(self.folder, manifest)
        for pattern in (f"{self.split}.parquet", f"{self.split}-?????-of-?????.parquet", f".{self.split}*.parquet.tmp"):
            for path in self.folder.glob(pattern):
                if path not in self.paths:
                    path.unlink()
        logger.info("%s: %d rows", self.folder / self.split, rows)

    def _metadata(self, index: int) -> dict[str, str]:
        shard = self.paragraphs[index]
        return {
            "fingerprint": fingerprint(self.settings, self.upstream),
            "ids_sha256": shard.ids_sha256,
            "texts_sha256": shard.texts_sha256,
        }
