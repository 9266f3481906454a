"""Functions of users, named `module:function`."""

import importlib
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_pipeline.errors import ConfigError


def load_function(name: str, setting: str) -> Callable[..., Any]:
    """Import a function; its module may also be a file of the current folder.

    Args:
        name: `module:function`; the function may be an attribute of a class, as `module:Class.method`.
        setting: name of the setting with it, for messages.

    Raises:
        ConfigError: there is no such module or function, or the module cannot be imported.
    """
    module_name, colon, path = name.partition(":")
    if not (module_name and colon and path):
        raise ConfigError(f"{setting} must be module:function, found {name!r}")
    folder = os.getcwd()
    sys.path.append(folder)
    try:
        value: Any = importlib.import_module(module_name)
        for part in path.split("."):
            value = getattr(value, part)
    except Exception as error:  # importing a module runs all of it
        raise ConfigError(f"{setting}: {name} cannot be imported: {describe_error(error)}") from error
    finally:
        sys.path.remove(folder)
    if not callable(value):
        raise ConfigError(f"{setting}: {name} is a {type(value).__name__}, expected a function")
    return value


def source_file(function: Callable[..., Any]) -> Path | None:
    """Return the file that defines a function; None if there is none, as for a function of a compiled module."""
    file = getattr(sys.modules.get(function.__module__), "__file__", None)
    return Path(file) if file else None


def describe_error(error: BaseException) -> str:
    """Describe an error of a user's code: its type, its text, and the line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"
