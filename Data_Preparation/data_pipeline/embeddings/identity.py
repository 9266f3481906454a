"""The identity of an embedder, and the one comparison of two of them.

A score, a search result or a label means something only when all vectors involved come from the same embedder. Every
place that brings two sources of vectors together (a head and a folder, a folder and the model that embeds its queries)
asks `identity_differences`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

COMPARED = ("model", "revision", "pooling", "normalized", "max_length", "dim", "prompt", "tokenizer", "task", "modules")
"""Fields of `Identity.to_metadata` that decide which vector a text gets.

The precision of the arithmetic (`dtype`) is not among them: it changes a vector less than any threshold can tell.
"""

_DEFAULTS = {"task": "", "modules": ""}  # value of a field that older files do not have
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
    a copy in another folder is the same model.

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
    same_weights = before.get("revision", "").startswith(_HASH) and before.get("revision") == now.get("revision")
    return [
        IdentityDifference(name, before[name], now[name])
        for name in COMPARED
        if name in before and name in now and before[name] != now[name] and not (name == "model" and same_weights)
    ]
