"""ActivationTransformer: what it reads, and how it behaves as a scikit-learn transformer."""

from __future__ import annotations

import copy
import pickle
import re
import threading

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from tiny import CHAT_TEMPLATE, PROMPTS, WORDS, make_model

from skgate import ActivationTransformer
from skgate.model._prompts import Request

ARCHITECTURES = ["llama", "qwen2", "gemma2", "gpt2", "gpt_neox", "opt", "bert"]


@pytest.fixture
def transformer(model, tokenizer):
    return ActivationTransformer(model, tokenizer=tokenizer, layer=2, position="last")


@pytest.fixture
def count_prompts(monkeypatch):
    """Count the prompts that pass through models of a class, without any hook."""

    def start(backbone):
        seen = []
        forward = type(backbone).forward

        def counting(self, *args, **kwargs):
            seen.append(len(kwargs["input_ids"]))
            return forward(self, *args, **kwargs)

        monkeypatch.setattr(type(backbone), "forward", counting)
        return lambda: sum(seen)

    return start


def block_outputs(model, input_ids, **kwargs):
    """Every block's output of a plain forward pass, by hooks of the test's own."""
    from skgate.model._blocks import find_blocks

    outputs = []
    _, blocks = find_blocks(model.base_model, model.config.num_hidden_layers)
    hooks = [
        block.register_forward_hook(
            lambda module, args, out: outputs.append(out[0] if isinstance(out, tuple) else out)
        )
        for block in blocks
    ]
    with torch.no_grad():
        states = model(input_ids, output_hidden_states=True, **kwargs).hidden_states
    for hook in hooks:
        hook.remove()
    return outputs, states


