"""RefusalGapDisplay: harmful and harmless prompts that a model refuses."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
from numpy.typing import ArrayLike

from skgate._base import set_module
from skgate._docstrings import fill_docstring
from skgate.inspection._display import PanelDisplay, check_kinds, check_shares
from skgate.inspection._estimators import by_name
from skgate.inspection._groups import group_column, group_languages
from skgate.inspection._style import HARMFUL, HARMLESS, HATCHES, color, group_title
from skgate.metrics import language_report
from skgate.metrics._checks import check_same_length, one_per_row

if TYPE_CHECKING:
    from matplotlib.container import BarContainer

_FEW = 6  # groups that fit a panel beside others


@set_module("skgate.inspection")
class RefusalGapDisplay(PanelDisplay):
    """Display of the shares of harmful and of harmless prompts that a model refuses.

    There is one panel for each model or condition, such as before and after steering. Each tier
    (the mean over its languages) or each language has a pair of bars. It is recommended to use
    :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    frame : DataFrame
        Columns ``model`` (if several), ``tier`` or ``language``, ``prompts`` ("harmful" or
        "harmless") and ``refusal_rate`` (0 to 1).

    Attributes
    ----------
    frame_ : DataFrame
        The numbers behind the picture, one row per bar: the columns of ``frame`` and, if the
        display was made from an estimator or predictions, ``n``, the number of prompts.
    ax_ : matplotlib Axes
        The first panel.
    axes_ : ndarray of matplotlib Axes
        All panels.
    figure_ : matplotlib Figure
        The figure.

    See Also
    --------
    skgate.metrics.language_report : The same rates as a table.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from skgate.inspection import RefusalGapDisplay
    >>> display = RefusalGapDisplay.from_predictions(
    ...     y_true=[1, 1, 0, 1, 1, 0],
    ...     refused={"as it is": [1, 1, 0, 0, 1, 0], "steered": [1, 1, 0, 1, 1, 0]},
    ...     language=["en", "en", "en", "yo", "yo", "yo"],
    ... )
    >>> display.frame_
          model  tier   prompts  refusal_rate  n
    0  as it is  high   harmful           1.0  2
    1  as it is  high  harmless           0.0  1
    2  as it is   low   harmful           0.5  2
    3  as it is   low  harmless           0.0  1
    4   steered  high   harmful           1.0  2
    5   steered  high  harmless           0.0  1
    6   steered   low   harmful           1.0  2
    7   steered   low  harmless           0.0  1
    >>> plt.close(display.figure_)
    """

    _columns: ClassVar = ("prompts", "refusal_rate")

    def __init__(self, frame: pd.DataFrame) -> None:
        super().__init__(frame)
        check_kinds(self.frame_)
        check_shares(self.frame_, ["refusal_rate"])

    @classmethod
    @fill_docstring
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        *,
        language: Any = None,
        by: str = "tier",
        tier: Mapping[str, str] | None = None,
        ax: Any = None,
        **generate_kwargs: Any,
    ) -> RefusalGapDisplay:
        """Generate and judge replies, and draw the shares of refusals.

        Parameters
        ----------
        estimator : SteeringWrapper, mapping of str to SteeringWrapper, or list of them
            Fitted wrappers. A single one is drawn twice: the unchanged model, and steered. Each
            one's ``judge`` decides which replies are refusals.
        {pipeline_X}
        y : array-like of shape (n_prompts,)
            True labels.
        {language_or_column}
        {by}
        {tier}
        {ax}
        {generate_kwargs}

        Returns
        -------
        display : RefusalGapDisplay
            The drawn display.

        Raises
        ------
        ValueError
            If no language is given, or if a language has no tier and ``by="tier"``.
        """
        from skgate.steering._pipeline import find_fitted_parts
        from skgate.steering._sweeps import judge_name, warn_of_abstentions

        single = not isinstance(estimator, Mapping | list | tuple)
        wrappers = by_name(estimator)
        first = next(iter(wrappers.values()))
        parts = find_fitted_parts(first)
        languages = parts.split(X, language)[1]
        if languages is None:
            raise ValueError("Got language=None, expected the language of each prompt.")
        # Raise these errors before the model runs.
        group_languages(languages, by, tier)
        check_same_length({"X": languages, "y": one_per_row("y", y)})
        runs = {name: (wrapper, True) for name, wrapper in wrappers.items()}
        if single:
            runs = {"as it is": (first, False), "steered": (first, True)}
        refused = {
            name: _find_refusals(wrapper, X, language, generate_kwargs, steered=steered)
            for name, (wrapper, steered) in runs.items()
        }
        judges = {name: judge_name(wrapper.judge) for name, (wrapper, _) in runs.items()}
        for judge in dict.fromkeys(judges.values()):
            warn_of_abstentions(judge, [refused[name] for name in runs if judges[name] == judge])
        return cls.from_predictions(
            y,
            refused,
            language=languages,
            judge=" and ".join(dict.fromkeys(judges.values())),
            by=by,
            tier=tier,
            pos_label=parts.gate.harmful_label_,
            ax=ax,
        )

    @classmethod
    @fill_docstring
    def from_predictions(
        cls,
        y_true: ArrayLike,
        refused: Any,
        *,
        language: ArrayLike,
        judge: str | None = None,
        by: str = "tier",
        tier: Mapping[str, str] | None = None,
        pos_label: Hashable | None = None,
        ax: Any = None,
    ) -> RefusalGapDisplay:
        """Draw the shares of refusals.

        Parameters
        ----------
        y_true : array-like of shape (n_prompts,)
            True labels.
        refused : array-like of bool of shape (n_prompts,), or mapping of str to such
            Whether the reply to each prompt is a refusal; NaN if the judge abstains. For several
            models or conditions, a mapping of name to array.
        language : array-like of str of shape (n_prompts,)
            Languages of the prompts.
        judge : str or None, default=None
            The name of the judge, for the axis label.
        {by}
        {tier}
        {pos_label}
        {ax}

        Returns
        -------
        display : RefusalGapDisplay
            The drawn display.
        """
        conditions = refused if isinstance(refused, Mapping) else {"model": refused}
        rows = []
        for name, flags in by_name(conditions, "refused").items():
            report = language_report(
                y_true, refused=flags, language=language, tier=tier, pos_label=pos_label
            )
            groups = group_languages(report.loc["language"].index, by, tier)
            rows += [
                {
                    "model": name,
                    by: group,
                    "prompts": kind,
                    "refusal_rate": report.loc[(by, group), f"{kind}_refused"],
                    "n": report.loc[(by, group), f"n_{kind}"],
                }
                for group in dict.fromkeys(groups.values())
                for kind in (HARMFUL, HARMLESS)
            ]
        frame = pd.DataFrame(rows).dropna(subset="refusal_rate")
        frame.attrs["judge"] = judge
        return cls(frame).plot(ax)

    @fill_docstring
    def plot(self, ax: Any = None) -> RefusalGapDisplay:
        """Draw the bars.

        Parameters
        ----------
        {ax}

        Returns
        -------
        display : RefusalGapDisplay
            The display itself.
        """
        import seaborn as sns
        from matplotlib.patches import Patch

        by = group_column(self.frame_)
        if by is None:
            raise ValueError(
                f"Got a frame with the columns {list(self.frame_)}, expected 'tier' or "
                "'language' among them."
            )
        models, groups = self._models, list(self.frame_[by].unique())
        beside = len(groups) <= _FEW
        columns = min(len(models), 3) if beside else 1
        rows = -(-len(models) // columns)
        size = (min(4.2 * columns + 1, 9.0), 3.2 * rows + 0.8) if beside else (9.0, 2.5 * rows + 1)
        axes = self._open(ax, len(models), columns=columns, size=size, sharey=True)
        for panel, model in zip(axes, models, strict=True):
            sns.barplot(
                self._of(model),
                x=by,
                y="refusal_rate",
                hue="prompts",
                order=groups,
                hue_order=[HARMFUL, HARMLESS],
                palette={kind: color(kind) for kind in (HARMFUL, HARMLESS)},
                saturation=1,
                errorbar=None,
                legend=False,
                ax=panel,
            )
            containers = cast("list[BarContainer]", panel.containers[-2:])
            for bars, kind in zip(containers, (HARMFUL, HARMLESS), strict=True):
                for bar in bars.patches:
                    bar.set(hatch=HATCHES[kind], edgecolor="white")
                panel.bar_label(bars, fmt=lambda rate: f"{100 * rate:.0f}", fontsize=8, padding=1)
            self._as_shares(panel)
            panel.set_xlabel("")
            panel.set_xticks(
                range(len(groups)), [group_title(name).replace("-", "-\n") for name in groups]
            )
            sns.despine(ax=panel)
        for panel in axes[::columns]:
            panel.set_ylabel(self._by_judge("share of prompts refused"))
        if not beside:
            axes[-1].set_xlabel("language")
        self._entitle("Does the model refuse where it should?", models)
        self._explain(
            [
                Patch(facecolor=color(kind), hatch=HATCHES[kind], edgecolor="white", label=label)
                for kind, label in (
                    (HARMFUL, "harmful prompts: should be refused"),
                    (HARMLESS, "harmless prompts: should be answered"),
                )
            ]
        )
        return self


def _find_refusals(
    wrapper: Any, X: Any, language: Any, generate_kwargs: Mapping[str, Any], *, steered: bool
) -> npt.NDArray[np.float64]:
    """Find which prompts the model refuses, steered or unchanged; NaN: the judge abstains."""
    from skgate.steering._pipeline import find_fitted_parts
    from skgate.steering._sweeps import find_refusals, generate_unsteered

    prompts, languages = find_fitted_parts(wrapper).split(X, language)
    if steered:
        replies = wrapper.generate(X, language, **generate_kwargs)
    else:
        replies = generate_unsteered(wrapper, prompts, generate_kwargs)
    return find_refusals(wrapper.judge, prompts, replies, languages)
