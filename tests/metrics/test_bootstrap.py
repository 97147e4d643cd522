"""Bootstrap intervals of ``language_report``."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from skgate.metrics import language_report
from skgate.metrics._resampled import measure_resamples  # what intervals are percentiles of

COUNTS = ["n", "n_harmful", "n_harmless"]


@pytest.fixture
def given():
    """Scores with ties, decisions and refusals, in three languages."""
    rng = np.random.default_rng(6)
    language = np.repeat(["en", "de", "yo"], [70, 60, 80])
    y = rng.integers(0, 2, len(language))
    scores = np.round(y + rng.normal(size=len(y)), 1)
    return {
        "y_true": y,
        "y_pred": (scores > 0.5).astype(int),
        "y_score": scores,
        "refused": rng.random(len(y)) < 0.5,
        "language": language,
    }


@pytest.fixture
def report(given):
    return language_report(**given, confidence_level=0.9, n_resamples=200, random_state=0)


def test_a_resample_has_the_measures_of_the_rows_drawn(given):
    """The fast measures of many resamples equal a report of each."""
    rows = pd.DataFrame(given).drop(columns="language")
    rows = rows.astype({"y_true": bool, "y_pred": bool})
    rng = np.random.default_rng(7)
    drawn = {label: np.flatnonzero(rows["y_true"] == label) for label in (True, False)}
    drawn = {label: rng.choice(at, size=(20, len(at))) for label, at in drawn.items()}
    rates = {f"tpr_at_fpr_{rate}": rate for rate in (0.02, 0.05, 0.3)}
    fast = pd.DataFrame(measure_resamples(rows, drawn, rates))
    for i in range(20):
        picked = rows.iloc[np.r_[drawn[True][i], drawn[False][i]]]
        slow = language_report(
            **picked.to_dict("series"), language=["en"] * len(picked), fprs=(0.02, 0.05, 0.3)
        )
        slow = slow.loc[("overall", "all")].drop(COUNTS)
        assert set(slow.index) == set(fast.columns)
        np.testing.assert_allclose(fast.loc[i, slow.index].to_numpy(float), slow.to_numpy(float))


def test_intervals_follow_an_unchanged_report(given, report):
    plain = language_report(**given)
    measures = plain.columns.drop(COUNTS)
    bounds = [f"{name}_{side}" for name in measures for side in ("low", "high")]
    assert report.columns.tolist() == [*plain.columns, *bounds]
    pd.testing.assert_frame_equal(report[plain.columns], plain)
    for name in measures:
        for group in ("language", "tier", "overall"):
            row = report.loc[group]
            assert (row[f"{name}_low"] <= row[name]).all()
            assert (row[name] <= row[f"{name}_high"]).all()


def test_intervals_of_a_share_are_binomial():
    """Of 100 harmful rows, 30 are missed: percentiles of a binomial distribution."""
    y = np.repeat([1, 0], 100)
    called = np.r_[np.repeat([0, 1], [30, 70]), np.zeros(100, int)]
    row = language_report(
        y, called, language=["en"] * 200, confidence_level=0.95, n_resamples=20_000, random_state=0
    ).loc[("language", "en")]
    assert row["fnr_low"] == pytest.approx(0.21, abs=0.011)  # scipy.stats.binom(100, 0.3)
    assert row["fnr_high"] == pytest.approx(0.39, abs=0.011)
    assert (row["fpr_low"], row["fpr_high"]) == (0, 0)


def test_most_intervals_hold_the_truth():
    """Of normal scores, whose AUC is known: 95 % intervals cover it in most samples."""
    truth = 0.7602499  # Phi(1 / sqrt(2))
    rng = np.random.default_rng(8)
    language = np.repeat([f"l{i:03}" for i in range(100)], 100)
    y = np.tile([0, 1], 5_000)
    report = language_report(
        y,
        y_score=y + rng.normal(size=len(y)),
        language=language,
        confidence_level=0.95,
        n_resamples=200,
        random_state=0,
        tier={},
    ).loc["language"]
    covered = (report["roc_auc_low"] <= truth) & (truth <= report["roc_auc_high"])
    assert 0.88 <= covered.mean() <= 0.99


def test_a_tier_s_interval_is_narrower_than_its_languages(report):
    width = report["roc_auc_high"] - report["roc_auc_low"]
    assert width["tier", "high"] < width["language"][["en", "de"]].min()
    np.testing.assert_allclose(width["tier", "low"], width["language", "yo"])


def test_the_worst_language_has_its_own_intervals_and_the_spread_none(report):
    bounds = report.columns[report.columns.str.endswith(("_low", "_high"))]
    (worst,) = report.loc["worst"].index
    assert report.loc[("worst", worst)].equals(report.loc[("language", worst)])
    assert report.loc[("spread", "max - min"), bounds].isna().all()


def test_a_higher_level_and_more_rows(given, report):
    wider = language_report(**given, confidence_level=0.99, n_resamples=200, random_state=0)
    for name in ("roc_auc", "tpr_at_fpr_0.1", "f1", "selectivity"):
        assert (wider[f"{name}_low"] <= report[f"{name}_low"])["language"].all()
        assert (wider[f"{name}_high"] >= report[f"{name}_high"])["language"].all()


def test_seeds(given, report):
    settings = {"confidence_level": 0.9, "n_resamples": 200}
    again = language_report(**given, **settings, random_state=0)
    pd.testing.assert_frame_equal(again, report)
    state = np.random.RandomState(0)
    pd.testing.assert_frame_equal(language_report(**given, **settings, random_state=state), report)
    assert not language_report(**given, **settings, random_state=state).equals(report)
    assert not language_report(**given, **settings, random_state=1).equals(report)


def test_a_measure_of_scores_does_not_depend_on_decisions(given, report):
    alone = {name: given[name] for name in ("y_true", "y_score", "language")}
    alone = language_report(**alone, confidence_level=0.9, n_resamples=200, random_state=0)
    bounds = ["roc_auc_low", "tpr_at_fpr_0.05_high"]
    pd.testing.assert_frame_equal(alone.loc["language", bounds], report.loc["language", bounds])


def test_one_class_alone_has_the_intervals_of_its_shares():
    report = language_report(
        [1] * 30 + [0] * 30,
        [0, 1] * 30,
        np.arange(60),
        language=["en"] * 30 + ["yo"] * 30,
        refused=[True, False] * 30,
        confidence_level=0.9,
        n_resamples=50,
        random_state=0,
    )
    en, yo = report.loc[("language", "en")], report.loc[("language", "yo")]
    assert en["fnr_low"] < 0.5 < en["fnr_high"]
    assert yo["harmless_refused_low"] < 0.5 < yo["harmless_refused_high"]
    undefined = [*("roc_auc", "f1", "balanced_accuracy", "tpr_at_fpr_0.1", "selectivity"), "fpr"]
    assert en[[f"{name}_low" for name in undefined]].isna().all()
    assert report.loc[("worst", ""), "fnr_low":].isna().all()


def test_decisions_without_scores_have_intervals(given):
    del given["y_score"]
    report = language_report(**given, confidence_level=0.9, n_resamples=50, random_state=0)
    assert report[["roc_auc_low", "roc_auc_high"]].isna().all(axis=None)
    assert report.loc["language", "f1_low"].notna().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"confidence_level": 95}, "Got confidence_level=95, expected a number above 0 and below"),
        ({"confidence_level": 1.0}, "Got confidence_level=1.0, expected a number above 0"),
        ({"confidence_level": "95 %"}, "Got confidence_level='95 %', expected a number"),
        ({"confidence_level": True}, "Got confidence_level=True, expected a number"),
        ({"n_resamples": 0}, "Got n_resamples=0, expected a positive integer"),
        ({"n_resamples": 10.5}, "Got n_resamples=10.5, expected a positive integer"),
        ({"n_resamples": True}, "Got n_resamples=True, expected a positive integer"),
        ({"random_state": "seed", "confidence_level": 0.9}, "'seed' cannot be used to seed"),
    ],
)
def test_bad_settings_are_named(given, change, message):
    with pytest.raises(ValueError, match=message):
        language_report(**given, **change)


def test_abstentions_are_left_out_of_each_resample(given):
    """The fast measures of many resamples equal a report of each."""
    refused = np.where(np.arange(210) % 3 == 0, np.nan, given["refused"])
    rows = pd.DataFrame({"y_true": given["y_true"].astype(bool), "refused": refused})
    rng = np.random.default_rng(7)
    drawn = {label: np.flatnonzero(rows["y_true"] == label) for label in (True, False)}
    drawn = {label: rng.choice(at, size=(5, len(at))) for label, at in drawn.items()}
    fast = pd.DataFrame(measure_resamples(rows, drawn, {}))
    for i in range(5):
        picked = rows.iloc[np.r_[drawn[True][i], drawn[False][i]]]
        slow = language_report(**picked.to_dict("series"), language=["en"] * len(picked))
        expected = slow.loc[("overall", "all"), fast.columns].to_numpy(float)
        np.testing.assert_allclose(fast.loc[i].to_numpy(float), expected)


def test_a_rate_has_no_interval_if_a_resample_has_no_verdict():
    report = language_report(
        [1] * 4 + [0] * 4,
        language=["en"] * 8,
        refused=[None, None, None, True] + [True, False] * 2,
        confidence_level=0.9,
        random_state=0,
    )
    row = report.loc[("language", "en")]
    assert row["harmful_refused"] == 1
    assert np.isnan(row["harmful_refused_low"])
    assert row["harmless_refused_low"] < 0.5 < row["harmless_refused_high"]
