"""Access to the Hugging Face hub: resolving revisions to commits, with clear errors.

`HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME` and `HF_HUB_OFFLINE` have their usual meaning.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import HfApi, constants, errors
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from data_pipeline.errors import SourceError

logger = logging.getLogger(__name__)

# The hub client has changed its HTTP library twice. The base class of its own error is the base error of that
# library, which covers timeouts and refused connections.
TRANSPORT_ERRORS: tuple[type[Exception], ...] = (errors.HfHubHTTPError, errors.HfHubHTTPError.__mro__[1], OSError)

OFFLINE_HINT = (
    "Check the connection, set HF_ENDPOINT to a mirror, or work with local files: the preset offline needs no hub, "
    "corpus.source wikitext with corpus.path reads local files, embedding.model_name may be a local folder, and "
    "HF_HUB_OFFLINE=1 uses the local cache of the hub."
)
"""Advice for work without the hub, for messages."""


def local_folder(name: str, setting: str) -> Path | None:
    """Return the local folder of a model or dataset; None if the name can only be a name on the hub.

    Args:
        name: folder, or `owner/name` on the hub.
        setting: name of the setting, for messages.

    Raises:
        SourceError: the name is neither a folder nor a name on the hub.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise SourceError(f"{setting}: {name} is a file, expected a folder or a name on the hub (owner/name)")
    try:
        validate_repo_id(name)
    except errors.HFValidationError as error:
        raise SourceError(
            f"{setting}: no folder {name}, and it is not a name on the hub (owner/name) either"
        ) from error
    return None


@dataclass(frozen=True)
class HubRevision:
    """What the hub says about a revision of a repository."""

    commit: str | None
    """Hash of the commit; None if HF_HUB_OFFLINE is set."""
    license: str | None = None
    """Licence on the card of the repository, several joined by commas; None if it is not known."""


def resolve_commit(
    repo_id: str, repo_type: Literal["model", "dataset"], revision: str | None, timeout_s: float
) -> str | None:
    """Resolve a revision of a repository on the hub to its present commit.

    Args:
        repo_id: `owner/name`.
        repo_type: `model` or `dataset`.
        revision: commit, tag or branch; None for the main branch.
        timeout_s: timeout of the request, in seconds.

    Returns:
        The hash of the commit; None if HF_HUB_OFFLINE is set.

    Raises:
        SourceError: the hub cannot be reached, or has no such repository or revision.
    """
    return resolve_revision(repo_id, repo_type, revision, timeout_s).commit


def resolve_revision(
    repo_id: str, repo_type: Literal["model", "dataset"], revision: str | None, timeout_s: float
) -> HubRevision:
    """Resolve a revision of a repository on the hub, in one request; see `resolve_commit`.

    Raises:
        SourceError: the hub cannot be reached, or has no such repository or revision.
    """
    local_folder(repo_id, repo_type)  # raises for an invalid name, with a clearer message than the hub client
    if constants.HF_HUB_OFFLINE:
        logger.info("HF_HUB_OFFLINE is set: using %s from the local cache without a check", repo_id)
        return HubRevision(None)
    try:
        info = HfApi().repo_info(repo_id, repo_type=repo_type, revision=revision, timeout=timeout_s)
    except errors.GatedRepoError as error:
        raise SourceError(
            f"{repo_type} {repo_id} is gated: accept its terms on {constants.ENDPOINT}/{repo_id} "
            "and set HF_TOKEN in the environment"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise SourceError(f"{repo_type} {repo_id} has no revision {revision!r} on {constants.ENDPOINT}") from error
    except errors.RepositoryNotFoundError as error:
        raise SourceError(
            f"there is no folder {repo_id} here, and no {repo_type} of that name on {constants.ENDPOINT} (or it is "
            "private and HF_TOKEN is not set). Check the spelling."
        ) from error
    except TRANSPORT_ERRORS as error:
        raise SourceError(f"cannot reach the hub at {constants.ENDPOINT}: {error}. {OFFLINE_HINT}") from error
    return HubRevision(info.sha, _license_of(getattr(info, "card_data", None)))


def _license_of(card: Any) -> str | None:
    """Licence that a card names, whose fields may hold anything."""
    found = getattr(card, "license", None)
    names = [str(name) for name in (found if isinstance(found, list) else [found]) if name and name != "unknown"]
    if names == ["other"]:
        names = [str(getattr(card, "license_name", None) or "other")]
    return ", ".join(names) or None
