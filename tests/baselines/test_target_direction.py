"""TargetDirection: one gate for each language, fitted on its own rows."""

from __future__ import annotations

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from steered import GREEDY, LANGUAGE, MIXED, PROMPTS, Words, Y, make_wrapper

from skgate import ActivationTransformer, LatentGate, SteeringWrapper
from skgate.baselines import TargetDirection

SHOTS, Y_SHOTS = PROMPTS[10:20], Y[10:20]


@pytest.fixture
def reader(model, tokenizer):
    return ActivationTransformer(model, tokenizer=tokenizer, layer=1)


@pytest.fixture
def target(reader):
    gate = LatentGate(source_languages=["de", "en"])
    target = TargetDirection(make_pipeline(reader, gate), strength=2.0, generate_kwargs=GREEDY)
    return target.fit(PROMPTS, Y, language=LANGUAGE).partial_fit(SHOTS, Y_SHOTS, language="sw")


def test_each_gate_is_fitted_on_its_languages_rows(target, reader):
    assert target.languages_.tolist() == ["de", "en", "fr", "sw"]
    for name in ("de", "sw"):
        own = SHOTS if name == "sw" else np.array(PROMPTS)[name == LANGUAGE]
        y = Y_SHOTS if name == "sw" else Y[name == LANGUAGE]
        by_hand = LatentGate().fit(reader.transform(own), y, language=name)
        gate = target.wrappers_[name].gate_[-1]
        np.testing.assert_array_equal(gate.direction_, by_hand.direction_)
        assert gate.projection_gap_ == by_hand.projection_gap_
        scores = by_hand.harm_score(reader.transform(PROMPTS), language=name)
        np.testing.assert_allclose(target.decision_function(PROMPTS, name), scores, atol=1e-8)
        np.testing.assert_array_equal(target.predict(PROMPTS, name), scores > 0)
        assert target.predict_proba(PROMPTS, name).shape == (len(PROMPTS), 2)


def test_partial_fit_adds_rows_to_those_of_the_language(target, reader):
    before = {name: target.wrappers_[name] for name in target.languages_}
    target.partial_fit(PROMPTS[20:22], Y[20:22], language="sw")  # one class alone is enough now
    at_once = TargetDirection(target.gate).fit(
        [*SHOTS, *PROMPTS[20:22]], [*Y_SHOTS, *Y[20:22]], language="sw"
    )
    expected = at_once.decision_function(PROMPTS, "sw")
    np.testing.assert_allclose(target.decision_function(PROMPTS, "sw"), expected)
    assert all(target.wrappers_[name] is before[name] for name in ("de", "en", "fr"))


def test_replies_and_decisions_keep_the_order_and_the_index(target):
    languages = np.array(["sw", "de", "sw", "en", "de"])
    prompts = pd.Series(MIXED, index=list("vwxyz"))
    replies, decisions = target.generate(prompts, languages, return_decisions=True)
    assert decisions.index.tolist() == list("vwxyz")
    assert decisions["language"].tolist() == languages.tolist()
    scores = target.decision_function(prompts, languages)
    np.testing.assert_allclose(decisions["harm_score"], scores, atol=1e-4)
    for i, name in enumerate(languages):
        wrapper = SteeringWrapper(
            target.wrappers_[name].gate_, strength=2.0, generate_kwargs=GREEDY
        )
        found, row = wrapper.generate([MIXED[i]], name, return_decisions=True)
        assert (found, row["action"].tolist()) == ([replies[i]], [decisions["action"].iloc[i]])
    observed = target.set_params(on_harmful=None, on_harmless=None)
    _, decisions = observed.generate(prompts, languages, return_decisions=True)
    assert set(decisions["action"]) == {"none"}


def test_the_version_is_one_for_all_languages(target):
    def version(language):
        _, decisions = target.generate(PROMPTS[:3], language, return_decisions=True)
        (found,) = decisions["gate_version"].unique()
        return found

    before = version("de")
    assert version(["sw", "de", "en"]) == before
    target.partial_fit(PROMPTS[20:22], Y[20:22], language="sw")
    assert version("de") != before


def test_callbacks_get_a_prompts_place_in_the_call(target):
    places = []

    def allow(row, tokens):
        places.append(row)
        return [5]

    target.generate(MIXED[:3], ["sw", "de", "sw"], prefix_allowed_tokens_fn=allow)
    assert set(places) == {0, 1, 2}


