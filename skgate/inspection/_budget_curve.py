"""BudgetCurveDisplay: quality of a language's decisions against the number of its shots."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from numbers import Integral
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.utils import check_random_state

from skgate._base import set_module
from skgate._docstrings import fill_docstring
from skgate.gate._latent_gate import LatentGate
from skgate.inspection._display import PanelDisplay, check_shares, stack_tables
from skgate.inspection._estimators import by_name, open_gate, take_rows
from skgate.inspection._groups import average_groups, group_column, group_languages
from skgate.inspection._style import group_title
from skgate.metrics._checks import check_same_length, one_per_row
from skgate.metrics._decisions import decision_measures

_METRICS = {"f1": "F1 of harmful prompts", "balanced_accuracy": "balanced accuracy"}
_ALL = "all languages"
_MARKERS = ["o", "X", "s", "D", "^", "v", "P"]
_DASHES = ["-", "--", ":", "-."]

Labels = npt.NDArray[Any]


class _Rows(NamedTuple):
    """Activations (n, d), labels (n,) and languages (n,)."""

    X: Any
    y: Labels
    language: Labels

    def take(self, places: npt.NDArray[np.int64]) -> _Rows:
        return _Rows(take_rows(self.X, places), self.y[places], self.language[places])


@set_module("skgate.inspection")
class BudgetCurveDisplay(PanelDisplay):
    """Display of the quality of decisions against the number of shots per class.

    It shows how many examples a language needs. There is a panel for each tier (the mean over its
    languages) or each language. Each gate has a line, the mean over draws of shots, with bars that
    span most draws. It is recommended to use :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    frame : DataFrame
        One row per draw and budget: columns ``model`` (if several), ``tier`` or ``language`` (if
        known), ``budget``, and ``f1`` or ``balanced_accuracy`` or both.

    Attributes
    ----------
    frame_ : DataFrame
        The numbers behind the picture: the columns of ``frame`` and, if the display was made from
        an estimator, ``draw``.
    ax_ : matplotlib Axes
        The first panel.
    axes_ : ndarray of matplotlib Axes
        All panels.
    figure_ : matplotlib Figure
        The figure.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import numpy as np
    >>> from skgate import LatentGate
    >>> from skgate.inspection import BudgetCurveDisplay
    >>> rng = np.random.default_rng(0)
    >>> y = np.tile([0, 1], 100)
    >>> X = rng.normal(size=(200, 8)) + 4 * y[:, None]
    >>> X_yo = rng.normal(size=(200, 8)) + 2 * y[:, None] - 3   # shifted and squeezed
    >>> gate = LatentGate().fit(X, y, language=np.repeat(["de", "en"], 100))
    >>> display = BudgetCurveDisplay.from_estimator(
    ...     gate, X_yo[:100], y[:100], X_yo[100:], y[100:],
    ...     language_pool="yo", language_test="yo", budgets=[0, 4], n_draws=3, random_state=0,
    ... )
    >>> display.frame_[["tier", "budget", "draw", "balanced_accuracy"]].round(1)
      tier  budget  draw  balanced_accuracy
    0  low       0     0                0.5
    1  low       0     1                0.5
    2  low       0     2                0.5
    3  low       4     0                1.0
    4  low       4     1                1.0
    5  low       4     2                1.0
    >>> plt.close(display.figure_)
    """

    _columns: ClassVar = ("budget",)

    def __init__(self, frame: pd.DataFrame) -> None:
        super().__init__(frame)
        if not self._metrics:
            raise ValueError(
                f"Got a frame with the columns {list(frame)}, expected one of {list(_METRICS)} "
                "among them."
            )
        check_shares(self.frame_, self._metrics)

    @property
    def _metrics(self) -> list[str]:
        return [name for name in _METRICS if name in self.frame_]

    @classmethod
    @fill_docstring
    def from_estimator(
        cls,
        estimator: Any,
        X_pool: Any,
        y_pool: ArrayLike,
        X_test: Any,
        y_test: ArrayLike,
        *,
        language_pool: Any = None,
        language_test: Any = None,
        budgets: Sequence[int] = (0, 1, 2, 4, 8, 16),
        n_draws: int = 10,
        random_state: int | np.random.RandomState | None = None,
        by: str = "tier",
        tier: Mapping[str, str] | None = None,
        metric: str | None = None,
        interval: float = 80,
        ax: Any = None,
    ) -> BudgetCurveDisplay:
        """Calibrate copies of gates on more and more shots, and draw how well they decide.

        In each draw, the pool is shuffled once, and the first rows of each class and language are
        the shots. So the shots of a smaller budget are also shots of a larger one, and every gate
        gets the same shots.

        Parameters
        ----------
        estimator : LatentGate, Pipeline, SteeringWrapper, mapping of str to such, or list of them
            Gates fitted on the source languages, alone, at the end of a Pipeline, or in a wrapper.
            They do not change.
        X_pool : array-like of length n_pool
            Rows to draw shots from: activations for a gate alone, prompts for the others.
        y_pool : array-like of shape (n_pool,)
            Labels of the pool.
        X_test : array-like of length n_test
            Rows to score the gates on.
        y_test : array-like of shape (n_test,)
            Labels of the test rows.
        language_pool : str or array-like of str of shape (n_pool,), default=None
            Languages of the pool, one for all or one each, unless they are a column of ``X_pool``.
        language_test : str or array-like of str of shape (n_test,), default=None
            Languages of the test rows, one for all or one each, unless they are a column of
            ``X_test``. Each must be in the pool too.
        budgets : sequence of int, default=(0, 1, 2, 4, 8, 16)
            Shots per class and language. With 0, the boundary of the source languages is used for a
            language that the gate does not know.
        n_draws : int, default=10
            Number of draws of shots.
        random_state : int, RandomState instance or None, default=None
            Determines the draws. Pass an int for the same shots at every call.
        {by}
        {tier}
        {budget_metric}
        {draws_interval}
        {ax}

        Returns
        -------
        display : BudgetCurveDisplay
            The drawn display.

        Raises
        ------
        ValueError
            If the pool has too few rows of a class in a language, or if a test language has one
            class only or is not in the pool.
        """
        sizes = _check_budgets(budgets, n_draws)
        _choose_metric(metric, list(_METRICS), interval)
        seeds = check_random_state(random_state).randint(np.iinfo(np.int32).max, size=n_draws)
        tables = {}
        for name, one in by_name(estimator).items():
            gate, X, language = open_gate(one, X_pool, language_pool)
            pool = _check_rows("pool", X, language, y_pool)
            _, X, language = open_gate(one, X_test, language_test)
            test = _check_rows("test", X, language, y_test)
            group_languages(test.language, by, tier)
            tables[name] = _sweep(gate, pool, test, sizes, seeds)
        return cls.from_predictions(
            tables, by=by, tier=tier, metric=metric, interval=interval, ax=ax
        )

    @classmethod
    @fill_docstring
    def from_predictions(
        cls,
        table: Any,
        *,
        by: str = "tier",
        tier: Mapping[str, str] | None = None,
        metric: str | None = None,
        interval: float = 80,
        ax: Any = None,
    ) -> BudgetCurveDisplay:
        """Draw scores by budget.

        Parameters
        ----------
        table : DataFrame, or mapping of str to DataFrame
            Columns ``budget``, ``f1`` or ``balanced_accuracy`` or both and, optionally, ``draw``
            and ``language``. For several gates, a mapping of name to table.
        {by}
        {tier}
        {budget_metric}
        {draws_interval}
        {ax}

        Returns
        -------
        display : BudgetCurveDisplay
            The drawn display.
        """
        display = cls(stack_tables(table))
        along = [name for name in ("budget", "draw") if name in display.frame_]
        keys = [name for name in ("model", "language", *along) if name in display.frame_]
        if "language" in keys and display.frame_.duplicated(keys).any():
            raise ValueError(
                f"Got several rows of the same {', '.join(keys)} in table, expected one, or a "
                "column 'draw' that numbers the draws of shots."
            )
        display.frame_ = average_groups(display.frame_, along, display._metrics, by, tier)
        return display.plot(ax, metric=metric, interval=interval)

    @fill_docstring
    def plot(
        self, ax: Any = None, *, metric: str | None = None, interval: float = 80
    ) -> BudgetCurveDisplay:
        """Draw the curves.

        Parameters
        ----------
        {ax}
        {budget_metric}
        {draws_interval}

        Returns
        -------
        display : BudgetCurveDisplay
            The display itself.
        """
        import seaborn as sns
        from matplotlib.lines import Line2D

        metric = _choose_metric(metric, self._metrics, interval)
        models, by = self._models, group_column(self.frame_)
        groups = [_ALL] if by is None else list(self.frame_[by].unique())
        looks = {
            "palette": sns.color_palette("colorblind", len(models)),
            "markers": [_MARKERS[i % len(_MARKERS)] for i in range(len(models))],
            "linestyles": [_DASHES[i % len(_DASHES)] for i in range(len(models))],
        }
        sizes: dict[str, Any] = {"linewidth": 1.5, "markersize": 5}
        columns = min(len(groups), 3)
        rows = -(-len(groups) // columns)
        axes = self._open(
            ax,
            len(groups),
            columns=columns,
            size=(min(3.3 * columns + 2.4, 9.0), 2.6 * rows + 1.1),
            sharex=True,
            sharey=True,
        )
        for panel, group in zip(axes, groups, strict=True):
            sns.pointplot(
                self.frame_ if by is None else self.frame_[self.frame_[by] == group],
                x="budget",
                y=metric,
                hue="model",
                order=sorted(self.frame_["budget"].unique()),
                hue_order=models,
                dodge=min(0.12 * (len(models) - 1), 0.5) or False,
                errorbar=("pi", interval),
                err_kws={"linewidth": 1.2},
                legend=False,
                ax=panel,
                **looks,
                **sizes,
            )
            panel.set(xlabel="", ylabel="")
            sns.despine(ax=panel)
        for panel in axes[::columns]:
            panel.set_ylabel(_METRICS[metric])
        for panel in axes[-columns:]:
            panel.set_xlabel("examples per class")
        names = [group_title(name) for name in groups]
        title = "How many examples does a language need?"
        self._entitle(title if len(names) > 1 else f"{title}\n({names[0]})", names)
        handles = [
            Line2D([], [], color=color, marker=marker, linestyle=dashes, label=model, **sizes)
            for model, color, marker, dashes in zip(models, *looks.values(), strict=True)
        ]
        if self.frame_.duplicated(["model", "budget", *([by] if by else [])]).any():
            label = f"middle {interval:g}% of draws"
            bar: dict[str, Any] = {"marker": "|", "markersize": 12, "linestyle": "none"}
            handles.append(Line2D([], [], color="black", label=label, **bar))
        self._explain(handles)
        return self


def _check_budgets(budgets: Any, n_draws: Any) -> list[int]:
    sizes = list(budgets) if isinstance(budgets, Sequence | np.ndarray) else []
    whole = all(isinstance(size, Integral) and int(size) >= 0 for size in sizes)
    if not sizes or not whole or len(set(sizes)) < len(sizes):
        raise ValueError(f"Got budgets={budgets!r}, expected distinct integers of 0 or more.")
    if not isinstance(n_draws, Integral) or int(n_draws) < 1:
        raise ValueError(f"Got n_draws={n_draws!r}, expected an integer of 1 or more.")
    return sorted(int(size) for size in sizes)


def _choose_metric(metric: str | None, known: list[str], interval: float) -> str:
    if not 0 < interval <= 100:
        raise ValueError(f"Got interval={interval!r}, expected a percentage up to 100.")
    metric = known[0] if metric is None else metric
    if metric not in known:
        raise ValueError(f"Got metric={metric!r}, expected one of {known}.")
    return metric


def _check_rows(part: str, X: Any, language: Any, y: ArrayLike) -> _Rows:
    """Check the pool or the test rows."""
    labels = one_per_row(f"y_{part}", y)
    if language is None:
        raise ValueError(f"Got language_{part}=None, expected the language of each row.")
    check_same_length({f"y_{part}": labels, f"X_{part}": language})
    return _Rows(X, labels, language)


def _sweep(
    gate: LatentGate, pool: _Rows, test: _Rows, budgets: list[int], seeds: npt.NDArray[Any]
) -> pd.DataFrame:
    """Score copies of a gate: one row per language, budget and draw."""
    languages = sorted(set(test.language))
    _check_test_labels(gate, test, languages)
    fresh = deepcopy(gate).set_params(unknown_language="source")
    has_learned = fresh.n_shots_.sum(axis=1) + fresh.n_unlabelled_ > 0
    fresh.forget([name for name in fresh.languages_[has_learned] if name in languages])
    rows = []
    for draw, seed in enumerate(seeds):
        order = _order_shots(gate, pool, languages, budgets[-1], seed)
        calibrated, taken = deepcopy(fresh), 0
        for budget in budgets:
            X, y, language = pool.take(order[:, taken:budget].ravel())
            if len(y) and gate.calibration is not None:
                with warnings.catch_warnings():  # a verdict on one of many draws
                    warnings.filterwarnings("ignore", ".*hardly differ", UserWarning)
                    calibrated.partial_fit(X, y, language=language)
            taken = budget
            called = _decide(calibrated, test) == gate.harmful_label_
            for name in languages:
                of_language = test.language == name
                harmful = test.y[of_language] == gate.harmful_label_
                measures = decision_measures(harmful, called[of_language])
                scores = {metric: measures[metric] for metric in _METRICS}
                rows.append({"language": name, "budget": budget, "draw": draw, **scores})
    return pd.DataFrame(rows)


def _check_test_labels(gate: LatentGate, test: _Rows, languages: list[str]) -> None:
    classes = gate.classes_.tolist()
    for name in languages:
        found = set(test.y[test.language == name].tolist())
        if found != set(classes):
            raise ValueError(
                f"Got the labels {sorted(found, key=repr)} in y_test of language {name!r}, "
                f"expected both of the gate's labels, {classes}."
            )


def _order_shots(
    gate: LatentGate, pool: _Rows, languages: list[str], n_shots: int, seed: int
) -> npt.NDArray[np.int64]:
    """Shuffle the rows of each language and class: shape (n_languages * 2, n_shots)."""
    rng = np.random.default_rng(seed)
    classes = sorted(gate.classes_.tolist(), key=lambda label: label == gate.harmful_label_)
    ordered = []
    for name in languages:
        for label in classes:
            rows = rng.permutation(np.flatnonzero((pool.language == name) & (pool.y == label)))
            if len(rows) < n_shots:
                raise ValueError(
                    f"Got {len(rows)} pool rows of label {label!r} in language {name!r}, expected "
                    f"at least {n_shots}, the largest of budgets."
                )
            ordered.append(rows[:n_shots])
    return np.stack(ordered)


def _decide(gate: LatentGate, test: _Rows) -> Labels:
    """Decide with a language's own boundary if the gate knows it, else with the source boundary."""
    known = np.isin(test.language.astype(str), gate.languages_.astype(str))
    decided = np.empty(len(known), dtype=gate.classes_.dtype)
    for is_known in (True, False):
        places = np.flatnonzero(known == is_known)
        if len(places):
            X, _, language = test.take(places)
            decided[places] = gate.predict(X, language=language if is_known else None)
    return decided
