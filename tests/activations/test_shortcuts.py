"""In the deepest block only the tokens that are read go on after attention; nobody can tell."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import PROMPTS, WORDS, make_model

from skgate import ActivationTransformer
from skgate.activations._forward import find_feed_forward
from skgate.activations._reader import open_reader
from skgate.model._trials import forget_trials

MANY = [f"{prompt} {word}" for prompt in PROMPTS for word in WORDS[:4]]
NARROWED = ["llama", "qwen2", "gemma2", "gpt2", "gpt_neox", "gpt_neo", "mpt", "bloom", "phi3"]
NARROWED += ["gptj", "phi", "cohere", "olmo2", "mixtral", "qwen2_moe"]


@pytest.fixture
def count_rows(monkeypatch):
    """Write down the shapes of what a block's feed-forward part is given."""

    def start(block):
        shapes = []
        part = find_feed_forward(block)
        forward = type(part).forward

        def counting(self, hidden, *args, **kwargs):
            if self is part:
                shapes.append(tuple(hidden.shape[:2]))
            return forward(self, hidden, *args, **kwargs)

        monkeypatch.setattr(type(part), "forward", counting)
        return shapes

    return start


def make(model, tokenizer, **params):
    params = {"layer": 1, "position": "last", "store": False, "verbose": True, **params}
    return ActivationTransformer(model, tokenizer=tokenizer, **params)


def blocks_of(model):
    return open_reader(make(model, object())).language_model.blocks


def close(actual, expected):
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert np.linalg.norm(actual - expected) < 1e-5 * np.linalg.norm(expected)


# Same activations


@pytest.mark.parametrize("architecture", NARROWED)
@pytest.mark.parametrize("system_prompt", [None, " ".join(WORDS[:12])])
@pytest.mark.parametrize("position", ["last", ["instruction"], -3])
def test_equals_every_prompt_on_its_own(
    architecture, system_prompt, position, tokenizer, capsys, count_rows
):
    model = make_model(architecture)
    params = {"position": position, "system_prompt": system_prompt}
    transformer = make(model, tokenizer, layer=[0, 1], **params)
    alone = [transformer.transform([prompt])[0] for prompt in MANY]
    shapes = count_rows(blocks_of(model)[1])
    for _ in range(2):  # while it is tried, and after
        shapes.clear()
        close(transformer.transform(MANY), alone)
    assert "feed-forward" not in capsys.readouterr().err
    narrow = [shape for shape in shapes if shape[0] > 1]
    assert sum(n for n, _ in narrow) == len(MANY)
    assert {width for _, width in narrow} == {1}


def test_every_layer_as_the_deepest(model, tokenizer):
    for layer in range(4):
        transformer = make(model, tokenizer, layer=layer)
        alone = [transformer.transform([prompt])[0] for prompt in MANY]
        close(transformer.transform(MANY * 3), alone * 3)


def test_only_the_deepest_block(model, tokenizer, count_rows):
    transformer = make(model, tokenizer, layer=[0, 2])
    transformer.transform(MANY)
    shapes = count_rows(model.model.layers[0])
    transformer.transform(MANY)
    assert min(width for _, width in shapes) > 1


def test_blocks_of_another_kind_are_tried_by_themselves(tokenizer, count_rows):
    model = make_model("qwen2_moe", mlp_only_layers=[0])
    dense, experts = blocks_of(model)[:2]
    assert type(find_feed_forward(dense)) is not type(find_feed_forward(experts))
    make(model, tokenizer, layer=0).transform(MANY)
    shapes = count_rows(experts)
    make(model, tokenizer, layer=1).transform(PROMPTS)  # too few to try it
    assert min(width for _, width in shapes) > 1


def test_half_precision(tokenizer, capsys):
    model = make_model("llama")
    full = make(model, tokenizer).transform(MANY)
    half = make(model.to(torch.bfloat16), tokenizer).transform(MANY)
    assert "feed-forward" not in capsys.readouterr().err
    assert np.linalg.norm(half - full) < 0.05 * np.linalg.norm(full)


