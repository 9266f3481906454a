"""Identity of a model behind an API, compared with the one that a folder of vectors records.

The vectors of the probe texts differ by rounding from run to run, and files must not: where the recorded ones are those
of the same model, they are recorded again. Where they are not, the model was changed behind its name.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from data_pipeline.embeddings import Identity
from data_pipeline.embeddings.identity import identity_differences
from data_pipeline.errors import StaleStageError, StoreError
from data_pipeline.store.embeddings import read_embedding_header, unfinished_metadata
from data_pipeline.store.manifest import EmbeddingManifest, read_manifest
from data_pipeline.types import Split


def identity_with_recorded_probes(identity: Identity, folder: Path, split: Split, overwrite: bool) -> Identity:
    """Return the identity with the sketch of the probe texts' vectors that a folder records, if it is of this model.

    Args:
        identity: identity of the embedder.
        folder: folder of the vectors.
        split: split that is embedded.
        overwrite: whether vectors of another model may be replaced.

    Raises:
        StaleStageError: the model was changed behind its name, and `overwrite` is false.
    """
    if not identity.probes:
        return identity
    own = identity.to_metadata()
    for where, recorded in _recorded(folder, split):
        if "probes" not in recorded or any(recorded.get(name) != own[name] for name in ("model", "revision", "dim")):
            continue  # another model by name, which the comparison of all settings reports
        changed = [difference for difference in identity_differences(recorded, own) if difference.field == "probes"]
        if not changed:
            return replace(identity, probes=recorded["probes"])
        if not overwrite:
            raise StaleStageError(
                f"the model {identity.model!r} ({identity.revision}) was changed behind its name: the vectors of the "
                f"probe texts in {where} have the sketch {changed[0].recorded}, the server now gives "
                f"{changed[0].other}. Embed all splits again with --overwrite, or set embedding.variant to keep both."
            )
    return identity


def _recorded(folder: Path, split: Split) -> Iterator[tuple[Path, Mapping[str, str]]]:
    """Metadata that finished and unfinished work in a folder records: that of the split first."""
    manifest = read_manifest(folder, EmbeddingManifest)
    entries = manifest["splits"] if manifest else {}
    for name in sorted(entries, key=lambda name: name != split):
        yield folder / "manifest.json", entries[name]["settings"]
    for path in sorted(folder.glob(f"{split}_embeddings*.safetensors")):
        try:
            header, _ = read_embedding_header(path)
        except StoreError:
            continue  # what cannot be read is made again, or reported where it is used
        yield path, header.get("__metadata__", {})
    for partial in sorted(folder.glob(f".{split}_embeddings*.safetensors.partial")):
        final = partial.with_name(partial.name.removeprefix(".").removesuffix(".partial"))
        yield partial, unfinished_metadata(final)
