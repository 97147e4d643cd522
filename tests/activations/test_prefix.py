"""What all prompts begin with is run once, and nobody can tell from the activations."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import PROMPTS, WORDS, make_model

from skgate import ActivationTransformer
from skgate.activations._forward import compute_prefix, shared_length
from skgate.activations._reader import open_reader
from skgate.model._batching import length_batches
from skgate.model._prompts import Request
from skgate.model._rope import length_boundaries
from skgate.model._trials import forget_trials, trial_result

CAUSAL = ["llama", "qwen2", "gemma2", "gpt2", "gpt_neox", "gpt_neo", "opt", "mpt", "bloom", "phi3"]
POSITIONS = ["last", "instruction", "mean", -1, -3, ["mean", "last"], ["last", "instruction", -2]]
SYSTEM = "please stop it now the cat sat on the mat"
MANY = [f"{prompt} {word}" for prompt in PROMPTS for word in WORDS[:2]]


@pytest.fixture(autouse=True)
def small_models_count_too(monkeypatch):
    """Reuse prefixes for as few prompts as two."""
    monkeypatch.setattr("skgate.activations._forward._PASS_COST_ON_CPU", 1)


@pytest.fixture
def count_tokens(monkeypatch):
    """Count the tokens, padding included, of every pass of a model."""

    def start(backbone):
        passes = []
        forward = type(backbone).forward

        def counting(self, *args, **kwargs):
            passes.append(tuple(kwargs["input_ids"].shape))
            return forward(self, *args, **kwargs)

        monkeypatch.setattr(type(backbone), "forward", counting)
        return passes

    return start


def make(model, tokenizer, **params):
    params = {"layer": "all", "system_prompt": SYSTEM, "store": False, "verbose": True, **params}
    return ActivationTransformer(model, tokenizer=tokenizer, **params)


def close(actual, expected):
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert np.linalg.norm(actual - expected) < 1e-5 * np.linalg.norm(expected)


def assert_equal_alone(transformer):
    """The activations of many prompts are those of each on its own."""
    alone = [transformer.transform([prompt])[0] for prompt in MANY]
    close(transformer.transform(MANY), alone)


# Same activations


@pytest.mark.parametrize("architecture", CAUSAL)
@pytest.mark.parametrize("position", POSITIONS, ids=str)
def test_equals_every_prompt_on_its_own(architecture, position, tokenizer, capsys, count_tokens):
    model = make_model(architecture)
    transformer = make(model, tokenizer, position=position)
    alone = [transformer.transform([prompt])[0] for prompt in MANY]
    passes = count_tokens(model.base_model)
    for _ in range(2):  # while it is checked, and after
        together = transformer.transform(MANY)
        for row, expected in zip(together, alone, strict=True):
            close(row, expected)
    assert "not reused" not in capsys.readouterr().err
    assert sum(shape == (1, 14) for shape in passes) == 2  # the prefix, once a call


def test_the_rest_of_a_call_changes_nothing(model, tokenizer):
    transformer = make(model, tokenizer, position=["last", "mean"])
    conversation = [{"role": "system", "content": "knock"}, {"role": "user", "content": "egg"}]
    expected = transformer.transform(MANY)
    close(transformer.transform([*MANY, conversation])[:-1], expected)
    close(transformer.transform(MANY[4:8]), expected[4:8])


def test_half_precision(tokenizer, capsys):
    model = make_model("llama")
    full = make(model, tokenizer, layer=2).transform(MANY)
    half = make(model.to(torch.bfloat16), tokenizer, layer=2).transform(MANY)
    assert "not reused" not in capsys.readouterr().err
    assert np.linalg.norm(half - full) < 0.05 * np.linalg.norm(full)


# Less work


def test_every_prompt_brings_its_own_tokens_only(model, tokenizer, count_tokens):
    transformer = make(model, tokenizer)
    transformer.transform(MANY)  # checks the model
    passes = count_tokens(model.model)
    transformer.transform(MANY)
    n_own = [len(tokenizer.tokenize(prompt)) + 2 for prompt in MANY]
    assert passes[0] == (1, 14)
    assert sum(n for n, _ in passes[1:]) == len(MANY)
    assert max(width for _, width in passes[1:]) == max(n_own)


def test_the_keys_and_values_of_a_batch_are_bounded(model, tokenizer, count_tokens, monkeypatch):
    per_token = 3 * 2 * 16 * 4  # blocks, keys and values, width, bytes
    monkeypatch.setattr("skgate.activations._forward._MAX_BYTES", 80 * per_token)
    transformer = make(model, tokenizer, layer=2)
    alone = [transformer.transform([prompt])[0] for prompt in MANY]
    close(transformer.transform(MANY), alone)
    passes = count_tokens(model.model)
    transformer.transform(MANY)
    batches = passes[1:]
    assert sum(n for n, _ in batches) == len(MANY)
    assert all(n * (14 + width) <= 80 for n, width in batches)
    assert max(n for n, _ in batches) > 1
    monkeypatch.setattr("skgate.activations._forward._MAX_BYTES", 1)
    passes.clear()
    close(transformer.transform(MANY), alone)
    assert [n for n, _ in passes] == [1] * (1 + len(MANY))


def test_batches_have_room_for_what_is_reused():
    lengths = [2, 9, 3, 2, 1]
    assert length_batches(lengths, 100) == [[1, 2, 0, 3, 4]]
    assert length_batches(lengths, 100, reused=10) == [[1, 2, 0, 3, 4]]
    assert length_batches(lengths, 100, reused=10, room=38) == [[1, 2], [0, 3, 4]]
    assert length_batches(lengths, 100, reused=10, room=5) == [[1], [2], [0], [3], [4]]
    assert length_batches(lengths, 4, reused=10, room=38) == [[1], [2], [0, 3], [4]]
    assert length_batches([], 4, reused=10, room=38) == []


def test_a_token_that_is_read_is_never_in_the_prefix(tokenizer):
    ids = [np.array([1, 2, 3, 4, 5]), np.array([1, 2, 3, 4, 5, 6])]
    assert shared_length([Request(i, (len(i) - 1,)) for i in ids]) == 4
    assert shared_length([Request(i, (2,)) for i in ids]) == 2
    assert shared_length([Request(i, (None,)) for i in ids]) == 4
    assert shared_length([Request(i, (None, len(i) - 1, 3)) for i in ids]) == 3
    assert shared_length([Request(i, (len(i) - 1,)) for i in (*ids, np.array([1, 300, 2]))]) == 1
    assert shared_length([Request(ids[0], (4,))]) == 4


@pytest.mark.parametrize("prompts", [PROMPTS[:1], [[{"role": "user", "content": "egg"}]], PROMPTS])
def test_not_where_it_saves_nothing(model, tokenizer, prompts, count_tokens):
    transformer = make(model, tokenizer, system_prompt=None)  # which leaves two shared tokens
    passes = count_tokens(model.model)
    transformer.transform(prompts)
    assert sum(n for n, _ in passes) == len(prompts)


def test_few_prompts_do_not_pay_for_a_pass_of_its_own(model, tokenizer, count_tokens, monkeypatch):
    monkeypatch.setattr("skgate.activations._forward._PASS_COST_ON_CPU", 128)
    transformer = make(model, tokenizer)
    passes = count_tokens(model.model)
    transformer.transform(PROMPTS[:3])
    assert sum(n for n, _ in passes) == 3


def test_no_batch_edits_the_prefix(model, tokenizer):
    transformer = make(model, tokenizer)
    language_model = open_reader(transformer).language_model
    prefix = compute_prefix(language_model, np.arange(10), [0, 2])
    before = [(keys.clone(), values.clone()) for keys, values in prefix.keys_values]
    cache = prefix.cache(3)
    for i in range(3):
        cache.update(torch.ones(3, 2, 1, 8), torch.ones(3, 2, 1, 8), i)
        cache.layers[i].keys.zero_()
    for (keys, values), (old_keys, old_values) in zip(prefix.keys_values, before, strict=True):
        assert torch.equal(keys, old_keys)
        assert torch.equal(values, old_values)
    assert len(prefix.keys_values) == 3  # down to the deepest block that is read


def test_nothing_but_the_wanted_rows_is_kept(model, tokenizer, monkeypatch):
    """Peak memory is the model, the result and one batch: blocks' outputs don't pile up."""
    alive, most, options = [], [], []
    forward = type(model.model).forward

    def watching(self, *args, **kwargs):
        options.append(kwargs["output_hidden_states"])
        return forward(self, *args, **kwargs)

    def note(module, args, output):
        alive.append(weakref.ref(output))
        most.append(sum(ref() is not None for ref in alive))

    monkeypatch.setattr(type(model.model), "forward", watching)
    for block in model.model.layers:
        block.register_forward_hook(note)
    gc.collect()
    make(model, tokenizer, batch_tokens=64).transform(MANY)
    assert len(most) >= 12
    assert max(most) <= 2  # a block's input and its output
    assert not any(options)


# Where it can't be done


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("bert", "BertModel: its attention sees what follows"),
        ("mamba", "MambaModel: "),
        ("jamba", "JambaModel: "),
        ("falcon_h1", "FalconH1Model: "),
    ],
)
def test_falls_back_and_says_so(architecture, reason, tokenizer, capsys, count_tokens):
    model = make_model(architecture)
    transformer = make(model, tokenizer)
    alone = [transformer.transform([prompt])[0] for prompt in MANY]
    capsys.readouterr()
    first = transformer.transform(MANY)
    message = capsys.readouterr().err
    assert "activations: the 14 tokens that all prompts begin with are not reused with" in message
    assert reason in message
    passes = count_tokens(model.base_model)
    again = transformer.transform(MANY)
    assert reason in capsys.readouterr().err
    assert sum(n for n, _ in passes) == len(MANY)  # not tried a second time
    for rows in (first, again):
        for row, expected in zip(rows, alone, strict=True):
            close(row, expected)


@pytest.mark.parametrize("architecture", ["gemma3", "llama"])
def test_attention_to_what_follows_does_no_harm_in_the_first_block_only(
    architecture, tokenizer, capsys
):
    model = make_model(architecture, use_bidirectional_attention=True, sliding_window=64)
    if architecture == "llama":
        model.config.is_causal = False
    for layer in (0, 3):
        assert_equal_alone(make(model, tokenizer, layer=layer))
        assert "Model: its attention sees what follows" in capsys.readouterr().err


def test_attention_that_sees_what_follows_from_now_on(model, tokenizer):
    transformer = make(model, tokenizer)
    transformer.transform(MANY)
    model.config.is_causal = False
    assert_equal_alone(transformer)


def test_a_trial_holds_for_its_depth_only(model, tokenizer, capsys, monkeypatch):
    """Whatever it is that sees what follows: in the first block it changes nothing."""
    monkeypatch.setattr("skgate.activations._forward.reason_against_prefix", lambda model: "")
    model.config.is_causal = False
    for layer in (0, 3):
        assert_equal_alone(make(model, tokenizer, layer=layer))
    assert "LlamaModel: it changes the activations" in capsys.readouterr().err


def test_rotary_frequencies_that_depend_on_the_length(tokenizer, capsys):
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    model = make_model("llama", rope_parameters=rope)
    make(model, tokenizer).transform(MANY)
    assert "LlamaModel: its rotary frequencies depend on the prompt" in capsys.readouterr().err


@pytest.mark.parametrize("factor", [2, 1.0005])  # the latter is wrong by less than 0.1 %
def test_a_wrong_result_is_noticed(model, tokenizer, factor, capsys, monkeypatch):
    forward = type(model.model).forward

    def stretched(self, *args, position_ids=None, **kwargs):
        if position_ids is not None:
            position_ids = factor * position_ids
        return forward(self, *args, position_ids=position_ids, **kwargs)

    transformer = make(model, tokenizer)
    expected = transformer.transform(MANY)
    forget_trials()
    monkeypatch.setattr(type(model.model), "forward", stretched)
    close(transformer.transform(MANY), expected)
    assert "it changes the activations" in capsys.readouterr().err


def test_not_under_somebody_elses_hooks(model, tokenizer, count_tokens):
    """Who edits the last token of every pass would edit the prefix's last token too."""

    def edit(module, args, output):
        output = output.clone()
        output[:, -1] += 1
        return output

    transformer = make(model, tokenizer)
    transformer.transform(MANY)
    model.model.layers[0].register_forward_hook(edit)
    passes = count_tokens(model.model)
    transformer.transform(MANY)
    assert sum(n for n, _ in passes) == len(MANY)


