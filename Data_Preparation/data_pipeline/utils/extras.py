"""Optional dependencies."""

import importlib
from types import ModuleType

from data_pipeline.errors import MissingExtraError


def require(module: str, extra: str, why: str) -> ModuleType:
    """Import an optional dependency.

    Args:
        module: name of the module.
        extra: extra of this package that installs the module.
        why: name of the feature that needs the module, for the message.

    Raises:
        MissingExtraError: the module is not installed; the message has the pip command.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{why} needs the package {module!r}, which is not installed. "
            f'Install it with: pip install "elm-data-preparation[{extra}]" '
            f'(in a checkout: pip install -e ".[{extra}]")'
        ) from error
