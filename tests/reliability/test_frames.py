"""Any frame with columns, and the caller's index on what comes back."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from bare import GREEDY, LANGUAGE, PROMPTS, Y, let_harmful_words_share
from shifted import draw_sources
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import make_pipeline
from tiny import make_model

from skgate import ActivationTransformer, LatentGate, SteeringWrapper
from skgate.inspection import (
    BudgetCurveDisplay,
    LayerSweepDisplay,
    ProjectionDisplay,
    RefusalGapDisplay,
    SeparabilityDisplay,
)
from skgate.metrics import LanguageScorer, language_report, refusal_rate, refusal_selectivity

COLUMNS = {"prompt": PROMPTS, "language": LANGUAGE.tolist(), "harmful": Y.tolist()}
FRAMES = {"polars": pl.DataFrame, "pyarrow": pa.table}
COLUMN = {
    "polars": lambda frame, name: frame[name],
    "pyarrow": lambda frame, name: frame[name],
}
every_library = pytest.mark.parametrize("library", FRAMES)


class Words:
    """A judge for models that babble."""

    def is_refusal(self, replies, prompts=None, language=None):
        return np.array(["who" in reply for reply in replies])


@pytest.fixture
def model(tokenizer):
    return let_harmful_words_share(make_model("llama"), tokenizer)


@pytest.fixture
def reader(model, tokenizer):
    return ActivationTransformer(model, tokenizer=tokenizer, layer=1)


def by_keyword(reader, **params):
    """A wrapper that gets languages by keyword."""
    return SteeringWrapper(make_pipeline(reader, LatentGate()), **settings(params))


def by_column(reader, **params):
    """A wrapper that reads prompts and languages from the columns of a frame."""
    columns = ColumnTransformer(
        [("activations", reader, "prompt"), ("language", "passthrough", ["language"])],
        verbose_feature_names_out=False,
    ).set_output(transform="pandas")
    gate = LatentGate(language_column="language")
    return SteeringWrapper(make_pipeline(columns, gate), **settings(params))


def settings(params):
    return {"generate_kwargs": GREEDY, "judge": Words(), "strength": 2.0, **params}


# Any frame


@every_library
def test_transform_takes_any_column(library, reader):
    """A one-column frame and a column, as pandas'."""
    frame = FRAMES[library](COLUMNS)
    expected = reader.transform(PROMPTS)
    for X in (COLUMN[library](frame, "prompt"), frame.select(["prompt"])):
        np.testing.assert_array_equal(reader.transform(X), expected)
        np.testing.assert_array_equal(reader.fit_transform(X), expected)


@every_library
def test_transform_says_what_several_columns_are(library, reader):
    """Which column holds the prompts is the caller's to say, as with pandas."""
    with pytest.raises(ValueError, match="one-column"):
        reader.transform(FRAMES[library](COLUMNS))


def test_transform_takes_a_record_batch(reader):
    """Pyarrow's other frame, which narwhals does not read."""
    batch = pa.RecordBatch.from_pydict({"prompt": PROMPTS})
    np.testing.assert_array_equal(reader.transform(batch), reader.transform(PROMPTS))


@every_library
def test_transform_names_a_missing_prompt(library, reader):
    """A null is a missing prompt, by its row."""
    frame = FRAMES[library]({"prompt": ["boil", None, "egg"]})
    for X in (COLUMN[library](frame, "prompt"), frame):
        with pytest.raises(ValueError, match=r"X\[1\] is None"):
            reader.transform(X)


def numbers():
    X, y, language = draw_sources(np.random.default_rng(0), n_per_class=12)
    order = np.random.default_rng(1).permutation(len(y))
    columns = {f"x{i}": column for i, column in enumerate(X[order].T.copy())}
    return columns, y[order], language[order]


@every_library
@pytest.mark.parametrize("column", ["language", -1, 0])
def test_gates_read_the_language_column_of_any_frame(library, column):
    """``LatentGate.fit(X, language_column=...)`` and every method after it."""
    columns, y, language = numbers()
    own = {"language": language.tolist()}
    columns = {**own, **columns} if column == 0 else {**columns, **own}
    frame, pandas = FRAMES[library](columns), pd.DataFrame(columns)
    gate = LatentGate(language_column=column).fit(frame, y)
    expected = LatentGate(language_column=column).fit(pandas, y)
    assert gate.languages_.tolist() == expected.languages_.tolist()
    assert gate.n_features_in_ == expected.n_features_in_
    for method in ("predict", "predict_proba", "decision_function", "harm_score"):
        np.testing.assert_allclose(getattr(gate, method)(frame), getattr(expected, method)(pandas))
    assert gate.score(frame, y) == expected.score(pandas, y)
    shots = {**columns, "language": ["sw"] * len(y)}
    gate.partial_fit(FRAMES[library](shots), y)
    assert "sw" in gate.languages_


