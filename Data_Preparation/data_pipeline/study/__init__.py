"""Does a subset train as good a classifier as random rows do?

prepare -> select -> train -> eval -> table, each a function of one config; finished work is skipped. Names are listed
in `__init__.pyi` and loaded on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
