"""LayerSweepDisplay: refusals left when one layer's harm direction is ablated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pandas as pd
from numpy.typing import ArrayLike

from skgate._base import set_module
from skgate._docstrings import fill_docstring
from skgate._validation import check_prompts
from skgate.inspection._display import PanelDisplay, check_shares, stack_tables
from skgate.inspection._estimators import by_name
from skgate.inspection._style import HARMFUL, HARMLESS, color


@set_module("skgate.inspection")
class LayerSweepDisplay(PanelDisplay):
    """Display of the refusals left when the harm direction of one layer is ablated.

    It shows at which layer refusal depends on the direction most. There is one panel for each
    model. A star marks the layer with the fewest refusals left, at which [1]_ steers. It is
    recommended to use :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    frame : DataFrame
        One row per layer: columns ``model`` (if several), ``layer``, ``refusal_rate`` (0 to 1) and,
        optionally, ``unablated``, the refusal rate of the unchanged model.

    Attributes
    ----------
    frame_ : DataFrame
        The numbers behind the picture: the columns of ``frame``, and ``chosen``, which is True for
        the marked layer, the first one with the fewest refusals.
    ax_ : matplotlib Axes
        The first panel.
    axes_ : ndarray of matplotlib Axes
        All panels.
    figure_ : matplotlib Figure
        The figure.

    See Also
    --------
    skgate.SteeringWrapper.select_layer : The same rates as a table.

    References
    ----------
    .. [1] Aziz, Hanif, Koto, "Low-Resource Safety Failures Are Action Failures, Not
       Representation Failures", arXiv:2606.01196, 2026.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import pandas as pd
    >>> from skgate.inspection import LayerSweepDisplay
    >>> table = pd.DataFrame({"layer": [6, 7, 8], "refusal_rate": [0.9, 0.2, 0.6]})
    >>> display = LayerSweepDisplay.from_predictions(table)
    >>> display.frame_
       model  layer  refusal_rate  chosen
    0  model      6           0.9   False
    1  model      7           0.2    True
    2  model      8           0.6   False
    >>> plt.close(display.figure_)
    """

    _columns: ClassVar = ("layer", "refusal_rate")

    def __init__(self, frame: pd.DataFrame) -> None:
        super().__init__(frame)
        tables = [self._of(model).sort_values("layer") for model in self._models]
        attrs = self.frame_.attrs
        self.frame_ = pd.concat(tables, ignore_index=True)
        self.frame_.attrs = attrs
        check_shares(self.frame_, ["refusal_rate", "unablated"])
        known = self.frame_.dropna(subset="refusal_rate")
        lowest = known.groupby("model")["refusal_rate"].idxmin()
        self.frame_["chosen"] = self.frame_.index.isin(lowest)

    @classmethod
    @fill_docstring
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        X_val: Any,
        *,
        language: Any = None,
        layers: Sequence[int] | str = "all",
        ax: Any = None,
        **generate_kwargs: Any,
    ) -> LayerSweepDisplay:
        """Ablate each layer's harm direction while the model answers, and draw the refusals.

        Parameters
        ----------
        estimator : SteeringWrapper, mapping of str to SteeringWrapper, or list of them
            Wrappers, fitted or not. Each one's ``judge`` decides which replies are refusals.
        X : list, Series or array of length n_prompts
            Prompts to learn each layer's direction from.
        y : array-like of shape (n_prompts,)
            Labels of ``X``.
        X_val : list, Series or array
            Harmful validation prompts in the source languages.
        language : str or array-like of str of shape (n_prompts,), default=None
            Languages of ``X``, one for all or one each.
        layers : "all" or list of int, default="all"
            Layers to try.
        {ax}
        {generate_kwargs}

        Returns
        -------
        display : LayerSweepDisplay
            The drawn display.
        """
        from skgate.steering._sweeps import (
            find_refusals,
            generate_unsteered,
            share_refused,
            shorten_replies,
            warn_of_abstentions,
        )

        tables = {}
        for name, wrapper in by_name(estimator).items():
            table = wrapper.select_layer(
                X, y, X_val, language=language, layers=layers, **generate_kwargs
            )
            prompts = check_prompts(X_val, "X_val")
            options = shorten_replies(wrapper, generate_kwargs)
            replies = generate_unsteered(wrapper, prompts, options)
            refused = find_refusals(wrapper.judge, prompts, replies, None)
            warn_of_abstentions(table.attrs["judge"], [refused])
            tables[name] = table.assign(unablated=share_refused(refused))
        return cls.from_predictions(tables, ax=ax)

    @classmethod
    @fill_docstring
    def from_predictions(cls, table: Any, *, ax: Any = None) -> LayerSweepDisplay:
        """Draw tables of :meth:`skgate.SteeringWrapper.select_layer`.

        Parameters
        ----------
        table : DataFrame, or mapping of str to DataFrame
            Columns ``layer``, ``refusal_rate`` and, optionally, ``unablated``, the refusal rate of
            the unchanged model. For several models, a mapping of name to table. If
            ``table.attrs["judge"]`` names the judge, the axis label does too.
        {ax}

        Returns
        -------
        display : LayerSweepDisplay
            The drawn display.
        """
        return cls(stack_tables(table)).plot(ax)

    @fill_docstring
    def plot(self, ax: Any = None) -> LayerSweepDisplay:
        """Draw the curve of each model.

        Parameters
        ----------
        {ax}

        Returns
        -------
        display : LayerSweepDisplay
            The display itself.
        """
        import seaborn as sns
        from matplotlib.lines import Line2D
        from matplotlib.ticker import MaxNLocator

        models, frame = self._models, self.frame_
        columns = min(len(models), 3)
        axes = self._open(
            ax,
            len(models),
            columns=columns,
            size=(6.0 if columns == 1 else 9.0, 3.0 * -(-len(models) // columns) + 0.9),
            sharey=True,
        )
        curve: dict[str, Any] = {"color": color(HARMLESS), "marker": "o"}
        level: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 1.2}
        star: dict[str, Any] = {
            "color": color(HARMFUL),
            "marker": "*",
            "markersize": 15,
            "markeredgecolor": "white",
            "linestyle": "none",
        }
        for panel, model in zip(axes, models, strict=True):
            rows = self._of(model)
            sns.lineplot(rows, x="layer", y="refusal_rate", errorbar=None, ax=panel, **curve)
            if "unablated" in rows:
                panel.axhline(rows["unablated"].iloc[0], **level)
            for layer, rate in rows.loc[rows["chosen"], ["layer", "refusal_rate"]].to_numpy():
                panel.plot(layer, rate, zorder=3, **star)
                panel.annotate(
                    f"layer {layer:.0f}",
                    (layer, rate),
                    xytext=(0, -9),
                    textcoords="offset points",
                    ha="center",
                    va="top",
                    fontsize=9,
                )
            self._as_shares(panel, bottom=-0.2)
            panel.set_xlabel("layer (block, from 0)")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
            panel.margins(x=0.08)
            sns.despine(ax=panel)
        for panel in axes[::columns]:
            panel.set_ylabel(self._by_judge("harmful prompts refused"))
        self._entitle("Where does refusal live?", models)
        handles = [
            Line2D([], [], **curve, label="harm direction ablated at one layer"),
            Line2D([], [], **star, label="fewest refusals left"),
        ]
        if "unablated" in frame:
            handles.append(Line2D([], [], **level, label="model as it is"))
        self._explain(handles)
        return self
