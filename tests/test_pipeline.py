"""From prompts to a calibrated gate: Pipelines, cross-validation, grid search, joblib."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from dataclasses import replace

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    TunedThresholdClassifierCV,
    cross_val_predict,
    cross_validate,
)
from sklearn.pipeline import Pipeline
from tiny import make_model

from skgate import ActivationTransformer, LatentGate, SteeringWrapper
from skgate.metrics import LanguageScorer

MARKERS = {"en": "please", "de": "knock", "fr": "now", "sw": "cat"}
HARMLESS, HARMFUL = ["boil", "stop", "sat"], ["kill", "ran", "away"]
SHUFFLED = KFold(3, shuffle=True, random_state=0)
THINGS = "egg process mat there who".split()


@pytest.fixture
def model(tokenizer):
    """A random model, to which the harmful words have something in common."""
    model = make_model("llama")
    common = torch.randn(16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer.convert_tokens_to_ids(HARMFUL)] += 2 * common
    return model


@pytest.fixture
def checkpoint(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path / "tiny-llama")
    tokenizer.save_pretrained(tmp_path / "tiny-llama")
    return str(tmp_path / "tiny-llama")


@pytest.fixture
def data():
    """Parallel toy prompts in four "languages": a word marks the language, another the class."""
    return pd.DataFrame(
        [
            {
                "prompt": f"{marker} {verb} {thing}",
                "language": language,
                "harmful": int(verb in HARMFUL),
                "row": f"{verb} {thing}",
            }
            for language, marker in MARKERS.items()
            for verb in HARMLESS + HARMFUL
            for thing in THINGS
        ]
    )


@pytest.fixture
def pipe(model, tokenizer):
    return Pipeline(
        [
            ("activations", ActivationTransformer(model, tokenizer=tokenizer, layer=1)),
            ("gate", LatentGate(source_languages=["en", "de", "fr"])),
        ]
    ).set_params(activations__position="mean")


def test_fit_predict_and_partial_fit(pipe, data):
    sources = data[data["language"] != "sw"]
    target = data[data["language"] == "sw"]
    pipe.fit(sources["prompt"], sources["harmful"], gate__language=sources["language"])
    assert pipe.predict_proba(sources["prompt"]).shape == (len(sources), 2)
    assert pipe.score(sources["prompt"], sources["harmful"]) > 0.9
    shots = target.groupby("harmful").head(4)
    before = pipe[-1].languages_
    pipe[-1].partial_fit(
        pipe[:-1].transform(shots["prompt"]), shots["harmful"], language=shots["language"]
    )
    assert set(pipe[-1].languages_) - set(before) == {"sw"}
    predicted = pipe.predict(target["prompt"], language="sw")
    assert (predicted == target["harmful"]).mean() > 0.8


def test_the_gate_remembers_what_it_was_fitted_on(pipe, data, model):
    pipe.fit(data["prompt"], data["harmful"], gate__language=data["language"])
    source = pipe[-1].activation_source_
    assert source == pipe[0].activation_source()
    assert (source.model, source.layer, source.position) == ("LlamaForCausalLM", (1,), "mean")
    moved = clone(pipe[0]).set_params(layer=2, position="last").activation_source()
    assert source.differences(moved) == ["layer", "position"]
    other = clone(pipe[0]).set_params(model=make_model("llama", rms_norm_eps=1e-3, n_layers=5))
    assert source.differences(other.activation_source()) == ["weights", "settings"]
    with pytest.raises(ValueError, match=r"another source .*layer=\(2,\) instead of \(1,\)"):
        pipe[-1].predict(clone(pipe[0]).set_params(layer=2).transform(data["prompt"]))
    with pytest.raises(ValueError, match=r"another source .*layer=\(2,\)"):
        pipe[-1].partial_fit(
            clone(pipe[0]).set_params(layer=[2, 0]).transform(data["prompt"])[:, :16],
            data["harmful"],
            language="yo",
        )
    reader, y = clone(pipe[0]).set_params(position=["last", "mean"]), data["harmful"]
    gate = LatentGate().fit(reader.transform(data["prompt"]), y, language=data["language"])
    assert gate.activation_source_ == reader.activation_source()
    with pytest.raises(
        ValueError, match=r"position=\('mean', 'last'\) instead of \('last', 'mean'"
    ):
        gate.predict(reader.set_params(position=["mean", "last"]).transform(data["prompt"]))
    with pytest.raises(ValueError, match="X has 16 features, but LatentGate is expecting 32"):
        gate.predict(reader.set_params(position="last").transform(data["prompt"]))
    told = LatentGate().fit(np.eye(4), [0, 0, 1, 1], activation_source=moved)
    assert told.activation_source_ == moved
    assert LatentGate().fit(np.eye(4), [0, 0, 1, 1]).activation_source_ is None


def test_the_source_of_functions_as_tools_is_their_schema(pipe):
    """Not where they lie in memory, which is another place in every process."""

    def make_tool(unit):
        def boil(minutes: int, cook=None):
            """Boil an egg.

            Args:
                minutes: how long
                cook: who
            """

        def undocumented(minutes):
            return f"{minutes} {unit}"

        boil.__doc__ = boil.__doc__.replace("how long", f"how long, in {unit}")
        boil.__annotations__["cook"] = str
        return [boil, undocumented]

    def source(**kwargs):
        return clone(pipe[0]).set_params(chat_template_kwargs=kwargs).activation_source()

    boil, undocumented = make_tool("minutes")
    again, another = make_tool("minutes")
    assert source(tools=[boil]) == source(tools=[again])
    assert source(tools=[boil]) != source(tools=make_tool("hours")[:1])
    assert source(helpers={"of": undocumented}) == source(helpers={"of": another})
    assert source(helpers={"of": undocumented}) != source(helpers={"of": boil})


def test_the_source_of_one_layer_among_several_is_known(pipe, data):
    reader = clone(pipe[0]).set_params(layer=[0, 1, 2])
    rows = reader.transform(data["prompt"][:5])
    y = [0, 1, 0, 1, 0]

    def source(rows):
        return LatentGate().fit(rows, y).activation_source_

    assert source(rows) == reader.activation_source()
    for layer in range(3):
        of_one = rows[:, 16 * layer : 16 * (layer + 1)]
        assert source(of_one) == clone(reader).set_params(layer=layer).activation_source()


def set_norm_eps(model):
    model.model.layers[0].input_layernorm.variance_epsilon = 0.5


def set_rope_theta(model):
    rope = {**model.config.rope_parameters, "rope_theta": 500.0}
    model.model.rotary_emb = type(model.model.rotary_emb)(
        type(model.config)(**{**model.config.to_dict(), "rope_parameters": rope})
    )


def scale_frequencies(model):
    model.model.rotary_emb.inv_freq.mul_(1.1)


def set_attention(model):
    model.set_attn_implementation("eager")


def set_attention_of_a_part(model):
    config = copy.deepcopy(model.config)
    config._attn_implementation = "eager"  # noqa: SLF001  (transformers': no public way for parts)
    model.model.layers[0].self_attn.config = config


def set_configuration(model):
    model.config.is_causal = False  # read in every forward pass


@pytest.mark.parametrize(
    "change",
    [
        set_norm_eps,
        set_rope_theta,
        scale_frequencies,
        set_attention,
        set_attention_of_a_part,
        set_configuration,
    ],
)
def test_changed_settings_of_a_live_model_are_noticed(pipe, data, model, change):
    wrapper = SteeringWrapper(pipe.set_params(activations__position="last"), strength=1.0)
    wrapper.fit(data["prompt"], data["harmful"], language=data["language"])
    wrapper.generate(data["prompt"][:2], language="en", max_new_tokens=1)
    change(model)
    message = "Got activations of another source .*: settings='5.* instead of '5"
    with pytest.raises(ValueError, match=message):
        wrapper.predict(data["prompt"], language="en")
    with pytest.raises(ValueError, match=message):
        wrapper.generate(data["prompt"][:2], language="en", max_new_tokens=1)


def test_what_changes_no_activation_is_no_difference(pipe, data, model, checkpoint, tokenizer):
    pipe.fit(data["prompt"], data["harmful"], gate__language=data["language"])
    expected = pipe.predict(data["prompt"])
    model.config.use_cache = False
    model.config.pad_token_id = 3
    model.train()
    np.testing.assert_array_equal(pipe.predict(data["prompt"]), expected)
    saved = clone(pipe[0]).set_params(model=checkpoint, tokenizer=None).activation_source()
    assert pipe[-1].activation_source_.differences(saved) == []


def test_a_gate_of_another_transformers_is_not_refused_for_its_settings(pipe, data):
    pipe.fit(data["prompt"], data["harmful"], gate__language=data["language"])
    gate = pipe[-1]
    written = replace(gate.activation_source_, settings="4.56.0/" + 32 * "0")
    gate.activation_source_ = written
    gate = pickle.loads(pickle.dumps(gate))
    assert gate.activation_source_ == written
    assert len(gate.predict(pipe[:-1].transform(data["prompt"]))) == len(data)


def test_shots_through_fit_survive_clone_and_cross_validation(pipe, data):
    """With the shots among the rows, every fold's gate knows the language."""
    language = data["language"].to_numpy()
    with config_context(enable_metadata_routing=True):
        found = cross_validate(
            clone(pipe),
            data["prompt"],
            data["harmful"],
            params={"language": language},
            scoring=LanguageScorer("balanced_accuracy"),
            cv=GroupKFold(3).split(data, groups=data["row"]),
            return_estimator=True,
        )
    for fold in found["estimator"]:
        assert "sw" in fold[-1].languages_
        assert "sw" not in fold[-1].source_languages_
        assert fold[-1].n_shots_.sum() > 0
    assert found["test_score"].mean() > 0.7


