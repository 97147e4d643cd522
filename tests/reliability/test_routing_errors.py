"""Languages given to a search without metadata routing, and scorers of wrappers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from bare import GREEDY, LANGUAGE, PROMPTS, Y, let_harmful_words_share
from shifted import draw_sources
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.compose import ColumnTransformer
from sklearn.metrics import get_scorer, roc_auc_score
from sklearn.model_selection import (
    GridSearchCV,
    RandomizedSearchCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from tiny import make_model

from skgate import ActivationTransformer, LatentGate, SteeringWrapper
from skgate.metrics import LanguageScorer


class Words:
    """A judge for models that babble."""

    def is_refusal(self, replies, prompts=None, language=None):
        return np.array(["who" in reply for reply in replies])


@pytest.fixture
def wrapper(tokenizer):
    model = let_harmful_words_share(make_model("llama"), tokenizer)
    reader = ActivationTransformer(model, tokenizer=tokenizer, layer=1)
    pipeline = make_pipeline(reader, LatentGate())
    return SteeringWrapper(
        pipeline, judge=Words(), generate_kwargs={**GREEDY, "max_new_tokens": 2}, strength=1.0
    )


@pytest.fixture
def rows():
    X, y, language = draw_sources(np.random.default_rng(0), n_per_class=12)
    order = np.random.default_rng(1).permutation(len(y))  # every fold has every language
    return X[order], y[order], language[order]


@pytest.fixture
def case(request, rows, wrapper):
    """An estimator with its X, y, language and a parameter to search."""
    X, y, language = rows
    if request.param == "gate":
        return LatentGate(), X, y, language, {"rank": [1, 2]}
    if request.param == "pipeline":
        pipeline = make_pipeline(FunctionTransformer(), LatentGate())
        return pipeline, X, y, language, {"latentgate__rank": [1, 2]}
    if request.param == "prompt_pipeline":
        return wrapper.gate, PROMPTS, Y, LANGUAGE, {"latentgate__rank": [1, 2]}
    return wrapper, PROMPTS, Y, LANGUAGE, {"strength": [0.5, 1.0]}


ESTIMATORS = ["gate", "pipeline", "prompt_pipeline", "wrapper"]
every_estimator = pytest.mark.parametrize("case", ESTIMATORS, indirect=True)


def check_message(caught):
    """One error, which names both ways out and has no traceback of a fold in it."""
    message = str(caught.value)
    assert "enable_metadata_routing" in message
    assert "language_column" in message
    assert "fits failed" not in message
    assert "Traceback" not in message


# Else pipelines say "All the 6 fits failed", and gates and wrappers are fitted with languages and
# scored without.
@every_estimator
@pytest.mark.parametrize("search", [GridSearchCV, RandomizedSearchCV])
@pytest.mark.parametrize("error_score", [np.nan, "raise"])
def test_a_search_is_told_the_two_ways_out(case, search, error_score):
    """``search.fit(X, y, language=...)`` is one early error, not six tracebacks."""
    estimator, X, y, language, grid = case
    more = {"n_iter": 2, "random_state": 0} if search is RandomizedSearchCV else {}
    with pytest.raises(ValueError, match="language=") as caught:
        search(estimator, grid, cv=3, error_score=error_score, **more).fit(X, y, language=language)
    check_message(caught)


@every_estimator
@pytest.mark.parametrize("validate", [cross_validate, cross_val_score, cross_val_predict])
def test_cross_validation_is_told_the_two_ways_out(case, validate):
    """``params={"language": ...}`` of cross-validation is the same error."""
    estimator, X, y, language, _ = case
    with pytest.raises(ValueError, match="language=") as caught:
        validate(estimator, X, y, cv=3, params={"language": language})
    check_message(caught)


def test_the_language_of_a_step_is_one_too(rows):
    """``latentgate__language`` would reach the fit and not the scores."""
    X, y, language = rows
    with pytest.raises(ValueError, match=r"Got latentgate__language= .*enable_metadata_routing"):
        cross_val_score(
            make_pipeline(LatentGate()), X, y, cv=3, params={"latentgate__language": language}
        )


@every_estimator
def test_nothing_is_fitted_before_the_error(case, monkeypatch):
    """Early: no fold is fitted, no prompt is read."""
    estimator, X, y, language, grid = case

    def no_fit(*args, **kwargs):
        pytest.fail("a fold was fitted")

    for fitted in (LatentGate, ActivationTransformer):
        monkeypatch.setattr(fitted, "fit", no_fit)
    with pytest.raises(ValueError, match="enable_metadata_routing"):
        GridSearchCV(estimator, grid, cv=3).fit(X, y, language=language)


# The first way out.
@every_estimator
def test_with_metadata_routing_it_works(case):
    """With ``enable_metadata_routing`` the same call fits and scores with languages."""
    estimator, X, y, language, grid = case
    scoring = None if isinstance(estimator, SteeringWrapper) else LanguageScorer("roc_auc")
    with config_context(enable_metadata_routing=True):
        search = GridSearchCV(estimator, grid, cv=3, scoring=scoring, error_score="raise")
        search.fit(X, y, language=language)
        cross_validate(estimator, X, y, cv=3, params={"language": language}, error_score="raise")
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


# The second way out.
def test_with_a_language_column_it_works(rows):
    """With the language as a column nothing needs routing."""
    X, y, language = rows
    frame = pd.DataFrame(X, columns=[f"x{i}" for i in range(X.shape[1])]).assign(language=language)
    gate = LatentGate(language_column="language")
    pipeline = make_pipeline(
        ColumnTransformer(
            [("all", "passthrough", list(frame))], verbose_feature_names_out=False
        ).set_output(transform="pandas"),
        gate,
    )
    for estimator, grid in ((gate, {"rank": [1, 2]}), (pipeline, {"latentgate__rank": [1, 2]})):
        search = GridSearchCV(estimator, grid, cv=3, error_score="raise").fit(frame, y)
        assert search.best_score_ > 0.8


# Calls that are not searches, and searches without languages, are left alone.
@every_estimator
def test_other_calls_are_left_alone(case):
    """No false alarm outside a search, nor in a search without ``language``."""
    estimator, X, y, language, grid = case
    GridSearchCV(estimator, grid, cv=3, error_score="raise").fit(X, y)
    key = "latentgate__language" if hasattr(estimator, "steps") else "language"
    estimator.fit(X, y, **{key: language})
    assert len(estimator.predict(X, language=language)) == len(y)


def test_a_variable_called_language_is_no_parameter(rows):
    """What the caller's own variables are called doesn't matter."""
    X, y, language = rows
    params = {"language": language}

    def fit(X, y, **params):
        return GridSearchCV(LatentGate(), {"rank": [1, 2]}, cv=3, error_score="raise").fit(X, y)

    assert np.isfinite(fit(X, y, **params).best_score_)


class Meta(ClassifierMixin, BaseEstimator):
    """An estimator of a user's own, which looks after languages itself."""

    def __init__(self, rank=1):
        self.rank = rank

    def fit(self, X, y, language=None):
        self.gate_ = clone(LatentGate(rank=self.rank)).fit(X, y, language=language)
        self.classes_ = self.gate_.classes_
        return self

    def predict(self, X):
        return self.gate_.predict(X)