def close(actual, expected):
    """Differ by less than 1e-5 relative to the activation's length."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert np.linalg.norm(actual - expected) < 1e-5 * np.linalg.norm(expected)


# What is read


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equals_the_hidden_states_of_a_plain_forward(architecture, tokenizer):
    model = make_model(architecture)
    transformer = ActivationTransformer(
        model, tokenizer=tokenizer, layer="all", chat_template=False, store=False, position="last"
    )
    rows = transformer.transform(PROMPTS).reshape(len(PROMPTS), 4, 16)
    for i, prompt in enumerate(PROMPTS):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        outputs, states = block_outputs(model, ids)
        for layer in range(4):
            close(rows[i, layer], outputs[layer][0, -1])
            if layer < 3:  # the last entry has been through the final norm
                close(rows[i, layer], states[layer + 1][0, -1])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_independent_of_batch_neighbours_and_padding_side(architecture, padding_side, tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.padding_side = padding_side
    model = make_model(architecture)
    transformer = ActivationTransformer(
        model, tokenizer=tokenizer, layer="all", chat_template=False, store=False, position="last"
    )
    together = transformer.transform(PROMPTS)
    for i, prompt in enumerate(PROMPTS):
        close(together[i], transformer.transform([prompt])[0])
    small = clone(transformer).set_params(batch_tokens=1).transform(PROMPTS)
    for i in range(len(PROMPTS)):
        close(together[i], small[i])


def test_independent_of_neighbours_that_take_other_rotary_frequencies(tokenizer):
    model = make_model("phi3_longrope")
    prompts = [
        " ".join((WORDS * 2)[:n]) for n in (5, 29, 31, 32, 40)
    ]  # and a BOS: up to 32, or longer
    kept = ActivationTransformer(
        model, tokenizer=tokenizer, layer="all", chat_template=False, position="last"
    )
    fresh = clone(kept).set_params(store=False)
    alone = [fresh.transform([prompt])[0] for prompt in prompts]
    for transformer in (kept, fresh):
        for order in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [1], [4, 1], [1]):
            rows = transformer.transform([prompts[i] for i in order])
            for row, i in zip(rows, order, strict=True):
                close(row, alone[i])


def test_what_the_last_batch_left_in_a_buffer_is_no_part_of_the_model(tokenizer, count_prompts):
    model = make_model("phi3_longrope")
    prompts = [" ".join((WORDS * 2)[:n]) for n in (40, 5)]
    transformer = ActivationTransformer(
        model, tokenizer=tokenizer, layer=1, chat_template=False, position="last"
    )
    transformer.transform(prompts[:1])
    n_forwarded = count_prompts(model.model)
    transformer.transform(prompts[1:])
    transformer.transform(prompts)
    assert n_forwarded() == 1


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt"])
def test_equals_a_left_padded_forward_with_position_ids(architecture, tokenizer):
    """What generation does: left padding, the last column."""
    model = make_model(architecture)
    ids = [tokenizer(prompt).input_ids for prompt in PROMPTS]
    width = max(map(len, ids))
    padded = torch.tensor([[0] * (width - len(row)) + row for row in ids])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    outputs, _ = block_outputs(model, padded, attention_mask=mask, position_ids=positions)
    transformer = ActivationTransformer(
        model, tokenizer=tokenizer, layer=1, chat_template=False, position="last"
    )
    for row, expected in zip(transformer.transform(PROMPTS), outputs[1][:, -1], strict=True):
        close(row, expected)


def test_dropout_is_off_and_the_training_flags_come_back(tokenizer):
    model = make_model("gpt2", attn_pdrop=0.5, resid_pdrop=0.5).train()
    model.transformer.h[1].train(False)
    flags = [module.training for module in model.modules()]
    transformer = ActivationTransformer(
        model, tokenizer=tokenizer, layer=-1, store=False, position="last"
    )
    np.testing.assert_array_equal(transformer.transform(PROMPTS), transformer.transform(PROMPTS))
    assert [module.training for module in model.modules()] == flags


def test_threads_that_share_a_model_in_training_mode_all_read_without_dropout(tokenizer):
    model = make_model("gpt2", attn_pdrop=0.5, embd_pdrop=0.5, resid_pdrop=0.5).train()
    transformer = ActivationTransformer(
        model, tokenizer=tokenizer, layer=2, store=False, position="last"
    )
    expected = transformer.transform(PROMPTS)
    found = []

    def read():
        found.extend(transformer.transform(PROMPTS) for _ in range(5))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    for rows in found:
        np.testing.assert_allclose(rows, expected, atol=1e-6)
    assert all(module.training for module in model.modules())


def test_blocks_that_put_tokens_first_are_refused(model, transformer, monkeypatch):
    block = type(model.model.layers[2])
    forward = block.forward
    monkeypatch.setattr(block, "forward", lambda *args, **kw: forward(*args, **kw).transpose(0, 1))
    with pytest.raises(RuntimeError, match="prompts and tokens first"):
        transformer.set_params(layer=0).transform(PROMPTS)


def test_the_model_sees_what_apply_chat_template_gives(model, tokenizer):
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "boil an egg"}], add_generation_prompt=True, return_dict=False
    )
    assert ids.count(tokenizer.bos_token_id) == 1
    expected, _ = block_outputs(model, torch.tensor([ids]))
    transformer = ActivationTransformer(model, tokenizer=tokenizer, layer=1, position="last")
    close(transformer.transform(["boil an egg"])[0], expected[1][0, -1])


def test_system_prompt_conversations_and_template_arguments(model, tokenizer):
    user = {"role": "user", "content": "boil an egg"}
    system = {"role": "system", "content": "please stop"}
    base = ActivationTransformer(model, tokenizer=tokenizer, layer=1, position="last")
    with_system = clone(base).set_params(system_prompt="please stop")
    thinking = clone(base).set_params(chat_template_kwargs={"thinking": True})
    close(base.transform([[user]]), base.transform(["boil an egg"]))
    close(with_system.transform(["boil an egg"]), base.transform([[system, user]]))
    close(
        with_system.transform([[{**system, "content": "now"}, user]]),
        base.transform([[{**system, "content": "now"}, user]]),
    )
    assert not np.allclose(thinking.transform(["boil an egg"]), base.transform(["boil an egg"]))
    history = [user, {"role": "assistant", "content": "now"}, {"role": "user", "content": "knock"}]
    assert not np.allclose(base.transform([history]), base.transform(["knock"]))


@pytest.mark.parametrize(
    ("prompt", "last_word"),
    [
        ("boil an egg", "egg"),
        ("  boil an egg \n", "egg"),
        ("assistant", "assistant"),  # also a word of the template
        (
            [
                {"role": "user", "content": "knock"},
                {"role": "assistant", "content": "who is there"},
                {"role": "user", "content": "boil an egg"},
            ],
            "egg",
        ),
    ],
)
def test_position_instruction_is_the_last_token_of_the_users_own_text(
    model, tokenizer, prompt, last_word
):
    transformer = ActivationTransformer(model, tokenizer=tokenizer, layer=1, position="instruction")
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    place = max(i for i, t in enumerate(ids) if t == tokenizer.convert_tokens_to_ids(last_word))
    expected, _ = block_outputs(model, torch.tensor([ids]))
    close(transformer.transform([prompt])[0], expected[1][0, place])


def test_position_mean_and_negative(model, tokenizer):
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": PROMPTS[1]}], add_generation_prompt=True, return_dict=False
    )
    expected, _ = block_outputs(model, torch.tensor([ids]))
    transformer = ActivationTransformer(model, tokenizer=tokenizer, layer=1, position="mean")
    close(transformer.transform(PROMPTS)[1], expected[1][0].mean(0))
    close(transformer.set_params(position=-3).transform(PROMPTS)[1], expected[1][0, -3])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_several_positions_are_side_by_side(architecture, tokenizer):
    """For each layer in the order given, each position in the order given."""
    params = {"tokenizer": tokenizer, "store": False}
    one = ActivationTransformer(make_model(architecture), layer=0, **params)
    layers, positions = [2, 0], ["mean", -2, "last", "instruction"]
    together = clone(one).set_params(layer=layers, position=positions).transform(PROMPTS)
    alone = [
        one.set_params(layer=layer, position=position).transform(PROMPTS)
        for layer in layers
        for position in positions
    ]
    close(together, np.concatenate(alone, axis=1))


def test_a_list_of_one_position_is_that_position(transformer):
    expected, source = transformer.transform(PROMPTS), transformer.activation_source()
    for same in (["last"], ("last",), [-1], np.array(["last"]), -1):
        transformer.set_params(position=same)
        np.testing.assert_array_equal(transformer.transform(PROMPTS), expected)
        assert transformer.activation_source() == source
    assert source.position == "last"
    several = transformer.set_params(position=["mean", -1]).activation_source()
    assert several.position == ("mean", "last")
    assert source.describe_change(several) == "position=('mean', 'last') instead of 'last'"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_give_float32(tokenizer, dtype):
    model = make_model("llama")
    full = ActivationTransformer(model, tokenizer=tokenizer, layer=1, position="last").transform(
        PROMPTS
    )
    half = ActivationTransformer(
        model.to(dtype), tokenizer=tokenizer, layer=1, position="last"
    ).transform(PROMPTS)
    assert half.dtype == np.float32
    assert np.linalg.norm(half - full) < 0.05 * np.linalg.norm(full)
    assert not np.array_equal(half, full)


def test_device_map_and_offloaded_models(checkpoint, transformer):
    from accelerate import cpu_offload

    by_map = ActivationTransformer(
        checkpoint, layer=2, model_kwargs={"device_map": "cpu"}, position="last"
    )
    close(by_map.transform(PROMPTS), transformer.transform(PROMPTS))
    offloaded = make_model("llama")
    cpu_offload(offloaded, execution_device=torch.device("cpu"))
    assert next(offloaded.parameters()).is_meta
    by_offload = ActivationTransformer(
        offloaded, tokenizer=transformer.tokenizer, layer=2, position="last"
    )
    assert by_offload.activation_source() == transformer.activation_source()
    store = clone(by_offload).set_params(store=False)
    close(store.transform(PROMPTS), transformer.transform(PROMPTS))


# Hooks


def test_hooks_are_gone_after_success_and_failure_and_others_stay(model, transformer, monkeypatch):
    handle = model.model.layers[0].register_forward_hook(lambda *args: None)

    def hooks():
        return [len(module._forward_hooks) for module in model.modules()]  # noqa: SLF001  (torch's)

    before = hooks()
    transformer.transform(PROMPTS)
    assert hooks() == before

    def broken(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(model.model.layers[1].mlp, "forward", broken)
    with pytest.raises(KeyboardInterrupt):
        transformer.transform(PROMPTS)
    assert hooks() == before
    handle.remove()


def test_an_unseen_block_is_an_error(model, transformer, monkeypatch):
    """As in a compiled model, whose forward doesn't come through the block's hooks."""
    block = model.model.layers[2]
    forward = type(block).forward
    monkeypatch.setattr(type(block), "__call__", forward)
    with pytest.raises(RuntimeError, match=r"layer \[2\].*hooks never fired.*torch\.compile"):
        transformer.transform(PROMPTS)


def test_threads_do_not_read_each_others_passes(model, tokenizer):
    transformer = ActivationTransformer(
        model, tokenizer=tokenizer, layer=1, store=False, position="last"
    )
    expected = [transformer.transform([prompt]) for prompt in PROMPTS]
    wrong = []

    def work(i):
        for _ in range(20):
            if not np.allclose(transformer.transform([PROMPTS[i]]), expected[i], atol=1e-5):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(PROMPTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# The cache


def test_each_distinct_prompt_is_forwarded_once(model, transformer, count_prompts):
    n_forwarded = count_prompts(model.model)
    first = transformer.transform([*PROMPTS, *PROMPTS])
    assert n_forwarded() == len(PROMPTS)
    again = clone(transformer).transform(PROMPTS[::-1])
    assert n_forwarded() == len(PROMPTS)
    np.testing.assert_array_equal(first[:5], again[::-1])


def test_cache_layers(model, transformer, count_prompts):
    n_forwarded = count_prompts(model.model)
    transformer.set_params(cache_layers="all").transform(PROMPTS)
    for layer in range(4):
        transformer.set_params(layer=layer).transform(PROMPTS)
    assert n_forwarded() == 5
    transformer.set_params(layer=1, position=-2, cache_layers=[0]).transform(PROMPTS)
    transformer.set_params(layer=0).transform(PROMPTS)
    assert n_forwarded() == 10
    transformer.set_params(layer=2).transform(PROMPTS)
    assert n_forwarded() == 15


def test_positions_are_cached_one_by_one(model, transformer, count_prompts):
    n_forwarded = count_prompts(model.model)
    last = transformer.transform(PROMPTS)
    both = transformer.set_params(position=["mean", "last"]).transform(PROMPTS[:3])
    assert n_forwarded() == 5 + 3  # the means are missing
    close(both[:, 16:], last[:3])
    again = transformer.set_params(position=["last", "mean"]).transform(PROMPTS[:3])
    np.testing.assert_array_equal(again, np.roll(both, 16, axis=1))
    mean = transformer.set_params(position="mean").transform(PROMPTS[:3])
    np.testing.assert_array_equal(mean, both[:, :16])
    assert n_forwarded() == 5 + 3


def test_keys_of_the_cache_stay_the_same():
    """Those of stores on disk, which older versions wrote."""
    last, mean = "6e3a6bf056dbe0f967fd0d7c086c7a7c", "97d6249a4cb693d129417ecbae8281c6"
    request = Request(np.array([1, 2, 3]), (2, None))
    assert [key.hex() for key in request.keys] == [last, mean]


def change_weight(model, transformer):
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[0, 0] += 1


def change_weight_through_data(model, transformer):
    model.model.layers[0].mlp.down_proj.weight.data[3, 5] += 1


def swap_columns(model, transformer):
    weight = model.model.layers[0].mlp.down_proj.weight.data
    weight[:, [0, 1]] = weight[:, [1, 0]]


def change_dtype(model, transformer):
    model.to(torch.bfloat16)


def change_buffer(model, transformer):
    model.model.rotary_emb.inv_freq.mul_(3)  # not saved with the weights


def change_config(model, transformer):
    model.model.layers[0].input_layernorm.variance_epsilon = 10.0
    model.config.rms_norm_eps = 10.0


def change_setting(model, transformer):
    model.model.layers[0].self_attn.scaling = 0.5


def change_template(model, transformer):
    tokenizer = copy.deepcopy(transformer.tokenizer)
    tokenizer.chat_template = CHAT_TEMPLATE.replace("<|user|>", "please")
    transformer.set_params(tokenizer=tokenizer, chat_template_kwargs={"thinking": True})


def change_special_tokens(model, transformer):
    transformer.set_params(chat_template=False)


def change_position(model, transformer):
    transformer.set_params(position="instruction")


def change_layer(model, transformer):
    transformer.set_params(layer=1)


def replace_forward(model, transformer):
    mlp = model.model.layers[0].mlp
    forward = mlp.forward
    mlp.forward = lambda x: 2 * forward(x)


@pytest.mark.parametrize(
    "change",
    [
        change_weight,
        change_weight_through_data,
        swap_columns,
        change_dtype,
        change_buffer,
        change_config,
        change_setting,
        change_template,
        change_special_tokens,
        change_position,
        change_layer,
        replace_forward,
    ],
)
def test_the_cache_sees_every_change(model, transformer, change):
    before = transformer.transform(PROMPTS)
    change(model, transformer)
    after = transformer.transform(PROMPTS)
    fresh = clone(transformer).set_params(store=False).transform(PROMPTS)
    np.testing.assert_array_equal(after, fresh)
    assert not np.array_equal(after, before)


# peft asks transformers by an old name
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_the_cache_sees_adapters(model, transformer):
    from peft import LoraConfig, get_peft_model

    plain = transformer.transform(PROMPTS)
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    with_adapter = transformer.set_params(model=adapted).transform(PROMPTS)
    assert not np.allclose(with_adapter, plain)
    with adapted.disable_adapter():
        close(transformer.transform(PROMPTS), plain)
    np.testing.assert_array_equal(transformer.transform(PROMPTS), with_adapter)


def test_the_cache_is_bypassed_under_foreign_hooks(model, transformer, count_prompts):
    plain = transformer.transform(PROMPTS)
    n_forwarded = count_prompts(model.model)
    handle = model.model.layers[0].register_forward_hook(lambda module, args, out: 2 * out)
    edited = transformer.transform(PROMPTS)
    assert n_forwarded() == 5
    assert not np.allclose(edited, plain)
    handle.remove()
    np.testing.assert_array_equal(transformer.transform(PROMPTS), plain)
    assert n_forwarded() == 5
    with torch.no_grad():  # transformers' own recording hooks, which stay, are no edits
        model(torch.tensor([[1, 2]]), output_hidden_states=True)
    transformer.transform(PROMPTS)
    assert n_forwarded() == 6


def test_the_cache_is_bypassed_where_edits_leave_no_trace(model, transformer):
    plain = transformer.transform(PROMPTS)
    mlp = model.model.layers[0].mlp
    forward = mlp.forward
    mlp.forward = lambda hidden: 2 * forward(hidden)
    edited = transformer.transform(PROMPTS)
    mlp.forward = lambda hidden: 3 * forward(hidden)
    assert not np.allclose(transformer.transform(PROMPTS), edited)
    del mlp.forward
    np.testing.assert_array_equal(transformer.transform(PROMPTS), plain)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not np.array_equal(clone(transformer).transform(PROMPTS), plain)
    np.testing.assert_array_equal(transformer.transform(PROMPTS), plain)


def test_results_do_not_alias_the_cache(transformer):
    first = transformer.transform(PROMPTS)
    expected = first.copy()
    first[:] = 0
    np.testing.assert_array_equal(transformer.transform(PROMPTS), expected)


# As a scikit-learn transformer


def test_containers_agree(transformer):
    expected = transformer.transform(PROMPTS)
    for X in (
        tuple(PROMPTS),
        np.array(PROMPTS),
        np.array(PROMPTS, dtype=object),
        np.array(PROMPTS, dtype=object)[:, None],
        pd.Series(PROMPTS, index=list("abcde")),
        pd.DataFrame({"prompt": PROMPTS}),
    ):
        np.testing.assert_array_equal(transformer.transform(X), expected)


def test_order_does_not_matter(transformer):
    transformer.set_params(store=False)
    np.testing.assert_allclose(
        transformer.transform(PROMPTS[::-1])[::-1], transformer.transform(PROMPTS), rtol=1e-5
    )


def test_fit_is_optional_and_returns_self(transformer):
    assert transformer.fit(PROMPTS) is transformer
    np.testing.assert_array_equal(
        transformer.fit_transform(PROMPTS), transformer.transform(PROMPTS)
    )


def test_feature_names_and_set_output(transformer):
    transformer.set_params(layer=[1, -1])
    names = transformer.get_feature_names_out()
    assert names[0] == "layer1_0000"
    assert names[-1] == "layer3_0015"
    frame = transformer.set_output(transform="pandas").transform(pd.Series(PROMPTS, list("abcde")))
    assert list(frame.columns) == list(names)
    assert list(frame.index) == list("abcde")
    assert isinstance(clone(transformer).transform(PROMPTS), pd.DataFrame)
    transformer.set_params(layer=2, position=["mean", "last", -2])
    names = [f"layer2_{position}_0007" for position in ("mean", "last", "-2")]
    assert transformer.get_feature_names_out()[7::16].tolist() == names


def test_clone_and_deepcopy_share_the_live_model(model, transformer, monkeypatch):
    def refuse(self, memo):
        raise AssertionError("the model was copied")

    monkeypatch.setattr(type(model), "__deepcopy__", refuse, raising=False)
    for copied in (clone(transformer), copy.deepcopy(transformer)):
        assert copied.model is model
        assert copied.tokenizer is transformer.tokenizer
        assert copied.get_params() == transformer.get_params()


def test_pickles_small_with_a_path_and_refuses_a_live_model(checkpoint, transformer):
    by_path = ActivationTransformer(checkpoint, layer=2, position="last")
    expected = by_path.transform(PROMPTS)
    dumped = pickle.dumps(by_path)
    assert len(dumped) < 1000
    np.testing.assert_array_equal(pickle.loads(dumped).transform(PROMPTS), expected)
    np.testing.assert_array_equal(expected, transformer.transform(PROMPTS))
    with pytest.raises(TypeError, match=r"live LlamaForCausalLM.*save_pretrained"):
        pickle.dumps(transformer)


def test_params_and_repr(transformer):
    assert transformer.get_params()["layer"] == 2
    assert "layer=2" in repr(ActivationTransformer("some/model", layer=2, position="last"))
    assert (
        "some/model" in ActivationTransformer("some/model", layer=2, position="last")._repr_html_()
    )


def test_verbose_shows_progress(transformer, capsys):
    transformer.set_params(verbose=True).transform(PROMPTS)
    assert "activations: 100%" in capsys.readouterr().err


def test_an_instruction_without_tokens_has_no_position(model, tokenizer):
    from tokenizers import normalizers

    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("egg", "")
    transformer = ActivationTransformer(model, tokenizer=tokenizer, layer=1, position="instruction")
    with pytest.raises(ValueError, match=r"X\[1\] has an instruction without tokens"):
        transformer.transform(["boil an egg", "egg"])


def test_truncate_keeps_the_template(model, tokenizer):
    long = " ".join(["knock"] * 100)
    transformer = ActivationTransformer(
        model, tokenizer=tokenizer, layer=1, truncate=True, position="last"
    )
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": long}], add_generation_prompt=True, return_dict=False
    )
    suffix = ids[-2:]  # <|end|> <|assistant|>
    expected, _ = block_outputs(model, torch.tensor([[*ids[:62], *suffix]]))
    close(transformer.transform([long])[0], expected[1][0, -1])
    system = " ".join(["please"] * 60)  # leaves no room for any token of the instruction
    transformer.set_params(system_prompt=system)
    with pytest.raises(ValueError, match="The text around the instruction alone leaves no room"):
        transformer.transform([long])


# Bad input


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ("boil an egg", r"Got a single string, expected X to be a list.*\. Wrap it"),
        ([], "Got an empty list, expected X to be"),
        (None, "Got a NoneType, expected X to be"),
        (7, "Got a int, expected X to be"),
        ({"prompt": "a"}, "Got a dict, expected X to be"),
        (["egg", None], r"X\[1\] is None, a missing value"),
        (["egg", np.nan], r"X\[1\] is nan, a missing value"),
        (["egg", 3], r"X\[1\] is 3 of type int"),
        (["egg", " "], r"X\[1\] is ' ', an empty prompt"),
        (["egg", []], r"X\[1\] is an empty conversation"),
        ([[{"role": "user"}]], r"X\[0\]\[0\]\['content'\] is None; expected a str or a list of"),
        ([["egg"]], r"X\[0\]\[0\] is a str; expected a non-empty str or a"),
        ({"egg"}, "Got a set, expected X to be"),
        ([{"role": "user", "content": "egg"}], "Got a single conversation"),
        (np.array([["a", "b"]]), r"Got the shape \(1, 2\), expected X.*ColumnTransformer"),
        (["egg " * 100], r"X\[0\] has 10\d tokens, expected at most 64.*truncate=True"),
        ([[{"role": "assistant", "content": "egg"}]], r"X\[0\] has no message of the role 'user'"),
    ],
)
def test_bad_prompts(transformer, X, message):
    transformer.set_params(position="instruction")
    with pytest.raises((TypeError, ValueError), match=message):
        transformer.transform(X)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"layer": 4}, "Got layer=4, expected an integer between -4 and 3"),
        ({"layer": [0, -5]}, "Got layer=-5, expected an integer between -4 and 3"),
        ({"layer": [1, -3]}, "names a layer twice"),
        ({"layer": "last"}, "'layer' parameter"),
        ({"layer": [0, 1.5]}, "Got layer=1.5, expected an integer"),
        ({"layer": []}, r"Got layer=\[\], expected at least one"),
        ({"cache_layers": [9]}, "Got cache_layers=9, expected an integer"),
        ({"position": "first"}, "'position' parameter"),
        ({"position": 0}, "'position' parameter"),
        ({"position": ["last", "first"]}, "Got position='first', expected 'last', 'instruction', "),
        ({"position": ["last", 0]}, "Got position=0, expected .* or a negative integer"),
        ({"position": ["last", -1]}, r"Got position=\['last', -1\], which names a position twice"),
        ({"position": []}, r"Got position=\[\], expected at least one of 'last'"),
        (
            {"position": ["last", -50]},
            r"X\[0\] has 7 tokens, expected at least 50 for position=-50",
        ),
        ({"position": -50}, r"X\[0\] has 7 tokens, expected at least 50 for position=-50"),
        ({"batch_tokens": 0}, "'batch_tokens' parameter"),
        ({"store": True}, "'store' parameter"),
        ({"tokenizer": None}, "Got tokenizer=None with a live LlamaForCausalLM"),
        ({"dtype": "bfloat16"}, "Got dtype='bfloat16' with a live model"),
        ({"revision": "main"}, "Got revision='main' with a live model"),
        (
            {"system_prompt": "egg", "chat_template": False},
            "Got system_prompt='egg' with chat_template=False",
        ),
        (
            {"chat_template_kwargs": {"chat_template": "{{ raise_exception('no') }}"}},
            r"X\[0\] was rejected by the tokenizer's chat template",
        ),
        ({"model": 3}, "'model' parameter"),
    ],
)
def test_bad_parameters(transformer, params, message):
    with pytest.raises((TypeError, ValueError), match=message):
        transformer.set_params(**params).transform(PROMPTS)


def test_a_tokenizer_without_a_chat_template(transformer):
    tokenizer = copy.deepcopy(transformer.tokenizer)
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match=r"tokenizer has no chat template.*chat_template=False"):
        transformer.set_params(tokenizer=tokenizer).fit(PROMPTS)
    own = {"chat_template": CHAT_TEMPLATE}
    expected = transformer.set_params(chat_template_kwargs=own).transform(PROMPTS)
    assert expected.shape == (5, 16)


def test_import_loads_neither_torch_nor_transformers():
    import subprocess
    import sys

    code = "import sys, skgate; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"\[\]", done.stdout.strip())
