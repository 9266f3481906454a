"""Reaching the Hugging Face hub: which commit a name stands for, and clear errors.

`HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME` and `HF_HUB_OFFLINE` mean what they mean everywhere.
"""

import logging
from typing import Literal

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

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
            f"there is no {repo_type} {repo_id!r} on {constants.ENDPOINT} (or it is private and HF_TOKEN is not set). "
            "Check the spelling."
        ) from error
    except HFValidationError as error:
        raise SourceError(f"{repo_id!r} is neither a folder here nor a name on the hub: {error}") from error
    except TRANSPORT_ERRORS as error:
        raise SourceError(f"cannot reach the hub at {constants.ENDPOINT}: {error}. {WAYS_OUT}") from error
    return info.sha