def test_a_clone_inside_another_estimator_is_left_alone(rows):
    """Only the estimator that is searched counts."""
    X, y, language = rows
    search = GridSearchCV(Meta(), {"rank": [1, 2]}, cv=3, error_score="raise")
    assert np.isfinite(search.fit(X, y, language=language).best_score_)


# SteeringWrapper.predict_proba and decision_function


@pytest.mark.parametrize("method", ["predict_proba", "decision_function"])
@pytest.mark.parametrize("language", [None, "de", "each"])
def test_a_wrapper_scores_as_its_gate_does(wrapper, method, language):
    """The wrapper has them, and they equal the gate's."""
    given = LANGUAGE if language == "each" else language
    wrapper.fit(PROMPTS, Y, language=LANGUAGE)
    rows = wrapper.gate_[0].transform(PROMPTS)
    expected = getattr(wrapper.gate_[-1], method)(rows, language=given)
    np.testing.assert_array_equal(getattr(wrapper, method)(PROMPTS, language=given), expected)
    assert expected.shape == ((len(PROMPTS), 2) if method == "predict_proba" else (len(PROMPTS),))


@pytest.mark.parametrize("labels", [[0, 1], ["harmless", "harmful"], [True, False]])
def test_a_wrappers_scores_agree_with_its_decisions(wrapper, labels):
    """Columns follow ``classes_``, the sign too, whichever class is harmful."""
    y = np.array(labels)[Y]
    wrapper.fit(PROMPTS, y, language=LANGUAGE)
    proba = wrapper.predict_proba(PROMPTS, language=LANGUAGE)
    predicted = wrapper.predict(PROMPTS, language=LANGUAGE)
    np.testing.assert_array_equal(wrapper.classes_[proba.argmax(axis=1)], predicted)
    scores = wrapper.decision_function(PROMPTS, language=LANGUAGE)
    np.testing.assert_array_equal(wrapper.classes_[(scores > 0).astype(int)], predicted)


@pytest.mark.parametrize("scorer", ["roc_auc", "average_precision", "neg_log_loss"])
def test_scikit_learns_scorers_take_a_wrapper(wrapper, scorer):
    """Scorers that need scores find them, and nothing is generated."""
    wrapper.fit(PROMPTS, Y, language=LANGUAGE)
    found = get_scorer(scorer)(wrapper, PROMPTS, Y)
    expected = get_scorer(scorer)(wrapper.gate_, PROMPTS, Y)
    assert found == pytest.approx(expected)
    if scorer == "roc_auc":
        assert found == roc_auc_score(Y, wrapper.gate_.predict_proba(PROMPTS)[:, 1])


@pytest.mark.parametrize("method", ["predict_proba", "decision_function"])
def test_an_unfitted_wrapper_says_so(wrapper, method):
    """As ``predict`` does."""
    with pytest.raises(Exception, match="not fitted"):
        getattr(wrapper, method)(PROMPTS)
