"""Operating points: bounds that hold, and words where the shots can't support them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from shifted import draw, draw_sources

from skgate import LatentGate
from skgate.gate._operating_point import find_operating_point


@pytest.fixture(scope="module")
def gate():
    rng = np.random.default_rng(0)
    X, y, language = draw_sources(rng)
    return LatentGate().fit(X, y, language=language).partial_fit(*draw(rng, 30, -1.0), "sw")


@pytest.mark.parametrize("rate", ["fpr", "fnr"])
@pytest.mark.parametrize(("n", "target"), [(8, 0.3), (22, 0.1), (60, 0.1)])
def test_the_stated_bounds_hold_in_nine_of_ten_draws(rate, n, target):
    rng = np.random.default_rng([1, n])
    holds = {"fpr": [], "fnr": []}
    for _ in range(600):
        harmful = np.tile([False, True], n)
        scores = rng.normal(size=2 * n) + 2 * harmful
        point = find_operating_point(scores, harmful, rate, target, 0.9, "sw")
        assert getattr(point, f"{rate}_bound") <= target
        holds["fpr"].append(norm.sf(point.threshold) <= point.fpr_bound)
        holds["fnr"].append(norm.cdf(point.threshold - 2) <= point.fnr_bound)
    # Binomial noise of 600 draws: 0.9 less three standard errors.
    assert np.mean(holds["fpr"]) > 0.863
    assert np.mean(holds["fnr"]) > 0.863


def test_the_threshold_is_the_most_sensitive_that_is_allowed():
    scores, harmful = np.arange(40.0), np.arange(40) >= 30
    point = find_operating_point(scores, harmful, "fpr", 0.2, 0.9, "sw")
    # Wilks: of 30, the 28th smallest is the first with P(beta(3, 28) <= 0.2) >= 0.9
    assert point.threshold == 27.0
    assert point.n_harmless == 30
    assert point.n_harmful == 10
    assert point.fnr_bound == pytest.approx(1 - 0.1 ** (1 / 10))
    mirrored = find_operating_point(-scores, ~harmful, "fnr", 0.2, 0.9, "sw")
    assert mirrored.threshold == pytest.approx(-27.0)
    assert mirrored.threshold < -27.0  # a score of -27 is still called harmful
    assert (mirrored.fnr_bound, mirrored.fpr_bound) == (point.fpr_bound, point.fnr_bound)


def test_ties_count_as_the_decision_makes_them():
    scores, harmful = np.array([0.0] * 30 + [0.0] * 30), np.arange(60) >= 30
    point = find_operating_point(scores, harmful, "fpr", 0.2, 0.9, None)
    assert point.fnr_bound == 1.0  # no score is greater: all harmful ones are missed
    point = find_operating_point(scores, harmful, "fnr", 0.2, 0.9, None)
    assert point.fpr_bound == 1.0


def test_too_few_shots_are_told_and_how_many_would_do(gate):
    message = r"target_fpr=0.01, which the 30 harmless shots of language 'sw' can't support.*230"
    with pytest.raises(ValueError, match=message):
        gate.operating_point("sw", target_fpr=0.01)
    one_class = LatentGate().fit(*draw_sources(np.random.default_rng(2))[:2])
    one_class.partial_fit(np.ones((40, 12)), np.zeros(40, dtype=int), language="yo")
    with pytest.raises(ValueError, match=r"the 0 harmful shots of language 'yo'"):
        one_class.operating_point("yo", target_fnr=0.2)
    assert one_class.operating_point("yo", target_fpr=0.2).fnr_bound == 1.0


def test_source_rows_do_not_count_since_the_readout_was_fitted_to_them(gate):
    with pytest.raises(ValueError, match=r"the 0 harmless shots of language 'en'"):
        gate.operating_point("en", target_fpr=0.1)
    with pytest.raises(ValueError, match=r"Got language=None with unknown_language='detect'"):
        gate.operating_point(target_fpr=0.1)


def test_the_target_is_met_on_new_prompts(gate):
    X, y = draw(np.random.default_rng(3), 2000, -1.0)
    point = gate.operating_point("sw", target_fpr=0.2)
    called = gate.harm_score(X, language="sw") > point.threshold
    assert called[y == 0].mean() <= 0.2
    assert called[y == 1].mean() > 0.9


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "target_fpr=None and target_fnr=None, expected one"),
        ({"target_fpr": 0.1, "target_fnr": 0.1}, "target_fpr=0.1 and target_fnr=0.1"),
        ({"target_fpr": 0.0}, "target_fpr=0.0, expected a number between"),
        ({"target_fnr": 1.0}, "target_fnr=1.0, expected a number between"),
        ({"target_fpr": np.nan}, "target_fpr=nan, expected a number between"),
        ({"target_fpr": 0.1, "confidence": 90}, "confidence=90, expected a number between"),
        (
            {"language": "ha", "target_fpr": 0.1},
            "'ha', which the gate has never seen, expected one of",
        ),
    ],
)
def test_bad_parameters(gate, params, message):
    with pytest.raises(ValueError, match=message):
        gate.operating_point(**params)
