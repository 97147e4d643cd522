"""load_prompts: files and frames as they come, and what is wrong with them."""

from __future__ import annotations

import gzip
import sys

import numpy as np
import pandas as pd
import polars as pl
import pytest

from skgate.evaluation import load_prompts

ROWS = {
    "id": ["007", "NA", "x"],
    "prompt": ["one, two", "NA", 'with "quotes"\nand lines'],
    "language": ["en", "na", "nan"],
    "harmful": [True, False, True],
    "score": [1, 2, 3],
}
FRAME = pd.DataFrame(ROWS)


def write(path, encoding="utf-8", **options):
    FRAME.to_csv(path, index=False, encoding=encoding, **options)


WRITERS = {
    "plain.csv": write,
    "bom.csv": lambda path: write(path, "utf-8-sig"),
    "excel.CSV": lambda path: write(path, "utf-8-sig", sep=";", lineterminator="\r\n"),
    "tabs.csv": lambda path: write(path, sep="\t"),
    "packed.csv.gz": write,
    "lines.jsonl": lambda path: FRAME.to_json(path, orient="records", lines=True),
    "table.parquet": FRAME.to_parquet,
}


def check(found):
    assert list(found) == list(ROWS)
    assert isinstance(found.index, pd.RangeIndex)
    assert found["harmful"].dtype == bool
    for name, values in ROWS.items():
        assert found[name].tolist() == values


@pytest.mark.parametrize("name", WRITERS)
def test_files(name, tmp_path):
    WRITERS[name](tmp_path / name)
    check(load_prompts(tmp_path / name))
    check(load_prompts(str(tmp_path / name)))


@pytest.mark.parametrize(
    "frame", [FRAME, FRAME.iloc[[0, 1, 2]].set_index(np.array([5, 5, 9])), pl.DataFrame(ROWS)]
)
def test_frames(frame):
    found = load_prompts(frame)
    check(found)
    check(load_prompts(found))
    found.loc[0, "prompt"] = "changed"
    assert frame["prompt"][0 if isinstance(frame, pl.DataFrame) else frame.index[0]] is not None
    check(load_prompts(FRAME))


@pytest.mark.parametrize(
    "labels",
    [
        [True, False, True],
        [1, 0, 1],
        [1, -1, 1],
        [1.0, 0.0, 1.0],
        ["1", "0", "1"],
        ["True", "FALSE", "true"],
        ["Harmful", "harmless", "HARMFUL"],
    ],
    ids=str,
)
def test_labels(labels, tmp_path):
    frame = FRAME.assign(harmful=labels)
    assert load_prompts(frame)["harmful"].tolist() == [True, False, True]
    frame.to_csv(tmp_path / "labels.csv", index=False)
    assert load_prompts(tmp_path / "labels.csv")["harmful"].tolist() == [True, False, True]


@pytest.mark.parametrize(("label", "expected"), [(0, False), (-1, False), ("harmful", True)])
def test_one_class_is_enough(label, expected):
    assert load_prompts(FRAME.assign(harmful=label))["harmful"].tolist() == [expected] * 3


@pytest.mark.parametrize(
    ("labels", "harmful_label"),
    [
        (["attack", "benign", "attack"], "attack"),
        (["attack", "harmful", "attack"], "Attack"),
        ([2, 1, 2], 2),
        ([False, True, False], False),
    ],
)
def test_labels_of_ones_own(labels, harmful_label, tmp_path):
    frame = FRAME.assign(harmful=labels)
    frame.to_csv(tmp_path / "own.csv", index=False)
    for source in (frame, tmp_path / "own.csv"):
        found = load_prompts(source, harmful_label=harmful_label)
        assert found["harmful"].tolist() == [True, False, True]


def test_names_of_columns():
    table = FRAME.rename(
        columns={"id": "key", "prompt": "text", "language": "lang", "harmful": "y"}
    )
    found = load_prompts(table, prompt="text", language="lang", harmful="y", id="key")
    check(found)
    numbered = load_prompts(table, prompt="text", language="lang", harmful="y")
    assert list(numbered) == ["id", "prompt", "language", "harmful", "key", "score"]
    assert numbered["id"].tolist() == ["0", "1", "2"]


def test_groups_are_texts(tmp_path):
    path = tmp_path / "prompts.csv"
    path.write_text("prompt,language,harmful,group\na,en,0,01\nb,en,0,1\n")
    assert load_prompts(path)["group"].tolist() == ["01", "1"]


def test_unknown_languages_and_labels_stay_unknown():
    found = load_prompts(FRAME[["prompt"]], language=None, harmful=None)
    assert found["language"].tolist() == found["harmful"].tolist() == [None] * 3
    pd.testing.assert_frame_equal(load_prompts(found), found)
    again = load_prompts(pl.DataFrame({"prompt": ["a"], "language": [None], "harmful": [None]}))
    assert again["language"].tolist() == again["harmful"].tolist() == [None]


def test_conversations(tmp_path):
    (tmp_path / "chats.jsonl").write_text(
        '{"prompt": [{"role": "user", "content": "hi"}], "language": "en", "harmful": 0, "id": 4}'
        "\n\n"
    )
    found = load_prompts(tmp_path / "chats.jsonl")
    assert found["prompt"].tolist() == [[{"role": "user", "content": "hi"}]]
    assert found["id"].tolist() == ["4"]


