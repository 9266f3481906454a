"""Positions of rows on the map, and their nearest neighbours, kept in a cache beside the dataset."""

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_pipeline.config import Config
from data_pipeline.errors import ConfigError
from data_pipeline.report.explorer.contents import Contents
from data_pipeline.report.projection import principal_components, umap_projection
from data_pipeline.types import Float32Array
from data_pipeline.utils import sha256_of_json
from data_pipeline.utils.files import published, unique_name
from data_pipeline.utils.system import default_cache_dir, remove_unused

logger = logging.getLogger(__name__)

Projection = Literal["pca", "umap"]
PROJECTIONS: tuple[Projection, ...] = ("pca", "umap")

CACHE = ".explorer"
"""Folder in the data folder that can be deleted at any time."""
MAX_UMAP_ROWS = 100_000

_SAMPLE_ROWS = 50_000
_FORMAT = 1


@dataclass(frozen=True)
class Cache:
    """Arrays that were computed from a dataset, one file for each kind of array and way of opening the dataset."""

    folder: Path
    opened: str
    """Name of the way of opening the dataset: its corpus, splits and variant."""
    fingerprint: str
    """Fingerprint of the rows and their vectors."""

    def get(self, kind: str, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """Read an array of a kind, or make and keep it; arrays of earlier contents of the dataset are removed."""
        slot = f"{kind}-{sha256_of_json(self.opened)[:12]}"
        key = sha256_of_json([_FORMAT, kind, self.fingerprint])[:20]
        path = self.folder / f"{slot}.{key}.npy"
        array = _read(path)
        if array is None:
            array = make()
            self.folder.mkdir(parents=True, exist_ok=True)
            with published(path, unique_name(path)) as temporary, temporary.open("wb") as file:
                np.save(file, array, allow_pickle=False)
        for other in self.folder.glob(f"{slot}.*.npy"):
            if other != path:
                remove_unused(other)
        return array


def open_cache(config: Config, contents: Contents) -> Cache:
    """Return the cache of a dataset, in its folder or, where that is read-only, in the cache folder of the user."""
    folder = config.data_dir / CACHE
    if not os.access(folder if folder.exists() else config.data_dir, os.W_OK):
        name = hashlib.sha256(str(config.data_dir.resolve()).encode()).hexdigest()[:16]
        folder = (config.cache_dir or default_cache_dir()) / "explorer" / name
        logger.info("%s is read-only; keeping positions in %s", config.data_dir, folder)
    opened = sha256_of_json([config.corpus.name, list(contents.parts), config.embedding.variant])
    return Cache(folder, opened, contents.fingerprint())


def positions_of(contents: Contents, projection: Projection, cache: Cache) -> Float32Array:
    """Read or compute the positions of all rows on the map, shape (N, 2).

    PCA is fitted to at most 50,000 random rows, and projects all rows in blocks.

    Raises:
        ConfigError: there are more rows than UMAP can project in reasonable time.
        MissingExtraError: the extra of UMAP is not installed.
    """
    if projection == "umap" and len(contents) > MAX_UMAP_ROWS:
        raise ConfigError(
            f"UMAP is limited to {MAX_UMAP_ROWS:,} rows, and this dataset has {len(contents):,}: it would take hours "
            "and all vectors in memory. Use --projection pca, or fewer rows: --splits val"
        )

    def make() -> Float32Array:
        logger.info("Projecting %d rows by %s", len(contents), projection.upper())
        return _umap(contents) if projection == "umap" else _principal(contents)

    return cache.get(projection, make)


def _principal(contents: Contents) -> Float32Array:
    rng = np.random.default_rng(0)
    rows = len(contents)
    sample = np.arange(rows) if rows <= _SAMPLE_ROWS else np.sort(rng.choice(rows, _SAMPLE_ROWS, replace=False))
    principal = principal_components(contents.vectors(sample))
    positions, start = np.empty((rows, 2), np.float32), 0
    for block in contents.blocks():
        positions[start : start + len(block)] = principal.project(block)
        start += len(block)
    return positions


def _umap(contents: Contents) -> Float32Array:
    return umap_projection(contents[:])


def _read(path: Path) -> NDArray[Any] | None:
    """Read a file of the cache; None if it is missing or damaged."""
    try:
        array: NDArray[Any] = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        logger.warning("%s is damaged (%s) and is made again", path, error)
        return None
    return array
