"""LanguageScorer, with a stand-in for a gate."""

from __future__ import annotations

import pickle
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn import metrics
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    GroupKFold,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skgate import LatentGate, SteeringWrapper
from skgate.metrics import LanguageScorer

SHIFT = {"en": 0.0, "yo": 10.0}


class ShiftedGate(ClassifierMixin, BaseEstimator):
    """A threshold on one feature that sits at another place in each language.

    It is perfect when told the language. Not told, it takes English.
    """

    __metadata_request__fit: ClassVar = {"language": True}
    __metadata_request__predict: ClassVar = {"language": True}
    __metadata_request__decision_function: ClassVar = {"language": True}
    __metadata_request__predict_proba: ClassVar = {"language": True}

    def __init__(self, offset=0.0, language_column=None, harmful_label=None):
        self.offset = offset
        self.language_column = language_column
        self.harmful_label = harmful_label

    def fit(self, X, y, language=None):
        _, language = self._split(X, language)
        self.classes_ = np.unique(y)
        self.languages_ = np.unique(language) if language is not None else np.array([])
        if self.harmful_label is not None:
            self.harmful_label_ = self.harmful_label
        return self

    def _split(self, X, language):
        if self.language_column is not None:
            language = X[self.language_column]
            X = X.drop(columns=self.language_column)
        return np.asarray(X, dtype=float)[:, 0], language

    def _harm(self, X, language):
        x, language = self._split(X, language)
        shift = 0.0 if language is None else np.array([SHIFT[name] for name in language])
        return x - shift - self.offset

    def _harmful_is_second(self):
        harmful = self.harmful_label or "harmful"
        return harmful not in self.classes_ or self.classes_[1] == harmful

    def decision_function(self, X, language=None):
        harm = self._harm(X, language)
        return harm if self._harmful_is_second() else -harm

    def predict_proba(self, X, language=None):
        second = 1 / (1 + np.exp(-self.decision_function(X, language)))
        return np.column_stack([1 - second, second])

    def predict(self, X, language=None):
        return self.classes_[(self.decision_function(X, language) > 0).astype(int)]


class DeafGate(ShiftedGate):
    """A gate whose predict takes no language."""

    def predict(self, X):
        return super().predict(X)


@pytest.fixture
def rows():
    """Rows of two languages which a ShiftedGate separates only if it is told the language."""
    rng = np.random.default_rng(0)
    language = np.repeat(["en", "yo"], 40)
    y = np.tile([0, 1], 40)
    x = np.where(y == 1, 1.0, -1.0) * rng.uniform(0.5, 2, 80) + np.repeat([0.0, 10.0], 40)
    return x[:, None], y, language


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


# Does the language arrive?


def gates():
    return {
        "bare": ShiftedGate(),
        "pipeline": make_pipeline(StandardScaler(with_mean=False, with_std=False), ShiftedGate()),
        "nested": make_pipeline(
            StandardScaler(with_mean=False, with_std=False),
            make_pipeline("passthrough", ShiftedGate()),
        ),
        "one step": make_pipeline(ShiftedGate()),
    }


@pytest.mark.parametrize("enabled", [False, True])
@pytest.mark.parametrize("kind", gates())
@pytest.mark.parametrize(
    ("metric", "response_method"),
    [
        ("balanced_accuracy", None),
        ("roc_auc", None),
        ("average_precision", None),
        (metrics.f1_score, None),
        (metrics.roc_auc_score, "decision_function"),
        (metrics.roc_auc_score, "predict_proba"),
        (metrics.roc_auc_score, ["decision_function", "predict_proba"]),
    ],
)
def test_language_reaches_every_response_of_every_kind_of_gate(
    rows, enabled, kind, metric, response_method
):
    X, y, language = rows
    gate = gates()[kind].fit(X, y)
    scorer = LanguageScorer(metric, response_method=response_method)
    with sklearn.config_context(enable_metadata_routing=enabled):
        assert scorer(gate, X, y, language=language) == 1
        assert scorer(gate, X, y, language=language[::-1]) < 0.8
        assert scorer(gate, X, y) < 0.9  # not told: threshold of English


def test_an_estimator_that_cannot_take_the_language_is_an_error(rows):
    X, y, language = rows
    scorer = LanguageScorer("balanced_accuracy")
    for gate in (DeafGate(), make_pipeline(DeafGate()), LogisticRegression()):
        with pytest.raises(TypeError, match=r"predict does not take|unexpected|not routed"):
            scorer(gate.fit(X, y), X, y, language=language)
    assert LanguageScorer("roc_auc")(DeafGate().fit(X, y), X, y, language=language) == 1


