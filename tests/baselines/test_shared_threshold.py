"""SharedThreshold: the decisions of a LatentGate that is given no languages."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from shifted import pooled_gate
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import make_pipeline
from steered import GREEDY, LANGUAGE, PROMPTS, Words, Y

from skgate import ActivationTransformer, LatentGate, SteeringWrapper
from skgate.baselines import SharedThreshold

SHOTS, Y_SHOTS = [*PROMPTS[:6], *PROMPTS[15:21]], np.repeat([0, 1], 6)
OF_SHOTS = np.tile(["sw", "yo"], 6)


@pytest.fixture
def reader(model, tokenizer):
    return ActivationTransformer(model, tokenizer=tokenizer, layer=1)


@pytest.fixture
def shared(reader):
    pipeline = make_pipeline(reader, LatentGate())
    return SharedThreshold(pipeline, strength=1.0, generate_kwargs=GREEDY).fit(
        PROMPTS, Y, language=LANGUAGE
    )


@pytest.fixture
def by_hand(reader):
    return pooled_gate().fit(reader.transform(PROMPTS), Y, language=LANGUAGE)


def check_decisions(shared, scores):
    """Whatever language is given, decisions are the same, and languages are reported."""
    languages = np.tile(["de", "sw", "never"], 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for given in (None, "sw", languages):
            np.testing.assert_allclose(shared.decision_function(PROMPTS, given), scores, atol=1e-8)
            np.testing.assert_array_equal(shared.predict(PROMPTS, given), scores > 0)
        replies, named = shared.generate(PROMPTS, languages, return_decisions=True)
        assert replies == shared.generate(PROMPTS)
        _, unnamed = shared.generate(PROMPTS, return_decisions=True)
    for decisions in (named, unnamed):
        np.testing.assert_allclose(decisions["harm_score"], scores, atol=1e-4)
    assert named["language"].tolist() == languages.tolist()
    assert unnamed["language"].isna().all()


def test_after_fit_the_threshold_is_the_sources(shared, reader, by_hand):
    check_decisions(shared, by_hand.harm_score(reader.transform(PROMPTS)))
    np.testing.assert_array_equal(shared.gate_[-1].direction_, by_hand.direction_)


def test_shots_of_all_languages_are_pooled(shared, reader, by_hand):
    before = by_hand.harm_score(reader.transform(PROMPTS))
    by_hand.partial_fit(reader.transform(SHOTS), Y_SHOTS)
    scores = by_hand.harm_score(reader.transform(PROMPTS))
    assert np.abs(scores - before).max() > 0.1
    shared.partial_fit(SHOTS[:9], Y_SHOTS[:9], language=OF_SHOTS[:9])
    # These have one class only, but the pool has both: no warning
    shared.partial_fit(SHOTS[9:], Y_SHOTS[9:], language="yo")
    check_decisions(shared, scores)


def test_shots_in_fit_and_in_a_fitted_gate_are_pooled(shared, reader, by_hand):
    by_hand.partial_fit(reader.transform(SHOTS), Y_SHOTS)
    scores = by_hand.harm_score(reader.transform(PROMPTS))
    pipeline = make_pipeline(reader, LatentGate(source_languages=["de", "en", "fr"]))
    rows = [*PROMPTS, *SHOTS], np.concatenate([Y, Y_SHOTS]), np.concatenate([LANGUAGE, OF_SHOTS])
    check_decisions(
        SharedThreshold(pipeline, strength=1.0, generate_kwargs=GREEDY).fit(*rows), scores
    )
    wrapper = SteeringWrapper(shared.gate_).partial_fit(SHOTS, Y_SHOTS, language=OF_SHOTS)
    check_decisions(SharedThreshold(wrapper.gate_, strength=1.0, generate_kwargs=GREEDY), scores)
    assert {"sw", "yo"} <= set(wrapper.gate_[-1].languages_)  # the given gate is left alone


def test_a_language_column_is_ignored_too(reader, by_hand):
    import pandas as pd

    columns = ColumnTransformer(
        [("activations", clone(reader), "prompt"), ("language", "passthrough", ["language"])],
        verbose_feature_names_out=False,
    ).set_output(transform="pandas")
    pipeline = make_pipeline(columns, LatentGate(language_column="language"))
    frame = pd.DataFrame({"prompt": PROMPTS, "language": LANGUAGE})
    shots = pd.DataFrame({"prompt": SHOTS, "language": OF_SHOTS})
    shared = SharedThreshold(pipeline, strength=1.0, generate_kwargs=GREEDY).fit(frame, Y)
    shared.partial_fit(shots, Y_SHOTS)
    by_hand.partial_fit(reader.transform(SHOTS), Y_SHOTS)
    scores = by_hand.harm_score(reader.transform(PROMPTS))
    np.testing.assert_allclose(shared.decision_function(frame), scores, atol=1e-8)
    _, decisions = shared.generate(frame, return_decisions=True)
    np.testing.assert_allclose(decisions["harm_score"], scores, atol=1e-4)
    assert decisions["language"].tolist() == LANGUAGE.tolist()


def test_a_view_ignores_languages(shared, tokenizer):
    from steered import apply_template

    inputs = apply_template(tokenizer, PROMPTS[:2])
    log = []
    for language in (None, ["de", "never"]):
        with shared.attach(language, on_decision=log.append) as view:
            view.generate(**inputs, **GREEDY, pad_token_id=0)
    np.testing.assert_allclose(log[0]["harm_score"], log[1]["harm_score"])
    assert log[1]["language"].tolist() == ["de", "never"]


def test_the_score_is_averaged_over_languages(shared):
    shared.set_params(judge=Words())
    by_language = [
        shared.score(np.array(PROMPTS)[name == LANGUAGE], Y[name == LANGUAGE])
        for name in ("de", "en", "fr")
    ]
    assert shared.score(PROMPTS, Y, LANGUAGE) == pytest.approx(np.mean(by_language))


def test_languages_are_checked_though_ignored(shared):
    with pytest.raises(ValueError, match="language of length 2, expected 1"):
        shared.predict(PROMPTS[:1], language=["de", "en"])
