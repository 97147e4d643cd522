"""compare: measures, paired intervals, errors."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pandas as pd
import pytest

from skgate.evaluation import compare
from skgate.metrics import refusal_selectivity

MEASURES = ["harmful_refused", "harmless_refused", "selectivity", "difference"]


def make_results(rng, n=20, languages=("en", "de", "yo"), models=("a", "b"), shared=True):
    """Draw verdicts on n prompts of each class and language, with abstentions."""
    prompts = pd.DataFrame(
        [
            (f"{language}-{harmful}-{i}", language, harmful, f"{harmful}-{i}")
            for language in languages
            for harmful in (True, False)
            for i in range(n)
        ],
        columns=["id", "language", "harmful", "group"],
    )
    prompts = prompts if shared else prompts.drop(columns="group")
    verdicts = [0.0, 1.0, 1.0, np.nan]
    answered = [prompts.assign(model=m, refused=rng.choice(verdicts, len(prompts))) for m in models]
    return pd.concat(answered, ignore_index=True)


def by_hand(rows):
    """The measures of all models and languages, rates by pandas' mean."""
    rates = rows.groupby(["model", "language", "harmful"])["refused"].mean().unstack()
    table = pd.DataFrame({"harmful_refused": rates[True], "harmless_refused": rates[False]})
    table["selectivity"] = rates[True] - rates[False]
    means = table.groupby(level="model").mean()
    means.index = pd.MultiIndex.from_product([means.index, ["all"]])
    table = pd.concat([table, means])
    reference = table.loc["a", "selectivity"]
    table["difference"] = table["selectivity"] - reference.reindex(table.index.droplevel(0)).values
    return table


def test_measures():
    results = make_results(np.random.default_rng(0))
    table = compare(results, "a", n_resamples=5)
    assert table.index.tolist() == [(m, x) for m in "ab" for x in ["en", "de", "yo", "all"]]
    assert list(table) == [f"{m}{x}" for m in MEASURES for x in ("", "_low", "_high")]
    pd.testing.assert_frame_equal(
        table[MEASURES], by_hand(results).loc[table.index, MEASURES], check_names=False
    )
    own = results.query("model == 'b' and refused.notna()")
    expected = refusal_selectivity(own["harmful"], own["refused"], language=own["language"])
    assert table.loc[("b", "all"), "selectivity"] == pytest.approx(expected)