@every_library
def test_a_column_that_is_not_there_is_named(library):
    """With the columns that there are."""
    columns, y, _ = numbers()
    with pytest.raises(ValueError, match=r"(?s)language_column='lang'.*x0"):
        LatentGate(language_column="lang").fit(FRAMES[library](columns), y)


@every_library
def test_frames_of_numbers_without_a_language(library):
    """Activations alone in a frame."""
    columns, y, language = numbers()
    gate = LatentGate().fit(FRAMES[library](columns), y, language=language)
    expected = LatentGate().fit(pd.DataFrame(columns), y, language=language)
    found = gate.harm_score(FRAMES[library](columns), language=language)
    np.testing.assert_allclose(found, expected.harm_score(pd.DataFrame(columns), language=language))


@every_library
def test_language_and_labels_as_columns(library):
    """``language=`` and ``y`` as columns of such a frame, in every method."""
    columns, y, language = numbers()
    X = np.column_stack(list(columns.values()))
    frame = FRAMES[library]({"y": y.tolist(), "language": language.tolist()})
    labels, languages = (COLUMN[library](frame, name) for name in ("y", "language"))
    gate = LatentGate().fit(X, labels, language=languages)
    expected = LatentGate().fit(X, y, language=language)
    for method in ("predict", "predict_proba", "decision_function", "harm_score"):
        np.testing.assert_array_equal(
            getattr(gate, method)(X, language=languages),
            getattr(expected, method)(X, language=language),
        )
    assert gate.score(X, labels, language=languages) == expected.score(X, y, language=language)


@every_library
def test_wrappers_take_columns(library, reader):
    """Every method of a wrapper, with columns of any library."""
    frame = FRAMES[library](COLUMNS)
    prompts, language, y = (COLUMN[library](frame, name) for name in COLUMNS)
    found = by_keyword(reader).fit(prompts, y, language=language)
    plain = by_keyword(reader).fit(PROMPTS, Y, language=LANGUAGE)
    np.testing.assert_array_equal(
        found.predict(prompts, language=language), plain.predict(PROMPTS, language=LANGUAGE)
    )
    assert found.generate(prompts, language=language) == plain.generate(PROMPTS, language=LANGUAGE)
    assert found.score(prompts, y, language=language) == plain.score(PROMPTS, Y, LANGUAGE)
    found.partial_fit(prompts, y, language="sw")
    assert "sw" in found.gate_[-1].languages_


@every_library
def test_wrappers_take_frames(library, reader):
    """With the language as a column, as pandas' DataFrame."""
    frame, pandas = FRAMES[library](COLUMNS), pd.DataFrame(COLUMNS)
    found = by_column(reader).fit(frame, Y)
    plain = by_column(reader).fit(pandas, Y)
    np.testing.assert_array_equal(found.predict(frame), plain.predict(pandas))
    np.testing.assert_array_equal(found.predict_proba(frame), plain.predict_proba(pandas))
    replies, decisions = found.generate(frame, return_decisions=True)
    expected, expected_decisions = plain.generate(pandas, return_decisions=True)
    assert replies == expected
    pd.testing.assert_frame_equal(decisions, expected_decisions)
    assert found.score(frame, Y) == plain.score(pandas, Y)
    found.partial_fit(frame, Y)


@every_library
def test_a_frame_without_the_prompt_column_is_named(library, reader):
    """The error says which columns there are."""
    plain = by_column(reader).fit(pd.DataFrame(COLUMNS), Y)
    with pytest.raises(ValueError, match="'prompt'"):
        plain.generate(FRAMES[library]({"text": PROMPTS, "language": LANGUAGE.tolist()}))
    with pytest.raises(ValueError, match="language"):
        plain.generate(FRAMES[library]({"prompt": PROMPTS}))


@every_library
def test_metrics_take_columns(library):
    """Reports, rates and scorers, equal to pandas'."""
    _, y, language = numbers()
    scores = np.random.default_rng(2).normal(size=len(y)) + y
    called, refused = (scores > 0.5).astype(int), scores > 0.2
    values = {"y": y, "called": called, "scores": scores, "refused": refused, "lang": language}
    frame = FRAMES[library]({name: column.tolist() for name, column in values.items()})
    own = {name: COLUMN[library](frame, name) for name in values}
    found = language_report(
        own["y"],
        own["called"],
        own["scores"],
        language=own["lang"],
        refused=own["refused"],
        fprs=(),
    )
    expected = language_report(y, called, scores, language=language, refused=refused, fprs=())
    pd.testing.assert_frame_equal(found, expected)
    assert refusal_rate(own["y"], own["refused"]) == refusal_rate(y, refused)
    assert refusal_selectivity(own["y"], own["refused"], language=own["lang"]) == (
        refusal_selectivity(y, refused, language=language)
    )


