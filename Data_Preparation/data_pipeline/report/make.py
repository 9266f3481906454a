"""The report of a dataset: its sections, put together and written to one HTML file."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.config import Config
from data_pipeline.errors import MissingExtraError
from data_pipeline.report.blocks import Block, Note, Section
from data_pipeline.report.clusters import named_clusters
from data_pipeline.report.inline import MAX_INLINE_BYTES, inline_frame
from data_pipeline.report.measures import NEIGHBORS
from data_pipeline.report.neighbors import nearest_neighbors
from data_pipeline.report.opened import SAMPLE_ROWS, OpenedDataset, Sample, draw_sample, open_dataset
from data_pipeline.report.page import check_report_extra, render_page
from data_pipeline.report.projection import principal_components, umap_projection
from data_pipeline.report.sections.funnel import funnel_section
from data_pipeline.report.sections.glance import glance_section
from data_pipeline.report.sections.health import health_section
from data_pipeline.report.sections.labels import labels_section
from data_pipeline.report.sections.leakage import leakage_section
from data_pipeline.report.sections.lengths import lengths_section
from data_pipeline.report.sections.map import map_section
from data_pipeline.report.sections.scores import scores_section
from data_pipeline.report.sections.subsets import read_subsets, subsets_section
from data_pipeline.report.sections.versions import versions_section
from data_pipeline.types import Split
from data_pipeline.utils import atomic_write_bytes, human_bytes
from data_pipeline.utils.displays import facts_html

logger = logging.getLogger(__name__)

FILE_NAME = "report.html"
_MIN_MAP_ROWS = 3


@dataclass(frozen=True)
class WrittenReport:
    """Report that was written; notebooks show the page itself."""

    path: Path
    rows: int
    """Number of rows that were read for it."""
    total: int
    """Number of rows of the dataset."""
    bytes: int
    seconds: float

    def _repr_html_(self) -> str:
        facts = [
            ("file", f"{self.path} ({human_bytes(self.bytes)})"),
            ("rows", f"{self.rows:,} of {self.total:,}"),
        ]
        if self.bytes > MAX_INLINE_BYTES:
            limit = human_bytes(MAX_INLINE_BYTES)
            advice = f"larger than the {limit} that a notebook shows; open the file in a browser, or lower rows"
            return facts_html(self.path.name, [*facts, ("not shown", advice)])
        try:
            page = self.path.read_text(encoding="utf-8")
        except OSError as error:
            return facts_html(self.path.name, [*facts, ("not shown", f"the file cannot be read: {error.strerror}")])
        return inline_frame(page, self.path.name) + facts_html(self.path.name, facts)


def write_report(
    config: Config, path: Path | None = None, *, rows: int = SAMPLE_ROWS, umap: bool = False
) -> WrittenReport:
    """Write the report of a dataset.

    Manifests and the rows of a sample are read; figures that a stage has measured are taken from its manifest.

    Args:
        config: configuration with the folders.
        path: path of the file; None for `report.html` in the data folder.
        rows: maximum number of rows whose texts and vectors are read.
        umap: whether the map has a UMAP projection too, which takes minutes for 20,000 rows.

    Raises:
        MissingExtraError: the extra `report` is not installed, or `umap`, if that is wanted.
        StoreError: files are missing or damaged, or do not belong together.
    """
    check_report_extra()
    started = time.monotonic()
    dataset = open_dataset(config)
    sample = draw_sample(dataset, rows)
    page = render_page(
        f"{dataset.store.corpus}: report", _subtitle(dataset), report_sections(dataset, sample, with_umap=umap)
    )
    path = config.data_dir / FILE_NAME if path is None else path
    return save_page(page, path, len(sample), sample.total, started)


def save_page(page: str, path: Path, rows: int, total: int, started: float) -> WrittenReport:
    """Write a page to its file.

    Args:
        page: HTML of the page.
        path: path of the file, whose folder is made if it does not exist.
        rows: number of rows that were read for it.
        total: number of rows that there are.
        started: time when the work on it began, by `time.monotonic`.
    """
    content = page.encode("utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(path, content)
    return WrittenReport(path, rows, total, len(content), time.monotonic() - started)


def report_sections(dataset: OpenedDataset, sample: Sample, *, with_umap: bool = False) -> list[Section]:
    """Return the sections of the report of a dataset, in order.

    Args:
        dataset: the dataset.
        sample: its rows to look at.
        with_umap: whether the map has a UMAP projection too.
    """
    subsets, faults = read_subsets(dataset)
    first = [glance_section(dataset, sample), funnel_section(dataset), lengths_section(dataset)]
    last = [
        scores_section(dataset, sample),
        labels_section(dataset.config),
        subsets_section(dataset, subsets, faults),
        versions_section(dataset.config),
    ]
    sections = [*first, *_of_vectors(dataset, sample, subsets, with_umap), *last]
    return [section for section in sections if section is not None]


def _of_vectors(
    dataset: OpenedDataset, sample: Sample, subsets: Mapping[tuple[str, Split], Sequence[str]], with_umap: bool
) -> list[Section]:
    """Sections on pairs, the map and the vectors; without vectors, the first one only."""
    vectors = sample.vectors
    if vectors is None or len(sample) < _MIN_MAP_ROWS:
        blocks: list[Block] = [Note("The dataset has no vectors; make them with elm embed.", "check")]
        return [leakage_section(dataset, sample, None), Section("map", "Map", blocks)]
    neighbors = nearest_neighbors(vectors, NEIGHBORS)
    principal = principal_components(vectors)
    projections = {"PCA": principal.project(vectors)} | ({"UMAP": umap_projection(vectors)} if with_umap else {})
    colors = {"cluster": named_clusters(vectors, sample.texts)} | _subset_colors(sample, subsets)
    is_unit = next(iter(dataset.rows.values())).first_shard.normalized
    return [
        leakage_section(dataset, sample, neighbors),
        map_section(sample, projections, neighbors, colors),
        health_section(sample, neighbors, principal, is_unit=is_unit),
    ]


def _subset_colors(sample: Sample, subsets: Mapping[tuple[str, Split], Sequence[str]]) -> dict[str, list[str]]:
    """Whether each row is in a subset, by name of the subset."""
    members: dict[str, set[tuple[str, str]]] = {}
    for (name, split), ids in subsets.items():
        members.setdefault(name, set()).update((split, text_id) for text_id in ids)
    rows = list(zip(sample.splits, sample.ids, strict=True))
    return {
        f"subset {name}": ["selected" if row in selected else "others" for row in rows]
        for name, selected in members.items()
    }


def _subtitle(dataset: OpenedDataset) -> str:
    model = ""
    if dataset.has_vectors and dataset.embeddings is not None:
        model = f", embedded by {next(iter(dataset.embeddings['splits'].values()))['settings']['model']}"
    return f"{dataset.count:,} rows in {dataset.config.shown_location}{model}"


def missing_extra() -> str | None:
    """Return how to install what reports need, if it is missing."""
    try:
        check_report_extra()
    except MissingExtraError as error:
        return str(error)
    return None
