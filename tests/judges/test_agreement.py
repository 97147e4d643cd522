"""agreement, against scikit-learn's measures of the rows on which both have a verdict."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.metrics import cohen_kappa_score, precision_score, recall_score

from skgate.judges import agreement

NAN = float("nan")


@pytest.fixture
def verdicts():
    """Two judges of 120 replies in two languages; either may abstain."""
    rng = np.random.default_rng(0)
    person = rng.random(120) < 0.4
    judge = np.where(rng.random(120) < 0.85, person, ~person)
    table = pd.DataFrame({"judge": judge, "person": person}, dtype=float)
    table.loc[rng.choice(120, 9, replace=False), "judge"] = np.nan
    table.loc[rng.choice(120, 5, replace=False), "person"] = np.nan
    return table.assign(language=np.repeat(["yo", "en"], 60), weight=rng.integers(1, 4, 120))


def test_each_group_has_scikit_learn_s_values(verdicts):
    table = agreement("judge", "person", data=verdicts, by="language", random_state=0)
    assert table.index.tolist() == ["en", "yo", "all"]
    for name in table.index:
        chosen = verdicts if name == "all" else verdicts[verdicts["language"] == name]
        judged = chosen.dropna()
        a, b = judged["judge"] == 1, judged["person"] == 1
        row = table.loc[name]
        assert row["n"] == len(judged)
        assert row["n_abstained"] == len(chosen) - len(judged) > 0
        assert row[["both", "only_a", "only_b", "neither"]].tolist() == [
            (a & b).sum(),
            (a & ~b).sum(),
            (~a & b).sum(),
            (~a & ~b).sum(),
        ]
        assert row["agreement"] == pytest.approx((a == b).mean())
        assert row["kappa"] == pytest.approx(cohen_kappa_score(a, b))
        assert row["precision"] == pytest.approx(precision_score(b, a))
        assert row["recall"] == pytest.approx(recall_score(b, a))


def test_without_groups_there_is_one_row(verdicts):
    table = agreement("judge", "person", data=verdicts, random_state=0)
    assert table.index.tolist() == ["all"]
    counts = ["n", "n_abstained", "both", "only_a", "only_b", "neither"]
    shares = ["agreement", "kappa", "kappa_low", "kappa_high", "precision", "recall"]
    assert table.columns.tolist() == [*counts, *shares]
    assert [dtype.kind for dtype in table.dtypes] == ["i"] * 6 + ["f"] * 6


def test_weights_apply_to_shares_and_not_to_counts(verdicts):
    """A reply of weight 2 counts as two equal replies."""
    weighted = agreement("judge", "person", data=verdicts, sample_weight="weight", random_state=0)
    repeated = verdicts.loc[verdicts.index.repeat(verdicts["weight"])]
    expected = agreement("judge", "person", data=repeated, random_state=0)
    shares = ["agreement", "kappa", "precision", "recall"]
    np.testing.assert_allclose(weighted[shares], expected[shares])
    plain = agreement("judge", "person", data=verdicts, random_state=0)
    assert weighted.loc["all", "n":"neither"].equals(plain.loc["all", "n":"neither"])
    assert weighted.loc["all", "kappa_low"] < weighted.loc["all", "kappa"]
    assert weighted.loc["all", "kappa_high"] > weighted.loc["all", "kappa"]


# The interval


def test_the_interval_is_that_of_resampled_rows(verdicts):
    row = agreement("judge", "person", data=verdicts, n_resamples=4000, random_state=0).loc["all"]
    judged = verdicts.dropna()
    a, b = judged["judge"].to_numpy(), judged["person"].to_numpy()
    rng = np.random.default_rng(1)
    slow = [
        cohen_kappa_score(a[rows], b[rows]) for rows in rng.integers(len(a), size=(1000, len(a)))
    ]
    bounds = np.quantile(slow, [0.025, 0.975])
    assert row[["kappa_low", "kappa_high"]].tolist() == pytest.approx(bounds.tolist(), abs=0.03)
    assert row["kappa_low"] < row["kappa"] < row["kappa_high"]


def test_the_seed_determines_the_interval(verdicts):
    first, again = (agreement("judge", "person", data=verdicts, random_state=3) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    other = agreement("judge", "person", data=verdicts, random_state=4)
    assert first.loc["all", "kappa_low"] != other.loc["all", "kappa_low"]


def test_more_replies_give_a_narrower_interval(verdicts):
    few = agreement("judge", "person", data=verdicts, random_state=0).loc["all"]
    many = agreement("judge", "person", data=pd.concat([verdicts] * 9), random_state=0).loc["all"]
    width = [row["kappa_high"] - row["kappa_low"] for row in (few, many)]
    assert width[1] == pytest.approx(width[0] / 3, rel=0.2)


# What a group does not define


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 1], [1, 1], {"agreement": 1, "kappa": NAN, "precision": 1, "recall": 1}),
        ([0, 0], [0, 0], {"agreement": 1, "kappa": NAN, "precision": NAN, "recall": NAN}),
        ([1, 1], [0, 0], {"agreement": 0, "kappa": 0, "precision": 0, "recall": NAN}),
        ([0, 0], [1, 1], {"agreement": 0, "kappa": 0, "precision": NAN, "recall": 0}),
        ([NAN, 1], [1, NAN], dict.fromkeys(["agreement", "kappa", "precision", "recall"], NAN)),
    ],
)
def test_undefined_measures_are_nan_without_a_warning(a, b, expected):
    row = agreement(a, b, random_state=0).loc["all"]
    assert row[list(expected)].tolist() == pytest.approx(list(expected.values()), nan_ok=True)
    assert np.isnan(row["kappa_low"]) == np.isnan(expected["kappa"])


def test_a_group_without_verdicts_has_a_row():
    table = agreement([True, None], [True, None], by=["en", "yo"], random_state=0)
    assert table["n"].to_dict() == {"en": 1, "yo": 0, "all": 1}
    assert table["n_abstained"].to_dict() == {"en": 0, "yo": 1, "all": 1}
    assert np.isnan(table.loc["yo", "agreement"])


# What comes in


@pytest.mark.parametrize(
    "a",
    [
        [1, 0, None, 1],
        [True, False, None, True],
        np.array([1.0, 0.0, NAN, 1.0]),
        pd.Series([True, False, None, True], dtype="boolean"),
        pd.Series([True, False, None, True], index=[3, 2, 1, 0]),
        pd.array([1, 0, None, 1], dtype="Int64"),
        pl.Series([True, False, None, True]),
        ["refused", "answered", None, "refused"],
        np.array(["refused", "garbled", None, "refused"], dtype=object),
        pd.Series(["refused", "garbled", pd.NA, "refused"], dtype="string"),
        pd.Categorical(["refused", "answered", None, "refused"]),
    ],
)
def test_verdicts_of_any_kind(a):
    row = agreement(a, [True, False, True, False], random_state=0).loc["all"]
    found = row[["n", "n_abstained", "both", "only_a", "only_b", "neither"]].tolist()
    assert found == [3, 1, 1, 1, 0, 1]


def test_columns_of_other_libraries_and_arrays_beside_columns(verdicts):
    expected = agreement("judge", "person", data=verdicts, by="language", random_state=0)
    frame = pl.from_pandas(verdicts)
    found = agreement("judge", "person", data=frame, by="language", random_state=0)
    pd.testing.assert_frame_equal(found, expected)
    mixed = agreement(
        verdicts["judge"].tolist(), "person", data=frame, by=verdicts["language"], random_state=0
    )
    pd.testing.assert_frame_equal(mixed, expected)


GOOD = {"a": [1, 0, 1], "b": [1, 0, 0], "by": ["en", "en", "yo"]}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"a": [1, 0, 2]}, ValueError, r"Got a\[2\]=2, expected True or False"),
        ({"b": ["refused", "no", None]}, ValueError, r"Got b\[1\]='no', expected .*'garbled'"),
        ({"b": [1, 0]}, ValueError, "Got 2 values of b, expected 3, one for each row"),
        ({"a": [[1, 0, 1]]}, ValueError, r"Got a of shape \(1, 3\)"),
        ({"a": [], "b": [], "by": None}, ValueError, "Got no verdicts in a and b"),
        ({"by": ["en"]}, ValueError, "Got 1 values of by, expected 3"),
        ({"by": ["en", None, "yo"]}, ValueError, r"Got by\[1\]=None, expected a group"),
        ({"by": ["en", "all", "yo"]}, ValueError, "Got a group named 'all' in by"),
        ({"by": "language"}, TypeError, "Got by='language' and data=None"),
        ({"data": {"a": [1]}}, TypeError, "Got data of type dict, expected a DataFrame"),
        ({"a": "x", "data": pd.DataFrame({"y": [1]})}, KeyError, r"Got a='x', .*data: \['y'\]"),
        ({"sample_weight": [1, 2]}, ValueError, r"Got sample_weight of shape \(2,\)"),
        ({"sample_weight": [1, 0, 2]}, ValueError, r"Got sample_weight\[1\]=0.0, expected a pos"),
        ({"sample_weight": [1, 2, NAN]}, ValueError, r"Got sample_weight\[2\]=nan"),
        ({"n_resamples": 0}, ValueError, "n_resamples"),
    ],
)
def test_bad_input_is_named(change, error, message):
    with pytest.raises(error, match=message):
        agreement(**{**GOOD, **change})
