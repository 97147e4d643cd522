"""ProjectionDisplay: scores of harmful and harmless prompts, and the decision boundaries."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping
from copy import copy
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from numpy.typing import ArrayLike

from skgate._base import find_stack_level, set_module
from skgate._docstrings import fill_docstring
from skgate._validation import check_language
from skgate.inspection._display import PanelDisplay, check_kinds
from skgate.inspection._estimators import OpenedGate, by_name, open_gate
from skgate.inspection._groups import group_column, group_languages
from skgate.inspection._style import DASHES, HARMFUL, HARMLESS, color, group_title
from skgate.metrics._checks import check_same_length, harmful_class, one_per_row

_SOURCE = "harm score of the source classifier (log-odds)"
_OWN = "harm score from the language's own boundary (log-odds)"
_ALL = "all prompts"


@set_module("skgate.inspection")
class ProjectionDisplay(PanelDisplay):
    """Display of the scores of harmful and harmless prompts, and of the decision boundaries.

    It shows why decisions fail in a language: its prompts lie on one side of the boundary. Each
    gate has a column of panels, one for each tier or language. A panel shows the densities of the
    scores of harmful and of harmless prompts, the boundary of the source languages and, dashed, the
    boundaries of calibrated languages. It is recommended to use :meth:`from_estimator` or
    :meth:`from_predictions`.

    Parameters
    ----------
    frame : DataFrame
        One row per prompt: columns ``model`` (if several), ``tier`` or ``language`` or both (then
        there is a panel for each tier), ``prompts`` ("harmful" or "harmless") and ``score``. To
        draw boundaries: ``threshold`` (of the prompt's language) and ``source_threshold``, NaN for
        no boundary.
    score_name : str, default="harm score"
        The label of the axis.

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

    Notes
    -----
    The axis is the score of the pooled source classifier: ``X @ coef_.T + intercept_``, with the
    sign that makes it larger for more harmful prompts. On this axis, the boundary of the source
    languages is 0. Calibration shifts that score for a language (and may scale it by a positive
    factor). So the language has an exact boundary on the same axis: where its own ``harm_score`` is
    0. On the raw projection on ``direction_``, this would hold for gates of rank 1 only. With
    ``calibration="refit"``, and from four shots of each class on, a language has other coefficients
    and no such point. Then use ``score="own"``, which shows each prompt's score from its language's
    own boundary.

    Densities are Gaussian kernel estimates (Scott's rule), each of area 1.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import numpy as np
    >>> from skgate import LatentGate
    >>> from skgate.inspection import ProjectionDisplay
    >>> rng = np.random.default_rng(0)
    >>> y = np.tile([0, 1], 100)
    >>> language = np.repeat(["en", "yo"], 100)
    >>> X = rng.normal(size=(200, 8)) + 4 * y[:, None] - 3 * (language == "yo")[:, None]
    >>> gate = LatentGate(rank=1, C=1.0).fit(X[:100], y[:100], language="en")
    >>> gate.partial_fit(X[100:108], y[100:108], language="yo").languages_
    array(['en', 'yo'], dtype=object)
    >>> display = ProjectionDisplay.from_estimator(gate, X, y, language=language)
    >>> display.frame_.groupby("language")[["threshold", "source_threshold"]].first().round(1)
              threshold  source_threshold
    language
    en             -0.1               0.0
    yo             -5.0               0.0
    >>> plt.close(display.figure_)
    """

    _columns: ClassVar = ("prompts", "score")

    def __init__(self, frame: pd.DataFrame, *, score_name: str = "harm score") -> None:
        super().__init__(frame)
        check_kinds(self.frame_)
        self.score_name = score_name

    @classmethod
    @fill_docstring
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        *,
        language: Any = None,
        score: str = "source",
        by: str = "tier",
        tier: Mapping[str, str] | None = None,
        ax: Any = None,
    ) -> ProjectionDisplay:
        """Score prompts with gates and draw the densities of the scores.

        Parameters
        ----------
        estimator : LatentGate, Pipeline, SteeringWrapper, mapping of str to such, or list of them
            Fitted gates, alone, at the end of a Pipeline, or in a wrapper.
        X : array-like of length n_prompts
            Activations for a gate alone, prompts for the others.
        y : array-like of shape (n_prompts,)
            True labels.
        language : str or array-like of str of shape (n_prompts,), default=None
            Languages of the prompts, one for all or one each, unless they are a column of ``X``.
            Without languages, there is one panel, and no language has a boundary.
        score : {"source", "own"}, default="source"
            The axis. "source" is the score of the source classifier, the same for every language.
            "own" is the score from the language's own boundary, which is then 0.
        by : {"tier", "language"}, default="tier"
            Whether there is a panel for each tier or for each language.
        {tier}
        {ax}

        Returns
        -------
        display : ProjectionDisplay
            The drawn display.

        Raises
        ------
        ValueError
            If ``score="own"`` and no language is given, or if ``X`` holds other activations than
            the gate was fitted on.

        Warns
        -----
        UserWarning
            If a language's boundary is not a point on the axis, as with ``calibration="refit"`` or
            four shots of each class.
            This boundary is not drawn.
        """
        if score not in ("source", "own"):
            raise ValueError(f"Got score={score!r}, expected 'source' or 'own'.")
        frames = []
        for name, one in by_name(estimator).items():
            opened = open_gate(one, X, language)
            gate, languages = opened.gate, opened.language
            source = copy(gate).set_params(unknown_language="source").harm_score(opened.X)
            if score == "own":
                if languages is None:
                    raise ValueError(
                        "Got score='own' without language, expected the language of each row."
                    )
                scores = gate.harm_score(opened.X, languages)
                thresholds = dict.fromkeys(set(languages) & set(gate.languages_), 0.0)
            else:
                scores = source
                thresholds = _find_thresholds(opened, source)
            frames.append(
                _tabulate(name, y, scores, languages, thresholds, by, tier, gate.harmful_label_)
            )
        frame = pd.concat(frames, ignore_index=True)
        frame["source_threshold"] = 0.0 if score == "source" else np.nan
        return cls(frame, score_name=_SOURCE if score == "source" else _OWN).plot(ax)

    @classmethod
    @fill_docstring
    def from_predictions(
        cls,
        y_true: ArrayLike,
        y_score: Any,
        *,
        language: ArrayLike | None = None,
        threshold: Mapping[str, float] | None = None,
        source_threshold: float | None = 0.0,
        score_name: str = "harm score",
        by: str = "tier",
        tier: Mapping[str, str] | None = None,
        pos_label: Hashable | None = None,
        ax: Any = None,
    ) -> ProjectionDisplay:
        """Draw the densities of scores.

        Parameters
        ----------
        y_true : array-like of shape (n_prompts,)
            True labels.
        y_score : array-like of shape (n_prompts,), or mapping of str to such
            Scores, larger for more harmful. For several gates, a mapping of name to scores.
        language : array-like of str of shape (n_prompts,) or None, default=None
            Languages of the prompts. Without languages, there is one panel.
        threshold : mapping of str to float or None, default=None
            The boundary of each calibrated language, in the scores' unit. For several gates, one
            mapping for all, or a mapping of name to such mappings.
        source_threshold : float or None, default=0.0
            The boundary of the source languages.
        score_name : str, default="harm score"
            The label of the axis.
        by : {"tier", "language"}, default="tier"
            Whether there is a panel for each tier or for each language.
        {tier}
        {pos_label}
        {ax}

        Returns
        -------
        display : ProjectionDisplay
            The drawn display.
        """
        scores = by_name(y_score if isinstance(y_score, Mapping) else {"model": y_score}, "y_score")
        languages = None
        if language is not None:
            languages = check_language(language, len(one_per_row("y_true", y_true)))
        thresholds = _thresholds_by_model(threshold, list(scores), languages)
        frames = [
            _tabulate(name, y_true, values, languages, thresholds[name], by, tier, pos_label)
            for name, values in scores.items()
        ]
        frame = pd.concat(frames, ignore_index=True)
        frame["source_threshold"] = np.nan if source_threshold is None else float(source_threshold)
        return cls(frame, score_name=score_name).plot(ax)

    @fill_docstring
    def plot(self, ax: Any = None) -> ProjectionDisplay:
        """Draw densities and boundaries.

        Parameters
        ----------
        {ax}

        Returns
        -------
        display : ProjectionDisplay
            The display itself.
        """
        import seaborn as sns
        from matplotlib.lines import Line2D
        from matplotlib.patches import Patch

        models, by = self._models, group_column(self.frame_)
        groups = [_ALL] if by is None else list(self.frame_[by].unique())
        height = 1.5 if len(groups) <= 4 else 0.75
        axes = self._open(
            ax,
            len(models) * len(groups),
            columns=len(models),
            size=(
                6.0 if len(models) == 1 else min(4.5 * len(models), 9.0),
                height * len(groups) + 1.4,
            ),
            sharex="col",
        )
        drawn = set()
        cells = [(group, model) for group in groups for model in models]
        for panel, (group, model) in zip(axes, cells, strict=True):
            rows = self._of(model)
            rows = rows if by is None else rows[rows[by] == group]
            for kind in (HARMFUL, HARMLESS):
                sns.kdeplot(
                    rows[rows["prompts"] == kind],
                    x="score",
                    color=color(kind),
                    fill=True,
                    alpha=0.3,
                    linewidth=1.5,
                    linestyle=DASHES[kind],
                    warn_singular=False,
                    ax=panel,
                )
            for column, style in _BOUNDARIES.items():
                for at in rows[column].dropna().unique() if column in rows else ():
                    panel.axvline(at, **style, color=_boundary_color(column))
                    drawn.add(column)
            panel.set(xlabel="", ylabel="", yticks=[])
            if model == models[0]:
                panel.set_ylabel(group_title(group), rotation=0, ha="right", va="center")
            sns.despine(ax=panel, left=True)
        for panel in axes[-len(models) :]:
            panel.set_xlabel(self.score_name)
        self._entitle("Where do harmful and harmless prompts lie?", models)
        kinds = [
            Patch(
                facecolor=(*color(kind), 0.3),
                edgecolor=color(kind),
                linestyle=DASHES[kind],
                linewidth=1.5,
                label=f"{kind} prompts (density)",
            )
            for kind in (HARMFUL, HARMLESS)
        ]
        lines = [
            Line2D([], [], **style, color=_boundary_color(column), label=_LABELS[column])
            for column, style in _BOUNDARIES.items()
            if column in drawn
        ]
        self._explain([*kinds, *lines])
        return self


_BOUNDARIES: dict[str, dict[str, Any]] = {
    "source_threshold": {"linestyle": "-", "linewidth": 1.8},
    "threshold": {"linestyle": (0, (4, 1.5, 1, 1.5)), "linewidth": 1.4},
}
_LABELS = {
    "source_threshold": "boundary of the source languages",
    "threshold": "a language's own boundary",
}


def _boundary_color(column: str) -> Any:
    return color("own") if column == "threshold" else "black"


def _find_thresholds(opened: OpenedGate, source: npt.NDArray[np.float64]) -> dict[str, float]:
    """Find the source score at which each calibrated language's own score is 0."""
    gate, X, languages = opened
    if languages is None or np.ptp(source) == 0:
        return {}
    thresholds, nowhere = {}, []
    for name in sorted(set(languages) & set(gate.languages_)):
        own = gate.harm_score(X, language=name)
        slope, intercept = np.polyfit(source, own, 1)
        strays = np.abs(own - (slope * source + intercept)).max() > 1e-6 * np.ptp(own)
        if strays or slope <= 0:
            nowhere.append(name)
        else:
            thresholds[name] = -intercept / slope
    if nowhere:
        warnings.warn(
            f"The boundaries of {nowhere} are not drawn: with calibration={gate.calibration!r}, "
            "their shots changed the probe itself, so a boundary is not a point on this axis. Use "
            "score='own' to see the prompts from their own boundary.",
            UserWarning,
            stacklevel=find_stack_level(),
        )
    return thresholds


def _thresholds_by_model(
    threshold: Mapping[str, Any] | None, models: list[str], languages: npt.NDArray[Any] | None
) -> dict[str, Mapping[str, float]]:
    """Return the boundaries of each model's languages."""
    if threshold is None:
        return {name: {} for name in models}
    if languages is None:
        raise ValueError("Got threshold without language, expected the language of each prompt.")
    found = dict.fromkeys(models, threshold)
    if any(isinstance(one, Mapping) for one in threshold.values()):
        named = {str(name): one for name, one in threshold.items()}
        unknown = sorted(set(named) - set(models))
        if unknown:
            raise ValueError(f"Got threshold of {unknown}, expected thresholds of {models}.")
        found = {name: named.get(name, {}) for name in models}
    unused = sorted({name for one in found.values() for name in one} - set(languages))
    if unused:
        warnings.warn(
            f"Got threshold of {unused}, but the prompts are in {sorted(set(languages))}: these "
            "boundaries are not drawn.",
            UserWarning,
            stacklevel=find_stack_level(),
        )
    return found


def _tabulate(
    model: str,
    y: ArrayLike,
    scores: Any,
    languages: npt.NDArray[Any] | None,
    thresholds: Mapping[str, float],
    by: str,
    tier: Mapping[str, str] | None,
    pos_label: Hashable | None,
) -> pd.DataFrame:
    """Make a gate's table, in the order in which it is drawn."""
    columns: dict[str, Any] = {
        "y_true": one_per_row("y_true", y),
        "y_score": one_per_row("y_score", scores).astype(float),
    }
    check_same_length(columns)
    harmful = columns["y_true"] == harmful_class("y_true", columns["y_true"].tolist(), pos_label)
    frame = pd.DataFrame(
        {"prompts": np.where(harmful, HARMFUL, HARMLESS), "score": columns["y_score"]}
    )
    frame["threshold"] = np.nan
    if languages is not None:
        groups = group_languages(languages, by, tier)
        frame["threshold"] = [thresholds.get(name, np.nan) for name in languages]
        frame.insert(0, "language", languages)
        frame["place"] = frame["language"].map({name: i for i, name in enumerate(groups)})
        frame = frame.sort_values("place", kind="stable").drop(columns="place")
        if by == "tier":
            frame.insert(0, "tier", frame["language"].map(groups))
    frame.insert(0, "model", model)
    return frame
