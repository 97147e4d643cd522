"""What holds for every Display."""

from __future__ import annotations

import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import skgate.inspection

FRAMES = {
    "BudgetCurveDisplay": pd.DataFrame({"budget": [0, 1, 4], "f1": [0.6, 0.7, 0.8]}),
    "LayerSweepDisplay": pd.DataFrame({"layer": [0, 1, 2], "refusal_rate": [0.9, 0.1, 0.7]}),
    "ProjectionDisplay": pd.DataFrame(
        {
            "prompts": ["harmful"] * 4 + ["harmless"] * 4,
            "score": [1, 2, 3, 5, -1, 1, 0, -3],
            "threshold": [0.5] * 8,
        }
    ),
    "RefusalGapDisplay": pd.DataFrame(
        {
            "prompts": ["harmful", "harmless"] * 2,
            "refusal_rate": [0.9, 0.1, 0.2, 0],
            "tier": ["high", "high", "low", "low"],
        }
    ),
    "SeparabilityDisplay": pd.DataFrame(
        {"layer": [0, 1] * 2, "language": ["en", "en", "yo", "yo"], "roc_auc": [1, 0.9, 0.8, 0.7]}
    ),
    "StrengthSweepDisplay": pd.DataFrame(
        {"strength": [0, 1, 2], "refusal_rate": [0.1, 0.9, 0.2], "tier": "low"}
    ),
}
# Panels that are side by side for two models: the budget curve has both in one.
PANELS = dict.fromkeys(FRAMES, 2) | {"BudgetCurveDisplay": 1}

every_display = pytest.mark.parametrize("name", sorted(FRAMES))


def make(name, n_models=1):
    frames = [FRAMES[name].assign(model=f"model {i}") for i in range(n_models)]
    return getattr(skgate.inspection, name)(pd.concat(frames))


def test_all_are_here():
    assert sorted(skgate.inspection.__all__) == sorted(FRAMES)


