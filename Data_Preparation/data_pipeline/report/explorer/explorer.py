"""Opening of the explorer: rows, positions and database together."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.config import Config
from data_pipeline.report.approximate_neighbors import approximate_neighbors
from data_pipeline.report.explorer.contents import Contents, open_contents
from data_pipeline.report.explorer.database import Database, open_database
from data_pipeline.report.explorer.export import export_application, write_archive
from data_pipeline.report.explorer.nearest import NEIGHBORS
from data_pipeline.report.explorer.positions import Cache, Projection, open_cache, positions_of
from data_pipeline.report.explorer.server import make_app
from data_pipeline.report.neighbors import Neighbors, nearest_neighbors
from data_pipeline.types import Split

logger = logging.getLogger(__name__)

MAX_EXPORTED_NEIGHBORS_ROWS = 20_000
"""Number of rows whose neighbours are exported without being asked for; see `Explorer.all_neighbors`."""


@dataclass(frozen=True)
class Explorer:
    """The explorer of a dataset, ready to be served or exported."""

    contents: Contents
    database: Database
    projection: Projection
    cache: Cache

    def app(self, secret: str | None = None) -> tuple[object, str]:
        """Make the application of the server; see `server.make_app`."""
        return make_app(self.contents, self.database, self._write_archive, secret)

    def export(self, folder: Path, with_neighbors: bool) -> None:
        """Write the static application to a folder; see `export.export_application`."""
        neighbors = self.all_neighbors() if with_neighbors else None
        export_application(self.contents, self.database, neighbors, folder)

    def exports_neighbors(self) -> bool:
        """Return whether neighbours of all rows take seconds, so that an application has them unasked."""
        return len(self.contents) <= MAX_EXPORTED_NEIGHBORS_ROWS

    def all_neighbors(self) -> Neighbors:
        """Read or compute the nearest neighbours of all rows: exact ones of few rows, approximate ones of many."""

        def make() -> np.ndarray:
            logger.info("Finding the neighbours of %d rows", len(self.contents))
            if self.exports_neighbors():
                found = nearest_neighbors(self.contents[:], NEIGHBORS)
            else:
                found = approximate_neighbors(self.contents, NEIGHBORS)
            return np.stack([found.rows, found.cosines.view(np.int32)], axis=1)

        both = self.cache.get("neighbors", make)
        return Neighbors(both[:, 0], np.ascontiguousarray(both[:, 1]).view(np.float32))

    def _write_archive(self, path: Path) -> None:
        neighbors = self.all_neighbors() if self.exports_neighbors() else None
        write_archive(self.contents, self.database, neighbors, path)


def open_explorer(config: Config, splits: Sequence[Split] | None = None, projection: Projection = "pca") -> Explorer:
    """Open the rows of a dataset for the explorer.

    Args:
        config: configuration with the folders, the corpus and the variant.
        splits: splits to show; None for all with vectors.
        projection: projection of the vectors on the map.

    Raises:
        DataPipelineError: the dataset has no vectors, is damaged, or is too large for the projection.
        MissingExtraError: the extra of the explorer or of UMAP is not installed.
    """
    contents = open_contents(config, splits)
    cache = open_cache(config, contents)
    with ThreadPoolExecutor(1) as reader:
        # The texts are copied for random access at the first time, which takes as long as the projection.
        table = reader.submit(contents.table)
        positions = positions_of(contents, projection, cache)
        database = open_database(contents, table.result(), positions)
    return Explorer(contents, database, projection, cache)
