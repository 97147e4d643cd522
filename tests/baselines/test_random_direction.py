"""RandomDirection: the gate's decisions and amounts, along another direction."""

from __future__ import annotations

from copy import copy

import numpy as np
import pytest
import torch
from sklearn.base import clone
from steered import GREEDY, LANGUAGE, MIXED, PROMPTS, Words, Y, apply_template

from skgate.baselines import RandomDirection


@pytest.fixture
def control(wrapper):
    return RandomDirection(wrapper.gate_, strength=2.0, generate_kwargs=GREEDY)


def edits(one, model, prompts):
    """What is added to the output of the steered block in the prefill: (n, n_tokens, d)."""
    streams = []
    for params in ({"on_harmful": None, "on_harmless": None}, {}):
        seen = []
        handle = model.model.layers[2].register_forward_pre_hook(
            lambda module, args, seen=seen: seen.append(args[0].clone())
        )
        copy(one).set_params(**params).generate(prompts, max_new_tokens=1)
        handle.remove()
        streams.append(seen[0])
    return streams[1] - streams[0], streams[0]


def test_decisions_and_the_norm_of_the_edit_are_the_gates(control, wrapper, model):
    _, expected = wrapper.generate(PROMPTS, return_decisions=True)
    _, decisions = control.generate(PROMPTS, return_decisions=True)
    assert decisions.equals(expected)
    harmful = [PROMPTS[decisions["harm_score"].argmax()]]
    (by_control, _), (by_gate, _) = edits(control, model, harmful), edits(wrapper, model, harmful)
    amount = 2.0 * wrapper.gate_[-1].projection_gap_
    for edit in (by_control, by_gate):
        assert not edit[0, :-1].any()
        assert edit[0, -1].norm().item() == pytest.approx(amount, rel=1e-4)
    cosine = torch.cosine_similarity(by_control[0, -1], by_gate[0, -1], dim=0)
    assert abs(cosine) < 0.9


def test_the_random_direction_is_ablated_for_harmless_prompts(control, wrapper, model):
    _, decisions = control.generate(PROMPTS, return_decisions=True)
    scores = decisions["harm_score"]
    added, _ = edits(control, model, [PROMPTS[scores.argmax()]])
    u = torch.nn.functional.normalize(added[0, -1], dim=0)
    removed, before = edits(control, model, [PROMPTS[scores.argmin()]])
    torch.testing.assert_close(removed, -(before @ u)[..., None] * u, atol=1e-4, rtol=1e-3)


def test_the_seed_determines_the_direction(control, wrapper):
    replies = {seed: control.set_params(random_state=seed).generate(PROMPTS) for seed in (0, 1)}
    assert replies[0] != replies[1]
    again = RandomDirection(wrapper.gate, strength=2.0, random_state=1, generate_kwargs=GREEDY)
    assert clone(again).fit(PROMPTS, Y, language=LANGUAGE).generate(PROMPTS) == replies[1]
    with pytest.raises(ValueError, match="'random_state' parameter of RandomDirection"):
        again.set_params(random_state=-1).fit(PROMPTS, Y)


def test_views_and_sweeps_steer_along_it_too(control, tokenizer):
    inputs = apply_template(tokenizer, MIXED[:1])
    with control.attach() as view:
        tokens = view.generate(**inputs, **GREEDY, pad_token_id=0)
    text = tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert [text] == control.generate(MIXED[:1])
    replies, decisions = control.generate(PROMPTS, return_decisions=True)
    added = decisions["action"] == "add"
    prompts = [prompt for prompt, yes in zip(PROMPTS, added, strict=True) if yes]
    judge = Words(next(word for reply in np.array(replies)[added] for word in reply.split()))
    table = control.set_params(judge=judge).select_strength(prompts, strengths=[2.0])
    refused = judge.is_refusal(np.array(replies)[added])
    assert table["refusal_rate"].item() == refused.mean()
