"""Identity of the embedder that a head was trained on.

A head gives numbers for vectors of any other embedder of the same width, and they mean nothing: so the embedder's
identity is stored with the head, and compared.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from data_pipeline.embeddings import Embedder, encode
from data_pipeline.embeddings.identity import identity_differences, recorded_identity
from data_pipeline.errors import WrongEmbedderError
from data_pipeline.types import Float32Array

logger = logging.getLogger(__name__)

PROBE_SENTENCES = (
    "The river rises in the mountains and flows north to the sea.",
    "for name in sorted(names): print(name, len(name))",
    "Der Unterricht beginnt am Montag um acht Uhr.",
)
"""Their vectors are kept with a head: two embedders that agree on them are the same one."""

FIELDS = ("model", "revision", "pooling", "normalized", "max_length", "dim", "prompt", "task", "modules")
"""Fields of an embedder's identity that `head.json` records."""

# Between the same model's vectors in float32 and in float16, on another machine.
_LEAST_COSINE = 0.999


@dataclass(frozen=True, eq=False)
class EmbedderIdentity:
    """What decides what vector a text gets, as far as it is known."""

    settings: Mapping[str, str]
    """Some of `FIELDS`, in the form of an embedding file's metadata."""
    probes: Float32Array | None = None
    """Vectors of `PROBE_SENTENCES`, shape (3, D)."""


def identity_of(embedder: Embedder) -> EmbedderIdentity:
    """The identity of an embedder, with its vectors of the probe sentences."""
    return EmbedderIdentity(identity_settings(embedder.identity.to_metadata()), encode(embedder, PROBE_SENTENCES))


def identity_settings(metadata: Mapping[str, str]) -> dict[str, str]:
    """What a file's metadata say of its embedder; nothing where an older pipeline wrote it."""
    return {name: str(metadata[name]) for name in FIELDS if name in metadata}


def check_identity(name: str, head: EmbedderIdentity | None, dim: int, metadata: Mapping[str, str], where: str) -> None:
    """Make sure that a head may be applied to some vectors.

    Args:
        name: name of the head, for messages.
        head: identity of the embedder that the head was trained on.
        dim: width of the vectors that the head takes.
        metadata: metadata of the vectors, as in an embedding file.
        where: source of the vectors, for messages.

    Raises:
        WrongEmbedderError: they are of another embedder, or of another width.
    """
    vectors = recorded_identity(metadata)
    if vectors.get("dim", str(dim)) != str(dim):
        raise WrongEmbedderError(
            f"the head {name} takes vectors of {dim} dimensions, {where} has dim {vectors['dim']!r}"
        )
    if head is None or not head.settings or not vectors.keys() - {"dim"}:
        _warn_once(f"the head {name}" if head is None or not head.settings else where)
        return
    differences = [
        f"{difference.field}: the head was trained on {difference.recorded!r}, these vectors have {difference.other!r}"
        for difference in identity_differences(head.settings, vectors)
    ]
    if differences:
        raise WrongEmbedderError(
            f"the head {name} cannot score {where}, whose vectors are of another embedder:\n  "
            + "\n  ".join(differences)
            + "\nEmbed the texts with the head's embedder, or use a head that was trained on these vectors."
        )


def check_embedder(name: str, head: EmbedderIdentity | None, dim: int, embedder: Embedder) -> None:
    """Like `check_identity`, with the embedder at hand: its vectors of the probe sentences decide.

    A model of another name or revision with the same vectors, a copy in a folder for instance, is accepted.

    Raises:
        WrongEmbedderError: its vectors are others.
    """
    metadata = identity_settings(embedder.identity.to_metadata())
    if head is None or head.probes is None:
        check_identity(name, head, dim, metadata, embedder.identity.model)
        return
    unnamed = {field: value for field, value in head.settings.items() if field not in {"model", "revision"}}
    check_identity(name, EmbedderIdentity(unnamed), dim, metadata, embedder.identity.model)
    vectors = encode(embedder, PROBE_SENTENCES).astype(np.float64)
    expected = head.probes.astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
    cosines = (vectors * expected).sum(axis=1) / lengths
    if not (cosines >= _LEAST_COSINE).all():
        raise WrongEmbedderError(
            f"the head {name} was trained on vectors of {head.settings.get('model', 'another model')} "
            f"{head.settings.get('revision', '')}; those of {embedder.identity.model} {embedder.identity.revision} "
            f"differ from them: the least cosine on {len(PROBE_SENTENCES)} probe sentences is {cosines.min():.4f}, at "
            f"least {_LEAST_COSINE} was expected. Use the head's embedder, or a head of this one."
        )


@lru_cache(maxsize=1000)
def _warn_once(nameless: str) -> None:
    logger.warning(
        "%s does not say which embedder it belongs to: that the scores mean anything cannot be proved. "
        "Bind a head with: elm heads convert HEAD FOLDER --embedder MODEL", nameless,
    )  # fmt: skip
