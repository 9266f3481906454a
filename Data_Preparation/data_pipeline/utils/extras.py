"""Optional dependencies."""

import importlib
from types import ModuleType

from data_pipeline.errors import MissingExtraError


def require(module: str, extra: str, why: str) -> ModuleType:
    """Import an optional dependency.

    Args:
        module: name to import.
        extra: extra of this package that installs it.
        why: what it is needed for, for the message.

    Raises:
        MissingExtraError: it is not installed; the message has the pip line.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{why} needs the package {module!r}, which is not installed. "
            f'Install it with: pip install "elm-data-preparation[{extra}]" '
            f'(in a checkout: pip install -e ".[{extra}]")'
        ) from error
