"""WikiText from the hub, whose rows are lines: empty if blank, else with a line end."""

from collections.abc import Iterator
from functools import partial

from data_pipeline.config import CorpusConfig
from data_pipeline.download.corpus import SPLIT_NAMES, Corpus, OnBadRecord, Unit
from data_pipeline.download.wikitext import WIKITEXT_LICENSE, wikitext_documents
from data_pipeline.errors import SourceError
from data_pipeline.types import Document
from data_pipeline.user_files import OnBytes
from data_pipeline.utils import converted_errors
from data_pipeline.utils.hub import OFFLINE_HINT, TRANSPORT_ERRORS, resolve_revision

_OFFICIAL = ("Salesforce/wikitext", "wikitext")
"""Names of WikiText on the hub, whose licence is known without its card; others may hold anything."""


def open_hub_wikitext(config: CorpusConfig) -> Corpus:
    """Open a WikiText configuration on the hub, at the current commit of its revision.

    Raises:
        SourceError: the hub cannot be reached, or has no such dataset or revision.
    """
    revision = resolve_revision(config.hf_dataset_name, "dataset", config.revision, config.hub_timeout_s)
    commit = revision.commit
    name = f"{config.hf_dataset_name} {config.hf_dataset_config}"
    is_official = config.name == "wikitext2" and "wikitext-2" in config.hf_dataset_config

    return Corpus(
        description=f"{name} at {commit[:12] if commit else 'the cached revision'}",
        identity={
            "dataset": config.hf_dataset_name,
            "config": config.hf_dataset_config,
            "revision": commit or config.revision or "cached",
        },
        units=lambda: [
            Unit(partial(_read, config, commit, hub_split, is_official, f"{name} {hub_split}"))
            for hub_split in ("train", "validation", "test")
        ],
        license=revision.license or (WIKITEXT_LICENSE if config.hf_dataset_name in _OFFICIAL else None),
    )


def _read(
    config: CorpusConfig,
    commit: str | None,
    hub_split: str,
    check: bool,
    where: str,
    on_bytes: OnBytes,
    on_bad: OnBadRecord | None,
) -> Iterator[Document]:
    del on_bytes, on_bad  # these files are known: a fault is an error
    return wikitext_documents(_read_rows(config, commit, hub_split), SPLIT_NAMES[hub_split], check, where)


def _read_rows(config: CorpusConfig, commit: str | None, split: str) -> Iterator[str]:
    # Imported here because `datasets` takes a second to import, and other sources do not need it.
    import datasets

    name, configuration = config.hf_dataset_name, config.hf_dataset_config
    with (
        converted_errors(TRANSPORT_ERRORS, SourceError, f"could not download {name}", OFFLINE_HINT),
        converted_errors(
            ValueError, SourceError, f"{name} has no configuration {configuration!r} with a split {split!r}"
        ),
    ):
        # Downloads into the hub's cache, and memory-maps the files.
        rows = datasets.load_dataset(name, configuration, split=split, revision=commit or config.revision)
    for batch in rows.iter(batch_size=1000):
        for text in batch["text"]:
            yield text.removesuffix("\n")
