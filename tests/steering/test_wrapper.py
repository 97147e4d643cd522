"""SteeringWrapper: one generate() that decides and steers, against the slow way."""

from __future__ import annotations

import copy
import threading
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from shifted import pooled_gate
from sklearn import config_context
from sklearn.base import clone, is_classifier
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tiny import make_model
from transformers import GenerationConfig

from skgate import ActivationTransformer, LatentGate, SteeringWrapper
from skgate.gate._calibration import Calibration
from skgate.steering._generation import generate_batch

HARMLESS, HARMFUL = ["boil", "stop", "sat"], ["kill", "ran", "away"]
THINGS = ["egg", "process now", "mat", "there the cat", "who"]
PROMPTS = [f"{verb} {thing}" for verb in HARMLESS + HARMFUL for thing in THINGS]
Y = np.repeat([0, 1], 15)
LANGUAGE = np.tile(["de", "en", "fr"], 10)
MIXED = [
    "kill egg",
    "the cat sat on the mat and then it ran away",
    "boil who",
    "ran",
    "stop it now",
]
GREEDY = {"do_sample": False, "max_new_tokens": 8}


class Words:
    """A judge for models that babble: a reply with the word is a refusal."""

    def __init__(self, word="who"):
        self.word = word

    def is_refusal(self, replies, prompts=None, language=None):
        return np.array([self.word in reply for reply in replies])


