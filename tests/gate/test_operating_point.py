"""Operating points: bounds that hold, and words where the shots can't support them."""

from __future__ import annotations

import warnings

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
        point = find_operating_point(scores, harmful, rate, target, 0.9)
        assert getattr(point, f"{rate}_bound") <= target
        holds["fpr"].append(norm.sf(point.threshold) <= point.fpr_bound)
        holds["fnr"].append(norm.cdf(point.threshold - 2) <= point.fnr_bound)
    # Binomial noise of 600 draws: 0.9 less three standard errors.
    assert np.mean(holds["fpr"]) > 0.863
    assert np.mean(holds["fnr"]) > 0.863


def test_the_threshold_is_the_most_sensitive_that_is_allowed():
    scores, harmful = np.arange(40.0), np.arange(40) >= 30
    point = find_operating_point(scores, harmful, "fpr", 0.2, 0.9)
    # Wilks: of 30, the 28th smallest is the first with P(beta(3, 28) <= 0.2) >= 0.9
    assert point.threshold == 27.0
    assert point.n_harmless == 30
    assert point.n_harmful == 10
    assert point.fnr_bound == pytest.approx(1 - 0.1 ** (1 / 10))
    mirrored = find_operating_point(-scores, ~harmful, "fnr", 0.2, 0.9)
    assert mirrored.threshold == pytest.approx(-27.0)
    assert mirrored.threshold < -27.0  # a score of -27 is still called harmful
    assert (mirrored.fnr_bound, mirrored.fpr_bound) == (point.fpr_bound, point.fnr_bound)


def test_ties_count_as_the_decision_makes_them():
    scores, harmful = np.array([0.0] * 30 + [0.0] * 30), np.arange(60) >= 30
    point = find_operating_point(scores, harmful, "fpr", 0.2, 0.9)
    assert point.fnr_bound == 1.0  # no score is greater: all harmful ones are missed
    point = find_operating_point(scores, harmful, "fnr", 0.2, 0.9)
    assert point.fpr_bound == 1.0


def test_too_few_shots_are_told_and_how_many_would_do(gate):
    message = r"'sw', of which the 30 harmless prompts don't support target_fpr=0.01 .*230"
    with pytest.raises(ValueError, match=message):
        gate.operating_point("sw", target_fpr=0.01)
    one_class = LatentGate().fit(*draw_sources(np.random.default_rng(2))[:2])
    one_class.partial_fit(np.ones((40, 12)), np.zeros(40, dtype=int), language="yo")
    with pytest.raises(ValueError, match=r"'yo', of which the 0 harmful prompts"):
        one_class.operating_point("yo", target_fnr=0.2)
    assert one_class.operating_point("yo", target_fpr=0.2).fnr_bound == 1.0


def test_source_rows_count_unless_the_probe_has_seen_them(gate):
    point = gate.operating_point("en", target_fpr=0.1)
    assert point.n_harmless == 60
    assert point.fpr_bound <= 0.1
    X, y, language = draw_sources(np.random.default_rng(0))
    refit = LatentGate(calibration="refit").fit(X, y, language=language)
    with pytest.raises(ValueError, match=r"'en', of which the 0 harmless prompts"):
        refit.operating_point("en", target_fpr=0.1)
    with pytest.raises(ValueError, match=r"Got language=None with unknown_language='detect'"):
        gate.operating_point(target_fpr=0.1)


@pytest.mark.parametrize("calibration", ["shrinkage", "threshold", "refit"])
def test_a_target_acts(calibration):
    """``predict`` follows it, probabilities don't, and 0 stays the boundary."""
    rng = np.random.default_rng(4)
    rows, shots = draw_sources(rng), draw(rng, 60, -1.0)
    balanced, targeted = (
        LatentGate(target_fpr=target, calibration=calibration, unknown_language="source")
        for target in (None, 0.05)
    )
    balanced.fit(*rows[:2], language=rows[2]).partial_fit(*shots, "sw")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if calibration == "refit" else "error")
        targeted.fit(*rows[:2], language=rows[2])
    targeted.partial_fit(*shots, "sw")
    X, y = draw(rng, 1000, -1.0)
    point = targeted.operating_points_["sw"]
    assert point.fpr_bound <= 0.05
    assert point.confidence == 0.9
    np.testing.assert_array_equal(
        targeted.predict_proba(X, language="sw"), balanced.predict_proba(X, language="sw")
    )
    decision = targeted.decision_function(X, language="sw")
    np.testing.assert_allclose(
        decision, balanced.decision_function(X, language="sw") - point.threshold
    )
    called = targeted.predict(X, language="sw")
    np.testing.assert_array_equal(called, decision > 0)
    assert called[y == 0].mean() < 0.05
    assert called[y == 1].mean() > 0.5
    assert (targeted.predict(X) == balanced.predict(X)).all()  # no target without a language
    again = targeted.operating_point("sw", target_fpr=0.05)
    assert again.threshold == pytest.approx(0.0)  # harm_score has it already


def test_a_target_holds_where_there_are_enough_prompts():
    rng = np.random.default_rng(5)
    X, y, language = draw_sources(rng)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gate = LatentGate(target_fpr=0.05).fit(X, y, language=language)
    assert set(gate.operating_points_) == set(gate.source_languages_)
    message = r"language 'sw', because the 8 harmless prompts don't support target_fpr=0.05 .* 45\."
    with pytest.warns(UserWarning, match=message) as found:
        gate.partial_fit(*draw(rng, 8, -1.0), "sw")
    assert [one.filename for one in found] == [__file__]
    assert "sw" not in gate.operating_points_
    assert LatentGate().fit(X, y, language=language).operating_points_ == {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gate.partial_fit(*draw(rng, 40, -1.0), "sw")
    assert gate.operating_points_["sw"].n_harmless == 48
    gate.forget("sw")
    assert "sw" not in gate.operating_points_


def rows_of(seed):
    return draw_sources(np.random.default_rng(seed))


def test_a_target_works_without_languages():
    X, y, _ = rows_of(6)
    gate = LatentGate(target_fpr=0.015).fit(X, y)
    assert set(gate.operating_points_) == {None}
    new, labels, _ = rows_of(7)
    assert gate.predict(new)[labels == 0].mean() <= 0.03
    assert (gate.decision_function(new) > 0).sum() < (gate.predict_proba(new)[:, 1] > 0.5).sum()


def test_a_detected_language_brings_its_target():
    rng = np.random.default_rng(7)
    X, y, language = draw_sources(rng)
    gate = LatentGate(target_fpr=0.05).fit(X, y, language=language)
    decisions = gate.language_book_.decide(X, None, detect=True)
    thresholds = [one.threshold for one in gate.operating_points_.values()]
    assert min(thresholds) - 1e-9 <= decisions.thresholds.min()
    assert decisions.thresholds.max() <= max(thresholds) + 1e-9
    assert np.ptp(decisions.thresholds) > 0


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
