"""StrengthSweepDisplay: refusals and garbled replies against the steering strength."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd

from skgate._base import set_module
from skgate._docstrings import fill_docstring
from skgate.inspection._display import PanelDisplay, check_shares, stack_tables
from skgate.inspection._estimators import by_name
from skgate.inspection._groups import average_groups, group_column, group_languages
from skgate.inspection._style import group_title

if TYPE_CHECKING:
    from matplotlib.lines import Line2D

_MEASURES = {"refusal_rate": "harmful prompts refused", "garbled_rate": "replies garbled"}


@set_module("skgate.inspection")
class StrengthSweepDisplay(PanelDisplay):
    """Display of refusals and of garbled replies against the steering strength.

    It helps to choose a strength at which harmful prompts are refused and replies are not garbled.
    Each model has a column of panels, with refusals above and garbled replies (if measured) below.
    Each tier (the mean over its languages) or each language has a line. It is recommended to use
    :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    frame : DataFrame
        One row per point: columns ``model`` (if several), ``tier`` or ``language`` (if known),
        ``strength``, ``refusal_rate`` and, optionally, ``garbled_rate`` (both 0 to 1).

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
    skgate.SteeringWrapper.select_strength : The same rates as a table.

    Notes
    -----
    Strengths are in units of the gate's ``projection_gap_``, about the distance from harmless to
    harmful prompts along its direction. Every prompt is steered; the gate does not decide.

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
    @fill_docstring
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
        """Steer every prompt at several strengths, and draw refusals and garbled replies.

        Parameters
        ----------
        estimator : SteeringWrapper, mapping of str to SteeringWrapper, or list of them
            Fitted wrappers. Each one's ``judge`` decides which replies are refusals.
        X : list, Series, array or DataFrame of length n_prompts
            Harmful validation prompts, as the gate's pipeline takes them.
        language : str or array-like of str of shape (n_prompts,), default=None
            Languages of the prompts, one for all or one each, unless they are a column of ``X``.
            Without languages, there is one line for all prompts.
        {strengths}
        {is_garbled}
        {by}
        {tier}
        {ax}
        {generate_kwargs}

        Returns
        -------
        display : StrengthSweepDisplay
            The drawn display.
        """
        from skgate.steering._pipeline import find_fitted_parts

        wrappers = by_name(estimator)
        languages = find_fitted_parts(next(iter(wrappers.values()))).split(X, language)[1]
        if languages is not None:
            group_languages(languages, by, tier)  # raises its errors before the model runs
        tables = {
            name: wrapper.select_strength(
                X, language, strengths=strengths, is_garbled=is_garbled, **generate_kwargs
            )
            for name, wrapper in wrappers.items()
        }
        return cls.from_predictions(tables, by=by, tier=tier, ax=ax)

    @classmethod
    @fill_docstring
    def from_predictions(
        cls,
        table: Any,
        *,
        by: str = "tier",
        tier: Mapping[str, str] | None = None,
        ax: Any = None,
    ) -> StrengthSweepDisplay:
        """Draw tables of :meth:`skgate.SteeringWrapper.select_strength`.

        Parameters
        ----------
        table : DataFrame, or mapping of str to DataFrame
            Columns ``strength``, ``refusal_rate`` and, optionally, ``language`` and
            ``garbled_rate``. For several models, a mapping of name to table. If
            ``table.attrs["judge"]`` names the judge, the axis label does too.
        {by}
        {tier}
        {ax}

        Returns
        -------
        display : StrengthSweepDisplay
            The drawn display.
        """
        display = cls(stack_tables(table))
        measures = [name for name in _MEASURES if name in display.frame_]
        attrs = display.frame_.attrs
        display.frame_ = average_groups(display.frame_, ["strength"], measures, by, tier)
        display.frame_.attrs = attrs
        return display.plot(ax)

    @fill_docstring
    def plot(self, ax: Any = None) -> StrengthSweepDisplay:
        """Draw the curves.

        Parameters
        ----------
        {ax}

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
            label = _MEASURES[measure]
            if measure == "refusal_rate":
                label = self._by_judge(label)
            panel.set_ylabel(label if model == models[0] else "")
            sns.despine(ax=panel)
        for panel in axes[-len(models) :]:
            panel.set_xlabel("steering strength (1: from harmless to harmful)")
        self._entitle("How strongly should the model be steered?", models)
        if groups:
            for group, line in lines.items():
                line.set_label(group_title(group))
            self._explain([lines[group] for group in groups if group in lines])
        return self
