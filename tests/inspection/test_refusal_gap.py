"""RefusalGapDisplay: what its bars show."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from skgate.inspection import RefusalGapDisplay
from skgate.metrics import language_report

Y = np.tile([1, 1, 0, 0], 4)
LANGUAGE = np.repeat(["yo", "en", "th", "sw"], 4)
BEFORE = [0, 1, 0, 0] + [1, 1, 0, 0] + [1, 1, 0, 1] + [0, 0, 0, 0]
AFTER = [1, 1, 1, 0] + [1, 1, 0, 0] + [1, 1, 0, 0] + [0, 1, 0, 0]


def heights(panel):
    """Heights of harmful and harmless bars, left to right."""
    return [[bar.get_height() for bar in bars] for bars in panel.containers]


def labels(panel):
    return [label.get_text().replace("\n", "") for label in panel.get_xticklabels()]


def test_bars_of_a_tier_are_the_mean_over_its_languages():
    display = RefusalGapDisplay.from_predictions(Y, BEFORE, language=LANGUAGE)
    assert labels(display.ax_) == ["high-resource", "mid-resource", "low-resource"]
    assert heights(display.ax_) == [[1, 1, 0.25], [0, 0.5, 0]]
    assert [text.get_text() for text in display.ax_.texts] == ["100", "100", "25", "0", "50", "0"]
    assert display.frame_["n"].tolist() == [2, 2, 2, 2, 4, 4]


def test_bars_of_a_language():
    display = RefusalGapDisplay.from_predictions(
        Y, {"before": BEFORE, "after": AFTER}, language=LANGUAGE, by="language"
    )
    assert [panel.get_title() for panel in display.axes_] == ["before", "after"]
    report = {
        name: language_report(Y, refused=refused, language=LANGUAGE).loc["language"]
        for name, refused in [("before", BEFORE), ("after", AFTER)]
    }
    for panel, name in zip(display.axes_, report, strict=True):
        assert labels(panel) == ["en", "th", "sw", "yo"]
        rows = report[name].loc[labels(panel)]
        assert heights(panel) == [
            rows["harmful_refused"].tolist(),
            rows["harmless_refused"].tolist(),
        ]
        drawn = display.frame_[display.frame_["model"] == name].set_index(["language", "prompts"])
        assert drawn.loc[("yo", "harmful"), "refusal_rate"] == heights(panel)[0][3]


def test_kinds_differ_without_colour_too():
    display = RefusalGapDisplay.from_predictions(Y, BEFORE, language=LANGUAGE)
    harmful, harmless = (bars[0] for bars in display.ax_.containers)
    assert harmful.get_facecolor() != harmless.get_facecolor()
    assert harmful.get_hatch() != harmless.get_hatch()
    legend = display.figure_.legends[0]
    assert [patch.get_hatch() for patch in legend.get_patches()] == [
        harmful.get_hatch(),
        harmless.get_hatch(),
    ]


def test_harmful_is_found_as_everywhere():
    words = np.where(Y == 1, "bad", "good")
    display = RefusalGapDisplay.from_predictions(words, BEFORE, language=LANGUAGE, pos_label="bad")
    assert heights(display.ax_) == [[1, 1, 0.25], [0, 0.5, 0]]


def test_a_language_without_harmless_prompts_has_no_bar():
    keep = ~((LANGUAGE == "en") & (Y == 0))
    display = RefusalGapDisplay.from_predictions(
        Y[keep], np.array(BEFORE)[keep], language=LANGUAGE[keep]
    )
    high = display.frame_[display.frame_["tier"] == "high"]
    assert high["prompts"].tolist() == ["harmful"]


def test_own_tiers_in_their_order():
    display = RefusalGapDisplay.from_predictions(
        Y, BEFORE, language=LANGUAGE, tier={"yo": "b", "en": "a", "th": "b", "sw": "a"}
    )
    assert labels(display.ax_) == ["b", "a"]
    assert heights(display.ax_) == [[0.75, 0.5], [0.25, 0]]


def test_one_wrapper_is_drawn_as_it_is_and_steered(wrapper, prompts, tier):
    few = prompts("test", 3, languages=["en", "qla", "qlb"])
    copy = wrapper.__class__(wrapper.gate_, generate_kwargs=wrapper.generate_kwargs)
    copy.strength = wrapper.strength
    shots = prompts("train", 4, languages=["qla", "qlb"])
    copy.partial_fit(shots["prompt"], shots["harmful"], language=shots["language"])
    display = RefusalGapDisplay.from_estimator(
        copy, few["prompt"], few["harmful"], language=few["language"], tier=tier
    )
    assert [panel.get_title() for panel in display.axes_] == ["as it is", "steered"]
    assert display.ax_.get_ylabel() == "share of prompts refused,\nby PhraseJudge"
    observer = copy.__class__(copy.gate_, generate_kwargs=copy.generate_kwargs)
    observer.set_params(on_harmful=None, on_harmless=None)
    rates = display.frame_.set_index(["model", "tier", "prompts"])["refusal_rate"]
    for name, one in [("as it is", observer), ("steered", copy)]:
        for group in ("high", "low"):
            rows = few[few["tier"] == group]
            selectivity = one.score(rows["prompt"], rows["harmful"], language=rows["language"])
            gap = rates[name, group, "harmful"] - rates[name, group, "harmless"]
            assert gap == pytest.approx(selectivity)
    assert rates["steered", "low", "harmful"] > rates["as it is", "low", "harmful"]


def test_several_wrappers(wrapper, prompts):
    few = prompts("test", 2, languages=["en"])
    quiet = wrapper.__class__(wrapper.gate_, on_harmful=None, on_harmless=None)
    quiet.generate_kwargs = wrapper.generate_kwargs
    display = RefusalGapDisplay.from_estimator(
        {"a": quiet, "b": wrapper},
        few["prompt"],
        few["harmful"],
        language="en",
        by="language",
        max_new_tokens=1,
    )
    assert display.frame_["model"].unique().tolist() == ["a", "b"]
    # A single token is no refusal: the arguments reached the model.
    assert display.frame_["refusal_rate"].max() == 0


def test_errors_come_before_the_model_runs(wrapper, prompts, monkeypatch):
    few = prompts("test", 1, languages=["en"])
    model = wrapper.gate_[0].model
    monkeypatch.setattr(model, "generate", lambda *args, **kwargs: pytest.fail("it ran"))
    with pytest.raises(ValueError, match=r"no tier for the languages \['qla'\]"):
        RefusalGapDisplay.from_estimator(wrapper, few["prompt"], few["harmful"], language="qla")
    with pytest.raises(ValueError, match=r"\{'X': 2, 'y': 3\}"):
        RefusalGapDisplay.from_estimator(wrapper, few["prompt"], [1, 0, 1], language="en")
    with pytest.raises(ValueError, match="language=None, expected"):
        RefusalGapDisplay.from_estimator(wrapper, few["prompt"], few["harmful"])


def test_bad_input():
    with pytest.raises(ValueError, match=r"no tier for the languages \['xx'\]"):
        RefusalGapDisplay.from_predictions(Y, BEFORE, language=["xx"] * 16)
    with pytest.raises(ValueError, match="by='family', expected 'tier' or 'language'"):
        RefusalGapDisplay.from_predictions(Y, BEFORE, language=LANGUAGE, by="family")
    with pytest.raises(TypeError, match="expected a mapping of language to tier"):
        RefusalGapDisplay.from_predictions(Y, BEFORE, language=LANGUAGE, tier=["high"])
    with pytest.raises(ValueError, match="empty refused"):
        RefusalGapDisplay.from_predictions(Y, {}, language=LANGUAGE)
    with pytest.raises(ValueError, match=r"refused\[0\]=2"):
        RefusalGapDisplay.from_predictions(Y, [2] * 16, language=LANGUAGE)
    with pytest.raises(ValueError, match=r"\['bad'\] in the column 'prompts'"):
        RefusalGapDisplay(pd.DataFrame({"prompts": ["bad"], "refusal_rate": [0.5]}))
    with pytest.raises(ValueError, match=r"refusal_rate=\[50\]"):
        RefusalGapDisplay(pd.DataFrame({"prompts": ["harmful"], "refusal_rate": [50]}))
    frame = RefusalGapDisplay.from_predictions(Y, BEFORE, language=LANGUAGE).frame_
    with pytest.raises(ValueError, match="expected 'tier' or 'language' among them"):
        RefusalGapDisplay(frame.drop(columns="tier")).plot()
    assert len(plt.get_fignums()) == 1


def test_the_axis_names_the_judge_if_it_is_given():
    display = RefusalGapDisplay.from_predictions(Y, BEFORE, language=LANGUAGE)
    assert display.ax_.get_ylabel() == "share of prompts refused"
    display = RefusalGapDisplay.from_predictions(Y, BEFORE, language=LANGUAGE, judge="a person")
    assert display.ax_.get_ylabel() == "share of prompts refused,\nby a person"


def test_prompts_without_a_verdict_are_left_out():
    abstained = np.arange(16) % 4 == 0  # one of two harmful prompts of each language
    refused = np.where(abstained, np.nan, BEFORE)
    display = RefusalGapDisplay.from_predictions(Y, refused, language=LANGUAGE)
    assert heights(display.ax_) == [[1, 1, 0.5], [0, 0.5, 0]]


class Sometimes:
    """A judge that abstains on the first reply, and finds the others refused."""

    def is_refusal(self, replies, prompts=None, language=None):
        return [None] + [True] * (len(replies) - 1)


def test_one_warning_for_each_judge_counts_the_abstentions(wrapper, prompts):
    few = prompts("test", 2, languages=["en"])
    one, other = (
        wrapper.__class__(
            wrapper.gate_, strength=1.0, judge=judge, generate_kwargs={"max_new_tokens": 1}
        )
        for judge in (Sometimes(), None)
    )
    given = {"language": "en", "by": "language"}
    with pytest.warns(UserWarning, match="Sometimes abstained on 2 of 8 replies") as caught:
        display = RefusalGapDisplay.from_estimator(one, few["prompt"], few["harmful"], **given)
    assert len(caught) == 1
    assert heights(display.ax_) == [[1], [1]]
    with pytest.warns(UserWarning, match="Sometimes abstained on 1 of 4 replies") as caught:
        display = RefusalGapDisplay.from_estimator(
            {"a": one, "b": other}, few["prompt"], few["harmful"], **given
        )
    assert len(caught) == 1
    assert display.ax_.get_ylabel().endswith("by Sometimes and PhraseJudge")