@pytest.mark.parametrize("resample_languages", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_intervals_equal_a_bootstrap_by_hand(shared, resample_languages):
    """Of prompts drawn one by one, in a loop."""
    rng = np.random.default_rng(1)
    results = make_results(rng, n=12, shared=shared)
    if shared:  # one group is in two languages only
        results = results[results["id"] != "yo-True-0"]
    strata, judged = defaultdict(set), defaultdict(list)
    unit = "group" if shared else "id"
    for (label, name), rows in results.groupby(["harmful", unit]):
        strata[label, tuple(sorted(set(rows["language"])))].add(name)
    for row in results.dropna().to_dict("records"):
        judged[row["model"], row["language"], row["harmful"]].append((row[unit], row["refused"]))
    measured = by_hand(results).loc["b", "difference"]
    resampled = []
    for _ in range(2000):
        times = Counter()
        for (label, _), names in strata.items():
            drawn = rng.choice(sorted(names), len(names)).tolist()
            times.update((label, name) for name in drawn)
        rates = {
            (model, language, label): sum(times[label, name] * verdict for name, verdict in pairs)
            / sum(times[label, name] for name, _ in pairs)
            for (model, language, label), pairs in judged.items()
        }
        difference = {
            x: rates["b", x, True]
            - rates["b", x, False]
            - rates["a", x, True]
            + rates["a", x, False]
            for x in ("en", "de", "yo")
        }
        drawn = rng.choice(list(difference), 2) if resample_languages else difference
        rated = difference if shared or not resample_languages else measured
        resampled.append({**difference, "all": np.mean([rated[x] for x in drawn])})
    expected = pd.DataFrame(resampled).quantile([0.05, 0.95])
    table = compare(
        results,
        "a",
        confidence_level=0.9,
        n_resamples=4000,
        resample_languages=resample_languages,
        random_state=0,
    ).loc["b"]
    for name in expected:
        found = table.loc[name, ["difference_low", "difference_high"]]
        np.testing.assert_allclose(found, expected[name], atol=0.05)


@pytest.mark.parametrize("spread", [0.0, 0.15])
def test_the_interval_of_the_mean_is_as_wide_as_its_error(spread):
    """Over many worlds of eight languages, in which the share refused varies by ``spread``."""
    rng = np.random.default_rng(0)
    means, widths = [], []
    for _ in range(60):
        shares = np.clip(rng.normal(0.5, spread, 8), 0, 1)
        prompts = pd.DataFrame(
            {"language": np.repeat(list("abcdefgh"), 40), "harmful": np.tile([True, False], 160)}
        ).assign(model="m", id=np.arange(320))
        refused = (rng.random(320) < np.repeat(shares, 40)) & prompts["harmful"]
        table = compare(prompts.assign(refused=refused), "m", n_resamples=300, random_state=0)
        row = table.loc[("m", "all")]
        means.append(row["selectivity"])
        widths.append((row["selectivity_high"] - row["selectivity_low"]) / (2 * 1.96))
    assert np.mean(widths) == pytest.approx(np.std(means, ddof=1), rel=0.25)


def test_most_intervals_hold_a_known_difference():
    """Of 200 languages, with models that agree on most prompts: 90 % intervals."""
    rng = np.random.default_rng(2)
    n = 60
    prompts = pd.DataFrame(
        {
            "language": np.repeat([f"l{i}" for i in range(200)], 2 * n),
            "harmful": np.tile(np.repeat([True, False], n), 200),
        }
    )
    prompts["id"] = range(len(prompts))
    luck = rng.random(len(prompts))
    harmful = prompts["harmful"]
    verdicts = {"a": luck < np.where(harmful, 0.4, 0.2), "b": luck < np.where(harmful, 0.7, 0.3)}
    results = pd.concat([prompts.assign(model=m, refused=r) for m, r in verdicts.items()])
    table = compare(results, "a", confidence_level=0.9, n_resamples=300, random_state=0).loc["b"]
    low, high = table["difference_low"].drop("all"), table["difference_high"].drop("all")
    assert 0.84 < ((low <= 0.2) & (high >= 0.2)).mean() < 0.96
    assert table.loc["all", "difference"] == pytest.approx(0.2, abs=0.02)


def test_pairing_narrows_the_interval():
    """A model against itself differs by nothing, whatever is drawn."""
    results = make_results(np.random.default_rng(3), models=("a",))
    both = pd.concat([results, results.assign(model="b")])
    table = compare(both, "a", n_resamples=50, random_state=0)
    assert (table.filter(like="difference") == 0).all(axis=None)
    assert (table["selectivity_low"] < table["selectivity_high"]).all()


def test_translations_are_drawn_together():
    """Languages that are copies of each other say no more than one of them."""
    rng = np.random.default_rng(4)
    one = make_results(rng, n=40, languages=("en",)).assign(group=lambda rows: rows["id"])
    copies = pd.concat([one.assign(language=x, id=one["id"] + x) for x in ("en", "de", "yo")])
    table = compare(copies, "a", resample_languages=False, random_state=0)
    pd.testing.assert_series_equal(
        table.loc[("b", "all")], table.loc[("b", "en")], check_names=False
    )
    apart = compare(copies.drop(columns="group"), "a", resample_languages=False, random_state=0)
    assert width(apart, "all") < 0.75 * width(table, "all")  # sqrt(1 / 3)


def width(table, language):
    row = table.loc[("b", language)]
    return row["difference_high"] - row["difference_low"]


def test_languages_are_drawn_too():
    """Languages that differ widen the interval of their mean."""
    results = make_results(np.random.default_rng(5))
    results.loc[results.eval("model == 'b' and language == 'yo'"), "refused"] = 0.0
    tables = [compare(results, "a", resample_languages=x, random_state=0) for x in (True, False)]
    assert width(tables[0], "all") > 1.5 * width(tables[1], "all")
    pd.testing.assert_frame_equal(*[table.drop("all", level=1) for table in tables])


def test_a_language_with_one_class_has_no_selectivity():
    results = make_results(np.random.default_rng(6))
    results = results[results["harmful"] | (results["language"] != "yo")]
    table = compare(results, "a", random_state=0)
    row = table.loc[("b", "yo")]
    assert row[row.isna()].index.str.contains("harmless|selectivity|difference").all()
    assert row["harmful_refused_low"] <= row["harmful_refused"] <= row["harmful_refused_high"]
    assert row.isna().sum() == 9
    others = table.loc["b"].loc[["en", "de"]]
    assert table.loc[("b", "all"), "selectivity"] == others["selectivity"].mean()
    assert table.loc["b"].loc["all"].notna().all()


def test_differences_are_averaged_over_the_languages_of_both_models():
    """Model b is like a, but all its replies to harmful prompts of yo are abstentions."""
    results = make_results(np.random.default_rng(10), models=("a",))
    other = results.assign(model="b")
    other.loc[other["harmful"] & (other["language"] == "yo"), "refused"] = np.nan
    table = compare(pd.concat([results, other]), "a", n_resamples=50, random_state=0)
    assert table.loc[("a", "all"), "selectivity"] != table.loc[("b", "all"), "selectivity"]
    assert (table.loc[("b", "all")].filter(like="difference") == 0).all()
    assert table.loc[("b", "yo")].filter(like="difference").isna().all()


def test_languages_may_be_unknown():
    results = make_results(np.random.default_rng(7), languages=("en",))
    table = compare(results.assign(language=None), "a", random_state=0)
    assert table.index.tolist() == [("a", "all"), ("b", "all")]
    expected = compare(results, "a", random_state=0, resample_languages=False)
    pd.testing.assert_frame_equal(table, expected.loc[table.index])


def test_the_same_seed_gives_the_same_intervals():
    results = make_results(np.random.default_rng(8))
    first, second, other = (
        compare(results, "a", n_resamples=20, random_state=i) for i in (0, 0, 1)
    )
    pd.testing.assert_frame_equal(first, second)
    assert not first.equals(other)


def change(column, value, row=0):
    def changed(results):
        results = results.astype({column: object})
        results.loc[row, column] = value
        return results

    return changed


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: r[r["model"] != "a"], r"Got reference='a', expected one of the models \['b'\]"),
        (
            lambda r: r.drop(index=3),
            "Got 119 prompts of model 'b'|Got 120 prompts of model 'b' and",
        ),
        (change("language", "de", 120), "Got another language of id='en-True-0' with model 'b'"),
        (change("harmful", False), "Got another harmful of id='en-True-0'"),
        (change("id", "en-True-1"), "several rows with model='a' and id='en-True-1'"),
        (change("language", "all"), "Got the language 'all'"),
        (change("language", None), r"Got results\['language'\]\[0\]=None"),
        (change("harmful", None), r"Got results\['harmful'\]\[0\]=None"),
        (change("refused", 2), r"Got results\['refused'\]\[0\]=2"),
        (lambda r: r.drop(columns="refused"), r"columns \['id', .*expected at least one row"),
        (lambda r: r.head(0), "Got results with 0 rows"),
    ],
)
def test_wrong_results(damage, message):
    results = make_results(np.random.default_rng(9))
    with pytest.raises(ValueError, match=message):
        compare(damage(results), "a")
