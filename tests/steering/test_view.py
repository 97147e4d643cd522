"""attach(): a steered view of a model that is itself not steered."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from steered import GREEDY, MIXED, PROMPTS, Y, apply_template, make_wrapper
from transformers import GenerationConfig

from skgate import SteeringWrapper


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
        with pytest.raises(RuntimeError, match="Got past_key_values with 3 tokens"):
            steered(torch.ones(1, 1, dtype=torch.int64), past_key_values=cache)
        plain = model(**right).logits
    assert not torch.allclose(plain, logits)


def test_a_plain_forward_needs_a_mask_that_tells_padding(wrapper):
    ids = torch.ones(2, 4, dtype=torch.int64)
    with (
        wrapper.attach() as steered,
        pytest.raises(RuntimeError, match="prompts from padding"),
    ):
        steered(ids, attention_mask=torch.zeros(2, 1, 4, 4))


def test_assisted_decoding_is_refused_everywhere(wrapper, model):
    with pytest.raises(ValueError, match=r"='LlamaForCausalLM', .*assisted decoding"):
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


def test_continuous_batching_is_refused(wrapper):
    with wrapper.attach() as steered, pytest.raises(NotImplementedError, match=r"Use generate\(\)"):
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


def test_attach_takes_one_language_and_known_positions(wrapper, model, tokenizer):
    with pytest.raises(TypeError, match=r"language=\['en'\], expected one"), wrapper.attach(["en"]):
        pass
    other = make_wrapper(model, tokenizer, position="instruction").fit(PROMPTS, Y)
    with (
        pytest.raises(ValueError, match=r"position='instruction' .*can't be found"),
        other.attach(),
    ):
        pass
