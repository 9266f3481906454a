"""Any dataset of the hub with one document in each row: parquet, JSON, CSV or text, streamed by `datasets`."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pyarrow as pa

from data_pipeline.config import CorpusConfig
from data_pipeline.download.columns import columns_of
from data_pipeline.download.corpus import SPLIT_NAMES, Corpus, OnBadRecord, Unit, allowed_bad_share
from data_pipeline.download.records import to_documents
from data_pipeline.errors import SourceError
from data_pipeline.types import Document
from data_pipeline.user_files import OnBytes
from data_pipeline.utils import converted_errors
from data_pipeline.utils.hub import OFFLINE_HINT, TRANSPORT_ERRORS, HubRevision, resolve_revision

_WIKITEXT_CONFIG = CorpusConfig.model_fields["hf_dataset_config"].default


def open_hub_records(config: CorpusConfig) -> Corpus:
    """Open a dataset of the hub, at the current commit of its revision; its splits are read one after the other.

    Raises:
        SourceError: the hub cannot be reached, has no such dataset or revision, or the dataset cannot be read.
    """
    revision, configuration = _version_of(config)
    commit = revision.commit
    name = f"{config.hf_dataset_name} {configuration or ''}".strip()

    return Corpus(
        description=f"{name} at {commit[:12] if commit else 'the cached revision'}",
        identity={
            "dataset": config.hf_dataset_name,
            "config": configuration or "",
            "revision": commit or config.revision or "cached",
        },
        units=lambda: [Unit(partial(_read, config, commit, configuration))],
        metadata=config.metadata_fields,
        max_bad_share=allowed_bad_share(config),
        on_duplicate_id=config.on_duplicate_id,
        license=revision.license,
    )


def _read(
    config: CorpusConfig, commit: str | None, configuration: str | None, on_bytes: OnBytes, on_bad: OnBadRecord | None
) -> Iterator[Document]:
    del on_bytes
    name = f"{config.hf_dataset_name} {configuration or ''}".strip()
    for split, rows in load_splits(config.hf_dataset_name, configuration, commit, config.revision).items():
        columns = _columns(rows, config, name)
        records = enumerate(read_rows(rows.select_columns(columns), name, split), start=1)
        source_split = SPLIT_NAMES.get(split.lower(), "")
        yield from to_documents(records, config, source_split, f"{name}, {split}", split, "row", on_bad)


def hub_rows(config: CorpusConfig) -> Iterator[Mapping[str, Any]]:
    """Iterate over the rows of a dataset of the hub, with all their columns.

    Raises:
        SourceError: see `open_hub_records`.
    """
    revision, configuration = _version_of(config)
    for split, rows in load_splits(config.hf_dataset_name, configuration, revision.commit, config.revision).items():
        yield from read_rows(rows, config.hf_dataset_name, split)


def _version_of(config: CorpusConfig) -> tuple[HubRevision, str | None]:
    """Resolve the revision of a dataset, and its configuration, of which the default is one of WikiText."""
    revision = resolve_revision(config.hf_dataset_name, "dataset", config.revision, config.hub_timeout_s)
    return revision, None if config.hf_dataset_config == _WIKITEXT_CONFIG else config.hf_dataset_config


def load_splits(
    name: str, configuration: str | None, commit: str | None, revision: str | None, setting: str = "corpus"
) -> Mapping[str, Any]:
    """Open all splits of a dataset, in the order of the dataset.

    Args:
        name: name of the dataset on the hub.
        configuration: configuration of the dataset, if it has several.
        commit: commit to stream; None to use the local cache.
        revision: revision of the local cache.
        setting: name of the section with the settings, for messages.

    Raises:
        SourceError: the hub cannot be reached, or the dataset cannot be read.
    """
    # Imported here because `datasets` takes a second to import, and other sources do not need it.
    import datasets

    of_corpus = setting == "corpus"
    configuration_setting = "corpus.hf_dataset_config" if of_corpus else f"{setting}.hub_config"
    revision_setting = "corpus.revision" if of_corpus else "owner/name@revision"
    try:
        # Streamed rows are not cached, so that the dataset needs no room on the disk.
        is_streamed = commit is not None
        splits: Mapping[str, Any] = datasets.load_dataset(
            name, configuration, revision=commit or revision, streaming=is_streamed
        )
    except TRANSPORT_ERRORS as error:
        raise SourceError(f"could not read {name}: {error}. {OFFLINE_HINT}") from error
    except RuntimeError as error:
        raise SourceError(
            f"{name} cannot be read: {error}. A dataset that is made by a script of its own must be converted to "
            f"parquet first, which some have on the revision refs/convert/parquet ({revision_setting})."
        ) from error
    except ValueError as error:  # also lists the configurations where one must be named
        raise SourceError(f"{name} cannot be read: {error} Set {configuration_setting}.") from error
    return splits


def _columns(rows: Any, config: CorpusConfig, name: str) -> list[str]:
    """Return the columns that have the fields of the config; others, such as images, are not decoded."""
    if rows.features is not None:
        return columns_of(rows.features.arrow_schema, config, name)
    # Types are unknown until rows are read; those of the first one may be any.
    names = rows.column_names or list(next(iter(rows), {}))
    return columns_of(pa.schema([(column, pa.string()) for column in names]), config, name)


def read_rows(rows: Any, name: str, split: str) -> Iterator[Mapping[str, Any]]:
    """Iterate over the rows of a split.

    Raises:
        SourceError: the hub cannot be reached.
    """
    with converted_errors(TRANSPORT_ERRORS, SourceError, f"could not read {name}, {split}", OFFLINE_HINT):
        yield from rows
