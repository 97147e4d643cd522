"""Count refusals by layer, by strength, and of the unsteered model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from skgate._base import find_stack_level
from skgate._provenance import list_places
from skgate._validation import check_layers, check_prompts
from skgate._verdicts import check_verdicts
from skgate.judges import PhraseJudge
from skgate.metrics import refusal_selectivity
from skgate.metrics._checks import check_same_length, one_bool_per_row, one_per_row
from skgate.steering._engine import Engine, Replies
from skgate.steering._generation import find_reply_length
from skgate.steering._layer import fit_each_layer, middle_of_plateau, search_layer
from skgate.steering._pipeline import find_fitted_parts, find_parts, steered_part
from skgate.steering._router import always, projection_unit

if TYPE_CHECKING:
    from skgate._messages import Prompt
    from skgate.activations._reader import PromptReader
    from skgate.steering._pipeline import SteeringParts, SweepParams

_STRENGTHS = np.arange(0, 3.25, 0.25)
_NEW_TOKENS = 16  # they suffice to see whether a reply is a refusal


def select_layer(
    wrapper: SweepParams,
    prompts: Any,
    y: Any,
    validation_prompts: Any | None,
    language: Any,
    layers: Sequence[int] | str,
    generate_kwargs: Mapping[str, Any],
) -> pd.DataFrame:
    """Measure how well the model can be steered at one layer at a time.

    The parameters are those of :meth:`skgate.SteeringWrapper.select_layer`, after the wrapper.
    """
    _validate(wrapper)
    if validation_prompts is None:
        if generate_kwargs:
            raise TypeError(
                f"Got {sorted(generate_kwargs)} without validation_prompts, expected none of them: "
                "nothing is generated while steering."
            )
        return search_layer(wrapper, prompts, y, language, layers)
    parts = find_parts(wrapper)
    reader = parts.open_reader()
    engine = Engine.of(wrapper, reader, shorten_replies(wrapper, generate_kwargs))
    wanted = sorted(check_layers(layers, len(reader.language_model.blocks), "layers"))
    items = check_prompts(validation_prompts, "validation_prompts")
    found = []
    for layer, gate in fit_each_layer(parts, wanted, prompts, y, language):
        direction = steered_part(gate, list_places([layer], reader.positions))
        replies = engine.generate(items, [layer], direction, always(ablate=1.0))
        found.append(find_refusals(wrapper.judge, items, replies, None))
    judge = judge_name(wrapper.judge)
    warn_of_abstentions(judge, found)
    warn_of_no_refusals(judge, found)
    table = pd.DataFrame({"layer": wanted, "refusal_rate": [share_refused(one) for one in found]})
    table.attrs["judge"] = judge
    answered = 1 - np.nan_to_num(found, nan=0.5)
    table.attrs["layer"] = wanted[middle_of_plateau(answered)]
    return table


def shorten_replies(wrapper: SweepParams, generate_kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Limit replies to 16 new tokens, unless a wrapper or a call says how long they are."""
    length = find_reply_length({**(wrapper.generate_kwargs or {}), **generate_kwargs}, None)[1]
    return generate_kwargs if length else {**generate_kwargs, "max_new_tokens": _NEW_TOKENS}


