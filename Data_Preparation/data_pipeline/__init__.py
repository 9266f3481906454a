"""Turn a text corpus into a training-ready embedding dataset.

    from data_pipeline import ELMDataset, Config

Public names are listed in `__init__.pyi` and loaded at their first use, so importing the package is quick.
"""

from importlib.metadata import PackageNotFoundError, version

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

try:
    __version__ = version("elm-data-preparation")
except PackageNotFoundError:  # a checkout that was not installed
    __version__ = "0+unknown"
