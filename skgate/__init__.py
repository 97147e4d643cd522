"""Scikit-learn estimators that make language models act on the harm they already see.

The public names are imported when first used, so that ``import skgate`` loads neither torch
nor transformers. ``__init__.pyi`` lists them.
"""

from importlib.metadata import version

import lazy_loader

__version__ = version("skgate")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
