"""Published heads by name, downloaded from the hub and bound to the embedder they were trained on."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from huggingface_hub import hf_hub_download

from data_pipeline.errors import ModelError, SourceError
from data_pipeline.heads.foreign import load_foreign
from data_pipeline.heads.identity import EmbedderIdentity
from data_pipeline.heads.model import Head
from data_pipeline.utils import converted_errors
from data_pipeline.utils.hub import OFFLINE_HINT, TRANSPORT_ERRORS, resolve_commit

logger = logging.getLogger(__name__)

DEFAULT_EMBEDDER = "Snowflake/snowflake-arctic-embed-m-v2.0"
"""The embedder of the heads in `NAMED_HEADS`."""

_HUB_TIMEOUT_S = 10.0

# No revision: the heads' authors do not say which one they used.
_ARCTIC = {"model": DEFAULT_EMBEDDER, "pooling": "cls", "normalized": "true", "max_length": "8192", "dim": "768"}


@dataclass(frozen=True, slots=True)
class NamedHead:
    """A head on the hub."""

    repo: str
    file: str
    embedder: Mapping[str, str]
    """Settings of the embedder that the head was trained on; see `identity.FIELDS`."""


NAMED_HEADS: Mapping[str, NamedHead] = {
    f"Edu-JQL-{teacher}-SF": NamedHead(
        "JQL-AI/JQL-Edu-Heads", f"checkpoints/edu-{teacher.lower()}-snowflake-balanced.ckpt", _ARCTIC
    )
    for teacher in ("Gemma", "Mistral", "Llama")
}
"""JQL's heads for the educational value of a text, 0 to 5, by the language model that gave the labels."""


@lru_cache
def load_named(name: str) -> Head:
    """Load a head of `NAMED_HEADS`; downloaded at most once, and loaded once per process.

    Raises:
        ModelError: the file is not the expected head.
        SourceError: no head has that name, or the hub cannot be reached or lacks the head.
    """
    if name not in NAMED_HEADS:
        raise SourceError(f"no head is called {name!r}; expected one of {', '.join(NAMED_HEADS)}")
    named = NAMED_HEADS[name]
    path, commit = _download(named)
    head = load_foreign(path)
    if str(head.dim) != named.embedder["dim"]:
        raise ModelError(
            f"{named.file} of {named.repo} at {commit} takes vectors of {head.dim} dimensions, those of "
            f"{named.embedder['model']} have {named.embedder['dim']}: this is not the head {name}"
        )
    about = {**head.about, "name": name, "repo": named.repo, "file": named.file, "revision": commit}
    return replace(head, embedder=EmbedderIdentity(dict(named.embedder)), about=about)


def _download(named: NamedHead) -> tuple[Path, str]:
    """Download a head's file to the hub's own cache; also return its commit."""
    # Called first for its errors, which say more than those of a download.
    resolve_commit(named.repo, "model", None, _HUB_TIMEOUT_S)
    message = f"could not download the head {named.file} of {named.repo}"
    advice = f"{OFFLINE_HINT} If the file is on this machine, give its path instead."
    with converted_errors(TRANSPORT_ERRORS, SourceError, message, advice):
        # By branch: offline, the cache cannot resolve a branch whose files were downloaded by commit.
        path = Path(hf_hub_download(named.repo, named.file))
    # The hub's cache names a snapshot's folder by its commit.
    return path, path.parents[len(Path(named.file).parts) - 1].name