@every_library
def test_a_scorer_reads_the_language_column(library):
    """``LanguageScorer(language_column=...)`` by language."""
    columns, y, language = numbers()
    columns = {**columns, "language": language.tolist()}
    scorer = LanguageScorer("roc_auc", aggregate="worst", language_column="language")
    frame, pandas = FRAMES[library](columns), pd.DataFrame(columns)
    gate = LatentGate(language_column="language").fit(pandas, y)
    assert scorer(gate, frame, y) == scorer(gate, pandas, y)


@pytest.fixture
def _closed_figures():
    yield
    plt.close("all")


@pytest.mark.usefixtures("_closed_figures")
@every_library
def test_displays_take_frames(library):
    """``from_estimator`` of a gate with a language column, equal to pandas'."""
    columns, y, language = numbers()
    columns = {**columns, "language": language.tolist()}
    frame, pandas = FRAMES[library](columns), pd.DataFrame(columns)
    gate = LatentGate(language_column="language").fit(pandas, y)
    kwargs = {"by": "language"}
    found = ProjectionDisplay.from_estimator(gate, frame, y, **kwargs)
    expected = ProjectionDisplay.from_estimator(gate, pandas, y, **kwargs)
    pd.testing.assert_frame_equal(found.frame_, expected.frame_)
    budget = {"budgets": (0, 2), "n_draws": 2, "random_state": 0, "by": "language"}
    found, expected = (
        BudgetCurveDisplay.from_estimator(gate, X, y, X, y, **budget) for X in (frame, pandas)
    )
    pd.testing.assert_frame_equal(found.frame_, expected.frame_)


@pytest.mark.usefixtures("_closed_figures")
@every_library
def test_displays_take_columns_and_tables(library, reader):
    """Columns in ``from_predictions``, tables in the constructor."""
    _, y, language = numbers()
    scores = np.random.default_rng(2).normal(size=len(y)) + y
    frame = FRAMES[library]({"y": y.tolist(), "s": scores.tolist(), "l": language.tolist()})
    own_y, own_s, own_l = (COLUMN[library](frame, name) for name in ("y", "s", "l"))
    for display in (ProjectionDisplay, SeparabilityDisplay):
        found = display.from_predictions(own_y, own_s, language=own_l)
        expected = display.from_predictions(y, scores, language=language)
        pd.testing.assert_frame_equal(found.frame_, expected.frame_)
    table = {"layer": [0, 1, 2], "refusal_rate": [0.9, 0.1, 0.7]}
    found, expected = (
        LayerSweepDisplay(FRAMES[library](table)),
        LayerSweepDisplay(pd.DataFrame(table)),
    )
    pd.testing.assert_frame_equal(found.plot().frame_, expected.plot().frame_)
    prompts = FRAMES[library](COLUMNS)
    wrapper = by_column(reader).fit(pd.DataFrame(COLUMNS), Y)
    found = RefusalGapDisplay.from_estimator(wrapper, prompts, Y, by="language")
    expected = RefusalGapDisplay.from_estimator(wrapper, pd.DataFrame(COLUMNS), Y, by="language")
    pd.testing.assert_frame_equal(found.frame_, expected.frame_)


@every_library
def test_conversations_in_a_column(library, reader):
    """A column of lists of structs, beside a language column too."""
    chats = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    frame = FRAMES[library]({**COLUMNS, "prompt": chats})
    np.testing.assert_array_equal(
        reader.transform(COLUMN[library](frame, "prompt")), reader.transform(PROMPTS)
    )
    wrapper = by_column(reader).fit(frame, Y)
    plain = by_column(reader).fit(pd.DataFrame(COLUMNS), Y)
    np.testing.assert_array_equal(wrapper.predict(frame), plain.predict(pd.DataFrame(COLUMNS)))


