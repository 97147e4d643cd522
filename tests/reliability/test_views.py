"""Input of a steered view that is formatted otherwise than the gate's prompts, or padded."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from sklearn.pipeline import make_pipeline

from skgate import ActivationTransformer, LatentGate, SteeringWrapper
from skgate.datasets import load_organism

N = 260
LAYER = 4
NO_TOKENS = {"max_new_tokens": 1, "do_sample": False}


@pytest.fixture(scope="module")
def organism():
    return load_organism()


def fit(organism, **params):
    sources = organism.prompts.query("split == 'train' and tier == 'high'")
    transformer = ActivationTransformer(
        organism.model, tokenizer=organism.tokenizer, layer=LAYER, **params
    )
    wrapper = SteeringWrapper(make_pipeline(transformer, LatentGate()), strength=0.7)
    return wrapper.fit(sources["prompt"], sources["harmful"], language=sources["language"])


@pytest.fixture(scope="module")
def wrapper(organism):
    return fit(organism)


@pytest.fixture(scope="module")
def prompts(organism):
    """Of every language and class alike."""
    test = organism.prompts.query("split == 'test'")
    chosen = test.groupby(["language", "harmful"]).head(N // 26)
    assert len(chosen) == N
    return chosen


def templated(organism, prompt, **kwargs):
    messages = [{"role": "user", "content": prompt}]
    kwargs = {"add_generation_prompt": True, **kwargs}
    return organism.tokenizer.apply_chat_template(
        messages, return_tensors="pt", return_dict=True, **kwargs
    )["input_ids"]


def plain(organism, prompt):
    return organism.tokenizer(prompt, return_tensors="pt")["input_ids"]


def continued(organism, prompt):
    begun = organism.tokenizer(" sorry ,", add_special_tokens=False, return_tensors="pt")
    return torch.cat([templated(organism, prompt), begun["input_ids"]], dim=1)


def right_padded(organism, prompt, n=3):
    ids = templated(organism, prompt)
    return torch.cat([ids, ids.new_full((1, n), organism.tokenizer.pad_token_id)], dim=1)


def unprompted(organism, prompt):
    return templated(organism, prompt, add_generation_prompt=False)


def pad(organism, rows, side):
    """A batch of rows of token ids, and its mask."""
    rows = [row[0].tolist() for row in rows]
    padded = organism.tokenizer.pad({"input_ids": rows}, padding_side=side, return_tensors="pt")
    return padded["input_ids"], padded["attention_mask"]


def read(organism, ids, mask=None):
    """The last column and the mean of all that are not masked, as a plain hook reads them."""
    seen = []
    block = organism.model.model.layers[LAYER]
    handle = block.register_forward_hook(
        lambda module, args, output: seen.append(output[0] if type(output) is tuple else output)
    )
    try:
        with torch.no_grad():
            organism.model(input_ids=ids, attention_mask=mask)
    finally:
        handle.remove()
    kept = torch.ones(ids.shape) if mask is None else mask
    mean = (kept[..., None] * seen[0]).sum(dim=1) / kept.sum(dim=1, keepdim=True)
    return torch.cat([seen[0][:, -1], mean], dim=1).double().numpy()


def test_a_view_accepts_every_templated_prompt(organism, wrapper, prompts):
    """They are decided as ``decision_function`` decides them."""
    logged = []
    with wrapper.attach("en", on_decision=logged.append) as steered, torch.no_grad():
        for prompt in prompts["prompt"]:
            steered(templated(organism, prompt))
    assert len(logged) == N
    found = np.array([one["harm_score"].item() for one in logged])
    expected = wrapper.decision_function(prompts["prompt"], language="en")
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("form", [plain, continued, right_padded, unprompted])
@pytest.mark.parametrize("method", ["generate", "forward"])
def test_a_view_refuses_every_other_form(organism, wrapper, prompts, form, method):
    """Not one of 260 gets through, in ``generate`` or in a forward pass."""
    accepted = []
    with wrapper.attach() as steered, torch.no_grad():
        for prompt in prompts["prompt"]:
            ids = form(organism, prompt)
            try:
                if method == "forward":
                    steered(ids)
                else:
                    steered.generate(ids, attention_mask=torch.ones_like(ids), **NO_TOKENS)
            except ValueError:
                continue
            accepted.append(prompt)
    assert len(accepted) == 0


def test_the_error_says_what_to_call(organism, wrapper):
    ids = plain(organism, "smash the lamp")
    with (
        wrapper.attach() as steered,
        pytest.raises(ValueError, match=r"apply_chat_template\(.*add_generation_prompt=True\)"),
    ):
        steered.generate(ids, attention_mask=torch.ones_like(ids), **NO_TOKENS)


def test_a_text_generation_pipeline_with_a_plain_string_is_refused(organism, wrapper):
    """A pipeline applies the chat template to lists of messages only."""
    from transformers import pipeline

    with wrapper.attach() as steered:
        generate = pipeline("text-generation", model=steered, tokenizer=organism.tokenizer)
        with pytest.raises(ValueError, match="don't end as the gate's prompts do"):
            generate("smash the lamp", **NO_TOKENS)
        messages = [{"role": "user", "content": "smash the lamp"}]
        reply = generate(messages, max_new_tokens=40, do_sample=False)[0]["generated_text"][-1]
    assert "wrong" in reply["content"]


@pytest.mark.parametrize("chat_template", [True, False])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_without_a_mask_is_refused(organism, prompts, chat_template, side):
    """As some evaluation harnesses call a model. It can't be seen in the text of a plain prompt."""
    form = templated if chat_template else plain
    ids, mask = pad(organism, [form(organism, one) for one in prompts["prompt"][:8]], side)
    assert not mask.all()
    with (
        fit(organism, chat_template=chat_template).attach() as steered,
        torch.no_grad(),
        pytest.raises(ValueError, match="no attention_mask"),
    ):
        steered(ids)


