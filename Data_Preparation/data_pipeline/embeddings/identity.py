"""The identity of an embedder, and the one comparison of two of them.

A score, a search result or a label means something only when all vectors involved come from the same embedder. Every
place that brings two sources of vectors together (a head and a folder, a folder and the model that embeds its queries)
asks `identity_differences`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from data_pipeline.embeddings.probes import SKETCH_TOLERANCE, short_sketch, sketch_loss

COMPARED = (
    "model", "revision", "pooling", "normalized", "max_length", "dim", "prompt", "tokenizer", "task", "modules",
    "probes",
)  # fmt: skip
"""Fields of `Identity.to_metadata` that decide which vector a text gets.

The precision of the arithmetic (`dtype`) is not among them: it changes a vector less than any threshold can tell.
"""

_DEFAULTS = {"task": "", "modules": ""}  # value of a field that older files do not have
_UNLIMITED = "0"  # max_length of a model behind an API whose texts are not cut here
_HASH = "sha256:"  # prefix of a revision that is a hash of the weights themselves


@dataclass(frozen=True, slots=True)
class IdentityDifference:
    """One field in which two embedders differ."""

    field: str
    recorded: str
    other: str


def recorded_identity(metadata: Mapping[str, str]) -> dict[str, str]:
    """The identity that a file's metadata records; empty if an older pipeline wrote the file."""
    return {name: str(metadata[name]) for name in COMPARED if name in metadata}


def identity_differences(recorded: Mapping[str, str], other: Mapping[str, str]) -> list[IdentityDifference]:
    """Compare two identities, as metadata of embedding files have them.

    A field that only one of them records is not compared. A model in a folder is known by the hash of its weights, so
    a copy in another folder is the same model. Vectors of probe texts may differ by rounding. A tokenizer of
    which a server knows nothing decides no vector unless it cuts texts.

    Args:
        recorded: identity that was recorded first, of a head or of stored vectors.
        other: identity it is compared with.

    Returns:
        The fields that differ, in the order of `COMPARED`; empty if the two can be used together.
    """
    before = recorded_identity(recorded)
    now = recorded_identity(other)
    if before and now:
        before, now = _DEFAULTS | before, _DEFAULTS | now
    if before.get("max_length") == now.get("max_length") == _UNLIMITED:
        before.pop("tokenizer", None)
    same_weights = before.get("revision", "").startswith(_HASH) and before.get("revision") == now.get("revision")
    differences = [
        IdentityDifference(name, before[name], now[name])
        for name in COMPARED
        if name in before and name in now and before[name] != now[name] and not (name == "model" and same_weights)
    ]
    return [difference for difference in map(_without_rounding, differences) if difference is not None]


def with_recorded_probes(metadata: Mapping[str, str], recorded: Mapping[str, str]) -> dict[str, str]:
    """Metadata of an embedder with the recorded sketch of the probe texts' vectors, if it differs by rounding only.

    Files and fingerprints stay the same by it; a model that was changed keeps its own sketch.

    Args:
        metadata: metadata of an embedder, and what else a file records.
        recorded: metadata that a file records; empty if there is none.
    """
    own, previous = metadata.get("probes"), recorded.get("probes")
    if own and previous and sketch_loss(previous, own) <= SKETCH_TOLERANCE:
        return {**metadata, "probes": previous}
    return dict(metadata)


def _without_rounding(difference: IdentityDifference) -> IdentityDifference | None:
    """None for sketches that differ by no more than rounding; sketches are named by a short hash."""
    if difference.field != "probes" or not (difference.recorded and difference.other):
        return difference
    if sketch_loss(difference.recorded, difference.other) <= SKETCH_TOLERANCE:
        return None
    return IdentityDifference("probes", short_sketch(difference.recorded), short_sketch(difference.other))
