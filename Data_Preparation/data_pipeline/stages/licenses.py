"""Licences of the texts of a dataset, as its manifest records them."""

from collections.abc import Iterable

from data_pipeline.store.manifest import ParagraphManifest

UNKNOWN_LICENSE = "unknown"
"""Stands for sources whose licence is not known, in a list with those of others."""


def licenses_of(manifest: ParagraphManifest) -> list[str]:
    """Return the licences that a manifest records, of which there may be one that is unknown."""
    recorded = manifest.get("license", UNKNOWN_LICENSE)
    return [recorded] if isinstance(recorded, str) else list(recorded)


def record_licenses(manifest: ParagraphManifest, licenses: Iterable[str | None]) -> None:
    """Record the licences of all sources of a dataset: one as a text, several as a sorted list.

    Args:
        manifest: manifest, which is changed; it gets no licence if none is known.
        licenses: licence of each source; None if it is not known.
    """
    names = sorted({name or UNKNOWN_LICENSE for name in licenses})
    manifest.pop("license", None)
    if names and names != [UNKNOWN_LICENSE]:
        manifest["license"] = names[0] if len(names) == 1 else names
