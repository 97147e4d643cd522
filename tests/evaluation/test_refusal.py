"""evaluate_refusal, without interruptions."""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
from evaluated import Judge, Model, make_models, make_prompts
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.pipeline import make_pipeline

from skgate import ActivationTransformer, LatentGate, SteeringWrapper
from skgate.baselines import SharedThreshold, TargetDirection
from skgate.datasets import load_organism
from skgate.evaluation import evaluate_refusal, reply_drift
from skgate.judges import PhraseJudge

COLUMNS = "model id language harmful group flagged harm_score action gate_version refused".split()


@pytest.fixture(scope="module")
def organism():
    return load_organism()


@pytest.fixture(scope="module")
def wrapper(organism):
    sources = organism.prompts.query("split == 'train' and tier == 'high'")
    reader = ActivationTransformer(organism.model, tokenizer=organism.tokenizer, layer=4)
    wrapper = SteeringWrapper(make_pipeline(reader, LatentGate()), strength=0.7)
    return wrapper.fit(sources["prompt"], sources["harmful"], language=sources["language"])


def test_rows_are_what_generate_and_the_judge_say(organism, wrapper):
    test = organism.prompts.query("split == 'test' and language in ['en', 'qaa']")
    prompts = test.groupby(["language", "harmful"]).head(3).rename(columns={"pair": "group"})
    models = {"steered": wrapper, "plain": SteeringWrapper(wrapper.gate_, on_harmful=None)}
    results = evaluate_refusal(
        models, prompts, texts=True, batch_size=5, verbose=False, max_new_tokens=12
    )
    assert list(results) == [*COLUMNS, "prompt", "reply"]
    assert results.attrs["judge"] == "PhraseJudge"
    assert results["model"].tolist() == ["steered"] * 12 + ["plain"] * 12
    for name, model in models.items():
        rows = results[results["model"] == name].reset_index(drop=True)
        assert rows["prompt"].tolist() == prompts["prompt"].tolist()
        assert rows["group"].tolist() == prompts["group"].tolist()
        replies, decisions = model.generate(
            prompts["prompt"].tolist(),
            language=prompts["language"].tolist(),
            return_decisions=True,
            max_new_tokens=12,
        )
        assert rows["reply"].tolist() == replies
        np.testing.assert_array_equal(rows["refused"], PhraseJudge().is_refusal(replies))
        np.testing.assert_array_equal(rows["flagged"], decisions["harmful"])
        np.testing.assert_allclose(rows["harm_score"], decisions["harm_score"], atol=1e-4)
        assert rows["gate_version"].tolist() == decisions["gate_version"].tolist()
    assert 0 < results["refused"].mean() < 1


@pytest.mark.parametrize("column", ["language", -1])
@pytest.mark.parametrize("make", [SteeringWrapper, TargetDirection])
def test_a_pipeline_may_read_columns(organism, wrapper, make, column):
    sources = organism.prompts.query("split == 'train' and tier == 'high'")
    sources = sources.groupby(["language", "harmful"]).head(12)
    reader = clone(wrapper.gate_[0])
    columns = make_column_transformer(
        (reader, "prompt"), ("passthrough", ["language"]), verbose_feature_names_out=False
    ).set_output(transform="pandas" if column == "language" else "default")
    models = {}
    for name, first in (("columns", columns), ("prompts", reader)):
        gate = LatentGate(language_column=column if name == "columns" else None)
        model = make(make_pipeline(first, gate), strength=0.5)
        given = [sources] if name == "columns" else [sources["prompt"]]
        language = None if name == "columns" else sources["language"]
        models[name] = model.fit(*given, sources["harmful"], language=language)
    prompts = organism.prompts.query("split == 'test' and language == 'en'")
    prompts = prompts.groupby("harmful").head(3)
    options = {"verbose": False, "max_new_tokens": 16}
    results = evaluate_refusal(models, prompts, **options)
    found, expected = (results[results["model"] == name] for name in models)
    for name in ("flagged", "refused"):
        assert found[name].tolist() == expected[name].tolist()
    np.testing.assert_allclose(found["harm_score"], expected["harm_score"], rtol=1e-2)
    assert results["refused"].any()
    if make is SteeringWrapper:
        drift = reply_drift(*models.values(), prompts, **options)
        assert drift["identical"].all()