def make_telling_model(architecture, tokenizer, **settings):
    """Make a random model, to which the harmful words have something in common."""
    model = make_model(architecture, **settings)
    common = torch.randn(16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        embeddings = model.get_input_embeddings().weight
        embeddings[tokenizer.convert_tokens_to_ids(HARMFUL)] += 2 * common
    return model


@pytest.fixture
def model(tokenizer):
    return make_telling_model("llama", tokenizer)


def make_wrapper(model, tokenizer, layer=1, position="last", **params):
    reader = ActivationTransformer(model, tokenizer=tokenizer, layer=layer, position=position)
    gate = pooled_gate(calibration="threshold")
    wrapper = SteeringWrapper(make_pipeline(reader, gate), **params)
    return (
        wrapper.set_params(generate_kwargs=GREEDY) if "generate_kwargs" not in params else wrapper
    )


@pytest.fixture
def wrapper(model, tokenizer):
    return make_wrapper(model, tokenizer, strength=2.0).fit(PROMPTS, Y, language=LANGUAGE)


def apply_template(tokenizer, prompts):
    tokenizer.pad_token = tokenizer.unk_token
    try:
        return tokenizer.apply_chat_template(
            [[{"role": "user", "content": prompt}] for prompt in prompts],
            add_generation_prompt=True,
            padding=True,
            return_tensors="pt",
            return_dict=True,
            tokenizer_kwargs={"padding_side": "left"},
        )
    finally:
        tokenizer.pad_token = None


def slow_way(wrapper, tokenizer, prompts, language=None, batched=True, **options):
    """Extract, decide, then generate under a hook with everything known beforehand."""
    pipe = wrapper.gate_
    reader, gate = pipe[0], pipe[-1]
    model = reader.model
    blocks = next(
        m
        for m in model.modules()
        if isinstance(m, torch.nn.ModuleList) and len(m) == model.config.num_hidden_layers
    )
    scores = gate.harm_score(reader.transform(prompts), language=language)
    harmful = torch.tensor(scores > 0)
    v = torch.tensor(gate.direction_, dtype=torch.float32)
    alpha = wrapper.strength * gate.projection_gap_
    encoded = apply_template(tokenizer, prompts)
    width = encoded["input_ids"].shape[1]
    seen = [0]

    def steer(module, args, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        start = 0 if hidden.shape[1] > 1 else seen[0]
        seen[0] = start + hidden.shape[1]
        rows = harmful.repeat_interleave(len(hidden) // len(harmful))
        for row, is_harmful in enumerate(rows):
            for column in range(hidden.shape[1]):
                h = hidden[row, column]
                if not is_harmful:
                    hidden[row, column] = h - (h @ v) * v
                elif start + column >= width - 1:
                    hidden[row, column] = h + alpha * v
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = blocks[reader.layer].register_forward_hook(steer)
    try:
        with torch.no_grad():
            ids = model.generate(**encoded, pad_token_id=0, **options)
    finally:
        handle.remove()
    texts = tokenizer.batch_decode(ids[:, width:], skip_special_tokens=True)
    n = len(texts) // len(prompts)
    return scores, [texts[i : i + n] if n > 1 else texts[i] for i in range(0, len(texts), n)]


def count_hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


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


@pytest.mark.parametrize("position", ["mean", "instruction", -2])
def test_gates_at_other_positions(model, tokenizer, position):
    wrapper = make_wrapper(model, tokenizer, position=position).fit(PROMPTS, Y)
    replies, decisions = wrapper.generate(MIXED, return_decisions=True, num_beams=2)
    assert len(replies) == len(MIXED)
    scores = wrapper.gate_[-1].harm_score(wrapper.gate_[0].transform(MIXED))
    np.testing.assert_allclose(decisions["harm_score"], scores, atol=1e-4)


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
    assert list(decisions) == ["language", "harmful", "harm_score", "action", "gate_version"]
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


def test_replies_do_not_depend_on_batches(wrapper):
    together = wrapper.generate(PROMPTS)
    wrapper.set_params(batch_tokens=1)
    assert wrapper.generate(PROMPTS) == together
    assert wrapper.generate(PROMPTS[::-1]) == together[::-1]


def test_decisions_do_not_depend_on_neighbours_with_other_rotary_frequencies(
    tokenizer, monkeypatch
):
    model = make_telling_model("phi3_longrope", tokenizer)
    wrapper = make_wrapper(model, tokenizer, generate_kwargs={"max_new_tokens": 1})
    wrapper.fit(PROMPTS, Y)
    prompts = [f"kill {'egg ' * n}" for n in (1, 20, 40)]

    def scores(prompts):
        return wrapper.generate(prompts, return_decisions=True)[1]["harm_score"].to_numpy()

    alone = np.concatenate([scores([prompt]) for prompt in prompts])
    np.testing.assert_allclose(scores(prompts), alone, atol=1e-5)
    sizes = []
    monkeypatch.setattr(
        "skgate.steering._wrapper.generate_batch",
        lambda model, ids, *args: sizes.append(len(ids)) or generate_batch(model, ids, *args),
    )
    scores(prompts)
    assert sizes == [1, 2]  # the long one alone; padding was found harmless to the others


def test_verbose_shows_progress(wrapper, capsys):
    wrapper.set_params(verbose=True).generate(MIXED)
    assert "5/5" in capsys.readouterr().err
    wrapper.set_params(verbose=False).generate(MIXED)
    assert not capsys.readouterr().err


def test_a_model_that_left_padding_disturbs_gets_batches_of_equal_length(tokenizer, monkeypatch):
    """GPT-2 without position ids: a padded prompt is another prompt to it."""
    model = make_telling_model("gpt2", tokenizer)
    wrapper = make_wrapper(model, tokenizer, strength=1.0).fit(PROMPTS, Y)
    prepare = type(model).prepare_inputs_for_generation

    def without_positions(self, *args, **kwargs):
        return {**prepare(self, *args, **kwargs), "position_ids": None}

    monkeypatch.setattr(type(model), "prepare_inputs_for_generation", without_positions)
    alone = [wrapper.generate([prompt], return_decisions=True) for prompt in MIXED]
    replies, decisions = wrapper.generate(MIXED, return_decisions=True)
    expected = [one["harm_score"][0] for _, one in alone]
    np.testing.assert_allclose(decisions["harm_score"], expected, atol=1e-5)
    assert replies == [reply for (reply,), _ in alone]


@pytest.mark.parametrize("setting", ["num_beams", "num_return_sequences"])
def test_left_padding_is_tried_without_beams_and_further_replies(
    wrapper, model, setting, monkeypatch
):
    from skgate.steering import _wrapper

    sizes = []

    def count(language_model, prompts, *args):
        sizes.append(len(prompts))
        return generate_batch(language_model, prompts, *args)

    generate_batch = _wrapper.generate_batch
    monkeypatch.setattr(_wrapper, "generate_batch", count)
    model.generation_config.do_sample = True
    setattr(model.generation_config, setting, 2)
    wrapper.generate(MIXED, do_sample=True)
    assert sizes == [5]


def test_left_padding_is_tried_at_every_layer_and_in_every_dtype(model, tokenizer, monkeypatch):
    """Here it comes in at the third block, and weighs little: more than float32 rounds."""
    from skgate.activations._transformer import Request
    from skgate.model._loading import find_parts
    from skgate.steering._padding import left_padding_is_exact

    third, forward = model.model.layers[2], type(model.model.layers[2]).forward

    def leaking(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        return output + 0.02 * output.mean(1, keepdim=True) if self is third else output

    monkeypatch.setattr(type(third), "forward", leaking)
    long, short = (Request(np.arange(1, n), n - 2) for n in (9, 5))

    def is_exact(layer):
        return left_padding_is_exact(find_parts(model, tokenizer), layer, long, short, {})

    model.to(torch.bfloat16)
    assert is_exact(1)
    assert is_exact(3)
    model.to(torch.float32)
    assert is_exact(1)
    assert not is_exact(3)


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
    with pytest.warns(UserWarning, match=r"language \['yo'\] was never seen"):
        wrapper.generate(["kill egg"], language="yo")


def test_each_prompt_has_its_own_place_in_callbacks(wrapper, tokenizer):
    """Whatever the order in which the prompts are run."""
    words = ["egg", "cat", "who", "mat", "now"]
    forced = [tokenizer.convert_tokens_to_ids(word) for word in words]
    replies = wrapper.generate(
        MIXED, prefix_allowed_tokens_fn=lambda i, ids: [forced[i]], max_new_tokens=2
    )
    assert replies == [f"{word} {word}" for word in words]


def test_prompts_keep_their_places_among_return_sequences(wrapper, tokenizer):
    words = ["egg", "cat", "who", "mat", "now"]
    forced = [tokenizer.convert_tokens_to_ids(word) for word in words]
    options = {"max_new_tokens": 2, "num_return_sequences": 2}
    for ways in ({"do_sample": True}, {"num_beams": 2}):
        replies = wrapper.generate(
            MIXED, prefix_allowed_tokens_fn=lambda i, ids: [forced[i]], **options, **ways
        )
        assert replies == [2 * [f"{word} {word}"] for word in words]


def test_what_follows_the_end_is_no_reply(wrapper, model, tokenizer):
    """Whichever token pads."""
    end, pad = (tokenizer.convert_tokens_to_ids(word) for word in ("now", "cat"))
    alone = wrapper.generate(MIXED, max_new_tokens=12)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = end, pad
    expected = [reply.split("now")[0].strip() for reply in alone]
    assert wrapper.generate(MIXED, max_new_tokens=12) == expected


# State


def test_nothing_is_left_behind(wrapper, model):
    calls = []
    model.model.layers[1].register_forward_hook(lambda *args: calls.append(1))
    n_hooks, attributes = count_hooks(model), set(model.__dict__)
    wrapper.generate(MIXED)
    assert calls

    class Interrupt:
        def __init__(self, error):
            self.error = error

        def __call__(self, ids, scores, **kwargs):
            raise self.error

    for error in (ValueError("stop here"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            wrapper.generate(MIXED, stopping_criteria=[Interrupt(error)])
    with pytest.raises(ZeroDivisionError), wrapper.attach() as steered:  # noqa: PT012 - in use
        steered.generate(torch.ones(1, 3, dtype=torch.int64), max_new_tokens=2, pad_token_id=0)
        raise ZeroDivisionError
    assert count_hooks(model) == n_hooks
    assert set(model.__dict__) == attributes


def test_a_second_call_decides_anew(wrapper):
    first = wrapper.generate(["kill egg"], return_decisions=True)[1]["harm_score"][0]
    second = wrapper.generate(["boil egg"], return_decisions=True)[1]["harm_score"][0]
    assert first != second
    assert wrapper.generate(["kill egg"], return_decisions=True)[1]["harm_score"][0] == first


def test_an_attached_view_is_steered_in_any_thread_and_the_model_is_not(wrapper, model, tokenizer):
    from transformers import TextIteratorStreamer

    encoded = apply_template(tokenizer, ["kill process now"])
    options = {**GREEDY, "max_new_tokens": 20, "pad_token_id": 0}
    plain = model.generate(**encoded, **options)
    expected = wrapper.generate(["kill process now"], language="en", max_new_tokens=20)[0]
    with wrapper.attach("en") as steered:
        for _ in range(3):
            streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
            thread = threading.Thread(
                target=steered.generate, kwargs={**encoded, **options, "streamer": streamer}
            )
            thread.start()
            beside = [model.generate(**encoded, **options) for _ in range(3)]
            text = "".join(streamer)
            thread.join()
            assert text.strip() == expected
            assert all(torch.equal(ids, plain) for ids in beside)
    assert tokenizer.decode(plain[0, encoded["input_ids"].shape[1] :]) != expected


def test_an_attached_view_keeps_the_gate_it_was_lent_with(wrapper, tokenizer):
    scores = wrapper.gate_[-1].harm_score(wrapper.gate_[0].transform(PROMPTS))
    less, most = (PROMPTS[i] for i in np.argsort(scores)[-2:])
    assert np.sort(scores)[-2] > 0
    inputs = apply_template(tokenizer, [less])
    fitted = SteeringWrapper(wrapper.gate_, strength=2.0, generate_kwargs=GREEDY)
    with fitted.attach() as early:
        before = early.generate(**inputs, **GREEDY)
        for _ in range(2):  # the first call copies the gate, the next one changes that copy
            fitted.partial_fit([less, most], [0, 1])
            assert torch.equal(early.generate(**inputs, **GREEDY), before)
        with fitted.attach() as late:
            assert not torch.equal(late.generate(**inputs, **GREEDY), before)


def test_settings_of_an_attached_view_count(wrapper, model, tokenizer):
    inputs = apply_template(tokenizer, MIXED[:1])
    with wrapper.attach() as steered:
        steered.generation_config = GenerationConfig(max_new_tokens=2, do_sample=False)
        ids = steered.generate(**inputs)
        assert ids.shape[1] == inputs["input_ids"].shape[1] + 2
        steered.generation_config = GenerationConfig(prompt_lookup_num_tokens=2)
        with pytest.raises(ValueError, match="prompt-lookup decoding is not supported"):
            steered.generate(**inputs)
    assert model.generation_config.max_new_tokens != 2


def test_an_attached_view_is_a_model_like_any_other(wrapper, model, tokenizer):
    from transformers import pipeline

    expected = wrapper.generate(["kill process now"])[0]
    with wrapper.attach() as steered:
        assert isinstance(steered, type(model))
        chat = pipeline("text-generation", model=steered, tokenizer=tokenizer)
        messages = [{"role": "user", "content": "kill process now"}]
        reply = chat(messages, **GREEDY, return_full_text=False)[0]["generated_text"]
        assert reply.strip() == expected
        assert steered.model is model.model
    with pytest.raises(RuntimeError, match="no longer attached"):
        steered.generate(torch.ones(1, 3, dtype=torch.int64))


def test_a_plain_forward_through_the_view_counts_as_a_prompt(wrapper, model, tokenizer):
    encoded = apply_template(tokenizer, MIXED)
    right = {
        k: torch.stack(
            [row.roll(-int((encoded["attention_mask"][i] == 0).sum())) for i, row in enumerate(v)]
        )
        for k, v in encoded.items()
    }
    with wrapper.attach() as steered, torch.no_grad():
        left_padded = steered(
            **encoded, position_ids=(encoded["attention_mask"].cumsum(1) - 1).clamp(min=0)
        ).logits[:, -1]
        logits = steered(**right).logits
        last = right["attention_mask"].sum(1) - 1
        torch.testing.assert_close(
            logits[torch.arange(len(MIXED)), last], left_padded, atol=1e-5, rtol=1e-5
        )
        cache = model(torch.ones(1, 3, dtype=torch.int64), use_cache=True).past_key_values
        with pytest.raises(RuntimeError, match="past_key_values hold 3 tokens"):
            steered(torch.ones(1, 1, dtype=torch.int64), past_key_values=cache)
        plain = model(**right).logits
    assert not torch.allclose(plain, logits)


# What can't be steered says so


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prefill_chunk_size": 4}, "prefill_chunk_size=4: a prefill in chunks"),
        ({"prompt_lookup_num_tokens": 2}, "prompt_lookup_num_tokens=2"),
        ({"guidance_scale": 1.5}, "guidance_scale=1.5"),
        ({"input_ids": torch.ones(1, 3)}, "input_ids was given"),
        ({"attention_mask": torch.ones(1, 3)}, "attention_mask was given"),
    ],
)
def test_unsupported_options(wrapper, options, message):
    with pytest.raises(ValueError, match=message):
        wrapper.generate(MIXED[:1], **options)


def test_assisted_decoding_is_refused_everywhere(wrapper, model):
    with pytest.raises(ValueError, match="assistant_model='LlamaForCausalLM': assisted decoding"):
        wrapper.generate(MIXED[:1], assistant_model=model)
    ids = torch.ones(1, 3, dtype=torch.int64)
    with wrapper.attach() as steered:
        with pytest.raises(ValueError, match="assistant_model"):
            steered.generate(ids, assistant_model=model, max_new_tokens=3)
        model.generation_config.prefill_chunk_size = 2
        with pytest.raises(ValueError, match="prefill_chunk_size=2"):
            steered.generate(ids, max_new_tokens=3)


def test_a_reused_cache_is_refused(wrapper, model):
    ids = torch.ones(1, 5, dtype=torch.int64)
    cache = model(ids[:, :3], use_cache=True).past_key_values
    with wrapper.attach() as steered, pytest.raises(RuntimeError, match="not steered"):
        steered.generate(ids, past_key_values=cache, max_new_tokens=3, pad_token_id=0)


def test_a_model_whose_hooks_do_not_fire_is_refused(wrapper, model, monkeypatch):
    """As compiled blocks do: call forward directly, past the hooks."""
    block = model.model.layers[1]
    monkeypatch.setattr(type(block), "__call__", type(block).forward)
    with pytest.raises(RuntimeError, match="hooks never fired"):
        wrapper.generate(MIXED)


@pytest.mark.filterwarnings("ignore")  # torch's own, about graph breaks
def test_a_compiled_model_is_steered_or_refused(wrapper, model, tokenizer):
    expected = wrapper.generate(MIXED)
    plain = wrapper.set_params(on_harmful=None, on_harmless=None).generate(MIXED)
    wrapper.set_params(on_harmful="add", on_harmless="ablate")
    assert expected != plain
    model.model.compile(backend="eager")
    model.generate(**apply_template(tokenizer, MIXED), **GREEDY, pad_token_id=0)
    with pytest.raises(RuntimeError, match="hooks never fired"):
        wrapper.generate(MIXED)
    model.model._compiled_call_impl = None
    torch.compiler.reset()
    wrapper.gate_[0].set_params(model=torch.compile(model, backend="eager"))
    assert wrapper.generate(MIXED) == expected


def test_activations_that_are_not_finite_are_refused(wrapper, model, tokenizer):
    token = tokenizer.convert_tokens_to_ids("mat")
    with torch.no_grad():
        model.model.embed_tokens.weight[token] = float("inf")
    wrapper.gate_[-1].activation_source_ = None  # (these are other weights)
    with pytest.raises(RuntimeError, match="not finite"):
        wrapper.generate(["kill mat"])


def test_continuous_batching_is_refused(wrapper):
    with wrapper.attach() as steered, pytest.raises(NotImplementedError, match="expected generate"):
        steered.generate_batch([[1, 2, 3]])


@pytest.mark.parametrize("chunk", [1, 2, 6])
def test_a_positional_generation_config_is_checked_too(wrapper, chunk):
    from transformers import GenerationConfig

    config = GenerationConfig(prefill_chunk_size=chunk, max_new_tokens=3, pad_token_id=0)
    ids = torch.ones(1, 7, dtype=torch.int64)
    with (
        wrapper.attach() as steered,
        pytest.raises(ValueError, match=f"prefill_chunk_size={chunk}"),
    ):
        steered.generate(ids, config)


def test_forward_passes_of_callbacks_are_not_taken_for_the_generations_own(wrapper, model):
    expected, decisions = wrapper.generate(["kill process now"], return_decisions=True)
    other = wrapper.predict(["boil egg mat"])
    activations = wrapper.gate_[0].transform(["stop who there"])

    class Nosy:
        """A streamer that asks the gate about another prompt of the same length."""

        def put(self, value):
            reader = clone(wrapper.gate_[0]).set_params(store=False)
            np.testing.assert_array_equal(wrapper.predict(["boil egg mat"]), other)
            found = reader.transform(["stop who there"])
            np.testing.assert_allclose(found, activations, atol=1e-6)

        def end(self):
            self.put(None)

    replies, seen = wrapper.generate(["kill process now"], return_decisions=True, streamer=Nosy())
    assert replies == expected
    assert seen["harm_score"][0] == decisions["harm_score"][0]


def test_a_scaling_column_transformer_is_refused(model, tokenizer):
    reader = ActivationTransformer(model, tokenizer=tokenizer, layer=1)
    columns = ColumnTransformer(
        [("activations", reader, "prompt")], transformer_weights={"activations": 10.0}
    )
    wrapper = SteeringWrapper(make_pipeline(columns, LatentGate()))
    with pytest.raises(ValueError, match=r"transformer_weights .* by 10\.0; expected 1"):
        wrapper.fit(pd.DataFrame({"prompt": PROMPTS}), Y)


def test_a_plain_forward_needs_a_mask_that_tells_padding(wrapper):
    ids = torch.ones(2, 4, dtype=torch.int64)
    with wrapper.attach() as steered, pytest.raises(RuntimeError, match="tells prompts from pad"):
        steered(ids, attention_mask=torch.zeros(2, 1, 4, 4))


def test_several_layers_are_refused(model, tokenizer):
    wrapper = make_wrapper(model, tokenizer, layer=[1, 2]).fit(PROMPTS, Y)
    with pytest.raises(ValueError, match=r"means the layers \[1, 2\]; expected a single one"):
        wrapper.generate(MIXED)


def test_models_that_cannot_generate_are_refused(model, tokenizer):
    wrapper = make_wrapper(model.model, tokenizer).fit(PROMPTS, Y)
    with pytest.raises(ValueError, match="model is a LlamaModel, which can't generate"):
        wrapper.generate(MIXED)


def test_a_gap_that_is_not_positive_is_refused(wrapper):
    wrapper.gate_[-1].projection_gap_ = -0.5
    with pytest.raises(ValueError, match=r"projection_gap_=-0\.5 of the gate is not positive"):
        wrapper.generate(MIXED)


def test_another_tokenizer_is_refused(wrapper, tokenizer):
    other = copy.deepcopy(tokenizer)
    other.add_tokens(["tok"])
    wrapper.gate_[0].set_params(tokenizer=other)
    with pytest.raises(ValueError, match=r"other activations .*tokenizer="):
        wrapper.generate(MIXED)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": 2}, r"layer=\(2,\) instead of \(1,\)"),
        ({"position": "mean"}, "position='mean' instead of 'last'"),
        ({"system_prompt": "please"}, "template="),
        ({"model": "other"}, "weights="),
    ],
)
def test_a_gate_fitted_elsewhere_is_refused(wrapper, tokenizer, change, message):
    if "model" in change:
        change = {"model": make_telling_model("llama", tokenizer, rms_norm_eps=1e-2, n_layers=5)}
    wrapper.gate_[0].set_params(**change)
    with pytest.raises(ValueError, match=f"fitted on other activations .*{message}"):
        wrapper.generate(MIXED)
    with pytest.raises(ValueError, match="other activations"), wrapper.attach():
        pass


@pytest.mark.parametrize(
    ("prompts", "kwargs", "message"),
    [
        ("kill egg", {}, "got a single string"),
        ([], {}, "got an empty one"),
        ([None], {}, r"prompts\[0\] is None"),
        (["kill egg"], {"language": ["en", "de"]}, "language has length 2, expected 1"),
        (["kill egg"], {"language": ""}, r"language\[0\] is an empty string"),
        (["kill " * 70], {}, r"X\[0\] has 7\d tokens, more than the 64"),
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
        ({"layer": 1}, "layer=1 was given, but gate is a Pipeline"),
    ],
)
def test_bad_parameters(model, tokenizer, params, message):
    with pytest.raises(ValueError, match=message):
        make_wrapper(model, tokenizer).set_params(**params).fit(PROMPTS, Y)


def test_bad_gates(model, tokenizer):
    with pytest.raises(ValueError, match="model is None; expected one, since gate is a bare"):
        SteeringWrapper(LatentGate()).fit(PROMPTS, Y)
    reader = ActivationTransformer(model, tokenizer=tokenizer, layer=1)
    scaled = make_pipeline(reader, StandardScaler(), LatentGate())
    with pytest.raises(ValueError, match=r"'StandardScaler'.*directly followed by a LatentGate"):
        SteeringWrapper(scaled).fit(PROMPTS, Y)
    with pytest.raises(ValueError, match="'gate' parameter"):
        SteeringWrapper(StandardScaler()).fit(PROMPTS, Y)
    with pytest.raises(TypeError, match="gate is a LogisticRegression; expected a Pipeline"):
        SteeringWrapper(LogisticRegression()).fit(PROMPTS, Y)


def test_attach_takes_one_language_and_known_positions(wrapper, model, tokenizer):
    with pytest.raises(TypeError, match=r"language=\['en'\]; expected one"), wrapper.attach(["en"]):
        pass
    other = make_wrapper(model, tokenizer, position="instruction").fit(PROMPTS, Y)
    with pytest.raises(ValueError, match="position='instruction' is not known"), other.attach():
        pass


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
    with pytest.raises(NotFittedError, match="gate is not fitted yet"):
        clone(bare).generate(MIXED)


def test_fit_leaves_the_given_gate_alone(model, tokenizer):
    wrapper = make_wrapper(model, tokenizer).fit(PROMPTS, Y, language=LANGUAGE)
    assert not hasattr(wrapper.gate[-1], "classes_")
    given = wrapper.gate_
    again = SteeringWrapper(given, generate_kwargs=GREEDY)
    again.partial_fit(PROMPTS[10:20], Y[10:20], language="sw")
    assert "sw" in again.gate_[-1].languages_
    assert "sw" not in given[-1].languages_
    again.partial_fit(PROMPTS[10:20], Y[10:20], language="yo")
    assert {"sw", "yo"} <= set(again.gate_[-1].languages_)
    frozen = SteeringWrapper(FrozenEstimator(given), generate_kwargs=GREEDY)
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
    wrapper = SteeringWrapper(make_pipeline(reader, gate), judge=Words(), generate_kwargs=GREEDY)
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
    assert "SteeringWrapper" in wrapper._repr_html_()
    assert "SteeringWrapper" in SteeringWrapper(LatentGate())._repr_html_()


def test_language_as_a_column(model, tokenizer):
    frame = pd.DataFrame({"prompt": PROMPTS, "language": LANGUAGE})
    columns = ColumnTransformer(
        [
            ("activations", ActivationTransformer(model, tokenizer=tokenizer, layer=1), "prompt"),
            ("language", "passthrough", ["language"]),
        ],
        verbose_feature_names_out=False,
    ).set_output(transform="pandas")
    gate = LatentGate(calibration="threshold", language_column="language")
    wrapper = SteeringWrapper(make_pipeline(columns, gate), generate_kwargs=GREEDY, strength=2.0)
    wrapper.fit(frame, Y)
    by_keyword = make_wrapper(model, tokenizer, strength=2.0).fit(PROMPTS, Y, language=LANGUAGE)
    assert wrapper.generate(frame) == by_keyword.generate(PROMPTS, language=LANGUAGE)
    wrapper.partial_fit(frame.assign(language="sw")[10:20], Y[10:20])
    assert "sw" in wrapper.gate_[-1].languages_
    wrapper.set_params(judge=Words())
    assert np.isfinite(wrapper.score(frame, Y))
    with pytest.raises(ValueError, match="expected a DataFrame with the column 'prompt'"):
        wrapper.generate(PROMPTS)


def test_clone_and_pickle(wrapper, model, tokenizer, tmp_path):
    bare = SteeringWrapper(LatentGate(), model=model, tokenizer=tokenizer, layer=1)
    assert clone(bare).model is model
    with pytest.raises(TypeError, match="model is a live LlamaForCausalLM"):
        joblib.dump(bare, tmp_path / "wrapper.joblib")
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    by_path = make_wrapper(str(tmp_path / "model"), None, strength=2.0)
    by_path.fit(PROMPTS, Y, language=LANGUAGE)
    joblib.dump(by_path, tmp_path / "wrapper.joblib")
    assert joblib.load(tmp_path / "wrapper.joblib").generate(MIXED) == wrapper.generate(MIXED)


# The sweeps


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


def test_strangers_are_told_of_where_decisions_count(wrapper, monkeypatch):
    gate = wrapper.gate_[-1].set_params(unknown_language="detect")
    monkeypatch.setattr(
        LatentGate, "_detected_languages", lambda _, rows: np.full(len(rows), None, dtype=object)
    )
    assert gate._detects()
    watching = wrapper.set_params(on_harmful=None, on_harmless=None)
    watching.generate(MIXED)  # as a plain model
    with pytest.warns(UserWarning, match="5 of 5 prompts look like no language") as found:
        watching.generate(MIXED, return_decisions=True)
    assert found[0].filename == __file__
    with pytest.warns(UserWarning, match="5 of 5 prompts look like no language"):
        wrapper.set_params(on_harmful="add").generate(MIXED)


def test_select_layer_ablates_one_layer_at_a_time(wrapper, model, tokenizer):
    wrapper.set_params(judge=Words("then"))
    table = wrapper.select_layer(PROMPTS, Y, PROMPTS[20:], language=LANGUAGE)
    assert table["layer"].tolist() == [0, 1, 2, 3]
    for layer, rate in zip(table["layer"], table["refusal_rate"], strict=True):
        other = make_wrapper(model, tokenizer, layer=layer).fit(PROMPTS, Y, language=LANGUAGE)
        everything = other.set_params(on_harmful=None)
        gate = everything.gate_[-1].set_params(unknown_language="source")
        gate._calibrations[None] = Calibration(gate._calibrator.zero_shot.lowered(1e9))
        replies = everything.generate(PROMPTS[20:])
        assert rate == np.mean(["then" in reply for reply in replies])


def test_select_strength_steers_everything(wrapper):
    wrapper.set_params(judge=Words("then"))
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
    for wrong in ([True], [2, 0, 0, 0], None):
        with pytest.raises(ValueError, match="expected True or False for each of the 4 replies"):
            wrapper.select_strength(
                PROMPTS[:4], strengths=[0.0], is_garbled=lambda replies, wrong=wrong: wrong
            )
