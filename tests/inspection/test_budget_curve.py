"""BudgetCurveDisplay: its points, its bars, and the shots behind them."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
from shifted import pooled_gate
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import balanced_accuracy_score, f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skgate import LatentGate
from skgate.inspection import BudgetCurveDisplay

N = 60


def activations(seed=0, languages=("yo", "sw")):
    rng = np.random.default_rng(seed)
    y = np.tile([0, 1], N * len(languages) // 2)
    language = np.repeat(languages, N)
    X = rng.normal(size=(len(y), 5))
    X[:, 0] += np.where(np.isin(language, ["en", "de"]), 4 * y, 2 * y - 3)
    return X, y, language


def fit(**parameters):
    X, y, language = activations(languages=("en", "de"))
    return pooled_gate(**parameters).fit(X, y, language=language)


def draw(gate, pool=None, test=None, **options):
    X, y, language = activations(1) if pool is None else pool
    X_test, y_test, language_test = activations(2) if test is None else test
    options = {"budgets": [0, 1, 4], "n_draws": 4, "random_state": 0, **options}
    return BudgetCurveDisplay.from_estimator(
        gate, X, y, X_test, y_test, language_pool=language, language_test=language_test, **options
    )


def lines_and_bars(panel):
    """Points of each gate's line, and ends of the bars."""
    found = [(line.get_marker() != "None", line.get_xydata()) for line in panel.lines]
    return [xy for has_points, xy in found if has_points], [
        xy for has_points, xy in found if not has_points and len(xy)
    ]


def test_points_are_means_over_draws_and_bars_their_middle():
    display = draw({"a": fit(), "b": fit(calibration="threshold")}, interval=50)
    points, bars = lines_and_bars(display.ax_)
    assert [len(points), len(bars)] == [2, 6]
    grouped = display.frame_.groupby(["model", "budget"])["f1"]
    for i, model in enumerate(["a", "b"]):
        np.testing.assert_allclose(points[i][:, 1], grouped.mean()[model])
        for j, budget in enumerate([0, 1, 4]):
            low, high = bars[3 * i + j][:, 1]
            scores = grouped.get_group((model, budget))
            np.testing.assert_allclose([low, high], np.quantile(scores, [0.25, 0.75]))
    np.testing.assert_allclose((points[0][:, 0] + points[1][:, 0]) / 2, [0, 1, 2], atol=1e-9)
    ticks = [label.get_text() for label in display.ax_.get_xticklabels()]
    assert ticks == ["0", "1", "4"]
    labels = [text.get_text() for text in display.figure_.legends[0].get_texts()]
    assert labels == ["a", "b", "middle 50% of draws"]


def test_scores_are_those_of_a_calibrated_gate():
    X, y, language = activations(1)
    keep = np.concatenate([np.flatnonzero((language == "yo") & (y == k))[:4] for k in (0, 1)])
    gate = fit()
    before = deepcopy(gate)
    X_test, y_test, language_test = activations(2, languages=("yo",))
    display = draw(
        gate,
        (X[keep], y[keep], language[keep]),
        (X_test, y_test, language_test),
        budgets=[0, 4],
        by="language",
    )
    rates = display.frame_.groupby("budget")[["f1", "balanced_accuracy"]].agg(["min", "max"])
    calibrated = deepcopy(gate).partial_fit(X[keep], y[keep], language="yo")
    for budget, called in [
        (0, gate.predict(X_test)),
        (4, calibrated.predict(X_test, language="yo")),  # all of the pool: every draw the same
    ]:
        for name, metric in [
            ("f1", f1_score),
            ("balanced_accuracy", balanced_accuracy_score),
        ]:
            assert rates.loc[budget, name].tolist() == pytest.approx([metric(y_test, called)] * 2)
    assert rates.loc[4, ("f1", "min")] > rates.loc[0, ("f1", "min")] + 0.2
    assert gate.languages_.tolist() == before.languages_.tolist() == ["de", "en"]
    np.testing.assert_array_equal(gate.language_bias_, before.language_bias_)


def test_shots_are_nested_and_the_same_for_every_gate():
    seen = []

    class Spy(LatentGate):
        def partial_fit(self, X, y, language=None, classes=None):
            seen.append((X[:, 0].tolist(), list(y), list(language)))
            return super().partial_fit(X, y, language=language, classes=classes)

    X, y, language = activations(languages=("en", "de"))
    gates = [Spy().fit(X, y, language=language), Spy(rank=1).fit(X, y, language=language)]
    draw(gates, budgets=[1, 3], n_draws=2)
    assert len(seen) == 8
    assert seen[:4] == seen[4:]
    assert seen[0] != seen[2]
    for first, more in [(seen[0], seen[1]), (seen[2], seen[3])]:
        pairs = pd.DataFrame({"y": first[1], "language": first[2]})
        assert pairs.value_counts().tolist() == [1] * 4
        added = pd.DataFrame({"y": more[1], "language": more[2]})
        assert added.value_counts().tolist() == [2] * 4
        assert not set(first[0]) & set(more[0])


