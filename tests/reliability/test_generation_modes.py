"""Every way of generating: steered as two bare passes steer, or refused by name."""

from __future__ import annotations

import copy
import threading
from contextlib import contextmanager
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from bare import (
    GREEDY,
    LANGUAGE,
    PROMPTS,
    Y,
    bare_ids,
    bare_row,
    find_blocks,
    let_harmful_words_share,
)
from shifted import pooled_gate, steered_part
from sklearn.pipeline import make_pipeline
from tiny import make_model

from skgate import ActivationTransformer, SteeringWrapper

LAYER, STRENGTH = 1, 2.0
FEW = ["kill egg", "the cat sat on the mat and then it ran away", "boil who", "ran", "stop it now"]
OPTIONS = {**GREEDY, "pad_token_id": 0}


@pytest.fixture
def model(tokenizer):
    return let_harmful_words_share(make_model("llama"), tokenizer)


def fit(model, tokenizer, generate_kwargs=GREEDY, strength=STRENGTH, layer=LAYER, **params):
    """A fitted wrapper; ``params`` are those of the ActivationTransformer."""
    reader = ActivationTransformer(model, tokenizer=tokenizer, layer=layer, **params)
    pipeline = make_pipeline(reader, pooled_gate(calibration="threshold"))
    wrapper = SteeringWrapper(pipeline, strength=strength, generate_kwargs=generate_kwargs)
    return wrapper.fit(PROMPTS, Y, language=LANGUAGE)


@pytest.fixture
def wrapper(model, tokenizer):
    return fit(model, tokenizer)


@contextmanager
def two_passes(model, wrapper, ids, cached=True):
    """Decide by a bare pass over one prompt, then edit in a bare hook. Yields the score.

    ``cached`` says whether the passes after the first one cover one token or all.
    """
    gate, reader = wrapper.gate_[-1], wrapper.gate_[0]
    score = gate.harm_score(bare_row(model, ids, reader.activation_source())[None])[0]
    v = torch.tensor(steered_part(gate), dtype=torch.float32)
    alpha, seen = wrapper.strength * gate.projection_gap_, [0]

    def edit(module, args, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        start = seen[0] if cached else 0
        seen[0] += hidden.shape[1]
        for row in hidden:
            for column, h in enumerate(row.clone()):
                if score <= 0:
                    row[column] = h - (h @ v) * v
                elif start + column >= ids.shape[1] - 1:
                    row[column] = h + alpha * v
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = find_blocks(model)[max(np.atleast_1d(reader.layer))].register_forward_hook(edit)
    try:
        with torch.no_grad():
            yield score
    finally:
        handle.remove()


def slowly(model, tokenizer, wrapper, ids, **options):
    """The score of one prompt and its replies, as texts."""
    with two_passes(model, wrapper, ids, options.get("use_cache", True)) as score:
        torch.manual_seed(0)
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), **{**OPTIONS, **options}
        )
    return score, tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)


def check(model, tokenizer, wrapper, prompts=FEW, template=None, **options):
    """Compare wrapper and view with two passes, prompt by prompt; both decisions must occur."""
    scores = []
    for prompt in prompts:
        ids = bare_ids(tokenizer, prompt, **(template or {}))
        score, expected = slowly(model, tokenizer, wrapper, ids, **options)
        torch.manual_seed(0)
        replies, decisions = wrapper.generate([prompt], return_decisions=True, **options)
        assert np.atleast_1d(replies[0]).tolist() == expected
        np.testing.assert_allclose(decisions["harm_score"][0], score, rtol=1e-3, atol=1e-3)
        scores.append(score)
        if "instruction" in np.atleast_1d(wrapper.gate_[0].position):
            continue  # (views refuse it)
        with wrapper.attach() as steered:
            torch.manual_seed(0)
            out = steered.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), **{**OPTIONS, **options}
            )
        texts = tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
        assert texts == expected
    assert min(scores) < 0 < max(scores)


