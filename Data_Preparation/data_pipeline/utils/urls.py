"""URLs: recognition, and removal of the parts that may hold secrets."""

import re

_SCHEME = re.compile(r"[A-Za-z][\w+.-]+(?:://|::)")  # two letters at least: C:// is a drive of Windows
_URL = re.compile(r"[\w+.-]+://[^\s'\"<>()]*")


def is_url(text: str) -> bool:
    """Return whether a text begins like a URL of fsspec, such as `s3://` or `simplecache::s3://`."""
    return _SCHEME.match(text) is not None


def without_secrets(text: str) -> str:
    """Remove users, passwords and queries, which may hold tokens, from the URLs in a text."""

    def cleaned(match: re.Match[str]) -> str:
        links = []
        for link in match[0].split("::"):  # of a chain of file systems
            scheme, separator, rest = link.partition("://")
            host, slash, path = re.split(r"[?#]", rest)[0].partition("/")
            links.append(f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}".rstrip("/"))
        return "::".join(links)

    return _URL.sub(cleaned, text)
