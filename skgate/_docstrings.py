"""Descriptions of parameters that several public functions share, each written once."""

from __future__ import annotations

import re
from textwrap import indent
from typing import TypeVar

T = TypeVar("T")

_TEXTS: dict[str, str] = {
    "activations": """\
X : array-like or DataFrame of shape (n_prompts, d)
    Activations, and the language column if ``language_column`` is set. A DataFrame may be of
    pandas, polars, pyarrow or another library.""",
    "language": """\
language : str or array-like of str of shape (n_prompts,), default=None
    Languages of the prompts, one for all or one each. If None, for all or for some of the prompts,
    see ``unknown_language``.""",
    "sample_weight": """\
sample_weight : array-like of shape (n_prompts,), default=None
    Weights; a row of weight 2 counts as two equal rows.""",
    "ax": """\
ax : matplotlib Axes, array of them or None, default=None
    Where to draw. A single Axes is divided if there are several panels. An array must have one Axes
    for each panel. If None, a new figure is made.""",
    "by": """\
by : {"tier", "language"}, default="tier"
    Whether to group by tier, averaging over its languages, or by language.""",
    "download": """\
download_if_missing : bool, default=True
    Whether to download files that are not in ``data_home``. If False, raise an ``OSError`` for
    them.
n_retries : int, default=3
    How often to retry a failed download of a file.
verbose : bool, default=True
    Whether to show a progress bar while downloading.""",
    "generate_kwargs": """\
**generate_kwargs : dict
    Arguments of the model's ``generate``, which override the wrapper's ``generate_kwargs``.""",
    "budget_metric": """\
metric : {"f1", "balanced_accuracy"} or None, default=None
    Metric to draw. If None, F1 if it is available, else the balanced accuracy.""",
    "draws_interval": """\
interval : float, default=80
    Percentage of the draws that a bar spans: the middle ones, without the extremes.""",
    "is_garbled": """\
is_garbled : callable or None, default=None
    Finds garbled replies: takes a list with the reply to each prompt and returns a bool for each.
    Too high a strength garbles replies. What such replies look like depends on the model.""",
    "language_of_prompts": """\
language : str or array-like of str of shape (n_prompts,), default=None
    Languages of the prompts, one for all or one each, unless they are a column of ``prompts``. If
    None, for all or for some of the prompts, see the gate's ``unknown_language``.""",
    "language_or_column": """\
language : str or array-like of str of shape (n_prompts,), default=None
    Languages of the prompts, one for all or one each, unless they are a column of ``X``.""",
    "pipeline_X": """\
X : list, Series, array or DataFrame of length n_prompts
    Prompts, as the gate's pipeline takes them. A Series or DataFrame may be of pandas, polars,
    pyarrow or another library.""",
    "pipeline_prompts": """\
prompts : list, Series, array or DataFrame of length n_prompts
    Prompts, as the gate's pipeline takes them. A Series or DataFrame may be of pandas, polars,
    pyarrow or another library.""",
    "pos_label": """\
pos_label : label or None, default=None
    The harmful class. If None, it is "harmful" in upper or lower case, else the label beside
    "harmless", else 1 beside 0 or -1 (True beside False), else the second of the two in sorted
    order, with a warning.""",
    "refused": """\
refused : array-like of bool of shape (n_samples,)
    Whether the reply to each prompt is a refusal, as decided by a judge. 1 and 0 are allowed
    too.""",
    "steering_actions": """\
on_harmful : {"add"} or None, default="add"
    What to do with prompts that the gate finds harmful; None leaves them as they are.
on_harmless : {"ablate"} or None, default="ablate"
    What to do with the other prompts; None leaves them as they are.""",
    "steering_attributes": """\
gate_ : Pipeline, or FrozenEstimator of one
    The fitted pipeline from prompts to decisions, which ``fit`` or ``partial_fit`` made.
classes_ : ndarray of shape (2,)
    The gate's labels, sorted.""",
    "steering_gate": """\
gate : Pipeline or LatentGate, or either in a FrozenEstimator
    Decides which prompts are harmful. A Pipeline consists of an
    :class:`~skgate.ActivationTransformer` (alone, or in a ColumnTransformer beside the language)
    and a :class:`~skgate.LatentGate`; the transformer defines model, layer, position and template.
    A LatentGate alone needs ``model`` and ``layer``, and is given the position that it was fitted
    on, if it is fitted. With a fitted gate, ``fit`` is not needed.
model : str, path, PreTrainedModel or None, default=None
    The model, if ``gate`` is a LatentGate alone, as in :class:`~skgate.ActivationTransformer`. The
    transformer's other parameters then have their defaults. ``clone`` shares a live model and
    never copies it.
tokenizer : str, path, PreTrainedTokenizerBase or None, default=None
    The tokenizer, if ``gate`` is a LatentGate alone, as in :class:`~skgate.ActivationTransformer`.
layer : int or None, default=None
    The layer, if ``gate`` is a LatentGate alone, as in :class:`~skgate.ActivationTransformer`.""",
    "steering_run": """\
judge : object with ``is_refusal(replies, prompts, language)`` or None, default=None
    Decides which replies are refusals, for ``score`` and the selections. If None, a
    :class:`skgate.judges.PhraseJudge` is used. ``clone`` shares it and does not copy it.
    Replies on which it abstains (NaN) are left out, with a warning.
generate_kwargs : dict or None, default=None
    Arguments of the model's ``generate``, such as ``max_new_tokens``.
batch_tokens : int or "auto", default="auto"
    Largest number of prompt tokens per batch, padding included. A longer prompt is a batch of
    its own. "auto" means 2,048 on a CPU and 16,384 on an accelerator.
verbose : bool, default=False
    Whether to show a progress bar.""",
    "steering_strength": """\
strength : float or "auto", default="auto"
    Steering strength, in units of the gate's ``projection_gap_``, as in
    :class:`~skgate.SteeringWrapper`.""",
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
        If a name has no shared text.
    """
    if documented.__doc__ is not None:  # (it is None under python -OO)
        documented.__doc__ = re.sub(
            r"^( *)\{(\w+)\}$",
            lambda line: indent(_TEXTS[line[2]], line[1]),
            documented.__doc__,
            flags=re.MULTILINE,
        )
    return documented