def count(model, wrapper, prompts, **options):
    """How many replies steering changes."""
    steered = wrapper.generate(prompts, **options)
    bare = copy.copy(wrapper).set_params(on_harmful=None, on_harmless=None)
    return sum(a != b for a, b in zip(steered, bare.generate(prompts, **options), strict=True))


SAMPLED = {"do_sample": True, "temperature": 0.7}
MODES = {
    "greedy": {},
    "sampling": SAMPLED,
    "several return sequences": {**SAMPLED, "num_return_sequences": 3},
    "beams": {"num_beams": 3},
    "beams, several return sequences": {"num_beams": 3, "num_return_sequences": 2},
    "beam sampling": {**SAMPLED, "num_beams": 3},
    "no cache": {"use_cache": False},
    "beams without a cache": {"use_cache": False, "num_beams": 3},
    "dynamic cache": {"cache_implementation": "dynamic"},
    "static cache": {"cache_implementation": "static"},
    "beams with a static cache": {"cache_implementation": "static", "num_beams": 3},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_equals_two_bare_passes(architecture, mode, tokenizer):
    """Gemma 2 has a mask for each kind of block, which a static cache makes it prepare."""
    model = let_harmful_words_share(make_model(architecture), tokenizer)
    wrapper = fit(model, tokenizer)
    check(model, tokenizer, wrapper, **MODES[mode])
    assert count(model, wrapper, FEW) > 0


PLACES = [
    (1, "mean"),
    (1, ["last", "mean"]),
    (1, ["instruction", "last"]),
    ([1, 3], "last"),
    ([1, 3], ["mean", "last"]),
    ([3, 1], ["last", "instruction", "mean"]),
]
FEW_MODES = ["greedy", "several return sequences", "beams, several return sequences", "no cache"]


@pytest.mark.parametrize("mode", FEW_MODES)
@pytest.mark.parametrize(("layer", "position"), PLACES, ids=str)
def test_gates_that_read_other_places_equal_bare_passes(layer, position, mode, model, tokenizer):
    """A bare pass for each place decides; the deepest layer is steered."""
    wrapper = fit(model, tokenizer, layer=layer, position=position)
    check(model, tokenizer, wrapper, **MODES[mode])
    assert count(model, wrapper, FEW, **MODES[mode]) > 0


@pytest.mark.parametrize(("layer", "position"), PLACES, ids=str)
def test_gates_that_read_other_places_decide_about_a_batch(layer, position, model, tokenizer):
    """Prompts of different length share it, padded."""
    wrapper = fit(model, tokenizer, layer=layer, position=position)
    alone = [wrapper.generate([prompt])[0] for prompt in FEW]
    assert wrapper.generate(FEW) == alone
    if "instruction" in position:
        return  # (views refuse it)
    batch = pad([bare_ids(tokenizer, prompt) for prompt in FEW], "left")
    with wrapper.attach() as steered:
        out = steered.generate(**batch, **OPTIONS)[:, batch["input_ids"].shape[1] :]
    assert tokenizer.batch_decode(out, skip_special_tokens=True) == alone


@pytest.mark.parametrize("mode", [m for m in MODES if "do_sample" not in MODES[m]])
def test_a_batch_equals_its_prompts_one_by_one(mode, model, wrapper):
    options = MODES[mode]
    alone = [wrapper.generate([prompt], **options)[0] for prompt in FEW]
    assert wrapper.generate(FEW, **options) == alone


@pytest.mark.parametrize("backend", ["quanto", "hqq"])
def test_a_quantised_cache(backend, model, tokenizer, wrapper):
    if find_spec({"quanto": "optimum", "hqq": "hqq"}[backend]) is None:
        pytest.skip(f"{backend} is not installed")
    config = {"backend": backend, "nbits": 4, "residual_length": 2, "q_group_size": 8}
    if backend == "hqq":
        config |= {"axis_key": 1, "axis_value": 1}
    check(model, tokenizer, wrapper, cache_implementation="quantized", cache_config=config)


@pytest.mark.parametrize("kind", ["offloaded", "offloaded_static"])
def test_an_offloaded_cache_needs_somewhere_to_offload_from(kind, model, tokenizer, wrapper):
    if torch.accelerator.is_available():
        pytest.skip("there is an accelerator")
    with pytest.raises(ValueError, match=f"cache_implementation='{kind}' on a machine without"):
        wrapper.generate(FEW, cache_implementation=kind)
    with wrapper.attach() as steered, pytest.raises(ValueError, match="to offload from"):
        steered.generate(bare_ids(tokenizer, FEW[0]), cache_implementation=kind)


# Prompts


@pytest.mark.parametrize("options", [{}, {"use_cache": False}, {"num_beams": 2}], ids=str)
def test_one_token_prompts(options, model, tokenizer):
    """The first forward pass is as long as the others."""
    template = {"chat_template": "{{ messages[0]['content'] }}"}
    wrapper = fit(model, tokenizer, chat_template_kwargs=template)
    prompts = ["kill", "boil", "away", "egg"]
    assert all(bare_ids(tokenizer, prompt, **template).shape == (1, 1) for prompt in prompts)
    check(model, tokenizer, wrapper, prompts, template, **options)
    assert count(model, wrapper, prompts, **options) > 0


THINKING = (
    "{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }} <|end|> {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> <|think|>"
    "{% if not enable_thinking | default(true) %} <|end|>{% endif %}{% endif %}"
)


@pytest.mark.parametrize("thinks", [True, False])
def test_thinking_templates(thinks, model, tokenizer):
    """The gate reads the last token, with which the template opens (or closes) the thoughts."""
    template = {"chat_template": THINKING, "enable_thinking": thinks}
    last = tokenizer.convert_ids_to_tokens(int(bare_ids(tokenizer, "egg", **template)[0, -1]))
    assert last == ("<|think|>" if thinks else "<|end|>")
    wrapper = fit(model, tokenizer, chat_template_kwargs=template)
    check(model, tokenizer, wrapper, template=template)


def test_a_chat_is_decided_at_each_turn(model, tokenizer, wrapper):
    chat, scores = [], []
    for turn in ["boil egg", "kill process now", "stop mat", "ran away"]:
        chat.append({"role": "user", "content": turn})
        score, (expected,) = slowly(model, tokenizer, wrapper, bare_ids(tokenizer, chat))
        (reply,), decisions = wrapper.generate([chat], return_decisions=True)
        assert reply == expected
        np.testing.assert_allclose(decisions["harm_score"][0], score, rtol=1e-3, atol=1e-3)
        chat.append({"role": "assistant", "content": reply})
        scores.append(score)
    assert len(set(np.round(scores, 3))) == 4
    assert min(scores) < 0 < max(scores)


def pad(rows, side):
    """Pad token ids of shape (1, n) to one batch."""
    width = max(ids.shape[1] for ids in rows)
    ids, mask = torch.zeros(2, len(rows), width, dtype=torch.int64)
    for row, given in enumerate(rows):
        place = slice(width - given.shape[1], None) if side == "left" else slice(given.shape[1])
        ids[row, place], mask[row, place] = given[0], 1
    return {"input_ids": ids, "attention_mask": mask}


def test_padding_on_the_right_is_refused(model, tokenizer, wrapper):
    """A reply would continue after the padding, and its first token would not be steered."""
    rows = [bare_ids(tokenizer, prompt) for prompt in FEW]
    expected = wrapper.generate(FEW)
    with wrapper.attach() as steered:
        left = pad(rows, "left")
        out = steered.generate(**left, **OPTIONS)[:, left["input_ids"].shape[1] :]
        assert tokenizer.batch_decode(out, skip_special_tokens=True) == expected
        with pytest.raises(ValueError, match=r"padding on the right in rows \[0, 2, 3, 4\]"):
            steered.generate(**pad(rows, "right"), **OPTIONS)


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}], ids=str)
def test_inputs_embeds(options, model, tokenizer, wrapper):
    for prompt in FEW:
        ids = bare_ids(tokenizer, prompt)
        _, expected = slowly(model, tokenizer, wrapper, ids, **options)
        embeds = model.get_input_embeddings()(ids).detach()
        with wrapper.attach() as steered, pytest.raises(ValueError, match="inputs_embeds"):
            steered.generate(inputs_embeds=embeds, **OPTIONS, **options)
        with (
            wrapper.attach(on_template_mismatch="warn") as steered,
            pytest.warns(UserWarning, match="inputs_embeds"),
        ):
            out = steered.generate(inputs_embeds=embeds, **OPTIONS, **options)
        assert tokenizer.batch_decode(out, skip_special_tokens=True) == expected


