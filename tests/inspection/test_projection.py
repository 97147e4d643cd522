"""ProjectionDisplay: the densities, and boundaries where the decisions change."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.stats import gaussian_kde
from shifted import pooled_gate
from sklearn.compose import ColumnTransformer
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skgate import LatentGate
from skgate.inspection import ProjectionDisplay

N = 60
TIER = {"en": "high", "de": "high", "yo": "low", "sw": "low"}


def activations(seed=0):
    """Four languages, two of them shifted and squeezed."""
    rng = np.random.default_rng(seed)
    y = np.tile([0, 1], 2 * N)
    language = np.repeat(["yo", "en", "de", "sw"], N)
    X = rng.normal(size=(4 * N, 6)) * [1, 2, 3, 1, 1, 1]
    X[:, 0] += np.where(tier_of(language) == "low", 2 * y - 3, 4 * y)
    X[:, 1] += np.where(language == "en", 3 * y, -2 * y)
    return X, y, language


def tier_of(language):
    return np.array([TIER[name] for name in language])


def fit(calibration="shrinkage", labels=(0, 1), n_shots=6):
    X, y, language = activations(seed=1)
    y = np.array(labels)[y]
    high = tier_of(language) == "high"
    gate = pooled_gate(calibration=calibration).fit(X[high], y[high], language=language[high])
    for name in ("yo", "sw"):
        rows = np.flatnonzero(language == name)[:n_shots]
        gate.partial_fit(X[rows], y[rows], language=name)
    return gate


def boundaries(panel):
    """Where vertical lines are, solid (the source's) and not."""
    verticals = [line for line in panel.lines if len(set(line.get_xdata())) == 1]
    solid = [line.get_xdata()[0] for line in verticals if line.get_linestyle() == "-"]
    other = [line.get_xdata()[0] for line in verticals if line.get_linestyle() != "-"]
    return solid, sorted(other)


@pytest.mark.parametrize("calibration", ["shrinkage", "threshold"])
def test_decisions_change_at_the_drawn_boundaries(calibration):
    gate = fit(calibration)
    X, y, language = activations()
    display = ProjectionDisplay.from_estimator(gate, X, y, language=language, by="language")
    assert len(display.axes_) == 4
    for panel, name in zip(display.axes_, ["de", "en", "sw", "yo"], strict=True):
        assert panel.get_ylabel() == name
        solid, (own,) = boundaries(panel)
        assert solid == [0]
        rows = display.frame_[display.frame_["language"] == name]
        assert rows["threshold"].unique() == [own]
        decided = gate.predict(X[language == name], language=name)
        np.testing.assert_array_equal(rows["score"].to_numpy() > own, decided == 1)
        source = gate.harm_score(X[language == name])
        np.testing.assert_allclose(rows["score"], source)


def test_panels_are_tiers_with_a_line_per_language():
    gate = fit()
    X, y, language = activations()
    display = ProjectionDisplay.from_estimator(gate, X, y, language=language)
    high, low = display.axes_
    assert [panel.get_ylabel() for panel in (high, low)] == ["high-resource", "low-resource"]
    assert boundaries(low)[0] == [0]
    by_language = display.frame_.groupby("language")["threshold"].first()
    assert boundaries(low)[1] == sorted(by_language[["sw", "yo"]])
    assert boundaries(high)[1] == sorted(by_language[["de", "en"]])
    labels = [text.get_text() for text in display.figure_.legends[0].get_texts()]
    assert labels[2:] == ["boundary of the source languages", "a language's own boundary"]


def test_densities_are_of_each_kind():
    gate = fit()
    X, y, language = activations()
    display = ProjectionDisplay.from_estimator(gate, X, y, language=language)
    for panel, tier in zip(display.axes_, ["high", "low"], strict=True):
        harmful, harmless = panel.collections
        assert harmful.get_linestyle() != harmless.get_linestyle()
        for area, label in [(harmful, 1), (harmless, 0)]:
            scores = gate.harm_score(X[(tier_of(language) == tier) & (y == label)])
            outline = area.get_paths()[0].vertices
            top = outline[outline[:, 1] > 0]
            np.testing.assert_allclose(gaussian_kde(scores)(top[:, 0]), top[:, 1], rtol=1e-6)


def test_scores_from_the_own_boundary():
    gate = fit("refit")
    X, y, language = activations()
    display = ProjectionDisplay.from_estimator(
        gate, X, y, language=language, by="language", score="own"
    )
    for panel, name in zip(display.axes_, ["de", "en", "sw", "yo"], strict=True):
        assert boundaries(panel) == ([], [0])
        rows = display.frame_[display.frame_["language"] == name]
        own = gate.harm_score(X[language == name], language=name)
        np.testing.assert_allclose(rows["score"], own)
    assert "own boundary" in display.axes_[-1].get_xlabel()


@pytest.mark.parametrize(("calibration", "n_shots"), [("refit", 14), ("shrinkage", 16)])
def test_no_line_where_there_is_no_point_on_the_axis(calibration, n_shots):
    gate = fit(calibration, n_shots=n_shots)
    X, y, language = activations()
    with pytest.warns(UserWarning, match=r"boundaries of \['sw', 'yo'\] are not drawn"):
        display = ProjectionDisplay.from_estimator(gate, X, y, language=language)
    assert boundaries(display.axes_[1]) == ([0], [])


def test_labels_in_the_other_order():
    X, y, language = activations()
    usual = ProjectionDisplay.from_estimator(fit(), X, y, language=language)
    words = np.array(["safe", "harmful"])
    other = ProjectionDisplay.from_estimator(fit(labels=words), X, words[y], language=language)
    pd.testing.assert_frame_equal(usual.frame_, other.frame_)


def test_several_gates_side_by_side():
    X, y, language = activations()
    low = tier_of(language) == "low"
    source = pooled_gate().fit(X[~low], y[~low], language=language[~low])
    gates = {"before": source, "after": fit()}
    display = ProjectionDisplay.from_estimator(gates, X, y, language=language)
    assert [panel.get_title() for panel in display.axes_] == ["before", "after", "", ""]
    drawn = [boundaries(panel)[1] for panel in display.axes_]
    assert [len(lines) for lines in drawn] == [2, 2, 0, 2]
    rows = display.frame_[display.frame_["model"] == "before"]
    assert rows.loc[rows["tier"] == "low", "threshold"].isna().all()


def test_gates_in_pipelines_wrappers_and_columns(wrapper, prompts, tier):
    X, y, language = activations()
    gate = fit()
    expected = ProjectionDisplay.from_estimator(gate, X, y, language=language).frame_
    expected = expected.drop(columns="model")
    scaled = make_pipeline(FunctionTransformer(lambda X: X / 2), FrozenEstimator(gate))
    found = ProjectionDisplay.from_estimator(scaled, 2 * X, y, language=language).frame_
    pd.testing.assert_frame_equal(found.drop(columns="model"), expected)

    Xs, ys, ls = activations(seed=1)
    names = [f"x{i}" for i in range(6)]
    frame = pd.DataFrame(Xs, columns=names).assign(language=ls)
    columns = ColumnTransformer(
        [("x", "passthrough", names), ("language", "passthrough", ["language"])],
        verbose_feature_names_out=False,
    ).set_output(transform="pandas")
    high = np.flatnonzero(tier_of(ls) == "high")
    shots = np.concatenate([np.flatnonzero(ls == name)[:6] for name in ("yo", "sw")])
    pipe = make_pipeline(
        columns, LatentGate(language_column="language", source_languages=["en", "de"])
    )
    keep = np.sort(np.concatenate([high, shots]))
    pipe.fit(frame.iloc[keep], ys[keep])
    test = pd.DataFrame(X, columns=names).assign(language=language)
    found = ProjectionDisplay.from_estimator(pipe, test, y).frame_
    assert (found["threshold"].notna()).all()
    np.testing.assert_allclose(found["score"], expected["score"])
    np.testing.assert_allclose(found["threshold"], expected["threshold"])

    few = prompts("test", 3, languages=["en", "qaa"])
    display = ProjectionDisplay.from_estimator(
        wrapper, few["prompt"], few["harmful"], language=few["language"], tier=tier
    )
    rows = wrapper.gate_[:-1].transform(few["prompt"])
    np.testing.assert_allclose(
        np.sort(display.frame_["score"]), np.sort(wrapper.gate_[-1].harm_score(rows))
    )


def test_from_predictions():
    y = [1, 1, 1, 0, 0, 0] * 2
    language = ["yo"] * 6 + ["en"] * 6
    score = np.arange(12.0)
    display = ProjectionDisplay.from_predictions(
        y, score, language=language, threshold={"yo": 2.5}, source_threshold=8, score_name="volts"
    )
    high, low = display.axes_
    assert boundaries(high) == ([8], [])
    assert boundaries(low) == ([8], [2.5])
    assert low.get_xlabel() == "volts"
    assert display.frame_["score"].tolist() == [*range(6, 12), *range(6)]
    several = ProjectionDisplay.from_predictions(
        y,
        {"a": score, "b": score},
        language=language,
        threshold={"b": {"yo": 1}},
        source_threshold=None,
    )
    assert [boundaries(panel) for panel in several.axes_] == [
        ([], []),
        ([], []),
        ([], []),
        ([], [1]),
    ]
    alone = ProjectionDisplay.from_predictions(y, score)
    assert len(alone.axes_) == 1
    assert "language" not in alone.frame_


def test_a_single_prompt_of_a_kind_has_no_density():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        display = ProjectionDisplay.from_predictions([1, 0, 0], [1.0, 2.0, 3.0])
    assert len(display.ax_.collections) == 1


def test_bad_input():
    X, y, language = activations()
    with pytest.raises(ValueError, match="score='mine', expected 'source' or 'own'"):
        ProjectionDisplay.from_estimator(fit(), X, y, score="mine")
    with pytest.raises(TypeError, match="type FunctionTransformer, expected a LatentGate"):
        ProjectionDisplay.from_estimator(FunctionTransformer(), X, y)
    with pytest.raises(ValueError, match="not fitted"):
        ProjectionDisplay.from_estimator(LatentGate(), X, y)
    with pytest.raises(ValueError, match="'y_true': 3"):
        ProjectionDisplay.from_estimator(fit(), X, [1, 1, 0], language=language)
    with pytest.raises(ValueError, match="language of length 1, expected 2"):
        ProjectionDisplay.from_predictions([1, 0], [1.0, 0.0], language=["en"])


def test_own_boundaries_are_those_of_calibrated_languages():
    X, y, language = activations()
    source = pooled_gate().fit(X, y, language=np.where(language == "yo", "de", language))
    with pytest.warns(UserWarning, match=r"\['yo'\], which the gate has never seen"):
        display = ProjectionDisplay.from_estimator(
            source, X, y, language=language, by="language", score="own"
        )
    drawn = {panel.get_ylabel(): boundaries(panel)[1] for panel in display.axes_}
    assert drawn == {"de": [0], "en": [0], "sw": [0], "yo": []}
    with pytest.raises(ValueError, match="score='own' without language"):
        ProjectionDisplay.from_estimator(source, X, y, score="own")


def test_what_a_gate_refuses_is_not_drawn():
    X, y, language = activations()
    names = list("abcdef")
    high = tier_of(language) == "high"
    gate = pooled_gate().fit(pd.DataFrame(X[high], columns=names), y[high])
    with pytest.raises(ValueError, match="feature names"):
        ProjectionDisplay.from_estimator(gate, pd.DataFrame(X, columns=names[::-1]), y)
    with pytest.raises(ValueError, match="X has 3 features"):
        ProjectionDisplay.from_estimator(fit(), X[:, :3], y)


def test_thresholds_are_drawn_or_complained_of():
    y, language, score = [1, 0] * 4, ["yo"] * 4 + ["en"] * 4, np.arange(8.0)
    draw = ProjectionDisplay.from_predictions
    both = draw(y, {1: score, 2: score}, language=language, threshold={"yo": 3})
    assert [boundaries(panel)[1] for panel in both.axes_] == [[], [], [3], [3]]
    numbered = draw(y, {1: score, 2: score}, language=language, threshold={1: {"yo": 3}})
    assert [boundaries(panel)[1] for panel in numbered.axes_] == [[], [], [3], []]
    with pytest.raises(ValueError, match=r"threshold of \['c'\], expected thresholds of \['a'\]"):
        draw(y, {"a": score}, language=language, threshold={"c": {"yo": 3}})
    with pytest.raises(ValueError, match="threshold without language"):
        draw(y, score, threshold={"yo": 3})
    with pytest.warns(UserWarning, match=r"Got threshold of \['yor'\], but the prompts"):
        draw(y, score, language=language, threshold={"yor": 3})