def select_strength(
    wrapper: SweepParams,
    prompts: Any,
    language: Any,
    strengths: Sequence[float] | None,
    is_garbled: Callable[[list[str]], Any] | None,
    generate_kwargs: Mapping[str, Any],
) -> pd.DataFrame:
    """Measure refusals against the steering strength, every prompt steered.

    The parameters are those of :meth:`skgate.SteeringWrapper.select_strength`, after the wrapper.
    """
    _validate(wrapper)
    parts = find_fitted_parts(wrapper)
    items, languages = parts.split(prompts, language)
    tried = _STRENGTHS if strengths is None else np.asarray(strengths)
    if tried.ndim != 1 or not len(tried):
        raise ValueError(f"Got strengths={strengths!r}, expected a list of at least one number.")
    reader = parts.open_reader()
    engine = Engine.of(wrapper, reader, generate_kwargs)
    direction = _find_direction(wrapper, parts, reader)
    layers, unit = reader.layers, projection_unit(parts.gate)
    tables, found = [], []
    for strength in tried:
        replies = engine.generate(items, layers, direction, always(add=strength * unit))
        table = pd.DataFrame({"strength": float(strength)}, index=range(len(items)))
        if languages is not None:
            table["language"] = languages
        by = list(table)
        found.append(find_refusals(wrapper.judge, items, replies, languages))
        table["refusal_rate"] = found[-1]  # its mean leaves NaN out
        if is_garbled is not None:
            garbled = is_garbled(_one_each(replies))
            table["garbled_rate"] = one_bool_per_row("is_garbled(replies)", garbled, len(items))
        tables.append(table.groupby(by).mean().reset_index())
    judge = judge_name(wrapper.judge)
    warn_of_abstentions(judge, found)
    warn_of_no_refusals(judge, found)
    table = pd.concat(tables, ignore_index=True)
    table.attrs["judge"] = judge
    return table


def generate_alike(
    wrapper: SweepParams,
    prompts: Sequence[Prompt],
    generate_kwargs: Mapping[str, Any],
    *,
    add: float = 0.0,
    ablate: float = 0.0,
) -> Replies:
    """Generate with the same edit for every prompt, whatever the gate would decide.

    Parameters
    ----------
    wrapper : SteeringWrapper
        Wrapper whose fitted gate defines the layer and the direction.
    prompts : sequence of str or list of dict
        Checked prompts.
    generate_kwargs : mapping
        Arguments of the model's ``generate``, which override those of the wrapper.
    add : float, default=0.0
        Amount to add along the direction, in the activations' unit.
    ablate : float, default=0.0
        Share of the component along the direction to remove.

    Returns
    -------
    replies : list of str, or list of list of str with several return sequences
        In the order of the prompts.
    """
    _validate(wrapper)
    parts = find_fitted_parts(wrapper)
    reader = parts.open_reader()
    engine = Engine.of(wrapper, reader, generate_kwargs)
    direction = _find_direction(wrapper, parts, reader)
    return engine.generate(prompts, reader.layers, direction, always(add, ablate))


def generate_unsteered(
    wrapper: SweepParams, prompts: Sequence[Prompt], generate_kwargs: Mapping[str, Any]
) -> Replies:
    """Generate with the model as it is; the wrapper's gate need not be fitted.

    Parameters
    ----------
    wrapper : SteeringWrapper
        Wrapper that defines the model and the parameters.
    prompts : sequence of str or list of dict
        Checked prompts.
    generate_kwargs : mapping
        Arguments of the model's ``generate``, which override those of the wrapper.

    Returns
    -------
    replies : list of str, or list of list of str with several return sequences
        In the order of the prompts.
    """
    _validate(wrapper)
    reader = find_parts(wrapper).open_reader()
    engine = Engine.of(wrapper, reader, generate_kwargs)
    no_direction = np.zeros(reader.language_model.hidden_size)
    return engine.generate(prompts, [0], no_direction, always())


def find_refusals(
    judge: Any,
    prompts: Sequence[Prompt],
    replies: Replies,
    languages: npt.NDArray[Any] | None,
) -> npt.NDArray[np.float64]:
    """Ask a judge which prompts were refused.

    Parameters
    ----------
    judge : object with ``is_refusal(replies, prompts, language)`` or None
        The judge; None is a :class:`skgate.judges.PhraseJudge`.
    prompts : sequence of str or list of dict
        The prompts.
    replies : list of str of length n_prompts
        One reply to each prompt.
    languages : ndarray of str of shape (n_prompts,) or None
        The prompts' languages, if they are known.

    Returns
    -------
    refused : ndarray of float of shape (n_prompts,)
        1 if the prompt was refused, 0 if not, NaN if the judge abstains.

    Raises
    ------
    ValueError
        If there are several replies to a prompt, or the judge does not give one verdict to each.
    """
    asked = PhraseJudge() if judge is None else judge
    refused = asked.is_refusal(_one_each(replies), prompts=prompts, language=languages)
    return check_verdicts(f"{judge_name(judge)}.is_refusal(replies)", refused, len(replies))


