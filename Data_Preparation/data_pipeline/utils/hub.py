"""Reaching the Hugging Face hub: which commit a name stands for, and clear errors.

`HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME` and `HF_HUB_OFFLINE` mean what they mean everywhere.
"""

import logging
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from data_pipeline.errors import SourceError

logger = logging.getLogger(__name__)

# The hub client has changed its HTTP library twice; the base of its own error is that
# library's base error, whichever it is, and covers time-outs and refused connections.
TRANSPORT_ERRORS: tuple[type[Exception], ...] = (HfHubHTTPError, HfHubHTTPError.__mro__[1], OSError)

WAYS_OUT = (
    "Check the connection, point HF_ENDPOINT at a mirror, or work from what is on this machine: "
    "--preset offline needs no hub, --source wikitext --corpus.path FOLDER reads local files, "
    "--embedding.model_name FOLDER loads a local model, HF_HUB_OFFLINE=1 uses the hub's own cache."
)


def local_folder(name: str, setting: str) -> Path | None:
    """The folder that a name of a model or dataset stands for; None where it can only be a name on the hub.

    Args:
        name: a folder, or `owner/name` on the hub.
        setting: that holds the name, for messages.

    Raises:
        SourceError: it is neither.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise SourceError(f"{setting}: {name} is a file, expected a folder or a name on the hub (owner/name)")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise SourceError(
            f"{setting}: no folder {name}, and it is not a name on the hub (owner/name) either"
        ) from error
    return None


def resolve_commit(
    repo_id: str, repo_type: Literal["model", "dataset"], revision: str | None, timeout_s: float
) -> str | None:
    """Ask the hub which commit a revision of a repository stands for now.

    Args:
        repo_id: `owner/name`.
        revision: commit, tag or branch; None for the main branch.
        timeout_s: how long to wait for an answer, in seconds.

    Returns:
        The commit's hash; None with HF_HUB_OFFLINE, where nothing can be asked.

    Raises:
        SourceError: the hub can't be reached, or has no such repository or revision.
    """
    local_folder(repo_id, repo_type)  # for its error: the hub's client raises another one for a bad name
    if constants.HF_HUB_OFFLINE:
        logger.info("HF_HUB_OFFLINE is set: %s comes from the local cache, unchecked", repo_id)
        return None
    try:
        info = HfApi().repo_info(repo_id, repo_type=repo_type, revision=revision, timeout=timeout_s)
    except GatedRepoError as error:
        raise SourceError(
            f"{repo_type} {repo_id} is gated: accept its terms on {constants.ENDPOINT}/{repo_id} "
            "and set HF_TOKEN in the environment"
        ) from error
    except RevisionNotFoundError as error:
        raise SourceError(f"{repo_type} {repo_id} has no revision {revision!r} on {constants.ENDPOINT}") from error
    except RepositoryNotFoundError as error:
        raise SourceError(
            f"there is no folder {repo_id} here, and no {repo_type} of that name on {constants.ENDPOINT} (or it is "
            "private and HF_TOKEN is not set). Check the spelling."
        ) from error
    except TRANSPORT_ERRORS as error:
        raise SourceError(f"cannot reach the hub at {constants.ENDPOINT}: {error}. {WAYS_OUT}") from error
    return info.sha
