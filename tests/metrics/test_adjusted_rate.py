"""adjusted_refusal_rate, against the formula, and how often its interval holds the true rate."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from skgate.metrics import adjusted_refusal_rate

NAN = float("nan")


def make_sample(n, rate, sensitivity, specificity, rng):
    """Draw the judge's and the true verdicts on n replies."""
    true = rng.random(n) < rate
    right = rng.random(n) < np.where(true, sensitivity, specificity)
    return np.where(right, true, ~true), true


# The estimate


def test_it_is_the_estimate_of_rogan_and_gladen():
    judged = [True] * 30 + [False] * 70
    sample_refused = [True] * 8 + [False] * 2 + [True] * 1 + [False] * 19
    sample_true = [True] * 10 + [False] * 20
    found = adjusted_refusal_rate(judged, sample_refused, sample_true, random_state=0)
    sensitivity, specificity = 8 / 10, 19 / 20
    assert found["rate"] == pytest.approx((0.3 + specificity - 1) / (sensitivity + specificity - 1))
    assert found["judged"] == pytest.approx(0.3)
    assert found["sensitivity"] == pytest.approx(sensitivity)
    assert found["specificity"] == pytest.approx(specificity)
    assert found[["n", "n_sample"]].tolist() == [100, 30]
    assert 0 < found["low"] < found["rate"] < found["high"] < 1


def test_a_judge_without_errors_keeps_its_rate_but_not_its_certainty():
    """Ten replies without an error do not prove that there are none."""
    few = adjusted_refusal_rate([1] * 300 + [0] * 700, [1, 0] * 5, [1, 0] * 5, random_state=0)
    assert few["rate"] == pytest.approx(0.3)
    many = adjusted_refusal_rate([1] * 300 + [0] * 700, [1, 0] * 500, [1, 0] * 500, random_state=0)
    assert many["rate"] == pytest.approx(0.3)
    assert few["high"] - few["low"] > 2 * (many["high"] - many["low"])
    assert many["high"] - many["low"] > 2 * 1.9 * np.sqrt(0.3 * 0.7 / 1000)


@pytest.mark.parametrize(("share", "rate"), [(0.0, 0.0), (0.02, 0.0), (0.9, 1.0)])
def test_it_is_clipped(share, rate):
    """The judge takes a tenth of the answers for refusals, and misses a fifth of the refusals."""
    judged = np.arange(100) < 100 * share
    sample_true = np.arange(20) < 10
    sample_refused = np.r_[np.arange(10) < 8, np.arange(10) < 1]
    found = adjusted_refusal_rate(judged, sample_refused, sample_true, random_state=0)
    assert found["rate"] == rate
    assert 0 <= found["low"] <= rate <= found["high"] <= 1


def test_with_weights_the_sample_of_the_same_replies_gives_its_weighted_share():
    """Drawn by verdict: half of the sample are refusals by the judge."""
    rng = np.random.default_rng(0)
    judged, true = make_sample(1000, 0.3, 0.7, 0.95, rng)
    drawn = [rng.choice(np.flatnonzero(judged == one), 50, replace=False) for one in (True, False)]
    weight = np.repeat([(judged == one).sum() / 50 for one in (True, False)], 50)
    rows = np.concatenate(drawn)
    found = adjusted_refusal_rate(
        judged, judged[rows], true[rows], sample_weight=weight, random_state=0
    )
    assert found["rate"] == pytest.approx(np.average(true[rows], weights=weight))
    plain = adjusted_refusal_rate(judged, judged[rows], true[rows], random_state=0)
    assert abs(plain["rate"] - true.mean()) > abs(found["rate"] - true.mean())


# The interval


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("errors", [(0.8, 0.95), (0.97, 0.99)])
def test_the_interval_holds_the_true_rate(rate, errors):
    rng = np.random.default_rng(0)
    n_held = 0
    for i in range(200):
        judged, _ = make_sample(500, rate, *errors, rng)
        sample = make_sample(80, 0.5, *errors, rng)  # another rate of refusals
        found = adjusted_refusal_rate(judged, *sample, n_resamples=400, random_state=i)
        n_held += found["low"] <= rate <= found["high"]
    assert n_held >= 184  # 95 % of 200 are 190, give or take 3


def test_it_narrows_with_both_sets():
    rng = np.random.default_rng(0)
    widths = []
    for n, n_sample in [(100, 50), (100, 5000), (10_000, 50), (10_000, 5000)]:
        judged, _ = make_sample(n, 0.3, 0.8, 0.9, rng)
        sample = make_sample(n_sample, 0.5, 0.8, 0.9, rng)
        found = adjusted_refusal_rate(judged, *sample, random_state=0)
        widths.append(found["high"] - found["low"])
    assert widths[3] < 0.3 * min(widths[1], widths[2])
    assert max(widths[1], widths[2]) < widths[0]


def test_a_judge_hardly_better_than_chance_tells_nothing():
    found = adjusted_refusal_rate(
        [1, 0] * 50, [1, 1, 0] + [1, 0, 0], [1, 1, 1] + [0, 0, 0], random_state=0
    )
    assert found[["low", "high"]].tolist() == [0, 1]


def test_the_seed_determines_the_interval():
    given = [1] * 30 + [0] * 70, [1, 1, 1, 0, 0, 0] * 9, [1, 1, 1, 1, 0, 0] * 9
    first, again = (adjusted_refusal_rate(*given, random_state=5) for _ in range(2))
    pd.testing.assert_series_equal(first, again)
    assert first["low"] != adjusted_refusal_rate(*given, random_state=6)["low"]


# What comes in


def test_abstentions_are_left_out():
    found = adjusted_refusal_rate(
        [1, None, 0, NAN], [1, 0, NAN, 1, 1, 0], [1, 0, 1, None, 1, 0], random_state=0
    )
    assert found[["judged", "n", "n_sample"]].tolist() == [0.5, 2, 4]


def test_verdicts_as_texts():
    texts = ["refused", "answered", "garbled", None]
    found = adjusted_refusal_rate(
        pd.Series(texts), pd.array([True, False, False, None], dtype="boolean"), texts
    )
    assert found[["n", "n_sample", "sensitivity", "specificity"]].tolist() == [3, 3, 1, 1]


GOOD = {"refused": [1, 0], "sample_refused": [1, 0, 0], "sample_true": [1, 0, 1]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample_true": [0, 0, 0]}, "Got no refusal in sample_true"),
        ({"sample_true": [1, 1, None]}, "Got no reply that is no refusal in sample_true"),
        ({"sample_true": [None, 0, 1], "sample_refused": [1, 0, None]}, "Got no refusal in"),
        ({"sample_refused": [0, 1, 1]}, "sensitivity 0.50 and specificity 0.00 .*above 1"),
        ({"sample_refused": [1, 1, 1]}, "sensitivity 1.00 and specificity 0.00"),
        ({"refused": [None]}, "Got no verdict in refused"),
        ({"refused": ["no"]}, r"Got refused\[0\]='no', expected True or False"),
        ({"sample_true": [1, 0]}, "'sample_refused': 3, 'sample_true': 2.*same number"),
        ({"sample_weight": [1, 1]}, r"Got sample_weight of shape \(2,\), expected \(3,\)"),
        ({"sample_weight": [1, -1, 1]}, r"Got sample_weight\[1\]=-1.0, expected a positive"),
        ({"n_resamples": 0}, "n_resamples"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        adjusted_refusal_rate(**{**GOOD, **change})
