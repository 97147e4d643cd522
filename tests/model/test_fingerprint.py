"""Fingerprints of models: equal where activations are, and different where they may differ."""

from __future__ import annotations

import pytest
import torch
import transformers
from tiny import architectures, make_model

from skgate import ActivationTransformer
from skgate.model._fingerprint import fingerprint_structure, fingerprint_weights


@pytest.mark.parametrize("architecture", architectures())
def test_a_forward_pass_leaves_the_structures_fingerprint(architecture):
    model = make_model(architecture).base_model
    before = fingerprint_structure(model)
    for length in (60, 9):  # and back
        with torch.no_grad():
            model(torch.arange(length)[None])
    assert fingerprint_structure(model) == before


def test_a_forward_pass_leaves_it_where_rotary_frequencies_grow(tokenizer):
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    model = make_model("llama", rope_parameters=rope, max_position_embeddings=16).base_model
    before, frequencies = fingerprint_structure(model), model.rotary_emb.inv_freq
    with torch.no_grad():
        model(torch.arange(40)[None])
    assert not torch.equal(model.rotary_emb.inv_freq, frequencies)
    assert fingerprint_structure(model) == before


@pytest.mark.parametrize(
    ("architecture", "part", "name", "value"),
    [
        ("mixtral", "layers.1.mlp.gate", "top_k", 2),
        ("llama", "layers.1.self_attn", "is_causal", False),
        ("gemma2", "layers.0.self_attn", "sliding_window", 3),
        ("gemma2", "layers.0.self_attn", "sliding_window", None),
        ("gpt2", "h.1.mlp.act", "act", torch.tanh),
        ("bloom", "h.1.self_attention", "inv_norm_factor", 3.0),
    ],
)
def test_the_structures_fingerprint_sees_every_setting(architecture, part, name, value):
    model = make_model(architecture).base_model
    before = fingerprint_structure(model)
    old = getattr(model.get_submodule(part), name, None)
    setattr(model.get_submodule(part), name, value)
    assert fingerprint_structure(model) != before
    setattr(model.get_submodule(part), name, old)
    assert fingerprint_structure(model) == before


def test_sources_differ_where_weights_or_settings_do_but_not_by_dropout(tokenizer):
    def source(**settings):
        model = make_model("gpt2", **settings)
        return ActivationTransformer(model, tokenizer=tokenizer, layer=1).activation_source()

    assert source(resid_pdrop=0.5) == source(resid_pdrop=0.1)
    assert source().differences(source(n_layers=5)) == ["weights", "settings"]
    assert source().differences(source(layer_norm_epsilon=0.1)) == ["settings"]


@pytest.mark.parametrize("architecture", architectures())
def test_a_saved_model_has_the_same_settings(architecture, tmp_path):
    model = make_model(architecture)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    settings = fingerprint_structure(model.base_model).settings
    assert fingerprint_structure(loaded.base_model).settings == settings


def test_rounding_errors_in_buffers_are_no_change_of_settings():
    model = make_model("llama").base_model
    before = fingerprint_structure(model)
    frequencies = model.rotary_emb.inv_freq
    frequencies.copy_(torch.nextafter(frequencies, torch.zeros(())))
    after = fingerprint_structure(model)
    assert after.full != before.full
    assert after.settings == before.settings
    frequencies.mul_(1.05)
    assert fingerprint_structure(model).settings != before.settings


def test_settings_name_the_version_of_transformers():
    settings = fingerprint_structure(make_model("llama").base_model).settings
    assert settings.startswith(f"{transformers.__version__}/")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.complex64])
@pytest.mark.parametrize("n_rows", [1, 2, 3])
def test_the_weights_fingerprint_sees_signs(dtype, n_rows):
    module = torch.nn.Module()
    values = torch.randn(n_rows, 4096, generator=torch.Generator().manual_seed(0)).to(dtype)
    module.weight = torch.nn.Buffer(values)
    before = fingerprint_weights(module)
    module.weight.neg_()
    assert fingerprint_weights(module) != before
    module.weight.neg_()
    assert fingerprint_weights(module) == before


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("first", [1, 3])
@pytest.mark.parametrize("step", [2, 4, 4096])
@pytest.mark.parametrize("shape", [(512, 512), (96, 256), (128, 4096)])
def test_the_weights_fingerprint_sees_the_signs_of_some_columns(dtype, first, step, shape):
    module = torch.nn.Module()
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    module.weight = torch.nn.Buffer(values)
    before = fingerprint_weights(module)
    module.weight[:, first::step].neg_()
    assert fingerprint_weights(module) != before


class Scaled(torch.Tensor):
    """A tensor that is held as two others, as quantized ones are."""

    @staticmethod
    def __new__(cls, steps, scale):
        make = torch.Tensor._make_wrapper_subclass  # noqa: SLF001  (torch's, for such classes)
        return make(cls, steps.shape, dtype=scale.dtype)

    def __init__(self, steps, scale):
        self.steps, self.scale = steps, scale

    def __tensor_flatten__(self):
        return ["steps", "scale"], None

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        assert operation is torch.ops.aten.detach.default
        return cls(args[0].steps, args[0].scale)


def test_the_weights_fingerprint_of_special_tensors():
    module = torch.nn.Module()
    module.weight = torch.nn.Buffer(Scaled(torch.arange(6).view(2, 3), torch.tensor(0.5)))
    fingerprints = [fingerprint_weights(module)]
    module.weight.steps[1, 2] = 7
    fingerprints.append(fingerprint_weights(module))
    module.weight.scale.mul_(2)
    fingerprints.append(fingerprint_weights(module))
    assert len(set(fingerprints)) == 3
    module.weight.scale.div_(2)
    assert fingerprint_weights(module) == fingerprints[1]


def test_the_weights_fingerprint_of_shards():
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        module = torch.nn.Linear(8, 8, bias=False)
        shards = distribute_tensor(module.weight.data, init_device_mesh("cpu", (1,)), [Shard(1)])
        module.weight = torch.nn.Parameter(shards)
        before = fingerprint_weights(module)
        assert fingerprint_weights(module) == before
        module.weight.data.to_local()[3, 4] += 1
        assert fingerprint_weights(module) != before
    finally:
        distributed.destroy_process_group()


def test_a_module_may_have_a_config_of_its_own_kind():
    model = make_model("llama")
    model.model.layers[0].config = {"window": 3}
    assert fingerprint_structure(model.model) == fingerprint_structure(model.model)


def test_settings_may_have_numbers_as_names():
    """As Aria's, which map one number to another."""
    model = make_model("llama")
    model.config.sizes = {16: 4}
    before = fingerprint_structure(model.base_model)
    model.config.sizes = {16: 5}
    assert fingerprint_structure(model.base_model) != before