def test_a_pipeline_whose_gate_does_not_take_it_is_an_error_with_routing(rows, routing):
    X, y, language = rows
    gate = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    with pytest.raises(TypeError, match="language"):
        LanguageScorer("balanced_accuracy")(gate, X, y, language=language)


@pytest.mark.parametrize("kind", gates())
def test_grid_search_with_routing_gives_each_fold_its_languages(rows, routing, kind):
    X, y, language = rows
    shuffled = np.random.default_rng(0).permutation(80)
    name = {"bare": "offset", "nested": "pipeline__shiftedgate__offset"}.get(
        kind, "shiftedgate__offset"
    )
    search = GridSearchCV(
        gates()[kind],
        {name: [-1.5, 0.0, 1.5]},
        scoring=LanguageScorer("balanced_accuracy"),
        cv=4,
        error_score="raise",
    ).fit(X[shuffled], y[shuffled], language=language[shuffled])
    assert search.best_params_ == {name: 0.0}
    assert search.best_score_ == 1
    with pytest.raises(TypeError, match="language"):
        LanguageScorer("balanced_accuracy")(search, X, y, language=language)
    assert LanguageScorer("f1")(search.best_estimator_, X, y, language=language) == 1


def test_cross_validate_with_routing_over_held_out_languages(rows, routing):
    X, y, language = rows
    result = cross_validate(
        gates()["pipeline"],
        X,
        y,
        params={"language": language, "groups": language},
        cv=GroupKFold(2),
        scoring={
            "f1": LanguageScorer("f1"),
            "worst": LanguageScorer("roc_auc", aggregate="worst"),
            "deaf": "f1",
        },
        error_score="raise",
    )
    assert result["test_f1"].tolist() == [1, 1]
    assert result["test_worst"].tolist() == [1, 1]
    assert min(result["test_deaf"]) < 0.8  # what scikit-learn's scorer makes of the same gate


def test_without_routing_a_lost_language_is_told(rows):
    X, y, language = rows
    bare = ShiftedGate().fit(X, y, language)
    pipeline = make_pipeline(ShiftedGate()).fit(X, y, shiftedgate__language=language)
    for gate in (bare, pipeline):
        with pytest.warns(UserWarning, match="LanguageScorer got no language"):
            LanguageScorer("f1")(gate, X, y)


@pytest.mark.parametrize("enabled", [False, True])
def test_language_as_a_column(rows, enabled):
    X, y, language = rows
    frame = pd.DataFrame({"x": X[:, 0], "language": language})
    gate = ShiftedGate(language_column="language")
    scoring = {
        "pooled": LanguageScorer("f1"),
        "worst": LanguageScorer("f1", aggregate="worst", language_column="language"),
        "worst, the gate's column": LanguageScorer("f1", aggregate="worst"),
    }
    with sklearn.config_context(enable_metadata_routing=enabled):
        result = cross_validate(gate, frame, y, cv=4, scoring=scoring, error_score="raise")
    assert all(result[f"test_{name}"].tolist() == [1] * 4 for name in scoring)


def test_a_baseline_without_languages_is_scored_by_a_column(rows):
    X, y, language = rows
    frame = pd.DataFrame({"x": X[:, 0], "lang": language})
    drop = ColumnTransformer([("x", "passthrough", ["x"])])
    baseline = make_pipeline(drop, LogisticRegression()).fit(frame, y)
    scorer = LanguageScorer("balanced_accuracy", aggregate="worst", language_column="lang")
    expected = min(
        metrics.balanced_accuracy_score(part["y"], part["predicted"])
        for _, part in frame.assign(y=y, predicted=baseline.predict(frame)).groupby("lang")
    )
    assert scorer(baseline, frame, y) == pytest.approx(expected)


def test_the_column_of_the_gate_may_be_named_by_its_step(rows):
    X, y, language = rows
    frame = pd.DataFrame({"x": X[:, 0], "lang": language})
    columns = ColumnTransformer([("h", "passthrough", ["x"]), ("l", "passthrough", ["lang"])])
    gate = ShiftedGate(language_column="l__lang")
    pipeline = make_pipeline(columns.set_output(transform="pandas"), gate).fit(frame, y)
    assert LanguageScorer("f1", aggregate="worst")(pipeline, frame, y) == 1


