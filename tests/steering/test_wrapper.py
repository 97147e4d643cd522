"""SteeringWrapper: one generate() that decides and steers, against the slow way."""

from __future__ import annotations

import copy
import warnings

import joblib
import numpy as np
import pytest
import torch
from sklearn import config_context
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from steered import (
    GREEDY,
    LANGUAGE,
    MIXED,
    PROMPTS,
    Words,
    Y,
    apply_template,
    make_telling_model,
    make_wrapper,
    slow_way,
)

from skgate import ActivationTransformer, LatentGate, SteeringWrapper

# The same text as the slow way


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 4},
        {"num_beams": 4, "num_return_sequences": 3},
        {"do_sample": True, "num_return_sequences": 3, "temperature": 0.7},
        {"use_cache": False},
        {"num_beams": 3, "use_cache": False},
    ],
    ids=str,
)
def test_equals_the_slow_way(wrapper, tokenizer, options):
    options = {**GREEDY, **options}
    torch.manual_seed(0)
    replies, decisions = wrapper.generate(MIXED, return_decisions=True, **options)
    order = sorted(range(len(MIXED)), key=lambda i: len(MIXED[i].split()), reverse=True)
    torch.manual_seed(0)
    scores, expected = slow_way(wrapper, tokenizer, [MIXED[i] for i in order], **options)
    np.testing.assert_allclose(decisions["harm_score"].to_numpy()[order], scores, atol=1e-4)
    assert 0 < decisions["harmful"].sum() < len(MIXED)
    assert [replies[i] for i in order] == expected


