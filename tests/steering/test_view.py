"""attach(): a steered view of a model that is itself not steered."""

from __future__ import annotations

import threading

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from steered import (
    GREEDY,
    LANGUAGE,
    MIXED,
    PROMPTS,
    Y,
    apply_template,
    count_hooks,
    make_telling_model,
    make_wrapper,
)
from transformers import GenerationConfig

from skgate import ActivationTransformer, LatentGate, SteeringWrapper


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
        assert type(steered).__name__ == type(model).__name__  # pipelines go by the name
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


def test_a_plain_forward_needs_a_mask_that_tells_padding(wrapper, tokenizer):
    ids = apply_template(tokenizer, ["boil who", "kill egg"])["input_ids"]
    with (
        wrapper.attach() as steered,
        pytest.raises(RuntimeError, match="prompts from padding"),
    ):
        steered(ids, attention_mask=torch.zeros(2, 1, ids.shape[1], ids.shape[1]))


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


def test_a_reused_cache_is_refused(wrapper, model, tokenizer):
    ids = apply_template(tokenizer, ["kill egg"])["input_ids"]
    cache = model(ids[:, :3], use_cache=True).past_key_values
    with wrapper.attach() as steered, pytest.raises(RuntimeError, match="not steered"):
        steered.generate(ids, past_key_values=cache, max_new_tokens=3, pad_token_id=0)


def test_reused_states_are_refused(tokenizer):
    """The states of a recurrent model do not count the tokens before."""
    model = make_telling_model("mamba", tokenizer)
    wrapper = make_wrapper(model, tokenizer, strength=2.0).fit(PROMPTS, Y)
    ids = apply_template(tokenizer, MIXED[:1])["input_ids"]
    states = model(ids, use_cache=True).cache_params
    refused = "were not steered|does not tell how many tokens"  # the second, of transformers 5.2
    with wrapper.attach() as steered, pytest.raises(RuntimeError, match=refused):
        steered(ids, cache_params=states)


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


def test_attach_needs_a_position_that_token_ids_tell(model, tokenizer):
    for position in ("instruction", ["last", "instruction"]):
        other = make_wrapper(model, tokenizer, position=position).fit(PROMPTS, Y)
        with pytest.raises(ValueError, match=r"position='instruction' .*can't be found"):
            other.attach()


def test_a_view_goes_on_until_it_is_detached(wrapper, model, tokenizer):
    inputs = apply_template(tokenizer, MIXED[:1])
    view = wrapper.attach()
    with wrapper.attach() as steered:
        expected = steered.generate(**inputs, **GREEDY)
    for _ in range(2):
        assert torch.equal(view.generate(**inputs, **GREEDY), expected)
    with view as same:
        assert same is view
    for use in (lambda: view.generate(**inputs), lambda: view(**inputs), view.__enter__):
        with pytest.raises(RuntimeError, match=r"no longer attached.*view = wrapper\.attach\(\)"):
            use()
    view.detach()
    assert not hasattr(model, "detach")


def test_a_stream_that_has_begun_goes_on_after_the_end(wrapper, tokenizer):
    """Every token of it is steered; a call that has not begun is refused."""
    from transformers import TextIteratorStreamer

    inputs = apply_template(tokenizer, ["kill process now"])
    options = {**GREEDY, "max_new_tokens": 20, "pad_token_id": 0}
    expected = wrapper.generate(["kill process now"], max_new_tokens=20)[0]
    began, may_go_on = threading.Event(), threading.Event()

    def wait(decisions):
        began.set()
        assert may_go_on.wait(30)

    with wrapper.attach(on_decision=wait) as steered:
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        thread = threading.Thread(
            target=steered.generate, kwargs={**inputs, **options, "streamer": streamer}
        )
        thread.start()
        assert began.wait(30)
    with pytest.raises(RuntimeError, match="no longer attached"):
        steered.generate(**inputs, **options)
    may_go_on.set()
    text = "".join(streamer)
    thread.join()
    assert text.strip() == expected


def test_each_row_has_its_language(model, tokenizer):
    """None is detected, as it is without any language."""
    reader = ActivationTransformer(model, tokenizer=tokenizer, layer=1)
    wrapper = SteeringWrapper(
        make_pipeline(reader, LatentGate()), generate_kwargs=GREEDY, strength=1.0
    )
    wrapper.fit(PROMPTS, Y, language=LANGUAGE)
    wrapper.partial_fit(["boil egg", "kill egg", "ran mat"], [1, 1, 1], language="de")
    languages = ["de", None, "fr", "en", None]
    inputs, logged = apply_template(tokenizer, MIXED), []
    for language in (languages, np.array(languages, dtype=object)):
        with wrapper.attach(language, on_decision=logged.append) as steered:
            steered.generate(**inputs, **GREEDY)
    alone = []
    for language in languages:
        with wrapper.attach(language, on_decision=alone.append) as steered:
            steered.generate(**inputs, **GREEDY)
    for row, decisions in enumerate(alone):
        for mixed in logged:
            pd.testing.assert_series_equal(mixed.iloc[row], decisions.iloc[row])
    scores = np.array([decisions["harm_score"] for decisions in alone])
    assert (scores.std(axis=0) > 0.1).all()  # the language makes a difference