def test_the_language_as_a_column(target, reader):
    columns = ColumnTransformer(
        [("activations", clone(reader), "prompt"), ("language", "passthrough", ["language"])],
        verbose_feature_names_out=False,
    ).set_output(transform="pandas")
    pipeline = make_pipeline(columns, LatentGate(language_column="language"))
    frame = pd.DataFrame({"prompt": PROMPTS, "language": LANGUAGE}, index=range(100, 130))
    shots = pd.DataFrame({"prompt": SHOTS, "language": "sw"})
    other = TargetDirection(pipeline, strength=2.0, generate_kwargs=GREEDY).fit(frame, Y)
    other.partial_fit(shots[:6], Y_SHOTS[:6]).partial_fit(shots[6:], Y_SHOTS[6:])
    frame["language"] = np.tile(["sw", "de"], 15)
    expected = target.decision_function(PROMPTS, frame["language"])
    np.testing.assert_allclose(other.decision_function(frame), expected, atol=1e-8)
    replies, decisions = other.generate(frame, return_decisions=True)
    assert replies == target.generate(PROMPTS, frame["language"])
    assert decisions.index.equals(frame.index)


def test_score(target):
    target.set_params(judge=Words())
    refused = np.array(["who" in reply for reply in target.generate(PROMPTS, "sw")])
    expected = refused[Y == 1].mean() - refused[Y == 0].mean()
    assert target.score(PROMPTS, Y, language="sw") == expected


def test_clone_and_pickle(target, model, tokenizer, tmp_path):
    assert clone(target).gate[0].model is model
    with pytest.raises(TypeError, match="model is a live LlamaForCausalLM"):
        joblib.dump(target, tmp_path / "target.joblib")
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    by_path = TargetDirection(
        make_wrapper(str(tmp_path / "model"), None).gate, generate_kwargs=GREEDY
    ).fit(PROMPTS, Y, language=LANGUAGE)
    joblib.dump(by_path, tmp_path / "target.joblib")
    loaded = joblib.load(tmp_path / "target.joblib")
    assert loaded.generate(MIXED, "en") == by_path.generate(MIXED, "en")
    loaded.partial_fit(SHOTS, Y_SHOTS, language="en")
    assert len(loaded.rows_["en"][1]) == 20


def test_errors(target):
    with pytest.raises(NotFittedError):
        clone(target).predict(MIXED, "sw")
    with pytest.raises(ValueError, match=r"Got language \['yo'\], of which there are no labelled"):
        target.generate(MIXED, ["sw", "yo", "sw", "sw", "sw"])
    for call in (target.predict, target.generate):
        with pytest.raises(ValueError, match="Got language=None, expected the language of each"):
            call(MIXED)
    with pytest.raises(ValueError, match=r"rows of one class only, \[1\], for language 'yo'"):
        target.partial_fit([*SHOTS, "ran"], [*Y_SHOTS, 1], language=["sw"] * 10 + ["yo"])
    assert len(target.rows_["sw"][1]) == 10  # nothing was learned
    with pytest.raises(ValueError, match=r"Got \[2\] in y, expected labels out of \[0, 1\]"):
        target.partial_fit(SHOTS, Y_SHOTS + 1, language="sw")
    with pytest.raises(ValueError, match="'X': 10, 'y': 9"):
        target.partial_fit(SHOTS, Y_SHOTS[:9], language="sw")
    with pytest.raises(ValueError, match=r"Got y with 3 class\(es\)"):
        target.fit(PROMPTS, [*Y[:-1], 2], language=LANGUAGE)
    frozen = TargetDirection(FrozenEstimator(target.wrappers_["sw"].gate_))
    with pytest.raises(ValueError, match="Got a FrozenEstimator as gate"):
        frozen.fit(PROMPTS, Y, language=LANGUAGE)
    for strength in (-1.0, "auto"):
        target.set_params(strength=strength)
        with pytest.raises(ValueError, match="'strength' parameter of TargetDirection"):
            target.fit(PROMPTS, Y, language=LANGUAGE)
        with pytest.raises(ValueError, match="'strength' parameter of TargetDirection"):
            target.generate(MIXED, "sw")