# peft asks transformers by an old name
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_adapters(model, tokenizer, count_rows):
    peft = pytest.importorskip("peft", reason="needs peft, of the test extra")
    config = peft.LoraConfig(target_modules=["down_proj", "q_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(model, config)
    transformer = make(adapted, tokenizer)
    alone = [transformer.transform([prompt])[0] for prompt in MANY]
    transformer.transform(MANY)
    shapes = count_rows(model.model.layers[1])
    close(transformer.transform(MANY), alone)
    assert {width for _, width in shapes} == {1}


def test_tried_on_prompts_that_take_the_same_rotary_frequencies(tokenizer, capsys):
    transformer = make(make_model("phi3_longrope"), tokenizer, chat_template=False)
    many = [" ".join((WORDS * 2)[:n]) for n in range(1, 40)]
    alone = [transformer.transform([prompt])[0] for prompt in many]
    close(transformer.transform(many), alone)
    assert "feed-forward" not in capsys.readouterr().err


# Where it can't be done


@pytest.mark.parametrize("position", ["mean", ["mean", "last"], ["last", -3]])
def test_the_mean_and_several_tokens_need_every_token(model, tokenizer, position, count_rows):
    make(model, tokenizer).transform(MANY)
    shapes = count_rows(model.model.layers[1])
    transformer = make(model, tokenizer, position=position)
    together = transformer.transform(MANY)
    assert min(width for _, width in shapes) > 1
    close(together, [transformer.transform([prompt])[0] for prompt in MANY])


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("llama4", "RuntimeError: "),  # reshapes it
        ("falcon", "RuntimeError: "),  # adds in place to what the feed-forward part gives
        ("rwkv", "it changes the activations"),  # looks at the token before
    ],
)
def test_falls_back_and_says_so(architecture, reason, tokenizer, capsys, count_rows):
    model = make_model(architecture)
    transformer = make(model, tokenizer)
    alone = [transformer.transform([prompt])[0] for prompt in MANY]
    block = blocks_of(model)[1]
    capsys.readouterr()
    first = transformer.transform(MANY)
    message = capsys.readouterr().err
    assert f"the feed-forward part of block 1 of {type(model.base_model).__name__}" in message
    assert reason in message
    shapes = count_rows(block)
    again = transformer.transform(MANY)
    assert reason in capsys.readouterr().err
    assert sum(n for n, _ in shapes) == len(MANY)  # not tried a second time
    close(first, alone)
    close(again, alone)


def test_no_feed_forward_part_is_found(tokenizer, capsys):
    model = make_model("opt")
    assert find_feed_forward(blocks_of(model)[1]) is None
    make(model, tokenizer).transform(MANY)
    assert "feed-forward" not in capsys.readouterr().err


def test_a_wrong_result_is_noticed(model, tokenizer, capsys, monkeypatch):
    forward = type(model.model.layers[0].mlp).forward

    def mixing(self, hidden):
        return forward(self, hidden.cumsum(1))

    monkeypatch.setattr(type(model.model.layers[0].mlp), "forward", mixing)
    transformer = make(model, tokenizer)
    alone = [transformer.transform([prompt])[0] for prompt in MANY]
    close(transformer.transform(MANY), alone)
    assert "it changes the activations" in capsys.readouterr().err


@pytest.mark.parametrize("pre", [False, True])
def test_not_under_somebody_elses_hooks(model, tokenizer, pre, count_rows):
    """Who edits the last column of what he sees would edit the only one."""

    def edit(module, args, output=None):
        (hidden,) = args
        edited = (hidden if output is None else output).clone()
        edited[:, 0] += 1
        return edited

    transformer = make(model, tokenizer)
    plain = transformer.transform(MANY)
    part = model.model.layers[1].mlp
    part.register_forward_pre_hook(edit) if pre else part.register_forward_hook(edit)
    shapes = count_rows(model.model.layers[1])
    close(transformer.transform(MANY), plain)  # the first column is read in none
    assert min(width for _, width in shapes) > 1


def test_the_trial_runs_two_prompts_more_and_once(model, tokenizer, count_rows):
    transformer = make(model, tokenizer)
    shapes = count_rows(model.model.layers[1])
    for n_more in (4, 0):  # each alone, and both in a batch
        shapes.clear()
        transformer.transform(MANY)
        assert sum(n for n, _ in shapes) == len(MANY) + n_more


def test_few_prompts_do_not_pay_for_the_trial(model, tokenizer, count_rows):
    transformer = make(model, tokenizer)
    shapes = count_rows(model.model.layers[1])
    transformer.transform(PROMPTS)
    assert sum(n for n, _ in shapes) == len(PROMPTS)


def hooks_of(model):
    """Every hook on a model's parts, which torch has no public way to list."""
    names = ("_forward_pre_hooks", "_forward_hooks")
    return [hook for part in model.modules() for name in names for hook in getattr(part, name)]


def test_hooks_are_gone(model, tokenizer, monkeypatch):
    transformer = make(model, tokenizer)
    transformer.transform(MANY)
    assert not hooks_of(model)

    def broken(self, hidden):
        raise MemoryError("no memory left")

    monkeypatch.setattr(type(model.model.layers[0].mlp), "forward", broken)
    forget_trials()
    with pytest.raises(MemoryError, match="no memory left"):
        transformer.transform(MANY)
    assert not hooks_of(model)