@pytest.mark.parametrize("architecture", ["qwen2", "gemma2", "gpt2", "gpt_neox", "opt", "mpt"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_equals_the_slow_way_on_other_architectures(architecture, use_cache, tokenizer):
    model = make_telling_model(architecture, tokenizer)
    wrapper = make_wrapper(model, tokenizer, strength=1.0).fit(PROMPTS, Y)
    prompts = ["there the cat sat", "kill egg", "boil mat"]
    options = {**GREEDY, "use_cache": use_cache}
    scores, expected = slow_way(wrapper, tokenizer, prompts, **options)
    replies, decisions = wrapper.generate(prompts, return_decisions=True, **options)
    np.testing.assert_allclose(decisions["harm_score"], scores, atol=1e-4)
    assert replies == expected


def test_steering_changes_the_text_and_observing_does_not(wrapper, model, tokenizer):
    encoded = apply_template(tokenizer, PROMPTS)
    width = encoded["input_ids"].shape[1]
    plain = tokenizer.batch_decode(
        model.generate(**encoded, **GREEDY, pad_token_id=0)[:, width:], skip_special_tokens=True
    )
    steered, decisions = wrapper.generate(PROMPTS, return_decisions=True)
    changed = np.array(steered) != np.array(plain)
    assert changed[decisions["action"] == "add"].any()
    assert changed[decisions["action"] == "ablate"].any()
    wrapper.set_params(on_harmful=None, on_harmless=None)
    observed, decisions = wrapper.generate(PROMPTS, return_decisions=True)
    assert observed == plain
    assert set(decisions["action"]) == {"none"}


@pytest.mark.parametrize(("on_harmful", "on_harmless"), [("add", None), (None, "ablate")])
def test_one_action_leaves_the_other_prompts_alone(wrapper, on_harmful, on_harmless):
    both, decisions = wrapper.generate(PROMPTS, return_decisions=True)
    wrapper.set_params(on_harmful=None, on_harmless=None)
    plain = wrapper.generate(PROMPTS)
    wrapper.set_params(on_harmful=on_harmful, on_harmless=on_harmless)
    harmful = decisions["harmful"] if on_harmful else ~decisions["harmful"]
    expected = [b if acted else p for b, p, acted in zip(both, plain, harmful, strict=True)]
    assert wrapper.generate(PROMPTS) == expected


def test_the_edit_is_the_formula_at_the_right_positions(wrapper, model, tokenizer):
    """Read the next block's input: what the steered block handed on."""
    v = torch.tensor(wrapper.gate_[-1].direction_, dtype=torch.float32)
    alpha = wrapper.strength * wrapper.gate_[-1].projection_gap_
    _, decisions = wrapper.generate(PROMPTS, return_decisions=True)
    scores = decisions["harm_score"].to_numpy()
    prompts = [PROMPTS[scores.argmax()], PROMPTS[scores.argmin()]]

    def streams(**params):
        seen = []
        handle = model.model.layers[2].register_forward_pre_hook(
            lambda module, args: seen.append(args[0].clone())
        )
        wrapper.set_params(**params)
        try:
            _, decisions = wrapper.generate(prompts, max_new_tokens=3, return_decisions=True)
        finally:
            handle.remove()
        return seen, decisions["harmful"].to_numpy()

    plain, _ = streams(on_harmful=None, on_harmless=None)
    steered, harmful = streams(on_harmful="add", on_harmless="ablate")
    assert sorted(harmful) == [False, True]
    longest_first = sorted([0, 1], key=lambda i: len(prompts[i].split()), reverse=True)
    for row, prompt in enumerate(longest_first):
        before, after = plain[0][row], steered[0][row]
        if harmful[prompt]:
            torch.testing.assert_close(after[:-1], before[:-1])
            torch.testing.assert_close(after[-1], before[-1] + alpha * v)
        else:
            torch.testing.assert_close(after, before - (before @ v)[:, None] * v)
            for later in steered[1:]:
                assert (later[row] @ v).abs().max() < 1e-5


@pytest.mark.parametrize("layer", [1, [1, 3], [3, 1]], ids=str)
@pytest.mark.parametrize(
    "position", ["mean", "instruction", -2, ["mean", "last"], ["instruction", "last"]], ids=str
)
def test_gates_at_other_places(model, tokenizer, layer, position):
    wrapper = make_wrapper(model, tokenizer, layer, position, strength=2.0)
    wrapper.fit(PROMPTS, Y, language=LANGUAGE)
    options = {**GREEDY, "num_beams": 2, "num_return_sequences": 2}
    replies, decisions = wrapper.generate(MIXED, return_decisions=True, **options)
    scores, expected = slow_way(wrapper, tokenizer, MIXED, **options)
    np.testing.assert_allclose(decisions["harm_score"], scores, atol=1e-4)
    assert replies == expected


def test_half_precision_edits_to_rounding(tokenizer):
    model = make_telling_model("llama", tokenizer).to(torch.bfloat16)
    wrapper = make_wrapper(model, tokenizer).fit(PROMPTS, Y)
    _, decisions = wrapper.generate(PROMPTS, return_decisions=True)
    harmless = PROMPTS[int(np.argmin(decisions["harm_score"]))]
    seen = []
    handle = model.model.layers[2].register_forward_pre_hook(
        lambda module, args: seen.append(args[0].float())
    )
    wrapper.generate([harmless])
    handle.remove()
    v = torch.tensor(wrapper.gate_[-1].direction_, dtype=torch.float32)
    for hidden in seen:
        assert (hidden @ v).abs().max() < 0.01 * hidden.norm(dim=-1).max()


# Decisions


def test_decisions_say_what_was_done(wrapper):
    replies, decisions = wrapper.generate(PROMPTS, language=LANGUAGE, return_decisions=True)
    assert len(replies) == len(decisions) == len(PROMPTS)
    assert list(decisions) == [
        *("language", "language_known", "harmful", "harm_score", "action", "gate_version")
    ]
    assert decisions["language"].tolist() == LANGUAGE.tolist()
    np.testing.assert_array_equal(decisions["harmful"], decisions["harm_score"] > 0)
    np.testing.assert_array_equal(decisions["action"] == "add", decisions["harmful"])
    expected = wrapper.predict(PROMPTS, language=LANGUAGE)
    np.testing.assert_array_equal(decisions["harmful"], expected == 1)
    assert decisions["gate_version"].nunique() == 1
    before = decisions["gate_version"][0]
    wrapper.partial_fit(PROMPTS[10:20], Y[10:20], language="sw")
    _, decisions = wrapper.generate(["kill egg"], language="sw", return_decisions=True)
    assert decisions["gate_version"][0] != before


def test_each_prompt_has_its_own_language(wrapper):
    wrapper.partial_fit(PROMPTS[10:20], 1 - Y[10:20], language="sw")  # the labels turned round
    one = [
        wrapper.generate(["kill egg"], language=name, return_decisions=True)[1]["harm_score"][0]
        for name in ("en", "sw")
    ]
    assert one[0] != one[1]
    _, decisions = wrapper.generate(
        ["kill egg"] * 3, language=["en", "sw", "en"], return_decisions=True, num_beams=2
    )
    np.testing.assert_allclose(decisions["harm_score"], [one[0], one[1], one[0]], atol=1e-5)
    with pytest.warns(UserWarning, match=r"language \['yo'\], which the gate has never seen"):
        _, decisions = wrapper.generate(
            ["kill egg"] * 2, language=["yo", "sw"], return_decisions=True
        )
    assert decisions["language_known"].tolist() == [False, True]


def test_a_second_call_decides_anew(wrapper):
    first = wrapper.generate(["kill egg"], return_decisions=True)[1]["harm_score"][0]
    second = wrapper.generate(["boil egg"], return_decisions=True)[1]["harm_score"][0]
    assert first != second
    assert wrapper.generate(["kill egg"], return_decisions=True)[1]["harm_score"][0] == first


def test_languages_that_the_gate_detects_are_decided_by_and_reported(wrapper):
    wrapper.gate_[-1].set_params(unknown_language="detect")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the prompts are all much alike
        scores = wrapper.gate_[-1].harm_score(wrapper.gate_[0].transform(PROMPTS))
    rows = wrapper.gate_[0].transform(PROMPTS)
    probability = wrapper.gate_[-1].predict_language_proba(rows)
    names = np.array([*wrapper.gate_[-1].languages_, None], dtype=object)
    _, decisions = wrapper.generate(PROMPTS, return_decisions=True)
    np.testing.assert_allclose(decisions["harm_score"], scores, atol=1e-4)
    first, second = np.sort(probability, axis=1)[:, :-3:-1].T
    certain = first > second + 0.02
    expected = names[probability.argmax(axis=1)]
    assert certain.any()
    assert decisions["language"][certain].tolist() == expected[certain].tolist()


def test_unseen_languages_warn_only_if_decisions_count(wrapper, model, tokenizer):
    gate = wrapper.gate_[-1].set_params(unknown_language="detect")
    gate.activation_source_ = None  # the weights change here: every prompt ends far from the others
    with torch.no_grad():
        last = tokenizer.convert_tokens_to_ids("<|assistant|>")
        model.get_input_embeddings().weight[last] += 100
    watching = wrapper.set_params(on_harmful=None, on_harmless=None)
    watching.generate(MIXED)  # as a plain model
    with pytest.warns(UserWarning, match="5 of 5 prompts look like none") as found:
        _, decisions = watching.generate(MIXED, return_decisions=True)
    assert found[0].filename == __file__
    assert decisions["language"].isna().all()
    with pytest.warns(UserWarning, match="5 of 5 prompts look like none"):
        wrapper.set_params(on_harmful="add").generate(MIXED)


# A scikit-learn estimator


def test_a_fitted_gate_generates_at_once(wrapper, model, tokenizer):
    expected = wrapper.generate(MIXED)
    assert (
        SteeringWrapper(wrapper.gate_, strength=2.0, generate_kwargs=GREEDY).generate(MIXED)
        == expected
    )
    bare = SteeringWrapper(
        wrapper.gate_[-1],
        model=model,
        tokenizer=tokenizer,
        layer=1,
        strength=2.0,
        generate_kwargs=GREEDY,
    )
    assert bare.generate(MIXED) == expected
    with pytest.raises(NotFittedError, match="gate of this SteeringWrapper is not fitted yet"):
        clone(bare).generate(MIXED)


def test_fit_leaves_the_given_gate_alone(model, tokenizer):
    wrapper = make_wrapper(model, tokenizer).fit(PROMPTS, Y, language=LANGUAGE)
    assert not hasattr(wrapper.gate[-1], "classes_")
    given = wrapper.gate_
    again = SteeringWrapper(given, generate_kwargs=GREEDY, strength=1.0)
    again.partial_fit(PROMPTS[10:20], Y[10:20], language="sw")
    assert "sw" in again.gate_[-1].languages_
    assert "sw" not in given[-1].languages_
    again.partial_fit(PROMPTS[10:20], Y[10:20], language="yo")
    assert {"sw", "yo"} <= set(again.gate_[-1].languages_)
    frozen = SteeringWrapper(FrozenEstimator(given), generate_kwargs=GREEDY, strength=1.0)
    assert frozen.fit(PROMPTS[:2], [1, 0], language="xx").generate(MIXED) == again.generate(MIXED)
    frozen.partial_fit(PROMPTS[10:20], Y[10:20], language="sw")
    assert "sw" not in given[-1].languages_
    assert again.gate_[0].model is model


def test_partial_fit_of_an_unfitted_wrapper_is_fit(model, tokenizer):
    wrapper = make_wrapper(model, tokenizer).partial_fit(PROMPTS, Y, language=LANGUAGE)
    assert wrapper.gate_[-1].source_languages_.tolist() == ["de", "en", "fr"]


def test_predict_score_and_tags(wrapper):
    assert is_classifier(wrapper)
    assert wrapper.classes_.tolist() == [0, 1]
    assert (wrapper.predict(PROMPTS, language=LANGUAGE) == Y).mean() > 0.7
    wrapper.set_params(judge=Words())
    replies = wrapper.generate(PROMPTS)
    refused = np.array(["who" in reply for reply in replies])
    assert wrapper.score(PROMPTS, Y) == refused[Y == 1].mean() - refused[Y == 0].mean()
    several = {**GREEDY, "num_return_sequences": 2, "num_beams": 2}
    with pytest.raises(ValueError, match="num_return_sequences=2"):
        wrapper.set_params(generate_kwargs=several).score(PROMPTS, Y)


def test_grid_search_over_strength_with_shots(model, tokenizer):
    gate = LatentGate(source_languages=["de", "en"])
    reader = ActivationTransformer(model, tokenizer=tokenizer, layer=1)
    wrapper = SteeringWrapper(
        make_pipeline(reader, gate), judge=Words(), generate_kwargs=GREEDY, strength=1.0
    )
    with config_context(enable_metadata_routing=True):
        search = GridSearchCV(wrapper, {"strength": [0.5, 1.0, 1.5]}, cv=2, error_score="raise")
        search.fit(PROMPTS, Y, language=LANGUAGE)
    best = search.best_estimator_
    assert best.gate_[-1].n_shots_.sum() == 10
    assert best.gate_[0].model is model
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_a_frozen_gate_with_metadata_routing(wrapper, model, tokenizer):
    gates = (FrozenEstimator(wrapper.gate_[-1]), FrozenEstimator(wrapper.gate_))
    bare = {"model": model, "tokenizer": tokenizer, "layer": 1}
    expected = wrapper.generate(MIXED)
    with config_context(enable_metadata_routing=True):
        for gate, params in zip(gates, (bare, {}), strict=True):
            frozen = SteeringWrapper(gate, strength=2.0, generate_kwargs=GREEDY, **params)
            assert frozen.fit(PROMPTS, Y, language=LANGUAGE).generate(MIXED) == expected


def test_a_judge_is_shared_and_shown(model, tokenizer):
    judge = Words()
    wrapper = make_wrapper(model, tokenizer, judge=judge)
    assert clone(wrapper).judge is judge
    assert copy.deepcopy(wrapper).judge is judge
    # With numpy 2.0, scikit-learn 1.7 can't show a number whose default is a string, as in
    # RandomForestClassifier(max_features=2).
    assert "SteeringWrapper" in wrapper.set_params(strength="auto")._repr_html_()
    assert "SteeringWrapper" in SteeringWrapper(LatentGate())._repr_html_()


def test_clone_and_pickle(wrapper, model, tokenizer, tmp_path):
    bare = SteeringWrapper(LatentGate(), model=model, tokenizer=tokenizer, layer=1, strength=1.0)
    assert clone(bare).model is model
    with pytest.raises(TypeError, match="model is a live LlamaForCausalLM"):
        joblib.dump(bare, tmp_path / "wrapper.joblib")
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    by_path = make_wrapper(str(tmp_path / "model"), None, strength=2.0)
    by_path.fit(PROMPTS, Y, language=LANGUAGE)
    joblib.dump(by_path, tmp_path / "wrapper.joblib")
    assert joblib.load(tmp_path / "wrapper.joblib").generate(MIXED) == wrapper.generate(MIXED)


@pytest.mark.parametrize(
    ("prompts", "kwargs", "message"),
    [
        ("kill egg", {}, "Got a single string"),
        ([], {}, "Got an empty list"),
        ([None], {}, r"prompts\[0\] is None"),
        (["kill egg"], {"language": ["en", "de"]}, "language of length 2, expected 1"),
        (["kill egg"], {"language": ""}, r"language\[0\]='', expected"),
        (["kill " * 70], {}, r"prompts\[0\] has 7\d tokens, expected at most 64"),
    ],
)
def test_bad_prompts(wrapper, prompts, kwargs, message):
    with pytest.raises(ValueError, match=message):
        wrapper.generate(prompts, **kwargs)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"strength": -1.0}, "'strength' parameter"),
        ({"on_harmful": "ablate"}, "'on_harmful' parameter"),
        ({"on_harmless": "add"}, "'on_harmless' parameter"),
        ({"batch_tokens": 0}, "'batch_tokens' parameter"),
        ({"generate_kwargs": 3}, "'generate_kwargs' parameter"),
        ({"judge": 3}, "'judge' parameter"),
        ({"layer": 1}, "Got layer=1 and a Pipeline as gate, expected layer=None"),
    ],
)
def test_bad_parameters(model, tokenizer, params, message):
    with pytest.raises(ValueError, match=message):
        make_wrapper(model, tokenizer).set_params(**params).fit(PROMPTS, Y)