@pytest.mark.parametrize("position", [-3, ["last", "mean"]], ids=str)
def test_padding_is_known_with_a_static_cache(model, tokenizer, position):
    """The mask that it makes for the blocks does not say where a prompt begins."""
    wrapper = fit(model, tokenizer, position=position)
    batch = pad([bare_ids(tokenizer, prompt) for prompt in FEW], "left")
    decisions = []
    with wrapper.attach(on_decision=decisions.append) as steered:
        expected = steered.generate(**batch, **OPTIONS)
        static = steered.generate(**batch, **OPTIONS, cache_implementation="static")
    assert torch.equal(static, expected)
    np.testing.assert_allclose(decisions[1]["harm_score"], decisions[0]["harm_score"], atol=1e-3)
    wanted = wrapper.decision_function(FEW)
    np.testing.assert_allclose(decisions[1]["harm_score"], wanted, atol=1e-3)


# Loops of one's own


def test_a_loop_of_forward_passes_is_refused_at_its_second(model, tokenizer, wrapper):
    ids = bare_ids(tokenizer, "kill egg")
    with two_passes(model, wrapper, ids):
        expected = model(input_ids=ids).logits
    with wrapper.attach() as steered, torch.no_grad():
        first = steered(input_ids=ids, use_cache=True)
        torch.testing.assert_close(first.logits, expected)
        token = first.logits[:, -1:].argmax(-1)
        with pytest.raises(RuntimeError, match=r"loop of forward passes .* use generate\(\)"):
            steered(input_ids=token, past_key_values=first.past_key_values)


