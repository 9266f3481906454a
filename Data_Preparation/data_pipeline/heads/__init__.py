"""Heads over embeddings: load, apply, train, evaluate.

Names are listed in `__init__.pyi` and loaded at their first use: the command line lists its flags without torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