def test_matplotlib_is_imported_when_something_is_drawn():
    code = """if True:
        import sys
        import skgate.inspection, pandas as pd
        lazy = {"matplotlib", "seaborn", "torch", "transformers"}
        assert not lazy & set(sys.modules), lazy & set(sys.modules)
        table = pd.DataFrame({"layer": [0, 1], "refusal_rate": [0.5, 0.1]})
        display = skgate.inspection.LayerSweepDisplay(table)
        assert not lazy & set(sys.modules), lazy & set(sys.modules)
        display.plot()
        assert {"matplotlib", "seaborn"} <= set(sys.modules)
        assert "torch" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@every_display
def test_a_figure_of_its_own(name):
    display = make(name)
    assert display.plot() is display
    assert plt.get_fignums() == [display.figure_.number]
    assert display.ax_ is display.axes_[0]
    assert display.ax_.figure is display.figure_
    assert display.ax_.get_title()
    again = make(name).plot()
    assert again.figure_ is not display.figure_


@every_display
def test_into_an_axes(name):
    figure, (first, second) = plt.subplots(1, 2)
    display = make(name).plot(second)
    assert display.ax_ is second
    assert display.figure_ is figure
    assert not first.has_data()
    assert second.has_data()
    assert plt.get_fignums() == [figure.number]


@every_display
def test_models_side_by_side(name):
    display = make(name, 2).plot()
    assert len(display.axes_) == PANELS[name]
    if PANELS[name] == 2:
        assert [panel.get_title() for panel in display.axes_] == ["model 0", "model 1"]
        assert display.figure_.get_suptitle()
    assert all(panel.has_data() for panel in display.axes_)


@pytest.mark.parametrize("name", sorted(name for name in FRAMES if PANELS[name] > 1))
@pytest.mark.parametrize("layout", [None, "constrained"])
def test_several_panels_in_the_place_of_an_axes(name, layout):
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout=layout)
    before = axes[1].get_position()
    display = make(name, 2).plot(axes[1])
    figure.canvas.draw()
    assert display.figure_ is figure
    assert not axes[1].axison
    left, right = (
        panel.get_window_extent().transformed(figure.transFigure.inverted())
        for panel in display.axes_
    )
    assert before.x0 - 0.1 < left.x0 < left.x1 < right.x0 < right.x1 < 1
    with pytest.raises(ValueError, match="an earlier plot has divided into panels"):
        make(name, 2).plot(axes[1])
    assert len(plt.get_fignums()) == 1


@every_display
def test_an_array_of_axes_may_be_used_again(name):
    _, axes = plt.subplots(1, PANELS[name], squeeze=False)
    display = make(name, 2).plot(axes)
    assert list(display.axes_) == list(axes.flat)
    n_artists = len(axes[0, 0].get_children())
    make(name, 2).plot(display.axes_)
    assert len(axes[0, 0].get_children()) > n_artists
    with pytest.raises(ValueError, match=f"an array of {PANELS[name]}, one for each"):
        make(name, 2).plot(plt.subplots(1, 3)[1])


@every_display
def test_figures_without_pyplot(name):
    figure = Figure(layout="constrained")
    display = make(name, 2).plot(figure.subplots())
    figure.canvas.draw()
    assert display.figure_ is figure
    assert not plt.get_fignums()


@every_display
def test_an_axes_without_a_place_in_a_grid(name):
    figure = plt.figure()
    ax = figure.add_axes((0, 0, 1, 1))
    if PANELS[name] == 1:
        assert make(name, 2).plot(ax).ax_ is ax
    else:
        with pytest.raises(ValueError, match="without a place in a grid"):
            make(name, 2).plot(ax)
        assert ax.axison


@every_display
def test_the_frame_is_a_copy_and_enough_to_draw_again(name):
    frame = FRAMES[name].copy()
    display = getattr(skgate.inspection, name)(frame).plot()
    pd.testing.assert_frame_equal(frame, FRAMES[name])
    display.frame_.loc[0, "model"] = "changed"
    assert "model" not in frame
    display = make(name, 2).plot()
    again = getattr(skgate.inspection, name)(display.frame_).plot()
    pd.testing.assert_frame_equal(again.frame_, display.frame_)
    for one, other in zip(display.axes_, again.axes_, strict=True):
        for line, same in zip(one.lines, other.lines, strict=True):
            np.testing.assert_array_equal(line.get_xydata(), same.get_xydata())


def tick_labels(panel, i):
    """Labels of an axis, without those outside of what is shown."""
    axis = (panel.xaxis, panel.yaxis)[i]
    low, high = sorted(axis.get_view_interval())
    return [text for text in axis.get_ticklabels() if low <= text.get_position()[i] <= high]


@every_display
def test_text_is_legible_and_apart(name):
    """At least 8 points, and no two pieces of text over each other."""
    display = make(name, 2).plot()
    figure = display.figure_
    figure.canvas.draw()
    texts = list(figure.texts)
    for panel in figure.axes:
        ticks = [text for axis in (0, 1) for text in tick_labels(panel, axis)]
        texts += [panel.title, panel.xaxis.label, panel.yaxis.label, *ticks]
        # (numbers within heatmap cells and beside bars have their own sizes)
    texts += [text for legend in figure.legends for text in legend.get_texts()]
    shown = [text for text in texts if text.get_text() and text.get_visible()]
    assert min(text.get_fontsize() for text in shown) >= 8
    boxes = [(text.get_text(), text.get_window_extent()) for text in shown]
    for i, (text, box) in enumerate(boxes):
        assert -1 <= box.x0 <= box.x1 <= figure.bbox.width + 1, text
        assert -1 <= box.y0 <= box.y1 <= figure.bbox.height + 1, text
        for other, area in boxes[:i]:
            shared = min(box.x1, area.x1) - max(box.x0, area.x0) > 1 and (
                min(box.y1, area.y1) - max(box.y0, area.y0) > 1
            )
            assert not shared, (text, other)


@every_display
def test_bad_frames(name):
    display = getattr(skgate.inspection, name)
    with pytest.raises(TypeError, match="frame of type list, expected a DataFrame"):
        display([1, 2])
    with pytest.raises(ValueError, match="expected at least one row"):
        display(FRAMES[name].iloc[:0])
    first = FRAMES[name].columns[0]
    with pytest.raises(ValueError, match=f"with the columns .*'{first}'"):
        display(FRAMES[name].drop(columns=first))