def test_a_cache_from_before_is_refused(model, tokenizer, wrapper):
    from transformers import DynamicCache

    with pytest.raises(ValueError, match=r"Got past_key_values, expected none.*of its own"):
        wrapper.generate(FEW, past_key_values=DynamicCache())
    ids, cache = bare_ids(tokenizer, FEW[0]), DynamicCache()
    with wrapper.attach() as steered:
        first = steered.generate(input_ids=ids, past_key_values=cache, **OPTIONS)
        expected = slowly(model, tokenizer, wrapper, ids)[1]
        assert tokenizer.batch_decode(first[:, ids.shape[1] :]) == expected
        longer = torch.cat([first, ids[:, 1:]], dim=1)  # another turn
        with pytest.raises(RuntimeError, match=r"past_key_values with \d+ tokens"):
            steered.generate(input_ids=longer, past_key_values=cache, **OPTIONS)


REFUSED = [
    ({"prompt_lookup_num_tokens": 2}, "prompt-lookup decoding is not supported"),
    ({"assistant_early_exit": 2}, "early-exit decoding is not supported"),
    ({"use_mtp": True}, "multi-token prediction is not supported"),
    ({"prefill_chunk_size": 2}, "a prefill in chunks is not supported"),
    ({"token_healing": True}, "token healing is not supported"),
    ({"guidance_scale": 1.5}, "classifier-free guidance is not supported"),
    ({"custom_generate": "folder"}, "a custom decoding loop is not supported"),
    ({"trust_remote_code": True, "dola_layers": "high"}, "loop from the hub is not supported"),
    ({"cache_implementation": "paged"}, "cache_implementation='paged'.* continuous batching"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=str)
def test_other_ways_of_decoding_are_refused_by_name(options, message, tokenizer, wrapper):
    with pytest.raises(ValueError, match=message):
        wrapper.generate(FEW, **options)
    with wrapper.attach() as steered, pytest.raises(ValueError, match=message):
        steered.generate(bare_ids(tokenizer, FEW[0]), **options)


def test_assisted_decoding_is_refused_with_any_assistant(model, tokenizer, wrapper):
    with pytest.raises(ValueError, match=r"'LlamaForCausalLM'.*assisted decoding"):
        wrapper.generate(FEW, assistant_model=make_model("llama", n_layers=1))


def test_options_that_are_switched_off_are_none(model, wrapper):
    off = {"token_healing": False, "guidance_scale": 1, "output_scores": False}
    assert wrapper.generate(FEW, **off) == wrapper.generate(FEW)


def test_paged_attention_is_refused(model, tokenizer, wrapper):
    model.config._attn_implementation = "paged|sdpa"  # noqa: SLF001  (as transformers sets it)
    wrapper.gate_[-1].activation_source_ = None  # (with other attention, it is another source)
    with pytest.raises(ValueError, match=r"attn_implementation='paged\|sdpa'"):
        wrapper.generate(FEW)


# What generate returns besides texts

OUTPUTS = [
    "return_dict_in_generate",
    "output_scores",
    "output_logits",
    "output_hidden_states",
    "output_attentions",
]


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_wrapper_does_not_drop_outputs_silently(name, model, wrapper):
    from transformers import GenerationConfig

    message = rf"Got {name}=True.*expected False.*attach\(\)"
    with pytest.raises(ValueError, match=message):
        wrapper.generate(FEW, **{name: True})
    config = GenerationConfig(max_new_tokens=2, **{name: True})
    with pytest.raises(ValueError, match=f"{name}=True in the generation_config"):
        wrapper.generate(FEW, generation_config=config)
    with pytest.raises(ValueError, match=message):
        wrapper.set_params(generate_kwargs={name: True}).generate(FEW)


def test_the_models_own_settings_count(model, wrapper):
    """Without return_dict_in_generate, transformers returns token ids and nothing else."""
    expected = wrapper.generate(FEW)
    model.generation_config.output_hidden_states = True
    assert wrapper.generate(FEW) == expected
    model.generation_config.return_dict_in_generate = True
    with pytest.raises(ValueError, match="return_dict_in_generate=True in the generation_config"):
        wrapper.generate(FEW)
    assert wrapper.generate(FEW, return_dict_in_generate=False) == expected


@pytest.mark.parametrize("hooks", ["installed before", "installed meanwhile"])
def test_a_view_returns_all_outputs_as_they_were_steered(hooks, tokenizer):
    """Also the hidden states of the steered block, whichever hook came first."""
    pytest.importorskip("transformers.utils.output_capturing")  # before, not by hooks
    model = make_model("llama", attn_implementation="eager")
    model.set_attn_implementation("eager")
    wrapper = fit(let_harmful_words_share(model, tokenizer), tokenizer)
    wanted = dict.fromkeys(OUTPUTS, True)
    for prompt in ["kill egg", "boil who"]:
        ids = bare_ids(tokenizer, prompt)
        if hooks == "installed before":
            with torch.no_grad():
                model(input_ids=ids, output_hidden_states=True, output_attentions=True)
        with wrapper.attach() as steered:
            out = steered.generate(ids, **OPTIONS, **wanted)
        handed_on = []
        with two_passes(model, wrapper, ids):
            handle = find_blocks(model)[LAYER + 1].register_forward_pre_hook(
                lambda module, args, seen=handed_on: seen.append(args[0].clone())
            )
            expected = model.generate(ids, attention_mask=torch.ones_like(ids), **OPTIONS, **wanted)
            handle.remove()
        torch.testing.assert_close(out.sequences, expected.sequences)
        torch.testing.assert_close(out.scores, expected.scores)
        torch.testing.assert_close(out.logits, expected.logits)
        torch.testing.assert_close(out.attentions, expected.attentions)
        for step, hidden in enumerate(handed_on):
            torch.testing.assert_close(out.hidden_states[step][LAYER + 1], hidden)
        assert len(handed_on) == len(out.hidden_states) > 1


# How the model runs


def compiled_whole(model):
    return torch.compile(model, backend="eager")


def compiled_forward(model):
    model.forward = torch.compile(model.forward, backend="eager")
    return model


def compiled_blocks(model):
    for block in model.model.layers:
        block.compile(backend="eager")
    return model


WAYS = [compiled_whole, compiled_forward, compiled_blocks]
TWO = ["away who", "boil who"]  # of one length


@pytest.fixture
def small(tokenizer):
    """A model that is soon compiled."""
    torch.compiler.reset()
    yield let_harmful_words_share(make_model("llama", n_layers=2), tokenizer)
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore")  # torch's own, about graph breaks
@pytest.mark.parametrize("compiled", WAYS)
def test_compiled_before_attaching(compiled, small, tokenizer):
    """The graph is made while hooks are there; the next call has other hooks."""
    wrappers = [fit(small, tokenizer, strength=s) for s in (0.5, 1.0)]
    expected = []
    for wrapper in wrappers:
        slow = [slowly(small, tokenizer, wrapper, bare_ids(tokenizer, p)) for p in TWO]
        expected.append([text for _, (text,) in slow])
        assert slow[1][0] < 0 < slow[0][0]
    assert expected[0][0] != expected[1][0]
    fast = compiled(small)
    for wrapper in wrappers:
        wrapper.gate_[0].set_params(model=fast)
    for wrapper, replies in 2 * list(zip(wrappers, expected, strict=True)):
        assert wrapper.generate(TWO) == replies


@pytest.mark.filterwarnings("ignore")  # torch's own, about graph breaks
@pytest.mark.parametrize("compiled", WAYS[1:])
def test_compiled_and_used_before_attaching(compiled, small, tokenizer):
    """The graph has been made without hooks: it is not used, or its use is an error."""
    wrapper = fit(small, tokenizer, strength=0.5)
    _, expected = slowly(small, tokenizer, wrapper, bare_ids(tokenizer, TWO[0]))
    fast = compiled(small)
    ids = bare_ids(tokenizer, TWO[0])
    plain = fast.generate(ids, attention_mask=torch.ones_like(ids), **OPTIONS)
    assert tokenizer.decode(plain[0, ids.shape[1] :], skip_special_tokens=True) != expected[0]
    try:
        found = wrapper.generate(TWO[:1])
    except RuntimeError as error:
        found = [str(error)]
    assert found == expected or "hooks of the steered block never fired" in found[0]


@pytest.mark.filterwarnings("ignore")  # torch's own, about graph breaks
@pytest.mark.parametrize("compiled", WAYS[:2])
def test_compiled_after_attaching(compiled, small, tokenizer):
    wrapper, model = fit(small, tokenizer), small
    for prompt in TWO:
        ids = bare_ids(tokenizer, prompt)
        _, expected = slowly(model, tokenizer, wrapper, ids)
        with wrapper.attach() as steered:
            fast = compiled(steered)
            for _ in range(2):
                out = fast.generate(ids, attention_mask=torch.ones_like(ids), **OPTIONS)
                texts = tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
                assert texts == expected


def test_streaming_and_pipelines_of_several_chats(model, tokenizer, wrapper):
    from transformers import TextIteratorStreamer, pipeline

    expected = wrapper.generate(FEW)
    chats = [[{"role": "user", "content": prompt}] for prompt in FEW]
    padded = copy.deepcopy(tokenizer)
    padded.pad_token, padded.padding_side = padded.unk_token, "left"
    with wrapper.attach() as steered:
        chat = pipeline("text-generation", model=steered, tokenizer=padded, batch_size=5)
        replies = chat(chats, **GREEDY, return_full_text=False)
        assert [reply[0]["generated_text"].strip() for reply in replies] == expected
        padded.padding_side = "right"
        with pytest.raises(ValueError, match="padding on the right"):
            chat(chats, **GREEDY)
    for prompt, text in zip(FEW, expected, strict=True):
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        thread = threading.Thread(
            target=wrapper.generate, args=([prompt],), kwargs={"streamer": streamer}
        )
        thread.start()
        assert "".join(streamer).strip() == text
        thread.join()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_mode_and_gradient_checkpointing(checkpointing, tokenizer):
    """Dropout is off and the cache is kept while skgate runs; then the model trains on."""
    settings = {"attn_pdrop": 0.5, "embd_pdrop": 0.5, "resid_pdrop": 0.5}
    model = let_harmful_words_share(make_model("gpt2", **settings), tokenizer)
    wrapper = fit(model, tokenizer)
    slow = {p: slowly(model, tokenizer, wrapper, bare_ids(tokenizer, p)) for p in FEW}
    model.train()
    if checkpointing:
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    replies, decisions = wrapper.generate(FEW, return_decisions=True)
    assert replies == [text for _, (text,) in slow.values()]
    expected = [score for score, _ in slow.values()]
    np.testing.assert_allclose(decisions["harm_score"], expected, rtol=1e-3, atol=1e-3)
    with wrapper.attach() as steered:
        ids = bare_ids(tokenizer, FEW[0])
        out = steered.generate(ids, attention_mask=torch.ones_like(ids), **OPTIONS)
    assert tokenizer.decode(out[0, ids.shape[1] :]) == replies[0]
    assert all(module.training for module in model.modules())


# transformers 5.2 sees only the weights on the meta device, not where they run.
@pytest.mark.filterwarnings("ignore:You are calling .generate")
def test_an_offloaded_model(model, tokenizer, wrapper):
    from accelerate import cpu_offload

    slow = [slowly(model, tokenizer, wrapper, bare_ids(tokenizer, p))[1][0] for p in FEW]
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert next(model.parameters()).is_meta
    assert wrapper.generate(FEW) == slow
    check(model, tokenizer, wrapper)


def quantised(kind):
    """What it takes to load a checkpoint with weights that a package quantises."""
    import transformers as t

    if kind == "torchao":
        from torchao.quantization import Int8WeightOnlyConfig

        config = t.TorchAoConfig(Int8WeightOnlyConfig())
    elif kind == "bitsandbytes 8 bits":
        config = t.BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = t.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    return {"quantization_config": config, "device_map": "cpu"}


@pytest.mark.filterwarnings("ignore")  # the packages' own
@pytest.mark.parametrize("kind", ["torchao", "bitsandbytes 8 bits", "bitsandbytes 4 bits"])
def test_quantised_weights(kind, tmp_path, tokenizer):
    """The gate is fitted on the quantised model's activations, live or by path."""
    from transformers import AutoModelForCausalLM

    if find_spec(kind.split()[0]) is None:
        pytest.skip(f"{kind.split()[0]} is not installed")
    model = make_model("llama", hidden_size=64, intermediate_size=128)
    let_harmful_words_share(model, tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    live = AutoModelForCausalLM.from_pretrained(tmp_path, **quantised(kind))
    wrapper = fit(live, tokenizer)
    check(live, tokenizer, wrapper)
    by_path = fit(str(tmp_path), None, model_kwargs=quantised(kind))
    assert by_path.generate(FEW) == wrapper.generate(FEW)
    assert (
        wrapper.gate_[-1].activation_source_.weights
        != fit(model, tokenizer).gate_[-1].activation_source_.weights
    )
