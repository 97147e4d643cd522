"""The comparison of real_model.py, on the organism and small."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline

from skgate import ActivationTransformer, LatentGate, SteeringWrapper
from skgate.baselines import (
    ActivationAddition,
    DirectionalAblation,
    RandomDirection,
    SharedThreshold,
    TargetDirection,
)
from skgate.datasets import load_organism
from skgate.evaluation import compare, evaluate_refusal

TARGETS = ["qlb", "qlc", "qle"]
LANGUAGES = ["en", *TARGETS]
OPTIONS = {"do_sample": False, "max_new_tokens": 30}


@pytest.fixture(scope="module")
def organism():
    return load_organism()


@pytest.fixture(scope="module")
def steered(organism):
    """A wrapper whose strength fit has chosen, with four shots per class and language."""
    train = organism.prompts.query("split == 'train'")
    sources = train.query("tier == 'high'")
    shots = (
        train.query("language in @TARGETS")
        .groupby(["language", "harmful"])
        .sample(4, random_state=0)
    )
    reader = ActivationTransformer(organism.model, tokenizer=organism.tokenizer, layer=4)
    wrapper = SteeringWrapper(make_pipeline(reader, LatentGate()))
    wrapper.fit(sources["prompt"], sources["harmful"], language=sources["language"])
    return wrapper.partial_fit(shots["prompt"], shots["harmful"], language=shots["language"])


@pytest.fixture(scope="module")
def models(steered, organism):
    gate, strength = steered.gate_, steered.strength_
    shots = organism.prompts.query("split == 'train' and language in @LANGUAGES")
    shots = shots.groupby(["language", "harmful"]).sample(4, random_state=0)
    target = TargetDirection(steered.gate, strength=strength)
    return {
        "unsteered": SteeringWrapper(gate, on_harmful=None, on_harmless=None),
        "ours": steered,
        "shared": SharedThreshold(gate, strength=strength),
        "added": ActivationAddition(gate, strength=strength),
        "ablated": DirectionalAblation(gate),
        "random": RandomDirection(gate, strength=strength),
        "target": target.partial_fit(shots["prompt"], shots["harmful"], shots["language"]),
    }


@pytest.fixture(scope="module")
def results(models, organism):
    test = organism.prompts.query("split == 'test' and language in @LANGUAGES")
    few = test.groupby(["language", "harmful"]).sample(8, random_state=0)
    return evaluate_refusal(models, few, verbose=False, **OPTIONS)


def test_every_arm_answers_every_prompt(results, models):
    assert results.groupby("model", sort=False).size().to_dict() == dict.fromkeys(models, 64)
    actions = results.groupby("model")["action"].unique().map(set).to_dict()
    assert actions["unsteered"] == {"none"}
    assert actions["added"] == {"add"}
    assert actions["ablated"] == {"ablate"}
    assert actions["ours"] == actions["random"] == actions["target"] == {"add", "ablate"}


def test_arms_that_differ_by_decisions_alone_have_the_verdicts_of_their_edits(results):
    """The benchmark generates each edit once, and takes the verdicts of other arms from these."""
    by_arm = results.pivot(index="id", columns="model", values="refused")
    ours = results[results["model"] == "ours"].set_index("id")
    added = (ours["action"] == "add").to_numpy()
    by_arm = by_arm.loc[ours.index]
    expected = np.where(added, by_arm["added"], by_arm["ablated"])
    assert ours["refused"].tolist() == expected.tolist()


def test_steering_by_the_gate_is_more_selective_than_none_and_than_other_directions(results):
    table = compare(results, "ours", resample_languages=False, random_state=0)
    table = table.xs("all", level="language")
    for arm in ("unsteered", "ablated", "random"):
        assert table.loc[arm, "difference_high"] < 0, arm
    assert table.loc["ours", "selectivity"] > 0.6
