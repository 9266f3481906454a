"""Functions of users, named `module:function`."""

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_pipeline.errors import ConfigError
from data_pipeline.utils.hashing import sha256_of_file


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


def source_sha256(name: str, setting: str) -> str:
    """SHA-256 of the source file of a function, for the fingerprint.

    Args:
        name: see `load_function`.
        setting: see `load_function`.

    Raises:
        ConfigError: the function cannot be imported, or has no source file.
    """
    try:
        path = inspect.getsourcefile(inspect.unwrap(load_function(name, setting)))
    except TypeError:
        path = None
    if path is None or not Path(path).is_file():
        raise ConfigError(f"{setting}: {name} has no source file; define it with `def` in a module of yours")
    return sha256_of_file(Path(path))


def describe_error(error: BaseException) -> str:
    """Describe an error of a user's code: its type, its text, and the line that raised it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_import(frame.filename)]
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"


def _is_import(file: str) -> bool:
    return file == __file__ or "importlib" in file