@pytest.mark.parametrize("layer", [1, [3, 1]], ids=str)
@pytest.mark.parametrize("position", ["last", ["mean", "last", -2]], ids=str)
def test_decisions_are_told_as_generate_returns_them(model, tokenizer, layer, position):
    wrapper = make_wrapper(model, tokenizer, layer, position, strength=2.0)
    wrapper.fit(PROMPTS, Y, language=LANGUAGE)
    _, expected = wrapper.generate(MIXED, return_decisions=True)
    inputs, logged = apply_template(tokenizer, MIXED), []
    with wrapper.attach(on_decision=logged.append) as steered, torch.no_grad():
        steered.generate(**inputs, **GREEDY)
        steered.generate(**inputs, **GREEDY, num_beams=2, num_return_sequences=2)
        steered(**inputs, position_ids=(inputs["attention_mask"].cumsum(1) - 1).clamp(min=0))
        steered.generate(**apply_template(tokenizer, MIXED[:2]), **GREEDY)
    assert [len(one) for one in logged] == [5, 5, 5, 2]
    assert set(expected["action"]) == {"add", "ablate"}
    for decisions, rows in zip(logged, (5, 5, 5, 2), strict=True):
        pd.testing.assert_frame_equal(decisions, expected[:rows], rtol=1e-4)


def test_decisions_are_told_before_anything_is_generated(wrapper, tokenizer):
    """An error of the callback ends the call and leaves no hook behind."""
    seen = []

    def refuse(decisions):
        seen.append("decisions")
        raise PermissionError("not here")

    class Streamer:
        def put(self, value):
            seen.append("tokens")

        def end(self):
            seen.append("end")

    inputs = apply_template(tokenizer, MIXED[:1])
    n_hooks = count_hooks(wrapper.gate_[0].model)
    with wrapper.attach(on_decision=refuse) as steered:
        with pytest.raises(PermissionError, match="not here"):
            steered.generate(**inputs, **GREEDY, streamer=Streamer())
        assert seen == ["tokens", "decisions"]  # (a streamer gets the prompt first)
    assert count_hooks(wrapper.gate_[0].model) == n_hooks


def test_calls_of_one_view_do_not_mix_their_decisions(wrapper, tokenizer):
    """Every thread's batch has decisions of its own."""
    from concurrent.futures import ThreadPoolExecutor

    batches = [MIXED[:i] for i in (1, 2, 3, 4, 5)] * 2
    told = threading.local()
    view = wrapper.attach(on_decision=lambda decisions: setattr(told, "decisions", decisions))

    def run(inputs):
        view.generate(**inputs, **GREEDY)
        return told.decisions["harm_score"].to_numpy()

    inputs = [apply_template(tokenizer, batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(run, inputs))
    for scores, batch in zip(found, batches, strict=True):
        expected = wrapper.decision_function(batch)
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)


def test_wrong_arguments_of_attach_are_named(wrapper, model, tokenizer):
    for language, message in [
        (3, r"language=3 of type int, expected a str or one str per row"),
        (["en", 3], r"language\[1\]=3 of type int, expected a str"),
        (["en", ""], r"language\[1\]='', expected a language"),
        ("", r"language\[0\]='', expected a language"),
        ([], r"language=\[\], expected a str, or one per prompt"),
        ({"input_ids": [1]}, r"Got a dict as language, .*generate\(\*\*inputs\)"),
        (b"en", "of type bytes, expected a str"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            wrapper.attach(language)
    with pytest.raises(ValueError, match="on_template_mismatch='ignore', expected 'raise' or"):
        wrapper.attach(on_template_mismatch="ignore")
    with pytest.raises(TypeError, match="Got a list as on_decision, expected a function"):
        wrapper.attach(on_decision=[])
    with pytest.raises(NotFittedError, match="Call 'fit', or pass a fitted gate"):
        make_wrapper(model, tokenizer).attach()


def test_a_batch_needs_a_language_for_each_prompt(wrapper, tokenizer):
    with (
        wrapper.attach(["en", None, "de"]) as steered,
        pytest.raises(
            ValueError, match=r"Got 3 languages .* batch of 2 prompts, expected one lang"
        ),
    ):
        steered.generate(**apply_template(tokenizer, MIXED[:2]), **GREEDY)


def test_unknown_languages_of_rows_warn(wrapper):
    with pytest.warns(UserWarning, match=r"Got language \['sw'\], which the gate has never seen"):
        wrapper.attach(["en", None, "sw"])