# Is the score right?


@pytest.mark.filterwarnings("ignore:.*is taken as the harmful one:UserWarning")
@pytest.mark.parametrize(
    ("labels", "harmful_label", "pos_label"),
    [
        (["harmless", "harmful"], None, None),
        ([False, True], None, None),
        ([0, 1], None, None),
        (["a", "b"], None, None),
        (["b", "a"], "a", None),
        (["b", "a"], "a", "a"),
    ],
)
@pytest.mark.parametrize(
    "metric", ["f1", "recall", "roc_auc", "average_precision", "neg_brier_score", "neg_log_loss"]
)
def test_harmful_is_the_positive_class_whatever_the_labels(
    rows, labels, harmful_label, pos_label, metric
):
    X, y, language = rows
    expected = metrics.get_scorer(metric)(
        ShiftedGate(offset=1.0).fit(X[:40], y[:40]), X[:40], y[:40]
    )
    assert metric in ("roc_auc", "average_precision") or expected != 1
    named = np.array(labels)[y]
    gate = ShiftedGate(offset=1.0, harmful_label=harmful_label).fit(X, named)
    scorer = LanguageScorer(metric, pos_label=pos_label)
    assert scorer(gate, X[:40], named[:40], language=language[:40]) == pytest.approx(expected)


def test_sign_of_a_loss_is_flipped(rows):
    X, y, language = rows
    gate = ShiftedGate(offset=1.0).fit(X, y)
    scorer = LanguageScorer(metrics.zero_one_loss, greater_is_better=False)
    expected = -np.mean(gate.predict(X, language=language) != y)
    assert expected < 0
    assert scorer(gate, X, y, language=language) == pytest.approx(expected)


def test_aggregate_is_over_languages(rows):
    X, y, language = rows
    X, y, language = X[:60], y[:60], language[:60]
    gate = ShiftedGate().fit(X, y)
    told = np.where(np.arange(60) < 50, "en", "yo")  # ten rows of yo are passed off as en

    per_language = [
        metrics.balanced_accuracy_score(y[part], gate.predict(X, language=told)[part])
        for part in (told == "en", told == "yo")
    ]
    assert per_language[0] < per_language[1]
    for aggregate, expected in (("macro", np.mean(per_language)), ("worst", min(per_language))):
        scorer = LanguageScorer("balanced_accuracy", aggregate=aggregate)
        assert scorer(gate, X, y, language=told) == pytest.approx(expected)


def test_aggregate_leaves_out_languages_with_one_class(rows):
    X, y, language = rows
    gate = ShiftedGate().fit(X, y)
    keep = (language == "en") | (y == 1)
    for aggregate in ("macro", "worst"):
        scorer = LanguageScorer("roc_auc", aggregate=aggregate)
        assert scorer(gate, X[keep], y[keep], language=language[keep]) == 1
        assert np.isnan(scorer(gate, X[y == 1], y[y == 1], language=language[y == 1]))


@pytest.mark.parametrize("aggregate", ["pooled", "macro"])
def test_sample_weight_goes_to_the_metric(rows, aggregate):
    X, y, language = rows
    gate = ShiftedGate(offset=1.0).fit(X, y)
    right = gate.predict(X, language=language) == y
    assert 0 < right.mean() < 1
    scorer = LanguageScorer("accuracy", aggregate=aggregate)
    assert scorer(gate, X, y, language=language, sample_weight=right.astype(float)) == 1


def test_responses_are_computed_once(rows):
    X, y, language = rows
    calls = []

    class Counting(ShiftedGate):
        def predict(self, X, language=None):
            calls.append(len(X))
            return super().predict(X, language)

    LanguageScorer("f1", aggregate="macro")(Counting().fit(X, y), X, y, language=language)
    assert calls == [80]


# As an object


def test_clone_pickle_and_repr(routing):
    scorer = LanguageScorer("f1", aggregate="worst").set_score_request(sample_weight=True)
    for copy in (clone(scorer), pickle.loads(pickle.dumps(scorer))):
        assert copy.get_params() == scorer.get_params()
        assert copy.get_metadata_routing().score.requests == {
            "language": True,
            "sample_weight": True,
        }
    assert repr(scorer) == "LanguageScorer(aggregate='worst', metric='f1')"
    search = GridSearchCV(ShiftedGate(), {}, scoring=LanguageScorer("f1"))
    assert clone(search).scoring.metric == "f1"


