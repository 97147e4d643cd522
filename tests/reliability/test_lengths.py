"""How many tokens a model accepts."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from bare import LANGUAGE, PROMPTS, Y, bare_activations, let_harmful_words_share
from shifted import pooled_gate
from sklearn.pipeline import make_pipeline
from tiny import WORDS, make_model
from transformers import GenerationConfig

from skgate import ActivationTransformer, SteeringWrapper

LAYER = 1


def words(n):
    """A prompt of n words."""
    return " ".join((WORDS * (n // len(WORDS) + 1))[:n])


def reader(model, tokenizer, **params):
    params = {"layer": LAYER, "chat_template": False, "store": False, **params}
    return ActivationTransformer(model, tokenizer=tokenizer, **params)


def bare(model, tokenizer, prompt, position=None):
    ids = torch.tensor([tokenizer(prompt).input_ids])
    return bare_activations(model, ids, LAYER, position=position)[None]


def scaled(rope_type, **more):
    return {"rope_type": rope_type, "rope_theta": 10_000.0, **more}


LIMITS = {
    # Scaled beyond what max_position_embeddings says, as Vicuna-16k and Qwen-2.5 with YaRN.
    "linear": (16, scaled("linear", factor=4.0), 64),
    "dynamic": (16, scaled("dynamic", factor=4.0), 64),
    "yarn": (16, scaled("yarn", factor=4.0, original_max_position_embeddings=16), 64),
    "yarn_without_original": (16, scaled("yarn", factor=4.0), 64),
    "fraction": (16, scaled("linear", factor=2.5), 40),
    # Accounted for already, as DeepSeek-V3 and Llama-3.1.
    "yarn_accounted": (64, scaled("yarn", factor=4.0, original_max_position_embeddings=16), 64),
    "llama3_accounted": (
        64,
        scaled(
            "llama3",
            factor=32.0,  # of 16, which the stated length falls short of: Llama-3.2's
            original_max_position_embeddings=16,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
        ),
        64,
    ),
    # Not scaled.
    "default": (64, scaled("default"), 64),
}
NOT_ACCOUNTED = ["linear", "dynamic", "yarn", "yarn_without_original", "fraction"]


def make_scaled(name):
    stated, rope, limit = LIMITS[name]
    return make_model("llama", max_position_embeddings=stated, rope_parameters=rope), limit


@pytest.mark.parametrize("name", list(LIMITS))
def test_rope_scaling_extends_what_is_accepted(name, tokenizer):
    """Up to the scaled length, right; one token more is an error with both numbers."""
    model, limit = make_scaled(name)
    transformer = reader(model, tokenizer)
    longest = words(limit - 1)  # and the BOS
    np.testing.assert_allclose(
        transformer.transform([longest]), bare(model, tokenizer, longest), atol=1e-4
    )
    with pytest.raises(ValueError, match=rf"(?s)X\[1\] has {limit + 1} tokens.*\b{limit}\b"):
        transformer.transform(["boil", words(limit)])


@pytest.mark.parametrize("name", NOT_ACCOUNTED)
def test_truncate_cuts_to_the_scaled_length(name, tokenizer):
    """``truncate=True`` keeps all that the model accepts."""
    model, limit = make_scaled(name)
    found = reader(model, tokenizer, truncate=True).transform([words(limit + 20)])
    np.testing.assert_allclose(found, bare(model, tokenizer, words(limit - 1)), atol=1e-4)


@pytest.mark.parametrize("name", NOT_ACCOUNTED)
def test_the_scaled_length_by_path(name, tokenizer, tmp_path):
    """By path as well, where config.json holds what was scaled."""
    model, limit = make_scaled(name)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    transformer = reader(str(tmp_path), None)
    longest = words(limit - 1)
    np.testing.assert_allclose(
        transformer.transform([longest]), bare(model, tokenizer, longest), atol=1e-4
    )


@pytest.mark.parametrize("pad", [2, 0])
@pytest.mark.parametrize("architecture", ["Roberta", "XLMRoberta", "Camembert"])
def test_roberta_has_fewer_positions_than_it_states(architecture, pad, tokenizer):
    """Positions start after ``padding_idx``: 18 with padding 2 leave 15 tokens."""
    import transformers

    config = getattr(transformers, f"{architecture}Config")(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        max_position_embeddings=18,
        pad_token_id=pad,
        type_vocab_size=1,
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{architecture}Model")(config).train(False)
    limit = 18 - pad - 1
    for position in ("mean", "last"):
        transformer = reader(model, tokenizer, position=position)
        longest = words(limit - 1)
        np.testing.assert_allclose(
            transformer.transform([longest, "boil"])[:1],  # beside a padded one
            bare(model, tokenizer, longest, position="mean" if position == "mean" else -1),
            atol=1e-5,
        )
        with pytest.raises(ValueError, match=rf"(?s)X\[1\] has {limit + 1} tokens.*\b{limit}\b"):
            transformer.transform(["boil", words(limit)])


def test_a_bert_is_not_taken_for_a_roberta(tokenizer):
    """BERT, with a padding token too, has all of its positions."""
    model = make_model("bert", pad_token_id=2)
    longest = words(63)
    np.testing.assert_allclose(
        reader(model, tokenizer).transform([longest]), bare(model, tokenizer, longest), atol=1e-5
    )


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bloom"])
def test_the_tokenizers_limit_is_not_the_models(architecture, tokenizer):
    """``model_max_length`` of the tokenizer alone refuses and cuts nothing."""
    own = copy.deepcopy(tokenizer)
    own.model_max_length = 8
    model = make_model(architecture)
    long = words(30)
    for truncate in (False, True):
        np.testing.assert_allclose(
            reader(model, own, truncate=truncate).transform([long]),
            bare(model, own, long),
            atol=1e-4,
        )


# Learned positions


def wrapper_of(architecture, tokenizer, **generate_kwargs):
    model = let_harmful_words_share(make_model(architecture), tokenizer)
    transformer = ActivationTransformer(model, tokenizer=tokenizer, layer=LAYER)
    pipeline = make_pipeline(transformer, pooled_gate(calibration="threshold"))
    wrapper = SteeringWrapper(
        pipeline, generate_kwargs={"do_sample": False, **generate_kwargs}, strength=1.0
    )
    return wrapper.fit(PROMPTS, Y, language=LANGUAGE), model


WAYS = {
    "argument": ({}, {"max_new_tokens": 60}),
    "parameter": ({"max_new_tokens": 60}, {}),
    "config": ({}, {"generation_config": GenerationConfig(max_new_tokens=60, do_sample=False)}),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("architecture", ["gpt2", "opt", "openai-gpt"])
def test_prompt_and_reply_must_fit_learned_positions(architecture, way, tokenizer, monkeypatch):
    """An early ValueError names prompt and numbers, before anything is generated."""
    given, options = WAYS[way]
    wrapper, model = wrapper_of(architecture, tokenizer, **given)
    monkeypatch.setattr(model, "generate", lambda *a, **k: pytest.fail("it was generated"))
    long = words(12)  # 17 tokens with the template
    n = tokenizer.apply_chat_template(
        [{"role": "user", "content": long}], add_generation_prompt=True, return_dict=True
    )
    n_tokens = len(n["input_ids"])
    with pytest.raises(ValueError, match="64") as caught:
        wrapper.generate([long, long], **options)
    for part in (r"[0]", str(n_tokens), "60", "64"):
        assert part in str(caught.value), part


# The check must not be too strict.
@pytest.mark.parametrize("architecture", ["gpt2", "opt", "openai-gpt"])
def test_a_reply_that_just_fits_is_generated(architecture, tokenizer):
    """Prompt + new tokens equal to the positions is no error."""
    wrapper, _ = wrapper_of(architecture, tokenizer)
    long = words(12)
    n = tokenizer.apply_chat_template(
        [{"role": "user", "content": long}], add_generation_prompt=True, return_dict=True
    )
    assert len(wrapper.generate([long], max_new_tokens=64 - len(n["input_ids"]))) == 1


# Rotary positions go on.
@pytest.mark.parametrize("architecture", ["llama", "bloom"])
def test_models_without_learned_positions_generate_on(architecture, tokenizer):
    """No such error where positions are computed."""
    wrapper, _ = wrapper_of(architecture, tokenizer)
    assert len(wrapper.generate([words(12)], max_new_tokens=60)) == 1


def test_learned_positions_are_named_for_each_prompt(tokenizer):
    """Of several prompts, the one that is too long is named."""
    wrapper, _ = wrapper_of("gpt2", tokenizer)
    with pytest.raises(ValueError, match=r"\[2\]"):
        wrapper.generate(["boil", "stop it", words(40)], max_new_tokens=30)
