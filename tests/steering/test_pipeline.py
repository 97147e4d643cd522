"""What a SteeringWrapper can be built on."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from steered import GREEDY, LANGUAGE, MIXED, PROMPTS, Words, Y, make_telling_model, make_wrapper

from skgate import ActivationTransformer, LatentGate, SteeringWrapper


def test_language_as_a_column(model, tokenizer):
    frame = pd.DataFrame({"prompt": PROMPTS, "language": LANGUAGE})
    columns = ColumnTransformer(
        [
            ("activations", ActivationTransformer(model, tokenizer=tokenizer, layer=1), "prompt"),
            ("language", "passthrough", ["language"]),
        ],
        verbose_feature_names_out=False,
    ).set_output(transform="pandas")
    gate = LatentGate(calibration="threshold", language_column="language")
    wrapper = SteeringWrapper(make_pipeline(columns, gate), generate_kwargs=GREEDY, strength=2.0)
    wrapper.fit(frame, Y)
    by_keyword = make_wrapper(model, tokenizer, strength=2.0).fit(PROMPTS, Y, language=LANGUAGE)
    assert wrapper.generate(frame) == by_keyword.generate(PROMPTS, language=LANGUAGE)
    wrapper.partial_fit(frame.assign(language="sw")[10:20], Y[10:20])
    assert "sw" in wrapper.gate_[-1].languages_
    wrapper.set_params(judge=Words())
    assert np.isfinite(wrapper.score(frame, Y))
    with pytest.raises(ValueError, match="expected a DataFrame with the column 'prompt'"):
        wrapper.generate(PROMPTS)


def test_bad_gates(model, tokenizer):
    with pytest.raises(ValueError, match="Got model=None and a bare LatentGate as gate"):
        SteeringWrapper(LatentGate(), strength=1.0).fit(PROMPTS, Y)
    reader = ActivationTransformer(model, tokenizer=tokenizer, layer=1)
    scaled = make_pipeline(reader, StandardScaler(), LatentGate())
    with pytest.raises(ValueError, match=r"'StandardScaler'.*directly followed by a LatentGate"):
        SteeringWrapper(scaled, strength=1.0).fit(PROMPTS, Y)
    with pytest.raises(ValueError, match="'gate' parameter"):
        SteeringWrapper(StandardScaler(), strength=1.0).fit(PROMPTS, Y)
    with pytest.raises(TypeError, match="Got a LogisticRegression as gate, expected a Pipeline"):
        SteeringWrapper(LogisticRegression(), strength=1.0).fit(PROMPTS, Y)


def test_a_scaling_column_transformer_is_refused(model, tokenizer):
    reader = ActivationTransformer(model, tokenizer=tokenizer, layer=1)
    columns = ColumnTransformer(
        [("activations", reader, "prompt")], transformer_weights={"activations": 10.0}
    )
    wrapper = SteeringWrapper(make_pipeline(columns, LatentGate()), strength=1.0)
    with pytest.raises(ValueError, match=r"{'activations': 10\.0} .*expected 1"):
        wrapper.fit(pd.DataFrame({"prompt": PROMPTS}), Y)


def test_gates_fitted_on_other_columns_are_refused(wrapper):
    message = "fitted on 16 features, expected .* 32 activations .* 16 at each of 2 places"
    for more in ({"layer": [1, 2]}, {"layer": 1, "position": ["last", "mean"]}):
        wrapper.gate_[0].set_params(**more)
        with pytest.raises(ValueError, match=message):
            wrapper.generate(MIXED)


def test_models_that_cannot_generate_are_refused(model, tokenizer):
    wrapper = make_wrapper(model.model, tokenizer).fit(PROMPTS, Y)
    with pytest.raises(ValueError, match="Got a LlamaModel as model, which can't generate"):
        wrapper.generate(MIXED)


def test_a_gap_that_is_not_positive_is_refused(wrapper):
    wrapper.gate_[-1].projection_gap_ = -0.5
    with pytest.raises(ValueError, match=r"projection_gap_=-0\.5 .*expected a positive number"):
        wrapper.generate(MIXED)


def test_a_direction_that_is_no_unit_vector_is_refused(wrapper):
    wrapper.gate_[-1].direction_ = 5 * wrapper.gate_[-1].direction_
    with pytest.raises(ValueError, match=r"direction_ has the norm 5, expected 1"):
        wrapper.generate(PROMPTS[:2])


def test_another_tokenizer_is_refused(wrapper, tokenizer):
    other = copy.deepcopy(tokenizer)
    other.add_tokens(["tok"])
    wrapper.gate_[0].set_params(tokenizer=other)
    with pytest.raises(ValueError, match=r"another source .*tokenizer="):
        wrapper.generate(MIXED)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": 2}, r"layer=\(2,\) instead of \(1,\)"),
        ({"position": "mean"}, "position='mean' instead of 'last'"),
        ({"position": ["mean"]}, "position='mean' instead of 'last'"),
        ({"system_prompt": "please"}, "template="),
        ({"model": "other"}, "weights="),
    ],
)
def test_a_gate_fitted_elsewhere_is_refused(wrapper, tokenizer, change, message):
    if "model" in change:
        change = {"model": make_telling_model("llama", tokenizer, rms_norm_eps=1e-2, n_layers=5)}
    wrapper.gate_[0].set_params(**change)
    with pytest.raises(ValueError, match=f"another source .*{message}"):
        wrapper.generate(MIXED)
    with pytest.raises(ValueError, match="another source"), wrapper.attach():
        pass
