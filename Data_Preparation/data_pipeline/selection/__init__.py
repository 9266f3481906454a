"""Subset selection: selectors rank rows, and a budget takes the first ones. Arrays in, positions of rows out.

Names are listed in `__init__.pyi` and loaded on first use: the command line lists its flags without torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
