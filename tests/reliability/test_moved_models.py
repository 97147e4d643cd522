"""Saved gates whose model is somewhere else now."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from bare import GREEDY, LANGUAGE, PROMPTS, Y
from folders import make_llama, save, save_lora
from shifted import pooled_gate
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import FeatureUnion, make_pipeline

import skgate
from skgate import ActivationTransformer, LatentGate, SteeringWrapper

KINDS = ["pipeline", "wrapper", "wrapper_of_gate", "wrapper_of_fitted_gate", "columns"]


@pytest.fixture
def place(tmp_path, tokenizer):
    """A checkpoint folder."""
    return Path(save(make_llama(tokenizer), tokenizer, tmp_path / "here"))


@pytest.fixture
def no_network(monkeypatch):
    """Note down and refuse every attempt to reach a host; transformers thinks it is online."""
    attempts = []

    def refuse(*args, **kwargs):
        attempts.append(args[:1])
        raise socket.gaierror(-3, "no network in this test")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return attempts


def make(kind, path):
    """A fitted estimator that reads its activations from a folder."""
    reader = ActivationTransformer(str(path), layer=1)
    gate = pooled_gate(calibration="threshold")
    more = {"generate_kwargs": GREEDY, "strength": 2.0}
    if kind == "pipeline":
        return make_pipeline(reader, gate).fit(PROMPTS, Y, latentgate__language=LANGUAGE)
    if kind == "wrapper":
        wrapper = SteeringWrapper(make_pipeline(reader, gate), **more)
        return wrapper.fit(PROMPTS, Y, language=LANGUAGE)
    if kind == "wrapper_of_gate":
        wrapper = SteeringWrapper(gate, model=str(path), layer=1, **more)
        return wrapper.fit(PROMPTS, Y, language=LANGUAGE)
    if kind == "wrapper_of_fitted_gate":
        gate.fit(reader.transform(PROMPTS), Y, language=LANGUAGE)
        return SteeringWrapper(gate, model=str(path), layer=1, **more)
    columns = ColumnTransformer(
        [("activations", reader, "prompt"), ("language", "passthrough", ["language"])],
        verbose_feature_names_out=False,
    ).set_output(transform="pandas")
    wrapper = SteeringWrapper(
        make_pipeline(columns, LatentGate(calibration="threshold", language_column="language")),
        **more,
    )
    return wrapper.fit(frame(), Y)


def frame():
    return pd.DataFrame({"prompt": PROMPTS, "language": LANGUAGE})


def answers(kind, estimator):
    """All that an estimator says, and generates."""
    if kind == "pipeline":
        return [estimator.predict(PROMPTS).tolist(), estimator.predict_proba(PROMPTS).tolist()]
    X = frame() if kind == "columns" else PROMPTS
    replies, decisions = estimator.generate(X, return_decisions=True)
    return [estimator.predict(X).tolist(), replies, decisions["harm_score"].tolist()]


def move(place):
    there = place.parent / "there"
    shutil.move(place, there)
    skgate.release_models()
    return there


every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
def test_relocate_points_at_the_new_place(kind, place):
    """The one way to move a fitted estimator: a copy that answers as before."""
    estimator = make(kind, place)
    expected = answers(kind, estimator)
    there = move(place)
    moved = skgate.relocate(estimator, there)
    assert type(moved) is type(estimator)
    assert moved is not estimator
    assert answers(kind, moved) == expected
    assert str(place) not in str(moved.get_params())


@every_kind
def test_relocate_leaves_the_original_as_it_was(kind, place):
    """It returns a copy; what it was given still points at the old place."""
    estimator = make(kind, place)
    expected = answers(kind, estimator)
    shutil.copytree(place, place.parent / "copy")
    before = str(estimator.get_params())
    moved = skgate.relocate(estimator, str(place.parent / "copy"))
    assert str(estimator.get_params()) == before
    assert answers(kind, estimator) == expected
    assert answers(kind, moved) == expected
    shots = {"language": "sw"} if kind not in ("columns", "pipeline") else None
    if shots:  # learning goes on in the copy alone
        moved.partial_fit(PROMPTS[10:20], Y[10:20], **shots)
        assert answers(kind, estimator) == expected


@every_kind
def test_relocate_refuses_another_model(kind, place, tokenizer):
    """The fingerprint is checked: other weights are a ValueError that says so."""
    estimator = make(kind, place)
    other = make_llama(tokenizer)
    with torch.no_grad():
        other.model.layers[0].mlp.down_proj.weight[0, 0] += 0.5
    elsewhere = save(other, tokenizer, place.parent / "other")
    with pytest.raises(ValueError, match="weights"):
        skgate.relocate(estimator, elsewhere)
    deeper = save(make_llama(tokenizer, n_layers=2), tokenizer, place.parent / "deeper")
    with pytest.raises(ValueError, match=r"weights|layer"):
        skgate.relocate(estimator, deeper)


def test_relocate_refuses_another_tokenizer(place, tokenizer):
    """The same weights with another template are another gate's."""
    estimator = make("pipeline", place)
    there = place.parent / "there"
    shutil.copytree(place, there)
    file = there / "chat_template.jinja"
    file.write_text(file.read_text() + " now ")
    with pytest.raises(ValueError, match="template"):
        skgate.relocate(estimator, there)
    right = skgate.relocate(estimator, there, tokenizer=str(place))
    assert answers("pipeline", right) == answers("pipeline", estimator)


