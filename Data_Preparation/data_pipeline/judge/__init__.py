"""Judges that grade passages for queries, or texts for a question.

Names are listed in `__init__.pyi` and loaded at their first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