def test_padding_without_a_mask_would_flip_decisions(organism, wrapper, prompts):
    """What a gate reads from a padding token is not what it reads from the prompt."""
    english = prompts.query("language == 'en'")
    ids, mask = pad(organism, [templated(organism, one) for one in english["prompt"]], "right")
    short = (mask[:, -1] == 0).numpy()
    gate = wrapper.gate_[-1]
    scores = gate.harm_score(read(organism, ids), language="en")
    expected = wrapper.decision_function(english["prompt"], language="en")
    assert short.any()
    assert ((scores > 0) != (expected > 0))[short].any()


@pytest.mark.parametrize("chat_template", [True, False])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_with_a_mask_is_decided_as_without_padding(organism, prompts, chat_template, side):
    """The tokens are compared, and read, where the mask ends."""
    fitted = fit(organism, chat_template=chat_template)
    form = templated if chat_template else plain
    few = prompts["prompt"][:8]
    ids, mask = pad(organism, [form(organism, one) for one in few], side)
    logged = []
    with fitted.attach(on_decision=logged.append) as steered, torch.no_grad():
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        steered(ids, attention_mask=mask, position_ids=positions)
    (decisions,) = logged
    np.testing.assert_allclose(
        decisions["harm_score"], fitted.decision_function(few), atol=1e-3, rtol=1e-4
    )


def test_a_call_that_ends_does_not_disturb_another_thread(organism, wrapper, prompts):
    """Its hooks go while the other thread's forward pass, begun before, still holds them."""
    ids = templated(organism, prompts["prompt"].iloc[0])
    first_is_in, second_is_in, first_is_done = (threading.Event() for _ in range(3))
    first = []

    def meet(module, args):  # it comes before the hooks of both calls
        if threading.get_ident() == first[0]:
            first_is_in.set()
            assert second_is_in.wait(60)
        else:
            second_is_in.set()
            assert first_is_done.wait(60)

    def run():
        return steered.generate(ids, attention_mask=torch.ones_like(ids), **NO_TOKENS)

    def run_first():
        first.append(threading.get_ident())
        found = run()
        first_is_done.set()
        return found

    handle = organism.model.model.register_forward_pre_hook(meet)
    try:
        with wrapper.attach("en") as steered, ThreadPoolExecutor(2) as pool:
            one = pool.submit(run_first)
            assert first_is_in.wait(60)
            two = pool.submit(run)
            assert torch.equal(one.result(), two.result())
    finally:
        handle.remove()