def test_score_request_can_be_changed(rows, routing):
    X, y, language = rows
    scorer = LanguageScorer("f1").set_score_request(language="tongue")
    result = cross_validate(
        ShiftedGate().set_fit_request(language="tongue"),
        X,
        y,
        params={"tongue": language},
        scoring=scorer,
        error_score="raise",
    )
    assert min(result["test_score"]) == 1
    with pytest.raises(TypeError, match="Got groups, expected language or sample_weight"):
        scorer.set_score_request(groups=True)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"metric": 3}, "Got metric=3, expected a callable or the name"),
        ({"metric": "f1", "aggregate": "mean"}, "Got aggregate='mean', expected 'pooled'"),
        ({"metric": "f1", "response_method": "predict"}, "Got response_method='predict'"),
        ({"metric": "f1", "greater_is_better": False}, "greater_is_better=False with metric='f1'"),
        (
            {"metric": "f1", "pos_label": "b"},
            "pos_label='b', expected one of the classes",
        ),
    ],
)
def test_bad_parameters_are_named_when_called(rows, parameters, message):
    X, y, language = rows
    with pytest.raises((TypeError, ValueError), match=message):
        LanguageScorer(**parameters)(ShiftedGate().fit(X, y), X, y, language=language)


def test_bad_arguments_are_named(rows):
    X, y, language = rows
    gate = ShiftedGate().fit(X, y)
    scorer = LanguageScorer("f1", aggregate="macro")
    with pytest.raises(ValueError, match="language of length 3, expected 80"):
        scorer(gate, X, y, language=language[:3])
    with pytest.raises(ValueError, match="Got no language with aggregate='macro'"):
        scorer(gate, X, y)
    with pytest.raises(ValueError, match="Got X without a column 'language'"):
        clone(scorer).set_params(language_column="language")(gate, X, y)
    with pytest.raises(ValueError, match=r"Got labels \['harmful'.* in y, expected"):
        scorer(gate, X, np.array(["harmless", "harmful"])[y], language=language)
    with pytest.raises(ValueError, match=r"classes \[0, 1, 2\], expected two"):
        scorer(ShiftedGate().fit(X, np.arange(80) % 3), X, y, language=language)


def test_other_lengths_are_an_error_and_never_a_part(rows):
    X, y, language = rows
    gate, scorer = ShiftedGate().fit(X, y, language=language), LanguageScorer("accuracy")
    for bad in (y[:7], np.tile(y, 2)):
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            scorer(gate, X, bad, language=language)
    for weight in (np.ones(3), np.ones(500)):
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            scorer(gate, X, y, language=language, sample_weight=weight)
    with pytest.raises(ValueError, match="1d array"):
        scorer(gate, X, y, language=language, sample_weight=np.ones((len(y), 2)))


def test_the_harmful_label_is_that_of_the_gate_inside(rows):
    X, y, language = rows
    y = np.array(["good", "bad"])[y]
    gate = ShiftedGate(harmful_label="bad")
    recall = LanguageScorer("recall")

    def always_good(estimator):
        estimator.predict = lambda X, language=None: np.full(len(X), "good")
        return recall(estimator, X, y, language=language)

    assert always_good(gate.fit(X, y, language=language)) == 0
    prefit = LatentGate(harmful_label="bad").fit(X, y)
    assert (
        always_good(
            SteeringWrapper(prefit, model=object(), tokenizer=object(), layer=0, strength=1.0)
        )
        == 0
    )
    pipe = make_pipeline("passthrough", clone(gate))
    for outer in (
        GridSearchCV(pipe, {}, cv=2),
        FixedThresholdClassifier(pipe, pos_label="bad"),
        CalibratedClassifierCV(pipe, cv=2),
    ):
        assert always_good(outer.fit(X, y)) == 0  # as a share of the good ones it would be 1


def test_weights_among_several_scorers(rows):
    X, y, language = rows
    gate = ShiftedGate().fit(X, y, language=language)
    scoring = {"a": LanguageScorer("accuracy")}
    with pytest.warns(UserWarning, match="got no language"):
        found = permutation_importance(
            gate, X, y, scoring=scoring, sample_weight=np.ones(len(y)), n_repeats=2
        )
    assert found["a"].importances.shape == (1, 2)
