"""Descriptions of parameters that several public functions share, each written once."""

from __future__ import annotations

import re
from textwrap import indent
from typing import TypeVar

T = TypeVar("T")

_TEXTS: dict[str, str] = {
    "activations": """\
X : array-like of shape (n_prompts, d)
    Activations; with ``language_column``, one column more.""",
    "language": """\
language : str or array-like of str of shape (n_prompts,), default=None
    Languages of the prompts, one for all or one each. If None, see ``unknown_language``.""",
    "sample_weight": """\
sample_weight : array-like of shape (n_prompts,), default=None
    Weights; a row of weight 2 counts as two equal rows.""",
}


def fill_docstring(documented: T) -> T:
    """Replace each line such as ``{language}`` of a docstring by the shared text of that name.

    Parameters
    ----------
    documented : function or class
        What the docstring belongs to.

    Returns
    -------
    documented : function or class
        The same object.

    Raises
    ------
    KeyError
        If there is no text of a name.
    """
    if documented.__doc__ is not None:  # (it is, under python -OO)
        documented.__doc__ = re.sub(
            r"^( *)\{(\w+)\}$",
            lambda line: indent(_TEXTS[line[2]], line[1]),
            documented.__doc__,
            flags=re.MULTILINE,
        )
    return documented
