"""The base of all Displays: a table behind the picture, and panels side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from textwrap import fill
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from skgate._frames import to_plain
from skgate.inspection._estimators import by_name
from skgate.inspection._style import HARMFUL, HARMLESS

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_SMALL = 9  # points
_INCHES_PER_LETTER = 0.07  # of a legend


class PanelDisplay:
    """A picture of a table, in one or several panels.

    Parameters
    ----------
    frame : DataFrame
        The numbers to draw. Without a column ``model``, all rows belong to one model.
    """

    _columns: ClassVar[tuple[str, ...]]

    frame_: pd.DataFrame
    figure_: Any
    axes_: Any
    ax_: Axes

    def __init__(self, frame: pd.DataFrame) -> None:
        self.frame_ = _check_frame(frame, self._columns)
        self._container: Figure | SubFigure | None = None

    def _by_judge(self, label: str) -> str:
        """Add to an axis label which judge found the refusals, if it is known."""
        judge = self.frame_.attrs.get("judge")
        return f"{label},\nby {judge}" if judge else label

    @property
    def _models(self) -> list[str]:
        return list(self.frame_["model"].unique())

    def _of(self, model: str) -> pd.DataFrame:
        return self.frame_[self.frame_["model"] == model]

    def _open(
        self,
        ax: Any,
        n_panels: int,
        *,
        columns: int,
        size: tuple[float, float],
        sharex: Any = False,
        sharey: Any = False,
    ) -> list[Axes]:
        """Return the panels, row by row; ``size`` is that of a new figure, in inches."""
        rows = -(-n_panels // columns)
        self._container = None
        if ax is None:
            import matplotlib.pyplot as plt

            self._container = plt.figure(figsize=size, layout="constrained")
        elif not hasattr(ax, "get_subplotspec"):
            axes = _check_axes(ax, n_panels)
        elif n_panels == 1:
            axes = [ax]
        else:
            self._container = _divide(ax, n_panels)
        if self._container is not None:
            grid = self._container.subplots(
                rows, columns, sharex=sharex, sharey=sharey, squeeze=False
            )
            axes = list(grid.flat)
            for unused in axes[n_panels:]:
                unused.remove()
            axes = axes[:n_panels]
            for lowest in axes[-columns:]:
                lowest.xaxis.set_tick_params(labelbottom=True)
        self.axes_ = np.empty(n_panels, dtype=object)
        self.axes_[:] = axes
        self.ax_, self.figure_ = axes[0], _root(axes[0])
        return axes

    @property
    def _has_margins(self) -> bool:
        """Whether there is room for a legend around the panels."""
        return self._container is not None

    def _as_shares(self, panel: Axes, bottom: float = 0.0) -> None:
        """Label a panel's y-axis in per cent, with room for a legend that must go inside."""
        panel.set(ylabel="", ylim=(bottom, 1.12 if self._has_margins else 1.5))
        panel.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])

    def _entitle(self, title: str, names: Sequence[str]) -> None:
        """Add the title and, if there are several panels, each panel's name."""
        if len(names) == 1:
            self.ax_.set_title(title)
            return
        for ax, name in zip(self.axes_, names, strict=False):
            ax.set_title(fill(name, 28), fontsize=_SMALL + 1)
        if self._container is not None:
            self._container.suptitle(title)

    def _explain(self, handles: Sequence[Artist]) -> None:
        """Add the legend below the panels or, without room, in the last panel."""
        if self._container is None:
            self.axes_[-1].legend(handles=handles, loc="best", fontsize=_SMALL - 1)
            return
        width = self._container.bbox.width / self._container.dpi
        longest = max(len(str(handle.get_label())) for handle in handles)
        rows = ceil(len(handles) / max(1, int(width / (0.6 + _INCHES_PER_LETTER * longest))))
        self._container.legend(
            handles=handles,
            loc="outside lower center",
            ncols=ceil(len(handles) / rows),
            fontsize=_SMALL,
            frameon=False,
        )


def stack_tables(table: Any) -> pd.DataFrame:
    """Stack the tables of several models, given by name; a single table is returned as it is."""
    if not isinstance(table, Mapping):
        return table
    named = {name: to_plain(one) for name, one in by_name(table, "table").items()}
    for name, one in named.items():
        if not isinstance(one, pd.DataFrame):
            raise TypeError(
                f"Got table[{name!r}] of type {type(one).__name__}, expected a DataFrame."
            )
    tables = [one.assign(model=name) for name, one in named.items()]
    frame = pd.concat(tables, ignore_index=True)
    judges = [one.attrs.get("judge") for one in named.values()]
    frame = frame[["model", *frame.columns.drop("model")]]
    frame.attrs["judge"] = None if None in judges else " and ".join(map(str, dict.fromkeys(judges)))
    return frame


def check_shares(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise a ValueError if one of the columns exists and has values outside 0 to 1."""
    for column in columns:
        if column in frame and not frame[column].dropna().between(0, 1).all():
            values = frame[column].tolist()
            raise ValueError(f"Got {column}={values!r:.100}, expected numbers from 0 to 1.")


def check_kinds(frame: pd.DataFrame) -> None:
    """Raise a ValueError if the column ``prompts`` has values besides harmful and harmless."""
    unknown = set(frame["prompts"]) - {HARMFUL, HARMLESS}
    if unknown:
        raise ValueError(
            f"Got {sorted(unknown, key=repr)} in the column 'prompts', expected 'harmful' or "
            "'harmless'."
        )


def _check_frame(frame: Any, columns: tuple[str, ...]) -> pd.DataFrame:
    frame = to_plain(frame)
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"Got frame of type {type(frame).__name__}, expected a DataFrame.")
    missing = [column for column in columns if column not in frame]
    if missing or frame.empty:
        found = f"{len(frame)} rows with the columns {list(frame.columns)}"
        raise ValueError(
            f"Got a frame of {found}, expected at least one row, with the columns {list(columns)}."
        )
    judge = frame.attrs.get("judge")
    frame = frame.reset_index(drop=True)
    if "model" not in frame:
        frame.insert(0, "model", "model")
    frame = frame.astype({"model": str}).astype({"model": object})
    frame.attrs = {"judge": judge} if judge else {}
    return frame


def _divide(ax: Axes, n_panels: int) -> SubFigure:
    """Replace an Axes by a subfigure in the same place."""
    if not ax.axison:
        raise ValueError(
            "Got an ax that an earlier plot has divided into panels, expected an unused Axes, or "
            "ax=display.axes_ to draw into the same panels."
        )
    place = ax.get_subplotspec()
    if place is None:
        raise ValueError(
            f"Got an ax without a place in a grid to draw {n_panels} panels, expected an Axes that "
            "plt.subplots has made, or an array of one Axes for each panel."
        )
    ax.set_axis_off()
    figure = ax.figure.add_subfigure(place)
    if figure.get_layout_engine() is None:
        figure.subplots_adjust(bottom=0.25, top=0.8)
    return figure


def _root(ax: Axes) -> Any:
    """Return the outermost figure that holds an Axes."""
    figure = ax.figure
    while figure is not figure.figure:
        figure = figure.figure
    return figure


def _check_axes(ax: Any, n_panels: int) -> list[Axes]:
    axes = list(np.asarray(ax, dtype=object).flat)
    if len(axes) != n_panels or not all(hasattr(one, "get_subplotspec") for one in axes):
        raise ValueError(
            f"Got ax={ax!r:.100}, expected an Axes, or an array of {n_panels}, one for each panel."
        )
    return axes
