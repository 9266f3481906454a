"""Settings that the clients of all servers share: slots, retries, budget and breaker."""

import re
from urllib.parse import urlsplit

from pydantic import field_validator

from data_pipeline.config.base import Section, setting


class CallsConfig(Section):
    """Calls to a server, and the handling of failures."""

    api_key_env: str | None = setting(None, decides=False)
    """Environment variable with the key; none: the server needs none. The key itself is never saved."""
    timeout_s: float = setting(30.0, decides=False, gt=0)
    """Timeout of one call in seconds, from its first byte to its last."""
    slots: int = setting(20, decides=False, ge=1)
    """Number of concurrent calls, over the whole run."""
    tries: int = setting(6, decides=False, ge=1)
    """Maximum number of calls for one request, the first included, before it counts as failed in this run."""
    backoff_s: float = setting(0.5, decides=False, gt=0)
    """Maximum wait before the second try, in seconds; doubled for each further try. The wait is drawn at random below
    this limit."""
    max_backoff_s: float = setting(30.0, decides=False, gt=0)
    """Upper limit of the wait between two tries, in seconds."""
    max_retry_after_s: float = setting(300.0, decides=False, ge=0)
    """Longest pause that a server may request, in seconds; if it requests a longer one, the request counts as failed
    in this run."""
    max_calls: int | None = setting(None, decides=False, ge=0)
    """Maximum number of calls in one run, retries included, after which it stops cleanly; none: no limit.
    The few calls that probe what the server supports are not counted."""
    breaker_window: int = setting(50, decides=False, ge=1)
    """Number of recent calls among which failures are counted."""
    breaker_share: float = setting(0.5, decides=False, gt=0, le=1)
    """Share of failed calls at which the run stops, 0 to 1; applied after breaker_window calls."""

    @field_validator("api_key_env")
    @classmethod
    def _variable_name(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError("must be the name of an environment variable, not the key itself")
        return name


def plain_address(url: str, path: str) -> str:
    """Check the address of an API, and remove the path of its one resource.

    Args:
        url: address as the user gave it.
        path: path of the resource, such as `/chat/completions`.

    Raises:
        ValueError: it is no address, or it holds what may be secret.
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        good = False
    if not good:
        raise ValueError("must be an http:// or https:// address, such as http://127.0.0.1:8080/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("must have no user, password, ? or #; keys come from the variable named by api_key_env")
    return url.rstrip("/").removesuffix(path).rstrip("/")
