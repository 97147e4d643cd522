"""Batches, padding, callbacks, and what the model is left as."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone
from steered import (
    GREEDY,
    MIXED,
    PROMPTS,
    Y,
    apply_template,
    count_hooks,
    make_telling_model,
    make_wrapper,
)

from skgate import ActivationTransformer


def record_batch_sizes(model, monkeypatch):
    """Return a list to which every call of the model's ``generate`` adds its number of rows."""
    sizes, generate = [], model.generate

    def recorded(*args, **kwargs):
        sizes.append(len(kwargs["input_ids"]))
        return generate(*args, **kwargs)

    monkeypatch.setattr(model, "generate", recorded)
    return sizes


# Batches


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
    sizes = record_batch_sizes(model, monkeypatch)
    scores(prompts)
    assert sizes == [1, 2]  # the long one alone; padding does not change the others


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
    sizes = record_batch_sizes(model, monkeypatch)
    model.generation_config.do_sample = True
    setattr(model.generation_config, setting, 2)
    wrapper.generate(MIXED, do_sample=True)
    assert sizes == [1, 2, 1, 5]  # one; the longest and the shortest, the shortest alone; then all


def test_left_padding_is_tried_in_every_dtype_and_up_to_the_reply(model, tokenizer, monkeypatch):
    """It comes in at the third block, and weighs little: more than float32 rounds.

    Steered at the second block, it doesn't change the activation, but the reply.
    """
    # Private: through generate(), rounding in bfloat16 hides what this compares.
    from skgate.activations._reader import open_reader
    from skgate.model._prompts import Request
    from skgate.steering._padding import left_padding_is_exact

    third, forward = model.model.layers[2], type(model.model.layers[2]).forward

    def leaking(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        return output + 0.02 * output.mean(1, keepdim=True) if self is third else output

    monkeypatch.setattr(type(third), "forward", leaking)
    long, short = (Request(np.arange(1, n), (n - 2,)) for n in (9, 5))

    def is_exact(layer):
        reader = open_reader(ActivationTransformer(model, tokenizer=tokenizer, layer=layer))
        return left_padding_is_exact(reader.language_model, layer, long, short, None)

    model.to(torch.bfloat16)
    assert is_exact(1)
    assert is_exact(3)
    model.to(torch.float32)
    assert not is_exact(1)
    assert not is_exact(3)


def test_verbose_shows_progress(wrapper, capsys):
    wrapper.set_params(verbose=True).generate(MIXED)
    assert "5/5" in capsys.readouterr().err
    wrapper.set_params(verbose=False).generate(MIXED)
    assert not capsys.readouterr().err


# Callbacks and special tokens


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


def test_what_follows_the_end_is_no_reply(wrapper, model, tokenizer):
    """Whichever token pads."""
    end, pad = (tokenizer.convert_tokens_to_ids(word) for word in ("now", "cat"))
    alone = wrapper.generate(MIXED, max_new_tokens=12)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = end, pad
    expected = [reply.split("now")[0].strip() for reply in alone]
    assert wrapper.generate(MIXED, max_new_tokens=12) == expected


# What can't be steered raises an error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prefill_chunk_size": 4}, "prefill_chunk_size=4, expected None: a prefill in chunks"),
        ({"prompt_lookup_num_tokens": 2}, "prompt_lookup_num_tokens=2"),
        ({"guidance_scale": 1.5}, "guidance_scale=1.5"),
        ({"input_ids": torch.ones(1, 3)}, "Got input_ids, expected none"),
        ({"attention_mask": torch.ones(1, 3)}, "Got attention_mask, expected none"),
    ],
)
def test_unsupported_options(wrapper, options, message):
    with pytest.raises(ValueError, match=message):
        wrapper.generate(MIXED[:1], **options)


def test_a_model_whose_hooks_do_not_fire_is_refused(wrapper, model, monkeypatch):
    """As compiled blocks do: call forward directly, past the hooks."""
    block = model.model.layers[1]
    monkeypatch.setattr(type(block), "__call__", type(block).forward)
    with pytest.raises(RuntimeError, match="hooks of the steered block never fired"):
        wrapper.generate(MIXED)


def test_a_block_that_is_read_but_whose_hooks_do_not_fire_is_refused(model, tokenizer):
    """One block alone is compiled: call its forward directly, past the hooks."""
    wrapper = make_wrapper(model, tokenizer, layer=[0, 1]).fit(PROMPTS, Y)

    class Unhooked(type(model.model.layers[0])):
        __call__ = type(model.model.layers[0]).forward

    model.model.layers[0].__class__ = Unhooked
    wrapper.gate_[-1].activation_source_ = None  # (another class is another source)
    with pytest.raises(RuntimeError, match=r"hooks of the blocks \[0\], .* never fired"):
        wrapper.generate(MIXED)


@pytest.mark.filterwarnings("ignore")  # torch's own, about graph breaks
def test_a_compiled_model_is_steered_or_refused(wrapper, model, tokenizer):
    expected = wrapper.generate(MIXED)
    plain = wrapper.set_params(on_harmful=None, on_harmless=None).generate(MIXED)
    wrapper.set_params(on_harmful="add", on_harmless="ablate")
    assert expected != plain
    model.model.compile(backend="eager")
    model.generate(**apply_template(tokenizer, MIXED), **GREEDY, pad_token_id=0)
    with pytest.raises(RuntimeError, match="hooks of the steered block never fired"):
        wrapper.generate(MIXED)
    model.model._compiled_call_impl = None  # noqa: SLF001  (torch's: undoes compile())
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


# State


def test_nothing_is_left_behind(wrapper, model, tokenizer):
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
    with pytest.raises(ZeroDivisionError), wrapper.attach() as steered:  # noqa: PT012 (using it raises)
        steered.generate(**apply_template(tokenizer, MIXED[:1]), max_new_tokens=2, pad_token_id=0)
        raise ZeroDivisionError
    assert count_hooks(model) == n_hooks
    assert set(model.__dict__) == attributes


def test_a_model_whose_generate_reads_something_else_is_refused(tokenizer):
    """It numbers positions in another way there; prompts of one length show it too."""
    from transformers import RobertaPreLayerNormConfig, RobertaPreLayerNormForCausalLM

    torch.manual_seed(0)
    config = RobertaPreLayerNormConfig(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        is_decoder=True,
        initializer_range=0.5,
    )
    model = RobertaPreLayerNormForCausalLM(config).eval()
    wrapper = make_wrapper(model, tokenizer).fit(PROMPTS, Y)
    with pytest.raises(RuntimeError, match="another activation from generate"):
        wrapper.generate(MIXED[:1])
    inputs = apply_template(tokenizer, MIXED[:1])
    with (
        wrapper.attach() as steered,
        pytest.raises(RuntimeError, match="another activation from generate"),
    ):
        steered.generate(**inputs, max_new_tokens=2, pad_token_id=0)