def test_a_gate_that_has_learned_is_another_model(organism, wrapper, tmp_path):
    """Also if nothing is left to generate."""
    prompts = organism.prompts.query("split == 'test' and language == 'qaa'").head(2)
    options = {"path": tmp_path / "run.jsonl", "verbose": False, "max_new_tokens": 2}
    evaluate_refusal({"steered": wrapper}, prompts, **options)
    learned = deepcopy(wrapper)  # (the model is shared)
    evaluate_refusal({"steered": learned}, prompts, **options)
    shots = organism.prompts.query("split == 'train' and language == 'qaa'").groupby("harmful")
    shots = shots.head(2)
    learned.partial_fit(shots["prompt"], shots["harmful"], language="qaa")
    with pytest.raises(ValueError, match=r"models\['steered'\] with gate_version='\w+' instead of"):
        evaluate_refusal({"steered": learned}, prompts, **options)
    weaker = SteeringWrapper(wrapper.gate_, strength=0.5)
    with pytest.raises(ValueError, match=r"strength=0\.5 instead of 0\.7"):
        evaluate_refusal({"steered": weaker}, prompts, **options)


def test_gates_of_several_languages_are_one_model(organism, wrapper, tmp_path):
    shots = organism.prompts.query("split == 'train' and language in ['en', 'qaa']")
    shots = shots.groupby(["language", "harmful"]).head(3)
    target = TargetDirection(wrapper.gate, strength=0.7)
    target.fit(shots["prompt"], shots["harmful"], language=shots["language"])
    test = organism.prompts.query("split == 'test' and language in ['en', 'qaa']")
    prompts = test.sort_values("language").groupby(["language", "harmful"]).head(2)
    options = {"batch_size": 4, "path": tmp_path / "run.jsonl", "max_new_tokens": 2}
    first, again = (
        evaluate_refusal({"target": target}, prompts, verbose=False, **options) for _ in range(2)
    )
    assert first["gate_version"].nunique() == 1
    pd.testing.assert_frame_equal(again, first)


def test_a_target_direction_that_has_learned_is_another_model(organism, wrapper, tmp_path):
    """Also if nothing is left to generate."""
    train = organism.prompts.query("split == 'train' and language == 'qaa'").groupby("harmful")
    target = TargetDirection(wrapper.gate, strength=0.7)
    prompts = organism.prompts.query("split == 'test' and language == 'qaa'").head(2)
    options = {"path": tmp_path / "run.jsonl", "verbose": False, "max_new_tokens": 2}
    for n, error in ((3, None), (4, "gate_version=")):
        shots = train.head(n)
        target.fit(shots["prompt"], shots["harmful"], language=shots["language"])
        with pytest.raises(ValueError, match=error) if error else nullcontext():
            evaluate_refusal({"target": target}, prompts, **options)


def test_a_shared_threshold_goes_on(organism, wrapper, tmp_path):
    """Before and after it has learned from shots."""
    train = organism.prompts.query("split == 'train' and language in ['qaa', 'qlb']")
    shots = train.groupby(["language", "harmful"]).head(2)
    prompts = organism.prompts.query("split == 'test' and language == 'qaa'").head(2)
    shared = SharedThreshold(wrapper.gate_, strength=0.7)
    for learned in (False, True):
        if learned:
            shared.partial_fit(shots["prompt"], shots["harmful"], language=shots["language"])
        options = {"path": tmp_path / f"{learned}.jsonl", "verbose": False, "max_new_tokens": 2}
        first, again = (evaluate_refusal({"a": shared}, prompts, **options) for _ in range(2))
        pd.testing.assert_frame_equal(again, first)
    with pytest.raises(ValueError, match=r"models\['a'\] with gate_version="):
        evaluate_refusal({"a": shared}, prompts, **{**options, "path": tmp_path / "False.jsonl"})


