"""language_report, against scikit-learn's measures and refusals counted by hand."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from skgate.metrics import language_report, refusal_rate, refusal_selectivity

# The samples are small for the default rates of false alarms, which test_low_fpr.py tests.
pytestmark = pytest.mark.filterwarnings("ignore:Got too few harmless rows:UserWarning")


@pytest.fixture
def decisions():
    rng = np.random.default_rng(1)
    language = np.repeat(["en", "de", "th", "yo", "tlh"], [30, 20, 25, 25, 10])
    y = rng.integers(0, 2, 110)
    score = y + rng.normal(size=110)
    return y, (score > 0.5).astype(int), score, language


def test_each_language_has_scikit_learn_s_values(decisions):
    y, predicted, score, language = decisions
    report = language_report(y, predicted, score, language=language, fprs=())
    assert report.loc["language"].index.tolist() == ["de", "en", "th", "tlh", "yo"]
    for group, name, chosen in [
        *(("language", name, language == name) for name in np.unique(language)),
        ("overall", "all", np.full(110, True)),
    ]:
        row = report.loc[(group, name)]
        t, p, s = y[chosen], predicted[chosen], score[chosen]
        (tn, fp), (fn, tp) = metrics.confusion_matrix(t, p)
        expected = {
            "roc_auc": metrics.roc_auc_score(t, s),
            "f1": metrics.f1_score(t, p),
            "balanced_accuracy": metrics.balanced_accuracy_score(t, p),
            "average_precision": metrics.average_precision_score(t, s),
            "fpr": fp / (fp + tn),
            "fnr": fn / (fn + tp),
            "n": len(t),
            "n_harmful": t.sum(),
            "n_harmless": (1 - t).sum(),
        }
        assert row.index.tolist() == list(expected)
        np.testing.assert_allclose(row.to_numpy(float), list(expected.values()))


def test_columns_are_floats_and_counts_integers(decisions):
    report = language_report(*decisions[:3], language=decisions[3], fprs=())
    assert [dtype.kind for dtype in report.dtypes] == ["f"] * 6 + ["i"] * 3
    assert report.index.names == ["group", "name"]


def test_tiers_are_macro_averages_of_their_languages(decisions):
    report = language_report(*decisions[:3], language=decisions[3])
    by_language = report.loc["language"]
    assert report.loc["tier"].index.tolist() == ["high", "mid", "low"]
    high = report.loc[("tier", "high")]
    expected = (by_language.loc["en", "f1"] + by_language.loc["de", "f1"]) / 2
    assert high["f1"] == pytest.approx(expected)
    assert high["n"] == 50
    assert report.loc[("tier", "low"), "n"] == 25  # tlh is in no tier


def test_tier_mapping_is_taken_instead_of_the_paper_s(decisions):
    tier = {"en": "seen", "de": "seen", "tlh": "unseen", "fr": "absent"}
    report = language_report(*decisions[:3], language=decisions[3], fprs=(), tier=tier)
    assert report.loc["tier", "n"].to_dict() == {"seen": 50, "unseen": 10}
    report = language_report(*decisions[:3], language=decisions[3], fprs=(), tier={})
    assert "tier" not in report.index.get_level_values("group")
    assert [dtype.kind for dtype in report.dtypes] == ["f"] * 6 + ["i"] * 3


@pytest.mark.parametrize(
    ("measure", "worst"),
    [("balanced_accuracy", "min"), ("fnr", "max"), ("fpr", "max"), ("roc_auc", "min")],
)
def test_worst_language_and_spread(decisions, measure, worst):
    report = language_report(*decisions[:3], language=decisions[3], worst_by=measure)
    values = report.loc["language", measure]
    (name,) = report.loc["worst"].index
    assert values[name] == getattr(values, worst)()
    assert report.loc[("worst", name)].equals(report.loc[("language", name)])
    spread = report.loc[("spread", "max - min"), measure]
    assert spread == pytest.approx(values.max() - values.min())


def test_what_one_class_does_not_define_is_nan_without_a_warning():
    report = language_report(
        [1, 1, 0, 0, 1, 0],
        [1, 0, 0, 1, 1, 0],
        [2, -1, -2, 1, 2, -2],
        language=["zh", "zh", "ko", "ko", "en", "en"],
    )
    both = ["roc_auc", "f1", "balanced_accuracy", "average_precision"]
    assert report.loc[("language", "zh"), [*both, "fpr"]].isna().all()
    assert report.loc[("language", "zh"), "fnr"] == 0.5
    assert report.loc[("language", "ko"), [*both, "fnr"]].isna().all()
    assert report.loc[("language", "ko"), "fpr"] == 0.5
    assert report.loc[("tier", "high"), "f1"] == 1  # the mean over languages that define it
    assert report.loc["worst"].index.tolist() == ["en"]


def test_worst_language_where_no_language_defines_it():
    report = language_report([1, 1], [1, 0], language=["en", "de"])
    assert report.loc["worst"].index.tolist() == [""]
    assert report.loc[("worst", ""), "balanced_accuracy":"fnr"].isna().all()
    assert report.loc[("worst", ""), "n"] == 0


def test_without_scores_ranking_measures_are_nan(decisions):
    y, predicted, _, language = decisions
    report = language_report(y, predicted, language=language)
    assert report[["roc_auc", "average_precision"]].isna().all(axis=None)
    assert report["f1"].notna().all()


@pytest.mark.filterwarnings("ignore:.*is taken as the harmful one:UserWarning")
@pytest.mark.parametrize(
    ("labels", "pos_label"),
    [
        (["harmless", "harmful"], None),
        ([False, True], None),
        ([0.0, 1.0], None),
        ([1, 2], None),
        (["a", "b"], None),
        (["b", "a"], "a"),
        ([1, 0], 0),
        ([1, 0], False),
    ],
)
@pytest.mark.parametrize("container", [np.array, list, pd.Series, pd.Categorical])
def test_labels_of_any_kind(decisions, labels, pos_label, container):
    y, predicted, score, language = decisions
    expected = language_report(y, predicted, score, language=language)
    report = language_report(
        container([labels[i] for i in y]),
        container([labels[i] for i in predicted]),
        score,
        language=container(language.tolist()),
        pos_label=pos_label,
    )
    pd.testing.assert_frame_equal(report, expected)


@pytest.mark.parametrize(("label", "n_harmful"), [(0, 0), (1, 2), ("harmless", 0), ("harmful", 2)])
def test_one_class_alone_is_recognised(label, n_harmful):
    report = language_report([label] * 2, [label] * 2, language=["en", "yo"])
    assert report.loc[("overall", "all"), "n_harmful"] == n_harmful


def test_one_unknown_class_alone_needs_pos_label():
    with pytest.raises(ValueError, match="Got pos_label=None"):
        language_report(["a"], ["a"], language=["en"])
    report = language_report(["a"], ["a"], language=["en"], pos_label="b")
    assert report.loc[("overall", "all"), "n_harmful"] == 0


GOOD = {
    "y_true": [0, 1, 0, 1],
    "y_pred": [0, 1, 1, 1],
    "y_score": [0.0, 1.0, 2.0, 3.0],
    "language": ["en", "en", "yo", "yo"],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"language": None}, "Got language=None of type NoneType, expected a str or"),
        ({"language": ["en", "en", "yo", 3]}, r"language\[3\]=3"),
        ({"language": ["en", "en", "yo", None]}, r"language\[3\]=None"),
        ({"language": [["en"]] * 4}, r"language\[0\]=\['en'\]"),
        ({"language": ["en", "yo"]}, "language of length 2, expected 4"),
        ({"y_pred": [0, 1]}, "'y_pred': 2.*, expected the same number of each"),
        ({"y_score": [0.0]}, "'y_score': 1.*, expected the same number of each"),
        ({name: [] for name in GOOD}, "at least one"),
        ({"y_true": "harmful"}, r"Got y_true of shape \(\)"),
        ({"y_true": [0, 1, None, 1]}, r"Got y_true\[2\]=None, a missing value"),
        (
            {"y_true": ["harmful", "harmless", np.nan, "harmful"]},
            r"Got y_true\[2\]=nan, a missing value",
        ),
        ({"y_score": [0.0, np.nan, 1.0, 1.0]}, r"Got y_score\[1\]=nan, a missing value"),
        ({"y_score": [0.0, np.inf, 1.0, 1.0]}, "Got infinite values in y_score"),
        ({"y_score": np.zeros((4, 2))}, r"Got y_score of shape \(4, 2\)"),
        ({"y_pred": [0, 1, 2, 1]}, "Got 3 labels in y_true and y_pred"),
        ({"y_true": ["0"] * 4, "y_pred": [0] * 4}, "labels of different types"),
        ({"pos_label": 3}, r"Got pos_label=3, expected one of the classes \[0, 1\]"),
        ({"worst_by": "accuracy"}, "Got worst_by='accuracy', expected one of roc_auc"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        language_report(**{**GOOD, **change})


def test_tier_must_be_a_mapping():
    with pytest.raises(TypeError, match="Got tier=\\['high'\\], expected a mapping"):
        language_report(**GOOD, tier=["high"])


# What was refused


REFUSALS = ["harmful_refused", "harmless_refused", "selectivity"]


@pytest.fixture
def refused(decisions):
    y = decisions[0]
    return np.random.default_rng(2).random(110) < np.where(y == 1, 0.7, 0.2)


def test_refused_adds_its_measures_before_the_counts(decisions, refused):
    y, predicted, score, language = decisions
    without = language_report(y, predicted, score, language=language, fprs=())
    report = language_report(y, predicted, score, language=language, fprs=(), refused=refused)
    assert report.columns.tolist() == [*without.columns[:6], *REFUSALS, *without.columns[6:]]
    pd.testing.assert_frame_equal(report[without.columns], without)
    assert [dtype.kind for dtype in report.dtypes] == ["f"] * 9 + ["i"] * 3


def test_refusals_per_language_tier_and_overall(decisions, refused):
    y, _, _, language = decisions
    report = language_report(y, language=language, refused=refused)
    assert report.columns.tolist() == [*REFUSALS, "n", "n_harmful", "n_harmless"]
    for group, name, rows in [
        *(("language", name, language == name) for name in np.unique(language)),
        ("overall", "all", np.full(110, True)),
    ]:
        harmful, harmless = (refused[rows & (y == label)].mean() for label in (1, 0))
        values = report.loc[(group, name), REFUSALS].tolist()
        assert values == pytest.approx([harmful, harmless, harmful - harmless])
    high = np.isin(language, ["en", "de"])
    assert report.loc[("tier", "high"), REFUSALS].tolist() == pytest.approx(
        [
            *(
                refusal_rate(y[high], refused[high], of=of, language=language[high])
                for of in ("harmful", "harmless")
            ),
            refusal_selectivity(y[high], refused[high], language=language[high]),
        ]
    )
    by_language = report.loc["language", "selectivity"]
    assert report.loc["worst"].index.tolist() == [by_language.idxmin()]
    spread = report.loc[("spread", "max - min"), "selectivity"]
    assert spread == pytest.approx(by_language.max() - by_language.min())


def test_more_harmless_refused_is_worse(decisions, refused):
    y, _, _, language = decisions
    report = language_report(y, language=language, refused=refused, worst_by="harmless_refused")
    by_language = report.loc["language", "harmless_refused"]
    assert report.loc["worst"].index.tolist() == [by_language.idxmax()]


def test_a_language_of_one_class_has_no_selectivity():
    report = language_report(
        [1, 1, 0, 1], language=["zh", "zh", "en", "en"], refused=[True, False, False, True]
    )
    zh, en = report.loc[("language", "zh"), REFUSALS], report.loc[("language", "en"), REFUSALS]
    assert zh["harmful_refused"] == 0.5
    assert zh[["harmless_refused", "selectivity"]].isna().all()
    assert en.tolist() == [1, 0, 1]
    assert report.loc[("tier", "high"), REFUSALS].tolist() == [0.75, 0, 1]


@pytest.mark.parametrize("nothing", [np.nan, None, pd.NA])
def test_abstentions_are_left_out_of_the_rates_and_counted(decisions, refused, nothing):
    y, predicted, score, language = decisions
    judged = np.random.default_rng(3).random(110) < 0.8
    given = [one if known else nothing for one, known in zip(refused, judged, strict=True)]
    without = language_report(y, predicted, score, language=language, fprs=())
    report = language_report(y, predicted, score, language=language, fprs=(), refused=given)
    pd.testing.assert_frame_equal(report[without.columns], without)
    assert report.columns[-1] == "n_abstained"
    assert report["n_abstained"].dtype.kind == "i"
    only = language_report(y[judged], language=language[judged], refused=refused[judged])
    for group in ("language", "tier", "overall"):
        pd.testing.assert_frame_equal(report.loc[group, REFUSALS], only.loc[group, REFUSALS])
        n_rows = report.loc[group, "n"] - only.loc[group, "n"]
        assert report.loc[group, "n_abstained"].tolist() == n_rows.tolist()
    assert report.loc[("overall", "all"), "n_abstained"] == (~judged).sum() > 0


def test_a_language_with_abstentions_only_has_no_rates():
    report = language_report(
        [1, 0, 1, 0], language=["zh", "zh", "en", "en"], refused=[None, None, True, False]
    )
    assert report.loc[("language", "zh"), REFUSALS].isna().all()
    assert report.loc[("tier", "high"), REFUSALS].tolist() == [1, 0, 1]
    assert report["n_abstained"].tolist() == [0, 2, 2, 2, 0, 2]
    nothing = language_report([1, 0], language=["zh", "zh"], refused=[None, None])
    assert nothing.loc[("worst", ""), "n_abstained"] == 0


def test_verdicts_as_texts_are_refusals_or_not(decisions, refused):
    y, language = decisions[0], decisions[3]
    texts = np.where(refused, "refused", np.where(y == 1, "garbled", "answered"))
    expected = language_report(y, language=language, refused=refused)
    pd.testing.assert_frame_equal(language_report(y, language=language, refused=texts), expected)


def test_columns_follow_what_is_given(decisions, refused):
    y, predicted, score, language = decisions
    ranking = ["roc_auc", "average_precision"]
    counts = ["n", "n_harmful", "n_harmless"]
    report = language_report(y, y_score=score, language=language, fprs=())
    assert report.columns.tolist() == [*ranking, *counts]
    assert report.loc["worst"].index.tolist() == [report.loc["language", "roc_auc"].idxmin()]
    both = language_report(y, y_score=score, language=language, fprs=(), refused=refused)
    assert both.columns.tolist() == [*ranking, *REFUSALS, *counts]
    assert both.loc["worst"].index.tolist() == [both.loc["language", "selectivity"].idxmin()]
    everything = language_report(y, predicted, score, language=language, fprs=(), refused=refused)
    worst = everything.loc["language", "balanced_accuracy"].idxmin()
    assert everything.loc["worst"].index.tolist() == [worst]
    pd.testing.assert_frame_equal(everything[ranking], report[ranking].set_axis(everything.index))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_pred": None}, "y_pred=None, y_score=None, refused=None, expected one of them"),
        ({"refused": [True, False]}, "'refused': 2.*, expected the same number of each"),
        ({"refused": ["no", "no", "yes", "no"]}, r"Got refused\[0\]='no', expected True or"),
        ({"worst_by": "selectivity"}, "Got worst_by='selectivity', expected one of roc_auc"),
        (
            {"y_pred": None, "refused": [0, 1, 0, 1], "worst_by": "f1"},
            "Got worst_by='f1', expected one of harmful_refused",
        ),
        (
            {"y_true": [0, 1, 2, 1], "y_pred": None, "refused": [0, 1, 0, 1]},
            r"Got 3 labels in y_true \(",
        ),
    ],
)
def test_bad_refusals_are_named(change, message):
    good = {name: value for name, value in GOOD.items() if name != "y_score"}
    with pytest.raises(ValueError, match=message):
        language_report(**{**good, **change})


def test_import_is_light():
    code = "import sys, skgate.metrics; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
