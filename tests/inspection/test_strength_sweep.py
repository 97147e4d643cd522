"""StrengthSweepDisplay: its lines, and the rates behind them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from skgate.inspection import StrengthSweepDisplay
from skgate.judges import PhraseJudge

TABLE = pd.DataFrame(
    {
        "strength": np.repeat([0.0, 1.0, 2.0], 3),
        "language": ["yo", "sw", "en"] * 3,
        "refusal_rate": [0.2, 0.4, 1, 0.6, 0.8, 1, 0, 0, 0.2],
        "garbled_rate": [0, 0, 0, 0.1, 0.3, 0, 1, 1, 0.8],
    }
)


def points(panel):
    return [line.get_xydata().round(9).tolist() for line in panel.get_lines()]


def test_lines_are_means_over_a_tiers_languages():
    display = StrengthSweepDisplay.from_predictions(TABLE)
    refused, garbled = display.axes_
    assert points(refused) == [[[0, 1], [1, 1], [2, 0.2]], [[0, 0.3], [1, 0.7], [2, 0]]]
    assert points(garbled) == [[[0, 0], [1, 0], [2, 0.8]], [[0, 0], [1, 0.2], [2, 1]]]
    labels = [text.get_text() for text in display.figure_.legends[0].get_texts()]
    assert labels == ["high-resource", "low-resource"]
    assert refused.get_ylabel() == "harmful prompts refused"
    assert garbled.get_ylabel() == "replies garbled"
    assert display.frame_["refusal_rate"].round(9).tolist() == [1, 1, 0.2, 0.3, 0.7, 0]


def test_lines_differ_without_colour_too():
    high, low = StrengthSweepDisplay.from_predictions(TABLE).ax_.get_lines()
    assert high.get_color() != low.get_color()
    assert high.get_marker() != low.get_marker()
    assert high.is_dashed() != low.is_dashed()


def test_lines_of_languages():
    display = StrengthSweepDisplay.from_predictions(TABLE, by="language")
    assert display.frame_["language"].unique().tolist() == ["en", "sw", "yo"]
    assert points(display.ax_)[1] == [[0, 0.4], [1, 0.8], [2, 0]]


def test_without_languages_or_garbled_replies():
    table = TABLE.groupby("strength")[["refusal_rate"]].mean().reset_index()
    display = StrengthSweepDisplay.from_predictions(table)
    assert len(display.axes_) == 1
    np.testing.assert_allclose(points(display.ax_), [table.to_numpy()])
    assert not display.figure_.legends


def test_models_side_by_side():
    other = TABLE.assign(refusal_rate=0.5)
    display = StrengthSweepDisplay.from_predictions({"b": TABLE, "a": other})
    assert [panel.get_title() for panel in display.axes_] == ["b", "a", "", ""]
    assert points(display.axes_[1]) == [[[0, 0.5], [1, 0.5], [2, 0.5]]] * 2
    assert points(display.axes_[2]) == points(display.axes_[3])
    assert display.frame_["model"].unique().tolist() == ["b", "a"]


def test_from_wrapper(wrapper, prompts, tier):
    harmful = prompts("val", 2, languages=["en", "qlb"]).query("harmful")
    seen = []

    def is_garbled(replies):
        seen.append(replies)
        return [len(reply) > 1000 or not PhraseJudge().is_refusal([reply])[0] for reply in replies]

    display = StrengthSweepDisplay.from_estimator(
        wrapper,
        harmful["prompt"],
        language=harmful["language"],
        strengths=[0.0, 0.7, 4.0],
        is_garbled=is_garbled,
        tier=tier,
        max_new_tokens=20,
    )
    assert [len(replies) for replies in seen] == [4, 4, 4]
    rates = display.frame_.set_index(["tier", "strength"])
    table = wrapper.select_strength(
        harmful["prompt"], harmful["language"], strengths=[0.0, 0.7, 4.0], max_new_tokens=20
    )
    for name, group in [("en", "high"), ("qlb", "low")]:
        expected = table[table["language"] == name]["refusal_rate"].tolist()
        assert rates.loc[group, "refusal_rate"].tolist() == expected
        assert rates.loc[group, "garbled_rate"].tolist() == [1 - rate for rate in expected]
    assert rates.loc[("high", 0.0), "refusal_rate"] == 1
    assert rates.loc[("high", 4.0), "refusal_rate"] == 0
    assert display.ax_.get_ylabel().endswith("by PhraseJudge")


def test_errors_come_before_the_model_runs(wrapper, prompts, monkeypatch):
    few = prompts("val", 1, languages=["en"])
    model = wrapper.gate_[0].model
    monkeypatch.setattr(model, "generate", lambda *args, **kwargs: pytest.fail("it ran"))
    with pytest.raises(ValueError, match=r"no tier for the languages \['qla'\]"):
        StrengthSweepDisplay.from_estimator(wrapper, few["prompt"], language="qla")


def test_bad_input(wrapper, prompts):
    few = prompts("val", 1, languages=["en"])
    with pytest.raises(ValueError, match=r"Got 1 values of is_garbled\(replies\), expected 2"):
        StrengthSweepDisplay.from_estimator(
            wrapper, few["prompt"], strengths=[0.0], is_garbled=lambda replies: [True]
        )
    with pytest.raises(ValueError, match=r"garbled_rate=.*, expected numbers from 0 to 1"):
        StrengthSweepDisplay.from_predictions(TABLE.assign(garbled_rate=-1.0))
    with pytest.raises(ValueError, match=r"no tier for the languages \['qq'\]"):
        StrengthSweepDisplay.from_predictions(TABLE.assign(language="qq"))
    with pytest.raises(ValueError, match=r"with the columns \['strength', 'refusal_rate'\]"):
        StrengthSweepDisplay.from_predictions(TABLE.drop(columns="strength"))


def test_the_legend_names_the_groups_of_every_model():
    english = TABLE[TABLE["language"] == "en"]
    for tables in ({"a": english, "b": TABLE}, {"b": TABLE, "a": english}):
        display = StrengthSweepDisplay.from_predictions(tables)
        (legend,) = display.figure_.legends
        labels = [text.get_text() for text in legend.get_texts()]
        assert labels == ["high-resource", "low-resource"]
        colors = [line.get_color() for line in legend.get_lines()]
        fullest = display.axes_[list(tables).index("b")]
        assert colors == [line.get_color() for line in fullest.get_lines()]


def test_tables_with_and_without_languages():
    pooled = TABLE.drop(columns="language")
    with pytest.raises(ValueError, match="rows with and without a language"):
        StrengthSweepDisplay.from_predictions({"a": TABLE, "b": pooled})


def named(table, judge):
    table = table.copy()
    table.attrs["judge"] = judge
    return table


def test_the_axis_names_the_judge_of_the_table():
    display = StrengthSweepDisplay.from_predictions(named(TABLE, "PhraseJudge"))
    refused, garbled = display.axes_
    assert refused.get_ylabel() == "harmful prompts refused,\nby PhraseJudge"
    assert garbled.get_ylabel() == "replies garbled"
    assert display.frame_.attrs["judge"] == "PhraseJudge"


def test_judges_of_several_models():
    for judges, label in [
        (("A", "A"), ",\nby A"),
        (("A", "B"), ",\nby A and B"),
        (("A", None), ""),
    ]:
        tables = {str(i): named(TABLE, judge) for i, judge in enumerate(judges)}
        display = StrengthSweepDisplay.from_predictions(tables)
        assert display.axes_[0].get_ylabel() == f"harmful prompts refused{label}"


def test_a_strength_without_any_verdict_has_no_point():
    table = TABLE[TABLE["language"] == "en"].assign(refusal_rate=[1, np.nan, 0.2])
    display = StrengthSweepDisplay.from_predictions(table)
    assert points(display.ax_) == [[[0, 1], [2, 0.2]]]