def test_a_chosen_strength_counts_if_it_is_used(organism, wrapper, tmp_path):
    prompts = organism.prompts.query("split == 'test' and language == 'qaa'").head(2)
    model = SteeringWrapper(wrapper.gate_, strength=0.7)
    for strength in (0.7, "auto"):
        model.set_params(strength=strength)
        model.strength_, model.language_strengths_ = 0.5, {}
        options = {"path": tmp_path / f"{strength}.jsonl", "verbose": False, "max_new_tokens": 2}
        evaluate_refusal({"a": model}, prompts, **options)
        model.strength_ = 0.6
        if strength == 0.7:
            evaluate_refusal({"a": model}, prompts, **options)
        else:
            with pytest.raises(ValueError, match=r"with strength_=0\.6 instead of 0\.5"):
                evaluate_refusal({"a": model}, prompts, **options)


def test_abstentions_are_counted_in_one_warning():
    with pytest.warns(UserWarning, match="Judge abstained on 4 of 20 replies") as caught:
        results = evaluate_refusal(make_models(), make_prompts(), Judge(), verbose=False)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert results["refused"].isna().sum() == 4


def test_languages_and_labels_may_be_unknown():
    prompts = make_prompts().assign(language=None, harmful=None).drop(columns="group")
    model = Model(2)
    results = evaluate_refusal({"a": model}, prompts.head(6), verbose=False, top_k=3)
    assert model.calls == [(prompts["prompt"].tolist()[:6], None, {"top_k": 3})]
    assert list(results) == [name for name in COLUMNS if name != "group"]
    assert results["language"].tolist() == results["harmful"].tolist() == [None] * 6


def test_conversations(tmp_path):
    chats = [[{"role": "user", "content": f"request {i}"}] for i in range(2)]
    prompts = pd.DataFrame({"prompt": chats, "language": "en", "harmful": True})

    class Chats(Model):
        def generate(self, prompts, **kwargs):
            return super().generate([chat[-1]["content"] for chat in prompts], **kwargs)

    for _ in range(2):
        results = evaluate_refusal(
            {"a": Chats(2)}, prompts, path=tmp_path / "a.jsonl", texts=True, verbose=False
        )
        assert results["prompt"].tolist() == chats


def test_progress_is_over_all_models(capsys):
    evaluate_refusal(make_models(), make_prompts(6), batch_size=4)
    assert "12/12" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("models", "error", "message"),
    [
        ({}, ValueError, "Got models={}, expected at least one model"),
        ({1: Model(2)}, TypeError, "Got 1 as a name in models, expected a str"),
        ({"a": "b"}, TypeError, r"Got models\['a'\] of type str, expected an object with a method"),
    ],
)
def test_wrong_models(models, error, message):
    with pytest.raises(error, match=message):
        evaluate_refusal(models, make_prompts(), verbose=False)


@pytest.mark.parametrize(
    ("parameter", "value"), [("batch_size", 0), ("judge", "phrases"), ("texts", "yes")]
)
def test_wrong_parameters(parameter, value):
    with pytest.raises(ValueError, match=f"'{parameter}' parameter of evaluate_refusal"):
        evaluate_refusal(make_models(), make_prompts(), verbose=False, **{parameter: value})


def test_a_model_must_answer_each_prompt():
    class Short(Model):
        def generate(self, prompts, **kwargs):
            replies, decisions = super().generate(prompts, **kwargs)
            return replies[1:], decisions

    with pytest.raises(ValueError, match=r"Got 3 replies and 4 decisions .* models\['a'\]"):
        evaluate_refusal({"a": Short(2)}, make_prompts(4), verbose=False)


def test_a_model_must_return_its_decisions():
    class Bare(Model):
        def generate(self, prompts, **kwargs):
            return super().generate(prompts, **kwargs)[0]

    with pytest.raises(TypeError, match=r"Got a list from models\['a'\].* DataFrame of decisions"):
        evaluate_refusal({"a": Bare(2)}, make_prompts(4), verbose=False)
