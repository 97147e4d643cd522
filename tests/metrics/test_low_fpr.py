"""Measures at low rates of false alarms in ``language_report`` and ``LanguageScorer``."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression

from skgate.metrics import LanguageScorer, language_report

FEW = "Got too few harmless rows"


@pytest.fixture
def rows():
    """Scores with ties, in three languages."""
    rng = np.random.default_rng(3)
    language = np.repeat(["en", "th", "yo"], [120, 90, 75])
    y = rng.integers(0, 2, len(language))
    return y, np.round(y + rng.normal(size=len(y)), 1), language


def tpr_slowly(y, scores, rate):
    """The best TPR over every threshold, and over none called harmful."""
    found = [0.0]
    for threshold in np.unique(scores):
        called = scores >= threshold
        if called[y == 0].mean() <= rate:
            found.append(called[y == 1].mean())
    return max(found)


@pytest.mark.parametrize("fprs", [(0.05, 0.1), (0.3,), [0.5, 0.02], np.array([0.2, 0.25])])
@pytest.mark.filterwarnings(f"ignore:{FEW}:UserWarning")
def test_each_group_has_the_slow_reference_s_values(rows, fprs):
    y, scores, language = rows
    report = language_report(y, y_score=scores, language=language, fprs=fprs)
    for group, name, chosen in [
        *(("language", name, language == name) for name in np.unique(language)),
        ("overall", "all", np.full(len(y), True)),
    ]:
        row = report.loc[(group, name)]
        for rate in fprs:
            expected = tpr_slowly(y[chosen], scores[chosen], rate)
            assert row[f"tpr_at_fpr_{rate}"] == expected
        partial = metrics.roc_auc_score(y[chosen], scores[chosen], max_fpr=max(fprs))
        assert row["partial_roc_auc"] == partial


def test_columns_stand_before_the_counts(rows):
    y, scores, language = rows
    usual = ["roc_auc", "average_precision"]
    low = ["tpr_at_fpr_0.05", "tpr_at_fpr_0.1", "partial_roc_auc"]
    counts = ["n", "n_harmful", "n_harmless"]
    report = language_report(y, y_score=scores, language=language)
    assert report.columns.tolist() == [*usual, *low, *counts]
    report = language_report(y, y_score=scores, language=language, fprs=())
    assert report.columns.tolist() == [*usual, *counts]
    report = language_report(y, scores > 0.5, language=language)
    assert not set(low) & set(report.columns)  # no scores


def test_a_rate_that_is_met_exactly_is_allowed():
    """3 of 30 false alarms are 10 %, and 1 of 49 is 1 / 49."""
    for n, rate, alarms in [(30, 0.1, 3), (49, 1 / 49, 1), (100, 0.07, 7), (20, 0.05, 1)]:
        scores = np.r_[np.arange(n), n - alarms - 0.5, n - alarms - 1.5]
        y = np.r_[np.zeros(n, int), 1, 1]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            report = language_report(y, y_score=scores, language=["en"] * len(y), fprs=[rate])
        assert report.loc[("language", "en"), f"tpr_at_fpr_{rate}"] == 0.5


def test_increasing_transforms_of_scores_change_nothing(rows):
    y, scores, language = rows
    report = language_report(y, y_score=scores, language=language)
    assert report.equals(language_report(y, y_score=np.exp(scores), language=language))


def test_perfect_and_uninformative_scores():
    y = np.tile([0, 1], 50)
    report = language_report(y, y_score=y, language=["en"] * 100)
    names = ["tpr_at_fpr_0.05", "tpr_at_fpr_0.1", "partial_roc_auc"]
    assert report.loc[("language", "en"), names].tolist() == [1, 1, 1]
    report = language_report(y, y_score=np.zeros(100), language=["en"] * 100)
    np.testing.assert_allclose(report.loc[("language", "en"), names].to_list(), [0, 0, 0.5])


def test_worst_language_by_tpr(rows):
    y, scores, language = rows
    report = language_report(y, y_score=scores, language=language, worst_by="tpr_at_fpr_0.1")
    values = report.loc["language", "tpr_at_fpr_0.1"]
    assert report.loc["worst"].index.tolist() == [values.idxmin()]


def few_harmless(**numbers):
    """As many harmless rows per language, and one harmful row each."""
    language = [name for name, n in numbers.items() for _ in range(n + 1)]
    y = [label for n in numbers.values() for label in [1] + [0] * n]
    return {"y_true": y, "y_score": np.arange(len(y), dtype=float), "language": language}


def test_too_few_harmless_rows_are_named():
    with pytest.warns(UserWarning, match=FEW) as caught:
        report = language_report(**few_harmless(en=20, th=19, yo=9), fprs=(0.05, 0.1))
    assert [str(warning.message) for warning in caught] == [
        "Got too few harmless rows for fpr=0.05: 19 in language 'th', 9 in language 'yo'; expected "
        "at least 20. There, tpr_at_fpr_0.05 allows no false alarm at all.",
        "Got too few harmless rows for fpr=0.1: 9 in language 'yo'; expected at least 10. There, "
        "tpr_at_fpr_0.1 allows no false alarm at all.",
    ]
    assert all(warning.filename == __file__ for warning in caught)
    assert report.loc[("language", "yo"), "tpr_at_fpr_0.05"] == 0  # still computed


def test_a_long_list_of_languages_is_cut():
    many = {f"l{i:02}": 3 for i in range(13)}
    with pytest.warns(UserWarning, match="3 in language 'l09', too few in 3 more; expected"):
        language_report(**few_harmless(**many), fprs=[0.1])


@pytest.mark.parametrize(("rate", "fewest"), [(1 / 49, 49), (0.07, 15), (0.01, 100), (0.9, 2)])
def test_the_expected_number_is_the_smallest_without_a_warning(rate, fewest):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        language_report(**few_harmless(en=fewest), fprs=[rate])
    with pytest.warns(UserWarning, match=f"expected at least {fewest}"):
        language_report(**few_harmless(en=fewest - 1), fprs=[rate])


def test_one_class_alone_is_nan_without_a_warning():
    report = language_report(
        [1] * 25 + [0] * 25, y_score=np.arange(50), language=["en"] * 25 + ["yo"] * 25
    )
    names = ["tpr_at_fpr_0.05", "tpr_at_fpr_0.1", "partial_roc_auc"]
    assert report.loc["language", names].isna().all(axis=None)
    assert report.loc[("overall", "all"), names].notna().all()


@pytest.mark.parametrize(
    ("fprs", "message"),
    [
        (0.05, r"Got fprs=0.05, expected numbers above 0 and below 1 in a sequence"),
        ("0.05", r"Got fprs='0.05', expected numbers above 0 and below 1"),
        (None, r"Got fprs=None, expected numbers above 0 and below 1"),
        ([[0.05]], r"Got fprs=\[\[0.05\]\], expected numbers above 0 and below 1"),
        ((0.05, 5), r"Got fprs\[1\]=5, expected numbers above 0 and below 1"),
        ((0,), r"Got fprs\[0\]=0, expected"),
        ((1.0,), r"Got fprs\[0\]=1.0, expected"),
        ((-0.1,), r"Got fprs\[0\]=-0.1, expected"),
        ((np.nan,), r"Got fprs\[0\]=nan, expected"),
        ((True,), r"Got fprs\[0\]=True, expected"),
        (("5 %",), r"Got fprs\[0\]='5 %', expected"),
        ((0.1, 0.05, 0.1), r"Got fprs\[2\]=0.1 a second time, expected each rate once"),
    ],
)
def test_bad_fprs_are_named(rows, fprs, message):
    y, scores, language = rows
    with pytest.raises(ValueError, match=message):
        language_report(y, y_score=scores, language=language, fprs=fprs)


# In the scorer


@pytest.fixture
def scored(rows):
    y, scores, language = rows
    X = np.column_stack([scores, np.random.default_rng(4).normal(size=len(y))])
    estimator = LogisticRegression().fit(X, y)
    return estimator, X, y, language


@pytest.mark.parametrize("labels", [(0, 1), ("harmless", "harmful")])
def test_the_scorer_takes_the_column_s_name(scored, labels):
    _, X, y, _ = scored
    estimator = LogisticRegression().fit(X, np.array(labels)[y])
    score = LanguageScorer("tpr_at_fpr_0.1")(estimator, X, np.array(labels)[y])
    harm = estimator.decision_function(X) * (1 if estimator.classes_[1] == labels[1] else -1)
    assert score == tpr_slowly(y, harm, 0.1)


def test_the_scorer_combines_languages(scored):
    estimator, X, y, language = scored
    frame = pd.DataFrame({"language": language})

    class ByRow:
        classes_ = estimator.classes_

        def decision_function(self, rows):
            return estimator.decision_function(X[rows.index])

    each = [
        tpr_slowly(y[language == name], estimator.decision_function(X[language == name]), 0.1)
        for name in np.unique(language)
    ]
    for aggregate, expected in [("macro", np.mean(each)), ("worst", np.min(each))]:
        scorer = LanguageScorer("tpr_at_fpr_0.1", aggregate=aggregate, language_column="language")
        assert scorer(ByRow(), frame, y) == pytest.approx(expected)


def test_weights_of_two_are_rows_twice(scored):
    estimator, X, y, _ = scored
    weight = np.random.default_rng(5).integers(1, 3, len(y))
    scorer = LanguageScorer("tpr_at_fpr_0.1")
    twice = np.repeat(np.arange(len(y)), weight)
    weighted = scorer(estimator, X, y, sample_weight=weight)
    assert weighted == pytest.approx(scorer(estimator, X[twice], y[twice]))


def test_the_scorer_is_cloned_and_pickled(scored):
    estimator, X, y, _ = scored
    scorer = LanguageScorer("tpr_at_fpr_0.1")
    expected = scorer(estimator, X, y)
    assert clone(scorer)(estimator, X, y) == expected
    assert pickle.loads(pickle.dumps(scorer))(estimator, X, y) == expected


@pytest.mark.parametrize("rate", ["", "5", "0", "nan", "five"])
def test_a_bad_rate_in_the_name_is_named(scored, rate):
    estimator, X, y, _ = scored
    expected = f"Got metric='tpr_at_fpr_{rate}', expected a rate above 0 and below 1"
    with pytest.raises(ValueError, match=expected):
        LanguageScorer(f"tpr_at_fpr_{rate}")(estimator, X, y)
