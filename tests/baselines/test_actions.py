"""DirectionalAblation and ActivationAddition: the same edit for every prompt."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from steered import GREEDY, LANGUAGE, MIXED, PROMPTS, Words, Y, apply_template

from skgate import SteeringWrapper
from skgate.baselines import ActivationAddition, DirectionalAblation
from skgate.steering._sweeps import generate_alike


def test_ablation_edits_every_prompt(wrapper):
    ablation = DirectionalAblation(wrapper.gate_, generate_kwargs=GREEDY)
    replies, decisions = ablation.generate(PROMPTS, return_decisions=True)
    assert replies == generate_alike(wrapper, PROMPTS, {}, ablate=1.0)
    assert replies != wrapper.generate(PROMPTS)
    assert set(decisions["action"]) == {"ablate"}
    np.testing.assert_array_equal(decisions["harmful"], wrapper.predict(PROMPTS) == 1)


def test_addition_edits_every_prompt(wrapper):
    addition = ActivationAddition(wrapper.gate_, strength=2.0, generate_kwargs=GREEDY)
    replies, decisions = addition.generate(PROMPTS, return_decisions=True)
    amount = 2.0 * wrapper.gate_[-1].projection_gap_
    assert replies == generate_alike(wrapper, PROMPTS, {}, add=amount)
    assert replies != wrapper.generate(PROMPTS)
    assert set(decisions["action"]) == {"add"}
    np.testing.assert_array_equal(decisions["harmful"], wrapper.predict(PROMPTS) == 1)


@pytest.mark.parametrize("baseline", [DirectionalAblation, ActivationAddition])
def test_a_view_is_edited_alike(wrapper, tokenizer, baseline):
    fixed = baseline(wrapper.gate_, generate_kwargs=GREEDY)
    if baseline is ActivationAddition:
        fixed.set_params(strength=1.0)
    log = []
    inputs = apply_template(tokenizer, MIXED[:1])
    with fixed.attach(on_decision=log.append) as view, torch.no_grad():
        tokens = view.generate(**inputs, **GREEDY, pad_token_id=0)
    text = tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    replies, decisions = fixed.generate(MIXED[:1], return_decisions=True)
    assert [text] == replies
    assert log[0]["action"].tolist() == decisions["action"].tolist()


def test_their_parameters_leave_out_what_is_fixed(wrapper):
    shared = set(SteeringWrapper(None).get_params(deep=False)) - {"on_harmful", "on_harmless"}
    assert set(ActivationAddition(None).get_params(deep=False)) == shared
    assert set(DirectionalAblation(None).get_params(deep=False)) == shared - {"strength"}
    with pytest.raises(ValueError, match="Invalid parameter 'on_harmful'"):
        ActivationAddition(wrapper.gate).set_params(on_harmful=None)
    with pytest.raises(ValueError, match="'strength' parameter of ActivationAddition"):
        ActivationAddition(wrapper.gate, strength=-1.0).fit(PROMPTS, Y)


def test_unseen_languages_warn_only_if_decisions_are_returned(wrapper, model, tokenizer):
    gate = wrapper.gate_[-1].set_params(unknown_language="detect")
    gate.activation_source_ = None  # the weights change here: every prompt ends far from the others
    with torch.no_grad():
        last = tokenizer.convert_tokens_to_ids("<|assistant|>")
        model.get_input_embeddings().weight[last] += 100
    ablation = DirectionalAblation(wrapper.gate_, generate_kwargs=GREEDY)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ablation.generate(MIXED)
    with pytest.warns(UserWarning, match="5 of 5 prompts look like none"):
        ablation.generate(MIXED, return_decisions=True)


def test_clones_and_searches(wrapper, model):
    addition = ActivationAddition(wrapper.gate, judge=Words(), generate_kwargs=GREEDY)
    search = GridSearchCV(addition, {"strength": [0.5, 1.5]}, cv=2, error_score="raise")
    search.fit(PROMPTS, Y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    copied = clone(search.best_estimator_.set_params(strength=1.5))
    assert copied.gate[0].model is model
    assert copied.get_params(deep=False).keys() == addition.get_params(deep=False).keys()
    expected = wrapper.set_params(strength=1.5).gate_[-1].projection_gap_ * 1.5
    fitted = copied.fit(PROMPTS, Y, language=LANGUAGE)
    assert fitted.generate(MIXED) == generate_alike(wrapper, MIXED, {}, add=expected)
