"""select_layer and select_strength."""

from __future__ import annotations

import numpy as np
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
