"""From a file to a fitted gate in a few lines, without a notebook.

The documented snippets themselves run in tests/test_documents.py.
"""

from __future__ import annotations

import csv

import numpy as np
import pandas as pd
import polars as pl
import pytest
from bare import LANGUAGE, PROMPTS, Y, bare_rows
from folders import make_llama, save
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import make_pipeline

from skgate import ActivationTransformer, LatentGate

BOM = b"\xef\xbb\xbf"
LABELS = np.array(["Harmless", "Harmful"])[Y]  # as people write them


@pytest.fixture
def model(tmp_path, tokenizer):
    """A checkpoint folder, as people have one."""
    return save(make_llama(tokenizer), tokenizer, tmp_path / "model")


@pytest.fixture
def expected(tokenizer):
    """What the gate must say: fitted on the activations of a bare hook, with plain labels."""
    rows = bare_rows(make_llama(tokenizer), tokenizer, PROMPTS, 1)
    return LatentGate().fit(rows, Y, language=LANGUAGE).harm_score(rows, language=LANGUAGE)


def check(pipeline, X, expected):
    """The harmful class is the harmful one, and rows are in their places."""
    gate = pipeline[-1]
    assert gate.harmful_label_ == "Harmful"
    assert gate.source_languages_.tolist() == ["de", "en", "fr"]
    scores = gate.harm_score(pipeline[:-1].transform(X))
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-3)
    predicted = pipeline.predict(X)
    np.testing.assert_array_equal(predicted == "Harmful", expected > 0)


def with_language_column(model):
    """A pipeline for a frame with the columns "prompt" and "language"."""
    columns = ColumnTransformer(
        [
            ("activations", ActivationTransformer(model, layer=1), "prompt"),
            ("language", "passthrough", ["language"]),
        ],
        verbose_feature_names_out=False,
    ).set_output(transform="pandas")
    return make_pipeline(columns, LatentGate(language_column="language"))


def write_csv(path):
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "language", "label"])
        writer.writerows(zip(PROMPTS, LANGUAGE, LABELS, strict=True))
    assert path.read_bytes().startswith(BOM)
    return path


def test_from_a_csv_with_a_bom_by_pandas(model, tmp_path, expected):
    """Excel's CSV, with "Harmful" and "Harmless", by pandas."""
    path = write_csv(tmp_path / "prompts.csv")
    frame = pd.read_csv(path)
    pipeline = with_language_column(model).fit(frame[["prompt", "language"]], frame["label"])
    check(pipeline, frame[["prompt", "language"]], expected)


def test_from_a_csv_with_a_bom_by_polars(model, tmp_path, expected):
    """The same file by polars."""
    path = write_csv(tmp_path / "prompts.csv")
    frame = pl.read_csv(path)
    pipeline = with_language_column(model).fit(frame[["prompt", "language"]], frame["label"])
    check(pipeline, frame[["prompt", "language"]], expected)


def test_from_a_csv_with_a_bom_by_the_standard_library(model, tmp_path, expected):
    """The same file as lists."""
    path = write_csv(tmp_path / "prompts.csv")
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    prompts, language, label = (
        [row[name] for row in rows] for name in ("prompt", "language", "label")
    )
    X = ActivationTransformer(model, layer=1).transform(prompts)
    gate = LatentGate().fit(X, label, language=language)
    assert gate.harmful_label_ == "Harmful"
    np.testing.assert_allclose(
        gate.harm_score(X, language=language), expected, rtol=1e-3, atol=1e-3
    )


def conversations():
    """One user turn each, two of them with keys that the others don't have."""
    found = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    found[3] = [{**found[3][0], "name": None, "tool_calls": None}]
    return found


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_from_a_parquet_of_conversations(library, model, tmp_path, expected):
    """A column of lists of structs, filled up with nulls."""
    path = tmp_path / "conversations.parquet"
    columns = {"messages": conversations(), "language": LANGUAGE.tolist(), "label": LABELS.tolist()}
    columns["messages"][5] = [
        {"role": "user", "content": PROMPTS[5], "name": None, "weight": None},
    ]
    pl.DataFrame(columns).write_parquet(path)
    frame = pd.read_parquet(path) if library == "pandas" else pl.read_parquet(path)
    X = ActivationTransformer(model, layer=1).transform(frame["messages"])
    gate = LatentGate().fit(X, frame["label"], language=frame["language"])
    assert gate.harmful_label_ == "Harmful"
    np.testing.assert_allclose(
        gate.harm_score(X, language=frame["language"]), expected, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_from_a_parquet_with_a_tool_call_and_parts(library, model, tmp_path, tokenizer):
    """Chats as APIs log them: a call without content, a text in parts."""
    path = tmp_path / "chats.parquet"
    call = {"id": "1", "function": {"name": "boil", "arguments": "egg"}}
    chats = [
        [
            {"role": "user", "content": prompt, "tool_calls": None},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "user", "content": "who is there", "tool_calls": None},
        ]
        for prompt in PROMPTS
    ]
    schema = {
        "messages": pl.List(
            pl.Struct(
                {
                    "role": pl.String,
                    "content": pl.String,
                    "tool_calls": pl.List(
                        pl.Struct(
                            {
                                "id": pl.String,
                                "function": pl.Struct({"name": pl.String, "arguments": pl.String}),
                            }
                        )
                    ),
                }
            )
        )
    }
    pl.DataFrame({"messages": chats}, schema=schema).write_parquet(path)
    frame = pd.read_parquet(path) if library == "pandas" else pl.read_parquet(path)
    own = ActivationTransformer(model, layer=1, chat_template_kwargs={"chat_template": TOOLS})
    found = own.transform(frame["messages"])
    clean = [
        [{k: v for k, v in message.items() if v is not None} for message in chat] for chat in chats
    ]
    rows = bare_rows(make_llama(tokenizer), tokenizer, clean, 1, chat_template=TOOLS)
    np.testing.assert_allclose(found, rows, atol=1e-4)


TOOLS = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|> "
    "{% if m.content is defined %}{{ m.content | trim }} {% endif %}"
    "{% if m.tool_calls is defined %}{% for c in m.tool_calls %}knock {{ c.function.name }} "
    "{{ c.function.arguments }} {% endfor %}{% endif %}<|end|> {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)


def test_from_a_polars_frame(model, expected):
    """A frame in memory, with the language as a column of it."""
    frame = pl.DataFrame(
        {"prompt": PROMPTS, "language": LANGUAGE.tolist(), "label": LABELS.tolist()}
    )
    pipeline = with_language_column(model).fit(frame, frame["label"])
    check(pipeline, frame, expected)


def test_from_a_polars_frame_with_bools(model, expected):
    """Labels as bools."""
    frame = pl.DataFrame(
        {"prompt": PROMPTS, "language": LANGUAGE.tolist(), "harmful": Y.astype(bool)}
    )
    pipeline = with_language_column(model).fit(frame, frame["harmful"])
    np.testing.assert_array_equal(pipeline.predict(frame), expected > 0)