def changed(column, value, row=1):
    frame = FRAME.astype({column: object})
    frame.loc[row, column] = value
    return frame


@pytest.mark.parametrize(
    ("frame", "options", "message"),
    [
        (FRAME, {"prompt": "text"}, r"prompt='text', expected .* \['id', 'prompt'.*, prompt='...'"),
        (FRAME.drop(columns="language"), {}, r"language='language', .*, or language=None"),
        (FRAME.drop(columns="harmful"), {}, r"harmful='harmful', .*, or harmful=None"),
        (FRAME, {"id": "key"}, "Got id='key', expected one of the columns"),
        (FRAME, {"language": None}, "Got language=None and another column 'language'"),
        (FRAME, {"language": "prompt"}, "'prompt', which is the column of something else too"),
        (pd.concat([FRAME, FRAME[["id"]]], axis=1), {}, "several columns 'id'"),
        (FRAME.head(0), {}, "Got source without rows"),
        (changed("prompt", " "), {}, r"prompt\[1\] is ' ', an empty prompt"),
        (changed("prompt", None), {}, r"prompt\[1\] is None, a missing value"),
        (changed("prompt", 3), {}, r"prompt\[1\] is 3 of type int"),
        (changed("language", ""), {}, r"Got language\[1\]=''"),
        (changed("language", np.nan), {}, r"Got language\[1\]=nan of type float"),
        (changed("harmful", None), {}, r"Got harmful\[1\]=None, a missing value"),
        (changed("harmful", 2), {}, r"Got harmful\[1\]=2, expected True or False"),
        (FRAME.assign(harmful=[0, -1, 1]), {}, r"harmful\[1\]=-1 and harmful\[0\]=0, expected two"),
        (FRAME.assign(harmful=["a", "b", "a"]), {}, r"harmful\[0\]='a', .*, harmful_label='...'"),
        (
            FRAME.assign(harmful=["a", "b", "c"]),
            {"harmful_label": "a"},
            r"Got harmful_label='a' and the labels \['a', 'b', 'c'\] in the column 'harmful'",
        ),
        (FRAME.assign(harmful=["a", "", "a"]), {"harmful_label": "a"}, r"Got harmful\[1\]=''"),
        (changed("id", "007"), {}, r"id\[1\]='007', which is that of row 0 too"),
        (changed("id", ""), {}, r"Got id\[1\]=''"),
        (changed("id", np.nan), {}, r"Got id\[1\]=nan of type float"),
        (FRAME.assign(group=["a", " ", "b"]), {}, r"Got group\[1\]=' ', expected a group"),
        (FRAME.assign(group=["a", "a", None]), {}, r"Got group\[2\]=(nan|None), expected a group"),
    ],
)
def test_wrong_frames(frame, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        load_prompts(frame, **options)


@pytest.mark.parametrize("source", [ROWS, [ROWS], None])
def test_wrong_sources(source):
    with pytest.raises(TypeError, match=f"Got source of type {type(source).__name__}, expected"):
        load_prompts(source)


HEADER = "prompt,language,harmful\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("old.csv", f"{HEADER}café,fr,0\n".encode("latin-1"), "another encoding, expected UTF-8"),
        ("wide.csv", f"{HEADER}a,fr,0\n".encode("utf-16"), "another encoding, expected UTF-8"),
        ("old.jsonl", '{"prompt": "café"}'.encode("latin-1"), "another encoding, expected UTF-8"),
        ("long.csv", f"{HEADER}a,fr,0\nb, c,fr,0\n".encode(), "rows of the same length.* line 3"),
        ("longer.csv", f"{HEADER}b, c,fr,0\n".encode(), "more values in a row than the 3"),
        ("short.csv", f"{HEADER}a,fr\n".encode(), r"harmful\[0\]='', .*short.csv', row \[0\] is"),
        ("gap.csv", f"{HEADER}a,fr,0\n,fr,1\n".encode(), r"\[1\] is '', .* first below the header"),
        ("no.csv", b"", "expected a CSV file with a header"),
        ("bad.jsonl", b'{"prompt": "a"}\n{"prompt"}', "with line 2, expected a JSON object"),
        ("list.jsonl", b'["a"]', "with a list in line 1, expected a JSON object"),
        ("no.jsonl", b"", "expected one of the columns|without rows"),
        (
            "gap.jsonl",
            b'{"prompt": "", "language": "fr", "harmful": 0}',
            r"prompt\[0\] is '', .*gap.jsonl', row \[0\] is the first",
        ),
        ("table.xlsx", b"", "expected a file with one of"),
    ],
)
def test_wrong_files(name, content, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_prompts(path)


def test_a_packed_file_that_is_none(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(b"prompt\n")
    with pytest.raises(gzip.BadGzipFile):
        load_prompts(tmp_path / "a.csv.gz")


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.csv"):
        load_prompts(tmp_path / "none.csv")


def test_parquet_needs_pyarrow(tmp_path, monkeypatch):
    FRAME.to_parquet(tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install '\.\[evaluation\]'"):
        load_prompts(tmp_path / "a.parquet")