def test_prompts_of_one_length_leave_padding_unchecked(model, tokenizer):
    """So the next call checks again."""
    transformer = make(model, tokenizer)
    transformer.transform(["knock", "egg", "cat"])
    assert trial_result(model.model, "prefix", "3") is None
    transformer.transform(MANY)
    assert trial_result(model.model, "prefix", "3") == ""


def test_a_failure_that_is_no_architectures_is_raised(model, tokenizer, monkeypatch):
    def broken(*args, **kwargs):
        raise ValueError("no memory left")

    monkeypatch.setattr(model.model.layers[1].mlp, "forward", broken)
    with pytest.raises(ValueError, match="no memory left"):
        make(model, tokenizer).transform(MANY)


def test_the_boundary_of_longrope_in_older_and_newer_configurations():
    def config(**stated):
        return SimpleNamespace(**stated, get_text_config=lambda: SimpleNamespace(**stated))

    name = "original_max_position_embeddings"
    older = config(rope_scaling={"type": "longrope", "long_factor": [2.0]}, **{name: 4096})
    newer = config(rope_parameters={"rope_type": "longrope", name: 4096})
    nested = config(rope_parameters={"full": {"rope_type": "longrope", name: 64}, "sliding": {}})
    assert length_boundaries(older) == length_boundaries(newer) == {4096}
    assert length_boundaries(nested) == {64}
    assert length_boundaries(config(rope_scaling=None)) == set()
    assert length_boundaries(config(rope_parameters={"rope_type": "yarn", name: 4096})) == set()
