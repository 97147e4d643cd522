"""LayerSweepDisplay: its curve, and the layer it marks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from skgate.inspection import LayerSweepDisplay

TABLE = pd.DataFrame({"layer": [3, 1, 2], "refusal_rate": [0.5, 0.9, 0.1]})


def test_the_curve_and_its_lowest_point():
    display = LayerSweepDisplay.from_predictions(TABLE)
    curve, star = display.ax_.lines
    np.testing.assert_array_equal(curve.get_xydata(), [[1, 0.9], [2, 0.1], [3, 0.5]])
    np.testing.assert_array_equal(star.get_xydata(), [[2, 0.1]])
    assert [text.get_text() for text in display.ax_.texts] == ["layer 2"]
    assert display.frame_["layer"].tolist() == [1, 2, 3]
    assert display.frame_["chosen"].tolist() == [False, True, False]
    assert "as it is" not in str(display.figure_.legends[0].get_texts())


def test_of_equally_low_layers_the_first_is_marked():
    table = TABLE.assign(refusal_rate=[0.0, 0.5, 0.0])
    display = LayerSweepDisplay.from_predictions(table)
    assert display.ax_.lines[1].get_xydata().tolist() == [[2, 0]]


def test_the_model_as_it_is():
    display = LayerSweepDisplay.from_predictions(TABLE.assign(unablated=0.95))
    level = display.ax_.lines[1]
    assert set(level.get_ydata()) == {0.95}
    labels = [text.get_text() for text in display.figure_.legends[0].get_texts()]
    assert labels[2] == "model as it is"


def test_models_side_by_side():
    other = pd.DataFrame({"layer": [0, 1], "refusal_rate": [0.2, 0.3]})
    display = LayerSweepDisplay.from_predictions({"b": TABLE, "a": other})
    assert [panel.get_title() for panel in display.axes_] == ["b", "a"]
    assert display.axes_[1].lines[0].get_xydata().tolist() == [[0, 0.2], [1, 0.3]]
    assert display.frame_["model"].tolist() == ["b"] * 3 + ["a"] * 2
    assert display.frame_.query("chosen")["layer"].tolist() == [2, 0]


def test_from_wrapper(wrapper, sources, prompts):
    harmful = prompts("val", 2, languages=["en", "qaa"]).query("harmful")
    display = LayerSweepDisplay.from_estimator(
        wrapper,
        sources["prompt"],
        sources["harmful"],
        harmful["prompt"],
        language=sources["language"],
        layers=[0, 5],
    )
    table = wrapper.select_layer(
        sources["prompt"],
        sources["harmful"],
        harmful["prompt"],
        language=sources["language"],
        layers=[0, 5],
    )
    np.testing.assert_array_equal(display.ax_.lines[0].get_xydata(), table.to_numpy())
    assert display.ax_.get_ylabel() == "harmful prompts refused,\nby PhraseJudge"
    # The organism refuses all of these, as its description says.
    assert display.frame_["unablated"].tolist() == [1, 1]
    with pytest.warns(UserWarning, match="PhraseJudge found no refusal among 4 replies"):
        quiet = LayerSweepDisplay.from_estimator(
            wrapper,
            sources["prompt"],
            sources["harmful"],
            harmful["prompt"],
            layers=[0],
            max_new_tokens=1,
        )
    assert quiet.frame_["unablated"].tolist() == [0]


def test_bad_input():
    with pytest.raises(ValueError, match=r"refusal_rate=\[50.*, expected numbers from 0 to 1"):
        LayerSweepDisplay.from_predictions(TABLE.assign(refusal_rate=50))
    with pytest.raises(TypeError, match=r"table\['a'\] of type list, expected a DataFrame"):
        LayerSweepDisplay.from_predictions({"a": [0.5]})
    with pytest.raises(ValueError, match="empty table"):
        LayerSweepDisplay.from_predictions({})


class Sometimes:
    """A judge that abstains on every second reply, and finds the others refused."""

    def is_refusal(self, replies, prompts=None, language=None):
        return [True if i % 2 else None for i in range(len(replies))]


def test_replies_without_a_verdict_are_left_out(wrapper, sources, prompts):
    harmful = prompts("val", 2, languages=["en"]).query("harmful")
    judged = wrapper.__class__(
        wrapper.gate, judge=Sometimes(), generate_kwargs={"max_new_tokens": 1}
    )
    with pytest.warns(UserWarning, match="Sometimes abstained on 1 of 2 replies") as caught:
        display = LayerSweepDisplay.from_estimator(
            judged, sources["prompt"], sources["harmful"], harmful["prompt"], layers=[0]
        )
    assert len(caught) == 2  # of the sweep, and of the model as it is
    assert display.frame_[["refusal_rate", "unablated"]].to_numpy().tolist() == [[1, 1]]
    assert display.ax_.get_ylabel() == "harmful prompts refused,\nby Sometimes"


def test_without_any_verdict_no_layer_is_marked():
    display = LayerSweepDisplay.from_predictions(TABLE.assign(refusal_rate=np.nan))
    assert not display.frame_["chosen"].any()
    assert not display.ax_.texts
