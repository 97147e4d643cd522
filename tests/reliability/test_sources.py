"""Source languages that hold one class each."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from skgate import LatentGate

D = 12


def draw(rng, language, n_harmful, n_harmless, apart=6.0):
    """Rows of a language: harm on the first axis, the language on the others."""
    y = np.repeat([1, 0], [n_harmful, n_harmless])
    place = np.random.default_rng([ord(letter) for letter in language]).normal(size=D - 1)
    X = rng.normal(size=(len(y), D))
    X[:, 0] += 2.5 * (y - 0.5)
    X[:, 1:] += apart * place / np.linalg.norm(place)
    return X, y, np.repeat(language, len(y))


def mix(*languages, apart=6.0, seed=0):
    """Rows of several languages: (name, n_harmful, n_harmless) each, shuffled."""
    rng = np.random.default_rng(seed)
    parts = [draw(rng, *language, apart=apart) for language in languages]
    X, y, language = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = rng.permutation(len(y))
    return X[order], y[order], language[order]


def fit(X, y, language, **params):
    return LatentGate(**params).fit(X, y, language=language)


ONE_CLASS_EACH = {
    "two": [("en", 60, 0), ("sw", 0, 60)],
    "three": [("de", 40, 0), ("en", 40, 0), ("sw", 0, 60)],
    "four": [("de", 30, 0), ("en", 0, 30), ("fr", 30, 0), ("sw", 0, 30)],
}


@pytest.mark.parametrize("languages", ONE_CLASS_EACH.values(), ids=ONE_CLASS_EACH)
@pytest.mark.parametrize("calibration", ["shrinkage", "refit", "threshold", None])
def test_no_language_with_both_classes_is_an_error(languages, calibration):
    """The direction would be one between languages: an error that names them."""
    X, y, language = mix(*languages)
    with pytest.raises(
        ValueError, match=r"(?s)language.*both classes|both classes.*language"
    ) as caught:
        fit(X, y, language, calibration=calibration)
    for name, _, _ in languages:
        assert repr(name) in str(caught.value)


def test_what_the_error_prevents():
    """Such a gate is bad at its job: the reason for the error, without languages."""
    X, y, _ = mix(*ONE_CLASS_EACH["two"])  # It shows why, not what
    X_new, y_new, _ = mix(("en", 60, 60), ("sw", 60, 60), seed=1)
    mixed = LatentGate().fit(X, y)
    balanced = LatentGate().fit(*mix(("en", 30, 30), ("sw", 30, 30))[:2])
    assert balanced_accuracy_score(y_new, mixed.predict(X_new)) < 0.65
    assert balanced_accuracy_score(y_new, balanced.predict(X_new)) > 0.8


def test_source_languages_are_what_counts():
    """Shots of one class are no source; sources of one class each still are."""
    X, y, language = mix(("de", 0, 40), ("en", 40, 0), ("sw", 20, 20))
    with pytest.raises(ValueError, match="both classes"):
        fit(X, y, language, source_languages=["de", "en"])
    X, y, language = mix(("de", 20, 20), ("en", 20, 20), ("sw", 3, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gate = fit(X, y, language, source_languages=["de", "en"])
    assert gate.n_shots_[gate.languages_.tolist().index("sw")].tolist() == [0, 3]


def test_rows_of_weight_zero_do_not_count():
    """A class that is weighted away isn't there."""
    X, y, language = mix(("en", 40, 10), ("sw", 10, 40))
    weight = np.where((language == "en") == (y == 1), 1.0, 0.0)
    with pytest.raises(ValueError, match="both classes"):
        LatentGate().fit(X, y, language=language, sample_weight=weight)


def test_a_failed_fit_leaves_the_gate_as_it_was():
    """And says so before anything is learned."""
    X, y, language = mix(("en", 30, 30), ("sw", 30, 30))
    gate = fit(X, y, language)
    before = gate.predict(X, language=language)
    X_bad, y_bad, language_bad = mix(*ONE_CLASS_EACH["two"])
    with pytest.raises(ValueError, match="both classes"):
        gate.fit(X_bad, y_bad, language=language_bad)
    np.testing.assert_array_equal(gate.predict(X, language=language), before)


MOSTLY_LANGUAGE = {
    "two": [("en", 95, 5), ("sw", 5, 95)],
    "one_balanced": [("de", 10, 10), ("en", 60, 0), ("sw", 0, 60)],
    "many": [("de", 48, 2), ("en", 2, 48), ("fr", 48, 2), ("sw", 2, 48)],
}


@pytest.mark.parametrize("languages", MOSTLY_LANGUAGE.values(), ids=MOSTLY_LANGUAGE)
def test_a_difference_that_is_mostly_one_between_languages_warns(languages):
    """95 % and 5 % harmful: a UserWarning says what to do."""
    with pytest.warns(UserWarning, match=r"(?s)languages.*sample_weight"):
        fit(*mix(*languages))


@pytest.mark.parametrize(
    "languages",
    [
        [("en", 50, 50), ("sw", 50, 50)],
        [("de", 10, 10), ("en", 60, 60), ("sw", 30, 30)],
        [("en", 20, 80), ("sw", 20, 80)],
        [("en", 55, 45), ("sw", 45, 55)],
    ],
    ids=["balanced", "sizes", "shares", "nearly"],
)
def test_balanced_languages_are_silent(languages):
    """Equal shares, of any size, are no reason to warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(*mix(*languages, apart=1.0 if languages[0][1] == 55 else 6.0))


def test_shares_that_differ_without_a_difference_between_languages_are_silent():
    """Where the languages lie in one place, there is nothing to confuse."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(*mix(("en", 150, 50), ("sw", 50, 150), apart=0.0))


def test_weights_that_balance_the_shares_are_silent():
    """What the warning recommends ends it."""
    X, y, language = mix(("en", 95, 5), ("sw", 5, 95))
    weight = np.ones(len(y))
    for name in ("en", "sw"):
        for label in (0, 1):
            cell = (language == name) & (y == label)
            weight[cell] = len(y) / cell.sum()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LatentGate().fit(X, y, language=language, sample_weight=weight)


# One language alone, or none, is not this case.
@pytest.mark.parametrize("name", [None, "en"])
def test_one_class_in_all_is_the_usual_error(name):
    """With one class there is nothing to learn, whatever the languages."""
    X, _, _ = mix(("en", 40, 0))
    with pytest.raises(ValueError, match="class"):
        LatentGate().fit(X, np.ones(40, dtype=int), language=name)
