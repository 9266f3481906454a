"""Keys of servers: read from the environment, and removed from every text that a server sends back."""

import os

from data_pipeline.errors import ConfigError

PLACEHOLDER = "no-key-needed"
"""Key that is sent where a client insists on one."""
_MIN_KEY_CHARS = 8
"""Length of a key from which it is removed from texts: shorter ones are placeholders such as `none`."""


def read_key(variable: str | None, setting: str, owner: str) -> str:
    """Read the key of a server from the environment; empty if no variable is named.

    Args:
        variable: name of the environment variable; None if the server needs no key.
        setting: name of the setting that holds the variable's name, for messages.
        owner: who needs the key, for messages.

    Raises:
        ConfigError: the variable is not set, or its value cannot be sent.
    """
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(f"{setting}: the environment variable {variable} is not set; set it to the key of {owner}")
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"{setting}: the key in {variable} has characters that an HTTP header cannot hold")
    return key


def without_key(text: str, key: str) -> str:
    """Remove the key, which servers may repeat, and what UTF-8 cannot encode."""
    if len(key) >= _MIN_KEY_CHARS:
        text = text.replace(key, "[key]")
    return text.encode("utf-8", "backslashreplace").decode()