def test_a_pyarrow_array_is_a_column(reader):
    """Not only a column of a table."""
    X, _, _ = draw_sources(np.random.default_rng(0), n_per_class=12)
    y, language = np.tile([0, 1], len(X) // 2), np.repeat(["de", "en"], len(X) // 2)
    np.testing.assert_array_equal(reader.transform(pa.array(PROMPTS)), reader.transform(PROMPTS))
    gate = LatentGate().fit(X, pa.array(y), language=pa.array(language))
    expected = LatentGate().fit(X, y, language=language)
    np.testing.assert_array_equal(gate.harm_score(X), expected.harm_score(X))


def test_a_lazy_frame_is_refused_by_name(reader):
    """It has no rows yet; the error says what it is."""
    with pytest.raises(TypeError, match="LazyFrame"):
        reader.transform(pl.LazyFrame({"prompt": PROMPTS}))
    with pytest.raises(ValueError, match="LazyFrame"):
        by_column(reader).fit(pd.DataFrame(COLUMNS), Y).generate(pl.LazyFrame(COLUMNS))


# The caller's index


def shuffled():
    """A frame as a split or a shuffle leaves it."""
    return pd.DataFrame(COLUMNS).sample(frac=1, random_state=0)


INDICES = {
    "shuffled": lambda frame: frame,
    "texts": lambda frame: frame.set_axis([f"id-{i}" for i in frame.index]),
    "subset": lambda frame: frame[frame.index % 3 == 0],
    "duplicates": lambda frame: frame.set_axis(np.repeat([7, 7, 3], 10)),
    "levels": lambda frame: frame.set_index(["language", "harmful"], drop=False),
    "dates": lambda frame: frame.set_axis(pd.date_range("2026-01-01", periods=len(frame))),
}
every_index = pytest.mark.parametrize("index", INDICES)


@every_index
def test_decisions_carry_the_index_of_a_series(index, reader):
    """``frame.assign(score=decisions["harm_score"])`` pairs every row with its own."""
    frame = INDICES[index](shuffled())
    wrapper = by_keyword(reader).fit(PROMPTS, Y, language=LANGUAGE)
    _, decisions = wrapper.generate(
        frame["prompt"], language=frame["language"], return_decisions=True, max_new_tokens=1
    )
    pd.testing.assert_index_equal(decisions.index, frame.index, exact=True)
    rows = reader.transform(frame["prompt"].tolist())
    expected = wrapper.gate_[-1].harm_score(rows, language=frame["language"].tolist())
    np.testing.assert_allclose(decisions["harm_score"].to_numpy(), expected, atol=1e-4)
    if frame.index.is_unique:
        paired = frame.assign(score=decisions["harm_score"])
        np.testing.assert_allclose(paired["score"].to_numpy(), expected, atol=1e-4)


@every_index
def test_decisions_carry_the_index_of_a_frame(index, reader):
    """With prompts and languages as columns, too."""
    frame = INDICES[index](shuffled())
    wrapper = by_column(reader).fit(pd.DataFrame(COLUMNS), Y)
    _, decisions = wrapper.generate(frame, return_decisions=True, max_new_tokens=1)
    pd.testing.assert_index_equal(decisions.index, frame.index, exact=True)
    assert decisions["language"].tolist() == frame["language"].tolist()
    assert decisions["harmful"].tolist() == wrapper.predict(frame).astype(bool).tolist()


@pytest.mark.parametrize("form", [list, tuple, np.array, pl.Series])
def test_decisions_of_what_has_no_index_are_numbered(form, reader):
    """A list gives a RangeIndex."""
    wrapper = by_keyword(reader).fit(PROMPTS, Y, language=LANGUAGE)
    _, decisions = wrapper.generate(form(PROMPTS[:3]), return_decisions=True, max_new_tokens=1)
    pd.testing.assert_index_equal(decisions.index, pd.RangeIndex(3), exact=True)


# Scikit-learn's own container output.
def test_activations_as_pandas_carry_the_index(reader):
    """``set_output(transform="pandas")`` keeps the index, of a Series as of a frame."""
    frame = shuffled()
    reader.set_output(transform="pandas")
    for X in (frame["prompt"], frame[["prompt"]]):
        pd.testing.assert_index_equal(reader.transform(X).index, frame.index, exact=True)


def test_an_index_that_differs_between_prompts_and_languages_does_not_reorder(reader):
    """Rows are paired by place; the index is that of the prompts."""
    frame = shuffled()
    languages = frame["language"].reset_index(drop=True)
    wrapper = by_keyword(reader).fit(PROMPTS, Y, language=LANGUAGE)
    _, decisions = wrapper.generate(
        frame["prompt"], language=languages, return_decisions=True, max_new_tokens=1
    )
    assert decisions["language"].tolist() == frame["language"].tolist()
    pd.testing.assert_index_equal(decisions.index, frame.index, exact=True)
