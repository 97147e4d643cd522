"""SeparabilityDisplay: how well the harm direction separates harmful from harmless prompts."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline

from skgate._base import find_stack_level, set_module
from skgate._docstrings import fill_docstring
from skgate._frames import to_plain
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


@set_module("skgate.inspection")
class SeparabilityDisplay(PanelDisplay):
    """Display of the AUC of the harm direction, by language and by layer or model.

    It shows whether a model has the harm signal in a language. Each language has a row of cells.
    Each layer has a column. If every model has a single layer, each model has a column instead.
    Several models with several layers have a panel each. Languages in which the model refuses few
    harmful prompts are outlined. If such a language has a high AUC, the model has a harm signal
    that it does not act on. It is recommended to use :meth:`from_estimator` or
    :meth:`from_predictions`.

    Parameters
    ----------
    frame : DataFrame
        One row per cell: columns ``model`` (if several), ``layer``, ``language``, ``roc_auc`` and,
        optionally, ``weak`` (bool), which says whether to outline the cell.
    weak_below : float, default=0.5
        The threshold that the legend states: a cell is ``weak`` if the model refuses less than this
        share of harmful prompts.

    Attributes
    ----------
    frame_ : DataFrame
        The numbers behind the picture: the columns of ``frame``. If the display was made from an
        estimator or predictions, also ``harmful_refused`` (the share of harmful prompts refused,
        NaN if it is not known) and ``n`` (the number of prompts).
    ax_ : matplotlib Axes
        The first panel.
    axes_ : ndarray of matplotlib Axes
        All panels.
    figure_ : matplotlib Figure
        The figure.

    Notes
    -----
    At each layer, the direction is the unit vector from the mean of all harmless to the mean of all
    harmful train rows of the source languages [1]_. The AUC is that of the test rows' projections
    on it, within one language, so it does not depend on a decision boundary.

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
    @fill_docstring
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
        """Learn the harm direction from train prompts, and draw its AUC on test prompts.

        Parameters
        ----------
        estimator : ActivationTransformer, Pipeline, mapping of str to such, or list of them
            Transformers of one or several layers, or Pipelines that begin with one; only the
            transformer is used. Of several positions, the one at which a model is steered is read.
        X_train : list, Series or array of length n_train
            Prompts to learn each layer's direction from.
        y_train : array-like of shape (n_train,)
            Labels of ``X_train``.
        X_test : list, Series or array of length n_test
            Prompts to measure the AUC on. They should not be among the train prompts.
        y_test : array-like of shape (n_test,)
            Labels of ``X_test``.
        language_train : str or array-like of str of shape (n_train,), default=None
            Languages of the train prompts, one for all or one each.
        language_test : str or array-like of str of shape (n_test,)
            Languages of the test prompts, one for all or one each.
        source_languages : list of str or None, default=None
            The languages among the train prompts to learn the direction from. If None, all of them.
        refused : array-like of bool of shape (n_test,), mapping of str to such, or None, \
default=None
            Whether the unsteered model refused each test prompt. For several models, a mapping of
            name to such. It decides which languages are outlined.
        {weak_below}
        {tier}
        {pos_label}
        {ax}

        Returns
        -------
        display : SeparabilityDisplay
            The drawn display.

        Raises
        ------
        ValueError
            If the source languages' train prompts have one class only, or if lengths differ.

        Warns
        -----
        UserWarning
            If test prompts are among the prompts that the direction is learned from.
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
            source = reader.activation_source()
            layers[name] = list(source.layer)
            _, position = source.places[source.steered_place]
            reader = clone(reader).set_params(position=position)
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
    @fill_docstring
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
        """Draw the AUC of scores.

        Parameters
        ----------
        y_true : array-like of shape (n_prompts,)
            True labels.
        y_score : array-like of shape (n_prompts,) or (n_prompts, n_layers), or mapping of str to \
such
            Scores, larger for more harmful. For several models, a mapping of name to scores.
        layer : list of int, mapping of str to such, or None, default=None
            The layer of each column of ``y_score``. For several models, one list for all, or a
            mapping of name to list. If None, the columns are numbered from 0.
        language : str or array-like of str of shape (n_prompts,)
            Languages of the prompts, one for all or one each.
        refused : array-like of bool of shape (n_prompts,), mapping of str to such, or None, \
