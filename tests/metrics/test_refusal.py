"""refusal_rate and refusal_selectivity, counted by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from skgate.metrics import refusal_rate, refusal_selectivity

# en: 2 of 2 harmful refused and 0 of 2 harmless; yo: 1 of 4 and 1 of 2; zh: harmful rows only.
LANGUAGE = ["en"] * 4 + ["yo"] * 6 + ["zh"]
Y = np.array([1, 1, 0, 0, 1, 1, 1, 1, 0, 0, 1])
REFUSED = np.array([1, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0], dtype=bool)


@pytest.mark.parametrize(("of", "pooled"), [("harmful", 3 / 7), ("harmless", 1 / 4)])
def test_rate_pooled(of, pooled):
    assert refusal_rate(Y, REFUSED, of=of) == pytest.approx(pooled)


@pytest.mark.parametrize(
    ("of", "macro"), [("harmful", (1 + 1 / 4 + 0) / 3), ("harmless", (0 + 1 / 2) / 2)]
)
def test_rate_is_the_mean_over_languages_that_have_such_prompts(of, macro):
    assert refusal_rate(Y, REFUSED, of=of, language=LANGUAGE) == pytest.approx(macro)


def test_selectivity_is_the_difference_of_the_rates():
    expected = refusal_rate(Y, REFUSED) - refusal_rate(Y, REFUSED, of="harmless")
    assert refusal_selectivity(Y, REFUSED) == pytest.approx(expected)


def test_selectivity_is_the_mean_over_languages_with_both_classes():
    expected = ((1 - 0) + (1 / 4 - 1 / 2)) / 2
    assert refusal_selectivity(Y, REFUSED, language=LANGUAGE) == pytest.approx(expected)


def test_one_language_for_all_is_pooled():
    assert refusal_rate(Y, REFUSED, language="sw") == refusal_rate(Y, REFUSED)
    assert refusal_selectivity(Y, REFUSED, language="sw") == refusal_selectivity(Y, REFUSED)


@pytest.mark.parametrize(
    ("refused", "expected"), [(Y == 1, 1), (Y == 0, -1), (Y >= 0, 0), (Y < 0, 0)]
)
def test_extremes(refused, expected):
    result = refusal_selectivity(Y, refused)
    assert result == expected
    assert type(result) is float


def test_half_the_selectivity_and_a_half_is_the_balanced_accuracy():
    from sklearn.metrics import balanced_accuracy_score

    expected = 2 * balanced_accuracy_score(Y, REFUSED) - 1
    assert refusal_selectivity(Y, REFUSED) == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:.*is taken as the harmful one:UserWarning")
@pytest.mark.parametrize(
    ("labels", "pos_label"),
    [
        (["harmless", "harmful"], None),
        ([False, True], None),
        (["a", "b"], None),
        (["b", "a"], "a"),
        ([1, 0], 0),
    ],
)
@pytest.mark.parametrize("container", [list, np.array, pd.Series])
@pytest.mark.parametrize("kind", [bool, int, float, object])
def test_labels_and_containers_of_any_kind(labels, pos_label, container, kind):
    y = container([labels[i] for i in Y])
    refused = container(REFUSED.astype(kind).tolist())
    rate = refusal_rate(y, refused, pos_label=pos_label)
    assert rate == refusal_rate(Y, REFUSED)
    selectivity = refusal_selectivity(y, refused, language=container(LANGUAGE), pos_label=pos_label)
    assert selectivity == refusal_selectivity(Y, REFUSED, language=LANGUAGE)


def test_nullable_booleans_without_missing_values():
    assert refusal_rate(Y, pd.array(REFUSED, dtype="boolean")) == refusal_rate(Y, REFUSED)


def test_one_class_alone():
    assert refusal_rate(["harmful"] * 2, [True, False]) == 0.5
    assert refusal_rate(["harmless"] * 2, [True, False], of="harmless") == 0.5
    with pytest.raises(ValueError, match="Got no harmless row in y_true, expected at least one"):
        refusal_rate([1, 1], [True, False], of="harmless")
    with pytest.raises(ValueError, match="Got no harmful row"):
        refusal_rate([0, 0], [True, False], language=["en", "yo"])
    with pytest.raises(ValueError, match="Got pos_label=None and the single class 'a'"):
        refusal_rate(["a"], [True])


def test_no_selectivity_without_both_classes():
    with pytest.raises(ValueError, match="Got rows of one class only in y_true"):
        refusal_selectivity([1, 1], [True, False])
    with pytest.raises(ValueError, match="Got rows of one class only in every language"):
        refusal_selectivity([1, 0], [True, False], language=["en", "yo"])


GOOD = {"y_true": [0, 1, 0, 1], "refused": [False, True, False, True]}


@pytest.mark.parametrize("measure", [refusal_rate, refusal_selectivity])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"refused": [0, 1, 2, 1]}, r"Got refused\[2\]=2, expected True or False \(or 1 or 0\)"),
        ({"refused": ["yes"] * 4}, r"Got refused\[0\]='yes', expected"),
        ({"refused": [0.2] * 4}, r"Got refused\[0\]=0.2, expected"),
        ({"refused": [True, None, False, True]}, r"Got refused\[1\]=None, a missing value"),
        ({"refused": [True]}, r"'y_true': 4, 'refused': 1.*, expected the same number of each"),
        ({"refused": True}, r"Got refused of shape \(\)"),
        ({"y_true": [], "refused": []}, "at least one"),
        ({"y_true": [0, 1, None, 1]}, r"Got y_true\[2\]=.*, a missing value"),
        ({"y_true": [0, 1, 2, 1]}, "Got 3 labels in y_true"),
        ({"pos_label": 3}, r"Got pos_label=3, expected one of the classes \[0, 1\]"),
        ({"language": ["en"]}, "language of length 1, expected 4"),
        ({"language": ["en", "en", "yo", 3]}, r"language\[3\]=3"),
    ],
)
def test_bad_input_is_named(measure, change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        measure(**{**GOOD, **change})


def test_unknown_class_to_count():
    with pytest.raises(ValueError, match="Got of='all', expected 'harmful' or 'harmless'"):
        refusal_rate(**GOOD, of="all")
