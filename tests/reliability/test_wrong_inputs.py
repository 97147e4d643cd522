"""Models, options and activations of the wrong kind: an error that says what was expected."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bare import GREEDY, LANGUAGE, PROMPTS, Y, bare_ids, let_harmful_words_share
from shifted import pooled_gate
from sklearn.pipeline import make_pipeline
from tiny import make_model

from skgate import ActivationTransformer, LatentGate, SteeringWrapper

# Tokens without an embedding


@pytest.fixture
def short(tokenizer):
    """A model that knows all but the tokenizer's last words."""
    model = make_model("llama", vocab_size=len(tokenizer) - 2)
    return let_harmful_words_share(model, tokenizer)


def test_a_token_beyond_the_embeddings_names_its_row(short, tokenizer):
    """Not "index out of range in self", after half of the prompts have run."""
    known, unknown = "kill egg", tokenizer.convert_ids_to_tokens(len(tokenizer) - 1)
    reader = ActivationTransformer(short, tokenizer=tokenizer, layer=1)
    n = len(tokenizer)
    message = rf"\[1\] has token id {n - 1}, expected ids less than {n - 2}.*resize_token"
    with pytest.raises(ValueError, match=rf"X{message}"):
        reader.transform([known, f"boil {unknown}"])
    assert reader.transform([known]).shape == (1, 32)
    gate = pooled_gate(calibration="threshold")
    few = [i for i, prompt in enumerate(PROMPTS) if unknown not in prompt.split()]
    ids = [bare_ids(tokenizer, PROMPTS[i]) for i in few]
    few = [i for i, row in zip(few, ids, strict=True) if row.max() < n - 2]
    wrapper = SteeringWrapper(make_pipeline(reader, gate), generate_kwargs=GREEDY, strength=1.0)
    wrapper.fit([PROMPTS[i] for i in few], Y[few], language=LANGUAGE[few])
    with pytest.raises(ValueError, match=rf"prompts{message}"):
        wrapper.generate([known, f"boil {unknown}"])
    with wrapper.attach() as steered, pytest.raises(ValueError, match=f"token id {n - 1}"):
        steered.generate(bare_ids(tokenizer, f"boil {unknown}"))


# Models


class Foreign:
    """A model of another library."""


def test_wrappers_around_a_model_are_named(tokenizer):
    model = make_model("llama")
    cases = [
        (torch.nn.DataParallel(model), r"Got a DataParallel as model, .* Pass its \.module"),
        (torch.nn.Sequential(model), "Got a Sequential as model, expected a PreTrainedModel"),
        (Foreign(), r"'model' parameter .* implementing 'forward' and 'parameters'\. Got"),
        (type(model), "Got a type as model, expected a PreTrainedModel"),
    ]
    for wrapped, message in cases:
        reader = ActivationTransformer(wrapped, tokenizer=tokenizer, layer=1)
        with pytest.raises(TypeError, match=message):
            reader.transform(["kill egg"])


# Loading


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "half precision", "int8", torch.int64, "nn"])
def test_a_dtype_that_is_none_is_named(dtype, checkpoint):
    reader = ActivationTransformer(checkpoint, layer=1, dtype=dtype)
    with pytest.raises(ValueError, match=r"Got dtype=.*expected 'auto', .* such as 'float16'"):
        reader.transform(["kill egg"])


@pytest.mark.parametrize("dtype", ["auto", "float32", "torch.float32", torch.float32, "bfloat16"])
def test_every_way_to_write_a_dtype(dtype, checkpoint):
    reader = ActivationTransformer(checkpoint, layer=1, dtype=dtype)
    expected = ActivationTransformer(checkpoint, layer=1).transform(["kill egg"])
    tolerance = 0.2 if dtype == "bfloat16" else 1e-6
    np.testing.assert_allclose(reader.transform(["kill egg"]), expected, atol=tolerance)


@pytest.mark.parametrize(
    ("model_kwargs", "device", "message"),
    [
        ({"dtype": "float16"}, "auto", "'dtype' in model_kwargs, expected it as .* dtype"),
        ({"torch_dtype": "float16"}, "auto", "'torch_dtype' .* expected it as the parameter dtype"),
        ({"revision": "main"}, "auto", "'revision' in model_kwargs"),
        ({"device": "cpu"}, "auto", "'device' in model_kwargs"),
        ({"device_map": "auto"}, "cpu", "device='cpu' and 'device_map' .* only one"),
    ],
)
def test_model_kwargs_do_not_contradict_parameters(model_kwargs, device, message, checkpoint):
    """Before, "torch_dtype" overrode dtype, and device was ignored."""
    reader = ActivationTransformer(checkpoint, layer=1, device=device, model_kwargs=model_kwargs)
    with pytest.raises(ValueError, match=message):
        reader.transform(["kill egg"])


# Activations


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_gates_take_tensors_of_every_precision(dtype):
    """NumPy has no bfloat16, and takes no tensor that needs a gradient."""
    rng = np.random.default_rng(0)
    y = np.tile([0, 1], 20)
    X = rng.normal(size=(40, 6)) + 3 * y[:, np.newaxis]
    X = torch.tensor(X, dtype=dtype, requires_grad=True)
    same = X.detach().double().numpy()
    gate, expected = LatentGate().fit(X, torch.tensor(y)), LatentGate().fit(same, y)
    np.testing.assert_allclose(gate.harm_score(X), expected.harm_score(same), rtol=1e-6)
    np.testing.assert_array_equal(gate.predict(X), expected.predict(same))
    gate.partial_fit(X[:4], y[:4], language="qu")
    expected.partial_fit(same[:4], y[:4], language="qu")
    np.testing.assert_allclose(
        gate.decision_function(X, "qu"), expected.decision_function(same, "qu"), rtol=1e-6
    )