def hold_out_languages(data):
    """Folds that hold out a language, and with it every row that the test fold translates."""
    for language in MARKERS:
        for part in range(2):
            held_out = data["row"].isin(data["row"].unique()[part::2])
            test = (data["language"] == language) & held_out
            train = (data["language"] != language) & ~held_out
            yield np.flatnonzero(train), np.flatnonzero(test)


def test_cross_validation_that_holds_out_whole_languages(pipe, data):
    pipe.set_params(gate__source_languages=None, gate__unknown_language="source")
    with config_context(enable_metadata_routing=True):
        found = cross_validate(
            pipe,
            data["prompt"],
            data["harmful"],
            params={"language": data["language"].to_numpy()},
            cv=list(hold_out_languages(data)),
            return_estimator=True,
            scoring="roc_auc",
        )
    for i, fold in enumerate(found["estimator"]):
        assert list(MARKERS)[i // 2] not in fold[-1].languages_
    assert found["test_score"].mean() > 0.7


@pytest.mark.parametrize(
    "grid",
    [
        {"activations__layer": [0, 1, 2, 3]},
        {"activations__position": [["last", "mean"], "last", "mean"]},
    ],
    ids=str,
)
def test_grid_search_forwards_each_prompt_once_and_never_copies_the_model(
    pipe, data, model, monkeypatch, grid
):
    forwarded = []
    forward = type(model.model).forward

    def counting(self, *args, **kwargs):
        forwarded.extend(
            row[mask.bool()].tolist()
            for row, mask in zip(kwargs["input_ids"], kwargs["attention_mask"], strict=True)
        )
        return forward(self, *args, **kwargs)

    def refuse(self, memo):
        raise AssertionError("the model was copied")

    monkeypatch.setattr(type(model.model), "forward", counting)
    monkeypatch.setattr(type(model), "__deepcopy__", refuse, raising=False)
    pipe.set_params(activations__cache_layers="all")
    grid = {**grid, "gate__rank": [1, 3]}
    with config_context(enable_metadata_routing=True):
        search = GridSearchCV(pipe, grid, cv=SHUFFLED, scoring=LanguageScorer("roc_auc"), n_jobs=1)
        search.fit(data["prompt"], data["harmful"], language=data["language"].to_numpy())
    assert len(forwarded) == data["prompt"].nunique()
    assert len({tuple(ids) for ids in forwarded}) == len(forwarded)
    assert search.best_estimator_[0].model is model
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_language_as_a_column_reaches_every_step(model, tokenizer, data):
    """The form that works everywhere, with no flag."""
    columns = ColumnTransformer(
        [
            (
                "activations",
                ActivationTransformer(model, tokenizer=tokenizer, layer=1, position="mean"),
                "prompt",
            ),
            ("language", "passthrough", ["language"]),
        ],
        verbose_feature_names_out=False,
    ).set_output(transform="pandas")
    gate = LatentGate(source_languages=["en", "de", "fr"], language_column="language")
    pipe = Pipeline([("columns", columns), ("gate", gate)])
    X, y = data[["prompt", "language"]], data["harmful"]
    pipe.fit(X, y)
    assert list(pipe[-1].languages_) == ["de", "en", "fr", "sw"]
    assert pipe[-1].n_features_in_ == 16
    assert pipe[-1].activation_source_.layer == (1,)
    assert (cross_val_predict(pipe, X, y, cv=SHUFFLED) == y).mean() > 0.7
    search = GridSearchCV(pipe, {"gate__rank": [1, 3]}, cv=SHUFFLED).fit(X, y)
    assert (search.predict(X) == y).mean() > 0.8
    tuned = TunedThresholdClassifierCV(pipe, cv=SHUFFLED).fit(X, y)
    assert (tuned.predict(X) == y).mean() > 0.7


@pytest.mark.parametrize("position", ["mean", ["last", "mean"]], ids=str)
def test_joblib_in_another_process(checkpoint, data, tmp_path, position):
    pipe = Pipeline(
        [
            ("activations", ActivationTransformer(checkpoint, layer=1, position=position)),
            ("gate", LatentGate(source_languages=["en", "de", "fr"])),
        ]
    )
    pipe.fit(data["prompt"], data["harmful"], gate__language=data["language"])
    joblib.dump(pipe, tmp_path / "gate.joblib")
    joblib.dump(data, tmp_path / "data.joblib")
    code = f"""
import joblib
pipe, data = joblib.load({str(tmp_path / "gate.joblib")!r}), joblib.load(
    {str(tmp_path / "data.joblib")!r})
rows = pipe.predict_proba(data["prompt"], language=data["language"])
same = pipe[-1].activation_source_ == pipe[0].activation_source()
joblib.dump((rows, same), {str(tmp_path / "out.joblib")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)
    rows, same = joblib.load(tmp_path / "out.joblib")
    np.testing.assert_array_equal(
        rows, pipe.predict_proba(data["prompt"], language=data["language"])
    )
    assert same


def test_parallel_grid_search_by_path(checkpoint, data):
    pipe = Pipeline(
        [("activations", ActivationTransformer(checkpoint, layer=1)), ("gate", LatentGate())]
    )
    grid = {"activations__layer": [0, 2]}
    search = GridSearchCV(pipe, grid, cv=2, n_jobs=2, error_score="raise")
    search.fit(data["prompt"], data["harmful"])
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
