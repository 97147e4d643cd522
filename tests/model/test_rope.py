"""Rotary frequencies and lengths: what configurations state, and what they mean."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from tiny import WORDS, make_model

from skgate import ActivationTransformer
from skgate.model._batching import length_batches
from skgate.model._lengths import count_positions, max_prompt_length
from skgate.model._rope import length_boundaries, scaled_length


def config(**stated):
    return SimpleNamespace(**stated, get_text_config=lambda: SimpleNamespace(**stated))


def rope(rope_type, **more):
    return {"rope_type": rope_type, **more}


ORIGINAL = "original_max_position_embeddings"


@pytest.mark.parametrize(
    ("stated", "parameters", "expected"),
    [
        (4096, rope("linear", factor=4.0), 16_384),
        (4096, {"type": "linear", "factor": 4.0}, 16_384),  # as written before transformers 5
        (4096, rope("default", factor=4.0), 4096),
        (4096, {}, 4096),
        (4096, rope("linear", factor=None), 4096),
        (32_768, rope("yarn", factor=4.0, **{ORIGINAL: 32_768}), 131_072),  # Qwen2.5
        (40_960, rope("yarn", factor=4.0, **{ORIGINAL: 32_768}), 131_072),  # Qwen3
        (163_840, rope("yarn", factor=40, **{ORIGINAL: 4096}), 163_840),  # DeepSeek-V3
        (131_072, rope("llama3", factor=8.0, **{ORIGINAL: 8192}), 131_072),  # Llama-3.1
        (131_072, rope("longrope", **{ORIGINAL: 4096}), 131_072),  # Phi-3
        (131_072, rope("llama3", factor=32.0, **{ORIGINAL: 8192}), 131_072),  # Llama-3.2
        (4096, {"full": rope("linear", factor=8.0), "sliding": rope("default")}, 32_768),
    ],
)
def test_scaled_lengths(stated, parameters, expected):
    made = config(max_position_embeddings=stated, rope_parameters=parameters)
    assert scaled_length(made, stated) == expected


def test_scaled_lengths_of_older_configurations():
    older = config(rope_scaling={"type": "yarn", "factor": 32.0}, **{ORIGINAL: 4096})
    assert scaled_length(older, 4096) == 131_072


@pytest.mark.parametrize("model_type", ["gemma3", "gemma3_text"])
def test_gemma_3_states_the_length_after_scaling(model_type):
    parameters = {"full_attention": rope("linear", factor=8.0)}
    made = config(model_type=model_type, rope_parameters=parameters)
    assert scaled_length(made, 131_072) == 131_072


def test_dynamic_frequencies_differ_at_each_length_above_the_stated_one():
    made = config(max_position_embeddings=4, rope_parameters=rope("dynamic", factor=2.0))
    boundaries = length_boundaries(made)
    assert list(boundaries) == [4, 5, 6, 7]
    batches = length_batches([2, 8, 5, 4, 7, 8, 5], 100, boundaries=boundaries)
    assert [sorted(batch) for batch in batches] == [[1, 5], [4], [2, 6], [0, 3]]


def test_sparse_attention_allows_no_padding_of_longer_prompts():
    """The choice among keys of equal scores depends on padding."""
    for settings in ({"index_topk": 4}, {"index_topk_blocks": 2, "index_block_size": 2}):
        boundaries = length_boundaries(config(**settings))
        batches = length_batches([2, 8, 5, 4, 7, 8, 5], 100, boundaries=boundaries)
        assert [sorted(batch) for batch in batches] == [[1, 5], [4], [2, 6], [0, 3]]


def test_activations_with_dynamic_frequencies_depend_on_no_other_prompt(tokenizer):
    """Whereas transformers keeps the frequencies of the longest prompt that it has seen."""

    def transformer():
        model = make_model(
            "llama",
            max_position_embeddings=16,
            rope_parameters=rope("dynamic", rope_theta=10_000.0, factor=4.0),
        )
        return ActivationTransformer(
            model, tokenizer=tokenizer, layer=-1, chat_template=False, store=False
        )

    prompts = [" ".join((WORDS * 3)[:n]) for n in (50, 30, 20, 5)]
    alone = np.concatenate([transformer().transform([prompt]) for prompt in prompts])
    together = transformer()
    source = together.activation_source()
    np.testing.assert_allclose(together.transform(prompts), alone, atol=1e-5)
    np.testing.assert_allclose(together.transform(prompts[::-1]), alone[::-1], atol=1e-5)
    assert together.activation_source() == source  # the frequencies are part of it


@pytest.mark.parametrize(
    ("architecture", "n_positions", "length"),
    [
        ("gpt2", 64, 64),
        ("opt", 64, 64),
        ("gpt_neo", 64, 64),
        ("gptj", 64, 64),
        ("bert", 64, 64),
        ("llama", None, 64),
        ("bloom", None, None),
        ("mamba", None, None),
    ],
)
def test_learned_positions(architecture, n_positions, length):
    model = make_model(architecture)
    assert count_positions(model.config, model.base_model) == n_positions
    assert max_prompt_length(model.config, model.base_model) == length
