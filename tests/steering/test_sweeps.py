"""select_layer and select_strength."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from steered import GREEDY, LANGUAGE, PROMPTS, Words, Y, make_wrapper, slow_way


@pytest.mark.parametrize("position", ["last", ["mean", "last"]], ids=str)
def test_select_layer_ablates_one_layer_at_a_time(model, tokenizer, position):
    wrapper = make_wrapper(model, tokenizer, position=position, judge=Words("then"))
    table = wrapper.select_layer(PROMPTS, Y, PROMPTS[20:], language=LANGUAGE)
    assert table["layer"].tolist() == [0, 1, 2, 3]
    for layer, rate in zip(table["layer"], table["refusal_rate"], strict=True):
        other = make_wrapper(model, tokenizer, layer, position).fit(PROMPTS, Y, language=LANGUAGE)
        all_harmless = np.zeros(10, dtype=bool)
        _, replies = slow_way(other, tokenizer, PROMPTS[20:], harmful=all_harmless, **GREEDY)
        assert rate == np.mean(["then" in reply for reply in replies])


@pytest.mark.parametrize(("layer", "position"), [(1, "last"), ([3, 1], ["mean", "last"])])
def test_select_strength_steers_everything(model, tokenizer, layer, position):
    wrapper = make_wrapper(model, tokenizer, layer, position, strength=2.0)
    wrapper.fit(PROMPTS, Y, language=LANGUAGE).set_params(judge=Words("then"))
    table = wrapper.select_strength(PROMPTS, language=LANGUAGE, strengths=[0.0, 1.0])
    assert list(table) == ["strength", "language", "refusal_rate"]
    assert len(table) == 6
    unsteered = wrapper.set_params(on_harmful=None, on_harmless=None).generate(PROMPTS)
    refused = np.array(["then" in reply for reply in unsteered])
    for name in ("de", "en", "fr"):
        row = table[(table["strength"] == 0) & (table["language"] == name)]
        assert row["refusal_rate"].item() == refused[name == LANGUAGE].mean()
    assert len(wrapper.select_strength(PROMPTS[:2])) == 13


def test_select_strength_counts_garbled_replies(wrapper):
    wrapper.set_params(judge=Words("then"))
    table = wrapper.select_strength(
        PROMPTS[:4],
        language=["de", "en", "de", "en"],
        strengths=[0.0, 1.0],
        is_garbled=lambda replies: [i < 2 or i == 3 for i in range(len(replies))],
    )
    assert list(table) == ["strength", "language", "refusal_rate", "garbled_rate"]
    assert table["garbled_rate"].tolist() == [0.5, 1, 0.5, 1]
    for wrong, message in (
        ([True], r"Got 1 values of is_garbled\(replies\), expected 4"),
        ([2, 0, 0, 0], r"Got is_garbled\(replies\)\[0\]=2, expected True or False"),
        (None, r"Got is_garbled\(replies\) of shape \(\), expected one value per row"),
    ):
        with pytest.raises(ValueError, match=message):
            wrapper.select_strength(
                PROMPTS[:4], strengths=[0.0], is_garbled=lambda replies, wrong=wrong: wrong
            )


class Unsure:
    """A judge that abstains unless a reply has one of two words."""

    def is_refusal(self, replies, prompts=None, language=None):
        return np.array([1.0 if "then" in r else 0.0 if "stop" in r else np.nan for r in replies])


def by_hand(replies):
    """The share of refusals, and the number of abstentions."""
    verdicts = Unsure().is_refusal(replies)
    return np.nanmean(verdicts), int(np.isnan(verdicts).sum())


def test_select_layer_leaves_abstentions_out_and_counts_them_in_one_warning(model, tokenizer):
    wrapper = make_wrapper(model, tokenizer, judge=Unsure())
    with pytest.warns(UserWarning, match="Unsure abstained on") as caught:
        table = wrapper.select_layer(PROMPTS, Y, PROMPTS[20:], language=LANGUAGE)
    n_abstained = 0
    for layer, rate in zip(table["layer"], table["refusal_rate"], strict=True):
        other = make_wrapper(model, tokenizer, layer).fit(PROMPTS, Y, language=LANGUAGE)
        all_harmless = np.zeros(10, dtype=bool)
        _, replies = slow_way(other, tokenizer, PROMPTS[20:], harmful=all_harmless, **GREEDY)
        expected, n = by_hand(replies)
        assert rate == expected
        n_abstained += n
    (warning,) = caught
    assert f"abstained on {n_abstained} of 40 replies" in str(warning.message)
    assert warning.filename == __file__


def test_select_strength_and_score_leave_abstentions_out(model, tokenizer):
    wrapper = make_wrapper(model, tokenizer).fit(PROMPTS, Y, language=LANGUAGE)
    wrapper.set_params(judge=Unsure())
    replies = wrapper.generate(PROMPTS, language=LANGUAGE)
    verdicts = Unsure().is_refusal(replies)
    assert 0 < np.isnan(verdicts).sum() < 30
    with pytest.warns(UserWarning, match=r"abstained on \d+ of 60 replies") as caught:
        table = wrapper.select_strength(PROMPTS, language="de", strengths=[0.0, 1.0])
    unsteered = wrapper.set_params(on_harmful=None, on_harmless=None).generate(PROMPTS)
    assert table.loc[0, "refusal_rate"] == by_hand(unsteered)[0]
    assert len(caught) == 1
    wrapper.set_params(on_harmful="add", on_harmless="ablate")
    n_abstained = int(np.isnan(verdicts).sum())
    with pytest.warns(UserWarning, match=f"Unsure abstained on {n_abstained} of 30 replies"):
        score = wrapper.score(PROMPTS, pd.Series(Y, index=range(30, 0, -1)))
    rates = [np.nanmean(verdicts[label == Y]) for label in (1, 0)]
    assert score == pytest.approx(rates[0] - rates[1])


def test_a_layer_without_any_verdict_has_no_rate(model, tokenizer):
    class Silent:
        def is_refusal(self, replies, prompts=None, language=None):
            return [None] * len(replies)

    wrapper = make_wrapper(model, tokenizer, judge=Silent())
    with pytest.warns(UserWarning, match="Silent abstained on 20 of 20 replies"):
        table = wrapper.select_layer(PROMPTS, Y, PROMPTS[20:], layers=[0, 1])
    assert table["refusal_rate"].isna().all()


@pytest.mark.parametrize(
    ("verdicts", "message"),
    [
        ([True], "Got 1 values of Words.is_refusal(replies), expected 10"),
        (["no"] * 10, "Got Words.is_refusal(replies)[0]='no', expected True or False"),
    ],
)
def test_verdicts_that_are_none_are_named(model, tokenizer, verdicts, message, monkeypatch):
    monkeypatch.setattr(Words, "is_refusal", lambda *args, **kwargs: verdicts)
    wrapper = make_wrapper(model, tokenizer, judge=Words())
    with pytest.raises(ValueError, match=re.escape(message)):
        wrapper.select_layer(PROMPTS, Y, PROMPTS[20:], layers=[0])


def test_tables_name_the_judge(model, tokenizer):
    wrapper = make_wrapper(model, tokenizer, judge=Words())
    table = wrapper.select_layer(PROMPTS, Y, PROMPTS[20:], layers=[0])
    assert table.attrs == {"judge": "Words", "layer": 0}
    wrapper.fit(PROMPTS, Y, language=LANGUAGE).set_params(judge=None)
    with pytest.warns(UserWarning, match="PhraseJudge found no refusal among 2 replies"):
        table = wrapper.select_strength(PROMPTS[:2], strengths=[0.0])
    assert table.attrs == {"judge": "PhraseJudge"}
