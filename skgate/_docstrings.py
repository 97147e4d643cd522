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
    "ax": """\
ax : matplotlib Axes, array of them or None, default=None
    Where to draw. Several panels share the place of one Axes; an array has one Axes for each panel.
    If None, a new figure is made.""",
    "by": """\
by : {"tier", "language"}, default="tier"
    Whether to group by tier, averaging over its languages, or by language.""",
    "generate_kwargs": """\
**generate_kwargs : dict
    Arguments of the model's ``generate``, which override the wrapper's ``generate_kwargs``.""",
    "budget_metric": """\
metric : {"f1", "balanced_accuracy"} or None, default=None
    What to draw. If None, F1 or, without it, the balanced accuracy.""",
    "draws_interval": """\
interval : float, default=80
    The percentage of draws that a bar spans, the middle ones.""",
    "is_garbled": """\
is_garbled : callable or None, default=None
    Finds garbled replies: takes a list with the reply to each prompt and returns a bool for each.
    Too much strength breaks a model's language; what that looks like depends on the model.""",
    "language_of_prompts": """\
language : str or array-like of str of shape (n_prompts,), default=None
    Languages of the prompts, one for all or one each, unless they are a column of ``prompts``. If
    None, see the gate's ``unknown_language``.""",
    "language_or_column": """\
language : str or array-like of str of shape (n_prompts,), default=None
    Languages of the prompts, one for all or one each, unless they are a column of ``X``.""",
    "pipeline_X": """\
X : list, Series, array or DataFrame of length n_prompts
    Prompts, as the gate's pipeline takes them.""",
    "pipeline_prompts": """\
prompts : list, Series, array or DataFrame of length n_prompts
    Prompts, as the gate's pipeline takes them.""",
    "pos_label": """\
pos_label : label or None, default=None
    The harmful class. If None, it is "harmful", 1 or True if one of these is among the labels, else
    the label beside "harmless", else the second of the two in sorted order (with a warning if the
    labels are texts).""",
    "refused": """\
refused : array-like of bool of shape (n_samples,)
    Whether the reply to each prompt is a refusal, as a judge decides. 1 and 0 are allowed too.""",
    "strengths": """\
strengths : sequence of float or None, default=None
    Steering strengths to try. If None, 0 to 3 in steps of 0.25 (arXiv:2606.01196).""",
    "tier": """\
tier : mapping of str to str or None, default=None
    The tier of each language. If None, the tiers of the paper are used, for ISO 639-1 codes.""",
    "weak_below": """\
weak_below : float, default=0.5
    Languages in which the model refuses less than this share of harmful prompts are outlined.""",
    "y_true": """\
y_true : array-like of shape (n_samples,)
    The true labels of the prompts, of one or two classes.""",
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
