"""Which failure is it: languages that a threshold mends, and those that none does."""

from __future__ import annotations

import warnings
from copy import deepcopy

import numpy as np
import pytest
from shifted import draw, draw_sources

from skgate import LatentGate


@pytest.fixture(scope="module")
def gate():
    X, y, language = draw_sources(np.random.default_rng(0))
    return LatentGate().fit(X, y, language=language)


def diagnosed(gate, rng, n=8, **params):
    gate = deepcopy(gate)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        gate.partial_fit(*draw(rng, n, **params), "sw")
    return gate.diagnose("sw").loc["sw"]


def test_a_shifted_language_is_separable_and_one_without_signal_is_weak(gate):
    verdicts = {"shifted": [], "empty": []}
    for seed in range(20):
        rng = np.random.default_rng([1, seed])
        verdicts["shifted"].append(diagnosed(gate, rng, shift=-3.0)["verdict"])
        verdicts["empty"].append(diagnosed(gate, rng, squeeze=0.05)["verdict"])
    assert np.mean([one == "separable" for one in verdicts["shifted"]]) >= 0.9
    assert np.mean([one.startswith("weak signal: at best") for one in verdicts["empty"]]) >= 0.9


def test_one_shot_of_a_strange_language_is_too_few(gate):
    row = diagnosed(gate, np.random.default_rng(2), n=1, squeeze=0.3)
    assert row["verdict"] == "too few shots to tell"
    assert row["error_high"] - row["error_low"] > 0.15


@pytest.mark.parametrize("squeeze", [0.7, 0.4, 0.1])
def test_the_stated_error_covers_that_of_new_prompts(gate, squeeze):
    """A 90 % interval, 60 draws: 0.9 less three standard errors."""
    covered = []
    for seed in range(60):
        rng = np.random.default_rng([3, seed])
        calibrated = deepcopy(gate)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            calibrated.partial_fit(*draw(rng, 8, -1.0, squeeze), "sw")
        X, y = draw(rng, 2000, -1.0, squeeze)
        called = calibrated.predict(X, language="sw")
        error = np.mean([(called[y == label] != label).mean() for label in (0, 1)])
        row = calibrated.diagnose("sw").loc["sw"]
        covered.append(row["error_low"] <= error <= row["error_high"])
        assert row["least_error"] <= row["error"] + 0.01
    assert np.mean(covered) > 0.78


def test_more_shots_leave_less_doubt(gate):
    rng = np.random.default_rng(4)
    few, many = (diagnosed(gate, rng, n, squeeze=0.5) for n in (2, 100))
    assert many["error_high"] - many["error_low"] < few["error_high"] - few["error_low"]
    assert many["n_harmless"] == many["n_harmful"] == 100
    assert many["auc_low"] <= many["auc"] <= many["auc_high"]


def test_source_languages_are_diagnosed_by_their_own_rows(gate):
    table = gate.diagnose()
    assert list(table.index) == list(gate.languages_)
    assert table.index.name == "language"
    assert (table["verdict"] == "separable").all()
    assert (table["n_harmful"] == 60).all()


def test_partial_fit_warns_of_a_weak_signal_and_of_harmful_shots_alone(gate):
    rng = np.random.default_rng(5)
    with pytest.warns(UserWarning, match="language 'sw' hardly differ: no threshold") as found:
        deepcopy(gate).partial_fit(*draw(rng, 30, squeeze=0.02), "sw")
    assert [one.filename for one in found] == [__file__]
    X, y = draw(rng, 8)
    with pytest.warns(UserWarning, match="harmful shots alone of language 'sw': how many harmless"):
        deepcopy(gate).partial_fit(X[y == 1], y[y == 1], "sw")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        deepcopy(gate).partial_fit(X, y, "sw").partial_fit(X[y == 0], y[y == 0], "yo")


def test_what_can_not_be_diagnosed():
    X, y, language = draw_sources(np.random.default_rng(6))
    gate = LatentGate(calibration="threshold").fit(X, y, language=language)
    with pytest.raises(ValueError, match="calibration='threshold', expected 'shrinkage'"):
        gate.diagnose()
    gate = LatentGate().fit(X, y, language=language)
    with pytest.raises(ValueError, match="language='ha', which the gate has never seen"):
        gate.diagnose("ha")