def test_random_state():
    one, same, other = (draw(fit(), random_state=seed).frame_ for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(one, same)
    assert not one.equals(other)


def test_an_uncalibrated_gate_is_a_flat_line():
    display = draw(fit(calibration=None))
    points, _ = lines_and_bars(display.ax_)
    assert len(set(points[0][:, 1])) == 1


def test_a_language_that_must_be_known_is_decided_by_the_sources_at_first():
    strict = draw(fit(unknown_language="error"))
    pd.testing.assert_frame_equal(strict.frame_, draw(fit()).frame_)


def test_panels_by_language_and_tier():
    pool, test = activations(1, ("yo", "sw", "th")), activations(2, ("yo", "sw", "th"))
    by_language = draw(fit(), pool, test, by="language")
    assert [panel.get_title() for panel in by_language.axes_] == ["th", "sw", "yo"]
    by_tier = draw(fit(), pool, test)
    assert [panel.get_title() for panel in by_tier.axes_] == ["mid-resource", "low-resource"]
    rows = by_language.frame_.set_index(["language", "budget", "draw"])["f1"]
    low = by_tier.frame_.set_index(["tier", "budget", "draw"])["f1"]["low"]
    np.testing.assert_allclose(low, (rows["sw"] + rows["yo"]) / 2)
    points, _ = lines_and_bars(by_tier.axes_[1])
    np.testing.assert_allclose(points[0][:, 1], low.groupby("budget").mean())


def test_the_metric_to_draw():
    display = draw(fit())
    display.plot(metric="balanced_accuracy")
    points, _ = lines_and_bars(display.ax_)
    expected = display.frame_.groupby("budget")["balanced_accuracy"].mean()
    np.testing.assert_allclose(points[0][:, 1], expected)
    assert display.ax_.get_ylabel() == "balanced accuracy"


def test_other_labels_and_pipelines():
    X, y, language = activations(languages=("en", "de"))
    words = np.array(["safe", "harmful"])
    gate = LatentGate().fit(X, words[y], language=language)
    pool, test = activations(1), activations(2)
    pipe = make_pipeline(FunctionTransformer(lambda X: X / 2), FrozenEstimator(gate))
    display = draw(
        pipe,
        (2 * pool[0], words[pool[1]], pool[2]),
        (2 * test[0], words[test[1]], test[2]),
    )
    expected = draw(fit()).frame_
    scores = ["f1", "balanced_accuracy"]
    pd.testing.assert_frame_equal(display.frame_[scores], expected[scores])


def test_from_predictions():
    table = pd.DataFrame(
        {
            "budget": [0, 0, 2, 2],
            "language": ["en", "yo", "en", "yo"],
            "balanced_accuracy": [0.9, 0.5, 0.9, 0.8],
        }
    )
    display = BudgetCurveDisplay.from_predictions({"x": table, "y": table})
    assert len(display.axes_) == 2
    points, _ = lines_and_bars(display.axes_[1])
    assert [line[:, 1].tolist() for line in points] == [[0.5, 0.8]] * 2
    labels = [text.get_text() for text in display.figure_.legends[0].get_texts()]
    assert labels == ["x", "y"]


def test_bad_input():
    X, y, language = activations(1)
    for budgets in ([], [1, 1], [-1], [0.5], 4):
        with pytest.raises(ValueError, match=r"budgets=.*, expected distinct integers"):
            draw(fit(), budgets=budgets)
    with pytest.raises(ValueError, match="n_draws=0"):
        draw(fit(), n_draws=0)
    with pytest.raises(
        ValueError, match=r"Got 30 pool rows of label 0 in language 'sw', expected at least 31"
    ):
        draw(fit(), budgets=[31])
    with pytest.raises(ValueError, match=r"labels \[0\] in y_test of language 'sw'"):
        draw(fit(), test=(X[y == 0], y[y == 0], language[y == 0]))
    with pytest.raises(ValueError, match="language_pool=None"):
        draw(fit(), pool=(X, y, None))
    with pytest.raises(ValueError, match="'y_pool': 3"):
        draw(fit(), pool=(X, y[:3], language))
    with pytest.raises(ValueError, match="Got 0 pool rows of label 0 in language 'sw'"):
        draw(fit(), pool=activations(1, ("yo",)))
    with pytest.raises(ValueError, match="metric='auc', expected one of"):
        draw(fit(), metric="auc")
    with pytest.raises(ValueError, match="interval=0"):
        draw(fit(), interval=0)
    with pytest.raises(ValueError, match=r"expected one of .*'f1'"):
        BudgetCurveDisplay.from_predictions(pd.DataFrame({"budget": [1]}))
    twice = pd.DataFrame({"budget": [1, 1], "language": "en", "f1": [0.5, 0.6]})
    with pytest.raises(ValueError, match="or a column 'draw'"):
        BudgetCurveDisplay.from_predictions(twice)
    with pytest.raises(ValueError, match=r"no tier for the languages \['qq'\]"):
        draw(fit(), activations(1, ("qq",)), activations(2, ("qq",)))


def test_what_a_gate_has_learned_before_is_no_example():
    X, y, language = activations(3)
    gate = fit()
    deployed = deepcopy(gate).partial_fit(X, y, language=language)
    found = draw({"fresh": gate, "deployed": deployed}).frame_
    fresh, after = (found[found["model"] == name] for name in ("fresh", "deployed"))
    np.testing.assert_array_equal(fresh["f1"], after["f1"])
    assert deployed.n_shots_.sum() == len(X)  # the gate itself keeps them


def test_draws_without_a_signal_do_not_warn(recwarn):
    X, y, language = activations(1)
    X[:, 0] = 0  # where the signal is
    with pytest.warns(UserWarning, match="hardly differ"):
        fit().partial_fit(X, y, language=language)
    draw(fit(), pool=(X, y, language), budgets=[N // 2])
    assert not recwarn.list
