"""Edits of a model between calls: what a cheap look notices, and when."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
import torch
from bare import LANGUAGE, PROMPTS, Y, let_harmful_words_share
from shifted import pooled_gate
from sklearn.pipeline import make_pipeline
from tiny import make_model

from skgate import ActivationTransformer, SteeringWrapper
from skgate.model import _watch
from skgate.model._fingerprint import fingerprint_structure, fingerprint_weights
from skgate.model._watch import N_LOOKS, Fingerprints, fingerprint


def true_fingerprints(module):
    return Fingerprints(fingerprint_weights(module), fingerprint_structure(module))


@pytest.fixture
def reads(monkeypatch):
    """Count the full reads."""
    done = []
    read = _watch.read_weights
    monkeypatch.setattr(_watch, "read_weights", lambda module: done.append(1) or read(module))
    return done


def step(model, optimizer):
    model(torch.tensor([[1, 2, 3]])).logits.square().sum().backward()
    optimizer.step()


def adamw(model, **options):
    step(model, torch.optim.AdamW(model.parameters(), lr=0.1, **options))


def changed(model):
    return {name: value + 1 for name, value in model.state_dict().items()}


def weight(model):
    return model.model.layers[1].mlp.up_proj.weight


def add_in_place(model):
    with torch.no_grad():
        weight(model)[3, 5] += 1


def write_whole(model):
    weight(model).detach().numpy()[:] += 1


def replace_parameter(model):
    model.model.layers[1].mlp.up_proj.weight = torch.nn.Parameter(weight(model).detach() + 1)


def replace_module(model):
    model.model.layers[1].mlp = copy.deepcopy(model.model.layers[0].mlp)


def set_data(model):
    weight(model).data = weight(model).data + 1


def set_eps(model):
    model.model.layers[1].input_layernorm.variance_epsilon = 0.5


def set_config(model):
    model.config.rms_norm_eps = 0.5


def move_rotary_frequencies(model):
    model.model.rotary_emb.inv_freq.mul_(2)


AT_ONCE = {
    "in_place": add_in_place,
    "sgd": lambda model: step(model, torch.optim.SGD(model.parameters(), lr=0.1)),
    "adamw": adamw,
    "fused_adamw": lambda model: adamw(model, fused=True),
    "load_state_dict": lambda model: model.load_state_dict(changed(model)),
    "load_state_dict_assign": lambda model: model.load_state_dict(changed(model), assign=True),
    "data_copy": lambda model: weight(model).data.copy_(weight(model).data * 2),
    "numpy_whole": write_whole,
    "data_set": set_data,
    "parameter": replace_parameter,
    "module": replace_module,
    "setting": set_eps,
    "configuration": set_config,
    "buffer": move_rotary_frequencies,
    "dtype": lambda model: model.to(torch.bfloat16),
}


@pytest.mark.parametrize("edit", AT_ONCE.values(), ids=AT_ONCE)
def test_edits_that_are_noticed_at_the_next_call(edit, reads):
    model = make_model("llama")
    before = fingerprint(model.model)
    for _ in range(3):
        assert fingerprint(model.model) is before
    assert len(reads) == 1
    edit(model)
    after = fingerprint(model.model)
    assert len(reads) == 2
    assert after == true_fingerprints(model.model) != before


def edit_one_element_by_data(tensor, i):
    tensor.data.view(-1)[i] += 1


def edit_one_element_by_numpy(tensor, i):
    tensor.detach().numpy().reshape(-1)[i] += 1


@pytest.mark.parametrize("edit", [edit_one_element_by_data, edit_one_element_by_numpy])
def test_an_edit_of_one_element_is_noticed_within_the_stated_number_of_calls(edit, reads):
    """Wherever it is, and wherever the rotation stands."""
    model = make_model("llama", hidden_size=128, intermediate_size=1024, vocab_size=2048)
    rng = np.random.default_rng(0)
    n_calls = []
    for tensor in (model.model.embed_tokens.weight, weight(model)):
        assert tensor.numel() > 100_000  # far more than a cheap look samples
        for i in rng.integers(tensor.numel(), size=10):
            for _ in range(rng.integers(N_LOOKS)):
                fingerprint(model.model)
            n_reads = len(reads)
            edit(tensor, i)
            n_calls.append(0)
            while len(reads) == n_reads:
                found = fingerprint(model.model)
                n_calls[-1] += 1
                assert n_calls[-1] <= N_LOOKS
            assert found == true_fingerprints(model.model)
    assert max(n_calls) > 1  # otherwise it wasn't the rotation


def test_configurations_inside_the_configuration_count(reads):
    model = make_model("llama")
    model.config.nested = type(model.config)(num_attention_heads=2, some=[{"a": 1}, 2.0])
    before = fingerprint(model.model)
    assert fingerprint(model.model) is before
    model.config.nested.some[0]["a"] = 3
    assert fingerprint(model.model) == true_fingerprints(model.model) != before


def test_values_that_begin_anywhere_in_memory_are_sampled_where_they_are():
    """As in a file that is mapped into memory, whose tensors may begin at any byte."""
    model = make_model("llama")
    whole = torch.zeros(1 + weight(model).numel())
    assert (whole[1:].storage_offset() * whole.element_size()) % 8
    weight(model).data = whole[1:].view_as(weight(model))
    before = fingerprint(model.model)
    assert fingerprint(model.model) is before
    weight(model).detach().numpy()[:] = 1
    assert fingerprint(model.model) == true_fingerprints(model.model) != before


def test_a_full_read_notices_one_element_at_once():
    model = make_model("llama", hidden_size=128, intermediate_size=1024)
    before = fingerprint(model.model, full=True)
    edit_one_element_by_data(weight(model), 70_001)
    assert fingerprint(model.model, full=True) == true_fingerprints(model.model) != before


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft's
@pytest.mark.parametrize("change", ["disable", "set", "scale", "merge", "unload"])
def test_adapters(change, reads):
    peft = pytest.importorskip("peft", reason="needs peft, of the test extra")
    settings = peft.LoraConfig(r=2, target_modules=["up_proj"], init_lora_weights=False)
    model = peft.get_peft_model(make_model("llama"), settings)
    model.add_adapter("second", settings)
    backbone = model.get_base_model().model
    before = fingerprint(backbone)
    assert fingerprint(backbone) is before
    layer = backbone.layers[0].mlp.up_proj
    if change == "disable":
        with model.disable_adapter():
            assert fingerprint(backbone).weights != before.weights
        assert fingerprint(backbone) == before
        return
    if change == "set":
        model.set_adapter("second")
    elif change == "scale":
        layer.scaling["default"] *= 2
    elif change == "merge":
        model.merge_adapter()
    else:
        model.unload()
    assert fingerprint(backbone) == true_fingerprints(backbone) != before


def test_calls_leave_nothing_to_notice(tokenizer, reads):
    """Forward passes, generation and evaluation mode cost no full read."""
    model = let_harmful_words_share(make_model("llama"), tokenizer)
    reader = ActivationTransformer(model, tokenizer=tokenizer, layer=1, store=False)
    wrapper = SteeringWrapper(
        make_pipeline(reader, pooled_gate()), generate_kwargs={"max_new_tokens": 2}, strength=1.0
    ).fit(PROMPTS, Y, language=LANGUAGE)
    n_reads = len(reads)
    for _ in range(3):
        wrapper.predict(PROMPTS[:3])
        wrapper.generate(PROMPTS[:3])
        wrapper.partial_fit(PROMPTS[:2], Y[:2], language="sw")
        model.train()
        model(torch.tensor([[1, 2, 3]]))
        model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=2, pad_token_id=0)
    assert len(reads) == n_reads


def test_when_all_weights_are_read(tokenizer, reads):
    """At fit, at attach, and at the first call after saving or loading."""
    model = let_harmful_words_share(make_model("llama"), tokenizer)
    reader = ActivationTransformer(model, tokenizer=tokenizer, layer=1, store=False)
    wrapper = SteeringWrapper(make_pipeline(reader, pooled_gate()), strength=1.0)
    by_path = ActivationTransformer("some/model", layer=1)
    for call in (
        lambda: wrapper.fit(PROMPTS, Y, language=LANGUAGE),
        lambda: wrapper.attach().__enter__(),
        lambda: pickle.dumps(by_path) and wrapper.predict(PROMPTS[:1]),
        lambda: reader.activation_source(),
    ):
        n_reads = len(reads)
        call()
        assert len(reads) == n_reads + 1


def test_verify_full_reads_all_weights_at_every_call(tokenizer, reads):
    model = make_model("llama")
    reader = ActivationTransformer(model, tokenizer=tokenizer, layer=1, store=False, verify="full")
    for n in range(1, 4):
        reader.transform(["boil an egg"])
        assert len(reads) == n
    with pytest.raises(ValueError, match="verify"):
        reader.set_params(verify="slow").transform(["boil an egg"])


def test_a_gate_refuses_an_edited_model(tokenizer):
    model = let_harmful_words_share(make_model("llama"), tokenizer)
    reader = ActivationTransformer(model, tokenizer=tokenizer, layer=1)
    wrapper = SteeringWrapper(make_pipeline(reader, pooled_gate()), strength=1.0)
    wrapper.fit(PROMPTS, Y, language=LANGUAGE)
    wrapper.predict(PROMPTS[:2])
    weight(model).data.mul_(1.5)
    for call in (wrapper.predict, wrapper.generate):
        with pytest.raises(ValueError, match="another source than the gate was fitted on: weights"):
            call(PROMPTS[:2])


def test_a_store_is_not_written_under_the_fingerprint_of_other_weights(tokenizer, tmp_path):
    """A cheap look may miss one element; what other sessions read must not depend on that."""
    model = make_model("llama", hidden_size=128, intermediate_size=1024)
    untouched = copy.deepcopy(model)
    reader = ActivationTransformer(model, tokenizer=tokenizer, layer=-1, store=tmp_path / "store")
    reader.transform(["boil an egg"])
    first = model.model.layers[0].mlp.up_proj.weight
    first.data.view(-1)[70_001] += 100
    assert fingerprint(model.model).weights != fingerprint_weights(model.model)  # missed
    reader.transform(["who is there"])
    rows = reader.set_params(model=untouched).transform(["who is there"])
    expected = reader.set_params(store=False).transform(["who is there"])
    np.testing.assert_array_equal(rows, expected)


def test_a_model_that_is_watched_is_freed():
    model = make_model("llama")
    fingerprint(model.model)
    backbone, parameter = weakref.ref(model.model), weakref.ref(weight(model))
    del model
    gc.collect()
    assert backbone() is None
    assert parameter() is None


def test_models_that_cannot_be_watched_are_read_at_every_call(reads):
    """A transposed weight has no bytes that can be sampled in place."""
    model = make_model("llama")
    weight(model).data = weight(model).data.t().contiguous().t()
    for n in range(1, 4):
        assert fingerprint(model.model) == true_fingerprints(model.model)
        assert len(reads) == n


def test_weights_made_in_inference_mode(reads):
    """Torch counts no changes of them."""
    with torch.inference_mode():
        model = make_model("llama")
    before = fingerprint(model.model)
    assert fingerprint(model.model) is before
    with torch.inference_mode():
        weight(model).mul_(2)
    assert fingerprint(model.model) == true_fingerprints(model.model) != before