def test_relocate_to_a_live_model(place, tokenizer):
    """A place may be a model that is loaded already."""
    from transformers import AutoModelForCausalLM

    estimator = make("wrapper", place)
    expected = answers("wrapper", estimator)
    live = AutoModelForCausalLM.from_pretrained(place)
    moved = skgate.relocate(estimator, live, tokenizer=tokenizer)
    assert moved.gate_[0].model is live
    assert answers("wrapper", moved) == expected


def test_relocate_a_live_model_to_a_folder(place, tokenizer):
    """The other way round: what couldn't be pickled can, and answers the same."""
    from transformers import AutoModelForCausalLM

    live = AutoModelForCausalLM.from_pretrained(place)
    pipeline = make_pipeline(
        ActivationTransformer(live, tokenizer=tokenizer, layer=1), pooled_gate()
    ).fit(PROMPTS, Y)
    moved = skgate.relocate(pipeline, str(place), tokenizer=str(place))
    joblib.dump(moved, place.parent / "gate.joblib")
    loaded = joblib.load(place.parent / "gate.joblib")
    np.testing.assert_allclose(
        loaded.predict_proba(PROMPTS), pipeline.predict_proba(PROMPTS), atol=1e-5
    )


def test_relocate_a_transformer(place):
    """An ``ActivationTransformer``, while its old place is there to compare."""
    reader = ActivationTransformer(str(place), layer=[0, 2], position="mean").fit(PROMPTS)
    shutil.copytree(place, place.parent / "copy")
    moved = skgate.relocate(reader, place.parent / "copy")
    expected = reader.transform(PROMPTS)
    shutil.rmtree(place)
    np.testing.assert_array_equal(moved.transform(PROMPTS), expected)


@pytest.mark.parametrize("thing", [LatentGate(), object(), None])
def test_relocate_says_what_it_takes(thing, place):
    """What has no model to move is a TypeError."""
    with pytest.raises(TypeError, match=r"Pipeline.*SteeringWrapper|SteeringWrapper.*Pipeline"):
        skgate.relocate(thing, place)


def test_relocate_names_a_place_that_is_not_there(place):
    """A wrong new place is an error of its own."""
    estimator = make("pipeline", place)
    with pytest.raises(OSError, match="nowhere"):
        skgate.relocate(estimator, place.parent / "nowhere")


def test_relocated_clones_stay_relocated(place):
    """``clone``, ``fit`` and a dump of the copy use the new place."""
    estimator = make("wrapper", place)
    there = move(place)
    moved = skgate.relocate(estimator, there)
    again = clone(moved).fit(PROMPTS, Y, language=LANGUAGE)
    assert again.generate(PROMPTS[:2]) == moved.generate(PROMPTS[:2])


IN_ANOTHER_PROCESS = """
import json, sys, joblib, skgate
file, there, prompts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
loaded = joblib.load(file)
try:
    loaded.predict(prompts)
except OSError as error:
    print(json.dumps(str(error)))
moved = skgate.relocate(loaded, there)
print(json.dumps([moved.predict(prompts).tolist(), moved.generate(prompts)]))
"""


def test_dumped_moved_and_loaded_in_another_process(place):
    """As it happens: saved here, the folder moved, loaded there."""
    wrapper = make("wrapper", place)
    few = PROMPTS[::7]
    expected = [wrapper.predict(few).tolist(), wrapper.generate(few)]
    file = place.parent / "wrapper.joblib"
    joblib.dump(wrapper, file)
    there = place.parent / "there"
    shutil.move(place, there)
    found = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS, file, there, json.dumps(few)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    error, answered = (json.loads(line) for line in found.stdout.splitlines())
    assert str(place) in error
    assert "relocate" in error
    assert answered == expected


def transform(path):
    return ActivationTransformer(path, layer=1).transform(["boil"])


@pytest.mark.parametrize("kind", ["pipeline", "wrapper", "columns"])
def test_a_folder_that_is_gone_says_what_to_call(kind, place, no_network, monkeypatch):
    """An OSError names the path and ``relocate``, and no hub is asked."""
    estimator = make(kind, place)
    joblib.dump(estimator, place.parent / "gate.joblib")
    shutil.move(place, place.parent / "there")
    loaded = joblib.load(place.parent / "gate.joblib")
    X = frame() if kind == "columns" else PROMPTS
    for use in (loaded.predict, *([] if kind == "pipeline" else [loaded.generate])):
        with pytest.raises(OSError, match="relocate") as caught:
            use(X)
        assert str(place) in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
    assert no_network == []


