"""ProjectionDisplay: where harmful and harmless prompts lie, and where the boundaries are."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from numpy.typing import ArrayLike

from skgate._validation import check_language
from skgate.gate._latent_gate import LatentGate
from skgate.inspection._display import PanelDisplay, check_kinds
from skgate.inspection._estimators import OpenedGate, by_name, open_gate
from skgate.inspection._groups import group_column, group_languages
from skgate.inspection._style import DASHES, HARMFUL, HARMLESS, color, group_title
from skgate.metrics._checks import check_same_length, harmful_class, one_per_row

_SOURCE = "harm score of the source readout (log-odds)"
_OWN = "harm score from the language's own boundary (log-odds)"
_ALL = "all prompts"


class ProjectionDisplay(PanelDisplay):
    """Why a decision fails: how harmful and harmless prompts lie to the decision boundaries.

    A column of panels for each gate, a panel for each tier or language: densities of the
    scores of harmful and of harmless prompts, the boundary of the source languages and, dashed,
    the boundaries of calibrated languages. It is recommended to use :meth:`from_estimator` or
    :meth:`from_predictions`.

    Parameters
    ----------
    frame : DataFrame
        A row per prompt: columns ``model`` (if several), ``tier`` or ``language`` or both (then
        panels are tiers), ``prompts`` ("harmful" or "harmless"), ``score``, and, if there are
        boundaries to draw, ``threshold`` (that of the prompt's language) and ``source_threshold``,
        NaN where there is none.
    score_name : str, default="harm score"
        What the scores are, for the axis.

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
    The axis is the score of the pooled source's readout, ``X @ coef_.T + intercept_`` towards
    harmful, on which the sources' boundary is 0. A language that is calibrated by a shift (and a
    positive scale) of that score has an exact boundary on the same axis: where its own
    ``harm_score`` crosses 0. (On the raw projection on ``direction_`` that would hold for gates of
    rank 1 alone.) With ``calibration="refit"`` a language has other coefficients and no such point;
    there, ``score="own"`` shows each prompt's score from its language's own boundary.

    Densities are Gaussian kernel estimates (Scott's rule), each of area 1, whatever the number of
    prompts.

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
    >>> gate = LatentGate().fit(X[:100], y[:100], language="en")
    >>> gate.partial_fit(X[100:108], y[100:108], language="yo").languages_
    array(['en', 'yo'], dtype=object)
    >>> display = ProjectionDisplay.from_estimator(gate, X, y, language=language)
    >>> list(display.frame_)
    ['model', 'tier', 'language', 'prompts', 'score', 'threshold', 'source_threshold']
    >>> bool(display.frame_["threshold"].min() < display.frame_["source_threshold"].min() == 0)
    True
    >>> plt.close(display.figure_)
    """

    _columns: ClassVar = ("prompts", "score")

    def __init__(self, frame: pd.DataFrame, *, score_name: str = "harm score") -> None:
        super().__init__(frame)
        check_kinds(self.frame_)
        self.score_name = score_name

    @classmethod
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
        """Score prompts with a gate and draw where they lie.

        Parameters
        ----------
        estimator : LatentGate, Pipeline, SteeringWrapper, mapping of str to such, or list of them
            Fitted gates, alone, at the end of a Pipeline, or in a wrapper.
        X : array-like of length n_prompts
            What the estimator predicts from: activations for a gate, prompts for the others.
        y : array-like of shape (n_prompts,)
            True labels.
        language : str or array-like of str of shape (n_prompts,), default=None
            Languages of the prompts, unless they are a column of ``X``. None: one panel, without
            boundaries of languages.
        score : {"source", "own"}, default="source"
            The axis: the score of the source readout, the same for every language, or the score
            from the language's own boundary, which is then 0.
        by : {"tier", "language"}, default="tier"
            What a panel is.
        tier : mapping of str to str or None, default=None
            The tier of each language; None is the paper's, for ISO 639-1 codes.
        ax : matplotlib Axes, array of them or None, default=None
            Where to draw; one Axes is divided if there are several panels. None: a new figure.

        Returns
        -------
        display : ProjectionDisplay
            The drawn display.

        Raises
        ------
        ValueError
            If ``score="own"`` and no language is given, or ``X`` is not what the gate reads.

        Warns
        -----
        UserWarning
            If a language's boundary is no point on the axis, as with ``calibration="refit"``, and
            so is not drawn.
        """
        if score not in ("source", "own"):
            raise ValueError(f"Got score={score!r} but expected 'source' or 'own'.")
        frames = []
        for name, one in by_name(estimator).items():
            opened = open_gate(one, X, language)
            gate, languages = opened.gate, opened.language
            source = _source_score(gate, opened.X)
            if score == "own":
                if languages is None:
                    raise ValueError("Got score='own' but no language: expected that of each row.")
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
        """Draw where scores lie.

        Parameters
        ----------
        y_true : array-like of shape (n_prompts,)
            True labels.
        y_score : array-like of shape (n_prompts,), or mapping of str to such
            Scores, larger for more harmful; of several gates by name.
        language : array-like of str of shape (n_prompts,) or None, default=None
            Languages of the prompts. None: one panel.
        threshold : mapping of str to float or None, default=None
            The boundary of each calibrated language, in the scores' unit; for several gates, one
            such mapping for all, or a mapping of name to such mappings.
        source_threshold : float or None, default=0.0
            The boundary of the source languages.
        score_name : str, default="harm score"
            What the scores are, for the axis.
        by : {"tier", "language"}, default="tier"
            What a panel is.
        tier : mapping of str to str or None, default=None
            The tier of each language; None is the paper's, for ISO 639-1 codes.
        pos_label : label or None, default=None
            The harmful class. None: "harmful", 1 or True if among the labels, else the second of
            the two in sorted order (with a warning, if they are texts).
        ax : matplotlib Axes, array of them or None, default=None
            Where to draw; one Axes is divided if there are several panels. None: a new figure.

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

    def plot(self, ax: Any = None) -> ProjectionDisplay:
        """Draw densities and boundaries.

        Parameters
        ----------
        ax : matplotlib Axes, array of them or None, default=None
            Where to draw; one Axes is divided if there are several panels. None: a new figure.

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


def _source_score(gate: LatentGate, X: Any) -> npt.NDArray[np.float64]:
    """Score of the pooled source's readout, towards harmful."""
    sign = 1 if gate.classes_[1] == gate.harmful_label_ else -1
    rows = gate._check_unlabelled(X)
    scores: npt.NDArray[np.float64] = sign * (rows @ gate.coef_[0] + gate.intercept_[0])
    return scores


def _find_thresholds(opened: OpenedGate, source: npt.NDArray[np.float64]) -> dict[str, float]:
    """Where on the source's score the own score of each calibrated language crosses 0."""
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
            f"The own scores of {nowhere} are no shift and scale of the source's "
            f"(calibration={gate.calibration!r}): their boundaries are no point on this axis and "
            "not drawn. score='own' shows the prompts from their language's own boundary.",
            UserWarning,
            stacklevel=3,
        )
    return thresholds


def _thresholds_by_model(
    threshold: Mapping[str, Any] | None, models: list[str], languages: npt.NDArray[Any] | None
) -> dict[str, Mapping[str, float]]:
    """Give each model its boundaries."""
    if threshold is None:
        return {name: {} for name in models}
    if languages is None:
        raise ValueError("Got threshold without language: expected the language of each prompt.")
    found = dict.fromkeys(models, threshold)
    if any(isinstance(one, Mapping) for one in threshold.values()):
        named = {str(name): one for name, one in threshold.items()}
        unknown = sorted(set(named) - set(models))
        if unknown:
            raise ValueError(f"Got threshold of {unknown} but expected that of {models}.")
        found = {name: named.get(name, {}) for name in models}
    unused = sorted({name for one in found.values() for name in one} - set(languages))
    if unused:
        warnings.warn(
            f"No prompt is in {unused} of threshold; there are {sorted(set(languages))}.",
            UserWarning,
            stacklevel=3,
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
    """Make the rows of a gate, sorted as they are drawn."""
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