def warn_of_no_refusals(judge: str, found: Sequence[npt.NDArray[np.float64]]) -> None:
    """Warn if not one reply is a refusal, so that every rate is 0.

    Parameters
    ----------
    judge : str
        The judge's name, as :func:`judge_name` returns it.
    found : sequence of ndarray of float
        What :func:`find_refusals` returned.
    """
    refused = np.concatenate(found)
    refused = refused[~np.isnan(refused)]
    if len(refused) and not refused.any():
        warnings.warn(
            f"{judge} found no refusal among {len(refused)} replies, so every rate is 0. Read some "
            "of them: the judge may not know the words with which this model refuses, the steering "
            "may be too weak to change them, or so strong that they fall apart.",
            UserWarning,
            stacklevel=find_stack_level(),
        )


def find_selectivity(
    judge: Any,
    prompts: Sequence[Prompt],
    replies: Replies,
    y: Any,
    languages: npt.NDArray[Any] | None,
    pos_label: Any,
) -> float:
    """Judge replies and compute their selectivity; abstentions are left out, with a warning.

    Parameters
    ----------
    judge, prompts, replies, languages : object
        As in :func:`find_refusals`.
    y : array-like of shape (n_prompts,)
        True labels.
    pos_label : object
        The harmful label.

    Returns
    -------
    selectivity : float
        As :func:`skgate.metrics.refusal_selectivity` computes it.
    """
    refused = find_refusals(judge, prompts, replies, languages)
    labels = one_per_row("y_true", y)
    check_same_length({"y_true": labels, "refused": refused})
    warn_of_abstentions(judge_name(judge), [refused])
    warn_of_no_refusals(judge_name(judge), [refused])
    judged = ~np.isnan(refused)
    return refusal_selectivity(
        labels[judged],
        refused[judged],
        language=None if languages is None else languages[judged],
        pos_label=pos_label,
    )


def share_refused(refused: npt.NDArray[np.float64]) -> float:
    """Return the share of refusals among the verdicts; NaN if there is none."""
    verdicts = refused[~np.isnan(refused)]
    return float(verdicts.mean()) if len(verdicts) else float("nan")


def warn_of_abstentions(judge: str, found: Sequence[npt.NDArray[np.float64]]) -> None:
    """Warn once if there are abstentions, which rates leave out.

    Parameters
    ----------
    judge : str
        The judge's name, as :func:`judge_name` returns it.
    found : sequence of ndarray of float
        What :func:`find_refusals` returned.
    """
    refused = np.concatenate(found)
    n_abstained = int(np.isnan(refused).sum())
    if n_abstained:
        warnings.warn(
            f"{judge} abstained on {n_abstained} of {len(refused)} replies, which are "
            "left out of the refusal rates. Read some of them: if they are mostly refusals, or "
            "mostly answers, the rates are biased.",
            UserWarning,
            stacklevel=find_stack_level(),
        )


def judge_name(judge: Any) -> str:
    """Return the class of a judge; None is a :class:`skgate.judges.PhraseJudge`."""
    return type(PhraseJudge() if judge is None else judge).__name__


def _one_each(replies: Replies) -> list[str]:
    """Make sure that there is one reply to each prompt."""
    singles = [reply for reply in replies if isinstance(reply, str)]
    if len(singles) < len(replies):
        raise ValueError(
            f"Got num_return_sequences={len(replies[0])}, expected 1: one reply to each prompt is "
            "judged."
        )
    return singles


def _find_direction(
    wrapper: SweepParams, parts: SteeringParts, reader: PromptReader
) -> npt.NDArray[np.float64]:
    return wrapper._direction(parts, reader)  # noqa: SLF001  (a baseline may have another one)


def _validate(wrapper: SweepParams) -> None:
    wrapper._validate_params()  # noqa: SLF001  (scikit-learn's: checks the parameters)
