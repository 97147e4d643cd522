"""Loading a model, and finding its parts."""

from __future__ import annotations

import copy
import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from sklearn.base import clone
from tiny import CHAT_TEMPLATE, PROMPTS, make_model

from skgate import ActivationTransformer
from skgate.activations._reader import open_reader


def test_blocks_are_found_where_they_nest_and_return_tuples(tokenizer):
    model = make_model("mpt")
    transformer = ActivationTransformer(model, tokenizer=tokenizer, layer=[0, -1], position="last")
    assert transformer.transform(PROMPTS).shape == (5, 32)


def test_a_block_that_runs_twice_is_refused(tokenizer):
    """A hook could not tell its runs apart."""
    model = make_model("llama")
    blocks = list(model.model.layers)
    model.config.num_hidden_layers = 5
    model.model.layers = torch.nn.ModuleList([*blocks[:2], *blocks[1:]])
    transformer = ActivationTransformer(
        model, tokenizer=tokenizer, layer=1, store=False, position="last"
    )
    with pytest.raises(
        ValueError, match="Got a LlamaModel whose layers 1 and 2 are the same block"
    ):
        transformer.transform(PROMPTS)
    model.model.layers[2] = copy.deepcopy(blocks[1])
    assert transformer.transform(PROMPTS).shape == (5, 16)


def test_a_model_by_path_is_loaded_once_and_anew_when_it_changes(checkpoint):
    transformer = ActivationTransformer(checkpoint, layer=2, position="last")
    before = transformer.transform(PROMPTS)
    assert open_reader(transformer).language_model is open_reader(clone(transformer)).language_model
    with_path = ActivationTransformer(
        Path(checkpoint), layer=2, tokenizer=Path(checkpoint), position="last"
    )
    np.testing.assert_array_equal(with_path.transform(PROMPTS), before)
    old = weakref.ref(open_reader(transformer).language_model.model)
    make_model("llama", rms_norm_eps=1.0).save_pretrained(checkpoint)
    assert not np.allclose(transformer.transform(PROMPTS), before)
    gc.collect()
    assert old() is None


def test_a_model_by_path_is_loaded_once_however_it_is_named(checkpoint, monkeypatch):
    monkeypatch.chdir(Path(checkpoint).parent)
    transformers = [
        ActivationTransformer(path, layer=2, dtype=dtype, tokenizer=tokenizer, position="last")
        for path in (checkpoint, "tiny-llama", Path("tiny-llama"), "./tiny-llama/")
        for dtype in ("float32", torch.float32)
        for tokenizer in (None, checkpoint, "tiny-llama")
    ]
    assert len({id(open_reader(transformer).language_model) for transformer in transformers}) == 1
    other = clone(transformers[0]).set_params(dtype=torch.bfloat16)
    assert open_reader(other).language_model is not open_reader(transformers[0]).language_model


def test_a_tokenizer_by_path_is_loaded_anew_when_it_changes(checkpoint, tokenizer, tmp_path):
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = CHAT_TEMPLATE.replace("<|end|>", "please")
    tokenizer.save_pretrained(tmp_path / "words")
    transformer = ActivationTransformer(
        checkpoint, layer=2, tokenizer=tmp_path / "words", position="last"
    )
    before = transformer.transform(PROMPTS)
    changed.save_pretrained(tmp_path / "words")
    fresh = ActivationTransformer(
        checkpoint, layer=2, tokenizer=changed, position="last"
    ).transform(PROMPTS)
    np.testing.assert_array_equal(transformer.transform(PROMPTS), fresh)
    assert not np.allclose(fresh, before)


def test_dtype_of_a_model_by_path(checkpoint):
    transformer = ActivationTransformer(checkpoint, layer=2, dtype="bfloat16", position="last")
    assert open_reader(transformer).language_model.model.dtype == torch.bfloat16


def test_models_that_do_not_state_their_layers_are_refused(tokenizer):
    model = make_model("llama")
    model.config.__class__ = type("Unlayered", (transformers.PreTrainedConfig,), {})
    del model.config.num_hidden_layers
    with pytest.raises(ValueError, match="LlamaForCausalLM, whose configuration has no num_hidden"):
        ActivationTransformer(model, tokenizer=tokenizer, layer=0, position="last").transform(
            PROMPTS
        )


def test_encoder_decoders_are_refused(tokenizer):
    from transformers import T5Config, T5Model

    model = T5Model(T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2))
    with pytest.raises(ValueError, match="Got a T5Model, an encoder-decoder"):
        ActivationTransformer(model, tokenizer=tokenizer, layer=0, position="last").transform(
            PROMPTS
        )
