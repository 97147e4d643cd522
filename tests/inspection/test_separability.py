"""SeparabilityDisplay: its cells and their outlines."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.patches import Rectangle
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline

from skgate import ActivationTransformer, LatentGate
from skgate.inspection import SeparabilityDisplay

Y = np.tile([1, 1, 0, 0], 6)
LANGUAGE = np.repeat(["yo", "en", "de"], 8)
SCORES = np.random.default_rng(0).normal(size=(24, 3)) + Y[:, np.newaxis]
REFUSED = (LANGUAGE != "yo") & (Y == 1)


def cells(panel):
    """AUC of each drawn cell, and labels of the rows and columns."""
    (mesh,) = panel.collections
    rows = [label.get_text() for label in panel.get_yticklabels()]
    columns = [label.get_text() for label in panel.get_xticklabels()]
    return np.ma.getdata(mesh.get_array()), rows, columns


def outlined(panel):
    """(row, column) of each outlined cell."""
    boxes = [patch for patch in panel.patches if isinstance(patch, Rectangle)]
    return {(int(box.get_y()), int(box.get_x())) for box in boxes}


def test_cells_are_aucs_by_language_and_layer():
    display = SeparabilityDisplay.from_predictions(
        Y, SCORES, layer=[3, 5, 9], language=LANGUAGE, refused=REFUSED
    )
    drawn, rows, columns = cells(display.ax_)
    assert rows == ["de", "en", "yo"]
    assert columns == ["3", "5", "9"]
    for i, name in enumerate(rows):
        of_language = name == LANGUAGE
        for j in range(3):
            auc = roc_auc_score(Y[of_language], SCORES[of_language, j])
            assert drawn[i, j] == pytest.approx(auc)
            row = display.frame_.query("language == @name and layer == [3, 5, 9][@j]")
            assert row["roc_auc"].item() == pytest.approx(auc)
    told = [text.get_text() for text in display.ax_.texts]
    assert told == [f"{value:.2f}" for value in drawn.ravel()]


def test_languages_that_refuse_little_are_outlined():
    display = SeparabilityDisplay.from_predictions(Y, SCORES, language=LANGUAGE, refused=REFUSED)
    assert outlined(display.ax_) == {(2, 0), (2, 1), (2, 2)}
    (legend,) = display.figure_.legends
    assert "less than 50%" in legend.get_texts()[0].get_text()
    rates = display.frame_.groupby("language")["harmful_refused"].first()
    assert rates.to_dict() == {"de": 1, "en": 1, "yo": 0}


def test_the_share_that_is_little():
    half = REFUSED & (np.arange(24) % 4 == 0)
    for below, expected in [(0.5, {(2, 0)}), (0.6, {(0, 0), (1, 0), (2, 0)})]:
        display = SeparabilityDisplay.from_predictions(
            Y, SCORES[:, 0], language=LANGUAGE, refused=half, weak_below=below
        )
        assert outlined(display.ax_) == expected


def test_refusals_of_harmless_prompts_do_not_count():
    refused = REFUSED | ((LANGUAGE == "yo") & (Y == 0))
    display = SeparabilityDisplay.from_predictions(
        Y, SCORES[:, 0], language=LANGUAGE, refused=refused
    )
    assert outlined(display.ax_) == {(2, 0)}


def test_without_refusals_nothing_is_outlined():
    display = SeparabilityDisplay.from_predictions(Y, SCORES, language=LANGUAGE)
    assert outlined(display.ax_) == set()
    assert not display.figure_.legends
    assert display.frame_["harmful_refused"].isna().all()


def test_models_of_one_layer_are_columns():
    display = SeparabilityDisplay.from_predictions(
        Y,
        {"b": SCORES[:, 0], "a": SCORES[:, 1]},
        language=LANGUAGE,
        refused={"a": REFUSED, "b": np.ones(24)},
    )
    assert len(display.axes_) == 1
    assert cells(display.ax_)[2] == ["b", "a"]
    assert outlined(display.ax_) == {(2, 1)}


def test_models_of_several_layers_are_panels():
    display = SeparabilityDisplay.from_predictions(
        Y,
        {"b": SCORES, "a": SCORES[:, :2]},
        layer={"b": [0, 1, 2], "a": [7, 8]},
        language=LANGUAGE,
    )
    assert [panel.get_title() for panel in display.axes_] == ["b", "a"]
    assert [cells(panel)[2] for panel in display.axes_] == [["0", "1", "2"], ["7", "8"]]
    np.testing.assert_allclose(cells(display.axes_[1])[0], cells(display.axes_[0])[0][:, :2])


def test_a_language_of_one_class_has_an_empty_cell():
    keep = (LANGUAGE != "de") | (Y == 1)
    display = SeparabilityDisplay.from_predictions(
        Y[keep], SCORES[keep, 0], language=LANGUAGE[keep]
    )
    assert np.isnan(display.frame_["roc_auc"]).tolist() == [True, False, False]
    assert len(display.ax_.texts) == 2


def test_the_direction_is_that_of_a_gate(organism, prompts, sources, tier):
    test = prompts("test", 6, languages=["en", "qla", "qlf"])
    more = prompts("train", 5, languages=["qla"])
    reader = ActivationTransformer(organism.model, tokenizer=organism.tokenizer, layer=[1, 4])
    train = sources["prompt"].tolist() + more["prompt"].tolist()
    y = sources["harmful"].tolist() + more["harmful"].tolist()
    language = sources["language"].tolist() + more["language"].tolist()
    display = SeparabilityDisplay.from_estimator(
        make_pipeline(reader, LatentGate()),
        train,
        y,
        test["prompt"],
        test["harmful"],
        language_train=language,
        language_test=test["language"],
        source_languages=sorted(set(sources["language"])),
        tier=tier,
    )
    drawn, rows, columns = cells(display.ax_)
    assert rows == ["en", "qla", "qlf"]
    assert columns == ["1", "4"]
    for j, layer in enumerate([1, 4]):
        one = ActivationTransformer(organism.model, tokenizer=organism.tokenizer, layer=layer)
        gate = LatentGate().fit(one.transform(sources["prompt"]), sources["harmful"])
        for i, name in enumerate(rows):
            part = test[test["language"] == name]
            projections = one.transform(part["prompt"]) @ gate.direction_
            assert drawn[i, j] == pytest.approx(roc_auc_score(part["harmful"], projections))


def test_test_prompts_among_the_train_prompts_warn(organism, sources):
    reader = ActivationTransformer(organism.model, tokenizer=organism.tokenizer, layer=0)
    few = sources.groupby("harmful").head(3)
    with pytest.warns(UserWarning, match="6 of 6 test prompts are among the prompts"):
        SeparabilityDisplay.from_estimator(
            reader,
            sources["prompt"],
            sources["harmful"],
            few["prompt"],
            few["harmful"],
            language_test=few["language"],
        )


class Unread(ActivationTransformer):
    """Must not be asked to read anything."""

    def __init__(self):
        super().__init__("an/id", layer=0)

    def transform(self, X):
        raise AssertionError


def test_bad_input(organism, prompts):
    few = prompts("test", 1, languages=["en", "qaa"])
    reader = ActivationTransformer(organism.model, tokenizer=organism.tokenizer, layer=0)
    train = (few["prompt"], few["harmful"])

    english = prompts("val", 1, languages=["en"])
    english = (english["prompt"], english["harmful"])

    def draw(estimator=reader, train=train, test=english, **changes):
        return SeparabilityDisplay.from_estimator(
            estimator, *train, *test, **{"language_test": "en", **changes}
        )

    with pytest.raises(TypeError, match="type LatentGate, expected an ActivationTransformer"):
        draw(LatentGate())
    with pytest.raises(ValueError, match="one class only in y_train"):
        draw(train=(few["prompt"], [1] * 4))
    with pytest.raises(ValueError, match="'X_train': 4, 'y_train': 2"):
        draw(train=(few["prompt"], [0, 1]))
    with pytest.raises(ValueError, match="without language_train"):
        draw(source_languages=["en"])
    with pytest.raises(ValueError, match=r"no train prompts in the source_languages \['fr'\]"):
        draw(source_languages=["fr"], language_train=few["language"])
    for changes, message in [
        ({"weak_below": 2}, "weak_below=2"),
        ({"language_test": ["en"]}, "language_test of length 1, expected 2"),
        ({"test": (few["prompt"], [0, 1])}, "'X_test': 4, 'y_test': 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            draw(Unread(), **changes)
    with pytest.raises(ValueError, match=r"layer=\[1\], expected 3 different"):
        SeparabilityDisplay.from_predictions(Y, SCORES, layer=[1], language=LANGUAGE)
    with pytest.raises(ValueError, match=r"y_score of shape \(23, 3\), expected \(24,\)"):
        SeparabilityDisplay.from_predictions(Y, SCORES[1:], language=LANGUAGE)
    with pytest.raises(ValueError, match=r"no refused of \['a'\]"):
        SeparabilityDisplay.from_predictions(
            Y, {"a": SCORES}, language=LANGUAGE, refused={"b": REFUSED}
        )