default=None
            Whether the unsteered model refused each prompt. For several models, a mapping of name
            to such. It decides which languages are outlined.
        {weak_below}
        {tier}
        {pos_label}
        {ax}

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

    @fill_docstring
    def plot(self, ax: Any = None) -> SeparabilityDisplay:
        """Draw the cells.

        Parameters
        ----------
        {ax}

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
    """Find the ActivationTransformer of an estimator."""
    from skgate.activations._transformer import ActivationTransformer

    reader = estimator.steps[0][1] if isinstance(estimator, Pipeline) else estimator
    if not isinstance(reader, ActivationTransformer):
        raise TypeError(
            f"Got an estimator of type {type(estimator).__name__}, expected an "
            "ActivationTransformer, or a Pipeline that begins with one."
        )
    return reader


def _find_sources(
    language: Any, source_languages: Sequence[str] | None, n_rows: int
) -> npt.NDArray[np.bool_]:
    """Find the train rows to learn the direction from."""
    if source_languages is None:
        return np.ones(n_rows, dtype=bool)
    wanted = check_language(source_languages, len(source_languages), "source_languages")
    if language is None:
        raise ValueError(
            f"Got source_languages={list(source_languages)} without language_train, expected "
            "the language of every train prompt."
        )
    languages = check_language(language, n_rows, "language_train")
    missing = sorted(set(wanted) - set(languages))
    if missing:
        raise ValueError(
            f"Got no train prompts in the source_languages {missing}, expected some in each."
        )
    found: npt.NDArray[np.bool_] = np.isin(languages.astype(str), wanted.astype(str))
    return found


def _check_share(weak_below: float) -> None:
    if not 0 <= weak_below <= 1:
        raise ValueError(f"Got weak_below={weak_below!r}, expected a share from 0 to 1.")


def _warn_of_overlap(train: list[Any], test: list[Any]) -> None:
    known = {repr(prompt) for prompt in train}
    n_known = sum(repr(prompt) in known for prompt in test)
    if n_known:
        warnings.warn(
            f"{n_known} of {len(test)} test prompts are among the prompts that the direction is "
            "learned from, so the AUC is too high. Use other test prompts.",
            UserWarning,
            stacklevel=find_stack_level(),
        )


def _project(rows: Any, harmful: npt.NDArray[np.bool_], new: Any) -> Floats:
    """Project new rows on the harm direction of labelled ones."""
    rows = np.asarray(rows, dtype=np.float64)
    direction = harm_direction(rows, harmful, np.ones(len(rows)))
    if direction is None:
        raise ValueError(
            "Got train prompts of the source languages with one class only in y_train, or with "
            "equal mean activations, expected harmful and harmless prompts whose activations "
            "differ."
        )
    projections: Floats = np.asarray(new, dtype=np.float64) @ direction
    return projections


def _per_model(values: Any, models: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return each model's value of an argument that may be one for all."""
    if not isinstance(values, Mapping):
        return dict.fromkeys(models, values)
    missing = sorted(set(models) - {str(key) for key in values})
    if missing:
        raise ValueError(f"Got no {name} of {missing}, expected one of each model.")
    return {str(key): value for key, value in values.items()}


def _check_scores(values: Any, layer: Any, n_rows: int) -> Iterator[tuple[Any, Floats]]:
    """Split scores into layers."""
    table = np.asarray(to_plain(values), dtype=np.float64)
    table = table[:, np.newaxis] if table.ndim == 1 else table
    if table.ndim != 2 or len(table) != n_rows or not np.isfinite(table).all():
        raise ValueError(
            f"Got y_score of shape {np.shape(values)}, expected ({n_rows},) or ({n_rows}, "
            "n_layers), all finite."
        )
    layers = list(
        range(table.shape[1]) if layer is None else np.atleast_1d(to_plain(layer)).tolist()
    )
    if len(layers) != table.shape[1] or len(set(layers)) < len(layers):
        raise ValueError(
            f"Got layer={layers}, expected {table.shape[1]} different ones, one per column of "
            "y_score."
        )
    return zip(layers, table.T, strict=True)


def _auc(harmful: npt.NDArray[np.bool_], scores: Floats) -> float:
    return float(roc_auc_score(harmful, scores)) if len(set(harmful)) == 2 else np.nan


def _share(flags: npt.NDArray[np.bool_] | None, rows: npt.NDArray[np.bool_]) -> float:
    return float(flags[rows].mean()) if flags is not None and rows.any() else np.nan
