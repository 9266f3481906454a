"""File systems at URLs, by any protocol of fsspec, and what every use of them needs: retries and plain messages.

Credentials and endpoints are those of the protocol's own library (environment, configuration files).
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import fsspec  # type: ignore[import-untyped]

from data_pipeline.errors import MissingExtraError, SourceError
from data_pipeline.utils.urls import without_secrets

T = TypeVar("T")

ATTEMPTS = 4
"""Number of times that a request is made before it counts as failed."""

_FIRST_PAUSE_S = 0.5
# What identifies the content of a file, in the order of preference, by the names of the file systems.
_CONTENT_KEYS = ("sha256", "ETag", "etag", "blob_id", "md5Hash", "Content-MD5", "content_md5", "generation", "checksum")
_TIME_KEYS = ("LastModified", "last_modified", "Last-Modified", "updated", "mtime", "created")
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "http": "http", "https": "http"}


def open_file_system(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it.

    Raises:
        SourceError: there is no such protocol.
        MissingExtraError: the library of the protocol is not installed.
    """
    shown, protocol = without_secrets(url), url.partition(":")[0]
    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        advice = f'pip install "elm-data-preparation[{extra}]"' if extra else f"{error}"
        raise MissingExtraError(f"{shown} needs a library that is not installed. Install it with: {advice}") from None
    except ValueError as error:
        raise SourceError(
            f"{shown}: {without_secrets(str(error))}. Expected s3://, gs://, hf:// or https://."
        ) from None
    return system, str(path)


def identity_of(info: Mapping[str, Any]) -> str:
    """Return what changes with the content of a file; empty if the server gives nothing but the size.

    Args:
        info: what the file system says of the file.
    """
    lfs = info.get("lfs")
    if lfs:
        return f"sha256 {lfs['sha256']}"
    tags = [f"{key.lower()} {str(info[key]).strip(chr(34))}" for key in _CONTENT_KEYS if info.get(key)]
    times = [f"changed {info[key]}" for key in _TIME_KEYS if info.get(key)]
    first = next(iter([*tags, *times]), "")
    return f"{first}, {info['size']} bytes" if first else ""


def with_retries(action: Callable[[], T]) -> T:
    """Call a function up to four times, until it succeeds or its error is permanent."""
    for attempt in range(ATTEMPTS - 1):
        try:
            return action()
        except Exception as error:  # see is_permanent
            if is_permanent(error):
                raise
        time.sleep(_FIRST_PAUSE_S * 2**attempt)
    return action()


def is_permanent(error: Exception) -> bool:
    """Return whether an error will not go away; file systems raise errors without a common base class."""
    status = getattr(error.__cause__, "status", None)  # of an answer by HTTP, which fsspec takes for a missing file
    if isinstance(status, int):
        return status < 500 and status != 429
    return isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError)


def reason(error: BaseException) -> str:
    """Text of an error without secrets; the class where it has none."""
    return without_secrets(str(error)).partition("\n")[0] or type(error).__name__
