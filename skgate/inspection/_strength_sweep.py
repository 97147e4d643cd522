"""StrengthSweepDisplay: refusals and garbled replies against the steering strength."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd

from skgate.inspection._display import PanelDisplay, check_shares, stack_tables
from skgate.inspection._estimators import by_name
from skgate.inspection._groups import average_groups, group_column, group_languages
from skgate.inspection._style import group_title

if TYPE_CHECKING:
    from matplotlib.lines import Line2D

_MEASURES = {"refusal_rate": "harmful prompts refused", "garbled_rate": "replies garbled"}


class StrengthSweepDisplay(PanelDisplay):
    """How hard to steer: refusals, and garbled replies, against the steering strength.

    A column of panels for each model: refusals above, garbled replies (if told) below, a line for
    each tier (the mean over its languages) or language. It is recommended to use
    :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    frame : DataFrame
        A row per point: columns ``model`` (if several), ``tier`` or ``language`` (if known),
        ``strength``, ``refusal_rate`` and perhaps ``garbled_rate`` (0 to 1).

    Attributes
    ----------
    frame_ : DataFrame
        The numbers behind the picture, as in ``frame``.
    ax_ : matplotlib Axes
        The first panel.
    axes_ : ndarray of matplotlib Axes
        All panels, row by row.
    figure_ : matplotlib Figure
        The figure.

    See Also
    --------
    skgate.SteeringWrapper.select_strength : Measures the rates.

    Notes
    -----
    Strengths are in units of the gate's ``projection_gap_``, about the way from harmless to
    harmful prompts along its direction. Every prompt is steered, no gate decides.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import pandas as pd
    >>> from skgate.inspection import StrengthSweepDisplay
    >>> table = pd.DataFrame({
    ...     "strength": [0.0, 0.0, 0.0, 1.0, 1.0, 1.0],
    ...     "language": ["en", "yo", "sw", "en", "yo", "sw"],
    ...     "refusal_rate": [0.9, 0.2, 0.4, 1.0, 0.9, 0.7],
    ... })
    >>> display = StrengthSweepDisplay.from_predictions(table)
    >>> display.frame_.round(2)
       model  tier  strength  refusal_rate
    0  model  high       0.0           0.9
    1  model  high       1.0           1.0
    2  model   low       0.0           0.3
    3  model   low       1.0           0.8
    >>> plt.close(display.figure_)
    """

    _columns: ClassVar = ("strength", "refusal_rate")

    def __init__(self, frame: pd.DataFrame) -> None:
        super().__init__(frame)
        check_shares(self.frame_, list(_MEASURES))

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        language: Any = None,
        strengths: Sequence[float] | None = None,
        is_garbled: Callable[[list[str]], Any] | None = None,
        by: str = "tier",
        tier: Mapping[str, str] | None = None,
        ax: Any = None,
        **generate_kwargs: Any,
    ) -> StrengthSweepDisplay:
        """Steer every prompt at several strengths, and draw what becomes of the replies.

        Parameters
        ----------
        estimator : SteeringWrapper, mapping of str to SteeringWrapper, or list of them
            Fitted wrappers. Refusals are told by the wrapper's ``judge``.
        X : list, Series, array or DataFrame of length n_prompts
            Harmful validation prompts, as the wrapper takes them.
        language : str or array-like of str of shape (n_prompts,), default=None
            Languages of the prompts, unless they are a column of ``X``. None: one line for all.
        strengths : sequence of float or None, default=None
            Strengths to try; None is 0 to 3 in steps of 0.25.
        is_garbled : callable or None, default=None
            Tells which replies are garbled: takes a list of them, in the order of the prompts,
            and gives a bool for each.
        by : {"tier", "language"}, default="tier"
            What a line is: a tier, as the mean over its languages, or a language.
        tier : mapping of str to str or None, default=None
            The tier of each language; None is the paper's, for ISO 639-1 codes.
        ax : matplotlib Axes, array of them or None, default=None
            Where to draw; one Axes is divided if there are several panels. None: a new figure.
        **generate_kwargs : dict
            Arguments of the model's ``generate``.

        Returns
        -------
        display : StrengthSweepDisplay
            The drawn display.
        """
        wrappers = by_name(estimator)
        languages = next(iter(wrappers.values()))._languages(X, language)
        if languages is not None:
            group_languages(languages, by, tier)  # what is wrong is told before the model runs
        tables = {
            name: wrapper.select_strength(
                X, language, strengths=strengths, is_garbled=is_garbled, **generate_kwargs
            )
            for name, wrapper in wrappers.items()
        }
        return cls.from_predictions(tables, by=by, tier=tier, ax=ax)

    @classmethod
    def from_predictions(
        cls,
        table: Any,
        *,
        by: str = "tier",
        tier: Mapping[str, str] | None = None,
        ax: Any = None,
    ) -> StrengthSweepDisplay:
        """Draw what :meth:`skgate.SteeringWrapper.select_strength` found.

        Parameters
        ----------
        table : DataFrame, or mapping of str to DataFrame
            Columns ``strength``, ``refusal_rate``, and perhaps ``language`` and ``garbled_rate``;
            several models' by name.
        by : {"tier", "language"}, default="tier"
            What a line is: a tier, as the mean over its languages, or a language.
        tier : mapping of str to str or None, default=None
            The tier of each language; None is the paper's, for ISO 639-1 codes.
        ax : matplotlib Axes, array of them or None, default=None
            Where to draw; one Axes is divided if there are several panels. None: a new figure.

        Returns
        -------
        display : StrengthSweepDisplay
            The drawn display.
        """
        display = cls(stack_tables(table))
        measures = [name for name in _MEASURES if name in display.frame_]
        display.frame_ = average_groups(display.frame_, ["strength"], measures, by, tier)
        return display.plot(ax)

    def plot(self, ax: Any = None) -> StrengthSweepDisplay:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, array of them or None, default=None
            Where to draw; one Axes is divided if there are several panels. None: a new figure.

        Returns
        -------
        display : StrengthSweepDisplay
            The display itself.
        """
        import seaborn as sns

        models, by = self._models, group_column(self.frame_)
        measures = [name for name in _MEASURES if name in self.frame_]
        groups = [] if by is None else list(self.frame_[by].unique())
        axes = self._open(
            ax,
            len(measures) * len(models),
            columns=len(models),
            size=(6.0 if len(models) == 1 else 9.0, 2.3 * len(measures) + 1.3),
            sharex=True,
            sharey=True,
        )
        cells = [(measure, model) for measure in measures for model in models]
        lines: dict[str, Line2D] = {}
        for panel, (measure, model) in zip(axes, cells, strict=True):
            rows = self._of(model).dropna(subset=measure)
            sns.lineplot(
                rows,
                x="strength",
                y=measure,
                hue=by,
                style=by,
                hue_order=groups or None,
                style_order=groups or None,
                palette=sns.color_palette("colorblind", len(groups)) if groups else None,
                **({"markers": True} if groups else {"marker": "o"}),
                errorbar=None,
                legend=False,
                ax=panel,
            )
            present = [group for group in groups if group in rows[by].unique()]
            if present:
                lines |= zip(present, panel.get_lines()[-len(present) :], strict=True)
            self._as_shares(panel)
            panel.set_xlabel("")
            panel.set_ylabel(_MEASURES[measure] if model == models[0] else "")
            sns.despine(ax=panel)
        for panel in axes[-len(models) :]:
            panel.set_xlabel("steering strength (1: from harmless to harmful)")
        self._entitle("How strongly should the model be steered?", models)
        if groups:
            for group, line in lines.items():
                line.set_label(group_title(group))
            self._explain([lines[group] for group in groups if group in lines])
        return self
