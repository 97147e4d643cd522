"""SeparabilityDisplay: how well the harm direction tells harmful from harmless."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline

from skgate._validation import check_language, check_prompts
from skgate.gate._subspace import harm_direction
from skgate.inspection._display import PanelDisplay
from skgate.inspection._estimators import by_name
from skgate.inspection._groups import group_languages
from skgate.inspection._style import HARMFUL, color
from skgate.metrics._checks import (
    check_same_length,
    harmful_class,
    one_bool_per_row,
    one_per_row,
)

if TYPE_CHECKING:
    from skgate.activations._transformer import ActivationTransformer

Floats = npt.NDArray[np.float64]

_TOLD_IN_CELLS = 12  # columns whose cells have room for a number


class SeparabilityDisplay(PanelDisplay):
    """Is the harm signal there: AUC of the harm direction, by language and layer or model.

    A row of cells for each language, a column for each layer, or for each model where all have a
    single layer; several models with several layers have a panel each. Cells of languages in which
    the model refuses few harmful prompts are outlined: a high AUC there is a signal that the model
    has and does not act on. It is recommended to use :meth:`from_estimator` or
    :meth:`from_predictions`.

    Parameters
    ----------
    frame : DataFrame
        A row per cell: columns ``model`` (if several), ``layer``, ``language``, ``roc_auc`` and
        perhaps ``weak`` (bool), for cells to outline.
    weak_below : float, default=0.5
        Below which share of harmful prompts refused ``weak`` was said; for the legend.

    Attributes
    ----------
    frame_ : DataFrame
        The numbers behind the picture: the columns of ``frame``, and, if the display was made from
        an estimator or predictions, ``harmful_refused`` (the share of harmful prompts refused, NaN
        if not known) and ``n`` (the number of prompts).
    ax_ : matplotlib Axes
        The first panel.
    axes_ : ndarray of matplotlib Axes
        All panels.
    figure_ : matplotlib Figure
        The figure.

    Notes
    -----
    The direction is the unit vector from the mean of all harmless to the mean of all harmful train
    rows of the source languages [1]_, at each layer; the AUC is that of the test rows' projections
    on it, within a language, so that no boundary plays a part.

    References
    ----------
    .. [1] Aziz, Hanif, Koto, "Low-Resource Safety Failures Are Action Failures, Not
       Representation Failures", arXiv:2606.01196, 2026.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from skgate.inspection import SeparabilityDisplay
    >>> display = SeparabilityDisplay.from_predictions(
    ...     y_true=[1, 1, 0, 0] * 2,
    ...     y_score=[[0, 4], [1, 3], [0, 1], [2, 0], [2, 3], [0, 4], [1, 3], [1, 2]],
    ...     layer=[7, 14],
    ...     language=["en"] * 4 + ["yo"] * 4,
    ...     refused=[1, 1, 0, 0, 0, 0, 0, 0],
    ... )
    >>> display.frame_[["layer", "language", "roc_auc", "harmful_refused", "weak"]]
       layer language  roc_auc  harmful_refused   weak
    0      7       en    0.375              1.0  False
    1      7       yo    0.500              0.0   True
    2     14       en    1.000              1.0  False
    3     14       yo    0.875              0.0   True
    >>> plt.close(display.figure_)
    """

    _columns: ClassVar = ("layer", "language", "roc_auc")

    def __init__(self, frame: pd.DataFrame, *, weak_below: float = 0.5) -> None:
        super().__init__(frame)
        self.weak_below = weak_below

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X_train: Any,
        y_train: ArrayLike,
        X_test: Any,
        y_test: ArrayLike,
        *,
        language_train: Any = None,
        language_test: Any,
        source_languages: Sequence[str] | None = None,
        refused: Any = None,
        weak_below: float = 0.5,
        tier: Mapping[str, str] | None = None,
        pos_label: Hashable | None = None,
        ax: Any = None,
    ) -> SeparabilityDisplay:
        """Learn the harm direction from train prompts, and measure it on test prompts.

        Parameters
        ----------
        estimator : ActivationTransformer, Pipeline, mapping of str to such, or list of them
            Reads the activations: a transformer of one layer or several, or a Pipeline that begins
            with one, of which nothing else is used.
        X_train : list, Series or array of length n_train
            Prompts to learn each layer's direction from.
        y_train : array-like of shape (n_train,)
            Their labels.
        X_test : list, Series or array of length n_test
            Prompts to measure, none of them among the train prompts.
        y_test : array-like of shape (n_test,)
            Their labels.
        language_train : str or array-like of str of shape (n_train,), default=None
            Languages of the train prompts.
        language_test : str or array-like of str of shape (n_test,)
            Languages of the test prompts.
        source_languages : list of str or None, default=None
            The languages among the train prompts that the direction is learned from; None: all.
        refused : array-like of bool of shape (n_test,), mapping of str to such, or None, \
                default=None
            Whether the unsteered model refused each test prompt; several models' by name. With it,
            weakly refusing languages are outlined.
        weak_below : float, default=0.5
            The share of harmful prompts refused below which a language is weakly refusing.
        tier : mapping of str to str or None, default=None
            The tier of each language, to order them; None is the paper's.
        pos_label : label or None, default=None
            The harmful class. None: "harmful", 1 or True if among the labels, else the second of
            the two in sorted order (with a warning, if they are texts).
        ax : matplotlib Axes, array of them or None, default=None
            Where to draw; one Axes is divided if there are several panels. None: a new figure.

        Returns
        -------
        display : SeparabilityDisplay
            The drawn display.

        Raises
        ------
        ValueError
            If the source languages' train prompts are of one class, or lengths differ.

        Warns
        -----
        UserWarning
            If test prompts are among those that the direction is learned from.
        """
        train, test = check_prompts(X_train, "X_train"), check_prompts(X_test, "X_test")
        labels = one_per_row("y_train", y_train)
        check_same_length({"X_train": train, "y_train": labels})
        check_same_length({"X_test": test, "y_test": one_per_row("y_test", y_test)})
        check_language(language_test, len(test), "language_test")
        _check_share(weak_below)
        is_source = _find_sources(language_train, source_languages, len(train))
        train = [train[i] for i in np.flatnonzero(is_source)]
        harmful = labels == harmful_class("y_train", labels.tolist(), pos_label)
        _warn_of_overlap(train, test)
        scores, layers = {}, {}
        for name, one in by_name(estimator).items():
            reader = _find_reader(one)
            layers[name] = list(reader.activation_source().layer)
            columns = [
                _project(rows, harmful[is_source], new)
                for rows, new in zip(
                    np.split(reader.transform(train), len(layers[name]), axis=1),
                    np.split(reader.transform(test), len(layers[name]), axis=1),
                    strict=True,
                )
            ]
            scores[name] = np.column_stack(columns)
        if refused is not None and not isinstance(refused, Mapping):
            refused = dict.fromkeys(scores, refused)
        return cls.from_predictions(
            y_test,
            scores,
            layer=layers,
            language=language_test,
            refused=refused,
            weak_below=weak_below,
            tier=tier,
            pos_label=pos_label,
            ax=ax,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        y_score: Any,
        *,
        layer: Any = None,
        language: Any,
        refused: Any = None,
        weak_below: float = 0.5,
        tier: Mapping[str, str] | None = None,
        pos_label: Hashable | None = None,
        ax: Any = None,
    ) -> SeparabilityDisplay:
        """Draw how well scores tell harmful from harmless.

        Parameters
        ----------
        y_true : array-like of shape (n_prompts,)
            True labels.
        y_score : array-like of shape (n_prompts,) or (n_prompts, n_layers), or mapping of str to \
                such
            Scores, larger for more harmful; several models' by name.
        layer : list of int or None, default=None
            The layer of each column of ``y_score``; for several models, perhaps a mapping. None:
            numbered from 0.
        language : str or array-like of str of shape (n_prompts,)
            Languages of the prompts.
        refused : array-like of bool of shape (n_prompts,), mapping of str to such, or None, \
                default=None
            Whether the unsteered model refused each prompt; several models' by name. With it,
            weakly refusing languages are outlined.
        weak_below : float, default=0.5
            The share of harmful prompts refused below which a language is weakly refusing.
        tier : mapping of str to str or None, default=None
            The tier of each language, to order them; None is the paper's.
        pos_label : label or None, default=None
            The harmful class. None: "harmful", 1 or True if among the labels, else the second of
            the two in sorted order (with a warning, if they are texts).
        ax : matplotlib Axes, array of them or None, default=None
            Where to draw; one Axes is divided if there are several panels. None: a new figure.

        Returns
        -------
        display : SeparabilityDisplay
            The drawn display.
        """
        _check_share(weak_below)
        labels = one_per_row("y_true", y_true)
        harmful = labels == harmful_class("y_true", labels.tolist(), pos_label)
        languages = check_language(language, len(labels))
        order = group_languages(languages, "language", tier)
        scores = by_name(y_score if isinstance(y_score, Mapping) else {"model": y_score}, "y_score")
        flags = _per_model(refused, scores, "refused")
        names = _per_model(layer, scores, "layer")
        rows = []
        for model, values in scores.items():
            table = _check_scores(values, names[model], len(labels))
            refusals = None
            if flags[model] is not None:
                refusals = one_bool_per_row("refused", flags[model])
                check_same_length({"y_true": labels, "refused": refusals})
            for number, column in table:
                for name in order:
                    of_language = languages == name
                    rate = _share(refusals, of_language & harmful)
                    rows.append(
                        {
                            "model": model,
                            "layer": number,
                            "language": name,
                            "roc_auc": _auc(harmful[of_language], column[of_language]),
                            "harmful_refused": rate,
                            "weak": rate < weak_below,
                            "n": int(of_language.sum()),
                        }
                    )
        return cls(pd.DataFrame(rows), weak_below=weak_below).plot(ax)

    def plot(self, ax: Any = None) -> SeparabilityDisplay:
        """Draw the cells.

        Parameters
        ----------
        ax : matplotlib Axes, array of them or None, default=None
            Where to draw; one Axes is divided if there are several panels. None: a new figure.

        Returns
        -------
        display : SeparabilityDisplay
            The display itself.
        """
        import seaborn as sns
        from matplotlib.patches import Patch, Rectangle

        frame = self.frame_
        if "weak" not in frame:
            frame = frame.assign(weak=False)
        models, languages = self._models, list(frame["language"].unique())
        layered = frame.groupby("model")["layer"].nunique().max() > 1
        across = "layer" if layered or len(models) == 1 else "model"
        panels = models if across == "layer" else [""]
        n_columns = int(frame.groupby("model")[across].nunique().max())
        if across == "model":
            n_columns = len(models)
        width = min(len(panels) * (0.5 * n_columns + 1.2) + 1.5, 9.0)
        axes = self._open(
            ax,
            len(panels),
            columns=len(panels),
            size=(max(width, 4.5), 0.3 * len(languages) + 1.8),
            sharey=True,
        )
        edge = color(HARMFUL)
        for panel, model in zip(axes, panels, strict=True):
            rows = frame if across == "model" else frame[frame["model"] == model]
            order = list(rows[across].unique())
            cells, weak = (
                rows.pivot(index="language", columns=across, values=values).loc[languages, order]
                for values in ("roc_auc", "weak")
            )
            sns.heatmap(
                cells,
                vmin=0.5,
                vmax=1,
                cmap="Blues",
                annot=len(order) * len(panels) <= _TOLD_IN_CELLS,
                fmt=".2f",
                annot_kws={"fontsize": 8},
                linewidths=1,
                cbar=panel is axes[-1],
                cbar_kws={"label": "AUC (0.5: chance, 1: perfect)", "extend": "min"},
                ax=panel,
            )
            for row, column in np.argwhere(weak.to_numpy(dtype=bool)):
                outline = Rectangle(
                    (column + 0.04, row + 0.06),
                    0.92,
                    0.88,
                    fill=False,
                    edgecolor=edge,
                    linewidth=1.8,
                )
                panel.add_patch(outline)
            panel.set(xlabel="layer (block, from 0)" if across == "layer" else "", ylabel="")
            panel.tick_params(axis="y", rotation=0, labelleft=panel is axes[0])
        axes[0].set_ylabel("language of the prompts")
        self._entitle("How well does the harm direction\ntell harmful from harmless?", panels)
        if frame["weak"].any():
            label = f"the model refuses less than {self.weak_below:.0%} of harmful prompts"
            self._explain([Patch(fill=False, edgecolor=edge, linewidth=1.8, label=label)])
        return self


def _find_reader(estimator: Any) -> ActivationTransformer:
    """Find what reads the activations."""
    from skgate.activations._transformer import ActivationTransformer

    reader = estimator.steps[0][1] if isinstance(estimator, Pipeline) else estimator
    if not isinstance(reader, ActivationTransformer):
        raise TypeError(
            f"Got an estimator of type {type(estimator).__name__} but expected an "
            "ActivationTransformer, or a Pipeline that begins with one."
        )
    return reader


def _find_sources(
    language: Any, source_languages: Sequence[str] | None, n_rows: int
) -> npt.NDArray[np.bool_]:
    """Which train rows the direction is learned from."""
    if source_languages is None:
        return np.ones(n_rows, dtype=bool)
    wanted = check_language(source_languages, len(source_languages), "source_languages")
    if language is None:
        raise ValueError(
            f"Got source_languages={list(source_languages)} without language_train, but expected "
            "the language of every train prompt."
        )
    languages = check_language(language, n_rows, "language_train")
    missing = sorted(set(wanted) - set(languages))
    if missing:
        raise ValueError(
            f"Got no train prompts in {missing} of source_languages, but expected some in each."
        )
    found: npt.NDArray[np.bool_] = np.isin(languages.astype(str), wanted.astype(str))
    return found


def _check_share(weak_below: float) -> None:
    if not 0 <= weak_below <= 1:
        raise ValueError(f"Got weak_below={weak_below!r} but expected a share from 0 to 1.")


def _warn_of_overlap(train: list[Any], test: list[Any]) -> None:
    known = {repr(prompt) for prompt in train}
    n_known = sum(repr(prompt) in known for prompt in test)
    if n_known:
        warnings.warn(
            f"{n_known} of {len(test)} test prompts are among those that the direction is learned "
            "from: their AUC is too good.",
            UserWarning,
            stacklevel=3,
        )


def _project(rows: Any, harmful: npt.NDArray[np.bool_], new: Any) -> Floats:
    """Project new rows on the harm direction of labelled ones."""
    rows = np.asarray(rows, dtype=np.float64)
    direction = harm_direction(rows, harmful, np.ones(len(rows)))
    if direction is None:
        raise ValueError(
            "The train prompts of the source languages are of one class in y_train, or have equal "
            "means; expected harmful and harmless ones whose activations differ."
        )
    projections: Floats = np.asarray(new, dtype=np.float64) @ direction
    return projections


def _per_model(values: Any, models: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Give each model its part of an argument that may be one for all."""
    if not isinstance(values, Mapping):
        return dict.fromkeys(models, values)
    missing = sorted(set(models) - {str(key) for key in values})
    if missing:
        raise ValueError(f"Got no {name} of {missing} but expected that of each model.")
    return {str(key): value for key, value in values.items()}


def _check_scores(values: Any, layer: Any, n_rows: int) -> Iterator[tuple[Any, Floats]]:
    """Take scores apart into layers."""
    table = np.asarray(values, dtype=np.float64)
    table = table[:, np.newaxis] if table.ndim == 1 else table
    if table.ndim != 2 or len(table) != n_rows or not np.isfinite(table).all():
        raise ValueError(
            f"Got y_score of shape {np.shape(values)} but expected ({n_rows},) or ({n_rows}, "
            "n_layers), all finite."
        )
    layers = list(range(table.shape[1]) if layer is None else np.atleast_1d(layer).tolist())
    if len(layers) != table.shape[1] or len(set(layers)) < len(layers):
        raise ValueError(
            f"Got layer={layers} but expected {table.shape[1]} different ones, one per column of "
            "y_score."
        )
    return zip(layers, table.T, strict=True)


def _auc(harmful: npt.NDArray[np.bool_], scores: Floats) -> float:
    return float(roc_auc_score(harmful, scores)) if len(set(harmful)) == 2 else np.nan


def _share(flags: npt.NDArray[np.bool_] | None, rows: npt.NDArray[np.bool_]) -> float:
    return float(flags[rows].mean()) if flags is not None and rows.any() else np.nan