@pytest.mark.parametrize(
    "path",
    [
        "/no/such/folder",
        "./tiny-llama",
        "../models/tiny-llama",
        "~/models/tiny-llama",
        "models/checkpoints/tiny-llama",
        "models\\tiny-llama",
        Path("models/tiny-llama"),
        Path("tiny-llama"),
    ],
    ids=str,
)
def test_what_looks_like_a_path_is_never_looked_for_on_a_hub(path, no_network):
    """Absolute, dotted, more than one slash, or a Path: a folder that isn't there."""
    start = time.monotonic()
    name = Path(str(path)).name.rpartition("\\")[2]
    with pytest.raises(OSError, match=name) as caught:
        transform(path)
    assert time.monotonic() - start < 5
    assert no_network == []
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["nobody-at-all/no-such-model", "no-such-model-at-all"])
@pytest.mark.parametrize("offline", [True, False])
def test_a_hub_id_that_is_not_cached_fails_in_one_line(
    name, offline, no_network, monkeypatch, tmp_path
):
    """Without network, within seconds, in one line that names the id."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    start = time.monotonic()
    with pytest.raises(OSError, match=name) as caught:
        transform(name)
    assert time.monotonic() - start < 10
    assert len(str(caught.value).splitlines()) == 1
    if offline:
        assert no_network == []


def put_into_cache(folder, cache, model_id):
    """Make a folder look as if it had been downloaded from a hub."""
    of_model = cache / f"models--{model_id.replace('/', '--')}"
    shutil.copytree(folder, of_model / "snapshots" / ("0" * 40))
    (of_model / "refs").mkdir()
    (of_model / "refs" / "main").write_text("0" * 40)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft's
@pytest.mark.parametrize("kind", ["model", "adapter"])
@pytest.mark.parametrize("offline", [True, False])
def test_a_cached_id_is_found_without_network(
    kind, offline, place, no_network, monkeypatch, tmp_path
):
    """What is in the local cache loads within seconds, offline or not."""
    cache = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    put_into_cache(place, cache, "some/model")
    expected, model_id = transform(str(place)), "some/model"
    if kind == "adapter":
        adapter = save_lora(str(place), tmp_path / "lora")
        file = tmp_path / "lora" / "adapter_config.json"
        file.write_text(file.read_text().replace(str(place), "some/model"))
        expected, model_id = transform(adapter), "some/adapter"
        put_into_cache(adapter, cache, model_id)
    start = time.monotonic()
    np.testing.assert_array_equal(transform(model_id), expected)
    assert time.monotonic() - start < 10
    if offline:
        assert no_network == []


def test_relocate_names_a_place_that_is_not_there_if_nothing_can_be_compared(place):
    """Also for a transformer alone, whose old place is gone."""
    reader = ActivationTransformer(str(place), layer=1)
    there = move(place)
    with pytest.raises(OSError, match="nowhere"):
        skgate.relocate(reader, there.parent / "nowhere")
    with pytest.warns(UserWarning, match="was not compared"):
        assert skgate.relocate(reader, there).model == there


def test_relocate_refuses_another_model_for_a_transformer(place, tokenizer):
    """Without a gate, the old place is compared while it is there."""
    other = make_llama(tokenizer)
    with torch.no_grad():
        other.model.layers[0].mlp.down_proj.weight[0, 0] += 0.5
    elsewhere = save(other, tokenizer, place.parent / "other")
    with pytest.raises(ValueError, match="weights"):
        skgate.relocate(ActivationTransformer(str(place), layer=1), elsewhere)


def test_relocate_takes_a_slow_tokenizer_as_it_was(place):
    """What transformers notes of how a tokenizer was loaded is no part of it."""
    from transformers import ByT5Tokenizer

    model = make_llama()
    model.resize_token_embeddings(400)
    live = ActivationTransformer(model, tokenizer=ByT5Tokenizer(), layer=1, chat_template=False)
    pipeline = make_pipeline(live, pooled_gate()).fit(PROMPTS, Y)
    moved = skgate.relocate(pipeline, save(model, ByT5Tokenizer(), place.parent / "bytes"))
    assert moved.predict(PROMPTS).tolist() == pipeline.predict(PROMPTS).tolist()


def test_relocate_takes_one_model_at_a_time(place):
    """Two models can't both be in one place."""
    union = FeatureUnion([(name, ActivationTransformer(name, layer=1)) for name in ("a", "b")])
    with pytest.raises(ValueError, match=r"the models \['a', 'b'\], expected one"):
        skgate.relocate(make_pipeline(union, LatentGate()), place)


@pytest.mark.parametrize("kind", ["pipeline", "wrapper"])
def test_relocate_what_is_frozen(kind, place):
    """Estimators in a FrozenEstimator, and wrappers of frozen gates."""
    estimator = make(kind, place)
    if kind == "wrapper":
        estimator = SteeringWrapper(
            FrozenEstimator(estimator.gate_), generate_kwargs=GREEDY, strength=1.0
        )
        moved = skgate.relocate(estimator, move(place))
        assert (
            moved.predict(PROMPTS).tolist()
            == make(kind, place.parent / "there").predict(PROMPTS).tolist()
        )
        return
    expected = estimator.predict(PROMPTS)
    moved = skgate.relocate(FrozenEstimator(estimator), move(place))
    assert moved.predict(PROMPTS).tolist() == expected.tolist()
